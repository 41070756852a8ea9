//! System calls that another process answers (seccomp user notification).
//!
//! The command installs a filter and sends its listener to pid 1 of the step ([`hand_over`]). That receives it
//! ([`receive`]), starts a thread that answers each call until no process with the filter is left ([`serve`]), and tells
//! the command so: before that the command runs nothing, and without a thread it fails. A process has only one listener,
//! so the supervisor for a single id ([`super::single_id`]) answers [`socketcall`] too.
#![allow(unsafe_code, reason = "seccomp notifications and memory of other processes have no safe wrapper")]

pub(super) mod socketcall;

use crate::sandbox::descriptors;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The result of a raw system call.
pub(in crate::exec) fn check(result: i64) -> rustix::io::Result<i64> {
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(result)
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(in crate::exec) struct Request {
    id: u64,
    /// The thread that made the call.
    pub(in crate::exec) pid: u32,
    pub(in crate::exec) arch: u32,
    pub(in crate::exec) number: i32,
    pub(in crate::exec) args: [u64; 6],
}

/// The answer to a call.
#[derive(Debug)]
pub(in crate::exec) enum Answer {
    /// The kernel executes the call.
    Continue,
    /// The call is done and returns this value.
    Value(i64),
    /// The call is done and returns this file; `true` closes it on exec.
    File(OwnedFd, bool),
    /// The call fails.
    Fail(Errno),
}

/// Lets the reader of `to` answer the calls of a filter of this process, and waits until it does.
///
/// # Errors
/// When it cannot: then the calls fail.
pub(super) fn hand_over(listener: OwnedFd, mut to: &UnixStream) -> io::Result<()> {
    descriptors::send(to, [listener.as_fd()])?;
    drop(listener);
    // The reader closes its end when it cannot answer.
    to.read_exact(&mut [0])
        .map_err(|e| io::Error::new(e.kind(), "nobody answers the handed-over calls of this step"))
}

/// Receives the listener that [`hand_over`] sends. `None` when the command ended without sending it.
pub(super) fn receive(from: &UnixStream) -> Option<OwnedFd> {
    descriptors::receive(from).map(|[listener]| listener)
}

/// Answers calls on a new thread, and tells the command at the other end of `from` so.
///
/// # Errors
/// The error of the system when no thread can be started. Then the listener closes, and the command fails.
pub(super) fn serve(
    mut from: &UnixStream,
    listener: OwnedFd,
    mut decide: impl FnMut(&OwnedFd, &Request) -> rustix::io::Result<Answer> + Send + 'static,
) -> io::Result<()> {
    let work = move || {
        while let Some(request) = next(&listener) {
            let decided = decide(&listener, &request).unwrap_or_else(Answer::Fail);
            answer(&listener, &request, decided);
        }
    };
    std::thread::Builder::new().spawn(work)?;
    // A command that was killed meanwhile needs no answers.
    let _ = from.write_all(b"s");
    Ok(())
}

/// `/proc` of this process, for [`process_status`].
pub(super) fn open_proc() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The value of the line that begins with `name` in `/proc/PID/status`.
pub(super) fn process_status(proc: &OwnedFd, pid: u32, name: &str) -> rustix::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, format!("{pid}/status"), flags, Mode::empty())?;
    let text = io::read_to_string(std::fs::File::from(file)).map_err(|_| Errno::IO)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.map(|value| value.trim().to_owned()).ok_or(Errno::IO)
}

/// Makes a socket from the kernel's numbers.
fn make_socket(family: i32, kind: i32, protocol: i32) -> rustix::io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = check(i64::from(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }))?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Lets the other side run on the same processor, if the kernel supports it.
pub(in crate::exec) fn wake_in_step(listener: &OwnedFd) {
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the request takes the flags as a number.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Waits for the next call; `None` when no process with the filter is left.
fn next(listener: &OwnedFd) -> Option<Request> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        let mut files = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut files, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) if !files[0].revents().contains(PollFlags::IN) => return None,
            Ok(_) => {}
        }
        // SAFETY: all zeroes is a valid value, which the kernel requires.
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
            // The caller was killed meanwhile.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return None,
        }
    }
}

/// Whether the call still waits, so that its process number has not been reused.
pub(in crate::exec) fn still_waits(listener: &OwnedFd, request: &Request) -> bool {
    // SAFETY: the kernel reads one number.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &request.id) == 0 }
}

/// Answers a call. An error means that the caller is gone.
fn answer(listener: &OwnedFd, request: &Request, answer: Answer) {
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
pub(in crate::exec) fn read(pid: u32, at: u64, into: &mut [u8]) -> rustix::io::Result<()> {
    if into.is_empty() {
        return Ok(());
    }
    if transfer(pid, at, into, false)? == into.len() { Ok(()) } else { Err(Errno::FAULT) }
}

/// Writes memory of a process.
pub(in crate::exec) fn write(pid: u32, at: u64, bytes: &[u8]) -> rustix::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut copy = bytes.to_vec();
    if transfer(pid, at, &mut copy, true)? == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
}

/// Reads a NUL-terminated text; the result is without the NUL.
pub(in crate::exec) fn read_text(pid: u32, at: u64) -> rustix::io::Result<Vec<u8>> {
    const LONGEST: usize = 4096;
    const PAGE: u64 = 4096;
    if at == 0 {
        return Err(Errno::FAULT);
    }
    let mut text = Vec::new();
    while text.len() < LONGEST {
        let address = at + text.len() as u64;
        // Up to the end of a page, since the next page may not be mapped.
        let mut piece = [0; PAGE as usize];
        let piece = &mut piece[..(PAGE - address % PAGE) as usize];
        read(pid, address, piece)?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&piece[..end]);
            return if text.len() < LONGEST { Ok(text) } else { Err(Errno::NAMETOOLONG) };
        }
        text.extend_from_slice(piece);
    }
    Err(Errno::NAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_command_waits_until_its_calls_are_answered() {
        let (to, from) = UnixStream::pair().unwrap();
        let command = std::thread::spawn(move || hand_over(some_file(), &to));
        let listener = receive(&from).unwrap();
        // A command that did not wait would have ended long ago.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!command.is_finished());
        serve(&from, listener, |_, _| Ok(Answer::Continue)).unwrap();
        command.join().unwrap().unwrap();
    }

    #[test]
    fn a_command_whose_calls_nobody_answers_fails() {
        let (to, from) = UnixStream::pair().unwrap();
        let command = std::thread::spawn(move || hand_over(some_file(), &to));
        drop(receive(&from).unwrap());
        drop(from);
        let error = command.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("nobody answers"), "{error}");
        let (to, from) = UnixStream::pair().unwrap();
        drop(from);
        hand_over(some_file(), &to).unwrap_err();
    }
}
