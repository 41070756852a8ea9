//! A snapshotter without a sandbox: complete trees in folders of this process.

use crate::exec::RootFs;
use crate::layer::copy::{CopyRequest, SourceKind, SourceRoot, index_of, tree_of};
use crate::layer::{
    ApplyOptions, ApplyStyle, DevicePolicy, DiffOptions, FileTime, LayerPath, LayerWriter, OwnerPolicy,
    apply, diff_trees, pack,
};
use crate::snapshot::{
    Active, ExportOptions, SnapshotCapabilities, SnapshotInfo, Snapshotter, TarStream, UnpackOptions,
};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A snapshotter for tests: each snapshot is a folder with the whole tree, and all work is done in this process.
///
/// With [`super::FakeExecutor`] it makes builds that need no sandbox, no namespaces and no rights. Owners are kept when
/// the tests run as root; otherwise every file belongs to the caller. Its files are removed with it.
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::snapshot::{Snapshotter as _, UnpackOptions};
/// use hyper_sdk::testing::{PlainSnapshotter, RandomImage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let snapshots = PlainSnapshotter::new()?;
/// let layer = RandomImage::new(1).layers.remove(0);
/// let chain = layer.descriptor.digest.clone();
/// snapshots.apply(None, &chain, UnpackOptions::default(), Box::new(std::io::Cursor::new(layer.tar))).await?;
/// assert!(snapshots.has(&chain).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PlainSnapshotter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: tempfile::TempDir,
    snapshots: Mutex<HashMap<Digest, Committed>>,
    active: Mutex<HashSet<PathBuf>>,
    /// Layers are unpacked one after the other, which is fast enough for tests.
    unpacking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Committed {
    parent: Option<Digest>,
    folder: Arc<tempfile::TempDir>,
}

#[derive(Debug)]
struct PlainActive {
    inner: Arc<Inner>,
    parent: Option<Digest>,
    rootfs: RootFs,
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Drop for PlainActive {
    fn drop(&mut self) {
        self.inner.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

impl Active for PlainActive {
    fn rootfs(&self) -> &RootFs {
        &self.rootfs
    }

    fn parent(&self) -> Option<&Digest> {
        self.parent.as_ref()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

fn owners() -> OwnerPolicy {
    if rustix::process::geteuid().is_root() { OwnerPolicy::KeepMapped } else { OwnerPolicy::Ignore }
}

fn options() -> ApplyOptions {
    ApplyOptions { owners: owners(), devices: DevicePolicy::Skip, ..ApplyOptions::new(ApplyStyle::Plain) }
}

/// The layer with the changes from `lower` to `upper`.
fn difference(lower: &Path, upper: &Path) -> Result<Vec<u8>> {
    let root = |_: &LayerPath, _: &rustix::fs::Stat, _: Option<(u32, u32)>| (0, 0);
    let mut options = DiffOptions::default();
    if owners() == OwnerPolicy::Ignore {
        options.owner = Some(&root);
    }
    let mut writer = LayerWriter::exact(Vec::new());
    diff_trees(lower, upper, &mut writer, &options)?;
    Ok(writer.finish()?.0)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the work on a snapshot panicked").with_source(e))?
}

fn stream(bytes: Vec<u8>) -> TarStream {
    Box::new(Cursor::new(bytes))
}

impl PlainSnapshotter {
    /// An empty snapshotter in a temporary folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the folder cannot be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("empty"))?;
        Ok(Self(Arc::new(Inner {
            folder,
            snapshots: Mutex::default(),
            active: Mutex::default(),
            unpacking: tokio::sync::Mutex::default(),
        })))
    }

    fn fresh(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("tree-").tempdir_in(self.0.folder.path())?)
    }

    /// The folder of a chain. The second value keeps the folder.
    fn tree(&self, chain: Option<&Digest>) -> Result<(PathBuf, Option<Committed>)> {
        let Some(chain) = chain else { return Ok((self.0.folder.path().join("empty"), None)) };
        let snapshots = self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let found = snapshots.get(chain).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "a snapshot does not exist").with_context("chain", chain)
        })?;
        Ok((found.folder.path().to_owned(), Some(found)))
    }

    /// Copies the tree of a chain to a new folder.
    async fn copy_of(&self, chain: Option<&Digest>) -> Result<tempfile::TempDir> {
        let (from, held) = self.tree(chain)?;
        let (to, empty) = (self.fresh()?, self.0.folder.path().join("empty"));
        blocking(move || {
            apply(Cursor::new(difference(&empty, &from)?), to.path(), &options())?;
            drop(held);
            Ok(to)
        })
        .await
    }

    fn keep(&self, parent: Option<&Digest>, chain: &Digest, folder: tempfile::TempDir) {
        let committed = Committed { parent: parent.cloned(), folder: Arc::new(folder) };
        let mut snapshots = self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.entry(chain.clone()).or_insert(committed);
    }

    fn own(&self, active: Box<dyn Active>) -> Result<Box<PlainActive>> {
        let foreign = || Error::invalid("the snapshot belongs to another snapshotter");
        let active = active.into_any().downcast::<PlainActive>().map_err(|_| foreign())?;
        if Arc::ptr_eq(&active.inner, &self.0) { Ok(active) } else { Err(foreign()) }
    }
}

#[async_trait]
impl Snapshotter for PlainSnapshotter {
    fn capabilities(&self) -> SnapshotCapabilities {
        SnapshotCapabilities::new(usize::MAX)
    }

    async fn has(&self, chain: &Digest) -> Result<bool> {
        Ok(self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner).contains_key(chain))
    }

    async fn apply(
        &self,
        parent: Option<&Digest>,
        chain: &Digest,
        options: UnpackOptions,
        layer: Box<dyn Read + Send>,
    ) -> Result<()> {
        let _turn = self.0.unpacking.lock().await;
        if self.has(chain).await? {
            return Ok(());
        }
        let folder = self.copy_of(parent).await?;
        let folder = blocking(move || {
            let (mut layer, mut how) = (layer, self::options());
            how.times = options.times;
            apply(&mut layer, folder.path(), &how)?;
            // The caller hashes the whole stream, including the bytes after the end of the archive.
            std::io::copy(&mut layer, &mut std::io::sink())?;
            Ok(folder)
        })
        .await?;
        self.keep(parent, chain, folder);
        Ok(())
    }

    async fn share(&self, _: Option<&Digest>, chain: &Digest, _: &Digest) -> Result<bool> {
        // A complete tree contains files of its parent, so it cannot be shared.
        self.has(chain).await
    }

    async fn prepare(&self, parent: Option<&Digest>) -> Result<Box<dyn Active>> {
        let folder = self.copy_of(parent).await?;
        let path = folder.path().to_owned();
        self.0.active.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        let rootfs = RootFs::Folder { path: path.clone(), writable: true };
        let (inner, parent) = (Arc::clone(&self.0), parent.cloned());
        Ok(Box::new(PlainActive { inner, parent, rootfs, folder: Some(folder), path }))
    }

    async fn view(&self, chain: Option<&Digest>) -> Result<RootFs> {
        Ok(RootFs::Folder { path: self.tree(chain)?.0, writable: false })
    }

    async fn diff(&self, active: &dyn Active) -> Result<TarStream> {
        let own = active.as_any().downcast_ref::<PlainActive>();
        let own = own.filter(|active| Arc::ptr_eq(&active.inner, &self.0));
        let own = own.ok_or_else(|| Error::invalid("the snapshot belongs to another snapshotter"))?;
        let upper = own.path.clone();
        let (lower, held) = self.tree(active.parent())?;
        blocking(move || {
            let tar = difference(&lower, &upper)?;
            drop(held);
            Ok(stream(tar))
        })
        .await
    }

    async fn commit(&self, active: Box<dyn Active>, chain: &Digest) -> Result<()> {
        let mut active = self.own(active)?;
        let parent = active.parent.clone();
        match active.folder.take() {
            Some(folder) => self.keep(parent.as_ref(), chain, folder),
            None => return Err(Error::internal("a snapshot was committed twice")),
        }
        Ok(())
    }

    async fn abandon(&self, active: Box<dyn Active>) -> Result<()> {
        self.own(active).map(drop)
    }

    async fn pack(&self, chain: &Digest, index: &Path) -> Result<TarStream> {
        let ((tree, held), index) = (self.tree(Some(chain))?, index.to_owned());
        blocking(move || {
            let mut writer = LayerWriter::new(Vec::new(), None);
            pack(&index_of(&index)?, &tree, &mut writer)?;
            drop(held);
            Ok(stream(writer.finish()?.0))
        })
        .await
    }

    async fn copy(&self, sources: Vec<RootFs>, plan: CopyRequest) -> Result<TarStream> {
        let own = self.0.folder.path().to_owned();
        blocking(move || {
            let mut roots = Vec::new();
            for source in sources {
                let RootFs::Folder { path, .. } = source else {
                    return Err(Error::unsupported("this snapshotter copies only from folders"));
                };
                let is_own = path.starts_with(&own);
                let kind = if is_own { SourceKind::RootFilesystem } else { SourceKind::Context };
                roots.push(Arc::new(SourceRoot::open(&path, kind, None)?));
            }
            let mut writer = LayerWriter::exact(Vec::new());
            plan.run(&roots, &mut writer)?;
            Ok(stream(writer.finish()?.0))
        })
        .await
    }

    async fn export(&self, chain: Option<&Digest>, path: &str, options: ExportOptions) -> Result<TarStream> {
        let ((tree, held), path) = (self.tree(chain)?, path.to_owned());
        let empty = self.0.folder.path().join("empty");
        blocking(move || {
            let (layers, top) = (tree_of(&options.published)?, LayerPath::from_archive(path.as_bytes())?);
            let of_layer = |below: &LayerPath| {
                let node = layers.lookup(&top.join(below.as_bytes()).ok()?)?;
                node.layer?;
                Some(layers.link_target(node).unwrap_or(node).entry)
            };
            let time = |below: &LayerPath| of_layer(below).map(|entry| FileTime::of(entry.mtime));
            let owner =
                |path: &LayerPath, stat: &rustix::fs::Stat, _: Option<(u32, u32)>| match of_layer(path)
                    .filter(|_| options.owners)
                {
                    Some(entry) => (entry.uid, entry.gid),
                    None if owners() == OwnerPolicy::Ignore => (0, 0),
                    None => (stat.st_uid, stat.st_gid),
                };
            let how = DiffOptions { owner: Some(&owner), time: Some(&time), portable: false };
            let folder = open_in(&tree, &path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|e| Error::io("the folder to export does not exist", &path, e.into()))?;
            let mut writer = LayerWriter::new(Vec::new(), None);
            diff_trees(&empty, &fd_path(&folder), &mut writer, &how)?;
            drop(held);
            Ok(stream(writer.finish()?.0))
        })
        .await
    }

    async fn read_file(&self, chain: Option<&Digest>, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let ((tree, held), path) = (self.tree(chain)?, path.to_owned());
        blocking(move || {
            let failed = |e: Errno| Error::io("cannot read a file of a snapshot", &path, e.into());
            let place = match open_in(&tree, &path, OFlags::PATH) {
                Ok(place) => place,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(e) => return Err(failed(e)),
            };
            let stat = rustix::fs::fstat(&place).map_err(failed)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(None);
            }
            if stat.st_size as u64 > limit {
                let message = format!("a file of the image has more than {limit} bytes");
                return Err(Error::new(ErrorKind::TooLarge, message).with_context("path", &path));
            }
            let mut bytes = Vec::new();
            File::open(fd_path(&place))?.take(limit).read_to_end(&mut bytes)?;
            drop(held);
            Ok(Some(bytes))
        })
        .await
    }

    async fn remove(&self, chains: &[Digest]) -> Result<Vec<Digest>> {
        if !self.0.active.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Err(Error::new(ErrorKind::Conflict, "snapshots are in use"));
        }
        let mut snapshots = self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = Vec::new();
        loop {
            let parents: HashSet<Digest> = snapshots.values().filter_map(|s| s.parent.clone()).collect();
            let free: Vec<Digest> = chains
                .iter()
                .filter(|chain| snapshots.contains_key(*chain) && !parents.contains(*chain))
                .cloned()
                .collect();
            if free.is_empty() {
                return Ok(removed);
            }
            for chain in free {
                if snapshots.remove(&chain).is_some() {
                    removed.push(chain);
                }
            }
        }
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let snapshots = self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let info = |(chain, committed): (&Digest, &Committed)| SnapshotInfo {
            chain: chain.clone(),
            parent: committed.parent.clone(),
            folder: committed.folder.path().to_owned(),
            used: 0,
        };
        Ok(snapshots.iter().map(info).collect())
    }
}

/// Opens a path of a tree with the tree as the root, so that links cannot lead out.
fn open_in(tree: &Path, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let top = rustix::fs::open(tree, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
    let path = if path.is_empty() { "." } else { path };
    crate::layer::open_resolved(&top, path, flags, ResolveFlags::IN_ROOT)
}

fn fd_path(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
}

impl fmt::Display for PlainSnapshotter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plain snapshots in {}", self.0.folder.path().display())
    }
}
