//! The version of the database, by which a process detects changes.
//!
//! The index of the write-ahead log of SQLite, the file `-shm` next to the database, has a header that every commit
//! rewrites before it is acknowledged. Its format is documented ("WAL-mode File Format", section 2.1):
//!
//! ```text
//! offset 0, 48 bytes   header: change counter, number of frames, salts, checksums
//! offset 48, 48 bytes  a copy of the header: when both are equal, no writer was active
//! ```
//!
//! The version is a hash of that header. Reading it takes two system calls on a page that is always in memory, and no
//! lock.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const HEADER: usize = 48;

/// The version of a database.
#[derive(Debug)]
pub(super) enum Version {
    /// An immutable database.
    Constant,
    /// A database whose version is in the index of its write-ahead log.
    Index { path: PathBuf, file: Mutex<Option<Arc<File>>> },
}

impl Version {
    /// The version of a database that this process or another may write.
    pub(super) fn changing(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        Self::Index { path: path.into(), file: Mutex::new(None) }
    }

    /// The version of a database that this process cannot write. Other processes may write it when only this mount of
    /// the file system is read-only.
    pub(super) fn read_only(database: &Path) -> Self {
        match Self::changing(database) {
            Self::Index { path, .. } if !path.exists() => Self::Constant,
            changing => changing,
        }
    }

    /// A number that changes with every commit; `None` while the header is being written or is missing.
    pub(super) fn now(&self) -> Option<u64> {
        let Self::Index { path, file } = self else { return Some(0) };
        let mut headers = [0u8; 2 * HEADER];
        open(path, file)?.read_exact_at(&mut headers, 0).ok()?;
        let (first, second) = headers.split_at(HEADER);
        // An index of zeros is not initialised yet.
        if first != second || first.iter().all(|b| *b == 0) {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(first);
        Some(hasher.finish())
    }
}

/// The file; opened again when SQLite has created a new one.
fn open(path: &Path, slot: &Mutex<Option<Arc<File>>>) -> Option<Arc<File>> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = slot.as_ref()
        && file.metadata().is_ok_and(|m| m.nlink() > 0)
    {
        return Some(file.clone());
    }
    *slot = File::open(path).ok().map(Arc::new);
    slot.clone()
}

#[cfg(test)]
mod tests {
    use crate::store::{DiskStore, RegistryStore as _};
    use crate::{Digest, RepositoryName};
    use bytes::Bytes;

    #[tokio::test]
    async fn every_commit_of_any_store_on_the_folder_changes_the_version() {
        let folder = tempfile::tempdir().unwrap();
        let ours = DiskStore::open(folder.path()).await.unwrap();
        let theirs = DiskStore::open(folder.path()).await.unwrap();
        let repository = RepositoryName::parse("a").unwrap();
        let mut last = None;
        for n in 0..50u8 {
            let bytes = Bytes::from(vec![n]);
            let digest = Digest::sha256(&bytes);
            let writer = if n % 2 == 0 { &ours } else { &theirs };
            writer.put_blob(&repository, &digest, bytes).await.unwrap();
            let now = ours.version();
            assert!(now.is_some(), "the header cannot be read");
            assert_ne!(now, last, "commit {n} left the version as it was");
            ours.stat_blob(&repository, &digest).await.unwrap();
            assert_eq!(ours.version(), now, "reading changed the version");
            last = now;
        }
    }
}
