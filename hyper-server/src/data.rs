//! The store that the program serves: a folder with blobs as files and metadata in SQLite.
//!
//! Other processes may write to the same folder (`hyperbuild` does), so the cache in memory must learn of their
//! changes. SQLite keeps a header in the index of its write-ahead log, the file `hyper.db-shm`, that every commit
//! rewrites before it is acknowledged; its format is documented ("WAL-mode File Format", section 2.1):
//!
//! ```text
//! offset 0, 48 bytes   header: change counter, number of frames, salts, checksums
//! offset 48, 48 bytes  the same header again: when both are equal, no writer was at work in between
//! ```
//!
//! A hash of that header is the stamp of [`Freshness::Stamp`]. Reading it costs two system calls on a page that is
//! always in memory, and no lock of the database.

use crate::Freshness;
use hyper_sdk::Result;
use hyper_sdk::store::{DiskStore, SharedStore};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const HEADER: usize = 48;

/// Opens the store in a folder, made when it does not exist, and says how a cache before it stays fresh. The folder is
/// closed to other users; that it was open before goes to the log.
///
/// # Errors
/// Those of [`DiskStore::open`].
pub async fn open_folder(folder: impl AsRef<Path>) -> Result<(SharedStore, Freshness)> {
    open_folder_with(folder, Some(DiskStore::UPLOAD_MAX_AGE)).await
}

/// As [`open_folder`], and removes uploads that rested for `upload_max_age`, or none.
///
/// # Errors
/// Those of [`DiskStore::open`].
pub async fn open_folder_with(
    folder: impl AsRef<Path>,
    upload_max_age: Option<Duration>,
) -> Result<(SharedStore, Freshness)> {
    let folder = folder.as_ref();
    let store = DiskStore::open_with(folder, upload_max_age).await?;
    if let Some(warning) = store.blobs().warning() {
        tracing::warn!("{warning}");
    }
    let store: SharedStore = Arc::new(store);
    if !store.capabilities().write {
        // A file system that is read-only has no writers at all, unless it is so only here: a folder can be mounted twice.
        if !folder.join("hyper.db-shm").exists() {
            return Ok((store, Freshness::Exclusive));
        }
    }
    let index = LogIndex { path: folder.join("hyper.db-shm"), file: Mutex::new(None) };
    Ok((store, Freshness::Stamp(Arc::new(move || index.stamp()))))
}

/// The index of a write-ahead log.
struct LogIndex {
    path: PathBuf,
    file: Mutex<Option<Arc<File>>>,
}

impl LogIndex {
    /// A number that is another one after every commit; `None` while the header is being written or not there.
    fn stamp(&self) -> Option<u64> {
        let file = self.file()?;
        let mut headers = [0u8; 2 * HEADER];
        file.read_exact_at(&mut headers, 0).ok()?;
        let (first, second) = headers.split_at(HEADER);
        // An index that is all zero has not been made yet.
        if first != second || first.iter().all(|b| *b == 0) {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(first);
        Some(hasher.finish())
    }

    /// The file, opened again when SQLite has made a new one.
    fn file(&self) -> Option<Arc<File>> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = slot.as_ref()
            && file.metadata().is_ok_and(|m| m.nlink() > 0)
        {
            return Some(file.clone());
        }
        *slot = File::open(&self.path).ok().map(Arc::new);
        slot.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hyper_sdk::{Digest, RepositoryName};

    #[tokio::test]
    async fn every_commit_of_any_store_on_the_folder_changes_the_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, Freshness::Stamp(stamp)) = open_folder(dir.path()).await.unwrap() else { panic!() };
        let theirs = DiskStore::open(dir.path()).await.unwrap();
        let repository = RepositoryName::parse("a").unwrap();
        let mut last = None;
        for n in 0..50u8 {
            let bytes = Bytes::from(vec![n]);
            let digest = Digest::sha256(&bytes);
            if n % 2 == 0 {
                ours.put_blob(&repository, &digest, bytes).await.unwrap();
            } else {
                use hyper_sdk::store::RegistryStore;
                theirs.put_blob(&repository, &digest, bytes).await.unwrap();
            }
            let now = stamp();
            assert!(now.is_some(), "the header cannot be read");
            assert_ne!(now, last, "commit {n} left the stamp as it was");
            ours.stat_blob(&repository, &digest).await.unwrap();
            assert_eq!(stamp(), now, "reading changed the stamp");
            last = now;
        }
    }
}
