//! Offers the ssh agent of the host inside a step, through a new socket with its own owner and mode: the host's socket
//! belongs to another user.
//!
//! A step may list keys and sign (draft-miller-ssh-agent, section 3). It cannot add, remove or lock keys: those
//! requests fail without reaching the agent.

use super::mount_api;
use crate::sandbox::{sys, view};
use crate::{Error, Result};
use rustix::fs::OFlags;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Makes the socket `name` in `folder` and a process that forwards its messages. The process ends with the step.
pub(super) fn serve(
    host: &Path,
    folder: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<()> {
    // Kept open, since the path cannot be reached once the step has its own root.
    let target = view::open_in(view::open_folder(Path::new("/"))?.as_fd(), host, OFlags::PATH)
        .map_err(|e| Error::io("the socket to mount does not exist", host, e.into()))?;
    let listener = UnixListener::bind(view::fd_path(&folder).join(name))
        .map_err(|e| Error::io("cannot make a socket for the step", host, e))?;
    mount_api::own(folder, name, mode, uid, gid)?;
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

/// The longest message that is forwarded; agents do not accept longer ones either.
const MAX_MESSAGE: usize = 256 << 10;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// The whole message SSH_AGENT_FAILURE.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

fn connect(inner: UnixStream, outer: UnixStream) {
    // When no thread can be started, both ends are closed and the program sees an error.
    std::thread::Builder::new().spawn(move || pass(inner, outer)).ok();
}

/// Forwards requests and replies until either side closes.
fn pass(mut inner: UnixStream, mut outer: UnixStream) {
    while let Some(request) = message(&mut inner) {
        let answer = match request.get(4) {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                if outer.write_all(&request).is_err() {
                    return;
                }
                match message(&mut outer) {
                    Some(answer) => answer,
                    None => return,
                }
            }
            _ => FAILURE.to_vec(),
        };
        if inner.write_all(&answer).is_err() {
            return;
        }
    }
}

/// One message with its length prefix; `None` at the end or when it is too long.
fn message(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let size = usize::try_from(u32::from_be_bytes(length)).ok().filter(|size| *size <= MAX_MESSAGE)?;
    let mut message = length.to_vec();
    message.resize(4 + size, 0);
    from.read_exact(&mut message[4..]).ok()?;
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }

    #[test]
    fn a_step_can_only_list_keys_and_sign() {
        let (mut step, inner) = UnixStream::pair().unwrap();
        let (outer, mut agent) = UnixStream::pair().unwrap();
        connect(inner, outer);
        let agent = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while let Some(request) = message(&mut agent) {
                seen.push(request[4]);
                agent.write_all(&framed(&[request[4] + 1, 9])).unwrap();
            }
            seen
        });
        let mut ask = |body: &[u8]| {
            step.write_all(&framed(body)).unwrap();
            message(&mut step).unwrap()
        };
        assert_eq!(ask(&[11]), framed(&[12, 9]));
        assert_eq!(ask(&[13, 1, 2, 3]), framed(&[14, 9]));
        // Remove all, add, lock, an extension, nothing.
        for body in [&[19][..], &[17, 1], &[22], &[27], &[]] {
            assert_eq!(ask(body), FAILURE, "{body:?}");
        }
        step.write_all(&[0xff; 8]).unwrap();
        assert_eq!(step.read(&mut [0; 8]).unwrap_or(0), 0, "a message that is too long ends the connection");
        drop(step);
        assert_eq!(agent.join().unwrap(), [11, 13]);
    }
}
