//! Sources: the inputs of a build. Images, layouts, folders, git repositories and files on the web.
//!
//! ```text
//!   a name ─▶ Source::resolve ─▶ config and layer descriptors ─▶ graph, keys, cache
//!                                          │ when a step is unpacked or an output is written
//!                                          ▼
//!                             Source::open_layer, Source::open_files
//! ```
//!
//! # Invariants
//! - Resolving a name fetches manifests and configs, never a layer or a file.
//! - [`Sources`] resolves each name once in a build, and opens each source once.

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
pub(crate) use record::records_in;
pub use remote::{ContextInput, ProxyChoice, RemoteOptions, read_context, read_context_blocking};
pub(crate) use remote::{Fetched, RemoteSources, git_source, newest_in_archive};
pub(crate) use sources::{LayerOrigin, MainFolder, Opened, Sources, SourcesOptions};
pub(crate) use work_tree::work_tree_time;

use crate::oci::{Descriptor, ImageConfig};
use crate::platform::Platform;
use crate::private_folder::TemporaryFolder;
use crate::reference::RepositoryName;
use crate::store::BlobReader;
use crate::{Digest, Error, Result};
use async_trait::async_trait;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

/// A source of images or files for builds. It resolves names in its own format.
///
/// A builder has one source for each scheme: FROM uses `docker-image`, named contexts use the others.
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
/// struct Folders(std::path::PathBuf);
///
/// #[async_trait]
/// impl Source for Folders {
///     async fn resolve(&self, name: &str, _: &Platform) -> Result<SourceContent> {
///         match self.0.join(name).is_dir() {
///             true => Ok(SourceContent::Files),
///             false => Err(Error::invalid(format!("there is no folder `{name}`"))),
///         }
///     }
///
///     async fn open_layer(&self, _: &SourceImage, _: &Descriptor) -> Result<BlobReader> {
///         Err(Error::unsupported("this source has no images"))
///     }
///
///     async fn open_files(&self, name: &str) -> Result<SourceFiles> {
///         Ok(SourceFiles::new(self.0.join(name)))
///     }
/// }
/// ```
///
/// # Guarantees
/// Object-safe; every method may be called from many tasks at once. Dropping a future stops the work and leaves no
/// partial file.
#[async_trait]
pub trait Source: Debug + Send + Sync + 'static {
    /// Resolves a name for a platform, without fetching a layer or a file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ManifestUnknown`] when there is no such image; the errors of the transport, with the name.
    async fn resolve(&self, name: &str, platform: &Platform) -> Result<SourceContent>;

    /// Opens the blob of a layer of an image that this source resolved. The caller checks its bytes.
    async fn open_layer(&self, image: &SourceImage, layer: &Descriptor) -> Result<BlobReader>;

    /// Opens the files of a name that was resolved to [`SourceContent::Files`].
    async fn open_files(&self, name: &str) -> Result<SourceFiles>;
}

/// A shared source of any kind.
pub type SharedSource = Arc<dyn Source>;

/// The content of a resolved name.
#[derive(Clone, Debug)]
pub enum SourceContent {
    /// A root file system with a config.
    Image(Box<SourceImage>),
    /// Files.
    Files,
}

/// An image without its layers.
#[derive(Clone, Debug)]
pub struct SourceImage {
    /// The name in the source.
    pub name: String,
    /// The name for messages and provenance.
    pub reference: String,
    /// The image manifest.
    pub manifest: Digest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<SourceLayer>,
    /// The repository of the store for its layers; `None` uses a repository of the builder.
    pub repository: Option<RepositoryName>,
    /// Whether the store had all layers when the image was resolved. A layer that is missing later was lost.
    pub is_kept: bool,
}

impl SourceImage {
    /// An image from its descriptors.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when config and manifest have different numbers of layers.
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

/// A layer of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceLayer {
    /// The layer as a blob.
    pub blob: Descriptor,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
}

/// The files of a source.
#[derive(Clone, Debug)]
pub struct SourceFiles {
    /// The folder with the files. It must not change while the build runs.
    pub folder: PathBuf,
    /// The time of the source, such as that of a commit, in seconds since 1970.
    pub time: Option<i64>,
    /// The folder is removed with this value.
    _unpacked: Option<Arc<TemporaryFolder>>,
}

impl SourceFiles {
    /// Files in a permanent folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), time: None, _unpacked: None }
    }

    /// Files of a folder that is removed when the last copy of this value is dropped.
    pub fn temporary(folder: TemporaryFolder) -> Self {
        Self { folder: folder.path().to_owned(), time: None, _unpacked: Some(Arc::new(folder)) }
    }

    /// Sets the time of the source, in seconds since 1970.
    #[must_use]
    pub fn with_time(mut self, time: Option<i64>) -> Self {
        self.time = time;
        self
    }
}
