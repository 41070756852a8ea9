//! The devices of the host, for steps that have all its privileges.
//!
//! They lie in `/dev` as on the host, with their modes and owners, beside what every step has there.

use super::mounts::{attach, clone_tree, make_file, own};
use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// What has a meaning of its own in every sandbox, or belongs to the programs of the host alone.
const LEFT_OUT: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];

/// Adds the devices of the host's `/dev` to that of a step. With `user_namespace` they are bound, as none can be made,
/// and those that this user cannot look at are left out.
pub(super) fn add(dev: BorrowedFd<'_>, user_namespace: bool) -> Result<()> {
    add_below(Path::new("/dev"), dev, user_namespace)
}

fn add_below(from: &Path, to: BorrowedFd<'_>, user_namespace: bool) -> Result<()> {
    let failed = |path: &Path, e: Errno| Error::io("cannot give a device of the host", path, e.into());
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && user_namespace => return Ok(()),
        Err(e) => return Err(Error::io("cannot read a folder", from, e)),
    };
    for entry in entries {
        let name = entry.map_err(|e| Error::io("cannot read a folder", from, e))?.file_name();
        let path = from.join(&name);
        if LEFT_OUT.iter().any(|left_out| *left_out == name)
            || rustix::fs::statat(to, &*name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        {
            continue;
        }
        let stat = match rustix::fs::lstat(&path) {
            Ok(stat) => stat,
            // Devices come and go.
            Err(Errno::NOENT) => continue,
            Err(Errno::ACCESS | Errno::PERM) if user_namespace => continue,
            Err(e) => return Err(failed(&path, e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, &*name, Mode::from_raw_mode(0o755)).map_err(|e| failed(&path, e))?;
                let folder = rustix::fs::openat(to, &*name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| failed(&path, e))?;
                add_below(&path, folder.as_fd(), user_namespace)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                add_device(&path, to, &name, &stat, user_namespace)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn add_device(
    path: &Path,
    to: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    user_namespace: bool,
) -> Result<()> {
    if !user_namespace {
        let kind = FileType::from_raw_mode(stat.st_mode);
        match rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o777), stat.st_rdev) {
            Ok(()) => return own(to, name, stat.st_mode, stat.st_uid, stat.st_gid),
            // Where we are in a container ourselves, not every device may be made.
            Err(Errno::PERM) => {}
            Err(e) => return Err(Error::io("cannot make a device", path, e.into())),
        }
    }
    let bound = clone_tree(CWD, path, false)?;
    make_file(to, name, &[], 0o600, 0, 0)?;
    attach(bound.as_fd(), to, name)
}
