//! The images of a store, described.

use futures::TryStreamExt as _;
use hyper_sdk::client::SharedClient;
use hyper_sdk::oci::Manifest;
use hyper_sdk::platform::Platform;
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::{Page, RegistryStoreExt as _, SharedStore, local_reference};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Result, Tag, media_type};
use serde_json::{Value, json};

/// How deep indexes may contain indexes.
const MAX_DEPTH: usize = 4;
/// The largest config that is read.
const MAX_CONFIG: u64 = 8 << 20;

/// Every tag of a store that is named after a reference.
pub(crate) async fn list(store: &SharedStore) -> Result<Value> {
    let mut images = Vec::new();
    let mut after = None;
    loop {
        let page = store.list_repositories(Page { limit: None, after }).await?;
        for repository in &page.items {
            let tags = match store.all_tags(repository).await {
                // Another process removed it meanwhile.
                Err(e) if e.kind() == ErrorKind::NameUnknown => continue,
                tags => tags?,
            };
            for tag in tags {
                images.push(describe(store, repository, tag).await?);
            }
        }
        after = page.items.last().map(ToString::to_string);
        if !page.more || after.is_none() {
            return Ok(Value::Array(images));
        }
    }
}

async fn describe(store: &SharedStore, repository: &RepositoryName, tag: Tag) -> Result<Value> {
    let name = match local_reference(repository, Some(tag.clone()), None) {
        Some(reference) => reference.familiar(),
        None => format!("{repository}:{tag}"),
    };
    let root = store.get_manifest(repository, &tag.into()).await?;
    let (mut platforms, mut created, mut size) = (Vec::new(), None, 0);
    let mut queue = vec![(root.clone(), 0)];
    while let Some((manifest, depth)) = queue.pop() {
        if depth > MAX_DEPTH {
            return Err(Error::invalid("the indexes are nested too deep").with_context("image", name));
        }
        for entry in manifest.index().iter().flat_map(|index| &index.manifests) {
            // An index may be sparse: what was not pulled is no part of the size.
            if let Some(child) = store.find_manifest(repository, &entry.digest.clone().into()).await? {
                queue.push((child, depth + 1));
            }
        }
        let Some(body) = manifest.image() else { continue };
        size += body.config.size + body.layers.iter().map(|layer| layer.size).sum::<u64>();
        // An artifact has no config of an image.
        if let Ok(stored) = store.get_image(repository, &manifest.digest().clone().into(), None).await
            && !stored.config.os.is_empty()
        {
            platforms.push(stored.config.platform().to_string());
            created = created.max(stored.config.created);
        }
    }
    platforms.sort();
    Ok(json!({
        "name": name,
        "digest": root.digest(),
        "media_type": root.media_type(),
        "platforms": platforms,
        "created": created,
        "size": size,
    }))
}

/// One image in full, from wherever the client reaches.
pub(crate) async fn inspect(
    client: &SharedClient,
    repository: &RepositoryName,
    reference: &ManifestReference,
    platform: Option<&Platform>,
    name: String,
) -> Result<Value> {
    let mut manifest = client.get_manifest(repository, reference).await?;
    if let Some(platform) = platform {
        for _ in 0..MAX_DEPTH {
            let Some(child) = choose(&manifest, platform)? else { break };
            manifest = client.get_manifest(repository, &child.into()).await?;
        }
    }
    let config = config(client, repository, &manifest).await?;
    let body: Value = serde_json::from_slice(manifest.bytes())
        .map_err(|e| Error::internal("a manifest is not JSON").with_source(e))?;
    Ok(json!({
        "reference": name,
        "digest": manifest.digest(),
        "media_type": manifest.media_type(),
        "size": manifest.bytes().len(),
        "manifest": body,
        "config": config,
    }))
}

/// The entry of an index for a platform; `None` when it is no index.
fn choose(manifest: &Manifest, platform: &Platform) -> Result<Option<Digest>> {
    let Some(index) = manifest.index() else { return Ok(None) };
    let offered = index.manifests.iter().filter_map(|entry| Some((entry, entry.platform.as_ref()?)));
    let entry = platform.choose(offered);
    entry.map(|entry| Some(entry.digest.clone())).ok_or_else(|| {
        Error::new(ErrorKind::ManifestUnknown, "the index has no image for this platform")
            .with_context("platform", platform)
    })
}

/// The config as it is, when the manifest is of an image.
async fn config(
    client: &SharedClient,
    repository: &RepositoryName,
    manifest: &Manifest,
) -> Result<Option<Value>> {
    let Some(image) = manifest.image() else { return Ok(None) };
    let known = [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG];
    if !known.contains(&image.config.media_type.as_str()) || image.config.size > MAX_CONFIG {
        return Ok(None);
    }
    let blob = client.get_blob(repository, &image.config.digest, None).await?;
    let chunks: Vec<_> = blob.stream.try_collect().await?;
    serde_json::from_slice(&chunks.concat())
        .map(Some)
        .map_err(|e| Error::invalid("the config of the image is not JSON").with_source(e))
}
