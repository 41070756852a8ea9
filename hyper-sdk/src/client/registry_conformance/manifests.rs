//! Pushing and pulling manifests.

use super::kit::{Kit, Outcome, skip, with_query};
use crate::digest::Algorithm;
use crate::{Digest, media_type};
use bytes::Bytes;
use reqwest::Method;

super::define! {
    "manifest-by-tag", "end-7a", Must, "a manifest pushed under a tag is 201 and comes back by tag, digest and Location" => by_tag;
    "manifest-by-digest", "end-7a", Must, "a manifest pushed under its digest comes back by it, and the push names no other one" => by_digest;
    "manifest-head", "end-3", Must, "HEAD of a manifest says its length" => head;
    "manifest-digest-header", "end-3", Must, "GET and HEAD of a manifest name a digest of it in Docker-Content-Digest" => digest_header;
    "manifest-bytes", "end-7a", Must, "a manifest keeps its bytes, white space included" => bytes_stay;
    "manifest-media-type", "end-3", Should, "a manifest has the Content-Type that it was pushed with, without parameters" => kind;
    "manifest-media-type-parameters", "end-7a", Should, "parameters of the Content-Type of a push are ignored" => parameters;
    "manifest-unknown", "end-3", Must, "a manifest that is not there is 404, by tag and by digest" => unknown;
    "manifest-digest-wrong", "end-7a", Should, "a manifest under another digest is 400 and is not stored" => wrong_digest;
    "manifest-no-json", "end-7a", Should, "a manifest that is no JSON is 400" => no_json;
    "manifest-tag-invalid", "end-7a", Must, "a tag that the specification does not permit is an error of the client" => invalid_tag;
    "manifest-tag-long", "end-7a", Must, "a tag of 128 characters is a tag" => long_tag;
    "manifest-blob-missing", "end-7a", Must, "a manifest that is refused for a missing blob has the code MANIFEST_BLOB_UNKNOWN" => missing_blob;
    "manifest-moves-tag", "end-7a", Should, "another manifest under a tag moves the tag, and the old one stays" => moves_tag;
    "manifest-again", "end-7a", Must, "a manifest that is there can be pushed again" => again;
    "manifest-4mb", "end-7a", Should, "a manifest of 4 MiB is accepted" => large;
    "manifest-sha512", "end-7a", Must, "a manifest can be pushed and pulled under a digest of SHA-512" => sha512;
    "manifest-tags", "end-7b", Must, "a push under a digest with tags names each tag that it set in OCI-Tag" => tags;
    "manifest-tags-ten", "end-7b", Should, "a push under a digest can set ten tags" => ten_tags;
}

async fn by_tag(kit: &Kit) -> Outcome {
    let tag = kit.name();
    let bytes = Bytes::from(kit.image().await?.to_bytes());
    let digest = Digest::sha256(&bytes);
    let reply = kit.put(&tag, media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
    for target in [reply.location()?, kit.manifest(&tag), kit.manifest(&digest)] {
        let reply = kit.pull(target).await?;
        reply.has_body(&bytes)?;
        reply.has_length(bytes.len())?;
    }
    Ok(())
}

async fn by_digest(kit: &Kit) -> Outcome {
    let bytes = Bytes::from(kit.image().await?.to_bytes());
    let digest = Digest::sha256(&bytes);
    let put = kit.put(&digest, media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
    if put.header("docker-content-digest").is_some() {
        put.has_digest(&digest)?;
    }
    let reply = kit.pull(kit.manifest(&digest)).await?;
    reply.has_body(&bytes)
}

async fn head(kit: &Kit) -> Outcome {
    let tag = kit.name();
    let bytes = kit.tagged(&tag).await?;
    for target in [kit.manifest(&tag), kit.manifest(Digest::sha256(&bytes))] {
        let reply = kit.head(target).with("accept", media_type::OCI_MANIFEST).send().await?.expect(&[200])?;
        reply.has_length(bytes.len())?;
    }
    Ok(())
}

async fn digest_header(kit: &Kit) -> Outcome {
    let tag = kit.name();
    let bytes = kit.tagged(&tag).await?;
    for target in [kit.manifest(&tag), kit.manifest(Digest::sha256(&bytes))] {
        for method in [Method::GET, Method::HEAD] {
            let ask = kit.ask(method, &target).with("accept", media_type::OCI_MANIFEST);
            ask.send().await?.expect(&[200])?.has_digest_of(&bytes)?;
        }
    }
    Ok(())
}

async fn bytes_stay(kit: &Kit) -> Outcome {
    let image = kit.image().await?;
    let pretty = serde_json::to_string_pretty(&image).expect("a manifest is JSON");
    let bytes = Bytes::from(format!("\n  {pretty}\n\n"));
    let tag = kit.name();
    kit.put(&tag, media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
    for target in [kit.manifest(&tag), kit.manifest(Digest::sha256(&bytes))] {
        kit.pull(target).await?.has_body(&bytes)?;
    }
    Ok(())
}

async fn kind(kit: &Kit) -> Outcome {
    let image = kit.put_image(&kit.image().await?).await?;
    for method in [Method::GET, Method::HEAD] {
        let ask = kit.ask(method, kit.manifest(&image.digest)).with("accept", media_type::OCI_MANIFEST);
        let reply = ask.send().await?.expect(&[200])?;
        let given = reply.header("content-type").unwrap_or("none");
        reply.require(
            given == media_type::OCI_MANIFEST,
            format_args!("answered with the Content-Type {given}"),
        )?;
    }
    Ok(())
}

async fn parameters(kit: &Kit) -> Outcome {
    let bytes = Bytes::from(kit.image().await?.to_bytes());
    let kind = format!("{}; charset=utf-8", media_type::OCI_MANIFEST);
    kit.put(Digest::sha256(&bytes), &kind, bytes.clone()).await?.expect(&[201])?;
    let target = kit.manifest(Digest::sha256(&bytes));
    let reply = kit.pull(target).await?;
    let given = media_type::essence(reply.header("content-type").unwrap_or("none"));
    reply.require(given == media_type::OCI_MANIFEST, format_args!("answered with the Content-Type {given}"))
}

async fn unknown(kit: &Kit) -> Outcome {
    let missing = kit.name();
    for reference in [Digest::sha256(&missing).to_string(), missing] {
        kit.get(kit.manifest(&reference)).send().await?.expect(&[404])?;
        kit.head(kit.manifest(&reference)).send().await?.expect(&[404])?;
    }
    Ok(())
}

async fn wrong_digest(kit: &Kit) -> Outcome {
    let bytes = Bytes::from(kit.image().await?.to_bytes());
    let digest = Digest::sha256(kit.name());
    kit.put(&digest, media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[400])?;
    for digest in [digest, Digest::sha256(&bytes)] {
        kit.head(kit.manifest(&digest)).send().await?.expect(&[404])?;
    }
    Ok(())
}

async fn no_json(kit: &Kit) -> Outcome {
    for text in ["{", "", "[]", "null"] {
        kit.put(kit.name(), media_type::OCI_MANIFEST, text).await?.expect(&[400])?;
    }
    Ok(())
}

async fn invalid_tag(kit: &Kit) -> Outcome {
    let bytes = kit.image().await?.to_bytes();
    for tag in [".dot", "-dash", "a+b", &"x".repeat(129)] {
        kit.put(tag, media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[400, 404])?;
        kit.get(kit.manifest(tag)).send().await?.expect(&[400, 404])?;
    }
    Ok(())
}

async fn long_tag(kit: &Kit) -> Outcome {
    let name = kit.name();
    let tag = format!("{name}-{}", "x".repeat(127 - name.len()));
    let bytes = kit.tagged(&tag).await?;
    kit.pull(kit.manifest(&tag)).await?.has_body(&bytes)
}

async fn missing_blob(kit: &Kit) -> Outcome {
    let mut image = kit.image().await?;
    image.layers[0].digest = Digest::sha256(kit.name());
    let reply = kit.put(kit.name(), media_type::OCI_MANIFEST, image.to_bytes()).await?;
    if reply.status == 201 {
        return skip("the registry takes manifests without their blobs");
    }
    reply.refused()?;
    let codes = reply.codes()?;
    let fits = codes.iter().any(|code| code == "MANIFEST_BLOB_UNKNOWN");
    reply.require(
        fits,
        format_args!("answered without the code MANIFEST_BLOB_UNKNOWN, but [{}]", codes.join(", ")),
    )
}

async fn moves_tag(kit: &Kit) -> Outcome {
    let tag = kit.name();
    let old = kit.tagged(&tag).await?;
    let new = kit.tagged(&tag).await?;
    for (target, bytes) in [(kit.manifest(&tag), &new), (kit.manifest(Digest::sha256(&old)), &old)] {
        kit.pull(target).await?.has_body(bytes)?;
    }
    Ok(())
}

async fn again(kit: &Kit) -> Outcome {
    let image = kit.image().await?;
    kit.put_image(&image).await?;
    kit.put_image(&image).await.map(drop)
}

async fn large(kit: &Kit) -> Outcome {
    let mut image = kit.image().await?;
    image.annotations.insert("org.example.large".to_owned(), String::new());
    let rest = (4 << 20) - image.to_bytes().len();
    image.annotations.insert("org.example.large".to_owned(), "x".repeat(rest));
    let bytes = Bytes::from(image.to_bytes());
    let tag = kit.name();
    kit.put(&tag, media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
    kit.pull(kit.manifest(&tag)).await?.has_body(&bytes)
}

async fn sha512(kit: &Kit) -> Outcome {
    let bytes = Bytes::from(kit.image().await?.to_bytes());
    let digest = Algorithm::Sha512.digest(&bytes);
    let reply = kit.put(&digest, media_type::OCI_MANIFEST, bytes.clone()).await?;
    if reply.status == 400 {
        return skip("the registry does not know the algorithm of the digest");
    }
    reply.expect(&[201])?;
    let reply = kit.pull(kit.manifest(&digest)).await?;
    reply.has_body(&bytes)
}

async fn tags(kit: &Kit) -> Outcome {
    set_tags(kit, 2).await
}

async fn ten_tags(kit: &Kit) -> Outcome {
    set_tags(kit, 10).await
}

async fn set_tags(kit: &Kit, count: usize) -> Outcome {
    let bytes = Bytes::from(kit.image().await?.to_bytes());
    let tags: Vec<String> = (0..count).map(|_| kit.name()).collect();
    for tag in &tags {
        kit.has_tag(tag);
    }
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let target = with_query(&kit.manifest(Digest::sha256(&bytes)), &query.join("&"));
    let ask = kit.ask(Method::PUT, target).with("content-type", media_type::OCI_MANIFEST);
    let reply = ask.body(bytes.clone()).send().await?.expect(&[201])?;
    kit.has_manifest(&bytes);
    let named: Vec<&str> =
        reply.all("oci-tag").into_iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    if named.is_empty() {
        let get = kit.get(kit.manifest(&tags[0])).with("accept", media_type::OCI_MANIFEST).send().await?;
        reply.require(get.status == 404, "set the tags of its parameters and answered without OCI-Tag")?;
        return skip("the registry sets no tags of parameters");
    }
    for tag in &tags {
        reply.require(
            named.contains(&tag.as_str()),
            format_args!("answered without the tag {tag} in OCI-Tag"),
        )?;
        kit.pull(kit.manifest(tag)).await?.has_body(&bytes)?;
    }
    Ok(())
}
