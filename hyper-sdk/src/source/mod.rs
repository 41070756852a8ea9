//! Sources: what a build begins with. Images, layouts, folders, git repositories and files of the web.
//!
//! ```text
//!   a name ─▶ Source::resolve ─▶ config and layer descriptors ─▶ graph, keys, cache
//!                                          │ when a step is unpacked or an output is written
//!                                          ▼
//!                             Source::open_layer, Source::open_files
//! ```
//!
//! # Invariants
//! - Resolving a name brings descriptions (manifests and configs), never a layer or a file.
//! - [`Sources`] resolves a name once in a build, and opens what is behind it once.

mod address;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod context;
mod image;
mod layout;
mod record;
mod remote;
mod sources;
mod work_tree;

pub use address::{BuildContext, NamedContext};
pub use context::ignore_file;
pub(crate) use context::{open_context, read_dockerfile};
pub use image::{ClientFactory, ImageSource};
pub use layout::LayoutSource;
pub(crate) use remote::{Fetched, RemoteSources, git_source, newest_in_archive};
pub use remote::{ProxyChoice, RemoteOptions, StreamContext, context_of_stream, read_context};
pub(crate) use sources::{LayerOrigin, MainFolder, Opened, Sources, SourcesOptions};
pub(crate) use work_tree::work_tree_time;

use crate::oci::{Descriptor, ImageConfig};
use crate::platform::Platform;
use crate::reference::RepositoryName;
use crate::store::BlobReader;
use crate::{Digest, Error, Result};
use async_trait::async_trait;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Brings something into a build from outside: images or files, by a name that the source itself reads.
///
/// A builder has one for each scheme: `docker-image` is what FROM asks, the others are asked for named contexts.
///
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::oci::Descriptor;
/// use hyper_sdk::platform::Platform;
/// use hyper_sdk::source::{Source, SourceContent, SourceFiles, SourceImage};
/// use hyper_sdk::store::BlobReader;
/// use hyper_sdk::{Error, Result};
///
/// /// The folders below one folder, by their names.
/// #[derive(Debug)]
/// struct Shelf(std::path::PathBuf);
///
/// #[async_trait]
/// impl Source for Shelf {
///     async fn resolve(&self, name: &str, _: &Platform) -> Result<SourceContent> {
///         match self.0.join(name).is_dir() {
///             true => Ok(SourceContent::Files),
///             false => Err(Error::invalid(format!("there is no `{name}` on the shelf"))),
///         }
///     }
///
///     async fn open_layer(&self, _: &SourceImage, _: &Descriptor) -> Result<BlobReader> {
///         Err(Error::unsupported("a shelf has no images"))
///     }
///
///     async fn open_files(&self, name: &str) -> Result<SourceFiles> {
///         Ok(SourceFiles::new(self.0.join(name)))
///     }
/// }
/// ```
///
/// # Guarantees
/// Object-safe; every method may be called from many tasks at once. Dropping a future stops the work and leaves nothing
/// that is not whole.
#[async_trait]
pub trait Source: Debug + Send + Sync + 'static {
    /// What a name stands for on a platform. No layer and no file is brought.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ManifestUnknown`] when there is no such image; those of the way to it, with its name.
    async fn resolve(&self, name: &str, platform: &Platform) -> Result<SourceContent>;

    /// Opens the blob of a layer of an image that this source gave. Its bytes are checked by the caller.
    async fn open_layer(&self, image: &SourceImage, layer: &Descriptor) -> Result<BlobReader>;

    /// Brings the files of a name that stands for [`SourceContent::Files`].
    async fn open_files(&self, name: &str) -> Result<SourceFiles>;
}

/// A shared source of any kind.
pub type SharedSource = Arc<dyn Source>;

/// What a name of a source stands for.
#[derive(Clone, Debug)]
pub enum SourceContent {
    /// A root file system with a config.
    Image(Box<SourceImage>),
    /// Files.
    Files,
}

/// An image as far as it can be known without its layers.
#[derive(Clone, Debug)]
pub struct SourceImage {
    /// The name that its source knows it by.
    pub name: String,
    /// The name for people and provenance.
    pub reference: String,
    /// The image manifest.
    pub manifest: Digest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<SourceLayer>,
    /// The repository of the store that has its layers, or gets them when they are needed; one of the builder's own
    /// without.
    pub repository: Option<RepositoryName>,
    /// Whether the store had all of its layers: one that is missing now was lost.
    pub is_kept: bool,
}

impl SourceImage {
    /// An image of its descriptors.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the config names another number of layers than the manifest.
    pub fn new(
        name: impl Into<String>,
        manifest: Digest,
        config: ImageConfig,
        layers: &[Descriptor],
    ) -> Result<Self> {
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(Error::invalid(format!(
                "the image has {} layers and its config names {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let layers = layers.iter().zip(diff_ids);
        let layers =
            layers.map(|(blob, diff_id)| SourceLayer { blob: blob.clone(), diff_id: diff_id.clone() });
        let (layers, name) = (layers.collect(), name.into());
        let reference = name.clone();
        Ok(Self { name, reference, manifest, config, layers, repository: None, is_kept: false })
    }
}

/// A layer of an image by its descriptor.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceLayer {
    /// The layer as a blob.
    pub blob: Descriptor,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
}

/// Files that a source brought.
#[derive(Clone, Debug)]
pub struct SourceFiles {
    /// The folder with the files. Nobody changes it as long as the build runs.
    pub folder: PathBuf,
    /// The time that they have by themselves, as of a commit: seconds since 1970.
    pub time: Option<i64>,
    /// The folder is removed with this value.
    _unpacked: Option<Arc<TempDir>>,
}

impl SourceFiles {
    /// Files of a folder that stays.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), time: None, _unpacked: None }
    }

    /// Files of a folder that is removed when the last copy of this value is dropped.
    pub fn temporary(folder: TempDir) -> Self {
        Self { folder: folder.path().to_owned(), time: None, _unpacked: Some(Arc::new(folder)) }
    }

    /// The same files with a time of their own, in seconds since 1970.
    #[must_use]
    pub fn with_time(mut self, time: Option<i64>) -> Self {
        self.time = time;
        self
    }
}
