//! Makes a layer of changes: from the upper directory of an overlay, or by comparing two trees. A tree that was copied
//! gives the bytes that an overlay gives.
//!
//! # Invariants
//! - Names are sorted and everything else comes from the files, so equal changes give equal layers.
//! - Files that only seem changed are not in the layer: overlay copies a file up when a tool sets the mode or owner
//!   that it already has, and a new time of a directory is not a change.
//! - A directory above a change is part of the layer, as with every other builder, so that the layer has its owner. The
//!   writer clamps its time like any other.
//! - Sockets and the internal attributes of overlay are left out.
//! - A file with several names is written once, under the first of its names in the layer. If one name is in the layer,
//!   all others are too, since a link to a file of a lower layer would become a separate file.

use super::entry::{Entry, EntryKind, LayerPath};
use super::file_time::FileTime;
use super::files::{self, Lowers, failed};
use super::hardlinks::{Hardlinks, Inode, inode, is_linked};
use super::writer::LayerWriter;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

mod trees;

pub use trees::diff_trees;
pub(crate) use trees::{IsCopy, diff_copy};

/// Returns the owner of an entry. The arguments are its path, the status that the file system reports and the owner
/// that the entry records in an attribute.
pub type OwnerLookup<'a> = dyn Fn(&LayerPath, &Stat, Option<(u32, u32)>) -> (u32, u32) + 'a;

/// Returns the time of an entry if it differs from that of the file.
pub type TimeLookup<'a> = dyn Fn(&LayerPath) -> Option<FileTime> + 'a;

/// How a difference is written.
#[derive(Default)]
pub struct DiffOptions<'a> {
    /// The lookup of owners; `None` for those of the file system. In a user namespace with a single id the file system
    /// always reports the caller, so owners are recorded elsewhere: in the attribute `user.hyper.owner`, which is then
    /// left out of the layer, or in a separate file.
    pub owner: Option<&'a OwnerLookup<'a>>,
    /// The lookup of times; `None` for those of the files.
    pub time: Option<&'a TimeLookup<'a>>,
    /// Leaves out the extended attributes that another machine may not be able to set, or that mean something on this one
    /// alone: all but `user.*` and `security.capability`.
    pub portable: bool,
}

impl std::fmt::Debug for DiffOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiffOptions")
            .field("owner", &self.owner.is_some())
            .field("time", &self.time.is_some())
            .field("portable", &self.portable)
            .finish()
    }
}

/// Writes the changes that the upper directory of an overlay makes to its lower directories (topmost first).
///
/// A file is unchanged when type, mode, owner, attributes, size, time (in nanoseconds) and content equal those of the
/// lower one. Equal times are not enough, since a tool may set them. A directory with only another time is unchanged
/// too. Its time in `upper` is set to that of the lower one, so that the folder and the layer agree.
///
/// Whiteouts and opaque marks that hide nothing in a lower directory are dropped (overlay marks every new directory as
/// opaque). The root is written only when its metadata differs from the lower one.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] for directories that overlay has redirected and files without their data, which
/// mounts with `userxattr` never make; those of [`LayerWriter::append`]; [`crate::ErrorKind::Io`].
pub(crate) fn diff_overlay<W: Write>(
    upper: &Path,
    lowers: &[PathBuf],
    writer: &mut LayerWriter<W>,
    options: &DiffOptions<'_>,
) -> Result<()> {
    let top = files::open_top(upper)?;
    let lowers = Lowers::open(lowers)?;
    let mut emitter = Emitter::new(writer, options, &top, true, &lowers);
    let root = LayerPath::root();
    let stat = rustix::fs::fstat(&top).map_err(|e| failed("cannot stat", &root, e))?;
    if let Some(lower) = lowers.find(&root)? {
        let entry = emitter.entry(&root, top.as_fd(), b"", &stat)?;
        let below = emitter.entry(&root, lower.parent.as_fd(), b"", &lower.stat)?;
        if !same_directory(&entry, &below) {
            emitter.writer.append(&entry, None)?;
        }
    }
    let opaque = files::is_opaque(top.as_fd()).map_err(|e| failed("cannot stat", &root, e))?;
    let layers = if opaque { Vec::new() } else { lowers.all() };
    upper_directory(&mut emitter, &top, &root, &layers, &mut Vec::new())
}

/// `layers` are the lower layers with a directory here that the upper one does not hide. `above` holds the unchanged
/// parent directories that were not written yet.
fn upper_directory<W: Write>(
    emitter: &mut Emitter<'_, '_, W>,
    directory: &OwnedFd,
    path: &LayerPath,
    layers: &[usize],
    above: &mut Vec<Entry>,
) -> Result<()> {
    let names = files::names(directory).map_err(|e| failed("cannot read the directory", path, e))?;
    let below = emitter.lowers.lookup(path, layers, &names)?;
    for (name, shown) in names.iter().zip(below) {
        let here = path.join(name)?;
        let wrong = |e| failed("cannot stat", &here, e);
        let stat = files::status(directory, name).map_err(wrong)?;
        let file_type = files::type_of(&stat);
        // Layers have no sockets, so the file that a socket replaced is removed.
        if files::is_whiteout(&stat) || file_type == FileType::Socket {
            if shown.node.is_some() {
                emitter.whiteout(here, files::time_of(&stat), above)?;
            }
            continue;
        }
        if file_type != FileType::Directory {
            if let Some((layer, before)) = shown.node {
                let lower = emitter.lowers.directory(layer, path)?;
                if emitter.unchanged(&here, name, &lower, &before, directory, &stat)? {
                    continue;
                }
            }
            emitter.flush(above)?;
            emitter.one(&here, directory.as_fd(), name, &stat)?;
            continue;
        }
        let inside = open_directory(directory.as_fd(), name, &here)?;
        let opaque = files::is_opaque(inside.as_fd()).map_err(wrong)?;
        let covers = shown.is_directory();
        let entry = emitter.entry(&here, directory.as_fd(), name, &stat)?;
        let mut same = None;
        if let (true, false, Some((layer, before))) = (covers, opaque, shown.node) {
            let lower = emitter.lowers.directory(layer, path)?;
            if same_directory(&entry, &emitter.entry(&here, lower.as_fd(), name, &before)?) {
                same = Some(before);
            }
        }
        let depth = above.len();
        above.push(entry);
        if same.is_none() {
            emitter.flush(above)?;
        }
        if opaque && covers {
            emitter.opaque(&here, &stat)?;
        }
        let layers = if opaque { &[][..] } else { &shown.layers };
        upper_directory(emitter, &inside, &here, layers, above)?;
        if let Some(before) = same
            && above.len() > depth
        {
            keep_time(&inside, &here, &before, &stat)?;
        }
        above.truncate(depth);
    }
    Ok(())
}

/// Whether a directory is unchanged. Its time is ignored, since every change of its content changes it.
fn same_directory(a: &Entry, b: &Entry) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}

/// Restores the time of a directory that is left out of the layer.
fn keep_time(directory: &OwnedFd, path: &LayerPath, before: &Stat, after: &Stat) -> Result<()> {
    if (before.st_mtime, before.st_mtime_nsec) == (after.st_mtime, after.st_mtime_nsec) {
        return Ok(());
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as _ },
    };
    rustix::fs::futimens(directory, &times).map_err(|e| failed("cannot set the time of", path, e))
}

/// Writes all files of a folder as an archive, and the folder itself as its root. Sockets are left out.
///
/// # Errors
/// Those of [`LayerWriter::append`]; [`crate::ErrorKind::Io`].
pub(crate) fn write_folder<W: Write>(
    folder: &Path,
    writer: &mut LayerWriter<W>,
    options: &DiffOptions<'_>,
) -> Result<()> {
    let top = files::open_top(folder)?;
    let root = LayerPath::root();
    let stat = rustix::fs::fstat(&top).map_err(|e| failed("cannot stat", &root, e))?;
    let lowers = Lowers::default();
    Emitter::new(writer, options, &top, false, &lowers).tree(&root, top.as_fd(), b"", &stat)
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
    /// The root of the tree that the layer is made from.
    top: &'a OwnedFd,
    /// Whether that is the upper directory of an overlay, with overlay's attributes.
    is_upper: bool,
    /// Whether a directory is the copy of a lower one; `None` when every directory counts as one.
    is_copy: Option<&'a IsCopy<'a>>,
    /// Whether a whiteout of two trees has a time.
    times_whiteouts: bool,
    /// The lower directories.
    lowers: &'a Lowers,
    /// The first name of every written file with several names.
    links: HashMap<Inode, LayerPath>,
    /// The files with several names; scanned on first use.
    groups: Option<Hardlinks>,
    /// Whether such a file has changed.
    changed_groups: HashMap<Inode, bool>,
}

impl<'a, 'o, W: Write> Emitter<'a, 'o, W> {
    fn new(
        writer: &'a mut LayerWriter<W>,
        options: &'a DiffOptions<'o>,
        top: &'a OwnedFd,
        is_upper: bool,
        lowers: &'a Lowers,
    ) -> Self {
        Self {
            writer,
            options,
            top,
            is_upper,
            is_copy: None,
            times_whiteouts: false,
            lowers,
            links: HashMap::new(),
            groups: None,
            changed_groups: HashMap::new(),
        }
    }

    /// The entry for a name, without following it and without detecting hardlinks.
    fn entry(&self, path: &LayerPath, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<Entry> {
        let wrong = |e| failed("cannot stat", path, e);
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
            // A program that sets such attributes through the overlay gets other names, which have no meaning.
            if self.is_upper && xattrs.contains_key(format!("user.overlay.{internal}").as_bytes()) {
                return Err(Error::unsupported(format!(
                    "an overlay made with {internal}: mount it with userxattr"
                ))
                .with_context("path", path));
            }
        }
        let portable = |name: &[u8]| name.starts_with(b"user.") || name == b"security.capability";
        xattrs.retain(|name, _| !files::is_overlay_xattr(name) && (!self.options.portable || portable(name)));
        let (uid, gid) = match self.options.owner {
            Some(owner) => owner(path, stat, super::owner::take_owner(&mut xattrs)),
            None => (stat.st_uid, stat.st_gid),
        };
        let mode = stat.st_mode & 0o7777;
        let mut entry = Entry::new(path.clone(), kind, mode);
        (entry.uid, entry.gid, entry.xattrs) = (uid, gid, xattrs);
        let time = self.options.time.and_then(|lookup| lookup(path));
        entry.set_time(time.unwrap_or_else(|| files::time_of(stat)));
        Ok(entry)
    }

    /// Writes one name; a directory without its content.
    fn one(&mut self, path: &LayerPath, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
        if files::type_of(stat) == FileType::Socket {
            return Ok(());
        }
        let mut entry = self.entry(path, parent, name, stat)?;
        if files::type_of(stat) != FileType::RegularFile {
            return self.writer.append(&entry, None);
        }
        if stat.st_nlink > 1 {
            let inode = inode(stat);
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
        match files::type_of(stat) {
            FileType::Directory => self.below(path, parent, name),
            _ => Ok(()),
        }
    }

    /// Writes everything in a directory.
    fn below(&mut self, path: &LayerPath, parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let below = open_directory(parent, name, path)?;
        for child in files::names(&below).map_err(|e| failed("cannot read the directory", path, e))? {
            let here = path.join(&child)?;
            let stat = files::status(&below, &child).map_err(|e| failed("cannot stat", &here, e))?;
            self.tree(&here, below.as_fd(), &child, &stat)?;
        }
        Ok(())
    }

    /// Writes a directory that hides the lower one, and everything in it.
    fn new_directory(
        &mut self,
        path: &LayerPath,
        parent: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        self.one(path, parent, name, stat)?;
        self.opaque(path, stat)?;
        self.below(path, parent, name)
    }

    fn opaque(&mut self, path: &LayerPath, stat: &Stat) -> Result<()> {
        let mut mark = Entry::new(path.clone(), EntryKind::OpaqueWhiteout, 0);
        mark.set_time(files::time_of(stat));
        self.writer.append(&mark, None)
    }

    fn whiteout(&mut self, path: LayerPath, time: FileTime, above: &mut Vec<Entry>) -> Result<()> {
        self.flush(above)?;
        let mut entry = Entry::whiteout(path);
        entry.set_time(time);
        self.writer.append(&entry, None)
    }

    fn flush(&mut self, above: &mut Vec<Entry>) -> Result<()> {
        for entry in above.drain(..) {
            self.writer.append(&entry, None)?;
        }
        Ok(())
    }

    /// Whether a name and all other names of its file are unchanged, so that it is left out.
    fn unchanged(
        &mut self,
        path: &LayerPath,
        name: &[u8],
        old: &OwnedFd,
        before: &Stat,
        new: &OwnedFd,
        after: &Stat,
    ) -> Result<bool> {
        Ok(self.same(path, name, old, before, new, after)?
            && (!is_linked(after) || !self.group_changed(inode(after))?))
    }

    /// Whether a file with several names has changed, or had other names before.
    fn group_changed(&mut self, inode: Inode) -> Result<bool> {
        if let Some(changed) = self.changed_groups.get(&inode) {
            return Ok(*changed);
        }
        let groups = match self.groups.take() {
            Some(groups) => groups,
            None => Hardlinks::scan(self.top)?,
        };
        let changed = self.names_changed(groups.names(inode))?;
        self.groups = Some(groups);
        self.changed_groups.insert(inode, changed);
        Ok(changed)
    }

    fn names_changed(&self, names: &[LayerPath]) -> Result<bool> {
        let mut before = None;
        for path in names {
            for above in [LayerPath::root()].into_iter().chain(path.ancestors()) {
                if self.hides_lower(&above)? {
                    return Ok(true);
                }
            }
            let parent = path.parent().unwrap_or_default();
            let new = open_directory(self.top.as_fd(), parent.as_bytes(), &parent)?;
            let after = files::status(&new, path.file_name()).map_err(|e| failed("cannot stat", path, e))?;
            let Some(lower) = self.lowers.find(path)? else { return Ok(true) };
            if *before.get_or_insert(inode(&lower.stat)) != inode(&lower.stat)
                || !self.same(path, path.file_name(), &lower.parent, &lower.stat, &new, &after)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a directory of the tree hides the lower one.
    fn hides_lower(&self, path: &LayerPath) -> Result<bool> {
        let here = open_directory(self.top.as_fd(), path.as_bytes(), path)?;
        if self.is_upper {
            return files::is_opaque(here.as_fd()).map_err(|e| failed("cannot stat", path, e));
        }
        if path.is_root() || self.is_copy.is_none() {
            return Ok(false);
        }
        let Some(lower) = self.lowers.find(path)? else { return Ok(true) };
        if files::type_of(&lower.stat) != FileType::Directory {
            return Ok(true);
        }
        self.is_new(&open_directory(lower.parent.as_fd(), &lower.name, path)?, &here, path)
    }

    /// Whether a directory took the place of the lower one.
    fn is_new(&self, old: &OwnedFd, new: &OwnedFd, path: &LayerPath) -> Result<bool> {
        let Some(is_copy) = self.is_copy else { return Ok(false) };
        let copied = is_copy(old.as_fd(), new.as_fd());
        copied.map(|copied| !copied).map_err(|e| failed("cannot compare the directory", path, e))
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
            || (before.st_mode, before.st_mtime, before.st_mtime_nsec)
                != (after.st_mode, after.st_mtime, after.st_mtime_nsec)
            || self.entry(path, old.as_fd(), name, before)? != self.entry(path, new.as_fd(), name, after)?
        {
            return Ok(false);
        }
        if files::type_of(after) != FileType::RegularFile || inode(before) == inode(after) {
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
