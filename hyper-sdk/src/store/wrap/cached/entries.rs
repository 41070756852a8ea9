//! The entries of a cache: bounded, in shards, with eviction by second chance.
//!
//! # Invariants
//! - The bytes of all entries stay under the limit. An entry that was used since the last pass of the clock hand
//!   survives one more pass.

use super::CachedContent;
use crate::Digest;
use crate::reference::{ManifestReference, RepositoryName};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

/// The size of an entry without its content, in bytes.
const OVERHEAD: usize = 512;

/// The version of the store. `None` is different from every version.
pub(super) type Version = Option<u64>;

/// The key of an entry: the kind, the repository and the reference in one text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Arc<str>);

impl Key {
    pub(super) fn manifest(repository: &RepositoryName, reference: &ManifestReference) -> Self {
        let reference = match reference {
            ManifestReference::Tag(tag) => tag.as_str(),
            ManifestReference::Digest(digest) => digest.as_str(),
        };
        Self::join("m", repository.as_str(), reference)
    }

    pub(super) fn blob(repository: &RepositoryName, digest: &Digest) -> Self {
        Self::join("b", repository.as_str(), digest.as_str())
    }

    fn join(kind: &str, repository: &str, reference: &str) -> Self {
        let mut key = String::with_capacity(kind.len() + repository.len() + reference.len() + 2);
        for part in [kind, "\0", repository, "\0", reference] {
            key.push_str(part);
        }
        Self(key.into())
    }
}

/// The result of a look-up.
#[derive(Debug)]
pub(super) enum Found {
    /// The content, and the store has not changed since it was read.
    Fresh(Arc<CachedContent>),
    /// The content, but the store has changed since it was read.
    Stale(Arc<CachedContent>),
    /// Nothing.
    Nothing,
}

struct Entry {
    content: Arc<CachedContent>,
    version: Version,
    used: AtomicBool,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    order: VecDeque<Key>,
    bytes: usize,
}

/// The entries.
pub(super) struct Entries {
    shards: [Mutex<Shard>; SHARDS],
    shard_limit: usize,
    hasher: std::hash::RandomState,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
}

fn weight(content: &CachedContent) -> usize {
    content.bytes.len() + OVERHEAD
}

impl Entries {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            shards: Default::default(),
            shard_limit: bytes / SHARDS,
            hasher: std::hash::RandomState::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Whether content of this size can be cached.
    pub(super) fn fits(&self, size: u64) -> bool {
        usize::try_from(size).is_ok_and(|size| size.saturating_add(OVERHEAD) <= self.shard_limit)
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up content.
    pub(super) fn get(&self, key: &Key, now: Version) -> Found {
        let shard = self.shard(key);
        let Some(entry) = shard.entries.get(key) else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return Found::Nothing;
        };
        entry.used.store(true, Ordering::Relaxed);
        self.hits.fetch_add(1, Ordering::Relaxed);
        if now.is_some() && entry.version == now {
            Found::Fresh(entry.content.clone())
        } else {
            Found::Stale(entry.content.clone())
        }
    }

    /// Records that the content is still valid in this version of the store.
    pub(super) fn renew(&self, key: &Key, version: Version) {
        if let Some(entry) = self.shard(key).entries.get_mut(key) {
            entry.version = version;
        }
    }

    /// Caches content that the store returned after `version` was read.
    pub(super) fn put(&self, key: Key, content: Arc<CachedContent>, version: Version) {
        let weight = weight(&content);
        if weight > self.shard_limit {
            return;
        }
        let mut shard = self.shard(&key);
        let shard = &mut *shard;
        let entry = Entry { content, version, used: AtomicBool::new(false) };
        match shard.entries.insert(key.clone(), entry) {
            Some(former) => shard.bytes -= self::weight(&former.content),
            None => shard.order.push_back(key),
        }
        shard.bytes += weight;
        while shard.bytes > self.shard_limit {
            let Some(oldest) = shard.order.pop_front() else { break };
            match shard.entries.get(&oldest) {
                Some(entry) if entry.used.swap(false, Ordering::Relaxed) => shard.order.push_back(oldest),
                Some(_) => {
                    if let Some(gone) = shard.entries.remove(&oldest) {
                        shard.bytes -= self::weight(&gone.content);
                    }
                }
                None => {}
            }
        }
    }

    /// Removes an entry.
    pub(super) fn remove(&self, key: &Key) {
        let mut shard = self.shard(key);
        if let Some(gone) = shard.entries.remove(key) {
            shard.bytes -= weight(&gone.content);
            shard.order.retain(|k| k != key);
        }
    }

    /// The total size of the entries.
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn content(n: usize) -> Arc<CachedContent> {
        Arc::new(CachedContent::blob(&Digest::sha256(n.to_le_bytes()), Bytes::from(vec![0; n]), None))
    }

    fn key(n: usize) -> Key {
        let repository = RepositoryName::parse("a").unwrap();
        Key::manifest(&repository, &crate::reference::Tag::parse(&n.to_string()).unwrap().into())
    }

    #[test]
    fn an_entry_is_fresh_only_in_its_version() {
        let entries = Entries::new(1 << 20);
        entries.put(key(1), content(1), Some(1));
        assert!(matches!(entries.get(&key(1), Some(1)), Found::Fresh(_)));
        assert!(matches!(entries.get(&key(1), Some(2)), Found::Stale(_)));
        entries.renew(&key(1), Some(2));
        assert!(matches!(entries.get(&key(1), Some(2)), Found::Fresh(_)));
        entries.put(key(2), content(1), None);
        assert!(matches!(entries.get(&key(2), None), Found::Stale(_)), "an unknown version is never fresh");
        entries.remove(&key(1));
        assert!(matches!(entries.get(&key(1), Some(2)), Found::Nothing));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_used_entries() {
        let entries = Entries::new(SHARDS * 20_000);
        entries.put(key(0), content(1000), Some(1));
        for n in 1..2000 {
            assert!(matches!(entries.get(&key(0), Some(1)), Found::Fresh(_)), "{n}");
            entries.put(key(n), content(1000), Some(1));
            assert!(entries.bytes() <= SHARDS * 20_000);
        }
        assert!(entries.bytes() > SHARDS * 10_000);
        entries.put(key(5000), content(30_000), Some(1));
        assert!(matches!(entries.get(&key(5000), Some(1)), Found::Nothing));
    }
}
