//! Compresses a layer while it is made: it hashes, compresses, hashes again and writes in parallel.
//!
//! ```text
//!   tar bytes ─▶ block ─┬─▶ worker 1 ─┐
//!   (diff ID hashed by  ├─▶ worker 2 ─┼─▶ writer thread: in order, blob digest, sink
//!    its own thread)    └─▶ ...      ─┘
//! ```
//!
//! # Invariants
//! - The output depends only on the input and the settings, not on the number of threads: blocks have a fixed size and
//!   each becomes one gzip member or one zstd frame.
//! - Memory is bounded: at most a few blocks per worker are in flight.

use crate::digest::Hasher;
use crate::media_type::Compression;
use crate::oci::Annotations;
use crate::{Digest, Error, Result};
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

const GZIP_BLOCK: usize = 1 << 20;
const ZSTD_BLOCK: usize = 2 << 20;
const MAX_WORKERS: usize = 16;
/// The memory limit for all blocks in flight, before and after compression.
const MAX_MEMORY: usize = 32 << 20;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug)]
pub struct CompressOptions {
    /// The format.
    pub compression: Compression,
    /// The level: 1 to 12 for gzip (6 when not given), 1 to 19 for zstd (3 when not given).
    pub level: Option<i32>,
    /// The number of compressing threads; the number of processors when not given.
    pub threads: Option<usize>,
}

impl CompressOptions {
    /// The default level and one thread for each processor.
    pub fn new(compression: Compression) -> Self {
        Self { compression, level: None, threads: None }
    }
}

/// The result of compressing and writing a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedLayer {
    /// The OCI media type of the blob.
    pub media_type: &'static str,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob.
    pub size: u64,
    /// The digest of the uncompressed archive, as image configurations list it.
    pub diff_id: Digest,
    /// The size of the uncompressed archive.
    pub uncompressed_size: u64,
    /// Annotations of the blob's descriptor, which a form of layer has.
    pub annotations: Annotations,
}

type Block = Arc<Vec<u8>>;
type Packed = Result<Block>;

struct Job {
    block: Block,
    reply: SyncSender<Packed>,
}

/// Takes the bytes of an uncompressed layer and writes the blob to a sink, computing both digests.
///
/// Dropping it without [`LayerCompressor::finish`] stops the threads in the background and leaves the sink cut off.
pub struct LayerCompressor<S> {
    options: CompressOptions,
    block_size: usize,
    buffer: Vec<u8>,
    uncompressed_size: u64,
    jobs: Option<SyncSender<Job>>,
    hash: Option<SyncSender<Block>>,
    order: Option<SyncSender<Receiver<Packed>>>,
    hasher: Option<JoinHandle<Hasher>>,
    writer: Option<JoinHandle<Result<Written<S>>>>,
    /// The number of blocks that were sent.
    blocks: usize,
    tail: Option<Tail>,
}

/// Writes what follows the archive in the blob, from the ends of the blocks there. Returns annotations of the blob.
pub(super) type Tail = Box<dyn FnOnce(&[u64], &mut TailWriter<'_>) -> Result<Annotations> + Send>;

struct Written<S> {
    sink: S,
    hasher: Hasher,
    size: u64,
    /// Where each block ends.
    ends: Vec<u64>,
}

/// Writes the tail of a blob: compressed like the archive before it, and a part of its diff ID.
pub(super) struct TailWriter<'a> {
    sink: &'a mut dyn Write,
    blob: &'a mut Hasher,
    size: &'a mut u64,
    diff_id: &'a mut Hasher,
    uncompressed_size: &'a mut u64,
    codec: CodecState,
    buffer: Vec<u8>,
}

impl TailWriter<'_> {
    /// The bytes that are compressed in the blob so far, with the archive.
    pub(super) fn uncompressed_size(&self) -> u64 {
        *self.uncompressed_size
    }

    /// Ends a member of the blob.
    pub(super) fn end_member(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            let packed = self.codec.pack(&self.buffer)?;
            self.buffer.clear();
            self.write_raw(&packed)?;
        }
        Ok(())
    }

    /// Writes bytes of the blob itself.
    pub(super) fn write_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes)?;
        self.blob.update(bytes);
        *self.size += bytes.len() as u64;
        Ok(())
    }
}

impl Write for TailWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.diff_id.update(bytes);
        *self.uncompressed_size += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= GZIP_BLOCK {
            self.end_member()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<S> std::fmt::Debug for LayerCompressor<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerCompressor")
            .field("options", &self.options)
            .field("uncompressed_size", &self.uncompressed_size)
            .finish_non_exhaustive()
    }
}

impl<S: Write + Send + 'static> LayerCompressor<S> {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the format has no such level; [`crate::ErrorKind::Io`] when no thread can
    /// be started.
    pub fn new(sink: S, options: CompressOptions) -> Result<Self> {
        let block_size = if options.compression == Compression::Zstd { ZSTD_BLOCK } else { GZIP_BLOCK };
        let codec = Codec::new(&options)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        // A block in flight uses its input, its output and a slot in the hash queue.
        let in_flight = (MAX_MEMORY / (2 * block_size)).max(3);
        let threads = options.threads.unwrap_or(processors).clamp(1, MAX_WORKERS.min(in_flight - 1));
        let (jobs, job_queue) = sync_channel::<Job>(1);
        let (order, orders) = sync_channel::<Receiver<Packed>>((threads + 1).min(in_flight - 2));
        let (hash, blocks) = sync_channel::<Block>(1);
        let job_queue = Arc::new(Mutex::new(job_queue));
        if options.compression != Compression::None {
            for _ in 0..threads {
                let queue = Arc::clone(&job_queue);
                spawn("layer-compress", move || work(&queue, codec))?;
            }
        }
        let hasher = spawn("layer-hash", move || {
            let mut hasher = Hasher::sha256();
            for block in blocks {
                hasher.update(block.as_slice());
            }
            hasher
        })?;
        let writer = spawn("layer-write", move || write_out(sink, orders))?;
        Ok(Self {
            options,
            block_size,
            buffer: Vec::with_capacity(block_size),
            uncompressed_size: 0,
            jobs: Some(jobs),
            hash: Some(hash),
            order: Some(order),
            hasher: Some(hasher),
            writer: Some(writer),
            blocks: 0,
            tail: None,
        })
    }

    /// Ends the present block, and with it a member of gzip, unless it is empty. Returns the number of the next block.
    pub(super) fn cut(&mut self) -> Result<usize> {
        if !self.buffer.is_empty() {
            self.send()?;
        }
        Ok(self.blocks)
    }

    /// Sets what follows the archive.
    pub(super) fn set_tail(&mut self, tail: Tail) {
        self.tail = Some(tail);
    }

    /// Finishes the blob and returns the flushed sink.
    ///
    /// # Errors
    /// The first error of the sink or of a codec.
    pub fn finish(mut self) -> Result<(S, CompressedLayer)> {
        // An empty input is still one member or frame, since an empty blob is not a gzip stream.
        if !self.buffer.is_empty() || self.uncompressed_size == 0 {
            self.send()?;
        }
        (self.jobs, self.hash, self.order) = (None, None, None);
        let ended = || Error::internal("a thread that compresses a layer has ended early");
        let mut diff_id = self.hasher.take().and_then(|t| t.join().ok()).ok_or_else(ended)?;
        let mut written = self.writer.take().and_then(|t| t.join().ok()).ok_or_else(ended)??;
        let mut annotations = Annotations::new();
        if let Some(tail) = self.tail.take() {
            let mut out = TailWriter {
                sink: &mut written.sink,
                blob: &mut written.hasher,
                size: &mut written.size,
                diff_id: &mut diff_id,
                uncompressed_size: &mut self.uncompressed_size,
                codec: Codec::new(&self.options)?.start()?,
                buffer: Vec::new(),
            };
            annotations = tail(&written.ends, &mut out)?;
            out.end_member()?;
            written.sink.flush()?;
        }
        let layer = CompressedLayer {
            media_type: self.options.compression.oci_layer(),
            digest: written.hasher.finish(),
            size: written.size,
            diff_id: diff_id.finish(),
            uncompressed_size: self.uncompressed_size,
            annotations,
        };
        Ok((written.sink, layer))
    }

    fn send(&mut self) -> Result<()> {
        let block = Arc::new(std::mem::replace(&mut self.buffer, Vec::with_capacity(self.block_size)));
        self.uncompressed_size += block.len() as u64;
        self.blocks += 1;
        let (reply, answer) = sync_channel(1);
        // The slot in the order is taken first, since it limits the blocks in flight.
        let mut sent = self.order.as_ref().is_some_and(|o| o.send(answer).is_ok());
        sent = sent && self.hash.as_ref().is_some_and(|h| h.send(Arc::clone(&block)).is_ok());
        if self.options.compression == Compression::None {
            sent = sent && reply.send(Ok(block)).is_ok();
        } else {
            sent = sent && self.jobs.as_ref().is_some_and(|j| j.send(Job { block, reply }).is_ok());
        }
        if sent {
            return Ok(());
        }
        // The writer has ended: its error has the reason.
        (self.jobs, self.hash, self.order) = (None, None, None);
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(error),
            _ => Err(Error::internal("a thread that compresses a layer has ended early")),
        }
    }
}

impl<S: Write + Send + 'static> Write for LayerCompressor<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(self.block_size - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == self.block_size {
            self.send()?;
        }
        Ok(count)
    }

    /// Does nothing: flushing early would change the blob.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| Error::new(crate::ErrorKind::Io, "cannot start a thread").with_source(e))
}

fn write_out<S: Write>(mut sink: S, orders: Receiver<Receiver<Packed>>) -> Result<Written<S>> {
    let mut hasher = Hasher::sha256();
    let (mut size, mut ends) = (0, Vec::new());
    for answer in orders {
        let packed = answer
            .recv()
            .map_err(|_| Error::internal("a thread that compresses a layer has ended early"))??;
        sink.write_all(&packed)?;
        hasher.update(packed.as_slice());
        size += packed.len() as u64;
        ends.push(size);
    }
    sink.flush()?;
    Ok(Written { sink, hasher, size, ends })
}

fn work(queue: &Mutex<Receiver<Job>>, codec: Codec) {
    let mut state = codec.start();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, reply }) = job else { return };
        let packed = state.as_mut().map_err(|e| Error::internal(e.to_string())).and_then(|s| s.pack(&block));
        // After a drop of the compressor no one receives the reply.
        let _ = reply.send(packed.map(Arc::new));
    }
}

#[derive(Clone, Copy)]
enum Codec {
    Gzip(libdeflater::CompressionLvl),
    Zstd(i32),
}

enum CodecState {
    Gzip(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Codec {
    fn new(options: &CompressOptions) -> Result<Self> {
        let bad = |range: &str| Error::invalid(format!("the compression level must be {range}"));
        Ok(match options.compression {
            Compression::Zstd => match options.level.unwrap_or(3) {
                level @ 1..=19 => Self::Zstd(level),
                _ => return Err(bad("1 to 19 for zstd")),
            },
            Compression::None | Compression::Gzip => match options.level.unwrap_or(6) {
                level @ 1..=12 => {
                    Self::Gzip(libdeflater::CompressionLvl::new(level).map_err(|_| bad("1 to 12 for gzip"))?)
                }
                _ => return Err(bad("1 to 12 for gzip")),
            },
        })
    }

    fn start(self) -> Result<CodecState> {
        Ok(match self {
            Self::Gzip(level) => CodecState::Gzip(libdeflater::Compressor::new(level)),
            Self::Zstd(level) => {
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.include_checksum(true)?;
                CodecState::Zstd(compressor)
            }
        })
    }
}

impl CodecState {
    fn pack(&mut self, block: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Gzip(compressor) => {
                let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
                let size = compressor
                    .gzip_compress(block, &mut out)
                    .map_err(|e| Error::internal("cannot compress a block").with_source(e))?;
                out.truncate(size);
                Ok(out)
            }
            Self::Zstd(compressor) => Ok(compressor.compress(block)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..size)
            .map(|i| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                if i % 3 == 0 { (state >> 60) as u8 } else { b'x' }
            })
            .collect()
    }

    fn pack(
        data: &[u8],
        compression: Compression,
        threads: usize,
        chunk: usize,
    ) -> (Vec<u8>, CompressedLayer) {
        let options = CompressOptions { threads: Some(threads), ..CompressOptions::new(compression) };
        let mut compressor = LayerCompressor::new(Vec::new(), options).unwrap();
        for chunk in data.chunks(chunk) {
            compressor.write_all(chunk).unwrap();
        }
        compressor.finish().unwrap()
    }

    #[test]
    fn threads_and_writes_do_not_change_the_bytes() {
        let data = noise((9 << 20) + 17);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let (one, layer) = pack(&data, compression, 1, 1 << 16);
            assert_eq!(layer.digest, Digest::sha256(&one));
            assert_eq!(layer.diff_id, Digest::sha256(&data));
            assert_eq!((layer.size, layer.uncompressed_size), (one.len() as u64, data.len() as u64));
            assert_eq!(pack(&data, compression, 5, 999_999).0, one);
        }
    }

    #[test]
    fn an_empty_layer_is_a_whole_stream() {
        let (blob, layer) = pack(b"", Compression::Gzip, 2, 1);
        assert!(blob.starts_with(&[0x1f, 0x8b]));
        assert_eq!(layer.diff_id, Digest::sha256(b""));
    }

    #[test]
    fn an_error_of_the_sink_is_returned_without_a_hang() {
        #[derive(Debug)]
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut compressor = LayerCompressor::new(Full, CompressOptions::new(Compression::Gzip)).unwrap();
        let error = match compressor.write_all(&noise(64 << 20)) {
            Err(e) => Error::from(e),
            Ok(()) => compressor.finish().unwrap_err(),
        };
        assert!(format!("{error:?}").contains("StorageFull"), "{error:?}");
    }

    #[test]
    fn an_impossible_level_is_refused() {
        for (compression, level) in [(Compression::Gzip, 13), (Compression::Zstd, 0)] {
            let options = CompressOptions { level: Some(level), ..CompressOptions::new(compression) };
            assert!(LayerCompressor::new(Vec::new(), options).is_err());
        }
    }
}
