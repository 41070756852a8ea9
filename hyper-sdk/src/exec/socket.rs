//! Offers a Unix socket of the host inside a step, such as that of an ssh agent, with an owner and a mode of its own:
//! the host's socket belongs to a user that the step is not.

use super::{mounts, sys, view};
use crate::{Error, Result};
use rustix::fs::OFlags;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Makes the socket `name` in `folder` and a process that passes on what arrives there. It ends with the step.
pub(super) fn serve(
    host: &Path,
    folder: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<()> {
    // Held open, since the path is out of sight once the step has its own root.
    let target = view::open_in(view::open_folder(Path::new("/"))?.as_fd(), host, OFlags::PATH)
        .map_err(|e| Error::io("the socket to mount does not exist", host, e.into()))?;
    let listener = UnixListener::bind(view::fd_path(&folder).join(name))
        .map_err(|e| Error::io("cannot make a socket for the step", host, e))?;
    mounts::own(folder, name, mode, uid, gid)?;
    let own_pid = sys::own_pid();
    if let sys::Fork::Child = sys::fork()? {
        sys::die_with_parent(own_pid);
        sys::hide_memory();
        for inner in listener.incoming().flatten() {
            if let Ok(outer) = UnixStream::connect(view::fd_path(&target)) {
                connect(inner, outer);
            }
        }
        sys::exit_now(0);
    }
    Ok(())
}

fn connect(inner: UnixStream, outer: UnixStream) {
    let (Ok(inner_again), Ok(outer_again)) = (inner.try_clone(), outer.try_clone()) else { return };
    std::thread::spawn(move || pass(inner, outer));
    std::thread::spawn(move || pass(outer_again, inner_again));
}

fn pass(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // The other side may have closed first.
    to.shutdown(std::net::Shutdown::Write).ok();
}
