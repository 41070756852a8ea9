//! Makes the folder of a cache mount with its first content.
//!
//! The folder is filled next to its final path and then moved there, so no step uses a half-filled one. The move never
//! replaces an existing folder: concurrent steps may have mounted it already.

use super::mount_api::{own, wrong};
use super::spec::{CacheMount, CacheOwner};
use crate::sandbox::cache_folder::place;
use crate::sandbox::{lent, tree, view};
use crate::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Opens the folder of a cache, which it makes unless it exists. A step without isolation may have moved it: its end is
/// waited for, and what a killed one left in its tree is moved home.
pub(super) fn open(cache: &CacheMount) -> Result<OwnedFd> {
    let open = || rustix::fs::open(&cache.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let mut opened = open();
    if matches!(opened, Err(Errno::NOENT)) {
        let folder = view::open_folder(cache.path.parent().unwrap_or(Path::new("/")))?;
        // A file system without locks has no such steps either: they fail.
        let _turn = rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockShared);
        fill_in_turn(cache)?;
        opened = open();
    }
    opened.map_err(wrong("cannot open a cache folder", &cache.path))
}

/// Makes the folder of a cache unless it exists, for a step that has locked the folder of the caches.
pub(super) fn fill_in_turn(cache: &CacheMount) -> Result<()> {
    if cache.path.exists() {
        return Ok(());
    }
    lent::fetch_home(&cache.path)?;
    if cache.path.exists() {
        return Ok(());
    }
    let staging = fresh_folder(&cache.path)?;
    let fresh = staging.join("fresh");
    let made = make_cache(cache, &fresh).and_then(|()| {
        place(&fresh, &cache.path).map_err(|e| Error::io("cannot make a cache folder", &cache.path, e.into()))
    });
    let removed = tree::remove(&staging);
    made.and(removed)
}

/// Makes a new folder next to `path`. A name that a killed step left behind is skipped.
fn fresh_folder(path: &Path) -> Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let mut folder = path.to_owned().into_os_string();
        folder.push(format!(".new-{number}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder.into()),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(Error::io("cannot make a cache folder", folder, e)),
        }
    }
}

/// Makes the folder of a cache with its first content, or the file that it begins with.
fn make_cache(cache: &CacheMount, fresh: &Path) -> Result<()> {
    let failed = |e| Error::io("cannot make a cache folder", fresh, e);
    if let Some((from, path)) = &cache.from {
        let wrong = |e: Errno| Error::io("cannot open the source of a cache mount", path, e.into());
        let root = view::open(from)?;
        let open = |flags| view::open_in(root.as_fd(), path, flags);
        match open(OFlags::PATH) {
            Err(Errno::NOENT) if cache.owner.is_some() => {}
            Err(e) => return Err(wrong(e)),
            Ok(source) => {
                let stat = rustix::fs::fstat(&source).map_err(wrong)?;
                // Only folders and regular files are opened: opening a device can have side effects.
                return match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => {
                        std::fs::create_dir(fresh).map_err(failed)?;
                        let source = open(OFlags::RDONLY | OFlags::DIRECTORY).map_err(wrong)?;
                        tree::copy(source.as_fd(), view::open_folder(fresh)?.as_fd())
                    }
                    FileType::RegularFile => {
                        let copy = std::fs::File::create_new(fresh).map_err(failed)?;
                        tree::copy_file(&open(OFlags::RDONLY).map_err(wrong)?, &copy.into(), &stat)
                    }
                    _ => Err(Error::invalid("the source of a cache mount is neither a folder nor a file")
                        .with_context("path", path)),
                };
            }
        }
    }
    std::fs::create_dir(fresh).map_err(failed)?;
    let folder = view::open_folder(fresh)?;
    let owner = cache.owner.unwrap_or(CacheOwner { mode: 0o755, uid: 0, gid: 0 });
    own(folder.as_fd(), "", owner.mode, owner.uid, owner.gid)
        .map_err(|e| e.with_context("path", fresh.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_empty_cache_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [fresh, other, place_of] = ["fresh", "other", "cache"].map(|name| folder.path().join(name));
        std::fs::create_dir(&fresh).unwrap();
        std::fs::create_dir(&other).unwrap();
        place(&fresh, &place_of).unwrap();
        let used = view::open_folder(&place_of).unwrap();
        place(&other, &place_of).unwrap();
        // A replaced folder has no name any more, so nothing can be made in it.
        let made = rustix::fs::mkdirat(&used, "x", rustix::fs::Mode::RWXU);
        assert_eq!(made, Ok(()));
        assert!(place_of.join("x").exists() && other.exists());
    }
}
