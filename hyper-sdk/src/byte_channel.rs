//! A bounded channel of bytes from async code to a reading thread.
//!
//! # Invariants
//! - A reader gets the end of the stream only when the sender has sent it: a dropped sender is an error.

use crate::{Error, Result};
use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt as _};
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Makes a channel with room for `blocks` blocks.
pub(crate) fn byte_channel(blocks: usize) -> (ByteSender, ByteReader) {
    let (sender, receiver) = mpsc::channel(blocks);
    (ByteSender(sender), ByteReader { receiver, current: Bytes::new(), ended: false })
}

/// The sending end, for async code.
#[derive(Debug)]
pub(crate) struct ByteSender(mpsc::Sender<Result<Option<Bytes>>>);

impl ByteSender {
    /// Sends all of a stream, its error too, and then the end. Stops when nobody reads any more, also while the stream
    /// has nothing.
    pub(crate) async fn send_all(self, mut stream: impl Stream<Item = Result<Bytes>> + Unpin) {
        loop {
            let block = tokio::select! {
                biased;
                () = self.0.closed() => return,
                block = stream.next() => block,
            };
            let over = block.is_none();
            if self.0.send(block.transpose()).await.is_err() || over {
                return;
            }
        }
    }
}

/// The reading end, for a thread.
#[derive(Debug)]
pub(crate) struct ByteReader {
    receiver: mpsc::Receiver<Result<Option<Bytes>>>,
    current: Bytes,
    ended: bool,
}

impl Read for ByteReader {
    /// Blocks, so it must not be called on a thread of the runtime.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Ok(Some(block))) => self.current = block,
                Some(Ok(None)) => self.ended = true,
                Some(Err(e)) => return Err(e.into()),
                None => return Err(Error::internal("the sender of the bytes was dropped").into()),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    #[tokio::test]
    async fn a_reader_gets_all_bytes_and_the_end() {
        let (sender, mut reader) = byte_channel(1);
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        let blocks = ["one ", "", "two ", "three"].map(|text| Ok(Bytes::from_static(text.as_bytes())));
        sender.send_all(stream::iter(blocks)).await;
        assert_eq!(read.await.unwrap().unwrap(), "one two three");
    }

    #[tokio::test]
    async fn errors_and_dropped_senders_are_not_the_end() {
        for lost in [false, true] {
            let (sender, mut reader) = byte_channel(1);
            let read = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
            match lost {
                true => drop(sender),
                false => sender.send_all(stream::iter([Err(Error::invalid("broken"))])).await,
            }
            assert!(read.await.unwrap().is_err(), "{lost}");
        }
        // A dropped reader stops the sender.
        let (sender, reader) = byte_channel(1);
        drop(reader);
        sender.send_all(stream::repeat_with(|| Ok(Bytes::from_static(b"x")))).await;
        // Also when it goes while there is nothing to send.
        let (sender, mut reader) = byte_channel(1);
        let read = tokio::task::spawn_blocking(move || reader.read(&mut [0; 8]));
        let first = stream::iter([Ok(Bytes::from_static(b"x"))]);
        let sent = sender.send_all(first.chain(stream::pending()));
        tokio::time::timeout(std::time::Duration::from_secs(60), sent).await.unwrap();
        assert_eq!(read.await.unwrap().unwrap(), 1);
    }
}
