//! An open file of a layout.

use crate::digest::VerifyingReader;
use crate::store::{BlobReader, ByteRange, ByteStream};
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// The size of one read.
const BLOCK: usize = 1 << 20;

/// An open file of a layout. Its position is independent of other readers of the same file or archive.
#[derive(Clone, Debug)]
pub struct LayoutFile {
    content: Content,
    /// The offset of the file in the content.
    start: u64,
    size: u64,
    at: u64,
}

#[derive(Clone, Debug)]
enum Content {
    File(Arc<File>),
    Bytes(Bytes),
}

impl LayoutFile {
    pub(super) fn new(file: Arc<File>, start: u64, size: u64) -> Self {
        Self { content: Content::File(file), start, size, at: 0 }
    }

    pub(super) fn of_bytes(bytes: Bytes) -> Self {
        Self { start: 0, size: bytes.len() as u64, at: 0, content: Content::Bytes(bytes) }
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads a small file.
    #[cfg(feature = "build")]
    pub(super) fn read_small(mut self) -> Result<Vec<u8>> {
        if self.size > super::MAX_JSON {
            let message =
                format!("a file of the OCI layout is larger than {} MiB, the limit", super::MAX_JSON >> 20);
            return Err(Error::new(ErrorKind::TooLarge, message).with_context("size", self.size));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The content of the blob `digest`, or a part of it. The stream of the whole blob ends with an error when the
    /// bytes do not match the digest, or their number differs from `announced`. Dropping it stops the reading.
    ///
    /// # Errors
    /// [`ErrorKind::RangeInvalid`] for a range outside of the file.
    pub fn into_blob(
        mut self,
        digest: &Digest,
        announced: u64,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let Some(range) = range else {
            let reader = VerifyingReader::new(self, digest.clone(), announced);
            return Ok(BlobReader { size: announced, offset: 0, length: announced, stream: stream(reader) });
        };
        let (offset, length) = range.resolve(self.size)?;
        if length == self.size {
            return self.into_blob(digest, announced, None);
        }
        let size = self.size;
        self.start += offset;
        self.size = length;
        Ok(BlobReader { size, offset, length, stream: stream(self) })
    }
}

impl Read for LayoutFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        if count == 0 {
            return Ok(0);
        }
        let at = self.start + self.at;
        let read = match &self.content {
            Content::File(file) => file.read_at(&mut buffer[..count], at)?,
            Content::Bytes(bytes) => (&bytes[at as usize..]).read(&mut buffer[..count])?,
        };
        if read == 0 {
            let message = "a file of the OCI layout became shorter while it was read";
            return Err(Error::new(ErrorKind::SizeInvalid, message).into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads on blocking threads, one block ahead. No thread is occupied while the stream is not polled.
fn stream<R: Read + Send + 'static>(reader: R) -> ByteStream {
    enum State<R> {
        Start(R),
        Ahead(JoinHandle<Result<(R, Bytes)>>),
        Over,
    }
    fn read<R: Read + Send + 'static>(mut reader: R) -> JoinHandle<Result<(R, Bytes)>> {
        tokio::task::spawn_blocking(move || {
            let mut block = Vec::with_capacity(BLOCK);
            reader.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
            Ok((reader, block.into()))
        })
    }
    let blocks = futures::stream::unfold(State::Start(reader), async |state| {
        let pending = match state {
            State::Start(reader) => read(reader),
            State::Ahead(pending) => pending,
            State::Over => return None,
        };
        match pending.await {
            Ok(Ok((_, block))) if block.is_empty() => None,
            Ok(Ok((reader, block))) => Some((Ok(block), State::Ahead(read(reader)))),
            Ok(Err(e)) => Some((Err(e), State::Over)),
            Err(e) => {
                let e = Error::internal("reading an OCI layout panicked").with_source(e);
                Some((Err(e), State::Over))
            }
        }
    });
    blocks.boxed()
}
