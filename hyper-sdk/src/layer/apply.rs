//! Unpacks a layer into a directory.
//!
//! Two styles: [`ApplyStyle::Overlay`] makes the upper directory of an overlay mounted with `userxattr` (a whiteout is
//! the character device 0:0, an opaque directory has `user.overlay.opaque=y`); [`ApplyStyle::Plain`] changes a full
//! tree in place (a whiteout deletes).
//!
//! # Invariants
//! - Nothing outside the target is touched, and no symlink in the target is followed. If a parent of an entry is not a
//!   directory, it is replaced by one when it comes from a lower layer, and is an error when it comes from this layer.
//! - The owner is set first, then extended attributes, mode and time, so that setuid bits and file capabilities
//!   survive.
//! - Directories get their metadata last, deepest first. Nothing is synced: an incomplete target is discarded.

mod finish;

use super::entry::{Entry, EntryKind, LayerPath};
use super::files::{self, Lowers, failed};
use super::index::{LayerIndex, LayerIndexBuilder};
use super::owner;
use super::reader::{LayerReader, hash_data, pass_data};
use super::times::TimesTable;
use crate::{Error, ErrorKind, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// The kind of directory that a layer is unpacked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyStyle {
    /// The upper directory of an overlay: whiteouts are stored in overlay's format.
    Overlay,
    /// A full tree that already holds the lower layers: whiteouts delete.
    Plain,
}

/// How the owners of a layer are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// Owners are set; one that cannot be set is an error.
    Keep,
    /// Owners that the caller's user namespace maps are set; files of other owners belong to the caller.
    KeepMapped,
    /// Owners are not set: everything belongs to the caller.
    Ignore,
    /// As [`OwnerPolicy::Ignore`], and files and folders have their owner in the attribute `user.hyper.owner`. Links
    /// and pipes have no such attribute.
    Record,
}

/// How device nodes that the caller may not create are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicePolicy {
    /// Such a device node is an error.
    Fail,
    /// Such device nodes are left out and listed in [`Applied::skipped`].
    Skip,
}

/// How a layer is unpacked.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// The kind of target.
    pub style: ApplyStyle,
    /// The lower layers, topmost first, as unpacked in [`ApplyStyle::Overlay`]: they give implied directories their
    /// metadata and hardlinks their files. Whiteouts of what none of them has are left out; without layers, none is.
    pub lowers: Vec<PathBuf>,
    /// How owners are handled.
    pub owners: OwnerPolicy,
    /// How device nodes are handled.
    pub devices: DevicePolicy,
    /// The exact times of entries, which replace those of the layer.
    pub times: Option<Arc<TimesTable>>,
    /// The directory of the target that the layer is unpacked into. It is made if missing.
    pub below: LayerPath,
    /// Whether files that are not in the layer are removed from the directory [`ApplyOptions::below`] of the target. For
    /// [`ApplyStyle::Plain`].
    pub prune: bool,
    /// Whether names that begin with `.wh.` stand for what is removed. In an archive that is no layer they are names.
    pub whiteouts: bool,
    /// Whether [`Applied::index`] has the digests of files.
    pub digests: bool,
    /// Whether [`ApplyOptions::lowers`] are all lower layers, also when there are none: then no whiteout of the lowest layer
    /// is kept. A folder that only one layer has would list it.
    pub all_lowers: bool,
    /// The most entries that the layer may have; `None` for any number.
    pub max_entries: Option<usize>,
}

impl ApplyOptions {
    /// Keeps owners, fails on devices that cannot be made, and uses no lower layers and the times of the layer.
    pub fn new(style: ApplyStyle) -> Self {
        Self {
            style,
            lowers: Vec::new(),
            owners: OwnerPolicy::Keep,
            devices: DevicePolicy::Fail,
            times: None,
            below: LayerPath::root(),
            prune: false,
            whiteouts: true,
            digests: true,
            all_lowers: false,
            max_entries: None,
        }
    }
}

/// The result of unpacking a layer.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The index of the layer.
    pub index: LayerIndex,
    /// The device nodes that were left out.
    pub skipped: Vec<LayerPath>,
}

/// Unpacks the uncompressed layer `source` into the directory `target`, which exists.
/// After an error the target contains part of the layer and must be discarded.
///
/// # Errors
/// Those of [`LayerReader::next_entry`]; [`ErrorKind::Invalid`] for parents that are no directory and dangling hardlinks;
/// [`ErrorKind::TooLarge`] for more entries than [`ApplyOptions::max_entries`];
/// [`ErrorKind::Unsupported`] for attributes, [`ErrorKind::Denied`] for owners that cannot be set; [`ErrorKind::Io`].
pub fn apply(source: impl Read, target: &Path, options: &ApplyOptions) -> Result<Applied> {
    unpack(source, target, options)?.finish(&options.lowers)
}

/// The first half of [`apply`], which does not need the lower layers: all entries of the layer itself.
///
/// # Errors
/// Those of [`apply`].
pub(crate) fn unpack<'a>(
    source: impl Read,
    target: &'a Path,
    options: &'a ApplyOptions,
) -> Result<Unpacked<'a>> {
    let mut reader = if options.whiteouts { LayerReader::new(source) } else { LayerReader::of_files(source) };
    let mut apply = Apply {
        top: files::open_top(target)?,
        lowers: Lowers::default(),
        options,
        index: LayerIndexBuilder::new(),
        directories: BTreeMap::new(),
        times: BTreeMap::new(),
        last_parent: None,
        skipped: Vec::new(),
        late_links: BTreeMap::new(),
        buffer: vec![0; 128 << 10],
    };
    if options.owners == OwnerPolicy::Ignore {
        // Earlier files here may deny their owner access.
        files::let_owner_in(apply.top.as_fd(), b"")
            .map_err(|e| failed("cannot write to the target", &LayerPath::root(), e))?;
    }
    if options.style == ApplyStyle::Overlay {
        let (path, entry) = (LayerPath::root(), Entry::directory(LayerPath::root(), 0o755));
        apply.directories.insert(path, Pending { entry, existed: false, implied: true });
    }
    let mut read = || {
        let mut left = options.max_entries.unwrap_or(usize::MAX);
        while let Some(mut entry) = reader.next_entry()? {
            left = left.checked_sub(1).ok_or_else(|| {
                Error::new(ErrorKind::TooLarge, "the archive has too many entries")
                    .with_context("limit", options.max_entries.unwrap_or_default())
            })?;
            entry.move_below(&options.below)?;
            apply.entry(entry, &mut reader)?;
        }
        Ok(())
    };
    read().map_err(|e| with_place(e, target))?;
    Ok(Unpacked { apply, target })
}

/// The user needs the path to free space there.
fn with_place(error: Error, target: &Path) -> Error {
    match error.kind() {
        ErrorKind::StorageFull => error.with_context("path", target.display()),
        _ => error,
    }
}

/// A layer without what depends on the lower layers: the metadata of directories that it does not mention, hardlinks to
/// lower files, and whiteouts.
pub(crate) struct Unpacked<'a> {
    apply: Apply<'a>,
    target: &'a Path,
}

impl Unpacked<'_> {
    /// Does the rest. `lowers` are the lower layers, topmost first.
    ///
    /// # Errors
    /// Those of [`apply`].
    pub(crate) fn finish(mut self, lowers: &[PathBuf]) -> Result<Applied> {
        self.apply.lowers = Lowers::open(lowers)?;
        self.apply.finish().map_err(|e| with_place(e, self.target))
    }
}

struct Apply<'a> {
    top: OwnedFd,
    lowers: Lowers,
    options: &'a ApplyOptions,
    index: LayerIndexBuilder,
    /// Directories whose metadata is set at the end.
    directories: BTreeMap<LayerPath, Pending>,
    /// The times of directories that the layer changes without mentioning them.
    times: BTreeMap<LayerPath, Timespec>,
    last_parent: Option<(LayerPath, Rc<OwnedFd>)>,
    skipped: Vec<LayerPath>,
    /// The hardlinks to files of lower layers, by path, with the lower file. They are made at the end.
    late_links: BTreeMap<LayerPath, (Entry, LayerPath)>,
    buffer: Vec<u8>,
}

struct Pending {
    entry: Entry,
    /// Whether it existed in the target before, so that old attributes may have to be removed.
    existed: bool,
    /// Whether the layer has no entry for it.
    implied: bool,
}

impl Apply<'_> {
    fn entry<R: Read>(&mut self, mut entry: Entry, reader: &mut LayerReader<R>) -> Result<()> {
        self.index.check(&entry)?;
        let table = self.options.times.as_ref().filter(|_| !entry.kind.is_whiteout());
        if let Some(time) = table.and_then(|table| table.get(&entry.path)) {
            entry.set_time(time);
        }
        if !self.late_links.is_empty() && !entry.kind.is_whiteout() && !entry.is_hardlink() {
            self.late_links.remove(&entry.path);
        }
        match &entry.kind {
            EntryKind::Whiteout | EntryKind::OpaqueWhiteout => {
                if self.options.style == ApplyStyle::Plain {
                    self.delete_lower(&entry.path, entry.kind == EntryKind::OpaqueWhiteout)?;
                }
            }
            EntryKind::Directory => self.directory(&entry, false)?,
            EntryKind::Hardlink { target } => self.hardlink(&entry, target)?,
            _ => self.node(&mut entry, reader)?,
        }
        self.index.add(entry)
    }

    /// Opens the directory of an entry, and makes it and its missing parents.
    fn parent(&mut self, path: &LayerPath) -> Result<Rc<OwnedFd>> {
        let parent = path.parent().unwrap_or_default();
        if let Some((last, fd)) = &self.last_parent
            && *last == parent
        {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = match files::open_below(self.top.as_fd(), parent.as_bytes(), flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                for above in path.ancestors() {
                    let is_new = match files::open_below(self.top.as_fd(), above.as_bytes(), flags) {
                        Ok(_) => false,
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => true,
                        Err(e) => return Err(failed("cannot open a directory of the target", &above, e)),
                    };
                    if is_new {
                        self.directory(&Entry::directory(above, 0o755), true)?;
                    }
                }
                files::open_below(self.top.as_fd(), parent.as_bytes(), flags)
                    .map_err(|e| failed("cannot open a directory of the target", &parent, e))?
            }
            Err(e) => return Err(failed("cannot open a directory of the target", &parent, e)),
        };
        self.keep_time(&parent, fd.as_fd())?;
        let fd = Rc::new(fd);
        self.last_parent = Some((parent, Rc::clone(&fd)));
        Ok(fd)
    }

    fn keep_time(&mut self, path: &LayerPath, fd: BorrowedFd<'_>) -> Result<()> {
        if self.options.style == ApplyStyle::Plain
            && !self.directories.contains_key(path)
            && !self.times.contains_key(path)
        {
            let stat = rustix::fs::fstat(fd)
                .map_err(|e| failed("cannot stat a directory of the target", path, e))?;
            let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
            self.times.insert(path.clone(), time);
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, implied: bool) -> Result<()> {
        let mut existed = entry.path.is_root();
        if !existed {
            let parent = self.parent(&entry.path)?;
            let name = OsStr::from_bytes(entry.path.file_name());
            let make = || rustix::fs::mkdirat(&*parent, name, Mode::RWXU);
            match make() {
                Err(Errno::EXIST) => {
                    let stat = files::status(&*parent, entry.path.file_name())
                        .map_err(|e| failed("cannot stat the target", &entry.path, e))?;
                    existed = files::type_of(&stat) == FileType::Directory;
                    if existed && self.options.owners != OwnerPolicy::Keep {
                        // Its mode may deny its owner access; the layer's mode is set at the end.
                        files::let_owner_in(parent.as_fd(), entry.path.file_name()).map_err(|e| {
                            failed("cannot write to a directory of the target", &entry.path, e)
                        })?;
                    } else if !existed {
                        self.remove(&entry.path, parent.as_fd())?;
                        make().map_err(|e| failed("cannot make a directory", &entry.path, e))?;
                    }
                }
                other => other.map_err(|e| failed("cannot make a directory", &entry.path, e))?,
            }
        }
        self.directories.insert(entry.path.clone(), Pending { entry: entry.clone(), existed, implied });
        Ok(())
    }

    fn remove(&mut self, path: &LayerPath, parent: BorrowedFd<'_>) -> Result<()> {
        self.last_parent = None;
        let gone: Vec<_> = self
            .directories
            .range(path.clone()..)
            .map(|(p, _)| p.clone())
            .take_while(|p| p.starts_with(path))
            .collect();
        for path in gone {
            self.directories.remove(&path);
        }
        files::remove_all(parent, path.file_name())
            .map_err(|e| failed("cannot remove what a layer replaces", path, e))
    }

    fn node<R: Read>(&mut self, entry: &mut Entry, reader: &mut LayerReader<R>) -> Result<()> {
        if self.options.style == ApplyStyle::Overlay
            && entry.kind == (EntryKind::CharDevice { major: 0, minor: 0 })
        {
            return Err(Error::unsupported(
                "the character device 0:0 in a layer: overlay takes it for a whiteout",
            )
            .with_context("entry", &entry.path));
        }
        let parent = self.parent(&entry.path)?;
        let parent = parent.as_fd();
        let file = match files::make(entry, parent) {
            Err(Errno::EXIST) => {
                self.remove(&entry.path, parent)?;
                files::make(entry, parent)
            }
            other => other,
        };
        let file = match file {
            Ok(file) => file,
            Err(Errno::PERM)
                if matches!(entry.kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }) =>
            {
                if self.options.devices == DevicePolicy::Skip {
                    self.skipped.push(entry.path.clone());
                    return Ok(());
                }
                return Err(failed(
                    "a device node of the layer needs more privilege",
                    &entry.path,
                    Errno::PERM,
                )
                .with_kind(ErrorKind::Denied));
            }
            Err(e) => return Err(failed("cannot make an entry of the layer", &entry.path, e)),
        };
        let file = file.map(std::fs::File::from);
        if let (Some(mut file), EntryKind::File { digest, .. }) = (file.as_ref(), &mut entry.kind) {
            let path = &entry.path;
            let write = |bytes: &[u8]| {
                file.write_all(bytes).map_err(|e| {
                    let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                    failed("cannot write a file of the layer", path, errno)
                })
            };
            *digest = match self.options.digests {
                true => Some(hash_data(reader, &mut self.buffer, write)?),
                false => pass_data(reader, &mut self.buffer, write).map(|()| None)?,
            };
        }
        self.metadata(entry, parent, entry.path.file_name(), file.as_ref().map(AsFd::as_fd))
    }

    /// Sets owner, attributes, mode and time of a name, through its descriptor where there is one.
    fn metadata(
        &self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let path = &entry.path;
        let os_name = OsStr::from_bytes(name);
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        let mut mode = entry.mode;
        if matches!(self.options.owners, OwnerPolicy::Keep | OwnerPolicy::KeepMapped) {
            let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
            let done = match fd {
                Some(fd) => rustix::fs::fchown(fd, uid, gid),
                None => rustix::fs::chownat(parent, os_name, uid, gid, no_follow),
            };
            let done = match done {
                Err(Errno::INVAL) if self.options.owners == OwnerPolicy::KeepMapped => {
                    // A program that runs as its owner does not become one that runs as root.
                    mode &= !0o6000;
                    Ok(())
                }
                done => done,
            };
            done.map_err(|e| {
                let owner = format!("{}:{}", entry.uid, entry.gid);
                let why = match e {
                    Errno::INVAL => owner::UNMAPPED_OWNER,
                    Errno::PERM => "the owner of an entry may not be set without more privilege",
                    _ => "cannot set the owner of an entry",
                };
                let kind = if e == Errno::IO { ErrorKind::Io } else { ErrorKind::Denied };
                failed(why, path, e).with_kind(kind).with_context("owner", owner)
            })?;
        }
        for (key, value) in owner::attributes(entry, self.options.owners == OwnerPolicy::Record) {
            files::set_xattr(parent, name, &key, &value, path)?;
        }
        let mode = Mode::from_raw_mode(mode);
        let done = match fd {
            Some(fd) => rustix::fs::fchmod(fd, mode),
            None if matches!(entry.kind, EntryKind::Symlink { .. }) => Ok(()),
            None => rustix::fs::chmodat(parent, os_name, mode, AtFlags::empty()),
        };
        done.map_err(|e| failed("cannot set the mode of an entry", path, e))?;
        let time = Timespec { tv_sec: entry.mtime, tv_nsec: i64::from(entry.nanoseconds) as _ };
        let times = Timestamps { last_access: time, last_modification: time };
        match fd {
            Some(fd) => rustix::fs::futimens(fd, &times),
            None => rustix::fs::utimensat(parent, os_name, &times, no_follow),
        }
        .map_err(|e| failed("cannot set the time of an entry", path, e))
    }

    /// Makes a hardlink. One to a file that the layer does not have is kept for the end.
    fn hardlink(&mut self, entry: &Entry, target: &LayerPath) -> Result<()> {
        let parent = self.parent(&entry.path)?;
        let source_parent = target.parent().unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let found = files::open_below(self.top.as_fd(), source_parent.as_bytes(), flags)
            .and_then(|fd| files::status(&fd, target.file_name()).map(|stat| (fd, stat)));
        match found {
            Ok((_, stat)) if files::type_of(&stat) == FileType::Directory => {
                Err(Error::invalid("a hardlink of the layer names a directory")
                    .with_context("entry", &entry.path)
                    .with_context("target", target))
            }
            Ok((source, _)) => {
                let (from, to) =
                    (OsStr::from_bytes(target.file_name()), OsStr::from_bytes(entry.path.file_name()));
                let link = || rustix::fs::linkat(&source, from, &*parent, to, AtFlags::empty());
                match link() {
                    Err(Errno::EXIST) => {
                        self.remove(&entry.path, parent.as_fd())?;
                        link()
                    }
                    other => other,
                }
                .map_err(|e| failed("cannot make a hardlink of the layer", &entry.path, e))?;
                self.late_links.remove(&entry.path);
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                if files::status(&*parent, entry.path.file_name()).is_ok() {
                    self.remove(&entry.path, parent.as_fd())?;
                }
                // A link to a link that is not made yet.
                let lower = self.late_links.get(target).map_or(target, |(_, lower)| lower).clone();
                self.late_links.insert(entry.path.clone(), (entry.clone(), lower));
                Ok(())
            }
            Err(e) => Err(failed("cannot stat the target of a hardlink", target, e)),
        }
    }

    /// Deletes what lower layers have at `path` (or only below it); files of this layer are kept.
    fn delete_lower(&mut self, path: &LayerPath, only_below: bool) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let wrong = |e| failed("cannot remove what a layer hides", path, e);
        if !path.is_root() && !only_below && !self.index.covers(path) {
            let parent = path.parent().unwrap_or_default();
            return match files::open_below(self.top.as_fd(), parent.as_bytes(), flags) {
                Ok(fd) => {
                    self.keep_time(&parent, fd.as_fd())?;
                    self.remove(path, fd.as_fd())
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(e) => Err(wrong(e)),
            };
        }
        let below = match files::open_below(self.top.as_fd(), path.as_bytes(), flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(wrong(e)),
        };
        for name in files::names(&below).map_err(wrong)? {
            self.delete_lower(&path.join(&name)?, false)?;
        }
        Ok(())
    }
}
