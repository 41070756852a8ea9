//! Image archives: the tar of a layout, or what `docker save` writes, compressed or not.
//!
//! A plain archive in a file is read where it lies: its headers are looked at once, and content is read when it is asked
//! for. What is compressed or comes as a stream is unpacked into a private folder, as it arrives.
//!
//! # Invariants
//! - Names are clean paths within the archive. A link stands for another file of the archive and for nothing else.
//! - Memory is bounded, whatever the headers say.

use super::layout_file::LayoutFile;
use crate::layer::AsyncDecompressor;
use crate::{Error, ErrorKind, Result, private_folder};
use futures::StreamExt as _;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncSeekExt as _, BufReader, ReadBuf, sink};
use tokio_tar::{Entry, EntryType};

/// The most bytes of headers of one file of an archive: long names and PAX records.
const MAX_HEADERS: u64 = 4 << 20;
/// The most files of an archive.
const MAX_MEMBERS: usize = 100_000;
/// How many links are followed from one name.
const MAX_LINKS: usize = 16;
/// How many bytes may follow the end of an archive: more than any program pads it with.
const MAX_TRAILER: u64 = 64 << 20;
/// The size of the parts that an archive consists of.
const TAR_BLOCK: u64 = 512;

/// An archive whose files are known.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    members: HashMap<String, Member>,
    /// The file with the archive, or where its files were unpacked.
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(Arc<File>),
    Folder(TempDir),
}

/// A file of an archive.
#[derive(Debug)]
enum Member {
    /// A part of the file with the archive.
    Part { start: u64, size: u64 },
    /// Unpacked under this number.
    Unpacked(usize),
    /// Another name for a file; for none when it leads out of the archive.
    Link(Option<String>),
}

impl Archive {
    /// Looks at the files of a plain archive.
    pub(super) async fn in_file(file: File, path: &Path) -> Result<Self> {
        let file = Arc::new(file);
        let members = index(Arc::clone(&file)).await?;
        Ok(Self { path: path.to_owned(), members, place: Place::File(file) })
    }

    /// Unpacks an archive, compressed or not, into a folder in `scratch`.
    pub(super) async fn unpacked(
        stream: impl AsyncRead + Send + 'static,
        path: &Path,
        scratch: &Path,
    ) -> Result<Self> {
        let folder = private_folder::temporary("archive-", Some(scratch))?;
        let members = unpack(AsyncDecompressor::new(stream).await?, folder.path()).await?;
        Ok(Self { path: path.to_owned(), members, place: Place::Folder(folder) })
    }

    /// The file with the archive.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The name of the file that a name or the links at it lead to. One that is not there stays as it is.
    pub(super) fn resolve<'a>(&'a self, name: &'a str) -> Result<&'a str> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            match self.members.get(at) {
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
        match (self.members.get(self.resolve(name)?), &self.place) {
            (Some(Member::Part { start, size }), Place::File(file)) => {
                Ok(LayoutFile::new(Arc::clone(file), *start, *size))
            }
            (Some(Member::Unpacked(number)), Place::Folder(folder)) => {
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
async fn index(file: Arc<File>) -> Result<HashMap<String, Member>> {
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(4096, tokio::fs::File::from_std(file.try_clone()?));
    let (mut members, allowance) = (HashMap::new(), Arc::new(AtomicU64::new(0)));
    let mut start = 0;
    loop {
        reader.seek(SeekFrom::Start(start)).await?;
        allowance.store(MAX_HEADERS, Ordering::Relaxed);
        // An archive for each file: only so can the content be passed over.
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
            add(&mut members, name, member)?;
        }
    }
}

/// Unpacks the files of a stream into a folder.
async fn unpack(stream: AsyncDecompressor, folder: &Path) -> Result<HashMap<String, Member>> {
    let allowance = Arc::new(AtomicU64::new(0));
    let mut archive = tokio_tar::Archive::new(Allowed { inner: stream, left: Arc::clone(&allowance) });
    let mut members = HashMap::new();
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
        // So that the rest of it does not count as headers of the next one.
        tokio::io::copy(&mut entry, &mut sink()).await?;
        if let Some((name, member)) = member {
            add(&mut members, name, member)?;
        }
    }
    drop(entries);
    // To the end, so that who checks the whole has seen it, and who writes it is not cut off.
    allowance.store(MAX_TRAILER, Ordering::Relaxed);
    if let Ok(mut rest) = archive.into_inner() {
        tokio::io::copy(&mut rest, &mut sink()).await.map_err(damaged)?;
    }
    Ok(members)
}

fn add(members: &mut HashMap<String, Member>, name: String, member: Member) -> Result<()> {
    // Of several files of one name the last counts, as when the archive is unpacked.
    members.insert(name, member);
    if members.len() > MAX_MEMBERS {
        let message = format!("the image archive has more than {MAX_MEMBERS} files, the limit");
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

/// Whether a name can be that of a file of an image, as the formats have them.
fn is_of_an_image(name: &str) -> bool {
    name.starts_with("blobs/")
        || matches!(name, super::MARKER)
        || [".json", ".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

/// The name of a regular file or of a link, and what the link stands for: nothing when it leads out. `None` for folders
/// and for names that no image has.
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

/// A path of an archive below a folder of it, without `.` and `..`; `None` when it leads out.
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

/// An error that the reader of archives gave, or that of the source that it carries.
fn damaged(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(inner) => inner,
        Err(e) => Error::invalid("the image archive is damaged").with_source(e),
    }
}

fn cut_off() -> Error {
    Error::invalid("the image archive is cut off")
}

/// Reads no more bytes than are allowed at the moment.
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
