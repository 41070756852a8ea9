//! Snapshots: unpacked layers, and the trees that steps run on.
//!
//! The name of a committed snapshot is its chain ID (image-spec, config.md, "Layer ChainID"), or a digest that also
//! covers the exact times of its files. An [`Active`] snapshot is a tree that a step may write to. It becomes a
//! committed one without a copy, or is discarded.
//!
//! [`LocalSnapshotter`] keeps them in a folder that several processes may share: one folder for each layer, or whole
//! trees on hosts that cannot mount overlays.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod folders;
mod kind;
mod local;

pub(crate) use kind::Kind;
pub use kind::Style;
pub use local::LocalSnapshotter;

use crate::layer::TimesTable;
use crate::layer::copy::CopyRequest;
use crate::sandbox::RootFs;
use crate::{Digest, Result};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::fmt::{Debug, Display};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a snapshotter supports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotCapabilities {
    /// Whether a committed snapshot shares the files of its parents on the disk.
    pub shares_layers: bool,
    /// The longest chain of layers that can be mounted.
    pub max_depth: usize,
}

impl SnapshotCapabilities {
    /// Chains of up to `max_depth` layers, where each snapshot is a copy of its parent.
    pub const fn new(max_depth: usize) -> Self {
        Self { shares_layers: false, max_depth }
    }

    /// The same, but snapshots share the files of their parents.
    #[must_use]
    pub const fn with_shared_layers(mut self) -> Self {
        self.shares_layers = true;
        self
    }
}

/// A stream of a tar that a helper writes. It blocks, so it must be read on a blocking thread.
///
/// At the end of the stream the helper's result is checked: an incomplete tar ends with an error, never with a clean
/// end of file. Dropping the stream ends the operation.
pub type TarStream = Box<dyn Read + Send>;

/// How a layer is unpacked.
#[derive(Clone, Debug, Default)]
pub struct UnpackOptions {
    /// A name for the files of this layer alone, for [`Snapshotter::share`].
    pub layer: Option<Digest>,
    /// The exact times of files, which replace those of the layer.
    pub times: Option<Arc<TimesTable>>,
    /// Whether files whose owner [`Snapshotter::can_own`] denies belong to root. Use it only for trees that are
    /// exported with [`ExportOptions::owners`] or without owners: no step may see them.
    pub any_owner: bool,
}

/// Receives the result of unpacking a layer.
pub type Ended<'a> = Box<dyn FnOnce(&Result<()>) + Send + 'a>;

/// One of several layers to unpack: see [`Snapshotter::apply_all`].
pub struct LayerToUnpack<'a> {
    /// The snapshot below. It exists, or is made by an earlier one of the layers, or has such a one below it.
    pub parent: Option<Digest>,
    /// The name of the snapshot that it makes.
    pub chain: Digest,
    /// How it is unpacked.
    pub options: UnpackOptions,
    /// Opens the layer, an uncompressed tar. It is not polled before the layer is needed.
    pub open: BoxFuture<'a, Result<Box<dyn Read + Send>>>,
    /// Receives the result of this layer.
    pub ended: Ended<'a>,
}

impl Debug for LayerToUnpack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerToUnpack").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// [`Snapshotter::apply_all`] for snapshotters that need the tree below a layer to unpack it.
async fn apply_in_order<S: Snapshotter + ?Sized>(
    snapshots: &S,
    layers: Vec<LayerToUnpack<'_>>,
) -> Result<()> {
    for LayerToUnpack { parent, chain, options, open, ended } in layers {
        let result = match open.await {
            Ok(layer) => snapshots.apply(parent.as_ref(), &chain, options, layer).await,
            Err(e) => Err(e),
        };
        ended(&result);
        result?;
    }
    Ok(())
}

/// How the tree of a snapshot is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The index files of its layers, lowest first. The files of these layers are exported with the times of the
    /// indexes.
    pub published: Vec<PathBuf>,
    /// Whether they also have the owners of the indexes.
    pub owners: bool,
}

/// A snapshot that a step may write to. It belongs to the snapshotter that prepared it.
///
/// Dropping it without [`Snapshotter::commit`] or [`Snapshotter::abandon`] removes it in the background, or when a
/// snapshotter is next opened on the folder.
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::exec::RootFs;
/// use hyper_sdk::snapshot::Active;
/// use std::any::Any;
///
/// /// A folder that a step writes to, of a snapshotter that copies what is below.
/// #[derive(Debug)]
/// struct Copied {
///     rootfs: RootFs,
///     parent: Option<Digest>,
/// }
///
/// impl Active for Copied {
///     fn rootfs(&self) -> &RootFs {
///         &self.rootfs
///     }
///
///     fn parent(&self) -> Option<&Digest> {
///         self.parent.as_ref()
///     }
///
///     fn as_any(&self) -> &dyn Any {
///         self
///     }
///
///     fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
///         self
///     }
/// }
/// ```
pub trait Active: Debug + Send + Sync + 'static {
    /// The root file system for an [`crate::exec::Executor`].
    fn rootfs(&self) -> &RootFs;

    /// The chain that it is based on; `None` for an empty tree.
    fn parent(&self) -> Option<&Digest>;

    /// The concrete value, so that its snapshotter can recognise it.
    fn as_any(&self) -> &dyn std::any::Any;

    /// The concrete value, for its snapshotter.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send>;
}

/// Keeps snapshots.
///
/// # Guarantees
/// Object-safe; every method may be called at once from many tasks, and from many processes on one folder. A chain
/// exists completely or not at all, also after a crash. Dropping a future ends its operation and leaves nothing
/// incomplete. The suite in `snapshot::conformance` tests a snapshotter.
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::snapshot::{Snapshotter, UnpackOptions};
/// use hyper_sdk::testing::{PlainSnapshotter, RandomImage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let snapshots: &dyn Snapshotter = &PlainSnapshotter::new()?;
/// let layer = RandomImage::new(1).layers.remove(0).tar;
/// let (below, above) = (Digest::sha256("the chain so far"), Digest::sha256("the chain with a step"));
/// snapshots.apply(None, &below, UnpackOptions::default(), Box::new(std::io::Cursor::new(layer))).await?;
/// let step = snapshots.prepare(Some(&below)).await?;
/// // … what an executor does in `step.rootfs()` …
/// let changes = snapshots.diff(&*step).await?;
/// snapshots.commit(step, &above).await?;
/// assert_eq!(snapshots.list().await?.len(), 2);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Snapshotter: Display + Debug + Send + Sync + 'static {
    /// What this snapshotter can do.
    fn capabilities(&self) -> SnapshotCapabilities;

    /// Whether files can have this owner here. A layer with any other owner is an error; see
    /// [`UnpackOptions::any_owner`].
    fn can_own(&self, _uid: u32, _gid: u32) -> bool {
        true
    }

    /// Whether a chain exists.
    async fn has(&self, chain: &Digest) -> Result<bool>;

    /// Unpacks a layer, an uncompressed tar, on `parent`, as `chain`.
    ///
    /// Does nothing when `chain` exists already; concurrent calls for one chain unpack once. `layer` is read to its end
    /// on a blocking thread. An error that it returns (such as a digest mismatch) undoes everything.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when `parent` does not exist; [`crate::ErrorKind::Invalid`] for a hostile or
    /// damaged layer.
    async fn apply(
        &self,
        parent: Option<&Digest>,
        chain: &Digest,
        options: UnpackOptions,
        layer: Box<dyn Read + Send>,
    ) -> Result<()>;

    /// Unpacks several layers of one chain, lowest first. A snapshotter may unpack some at once; a layer whose chain exists
    /// may not be opened.
    ///
    /// # Errors
    /// Those of [`Snapshotter::apply`] and of opening. The layers below the one that failed exist, and none above it.
    async fn apply_all(&self, layers: Vec<LayerToUnpack<'_>>) -> Result<()> {
        apply_in_order(self, layers).await
    }

    /// Makes `chain` on `parent` from files that were unpacked before with the name [`UnpackOptions::layer`]. Returns
    /// whether there were such files.
    async fn share(&self, parent: Option<&Digest>, chain: &Digest, layer: &Digest) -> Result<bool>;

    /// Makes a tree to run a step on, on top of `parent`, or an empty one.
    async fn prepare(&self, parent: Option<&Digest>) -> Result<Box<dyn Active>>;

    /// The read-only tree of a committed chain (an empty one for `None`), for mounts of a step.
    async fn view(&self, chain: Option<&Digest>) -> Result<RootFs>;

    /// The changes in an active snapshot since it was prepared, as a layer: an uncompressed tar in the order of a
    /// layer, with exact times.
    async fn diff(&self, active: &dyn Active) -> Result<TarStream>;

    /// Turns an active snapshot into the committed `chain`, without a copy. When `chain` exists already, the active
    /// snapshot is discarded.
    async fn commit(&self, active: Box<dyn Active>, chain: &Digest) -> Result<()>;

    /// Discards an active snapshot.
    async fn abandon(&self, active: Box<dyn Active>) -> Result<()>;

    /// Writes a layer once more: the files of the committed `chain`, with everything else from the index of its topmost
    /// layer in the file `index`. The tar is the one that the index was made of, byte for byte.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when the chain does not exist. The stream ends with an error when the files are
    /// not those of the index.
    async fn pack(&self, chain: &Digest, index: &Path) -> Result<TarStream>;

    /// Makes the layer of a file operation, with exact times. The plan refers to `sources` by their index. Sources that
    /// are folders of the host are read as they are. The content of the destination is taken from the indexes that the
    /// plan names.
    async fn copy(&self, sources: Vec<RootFs>, plan: CopyRequest) -> Result<TarStream>;

    /// The tree of a chain below `path` (`/` for all of it) as one tar, with times in whole seconds.
    async fn export(&self, chain: Option<&Digest>, path: &str, options: ExportOptions) -> Result<TarStream>;

    /// The content of a regular file; symlinks are resolved within the tree. `None` if there is no such file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] above `limit` bytes.
    async fn read_file(&self, chain: Option<&Digest>, path: &str, limit: u64) -> Result<Option<Vec<u8>>>;

    /// Removes those committed chains that are neither in use nor a parent of another one. Returns the removed ones.
    async fn remove(&self, chains: &[Digest]) -> Result<Vec<Digest>>;

    /// Does the same as [`Snapshotter::remove`], but may leave the files: also returns the folders whose content is to be
    /// removed, with [`Snapshotter::discard`]. Nothing else uses them any more.
    async fn take_away(&self, chains: &[Digest]) -> Result<(Vec<Digest>, Vec<PathBuf>)> {
        Ok((self.remove(chains).await?, Vec::new()))
    }

    /// Every committed chain with its parent.
    async fn list(&self) -> Result<Vec<SnapshotInfo>>;

    /// Removes files, and folders with all that is in them, such as cache mounts: they may have owners that this process
    /// may not touch itself. What is not there is no error.
    ///
    /// # Errors
    /// The first of the system; the others are removed all the same.
    async fn discard(&self, paths: Vec<PathBuf>) -> Result<()> {
        crate::remove_tree::remove_all(&paths, |path| {
            crate::remove_tree::remove_entry(path)
                .map_err(|e| crate::Error::io("cannot remove a file or folder", path, e.into()))
        })
    }

    /// How many bytes a folder takes on the disk, and each of its parts without the parts in it. Files may have owners that
    /// this process may not look at itself.
    async fn usage(&self, root: PathBuf, parts: Vec<PathBuf>) -> Result<(u64, Vec<u64>)> {
        let count = move || crate::disk_usage::disk_usage(&root, &parts);
        let usage = tokio::task::spawn_blocking(count).await;
        let usage = usage.map_err(|e| crate::Error::internal("counting files panicked").with_source(e))?;
        Ok((usage.total, usage.parts))
    }
}

/// A committed snapshot, for `du` and garbage collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name.
    pub chain: Digest,
    /// The chain below it.
    pub parent: Option<Digest>,
    /// The folder that holds its files.
    pub folder: PathBuf,
    /// When it was last used, in seconds since 1970.
    pub used: i64,
}

/// A shared snapshotter.
pub type SharedSnapshotter = Arc<dyn Snapshotter>;

#[cfg(test)]
mod tests;
