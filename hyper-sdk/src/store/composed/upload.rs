//! The handle of an upload session.

use super::claim::{Claim, held};
use super::{Backends, Composed, descriptor};
use crate::oci::Descriptor;
use crate::store::blob::{BlobBackend, BlobStaging, Verified};
use crate::store::errors::{
    digest_mismatch, interrupted, is_other_content, is_parts_missing, is_quota_exceeded, staging_lost,
    upload_moved, upload_unknown,
};
use crate::store::meta::{Change, MetaBackend, UploadRecord};
use crate::store::{BlobUpload, UploadId};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;

/// So many seconds after the last change of a session nobody is finishing it any more, and parts that are missing are lost.
const FINISHING: i64 = 10 * 60;

#[derive(Debug)]
pub(super) struct Upload<B, M> {
    store: Composed<B, M>,
    record: UploadRecord,
    offset: u64,
    /// How many bytes a quota allows it at most; read when the staging area is opened.
    most: Option<u64>,
    staging: Option<Box<dyn BlobStaging>>,
    claim: Option<Claim>,
    /// Whether a request that failed may still write a part.
    is_unsure: bool,
}

impl<B: BlobBackend, M: MetaBackend> Upload<B, M> {
    /// A handle on a session at the offset of its record.
    pub(super) fn new(store: Composed<B, M>, record: UploadRecord) -> Self {
        Self {
            store,
            offset: record.state.offset,
            record,
            most: None,
            staging: None,
            claim: None,
            is_unsure: false,
        }
    }

    /// The staging area; opens it if this handle does not hold it yet.
    async fn staging(&mut self) -> Result<&mut Box<dyn BlobStaging>> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => {
                self.most = self.store.0.meta.largest_upload(&self.record.repository).await?;
                self.open().await?
            }
        };
        Ok(self.staging.insert(staging))
    }

    /// Only a writer that holds the area may read the saved state, because the state cannot change while the area is
    /// held.
    async fn open(&self) -> Result<Box<dyn BlobStaging>> {
        let Backends { blobs, meta, .. } = &*self.store.0;
        let id = &self.record.id;
        let mut staging = blobs.stage(id).await?;
        let Some(saved) = meta.upload(id).await? else {
            // The session has ended, so this area is new and not needed.
            staging.discard().await?;
            return Err(upload_unknown(id));
        };
        if saved.state.offset != self.offset {
            return Err(upload_moved(self.offset, saved.state.offset));
        }
        match staging.restore(&saved.state, self.record.algorithm).await {
            Ok(()) => Ok(staging),
            Err(e) => {
                if e.kind() != ErrorKind::UploadUnknown {
                    return Err(e);
                }
                // A writer in another process may have saved twice since, and removed what the first state needs.
                match meta.upload(id).await? {
                    Some(now) if now.state != saved.state => {
                        return Err(upload_moved(self.offset, now.state.offset));
                    }
                    _ => self.drop_quietly(staging).await,
                }
                Err(e)
            }
        }
    }

    /// Ends the session after an error. What cannot be removed now expires later.
    async fn drop_quietly(&self, staging: Box<dyn BlobStaging>) {
        if let Err(error) = self.store.drop_upload(&self.record.id, staging, self.writer()).await {
            tracing::debug!(%error, upload = %self.record.id, "an upload could not be removed and expires later");
        }
    }

    /// The name by which this handle has claimed the session.
    fn writer(&self) -> Option<String> {
        self.claim.as_ref().filter(|claim| claim.was_had()).map(Claim::writer)
    }

    /// Claims the session for this handle.
    async fn claim(&mut self) -> Result<()> {
        let claim = match &mut self.claim {
            Some(claim) => claim,
            none => none.insert(Claim::new(&self.record.id, self.record.state.offset, self.store.0.claim)?),
        };
        claim.get(&self.store.0.meta).await
    }

    /// Seals the session for this writer, where several can finish it. Returns whether another one has ended it with the same
    /// content, which is as good.
    async fn seal(&mut self, digest: &Digest) -> Result<bool> {
        let Some(content) = self.staging().await?.seal() else { return Ok(false) };
        if let Err(e) = self.claim().await {
            return match e.kind() {
                ErrorKind::UploadUnknown if content == *digest => Ok(true),
                _ => Err(e),
            };
        }
        // Content that is wrong for sure must not keep the right one from the session.
        if content.algorithm() == digest.algorithm() && content != *digest {
            return Err(digest_mismatch(digest, &content));
        }
        let (id, from, meta) = (self.record.id.clone(), self.record.state.offset, &self.store.0.meta);
        let writer = self.writer().unwrap_or_default();
        let change = Change::SealUpload { id: id.clone(), from, writer, content: content.clone() };
        let sealed = meta.write(change).await;
        if let Err(e) = &sealed
            && e.kind() == ErrorKind::UploadUnknown
            && content == *digest
            && meta.upload(&id).await?.is_none()
        {
            return Ok(true);
        }
        // The session of another writer is not ended for the sake of this one.
        self.unless_full(sealed).await.map(|_| false)
    }

    /// Returns an outcome, in which parts that have been missing for so long that nobody is finishing the upload are lost.
    async fn unless_lost<T>(&self, outcome: Result<T>) -> Result<T> {
        let missing = match outcome {
            Err(e) if is_parts_missing(&e) => e,
            other => return other,
        };
        let before = self.store.1.now().saturating_sub(FINISHING);
        match self.store.is_stale(&self.record.id, before).await {
            Ok(true) => Err(staging_lost().with_source(missing)),
            _ => Err(missing),
        }
    }

    /// Returns an outcome, and ends the session when its content has another digest.
    async fn unless_wrong<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::DigestInvalid)
            && let Some(staging) = self.staging.take()
        {
            self.drop_quietly(staging).await;
        }
        outcome
    }

    /// Lets others claim the session.
    async fn release(&mut self) {
        if let Some(claim) = self.claim.take() {
            claim.release(&self.store.0.meta).await;
        }
    }

    /// Returns an outcome, and ends the session when the storage is full and its space is needed.
    async fn unless_full<T>(&mut self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Err(e) if e.kind() == ErrorKind::StorageFull => self.unless_over(outcome).await,
            _ => outcome,
        }
    }

    /// Returns an outcome, and removes the staged bytes when nobody can resume: another request has ended the session,
    /// or the disk is full and its space is needed, or a quota refuses the blob.
    async fn unless_over<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let Err(e) = &outcome
            && (matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::UploadUnknown) || is_quota_exceeded(e))
            && !is_other_content(e)
            && let Some(staging) = self.staging.take()
        {
            self.drop_quietly(staging).await;
        }
        outcome
    }

    /// See [`BlobUpload::finish`].
    async fn end(&mut self, digest: &Digest) -> Result<Descriptor> {
        let sealed = self.seal(digest).await;
        if self.unless_wrong(sealed).await? {
            return match self.store.lease(&self.record.repository, digest, 0).await {
                Ok(size) => Ok(descriptor(digest, size)),
                Err(e) if e.kind() == ErrorKind::BlobUnknown => Err(upload_unknown(&self.record.id)),
                Err(e) => Err(e),
            };
        }
        self.staging().await?;
        let verified = match &mut self.staging {
            Some(staging) => held(&mut self.claim, &self.store.0.meta, staging.verify(digest)).await,
            None => Err(interrupted()),
        };
        self.is_unsure = verified.as_ref().is_err_and(may_have_written);
        let verified = self.unless_lost(verified).await;
        let verified = self.unless_wrong(verified).await;
        let verified = self.unless_over(verified).await?;
        let ended = Some(self.record.id.clone());
        if self.store.0.blobs.has_own_keys() {
            self.staging().await?;
            let committed = match &mut self.staging {
                Some(staging) => held(&mut self.claim, &self.store.0.meta, staging.commit(digest)).await,
                None => Err(interrupted()),
            };
            self.is_unsure = committed.as_ref().is_err_and(may_have_written);
            let committed = self.unless_lost(committed).await;
            self.unless_over(committed).await?;
            let staging = self.staging.take().ok_or_else(interrupted)?;
            return self
                .store
                .link_committed(&self.record.repository, digest, verified, ended, self.writer(), staging)
                .await;
        }
        let Verified { size, key } = verified;
        let linked = self.store.link(&self.record.repository, digest, size, key, ended).await;
        let descriptor = self.unless_over(linked).await?;
        let placed = self.staging().await?.commit(digest).await;
        if placed.is_err()
            && let Some(staging) = self.staging.take()
        {
            // The link has ended the session, so no client can resume with these bytes.
            self.drop_quietly(staging).await;
        }
        placed?;
        Ok(descriptor)
    }
}

/// Whether a request that failed may still write a part.
fn may_have_written(error: &Error) -> bool {
    error.kind() != ErrorKind::DigestInvalid && !is_parts_missing(error)
}

#[async_trait]
impl<B: BlobBackend, M: MetaBackend> BlobUpload for Upload<B, M> {
    fn id(&self) -> &UploadId {
        &self.record.id
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        let length = bytes.len() as u64;
        if self.staging.as_ref().is_some_and(|staging| staging.keeps_others_waiting()) {
            self.save().await?;
        }
        let is_shared = self.staging().await?.needs_claim(length);
        if let Some(most) = self.most {
            let size = self.offset.saturating_add(length);
            let checked = self.store.check_upload(&self.record.repository, most, size).await;
            self.unless_over(checked).await?;
        }
        if is_shared {
            let claimed = self.claim().await;
            self.unless_over(claimed).await?;
        }
        self.staging().await?;
        let appended = match &mut self.staging {
            Some(staging) => held(&mut self.claim, &self.store.0.meta, staging.append(bytes)).await,
            None => Err(interrupted()),
        };
        self.is_unsure |= is_shared && appended.is_err();
        let appended = self.unless_lost(appended).await;
        self.unless_over(appended).await?;
        self.offset += length;
        Ok(())
    }

    async fn save(&mut self) -> Result<()> {
        let Some(staging) = &mut self.staging else { return Ok(()) };
        let saved = staging.save().await;
        let state = self.unless_over(saved).await?;
        let (id, from, writer) = (self.record.id.clone(), self.record.state.offset, self.writer());
        let keeps_claim = self.is_unsure;
        let change = Change::SaveUpload { id, from, state: state.clone(), writer, keeps_claim };
        let saved = self.store.0.meta.write(change).await;
        self.unless_over(saved).await?;
        self.record.state = state;
        (self.staging, self.claim) = (None, None);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, digest: &Digest) -> Result<Descriptor> {
        let ended = self.end(digest).await;
        if ended.is_err() && !self.is_unsure {
            self.release().await;
        }
        ended
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => self.store.0.blobs.stage(&self.record.id).await?,
        };
        self.store.drop_upload(&self.record.id, staging, self.writer()).await
    }
}
