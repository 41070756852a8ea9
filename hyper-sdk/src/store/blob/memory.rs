//! Blobs in memory, for tests, loopback servers and images that are passed on at once.
//!
//! A blob is one [`Bytes`]; readers share it without copying. Staged bytes are the chunks as they came.

use super::{BlobBackend, BlobStaging, StagedState};
use crate::digest::{Algorithm, Hasher};
use crate::store::errors::{busy, digest_mismatch, missing_bytes, not_verified, staging_lost};
use crate::store::{ByteStream, UploadId};
use crate::{Digest, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// How many bytes a reader yields at a time.
const CHUNK: usize = 512 * 1024;

/// Blobs in memory. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct MemoryBlobs(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    blobs: HashMap<Digest, Bytes>,
    staged: HashMap<UploadId, Staged>,
}

#[derive(Default)]
struct Staged {
    chunks: Vec<Bytes>,
    size: u64,
    busy: bool,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("blobs", &self.blobs.len()).field("staged", &self.staged.len()).finish()
    }
}

impl MemoryBlobs {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Every change is a single insertion or removal, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        self.shelf().blobs.entry(digest.clone()).or_insert(bytes);
        Ok(())
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        let bytes = Bytes::from(tokio::fs::read(path).await.at("cannot read the file of the blob", path)?);
        let size = bytes.len() as u64;
        self.put(digest, bytes).await?;
        tokio::fs::remove_file(path).await.at("cannot remove the file of the blob", path)?;
        Ok(size)
    }

    async fn sizes(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>> {
        let shelf = self.shelf();
        Ok(digests.iter().map(|digest| shelf.blobs.get(digest).map(|blob| blob.len() as u64)).collect())
    }

    async fn read(&self, digest: &Digest, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        let blob = self.shelf().blobs.get(digest).cloned().ok_or_else(|| missing_bytes(digest))?;
        let end = offset.saturating_add(length);
        if blob.len() as u64 != size || end > size {
            return Err(missing_bytes(digest));
        }
        let mut part = blob.slice(offset as usize..end as usize);
        let chunks =
            std::iter::from_fn(move || (!part.is_empty()).then(|| Ok(part.split_to(part.len().min(CHUNK)))));
        Ok(futures::stream::iter(chunks).boxed())
    }

    async fn remove_damaged(&self, digest: &Digest) -> Result<bool> {
        let mut shelf = self.shelf();
        let is_damaged =
            shelf.blobs.get(digest).is_some_and(|bytes| digest.algorithm().digest(bytes) != *digest);
        if is_damaged {
            shelf.blobs.remove(digest);
        }
        Ok(is_damaged)
    }

    fn path(&self, _: &Digest) -> Option<PathBuf> {
        None
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let mut shelf = self.shelf();
        let staged = shelf.staged.entry(id.clone()).or_default();
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

    /// None that anybody has to look at: what a handle did not save goes with it.
    async fn staged(&self) -> Result<Vec<UploadId>> {
        Ok(Vec::new())
    }

    async fn leftovers(&self, _: SystemTime) -> Result<Vec<UploadId>> {
        Ok(self.shelf().staged.iter().filter(|(_, staged)| !staged.busy).map(|(id, _)| id.clone()).collect())
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
        let mut shelf = self.blobs.shelf();
        if let Some(staged) = shelf.staged.get_mut(&self.id) {
            staged.busy = false;
            if staged.size == 0 {
                shelf.staged.remove(&self.id);
            }
        }
    }
}

#[async_trait]
impl BlobStaging for MemoryStaging {
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        self.hasher = if state.offset == 0 { algorithm.hasher() } else { Hasher::restore(&state.hash)? };
        let shelf = self.blobs.shelf();
        let staged = shelf.staged.get(&self.id).ok_or_else(staging_lost)?;
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
        let mut shelf = self.blobs.shelf();
        let staged = shelf.staged.get_mut(&self.id).ok_or_else(staging_lost)?;
        staged.chunks = self.chunks.clone();
        staged.size = self.size;
        Ok(StagedState { offset: self.size, hash: self.hasher.save() })
    }

    async fn verify(&mut self, digest: &Digest) -> Result<u64> {
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
        Ok(self.size)
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
        let mut shelf = self.blobs.shelf();
        shelf.blobs.entry(digest.clone()).or_insert(blob);
        shelf.staged.remove(&self.id);
        Ok(())
    }

    async fn discard(&mut self) -> Result<()> {
        self.chunks.clear();
        self.blobs.shelf().staged.remove(&self.id);
        Ok(())
    }
}
