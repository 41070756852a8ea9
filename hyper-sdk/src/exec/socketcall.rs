//! Makes sockets for 32-bit x86 programs.
//!
//! Those of the GNU C library make them through `socketcall`, whose arguments lie in memory, where no filter looks and
//! the program can change them at any time. So the call is handed to a thread of pid 1, which reads them once, makes the
//! socket itself when its family and kind are allowed, and puts it into the program. Everything else that `socketcall`
//! does is about a socket that exists, and is left to the kernel.

use super::{seccomp, sys};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Whether this machine has such programs.
pub(super) const IS_NEEDED: bool = cfg!(target_arch = "x86_64");

/// What the thread makes; the native call has more, which no such program was found to want.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
const KIND_MASK: i32 = 0xf;
const CAP_NET_RAW: u64 = 13;

/// Hands the calls of this process, and of what it starts, over to who reads `to`. False where the kernel cannot do it.
pub(super) fn hand_over(to: &UnixStream) -> bool {
    let Ok(listener) = sys::install_listener(&seccomp::handed_over()) else { return false };
    let files = [listener.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    // Where nobody reads, a call fails, since the listener closes here.
    let _ = rustix::net::sendmsg(to, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::NOSIGNAL);
    true
}

/// Takes what [`hand_over`] sends, and answers calls from then on, on a thread of its own.
pub(super) fn serve(from: &UnixStream) {
    let Some(listener) = receive(from) else { return };
    // Without the thread nobody holds the listener, and the calls fail.
    let _ = std::thread::Builder::new().spawn(move || {
        while let Some(call) = sys::next_call(listener.as_fd()) {
            let made = make(&listener, &call);
            sys::answer_call(listener.as_fd(), &call, made);
        }
    });
}

fn receive(from: &UnixStream) -> Option<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let mut bytes = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(from, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(_) => return None,
            Ok(_) => break,
        }
    }
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    })
}

/// The socket that a call asks for, and whether it is closed when the program is replaced.
fn make(listener: &OwnedFd, call: &sys::Waiting) -> rustix::io::Result<(OwnedFd, bool)> {
    let mut bytes = [0; 12];
    // An address of 32 bits.
    sys::read_memory(call.pid, call.arguments[1] & 0xffff_ffff, &mut bytes).map_err(|_| Errno::FAULT)?;
    let number = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (family, kind, protocol) = (number(0), number(4), number(8));
    let may_be_raw = family == libc::AF_NETLINK || has_raw_sockets(call.pid);
    if !sys::still_waits(listener.as_fd(), call) || !is_allowed(family, kind, may_be_raw) {
        return Err(Errno::PERM);
    }
    let socket = sys::make_socket(family, kind, protocol)?;
    Ok((socket, kind & libc::SOCK_CLOEXEC != 0))
}

/// The thread has more rights than the program: what would need them is looked at here.
fn is_allowed(family: i32, kind: i32, may_be_raw: bool) -> bool {
    FAMILIES.contains(&family)
        && match kind & KIND_MASK {
            libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET => true,
            libc::SOCK_RAW => may_be_raw,
            _ => false,
        }
}

fn has_raw_sockets(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_NET_RAW & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_every_day_are_made_and_no_others() {
        for family in 0..64 {
            for kind in 0..16 {
                let every_day =
                    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].contains(&family);
                let plain = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET].contains(&kind);
                let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
                assert_eq!(is_allowed(family, kind | flags, false), every_day && plain, "{family} {kind}");
                let raw = kind == libc::SOCK_RAW;
                assert_eq!(is_allowed(family, kind, true), every_day && (plain || raw), "{family} {kind}");
            }
        }
    }
}
