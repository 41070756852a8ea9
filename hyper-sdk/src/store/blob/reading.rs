//! The bytes of a blob in a file, as a stream.

use crate::store::ByteStream;
use crate::store::errors::missing_bytes;
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::fs::File;
use tokio::task::{JoinHandle, spawn_blocking};

/// The size of one read; a smaller blob or range is read at once.
pub(super) const READ_CHUNK: u64 = 512 * 1024;

/// The unread part of a blob.
pub(super) struct Part {
    file: File,
    digest: Digest,
    at: u64,
    end: u64,
}

impl Part {
    pub(super) fn new(file: File, digest: Digest, at: u64, end: u64) -> Self {
        Self { file, digest, at, end }
    }

    /// The next chunk, empty at the end.
    pub(super) fn next(&mut self) -> Result<Bytes> {
        let wanted = (self.end - self.at).min(READ_CHUNK) as usize;
        let mut chunk: Vec<u8> = Vec::with_capacity(wanted);
        while chunk.len() < wanted {
            let offset = self.at + chunk.len() as u64;
            let n = rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut chunk), offset);
            match n {
                Ok(0) => return Err(missing_bytes(&self.digest)),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    return Err(Error::new(ErrorKind::Io, "cannot read the blob")
                        .with_context("digest", &self.digest)
                        .with_source(std::io::Error::from(e)));
                }
            }
        }
        // A vector may have a larger capacity than requested.
        chunk.truncate(wanted);
        self.at += wanted as u64;
        Ok(chunk.into())
    }
}

/// The first `size` bytes of a file, as those of a blob. They are not checked. Reads nothing before it is polled.
pub(crate) fn file_stream(file: File, digest: Digest, size: u64) -> ByteStream {
    if size == 0 {
        return futures::stream::empty().boxed();
    }
    let mut part = Part::new(file, digest, 0, size);
    let first = async move {
        let read = spawn_blocking(move || part.next().map(|bytes| (part, bytes))).await;
        let (part, bytes) =
            read.map_err(|e| Error::internal("the reading thread ended early").with_source(e))??;
        Ok::<_, Error>(read_ahead(part, bytes))
    };
    futures::stream::once(first).try_flatten().boxed()
}

/// Yields `first` and then the rest. The next chunk is read ahead on a blocking thread. No thread is occupied while the
/// consumer does not poll.
pub(super) fn read_ahead(part: Part, first: Bytes) -> ByteStream {
    enum Next {
        Ready(Part, Bytes),
        Reading(JoinHandle<Result<(Part, Bytes)>>),
        End,
    }
    let read = |mut part: Part| {
        spawn_blocking(move || {
            let bytes = part.next()?;
            Ok((part, bytes))
        })
    };
    futures::stream::unfold(Next::Ready(part, first), move |next| async move {
        let got = match next {
            Next::Ready(part, bytes) => Ok((part, bytes)),
            Next::Reading(task) => task
                .await
                .unwrap_or_else(|e| Err(Error::internal("the reading thread ended early").with_source(e))),
            Next::End => return None,
        };
        match got {
            Ok((_, bytes)) if bytes.is_empty() => None,
            Ok((part, bytes)) if part.at == part.end => Some((Ok(bytes), Next::End)),
            Ok((part, bytes)) => Some((Ok(bytes), Next::Reading(read(part)))),
            Err(e) => Some((Err(e), Next::End)),
        }
    })
    .boxed()
}
