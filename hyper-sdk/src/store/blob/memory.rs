//! Blobs in memory, for tests and servers in one process.
//!
//! A blob is one [`Bytes`], which readers share without a copy. Staged bytes are the chunks as they were appended.

use super::{BlobBackend, BlobKey, BlobStaging, DeletionRight, StagedState, StoredBytes, Verified};
use crate::digest::{Algorithm, Hasher};
use crate::store::errors::{busy, digest_mismatch, missing_bytes, not_verified, staging_lost};
use crate::store::{ByteStream, Listing, UploadId};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The size of the chunks that a reader yields.
const CHUNK: usize = 512 * 1024;

/// Blobs in memory. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct MemoryBlobs(Arc<Mutex<State>>, Arc<tokio::sync::Mutex<()>>);

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, Stored>,
    staged: HashMap<UploadId, Staged>,
}

struct Stored {
    bytes: Bytes,
    modified: SystemTime,
}

impl From<Bytes> for Stored {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, modified: SystemTime::now() }
    }
}

#[derive(Default)]
struct Staged {
    chunks: Vec<Bytes>,
    size: u64,
    busy: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("blobs", &self.blobs.len()).field("staged", &self.staged.len()).finish()
    }
}

impl MemoryBlobs {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single insertion or removal, so a panic cannot leave a partial change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, key: &BlobKey) -> Option<&Stored> {
        match key {
            BlobKey::Digest(digest) => self.blobs.get(digest),
            BlobKey::Own(_) => None,
        }
    }
}

impl fmt::Display for MemoryBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl BlobBackend for MemoryBlobs {
    fn durable(&self) -> bool {
        false
    }

    fn has_own_keys(&self) -> bool {
        false
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        self.state().blobs.entry(digest.clone()).or_insert_with(|| bytes.into());
        Ok(())
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        let bytes = Bytes::from(tokio::fs::read(path).await.at("cannot read the file of the blob", path)?);
        let size = bytes.len() as u64;
        self.put(digest, bytes).await?;
        tokio::fs::remove_file(path).await.at("cannot remove the file of the blob", path)?;
        Ok(size)
    }

    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.find(key).map(|stored| stored.bytes.len() as u64)).collect())
    }

    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        let missing = || match key {
            BlobKey::Digest(digest) => missing_bytes(digest),
            BlobKey::Own(_) => {
                Error::new(ErrorKind::Corrupt, "there is no such blob").with_context("key", key)
            }
        };
        let blob = self.state().find(key).map(|stored| stored.bytes.clone()).ok_or_else(missing)?;
        let end = offset.saturating_add(length);
        if blob.len() as u64 != size || end > size {
            return Err(missing());
        }
        let mut part = blob.slice(offset as usize..end as usize);
        let chunks =
            std::iter::from_fn(move || (!part.is_empty()).then(|| Ok(part.split_to(part.len().min(CHUNK)))));
        Ok(futures::stream::iter(chunks).boxed())
    }

    async fn remove_damaged(&self, _: &BlobKey, digest: &Digest) -> Result<bool> {
        let mut state = self.state();
        let is_damaged =
            state.blobs.get(digest).is_some_and(|stored| digest.algorithm().digest(&stored.bytes) != *digest);
        if is_damaged {
            state.blobs.remove(digest);
        }
        Ok(is_damaged)
    }

    fn path(&self, _: &BlobKey) -> Option<PathBuf> {
        None
    }

    async fn deletion_right(&self) -> Result<Option<DeletionRight>> {
        let right = Arc::clone(&self.1).try_lock_owned();
        Ok(right.ok().map(|right| Box::new(right) as DeletionRight))
    }

    async fn delete(&self, key: &BlobKey) -> Result<bool> {
        let BlobKey::Digest(digest) = key else { return Ok(false) };
        Ok(self.state().blobs.remove(digest).is_some())
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
        let start = match after {
            Some(BlobKey::Digest(digest)) => Bound::Excluded(digest),
            Some(BlobKey::Own(_)) => return Ok(Listing { items: Vec::new(), more: false }),
            None => Bound::Unbounded,
        };
        let state = self.state();
        let mut rest = state.blobs.range((start, Bound::Unbounded));
        let stored = |(digest, stored): (&Digest, &Stored)| StoredBytes {
            key: BlobKey::Digest(digest.clone()),
            size: stored.bytes.len() as u64,
            modified: Some(stored.modified),
        };
        let items = rest.by_ref().take(limit).map(stored).collect();
        Ok(Listing { items, more: limit > 0 && rest.next().is_some() })
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let mut state = self.state();
        let staged = state.staged.entry(id.clone()).or_default();
        if staged.busy {
            return Err(busy(id));
        }
        staged.busy = true;
        Ok(Box::new(MemoryStaging {
            blobs: self.clone(),
            id: id.clone(),
            chunks: Vec::new(),
            size: 0,
            hasher: Hasher::sha256(),
            verified: None,
        }))
    }

    /// Unsaved bytes are dropped with their handle, so none are listed.
    async fn staged(&self) -> Result<Vec<UploadId>> {
        Ok(Vec::new())
    }

    async fn leftovers(&self, _: SystemTime) -> Result<Vec<UploadId>> {
        Ok(self.state().staged.iter().filter(|(_, staged)| !staged.busy).map(|(id, _)| id.clone()).collect())
    }
}

struct MemoryStaging {
    blobs: MemoryBlobs,
    id: UploadId,
    chunks: Vec<Bytes>,
    size: u64,
    hasher: Hasher,
    verified: Option<Digest>,
}

impl fmt::Debug for MemoryStaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStaging")
            .field("id", &self.id)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Drop for MemoryStaging {
    fn drop(&mut self) {
        let mut state = self.blobs.state();
        if let Some(staged) = state.staged.get_mut(&self.id) {
            staged.busy = false;
            if staged.size == 0 {
                state.staged.remove(&self.id);
            }
        }
    }
}

#[async_trait]
impl BlobStaging for MemoryStaging {
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        self.hasher = if state.offset == 0 { algorithm.hasher() } else { Hasher::restore(&state.hash)? };
        let all = self.blobs.state();
        let staged = all.staged.get(&self.id).ok_or_else(staging_lost)?;
        if staged.size != state.offset {
            return Err(staging_lost());
        }
        self.chunks = staged.chunks.clone();
        self.size = staged.size;
        Ok(())
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.verified = None;
        self.hasher.update(&bytes);
        self.size += bytes.len() as u64;
        self.chunks.push(bytes);
        Ok(())
    }

    async fn save(&mut self) -> Result<StagedState> {
        let mut state = self.blobs.state();
        let staged = state.staged.get_mut(&self.id).ok_or_else(staging_lost)?;
        staged.chunks = self.chunks.clone();
        staged.size = self.size;
        Ok(StagedState { offset: self.size, hash: self.hasher.save(), ..StagedState::default() })
    }

    async fn verify(&mut self, digest: &Digest) -> Result<Verified> {
        let got = if digest.algorithm() == self.hasher.algorithm() {
            self.hasher.clone().finish()
        } else {
            let mut hasher = digest.algorithm().hasher();
            self.chunks.iter().for_each(|chunk| hasher.update(chunk));
            hasher.finish()
        };
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        self.verified = Some(got);
        Ok(Verified::by_digest(digest, self.size))
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        if self.verified.as_ref() != Some(digest) {
            return Err(not_verified());
        }
        let blob = match self.chunks.as_slice() {
            [only] => only.clone(),
            chunks => {
                let mut whole = BytesMut::with_capacity(self.size as usize);
                chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
                whole.freeze()
            }
        };
        let mut state = self.blobs.state();
        state.blobs.entry(digest.clone()).or_insert_with(|| blob.into());
        state.staged.remove(&self.id);
        Ok(())
    }

    async fn discard(&mut self) -> Result<()> {
        self.chunks.clear();
        self.blobs.state().staged.remove(&self.id);
        Ok(())
    }
}
