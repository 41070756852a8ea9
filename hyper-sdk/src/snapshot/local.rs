//! Snapshots in a local folder, made and read through the sandbox's helper.

use super::folders::{Claim, Folders};
use super::{
    Active, ExportOptions, Kind, LayerToUnpack, SnapshotCapabilities, SnapshotInfo, Snapshotter, Style,
    TarStream, UnpackOptions,
};
use crate::layer::copy::CopyRequest;
use crate::sandbox::{Errand, Reply, Request, RootFs, Rung, Sandbox};
use crate::{Digest, Error, ErrorKind, Result, private_folder};
use async_trait::async_trait;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

mod garbage;
mod joining;
mod removal;
mod unpack;

use garbage::Garbage;

/// The largest number of layers in one overlay of the kernel.
const MAX_DEPTH: usize = 500;

/// How long it is waited for the removal of a snapshot that is given up, which goes on by itself.
const ABANDON_WAIT: Duration = Duration::from_secs(60);

/// Keeps snapshots in a folder that several processes may share.
#[derive(Clone)]
pub struct LocalSnapshotter(Arc<Inner>);

struct Inner {
    kind: Kind,
    /// Why the style is not better.
    reason: Option<String>,
    folders: Folders,
    /// A folder without entries.
    empty: PathBuf,
    sandbox: Sandbox,
    /// The chains that are being unpacked; a second call waits for the first.
    under_way: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    active: AtomicUsize,
    /// The folders that have too many files to be joined. It is held while folders are joined.
    large: tokio::sync::Mutex<HashSet<PathBuf>>,
    /// What a thread removes beside the build; `None` while there is no such thread.
    garbage: Mutex<Option<Vec<Garbage>>>,
}

impl LocalSnapshotter {
    /// Opens the snapshots in `root`, with overlays if they work there and with copies otherwise. Other users cannot
    /// enter the folder.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be made, and those of [`private_folder::open`].
    pub async fn open(root: impl AsRef<Path> + Send, sandbox: Sandbox) -> Result<Self> {
        // What is known of a sandbox includes that overlays work here.
        let refusal = match sandbox.is_known() {
            true => None,
            false => refuses_overlays(root.as_ref(), &sandbox).await?,
        };
        let style = if refusal.is_none() { Style::Overlay } else { Style::Copy };
        Self::open_because(root.as_ref(), sandbox, style, refusal).await
    }

    /// Opens the snapshots in `root` in the given style. Each style has its own folder there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be made.
    pub async fn open_as(root: impl AsRef<Path> + Send, sandbox: Sandbox, style: Style) -> Result<Self> {
        let reason = (style == Style::Copy).then(|| "copies were asked for".to_owned());
        Self::open_because(root.as_ref(), sandbox, style, reason).await
    }

    async fn open_because(
        root: &Path,
        sandbox: Sandbox,
        style: Style,
        reason: Option<String>,
    ) -> Result<Self> {
        let kind = Kind::new(style, sandbox.identity());
        Self::open_in(root, sandbox, kind, reason)
    }

    /// Opens the snapshots of a kind that builds with other options made, to list and to remove them. The sandbox must be able
    /// to have the owners of their files.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be opened.
    pub(crate) async fn open_kind(root: PathBuf, sandbox: Sandbox, kind: Kind) -> Result<Self> {
        // It waits while another process removes snapshots there.
        tokio::task::spawn_blocking(move || Self::open_in(&root, sandbox, kind, None))
            .await
            .map_err(|e| Error::internal("opening snapshots panicked").with_source(e))?
    }

    fn open_in(root: &Path, sandbox: Sandbox, kind: Kind, reason: Option<String>) -> Result<Self> {
        private_folder::open(root)?;
        let (folders, leftovers) = Folders::open(&root.join(kind.name()))?;
        let (under_way, active) = (Mutex::default(), AtomicUsize::new(0));
        let (large, garbage) = Default::default();
        let empty = root.join("empty");
        std::fs::create_dir_all(&empty).map_err(|e| Error::io("cannot make a folder", &empty, e))?;
        let inner =
            Arc::new(Inner { kind, reason, folders, empty, sandbox, under_way, active, large, garbage });
        leftovers.into_iter().for_each(|leftover| inner.remove_later(Garbage::Removed(leftover)));
        Ok(Self(inner))
    }

    /// The sandbox in which it works.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.0.sandbox
    }

    /// How the snapshots of its folder are kept.
    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Waits until what a failed build gave up is removed, but not for longer than `limit`: the process may end next.
    pub(crate) async fn settle(&self, limit: Duration) {
        self.0.garbage_is_gone(limit).await;
    }

    /// How the snapshots are kept, and why not better.
    pub fn describe(&self) -> Rung {
        let rung = Rung::new("snapshots", self.0.kind.style.name());
        match &self.0.reason {
            Some(reason) => rung.because(reason.clone()),
            None => rung,
        }
    }

    /// How the snapshots are kept.
    pub fn style(&self) -> Style {
        self.0.kind.style
    }

    async fn rootfs(&self, chain: Option<&Digest>) -> Result<RootFs> {
        let lowers = self.lowers(chain).await?;
        match self.0.kind.style {
            Style::Overlay => Ok(RootFs::Overlay { lowers, upper: None }),
            Style::Copy => {
                let path = lowers.into_iter().next().unwrap_or_else(|| self.0.empty.clone());
                Ok(RootFs::Folder { path, writable: false })
            }
        }
    }

    /// A new empty folder on a parent, which need not exist yet.
    fn empty_active(&self, parent: Option<&Digest>) -> Result<LocalActive> {
        let claim = self.0.folders.claim()?;
        let (folder, inner) = (claim.folder.clone(), Arc::clone(&self.0));
        let rootfs = RootFs::Folder { path: folder.join("fs"), writable: true };
        inner.active.fetch_add(1, Ordering::Relaxed);
        Ok(LocalActive { claim: Some(claim), folder, rootfs, parent: parent.cloned(), inner })
    }

    /// A tree on a parent that can be written to; `for_step` when its difference will be asked for.
    async fn new_active(&self, parent: Option<&Digest>, for_step: bool) -> Result<LocalActive> {
        if let Some(parent) = parent {
            self.0.folders.touch(parent);
        }
        let view = self.rootfs(parent).await?;
        let mut active = self.empty_active(parent)?;
        let files = active.folder.join("fs");
        match view {
            RootFs::Overlay { lowers, .. } => {
                let work = active.folder.join("work");
                active.rootfs = RootFs::Overlay { lowers, upper: Some((files, work)) };
            }
            RootFs::Folder { .. } if parent.is_none() => {}
            RootFs::Folder { ref path, .. } => {
                // Owners that cannot be set are recorded next to the tree.
                let record = |files: &Path| files.parent().map(|folder| folder.join("owners.json"));
                if let (Some(from), Some(to)) = (record(path), record(&files))
                    && from.exists()
                {
                    std::fs::copy(&from, &to).map_err(|e| Error::io("cannot copy a record", to, e))?;
                }
                self.0.sandbox.call(Request::CopyTree { from: view, to: files, for_step }).await?;
            }
        }
        Ok(active)
    }

    async fn commit_active(
        &self,
        mut active: LocalActive,
        chain: &Digest,
        layer: Option<Digest>,
    ) -> Result<()> {
        let Some(claim) = active.claim.take() else {
            return Err(Error::internal("a snapshot was committed twice"));
        };
        if let Some(spare) = self.0.folders.commit(claim, active.parent.as_ref(), chain, layer)? {
            return self.0.remove_content(vec![spare]).await;
        }
        // The work folder is needed only while the overlay is mounted.
        if let Some(work) = self.0.folders.set_work_aside(chain)? {
            self.0.remove_later(Garbage::Removed(work));
        }
        Ok(())
    }

    /// An active snapshot of this snapshotter.
    fn mine<'a>(&self, active: &'a dyn Active) -> Result<&'a LocalActive> {
        active
            .as_any()
            .downcast_ref::<LocalActive>()
            .filter(|active| active.inner.folders.root == self.0.folders.root)
            .ok_or_else(foreign)
    }

    /// The same, by value.
    fn take(&self, active: Box<dyn Active>) -> Result<LocalActive> {
        self.mine(&*active)?;
        active.into_any().downcast::<LocalActive>().map(|active| *active).map_err(|_| foreign())
    }

    fn gate(&self, chain: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = gates.get(chain).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::default();
        gates.insert(chain.clone(), Arc::downgrade(&gate));
        gate
    }
}

fn foreign() -> Error {
    Error::invalid("the snapshot belongs to another snapshotter")
}

/// Why an overlay cannot be mounted on the file system of `root`; `None` when it can.
async fn refuses_overlays(root: &Path, sandbox: &Sandbox) -> Result<Option<String>> {
    if let Some(reason) = sandbox.overlay_reason() {
        return Ok(Some(reason.to_owned()));
    }
    private_folder::open(root)?;
    let made = private_folder::temporary("probe-", Some(root))?;
    let probe = made.path().to_owned();
    let folder = |name: &str| probe.join(name);
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir_all(folder(name))
            .map_err(|e| Error::io("cannot make a folder", folder(name), e))?;
    }
    let rootfs =
        RootFs::Overlay { lowers: vec![folder("lower")], upper: Some((folder("upper"), folder("work"))) };
    let result = sandbox.call(Request::ReadFile { rootfs, path: "none".to_owned(), limit: 0 }).await;
    sandbox.errand(&Errand::Remove { paths: vec![probe] }).await?;
    Ok(result.err().map(|e| {
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("the file system of {} cannot hold overlays{cause}", root.display())
    }))
}

/// A snapshot that can be written to.
struct LocalActive {
    claim: Option<Claim>,
    folder: PathBuf,
    rootfs: RootFs,
    parent: Option<Digest>,
    inner: Arc<Inner>,
}

impl Active for LocalActive {
    fn rootfs(&self) -> &RootFs {
        &self.rootfs
    }

    fn parent(&self) -> Option<&Digest> {
        self.parent.as_ref()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

impl fmt::Debug for LocalActive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalActive").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Drop for LocalActive {
    fn drop(&mut self) {
        self.inner.active.fetch_sub(1, Ordering::Relaxed);
        // The next start removes what cannot be removed now.
        if let Some(claim) = self.claim.take() {
            let _ = self.inner.give_up(claim);
        }
    }
}

#[async_trait]
impl Snapshotter for LocalSnapshotter {
    fn capabilities(&self) -> SnapshotCapabilities {
        match self.0.kind.style {
            // Layers are joined when there are more than can be mounted.
            Style::Overlay => SnapshotCapabilities::new(usize::MAX).with_shared_layers(),
            Style::Copy => SnapshotCapabilities::new(usize::MAX),
        }
    }

    fn can_own(&self, uid: u32, gid: u32) -> bool {
        self.0.sandbox.can_own(uid, gid)
    }

    async fn has(&self, chain: &Digest) -> Result<bool> {
        self.0.folders.is_whole(chain)
    }

    async fn apply(
        &self,
        parent: Option<&Digest>,
        chain: &Digest,
        options: UnpackOptions,
        layer: Box<dyn Read + Send>,
    ) -> Result<()> {
        let gate = self.gate(chain);
        let _turn = gate.lock().await;
        if self.has(chain).await? {
            return Ok(());
        }
        // A parent that does not exist is an error before anything is read.
        self.0.folders.pieces(parent)?;
        self.unpack(parent, chain, options, layer, std::future::ready(Ok(()))).await
    }

    async fn apply_all(&self, layers: Vec<LayerToUnpack<'_>>) -> Result<()> {
        match self.0.kind.style {
            Style::Overlay => self.unpack_all(layers).await,
            // Each layer needs the tree below it.
            Style::Copy => super::apply_in_order(self, layers).await,
        }
    }

    async fn share(&self, parent: Option<&Digest>, chain: &Digest, layer: &Digest) -> Result<bool> {
        let gate = self.gate(chain);
        let _turn = gate.lock().await;
        if self.has(chain).await? {
            return Ok(true);
        }
        self.0.folders.share(parent, chain, layer)
    }

    async fn prepare(&self, parent: Option<&Digest>) -> Result<Box<dyn Active>> {
        let active = self.new_active(parent, true).await?;
        // Unpacking sets the root by itself, and a copy has the root of its original.
        if let RootFs::Overlay { lowers, upper: Some((upper, _)) } = &active.rootfs
            && let Some(lower) = lowers.first()
        {
            let (lower, upper) = (lower.clone(), upper.clone());
            self.0.sandbox.errand(&Errand::InheritRoot { lower, upper }).await?;
        }
        Ok(Box::new(active))
    }

    async fn view(&self, chain: Option<&Digest>) -> Result<RootFs> {
        if let Some(chain) = chain {
            self.0.folders.touch(chain);
        }
        self.rootfs(chain).await
    }

    async fn diff(&self, active: &dyn Active) -> Result<TarStream> {
        let folder = &self.mine(active)?.folder;
        let (lowers, plain) = match active.rootfs() {
            RootFs::Overlay { lowers, .. } => (lowers.clone(), false),
            RootFs::Folder { .. } => {
                let parent = self.lowers(active.parent()).await?.into_iter().next();
                // Without a parent the tree is compared with an empty folder.
                (vec![parent.unwrap_or_else(|| folder.join("work"))], true)
            }
        };
        let request = Request::Diff { upper: folder.join("fs"), lowers, plain };
        self.0.sandbox.stream(&request)
    }

    async fn commit(&self, active: Box<dyn Active>, chain: &Digest) -> Result<()> {
        self.commit_active(self.take(active)?, chain, None).await
    }

    async fn abandon(&self, active: Box<dyn Active>) -> Result<()> {
        let mut active = self.take(active)?;
        if let Some(claim) = active.claim.take() {
            // The thread goes on when this future is dropped.
            self.0.give_up(claim)?;
            self.0.garbage_is_gone(ABANDON_WAIT).await;
        }
        Ok(())
    }

    async fn pack(&self, chain: &Digest, index: &Path) -> Result<TarStream> {
        // Its own folder has the files of its topmost layer, and those of all layers when snapshots are copies.
        let record = self.0.folders.record(chain)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "a snapshot does not exist").with_context("chain", chain)
        })?;
        let files = self.0.folders.files(record.id);
        self.0.sandbox.stream(&Request::Pack { files, index: index.to_owned() })
    }

    async fn copy(&self, sources: Vec<RootFs>, plan: CopyRequest) -> Result<TarStream> {
        let is_context = |source: &RootFs| match source {
            RootFs::Overlay { .. } => false,
            RootFs::Folder { path, .. } => !path.starts_with(&self.0.folders.root),
        };
        let sources = sources.into_iter().map(|source| (source.clone(), is_context(&source))).collect();
        self.0.sandbox.stream(&Request::Copy { sources, plan })
    }

    async fn export(&self, chain: Option<&Digest>, path: &str, options: ExportOptions) -> Result<TarStream> {
        let (rootfs, path) = (self.rootfs(chain).await?, path.to_owned());
        let ExportOptions { published, owners } = options;
        self.0.sandbox.stream(&Request::Export { rootfs, path, published, owners })
    }

    async fn read_file(&self, chain: Option<&Digest>, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let rootfs = self.rootfs(chain).await?;
        let request = Request::ReadFile { rootfs, path: path.to_owned(), limit };
        match self.0.sandbox.call(request).await? {
            Reply::File(bytes) => Ok(bytes),
            _ => Err(Error::internal("the sandbox helper sent a reply of the wrong kind")),
        }
    }

    async fn remove(&self, chains: &[Digest]) -> Result<Vec<Digest>> {
        let (removed, folders) = self.take_away(chains).await?;
        self.discard(folders).await?;
        Ok(removed)
    }

    async fn take_away(&self, chains: &[Digest]) -> Result<(Vec<Digest>, Vec<PathBuf>)> {
        if self.0.active.load(Ordering::Relaxed) > 0 {
            return Err(Error::new(
                ErrorKind::Conflict,
                "snapshots are in use: try again after the build has ended",
            ));
        }
        let folders = &self.0.folders;
        let (removed, set_aside) = folders.exclusively(|| {
            // A listing of this process takes folders without a record for those of dead processes.
            let _held = folders.hold_numbers()?;
            let (mut removed, mut set_aside) = (Vec::new(), Vec::new());
            for step in removal::plan(folders.list()?, chains) {
                set_aside.extend(folders.retire_joins(&step.chain)?);
                folders.forget(&step.chain)?;
                if let Some(folder) = step.folder {
                    set_aside.push(folders.retire(folder)?);
                }
                removed.push(step.chain);
            }
            Ok((removed, set_aside))
        })?;
        Ok((removed, set_aside.into_iter().map(|removed| removed.path).collect()))
    }

    async fn discard(&self, paths: Vec<PathBuf>) -> Result<()> {
        if !paths.is_empty() {
            self.0.sandbox.errand(&Errand::Remove { paths }).await?;
        }
        // Who frees space wants it free.
        while self.0.garbage().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn usage(&self, root: PathBuf, parts: Vec<PathBuf>) -> Result<(u64, Vec<u64>)> {
        match self.0.sandbox.errand(&Errand::Usage { root, parts }).await? {
            Reply::Usage { total, parts } => Ok((total, parts)),
            _ => Err(Error::internal("the sandbox helper sent a reply of the wrong kind")),
        }
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let folders = &self.0.folders;
        // Who frees space frees also what processes left that died since the last start.
        let (listing, leftovers) = folders.look_again()?;
        for leftover in leftovers {
            self.0.remove_later(Garbage::Removed(leftover));
        }
        Ok(listing
            .records
            .into_iter()
            .map(|(chain, record)| SnapshotInfo {
                used: folders.used(&chain),
                folder: folders.files(record.id),
                parent: record.parent,
                chain,
            })
            .collect())
    }
}

impl fmt::Display for LocalSnapshotter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} snapshots in {}", self.0.kind.style.name(), self.0.folders.root.display())
    }
}

impl fmt::Debug for LocalSnapshotter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSnapshotter")
            .field("style", &self.0.kind.style)
            .field("root", &self.0.folders.root)
            .finish_non_exhaustive()
    }
}
