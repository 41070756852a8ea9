//! Unpacked layers and the trees that steps run on.
//!
//! A committed snapshot is named by its chain ID (image-spec, config.md, "Layer ChainID"), or by a name that counts the
//! true times of its files too. An [`Active`] one is a tree that a step may write to; it becomes a committed one without
//! a copy, or is thrown away.
//!
//! [`LocalSnapshotter`] keeps them in a folder that several processes may share: one folder a layer, or whole trees on
//! hosts that cannot mount overlays.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod folders;
mod local;

pub use local::{LocalSnapshotter, Style};

use crate::layer::TimesTable;
use crate::layer::copy::CopyRequest;
use crate::sandbox::RootFs;
use crate::{Digest, Result};
use async_trait::async_trait;
use std::fmt::{Debug, Display};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// What a snapshotter can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotCapabilities {
    /// Whether a committed snapshot shares the files of its parents on disk.
    pub shares_layers: bool,
    /// The longest chain of layers that can be mounted.
    pub max_depth: usize,
}

impl SnapshotCapabilities {
    /// Chains of up to `max_depth` layers, of which each is a copy of the one below.
    pub const fn new(max_depth: usize) -> Self {
        Self { shares_layers: false, max_depth }
    }

    /// The same, with the files of parents shared.
    #[must_use]
    pub const fn with_shared_layers(mut self) -> Self {
        self.shares_layers = true;
        self
    }
}

/// A stream of a tar that a helper writes: blocking, to be read on a blocking thread.
///
/// At the end of the stream the helper's own result is checked: a tar that is not complete ends with an error, never
/// with a clean end of file. Dropping the stream ends the helper.
pub type TarStream = Box<dyn Read + Send>;

/// How a layer is unpacked.
#[derive(Clone, Debug, Default)]
pub struct UnpackOptions {
    /// A name for the files of this layer by themselves, for [`Snapshotter::share`].
    pub layer: Option<Digest>,
    /// The times of files that have others than the layer says.
    pub times: Option<Arc<TimesTable>>,
    /// Whether what has an owner that [`Snapshotter::can_own`] denies belongs to root. Only for files that are written
    /// out with [`ExportOptions::owners`] or without owners: no step may see them.
    pub any_owner: bool,
}

/// How the tree of a snapshot is written out.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The files of the indexes of its layers, lowest first, whose files have the times that those say.
    pub published: Vec<PathBuf>,
    /// Whether they have the owners that those say, too.
    pub owners: bool,
}

/// A snapshot that a step may write to. It belongs to the snapshotter that prepared it.
///
/// Dropping it without [`Snapshotter::commit`] or [`Snapshotter::abandon`] removes it in the background, or when a
/// snapshotter is next opened on the folder.
pub trait Active: Debug + Send + Sync + 'static {
    /// What to hand to an [`crate::exec::Executor`].
    fn rootfs(&self) -> &RootFs;

    /// The chain that it started as; `None` for an empty tree.
    fn parent(&self) -> Option<&Digest>;

    /// The concrete value, by which its snapshotter knows it.
    fn as_any(&self) -> &dyn std::any::Any;

    /// The concrete value, for its snapshotter.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send>;
}

/// Keeps snapshots.
///
/// # Guarantees
/// Object-safe; every method may be called from many tasks, and from many processes on one folder, at once. A chain is
/// either there whole or not at all, also after a crash. Cancelling a future (dropping it) ends its helper and leaves
/// nothing half made. The suite in `snapshot::conformance` tests a snapshotter.
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

    /// Whether files can have this owner here. A layer with another one is an error, see [`UnpackOptions::any_owner`].
    fn can_own(&self, _uid: u32, _gid: u32) -> bool {
        true
    }

    /// Whether a chain is there.
    async fn has(&self, chain: &Digest) -> Result<bool>;

    /// Unpacks a layer, an uncompressed tar, on `parent`, as `chain`.
    ///
    /// Does nothing when `chain` is there already; equal calls at one time unpack once. `layer` is read to its end on
    /// a blocking thread, and an error that it returns (such as a digest that does not match) undoes everything.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when `parent` is not there; [`crate::ErrorKind::Invalid`] for a hostile or
    /// damaged layer.
    async fn apply(
        &self,
        parent: Option<&Digest>,
        chain: &Digest,
        options: UnpackOptions,
        layer: Box<dyn Read + Send>,
    ) -> Result<()>;

    /// Makes `chain` on `parent` of files that were unpacked before, by the name that they got then. Gives whether there
    /// were some.
    async fn share(&self, parent: Option<&Digest>, chain: &Digest, layer: &Digest) -> Result<bool>;

    /// Makes a tree to run a step on, on top of `parent`, or an empty one.
    async fn prepare(&self, parent: Option<&Digest>) -> Result<Box<dyn Active>>;

    /// The read-only tree of a committed chain (an empty one for `None`), for mounts of a step.
    async fn view(&self, chain: Option<&Digest>) -> Result<RootFs>;

    /// The layer of what changed in an active snapshot since it was prepared: an uncompressed tar in the order of a
    /// layer, with the true times.
    async fn diff(&self, active: &dyn Active) -> Result<TarStream>;

    /// Turns an active snapshot into the committed `chain`, without a copy. When `chain` is there already, the active
    /// one is thrown away.
    async fn commit(&self, active: Box<dyn Active>, chain: &Digest) -> Result<()>;

    /// Throws an active snapshot away.
    async fn abandon(&self, active: Box<dyn Active>) -> Result<()>;

    /// Makes the layer of a file operation with `sources` by their index in the plan, with the true times. Sources that
    /// are folders of the host are read as they are. What is at the destination is what the indexes say that the plan
    /// names.
    async fn copy(&self, sources: Vec<RootFs>, plan: CopyRequest) -> Result<TarStream>;

    /// The whole tree of a chain as one tar, below its path `path` (`/` for all of it), in whole seconds.
    async fn export(&self, chain: Option<&Digest>, path: &str, options: ExportOptions) -> Result<TarStream>;

    /// The content of a regular file; symlinks are resolved within the tree. `None` where there is none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] above `limit` bytes.
    async fn read_file(&self, chain: Option<&Digest>, path: &str, limit: u64) -> Result<Option<Vec<u8>>>;

    /// Removes committed chains that are no parent of another one and not in use. Gives those that were removed.
    async fn remove(&self, chains: &[Digest]) -> Result<Vec<Digest>>;

    /// Every committed chain with its parent.
    async fn list(&self) -> Result<Vec<SnapshotInfo>>;
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

/// A shared snapshotter of any kind.
pub type SharedSnapshotter = Arc<dyn Snapshotter>;

#[cfg(test)]
mod tests;
