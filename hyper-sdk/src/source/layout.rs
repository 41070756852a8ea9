//! OCI image layouts (image-spec, image-layout.md) as sources: read where they lie.

use super::{Source, SourceContent, SourceFiles, SourceImage};
use crate::digest::VerifyingReader;
use crate::oci::{Descriptor, ImageConfig, ImageIndex, Manifest, ManifestBody};
use crate::platform::Platform;
use crate::reference::RepositoryName;
use crate::small_file::{self, Kinds};
use crate::store::BlobReader;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// The repository of the local store that keeps the layers of layouts.
const LAYOUTS: &str = "hyper.local/layouts";
/// The most that is read of an index, a manifest or a config.
const MAX_JSON: u64 = 16 << 20;

/// Reads image layouts. A name is `FOLDER[:TAG][@DIGEST]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayoutSource;

impl LayoutSource {
    /// The image of a layout, without its layers.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the layout has no such image; [`ErrorKind::DigestInvalid`] for damaged content.
    pub async fn image(
        &self,
        folder: &Path,
        tag: Option<&str>,
        digest: Option<&Digest>,
        platform: &Platform,
    ) -> Result<SourceImage> {
        let name = folder.to_str().ok_or_else(|| {
            Error::invalid("the path of an OCI layout is not UTF-8").with_context("layout", folder.display())
        })?;
        let (name, tag, digest, platform) =
            (name.to_owned(), tag.map(str::to_owned), digest.cloned(), platform.clone());
        tokio::task::spawn_blocking(move || {
            let path = Path::new(&name);
            let found = find(path, tag.as_deref(), digest.as_ref(), &platform).and_then(|manifest| {
                let Some(image) = manifest.image() else {
                    return Err(Error::internal("an index where an image was"));
                };
                let config = &image.config;
                let bytes = read_json(&blob_path(path, &config.digest))?;
                if config.digest.algorithm().digest(&bytes) != config.digest {
                    let message = "the content does not match its digest";
                    return Err(Error::new(ErrorKind::DigestInvalid, message)
                        .with_context("expected", &config.digest));
                }
                let config = ImageConfig::parse(&bytes)?;
                let mut found = SourceImage::new(&name, manifest.digest().clone(), config, &image.layers)?;
                found.repository = Some(RepositoryName::parse(LAYOUTS)?);
                Ok(found)
            });
            found.map_err(|e| e.with_context("layout", path.display()))
        })
        .await
        .map_err(|e| Error::internal("reading a layout panicked").with_source(e))?
    }
}

#[async_trait]
impl Source for LayoutSource {
    async fn resolve(&self, name: &str, platform: &Platform) -> Result<SourceContent> {
        let super::NamedContext::OciLayout { path, tag, digest } =
            super::NamedContext::parse(&format!("oci-layout://{name}"))?
        else {
            return Err(Error::internal("the name of a layout is that of something else"));
        };
        let image = self.image(&path, tag.as_deref(), digest.as_ref(), platform).await?;
        Ok(SourceContent::Image(Box::new(image)))
    }

    async fn open_layer(&self, image: &SourceImage, layer: &Descriptor) -> Result<BlobReader> {
        open_blob(Path::new(&image.name), layer).await
    }

    async fn open_files(&self, name: &str) -> Result<SourceFiles> {
        Err(Error::internal("an image was asked for its files").with_context("layout", name))
    }
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

/// Opens a blob of a layout. Its stream ends with an error when the content is another than the descriptor says.
async fn open_blob(folder: &Path, blob: &Descriptor) -> Result<BlobReader> {
    let path = blob_path(folder, &blob.digest);
    let opened = tokio::task::spawn_blocking(move || {
        small_file::open(&path, "a blob of the OCI layout", Kinds::Files)
    });
    let file = opened.await.map_err(|e| Error::internal("reading a layout panicked").with_source(e))??;
    let (sender, blocks) = mpsc::channel::<Result<Bytes>>(4);
    let (digest, size) = (blob.digest.clone(), blob.size);
    tokio::task::spawn_blocking(move || {
        let mut reader = VerifyingReader::new(file, digest, size);
        loop {
            let mut block = vec![0; 1 << 20];
            let mut filled = 0;
            while filled < block.len() {
                match reader.read(&mut block[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) => {
                        let _ = sender.blocking_send(Err(e.into()));
                        return;
                    }
                }
            }
            let end = filled < block.len();
            block.truncate(filled);
            if (filled > 0 && sender.blocking_send(Ok(block.into())).is_err()) || end {
                return;
            }
        }
    });
    let stream = futures::stream::unfold(blocks, async |mut blocks| Some((blocks.recv().await?, blocks)));
    Ok(BlobReader { size, offset: 0, length: size, stream: stream.boxed() })
}
