//! The staging area of an upload: its parts are in the file already, and a commit says that they are a blob.

use crate::blocking;
use crate::log::{Content, Log, now};
use crate::record::Record;
use async_trait::async_trait;
use bytes::Bytes;
use hyper_sdk::digest::{Algorithm, Hasher};
use hyper_sdk::store::UploadId;
use hyper_sdk::store::blob::{BlobStaging, StagedState, Verified};
use hyper_sdk::store::errors::{digest_mismatch, not_verified, staging_lost};
use hyper_sdk::{Digest, Result};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct LogStaging {
    log: Arc<Log>,
    id: UploadId,
    hasher: Hasher,
    verified: Option<Digest>,
}

impl LogStaging {
    /// The area of an upload that its opener has marked as busy.
    pub(crate) fn new(log: Arc<Log>, id: UploadId) -> Self {
        Self { log, id, hasher: Hasher::sha256(), verified: None }
    }

    fn content(&self) -> Result<Content> {
        self.log.index().uploads.get(&self.id).cloned().ok_or_else(staging_lost)
    }

    async fn append_durably(&self, record: Record) -> Result<()> {
        let log = Arc::clone(&self.log);
        blocking(move || log.append_durably(record, &[][..])).await
    }
}

impl Drop for LogStaging {
    fn drop(&mut self) {
        let mut index = self.log.index();
        match index.uploads.get_mut(&self.id) {
            Some(content) if content.extents.is_empty() => drop(index.uploads.remove(&self.id)),
            Some(content) => content.busy = false,
            None => {}
        }
    }
}

#[async_trait]
impl BlobStaging for LogStaging {
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        self.hasher = if state.offset == 0 { algorithm.hasher() } else { Hasher::restore(&state.hash)? };
        let staged = self.content()?.size();
        if staged < state.offset {
            return Err(staging_lost());
        }
        if staged > state.offset {
            let cut = Record::Cut { upload: self.id.clone(), size: state.offset };
            self.append_durably(cut).await?;
        }
        Ok(())
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.verified = None;
        if bytes.is_empty() {
            return Ok(());
        }
        let record = Record::Part { upload: self.id.clone(), size: bytes.len() as u64, time: now() };
        let (log, part) = (Arc::clone(&self.log), bytes.clone());
        blocking(move || log.append(record, &part[..])).await?;
        self.hasher.update(&bytes);
        Ok(())
    }

    async fn save(&mut self) -> Result<StagedState> {
        let log = Arc::clone(&self.log);
        blocking(move || log.sync()).await?;
        let offset = self.content()?.size();
        Ok(StagedState { offset, hash: self.hasher.save(), ..StagedState::default() })
    }

    async fn verify(&mut self, digest: &Digest) -> Result<Verified> {
        let (log, content, wanted) = (Arc::clone(&self.log), self.content()?, digest.clone());
        let size = content.size();
        let running = self.hasher.clone();
        let got = blocking(move || {
            log.sync()?;
            match wanted.algorithm() == running.algorithm() {
                true => Ok(running.finish()),
                false => log.hash(&content, wanted.algorithm(), &wanted),
            }
        })
        .await?;
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        self.verified = Some(got);
        Ok(Verified::by_digest(digest, size))
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        if self.verified.as_ref() != Some(digest) {
            return Err(not_verified());
        }
        let record = Record::Commit { upload: self.id.clone(), digest: digest.clone(), time: now() };
        self.append_durably(record).await
    }

    async fn discard(&mut self) -> Result<()> {
        self.append_durably(Record::Drop { upload: self.id.clone() }).await
    }
}
