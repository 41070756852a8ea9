//! System calls of the supervisor that have no safe wrapper.
#![allow(unsafe_code, reason = "limits of other processes and raw statuses have no safe wrapper")]

use crate::exec::notify::check;
use std::os::fd::{AsFd, AsRawFd};

const UNSET: u64 = libc::RLIM64_INFINITY;

/// The number of the identity of a process. It is stored in a resource limit that the kernel has not used since 2.4.25
/// and that children and new programs inherit.
pub(super) fn identity(pid: u32) -> usize {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one limit.
    let result = unsafe { libc::prlimit64(pid as i32, libc::RLIMIT_LOCKS, std::ptr::null(), &mut limit) };
    if result != 0 || limit.rlim_cur == UNSET { 0 } else { usize::try_from(limit.rlim_cur).unwrap_or(0) }
}

/// Sets the number of the identity of a process; pid 0 means this process.
pub(in crate::exec) fn set_identity(pid: u32, number: usize) -> rustix::io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: number as u64, rlim_max: UNSET };
    // SAFETY: the kernel reads one limit.
    let result = unsafe { libc::prlimit64(pid as i32, libc::RLIMIT_LOCKS, &limit, std::ptr::null_mut()) };
    check(i64::from(result)).map(drop)
}

/// The status of an open file in the layout of `struct stat`, with another owner.
pub(super) fn native_status(file: impl AsFd, (uid, gid): (u32, u32)) -> rustix::io::Result<Vec<u8>> {
    // SAFETY: all zeroes is a valid value.
    let mut stat = unsafe { std::mem::zeroed::<libc::stat>() };
    let (fd, flags) = (file.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a valid string, and the kernel writes one structure of this very type.
    check(i64::from(unsafe { libc::fstatat(fd, c"".as_ptr(), &mut stat, flags) }))?;
    (stat.st_uid, stat.st_gid) = (uid, gid);
    // SAFETY: the structure is plain numbers that were all set, by zeroing at first.
    let bytes = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(&stat).cast::<u8>(), size_of::<libc::stat>())
    };
    Ok(bytes.to_vec())
}

/// The same in the layout of `statx`.
pub(super) fn statx_status(
    file: impl AsFd,
    flags: i32,
    mask: u32,
    (uid, gid): (u32, u32),
) -> rustix::io::Result<Vec<u8>> {
    // SAFETY: all zeroes is a valid value.
    let mut stat = unsafe { std::mem::zeroed::<libc::statx>() };
    let fd = file.as_fd().as_raw_fd();
    let flags = flags & libc::AT_STATX_SYNC_TYPE | libc::AT_EMPTY_PATH;
    // SAFETY: the path is a valid string, and the kernel writes one structure of this very type.
    check(unsafe { libc::syscall(libc::SYS_statx, fd, c"".as_ptr(), flags, mask, &mut stat) })?;
    (stat.stx_uid, stat.stx_gid) = (uid, gid);
    // SAFETY: the structure is plain numbers that were all set, by zeroing at first.
    let bytes = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(&stat).cast::<u8>(), size_of::<libc::statx>())
    };
    Ok(bytes.to_vec())
}
