//! Build contexts from a stream: an archive of files, or a single Dockerfile.

use super::blocking;
use crate::byte_channel::byte_channel;
use crate::layer::{
    ApplyOptions, ApplyStyle, AsyncDecompressor, Decompressor, DevicePolicy, LayerReader, OwnerPolicy, apply,
};
use crate::private_folder::{self, TemporaryFolder};
use crate::{Error, Result, ResultExt as _};
use futures::{StreamExt as _, TryStreamExt as _};
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// A block of a tar.
const BLOCK: usize = 512;
/// The largest Dockerfile, in bytes.
const MAX_DOCKERFILE: u64 = 16 << 20;
/// The size of the blocks of a stream, and how many of them wait to be unpacked.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;

/// The content of a stream.
#[derive(Debug)]
pub enum ContextInput {
    /// A tar archive, unpacked into a folder that is removed with this value.
    Files {
        /// The folder.
        folder: TemporaryFolder,
        /// The newest modification time, in seconds since 1970.
        newest: Option<i64>,
    },
    /// The text of a Dockerfile.
    Dockerfile(String),
}

/// Reads a context from a stream. A tar archive, plain or compressed with gzip, bzip2, xz or zstd, is unpacked while it
/// arrives, into a new folder in `scratch`; anything else must be the text of a Dockerfile.
///
/// Decompression and the writing of files run in parallel. Dropping the future stops the reading and removes the
/// folder.
///
/// # Errors
/// Those of the stream, [`crate::ErrorKind::Invalid`] for an invalid archive, an archive with paths out of its folder,
/// and text that is not UTF-8.
pub async fn read_context(stream: impl AsyncRead + Send + 'static, scratch: &Path) -> Result<ContextInput> {
    let stream = AsyncDecompressor::new(stream).await.map_err(cannot_read)?;
    let chunks = ReaderStream::with_capacity(stream, CHUNK).map_err(Error::from).boxed();
    let (sender, reader) = byte_channel(CHUNKS);
    let scratch = scratch.to_owned();
    let (result, ()) =
        futures::join!(blocking(move || read_plain_context(reader, &scratch)), sender.send_all(chunks));
    result
}

/// [`read_context`] for a blocking reader.
///
/// # Errors
/// Those of [`read_context`].
pub fn read_context_blocking(stream: impl Read, scratch: &Path) -> Result<ContextInput> {
    read_plain_context(Decompressor::new(stream).map_err(cannot_read)?, scratch)
}

fn cannot_read(e: impl Into<Error>) -> Error {
    Error::invalid("the context cannot be read").with_source(e.into())
}

/// Reads a decompressed context.
fn read_plain_context(mut stream: impl Read, scratch: &Path) -> Result<ContextInput> {
    let mut first = Vec::with_capacity(BLOCK);
    (&mut stream).take(BLOCK as u64).read_to_end(&mut first).map_err(cannot_read)?;
    let whole = first.as_slice().chain(stream);
    if !is_tar(&first) {
        let mut text = String::new();
        let read = whole.take(MAX_DOCKERFILE + 1).read_to_string(&mut text);
        return match read {
            Ok(_) if text.trim().is_empty() => Err(Error::invalid("the context is empty")),
            Ok(size) if size as u64 <= MAX_DOCKERFILE && !text.contains('\0') => {
                Ok(ContextInput::Dockerfile(text))
            }
            Ok(_) => Err(Error::invalid("the context is neither a tar archive nor a Dockerfile")),
            Err(e) => {
                Err(Error::invalid("the context is neither a tar archive nor a Dockerfile").with_source(e))
            }
        };
    }
    let folder = private_folder::temporary("context-", Some(scratch))?;
    // The mode of a context's folder can come to be that of a copy. What lies above it is private.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
        .at("cannot change the mode of", folder.path())?;
    let mut options = ApplyOptions::new(ApplyStyle::Plain);
    options.owners = OwnerPolicy::Ignore;
    options.devices = DevicePolicy::Skip;
    options.digests = false;
    options.whiteouts = false;
    let applied = apply(whole, folder.path(), &options).op("unpack the build context")?;
    let newest = applied.index.entries().iter().map(|entry| entry.mtime).max();
    Ok(ContextInput::Files { folder, newest })
}

/// The newest modification time in a tar archive, plain or compressed, in seconds since 1970; `None` when the stream is
/// not an archive. Errors are ignored here and reported when the archive is unpacked. Blocks.
pub(crate) fn newest_in_archive(stream: impl Read) -> Option<i64> {
    let mut stream = Decompressor::new(stream).ok()?;
    let mut first = Vec::with_capacity(BLOCK);
    (&mut stream).take(BLOCK as u64).read_to_end(&mut first).ok()?;
    if !is_tar(&first) {
        return None;
    }
    let mut reader = LayerReader::of_files(first.as_slice().chain(stream));
    let mut newest = None;
    while let Some(entry) = reader.next_entry().ok()? {
        newest = newest.max(Some(entry.mtime));
    }
    newest
}

/// Whether a block is a tar header with a correct checksum.
fn is_tar(block: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    if block.len() < BLOCK {
        return false;
    }
    let digits = block[SUM].iter().filter(|b| b.is_ascii_digit());
    let written = digits.fold(0u32, |sum, b| sum.wrapping_mul(8).wrapping_add(u32::from(b - b'0')));
    let bytes = block.iter().enumerate();
    let sum: u32 = bytes.map(|(at, b)| if SUM.contains(&at) { 32 } else { u32::from(*b) }).sum();
    // An archive without files consists of two blocks of zeros.
    written == sum && block.iter().any(|b| *b != 0) || block.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt as _};

    /// Reads a context that arrives in small chunks.
    async fn read(bytes: &[u8], scratch: &Path) -> Result<ContextInput> {
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

    #[test]
    fn names_of_whiteouts_are_names_in_a_context() {
        let scratch = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let names = ["a/x", "a/.wh.x", "a/.wh..wh..opq", ".wh..wh.plnk", ".wh.gone", "a/.wh.folder/y"];
        // The newest is a mark that a layer would not have as a file.
        for (name, mtime) in names.into_iter().zip([1, 2, 6, 5, 4, 3]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.set_mtime(mtime);
            tar.append_data(&mut header, name, &b"1"[..]).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let ContextInput::Files { folder, newest } = read_context_blocking(&tar[..], scratch.path()).unwrap()
        else {
            panic!("no files")
        };
        for name in names {
            assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), "1", "{name}");
        }
        assert_eq!((newest, newest_in_archive(&tar[..])), (Some(6), Some(6)));
    }

    #[tokio::test]
    async fn an_endless_stream_of_zeros_is_an_error() {
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
    async fn archives_are_unpacked_with_every_compression() {
        let scratch = tempfile::tempdir().unwrap();
        let zstd = zstd::encode_all(&tar()[..], 1).unwrap();
        for bytes in [tar(), zstd] {
            for context in
                [read(&bytes, scratch.path()).await, read_context_blocking(&bytes[..], scratch.path())]
            {
                let ContextInput::Files { folder, newest } = context.unwrap() else { panic!("no files") };
                assert_eq!(std::fs::read(folder.path().join("a/b")).unwrap(), b"hi");
                assert_eq!(newest, Some(77));
            }
            assert_eq!(newest_in_archive(&bytes[..]), Some(77));
            assert_eq!(newest_in_archive(&bytes[..20]), None);
        }
        assert!(is_empty(scratch.path()));
    }

    #[tokio::test]
    async fn a_text_is_a_dockerfile_and_binary_data_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let text = format!("FROM scratch\n{}", "# line\n".repeat(200));
        let context = read(text.as_bytes(), scratch.path()).await.unwrap();
        assert!(matches!(context, ContextInput::Dockerfile(t) if t == text));
        assert_eq!(newest_in_archive(text.as_bytes()), None);
        for (bytes, why) in [(&b""[..], "empty"), (&[0xff; 700], "neither"), (&[0, 1, 2], "neither")] {
            let error = read(bytes, scratch.path()).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_archives_leave_no_files() {
        let scratch = tempfile::tempdir().unwrap();
        let mut up = tar();
        up[..3].copy_from_slice(b"../");
        let sum: u32 = (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(up[at]) }).sum();
        up[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let zstd = zstd::encode_all(&tar()[..], 1).unwrap();
        let cut = &zstd[..zstd.len() - 3];
        for bytes in [&up[..], cut, &tar()[..513]] {
            let context = read(bytes, scratch.path()).await;
            assert!(context.is_err(), "{context:?}");
            assert!(is_empty(scratch.path()));
        }
    }

    #[tokio::test]
    async fn a_dropped_context_leaves_no_files() {
        let scratch = tempfile::tempdir().unwrap();
        let (mut sender, receiver) = tokio::io::duplex(4096);
        let mut reading = Box::pin(read_context(receiver, scratch.path()));
        let send = async {
            sender.write_all(&tar()[..1024]).await.unwrap();
            // The folder exists, so the archive is being unpacked.
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
