//! OCI image layouts (image-spec, image-layout.md) as sources: an image is imported into the store, once.

use crate::digest::VerifyingReader;
use crate::oci::{Descriptor, ImageIndex, Manifest, ManifestBody};
use crate::platform::Platform;
use crate::reference::RepositoryName;

use crate::small_file::{self, Kinds};
use crate::store::{PutManifest, RegistryStore, RegistryStoreExt as _, UploadOptions};
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use std::io::Read;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// The most that is read of an index, a manifest or a config.
const MAX_JSON: u64 = 16 << 20;

/// An image of a layout that is in the store now.
#[derive(Clone, Debug)]
pub struct LayoutImage {
    /// The image manifest for the platform.
    pub manifest: Manifest,
    /// The blobs that the store should have had and had lost.
    pub lost: Vec<Digest>,
}

/// Imports an image of a layout into a repository of the store, or what the store does not have of it.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the layout has no such image; [`ErrorKind::DigestInvalid`] for damaged content.
pub async fn import_layout(
    store: &dyn RegistryStore,
    repository: &RepositoryName,
    folder: &Path,
    tag: Option<&str>,
    digest: Option<&Digest>,
    platform: &Platform,
) -> Result<LayoutImage> {
    let (path, tag, digest, platform) =
        (folder.to_owned(), tag.map(str::to_owned), digest.cloned(), platform.clone());
    let manifest =
        tokio::task::spawn_blocking(move || find(&path, tag.as_deref(), digest.as_ref(), &platform))
            .await
            .map_err(|e| Error::internal("reading a layout panicked").with_source(e))?
            .map_err(|e| e.with_context("layout", folder.display()))?;
    let was_there = store.get_manifest(repository, &manifest.digest().clone().into()).await.is_ok();
    let mut lost = Vec::new();
    let Some(image) = manifest.image() else { return Err(Error::internal("an index where an image was")) };
    for blob in std::iter::once(&image.config).chain(&image.layers) {
        if !store.has_blob(repository, &blob.digest).await? {
            import_blob(store, repository, folder, blob).await?;
            if was_there {
                lost.push(blob.digest.clone());
            }
        }
    }
    if was_there {
        // A config is small and tells what the build does: it is read.
        let config = &image.config;
        if store.read_blob(repository, &config.digest, MAX_JSON).await.is_err() {
            store.remove_damaged(&config.digest).await?;
            import_blob(store, repository, folder, config).await?;
            lost.push(config.digest.clone());
        }
    } else {
        store.put_manifest(repository, PutManifest::new(manifest.clone(), [])).await?;
    }
    Ok(LayoutImage { manifest, lost })
}

fn blob_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

fn read_json(path: &Path) -> Result<Vec<u8>> {
    small_file::read(path, "a file of the OCI layout", MAX_JSON, Kinds::Files)
}

fn find(folder: &Path, tag: Option<&str>, digest: Option<&Digest>, platform: &Platform) -> Result<Manifest> {
    let bytes = read_json(&folder.join("index.json"))?;
    let index: ImageIndex = serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid("index.json of the OCI layout is not an image index").with_source(e))?;
    let named = |d: &&Descriptor| match (digest, tag) {
        (Some(digest), _) => d.digest == *digest,
        (None, Some(tag)) => d
            .annotations
            .get("org.opencontainers.image.ref.name")
            .is_some_and(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, t)| t == tag)),
        (None, None) => true,
    };
    let mut found: Vec<Descriptor> = index.manifests.iter().filter(named).cloned().collect();
    // A digest may name something below the top level.
    if let (true, Some(digest)) = (found.is_empty(), digest) {
        let size = std::fs::metadata(blob_path(folder, digest)).map(|m| m.len()).unwrap_or(0);
        found.push(Descriptor::new(crate::media_type::OCI_MANIFEST, digest.clone(), size));
    }
    let by_rank = |found: &mut Vec<Descriptor>| {
        found.sort_by_key(|d| d.platform.as_ref().map(|offered| platform.rank(offered)).unwrap_or_default());
    };
    by_rank(&mut found);
    while let Some(descriptor) = found.pop() {
        if descriptor.platform.as_ref().is_some_and(|p| p.os != "unknown" && !platform.matches(p)) {
            continue;
        }
        let bytes = read_json(&blob_path(folder, &descriptor.digest))?;
        let manifest = Manifest::sniff(bytes)?.with_digest(&descriptor.digest)?;
        match manifest.body() {
            ManifestBody::Image(_) => return Ok(manifest),
            ManifestBody::Index(index) => {
                found.extend(
                    index
                        .manifests
                        .iter()
                        .rev()
                        .filter(|d| !d.annotations.contains_key("vnd.docker.reference.type"))
                        .cloned(),
                );
                by_rank(&mut found);
            }
        }
    }
    let wanted = match (digest, tag) {
        (Some(digest), _) => format!("the digest {digest}"),
        (None, Some(tag)) => format!("the tag `{tag}`"),
        (None, None) => "any name".to_owned(),
    };
    Err(Error::new(ErrorKind::NotFound, format!("the OCI layout has no image for {platform} under {wanted}")))
}

async fn import_blob(
    store: &dyn RegistryStore,
    repository: &RepositoryName,
    folder: &Path,
    blob: &Descriptor,
) -> Result<()> {
    let path = blob_path(folder, &blob.digest);
    let (sender, mut blocks) = mpsc::channel::<Bytes>(4);
    let (digest, size) = (blob.digest.clone(), blob.size);
    let read = tokio::task::spawn_blocking(move || -> Result<()> {
        let file = small_file::open(&path, "a blob of the OCI layout", Kinds::Files)?;
        let mut reader = VerifyingReader::new(file, digest, size);
        loop {
            let mut block = vec![0; 1 << 20];
            let mut filled = 0;
            while filled < block.len() {
                match reader.read(&mut block[filled..])? {
                    0 => break,
                    n => filled += n,
                }
            }
            let end = filled < block.len();
            block.truncate(filled);
            if (filled > 0 && sender.blocking_send(block.into()).is_err()) || end {
                return Ok(());
            }
        }
    });
    let mut upload = store.start_upload(repository, UploadOptions::default()).await?;
    while let Some(block) = blocks.recv().await {
        if let Err(e) = upload.append(block).await {
            let _ = upload.abort().await;
            return Err(e);
        }
    }
    let result = read.await.map_err(|e| Error::internal("reading a blob panicked").with_source(e))?;
    if let Err(e) = result {
        let _ = upload.abort().await;
        return Err(e);
    }
    upload.finish(&blob.digest).await.map(|_| ())
}
