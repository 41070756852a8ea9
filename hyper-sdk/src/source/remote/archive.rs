//! Build contexts that come as one stream: an archive of the files, or a Dockerfile alone.

use crate::layer::{ApplyOptions, ApplyStyle, Decompressor, DevicePolicy, LayerReader, OwnerPolicy, apply};
use crate::{Error, Result, ResultExt as _};
use std::io::Read;
use std::path::Path;
use tempfile::TempDir;

/// A block of a tar.
const BLOCK: usize = 512;
/// A larger text is no Dockerfile.
const MAX_DOCKERFILE: u64 = 16 << 20;

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

/// Reads a context from a stream: a tar, plain or compressed with gzip, bzip2, xz or zstd, is unpacked into a new folder
/// in `scratch`; anything else has to be the text of a Dockerfile. Blocks.
///
/// # Errors
/// Those of the stream, [`crate::ErrorKind::Invalid`] for an archive that is not well formed or leads out of its folder
/// and for text that is not UTF-8.
pub fn context_of_stream(stream: impl Read, scratch: &Path) -> Result<StreamContext> {
    let mut stream =
        Decompressor::new(stream).map_err(|e| Error::invalid("the context cannot be read").with_source(e))?;
    let mut first = Vec::with_capacity(BLOCK);
    (&mut stream)
        .take(BLOCK as u64)
        .read_to_end(&mut first)
        .map_err(|e| Error::invalid("the context cannot be read").with_source(e))?;
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
pub fn newest_in_archive(stream: impl Read) -> Option<i64> {
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

    #[test]
    fn a_stream_of_zeros_without_an_end_is_given_up() {
        let scratch = tempfile::tempdir().unwrap();
        for start in [Vec::new(), tar()[..1024].to_vec()] {
            let error =
                context_of_stream(start.as_slice().chain(std::io::repeat(0)), scratch.path()).unwrap_err();
            assert!(format!("{error:?}").contains("follow the end of the archive"), "{error:?}");
            assert_eq!(newest_in_archive(start.as_slice().chain(std::io::repeat(0))), None);
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left");
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

    #[test]
    fn archives_are_unpacked_however_they_are_compressed() {
        let scratch = tempfile::tempdir().unwrap();
        let zstd = zstd::encode_all(&tar()[..], 1).unwrap();
        for bytes in [tar(), zstd] {
            let context = context_of_stream(&bytes[..], scratch.path()).unwrap();
            let StreamContext::Files { folder, newest } = context else { panic!("no files") };
            assert_eq!(std::fs::read(folder.path().join("a/b")).unwrap(), b"hi");
            assert_eq!(newest, Some(77));
            assert_eq!(newest_in_archive(&bytes[..]), Some(77));
            assert_eq!(newest_in_archive(&bytes[..20]), None);
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_text_is_a_dockerfile_and_bytes_are_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let text = format!("FROM scratch\n{}", "# line\n".repeat(200));
        let context = context_of_stream(text.as_bytes(), scratch.path()).unwrap();
        assert!(matches!(context, StreamContext::Dockerfile(t) if t == text));
        assert_eq!(newest_in_archive(text.as_bytes()), None);
        for (bytes, why) in [(&b""[..], "empty"), (&[0xff; 700], "neither"), (&[0, 1, 2], "neither")] {
            let error = context_of_stream(bytes, scratch.path()).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn an_archive_that_leads_out_of_its_folder_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let mut bytes = tar();
        bytes[..3].copy_from_slice(b"../");
        let sum: u32 =
            (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(bytes[at]) }).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(context_of_stream(&bytes[..], scratch.path()).is_err());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
