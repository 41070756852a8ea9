//! Blobs in a folder.
//!
//! ```text
//!   ROOT/blobs/sha256/ab/abcd…       the bytes of a blob, never changed
//!   ROOT/blobs/sha512/01/0123…
//!   ROOT/uploads/ID                  staged bytes of an upload; its writer holds an exclusive lock on the file
//!   ROOT/uploads/ID.put              a blob that is written without an upload session
//!   ROOT/quarantine/…                damaged files, kept for a while
//!   ROOT/collector.lock              locked by who deletes bytes
//! ```
//!
//! # Invariants
//! - A file under `blobs` is complete: it was written and synced under `uploads`, then renamed; then its folder is
//!   synced. Renaming over a file of the same content is harmless, so pushing a blob again repairs a damaged file.
//! - Staged bytes after the saved offset cannot be trusted, because a crash may have lost some of them: a writer that
//!   resumes truncates the file to that offset first.
//! - Locks are advisory locks of the system (`flock`). The system releases them when their process ends, even when it
//!   is killed.

mod aside;
mod listing;
mod staging;

use self::staging::{Area, DiskStaging};
use super::reading::{Part, READ_CHUNK, read_ahead};
use super::{BlobBackend, BlobKey, BlobStaging, DeletionRight, StoredBytes, leftovers};
use crate::store::errors::{busy, digest_mismatch, missing_bytes, staging_lost};
use crate::store::{ByteStream, Listing, UploadId, work};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _, private_folder};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;
use tokio::task::spawn_blocking;

/// The place of the blobs, as spans name it.
const PLACE: &str = "folder";

/// Up to this many sizes are read on the calling thread, which costs less than a task on another thread.
const SIZES_INLINE: usize = 4;

/// The file in the folder that a collector locks.
const COLLECTOR: &str = "collector.lock";

/// The file that says that a folder has backups. They have the layout of blobs, but a collector would remove them.
pub(crate) const BACKUP_MARKER: &str = "hyperregistry-backup";

/// An open file with a lock that ends with the value, also while a child process has the descriptor.
struct Unlocks(File);

impl Drop for Unlocks {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Blobs in a folder. Clones share it; so may other processes.
#[derive(Clone, Debug)]
pub struct DiskBlobs(Arc<Folders>);

#[derive(Debug)]
struct Folders {
    root: PathBuf,
    blobs: PathBuf,
    uploads: PathBuf,
    warning: Option<String>,
    /// Held alone by who moves a damaged file away, so that no push of this process puts a whole one there in between: it
    /// would be missing until it is back. Another process may.
    moves: RwLock<()>,
}

impl DiskBlobs {
    /// Opens the folder `root`, and creates it when it is missing. It is made private; if other users could reach it
    /// before, [`DiskBlobs::warning`] says so.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when it cannot be created or written, [`crate::ErrorKind::Invalid`] when it is a folder of
    /// backups, and those of [`private_folder::open`].
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        blocking(move || {
            if root.join(BACKUP_MARKER).symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                return Err(Error::invalid(
                    "the folder has backups, which the store would remove as blobs that nothing names: name another folder",
                )
                .with_context("path", root.display()));
            }
            let warning = private_folder::open(&root)?.warning;
            let folders = Folders {
                blobs: root.join("blobs"),
                uploads: root.join("uploads"),
                root,
                warning,
                moves: RwLock::default(),
            };
            for folder in [&folders.root, &folders.blobs, &folders.uploads] {
                make_folder(folder)?;
                private_folder::close_within(folder)?;
            }
            // One folder for each algorithm.
            for kind in std::fs::read_dir(&folders.blobs).into_iter().flatten().flatten() {
                private_folder::close_within(&kind.path())?;
            }
            Ok(Self(Arc::new(folders)))
        })
        .await
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The warning that other users could reach the folder before it was opened.
    pub fn warning(&self) -> Option<&str> {
        self.0.warning.as_deref()
    }

    /// A folder on the same file system for files that become blobs ([`BlobBackend::adopt`]). Files that stay there are
    /// removed when they are old.
    pub fn scratch(&self) -> &Path {
        &self.0.uploads
    }
}

impl Folders {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().name()).join(&digest.hex()[..2]).join(digest.hex())
    }

    /// Moves a complete and synced file to the path of its blob.
    fn place(&self, from: &Path, digest: &Digest) -> Result<()> {
        let to = self.blob(digest);
        let folder = to.parent().unwrap_or(&self.blobs);
        let moving = self.moves.read().unwrap_or_else(PoisonError::into_inner);
        match fs::rename(from, &to) {
            // Another process may have created the folder in the meantime, so try again in any case.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if let Some(parent) = folder.parent() {
                    make_folder(parent)?;
                }
                make_folder(folder)?;
                fs::rename(from, &to)
            }
            other => other,
        }
        .at("cannot move the blob to its place", &to)?;
        drop(moving);
        sync_folder(folder)
    }
}

impl Folders {
    /// Reads a blob, and removes it when it is damaged. The file is first renamed to `aside`, so that a blob that was
    /// pushed again in the meantime is not removed.
    fn remove_damaged(&self, digest: &Digest, aside: &Path) -> Result<bool> {
        let path = self.blob(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).at("cannot open the blob", &path),
        };
        let mut hasher = digest.algorithm().hasher();
        // A file that the disk cannot read is damaged as well.
        let read = std::io::copy(
            &mut std::io::BufReader::with_capacity(READ_CHUNK as usize, &mut file),
            &mut hasher,
        );
        if read.is_ok() && hasher.finish() == *digest {
            return Ok(false);
        }
        let known = file.metadata().at("cannot read the blob", &path)?;
        let _alone = self.moves.write().unwrap_or_else(PoisonError::into_inner);
        if !is_at(&file, &path) {
            return Ok(true);
        }
        match fs::rename(&path, aside) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            other => other.at("cannot move the damaged blob away", &path)?,
        }
        if fs::symlink_metadata(aside).is_ok_and(|moved| moved.ino() != known.ino()) {
            // The blob was pushed again in the meantime.
            fs::rename(aside, &path).at("cannot put the blob back", &path)?;
        } else {
            fs::remove_file(aside).at("cannot remove the damaged blob", aside)?;
        }
        Ok(true)
    }
}

/// Creates a folder durably. Creates the folders above it when they are missing.
fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).at("cannot make the folder", path)?;
    path.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_folder)
}

/// Whether the path still names the open file.
fn is_at(file: &File, path: &Path) -> bool {
    let (held, named) = (file.metadata(), fs::metadata(path));
    matches!((held, named), (Ok(h), Ok(n)) if h.ino() == n.ino() && h.dev() == n.dev())
}

/// Locks a file in the folder of uploads, so that it is not removed as a leftover, however old it is. On a file system
/// without locks only the age of a file decides.
fn hold(file: &File) {
    let _ = file.try_lock();
}

/// The digest of a key; this backend has no other keys.
fn by_digest(key: &BlobKey) -> Result<&Digest> {
    match key {
        BlobKey::Digest(digest) => Ok(digest),
        BlobKey::Own(_) => {
            Err(Error::new(ErrorKind::Corrupt, "a store in a folder keeps bytes only under their digest")
                .with_context("key", key))
        }
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).at("cannot sync the folder", path)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::internal("a thread of the blob store ended early").with_source(e)),
    }
}

impl fmt::Display for DiskBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.0.root.display())
    }
}

#[async_trait]
impl BlobBackend for DiskBlobs {
    fn durable(&self) -> bool {
        true
    }

    fn has_own_keys(&self) -> bool {
        false
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        let (folders, digest) = (Arc::clone(&self.0), digest.clone());
        let temporary = folders.uploads.join(format!("{}.put", UploadId::random()?));
        let put = blocking(move || {
            // A damaged file is replaced. The bytes are in memory, so comparing them is cheap.
            let there = folders.blob(&digest);
            let as_long = fs::metadata(&there).is_ok_and(|meta| meta.len() == bytes.len() as u64);
            if as_long && fs::read(&there).is_ok_and(|there| there == bytes) {
                // Its writer may not have synced the folder yet.
                return there.parent().map_or(Ok(()), sync_folder);
            }
            let written = File::create_new(&temporary)
                .and_then(|mut file| {
                    hold(&file);
                    file.write_all(&bytes).and_then(|()| file.sync_data()).map(|()| file)
                })
                .at("cannot write the blob", &temporary)
                .and_then(|_held| folders.place(&temporary, &digest));
            if written.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            written
        });
        work::within(work::blobs(PLACE, "put"), put).await
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        let (folders, digest, path) = (Arc::clone(&self.0), digest.clone(), path.to_owned());
        let temporary = folders.uploads.join(format!("{}.put", UploadId::random()?));
        blocking(move || {
            let file = File::open(&path).at("cannot open the file of the blob", &path)?;
            let meta = file.metadata().at("cannot read the file of the blob", &path)?;
            if !meta.is_file() || fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
                return Err(Error::invalid("only a regular file can become a blob")
                    .with_context("path", path.display()));
            }
            hold(&file);
            file.sync_data().at("cannot sync the file of the blob", &path)?;
            match fs::rename(&path, &temporary) {
                Ok(()) => folders.place(&temporary, &digest).inspect_err(|_| {
                    let _ = fs::rename(&temporary, &path);
                })?,
                // On another file system the bytes are copied, and checked while they are copied.
                Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                    copy_in(&folders, &file, &temporary, &digest)?;
                    fs::remove_file(&path).at("cannot remove the file of the blob", &path)?;
                }
                Err(e) => return Err(e).at("cannot move the file of the blob", &path),
            }
            Ok(meta.len())
        })
        .await
    }

    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>> {
        let size = |path: &Option<PathBuf>| match path.as_ref().map(|path| (fs::metadata(path), path)) {
            None => Ok(None),
            Some((Ok(meta), _)) => Ok(meta.is_file().then_some(meta.len())),
            Some((Err(e), _)) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Some((Err(e), path)) => Err(e).at("cannot read the blob", path),
        };
        let paths: Vec<Option<PathBuf>> = keys.iter().map(|key| self.path(key)).collect();
        if paths.len() <= SIZES_INLINE {
            return paths.iter().map(size).collect();
        }
        blocking(move || paths.iter().map(size).collect()).await
    }

    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        let (folders, digest) = (Arc::clone(&self.0), by_digest(key)?.clone());
        let open = blocking(move || {
            let file = match File::open(folders.blob(&digest)) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing_bytes(&digest)),
                Err(e) => return Err(e).at("cannot open the blob", folders.blob(&digest)),
            };
            let meta = file.metadata().at("cannot read the blob", folders.blob(&digest))?;
            if meta.len() != size || offset.saturating_add(length) > size {
                return Err(missing_bytes(&digest));
            }
            let mut part = Part::new(file, digest, offset, offset + length);
            let first = part.next()?;
            Ok((part, first))
        });
        let (part, first) = work::within(work::blobs(PLACE, "read"), open).await?;
        Ok(read_ahead(part, first))
    }

    fn path(&self, key: &BlobKey) -> Option<PathBuf> {
        match key {
            BlobKey::Digest(digest) => Some(self.0.blob(digest)),
            BlobKey::Own(_) => None,
        }
    }

    async fn remove_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        if self.path(key).is_none() {
            return Ok(false);
        }
        let (folders, digest) = (Arc::clone(&self.0), digest.clone());
        let aside = folders.uploads.join(format!("{}.put", UploadId::random()?));
        blocking(move || folders.remove_damaged(&digest, &aside)).await
    }

    async fn set_aside(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        if self.path(key).is_none() {
            return Ok(false);
        }
        let (folders, digest) = (Arc::clone(&self.0), digest.clone());
        blocking(move || folders.set_aside(&digest)).await
    }

    async fn forget_set_aside(&self, before: SystemTime) -> Result<u64> {
        let folders = Arc::clone(&self.0);
        blocking(move || folders.forget_set_aside(before)).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<bool> {
        let Some(path) = self.path(key) else { return Ok(false) };
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => path.parent().map_or(Ok(()), sync_folder).map(|()| true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).at("cannot remove the blob", &path),
        })
        .await
    }

    async fn deletion_right(&self) -> Result<Option<DeletionRight>> {
        let path = self.0.root.join(COLLECTOR);
        blocking(move || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.at("cannot open the lock file of the collector", &path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(Box::new(Unlocks(file)) as DeletionRight)),
                Err(TryLockError::WouldBlock) => Ok(None),
                // Without locks nothing would keep two collectors apart.
                Err(TryLockError::Error(e)) => Err(e).at("cannot lock the file of the collector", &path),
            }
        })
        .await
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
        let (folders, after) = (Arc::clone(&self.0), after.cloned());
        blocking(move || listing::list(&folders.blobs, after.as_ref(), limit)).await
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let (folders, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || {
            let path = folders.uploads.join(id.as_str());
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .at("cannot open the staging file", &path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(busy(&id)),
                Err(TryLockError::Error(e)) => return Err(e).at("cannot lock the staging file", &path),
            }
            // Between opening and locking, another writer may have committed the file as a blob, which must not be
            // written to.
            if !is_at(&file, &path) {
                return Err(staging_lost());
            }
            Ok(Box::new(DiskStaging::new(Area::new(folders, path, file))) as Box<dyn BlobStaging>)
        })
        .await
    }

    async fn staged(&self) -> Result<Vec<UploadId>> {
        let folders = Arc::clone(&self.0);
        blocking(move || leftovers::staged(&folders.uploads)).await
    }

    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>> {
        let folders = Arc::clone(&self.0);
        blocking(move || leftovers::clear(&folders.uploads, before)).await
    }
}

fn copy_in(folders: &Folders, from: &File, temporary: &Path, digest: &Digest) -> Result<()> {
    let copy = || {
        let (mut from, mut to) = (from, File::create_new(temporary).at("cannot write the blob", temporary)?);
        hold(&to);
        let mut hasher = digest.algorithm().hasher();
        let mut buffer = vec![0; READ_CHUNK as usize];
        loop {
            let n = from.read(&mut buffer).at("cannot read the file of the blob", temporary)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            to.write_all(&buffer[..n]).at("cannot write the blob", temporary)?;
        }
        let got = hasher.finish();
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        to.sync_data().at("cannot sync the blob", temporary)?;
        folders.place(temporary, digest)
    };
    let outcome = copy();
    if outcome.is_err() {
        let _ = fs::remove_file(temporary);
    }
    outcome
}
