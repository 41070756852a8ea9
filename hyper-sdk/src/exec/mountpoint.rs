//! Finds or makes mount points within a tree, and removes them again.
//!
//! A step must leave no trace of its mounts. Everything made here is recorded, with the metadata of the folder above.
//! After the step, [`clean`] works on the upper folder of the overlay: it removes what is still empty, restores times,
//! and removes folders that overlay copied up only for the mount.

use super::single_id;
use crate::layer::open_resolved;
use crate::sandbox::{userns, view};
use crate::{Error, Result};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The kind of a mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Folder,
    File,
}

/// The metadata of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FolderMetadata {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, i64),
}

impl From<&Stat> for FolderMetadata {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
        }
    }
}

/// A mount point that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Made {
    path: PathBuf,
    kind: Kind,
    /// The folder above, before and after it was made.
    before: FolderMetadata,
    after: (i64, i64),
}

impl Made {
    /// The path below the root.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The time of the folder above before it was made.
    pub(super) fn time_before(&self) -> (i64, i64) {
        self.before.modified
    }
}

/// A mount point.
pub(super) struct Place {
    /// The file or folder. Only this descriptor may be used to mount on it.
    pub(super) file: OwnedFd,
    /// Whether it was made here.
    pub(super) is_new: bool,
}

/// Other builders leave these folders in an image whose base lacks them. Later steps and tools rely on them.
pub(super) const KEPT: &[&str] = &["proc", "sys", "dev"];
const MAX_LINKS: usize = 40;
/// How often a name is made again after another process removed it.
const MAX_TRIES: usize = 100;

/// Opens the mount point `target` in the tree and makes what is missing: folders, and as the last part `kind`. They
/// belong to `owner`, or to the process without one. Symlinks are resolved within the tree, dangling ones too. What is
/// made is added to `made`, except in another mount, which is not part of the tree.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] when a folder disappeared meanwhile: another step may remove a shared one.
pub(super) fn open(
    root: BorrowedFd<'_>,
    target: &str,
    kind: Kind,
    owner: Option<(u32, u32)>,
    made: &mut Vec<Made>,
) -> Result<Place> {
    let failed =
        |e: Errno| Error::io("cannot make the place for a mount in the root file system", target, e.into());
    let tree = mount_id(root).map_err(failed)?;
    let mut todo = Path::new(target).iter().map(OsStr::to_owned).rev().collect::<Vec<OsString>>();
    // The folders from the root to the current one.
    let mut stack: Vec<(OsString, Place)> = Vec::new();
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
        let here = stack.last().map_or(root, |(_, place)| place.file.as_fd());
        let last = todo.is_empty();
        let wanted = if last { kind } else { Kind::Folder };
        let (mut is_new, mut tries) = (false, 0);
        let file = loop {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(here, &*name, flags, Mode::empty()) {
                Err(Errno::NOENT) if tries < MAX_TRIES => tries += 1,
                opened => break opened.map_err(failed)?,
            }
            let before = rustix::fs::fstat(here).map_err(failed)?;
            match make(here, &name, wanted) {
                Ok(()) => is_new = true,
                // Another step has just made it.
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(failed(e)),
            }
            let after = rustix::fs::fstat(here).map_err(failed)?;
            if mount_id(here).map_err(failed)? == tree {
                made.push(Made {
                    path: stack.iter().map(|(name, _)| name.as_os_str()).chain([name.as_os_str()]).collect(),
                    kind: wanted,
                    before: (&before).into(),
                    after: FolderMetadata::from(&after).modified,
                });
            }
        };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(failed(Errno::LOOP));
                }
                let text = rustix::fs::readlinkat(&file, "", Vec::new()).map_err(failed)?.into_bytes();
                let text = PathBuf::from(OsString::from_vec(text));
                todo.extend(text.iter().rev().map(OsStr::to_owned));
            }
            FileType::Directory if last && kind == Kind::File => return Err(failed(Errno::ISDIR)),
            FileType::Directory => {
                if let Some(owner) = owner.filter(|_| is_new) {
                    own_folder(&file, owner).map_err(failed)?;
                }
                stack.push((name, Place { file, is_new }));
            }
            _ if last && kind == Kind::File => return Ok(Place { file, is_new }),
            _ => return Err(failed(Errno::NOTDIR)),
        }
    }
    match (stack.pop(), kind) {
        (Some((_, place)), Kind::Folder) => Ok(place),
        (None, Kind::Folder) => {
            Err(Error::invalid("nothing can be mounted on the root itself").with_context("target", target))
        }
        (_, Kind::File) => Err(failed(Errno::ISDIR)),
    }
}

fn make(here: BorrowedFd<'_>, name: &OsStr, kind: Kind) -> rustix::io::Result<()> {
    match kind {
        Kind::Folder => rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(here, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

/// Gives a new folder its owner, by its descriptor. With a single id another owner is recorded.
fn own_folder(folder: &OwnedFd, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match rustix::fs::chownat(folder, "", owner, group, AtFlags::EMPTY_PATH) {
        Ok(()) => {}
        Err(Errno::INVAL) if userns::has_single_id() => {
            single_id::record(&view::fd_path(folder), (uid, gid))?;
        }
        Err(e) => return Err(e),
    }
    // A folder above can hand its set-group-id bit on.
    rustix::fs::chmod(view::fd_path(folder), Mode::from_raw_mode(0o755))
}

/// The number of the mount that holds a file.
fn mount_id(file: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(file, "", flags, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
}

/// Removes what [`open`] made in the upper folder of the overlay (or the whole tree), as far as it is unused. `keep`
/// are paths that stay, as with other builders. With `lowers` (topmost first), folders of the upper folder that equal
/// the lower one are removed too.
///
/// The step may have replaced folders with symlinks: none is followed.
pub(super) fn clean(upper: &Path, lowers: Option<&[PathBuf]>, made: &[Made], keep: &[&str]) -> Result<()> {
    if made.is_empty() {
        return Ok(());
    }
    let top = view::open_folder(upper)?;
    for one in made.iter().rev() {
        if keep.iter().any(|keep| Path::new(keep) == one.path) {
            continue;
        }
        let Some(name) = one.path.file_name() else { continue };
        let folder = one.path.parent().unwrap_or(Path::new(""));
        let Some(parent) = folder_below(top.as_fd(), folder) else { continue };
        let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let (expected, flags) = match one.kind {
            Kind::Folder => (FileType::Directory, AtFlags::REMOVEDIR),
            Kind::File => (FileType::RegularFile, AtFlags::empty()),
        };
        let is_unused = FileType::from_raw_mode(stat.st_mode) == expected
            && (one.kind == Kind::Folder || stat.st_size == 0);
        // A folder with entries stays.
        if is_unused && rustix::fs::unlinkat(&parent, name, flags).is_ok() {
            restore(top.as_fd(), lowers, folder, &parent, one)?;
        }
    }
    Ok(())
}

/// Opens a folder below another one; no part of the path may be a symlink.
pub(super) fn folder_below(top: BorrowedFd<'_>, path: &Path) -> Option<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_resolved(top, path, flags, resolve).ok()
}

fn restore(
    top: BorrowedFd<'_>,
    lowers: Option<&[PathBuf]>,
    folder: &Path,
    parent: &OwnedFd,
    one: &Made,
) -> Result<()> {
    let failed = |e: Errno| Error::io("cannot restore the time of a folder", folder, e.into());
    // The removal has just changed the time, so the time does not show whether the step changed the folder. A folder
    // with entries of the step keeps its new time; any other gets the old one back.
    let mut entries = rustix::fs::Dir::read_from(parent).map_err(failed)?;
    let is_entry = |entry: &rustix::io::Result<rustix::fs::DirEntry>| {
        !entry.as_ref().is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
    };
    if entries.any(|entry| is_entry(&entry)) {
        return Ok(());
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: one.before.modified.0, tv_nsec: one.before.modified.1 as _ },
    };
    rustix::fs::futimens(parent, &times).map_err(failed)?;
    let Some(lowers) = lowers else { return Ok(()) };
    // A folder that was copied up only for the mount equals the lower one.
    let mut path = folder.to_owned();
    while let (Some(name), Some(ours)) = (path.file_name(), folder_below(top, &path)) {
        let Some((below, lower)) = lowers.iter().find_map(|lower| below(lower, &path)) else { break };
        let mut metadata =
            rustix::fs::fstat(&ours).map(|stat| FolderMetadata::from(&stat)).map_err(failed)?;
        if path != folder {
            // Overlay keeps the times of the folders above the changed one.
            metadata.modified = below.modified;
        }
        let has_same_attributes =
            lower.is_some_and(|lower| attributes(&ours).is_some_and(|ours| Some(ours) == attributes(&lower)));
        let Some(above) = folder_below(top, path.parent().unwrap_or(Path::new(""))) else { break };
        if metadata != below
            || is_opaque(&ours)
            || !has_same_attributes
            || rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR).is_err()
            || !path.pop()
        {
            break;
        }
    }
    Ok(())
}

/// The metadata of what a layer has at a path, and the folder itself if it is one.
fn below(lower: &Path, path: &Path) -> Option<(FolderMetadata, Option<OwnedFd>)> {
    let top = view::open_folder(lower).ok()?;
    let above = folder_below(top.as_fd(), path.parent()?)?;
    let stat = rustix::fs::statat(above, path.file_name()?, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(((&stat).into(), folder_below(top.as_fd(), path)))
}

/// The attributes of a folder without those of the overlay; `None` when they cannot be read.
fn attributes(folder: &OwnedFd) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(folder, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length.ok()?,
    };
    let mut value = vec![0_u8; 64 << 10];
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !name.starts_with(b"user.overlay.") && !name.starts_with(b"trusted.overlay.") {
            let length = rustix::fs::fgetxattr(folder, name, &mut value[..]).ok()?;
            found.insert(name.to_vec(), value[..length].to_vec());
        }
    }
    Some(found)
}

fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0_u8; 8];
    matches!(rustix::fs::fgetxattr(folder, "user.overlay.opaque", &mut value[..]), Ok(n) if value[..n] == *b"y")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let fd = view::open_folder(folder.path()).unwrap();
        (folder, fd)
    }

    #[test]
    fn unused_mount_points_are_removed_and_used_ones_stay() {
        let (folder, fd) = root();
        let mut made = Vec::new();
        open(fd.as_fd(), "/run/secrets/key", Kind::File, None, &mut made).unwrap();
        open(fd.as_fd(), "/used/deep", Kind::Folder, None, &mut made).unwrap();
        open(fd.as_fd(), "/proc", Kind::Folder, None, &mut made).unwrap();
        std::fs::write(folder.path().join("used/file"), "x").unwrap();
        clean(folder.path(), None, &made, &["proc"]).unwrap();
        assert!(!folder.path().join("run").exists());
        assert!(!folder.path().join("used/deep").exists());
        assert!(folder.path().join("used/file").exists());
        assert!(folder.path().join("proc").exists());
    }

    #[test]
    fn cleaning_never_leaves_the_tree() {
        let (folder, fd) = root();
        let outside = tempfile::tempdir().unwrap();
        for name in ["empty", "file"] {
            std::fs::create_dir_all(outside.path().join("deep").join(name)).unwrap();
        }
        std::fs::remove_dir(outside.path().join("deep/file")).unwrap();
        std::fs::write(outside.path().join("deep/file"), "").unwrap();
        let mut made = Vec::new();
        open(fd.as_fd(), "/x/deep/empty", Kind::Folder, None, &mut made).unwrap();
        open(fd.as_fd(), "/x/deep/file", Kind::File, None, &mut made).unwrap();
        for top in [None, Some([outside.path().to_owned()])] {
            std::fs::remove_dir_all(folder.path().join("x")).ok();
            std::fs::remove_file(folder.path().join("x")).ok();
            std::os::unix::fs::symlink(outside.path(), folder.path().join("x")).unwrap();
            clean(folder.path(), top.as_ref().map(|top| &top[..]), &made, &[]).unwrap();
            assert!(outside.path().join("deep/empty").exists() && outside.path().join("deep/file").exists());
        }
    }

    #[test]
    fn a_folder_above_a_mount_is_removed_when_it_equals_the_lower_one() {
        for (change, stays) in [("none", false), ("attribute", true), ("mode", true), ("link", true)] {
            let [lower, deeper] = [(); 2].map(|()| tempfile::tempdir().unwrap());
            let (folder, fd) = root();
            for top in [lower.path(), deeper.path(), folder.path()] {
                std::fs::create_dir_all(top.join("a/b")).unwrap();
                std::fs::File::open(top.join("a/b")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            let mut made = Vec::new();
            open(fd.as_fd(), "/a/b/place", Kind::Folder, None, &mut made).unwrap();
            let ours = folder.path().join("a/b");
            match change {
                "attribute" => {
                    let flags = rustix::fs::XattrFlags::empty();
                    if rustix::fs::setxattr(&ours, "user.mine", b"x", flags).is_err() {
                        continue;
                    }
                }
                "mode" => rustix::fs::chmod(&ours, Mode::from_raw_mode(0o700)).unwrap(),
                "link" => {
                    std::fs::remove_dir(lower.path().join("a/b")).unwrap();
                    std::os::unix::fs::symlink("/", lower.path().join("a/b")).unwrap();
                }
                _ => {}
            }
            let lowers = [lower.path().to_owned(), deeper.path().to_owned()];
            clean(folder.path(), Some(&lowers), &made, &[]).unwrap();
            assert!(!ours.join("place").exists());
            assert_eq!(ours.exists(), stays, "{change}");
        }
    }

    #[test]
    fn symlinks_resolve_within_the_tree() {
        let (folder, fd) = root();
        std::os::unix::fs::symlink("/../../../run", folder.path().join("var")).unwrap();
        let mut made = Vec::new();
        open(fd.as_fd(), "/var/lock", Kind::Folder, None, &mut made).unwrap();
        assert!(folder.path().join("run/lock").is_dir());
        std::os::unix::fs::symlink("loop", folder.path().join("loop")).unwrap();
        assert!(open(fd.as_fd(), "/loop/x", Kind::File, None, &mut made).is_err());
    }

    #[test]
    fn a_file_is_not_a_folder() {
        let (folder, fd) = root();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let mut made = Vec::new();
        assert!(open(fd.as_fd(), "/file", Kind::Folder, None, &mut made).is_err());
        assert!(open(fd.as_fd(), "/file/x", Kind::File, None, &mut made).is_err());
        assert!(open(fd.as_fd(), "/", Kind::Folder, None, &mut made).is_err());
    }
}
