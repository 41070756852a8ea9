//! Finds and makes the places that things are mounted on within a tree, and takes them away again.
//!
//! A step must leave no trace of what was mounted for it. Whatever is made here is written down, with what the folder
//! above looked like, and [`clean`] works on the upper folder of the overlay once the step is over: what is still
//! empty goes, times are put back, and folders that overlay copied up for it alone go too.

use crate::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What is to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Folder,
    File,
}

/// What a folder looked like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Looks {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, i64),
}

impl From<&Stat> for Looks {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
        }
    }
}

/// Something that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Made {
    path: PathBuf,
    kind: Kind,
    /// The folder that it was made in, before and after.
    before: Looks,
    after: (i64, i64),
}

impl Made {
    /// Where it is in the tree; no part of the path is a symlink.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

const MAX_LINKS: usize = 40;

/// Opens the place `target` in the tree, and makes what is missing of it: folders, and at the end `kind`. Symlinks
/// lead within the tree, also those that lead to nothing yet. What is made is added to `made`.
pub(super) fn open(root: BorrowedFd<'_>, target: &str, kind: Kind, made: &mut Vec<Made>) -> Result<OwnedFd> {
    let failed =
        |e: Errno| Error::io("cannot make the place for a mount in the root file system", target, e.into());
    let mut todo = Path::new(target).iter().map(OsStr::to_owned).rev().collect::<Vec<OsString>>();
    // The folders from the root to where we are.
    let mut stack: Vec<(OsString, OwnedFd)> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_bytes() {
            b"/" => {
                stack.clear();
                continue;
            }
            b"." => continue,
            b".." => {
                stack.pop();
                continue;
            }
            _ => {}
        }
        let here = stack.last().map_or(root, |(_, fd)| fd.as_fd());
        let last = todo.is_empty();
        let open_here = || {
            rustix::fs::openat(here, &*name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        };
        let opened = match open_here() {
            Err(Errno::NOENT) => {
                let wanted = if last { kind } else { Kind::Folder };
                let before = rustix::fs::statat(here, "", AtFlags::EMPTY_PATH).map_err(failed)?;
                match wanted {
                    Kind::Folder => {
                        rustix::fs::mkdirat(here, &*name, Mode::from_raw_mode(0o755)).map_err(failed)?
                    }
                    Kind::File => rustix::fs::openat(
                        here,
                        &*name,
                        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
                        Mode::from_raw_mode(0o644),
                    )
                    .map(drop)
                    .map_err(failed)?,
                }
                let after = rustix::fs::statat(here, "", AtFlags::EMPTY_PATH).map_err(failed)?;
                let path = stack.iter().map(|(name, _)| name.as_os_str()).chain([name.as_os_str()]).collect();
                made.push(Made {
                    path,
                    kind: wanted,
                    before: (&before).into(),
                    after: Looks::from(&after).modified,
                });
                open_here().map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&opened).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(failed(Errno::LOOP));
                }
                let text = rustix::fs::readlinkat(&opened, "", Vec::new()).map_err(failed)?.into_bytes();
                let text = PathBuf::from(OsString::from_vec(text));
                todo.extend(text.iter().rev().map(OsStr::to_owned));
            }
            FileType::Directory if last && kind == Kind::File => return Err(failed(Errno::ISDIR)),
            FileType::Directory => stack.push((name, opened)),
            _ if last && kind == Kind::File => return Ok(opened),
            _ => return Err(failed(Errno::NOTDIR)),
        }
    }
    match (stack.pop(), kind) {
        (Some((_, opened)), Kind::Folder) => Ok(opened),
        (None, Kind::Folder) => {
            Err(Error::invalid("nothing can be mounted on the root itself").with_context("target", target))
        }
        (_, Kind::File) => Err(failed(Errno::ISDIR)),
    }
}

/// Takes away what [`open`] made, in the upper folder of the overlay (or the whole tree), as far as it is unused.
/// `keep` are paths that stay, as peers leave them. With `lowers` (topmost first), folders of the upper folder that
/// say nothing that a lower one does not are taken away too.
pub(super) fn clean(upper: &Path, lowers: Option<&[PathBuf]>, made: &[Made], keep: &[&str]) -> Result<()> {
    for one in made.iter().rev() {
        let path = upper.join(&one.path);
        if keep.iter().any(|keep| Path::new(keep) == one.path) {
            continue;
        }
        let Ok(stat) = rustix::fs::lstat(&path) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let removed = match one.kind {
            Kind::Folder => kind == FileType::Directory && std::fs::remove_dir(&path).is_ok(),
            Kind::File => {
                kind == FileType::RegularFile && stat.st_size == 0 && std::fs::remove_file(&path).is_ok()
            }
        };
        let Some(parent) = path.parent().filter(|_| removed) else { continue };
        restore(upper, lowers, parent, one)?;
    }
    Ok(())
}

fn restore(upper: &Path, lowers: Option<&[PathBuf]>, parent: &Path, one: &Made) -> Result<()> {
    let failed = |e: Errno| Error::io("cannot put back the time of a folder", parent, e.into());
    // The removal has just changed the time again, so whether the step changed it cannot be asked here in every case.
    // A folder that holds something of the step had its time changed by the step; one that does not gets it back.
    let is_empty =
        std::fs::read_dir(parent).map_err(|e| Error::io("cannot read a folder", parent, e))?.next().is_none();
    if !is_empty {
        return Ok(());
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: one.before.modified.0, tv_nsec: one.before.modified.1 as _ },
    };
    rustix::fs::utimensat(rustix::fs::CWD, parent, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let Some(lowers) = lowers else { return Ok(()) };
    // Copied up for the mount alone? Then the lower folder still says it all.
    let mut folder = parent.to_owned();
    while folder != upper {
        let Ok(relative) = folder.strip_prefix(upper) else { break };
        let Some(below) = lowers.iter().find_map(|lower| rustix::fs::lstat(lower.join(relative)).ok()) else {
            break;
        };
        let stat = rustix::fs::lstat(&folder).map_err(failed)?;
        let (mut ours, below) = (Looks::from(&stat), Looks::from(&below));
        if folder != parent {
            // Overlay keeps the time of folders above the one that was changed.
            ours.modified = below.modified;
        }
        if ours != below || is_opaque(&folder) || std::fs::remove_dir(&folder).is_err() {
            break;
        }
        if !folder.pop() {
            break;
        }
    }
    Ok(())
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0_u8; 8];
    matches!(rustix::fs::lgetxattr(folder, "user.overlay.opaque", &mut value[..]), Ok(n) if value[..n] == *b"y")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let fd = super::super::view::open_folder(folder.path()).unwrap();
        (folder, fd)
    }

    #[test]
    fn what_was_made_goes_and_what_was_used_stays() {
        let (folder, fd) = root();
        let mut made = Vec::new();
        open(fd.as_fd(), "/run/secrets/key", Kind::File, &mut made).unwrap();
        open(fd.as_fd(), "/used/deep", Kind::Folder, &mut made).unwrap();
        open(fd.as_fd(), "/proc", Kind::Folder, &mut made).unwrap();
        std::fs::write(folder.path().join("used/file"), "x").unwrap();
        clean(folder.path(), None, &made, &["proc"]).unwrap();
        assert!(!folder.path().join("run").exists());
        assert!(!folder.path().join("used/deep").exists());
        assert!(folder.path().join("used/file").exists());
        assert!(folder.path().join("proc").exists());
    }

    #[test]
    fn symlinks_lead_within_the_tree() {
        let (folder, fd) = root();
        std::os::unix::fs::symlink("/../../../run", folder.path().join("var")).unwrap();
        let mut made = Vec::new();
        open(fd.as_fd(), "/var/lock", Kind::Folder, &mut made).unwrap();
        assert!(folder.path().join("run/lock").is_dir());
        std::os::unix::fs::symlink("loop", folder.path().join("loop")).unwrap();
        assert!(open(fd.as_fd(), "/loop/x", Kind::File, &mut made).is_err());
    }

    #[test]
    fn a_file_is_no_folder() {
        let (folder, fd) = root();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let mut made = Vec::new();
        assert!(open(fd.as_fd(), "/file", Kind::Folder, &mut made).is_err());
        assert!(open(fd.as_fd(), "/file/x", Kind::File, &mut made).is_err());
        assert!(open(fd.as_fd(), "/", Kind::Folder, &mut made).is_err());
    }
}
