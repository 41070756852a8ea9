//! The few system calls behind all this that no safe crate offers.
#![allow(
    unsafe_code,
    reason = "seccomp notifications, limits and memory of other processes have no safe wrapper"
)]

use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

fn check(result: i64) -> rustix::io::Result<i64> {
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(result)
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    id: u64,
    /// The thread that made it.
    pub(super) pid: u32,
    pub(super) arch: u32,
    pub(super) number: i32,
    pub(super) args: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// The kernel does it.
    Continue,
    /// It has been done, and gives this.
    Value(i64),
    /// It has been done, and gives this file; `true` closes it when the program is replaced.
    File(OwnedFd, bool),
    /// It fails.
    Fail(Errno),
}

/// Installs a filter that hands calls over, and gives the file that they come from. The caller must have CAP_SYS_ADMIN
/// in its namespace.
pub(in crate::exec) fn install(program: &seccompiler::BpfProgram) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let install = |flags: libc::c_ulong| {
        // SAFETY: `filter` points to as many instructions as it says, of the layout that the kernel defines; the kernel
        // checks and copies them.
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter) })
    };
    // A signal must not make a program repeat a call that has been done for it; older kernels cannot promise that.
    let fd = install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        .or_else(|e| match e {
        Errno::INVAL => install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        e => Err(e),
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Lets the other side run on the same processor, where the kernel can.
pub(super) fn wake_in_step(listener: &OwnedFd) {
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the request takes the flags as a number.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Waits for the next call; `None` when nobody is left who could make one.
pub(super) fn next(listener: &OwnedFd) -> Option<Request> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        let mut files = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut files, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) if !files[0].revents().contains(PollFlags::IN) => return None,
            Ok(_) => {}
        }
        // SAFETY: all zeroes is a valid value, which the kernel wants.
        let mut request = unsafe { std::mem::zeroed::<libc::seccomp_notif>() };
        // SAFETY: the kernel writes one structure of this very type.
        let result =
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut request) };
        match check(i64::from(result)) {
            Ok(_) => {
                return Some(Request {
                    id: request.id,
                    pid: request.pid,
                    arch: request.data.arch,
                    number: request.data.nr,
                    args: request.data.args,
                });
            }
            // Whoever called was killed meanwhile.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return None,
        }
    }
}

/// Whether the call still waits, so that the number of its process is still its own.
pub(super) fn still_waits(listener: &OwnedFd, request: &Request) -> bool {
    // SAFETY: the kernel reads one number.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &request.id) == 0 }
}

/// Answers a call. One that waits no more is nobody's loss.
pub(super) fn answer(listener: &OwnedFd, request: &Request, answer: Answer) {
    // SAFETY: all zeroes is a valid value.
    let mut response = unsafe { std::mem::zeroed::<libc::seccomp_notif_resp>() };
    response.id = request.id;
    match answer {
        Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        Answer::Value(value) => response.val = value,
        Answer::Fail(e) => response.error = -e.raw_os_error(),
        Answer::File(file, close_on_exec) => {
            let flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
            let add = libc::seccomp_notif_addfd {
                id: request.id,
                flags: 0,
                srcfd: file.as_raw_fd() as u32,
                newfd: 0,
                newfd_flags: flags,
            };
            // SAFETY: the kernel reads one structure of this very type; the file is open.
            let result = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &add) };
            match check(i64::from(result)) {
                Ok(number) => response.val = number,
                Err(e) => response.error = -e.raw_os_error(),
            }
        }
    }
    // SAFETY: the kernel reads one structure of this very type.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &response) };
}

fn transfer(pid: u32, at: u64, local: &mut [u8], write: bool) -> rustix::io::Result<usize> {
    let ours = libc::iovec { iov_base: local.as_mut_ptr().cast(), iov_len: local.len() };
    let theirs = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: local.len() };
    let pid = pid as libc::pid_t;
    // SAFETY: our side is one slice; the other side is memory of another process, which the kernel checks.
    let result = unsafe {
        if write {
            libc::process_vm_writev(pid, &ours, 1, &theirs, 1, 0)
        } else {
            libc::process_vm_readv(pid, &ours, 1, &theirs, 1, 0)
        }
    };
    check(result as i64).map(|n| n as usize)
}

/// Reads memory of a process.
pub(super) fn read(pid: u32, at: u64, into: &mut [u8]) -> rustix::io::Result<()> {
    if into.is_empty() {
        return Ok(());
    }
    if transfer(pid, at, into, false)? == into.len() { Ok(()) } else { Err(Errno::FAULT) }
}

/// Writes memory of a process.
pub(super) fn write(pid: u32, at: u64, bytes: &[u8]) -> rustix::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut copy = bytes.to_vec();
    if transfer(pid, at, &mut copy, true)? == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
}

/// Reads a text that ends with a NUL, which is not part of the result.
pub(super) fn read_text(pid: u32, at: u64) -> rustix::io::Result<Vec<u8>> {
    const LONGEST: usize = 4096;
    const PAGE: u64 = 4096;
    if at == 0 {
        return Err(Errno::FAULT);
    }
    let mut text = Vec::new();
    while text.len() < LONGEST {
        let place = at + text.len() as u64;
        // Up to the end of a page, since the next may not be there.
        let mut piece = [0; PAGE as usize];
        let piece = &mut piece[..(PAGE - place % PAGE) as usize];
        read(pid, place, piece)?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&piece[..end]);
            return if text.len() < LONGEST { Ok(text) } else { Err(Errno::NAMETOOLONG) };
        }
        text.extend_from_slice(piece);
    }
    Err(Errno::NAMETOOLONG)
}

const NOBODY_SAID: u64 = libc::RLIM64_INFINITY;

/// The number of the identity of a process: a limit that the kernel has not used since 2.4.25, and that children and
/// new programs inherit.
pub(super) fn identity(pid: u32) -> usize {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one limit.
    let result = unsafe { libc::prlimit64(pid as i32, libc::RLIMIT_LOCKS, std::ptr::null(), &mut limit) };
    if result != 0 || limit.rlim_cur == NOBODY_SAID {
        0
    } else {
        usize::try_from(limit.rlim_cur).unwrap_or(0)
    }
}

/// Sets the number of the identity of a process; 0 is this one.
pub(in crate::exec) fn set_identity(pid: u32, number: usize) -> rustix::io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: number as u64, rlim_max: NOBODY_SAID };
    // SAFETY: the kernel reads one limit.
    let result = unsafe { libc::prlimit64(pid as i32, libc::RLIMIT_LOCKS, &limit, std::ptr::null_mut()) };
    check(i64::from(result)).map(drop)
}

/// The status of an open file as the C library lays it out, in bytes, with another owner.
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
