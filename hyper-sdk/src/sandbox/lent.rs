//! The caches that a step without mounts has in its tree: they are lent to it, and outlive it however it ends.
//!
//! ```text
//! active/8/          locked while a step uses its tree
//! active/8/fs        the tree; a lent cache was moved to its place in it
//! active/8/fs.aside  what the places of mounts covered, by number
//! active/8/fs.lent   a line for each place, written before anything is moved there
//! mounts/NAME.lent   the tree that has the cache, beside its home
//! ```
//!
//! # Invariants
//! - Who removes a tree takes its lock first and then calls [`put_back`]. So a cache is at home, or in a tree that is in
//!   use, or in one with a record.
//! - [`put_back`] can be stopped at any point and called again.
//! - Who finds no cache at home calls [`fetch_home`] before it makes a new one.

use super::{tree, view};
use crate::layer::open_resolved;
use crate::{Error, ErrorKind, Result};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long [`fetch_home`] waits for a process that puts a tree in order.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cache that is lent to a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cache {
    #[serde(with = "path_bytes")]
    home: PathBuf,
    device: u64,
    inode: u64,
}

impl Cache {
    /// The cache at `home`, before it is moved.
    pub(crate) fn at(home: &Path) -> Result<Self> {
        let meta =
            std::fs::symlink_metadata(home).map_err(|e| Error::io("cannot open a cache folder", home, e))?;
        Ok(Self { home: home.to_owned(), device: meta.dev(), inode: meta.ino() })
    }

    fn is(&self, meta: &Metadata) -> bool {
        (meta.dev(), meta.ino()) == (self.device, self.inode)
    }

    /// Where it is in a tree: at its place, or where the step moved it. What the step made at its place counts only when
    /// the cache itself is gone, and only as what a cache can be.
    fn find(&self, place: Option<&Path>, trees: &[&Path]) -> Option<PathBuf> {
        let there = place.and_then(|place| Some((place, std::fs::symlink_metadata(place).ok()?)));
        if let Some((place, _)) = there.as_ref().filter(|(_, meta)| self.is(meta)) {
            return Some((*place).to_owned());
        }
        let moved = trees.iter().find_map(|tree| self.search(tree));
        moved.or_else(|| there.filter(|(_, meta)| meta.is_dir()).map(|(place, _)| place.to_owned()))
    }

    /// Looks for it everywhere in a tree.
    fn search(&self, tree: &Path) -> Option<PathBuf> {
        let mut todo = vec![tree.to_owned()];
        while let Some(folder) = todo.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                if self.is(&meta) {
                    return Some(entry.path());
                }
                if meta.is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        None
    }

    /// Notes that it is going to be moved into a tree, where its home is.
    pub(crate) fn note_tree(&self, tree: &Path) -> Result<()> {
        let note = note_of(&self.home);
        let folder = self.home.parent().unwrap_or(Path::new("/"));
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(tree.as_os_str().as_bytes())?;
            // Not synced: after a power cut the record of the tree brings the cache home before a step runs.
            file.persist(&note)?;
            Ok::<_, std::io::Error>(())
        };
        write().map_err(|e| Error::io("cannot note where a cache is", &note, e))
    }

    /// Takes the note back when it was not moved into the tree.
    pub(crate) fn take_note_back(&self, tree: &Path) -> Result<()> {
        if self.is_home() { forget(&self.home, tree) } else { Ok(()) }
    }

    fn is_home(&self) -> bool {
        std::fs::symlink_metadata(&self.home).is_ok_and(|meta| self.is(&meta))
    }

    /// Moves it home from its place in the tree, or from elsewhere in it. It stays where it is when another one is at home
    /// that is not empty.
    pub(crate) fn bring_home(&self, place: Option<&Path>, tree: &Path) -> Result<()> {
        if self.is_home() {
            // An earlier call was stopped after that.
            return forget(&self.home, tree);
        }
        let Some(from) = self.find(place, &[tree, &aside_of(tree)]) else { return forget(&self.home, tree) };
        let go = || rustix::fs::renameat_with(CWD, &from, CWD, &self.home, RenameFlags::NOREPLACE);
        let mut moved = go();
        if moved == Err(Errno::EXIST) && std::fs::remove_dir(&self.home).is_ok() {
            moved = go();
        }
        match moved {
            Ok(()) => forget(&self.home, tree),
            // The folder of the caches is gone, or a cache was made there by other means.
            Err(Errno::NOENT | Errno::EXIST) => Ok(()),
            Err(e) => Err(Error::io("cannot move a cache back", &self.home, e.into())),
        }
    }
}

/// A place of a tree, with what was put there.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// The name of what it covered, in the folder for that.
    number: usize,
    /// Its path below the root of the tree, without links.
    #[serde(with = "path_bytes")]
    place: PathBuf,
    cache: Option<Cache>,
}

/// The record of the places of a tree.
pub(crate) struct Record {
    file: File,
    path: PathBuf,
}

impl Record {
    /// Begins the record of a tree, which has none yet.
    pub(crate) fn begin(tree: &Path) -> Result<Self> {
        let path = record_of(tree);
        let file = File::create_new(&path).map_err(|e| Error::io("cannot make a record", &path, e))?;
        Ok(Self { file, path })
    }

    /// Notes a place, before anything is moved.
    pub(crate) fn note(&mut self, number: usize, place: &Path, cache: Option<&Cache>) -> Result<()> {
        let line = Line { number, place: place.to_owned(), cache: cache.cloned() };
        let mut text = serde_json::to_vec(&line).expect("plain data");
        text.push(b'\n');
        let written = self.file.write_all(&text).and_then(|()| match cache {
            // A power cut must not keep the move and lose the record.
            Some(_) => {
                self.file.sync_all()?;
                File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
            }
            None => Ok(()),
        });
        written.map_err(|e| Error::io("cannot write a record", &self.path, e))
    }

    /// Ends the record when everything was put back.
    pub(crate) fn end(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| Error::io("cannot remove a record", &self.path, e))
    }
}

fn record_of(tree: &Path) -> PathBuf {
    tree.with_extension("lent")
}

/// The file that says which tree has the cache of a home.
fn note_of(home: &Path) -> PathBuf {
    let mut name = home.as_os_str().to_owned();
    name.push(".lent");
    name.into()
}

/// Removes the note that a tree has the cache. The note of another tree stays: a step can have got the cache as soon as it
/// was at home.
fn forget(home: &Path, tree: &Path) -> Result<()> {
    let note = note_of(home);
    let removed = match std::fs::read(&note) {
        Ok(noted) if !is_same(Path::new(OsStr::from_bytes(&noted)), tree) => Ok(()),
        Ok(_) => std::fs::remove_file(&note),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("cannot remove the note of a cache", note, e))
        }
        _ => Ok(()),
    }
}

/// Whether two paths are the same, or lead to the same folder.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    one == other || id(one).is_some_and(|one| id(other) == Some(one))
}

/// Moves a cache home that a killed step left in its tree. The caller has locked the folder of the caches, so no step has
/// the cache now. Does nothing when the cache was not lent, or is at home.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when another process works on the tree for longer than a
/// minute.
pub(crate) fn fetch_home(home: &Path) -> Result<()> {
    let note = note_of(home);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tree = match std::fs::read(&note) {
            Ok(tree) => PathBuf::from(OsString::from_vec(tree)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("cannot read the note of a cache", note, e)),
        };
        let folder = tree.parent().unwrap_or(Path::new("/"));
        if home.exists() || !folder.exists() {
            // Whoever removed the tree has put the cache back before that.
            return forget(home, &tree);
        }
        match lock(folder, false) {
            Ok(Some(_in_order)) => return put_back(&tree).and_then(|()| forget(home, &tree)),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "a cache is in the tree of a step that is being removed",
                )
                .with_context("path", home.display()));
            }
            // It was removed just now.
            Err(_) if !folder.exists() => {}
            Err(e) => return Err(e),
        }
    }
}

/// The folder for what the places of a tree covered.
pub(crate) fn aside_of(tree: &Path) -> PathBuf {
    tree.with_extension("aside")
}

/// Locks a folder: one with the tree of a step, or that of the caches. Without `wait`, the result is `None` when somebody
/// else holds the lock.
pub(crate) fn lock(folder: &Path, wait: bool) -> Result<Option<OwnedFd>> {
    let opened = view::open_folder(folder)?;
    let how = match wait {
        true => FlockOperation::LockExclusive,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(&opened, how) {
            Ok(()) => return Ok(Some(opened)),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("cannot lock a folder", folder, e.into())),
        }
    }
}

/// Moves the caches home that a killed step left in its tree, with what mounts covered in them. The tree is locked by the
/// caller.
pub(crate) fn put_back(tree: &Path) -> Result<()> {
    let (path, aside) = (record_of(tree), aside_of(tree));
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("cannot read a record", path, e)),
    };
    // The last line can be cut: nothing was moved for it.
    let lines: Vec<Line> =
        text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let trees = [tree, aside.as_path()];
    for (at, line) in lines.iter().enumerate().rev() {
        let covered = aside.join(line.number.to_string());
        if std::fs::symlink_metadata(&covered).is_err() {
            // Nothing was moved, or everything was moved back.
            continue;
        }
        let outer = lines[..at].iter().rev().find_map(|outer| {
            Some((outer.cache.as_ref()?, &outer.place, line.place.strip_prefix(&outer.place).ok()?))
        });
        let place = match &outer {
            Some((cache, place, below)) => {
                // The path leads through its descriptor, which stays open for as long.
                let held = place_in(tree, place);
                let top = cache.find(held.as_ref().map(|(_, path)| path.as_path()), &trees);
                top.and_then(|top| place_in(&top, below))
            }
            None => place_in(tree, &line.place),
        };
        let shown = place.as_ref().map(|(_, path)| path.as_path());
        if let Some(cache) = &line.cache {
            cache.bring_home(shown, tree)?;
        }
        // What was covered belongs to the tree, unless that place is itself in a cache.
        if let (Some(place), Some(_)) = (shown, outer) {
            tree::remove(place)?;
            match rustix::fs::rename(&covered, place) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(Error::io("cannot put back what a mount covered", place, e.into())),
            }
        }
    }
    std::fs::remove_file(&path).map_err(|e| Error::io("cannot remove a record", path, e))
}

/// A place below a folder that no link leads to: the folder above it, open, and a path through that.
fn place_in(top: &Path, place: &Path) -> Option<(OwnedFd, PathBuf)> {
    let top = view::open_folder(top).ok()?;
    let (above, name) = (place.parent()?, place.file_name()?);
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let above = open_resolved(&top, above, flags, resolve).ok()?;
    let path = view::fd_path(&above).join(name);
    Some((above, path))
}

/// Paths as their bytes: they need not be UTF-8.
mod path_bytes {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        OsStr::as_bytes(path.as_os_str()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
    }

    type Result<T, E> = std::result::Result<T, E>;
}
