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
//! lock of the database.
//!
//! A commit that no reader can see leaves the version as it was for this process: it knows that commit by the change counter,
//! which a commit raises by one, and by the header that it left, if no other connection has written since. To other processes, and for the moment until that is known, it is one like any other.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const HEADER: usize = 48;
/// Where the change counter is in a header.
const COUNTER: std::ops::Range<usize> = 8..12;
/// How many commits that nobody sees are known: whoever reads a header asks about it at once.
const UNSEEN: usize = 8;

/// The version of a database.
#[derive(Debug)]
pub(super) enum Version {
    /// An immutable database.
    Constant,
    /// A database whose version is in the index of its write-ahead log.
    Index(Index),
}

/// The index of a write-ahead log.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    unseen: Mutex<Unseen>,
}

/// The commits of this process that no reader can see: the headers that the last ones left, each with the version before.
#[derive(Debug, Default)]
struct Unseen {
    known: [Option<(u64, u64)>; UNSEEN],
    next: usize,
}

/// A header: its hash and its change counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    hash: u64,
    counter: u32,
}

/// A commit that no reader can see, before it is made.
#[derive(Debug)]
pub(super) struct UnseenCommit<'v> {
    index: &'v Index,
    counter: u32,
    version: u64,
}

impl Version {
    /// The version of a database that this process or another may write.
    pub(super) fn changing(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        Self::Index(Index { path: path.into(), file: Mutex::default(), unseen: Mutex::default() })
    }

    /// The version of a database that this process cannot write. Other processes may write it when only this mount of
    /// the file system is read-only.
    pub(super) fn read_only(database: &Path) -> Self {
        match Self::changing(database) {
            Self::Index(index) if !index.path.exists() => Self::Constant,
            changing => changing,
        }
    }

    /// A number that changes with every commit that readers can see; `None` while the header is being written or is missing.
    pub(super) fn now(&self) -> Option<u64> {
        match self {
            Self::Constant => Some(0),
            Self::Index(index) => index.header().map(|header| index.unseen().version(header)),
        }
    }

    /// Begins a commit that no reader can see, in a transaction that has the right to write.
    pub(super) fn unseen(&self) -> Option<UnseenCommit<'_>> {
        let Self::Index(index) = self else { return None };
        let header = index.header()?;
        let version = index.unseen().version(header);
        Some(UnseenCommit { index, counter: header.counter.wrapping_add(1), version })
    }
}

impl Unseen {
    /// The version of a header.
    fn version(&self, header: Header) -> u64 {
        let known = self.known.iter().flatten().find(|(hash, _)| *hash == header.hash);
        known.map_or(header.hash, |(_, version)| *version)
    }
}

impl Index {
    fn unseen(&self) -> MutexGuard<'_, Unseen> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The header; `None` while it is being written or is missing.
    fn header(&self) -> Option<Header> {
        let mut headers = [0u8; 2 * HEADER];
        open(&self.path, &self.file)?.read_exact_at(&mut headers, 0).ok()?;
        let (first, second) = headers.split_at(HEADER);
        // An index of zeros is not initialised yet.
        if first != second || first.iter().all(|b| *b == 0) {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(first);
        let counter = u32::from_ne_bytes(first[COUNTER].try_into().ok()?);
        Some(Header { hash: hasher.finish(), counter })
    }
}

impl UnseenCommit<'_> {
    /// The header that it has left, unless another commit has followed. A transaction that has changed nothing makes no commit, and
    /// the header is then that of another process: the caller finds out whether one has written.
    pub(super) fn left(&self) -> Option<Header> {
        self.index.header().filter(|header| header.counter == self.counter)
    }

    /// The header is that of this commit.
    pub(super) fn made(self, header: Header) {
        let mut unseen = self.index.unseen();
        let at = unseen.next;
        unseen.known[at] = Some((header.hash, self.version));
        unseen.next = (at + 1) % UNSEEN;
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
    use crate::store::meta::{Change, MetaBackend as _, SqlMeta};
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

    /// A server that notes pulls each minute must not look up again what everybody pulls.
    #[tokio::test]
    async fn what_no_reader_sees_changes_the_version_for_nobody_here() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hyper.db");
        let (ours, theirs) = (SqlMeta::open(path.clone()).await.unwrap(), SqlMeta::open(path).await.unwrap());
        let repository = RepositoryName::parse("a").unwrap();
        let push = async |meta: &SqlMeta, text: &str| {
            let (digest, repository) = (Digest::sha256(text), repository.clone());
            let key = digest.clone().into();
            let (size, upload, leased_until) = (1, None, 0);
            let link = Change::LinkBlob { repository, digest, size, key, upload, leased_until };
            meta.write(link).await.unwrap();
        };
        push(&ours, "first").await;
        // Each one is a commit: the lease is longer than the last.
        let mut until = 0;
        let mut lease = async |meta: &SqlMeta| {
            until += 1;
            let (digest, repository) = (Digest::sha256("first"), repository.clone());
            meta.write(Change::LeaseBlob { repository, digest, until }).await.unwrap();
        };
        let before = ours.version();
        assert!(before.is_some());
        for _ in 0..20 {
            let theirs_before = theirs.version();
            lease(&ours).await;
            assert_eq!(ours.version(), before);
            assert_ne!(theirs.version(), theirs_before, "nothing was written");
        }
        // What others do is seen.
        for text in ["ours", "theirs", "again"] {
            let before = ours.version();
            lease(&theirs).await;
            let noted = ours.version();
            assert_ne!(noted, before, "another process may have changed anything");
            lease(&ours).await;
            assert_eq!(ours.version(), noted);
            push(if text == "ours" { &ours } else { &theirs }, text).await;
            assert_ne!(ours.version(), noted, "{text}");
        }
    }
}
