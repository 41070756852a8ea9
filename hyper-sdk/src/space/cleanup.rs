//! The clean-up: names first, while no work begins; then the bytes that have no name any more.

use super::describe;
use super::images::family_of;
use super::plan::{PruneOptions, Situation, choose};
use super::survey::{Action, Found, base_roots};
use super::{Pruned, Space, SpaceItem, SpaceKind};
use crate::cache::CacheEntry;
use crate::clock::{Clock as _, SystemClock};
use crate::reference::RepositoryName;
use crate::solve::{LAYERS_REPOSITORY, SOURCES_REPOSITORY, blocking};
use crate::store::{
    CollectOptions, Collected, LINK_LEASE, RegistryStore, RegistryStoreExt as _, Roots, SharedStore,
    is_internal,
};
use crate::uses::{Cleaning, Closed, take_away};
use crate::{Digest, ErrorKind, Result, ResultExt as _, private_folder};
use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Manifests of repositories.
pub(crate) type Manifests = HashSet<(RepositoryName, Digest)>;

/// What keeps content during a clean-up.
#[derive(Debug)]
struct Kept {
    /// Whether the repositories of the builder are cleaned up, or those of images.
    internal: bool,
    /// The manifests that go.
    doomed: Arc<Manifests>,
    /// The blobs that records of the cache name.
    named: Arc<HashSet<Digest>>,
    /// Whether only the layers of steps go.
    layers_alone: bool,
}

fn is_of_records(repository: &RepositoryName) -> bool {
    [LAYERS_REPOSITORY, SOURCES_REPOSITORY].contains(&repository.as_str())
}

impl Roots for Kept {
    fn keeps_manifest(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        is_internal(repository) != self.internal
            || !self.doomed.contains(&(repository.clone(), digest.clone()))
    }

    fn keeps_blob(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        if is_internal(repository) != self.internal {
            return true;
        }
        match is_of_records(repository) {
            true => self.named.contains(digest),
            false => self.layers_alone,
        }
    }
}

/// Everything stays that has a name.
#[derive(Debug)]
struct AllNames;

impl Roots for AllNames {
    fn keeps_manifest(&self, _: &RepositoryName, _: &Digest) -> bool {
        true
    }

    fn keeps_blob(&self, _: &RepositoryName, _: &Digest) -> bool {
        true
    }
}

/// Removes the bytes of blobs without a name.
async fn collect_bytes(store: &dyn RegistryStore, unnamed: bool) -> Result<Collected> {
    collect(store, CollectOptions { unnamed, roots: Arc::new(AllNames), ..CollectOptions::default() }).await
}

/// A store without a collector has nothing to remove.
async fn collect(store: &dyn RegistryStore, options: CollectOptions) -> Result<Collected> {
    match store.collect(options).await {
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Collected::default()),
        other => other,
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64)
}

/// Removes names from the store, while the gate is closed: doomed manifests, and the links that nothing keeps.
async fn collect_names(
    store: &dyn RegistryStore,
    closed: &Closed,
    doomed: &Arc<Manifests>,
    named: Option<&Arc<HashSet<Digest>>>,
) -> Result<()> {
    let options = |internal: bool, named: &Arc<HashSet<Digest>>| {
        let kept = Kept {
            internal,
            doomed: Arc::clone(doomed),
            named: Arc::clone(named),
            layers_alone: closed.oldest.is_some(),
        };
        CollectOptions { roots: Arc::new(kept), bytes: false, ..CollectOptions::default() }
    };
    if let Some(named) = named {
        // A link that was pushed before the oldest work began has no user but its record. The lease says when that was.
        let (untagged_until, leases_until) = match closed.oldest {
            None => (Some(i64::MAX), i64::MAX),
            Some(oldest) => (None, seconds(oldest).saturating_add(LINK_LEASE)),
        };
        let leases_until = Some(leases_until);
        collect(store, CollectOptions { untagged_until, leases_until, ..options(true, named) }).await?;
    }
    if closed.oldest.is_some() {
        return Ok(());
    }
    let (untagged_until, leases_until) = match closed.has_server {
        false => (Some(i64::MAX), Some(i64::MAX)),
        // A client of the server may be about to name what it was told of.
        true => (Some(SystemClock.now() - LINK_LEASE), None),
    };
    let none = Arc::default();
    collect(store, CollectOptions { untagged_until, leases_until, ..options(false, &none) }).await.map(drop)
}

impl Space {
    /// Removes what the options say.
    pub(crate) async fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        let root = self.root.clone();
        let Some(cleaning) = blocking(move || Cleaning::begin_blocking(&root, true)).await? else {
            return Ok(Pruned::default());
        };
        self.prune_alone(options, &cleaning).await.map(|(pruned, _)| pruned)
    }

    /// The same, for the caller who has the right to. The second value is what the cache takes now.
    pub(super) async fn prune_alone(&self, options: &PruneOptions, _: &Cleaning) -> Result<(Pruned, u64)> {
        let survey = self.survey().await?;
        let cache: u64 = survey.found.iter().filter(|of| of.item.prunable).map(|of| of.item.size).sum();
        let closed = self.close().await?;
        let (_, free) = super::disk::disk(&self.root)?;
        let at = Situation { oldest: closed.oldest, now: SystemClock.now(), free };
        let (chosen, in_use) = choose(survey.found, options, at);
        if options.dry_run {
            let removed: Vec<SpaceItem> = chosen.into_iter().map(|of| of.item).collect();
            let freed = removed.iter().map(|item| item.size).sum();
            return Ok((Pruned { removed, freed, in_use }, cache));
        }
        let mut pruned = Pruned { in_use, ..Pruned::default() };
        let aside = self.remove_names(chosen, &closed, &mut pruned).await?;
        drop(closed);
        let collected = collect_bytes(&*self.store, true).await?;
        self.snapshotter.discard(aside).await?;
        let is_blob = |kind| matches!(kind, SpaceKind::Layer | SpaceKind::Base | SpaceKind::Untagged);
        let others =
            pruned.removed.iter().filter(|item| !is_blob(item.kind)).map(|item| item.size).sum::<u64>();
        pruned.freed = others + collected.bytes;
        let left = cache.saturating_sub(pruned.removed.iter().map(|item| item.size).sum());
        Ok((pruned, left))
    }

    async fn close(&self) -> Result<Closed> {
        let root = self.root.clone();
        blocking(move || Closed::close_blocking(&root)).await
    }

    /// Removes the names of items. Returns the folders to remove.
    async fn remove_names(
        &self,
        chosen: Vec<Found>,
        closed: &Closed,
        pruned: &mut Pruned,
    ) -> Result<Vec<PathBuf>> {
        let (mut doomed, mut aside) = (Manifests::new(), Aside::new(&self.root));
        let (mut snapshots, mut with_blobs) = (Vec::new(), Vec::new());
        let bases = self.bases().await?;
        for of in chosen {
            let goes = match &of.action {
                Action::Keep => false,
                Action::Records(keys) => {
                    let mut all = true;
                    for key in keys {
                        all &= self.cache.remove_unused(key, closed.oldest).await?;
                    }
                    all
                }
                Action::Paths(paths) => {
                    let mut first = false;
                    for (at, path) in paths.iter().enumerate() {
                        // The others belong to the first.
                        let gone = (at == 0 || first)
                            && aside.take(path, |used| at > 0 || closed.is_unused(used))?;
                        first |= at == 0 && gone;
                    }
                    first
                }
                Action::Base(record) => {
                    let goes = aside.take(record, |used| closed.is_unused(used))?;
                    let base = bases.iter().find(|base| base.record == *record).filter(|_| goes);
                    doomed.extend(base.into_iter().flat_map(|base| {
                        base.parts.manifests.iter().map(|digest| (base.repository.clone(), digest.clone()))
                    }));
                    goes
                }
                Action::Manifest(repository, digest) => {
                    with_blobs.push((repository.clone(), digest.clone()));
                    true
                }
                Action::Snapshot(chain) => {
                    snapshots.push((chain.clone(), of.item));
                    continue;
                }
            };
            if goes {
                pruned.removed.push(of.item);
            }
        }
        for (repository, digest) in with_blobs {
            let family = family_of(&*self.store, &repository, &digest).await?;
            doomed.extend(family.into_iter().map(|digest| (repository.clone(), digest)));
        }
        let kept = base_roots(&self.bases().await?);
        doomed.retain(|manifest| !kept.0.contains(manifest));
        let lost = self.remove_snapshots(snapshots, pruned).await?;
        let records = self.forget_lost(self.records().await?, &lost).await?;
        let named: HashSet<Digest> = records
            .iter()
            .filter(|entry| is_of_records(&entry.record.repository))
            .filter_map(|entry| describe::blob_of(&entry.record).map(|blob| blob.digest.clone()))
            .collect();
        collect_names(&*self.store, closed, &Arc::new(doomed), Some(&Arc::new(named))).await?;
        if closed.oldest.is_none() {
            self.forget_notes(records).await?;
        }
        Ok(aside.folder.into_iter().collect())
    }

    /// Removes snapshots, and returns those that are gone. Those that another process may use stay.
    async fn remove_snapshots(
        &self,
        snapshots: Vec<(Digest, SpaceItem)>,
        pruned: &mut Pruned,
    ) -> Result<HashSet<Digest>> {
        if snapshots.is_empty() {
            return Ok(HashSet::new());
        }
        let chains: Vec<Digest> = snapshots.iter().map(|(chain, _)| chain.clone()).collect();
        let gone: HashSet<Digest> = match self.snapshotter.remove(&chains).await {
            Err(e) if e.kind() == ErrorKind::Conflict => HashSet::new(),
            other => other?.into_iter().collect(),
        };
        for (chain, item) in snapshots {
            match gone.contains(&chain) {
                true => pruned.removed.push(item),
                false => pruned.in_use += 1,
            }
        }
        Ok(gone)
    }

    /// Removes the records whose files were in these snapshots alone. Returns the others.
    async fn forget_lost(&self, records: Vec<CacheEntry>, lost: &HashSet<Digest>) -> Result<Vec<CacheEntry>> {
        let mut left = Vec::with_capacity(records.len());
        for entry in records {
            match describe::lives_in(&entry.record).is_some_and(|snapshot| lost.contains(snapshot)) {
                true => self.cache.remove(&entry.key).await?,
                false => left.push(entry),
            }
        }
        Ok(left)
    }

    /// Removes the notes of layers of images that are gone: a later build would take them for lost.
    async fn forget_notes(&self, records: Vec<CacheEntry>) -> Result<()> {
        for entry in records.iter().filter(|entry| !is_of_records(&entry.record.repository)) {
            if let Some(blob) = describe::blob_of(&entry.record)
                && !self.store.has_blob(&entry.record.repository, &blob.digest).await?
            {
                self.cache.remove(&entry.key).await?;
            }
        }
        Ok(())
    }
}

/// A folder that files and folders are moved to before they are removed.
struct Aside<'a> {
    root: &'a Path,
    folder: Option<PathBuf>,
    moved: u64,
}

impl<'a> Aside<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root, folder: None, moved: 0 }
    }

    /// Moves something that is unused. Returns whether it did.
    fn take(&mut self, path: &Path, is_unused: impl Fn(SystemTime) -> bool) -> Result<bool> {
        let folder = match &self.folder {
            Some(folder) => folder,
            None => {
                let scratch = self.root.join("scratch");
                std::fs::create_dir_all(&scratch).at("cannot make the folder", &scratch)?;
                let made = private_folder::temporary("removed-", Some(&scratch))?.keep();
                self.folder.insert(made)
            }
        };
        let aside = folder.join(self.moved.to_string());
        self.moved += 1;
        take_away(path, &aside, is_unused).at("cannot remove", path)
    }
}

/// The file with the manifests that were removed by name while they could be in use.
fn released_path(root: &Path) -> PathBuf {
    root.join("uses/released")
}

/// Gives back the space of manifests whose names were removed: now, or when nothing runs any more that may use them.
pub(crate) async fn release(root: &Path, store: &SharedStore, manifests: Manifests) -> Result<()> {
    let path = root.to_owned();
    let closed = blocking(move || Closed::close_blocking(&path)).await?;
    if closed.oldest.is_some() {
        let path = released_path(root);
        let lines: String = manifests.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
        return written.at("cannot note what was removed", &path);
    }
    collect_names(&**store, &closed, &Arc::new(manifests), None).await?;
    drop(closed);
    collect_bytes(&**store, false).await.map(drop)
}

/// Gives back the space of what was removed while it could be in use, if nothing runs any more.
pub(super) async fn release_noted(root: &Path, store: &SharedStore) -> Result<()> {
    let path = released_path(root);
    if !path.exists() {
        return Ok(());
    }
    let root = root.to_owned();
    let closed = blocking(move || Closed::close_blocking(&root)).await?;
    if closed.oldest.is_some() {
        return Ok(());
    }
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.at("cannot read what was removed", &path)?,
    };
    // A line that a full disk cut short names nothing.
    let parse = |line: &str| {
        let (name, digest) = line.split_once(' ')?;
        Some((RepositoryName::parse(name).ok()?, Digest::parse(digest).ok()?))
    };
    let manifests: Manifests = text.lines().filter_map(parse).collect();
    collect_names(&**store, &closed, &Arc::new(manifests), None).await?;
    std::fs::remove_file(&path).at("cannot remove the note of what was removed", &path)?;
    drop(closed);
    collect_bytes(&**store, false).await.map(drop)
}
