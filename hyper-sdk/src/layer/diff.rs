//! Makes a layer of what changed: from the upper directory of an overlay, or by comparing two trees.
//!
//! # Invariants
//! - Names are taken in order and everything else from the files, so the same changes give the same layer.
//! - A directory above a change is part of the layer, as with every other builder, so that the layer alone says who
//!   owns it; its time is clamped by the writer like any other.
//! - Sockets are left out, as are the attributes that overlay keeps for itself.
//! - A file with several names is written once, under the first of the names that are in the layer.

use super::entry::{Entry, EntryKind, LayerPath};
use super::files::{self, Lowers, failed};
use super::writer::LayerWriter;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Says who owns an entry, given the status that the file system reports.
pub type OwnerLookup<'a> = dyn Fn(&LayerPath, &Stat) -> (u32, u32) + 'a;

/// How a difference is written.
#[derive(Default)]
pub struct DiffOptions<'a> {
    /// Who owns what: by default whoever the file system says. In a user namespace with a single id that is always
    /// the caller, so there the builder looks up whom the lower layers record.
    pub owner: Option<&'a OwnerLookup<'a>>,
}

impl std::fmt::Debug for DiffOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiffOptions").field("owner", &self.owner.is_some()).finish()
    }
}

/// Writes what the upper directory of an overlay changes on its lower directories (topmost first).
///
/// Whiteouts of what no lower directory shows are dropped, and so are opaque marks (overlay puts one on every new
/// directory). The root is written only when its metadata differs from the lower one.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] for directories that overlay has redirected and files without their data, which
/// mounts with `userxattr` never make; those of [`LayerWriter::append`]; [`crate::ErrorKind::Io`].
pub fn diff_overlay<W: Write>(
    upper: &Path,
    lowers: &[PathBuf],
    writer: &mut LayerWriter<W>,
    options: &DiffOptions<'_>,
) -> Result<()> {
    let top = files::open_top(upper)?;
    let lowers = Lowers::open(lowers)?;
    let mut emitter = Emitter { writer, options, links: HashMap::new() };
    let root = LayerPath::root();
    let stat = rustix::fs::fstat(&top).map_err(|e| failed("cannot look at", &root, e))?;
    if let Some(lower) = lowers.find(&root)? {
        let entry = emitter.entry(&root, top.as_fd(), b"", &stat)?;
        let below = emitter.entry(&root, lower.parent.as_fd(), b"", &lower.stat)?;
        if (entry.mode, entry.uid, entry.gid, &entry.xattrs)
            != (below.mode, below.uid, below.gid, &below.xattrs)
        {
            emitter.writer.append(&entry, None)?;
        }
    }
    let opaque = files::is_opaque(top.as_fd()).map_err(|e| failed("cannot look at", &root, e))?;
    upper_directory(&mut emitter, &lowers, &top, &root, !opaque)
}

/// `lower_shows`: whether the lower directories show a directory here that the upper one does not hide.
fn upper_directory<W: Write>(
    emitter: &mut Emitter<'_, '_, W>,
    lowers: &Lowers,
    directory: &OwnedFd,
    path: &LayerPath,
    lower_shows: bool,
) -> Result<()> {
    for name in files::names(directory).map_err(|e| failed("cannot read the directory", path, e))? {
        let here = path.join(&name)?;
        let wrong = |e| failed("cannot look at", &here, e);
        let stat = files::status(directory, &name).map_err(wrong)?;
        if files::is_whiteout(&stat) {
            if lower_shows && lowers.find(&here)?.is_some() {
                let mut entry = Entry::whiteout(here);
                entry.mtime = stat.st_mtime;
                emitter.writer.append(&entry, None)?;
            }
            continue;
        }
        emitter.one(&here, directory.as_fd(), &name, &stat)?;
        if files::type_of(&stat) == FileType::Directory {
            let below = open_directory(directory.as_fd(), &name, &here)?;
            let covers = lower_shows
                && lowers.find(&here)?.is_some_and(|n| files::type_of(&n.stat) == FileType::Directory);
            let opaque = files::is_opaque(below.as_fd()).map_err(wrong)?;
            if opaque && covers {
                let mut mark = Entry::new(here.clone(), EntryKind::OpaqueWhiteout, 0);
                mark.mtime = stat.st_mtime;
                emitter.writer.append(&mark, None)?;
            }
            upper_directory(emitter, lowers, &below, &here, covers && !opaque)?;
        }
    }
    Ok(())
}

/// Writes what changed from the tree `old` to the tree `new`.
///
/// Two files are the same when type, mode, owner, attributes, size and time (to the nanosecond) agree and they are
/// the same inode or have the same bytes: equal times alone are never believed, since a tool may set them. A file
/// whose time alone changed has changed.
///
/// # Errors
/// Those of [`LayerWriter::append`]; [`crate::ErrorKind::Io`].
pub fn diff_trees<W: Write>(
    old: &Path,
    new: &Path,
    writer: &mut LayerWriter<W>,
    options: &DiffOptions<'_>,
) -> Result<()> {
    let (old, new) = (files::open_top(old)?, files::open_top(new)?);
    let root = LayerPath::root();
    let look = |fd: &OwnedFd| rustix::fs::fstat(fd).map_err(|e| failed("cannot look at", &root, e));
    let (old_stat, new_stat) = (look(&old)?, look(&new)?);
    let mut emitter = Emitter { writer, options, links: HashMap::new() };
    let mut above = Vec::new();
    let before = emitter.entry(&root, old.as_fd(), b"", &old_stat)?;
    let after = emitter.entry(&root, new.as_fd(), b"", &new_stat)?;
    if (before.mode, before.uid, before.gid, &before.xattrs)
        != (after.mode, after.uid, after.gid, &after.xattrs)
    {
        emitter.writer.append(&after, None)?;
    }
    both_directories(&mut emitter, &old, &new, &root, &mut above)
}

/// `above` holds the unchanged directories on the way here that were not written yet.
fn both_directories<W: Write>(
    emitter: &mut Emitter<'_, '_, W>,
    old: &OwnedFd,
    new: &OwnedFd,
    path: &LayerPath,
    above: &mut Vec<Entry>,
) -> Result<()> {
    let list = |fd| files::names(fd).map_err(|e| failed("cannot read the directory", path, e));
    let (old_names, new_names): (BTreeSet<_>, BTreeSet<_>) =
        (list(old)?.into_iter().collect(), list(new)?.into_iter().collect());
    for name in old_names.union(&new_names) {
        let here = path.join(name)?;
        let look = |fd: &OwnedFd, names: &BTreeSet<Vec<u8>>| match names.contains(name) {
            true => files::status(fd, name).map(Some).map_err(|e| failed("cannot look at", &here, e)),
            false => Ok(None),
        };
        let (before, after) = (look(old, &old_names)?, look(new, &new_names)?);
        // A socket never is in a layer: the tree with one is as if it had none.
        let is_socket = |s: &Stat| files::type_of(s) == FileType::Socket;
        let (before, after) = (before.filter(|s| !is_socket(s)), after.filter(|s| !is_socket(s)));
        match (before, after) {
            (None, None) => {}
            (Some(_), None) => {
                emitter.flush(above)?;
                emitter.writer.append(&Entry::whiteout(here), None)?;
            }
            (Some(before), Some(after))
                if files::type_of(&before) == FileType::Directory
                    && files::type_of(&after) == FileType::Directory =>
            {
                let entry = emitter.entry(&here, new.as_fd(), name, &after)?;
                let same = entry == emitter.entry(&here, old.as_fd(), name, &before)?
                    && before.st_mtime_nsec == after.st_mtime_nsec;
                let depth = above.len();
                above.push(entry);
                if !same {
                    emitter.flush(above)?;
                }
                let old_below = open_directory(old.as_fd(), name, &here)?;
                let new_below = open_directory(new.as_fd(), name, &here)?;
                both_directories(emitter, &old_below, &new_below, &here, above)?;
                above.truncate(depth);
            }
            (Some(before), Some(after)) if emitter.same(&here, name, old, &before, new, &after)? => {}
            (_, Some(after)) => {
                emitter.flush(above)?;
                emitter.tree(&here, new.as_fd(), name, &after)?;
            }
        }
    }
    Ok(())
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8], path: &LayerPath) -> Result<OwnedFd> {
    files::open_below(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|e| failed("cannot open the directory", path, e))
}

fn open_file(parent: BorrowedFd<'_>, name: &[u8], path: &LayerPath) -> Result<File> {
    files::open_below(parent, name, OFlags::RDONLY | OFlags::NONBLOCK)
        .map(File::from)
        .map_err(|e| failed("cannot open the file", path, e))
}

struct Emitter<'a, 'o, W: Write> {
    writer: &'a mut LayerWriter<W>,
    options: &'a DiffOptions<'o>,
    /// The first name of every written file that has several, by device and inode.
    links: HashMap<(u64, u64), LayerPath>,
}

impl<W: Write> Emitter<'_, '_, W> {
    /// The entry for a name, without following it; hardlinks are not looked for.
    fn entry(&self, path: &LayerPath, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<Entry> {
        let wrong = |e| failed("cannot look at", path, e);
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match files::type_of(stat) {
            FileType::Directory => EntryKind::Directory,
            FileType::RegularFile => EntryKind::File { size: stat.st_size as u64, digest: None },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, OsStr::from_bytes(name), Vec::new());
                EntryKind::Symlink { target: target.map_err(wrong)?.into_bytes() }
            }
            FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
            FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
            FileType::Fifo => EntryKind::Fifo,
            _ => {
                return Err(
                    Error::unsupported("a file of unknown type in a layer").with_context("path", path)
                );
            }
        };
        let mut xattrs = files::xattrs(parent, name).map_err(wrong)?;
        for internal in ["redirect", "metacopy"] {
            if ["user", "trusted"]
                .iter()
                .any(|p| xattrs.contains_key(format!("{p}.overlay.{internal}").as_bytes()))
            {
                return Err(Error::unsupported(format!(
                    "an overlay made with {internal}: mount it with userxattr"
                ))
                .with_context("path", path));
            }
        }
        xattrs.retain(|name, _| !files::is_overlay_xattr(name));
        let (uid, gid) = match self.options.owner {
            Some(owner) => owner(path, stat),
            None => (stat.st_uid, stat.st_gid),
        };
        let mode = stat.st_mode & 0o7777;
        Ok(Entry { path: path.clone(), kind, mode, uid, gid, mtime: stat.st_mtime, xattrs })
    }

    /// Writes one name; a directory without what is in it.
    fn one(&mut self, path: &LayerPath, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
        if files::type_of(stat) == FileType::Socket {
            return Ok(());
        }
        let mut entry = self.entry(path, parent, name, stat)?;
        if files::type_of(stat) != FileType::RegularFile {
            return self.writer.append(&entry, None);
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&inode) {
                entry.kind = EntryKind::Hardlink { target: first.clone() };
                entry.xattrs.clear();
                return self.writer.append(&entry, None);
            }
            self.links.insert(inode, path.clone());
        }
        let mut file = open_file(parent, name, path)?;
        self.writer.append(&entry, Some(&mut file))
    }

    /// Writes one name and everything below it.
    fn tree(&mut self, path: &LayerPath, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
        self.one(path, parent, name, stat)?;
        if files::type_of(stat) == FileType::Directory {
            let below = open_directory(parent, name, path)?;
            for child in files::names(&below).map_err(|e| failed("cannot read the directory", path, e))? {
                let here = path.join(&child)?;
                let stat = files::status(&below, &child).map_err(|e| failed("cannot look at", &here, e))?;
                self.tree(&here, below.as_fd(), &child, &stat)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, above: &mut Vec<Entry>) -> Result<()> {
        for entry in above.drain(..) {
            self.writer.append(&entry, None)?;
        }
        Ok(())
    }

    fn same(
        &self,
        path: &LayerPath,
        name: &[u8],
        old: &OwnedFd,
        before: &Stat,
        new: &OwnedFd,
        after: &Stat,
    ) -> Result<bool> {
        if files::type_of(before) != files::type_of(after)
            || before.st_mtime_nsec != after.st_mtime_nsec
            || self.entry(path, old.as_fd(), name, before)? != self.entry(path, new.as_fd(), name, after)?
        {
            return Ok(false);
        }
        if files::type_of(after) != FileType::RegularFile
            || (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
        {
            return Ok(true);
        }
        let (mut a, mut b) = (open_file(old.as_fd(), name, path)?, open_file(new.as_fd(), name, path)?);
        let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        loop {
            let count = fill(&mut a, &mut left).map_err(|e| failed("cannot read the file", path, e))?;
            let other = fill(&mut b, &mut right).map_err(|e| failed("cannot read the file", path, e))?;
            if left[..count] != right[..other] {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
        }
    }
    Ok(have)
}
