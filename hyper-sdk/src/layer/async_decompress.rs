//! Decompresses layers and archives from a network or another program as they arrive.

use super::decompress::{ArchiveFormat, XZ_MEMORY, ZSTD_WINDOW, damaged, too_large};
use crate::Result;
use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader, ReadBuf};

const BUFFER: usize = 128 << 10;

/// Decompresses an archive in any [`ArchiveFormat`]. It is the counterpart of [`Decompressor`](super::Decompressor) for
/// asynchronous sources.
///
/// ```
/// # async fn read() -> hyper_sdk::Result<()> {
/// use hyper_sdk::layer::{ArchiveFormat, AsyncDecompressor};
/// use tokio::io::AsyncReadExt as _;
///
/// let mut plain = AsyncDecompressor::new(&b"not compressed"[..]).await?;
/// assert_eq!(plain.format(), ArchiveFormat::Plain);
/// let mut text = String::new();
/// plain.read_to_string(&mut text).await?;
/// assert_eq!(text, "not compressed");
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(read()).unwrap();
/// ```
pub struct AsyncDecompressor {
    inner: Pin<Box<dyn AsyncRead + Send>>,
    format: ArchiveFormat,
    left: Option<u64>,
}

impl std::fmt::Debug for AsyncDecompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncDecompressor").field("format", &self.format).finish_non_exhaustive()
    }
}

impl AsyncDecompressor {
    /// Reads the first bytes of `source` and picks the format.
    ///
    /// # Errors
    /// Those of the source.
    pub async fn new(source: impl AsyncRead + Send + 'static) -> Result<Self> {
        let mut source = Box::pin(source);
        let mut first = Vec::with_capacity(6);
        (&mut source).take(6).read_to_end(&mut first).await?;
        let format = ArchiveFormat::of_content(&first);
        let source = Cursor::new(first).chain(source);
        let buffered = |source| BufReader::with_capacity(BUFFER, source);
        // Several members, frames or streams in a row are one archive.
        macro_rules! all_members {
            ($decoder:expr) => {{
                let mut decoder = $decoder;
                decoder.multiple_members(true);
                Box::pin(decoder)
            }};
        }
        let inner: Pin<Box<dyn AsyncRead + Send>> = match format {
            ArchiveFormat::Plain => Box::pin(source),
            ArchiveFormat::Gzip => all_members!(GzipDecoder::new(buffered(source))),
            ArchiveFormat::Bzip2 => all_members!(BzDecoder::new(buffered(source))),
            ArchiveFormat::Xz => all_members!(XzDecoder::with_mem_limit(buffered(source), XZ_MEMORY)),
            ArchiveFormat::Zstd => {
                let window = [DParameter::window_log_max(ZSTD_WINDOW)];
                all_members!(ZstdDecoder::with_params(buffered(source), &window))
            }
        };
        Ok(Self { inner, format, left: None })
    }

    /// Limits the output: a read beyond `limit` bytes fails with [`crate::ErrorKind::TooLarge`]. A small archive can
    /// expand to a lot of data.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.left = Some(limit);
        self
    }

    /// The format that was found.
    pub fn format(&self) -> ArchiveFormat {
        self.format
    }
}

impl AsyncRead for AsyncDecompressor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(self.inner.as_mut().poll_read(cx, buffer));
        if let Err(e) = result {
            // A failed decoder may have written to the buffer, but a failed read must not.
            buffer.set_filled(before);
            return Poll::Ready(Err(if self.format == ArchiveFormat::Plain {
                e
            } else {
                damaged(self.format, e)
            }));
        }
        let count = (buffer.filled().len() - before) as u64;
        if let Some(left) = &mut self.left {
            let Some(rest) = left.checked_sub(count) else {
                buffer.set_filled(before);
                return Poll::Ready(Err(too_large().into()));
            };
            *left = rest;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Decompressor;
    use super::*;
    use crate::ErrorKind;
    use std::io::{Read as _, Write as _};

    const TEXT: &[u8] = b"some text, some text, and some more text";

    fn packed() -> Vec<(ArchiveFormat, Vec<u8>)> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        gzip.write_all(TEXT).unwrap();
        bzip2.write_all(TEXT).unwrap();
        xz.write_all(TEXT).unwrap();
        vec![
            (ArchiveFormat::Plain, TEXT.to_vec()),
            (ArchiveFormat::Gzip, gzip.finish().unwrap()),
            (ArchiveFormat::Bzip2, bzip2.finish().unwrap()),
            (ArchiveFormat::Xz, xz.finish().unwrap()),
            (ArchiveFormat::Zstd, zstd::encode_all(TEXT, 1).unwrap()),
        ]
    }

    /// The results of both readers; the asynchronous source delivers pieces of three bytes.
    async fn both(bytes: &[u8]) -> [crate::Result<Vec<u8>>; 2] {
        let pieces: Vec<_> =
            bytes.chunks(3).map(|piece| io::Result::Ok(bytes::Bytes::copy_from_slice(piece))).collect();
        let arriving = async {
            let stream = tokio_util::io::StreamReader::new(futures::stream::iter(pieces));
            let mut out = Vec::new();
            AsyncDecompressor::new(stream).await?.read_to_end(&mut out).await?;
            Ok(out)
        };
        let read = || {
            let mut out = Vec::new();
            Decompressor::new(bytes)?.read_to_end(&mut out)?;
            Ok(out)
        };
        [arriving.await, read()]
    }

    #[tokio::test]
    async fn every_format_is_read_whole_and_in_several_members() {
        for (format, bytes) in packed() {
            assert_eq!(
                AsyncDecompressor::new(std::io::Cursor::new(bytes.clone())).await.unwrap().format(),
                format
            );
            for count in [1, 2, 3] {
                for out in both(&bytes.repeat(count)).await {
                    assert_eq!(out.unwrap(), TEXT.repeat(count), "{format:?} {count}");
                }
            }
        }
        // A frame that is skipped before the first one.
        let skipped = [&b"\x50\x2a\x4d\x18\x02\0\0\0xx"[..], &packed()[4].1].concat();
        for out in both(&skipped).await {
            assert_eq!(out.unwrap(), TEXT);
        }
        for short in [&b""[..], b"x", b"\x1f"] {
            for out in both(short).await {
                assert_eq!(out.unwrap(), short);
            }
        }
    }

    #[tokio::test]
    async fn cut_and_damaged_data_is_an_error() {
        for (format, bytes) in packed().into_iter().skip(1) {
            for cut in [7, bytes.len() / 2, bytes.len() - 1] {
                for out in both(&bytes[..cut]).await {
                    assert!(out.is_err(), "{format:?} cut at {cut}");
                }
            }
            let mut damaged = bytes.clone();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0xff;
            damaged[middle + 1] ^= 0xff;
            for out in both(&damaged).await {
                assert!(out.is_err() || format == ArchiveFormat::Zstd, "{format:?}");
            }
        }
    }

    #[tokio::test]
    async fn limits_hold_and_errors_of_the_source_pass() {
        for (_, bytes) in packed() {
            for (limit, fits) in [(TEXT.len() as u64, true), (TEXT.len() as u64 - 1, false)] {
                let source = std::io::Cursor::new(bytes.clone());
                let mut reader = AsyncDecompressor::new(source).await.unwrap().with_limit(limit);
                let result = reader.read_to_end(&mut Vec::new()).await.map_err(crate::Error::from);
                assert_eq!(result.map_err(|e| e.kind()).err(), (!fits).then_some(ErrorKind::TooLarge));
            }
            // A wrong digest is reported at the end, after the whole content.
            let wrong = crate::Error::new(ErrorKind::DigestInvalid, "wrong");
            let pieces = [Ok(bytes::Bytes::from(bytes)), Err(io::Error::from(wrong))];
            let stream = tokio_util::io::StreamReader::new(futures::stream::iter(pieces));
            let mut reader = AsyncDecompressor::new(stream).await.unwrap();
            let result = reader.read_to_end(&mut Vec::new()).await.map_err(crate::Error::from);
            assert_eq!(result.unwrap_err().kind(), ErrorKind::DigestInvalid);
        }
    }
}
