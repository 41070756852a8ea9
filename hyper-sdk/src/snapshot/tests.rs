//! Runs the suite on the snapshotter that needs no sandbox, and on snapshotters with injected faults that it must find.

use super::conformance as cases;
use super::*;
use crate::layer::{EntryKind, LayerPath, LayerReader, LayerWriter};
use crate::testing::{PlainSnapshotter, assert_suite_finds, is_caught};
use crate::{Error, ErrorKind};
use std::io::Cursor;
use std::sync::Mutex;

mod plain {
    use super::*;

    async fn fixture() -> Option<(SharedSnapshotter, PlainSnapshotter)> {
        let snapshots = PlainSnapshotter::new().unwrap();
        Some((Arc::new(snapshots.clone()), snapshots))
    }

    async fn reopen(snapshots: &PlainSnapshotter) -> SharedSnapshotter {
        Arc::new(snapshots.clone())
    }
    crate::snapshotter_conformance!(fixture, reopen);
}

/// A fault to inject.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    KnowsEveryChain,
    ForgetsCommits,
    IgnoresTheParent,
    IgnoresAMissingParent,
    KeepsWhiteouts,
    UnpacksTwice,
    UnpacksTheFirstOnly,
    SkipsWhatFails,
    StopsAtTheArchive,
    KeepsWhatFailed,
    IgnoresTimes,
    ClaimsToShare,
    SharesWhatIsNotThere,
    HasNoDifference,
    DiffersAsAWhole,
    CommitsOverAnother,
    AbandonsNothing,
    CommitsWhatItDrops,
    TakesForeignTrees,
    WritesToTheParent,
    HandsOutWritableViews,
    ReadsOfTheHost,
    ReadsFoldersAsEmpty,
    IgnoresTheLimit,
    CutsAtTheLimit,
    ExportsTheTopLayer,
    ExportsTheWhole,
    ExportsNothingForTheMissing,
    ForgetsParents,
    RemovesParents,
    RemovesNothing,
    FailsOnTheUnknown,
    RemovesWhatIsInUse,
    CopiesNothing,
    CopiesFromOneSource,
    CopiesTheTopLayer,
    CopiesOfTheHost,
    SkipsWhatIsMissing,
    ForgetsTheDestination,
    PacksTheWhole,
    PacksWhatWasChanged,
    HasNoName,
}

#[derive(Debug)]
struct Faulty {
    fault: Fault,
    inner: PlainSnapshotter,
    /// The topmost layer of each chain, as it was applied.
    layers: Mutex<std::collections::HashMap<Digest, Vec<u8>>>,
    parents: Mutex<std::collections::HashMap<Digest, Option<Digest>>>,
}

impl Faulty {
    fn with(fault: Fault) -> SharedSnapshotter {
        Arc::new(Self {
            fault,
            inner: PlainSnapshotter::new().unwrap(),
            layers: Mutex::default(),
            parents: Mutex::default(),
        })
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    async fn folder(&self, chain: &Digest) -> PathBuf {
        match self.inner.view(Some(chain)).await.unwrap() {
            RootFs::Folder { path, .. } => path,
            other => panic!("{other:?}"),
        }
    }
}

impl Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is(Fault::HasNoName) { "" } else { "faulty snapshotter" })
    }
}

/// A layer without its whiteouts.
fn without_whiteouts(tar: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = (LayerReader::new(tar), LayerWriter::new(Vec::new(), None));
    while let Some(entry) = reader.next_entry().unwrap() {
        if !entry.kind.is_whiteout() {
            writer.append(&entry, Some(&mut reader)).unwrap();
        }
    }
    writer.finish().unwrap().0
}

/// The parts of a layer that can be read.
fn what_can_be_read(tar: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = (LayerReader::new(tar), LayerWriter::new(Vec::new(), None));
    while let Ok(Some(entry)) = reader.next_entry() {
        let mut bytes = Vec::new();
        if reader.read_to_end(&mut bytes).is_ok()
            && (bytes.len() as u64 == size(&entry.kind))
            && writer.append(&entry, Some(&mut &bytes[..])).is_err()
        {
            break;
        }
    }
    writer.finish().unwrap().0
}

fn size(kind: &EntryKind) -> u64 {
    match kind {
        EntryKind::File { size, .. } => *size,
        _ => 0,
    }
}

fn is_whole(tar: &[u8]) -> bool {
    let mut reader = LayerReader::new(tar);
    loop {
        match reader.next_entry() {
            Ok(None) => return true,
            Ok(Some(_)) => {}
            Err(_) => return false,
        }
    }
}

/// The folder that a step writes to.
fn folder_of(active: &dyn Active) -> PathBuf {
    match active.rootfs() {
        RootFs::Folder { path, .. } => path.clone(),
        other => panic!("{other:?}"),
    }
}

/// Reads all that comes before an error.
fn drain(mut from: impl Read) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let whole = from.read_to_end(&mut bytes).is_ok();
    (bytes, whole)
}

#[async_trait]
impl Snapshotter for Faulty {
    fn capabilities(&self) -> SnapshotCapabilities {
        let shares_layers = self.is(Fault::ClaimsToShare);
        SnapshotCapabilities { shares_layers, ..self.inner.capabilities() }
    }

    async fn has(&self, chain: &Digest) -> Result<bool> {
        match self.fault {
            Fault::KnowsEveryChain => Ok(true),
            Fault::ForgetsCommits => Ok(false),
            _ => self.inner.has(chain).await,
        }
    }

    async fn apply_all(&self, mut layers: Vec<LayerToUnpack<'_>>) -> Result<()> {
        if self.is(Fault::UnpacksTheFirstOnly) {
            layers.truncate(1);
        }
        let mut below = None;
        for LayerToUnpack { parent, chain, options, open, ended } in layers {
            let parent = if self.is(Fault::SkipsWhatFails) { below.clone() } else { parent };
            let result = self.apply(parent.as_ref(), &chain, options, open.await?).await;
            ended(&result);
            match result {
                Err(_) if self.is(Fault::SkipsWhatFails) => {}
                result => {
                    result?;
                    below = Some(chain);
                }
            }
        }
        Ok(())
    }

    async fn apply(
        &self,
        parent: Option<&Digest>,
        chain: &Digest,
        mut options: UnpackOptions,
        mut layer: Box<dyn Read + Send>,
    ) -> Result<()> {
        self.parents.lock().unwrap().insert(chain.clone(), parent.cloned());
        match self.fault {
            Fault::IgnoresTheParent => return self.inner.apply(None, chain, options, layer).await,
            Fault::IgnoresAMissingParent => {
                let parent = match parent {
                    Some(parent) if !self.inner.has(parent).await? => None,
                    other => other,
                };
                return self.inner.apply(parent, chain, options, layer).await;
            }
            Fault::KeepsWhiteouts => {
                let (tar, _) = drain(layer);
                layer = Box::new(Cursor::new(without_whiteouts(&tar)));
            }
            Fault::UnpacksTwice => {
                let (tar, _) = tokio::task::spawn_blocking(|| drain(layer)).await.unwrap();
                if self.inner.has(chain).await? {
                    self.inner.remove(std::slice::from_ref(chain)).await?;
                }
                layer = Box::new(Cursor::new(tar));
            }
            Fault::StopsAtTheArchive => {
                let mut tar = vec![0; 2048];
                let n = layer.read(&mut tar)?;
                let rest = std::mem::replace(&mut layer, Box::new(std::io::empty()));
                tar.truncate(n);
                layer = Box::new(Cursor::new(tar).chain(rest.take(4096)));
            }
            Fault::KeepsWhatFailed => {
                let (tar, whole) = tokio::task::spawn_blocking(|| drain(layer)).await.unwrap();
                layer =
                    Box::new(Cursor::new(if whole && is_whole(&tar) { tar } else { what_can_be_read(&tar) }));
            }
            Fault::IgnoresTimes => options.times = None,
            Fault::ExportsTheTopLayer | Fault::CopiesTheTopLayer => {
                let (tar, _) = drain(layer);
                self.layers.lock().unwrap().insert(chain.clone(), tar.clone());
                layer = Box::new(Cursor::new(tar));
            }
            _ => {}
        }
        self.inner.apply(parent, chain, options, layer).await
    }

    async fn share(&self, parent: Option<&Digest>, chain: &Digest, layer: &Digest) -> Result<bool> {
        match self.fault {
            Fault::SharesWhatIsNotThere => Ok(true),
            _ => self.inner.share(parent, chain, layer).await,
        }
    }

    async fn prepare(&self, parent: Option<&Digest>) -> Result<Box<dyn Active>> {
        let active = self.inner.prepare(parent).await?;
        if let (Fault::WritesToTheParent, Some(parent)) = (self.fault, parent) {
            std::fs::write(self.folder(parent).await.join("d/f"), "by a child").ok();
        }
        Ok(active)
    }

    async fn view(&self, chain: Option<&Digest>) -> Result<RootFs> {
        match self.inner.view(chain).await? {
            RootFs::Folder { path, .. } if self.is(Fault::HandsOutWritableViews) => {
                Ok(RootFs::Folder { path, writable: true })
            }
            view => Ok(view),
        }
    }

    async fn diff(&self, active: &dyn Active) -> Result<TarStream> {
        match self.fault {
            Fault::HasNoDifference => Ok(Box::new(Cursor::new(vec![0; 1024]))),
            Fault::DiffersAsAWhole => {
                let mut writer = LayerWriter::exact(Vec::new());
                let empty = tempfile::tempdir()?;
                crate::layer::diff_trees(empty.path(), &folder_of(active), &mut writer, &Default::default())?;
                Ok(Box::new(Cursor::new(writer.finish()?.0)))
            }
            Fault::TakesForeignTrees => Ok(Box::new(Cursor::new(vec![0; 1024]))),
            _ => self.inner.diff(active).await,
        }
    }

    async fn commit(&self, active: Box<dyn Active>, chain: &Digest) -> Result<()> {
        match self.fault {
            Fault::ForgetsCommits => self.inner.abandon(active).await,
            Fault::CommitsOverAnother => {
                if self.inner.has(chain).await? {
                    let path = folder_of(&*active).join("f");
                    std::fs::copy(path, self.folder(chain).await.join("f"))?;
                    return self.inner.abandon(active).await;
                }
                self.inner.commit(active, chain).await
            }
            _ => self.inner.commit(active, chain).await,
        }
    }

    async fn abandon(&self, active: Box<dyn Active>) -> Result<()> {
        match self.fault {
            Fault::AbandonsNothing => {
                std::mem::forget(active);
                Ok(())
            }
            Fault::CommitsWhatItDrops => self.inner.commit(active, &Digest::sha256("abandoned")).await,
            Fault::TakesForeignTrees => Ok(()),
            _ => self.inner.abandon(active).await,
        }
    }

    async fn pack(&self, chain: &Digest, index: &Path) -> Result<TarStream> {
        match self.fault {
            Fault::PacksTheWhole => self.inner.export(Some(chain), "/", ExportOptions::default()).await,
            Fault::PacksWhatWasChanged => {
                let packed = self.inner.pack(chain, index).await;
                Ok(packed.unwrap_or_else(|_| Box::new(Cursor::new(vec![0; 1024]))))
            }
            _ => self.inner.pack(chain, index).await,
        }
    }

    async fn copy(&self, mut sources: Vec<RootFs>, mut plan: CopyRequest) -> Result<TarStream> {
        match self.fault {
            Fault::CopiesNothing => plan.steps.clear(),
            Fault::CopiesFromOneSource => {
                let first = sources.first().cloned();
                sources.iter_mut().for_each(|source| source.clone_from(first.as_ref().unwrap()));
            }
            Fault::CopiesOfTheHost => sources = vec![RootFs::Folder { path: "/".into(), writable: false }],
            Fault::ForgetsTheDestination => plan.destination.clear(),
            Fault::CopiesTheTopLayer => {
                let top = self.layers.lock().unwrap().get(&Digest::sha256("b")).cloned();
                if let (Some(top), Some(RootFs::Folder { path, .. })) = (top, sources.first()) {
                    let mut reader = LayerReader::new(&top[..]);
                    let mut kept = std::collections::HashSet::new();
                    while let Some(entry) = reader.next_entry()? {
                        kept.insert(path.join(entry.path.as_path()));
                    }
                    for entry in std::fs::read_dir(path.join("d")).into_iter().flatten().flatten() {
                        if !kept.contains(&entry.path()) {
                            std::fs::remove_file(entry.path()).unwrap();
                        }
                    }
                }
            }
            _ => {}
        }
        match self.inner.copy(sources, plan).await {
            Err(_) if self.is(Fault::SkipsWhatIsMissing) => Ok(Box::new(Cursor::new(vec![0; 1024]))),
            copied => copied,
        }
    }

    async fn export(&self, chain: Option<&Digest>, path: &str, options: ExportOptions) -> Result<TarStream> {
        match (self.fault, chain) {
            (Fault::ExportsTheTopLayer, Some(chain)) => {
                let tar = self.layers.lock().unwrap().get(chain).cloned();
                Ok(Box::new(Cursor::new(tar.unwrap_or_else(|| vec![0; 1024]))))
            }
            (Fault::ExportsTheWhole, _) => self.inner.export(chain, "/", options).await,
            (Fault::ExportsNothingForTheMissing, _) => {
                let exported = self.inner.export(chain, path, options).await;
                Ok(exported.unwrap_or_else(|_| Box::new(Cursor::new(vec![0; 1024]))))
            }
            _ => self.inner.export(chain, path, options).await,
        }
    }

    async fn read_file(&self, chain: Option<&Digest>, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let read = self.inner.read_file(chain, path, limit).await;
        match (self.fault, read, chain) {
            (Fault::ReadsOfTheHost, _, Some(chain)) => {
                let below = LayerPath::from_archive(path.as_bytes()).unwrap_or_else(|_| LayerPath::root());
                Ok(std::fs::read(self.folder(chain).await.join(below.as_path())).ok())
            }
            (Fault::ReadsFoldersAsEmpty, Ok(None), Some(chain)) => {
                let is_folder = self.folder(chain).await.join(path.trim_start_matches('/')).is_dir();
                Ok(is_folder.then(Vec::new))
            }
            (Fault::IgnoresTheLimit, Err(_), _) => self.inner.read_file(chain, path, u64::MAX).await,
            (Fault::CutsAtTheLimit, Err(_), _) => {
                let bytes = self.inner.read_file(chain, path, 1 << 30).await?;
                Ok(bytes.map(|mut bytes| {
                    bytes.truncate(limit as usize);
                    bytes
                }))
            }
            (_, read, _) => read,
        }
    }

    async fn remove(&self, chains: &[Digest]) -> Result<Vec<Digest>> {
        match self.fault {
            Fault::RemovesNothing => Ok(chains.to_vec()),
            Fault::FailsOnTheUnknown => {
                for chain in chains {
                    if !self.inner.has(chain).await? {
                        return Err(Error::new(ErrorKind::NotFound, "a snapshot does not exist"));
                    }
                }
                self.inner.remove(chains).await
            }
            Fault::RemovesParents => {
                for chain in chains.iter().filter(|chain| self.parents.lock().unwrap().contains_key(*chain)) {
                    std::fs::remove_dir_all(self.folder(chain).await)?;
                }
                Ok(chains.to_vec())
            }
            Fault::RemovesWhatIsInUse => match self.inner.remove(chains).await {
                Err(_) => Ok(chains.to_vec()),
                other => other,
            },
            _ => self.inner.remove(chains).await,
        }
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let mut list = self.inner.list().await?;
        if self.is(Fault::ForgetsParents) {
            list.iter_mut().for_each(|info| info.parent = None);
        }
        Ok(list)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_finds_every_fault() {
    assert_suite_finds! { cases, Faulty::with, Fault;
        KnowsEveryChain by an_unknown_chain_does_not_exist, a_layer_whose_reader_fails_leaves_nothing;
        ForgetsCommits by a_commit_can_be_read, an_unpacked_layer_can_be_read;
        IgnoresTheParent by whiteouts_hide_lower_files, a_random_image_is_unpacked_unchanged;
        IgnoresAMissingParent by a_missing_parent_is_not_found;
        KeepsWhiteouts by whiteouts_hide_lower_files, a_random_image_is_unpacked_unchanged;
        UnpacksTheFirstOnly by several_layers_are_unpacked_on_one_another;
        SkipsWhatFails by nothing_above_a_failed_layer_exists;
        UnpacksTwice by a_layer_is_unpacked_once, equal_calls_unpack_once;
        StopsAtTheArchive by a_layer_is_read_to_its_end;
        KeepsWhatFailed by a_layer_whose_reader_fails_leaves_nothing, a_truncated_layer_leaves_nothing;
        IgnoresTimes by given_times_are_set_on_the_files;
        ClaimsToShare by shared_files_are_visible;
        SharesWhatIsNotThere by sharing_unknown_files_is_declined, shared_files_are_visible;
        HasNoDifference by written_files_are_the_difference, a_difference_unpacks_to_the_committed_tree;
        DiffersAsAWhole by an_unchanged_tree_has_no_difference, written_files_are_the_difference;
        CommitsOverAnother by a_second_commit_keeps_the_first;
        AbandonsNothing by an_abandoned_tree_is_removed;
        CommitsWhatItDrops by an_abandoned_tree_is_removed;
        TakesForeignTrees by a_foreign_tree_is_refused;
        WritesToTheParent by a_commit_leaves_its_parent_alone;
        HandsOutWritableViews by a_view_shows_the_files, a_view_of_nothing_is_empty;
        ReadsOfTheHost by a_file_is_read_within_its_tree;
        ReadsFoldersAsEmpty by only_regular_files_are_read;
        IgnoresTheLimit by a_large_file_is_refused;
        CutsAtTheLimit by a_large_file_is_refused;
        ExportsTheTopLayer by an_export_is_the_whole_tree;
        ExportsTheWhole by an_export_of_a_folder_is_below_it, an_export_of_a_missing_path_fails;
        ExportsNothingForTheMissing by an_export_of_a_missing_path_fails;
        ForgetsParents by every_chain_is_listed_with_its_parent;
        RemovesParents by a_parent_is_removed_after_its_children;
        RemovesNothing by a_chain_is_removed;
        FailsOnTheUnknown by removing_an_unknown_chain_is_not_an_error;
        RemovesWhatIsInUse by a_tree_in_use_keeps_its_chain;
        CopiesNothing by a_copy_takes_files_of_trees_and_of_the_host, a_copy_makes_folders_and_files;
        CopiesFromOneSource by a_copy_takes_files_of_trees_and_of_the_host;
        CopiesTheTopLayer by a_copy_sees_the_whole_of_a_tree;
        CopiesOfTheHost by a_copy_follows_links_within_its_tree;
        SkipsWhatIsMissing by a_copy_of_a_missing_path_is_not_found;
        ForgetsTheDestination by the_indexes_of_a_copy_describe_its_destination;
        PacksTheWhole by a_layer_is_packed_as_it_was;
        PacksWhatWasChanged by a_layer_of_other_files_is_not_packed;
        HasNoName by a_snapshotter_has_a_name;
    }
    // A fault of two handles: neither sees the snapshots of the other.
    let two = || (Arc::new(PlainSnapshotter::new().unwrap()), Arc::new(PlainSnapshotter::new().unwrap()));
    let (one, other) = two();
    assert!(is_caught(cases::a_snapshot_exists_after_reopening(one, other)).await);
    let (one, other) = two();
    assert!(is_caught(cases::two_handles_see_the_same_snapshots(one, other)).await);
}
