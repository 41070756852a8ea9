//! Offers the ssh agent of the host inside a step, through a new socket with its own owner and mode: the host's socket
//! belongs to another user.
//!
//! A step may list keys and sign (draft-miller-ssh-agent, section 3). It cannot add, remove or lock keys: those
//! requests fail without reaching the agent.

use super::mount_api;
use crate::sandbox::{sys, view};
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

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
        forward(&listener, || UnixStream::connect(view::fd_path(&target)));
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

/// More connections wait until one of these is closed.
const MAX_CONNECTIONS: usize = 100;
/// How long a program may take from the first to the last byte of a message: others wait meanwhile.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Forwards requests of all connections, one request at a time: threads would count against the limit of the step.
fn forward(listener: &UnixListener, connect: impl Fn() -> std::io::Result<UnixStream>) {
    let mut open: Vec<(UnixStream, UnixStream)> = Vec::new();
    loop {
        let wanted = if open.len() < MAX_CONNECTIONS { PollFlags::IN } else { PollFlags::empty() };
        let mut files = vec![PollFd::new(listener, wanted)];
        files.extend(open.iter().map(|(inner, _)| PollFd::new(inner, PollFlags::IN)));
        match poll(&mut files, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let mut has_news =
            files.iter().map(|file| !file.revents().is_empty()).collect::<Vec<_>>().into_iter();
        let is_new = has_news.next() == Some(true);
        open.retain_mut(|(inner, outer)| has_news.next() != Some(true) || pass(inner, outer).is_some());
        if !is_new {
            continue;
        }
        // Without the agent the program sees a closed connection.
        let opened = listener.accept().and_then(|(inner, _)| {
            inner.set_read_timeout(Some(MESSAGE_TIMEOUT))?;
            Ok((inner, connect()?))
        });
        match opened {
            Ok(pair) => open.push(pair),
            // Such as too many open files: the connection may still wait.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Forwards a request and its reply. `None` when either side has closed, or stopped within a message.
fn pass(inner: &mut UnixStream, outer: &mut UnixStream) -> Option<()> {
    let request = message(inner)?;
    let answer = match request.get(4) {
        Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
            outer.write_all(&request).ok()?;
            message(outer)?
        }
        _ => FAILURE.to_vec(),
    };
    inner.write_all(&answer).ok()
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

    /// A socket of a step, with an agent that answers a request with its number and one more.
    struct Served {
        folder: tempfile::TempDir,
        seen: std::sync::mpsc::Receiver<u8>,
    }

    impl Served {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (tell, seen) = std::sync::mpsc::channel();
            let inner = UnixListener::bind(folder.path().join("inner")).unwrap();
            let outer = folder.path().join("outer");
            let agent = UnixListener::bind(&outer).unwrap();
            std::thread::spawn(move || forward(&inner, || UnixStream::connect(&outer)));
            std::thread::spawn(move || {
                for mut connection in agent.incoming().flatten() {
                    let tell = tell.clone();
                    std::thread::spawn(move || {
                        while let Some(request) = message(&mut connection) {
                            tell.send(request[4]).unwrap();
                            connection.write_all(&framed(&[request[4] + 1, 9])).unwrap();
                        }
                    });
                }
            });
            Self { folder, seen }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(self.folder.path().join("inner")).unwrap()
        }
    }

    #[test]
    fn connections_are_open_beside_each_other() {
        let served = Served::new();
        let mut all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| served.connect()).collect();
        for _ in 0..2 {
            for step in all.iter_mut().rev() {
                step.write_all(&framed(&[11])).unwrap();
                assert_eq!(message(step).unwrap(), framed(&[12, 9]));
            }
        }
        let mut last = served.connect();
        last.write_all(&framed(&[11])).unwrap();
        all.pop();
        assert_eq!(message(&mut last).unwrap(), framed(&[12, 9]), "it waits for the end of another one");
    }

    #[test]
    fn a_step_can_only_list_keys_and_sign() {
        let served = Served::new();
        let mut step = served.connect();
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
        assert_eq!(served.seen.try_iter().collect::<Vec<_>>(), [11, 13]);
    }
}
