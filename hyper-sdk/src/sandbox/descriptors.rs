//! Passes open files over a socket.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The largest number of files in one message.
const MAX_FILES: usize = 3;

/// Sends files in one message.
pub(crate) fn send<const N: usize>(socket: impl AsFd, files: [BorrowedFd<'_>; N]) -> io::Result<()> {
    const { assert!(N <= MAX_FILES) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(b"f")], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop).map_err(io::Error::from),
        }
    }
}

/// Receives the files of the next message that has as many. `None` when the other side has closed or the socket fails.
pub(crate) fn receive<const N: usize>(socket: impl AsFd) -> Option<[OwnedFd; N]> {
    const { assert!(N <= MAX_FILES) };
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut bytes = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(&socket, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            Err(_) => return None,
            Ok(message) if message.bytes == 0 => return None,
            Ok(_) => {}
        }
        let files: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            })
            .flatten()
            .collect();
        if let Ok(files) = files.try_into() {
            return Some(files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn files_arrive_in_order_until_the_other_side_closes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let make = |text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.rewind().unwrap();
            file
        };
        let (first, second) = (make("first"), make("second"));
        // A message without files is skipped.
        (&ours).write_all(b"x").unwrap();
        send(&ours, [first.as_fd(), second.as_fd()]).unwrap();
        drop(ours);
        let texts = receive::<2>(&theirs).unwrap().map(|file| {
            assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            let mut text = String::new();
            std::fs::File::from(file).read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(texts, ["first", "second"]);
        assert!(receive::<2>(&theirs).is_none());
        assert!(send(&theirs, [first.as_fd()]).is_err(), "the reader is gone");
    }
}
