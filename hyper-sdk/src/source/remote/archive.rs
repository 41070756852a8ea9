//! Build contexts that come as one stream: an archive of the files, or a Dockerfile alone.

use super::blocking;
use crate::byte_channel::byte_channel;
use crate::layer::{
    ApplyOptions, ApplyStyle, AsyncDecompressor, Decompressor, DevicePolicy, LayerReader, OwnerPolicy, apply,
};
use crate::{Error, Result, ResultExt as _};
use futures::{StreamExt as _, TryStreamExt as _};
use std::io::Read;
use std::path::Path;
use tempfile::TempDir;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// A block of a tar.
const BLOCK: usize = 512;
/// A larger text is no Dockerfile.
const MAX_DOCKERFILE: u64 = 16 << 20;
/// How much of a stream is taken at once, and how many of such blocks wait to be unpacked.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;

/// What a stream turned out to be.
#[derive(Debug)]
pub enum StreamContext {
    /// A tar, unpacked into a folder that is removed with this value.
    Files {
        /// The folder.
        folder: TempDir,
        /// The newest modification time in it: seconds since 1970.
        newest: Option<i64>,
    },
    /// The text of a Dockerfile.
    Dockerfile(String),
}

/// Reads a context from a stream: a tar, plain or compressed with gzip, bzip2, xz or zstd, is unpacked as it arrives into
/// a new folder in `scratch`; anything else has to be the text of a Dockerfile.
///
/// Decompression and the writing of files run beside each other. Dropping the future stops the reading; the folder is
/// then removed.
///
/// # Errors
/// Those of the stream, [`crate::ErrorKind::Invalid`] for an archive that is not well formed or leads out of its folder
/// and for text that is not UTF-8.
pub async fn read_context(stream: impl AsyncRead + Send + 'static, scratch: &Path) -> Result<StreamContext> {
    let stream = AsyncDecompressor::new(stream).await.map_err(cannot_read)?;
    let chunks = ReaderStream::with_capacity(stream, CHUNK).map_err(Error::from).boxed();
    let (sender, reader) = byte_channel(CHUNKS);
    let scratch = scratch.to_owned();
    let (result, ()) =
        futures::join!(blocking(move || context_of_plain(reader, &scratch)), sender.send_all(chunks));
    result
}

/// [`read_context`] for a stream that blocks.
///
/// # Errors
/// Those of [`read_context`].
pub fn context_of_stream(stream: impl Read, scratch: &Path) -> Result<StreamContext> {
    context_of_plain(Decompressor::new(stream).map_err(cannot_read)?, scratch)
}

fn cannot_read(e: impl Into<Error>) -> Error {
    Error::invalid("the context cannot be read").with_source(e.into())
}

/// Reads a context that is not compressed any more.
fn context_of_plain(mut stream: impl Read, scratch: &Path) -> Result<StreamContext> {
    let mut first = Vec::with_capacity(BLOCK);
    (&mut stream).take(BLOCK as u64).read_to_end(&mut first).map_err(cannot_read)?;
    let whole = first.as_slice().chain(stream);
    if !is_tar(&first) {
        let mut text = String::new();
        let read = whole.take(MAX_DOCKERFILE + 1).read_to_string(&mut text);
        return match read {
            Ok(_) if text.trim().is_empty() => Err(Error::invalid("the context is empty")),
            Ok(size) if size as u64 <= MAX_DOCKERFILE && !text.contains('\0') => {
                Ok(StreamContext::Dockerfile(text))
            }
            Ok(_) => Err(Error::invalid("the context is neither a tar archive nor a Dockerfile")),
            Err(e) => {
                Err(Error::invalid("the context is neither a tar archive nor a Dockerfile").with_source(e))
            }
        };
    }
    let folder = tempfile::Builder::new()
        .prefix("context-")
        .tempdir_in(scratch)
        .at("cannot make a folder in", scratch)?;
    let mut options = ApplyOptions::new(ApplyStyle::Plain);
    options.owners = OwnerPolicy::Ignore;
    options.devices = DevicePolicy::Skip;
    let applied = apply(whole, folder.path(), &options).op("unpack the build context")?;
    let newest = applied.index.entries().iter().map(|entry| entry.mtime).max();
    Ok(StreamContext::Files { folder, newest })
}

/// The newest modification time in a tar, plain or compressed: seconds since 1970; nothing where the stream is none. What
/// is wrong with it is told by who unpacks it. Blocks.
pub(crate) fn newest_in_archive(stream: impl Read) -> Option<i64> {
    let mut stream = Decompressor::new(stream).ok()?;
    let mut first = Vec::with_capacity(BLOCK);
    (&mut stream).take(BLOCK as u64).read_to_end(&mut first).ok()?;
    if !is_tar(&first) {
        return None;
    }
    let mut reader = LayerReader::new(first.as_slice().chain(stream));
    let mut newest = None;
    while let Some(entry) = reader.next_entry().ok()? {
        newest = newest.max(Some(entry.mtime));
    }
    newest
}

/// Whether a block is the header of a tar: the sum of its bytes stands in it.
fn is_tar(block: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    if block.len() < BLOCK {
        return false;
    }
    let digits = block[SUM].iter().filter(|b| b.is_ascii_digit());
    let written = digits.fold(0u32, |sum, b| sum.wrapping_mul(8).wrapping_add(u32::from(b - b'0')));
    let bytes = block.iter().enumerate();
    let sum: u32 = bytes.map(|(at, b)| if SUM.contains(&at) { 32 } else { u32::from(*b) }).sum();
    // An archive without files is two blocks of zeros.
    written == sum && block.iter().any(|b| *b != 0) || block.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt as _};

    /// Reads a context that arrives in small pieces.
    async fn read(bytes: &[u8], scratch: &Path) -> Result<StreamContext> {
        let (mut sender, receiver) = tokio::io::duplex(100 + bytes.len() / 50);
        let sent = bytes.to_vec();
        let send = tokio::spawn(async move { sender.write_all(&sent).await });
        let arrived = read_context(receiver, scratch).await;
        send.abort();
        arrived
    }

    fn is_empty(folder: &Path) -> bool {
        std::fs::read_dir(folder).unwrap().next().is_none()
    }

    #[tokio::test]
    async fn a_stream_of_zeros_without_an_end_is_given_up() {
        let scratch = tempfile::tempdir().unwrap();
        for start in [Vec::new(), tar()[..1024].to_vec()] {
            let endless = AsyncReadExt::chain(std::io::Cursor::new(start.clone()), tokio::io::repeat(0));
            let error = read_context(endless, scratch.path()).await.unwrap_err();
            assert!(format!("{error:?}").contains("follow the end of the archive"), "{error:?}");
            assert_eq!(newest_in_archive(Read::chain(start.as_slice(), std::io::repeat(0))), None);
            assert!(is_empty(scratch.path()));
        }
    }

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o640);
        header.set_mtime(77);
        builder.append_data(&mut header, "a/b", &b"hi"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[tokio::test]
    async fn archives_are_unpacked_however_they_are_compressed() {
        let scratch = tempfile::tempdir().unwrap();
        let zstd = zstd::encode_all(&tar()[..], 1).unwrap();
        for bytes in [tar(), zstd] {
            for context in [read(&bytes, scratch.path()).await, context_of_stream(&bytes[..], scratch.path())]
            {
                let StreamContext::Files { folder, newest } = context.unwrap() else { panic!("no files") };
                assert_eq!(std::fs::read(folder.path().join("a/b")).unwrap(), b"hi");
                assert_eq!(newest, Some(77));
            }
            assert_eq!(newest_in_archive(&bytes[..]), Some(77));
            assert_eq!(newest_in_archive(&bytes[..20]), None);
        }
        assert!(is_empty(scratch.path()));
    }

    #[tokio::test]
    async fn other_text_is_a_dockerfile_and_bytes_are_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let text = format!("FROM scratch\n{}", "# line\n".repeat(200));
        let context = read(text.as_bytes(), scratch.path()).await.unwrap();
        assert!(matches!(context, StreamContext::Dockerfile(t) if t == text));
        assert_eq!(newest_in_archive(text.as_bytes()), None);
        for (bytes, why) in [(&b""[..], "empty"), (&[0xff; 700], "neither"), (&[0, 1, 2], "neither")] {
            let error = read(bytes, scratch.path()).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn archives_that_lead_out_or_are_damaged_leave_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let mut up = tar();
        up[..3].copy_from_slice(b"../");
        let sum: u32 = (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(up[at]) }).sum();
        up[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let zstd = zstd::encode_all(&tar()[..], 1).unwrap();
        let cut = &zstd[..zstd.len() - 3];
        for bytes in [&up[..], cut, &tar()[..513], &[tar(), b"x".repeat(70 << 20)].concat()] {
            let context = read(bytes, scratch.path()).await;
            assert!(context.is_err(), "{context:?}");
            assert!(is_empty(scratch.path()));
        }
    }

    #[tokio::test]
    async fn a_context_that_is_given_up_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let (mut sender, receiver) = tokio::io::duplex(4096);
        let mut reading = Box::pin(read_context(receiver, scratch.path()));
        let send = async {
            sender.write_all(&tar()[..1024]).await.unwrap();
            // The folder is there: the archive is being unpacked.
            while is_empty(scratch.path()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            result = &mut reading => panic!("{result:?}"),
            () = send => {}
        }
        drop(reading);
        while !is_empty(scratch.path()) {
            tokio::task::yield_now().await;
        }
    }
}
