//! Loopback addresses that stay in their network namespace, whatever interface a socket names.
//!
//! The routes to `127.0.0.0/8` and `::1` are those of the loopback interface. A socket that names another interface
//! (`SO_BINDTODEVICE`, `IP_PKTINFO`) does not see them: it sends to these addresses by that interface, and a program for
//! user-mode networks at its other end passes on what it gets, to the loopback interface of this machine. With the same
//! routes for the other interface, what is sent to them is delivered in the namespace there, too.

use crate::{Error, Result};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

/// The addresses, with the lengths of their prefixes. The kernel has both of version 4.
const ADDRESSES: [(IpAddr, u8); 3] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::LOCALHOST), 32),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
];
/// The interfaces of the network namespace of who reads it.
const INTERFACES: &str = "/proc/thread-self/net/dev";

/// The names of the interfaces of this network namespace.
///
/// # Errors
/// [`crate::ErrorKind::Io`] when they cannot be read.
pub(super) fn interfaces() -> Result<Vec<String>> {
    let list = std::fs::read_to_string(INTERFACES)
        .map_err(|e| Error::io("cannot read the interfaces", INTERFACES, e))?;
    Ok(list.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect())
}

/// Keeps the loopback addresses of this network namespace in it, for all interfaces that are there now.
///
/// # Errors
/// [`crate::ErrorKind::Io`] with what the kernel said.
pub(super) fn keep_inside() -> Result<()> {
    let failed = |e: Errno| {
        Error::from(std::io::Error::from(e)).with_context("detail", "routes to the loopback addresses")
    };
    let any =
        socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    // Without a protocol it is that of routes.
    let routes =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(failed)?;
    for name in interfaces()?.iter().filter(|name| *name != "lo") {
        let interface = name_to_index(&any, name).map_err(failed)?;
        for (address, prefix) in ADDRESSES {
            match add(&routes, interface, address, prefix) {
                // Without IPv6, on this machine or on this interface, nothing is sent to its addresses.
                Err(Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::ACCESS | Errno::NODEV)
                    if address.is_ipv6() => {}
                other => other.map_err(failed)?,
            }
        }
    }
    Ok(())
}

/// Adds a route of type `local` to the table of such routes, after those that are there (rtnetlink(7)).
fn add(routes: &OwnedFd, interface: u32, address: IpAddr, prefix: u8) -> rustix::io::Result<()> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    // `struct rtmsg`: family, lengths of destination and source, type of service, table, protocol, scope, type, flags.
    let mut body = vec![family as u8, prefix, 0, 0];
    body.extend([libc::RT_TABLE_LOCAL, libc::RTPROT_STATIC, libc::RT_SCOPE_HOST, libc::RTN_LOCAL]);
    body.extend([0; 4]);
    let mut attribute = |kind: u16, value: &[u8]| {
        // Every value is a multiple of four bytes, as attributes must be.
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    };
    attribute(libc::RTA_DST, &bytes);
    attribute(libc::RTA_OIF, &interface.to_ne_bytes());
    // Version 6 knows routes to one destination apart by it.
    attribute(libc::RTA_PRIORITY, &if address.is_ipv6() { 10_u32 } else { 0 }.to_ne_bytes());
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    // `struct nlmsghdr`: length, type, flags, sequence, port.
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(routes, &message, SendFlags::empty())?;
    // The answer is a header and the number of an error, negative, or 0.
    let mut answer = [0; 256];
    let (length, _) = recv(routes, &mut answer, RecvFlags::empty())?;
    let number = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(number) => Err(Errno::from_raw_os_error(-number)),
        None => Err(Errno::PROTO),
    }
}
