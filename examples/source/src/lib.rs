//! A source of root file systems and files that lie in one folder.
//!
//! ```text
//!   SHELF/debian.tar    shelf://debian: an image of one layer, as FROM wants one
//!   SHELF/sources/      shelf://sources: files, as COPY and a context want them
//! ```
//!
//! A source resolves a name to a description, and opens what is behind it only when a step or an output needs it.

use async_trait::async_trait;
use bytes::Bytes;
use hyper_sdk::digest::Hasher;
use hyper_sdk::oci::{Descriptor, ImageConfig};
use hyper_sdk::platform::Platform;
use hyper_sdk::source::{Source, SourceContent, SourceFiles, SourceImage};
use hyper_sdk::store::BlobReader;
use hyper_sdk::{Digest, Error, ErrorKind, Result, ResultExt as _, media_type};
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

/// The scheme that a builder knows it by: `shelf://NAME`.
pub const SCHEME: &str = "shelf";
/// How much is read at once.
const BLOCK: usize = 64 << 10;

/// Images and files of one folder.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// What lies in a folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// A path of the folder. A name has no slash, so that it leads nowhere else.
    fn path(&self, name: &str, ending: &str) -> Result<PathBuf> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(Error::invalid(format!(
                "`{name}` is not a name of the shelf: use letters and digits"
            )));
        }
        Ok(self.folder.join(format!("{name}{ending}")))
    }
}

/// The description of a tar as an image of one layer.
fn describe(name: &str, path: &PathBuf, platform: &Platform) -> Result<SourceImage> {
    let mut file = File::open(path).at("cannot open the root file system", path)?;
    let (mut hasher, mut size, mut block) = (Hasher::sha256(), 0, vec![0; BLOCK]);
    loop {
        let count = file.read(&mut block).at("cannot read the root file system", path)?;
        if count == 0 {
            break;
        }
        hasher.update(&block[..count]);
        size += count as u64;
    }
    let digest = hasher.finish();
    let mut config = ImageConfig::empty(platform);
    config.rootfs.diff_ids = vec![digest.clone()];
    let layer = Descriptor::new(media_type::OCI_LAYER, digest.clone(), size);
    // There is no manifest: what the image is made of stands for one.
    SourceImage::new(name, Digest::sha256(format!("{digest} {platform}")), config, &[layer])
}

#[async_trait]
impl Source for Shelf {
    async fn resolve(&self, name: &str, platform: &Platform) -> Result<SourceContent> {
        if self.path(name, "")?.is_dir() {
            return Ok(SourceContent::Files);
        }
        let path = self.path(name, ".tar")?;
        if !path.exists() {
            let message = format!("there is neither a folder `{name}` nor a `{name}.tar` on the shelf");
            return Err(Error::new(ErrorKind::NotFound, message).with_context("shelf", self.folder.display()));
        }
        let (name, platform) = (name.to_owned(), platform.clone());
        let image = tokio::task::spawn_blocking(move || describe(&name, &path, &platform))
            .await
            .map_err(|e| Error::internal("the root file system was not read to its end").with_source(e))??;
        Ok(SourceContent::Image(Box::new(image)))
    }

    async fn open_layer(&self, image: &SourceImage, layer: &Descriptor) -> Result<BlobReader> {
        let path = self.path(&image.name, ".tar")?;
        let file = File::open(&path).at("cannot open the root file system", &path)?;
        // Whoever reads it checks the digest: a file that has changed meanwhile is an error.
        let stream = futures::stream::try_unfold(file, |mut file| async move {
            let read = move || {
                let mut block = vec![0; BLOCK];
                let count = file.read(&mut block)?;
                block.truncate(count);
                Ok::<_, Error>((count > 0).then(|| (Bytes::from(block), file)))
            };
            let read = tokio::task::spawn_blocking(read).await;
            read.map_err(|e| Error::internal("a block was not read to its end").with_source(e))?
        });
        Ok(BlobReader { size: layer.size, offset: 0, length: layer.size, stream: Box::pin(stream) })
    }

    async fn open_files(&self, name: &str) -> Result<SourceFiles> {
        Ok(SourceFiles::new(self.path(name, "")?))
    }
}
