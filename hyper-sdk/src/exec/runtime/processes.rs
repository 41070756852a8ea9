//! Pid 1 of the pid namespace of a step. The runtime, which is outside of the namespace, puts the command there.

use crate::exec::above::SIGNALS;
use crate::exec::mounts::new_proc;
use crate::sandbox::{descriptors, sys, view};
use crate::{Error, Result, ResultExt};
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A pid namespace.
pub(super) struct Processes {
    /// Its `/proc`.
    pub(super) proc: OwnedFd,
    /// The namespace.
    pub(super) namespace: OwnedFd,
}

impl Processes {
    /// Makes one. Its pid 1 ends with the pid namespace of this process, whose `/proc` is mounted already.
    pub(super) fn start() -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        match sys::fork_into_namespace().context("detail", "pid namespace")? {
            sys::Fork::Child => {
                drop(ours);
                sys::die_with_parent(0);
                match begin(&theirs) {
                    Ok(()) => wait_for_ever(),
                    Err(_) => sys::exit_now(1),
                }
            }
            sys::Fork::Parent(_) => {
                drop(theirs);
                let [proc, namespace] = descriptors::receive::<2>(&ours)
                    .ok_or_else(|| Error::internal("the pid namespace of a step cannot be made"))?;
                Ok(Self { proc, namespace })
            }
        }
    }
}

/// Sends what the parent needs, and keeps nothing that a process of the step could use.
fn begin(to: &UnixStream) -> Result<()> {
    let proc = new_proc()?;
    let namespace = std::fs::File::open("/proc/self/ns/pid")?;
    let empty = view::tmpfs(&[("mode", "0555")], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    rustix::process::fchdir(&empty)
        .and_then(|()| rustix::process::chroot("."))
        .map_err(std::io::Error::from)?;
    sys::ignore_children();
    sys::block_signals(SIGNALS);
    sys::set_capabilities(0)?;
    sys::hide_memory();
    descriptors::send(to, [proc.as_fd(), namespace.as_fd()])?;
    Ok(())
}

fn wait_for_ever() -> ! {
    // All that was opened is in other processes by now, and nothing here returns.
    sys::close_above(2);
    loop {
        sys::next_signal(&SIGNALS[1..]);
    }
}
