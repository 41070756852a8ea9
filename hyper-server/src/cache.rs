//! A bounded cache in memory of manifests and small blobs.
//!
//! What a digest names never changes, but whether a repository has it does, and so does what a tag names. Another
//! process may share the store (the command line does, with one folder), so an entry is good only while the store as
//! a whole is known to be unchanged. [`Freshness`] says how that is known, as one number, the stamp:
//!
//! ```text
//! look up   stamp = now;   entry.stamp == stamp ?  serve from memory
//!                          else, a blob:      ask the store whether the repository still has it, serve from memory
//!                          else, a manifest:  ask the store for it
//! insert    under the stamp that was read before the store was asked
//! ```
//!
//! # Invariants
//! - Linearisable: an entry is served without asking only if no write was committed between the store's answer that
//!   made it and the look-up.
//! - The bytes of all entries stay under the limit. Eviction is by second chance: an entry that was used since the
//!   hand last passed stays once more.

use bytes::Bytes;
use http::HeaderValue;
use hyper_sdk::oci::Manifest;
use hyper_sdk::{Digest, RepositoryName};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How the cache knows that the store has not changed.
#[derive(Clone, Default)]
pub enum Freshness {
    /// It does not: only the content of blobs is cached, and the store is asked each time whether it may be shown.
    #[default]
    Ask,
    /// Nobody but this server writes to the store.
    Exclusive,
    /// The function gives a number that is another one after every committed change, whoever made it, or `None` when
    /// it cannot tell. It is called for every request and must return within microseconds.
    Stamp(Arc<dyn Fn() -> Option<u64> + Send + Sync>),
}

impl fmt::Debug for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ask => "Ask",
            Self::Exclusive => "Exclusive",
            Self::Stamp(_) => "Stamp",
        })
    }
}

/// How much is cached.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// The most memory that the cache takes, in bytes; 0 turns it off.
    pub bytes: usize,
    /// The largest blob that is cached, in bytes.
    pub blob_bytes: u64,
    /// How the cache knows that the store has not changed.
    pub freshness: Freshness,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { bytes: 32 << 20, blob_bytes: 64 << 10, freshness: Freshness::Ask }
    }
}

/// A state of the store, as far as the cache can tell one from another. `None` equals no other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp(Option<u64>);

/// Content that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: HeaderValue,
    pub(crate) digest: HeaderValue,
    pub(crate) etag: HeaderValue,
}

impl Object {
    pub(crate) fn blob(digest: &Digest, bytes: Bytes) -> Self {
        Self {
            bytes,
            content_type: HeaderValue::from_static("application/octet-stream"),
            digest: digest_value(digest),
            etag: etag_value(digest),
        }
    }

    pub(crate) fn manifest(manifest: &Manifest) -> Self {
        Self {
            bytes: manifest.bytes().clone(),
            content_type: HeaderValue::from_str(manifest.media_type())
                .unwrap_or(HeaderValue::from_static("application/octet-stream")),
            digest: digest_value(manifest.digest()),
            etag: etag_value(manifest.digest()),
        }
    }

    fn weight(&self) -> usize {
        self.bytes.len() + 512
    }
}

/// A digest as a header value.
pub(crate) fn digest_value(digest: &Digest) -> HeaderValue {
    HeaderValue::from_str(digest.as_str()).expect("a digest is made of visible ASCII characters")
}

/// A digest as an entity tag.
pub(crate) fn etag_value(digest: &Digest) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{digest}\"")).expect("a digest is made of visible ASCII characters")
}

/// Under what an object is kept: a kind, a repository and a reference in one text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(Arc<str>);

impl Key {
    pub(crate) fn manifest(repository: &RepositoryName, reference: &str) -> Self {
        Self::of("m", repository.as_str(), reference)
    }

    pub(crate) fn blob(repository: &RepositoryName, digest: &Digest) -> Self {
        Self::of("b", repository.as_str(), digest.as_str())
    }

    fn of(kind: &str, repository: &str, reference: &str) -> Self {
        let mut key = String::with_capacity(kind.len() + repository.len() + reference.len() + 2);
        for part in [kind, "\0", repository, "\0", reference] {
            key.push_str(part);
        }
        Self(key.into())
    }
}

/// What the cache knows.
#[derive(Debug)]
pub(crate) enum Found {
    /// The object, and nothing has changed since it was read.
    Fresh(Arc<Object>),
    /// The object, but something has changed in the store.
    Stale(Arc<Object>),
    /// Nothing.
    Nothing,
}

struct Entry {
    object: Arc<Object>,
    stamp: Stamp,
    used: AtomicBool,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    order: VecDeque<Key>,
    bytes: usize,
}

const SHARDS: usize = 16;

/// The cache.
pub(crate) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    shard_limit: usize,
    options: CacheOptions,
    writes: AtomicU64,
    hasher: std::hash::RandomState,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Tells the cache of a write when it is dropped, whatever became of it.
#[derive(Debug)]
pub(crate) struct Write<'a>(&'a Cache);

impl Drop for Write<'_> {
    fn drop(&mut self) {
        self.0.writes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Cache {
    pub(crate) fn new(options: CacheOptions) -> Self {
        Self {
            shards: Default::default(),
            shard_limit: options.bytes / SHARDS,
            options,
            writes: AtomicU64::new(0),
            hasher: std::hash::RandomState::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The state of the store now. Read it before the store is asked.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp(match &self.options.freshness {
            Freshness::Ask => None,
            Freshness::Exclusive => Some(self.writes.load(Ordering::SeqCst)),
            Freshness::Stamp(read) => read(),
        })
    }

    /// Announces a write: hold the value until the write is over.
    pub(crate) fn write(&self) -> Write<'_> {
        Write(self)
    }

    /// Whether a blob of this size is worth keeping.
    pub(crate) fn takes_blob(&self, size: u64) -> bool {
        size <= self.options.blob_bytes && (size as usize).saturating_add(512) <= self.shard_limit
    }

    /// Whether manifests are worth keeping: not when the store has to be asked for each of them anyway.
    pub(crate) fn takes_manifests(&self) -> bool {
        self.shard_limit > 0 && !matches!(self.options.freshness, Freshness::Ask)
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        use std::hash::BuildHasher;
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Looks an object up.
    pub(crate) fn get(&self, key: &Key, now: Stamp) -> Found {
        let shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = shard.entries.get(key) else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return Found::Nothing;
        };
        entry.used.store(true, Ordering::Relaxed);
        self.hits.fetch_add(1, Ordering::Relaxed);
        if now.0.is_some() && entry.stamp.0 == now.0 {
            Found::Fresh(entry.object.clone())
        } else {
            Found::Stale(entry.object.clone())
        }
    }

    /// Says that the object was still right at the state `stamp`.
    pub(crate) fn renew(&self, key: &Key, stamp: Stamp) {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.entries.get_mut(key) {
            entry.stamp = stamp;
        }
    }

    /// Keeps an object that the store gave after `stamp` was read.
    pub(crate) fn put(&self, key: Key, object: Arc<Object>, stamp: Stamp) {
        let weight = object.weight();
        if weight > self.shard_limit {
            return;
        }
        let mut shard = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        let shard = &mut *shard;
        let entry = Entry { object, stamp, used: AtomicBool::new(false) };
        match shard.entries.insert(key.clone(), entry) {
            Some(former) => shard.bytes -= former.object.weight(),
            None => shard.order.push_back(key),
        }
        shard.bytes += weight;
        while shard.bytes > self.shard_limit {
            let Some(oldest) = shard.order.pop_front() else { break };
            match shard.entries.get(&oldest) {
                Some(entry) if entry.used.swap(false, Ordering::Relaxed) => shard.order.push_back(oldest),
                Some(_) => {
                    if let Some(gone) = shard.entries.remove(&oldest) {
                        shard.bytes -= gone.object.weight();
                    }
                }
                None => {}
            }
        }
    }

    /// Forgets an object.
    pub(crate) fn remove(&self, key: &Key) {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gone) = shard.entries.remove(key) {
            shard.bytes -= gone.object.weight();
            shard.order.retain(|k| k != key);
        }
    }

    /// The bytes that the cache holds.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(n: usize) -> Arc<Object> {
        Arc::new(Object::blob(&Digest::sha256(n.to_le_bytes()), Bytes::from(vec![0; n])))
    }

    fn key(n: usize) -> Key {
        Key::manifest(&RepositoryName::parse("a").unwrap(), &n.to_string())
    }

    fn cache(bytes: usize, freshness: Freshness) -> Cache {
        Cache::new(CacheOptions { bytes, freshness, ..CacheOptions::default() })
    }

    #[test]
    fn an_entry_is_fresh_until_the_next_write() {
        let cache = cache(1 << 20, Freshness::Exclusive);
        let before = cache.stamp();
        cache.put(key(1), object(1), before);
        assert!(matches!(cache.get(&key(1), cache.stamp()), Found::Fresh(_)));
        drop(cache.write());
        assert!(matches!(cache.get(&key(1), cache.stamp()), Found::Stale(_)));
        let raced = cache.stamp();
        drop(cache.write());
        cache.put(key(2), object(1), raced);
        assert!(matches!(cache.get(&key(2), cache.stamp()), Found::Stale(_)));
        cache.renew(&key(2), cache.stamp());
        assert!(matches!(cache.get(&key(2), cache.stamp()), Found::Fresh(_)));
        cache.remove(&key(2));
        assert!(matches!(cache.get(&key(2), cache.stamp()), Found::Nothing));
    }

    #[test]
    fn a_stamp_that_cannot_be_read_is_never_fresh() {
        for freshness in [Freshness::Ask, Freshness::Stamp(Arc::new(|| None))] {
            let cache = cache(1 << 20, freshness);
            cache.put(key(1), object(1), cache.stamp());
            assert!(matches!(cache.get(&key(1), cache.stamp()), Found::Stale(_)));
        }
    }

    #[test]
    fn memory_stays_bounded_and_what_is_used_stays() {
        let cache = cache(SHARDS * 20_000, Freshness::Exclusive);
        cache.put(key(0), object(1000), cache.stamp());
        for n in 1..2000 {
            assert!(matches!(cache.get(&key(0), cache.stamp()), Found::Fresh(_)), "{n}");
            cache.put(key(n), object(1000), cache.stamp());
            assert!(cache.bytes() <= SHARDS * 20_000);
        }
        assert!(cache.bytes() > SHARDS * 10_000);
        cache.put(key(5000), object(30_000), cache.stamp());
        assert!(matches!(cache.get(&key(5000), cache.stamp()), Found::Nothing));
    }
}
