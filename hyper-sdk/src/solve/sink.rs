//! Where the tar of a step's layer goes: into a blob, or to a hash alone, with or without a file.

use crate::digest::Hasher;
use crate::layer::{CompressedLayer, LayerCompressor, write_estargz};
use crate::{Digest, Error, Result};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

const BLOCK: usize = 1 << 20;

/// Writes into a channel that an upload drains.
#[derive(Debug)]
pub(super) struct ChannelWriter(pub(super) mpsc::Sender<Bytes>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::Error::other("the store stopped taking the layer"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the tar of a layer.
#[derive(Debug)]
pub(super) enum LayerSink {
    /// Compresses it.
    Blob(Box<LayerCompressor<ChannelWriter>>),
    /// Hashes it.
    Hash(TarHasher),
}

impl LayerSink {
    /// Ends a blob.
    ///
    /// # Errors
    /// Those of [`LayerCompressor::finish`].
    pub(super) fn compressed(self) -> Result<CompressedLayer> {
        match self {
            Self::Blob(compressor) => Ok(compressor.finish()?.1),
            Self::Hash(_) => Err(Error::internal("a layer was not compressed")),
        }
    }

    /// Writes a whole tar as eStargz.
    ///
    /// # Errors
    /// Those of reading the tar and of the compressor.
    pub(super) fn estargz(self, tar: impl Read) -> Result<Self> {
        match self {
            Self::Blob(compressor) => Ok(Self::Blob(Box::new(write_estargz(tar, *compressor)?))),
            Self::Hash(_) => Err(Error::internal("a layer was not compressed")),
        }
    }

    /// Ends a hash.
    ///
    /// # Errors
    /// Those of [`TarHasher::finish`].
    pub(super) fn hashed(self) -> Result<(Digest, Option<File>)> {
        match self {
            Self::Hash(hasher) => hasher.finish(),
            Self::Blob(_) => Err(Error::internal("a layer was not hashed")),
        }
    }
}

impl Write for LayerSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Blob(compressor) => compressor.write(bytes),
            Self::Hash(hasher) => hasher.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes a tar on a thread of its own, and writes it to a file if it has one.
///
/// Dropping it without [`TarHasher::finish`] ends the thread.
#[derive(Debug)]
pub(super) struct TarHasher {
    block: Vec<u8>,
    blocks: SyncSender<Vec<u8>>,
    thread: JoinHandle<Digest>,
    file: Option<File>,
}

impl TarHasher {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when it cannot be started.
    pub(super) fn new(file: Option<File>) -> Result<Self> {
        let (blocks, queue) = sync_channel::<Vec<u8>>(2);
        let hash = move || {
            let mut hasher = Hasher::sha256();
            for block in queue {
                hasher.update(&block);
            }
            hasher.finish()
        };
        let thread = std::thread::Builder::new()
            .name("layer-hash".to_owned())
            .spawn(hash)
            .map_err(|e| Error::new(crate::ErrorKind::Io, "cannot start a thread").with_source(e))?;
        Ok(Self { block: Vec::new(), blocks, thread, file })
    }

    /// The digest of everything that was written, and the file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the file cannot be written.
    pub(super) fn finish(mut self) -> Result<(Digest, Option<File>)> {
        self.send()?;
        drop(self.blocks);
        let ended = |_| Error::internal("the thread that hashes a layer has ended early");
        Ok((self.thread.join().map_err(ended)?, self.file))
    }

    fn send(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        if let Some(file) = &mut self.file {
            file.write_all(&block)?;
        }
        let ended = |_| io::Error::other("the thread that hashes a layer has ended early");
        self.blocks.send(block).map_err(ended)
    }
}

impl Write for TarHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.capacity() == 0 {
            // A small layer needs little.
            self.block.reserve(bytes.len().min(BLOCK));
        }
        let count = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        if self.block.len() == BLOCK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek as _;

    #[test]
    fn a_tar_is_hashed_and_kept_whatever_its_blocks() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 17).map(|at| (at % 251) as u8).collect();
        for (chunk, has_file) in [(999, true), (BLOCK, false), (2 * BLOCK + 1, true)] {
            let file = has_file.then(|| tempfile::tempfile().unwrap());
            let mut hasher = TarHasher::new(file).unwrap();
            for chunk in bytes.chunks(chunk) {
                hasher.write_all(chunk).unwrap();
            }
            let (digest, file) = hasher.finish().unwrap();
            assert_eq!(digest, Digest::sha256(&bytes));
            assert_eq!(file.is_some(), has_file);
            if let Some(mut file) = file {
                let mut kept = Vec::new();
                file.rewind().unwrap();
                file.read_to_end(&mut kept).unwrap();
                assert!(kept == bytes);
            }
        }
        assert_eq!(TarHasher::new(None).unwrap().finish().unwrap().0, Digest::sha256(""));
    }
}
