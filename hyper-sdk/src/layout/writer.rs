//! Writes a layout, as a folder or as a tar archive.

use super::{INDEX, MARKER, blob_path, blocking};
use crate::atomic_file::write_atomically;
use crate::beneath::Beneath;
use crate::byte_channel::{ByteReader, ByteSender, byte_channel};
use crate::oci::ImageIndex;
use crate::store::{BlobReader, ByteStream};
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// The file whose lock is the right to change the index.
const LOCK: &str = "index.json.lock";

/// How many blocks of a blob wait to be written.
const BLOCKS: usize = 4;

/// The size of a write to an archive, in bytes.
const WRITE_BUFFER: usize = 128 << 10;

/// How many blobs are read at once: the one that is written, and the next.
const READ_AT_ONCE: usize = 2;

/// Collects the files of a layout, and writes them.
///
/// Blobs are read in the order in which they are written, at most two at once, and at most four blocks of each wait in
/// memory: a layout of many layers takes no more memory than one of two.
///
/// ```
/// # async fn write() -> hyper_sdk::Result<()> {
/// use hyper_sdk::layout::{ImageLayout, LayoutWriter};
/// use hyper_sdk::media_type;
/// use hyper_sdk::oci::{Descriptor, ImageIndex, ImageManifest};
///
/// let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
/// let manifest = ImageManifest::new(config.clone(), vec![]).to_bytes();
/// let entry = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
///
/// let mut writer = LayoutWriter::new(&ImageIndex::new(vec![entry.clone()]));
/// writer.add_bytes(&config.digest, "{}");
/// writer.add_bytes(&entry.digest, manifest);
/// let folder = tempfile::tempdir()?;
/// writer.write_folder(folder.path()).await?;
///
/// let layout = ImageLayout::in_folder(folder.path());
/// assert_eq!(layout.manifest(&entry.digest, None)?.descriptor(), entry);
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(write()).unwrap();
/// ```
#[derive(Debug)]
pub struct LayoutWriter {
    parts: BTreeMap<String, Part>,
    /// The streams of the blobs, by the same paths: both are read in this order.
    streams: BTreeMap<String, Stream>,
}

/// A file of the layout: its bytes, or a blob from a stream.
#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    Blob(u64, ByteReader),
}

struct Stream {
    stream: ByteStream,
    sender: ByteSender,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl LayoutWriter {
    /// A layout with an index and no blobs yet.
    pub fn new(index: &ImageIndex) -> Self {
        let mut writer = Self { parts: BTreeMap::new(), streams: BTreeMap::new() };
        writer.add_file(MARKER, r#"{"imageLayoutVersion":"1.0.0"}"#);
        writer.add_file(INDEX, index.to_bytes());
        writer
    }

    /// A layout whose index is written by itself, with [`write_index`].
    pub(crate) fn without_index() -> Self {
        let mut writer = Self::new(&ImageIndex::new(Vec::new()));
        writer.parts.remove(INDEX);
        writer
    }

    /// Adds a file next to the index that is not part of the specification.
    pub(crate) fn add_file(&mut self, name: &str, content: impl Into<Bytes>) {
        self.parts.insert(name.to_owned(), Part::Bytes(content.into()));
    }

    /// Adds a blob from memory.
    pub fn add_bytes(&mut self, digest: &Digest, content: impl Into<Bytes>) {
        self.add_file(&blob_path(digest), content);
    }

    /// Whether a blob was added already.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.parts.contains_key(&blob_path(digest))
    }

    /// Adds a blob that is read while the layout is written. Its stream must check the digest.
    pub fn add_blob(&mut self, digest: &Digest, blob: BlobReader) {
        let (sender, reader) = byte_channel(BLOCKS);
        let path = blob_path(digest);
        self.parts.insert(path.clone(), Part::Blob(blob.length, reader));
        self.streams.insert(path, Stream { stream: blob.stream, sender });
    }

    /// Writes the layout into a folder, the index last. Blobs that are there stay. An index that is there is replaced:
    /// the last of two writers at once counts. No link in the folder is followed.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path; [`ErrorKind::Invalid`] for a link in the place of a folder, and for a pipe, a socket
    /// or a device in the place of a file; those of the blobs. No file is left half-written, also when the future is
    /// dropped.
    pub async fn write_folder(self, destination: &Path) -> Result<()> {
        let destination = destination.to_owned();
        self.write(move |parts| write_folder(parts, &destination)).await
    }

    /// Writes the layout as a tar archive with sorted entries, which have the time `mtime`, in seconds since 1970. The
    /// file appears under its name when it is complete; a path that is not a regular file, such as `/dev/stdout`, is
    /// written directly.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path; those of the blobs.
    pub async fn write_tar(self, destination: &Path, mtime: i64) -> Result<()> {
        let destination = destination.to_owned();
        self.write(move |parts| write_tar(parts, &destination, mtime)).await
    }

    /// Like [`LayoutWriter::write_tar`], to a writer, which blocks a thread of its own.
    pub(crate) async fn write_tar_to(self, out: impl Write + Send + 'static, mtime: i64) -> Result<()> {
        self.write(move |parts| Ok(tar_of(parts, out, mtime)?)).await
    }

    async fn write(
        self,
        write: impl FnOnce(BTreeMap<String, Part>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let Self { parts, streams } = self;
        let feeds = stream::iter(streams.into_values()).map(|s| s.sender.send_all(s.stream));
        let feed = feeds.buffered(READ_AT_ONCE).for_each(|()| std::future::ready(()));
        let (result, ()) = futures::join!(blocking(move || write(parts)), feed);
        result
    }
}

fn write_tar(parts: BTreeMap<String, Part>, destination: &Path, mtime: i64) -> Result<()> {
    write_atomically(destination, |file| tar_of(parts, file, mtime))
}

/// Writes a tar archive.
fn tar_of(parts: BTreeMap<String, Part>, out: impl Write, mtime: i64) -> io::Result<()> {
    {
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(WRITE_BUFFER, out));
        let header = |size: u64, kind: tar::EntryType, mode: u32| {
            let mut header = tar::Header::new_ustar();
            header.set_size(size);
            header.set_mode(mode);
            header.set_entry_type(kind);
            header.set_mtime(u64::try_from(mtime).unwrap_or(0));
            header
        };
        for folder in ["blobs/", "blobs/sha256/"] {
            tar.append_data(&mut header(0, tar::EntryType::Directory, 0o755), folder, io::empty())?;
        }
        for (path, part) in parts {
            match part {
                Part::Bytes(bytes) => {
                    let size = bytes.len() as u64;
                    tar.append_data(&mut header(size, tar::EntryType::Regular, 0o644), &path, &bytes[..])?;
                }
                Part::Blob(size, reader) => {
                    let exact = Exact { inner: reader, left: size };
                    tar.append_data(&mut header(size, tar::EntryType::Regular, 0o644), &path, exact)?;
                }
            }
        }
        tar.into_inner()?.flush()
    }
}

/// A reader that fails when the content does not have the announced size, which the header of a tar entry already has.
struct Exact {
    inner: ByteReader,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let wrong = |what| Err(Error::new(ErrorKind::SizeInvalid, what).into());
        match self.left.checked_sub(count as u64) {
            None => wrong("a blob is longer than announced"),
            Some(left) if count == 0 && left > 0 && !buffer.is_empty() => {
                wrong("a blob is shorter than announced")
            }
            Some(left) => {
                self.left = left;
                Ok(count)
            }
        }
    }
}

fn write_folder(parts: BTreeMap<String, Part>, destination: &Path) -> Result<()> {
    let folder = Beneath::open(destination)?;
    let mut last = None;
    for (path, part) in parts {
        if path == INDEX {
            last = Some((path, part));
            continue;
        }
        write_part(&folder, &path, part)?;
    }
    // The index names the rest, so it comes last.
    last.map_or(Ok(()), |(path, part)| write_part(&folder, &path, part))
}

/// Waits for the right to change the index of a layout in a folder, among those that ask for it. Dropping the file gives it
/// back. A file system without locks gives it to all.
///
/// # Errors
/// [`ErrorKind::Io`] with the path, for a link in the place of the file too.
pub(crate) fn lock_index(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |access: OFlags| rustix::fs::open(&path, flags | access, Mode::from_raw_mode(0o666));
    // That of another user can be read, which is enough for most file systems.
    let file = match open(OFlags::RDWR) {
        Err(Errno::ACCESS) => open(OFlags::RDONLY),
        file => file,
    };
    let file = File::from(file.map_err(|e| Error::io("cannot open the lock of the index", &path, e.into()))?);
    if let Err(error) = file.lock() {
        tracing::warn!(%error, path = %path.display(), "the index of the layout cannot be locked");
    }
    Ok(file)
}

/// Replaces the index of a layout in a folder.
///
/// # Errors
/// Those of [`LayoutWriter::write_folder`].
pub(crate) fn write_index(folder: &Path, index: &ImageIndex) -> Result<()> {
    write_part(&Beneath::open(folder)?, INDEX, Part::Bytes(index.to_bytes().into()))
}

fn write_part(folder: &Beneath, path: &str, part: Part) -> Result<()> {
    let staged = folder.begin(Path::new(path))?;
    let mut file = staged.file()?;
    let written = match part {
        Part::Bytes(bytes) => file.write_all(&bytes),
        Part::Blob(size, reader) => io::copy(&mut Exact { inner: reader, left: size }, &mut file).map(drop),
    };
    written.map_err(|e| {
        Error::from(e).with_context("path", staged.path().display()).with_op("write the output")
    })?;
    staged.finish().map(drop)
}
