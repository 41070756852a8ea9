//! The source of copied files: a directory that is never left, whatever links it contains.
//!
//! # Invariants
//! - Every access starts at one directory handle and fails on links (`openat2` with `RESOLVE_BENEATH` and
//!   `RESOLVE_NO_SYMLINKS`, or one `openat` for each part if the kernel lacks it). Only [`SourceRoot::resolve`] follows
//!   links: it reads them and treats the directory as the root of all paths.
//! - Files that the filter drops do not exist: neither in lookups nor in listings nor through links.

use super::listing::Listing;
use super::metadata::{Metadata, join};
use super::pattern::clean;
use crate::layer::FileTime;
use crate::layer::entry::escape;
use crate::layer::open_resolved;
use crate::{Error, ErrorKind, Result};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// The decision of a filter about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterDecision {
    /// The path exists.
    Keep,
    /// Neither the path nor anything below it exists.
    Drop,
    /// The path is a directory that exists only if something below it is kept.
    DropUnlessNeeded,
}

/// Decides which files of a build context exist, such as its `.dockerignore`.
pub(crate) trait PathFilter: Send + Sync + fmt::Debug {
    /// Decides about a path relative to the context. Its parents were not dropped.
    fn decide(&self, path: &[u8], is_directory: bool) -> FilterDecision;
}

/// The kind of a source, which determines the owners of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceKind {
    /// A build context on the user's machine: its owners are ignored, and every file belongs to root.
    Context,
    /// A root file system of an image: owners are kept.
    RootFilesystem,
}

/// Returns the owner of a name in a directory (or of the directory itself if the name is empty), given the status that
/// the file system reports; `None` if that status is right.
pub(crate) type SourceOwners = dyn Fn(BorrowedFd<'_>, &[u8], &fs::Stat) -> Option<(u32, u32)> + Send + Sync;

/// A directory to copy from.
pub(crate) struct SourceRoot {
    directory: OwnedFd,
    path: PathBuf,
    kind: SourceKind,
    filter: Option<Arc<dyn PathFilter>>,
    owners: Option<Box<SourceOwners>>,
    needed: Mutex<HashMap<Vec<u8>, bool>>,
    remembered: Mutex<Option<Remembered>>,
    fetched: OnceLock<FileTime>,
}

/// Listings that are used again.
struct Remembered {
    since: Instant,
    listings: HashMap<Vec<u8>, Arc<Listing>>,
}

impl fmt::Debug for SourceRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceRoot")
            .field("path", &self.path)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

const MAX_LINKS: usize = 255;

impl SourceRoot {
    /// Opens a directory; `filter` decides what exists in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] when the directory cannot be opened.
    pub(crate) fn open(path: &Path, kind: SourceKind, filter: Option<Arc<dyn PathFilter>>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(path, flags, Mode::empty())
            .map_err(|e| Error::io("cannot open the folder to copy from", path, e.into()))?;
        let (path, needed, remembered) = (path.to_owned(), Mutex::default(), Mutex::default());
        Ok(Self { directory, path, kind, filter, owners: None, needed, remembered, fetched: OnceLock::new() })
    }

    /// Takes the owners of a root file system from records.
    pub(crate) fn with_owners(mut self, owners: Box<SourceOwners>) -> Self {
        self.owners = Some(owners);
        self
    }

    /// The directory, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of the source.
    pub(crate) fn kind(&self) -> SourceKind {
        self.kind
    }

    /// Marks the files as fetched when the folder was put in place, since their own times are from elsewhere.
    pub(crate) fn mark_fetched(&self) {
        if let Ok(metadata) = self.metadata_at(self.directory.as_fd(), b"") {
            let (seconds, nanoseconds) = metadata.ctime;
            self.fetched.get_or_init(|| FileTime { seconds, nanoseconds });
        }
    }

    /// When the files were fetched, if marked.
    pub(super) fn fetched(&self) -> Option<FileTime> {
        self.fetched.get().copied()
    }

    fn error(&self, message: &str, path: &[u8], errno: Errno) -> Error {
        Error::io(message, self.path.join(OsStr::from_bytes(path)), errno.into())
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let name: &[u8] = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match open_resolved(&self.directory, OsStr::from_bytes(name), flags, resolve) {
            // Seccomp filters of container engines return EPERM for calls that they do not know.
            Err(Errno::NOSYS | Errno::PERM) => {}
            other => return other,
        }
        let mut at = fs::openat(&self.directory, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut parts = name.split(|&b| b == b'/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return fs::openat(&at, part, flags, Mode::empty());
            }
            let walk = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            at = fs::openat(&at, part, walk, Mode::empty())?;
        }
        Ok(at)
    }

    fn metadata_at(&self, directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Metadata> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = fs::statat(directory, OsStr::from_bytes(name), flags)?;
        let (uid, gid) = match self.kind {
            SourceKind::Context => (0, 0),
            SourceKind::RootFilesystem => {
                let recorded = self.owners.as_ref().and_then(|owners| owners(directory, name, &stat));
                recorded.unwrap_or((stat.st_uid, stat.st_gid))
            }
        };
        Ok(Metadata {
            file_type: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            device: stat.st_dev,
            inode: stat.st_ino,
            links: nlink(&stat),
            special: stat.st_rdev,
            mtime: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        })
    }

    /// Looks up a path without following any link; `None` when it does not exist or the filter drops it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] for any other error of the system.
    pub(crate) fn lookup(&self, path: &[u8]) -> Result<Option<Metadata>> {
        let found = self.lookup_unfiltered(path)?;
        match found {
            Some(metadata) if self.exists(path, &metadata)? => Ok(Some(metadata)),
            _ => Ok(None),
        }
    }

    fn lookup_unfiltered(&self, path: &[u8]) -> Result<Option<Metadata>> {
        match self.open_at(path, OFlags::PATH).and_then(|fd| self.metadata_at(fd.as_fd(), b"")) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
            Err(e) => Err(self.error("cannot stat the file to copy", path, e)),
        }
    }

    /// Whether the path exists in the directory although the filter drops it.
    pub(crate) fn is_filtered_out(&self, path: &[u8]) -> bool {
        let path = clean(path);
        matches!(self.lookup(&path), Ok(None)) && matches!(self.lookup_unfiltered(&path), Ok(Some(_)))
    }

    /// Whether the filter keeps an existing path and all its parents.
    fn exists(&self, path: &[u8], metadata: &Metadata) -> Result<bool> {
        let Some(filter) = &self.filter else { return Ok(true) };
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            if filter.decide(&path[..at], true) == FilterDecision::Drop {
                return Ok(false);
            }
        }
        if path.is_empty() { Ok(true) } else { self.passes(path, metadata.is_directory()) }
    }

    fn passes(&self, path: &[u8], is_directory: bool) -> Result<bool> {
        let Some(filter) = &self.filter else { return Ok(true) };
        match filter.decide(path, is_directory) {
            FilterDecision::Keep => Ok(true),
            FilterDecision::Drop => Ok(false),
            FilterDecision::DropUnlessNeeded if !is_directory => Ok(false),
            FilterDecision::DropUnlessNeeded => {
                if let Some(known) = self.needed.lock().unwrap_or_else(|e| e.into_inner()).get(path) {
                    return Ok(*known);
                }
                let mut needed = false;
                for (name, metadata) in self.raw_list(path)?.iter() {
                    if self.passes(&join(path, name), metadata.is_directory())? {
                        needed = true;
                        break;
                    }
                }
                self.needed.lock().unwrap_or_else(|e| e.into_inner()).insert(path.to_vec(), needed);
                Ok(needed)
            }
        }
    }

    fn raw_list(&self, path: &[u8]) -> Result<Listing> {
        let failed = |e| self.error("cannot list the folder to copy", path, e);
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let mut list = Listing::new(path);
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match self.metadata_at(directory.as_fd(), name) {
                Ok(metadata) => list.push(name, &metadata),
                // The file was removed after the listing, so it is ignored.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(self.error("cannot stat the file to copy", &join(path, name), e)),
            }
        }
        Ok(list)
    }

    /// Caches listings from now on: each directory is read once. This saves time for repeated walks, costs memory and
    /// does not see later changes.
    pub(crate) fn remember_listings(&self) {
        let mut remembered = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        remembered.get_or_insert_with(|| Remembered { since: Instant::now(), listings: HashMap::new() });
    }

    /// Since when listings may have been cached, if they are.
    pub(crate) fn listed_since(&self) -> Option<Instant> {
        let remembered = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        remembered.as_ref().map(|remembered| remembered.since)
    }

    /// Stops caching listings and drops the cached ones.
    pub(crate) fn forget_listings(&self) {
        self.remembered.lock().unwrap_or_else(|e| e.into_inner()).take();
        self.needed.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// Lists the files that exist in a directory, sorted by name.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the directory cannot be read.
    pub(crate) fn list(&self, path: &[u8]) -> Result<Arc<Listing>> {
        let remembered = || self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(listing) = remembered().as_ref().and_then(|known| known.listings.get(path)) {
            return Ok(Arc::clone(listing));
        }
        let listing = Arc::new(self.fresh_list(path)?);
        if let Some(known) = remembered().as_mut() {
            known.listings.insert(path.to_vec(), Arc::clone(&listing));
        }
        Ok(listing)
    }

    /// Lists a directory and everything below it with `threads` threads, by path. Errors are ignored here; a later listing
    /// reports them.
    pub(super) fn read_ahead(&self, path: &[u8], threads: usize) -> HashMap<Vec<u8>, Arc<Listing>> {
        let mut listings = HashMap::new();
        let mut level = vec![path.to_vec()];
        while !level.is_empty() {
            let next = AtomicUsize::new(0);
            let work = || {
                let mut read = Vec::new();
                while let Some(directory) = level.get(next.fetch_add(1, Ordering::Relaxed)) {
                    read.extend(self.list(directory).ok().map(|listing| (directory.clone(), listing)));
                }
                read
            };
            // A thread costs as much as a few directories.
            let others = threads.min(level.len() / 8 + 1) - 1;
            let found = std::thread::scope(|scope| {
                let others: Vec<_> = (0..others)
                    .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
                    .collect();
                let mut found = work();
                found.extend(others.into_iter().filter_map(|other| other.join().ok()).flatten());
                found
            });
            let below = found.iter().flat_map(|(directory, listing)| {
                let directories = listing.iter().filter(|(_, metadata)| metadata.is_directory());
                directories.map(|(name, _)| join(directory, name))
            });
            level = below.collect();
            listings.extend(found);
        }
        listings
    }

    fn fresh_list(&self, path: &[u8]) -> Result<Listing> {
        self.raw_list(path)?.finish(|name, metadata| {
            if self.filter.is_none() {
                return Ok(true);
            }
            self.passes(&join(path, name), metadata.is_directory())
        })
    }

    /// The text of a link.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it is not a link any more.
    pub(crate) fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.open_at(path, OFlags::PATH)
            .and_then(|fd| fs::readlinkat(fd, "", Vec::new()))
            .map(|target| target.into_bytes())
            .map_err(|e| self.error("cannot read the link to copy", path, e))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be opened, [`ErrorKind::Conflict`] when it is not a regular file any more.
    pub(crate) fn open_file(&self, path: &[u8]) -> Result<File> {
        let file = self
            .open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            .map_err(|e| self.error("cannot open the file to copy", path, e))?;
        let metadata = self
            .metadata_at(file.as_fd(), b"")
            .map_err(|e| self.error("cannot stat the file to copy", path, e))?;
        if metadata.file_type != FileType::RegularFile {
            return Err(Error::new(ErrorKind::Conflict, "the file to copy became something else meanwhile")
                .with_context("path", escape(path)));
        }
        Ok(File::from(file))
    }

    /// Follows all links of a path, with this directory as the root. Missing parts are kept as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when links form a loop.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        let mut todo: Vec<Vec<u8>> = reversed_parts(&clean(path));
        let mut done: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                let end = done.iter().rposition(|&b| b == b'/').unwrap_or(0);
                done.truncate(end);
                continue;
            }
            let next = join(&done, &part);
            match self.lookup(&next)? {
                Some(metadata) if metadata.file_type == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::invalid("too many symbolic links follow one another")
                            .with_context("path", escape(path)));
                    }
                    let target = self.read_link(&next)?;
                    if target.first() == Some(&b'/') {
                        done.clear();
                    }
                    todo.extend(reversed_parts(&target));
                }
                _ => done = next,
            }
        }
        Ok(done)
    }
}

/// The parts of a path without empty ones and `.`, last first.
fn reversed_parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".").rev().map(<[u8]>::to_vec).collect()
}

#[allow(
    clippy::unnecessary_fallible_conversions,
    clippy::useless_conversion,
    reason = "the width differs by platform"
)]
fn nanoseconds(value: impl TryInto<u32>) -> u32 {
    value.try_into().unwrap_or(0)
}

#[allow(clippy::useless_conversion, reason = "the width differs by platform")]
fn nlink(stat: &fs::Stat) -> u64 {
    u64::from(stat.st_nlink)
}
