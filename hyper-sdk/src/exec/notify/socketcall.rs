//! Makes sockets for 32-bit x86 programs.
//!
//! Programs that use the GNU C library make sockets with `socketcall`, whose arguments are in memory: filters cannot
//! read them, and the program can change them at any time. So a thread of pid 1 answers the call: it reads the
//! arguments once, makes the socket if its family and kind are allowed, and puts it into the program. All other
//! operations of `socketcall` use an existing socket and are left to the kernel.

use super::{Answer, Request};
use crate::exec::seccomp::FAMILIES;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Whether this machine runs 32-bit x86 programs.
pub(in crate::exec) const IS_NEEDED: bool = cfg!(target_arch = "x86_64");

const KIND_MASK: i32 = 0xf;
const CAP_NET_RAW: u64 = 13;

/// Answers the calls of the listener that the command sends, on a new thread.
///
/// # Errors
/// Those of [`super::serve`] and of a `/proc` that cannot be opened. A command that sends none is none.
pub(in crate::exec) fn serve(from: &UnixStream, host_network: bool) -> io::Result<()> {
    let Some(listener) = super::receive(from) else { return Ok(()) };
    let proc = super::open_proc()?;
    super::serve(from, listener, move |listener, request| answer(listener, &proc, request, host_network))
}

/// The socket that a call asks for. On the host's network there are no raw ones but those of AF_NETLINK.
pub(in crate::exec) fn answer(
    listener: &OwnedFd,
    proc: &OwnedFd,
    request: &Request,
    host_network: bool,
) -> rustix::io::Result<Answer> {
    let mut bytes = [0; 12];
    // The address has 32 bits.
    super::read(request.pid, request.args[1] & 0xffff_ffff, &mut bytes).map_err(|_| Errno::FAULT)?;
    let number = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (family, kind, protocol) = (number(0), number(4), number(8));
    let may_be_raw = family == libc::AF_NETLINK || !host_network && has_raw_sockets(proc, request.pid);
    if !super::still_waits(listener, request) || !is_allowed(family, kind, may_be_raw) {
        return Err(Errno::PERM);
    }
    let socket = super::make_socket(family, kind, protocol)?;
    Ok(Answer::File(socket, kind & libc::SOCK_CLOEXEC != 0))
}

/// The thread has more privileges than the program, so it checks here what would need them.
fn is_allowed(family: i32, kind: i32, may_be_raw: bool) -> bool {
    FAMILIES.contains(&family)
        && match kind & KIND_MASK {
            libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET => true,
            libc::SOCK_RAW => may_be_raw,
            _ => false,
        }
}

fn has_raw_sockets(proc: &OwnedFd, pid: u32) -> bool {
    let effective = super::process_status(proc, pid, "CapEff:");
    effective
        .ok()
        .and_then(|bits| u64::from_str_radix(&bits, 16).ok())
        .is_some_and(|bits| bits >> CAP_NET_RAW & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_common_sockets_are_allowed() {
        for family in 0..64 {
            for kind in 0..16 {
                let common =
                    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].contains(&family);
                let plain = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET].contains(&kind);
                let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
                assert_eq!(is_allowed(family, kind | flags, false), common && plain, "{family} {kind}");
                let raw = kind == libc::SOCK_RAW;
                assert_eq!(is_allowed(family, kind, true), common && (plain || raw), "{family} {kind}");
            }
        }
    }
}
