//! Decompresses layers and archives: the format is detected from the content, and digests are verified on the way.
//!
//! # Invariants
//! - Several gzip members, zstd frames, bzip2 or xz streams in a row are one archive, as for their own tools.
//! - A consumer that reads to the end never accepts wrong content: the read returns an error instead of the end.

use crate::digest::{Hasher, VerifyingReader};
use crate::{Digest, Error, ErrorKind, Result};
use std::io::{BufRead, BufReader, Cursor, Read};
use std::sync::mpsc::{Receiver, sync_channel};

const BUFFER: usize = 128 << 10;
const AHEAD_BLOCK: usize = 256 << 10;
const AHEAD_BLOCKS: usize = 8;
/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB.
pub(super) const ZSTD_WINDOW: u32 = 27;
/// The memory limit for the dictionary of xz.
pub(super) const XZ_MEMORY: u64 = 128 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// Not compressed, or in an unknown format.
    Plain,
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Bzip2.
    Bzip2,
    /// XZ.
    Xz,
}

impl ArchiveFormat {
    /// Detects the format from the first bytes; six bytes are enough.
    pub fn of_content(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or a skippable frame before one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }
}

/// Decompresses an archive in any [`ArchiveFormat`].
pub struct Decompressor<R: Read> {
    inner: Inner<R>,
    format: ArchiveFormat,
    left: Option<u64>,
}

type Source<R> = BufReader<std::io::Chain<Cursor<Vec<u8>>, R>>;

enum Inner<R: Read> {
    Plain(Source<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Source<R>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<Source<R>>>),
    Xz(Box<liblzma::bufread::XzDecoder<Source<R>>>),
}

impl<R: Read> std::fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("format", &self.format).finish_non_exhaustive()
    }
}

impl<R: Read> Decompressor<R> {
    /// Reads the first bytes of `source` and picks the format.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(mut source: R) -> Result<Self> {
        let mut first = Vec::with_capacity(6);
        Read::by_ref(&mut source).take(6).read_to_end(&mut first)?;
        let format = ArchiveFormat::of_content(&first);
        let source = BufReader::with_capacity(BUFFER, Cursor::new(first).chain(source));
        let inner = match format {
            ArchiveFormat::Plain => Inner::Plain(source),
            ArchiveFormat::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            ArchiveFormat::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Inner::Zstd(Box::new(decoder))
            }
            ArchiveFormat::Bzip2 => Inner::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(source))),
            ArchiveFormat::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                        .map_err(|e| Error::internal("cannot start the xz decoder").with_source(e))?;
                Inner::Xz(Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream)))
            }
        };
        Ok(Self { inner, format, left: None })
    }

    /// Limits the output: a read beyond `limit` bytes fails with [`ErrorKind::TooLarge`]. A small archive can expand to
    /// a lot of data.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.left = Some(limit);
        self
    }

    /// The format that was found.
    pub fn format(&self) -> ArchiveFormat {
        self.format
    }

    /// Reads the rest of the source, so that a verifying source sees its end.
    fn drain(&mut self) -> std::io::Result<()> {
        let source: &mut Source<R> = match &mut self.inner {
            Inner::Plain(r) => r,
            Inner::Gzip(r) => r.get_mut(),
            Inner::Zstd(r) => r.get_mut(),
            Inner::Bzip2(r) => r.get_mut(),
            Inner::Xz(r) => r.get_mut(),
        };
        loop {
            match source.fill_buf()?.len() {
                0 => return Ok(()),
                count => source.consume(count),
            }
        }
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let result = match &mut self.inner {
            Inner::Plain(r) => r.read(buffer),
            Inner::Gzip(r) => r.read(buffer),
            Inner::Zstd(r) => r.read(buffer),
            Inner::Bzip2(r) => r.read(buffer),
            Inner::Xz(r) => r.read(buffer),
        };
        let count = result.map_err(|e| damaged(self.format, e))?;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(count as u64).ok_or_else(too_large)?;
        }
        Ok(count)
    }
}

/// Maps the error of a codec.
pub(super) fn damaged(format: ArchiveFormat, e: std::io::Error) -> std::io::Error {
    match e.kind() {
        std::io::ErrorKind::Interrupted => e,
        // The source's own error, such as a wrong digest, is more useful than that of the codec.
        _ if e.get_ref().is_some_and(|inner| inner.is::<Error>()) => e,
        _ => Error::invalid(format!("the {format:?} data is damaged")).with_source(e).into(),
    }
}

pub(super) fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, "the decompressed archive is larger than the limit")
}

/// Reads the source to its end at the end of the archive, so that a verifying source sees everything.
#[derive(Debug)]
struct ToTheEnd<R: Read>(Decompressor<R>);

impl<R: Read> Read for ToTheEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            self.0.drain()?;
        }
        Ok(count)
    }
}

#[derive(Debug)]
enum LayerSource<R: Read> {
    Here(Box<ToTheEnd<VerifyingReader<R>>>),
    Ahead(ReadAhead),
}

/// A layer blob read as the uncompressed archive, with blob digest, blob size and diff ID verified.
#[derive(Debug)]
pub struct VerifiedLayer<R: Read> {
    inner: LayerSource<R>,
    hasher: Option<Hasher>,
    diff_id: Option<Digest>,
}

impl<R: Read> VerifiedLayer<R> {
    /// Reads `blob`, which must have the digest and size of its descriptor and, if given, the diff ID of the image
    /// configuration.
    ///
    /// # Errors
    /// Those of [`Decompressor::new`].
    pub fn new(blob: R, digest: Digest, size: u64, diff_id: Option<Digest>) -> Result<Self> {
        let inner = Decompressor::new(VerifyingReader::new(blob, digest, size))?;
        let hasher = diff_id.as_ref().map(|d| d.algorithm().hasher());
        Ok(Self { inner: LayerSource::Here(Box::new(ToTheEnd(inner))), hasher, diff_id })
    }

    /// See [`Decompressor::with_limit`].
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Self {
        if let LayerSource::Here(inner) = self.inner {
            self.inner = LayerSource::Here(Box::new(ToTheEnd(inner.0.with_limit(limit))));
        }
        self
    }

    /// The same, but the blob is read, checked and decompressed on another thread, while this one checks the diff ID and
    /// uses the archive.
    pub(crate) fn read_ahead(self) -> Result<Self>
    where
        R: Send + 'static,
    {
        let inner = match self.inner {
            LayerSource::Here(inner) => LayerSource::Ahead(ReadAhead::new(inner)?),
            ahead => ahead,
        };
        Ok(Self { inner, ..self })
    }
}

impl<R: Read> Read for VerifiedLayer<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = match &mut self.inner {
            LayerSource::Here(inner) => inner.read(buffer)?,
            LayerSource::Ahead(inner) => inner.read(buffer)?,
        };
        if count > 0 || buffer.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
            return Ok(count);
        }
        if let Some(hasher) = self.hasher.take() {
            let got = hasher.finish();
            if self.diff_id.as_ref() != Some(&got) {
                let error = Error::new(ErrorKind::DigestInvalid, "the layer does not match its diff ID");
                let expected = self.diff_id.as_ref().map(Digest::to_string).unwrap_or_default();
                return Err(error.with_context("expected", expected).with_context("got", got).into());
            }
        }
        Ok(0)
    }
}

/// Reads ahead on another thread, so that decompression and its consumer run in parallel.
///
/// Dropping it ends the thread at its next block.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    blocks: Receiver<std::io::Result<Vec<u8>>>,
    current: Cursor<Vec<u8>>,
    ended: bool,
}

impl ReadAhead {
    /// Starts to read `source`, at most 2 MiB ahead.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when no thread can be started.
    pub(crate) fn new(mut source: impl Read + Send + 'static) -> Result<Self> {
        let (sender, blocks) = sync_channel(AHEAD_BLOCKS);
        let body = move || loop {
            let mut block = Vec::with_capacity(AHEAD_BLOCK);
            let result = Read::by_ref(&mut source).take(AHEAD_BLOCK as u64).read_to_end(&mut block);
            let last = !matches!(result, Ok(count) if count > 0);
            let part = (result.is_ok() || !block.is_empty()).then_some(block);
            if part.is_some_and(|p| sender.send(Ok(p)).is_err()) {
                return;
            }
            if let Err(e) = result {
                let _ = sender.send(Err(e));
            }
            if last {
                return;
            }
        };
        std::thread::Builder::new()
            .name("layer-ahead".to_owned())
            .spawn(body)
            .map_err(|e| Error::new(ErrorKind::Io, "cannot start a thread").with_source(e))?;
        Ok(Self { blocks, current: Cursor::default(), ended: false })
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.ended {
                return Ok(count);
            }
            match self.blocks.recv() {
                // The thread sends an empty block at the end of the source; without one it has failed.
                Ok(Ok(block)) => {
                    self.ended = block.is_empty();
                    self.current = Cursor::new(block);
                }
                Ok(Err(e)) => return Err(e),
                Err(_) => return Err(Error::internal("the thread that reads a layer has ended early").into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compress::{CompressOptions, LayerCompressor};
    use super::*;
    use crate::media_type::Compression;
    use std::io::Write;

    fn sample() -> Vec<u8> {
        (0..3_000_000u32).map(|i| (i / 7) as u8).collect()
    }

    fn layer(compression: Compression) -> (Vec<u8>, super::super::compress::CompressedLayer) {
        let mut compressor = LayerCompressor::new(Vec::new(), CompressOptions::new(compression)).unwrap();
        compressor.write_all(&sample()).unwrap();
        compressor.finish().unwrap()
    }

    fn read_all(mut reader: impl Read) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn compressed_layers_decompress_to_the_same_bytes() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let (blob, layer) = layer(compression);
            let open = |digest: &Digest, diff: &Digest, size| {
                VerifiedLayer::new(Cursor::new(blob.clone()), digest.clone(), size, Some(diff.clone()))
            };
            let reader = open(&layer.digest, &layer.diff_id, layer.size).unwrap();
            assert_eq!(read_all(reader.read_ahead().unwrap()).unwrap(), sample());
            let other = Digest::sha256(b"other");
            for wrong in [open(&other, &layer.diff_id, layer.size), open(&layer.digest, &other, layer.size)] {
                let reader = wrong.unwrap().read_ahead().unwrap();
                assert_eq!(read_all(reader).unwrap_err().kind(), ErrorKind::DigestInvalid);
            }
            let long = open(&layer.digest, &layer.diff_id, layer.size + 1).unwrap();
            assert_eq!(read_all(long).unwrap_err().kind(), ErrorKind::SizeInvalid);
        }
    }

    #[test]
    fn a_bomb_stops_at_its_limit() {
        let (blob, _) = layer(Compression::Gzip);
        let reader = Decompressor::new(&blob[..]).unwrap().with_limit(1 << 20);
        assert_eq!(read_all(reader).unwrap_err().kind(), ErrorKind::TooLarge);
        let reader = Decompressor::new(&blob[..]).unwrap().with_limit(3_000_000);
        assert_eq!(read_all(reader).unwrap().len(), 3_000_000);
    }

    #[test]
    fn formats_of_other_tools_are_detected_by_content() {
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(b"hello ").unwrap();
        let mut blob = bzip2.finish().unwrap();
        blob.extend(blob.clone());
        let mut reader = Decompressor::new(&blob[..]).unwrap();
        assert_eq!(reader.format(), ArchiveFormat::Bzip2);
        assert_eq!(read_all(&mut reader).unwrap(), b"hello hello ");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(b"hello ").unwrap();
        let mut blob = xz.finish().unwrap();
        blob.extend(blob.clone());
        let mut reader = Decompressor::new(&blob[..]).unwrap();
        assert_eq!(reader.format(), ArchiveFormat::Xz);
        assert_eq!(read_all(&mut reader).unwrap(), b"hello hello ");
        for short in [&b""[..], b"x", &[0x1f]] {
            assert_eq!(read_all(Decompressor::new(short).unwrap()).unwrap(), short);
        }
    }

    #[test]
    fn cut_off_data_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let (blob, _) = layer(compression);
            let cut = Decompressor::new(&blob[..blob.len() - 3]).unwrap();
            assert!(read_all(cut).is_err(), "{compression:?}");
        }
    }
}
