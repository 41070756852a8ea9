//! Damage in a local store: bytes that are missing, cut short or do not match their digest.
//!
//! A store checks content when it receives it. Readers check it again, because a disk or a person may have changed it,
//! and record damage here. A damaged blob is removed. It is then missing, and the next build or pull fetches it again.
#![cfg_attr(not(feature = "build"), allow(dead_code, reason = "only builds read blobs that they watch"))]

use super::{RegistryStore, SharedStore};
use crate::progress::Progress;
use crate::{Digest, Error, ErrorKind};
use std::collections::BTreeSet;
use std::error::Error as _;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// The message about a snapshot that is not as it was written.
pub(crate) const LOST_SNAPSHOT: &str = "the snapshot of a layer is not as it was written: build again";

/// The damage that the readers of one operation have found. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    suspects: BTreeSet<Digest>,
    /// The snapshots that are not as they were written.
    lost: BTreeSet<Digest>,
    warned: bool,
}

impl Damage {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a blob that could not be read to its end.
    pub(crate) fn suspect(&self, digest: &Digest) {
        self.state().suspects.insert(digest.clone());
    }

    /// Records that a snapshot is not as it was written.
    pub(crate) fn lose(&self, snapshot: &Digest) {
        self.state().lost.insert(snapshot.clone());
    }

    /// Whether [`Damage::lose`] was called for a snapshot.
    pub(crate) fn is_lost(&self, snapshot: &Digest) -> bool {
        self.state().lost.contains(snapshot)
    }

    /// Whether [`Damage::lose`] was called for any snapshot.
    pub(crate) fn has_lost(&self) -> bool {
        !self.state().lost.is_empty()
    }

    /// The lost snapshots, which the caller removes: those that are made in their place are not lost.
    pub(crate) fn take_lost(&self) -> Vec<Digest> {
        std::mem::take(&mut self.state().lost).into_iter().collect()
    }

    /// Warns about damage, once for each operation.
    pub(crate) fn warn(&self, progress: &Progress, digest: &Digest) {
        if !std::mem::replace(&mut self.state().warned, true) {
            progress.warn(format!(
                "the local store has missing or damaged blobs, such as {}: the results that need them are built or \
                 fetched again",
                digest.short()
            ));
        }
    }

    /// Wraps the reader of a blob. A blob that is not read to its end without an error becomes a suspect.
    pub(crate) fn watch<R: Read>(&self, digest: &Digest, reader: R) -> Watched<R> {
        Watched { reader, digest: digest.clone(), damage: self.clone(), ended: false }
    }

    /// Checks the suspects and the blobs that an error names, and removes the damaged ones from the store.
    pub(crate) async fn remove(&self, store: &dyn RegistryStore, error: &Error) -> Vec<Digest> {
        let mut suspects = std::mem::take(&mut self.state().suspects);
        suspects.extend(blobs_of(error));
        let mut removed = Vec::new();
        for digest in suspects {
            if matches!(store.remove_damaged(&digest).await, Ok(true)) {
                removed.push(digest);
            }
        }
        removed
    }
}

/// The blobs that an error names.
fn blobs_of(error: &Error) -> Vec<Digest> {
    let mut blobs = Vec::new();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        // An error that passed through a reader is wrapped in an I/O error.
        let inner = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let known = current.downcast_ref::<Error>().or_else(|| inner?.downcast_ref::<Error>());
        if let Some(error) = known
            && matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::DigestInvalid | ErrorKind::SizeInvalid)
        {
            let named = error.context().iter().filter(|(key, _)| ["digest", "expected"].contains(key));
            blobs.extend(named.filter_map(|(_, value)| Digest::parse(value).ok()));
        }
        cause = inner.map(|inner| inner as _).or_else(|| current.source());
        if let Some(error) = known {
            cause = error.source();
        }
    }
    blobs
}

/// Checks whether an error was caused by a damaged blob of the store. If so, removes the blob and returns an error that
/// says so.
pub(crate) async fn blame_store(store: &SharedStore, error: Error) -> Error {
    let removed = Damage::default().remove(&**store, &error).await;
    match removed.first() {
        Some(digest) => damaged(digest).with_source(error),
        None => error,
    }
}

/// The error of an operation that needs a damaged blob.
pub(crate) fn damaged(digest: &Digest) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "a blob of the local store was damaged and has been removed: build or pull the image again",
    )
    .with_context("digest", digest)
}

/// A reader of a blob that records the blob as suspect when it is not read to its end.
#[derive(Debug)]
pub(crate) struct Watched<R> {
    reader: R,
    digest: Digest,
    damage: Damage,
    ended: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.ended |= count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

impl<R> Drop for Watched<R> {
    fn drop(&mut self) {
        if !self.ended {
            self.damage.suspect(&self.digest);
        }
    }
}

#[cfg(all(test, feature = "store-sql"))]
mod tests {
    use super::*;
    use crate::RepositoryName;
    use crate::store::DiskStore;
    use bytes::Bytes;

    #[tokio::test]
    async fn only_damaged_blobs_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(DiskStore::open(folder.path()).await.unwrap());
        let name = RepositoryName::parse("a").unwrap();
        let mut blobs = Vec::new();
        for text in ["whole", "changed", "missing"] {
            let (digest, bytes) = (Digest::sha256(text), Bytes::from(text));
            store.put_blob(&name, &digest, bytes).await.unwrap();
            blobs.push((digest.clone(), store.blob_path(&name, &digest).await.unwrap().unwrap()));
        }
        std::fs::write(&blobs[1].1, "CHANGED").unwrap();
        std::fs::remove_file(&blobs[2].1).unwrap();
        for ((digest, path), (damaged, is_there)) in
            blobs.iter().zip([(false, true), (true, false), (false, false)])
        {
            assert_eq!(store.remove_damaged(digest).await.unwrap(), damaged);
            assert_eq!(path.exists(), is_there);
        }
        assert_eq!(std::fs::read_dir(folder.path().join("uploads")).unwrap().count(), 0);
        let again = Bytes::from("changed");
        store.put_blob(&name, &blobs[1].0, again.clone()).await.unwrap();
        assert!(!store.remove_damaged(&blobs[1].0).await.unwrap());
    }

    #[tokio::test]
    async fn errors_name_their_blobs() {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(DiskStore::open(folder.path()).await.unwrap());
        let name = RepositoryName::parse("a").unwrap();
        let digest = Digest::sha256("text");
        let error = || Error::new(ErrorKind::DigestInvalid, "no").with_context("digest", &digest);
        let through_io = || Error::from(io::Error::other(Error::from(io::Error::other(error()))));
        let wrapped = || Error::internal("outer").with_source(through_io());
        let deep = || Error::internal("outer").with_source(io::Error::other(error()));
        for error in [error(), through_io(), wrapped(), deep()] {
            store.put_blob(&name, &digest, Bytes::from("text")).await.unwrap();
            let path = store.blob_path(&name, &digest).await.unwrap().unwrap();
            std::fs::write(&path, "TEXT").unwrap();
            assert_eq!(blame_store(&store, error).await.kind(), ErrorKind::Corrupt);
            assert!(!path.exists());
        }
        store.put_blob(&name, &digest, Bytes::from("text")).await.unwrap();
        assert_eq!(blame_store(&store, error()).await.kind(), ErrorKind::DigestInvalid);
    }

    #[test]
    fn a_blob_that_is_not_read_to_its_end_is_suspect() {
        let digest = Digest::sha256("text");
        for (length, suspect) in [(2, true), (4, false)] {
            let damage = Damage::default();
            let mut reader = damage.watch(&digest, &b"text"[..]);
            let mut bytes = vec![0; length];
            reader.read_exact(&mut bytes).unwrap();
            if length == 4 {
                assert_eq!(reader.read(&mut bytes).unwrap(), 0);
            }
            drop(reader);
            assert_eq!(damage.state().suspects.contains(&digest), suspect);
        }
    }
}
