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
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: &[u8] = b"hyper stat cache 1\n";
/// How long a file must be unchanged before its hash is cached.
const RACY_SECONDS: i64 = 2;
/// The bytes of an entry without a capability.
const ENTRY_SIZE: usize = 89;
/// The bytes of an entry that say which file it is of.
const KEY_SIZE: usize = 48;
const CHECK_SIZE: usize = 32;
/// A larger file is damaged: no build keeps so many entries.
const MAX_FILE: u64 = 256 << 20;
const BUFFER: usize = 128 << 10;

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

#[derive(Clone, Debug, PartialEq)]
struct Remembered {
    digest: FileDigest,
    used: i64,
}

/// A [`FileHasher`] with a cache. Threads can share it. Only one process at a time should save a file.
#[derive(Debug, Default)]
pub(crate) struct StatCache {
    entries: RwLock<Entries>,
    changed: AtomicBool,
}

/// The entries, in the form of the file: hundreds of thousands of them take little more memory than the file.
#[derive(Debug, Default)]
struct Entries {
    /// Entries of the file, each without the byte for the length of a capability.
    packed: Vec<[u8; ENTRY_SIZE - 1]>,
    /// The numbers of entries, by the hash of their keys, each plus one; 0 for an empty place. No more than three of four
    /// places are in use.
    places: Vec<u32>,
    /// The capabilities that few files have, by the number of the entry.
    capabilities: HashMap<u32, Vec<u8>>,
    hasher: RandomState,
}

impl Entries {
    fn len(&self) -> usize {
        self.packed.len()
    }

    /// The place of a key: where its number is, or an empty one. There must be places.
    fn place(&self, key: &[u8]) -> usize {
        let mask = self.places.len() - 1;
        let mut place = self.hasher.hash_one(key) as usize & mask;
        while let Some(at) = self.places[place].checked_sub(1) {
            if self.packed[at as usize][..KEY_SIZE] == *key {
                break;
            }
            place = (place + 1) & mask;
        }
        place
    }

    fn find(&self, key: &Key) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        self.places[self.place(&packed_key(key))].checked_sub(1)
    }

    fn get(&self, key: &Key) -> Option<Remembered> {
        self.find(key).map(|at| self.read(at))
    }

    fn read(&self, at: u32) -> Remembered {
        let mut rest = Bytes(&self.packed[at as usize][KEY_SIZE..]);
        let used = rest.take().map_or(0, i64::from_le_bytes);
        let sha256 = rest.take().unwrap_or_default();
        Remembered { digest: FileDigest { sha256, capability: self.capabilities.get(&at).cloned() }, used }
    }

    fn used(&self, at: u32) -> i64 {
        Bytes(&self.packed[at as usize][KEY_SIZE..]).take().map_or(0, i64::from_le_bytes)
    }

    fn set_used(&mut self, key: &Key, used: i64) {
        if let Some(at) = self.find(key) {
            self.packed[at as usize][KEY_SIZE..KEY_SIZE + 8].copy_from_slice(&used.to_le_bytes());
        }
    }

    fn insert(&mut self, key: &Key, value: &Remembered) {
        let mut packed = [0; ENTRY_SIZE - 1];
        packed[..KEY_SIZE].copy_from_slice(&packed_key(key));
        packed[KEY_SIZE..KEY_SIZE + 8].copy_from_slice(&value.used.to_le_bytes());
        packed[KEY_SIZE + 8..].copy_from_slice(&value.digest.sha256);
        self.insert_packed(packed, value.digest.capability.as_deref());
    }

    fn insert_packed(&mut self, packed: [u8; ENTRY_SIZE - 1], capability: Option<&[u8]>) {
        self.make_room(1);
        let place = self.place(&packed[..KEY_SIZE]);
        let at = match self.places[place].checked_sub(1) {
            Some(at) => {
                self.packed[at as usize] = packed;
                self.capabilities.remove(&at);
                at
            }
            None => {
                // 4 billion entries would take 350 GB.
                let Ok(number) = u32::try_from(self.packed.len() + 1) else { return };
                self.packed.push(packed);
                self.places[place] = number;
                number - 1
            }
        };
        if let Some(capability) = capability {
            self.capabilities.insert(at, capability.to_vec());
        }
    }

    /// Makes places for more entries.
    fn make_room(&mut self, more: usize) {
        let wanted = (self.packed.len() + more) * 4;
        if wanted <= self.places.len() * 3 {
            return;
        }
        self.places = vec![0; (wanted / 3 + 1).next_power_of_two().max(64)];
        for (number, packed) in (1..).zip(&self.packed) {
            let place = self.place(&packed[..KEY_SIZE]);
            self.places[place] = number;
        }
    }

    /// Keeps the entries whose time of last use is wanted.
    fn retain(&mut self, wanted: impl Fn(i64) -> bool) {
        let mut kept = Self::default();
        for at in 0..self.packed.len() as u32 {
            if wanted(self.used(at)) {
                kept.insert_packed(self.packed[at as usize], self.capabilities.get(&at).map(Vec::as_slice));
            }
        }
        *self = kept;
    }
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
        let entries = File::open(path).ok().and_then(|file| {
            let size = file.metadata().ok()?.len();
            decode(BufReader::with_capacity(BUFFER, file), size)
        });
        Self { entries: RwLock::new(entries.unwrap_or_default()), changed: AtomicBool::new(false) }
    }

    /// The number of cached files.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether the cache is empty.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.read().len() == 0
    }

    /// Removes entries that were not used for `seconds`, then the least recently used ones beyond `most` entries.
    pub(crate) fn prune(&self, seconds: i64, most: usize) {
        let oldest = now() - seconds;
        let mut used: Vec<i64> = {
            let entries = self.read();
            let used: Vec<i64> = (0..entries.len() as u32).map(|at| entries.used(at)).collect();
            if used.len() <= most && used.iter().all(|used| *used >= oldest) {
                return;
            }
            used
        };
        used.retain(|used| *used >= oldest);
        used.sort_unstable_by(|a, b| b.cmp(a));
        let limit = used.get(most).copied().unwrap_or(i64::MIN);
        let is_full = used.len() > most;
        self.write().retain(|used| used >= oldest && (!is_full || used > limit));
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Saves the cache if it changed since it was loaded: to a new file next to `path`, then by a rename.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let written =
            tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path)).and_then(|mut staged| {
                encode(&self.read(), &mut staged)?;
                staged.persist(path).map(drop).map_err(|e| e.error)
            });
        written.map_err(|e| {
            self.changed.store(true, Ordering::Relaxed);
            Error::io("cannot save the cache of file hashes", path, e)
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(|e| e.into_inner())
    }

    fn hash_file_at(
        &self,
        metadata: &Metadata,
        open: &dyn Fn() -> Result<File>,
        now: i64,
    ) -> Result<FileDigest> {
        let key = Key::of(metadata);
        let known = self.read().get(&key);
        if let Some(Remembered { digest, used }) = known {
            // The day of the last use is precise enough for pruning; a finer time would rewrite the file on every
            // build.
            if now - used > 86_400 {
                self.write().set_used(&key, now);
                self.changed.store(true, Ordering::Relaxed);
            }
            return Ok(digest);
        }
        let digest = ReadingHasher.hash_file(metadata, open)?;
        if metadata.ctime.0.max(metadata.mtime.0) + RACY_SECONDS < now {
            self.write().insert(&key, &Remembered { digest: digest.clone(), used: now });
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

fn packed_key(key: &Key) -> [u8; KEY_SIZE] {
    let mut packed = [0; KEY_SIZE];
    packed[..8].copy_from_slice(&key.device.to_le_bytes());
    packed[8..16].copy_from_slice(&key.inode.to_le_bytes());
    for (at, (seconds, nanoseconds)) in [(16, key.ctime), (28, key.mtime)] {
        packed[at..at + 8].copy_from_slice(&seconds.to_le_bytes());
        packed[at + 8..at + 12].copy_from_slice(&nanoseconds.to_le_bytes());
    }
    packed[40..].copy_from_slice(&key.size.to_le_bytes());
    packed
}

/// Writes the file in pieces, so that the whole is never in memory.
fn encode(entries: &Entries, to: &mut impl Write) -> std::io::Result<()> {
    let mut check = sha2::Sha256::new();
    let mut piece = MAGIC.to_vec();
    for (at, packed) in (0..).zip(&entries.packed) {
        piece.extend(packed);
        let capability = entries.capabilities.get(&at).map_or(&[][..], Vec::as_slice);
        piece.push(u8::try_from(capability.len()).unwrap_or(0));
        // One that is longer is left out, which makes the entry one of a file without it.
        piece.extend(Some(capability).filter(|bytes| bytes.len() <= 255).unwrap_or_default());
        if piece.len() >= BUFFER {
            check.update(&piece);
            to.write_all(&piece)?;
            piece.clear();
        }
    }
    check.update(&piece);
    piece.extend(check.finalize());
    to.write_all(&piece)
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }
}

/// Reads a file of this size in pieces; `None` when it is damaged.
fn decode(mut file: impl Read, size: u64) -> Option<Entries> {
    let mut left = size.checked_sub((MAGIC.len() + CHECK_SIZE) as u64)?;
    let mut check = sha2::Sha256::new();
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic).ok()?;
    check.update(magic);
    if magic != MAGIC {
        return None;
    }
    if left > MAX_FILE {
        return None;
    }
    let mut entries = Entries::default();
    let count = usize::try_from(left).ok()? / ENTRY_SIZE;
    entries.packed.try_reserve_exact(count).ok()?;
    entries.make_room(count);
    let mut packed = [0; ENTRY_SIZE];
    let mut capability = [0; 255];
    while left > 0 {
        file.read_exact(&mut packed).ok()?;
        check.update(packed);
        let (entry, length) = packed.split_last_chunk::<1>()?;
        let capability = &mut capability[..usize::from(length[0])];
        file.read_exact(capability).ok()?;
        check.update(&*capability);
        left = left.checked_sub((ENTRY_SIZE + capability.len()) as u64)?;
        let capability = Some(&*capability).filter(|capability| !capability.is_empty());
        entries.insert_packed(entry.try_into().ok()?, capability);
    }
    let mut expected = [0; CHECK_SIZE];
    file.read_exact(&mut expected).ok()?;
    let ends = file.read(&mut [0]).ok()? == 0;
    (ends && check.finalize()[..] == expected).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::copy::{SourceKind, SourceRoot};
    use proptest::prelude::*;

    #[test]
    fn a_file_of_a_size_that_no_cache_has_is_an_empty_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        for size in [MAX_FILE + 1000, 1 << 40] {
            std::fs::write(&path, MAGIC).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
            assert!(StatCache::load(&path).is_empty());
        }
    }

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

    fn encoded(entries: &Entries) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(entries, &mut bytes).unwrap();
        bytes
    }

    fn decoded(bytes: &[u8]) -> Option<Entries> {
        decode(bytes, bytes.len() as u64)
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_so_is_its_file(
            changes in prop::collection::vec((0..90_u64, 0..3_i64, 0..40_i64, 0..3_u8), 0..200),
            oldest in 0..40_i64,
        ) {
            let (mut entries, mut model) = (Entries::default(), HashMap::new());
            for (inode, seconds, used, kind) in changes {
                let key = Key { device: 1, inode, ctime: (seconds, 4), mtime: (5, 6), size: 7 };
                if kind == 0 {
                    entries.set_used(&key, used);
                    if let Some(found) = model.get_mut(&key) {
                        let found: &mut Remembered = found;
                        found.used = used;
                    }
                    continue;
                }
                let capability = (kind == 1 && used % 3 == 0).then(|| vec![used as u8; used as usize + 1]);
                let value = Remembered { digest: FileDigest { sha256: [used as u8; 32], capability }, used };
                entries.insert(&key, &value);
                model.insert(key, value);
            }
            entries.retain(|used| used >= oldest);
            model.retain(|_, found| found.used >= oldest);
            for entries in [&entries, &decoded(&encoded(&entries)).unwrap()] {
                prop_assert_eq!(entries.len(), model.len());
                for inode in 0..90 {
                    for seconds in 0..3 {
                        let key = Key { device: 1, inode, ctime: (seconds, 4), mtime: (5, 6), size: 7 };
                        prop_assert_eq!(entries.get(&key), model.get(&key).cloned());
                    }
                }
            }
        }

        #[test]
        fn damaged_files_never_panic(bytes: Vec<u8>, cut in 0usize..200, at: prop::sample::Index) {
            prop_assert!(decoded(&bytes).is_none());
            let mut entries = Entries::default();
            let key = Key { device: 1, inode: 2, ctime: (3, 4), mtime: (5, 6), size: 7 };
            let digest = FileDigest { sha256: [9; 32], capability: Some(vec![1, 2]) };
            entries.insert(&key, &Remembered { digest, used: 8 });
            let mut full = encoded(&entries);
            prop_assert_eq!(decoded(&full).unwrap().len(), 1);
            prop_assert!(decoded(&full[..full.len().saturating_sub(cut + 1)]).is_none());
            // A false size is no reason to believe more.
            prop_assert!(decode(&full[..], full.len() as u64 - 1).is_none());
            let at = at.index(full.len());
            full[at] ^= 1;
            prop_assert!(decoded(&full).is_none());
        }
    }

    /// The bytes of the file are those of earlier versions.
    #[test]
    fn the_format_of_the_file_stays() {
        let mut entries = Entries::default();
        let key = Key { device: 1, inode: 2, ctime: (3, 4), mtime: (5, 6), size: 7 };
        let digest = FileDigest { sha256: [9; 32], capability: Some(vec![1, 2]) };
        entries.insert(&key, &Remembered { digest, used: 8 });
        let mut expected = MAGIC.to_vec();
        for number in [1, 2] {
            expected.extend(u64::to_le_bytes(number));
        }
        for (seconds, nanoseconds) in [(3_i64, 4_u32), (5, 6)] {
            expected.extend(seconds.to_le_bytes());
            expected.extend(nanoseconds.to_le_bytes());
        }
        expected.extend(7_u64.to_le_bytes());
        expected.extend(8_i64.to_le_bytes());
        expected.extend([9; 32]);
        expected.extend([2, 1, 2]);
        let check = sha2::Sha256::digest(&expected);
        expected.extend(check);
        assert_eq!(encoded(&entries), expected);
    }
}
