//! The folder that snapshots live in, shared by processes without a daemon.
//!
//! ```text
//! chains/sha256-HEX   {"id":7,"parent":"sha256:…","boot":"…"}     a committed snapshot; its mtime is its last use;
//!                     with "layer":"sha256:…" other snapshots may share its files;
//!                     SHA-256 of the line before
//! layers/7/           fs/ and a lock file                        the files of a committed snapshot
//! joins/sha256-HEX.1  {"id":9,"below":"sha256:…","boot":"…"}      layers/9 has the files of this snapshot and of those below
//!                     it down to `below`: the number is the level of the join; SHA-256 of the line before
//! active/8/           fs/, work/, binds/ and a lock file          being made or run on; locked while its owner lives;
//!                     fs.lent names the caches in fs/: see [`crate::sandbox::lent`]
//! removed/RANDOM/     the content of such a folder               being removed; locked while its remover lives
//! synced              6                                          layers up to this number are durable
//! settled             see [`settled`]                            what a start need not look at again
//! looked              the boot; its mtime is when a start last read all
//! lock                                                           shared by all users, exclusive for removals
//! numbers             8                                          the last number; also a lock, held while numbers are
//!                     allocated or read
//! ```
//!
//! # Invariants
//! - A number names one folder, in `active` or, after a rename, in `layers`. Numbers are used because mount options
//!   must be short.
//! - The record in `chains` is added last, by a link: the folder that it names is complete.
//! - A folder of `active` and its lock are made while `numbers` is held. So a process that holds `numbers` and finds a
//!   folder without a record, whose lock is free or missing, knows that its owner is dead.
//! - A folder is removed in two steps: it is moved to `removed` under a random name, and its content is removed there.
//! - A number is never reused: cancelled work that is still running finds nothing under its path, so it cannot write to
//!   or remove the files of another snapshot.
//! - Nothing is synced while a build runs. A layer that was not durable when the machine stopped (the boot id differs)
//!   is dropped by the first start of the next boot and can be made again. A start that reads the records (see [`settled`])
//!   syncs layers that are older than a minute.

use crate::sandbox::lent;
use crate::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

mod durable;
mod joins;
mod leftovers;
mod settled;

pub(super) use joins::{MAX_LEVEL, Piece};

/// The longest chain that is followed; no image has more layers.
const MAX_CHAIN: usize = 10_000;

/// The record of a snapshot in `chains`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: u64,
    pub(super) parent: Option<Digest>,
    boot: String,
    /// The name of the layer's own files, if they were unpacked and are not a whole tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<Digest>,
}

impl Record {
    fn to_bytes(&self) -> Vec<u8> {
        checked(self)
    }

    /// The record in a file; `None` when it was changed since it was written.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        unchecked(bytes)
    }
}

/// A value as a line of JSON and its check.
fn checked(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_string(value).expect("plain data");
    format!("{json}\n{}", Digest::sha256(&json).hex()).into_bytes()
}

/// The value of a line with a check; `None` when it was changed since it was written.
fn unchecked<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (json, check) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    (check == Digest::sha256(json).hex()).then(|| serde_json::from_str(json).ok())?
}

/// A folder in `active`, and the lock that is held while its owner lives.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) id: u64,
    pub(super) folder: PathBuf,
    lock: File,
}

/// A folder that was moved to `removed`. No other process removes it while this value lives.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) path: PathBuf,
    _lock: Option<File>,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) root: PathBuf,
    lock: File,
    boot: String,
    known: Mutex<HashMap<Digest, Record>>,
    /// The chains that were found to exist with all their parents. While this process has the folder open, no other one
    /// removes a snapshot.
    whole: Mutex<HashSet<Digest>>,
    /// A number that all folders of earlier processes are up to.
    floor: OnceLock<u64>,
    /// The highest join of each chain, once they are read.
    joins: Mutex<HashMap<Digest, joins::Join>>,
    /// Whether the joins of earlier processes are read.
    joins_are_read: OnceLock<()>,
    /// Whether there are more leftovers than those that were found last.
    has_more: AtomicBool,
}

/// What a start finds in the folder.
#[derive(Debug)]
pub(super) struct Listing {
    /// The records of snapshots.
    pub(super) records: Vec<(Digest, Record)>,
    /// The numbers that records of snapshots and joins name.
    named: BTreeSet<u64>,
}

fn make(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|e| Error::io("cannot make a folder", path, e))
}

fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| Error::io("cannot open a lock file", path, e))
}

fn locked<T>(guard: &Mutex<T>) -> MutexGuard<'_, T> {
    guard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folders {
    /// Opens the folder and makes it if missing. The second value is the folders that dead processes left behind, which
    /// the caller must remove.
    pub(super) fn open(root: &Path) -> Result<(Self, Vec<Removed>)> {
        for name in ["chains", "joins", "layers", "active", "removed"] {
            make(&root.join(name))?;
            crate::private_folder::close_within(&root.join(name))?;
        }
        crate::private_folder::close_within(root)?;
        let root = root.canonicalize().map_err(|e| Error::io("cannot open the snapshots", root, e))?;
        let lock = open_lock(&root.join("lock"))?;
        lock.lock_shared().map_err(|e| Error::io("cannot lock the snapshots", &root, e))?;
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let (known, whole, floor) = (Mutex::default(), Mutex::default(), OnceLock::new());
        let (joins, joins_are_read, has_more) = (Mutex::default(), OnceLock::new(), AtomicBool::new(false));
        let folders = Self { root, lock, boot, known, whole, floor, joins, joins_are_read, has_more };
        let held = folders.hold_numbers()?;
        let state = folders.state();
        let leftovers = if folders.is_settled(state.as_ref()) || folders.was_read_lately() {
            folders.clean(None)?
        } else {
            let (listing, leftovers) = folders.read_and_clean()?;
            folders.sync_listed(&listing);
            folders.settle(state, &listing);
            folders.note_reading();
            leftovers
        };
        drop(held);
        Ok((folders, leftovers))
    }

    /// Reads all records and puts in order what dead processes and a power cut left. The second value is the folders that
    /// are to be removed. The caller holds the numbers.
    fn read_and_clean(&self) -> Result<(Listing, Vec<Removed>)> {
        let listing = self.read_all()?;
        let leftovers = self.clean(Some(&listing))?;
        Ok((listing, leftovers))
    }

    /// All records. The second value is the first folders that dead processes left behind, which the caller must remove: they
    /// are looked for also where a start did so a moment ago. [`Self::more_leftovers`] are the others.
    pub(super) fn look_again(&self) -> Result<(Listing, Vec<Removed>)> {
        let _held = self.hold_numbers()?;
        self.read_and_clean()
    }

    fn numbers(&self, of: &str) -> Result<BTreeSet<u64>> {
        let folder = self.root.join(of);
        let entries =
            std::fs::read_dir(&folder).map_err(|e| Error::io("cannot read a folder", &folder, e))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Locks the numbers: while the result lives, no other process or thread allocates or reads one.
    pub(super) fn hold_numbers(&self) -> Result<File> {
        let path = self.root.join("numbers");
        let held = open_lock(&path)?;
        held.lock().map_err(|e| Error::io("cannot lock the snapshots", &path, e))?;
        Ok(held)
    }

    /// Reads all records. Those whose files are missing or may not be durable are dropped: their snapshots are made again.
    fn read_all(&self) -> Result<Listing> {
        let synced = self.synced();
        let mut listing = Listing { records: Vec::new(), named: BTreeSet::new() };
        for (chain, record) in self.list()? {
            let is_there = self.files(record.id).is_dir();
            if is_there && (record.boot == self.boot || record.id <= synced) {
                listing.named.insert(record.id);
                listing.records.push((chain, record));
            } else {
                self.forget(&chain)?;
            }
        }
        listing.named.extend(self.read_joins()?);
        Ok(listing)
    }

    /// Moves a folder to `removed`.
    fn set_aside(&self, folder: &Path, lock: Option<File>) -> Result<Removed> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let failed = |e| Error::io("cannot move a folder", folder, e);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The time makes a name that an earlier process with the same number did not use.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let name = format!("{}-{number}-{time}", std::process::id());
        let path = self.root.join("removed").join(name);
        std::fs::rename(folder, &path).map_err(failed)?;
        Ok(Removed { path, _lock: lock })
    }

    /// Moves the work folder of a committed chain to `removed`.
    pub(super) fn set_work_aside(&self, chain: &Digest) -> Result<Option<Removed>> {
        let Some(record) = self.record(chain)? else { return Ok(None) };
        let Some(work) = self.files(record.id).parent().map(|folder| folder.join("work")) else {
            return Ok(None);
        };
        match self.set_aside(&work, None) {
            Ok(removed) => Ok(Some(removed)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Moves a folder that was never committed to `removed`. Waits for the end of a step that still uses it.
    pub(super) fn give_up(&self, claim: Claim) -> Result<Removed> {
        let _in_order = self.put_in_order(&claim.folder, true)?;
        self.set_aside(&claim.folder, Some(claim.lock))
    }

    /// The same without waiting: the inner error is the folder of a step that still ends.
    pub(super) fn try_give_up(&self, claim: Claim) -> Result<std::result::Result<Removed, Claim>> {
        match self.put_in_order(&claim.folder, false)? {
            Some(_in_order) => self.set_aside(&claim.folder, Some(claim.lock)).map(Ok),
            None => Ok(Err(claim)),
        }
    }

    /// Moves home the caches that a step left in a folder of `active`, and keeps steps away from it. `None` while one is
    /// ending there.
    fn put_in_order(&self, folder: &Path, wait: bool) -> Result<Option<OwnedFd>> {
        let lock = lent::lock(folder, wait)?;
        if lock.is_some() {
            lent::put_back(&folder.join("fs"))?;
        }
        Ok(lock)
    }

    /// Moves the folder of a number without a record to `removed`.
    pub(super) fn retire(&self, id: u64) -> Result<Removed> {
        self.set_aside(&self.root.join("layers").join(id.to_string()), None)
    }

    /// The highest number up to which all layers are known to be durable.
    fn synced(&self) -> u64 {
        self.number_in("synced")
    }

    /// The last number that was allocated.
    fn last_given(&self) -> u64 {
        self.number_in("numbers")
    }

    /// The number in a file; 0 without one.
    fn number_in(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.root.join(name));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn record_path(&self, chain: &Digest) -> PathBuf {
        self.root.join("chains").join(chain.as_str().replace(':', "-"))
    }

    /// The record of a chain.
    pub(super) fn record(&self, chain: &Digest) -> Result<Option<Record>> {
        if let Some(record) = locked(&self.known).get(chain) {
            return Ok(Some(record.clone()));
        }
        let path = self.record_path(chain);
        match std::fs::read(&path) {
            Ok(bytes) => match Record::from_bytes(&bytes) {
                Some(record) => {
                    locked(&self.known).insert(chain.clone(), record.clone());
                    Ok(Some(record))
                }
                // The snapshot is made again, and a later start removes the old folder.
                None => self.forget(chain).map(|()| None),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("cannot read the record of a snapshot", path, e)),
        }
    }

    /// Whether a chain and all its parents exist. Records of missing folders are dropped, so that they are made again.
    pub(super) fn is_whole(&self, chain: &Digest) -> Result<bool> {
        let is_there = |record: &Record| self.files(record.id).is_dir();
        let mut next = Some(chain.clone());
        let mut seen = Vec::new();
        while let Some(chain) = next {
            let mut found = self.record(&chain)?;
            if found.as_ref().is_some_and(|record| !is_there(record)) {
                // Another process may have made it again meanwhile.
                locked(&self.known).remove(&chain);
                found = self.record(&chain)?.filter(is_there);
                if found.is_none() {
                    return self.forget(&chain).map(|()| false);
                }
            }
            let Some(record) = found else { return Ok(false) };
            next = record.parent.filter(|parent| !locked(&self.whole).contains(parent));
            seen.push(chain);
            if seen.len() > MAX_CHAIN {
                return Ok(false);
            }
        }
        locked(&self.whole).extend(seen);
        Ok(true)
    }

    /// The folder with the files of a committed snapshot.
    pub(super) fn files(&self, id: u64) -> PathBuf {
        self.root.join("layers").join(id.to_string()).join("fs")
    }

    /// Sets the time of last use of a chain to now.
    pub(super) fn touch(&self, chain: &Digest) {
        let times = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
        if let Ok(file) = File::options().write(true).open(self.record_path(chain)) {
            // An error is ignored: only the order of a later clean-up depends on it.
            file.set_times(times).ok();
        }
    }

    /// Makes a new folder in `active`, with an empty `fs` and `work`.
    pub(super) fn claim(&self) -> Result<Claim> {
        let held = self.hold_numbers()?;
        let floor = match self.floor.get() {
            Some(floor) => *floor,
            None => {
                // A power cut can lose the file of numbers, but not the folders.
                let last = |of| Ok::<_, Error>(self.numbers(of)?.last().copied().unwrap_or(0));
                // `active` is read first: a commit moves a folder from there to `layers`.
                let last = last("active")?.max(last("layers")?).max(self.synced());
                *self.floor.get_or_init(|| last)
            }
        };
        let id = floor.max(self.last_given()) + 1;
        // The text always has the same length: to make a file shorter costs more than all else here on some disks.
        held.write_all_at(format!("{id:020}\n").as_bytes(), 0).map_err(|e| {
            Error::io("cannot allocate a number for a snapshot", self.root.join("numbers"), e)
        })?;
        let folder = self.root.join("active").join(id.to_string());
        DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .map_err(|e| Error::io("cannot make a folder", &folder, e))?;
        let lock = open_lock(&folder.join("lock"))?;
        lock.try_lock().map_err(|e| Error::io("cannot lock a folder", &folder, e.into()))?;
        make(&folder.join("fs"))?;
        make(&folder.join("work"))?;
        Ok(Claim { id, folder, lock })
    }

    /// Turns a claimed folder into the committed `chain`. Returns the folder if the chain existed already.
    pub(super) fn commit(
        &self,
        claim: Claim,
        parent: Option<&Digest>,
        chain: &Digest,
        layer: Option<Digest>,
    ) -> Result<Option<Removed>> {
        let id = claim.id;
        let folder = self.root.join("layers").join(id.to_string());
        std::fs::rename(&claim.folder, &folder)
            .map_err(|e| Error::io("cannot commit a snapshot", &folder, e))?;
        let record = Record { id, parent: parent.cloned(), boot: self.boot.clone(), layer };
        let path = self.record_path(chain);
        let fresh = folder.join("record");
        std::fs::write(&fresh, record.to_bytes())
            .map_err(|e| Error::io("cannot write the record of a snapshot", &fresh, e))?;
        // A link fails when the name exists; a rename would replace it.
        match std::fs::hard_link(&fresh, &path) {
            Ok(()) => {
                locked(&self.known).insert(chain.clone(), record);
                Ok(None)
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                self.set_aside(&folder, Some(claim.lock)).map(Some)
            }
            Err(e) => Err(Error::io("cannot write the record of a snapshot", path, e)),
        }
    }

    /// Records the files with the name `layer` as `chain` on another parent. Returns whether there are such files.
    pub(super) fn share(&self, parent: Option<&Digest>, chain: &Digest, layer: &Digest) -> Result<bool> {
        let list = self.list()?;
        let twin = list.into_iter().find(|(_, record)| record.layer.as_ref() == Some(layer));
        let Some((_, twin)) = twin.filter(|(_, record)| self.files(record.id).is_dir()) else {
            return Ok(false);
        };
        let record = Record { parent: parent.cloned(), ..twin };
        let path = self.record_path(chain);
        let written = tempfile::NamedTempFile::new_in(&self.root).and_then(|mut fresh| {
            fresh.write_all(&record.to_bytes())?;
            fresh.persist_noclobber(&path).map(drop).map_err(|e| e.error)
        });
        match written {
            Ok(()) => {
                locked(&self.known).insert(chain.clone(), record);
                Ok(true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(true),
            Err(e) => Err(Error::io("cannot write the record of a snapshot", path, e)),
        }
    }

    /// All records. A record that a power cut damaged is removed: its snapshot is made again.
    pub(super) fn list(&self) -> Result<Vec<(Digest, Record)>> {
        let folder = self.root.join("chains");
        let entries =
            std::fs::read_dir(&folder).map_err(|e| Error::io("cannot read a folder", &folder, e))?;
        let mut list = Vec::new();
        for entry in entries.flatten() {
            let Some(chain) =
                entry.file_name().to_str().and_then(|name| name.replacen('-', ":", 1).parse::<Digest>().ok())
            else {
                continue;
            };
            let Ok(bytes) = std::fs::read(entry.path()) else { continue };
            match Record::from_bytes(&bytes) {
                Some(record) => list.push((chain, record)),
                // Records are added complete, so this one is damaged.
                None => self.forget(&chain)?,
            }
        }
        Ok(list)
    }

    /// When a chain was last used, in seconds since 1970.
    pub(super) fn used(&self, chain: &Digest) -> i64 {
        rustix::fs::stat(self.record_path(chain)).map_or(0, |stat| stat.st_mtime)
    }

    /// Removes the record of a chain; its folder stays without a name.
    pub(super) fn forget(&self, chain: &Digest) -> Result<()> {
        locked(&self.known).remove(chain);
        // Those above it are not whole any more.
        locked(&self.whole).clear();
        self.forget_joins(chain)?;
        let path = self.record_path(chain);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("cannot remove the record of a snapshot", path, e))
            }
            _ => Ok(()),
        }
    }

    /// Runs `work` while no other process uses the folder.
    pub(super) fn exclusively<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let failed = |e| Error::io("cannot lock the snapshots", &self.root, e);
        match self.lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                self.lock.lock_shared().map_err(failed)?;
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "another process is using the snapshots: try again after it has ended",
                )
                .with_context("path", self.root.display()));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let result = work();
        self.lock.lock_shared().map_err(failed)?;
        result
    }
}

#[cfg(test)]
mod tests;
