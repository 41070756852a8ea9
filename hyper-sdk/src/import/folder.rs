//! The folder of a source, which may be hostile.
//!
//! # Invariants
//! - A name is resolved below the folder that was opened, by the kernel: a link that leads out of it is an error.
//! - Opening never blocks, and only regular files are read.
//! - A walk enters no folder through a link.

use crate::store::BlobReader;
use crate::store::blob::file_stream;
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// How often the kernel is asked again about a name that changed while it was resolved.
const ATTEMPTS: u32 = 20;

/// An open folder. The functions block.
#[derive(Debug)]
pub(super) struct Folder {
    folder: OwnedFd,
    path: PathBuf,
}

/// An entry of a folder.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name.
    pub(super) name: String,
    pub(super) kind: FileType,
}

impl Folder {
    /// Opens the folder of a source. A link to it is followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and [`ErrorKind::Io`] with the path.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let folder = rustix::fs::open(path, FOLDER, Mode::empty())
            .map_err(|e| Error::io("cannot open the folder of the source", path, e.into()))?;
        Ok(Self { folder, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what has a name below the folder; `None` when there is nothing.
    fn resolve(&self, name: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        let failed = |e: Errno| {
            match e {
            Errno::XDEV | Errno::LOOP => Error::invalid(
                "a link leads out of the folder of the source, or to itself: put what it leads to in its place",
            )
            .with_context("path", self.path.join(name).display()),
            Errno::NXIO => Error::invalid("a socket or a device is in the place of a file")
                .with_context("path", self.path.join(name).display()),
            e => Error::io("cannot read the source", self.path.join(name), e.into()),
        }
        };
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&self.folder, name, flags, Mode::empty(), beneath) {
                Ok(opened) => return Ok(Some(opened)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Some containers do not know this call.
                Err(Errno::NOSYS | Errno::PERM) => return self.walk(name, flags).map_err(failed),
                Err(e) => return Err(failed(e)),
            }
        }
        Err(failed(Errno::AGAIN))
    }

    /// Opens a name without following any link.
    fn walk(&self, name: &str, flags: OFlags) -> rustix::io::Result<Option<OwnedFd>> {
        let mut parts = name.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
        let mut at = rustix::fs::openat(&self.folder, ".", FOLDER, Mode::empty())?;
        while let Some(part) = parts.next() {
            if part == ".." {
                return Err(Errno::XDEV);
            }
            let flags = if parts.peek().is_some() { FOLDER } else { flags };
            at = match rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(opened) => opened,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR) => {
                    let found = rustix::fs::statat(&at, part, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                    let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
                    return if is_link { Err(Errno::LOOP) } else { Ok(None) };
                }
                Err(e) => return Err(e),
            };
        }
        Ok(Some(at))
    }

    /// Opens a regular file; `None` when there is nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a link that leads out and for another kind of file; [`ErrorKind::Io`].
    pub(super) fn open_file(&self, name: &str) -> Result<Option<(File, u64)>> {
        let Some(opened) = self.resolve(name, FILE)? else { return Ok(None) };
        let path = || self.path.join(name);
        let stat =
            rustix::fs::fstat(&opened).map_err(|e| Error::io("cannot read the source", path(), e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::invalid("a folder, a pipe or a device is in the place of a file")
                .with_context("path", path().display()));
        }
        Ok(Some((File::from(opened), u64::try_from(stat.st_size).unwrap_or(0))))
    }

    /// The size of a regular file; `None` when there is nothing.
    pub(super) fn size(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.open_file(name)?.map(|(_, size)| size))
    }

    /// Reads a file of at most `limit` bytes; `None` when there is nothing.
    ///
    /// # Errors
    /// Those of [`Folder::open_file`]; [`ErrorKind::TooLarge`].
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>> {
        let Some((file, size)) = self.open_file(name)? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(size.min(limit) as usize);
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("cannot read the source", self.path.join(name), e))?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(ErrorKind::TooLarge, format!("a file is larger than {limit} bytes"))
                .with_context("path", self.path.join(name).display()));
        }
        Ok(Some(bytes.into()))
    }

    /// A file as a blob; `None` when there is nothing. Reads nothing yet.
    pub(super) fn blob(&self, name: &str, digest: &Digest) -> Result<Option<BlobReader>> {
        let Some((file, size)) = self.open_file(name)? else { return Ok(None) };
        let stream = file_stream(file, digest.clone(), size).boxed();
        Ok(Some(BlobReader { size, offset: 0, length: size, stream }))
    }

    /// The entries of a folder, in the order of the file system; `None` when there is no such folder. An empty name is the
    /// folder itself. A name that is not UTF-8 is an error in its place, and the others follow.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a link that leads out; [`ErrorKind::Io`].
    pub(super) fn list(&self, name: &str) -> Result<Option<impl Iterator<Item = Result<Entry>> + use<>>> {
        let opened = self.resolve(if name.is_empty() { "." } else { name }, FOLDER)?;
        let Some(opened) = opened else { return Ok(None) };
        let path = self.path.join(name);
        let at_path = path.clone();
        let failed = move |e: Errno| Error::io("cannot read a folder of the source", &path, e.into());
        let at = opened.try_clone().map_err(|e| Error::io("cannot read a folder of the source", name, e))?;
        let entries = Dir::new(opened).map_err(&failed)?;
        Ok(Some(entries.filter_map(move |entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => return Some(Err(failed(e))),
            };
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return None;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                match rustix::fs::statat(&at, entry.file_name(), flags) {
                    Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => return None,
                    Err(e) => return Some(Err(failed(e))),
                }
            }
            match entry.file_name().to_str() {
                Ok(name) => Some(Ok(Entry { name: name.to_owned(), kind })),
                // Such as the folder of a repository that an older server accepted: it must not vanish.
                Err(_) => Some(Err(Error::invalid("a name in the source is not UTF-8")
                    .with_context("path", at_path.join(&*entry.file_name().to_string_lossy()).display()))),
            }
        })))
    }

    /// Whether there is a folder of this name.
    pub(super) fn has_folder(&self, name: &str) -> Result<bool> {
        Ok(self.resolve(name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?.is_some())
    }
}

/// Runs work on files on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the thread that reads the source ended early").with_source(e))?
}

/// The items that a function sends from a thread for blocking work. It ends when the stream is dropped: its `send` says
/// `false` then.
pub(super) fn walked<T: Send + 'static>(
    walk: impl FnOnce(&mut dyn FnMut(Result<T>) -> bool) + Send + 'static,
) -> futures::stream::BoxStream<'static, Result<T>> {
    const AHEAD: usize = 256;
    futures::stream::once(async move {
        let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || walk(&mut |item| sender.blocking_send(item).is_ok()));
        futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|item| (item, receiver))
        })
    })
    .flatten()
    .boxed()
}
