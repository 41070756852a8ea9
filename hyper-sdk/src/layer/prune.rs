//! Removes the files of a folder that are not in the layer that was unpacked into it.

use super::entry::LayerPath;
use super::files::{self, failed};
use super::index::LayerIndex;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Removes what is in the directory `start` of `top` and not in the index. Links are not followed, and mounts are not entered.
///
/// # Errors
/// [`crate::ErrorKind::Io`] with the path that cannot be removed, such as a mount point.
pub(super) fn prune(top: BorrowedFd<'_>, start: &LayerPath, index: &LayerIndex) -> Result<()> {
    if start.is_root() {
        return below(top, start, index);
    }
    match enter(top, start.as_bytes()) {
        Ok(inner) => below(inner.as_fd(), start, index),
        // A layer without entries does not make it.
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::XDEV) => Err(is_mounted(start)),
        Err(e) => Err(failed("cannot open a folder of the target", start, e)),
    }
}

/// Removes what is in the directory `target`, apart from the names `kept`, whose content stays as it is.
///
/// # Errors
/// [`crate::ErrorKind::Io`] with the path that cannot be read or removed, such as a mount point.
pub(crate) fn keep_only(target: &Path, kept: &[String]) -> Result<()> {
    let (top, root) = (files::open_top(target)?, LayerPath::root());
    for name in files::names(&top).map_err(|e| failed("cannot read a folder of the target", &root, e))? {
        if !kept.iter().any(|kept| kept.as_bytes() == name) {
            remove(top.as_fd(), &root, &name)?;
        }
    }
    Ok(())
}

fn below(directory: BorrowedFd<'_>, path: &LayerPath, index: &LayerIndex) -> Result<()> {
    for name in files::names(directory).map_err(|e| failed("cannot read a folder of the target", path, e))? {
        // No layer has a path that is too long.
        let child = path.join(&name).ok();
        let kept = child.as_ref().is_some_and(|child| index.covers(child));
        let Some(child) = child.filter(|_| kept) else {
            remove(directory, path, &name)?;
            continue;
        };
        if index.get(&child).is_none_or(super::Entry::is_directory) {
            let inner = enter(directory, &name).map_err(|e| match e {
                Errno::XDEV => is_mounted(&child),
                e => failed("cannot open a folder of the target", &child, e),
            })?;
            below(inner.as_fd(), &child, index)?;
        }
    }
    Ok(())
}

fn remove(directory: BorrowedFd<'_>, path: &LayerPath, name: &[u8]) -> Result<()> {
    files::remove_all(directory, name).map_err(|e| {
        let shown = path.join(name).unwrap_or_else(|_| path.clone());
        match e {
            // A mount is not entered and cannot be removed.
            Errno::BUSY => is_mounted(&shown),
            e => failed("cannot remove what is not in the result", &shown, e),
        }
    })
}

fn is_mounted(path: &LayerPath) -> Error {
    Error::new(
        crate::ErrorKind::Io,
        "another file system is mounted in the folder that is to be emptied: unmount it, or name another folder",
    )
    .with_context("path", path)
}

fn enter(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    files::open_resolved(directory, OsStr::from_bytes(name), flags, resolve)
}
