//! A file that is read while it is being written.

use crate::store::ByteStream;
use crate::{Error, ErrorKind};
use futures::StreamExt as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use tokio::sync::watch;

/// The size of one read.
const BLOCK: u64 = 256 << 10;

/// The progress of a file, for its writer.
#[derive(Clone, Debug)]
pub(super) struct WriteProgress(Arc<watch::Sender<Written>>);

#[derive(Clone, Copy, Debug, Default)]
struct Written {
    bytes: u64,
    is_whole: bool,
}

impl Default for WriteProgress {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Written::default())))
    }
}

impl WriteProgress {
    /// Reports `count` more bytes in the file.
    pub(super) fn advance(&self, count: usize) {
        self.0.send_modify(|written| written.bytes += count as u64);
    }

    /// Reports that the file is complete.
    pub(super) fn finish(&self) {
        self.0.send_modify(|written| written.is_whole = true);
    }

    /// The file for a reader.
    pub(super) fn follow(&self, file: File) -> GrowingFile {
        GrowingFile { file: Arc::new(file), written: self.0.subscribe() }
    }
}

/// A growing file, for a reader that starts at its beginning.
#[derive(Clone, Debug)]
pub(super) struct GrowingFile {
    file: Arc<File>,
    written: watch::Receiver<Written>,
}

impl GrowingFile {
    /// Whether the file is complete.
    pub(super) fn is_whole(&self) -> bool {
        self.written.borrow().is_whole
    }

    /// Whether its writer gave up.
    pub(super) fn is_broken(&self) -> bool {
        self.written.has_changed().is_err() && !self.is_whole()
    }

    /// The bytes, as they are written. The stream ends with an error when the writer gives up.
    pub(super) fn stream(self) -> ByteStream {
        let blocks = futures::stream::unfold((self, Some(0)), async |(mut growing, at)| {
            let at: u64 = at?;
            let state = growing.written.wait_for(|written| written.bytes > at || written.is_whole).await;
            let Ok(left) = state.map(|written| written.bytes - at) else {
                let error = Error::new(ErrorKind::Unavailable, "the download broke off");
                return Some((Err(error), (growing, None)));
            };
            if left == 0 {
                return None;
            }
            // The bytes were just written, so they are in the page cache.
            let mut block = vec![0; left.min(BLOCK) as usize];
            let next = at + block.len() as u64;
            let read = growing.file.read_exact_at(&mut block, at);
            Some(match read {
                Ok(()) => (Ok(block.into()), (growing, Some(next))),
                Err(e) => (Err(e.into()), (growing, None)),
            })
        });
        blocks.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;
    use std::io::Write as _;

    #[tokio::test]
    async fn a_growing_file_is_read_to_its_end_or_error() {
        for is_whole in [true, false] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let progress = WriteProgress::default();
            let growing = progress.follow(file.reopen().unwrap());
            let read = tokio::spawn(growing.clone().stream().try_collect::<Vec<_>>());
            for text in ["one ", "two ", &"three".repeat(100_000)] {
                file.write_all(text.as_bytes()).unwrap();
                progress.advance(text.len());
                tokio::task::yield_now().await;
            }
            if is_whole {
                progress.finish();
            }
            drop(progress);
            assert_eq!(growing.is_whole(), is_whole);
            let read = read.await.unwrap();
            match is_whole {
                true => assert_eq!(read.unwrap().concat(), std::fs::read(file.path()).unwrap()),
                false => assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable),
            }
        }
    }
}
