//! A blob backend of one's own: every blob in one append-only file.
//!
//! It is written with public items of the SDK alone, and `tests/suites.rs` shows what it is worth: the suites of blob
//! backends and of stores pass. [`LogBlobs`] is all that is to be written; [`Composed`](hyper_sdk::store::Composed) makes a
//! registry store of it and of any metadata backend:
//!
//! ```no_run
//! use hyper_sdk::store::Composed;
//! use hyper_sdk::store::meta::SqlMeta;
//! use store_backend::LogBlobs;
//!
//! # async fn example() -> hyper_sdk::Result<()> {
//! let store = Composed::new(LogBlobs::open("blobs.log").await?, SqlMeta::open("meta.db").await?);
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//! One process has the file open. What is deleted leaves its bytes in the file; a real backend would write the file anew
//! from time to time.

mod log;
mod record;
mod staging;

use crate::log::{Content, Log, now};
use crate::record::Record;
use crate::staging::LogStaging;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use hyper_sdk::store::blob::{BlobBackend, BlobKey, BlobStaging, DeletionRight, StoredBytes};
use hyper_sdk::store::errors::{busy, missing_bytes};
use hyper_sdk::store::{ByteStream, Listing, UploadId};
use hyper_sdk::{Digest, Error, ErrorKind, Result, ResultExt as _};
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// Blobs in one append-only file. Clones share it.
#[derive(Clone, Debug)]
pub struct LogBlobs(Arc<Log>, Arc<AtomicBool>);

/// The right to delete bytes. The file is open in one process, so a flag keeps collectors apart.
struct Right(Arc<AtomicBool>);

impl Drop for Right {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl LogBlobs {
    /// Opens the file, making it when it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when another process has it open; [`ErrorKind::Io`] when it cannot be read or written.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        blocking(move || Ok(Self(Arc::new(Log::open(&path)?), Arc::default()))).await
    }

    /// Work on the file, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Log) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let log = Arc::clone(&self.0);
        blocking(move || work(&log)).await
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|e| Error::internal("a thread of the blob backend ended early").with_source(e))?
}

/// The digest of a key: all are kept by their digest here.
fn digest_of(key: &BlobKey) -> Result<&Digest> {
    match key {
        BlobKey::Digest(digest) => Ok(digest),
        BlobKey::Own(_) => {
            Err(Error::new(ErrorKind::Corrupt, "there is no such blob").with_context("key", key))
        }
    }
}

impl fmt::Display for LogBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.0.path.display())
    }
}

#[async_trait]
impl BlobBackend for LogBlobs {
    fn durable(&self) -> bool {
        true
    }

    fn has_own_keys(&self) -> bool {
        false
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        let record = Record::Put { digest: digest.clone(), size: bytes.len() as u64, time: now() };
        self.with(move |log| log.append_durably(record, &bytes[..])).await
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        let (digest, path) = (digest.clone(), path.to_owned());
        self.with(move |log| {
            let file = std::fs::File::open(&path).at("cannot open the file of the blob", &path)?;
            let size = file.metadata().at("cannot read the file of the blob", &path)?.len();
            log.append_durably(Record::Put { digest, size, time: now() }, file)?;
            std::fs::remove_file(&path).at("cannot remove the file of the blob", &path)?;
            Ok(size)
        })
        .await
    }

    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>> {
        let index = self.0.index();
        let size = |key: &BlobKey| index.blobs.get(digest_of(key).ok()?).map(Content::size);
        Ok(keys.iter().map(size).collect())
    }

    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        let digest = digest_of(key)?.clone();
        let content = self.0.index().blobs.get(&digest).cloned();
        let content =
            content.filter(|content| content.size() == size).ok_or_else(|| missing_bytes(&digest))?;
        let (log, end) = (self.clone(), offset + length);
        let chunks = futures::stream::unfold(offset, move |at| {
            let (log, content, digest) = (log.clone(), content.clone(), digest.clone());
            async move {
                if at >= end {
                    return None;
                }
                let chunk = log.with(move |log| log.read(&content, &digest, at, end - at)).await;
                // After an error the stream ends.
                let next = chunk.as_ref().map_or(end, |chunk| at + chunk.len() as u64);
                Some((chunk.map(Bytes::from), next))
            }
        });
        Ok(chunks.boxed())
    }

    fn path(&self, _: &BlobKey) -> Option<PathBuf> {
        None
    }

    async fn remove_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        let (key, digest) = (key.clone(), digest.clone());
        self.with(move |log| {
            let content = log.index().blobs.get(digest_of(&key)?).cloned();
            let Some(content) = content else { return Ok(false) };
            if log.hash(&content, digest.algorithm(), &digest).is_ok_and(|got| got == digest) {
                return Ok(false);
            }
            log.append_durably(Record::Delete { digest }, &[][..])?;
            Ok(true)
        })
        .await
    }

    async fn delete(&self, key: &BlobKey) -> Result<bool> {
        let Ok(digest) = digest_of(key).cloned() else { return Ok(false) };
        if !self.0.index().blobs.contains_key(&digest) {
            return Ok(false);
        }
        self.with(move |log| log.append_durably(Record::Delete { digest }, &[][..])).await?;
        Ok(true)
    }

    async fn deletion_right(&self) -> Result<Option<DeletionRight>> {
        let is_free = !self.1.swap(true, Ordering::SeqCst);
        Ok(is_free.then(|| Box::new(Right(Arc::clone(&self.1))) as DeletionRight))
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
        let start = after.map(digest_of).transpose()?.map_or(Bound::Unbounded, Bound::Excluded);
        let index = self.0.index();
        let mut rest = index.blobs.range((start, Bound::Unbounded));
        let stored = |(digest, content): (&Digest, &Content)| StoredBytes {
            key: digest.clone().into(),
            size: content.size(),
            modified: Some(content.modified),
        };
        let items = rest.by_ref().take(limit).map(stored).collect();
        Ok(Listing { items, more: limit > 0 && rest.next().is_some() })
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let mut index = self.0.index();
        let content = index.uploads.entry(id.clone()).or_default();
        if std::mem::replace(&mut content.busy, true) {
            return Err(busy(id));
        }
        Ok(Box::new(LogStaging::new(Arc::clone(&self.0), id.clone())))
    }

    async fn staged(&self) -> Result<Vec<UploadId>> {
        let index = self.0.index();
        Ok(index.uploads.iter().filter(|(_, content)| content.size() > 0).map(|(id, _)| id.clone()).collect())
    }

    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>> {
        let index = self.0.index();
        let rests = |content: &Content| !content.busy && content.modified <= before;
        Ok(index.uploads.iter().filter(|(_, content)| rests(content)).map(|(id, _)| id.clone()).collect())
    }
}
