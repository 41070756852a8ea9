//! Metadata in memory: sorted maps under one lock, which makes every change atomic.

mod blob;
mod changes;
mod deletions;
mod events;
mod guards;
mod holds;
mod keepers;
mod paging;
mod pulls;
mod quotas;
mod scrub;
mod sessions;
mod tags;

use self::blob::Blob;
use self::deletions::Deleted;
use self::events::Events;
use self::holds::Holds;
use self::paging::page;
use self::quotas::Quotas;
use self::scrub::Scrub;
use self::sessions::Sessions;
use self::tags::Tagged;
use super::event_drafts::{drafts, wanted};
use super::{
    BlobLink, BlobRecord, Change, Deletion, Edge, EdgeKind, ManifestAt, ManifestChange, MetaBackend,
    ScrubPlace, TagRecord, UnkeptManifest, UploadRecord, referrer,
};
use crate::clock::{SharedClock, SystemClock};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::blob::BlobKey;
use crate::store::errors::{
    being_removed, blob_unknown, bytes_damaged, manifest_blob_unknown, manifest_unknown, other_media_type,
    tag_moved,
};
use crate::store::{ChangeContext, Listing, QuotaCheck, QuotaRules, QuotaUse, SharedEventLog, UploadId};
use crate::{Digest, Result};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Metadata in memory. Clones share their content. Its times are those of the system, or of another clock
/// ([`MemoryMeta::with_clock`]).
#[derive(Clone, Debug)]
pub struct MemoryMeta(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: SharedClock,
    state: Mutex<State>,
    /// The number of changes. It is incremented while the state is locked, and read without the lock.
    version: AtomicU64,
}

// The keys are texts, because a page may start after a text that is not a valid name.
#[derive(Debug, Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    blobs: BTreeMap<Digest, Blob>,
    sessions: Sessions,
    scrub: Scrub,
    retention: Scrub,
    holds: Holds,
    quotas: Quotas,
    events: Events,
    /// For how many seconds deletions can be undone, and how many there were.
    window: i64,
    deletions: u64,
    /// Since when pulls are noted, and when that was last told.
    pulls_noted: Option<(i64, i64)>,
}

#[derive(Debug, Default)]
struct Repository {
    /// The links, with the end of the lease of each.
    blobs: BTreeMap<Digest, i64>,
    manifests: BTreeMap<Digest, Manifest>,
    /// When each manifest was last stored.
    stored: HashMap<Digest, i64>,
    /// The references of each manifest.
    edges: HashMap<Digest, Vec<Digest>>,
    /// How many manifests reference each blob or manifest.
    references: HashMap<Digest, usize>,
    tags: BTreeMap<String, Tagged>,
    /// When tags and manifests were last pulled, by the text of the tag or of the digest.
    pulled: HashMap<String, i64>,
    referrers: HashMap<Digest, BTreeSet<Digest>>,
    deleted: Deleted,
    /// Whether the last manifest was deleted and nothing was pushed since.
    emptied: bool,
}

impl Default for MemoryMeta {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

impl MemoryMeta {
    /// Empty metadata that records the times of changes by this clock.
    ///
    /// ```
    /// use hyper_sdk::clock::SystemClock;
    /// use hyper_sdk::store::meta::{MemoryMeta, MetaBackend as _};
    /// use std::sync::Arc;
    ///
    /// let meta = MemoryMeta::with_clock(Arc::new(SystemClock));
    /// assert!(meta.clock().now() > 0);
    /// ```
    pub fn with_clock(clock: SharedClock) -> Self {
        Self(Arc::new(Shared { clock, state: Mutex::default(), version: AtomicU64::new(0) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A change is checked before it is applied, and applying it cannot panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for MemoryMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl Repository {
    /// Stores a manifest, which is not deleted any more.
    fn store(&mut self, manifest: Manifest, edges: &[Edge], now: i64) -> Digest {
        let digest = manifest.digest().clone();
        if let Some(subject) = manifest.subject() {
            self.referrers.entry(subject.digest.clone()).or_default().insert(digest.clone());
        }
        self.stored.insert(digest.clone(), now);
        self.deleted.forget_manifest(&digest);
        let edges: Vec<Digest> = edges.iter().map(|edge| edge.digest.clone()).collect();
        if self.manifests.insert(digest.clone(), manifest).is_none() {
            for edge in &edges {
                *self.references.entry(edge.clone()).or_default() += 1;
            }
            self.edges.insert(digest.clone(), edges);
        }
        digest
    }
}

impl State {
    fn repository(&mut self, name: &RepositoryName) -> &mut Repository {
        let repository = self.repositories.entry(name.as_str().to_owned()).or_default();
        repository.emptied = false;
        repository
    }

    fn find(&self, name: &RepositoryName) -> Option<&Repository> {
        self.repositories.get(name.as_str())
    }

    /// The blob of a repository, unless its bytes are damaged.
    fn linked(&self, repository: &RepositoryName, digest: &Digest) -> Option<&Blob> {
        let blob = self.blobs.get(digest).filter(|blob| !blob.quarantined);
        blob.filter(|_| self.find(repository).is_some_and(|r| r.blobs.contains_key(digest)))
    }

    fn link(&mut self, repository: &RepositoryName, digest: Digest, leased_until: i64) {
        if let Some(blob) = self.blobs.get_mut(&digest) {
            blob.repositories.insert(repository.as_str().to_owned());
        }
        let lease = self.repository(repository).blobs.entry(digest).or_insert(leased_until);
        *lease = leased_until.max(*lease);
    }

    /// Removes a link. Returns whether it existed.
    fn unlink(&mut self, repository: &RepositoryName, digest: &Digest) -> bool {
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.repositories.remove(repository.as_str());
        }
        self.repositories.get_mut(repository.as_str()).is_some_and(|r| r.blobs.remove(digest).is_some())
    }

    fn link_blob(
        &mut self,
        repository: &RepositoryName,
        digest: Digest,
        (size, key): (u64, BlobKey),
        leased_until: i64,
    ) -> Result<u64> {
        match self.blobs.get(&digest) {
            Some(blob) if blob.condemned.is_some() && blob.key == key => return Err(being_removed(&digest)),
            Some(blob) if blob.quarantined && blob.key == key => return Err(bytes_damaged(&digest)),
            _ => self.check_link(repository, &digest, size)?,
        }
        let repositories = self.blobs.get_mut(&digest).map(|blob| std::mem::take(&mut blob.repositories));
        let repositories = repositories.unwrap_or_default();
        let blob = Blob { size, key, condemned: None, quarantined: false, repositories };
        self.blobs.insert(digest.clone(), blob);
        self.link(repository, digest, leased_until);
        Ok(size)
    }

    fn put_manifest(&mut self, change: ManifestChange, now: i64) -> Result<u64> {
        let empty = Repository::default();
        let repository = self.find(&change.repository).unwrap_or(&empty);
        let all = || change.entries.iter().chain([&change]);
        for of in all().filter(|_| change.undeletes) {
            self.check_kept(&change.repository, of.manifest.digest(), now)?;
        }
        let entries: HashMap<&Digest, &Manifest> =
            change.entries.iter().map(|of| (of.manifest.digest(), &of.manifest)).collect();
        for (of, edge) in all().flat_map(|of| of.edges.iter().map(move |edge| (of, edge))) {
            let entry = match edge.kind {
                EdgeKind::Entry => {
                    entries.get(&edge.digest).copied().or_else(|| repository.manifests.get(&edge.digest))
                }
                EdgeKind::Blob => None,
            };
            match (entry, self.linked(&change.repository, &edge.digest)) {
                (Some(manifest), _) => edge.check_size(manifest.bytes().len() as u64)?,
                (None, Some(blob)) => edge.check_blob(of, blob.size)?,
                (None, None) if edge.required => return Err(manifest_blob_unknown(&change.repository, edge)),
                (None, None) => {}
            }
        }
        if let Some(stored) = repository.manifests.get(change.manifest.digest())
            && stored.media_type() != change.manifest.media_type()
        {
            return Err(other_media_type(&change.manifest, stored.media_type()));
        }
        for tag in &change.tags {
            let now = repository.tags.get(tag.as_str()).map(|tagged| &tagged.digest);
            if let Some(guard) = &change.guard {
                guard.check_put(tag, now.map(Digest::as_str), change.manifest.digest())?;
            }
            if let Some(expected) = &change.if_match
                && now != expected.as_ref()
            {
                return Err(tag_moved(tag, now));
            }
        }
        self.check_put(&change)?;
        for tag in &change.tags {
            self.note_tag(&change.repository, tag.as_str(), Some(change.manifest.digest()), now);
        }
        let ManifestChange { repository, entries, manifest, edges, tags, .. } = change;
        let repository = self.repository(&repository);
        for entry in entries {
            if !repository.manifests.contains_key(entry.manifest.digest()) {
                repository.store(entry.manifest, &entry.edges, now);
            }
        }
        let digest = repository.store(manifest, &edges, now);
        for tag in &tags {
            let tagged = Tagged { digest: digest.clone(), pushed_at: now };
            repository.tags.insert(tag.as_str().to_owned(), tagged);
        }
        Ok(0)
    }

    fn delete_tag(&mut self, name: &RepositoryName, tag: &Tag, now: i64) -> Result<u64> {
        self.note_tag(name, tag.as_str(), None, now);
        let repository = self.repositories.get_mut(name.as_str());
        let gone = repository.and_then(|r| r.remove_tag(tag.as_str()));
        gone.map(|_| 0).ok_or_else(|| manifest_unknown(name, tag))
    }

    fn delete_blob(&mut self, name: &RepositoryName, digest: &Digest) -> Result<u64> {
        if self.unlink(name, digest) { Ok(0) } else { Err(blob_unknown(name, digest)) }
    }

    fn delete_manifest(&mut self, name: &RepositoryName, digest: &Digest) -> Result<u64> {
        let repository = self.repositories.get_mut(name.as_str());
        let Some((repository, manifest)) =
            repository.and_then(|r| r.manifests.remove(digest).map(|manifest| (r, manifest)))
        else {
            return Err(manifest_unknown(name, digest));
        };
        repository.emptied = repository.manifests.is_empty();
        repository.stored.remove(digest);
        for edge in repository.edges.remove(digest).unwrap_or_default() {
            if let Some(count) = repository.references.get_mut(&edge) {
                *count -= 1;
                if *count == 0 {
                    repository.references.remove(&edge);
                }
            }
        }
        let Repository { tags, pulled, .. } = repository;
        pulled.remove(digest.as_str());
        tags.retain(|tag, tagged| {
            let stays = tagged.digest != *digest;
            if !stays {
                pulled.remove(tag);
            }
            stays
        });
        if let Some(subject) = manifest.subject()
            && let Some(referrers) = repository.referrers.get_mut(&subject.digest)
        {
            referrers.remove(digest);
            if referrers.is_empty() {
                repository.referrers.remove(&subject.digest);
            }
        }
        Ok(0)
    }
}

#[async_trait]
impl MetaBackend for MemoryMeta {
    fn durable(&self) -> bool {
        false
    }

    fn writable(&self) -> bool {
        true
    }

    fn version(&self) -> Option<u64> {
        Some(self.0.version.load(Ordering::SeqCst))
    }

    fn clock(&self) -> SharedClock {
        Arc::clone(&self.0.clock)
    }

    fn has_quotas(&self) -> bool {
        true
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        self.replace_quotas(rules);
        Ok(())
    }

    async fn largest_upload(&self, repository: &RepositoryName) -> Result<Option<u64>> {
        Ok(self.largest(repository))
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        Ok(self.uses())
    }

    async fn check_quotas(&self, _repair: bool) -> Result<Vec<QuotaCheck>> {
        Ok(self.checks())
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        Some(Arc::new(self.clone()))
    }

    async fn write(&self, change: Change) -> Result<u64> {
        let mut state = self.state();
        let time = self.0.clock.now();
        self.0.version.fetch_add(1, Ordering::SeqCst);
        let Some(rules) = state.events.rules else { return state.apply(change, time) };
        let facts = state.facts(wanted(&change));
        let result = state.apply(change.clone(), time)?;
        let events = drafts(&change, (facts, result), rules, ChangeContext::current().as_ref());
        state.events.add(events, time);
        Ok(result)
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobRecord>> {
        Ok(self.state().linked(repository, digest).map(|blob| blob.record(digest)))
    }

    async fn leased_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(BlobRecord, i64)>> {
        let state = self.state();
        let lease = state.repositories.get(repository.as_str()).and_then(|found| found.blobs.get(digest));
        Ok(state.linked(repository, digest).map(|blob| blob.record(digest)).zip(lease.copied()))
    }

    async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        let state = self.state();
        Ok(digests.iter().map(|digest| state.blobs.get(digest).map(|blob| blob.record(digest))).collect())
    }

    async fn repositories_with(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>> {
        let state = self.state();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = state
            .blobs
            .get(digest)
            .into_iter()
            .flat_map(|blob| blob.repositories.range::<str, _>((start, Bound::Unbounded)));
        let items: Vec<_> =
            names.by_ref().take(limit).map(|name| RepositoryName::parse(name)).collect::<Result<_>>()?;
        Ok(Listing { more: !items.is_empty() && names.next().is_some(), items })
    }

    async fn unreferenced_links(
        &self,
        now: i64,
        after: Option<&BlobLink>,
        limit: usize,
    ) -> Result<Vec<BlobLink>> {
        let (state, time) = (self.state(), self.0.clock.now());
        let after = after.map(|link| (link.repository.as_str(), &link.digest));
        let from = after.map_or(Bound::Unbounded, |(name, _)| Bound::Included(name));
        let links = state.repositories.range::<str, _>((from, Bound::Unbounded));
        let links = links.flat_map(|(name, repository)| {
            let from = match after {
                Some((last, digest)) if last == name.as_str() => Bound::Excluded(digest),
                _ => Bound::Unbounded,
            };
            let digests = repository.blobs.range::<Digest, _>((from, Bound::Unbounded)).map(|(d, _)| d);
            let digests = digests.filter(|d| state.is_unreferenced(repository, d, (now, time)));
            digests.map(move |digest| (name, digest))
        });
        let link = |(name, digest): (&String, &Digest)| {
            RepositoryName::parse(name).map(|repository| BlobLink { repository, digest: digest.clone() })
        };
        links.take(limit).map(link).collect()
    }

    async fn unkept_manifests(
        &self,
        before: i64,
        after: Option<&ManifestAt>,
        limit: usize,
    ) -> Result<Vec<UnkeptManifest>> {
        let (state, now) = (self.state(), self.0.clock.now());
        let after = after.map(|at| (at.repository.as_str(), &at.digest));
        let from = after.map_or(Bound::Unbounded, |(name, _)| Bound::Included(name));
        let found = state.repositories.range::<str, _>((from, Bound::Unbounded));
        let found = found.flat_map(|(name, repository)| {
            let from = match after {
                Some((last, digest)) if last == name.as_str() => Bound::Excluded(digest),
                _ => Bound::Unbounded,
            };
            let digests = repository.manifests.range::<Digest, _>((from, Bound::Unbounded)).map(|(d, _)| d);
            let digests = digests.filter(move |d| !State::is_kept(repository, d, (before, now)));
            digests.map(move |digest| (name, digest, repository.stored.get(digest).copied().unwrap_or(0)))
        });
        let at = |(name, digest, stored_at): (&String, &Digest, i64)| {
            let at = ManifestAt { repository: RepositoryName::parse(name)?, digest: digest.clone() };
            Ok(UnkeptManifest { at, stored_at })
        };
        found.take(limit).map(at).collect()
    }

    async fn unlinked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        let state = self.state();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let blobs = state.blobs.range::<Digest, _>((start, Bound::Unbounded));
        let unlinked = blobs.filter(|(_, blob)| blob.repositories.is_empty());
        Ok(unlinked.take(limit).map(|(digest, blob)| blob.record(digest)).collect())
    }

    async fn linked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        Ok(self.state().linked_blobs(after, limit))
    }

    async fn manifests_with(&self, digest: &Digest, limit: usize) -> Result<Vec<ManifestAt>> {
        self.state().manifests_with(digest, limit)
    }

    async fn scrub_place(&self) -> Result<ScrubPlace> {
        Ok(self.state().scrub.place.clone())
    }

    async fn last_retention(&self) -> Result<Option<i64>> {
        Ok(self.state().retention.place.ended_at)
    }

    fn set_undelete_window(&self, seconds: i64) -> Result<()> {
        self.state().window = seconds;
        Ok(())
    }

    async fn deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        self.state().list_deletions(repository, (after, limit), self.0.clock.now())
    }

    async fn deletion_of(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Deletion>> {
        self.state().last_deletion(repository, tag, self.0.clock.now())
    }

    async fn deleted_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>> {
        let (state, now) = (self.state(), self.0.clock.now());
        Ok(state.find(repository).and_then(|r| r.deleted.manifest(digest, now)).cloned())
    }

    async fn pulls_noted_since(&self) -> Result<Option<i64>> {
        Ok(self.state().pulls_since(self.0.clock.now()))
    }

    async fn bytes_held(&self) -> Result<bool> {
        Ok(self.state().holds.are_held(self.0.clock.now()))
    }

    async fn has_keys(&self, keys: &[BlobKey]) -> Result<Vec<bool>> {
        let state = self.state();
        let own: HashSet<&BlobKey> = state.blobs.values().map(|blob| &blob.key).collect();
        Ok(keys.iter().map(|key| own.contains(key)).collect())
    }

    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Option<Manifest>> {
        let state = self.state();
        let Some(repository) = state.find(repository) else { return Ok(None) };
        let digest = match reference {
            ManifestReference::Digest(digest) => Some(digest),
            ManifestReference::Tag(tag) => repository.tags.get(tag.as_str()).map(|tagged| &tagged.digest),
        };
        Ok(digest.and_then(|digest| repository.manifests.get(digest)).cloned())
    }

    async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<Tag>>> {
        let state = self.state();
        state.find(repository).map(|r| page(&r.tags, after, limit, |_| true, Tag::parse)).transpose()
    }

    async fn tag_records(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<TagRecord>>> {
        self.state().find(repository).map(|r| r.tag_records(after, limit)).transpose()
    }

    async fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Listing<RepositoryName>> {
        page(&self.state().repositories, after, limit, |r| !r.emptied, RepositoryName::parse)
    }

    async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let state = self.state();
        let Some(repository) = state.find(repository) else { return Ok(Vec::new()) };
        let digests = repository.referrers.get(subject).into_iter().flatten();
        Ok(digests
            .filter_map(|digest| repository.manifests.get(digest))
            .filter(|m| artifact_type.is_none_or(|wanted| m.artifact_type() == Some(wanted)))
            .map(referrer)
            .collect())
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<UploadRecord>> {
        Ok(self.state().sessions.find(id).cloned())
    }

    async fn stale_uploads(&self, before: i64) -> Result<Vec<UploadId>> {
        Ok(self.state().sessions.stale(before))
    }
}
