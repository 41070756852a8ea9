//! Joins some layers of an overlay that lie on one another into one folder, which can be mounted in their place.
//!
//! The time to mount an overlay grows with the number of its layers, and no kernel mounts more than 500.
//!
//! # Invariants
//! - With the same layers below, an overlay of the folder shows what an overlay of the layers shows: whiteouts and opaque
//!   marks are kept exactly where the layers below have something to hide.
//! - Files are hard links to those of the layers, which never change. So a join takes space for folders alone, and files
//!   keep inode, owner, attributes and times; only their number of links is larger.

use super::entry::LayerPath;
use super::files::{self, Lowers, failed};
use crate::Result;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Joins the layers `run` (topmost first), which lie on `rest`, into the empty folder `target`. When a layer has more than
/// `limit` files and folders, nothing is done, and its number is returned.
///
/// # Errors
/// [`crate::ErrorKind::Io`] and [`crate::ErrorKind::StorageFull`] from the file system.
pub(crate) fn join(run: &[PathBuf], rest: &[PathBuf], target: &Path, limit: usize) -> Result<Option<usize>> {
    let target = files::open_top(target)?;
    let join = Join { run: Lowers::open(run)?, rest: Lowers::open(rest)? };
    for (at, top) in join.run.tops().iter().enumerate() {
        let mut left = limit;
        if !has_at_most(top, &mut left)? {
            return Ok(Some(at));
        }
    }
    let root = LayerPath::root();
    join.directory(&target, &root, &join.run.all(), &join.rest.all())?;
    if let Some(top) = join.run.tops().first() {
        copy_metadata(top, &target, &root)?;
    }
    Ok(None)
}

/// Whether a folder has no more than `left` files and folders; takes them from it.
fn has_at_most(directory: &OwnedFd, left: &mut usize) -> Result<bool> {
    let wrong = |e| failed("cannot read a lower layer", &LayerPath::root(), e);
    for name in files::names(directory).map_err(wrong)? {
        let Some(less) = left.checked_sub(1) else { return Ok(false) };
        *left = less;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match files::open_below(directory.as_fd(), &name, flags) {
            Ok(below) if !has_at_most(&below, left)? => return Ok(false),
            Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(wrong(e)),
        }
    }
    Ok(true)
}

struct Join {
    run: Lowers,
    rest: Lowers,
}

impl Join {
    /// Fills the folder at `path`. `layers` are those of the run, and `below` those of the rest, that show what they have
    /// there.
    fn directory(&self, target: &OwnedFd, path: &LayerPath, layers: &[usize], below: &[usize]) -> Result<()> {
        let mut names = BTreeSet::new();
        for layer in layers {
            let directory = self.run.directory(*layer, path)?;
            names.extend(files::names(&directory).map_err(|e| failed("cannot read a lower layer", path, e))?);
        }
        let names: Vec<_> = names.into_iter().collect();
        let shown = self.run.lookup(path, layers, &names)?;
        let hidden = self.rest.lookup(path, below, &names)?;
        for ((name, shown), hidden) in names.iter().zip(shown).zip(hidden) {
            let here = path.join(name)?;
            let Some((layer, stat)) = shown.node else {
                if hidden.node.is_some() {
                    let (kind, name) = (FileType::CharacterDevice, OsStr::from_bytes(name));
                    rustix::fs::mknodat(target, name, kind, Mode::empty(), 0)
                        .map_err(|e| failed("cannot make a whiteout", &here, e))?;
                }
                continue;
            };
            let from = self.run.directory(layer, path)?;
            if files::type_of(&stat) != FileType::Directory {
                link(from.as_fd(), target.as_fd(), name, &stat)
                    .map_err(|e| failed("cannot join the file of a layer", &here, e))?;
                continue;
            }
            let wrong = |e| failed("cannot join the folder of a layer", &here, e);
            rustix::fs::mkdirat(target, OsStr::from_bytes(name), Mode::RWXU).map_err(wrong)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let made = files::open_below(target.as_fd(), name, flags).map_err(wrong)?;
            let original = files::open_below(from.as_fd(), name, flags).map_err(wrong)?;
            let below = if shown.is_closed() { &[][..] } else { &hidden.layers };
            self.directory(&made, &here, &shown.layers, below)?;
            if shown.is_closed() && hidden.is_directory() {
                files::set_xattr(made.as_fd(), b"", files::OPAQUE_XATTR, b"y", &here)?;
            }
            copy_metadata(&original, &made, &here)?;
        }
        Ok(())
    }
}

/// Gives a name in another folder to a file; a copy where it has as many names as it can have.
fn link(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> rustix::io::Result<()> {
    let os_name = OsStr::from_bytes(name);
    match rustix::fs::linkat(from, os_name, to, os_name, AtFlags::empty()) {
        Err(Errno::MLINK) if files::type_of(stat) == FileType::RegularFile => {}
        linked => return linked,
    }
    let source = files::open_below(from, name, OFlags::RDONLY)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let copy = rustix::fs::openat(to, os_name, flags, Mode::RUSR | Mode::WUSR)?;
    let (mut reader, mut writer) = (std::fs::File::from(source), std::fs::File::from(copy));
    std::io::copy(&mut reader, &mut writer).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let attributes = files::xattrs(from, name)?;
    give_metadata(writer.as_fd(), stat, &attributes)
}

/// Gives a folder the metadata of another one, without the attributes of overlay.
fn copy_metadata(from: &OwnedFd, to: &OwnedFd, path: &LayerPath) -> Result<()> {
    let wrong = |e| failed("cannot join the folder of a layer", path, e);
    let stat = rustix::fs::fstat(from).map_err(wrong)?;
    let mut attributes = files::xattrs(from.as_fd(), b"").map_err(wrong)?;
    attributes.retain(|name, _| !files::is_overlay_xattr(name));
    give_metadata(to.as_fd(), &stat, &attributes).map_err(wrong)
}

fn give_metadata(
    file: BorrowedFd<'_>,
    stat: &Stat,
    attributes: &std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
) -> rustix::io::Result<()> {
    match rustix::fs::fchown(file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))) {
        // With a single id there is no other owner.
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(e) => return Err(e),
    }
    for (name, value) in attributes {
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::fsetxattr(file, name.as_slice(), value, flags) {
            // Security labels of the host, which every file gets by itself.
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    };
    rustix::fs::futimens(file, &times)
}
