//! Who notes that manifests are pulled: in memory at once, and in the database now and then.
//!
//! ```text
//!   pulls ──▶ noted in this hour? ── no ──▶ a shard: waits ──▶ write, each minute: one change for many notes
//!               yes: nothing to do                               fails: the notes wait again
//! ```
//!
//! # Invariants
//! - Noting never waits for the database, and takes nanoseconds for content of a cache that was noted in this hour.
//! - Memory is bounded. When notes must be forgotten, because the database is away, the next change says so, and the notes of the
//!   store begin anew: nothing then counts as not pulled that was.
//! - The time of a note is that of the transaction, so it is never earlier than the pull, and clocks of servers do not matter.

use super::wrap::CachedContent;
use super::{PullNote, RegistryStore};
use crate::reference::{ManifestReference, RepositoryName};
use crate::{Digest, Result};
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long what was noted is not noted again.
const ROUND: Duration = Duration::from_secs(60 * 60);
const SHARDS: usize = 16;
/// The most notes of a shard that wait, and those that wake the writer before its time.
const WAITING: usize = 4096;
const MANY: usize = WAITING / 2;
/// How many of the notes of this hour a shard remembers, as 8 bytes each. What is forgotten is noted again.
const KNOWN: usize = 8192;
/// How many notes one change has.
const TOGETHER: usize = 64;

/// Notes of pulls that wait until they are written to a store.
///
/// Dropping it loses those that wait; [`PullNotes::write`] writes them.
///
/// ```
/// use hyper_sdk::oci::{ImageIndex, Manifest};
/// use hyper_sdk::reference::ManifestReference;
/// use hyper_sdk::store::wrap::{CacheOptions, Cached};
/// use hyper_sdk::store::{MemoryStore, Page, PullNotes, PutManifest, RegistryStore as _};
/// use hyper_sdk::{RepositoryName, Tag};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let store = Cached::new(Arc::new(MemoryStore::default()), CacheOptions::default());
/// let (name, tag) = (RepositoryName::parse("team/app")?, Tag::latest());
/// let manifest = Manifest::sniff(ImageIndex::new(Vec::new()).to_bytes())?;
/// store.put_manifest(&name, PutManifest::new(manifest, [tag.clone()])).await?;
///
/// let (notes, reference) = (PullNotes::default(), ManifestReference::from(tag));
/// let content = store.manifest(&name, &reference).await?;
/// notes.note(&name, &reference, &content);
/// assert_eq!(notes.write(&store).await?, 1);
/// let tags = store.list_tag_records(&name, Page::default()).await?;
/// assert!(tags.items[0].pulled_at.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PullNotes {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// The number of the hour, from 1 on. Content knows in which it was noted.
    round: AtomicU64,
    began: Mutex<Instant>,
    /// Whether the store was told in this hour that pulls are noted.
    begun: AtomicBool,
    lost: AtomicBool,
    /// How many were lost in all.
    losses: AtomicU64,
    many: Arc<Notify>,
    /// Who has it writes: another waits, and knows then that all was written.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Shard {
    /// What was noted in this hour.
    known: HashSet<u64>,
    waiting: Vec<PullNote>,
}

impl Default for PullNotes {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            round: AtomicU64::new(1),
            began: Mutex::new(Instant::now()),
            begun: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            many: Arc::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PullNotes {
    /// Notes that content was pulled by a reference. It takes no time if that was noted in this hour.
    pub fn note(&self, repository: &RepositoryName, reference: &ManifestReference, content: &CachedContent) {
        let round = self.round.load(Ordering::Relaxed);
        if !content.pulled.enter(round) {
            return;
        }
        let tag = match reference {
            ManifestReference::Tag(tag) => Some(tag),
            ManifestReference::Digest(_) => None,
        };
        let digest = content.digest();
        let hash = self.hasher.hash_one((repository, tag, &digest));
        let mut shard = lock(&self.shards[hash as usize % SHARDS]);
        if shard.known.contains(&hash) {
            return;
        }
        let Ok(digest) = Digest::parse(&String::from_utf8_lossy(&digest)) else { return };
        if shard.known.len() >= KNOWN {
            shard.known.clear();
        }
        shard.known.insert(hash);
        self.add(&mut shard, PullNote { repository: repository.clone(), digest, tag: tag.cloned() });
    }

    fn add(&self, shard: &mut Shard, note: PullNote) {
        if shard.waiting.len() >= WAITING {
            self.losses.fetch_add(1, Ordering::Relaxed);
            if !self.lost.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "too many pulls wait to be noted: all counts as pulled now, and what is noted begins anew"
                );
            }
        } else {
            shard.waiting.push(note);
        }
        if shard.waiting.len() >= MANY {
            self.many.notify_one();
        }
    }

    /// How many notes were lost in all, because too many waited. What is noted then begins anew, and no tag is deleted for not being
    /// pulled until it was noted for long enough again.
    pub fn lost(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Waits until so many notes wait that they should be written soon. Does not keep the notes.
    pub fn many(&self) -> impl Future<Output = ()> + use<> {
        let many = Arc::clone(&self.many);
        async move { many.notified().await }
    }

    /// Writes the notes that wait, and returns how many there were. The first call tells the store that pulls are noted from now on, and one
    /// each hour that they still are. What cannot be written, and what is being written when it is dropped, waits for the next call.
    ///
    /// # Errors
    /// Those of [`RegistryStore::note_pulls`].
    pub async fn write(&self, store: &dyn RegistryStore) -> Result<u64> {
        let _writing = self.writing.lock().await;
        self.turn();
        let mut written = 0;
        for shard in &self.shards {
            loop {
                let mut taken = self.take(shard);
                if taken.pulls.is_empty() && !taken.lost && self.begun.load(Ordering::Relaxed) {
                    break;
                }
                store.note_pulls(taken.pulls.clone(), taken.lost).await?;
                self.begun.store(true, Ordering::Relaxed);
                written += taken.pulls.len() as u64;
                taken.lost = false;
                taken.pulls.clear();
            }
        }
        Ok(written)
    }

    fn take<'a>(&'a self, shard: &'a Mutex<Shard>) -> Taken<'a> {
        let mut locked = lock(shard);
        let rest = locked.waiting.len().saturating_sub(TOGETHER);
        let pulls = locked.waiting.split_off(rest);
        Taken { notes: self, shard, pulls, lost: self.lost.swap(false, Ordering::Relaxed) }
    }

    /// Begins the next hour when it is time.
    fn turn(&self) {
        let mut began = lock(&self.began);
        if began.elapsed() < ROUND {
            return;
        }
        *began = Instant::now();
        self.begun.store(false, Ordering::Relaxed);
        for shard in &self.shards {
            lock(shard).known.clear();
        }
        self.round.fetch_add(1, Ordering::Relaxed);
    }
}

/// Notes that are being written. Those that are not written when it is dropped wait again.
struct Taken<'a> {
    notes: &'a PullNotes,
    shard: &'a Mutex<Shard>,
    pulls: Vec<PullNote>,
    lost: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.lost {
            self.notes.lost.store(true, Ordering::Relaxed);
        }
        let mut shard = lock(self.shard);
        for pull in std::mem::take(&mut self.pulls) {
            self.notes.add(&mut shard, pull);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::oci::{ImageIndex, Manifest};
    use crate::reference::Tag;
    use crate::store::blob::MemoryBlobs;
    use crate::store::meta::{Change, MemoryMeta, MetaBackend as _};
    use crate::store::wrap::{CacheOptions, Cached, FaultPlan, FaultyMeta};
    use crate::store::{Composed, Page, PutManifest};
    use crate::testing::FrozenClock;

    const START: i64 = 1_800_000_000;

    /// A store with some tags of one manifest, its clock, its metadata, and what fails.
    async fn tagged(tags: &[String]) -> (Cached, Arc<FrozenClock>, MemoryMeta, FaultPlan) {
        let (clock, plan) = (Arc::new(FrozenClock::new(START)), FaultPlan::none());
        let meta = MemoryMeta::with_clock(clock.clone());
        let faulty = FaultyMeta::new(meta.clone(), plan.clone());
        let store = Composed::new(MemoryBlobs::default(), faulty);
        let store = Cached::new(Arc::new(store), CacheOptions::default());
        let manifest = Manifest::sniff(ImageIndex::new(Vec::new()).to_bytes()).unwrap();
        let tags = tags.iter().map(|tag| Tag::parse(tag).unwrap());
        store.put_manifest(&name(), PutManifest::new(manifest, tags)).await.unwrap();
        (store, clock, meta, plan)
    }

    fn name() -> RepositoryName {
        RepositoryName::parse("team/app").unwrap()
    }

    async fn pull(notes: &PullNotes, store: &Cached, tag: &str) {
        let reference = ManifestReference::from(Tag::parse(tag).unwrap());
        let content = store.manifest(&name(), &reference).await.unwrap();
        notes.note(&name(), &reference, &content);
    }

    async fn pulled(store: &Cached) -> Vec<Option<i64>> {
        let listing = store.list_tag_records(&name(), Page::default()).await.unwrap();
        listing.items.into_iter().map(|record| record.pulled_at).collect()
    }

    #[tokio::test]
    async fn a_pull_is_written_once_in_an_hour() {
        let (store, clock, ..) = tagged(&["v1".to_owned()]).await;
        let notes = PullNotes::default();
        for _ in 0..3 {
            pull(&notes, &store, "v1").await;
        }
        assert_eq!(pulled(&store).await, [None], "a pull waits for nothing");
        clock.advance(30);
        assert_eq!(notes.write(&store).await.unwrap(), 1);
        assert_eq!(pulled(&store).await, [Some(START + 30)]);
        clock.advance(1800);
        // The change of the notes has made the cached content old: it is another one now.
        pull(&notes, &store, "v1").await;
        assert_eq!(notes.write(&store).await.unwrap(), 0);
        *lock(&notes.began) = Instant::now().checked_sub(ROUND).unwrap();
        notes.write(&store).await.unwrap();
        pull(&notes, &store, "v1").await;
        assert_eq!(notes.write(&store).await.unwrap(), 1);
        assert_eq!(pulled(&store).await, [Some(START + 1830)]);
    }

    #[tokio::test]
    async fn what_cannot_be_written_waits() {
        let tags = ["v1", "v2"].map(str::to_owned);
        let (store, clock, _, plan) = tagged(&tags).await;
        let notes = PullNotes::default();
        notes.write(&store).await.unwrap();
        pull(&notes, &store, "v1").await;
        plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::NotePulls { .. }));
        assert_eq!(notes.write(&store).await.unwrap_err().kind(), ErrorKind::Unavailable);
        clock.advance(60);
        pull(&notes, &store, "v2").await;
        assert_eq!(notes.write(&store).await.unwrap(), 2);
        assert_eq!(pulled(&store).await, [Some(START + 60); 2]);
    }

    /// Memory is bounded; the store then knows that it does not know all.
    #[tokio::test]
    async fn lost_notes_are_told_of() {
        let tags: Vec<String> = (0..SHARDS * WAITING + 2000).map(|number| format!("v{number}")).collect();
        let (store, clock, meta, plan) = tagged(&tags).await;
        let notes = PullNotes::default();
        notes.write(&store).await.unwrap();
        let reference = ManifestReference::from(Tag::parse("v0").unwrap());
        let content = store.manifest(&name(), &reference).await.unwrap();
        for tag in &tags {
            // Of other entries of a cache.
            let content = CachedContent::clone(&content);
            notes.note(&name(), &ManifestReference::from(Tag::parse(tag).unwrap()), &content);
        }
        let waiting: usize = notes.shards.iter().map(|shard| lock(shard).waiting.len()).sum();
        assert!(waiting <= SHARDS * WAITING && waiting > SHARDS * WAITING / 2, "{waiting}");
        clock.advance(60);
        plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::NotePulls { .. }));
        notes.write(&store).await.unwrap_err();
        assert_eq!(meta.pulls_noted_since().await.unwrap(), Some(START));
        assert_eq!(notes.lost(), (tags.len() - waiting) as u64);
        assert!(notes.lost.load(Ordering::Relaxed), "it is not forgotten that some were lost");
        assert_eq!(notes.write(&store).await.unwrap(), waiting as u64);
        assert_eq!(meta.pulls_noted_since().await.unwrap(), Some(START + 60), "the notes begin anew");
        clock.advance(60);
        assert_eq!(notes.write(&store).await.unwrap(), 0);
        assert_eq!(meta.pulls_noted_since().await.unwrap(), Some(START + 60));
    }
}
