//! Blob backends with an injected fault.

use crate::digest::Algorithm;
use crate::store::blob::{BlobBackend, BlobKey, BlobStaging, StagedState, StoredBytes, Verified};
use crate::store::{ByteStream, Listing, UploadId};
use crate::{Digest, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlobFault {
    None,
    SecondWriter,
    DiscardKeeps,
    BlobsLostOnReopen,
    UploadsLostOnReopen,
    ClaimsDurable,
    DeletedComeBack,
    NoDigestCheck,
    NoVerify,
    AdoptKeepsFile,
    PathLies,
    ShortRead,
    AnySize,
    SizesReversed,
    DeleteKeeps,
    DeleteTellsNothing,
    ListMisses,
    ListRepeats,
    UnsavedStay,
    WholeIsDamaged,
    DamagedIsWhole,
    NoLeftovers,
}

impl BlobFault {
    /// The folder that is emptied when the backend is opened again.
    pub(super) fn lost_on_reopen(self) -> Option<&'static str> {
        match self {
            Self::BlobsLostOnReopen => Some("blobs"),
            Self::UploadsLostOnReopen => Some("uploads"),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct BlobMutant<B> {
    inner: B,
    fault: BlobFault,
    hidden: Mutex<HashSet<BlobKey>>,
    unsaved: Arc<Mutex<HashMap<UploadId, Vec<Bytes>>>>,
}

impl<B> BlobMutant<B> {
    pub(super) fn new(inner: B, fault: BlobFault) -> Self {
        Self { inner, fault, hidden: Mutex::default(), unsaved: Arc::default() }
    }

    fn is_hidden(&self, key: &BlobKey) -> bool {
        self.hidden.lock().unwrap().contains(key)
    }
}

impl<B: BlobBackend> fmt::Display for BlobMutant<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mutant {}", self.inner)
    }
}

#[async_trait]
impl<B: BlobBackend> BlobBackend for BlobMutant<B> {
    fn durable(&self) -> bool {
        self.fault == BlobFault::ClaimsDurable || self.inner.durable()
    }

    fn has_own_keys(&self) -> bool {
        self.inner.has_own_keys()
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        self.hidden.lock().unwrap().remove(&BlobKey::Digest(digest.clone()));
        self.inner.put(digest, bytes).await
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        if self.fault == BlobFault::AdoptKeepsFile {
            let bytes = std::fs::read(path)?;
            let size = bytes.len() as u64;
            return self.inner.put(digest, bytes.into()).await.map(|()| size);
        }
        self.inner.adopt(digest, path).await
    }

    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>> {
        let mut sizes = self.inner.sizes(keys).await?;
        for (size, key) in sizes.iter_mut().zip(keys) {
            *size = size.filter(|_| !self.is_hidden(key));
        }
        if self.fault == BlobFault::SizesReversed {
            sizes.reverse();
        }
        Ok(sizes)
    }

    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        match self.fault {
            _ if self.is_hidden(key) => self.inner.read(&Digest::sha256("hidden").into(), 0, 0, 0).await,
            BlobFault::ShortRead => self.inner.read(key, size, offset, length.saturating_sub(1)).await,
            BlobFault::AnySize => {
                let there = self.inner.sizes(std::slice::from_ref(key)).await?[0].unwrap_or(size);
                self.inner.read(key, there, offset, length.min(there)).await
            }
            _ => self.inner.read(key, size, offset, length).await,
        }
    }

    fn path(&self, key: &BlobKey) -> Option<PathBuf> {
        match self.fault {
            BlobFault::PathLies => Some(PathBuf::from("/proc/version")),
            _ => self.inner.path(key),
        }
    }

    async fn remove_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        match self.fault {
            BlobFault::WholeIsDamaged => self.inner.delete(key).await,
            BlobFault::DamagedIsWhole => Ok(false),
            _ => self.inner.remove_damaged(key, digest).await,
        }
    }

    async fn set_aside(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        match self.fault {
            BlobFault::WholeIsDamaged => self.inner.delete(key).await,
            BlobFault::DamagedIsWhole => Ok(false),
            _ => self.inner.set_aside(key, digest).await,
        }
    }

    async fn forget_set_aside(&self, before: SystemTime) -> Result<u64> {
        self.inner.forget_set_aside(before).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<bool> {
        match self.fault {
            BlobFault::DeleteKeeps => Ok(true),
            BlobFault::DeleteTellsNothing => self.inner.delete(key).await.map(|_| true),
            BlobFault::DeletedComeBack => Ok(self.hidden.lock().unwrap().insert(key.clone())),
            _ => self.inner.delete(key).await,
        }
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
        let mut page = match self.fault {
            BlobFault::ListRepeats => self.inner.list(None, limit).await?,
            _ => self.inner.list(after, limit).await?,
        };
        if self.fault == BlobFault::ListMisses && !page.more {
            page.items.pop();
        }
        page.items.retain(|stored| !self.is_hidden(&stored.key));
        Ok(page)
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let inner = match self.inner.stage(id).await {
            Err(e) if e.kind() == ErrorKind::Conflict && self.fault == BlobFault::SecondWriter => {
                self.inner.stage(&UploadId::random()?).await?
            }
            outcome => outcome?,
        };
        let (id, fault, unsaved) = (id.clone(), self.fault, self.unsaved.clone());
        Ok(Box::new(StagingMutant { inner, id, fault, unsaved }))
    }

    async fn staged(&self) -> Result<Vec<UploadId>> {
        self.inner.staged().await
    }

    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>> {
        match self.fault {
            BlobFault::NoLeftovers => Ok(Vec::new()),
            _ => self.inner.leftovers(before).await,
        }
    }
}

#[derive(Debug)]
struct StagingMutant {
    inner: Box<dyn BlobStaging>,
    id: UploadId,
    fault: BlobFault,
    unsaved: Arc<Mutex<HashMap<UploadId, Vec<Bytes>>>>,
}

#[async_trait]
impl BlobStaging for StagingMutant {
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        self.inner.restore(state, algorithm).await?;
        if self.fault == BlobFault::UnsavedStay {
            let unsaved = self.unsaved.lock().unwrap().remove(&self.id).unwrap_or_default();
            for bytes in unsaved {
                self.inner.append(bytes).await?;
            }
        }
        Ok(())
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.unsaved.lock().unwrap().entry(self.id.clone()).or_default().push(bytes.clone());
        self.inner.append(bytes).await
    }

    async fn save(&mut self) -> Result<StagedState> {
        self.unsaved.lock().unwrap().remove(&self.id);
        self.inner.save().await
    }

    async fn verify(&mut self, digest: &Digest) -> Result<Verified> {
        match self.inner.verify(digest).await {
            Err(_) if self.fault == BlobFault::NoDigestCheck => Ok(Verified::by_digest(digest, 0)),
            outcome => outcome,
        }
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        match self.inner.commit(digest).await {
            Err(_) if self.fault == BlobFault::NoVerify => Ok(()),
            outcome => outcome,
        }
    }

    async fn discard(&mut self) -> Result<()> {
        match self.fault {
            BlobFault::DiscardKeeps => Ok(()),
            _ => self.inner.discard().await,
        }
    }
}
