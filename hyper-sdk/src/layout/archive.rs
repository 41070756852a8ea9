//! Image archives: the tar of a layout, or the format of `docker save`, compressed or not.
//!
//! A plain archive in a file is read in place: its headers are read once, and content is read when it is needed. A
//! compressed archive, or one from a stream, is unpacked into a private folder while it arrives.
//!
//! # Invariants
//! - Names are normalised paths within the archive. A link can only point to another file of the archive.
//! - Memory is bounded, whatever the headers say.

use super::layout_file::LayoutFile;
use crate::layer::AsyncDecompressor;
use crate::private_folder::{self, TemporaryFolder};
use crate::{Error, ErrorKind, Result};
use futures::StreamExt as _;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncSeekExt as _, BufReader, ReadBuf, sink};
use tokio_tar::{Entry, EntryType};

/// The largest headers of one file of an archive, in bytes: long names and PAX records.
const MAX_HEADERS: u64 = 4 << 20;
/// The most files of an archive, and bytes of their names and of what links name.
const MAX_MEMBERS: usize = 100_000;
const MAX_NAMES: usize = 64 << 20;
/// How many links are followed from one name.
const MAX_LINKS: usize = 16;
/// The largest padding after the end of an archive, in bytes.
const MAX_TRAILER: u64 = 64 << 20;
/// The block size of tar archives.
const TAR_BLOCK: u64 = 512;

/// An archive with an index of its files.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    members: Members,
    /// The archive file, or the folder of its unpacked files.
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    File(Arc<File>),
    Folder(TemporaryFolder),
}

/// The files of an archive by their names.
#[derive(Debug, Default)]
struct Members {
    files: HashMap<String, Member>,
    count: usize,
    name_bytes: usize,
}

impl Members {
    /// Adds a file. Of several of one name the last counts, as when the archive is unpacked.
    fn add(&mut self, name: String, member: Member) -> Result<()> {
        let link = if let Member::Link(Some(target)) = &member { target.len() } else { 0 };
        self.count += 1;
        self.name_bytes = self.name_bytes.saturating_add(name.len() + link);
        let limit = match () {
            () if self.count > MAX_MEMBERS => format!("{MAX_MEMBERS} files"),
            () if self.name_bytes > MAX_NAMES => format!("{} MiB of names", MAX_NAMES >> 20),
            () => {
                self.files.insert(name, member);
                return Ok(());
            }
        };
        let message = format!("the image archive has more than {limit}, the limit");
        Err(Error::new(ErrorKind::TooLarge, message))
    }
}

/// A file of an archive.
#[derive(Debug)]
enum Member {
    /// A part of the archive file.
    Part { start: u64, size: u64 },
    /// An unpacked file with this number as its name.
    Unpacked(usize),
    /// A link to a file; `None` when it leads out of the archive.
    Link(Option<String>),
}

impl Archive {
    /// Indexes a plain archive.
    pub(super) async fn in_file(file: File, path: &Path) -> Result<Self> {
        let file = Arc::new(file);
        let members = index(Arc::clone(&file)).await?;
        Ok(Self { path: path.to_owned(), members, storage: Storage::File(file) })
    }

    /// Unpacks an archive, compressed or not, into a folder in `scratch`.
    pub(super) async fn unpacked(
        stream: impl AsyncRead + Send + 'static,
        path: &Path,
        scratch: &Path,
    ) -> Result<Self> {
        let folder = private_folder::temporary("archive-", Some(scratch))?;
        let members = unpack(AsyncDecompressor::new(stream).await?, folder.path()).await?;
        Ok(Self { path: path.to_owned(), members, storage: Storage::Folder(folder) })
    }

    /// The archive file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.files.contains_key(name)
    }

    /// Follows links from a name to a file. A name that is not in the archive is returned unchanged.
    pub(super) fn resolve<'a>(&'a self, name: &'a str) -> Result<&'a str> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            match self.members.files.get(at) {
                Some(Member::Link(Some(target))) => at = target,
                Some(Member::Link(None)) => {
                    let message = "a file of the image archive is a link that leads out of it";
                    return Err(self.about(name, Error::invalid(message)));
                }
                _ => return Ok(at),
            }
        }
        Err(self.about(name, Error::invalid("the links of the image archive lead in a circle")))
    }

    fn about(&self, name: &str, e: Error) -> Error {
        e.with_context("archive", self.path.display()).with_context("file", name)
    }

    /// Opens a file of the archive.
    pub(super) fn open(&self, name: &str) -> Result<LayoutFile> {
        match (self.members.files.get(self.resolve(name)?), &self.storage) {
            (Some(Member::Part { start, size }), Storage::File(file)) => {
                Ok(LayoutFile::new(Arc::clone(file), *start, *size))
            }
            (Some(Member::Unpacked(number)), Storage::Folder(folder)) => {
                let path = folder.path().join(number.to_string());
                let file = File::open(&path).map_err(|e| Error::io("cannot open the file", &path, e))?;
                let size = file.metadata()?.len();
                Ok(LayoutFile::new(Arc::new(file), 0, size))
            }
            _ => {
                let message = "the image archive does not have this file";
                Err(self.about(name, Error::new(ErrorKind::NotFound, message)))
            }
        }
    }
}

/// The files of a plain archive. What they hold is passed over.
async fn index(file: Arc<File>) -> Result<Members> {
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(4096, tokio::fs::File::from_std(file.try_clone()?));
    let (mut members, allowance) = (Members::default(), Arc::new(AtomicU64::new(0)));
    let mut start = 0;
    loop {
        reader.seek(SeekFrom::Start(start)).await?;
        allowance.store(MAX_HEADERS, Ordering::Relaxed);
        // A new reader for each file, because the content cannot be skipped otherwise.
        let mut archive =
            tokio_tar::Archive::new(Allowed { inner: &mut reader, left: Arc::clone(&allowance) });
        let mut entries = archive.entries().map_err(damaged)?;
        let Some(entry) = entries.next().await.transpose().map_err(damaged)? else { return Ok(members) };
        let content = start + entry.raw_file_position();
        let size = entry.effective_size();
        let end = content.checked_add(size).filter(|end| *end <= length).ok_or_else(cut_off)?;
        start = end.next_multiple_of(TAR_BLOCK);
        if let Some((name, link)) = name_and_link(&entry)? {
            let member = link.map_or(Member::Part { start: content, size }, Member::Link);
            members.add(name, member)?;
        }
    }
}

/// Unpacks the files of a stream into a folder.
async fn unpack(stream: AsyncDecompressor, folder: &Path) -> Result<Members> {
    let allowance = Arc::new(AtomicU64::new(0));
    let mut archive = tokio_tar::Archive::new(Allowed { inner: stream, left: Arc::clone(&allowance) });
    let mut members = Members::default();
    let mut entries = archive.entries().map_err(damaged)?;
    for number in 0.. {
        allowance.store(MAX_HEADERS, Ordering::Relaxed);
        let Some(mut entry) = entries.next().await.transpose().map_err(damaged)? else { break };
        allowance.store(u64::MAX, Ordering::Relaxed);
        let member = match name_and_link(&entry)? {
            Some((name, Some(link))) => Some((name, Member::Link(link))),
            Some((name, None)) if is_of_an_image(&name) => {
                let path = folder.join(number.to_string());
                let failed = |e| Error::io("cannot unpack the image archive to", &path, e);
                let mut file = tokio::fs::File::from_std(File::create_new(&path).map_err(failed)?);
                tokio::io::copy(&mut entry, &mut file).await?;
                tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(failed)?;
                Some((name, Member::Unpacked(number)))
            }
            _ => None,
        };
        // Otherwise the rest of the file would count as headers of the next one.
        tokio::io::copy(&mut entry, &mut sink()).await?;
        if let Some((name, member)) = member {
            members.add(name, member)?;
        }
    }
    drop(entries);
    // The stream is read to its end, so that a checksum over it is complete, and its writer gets no error.
    allowance.store(MAX_TRAILER, Ordering::Relaxed);
    if let Ok(mut rest) = archive.into_inner() {
        tokio::io::copy(&mut rest, &mut sink()).await.map_err(damaged)?;
    }
    Ok(members)
}

/// Whether a name can be that of a file of an image, as the formats have them.
fn is_of_an_image(name: &str) -> bool {
    name.starts_with("blobs/")
        || matches!(name, super::MARKER)
        || [".json", ".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

/// The name of a regular file or a link, with the target of the link, which is `None` when it leads out of the archive.
/// `None` for folders and for names that the formats do not have.
#[allow(clippy::type_complexity, reason = "a link, or not; if so, to a file or out of the archive")]
fn name_and_link<R: AsyncRead + Unpin>(entry: &Entry<R>) -> Result<Option<(String, Option<Option<String>>)>> {
    let kind = entry.header().entry_type();
    let name = entry.path_bytes().map_err(damaged)?;
    let Ok(name) = std::str::from_utf8(&name) else { return Ok(None) };
    let name = clean("", name).ok_or_else(|| {
        Error::invalid("a name in the image archive leads out of it")
            .with_context("name", name.escape_debug())
    })?;
    let target = || {
        let target = entry.link_name_bytes().map_err(damaged)?.unwrap_or_default();
        Ok::<_, Error>(String::from_utf8(target.into_owned()).ok())
    };
    Ok(match kind {
        EntryType::Regular | EntryType::Continuous => Some((name, None)),
        EntryType::Link => {
            let target = target()?.and_then(|target| clean("", &target));
            Some((name, Some(target)))
        }
        EntryType::Symlink => {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            let target = target()?.filter(|t| !t.starts_with('/')).and_then(|target| clean(folder, &target));
            Some((name, Some(target)))
        }
        EntryType::GNUSparse => {
            return Err(Error::unsupported("sparse files in image archives").with_context("name", name));
        }
        _ => None,
    })
}

/// Normalises a path relative to a folder of the archive; `None` when it leads out of the archive.
pub(super) fn clean(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The error of the archive reader, or the error of the stream that it wraps.
fn damaged(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(inner) => inner,
        Err(e) => Error::invalid("the image archive is damaged").with_source(e),
    }
}

fn cut_off() -> Error {
    Error::invalid("the image archive is cut off")
}

/// A reader with an adjustable limit.
struct Allowed<R> {
    inner: R,
    left: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Allowed<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let count = (buffer.filled().len() - before) as u64;
        match self.left.load(Ordering::Relaxed).checked_sub(count) {
            Some(left) => self.left.store(left, Ordering::Relaxed),
            None => {
                buffer.set_filled(before);
                let message =
                    "the headers of a file of the image archive, or what follows its end, are too long";
                return Poll::Ready(Err(Error::new(ErrorKind::TooLarge, message).into()));
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_names_are_few() {
        let mut members = Members::default();
        for _ in 0..MAX_MEMBERS {
            members.add("blobs/a".to_owned(), Member::Unpacked(0)).unwrap();
        }
        let error = members.add("blobs/a".to_owned(), Member::Unpacked(0)).unwrap_err();
        assert!(error.kind() == ErrorKind::TooLarge && error.message().contains("files"), "{error}");
        let mut members = Members::default();
        let link = || Member::Link(Some("a".repeat(MAX_NAMES / 2)));
        members.add(String::new(), link()).unwrap();
        members.add(String::new(), link()).unwrap();
        assert_eq!(members.add("b".to_owned(), link()).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
