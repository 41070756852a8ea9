//! The clean-up: names first, while no work begins; then the bytes that have no name any more.
//!
//! An item that cannot be removed does not keep the others: the first failure is told at the end.

use super::aside::Aside;
use super::describe;
use super::images::{Manifests, family_of, without_shared};
use super::kinds::Kinds;
use super::leftovers::sweep_unused;
use super::plan::{PruneOptions, Situation, choose};
use super::survey::{Action, Found, base_roots};
use super::{Pruned, Space, SpaceItem, SpaceKind};
use crate::cache::CacheEntry;
use crate::clock::{Clock as _, SystemClock};
use crate::reference::RepositoryName;
use crate::solve::blocking;
use crate::store::{
    CollectOptions, Collected, LINK_LEASE, RegistryStore, RegistryStoreExt as _, Removal, RemovalObserver,
    Roots, is_internal, is_of_records,
};
use crate::uses::{Cleaning, Closed};
use crate::{Digest, Error, ErrorKind, Result};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

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
pub(super) async fn collect_bytes(store: &dyn RegistryStore, unnamed: bool) -> Result<Collected> {
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

/// Removes names from the store, while the gate is closed: doomed manifests that were last stored no later than `until`,
/// and the links that nothing keeps. Returns the manifests that went.
pub(super) async fn collect_names(
    store: &dyn RegistryStore,
    closed: &Closed,
    mut doomed: Manifests,
    named: Option<&Arc<HashSet<Digest>>>,
    until: i64,
) -> Result<Manifests> {
    if closed.oldest.is_none() {
        without_shared(store, &mut doomed).await?;
    }
    let doomed = Arc::new(doomed);
    let options = |internal: bool, named: &Arc<HashSet<Digest>>| {
        let kept = Kept {
            internal,
            doomed: Arc::clone(&doomed),
            named: Arc::clone(named),
            layers_alone: closed.oldest.is_some(),
        };
        CollectOptions { roots: Arc::new(kept), bytes: false, ..CollectOptions::default() }
    };
    let gone = Arc::new(Mutex::new(Manifests::new()));
    let to = Arc::clone(&gone);
    let observer: RemovalObserver = Arc::new(move |removal: &Removal| {
        if let Removal::Manifest { repository, digest, .. } = removal {
            to.lock().unwrap_or_else(PoisonError::into_inner).insert((repository.clone(), digest.clone()));
        }
    });
    if let Some(named) = named {
        // A link that was last pushed or used before the oldest work began has no user but its record. The lease says when
        // that was: work renews the lease of what it finds (`store::wrap::InUse`).
        let (untagged_until, leases_until) = match closed.oldest {
            None => (Some(until), i64::MAX),
            // A lease that ends with this second may be of the work itself.
            Some(oldest) => (None, seconds(oldest).saturating_add(LINK_LEASE - 1)),
        };
        let (leases_until, observer) = (Some(leases_until), Some(Arc::clone(&observer)));
        let options = CollectOptions { untagged_until, leases_until, observer, ..options(true, named) };
        collect(store, options).await?;
    }
    if closed.oldest.is_none() {
        let (untagged_until, leases_until) = match closed.has_server {
            false => (until, Some(i64::MAX)),
            // A client of the server may be about to name what it was told of.
            true => (until.min(SystemClock.now() - LINK_LEASE), None),
        };
        let (untagged_until, observer) = (Some(untagged_until), Some(observer));
        let options = options(false, &Arc::default());
        collect(store, CollectOptions { untagged_until, leases_until, observer, ..options }).await?;
    }
    let mut gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *gone))
}

impl Space {
    /// Removes what the options say.
    pub(crate) async fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        let root = self.root.clone();
        let Some(cleaning) = blocking(move || Cleaning::begin_blocking(&root, true)).await? else {
            return Ok(Pruned::default());
        };
        // Opened now, when nobody else cleans up: who has snapshots open keeps others from removing them.
        let kinds = self.kinds().await?;
        self.prune_alone(options, &kinds, &cleaning).await.map(|(pruned, _)| pruned)
    }

    /// The same, for the caller who has the right to. The second value is what the cache takes now.
    pub(super) async fn prune_alone(
        &self,
        options: &PruneOptions,
        kinds: &Kinds,
        _: &Cleaning,
    ) -> Result<(Pruned, u64)> {
        let survey = self.survey(kinds).await?;
        let cache: u64 = survey.found.iter().filter(|of| of.item.prunable).map(|of| of.item.size).sum();
        let closed = self.close().await?;
        let (_, free) = super::disk::disk(&self.root)?;
        let at = Situation { oldest: closed.oldest, now: SystemClock.now(), free };
        let is_asked = |of: &Found, variant| {
            !of.item.prunable
                && of.item.variant.as_deref() == Some(variant)
                && options.asks_for(&of.item, at.now)
        };
        let stuck =
            kinds.stuck.iter().filter(|stuck| survey.found.iter().any(|of| is_asked(of, stuck.variant)));
        let warnings = stuck.map(|stuck| stuck.reason.clone()).collect();
        let (chosen, in_use) = choose(survey.found, options, at);
        if options.dry_run {
            let removed: Vec<SpaceItem> = chosen.into_iter().map(|of| of.item).collect();
            let freed = removed.iter().map(|item| item.size).sum();
            return Ok((Pruned { removed, freed, in_use, warnings }, cache));
        }
        let mut pruned = Pruned { in_use, warnings, ..Pruned::default() };
        if closed.oldest.is_none() {
            let root = self.root.clone();
            blocking(move || {
                sweep_unused(&root);
                Ok(())
            })
            .await?;
        }
        let mut aside = Aside::begin(&self.root);
        let mut failure = None;
        let named = self.remove_names(chosen, (kinds, &closed), &mut pruned, &mut aside, &mut failure).await;
        drop(closed);
        // What was taken away goes, whatever failed after it.
        let discarded = kinds.discard(aside.into_paths()).await;
        named?;
        let collected = collect_bytes(&*self.store, true).await?;
        discarded?;
        if let Some(failure) = failure {
            return Err(failure);
        }
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

    /// Removes the names of items. Files and folders are put aside. The first failure of an item that does not end it all
    /// goes to `failure`.
    async fn remove_names(
        &self,
        chosen: Vec<Found>,
        (kinds, closed): (&Kinds, &Closed),
        pruned: &mut Pruned,
        aside: &mut Aside,
        failure: &mut Option<Error>,
    ) -> Result<()> {
        let mut doomed = Manifests::new();
        let (mut snapshots, mut images) = (Vec::new(), Vec::new());
        let bases = self.bases().await?;
        for of in chosen {
            let gone = match &of.action {
                Action::Keep => Ok(false),
                Action::Records(keys) => self.remove_records(keys, closed).await,
                Action::Paths(paths) => take_paths(aside, paths, closed),
                Action::Base(record) => {
                    let gone = aside.take(record, |used| closed.is_unused(used));
                    let is_gone = matches!(gone, Ok(true));
                    let base = bases.iter().find(|base| base.record == *record).filter(|_| is_gone);
                    doomed.extend(base.into_iter().flat_map(|base| {
                        base.parts.manifests.iter().map(|digest| (base.repository.clone(), digest.clone()))
                    }));
                    gone
                }
                Action::Manifest(repository, digest) => {
                    images.push(((repository.clone(), digest.clone()), of.item));
                    continue;
                }
                Action::Snapshot(kind, chain) => {
                    snapshots.push((*kind, chain.clone(), of.item));
                    continue;
                }
            };
            match gone {
                Ok(true) => pruned.removed.push(of.item),
                Ok(false) => {}
                Err(e) => drop(failure.get_or_insert(e)),
            }
        }
        for ((repository, digest), _) in &images {
            let family = family_of(&*self.store, repository, digest).await?;
            doomed.extend(family.into_iter().map(|digest| (repository.clone(), digest)));
        }
        let kept = base_roots(&self.bases().await?);
        doomed.retain(|manifest| !kept.0.contains(manifest));
        let lost = remove_snapshots(kinds, snapshots, pruned, aside, failure).await?;
        let records = self.forget_lost(self.records().await?, &lost).await?;
        let named: HashSet<Digest> = records
            .iter()
            .filter(|entry| is_of_records(&entry.record.repository))
            .filter_map(|entry| describe::blob_of(&entry.record).map(|blob| blob.digest.clone()))
            .collect();
        let gone = collect_names(&*self.store, closed, doomed, Some(&Arc::new(named)), i64::MAX).await?;
        for (image, item) in images {
            match gone.contains(&image) {
                true => pruned.removed.push(item),
                // A client of a server has stored it just now.
                false => pruned.in_use += 1,
            }
        }
        if closed.oldest.is_none() {
            self.forget_notes(records).await?;
        }
        Ok(())
    }

    /// Removes records that are unused. Returns whether all of them are gone.
    async fn remove_records(&self, keys: &[Digest], closed: &Closed) -> Result<bool> {
        let mut all = true;
        for key in keys {
            all &= self.cache.remove_unused(key, closed.oldest).await?;
        }
        Ok(all)
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

/// Takes snapshots away, and returns those that no kind has any more. Those that another process may use stay. The first
/// failure goes to `failure`.
async fn remove_snapshots(
    kinds: &Kinds,
    mut snapshots: Vec<(usize, Digest, SpaceItem)>,
    pruned: &mut Pruned,
    aside: &mut Aside,
    failure: &mut Option<Error>,
) -> Result<HashSet<Digest>> {
    let mut lost = HashSet::new();
    for (number, of) in kinds.open.iter().enumerate() {
        let its: Vec<_> = snapshots.extract_if(.., |(kind, ..)| *kind == number).collect();
        if its.is_empty() {
            continue;
        }
        let chains: Vec<Digest> = its.iter().map(|(_, chain, _)| chain.clone()).collect();
        let (gone, folders) = match of.snapshotter.take_away(&chains).await {
            Err(e) if e.kind() == ErrorKind::Conflict => (Vec::new(), Vec::new()),
            Err(e) => {
                failure.get_or_insert(e);
                continue;
            }
            Ok(taken) => taken,
        };
        aside.extend(folders);
        let gone: HashSet<Digest> = gone.into_iter().collect();
        for (_, chain, item) in its {
            match gone.contains(&chain) {
                true => pruned.removed.push(item),
                false => pruned.in_use += 1,
            }
        }
        lost.extend(gone);
    }
    if kinds.open.len() > 1 && !lost.is_empty() {
        for of in &kinds.open {
            for info in of.snapshotter.list().await? {
                lost.remove(&info.chain);
            }
        }
    }
    Ok(lost)
}

/// Takes files and folders away, if the first is unused: the others belong to it.
fn take_paths(aside: &mut Aside, paths: &[PathBuf], closed: &Closed) -> Result<bool> {
    let Some((first, others)) = paths.split_first() else { return Ok(false) };
    if !aside.take(first, |used| closed.is_unused(used))? {
        return Ok(false);
    }
    for path in others {
        aside.take(path, |_| true)?;
    }
    Ok(true)
}
