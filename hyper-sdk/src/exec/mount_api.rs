//! The primitives that all mounts of a step use.

use super::single_id;
use crate::sandbox::{sys, userns, view};
use crate::{Error, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// The attributes of a mount that holds neither programs nor devices.
pub(super) const QUIET: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes the error for a failed operation on a path.
pub(super) fn wrong(what: &'static str, path: impl AsRef<Path>) -> impl Fn(Errno) -> Error {
    move |e| Error::io(what, &path, e.into())
}

/// Makes a file with this content, owner and mode.
pub(super) fn make_file(
    folder: BorrowedFd<'_>,
    name: impl AsRef<Path>,
    content: &[u8],
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<()> {
    let name = name.as_ref();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(folder, name, flags, Mode::RUSR).map_err(wrong("cannot make a file", name))?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, content)?;
    own(folder, name, mode, uid, gid)
}

/// Sets owner and mode. With a single id, an owner other than root is recorded.
pub(super) fn own(
    folder: BorrowedFd<'_>,
    name: impl AsRef<Path>,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<()> {
    let name = name.as_ref();
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match rustix::fs::chownat(folder, name, owner, group, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => {}
        Err(Errno::INVAL) if userns::has_single_id() => {
            match single_id::record(&view::fd_path(&folder).join(name), (uid, gid)) {
                // A tmpfs has no user attributes before Linux 6.6. Its files are in no layer.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(Error::io("cannot record an owner", name, e.into())),
            }
        }
        Err(Errno::INVAL) => {
            return Err(Error::unsupported(crate::layer::UNMAPPED_OWNER)
                .with_context("detail", format!("{uid}:{gid}")));
        }
        Err(e) => return Err(Error::io("cannot set an owner", name, e.into())),
    }
    let mode = Mode::from_raw_mode(mode & 0o7777);
    if name.as_os_str().is_empty() {
        rustix::fs::fchmod(folder, mode).map_err(wrong("cannot set a mode", name))
    } else {
        rustix::fs::chmodat(folder, name, mode, AtFlags::empty()).map_err(wrong("cannot set a mode", name))
    }
}

/// Attaches a detached mount.
pub(super) fn attach(mount: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<()> {
    let name = name.as_ref();
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if name.as_os_str().is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    move_mount(mount, "", folder, name, flags).map_err(wrong("cannot mount", name))
}

/// A detached copy of the mount at `path`, with everything mounted below it when `recursive`.
pub(super) fn clone_tree(folder: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(folder, path, flags)
        .map_err(|e| Error::io("cannot bind-mount a file or folder", path, e.into()))
}

/// Makes a device that everybody may use. Returns false where devices may not be made, as in a container.
pub(super) fn make_device(folder: BorrowedFd<'_>, name: &str, (major, minor): (u32, u32)) -> Result<bool> {
    let device = rustix::fs::makedev(major, minor);
    let mode = Mode::from_raw_mode(0o666);
    match rustix::fs::mknodat(folder, name, FileType::CharacterDevice, mode, device) {
        Err(Errno::PERM) => return Ok(false),
        made => made.map_err(wrong("cannot make a device", name))?,
    }
    // The umask must not limit the mode of a device.
    rustix::fs::chmodat(folder, name, mode, AtFlags::empty()).map_err(wrong("cannot make a device", name))?;
    Ok(true)
}

/// Makes a mount `nodev`.
pub(super) fn no_devices(mount: BorrowedFd<'_>) -> Result<()> {
    sys::mount_setattr(mount, libc::MOUNT_ATTR_NODEV, true)
        .map_err(|e| Error::io("cannot make a mount `nodev`", "", e))
}

/// Makes a mount read-only.
pub(super) fn read_only(mount: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    sys::mount_setattr(mount, libc::MOUNT_ATTR_RDONLY, recursive)
        .map_err(|e| Error::io("cannot make a mount read-only", "", e))
}
