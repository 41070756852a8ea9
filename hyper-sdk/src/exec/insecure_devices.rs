//! The devices that a step has only with all privileges, for building disk images, file systems, virtual machines and
//! networks.
//!
//! They are made whether or not the host has them in its `/dev`; the kernel decides whether they can be opened. In a
//! user namespace no device can be made, and a step there has only the usual ones, as with other builders.

use super::mount_api::{attach, clone_tree, make_file, own};
use crate::sandbox::sys;
use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

const DEVICES: [(&str, u32, u32); 6] = [
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("net/tun", 10, 200),
    ("loop-control", 10, 237),
];
/// The major number of loop devices.
const LOOP: u32 = 7;
/// How many loop devices are added after the first free one.
const SPARE_LOOPS: u32 = 7;

/// Adds them to the `/dev` of a step.
pub(super) fn add(dev: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::mkdirat(dev, "net", Mode::from_raw_mode(0o755))
        .map_err(|e| Error::io("cannot make", "/dev/net", e.into()))?;
    for (name, major, minor) in DEVICES {
        add_device(dev, name, FileType::CharacterDevice, (major, minor))?;
    }
    for number in 0..=sys::free_loop_device().saturating_add(SPARE_LOOPS) {
        add_device(dev, &format!("loop{number}"), FileType::BlockDevice, (LOOP, number))?;
    }
    Ok(())
}

fn add_device(dev: BorrowedFd<'_>, name: &str, kind: FileType, (major, minor): (u32, u32)) -> Result<()> {
    let path = Path::new("/dev").join(name);
    let device = rustix::fs::makedev(major, minor);
    match rustix::fs::mknodat(dev, name, kind, Mode::from_raw_mode(0o666), device) {
        Ok(()) => own(dev, name, 0o666, 0, 0),
        // Inside a container not every device may be made: those that exist are bound.
        Err(Errno::PERM) if rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).is_err() => Ok(()),
        Err(Errno::PERM) => {
            let bound = clone_tree(CWD, &path, false)?;
            make_file(dev, name, &[], 0o600, 0, 0)?;
            attach(bound.as_fd(), dev, name)
        }
        Err(e) => Err(Error::io("cannot make a device", path, e.into())),
    }
}
