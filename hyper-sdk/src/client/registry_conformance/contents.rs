//! The kinds of manifests that a registry must take.

use super::kit::{Kit, Outcome, skip};
use crate::oci::{Descriptor, ImageIndex, ImageManifest};
use crate::{Digest, media_type};
use base64::Engine as _;
use bytes::Bytes;

super::define! {
    "content-index", "end-7a", Must, "an index of images is accepted and comes back" => index;
    "content-nested-index", "end-7a", Must, "an index of indexes is accepted" => nested_index;
    "content-empty-index", "end-7a", Must, "an index without manifests is accepted" => empty_index;
    "content-artifact", "end-7a", Must, "an image manifest with an artifact type and an empty config is accepted" => artifact;
    "content-artifact-index", "end-7a", Must, "an index with an artifact type is accepted" => artifact_index;
    "content-no-layers", "end-7a", Must, "an image without layers is accepted" => no_layers;
    "content-unknown-fields", "end-7a", Must, "fields that the specification does not know are accepted" => unknown_fields;
    "content-data", "end-7a", Must, "a descriptor may have its content in itself" => data;
    "content-non-distributable", "end-7a", Should, "a layer that is not distributable need not be there" => non_distributable;
    "content-other-layers", "end-7a", Must, "layers of any media type are accepted" => other_layers;
    "content-docker", "end-7a", Should, "images and lists in Docker's format are accepted and keep their media types" => docker;
}

async fn comes_back(kit: &Kit, kind: &str, bytes: Vec<u8>) -> Outcome {
    let bytes = Bytes::from(bytes);
    let tag = kit.name();
    kit.put(&tag, kind, bytes.clone()).await?.expect(&[201])?;
    let reply = kit.get(kit.manifest(&tag)).with("accept", kind).send().await?.expect(&[200])?;
    reply.has_body(&bytes)?;
    let given = media_type::essence(reply.header("content-type").unwrap_or_default());
    reply.require(given == kind, format_args!("answered with the Content-Type {given}, expected {kind}"))
}

/// The descriptor of the empty JSON object, whose blob is pushed. Others have it, too: it stays.
async fn empty_config(kit: &Kit) -> Result<Descriptor, super::Stop> {
    let bytes = Bytes::from_static(b"{}");
    let descriptor = Descriptor::of(media_type::OCI_EMPTY, &bytes);
    let session = kit.session().await?;
    session.put(kit, &descriptor.digest).body(bytes).send().await?.expect(&[201])?;
    Ok(descriptor)
}

async fn index(kit: &Kit) -> Outcome {
    let mut manifests = Vec::new();
    for _ in 0..2 {
        manifests.push(kit.put_image(&kit.image().await?).await?);
    }
    comes_back(kit, media_type::OCI_INDEX, ImageIndex::new(manifests).to_bytes()).await
}

async fn nested_index(kit: &Kit) -> Outcome {
    let image = kit.put_image(&kit.image().await?).await?;
    let inner = kit.put_index(&ImageIndex::new(vec![image])).await?;
    comes_back(kit, media_type::OCI_INDEX, ImageIndex::new(vec![inner]).to_bytes()).await
}

async fn empty_index(kit: &Kit) -> Outcome {
    let mut index = ImageIndex::new(Vec::new());
    index.annotations.insert("org.example.name".to_owned(), kit.name());
    comes_back(kit, media_type::OCI_INDEX, index.to_bytes()).await
}

async fn artifact(kit: &Kit) -> Outcome {
    let layer = kit.bytes(100);
    kit.push(&layer).await?;
    let layers = vec![Descriptor::of("application/vnd.example.data", &layer)];
    let mut manifest = ImageManifest::new(empty_config(kit).await?, layers);
    manifest.artifact_type = Some("application/vnd.example.artifact".to_owned());
    comes_back(kit, media_type::OCI_MANIFEST, manifest.to_bytes()).await
}

async fn artifact_index(kit: &Kit) -> Outcome {
    let image = kit.put_image(&kit.image().await?).await?;
    let mut index = ImageIndex::new(vec![image]);
    index.artifact_type = Some("application/vnd.example.artifact".to_owned());
    comes_back(kit, media_type::OCI_INDEX, index.to_bytes()).await
}

async fn no_layers(kit: &Kit) -> Outcome {
    let mut image = kit.image().await?;
    image.layers.clear();
    comes_back(kit, media_type::OCI_MANIFEST, image.to_bytes()).await
}

async fn unknown_fields(kit: &Kit) -> Outcome {
    let mut image = serde_json::to_value(kit.image().await?).expect("a manifest is JSON");
    image["org.example"] = serde_json::json!({"list": [1, 2.5, null], "text": "ä"});
    image["config"]["custom"] = true.into();
    comes_back(kit, media_type::OCI_MANIFEST, image.to_string().into_bytes()).await
}

async fn data(kit: &Kit) -> Outcome {
    let mut image = kit.image().await?;
    let bytes = kit.bytes(60);
    kit.push(&bytes).await?;
    let mut layer = Descriptor::of("application/vnd.example.data", &bytes);
    layer.data = Some(base64::engine::general_purpose::STANDARD.encode(&bytes));
    image.layers.push(layer);
    comes_back(kit, media_type::OCI_MANIFEST, image.to_bytes()).await
}

async fn non_distributable(kit: &Kit) -> Outcome {
    let mut image = kit.image().await?;
    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let mut layer = Descriptor::new(kind, Digest::sha256(kit.name()), 1000);
    layer.urls.push("https://layers.example.com/layer".to_owned());
    image.layers.push(layer);
    let bytes = image.to_bytes();
    let reply = kit.put(Digest::sha256(&bytes), media_type::OCI_MANIFEST, bytes.clone()).await?;
    if (400..500).contains(&reply.status) && reply.codes()?.iter().any(|code| code == "MANIFEST_BLOB_UNKNOWN")
    {
        return skip("the registry wants every layer");
    }
    comes_back(kit, media_type::OCI_MANIFEST, bytes).await
}

async fn other_layers(kit: &Kit) -> Outcome {
    let mut image = kit.image().await?;
    for kind in [media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER_ZSTD, "text/plain"] {
        let bytes = kit.bytes(30);
        kit.push(&bytes).await?;
        image.layers.push(Descriptor::of(kind, &bytes));
    }
    comes_back(kit, media_type::OCI_MANIFEST, image.to_bytes()).await
}

async fn docker(kit: &Kit) -> Outcome {
    let mut image = kit.image().await?;
    image.media_type = Some(media_type::DOCKER_MANIFEST.to_owned());
    image.config.media_type = media_type::DOCKER_CONFIG.to_owned();
    for layer in &mut image.layers {
        layer.media_type = media_type::DOCKER_LAYER_GZIP.to_owned();
    }
    let bytes = image.to_bytes();
    let reply = kit.put(Digest::sha256(&bytes), media_type::DOCKER_MANIFEST, bytes.clone()).await?;
    if matches!(reply.status, 400 | 415) {
        return skip("the registry takes no images in Docker's format");
    }
    reply.expect(&[201])?;
    comes_back(kit, media_type::DOCKER_MANIFEST, bytes.clone()).await?;
    let mut list = ImageIndex::new(vec![Descriptor::of(media_type::DOCKER_MANIFEST, &bytes)]);
    list.media_type = Some(media_type::DOCKER_MANIFEST_LIST.to_owned());
    list.manifests[0].platform = Some(crate::platform::Platform::new("linux", "amd64", None));
    comes_back(kit, media_type::DOCKER_MANIFEST_LIST, list.to_bytes()).await
}
