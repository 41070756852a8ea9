//! Where the tar of a step's layer goes: into a blob, or to a hash alone, with or without a file.

use crate::digest::Hasher;
use crate::layer::{CompressedLayer, LayerCompressor, write_estargz};
use crate::{Digest, Error, Result};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

const BLOCK: usize = 1 << 20;
/// The largest tar that is kept in memory. Some dozens are kept at once.
const SMALL: usize = 256 << 10;

/// The repository of the local store that keeps the layers of build steps.
pub(crate) const LAYERS_REPOSITORY: &str = "hyper.local/layers";

/// What becomes of the tar of a layer that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// It is compressed and stored.
    Blob,
    /// It is kept in a file until a snapshot or a blob has its files.
    Tar,
    /// It is hashed: a snapshot will have its files. A small one is kept in memory, for the blob that is made soon.
    SmallTar,
    /// It is hashed: a snapshot will have its files.
    Hash,
}

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
    pub(super) fn hashed(self) -> Result<(Digest, Option<Tar>)> {
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

/// What is kept of a tar besides its digest.
#[derive(Clone, Debug)]
pub(super) enum Keep {
    /// Nothing.
    Nothing,
    /// A small one, in memory.
    Small,
    /// All of it: a larger one in a temporary file of this folder.
    All(PathBuf),
}

/// The bytes of a tar that was kept.
#[derive(Clone, Debug)]
pub(super) enum Tar {
    Memory(Bytes),
    File(Arc<File>),
}

impl Tar {
    /// A reader from the beginning. Several can read at once.
    pub(super) fn reader(&self) -> TarReader {
        TarReader { tar: self.clone(), at: 0 }
    }
}

/// A reader of a tar that was kept.
#[derive(Debug)]
pub(super) struct TarReader {
    tar: Tar,
    at: u64,
}

impl Read for TarReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.tar {
            Tar::File(file) => file.read_at(buffer, self.at)?,
            Tar::Memory(bytes) => bytes.get(self.at as usize..).unwrap_or_default().read(buffer)?,
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// Hashes a tar and keeps it as it is told. A large one is hashed on a thread of its own.
///
/// Dropping it without [`TarHasher::finish`] ends the thread.
#[derive(Debug)]
pub(super) struct TarHasher {
    keep: Keep,
    block: Vec<u8>,
    thread: Option<(SyncSender<Vec<u8>>, JoinHandle<Digest>)>,
    file: Option<File>,
}

impl TarHasher {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, block: Vec::new(), thread: None, file: None }
    }

    /// The digest of everything that was written, and what was kept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the file cannot be written or no thread can be started.
    pub(super) fn finish(mut self) -> Result<(Digest, Option<Tar>)> {
        if self.thread.is_none() && self.block.len() <= SMALL {
            let digest = Digest::sha256(&self.block);
            let tar = Tar::Memory(Bytes::from(self.block));
            return Ok((digest, (!matches!(self.keep, Keep::Nothing)).then_some(tar)));
        }
        self.send()?;
        let Some((blocks, thread)) = self.thread else { return Err(Error::from(ended())) };
        drop(blocks);
        let digest = thread.join().map_err(|_| Error::from(ended()))?;
        Ok((digest, self.file.map(|file| Tar::File(Arc::new(file)))))
    }

    fn send(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        if let Keep::All(folder) = &self.keep {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(tempfile::tempfile_in(folder)?),
            };
            file.write_all(&block)?;
        }
        let (blocks, _) = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(hash_thread()?),
        };
        blocks.send(block).map_err(|_| ended())
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that hashes a layer has ended early")
}

fn hash_thread() -> io::Result<(SyncSender<Vec<u8>>, JoinHandle<Digest>)> {
    let (blocks, queue) = sync_channel::<Vec<u8>>(2);
    let hash = move || {
        let mut hasher = Hasher::sha256();
        for block in queue {
            hasher.update(&block);
        }
        hasher.finish()
    };
    Ok((blocks, std::thread::Builder::new().name("layer-hash".to_owned()).spawn(hash)?))
}

impl Write for TarHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
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

    #[test]
    fn a_tar_is_hashed_and_kept_as_it_is_told_whatever_its_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let all = Keep::All(folder.path().to_owned());
        let bytes: Vec<u8> = (0..3 * BLOCK + 17).map(|at| (at % 251) as u8).collect();
        for size in [0, 17, SMALL, SMALL + 1, BLOCK, BLOCK + 1, bytes.len()] {
            for (chunk, keep) in [(999, all.clone()), (BLOCK, Keep::Nothing), (2 * BLOCK + 1, Keep::Small)] {
                let mut hasher = TarHasher::new(keep.clone());
                for chunk in bytes[..size].chunks(chunk) {
                    hasher.write_all(chunk).unwrap();
                }
                let (digest, tar) = hasher.finish().unwrap();
                assert_eq!(digest, Digest::sha256(&bytes[..size]));
                let is_kept = match keep {
                    Keep::Nothing => false,
                    Keep::Small => size <= SMALL,
                    Keep::All(_) => true,
                };
                assert_eq!(tar.is_some(), is_kept, "{size} {keep:?}");
                for _ in 0..2 {
                    let mut kept = Vec::new();
                    if let Some(tar) = &tar {
                        tar.reader().read_to_end(&mut kept).unwrap();
                        assert!(kept == bytes[..size], "{size} {keep:?}");
                    }
                }
            }
        }
    }
}
