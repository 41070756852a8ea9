//! A cache of file hashes: an unchanged file is not read again.
//!
//! An entry is used if device, inode, ctime, mtime and size are all equal. Programs cannot set the ctime, so unlike a
//! comparison of mtime and size this detects a change that restores the mtime.
//!
//! **Racy entries.** A file system's clock ticks coarsely (up to 2 s on old ones), so a file that is changed twice
//! within one tick keeps its times. A file whose ctime or mtime lies within two seconds of the moment it was hashed (or
//! in the future) is therefore hashed but not cached. It is cached by a later build.
//!
//! # File
//! All numbers are little-endian.
//! ```text
//! "hyper stat cache 1\n"
//! entry*   device u64, inode u64, ctime i64 + u32, mtime i64 + u32, size u64, last used i64 (seconds),
//!          sha256 [32], capability length u8 + bytes
//! sha256 of everything before it [32]
//! ```
//! A damaged, truncated or older file is treated as an empty cache. It is replaced by a rename.

use super::file_digest::{FileDigest, FileHasher, ReadingHasher};
use super::metadata::Metadata;
use crate::{Error, Result};
use sha2::Digest as _;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: &[u8] = b"hyper stat cache 1\n";
/// How long a file must be unchanged before its hash is cached.
const RACY_SECONDS: i64 = 2;
/// The bytes of an entry without a capability.
const ENTRY_SIZE: usize = 89;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    ctime: (i64, u32),
    mtime: (i64, u32),
    size: u64,
}

impl Key {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.device,
            inode: metadata.inode,
            ctime: metadata.ctime,
            mtime: metadata.mtime,
            size: metadata.size,
        }
    }
}

#[derive(Debug)]
struct Remembered {
    digest: FileDigest,
    used: i64,
}

/// A [`FileHasher`] with a cache. Threads can share it. Only one process at a time should save a file.
#[derive(Debug, Default)]
pub(crate) struct StatCache {
    entries: RwLock<HashMap<Key, Remembered>>,
    changed: AtomicBool,
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

impl StatCache {
    /// An empty cache.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Loads a saved cache; a missing or damaged file gives an empty cache.
    pub(crate) fn load(path: &Path) -> Self {
        let entries = std::fs::read(path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { entries: RwLock::new(entries), changed: AtomicBool::new(false) }
    }

    /// The number of cached files.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether the cache is empty.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Removes entries that were not used for `seconds`, then the least recently used ones beyond `most` entries.
    pub(crate) fn prune(&self, seconds: i64, most: usize) {
        let mut entries = self.write();
        let before = entries.len();
        let oldest = now() - seconds;
        entries.retain(|_, e| e.used >= oldest);
        if entries.len() > most {
            let mut used: Vec<i64> = entries.values().map(|e| e.used).collect();
            used.sort_unstable_by(|a, b| b.cmp(a));
            let limit = used.get(most).copied().unwrap_or(i64::MIN);
            entries.retain(|_, e| e.used > limit);
        }
        if entries.len() != before {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Saves the cache if it changed since it was loaded: to a new file next to `path`, then by a rename.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = encode(&self.read());
        let written =
            tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path)).and_then(|mut staged| {
                staged.write_all(&bytes)?;
                staged.persist(path).map(drop).map_err(|e| e.error)
            });
        written.map_err(|e| {
            self.changed.store(true, Ordering::Relaxed);
            Error::io("cannot save the cache of file hashes", path, e)
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Key, Remembered>> {
        self.entries.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Key, Remembered>> {
        self.entries.write().unwrap_or_else(|e| e.into_inner())
    }

    fn hash_file_at(
        &self,
        metadata: &Metadata,
        open: &dyn Fn() -> Result<File>,
        now: i64,
    ) -> Result<FileDigest> {
        let key = Key::of(metadata);
        let known = self.read().get(&key).map(|found| (found.digest.clone(), found.used));
        if let Some((digest, used)) = known {
            // The day of the last use is precise enough for pruning; a finer time would rewrite the file on every
            // build.
            if now - used > 86_400
                && let Some(found) = self.write().get_mut(&key)
            {
                found.used = now;
                self.changed.store(true, Ordering::Relaxed);
            }
            return Ok(digest);
        }
        let digest = ReadingHasher.hash_file(metadata, open)?;
        if metadata.ctime.0.max(metadata.mtime.0) + RACY_SECONDS < now {
            self.write().insert(key, Remembered { digest: digest.clone(), used: now });
            self.changed.store(true, Ordering::Relaxed);
        }
        Ok(digest)
    }
}

impl FileHasher for StatCache {
    fn hash_file(&self, metadata: &Metadata, open: &dyn Fn() -> Result<File>) -> Result<FileDigest> {
        // The clock is read before the file, so that a change during hashing is within the racy window.
        self.hash_file_at(metadata, open, now())
    }
}

fn encode(entries: &HashMap<Key, Remembered>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (key, value) in entries {
        out.extend(key.device.to_le_bytes());
        out.extend(key.inode.to_le_bytes());
        for (seconds, nanoseconds) in [key.ctime, key.mtime] {
            out.extend(seconds.to_le_bytes());
            out.extend(nanoseconds.to_le_bytes());
        }
        out.extend(key.size.to_le_bytes());
        out.extend(value.used.to_le_bytes());
        out.extend(value.digest.sha256);
        let capability = value.digest.capability.as_deref().unwrap_or_default();
        out.push(u8::try_from(capability.len()).unwrap_or(0));
        out.extend(&capability[..capability.len().min(255)]);
    }
    let check: [u8; 32] = sha2::Sha256::digest(&out).into();
    out.extend(check);
    out
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn time(&mut self) -> Option<(i64, u32)> {
        Some((i64::from_le_bytes(self.take()?), u32::from_le_bytes(self.take()?)))
    }
}

fn decode(bytes: &[u8]) -> Option<HashMap<Key, Remembered>> {
    let (body, check) = bytes.split_last_chunk::<32>()?;
    let expected: [u8; 32] = sha2::Sha256::digest(body).into();
    if expected != *check {
        return None;
    }
    let mut rest = Bytes(body.strip_prefix(MAGIC)?);
    let mut entries = HashMap::with_capacity(rest.0.len() / ENTRY_SIZE);
    while !rest.0.is_empty() {
        let (device, inode) = (u64::from_le_bytes(rest.take()?), u64::from_le_bytes(rest.take()?));
        let (ctime, mtime) = (rest.time()?, rest.time()?);
        let (size, used) = (u64::from_le_bytes(rest.take()?), i64::from_le_bytes(rest.take()?));
        let sha256 = rest.take()?;
        let length = usize::from(u8::from_le_bytes(rest.take()?));
        let (capability, tail) = rest.0.split_at_checked(length)?;
        rest.0 = tail;
        let capability = (length > 0).then(|| capability.to_vec());
        entries.insert(
            Key { device, inode, ctime, mtime, size },
            Remembered { digest: FileDigest { sha256, capability }, used },
        );
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::copy::{SourceKind, SourceRoot};
    use proptest::prelude::*;

    #[test]
    fn unchanged_files_are_read_once_and_racy_ones_every_time() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "one").unwrap();
        let root = SourceRoot::open(folder.path(), SourceKind::Context, None).unwrap();
        let metadata = root.lookup(b"a").unwrap().unwrap();
        let reads = std::cell::Cell::new(0);
        let open = || {
            reads.set(reads.get() + 1);
            root.open_file(b"a")
        };
        let cache = StatCache::new();
        let time = metadata.ctime.0;
        for (later, expected) in [(0, 1), (2, 2), (3, 3), (3, 3), (100, 3)] {
            cache.hash_file_at(&metadata, &open, time + later).unwrap();
            assert_eq!(reads.get(), expected, "{later} seconds later");
        }

        // The same size and mtime, but another ctime: read again.
        let mtime = std::fs::metadata(folder.path().join("a")).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(15));
        std::fs::write(folder.path().join("a"), "two").unwrap();
        File::options().write(true).open(folder.path().join("a")).unwrap().set_modified(mtime).unwrap();
        let changed = root.lookup(b"a").unwrap().unwrap();
        assert_eq!((changed.mtime, changed.size), (metadata.mtime, metadata.size));
        let digest = cache.hash_file_at(&changed, &open, time + 100).unwrap();
        assert_eq!(digest.digest().unwrap(), Digest::sha256(b"two"));
        assert_eq!(reads.get(), 4);

        let file = folder.path().join("cache");
        cache.save(&file).unwrap();
        let loaded = StatCache::load(&file);
        assert_eq!(loaded.len(), cache.len());
        assert_eq!(loaded.hash_file_at(&changed, &open, time + 101).unwrap(), digest);
        assert_eq!(reads.get(), 4);

        let mut bytes = std::fs::read(&file).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(StatCache::load(&file).is_empty());
        assert!(StatCache::load(&folder.path().join("none")).is_empty());

        loaded.prune(i64::MAX / 2, 1);
        assert!(loaded.len() <= 1);
        loaded.prune(-1000, 10);
        assert!(loaded.is_empty());
    }

    use crate::Digest;

    proptest! {
        #[test]
        fn damaged_files_never_panic(bytes: Vec<u8>, cut in 0usize..200) {
            prop_assert!(decode(&bytes).is_none());
            let mut entries = HashMap::new();
            let key = Key { device: 1, inode: 2, ctime: (3, 4), mtime: (5, 6), size: 7 };
            let digest = FileDigest { sha256: [9; 32], capability: Some(vec![1, 2]) };
            entries.insert(key, Remembered { digest, used: 8 });
            let full = encode(&entries);
            prop_assert_eq!(decode(&full).unwrap().len(), 1);
            prop_assert!(decode(&full[..full.len().saturating_sub(cut + 1)]).is_none());
        }
    }
}
