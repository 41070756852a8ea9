//! Removes abandoned uploads.

use super::Composed;
use crate::clock::{Clock as _, SystemClock};
use crate::store::UploadId;
use crate::store::blob::BlobBackend;
use crate::store::meta::{Change, MetaBackend};
use crate::{Error, ErrorKind, Result};
use std::time::{Duration, SystemTime};

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::expire_uploads`]. An upload that cannot be removed does not prevent the
    /// removal of others: the first error is returned after all uploads were tried.
    pub(super) async fn expire(&self, age: Duration) -> Result<u64> {
        let before = self.1.now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let (mut expired, mut failed) = (0, None);
        for id in self.0.meta.stale_uploads(before).await? {
            match self.expire_upload(id, before).await {
                Ok(gone) => expired += u64::from(gone),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        for id in self.0.blobs.staged().await? {
            if let Err(e) = self.drop_unsaved(&id).await {
                failed = failed.or(Some(e));
            }
        }
        if let Some(written) = self.file_time().and_then(|now| now.checked_sub(age)) {
            for id in self.0.blobs.leftovers(written).await? {
                // A session is recorded before its bytes are written, so bytes without a session are leftovers.
                if self.0.meta.upload(&id).await?.is_some() {
                    continue;
                }
                match self.expire_upload(id, before).await {
                    Ok(gone) => expired += u64::from(gone),
                    Err(e) => failed = failed.or(Some(e)),
                }
            }
        }
        failed.map_or(Ok(expired), Err)
    }

    /// The time of the store's clock, with the precision of file times.
    pub(super) fn file_time(&self) -> Option<SystemTime> {
        let ahead = self.1.now().saturating_sub(SystemClock.now());
        let seconds = Duration::from_secs(ahead.unsigned_abs());
        let now = SystemTime::now();
        if ahead < 0 { now.checked_sub(seconds) } else { now.checked_add(seconds) }
    }

    /// Removes the bytes of a session that was never saved and has no writer: no client can resume it.
    async fn drop_unsaved(&self, id: &UploadId) -> Result<()> {
        let is_saved =
            async || Ok::<_, Error>(self.0.meta.upload(id).await?.is_some_and(|u| u.state.offset > 0));
        if is_saved().await? {
            return Ok(());
        }
        match self.0.blobs.stage(id).await {
            Ok(mut staging) if !is_saved().await? => staging.discard().await,
            Err(e) if !matches!(e.kind(), ErrorKind::Conflict | ErrorKind::UploadUnknown) => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes one session if its staging area has no writer and it was not saved after `before`. Returns whether it
    /// was removed.
    async fn expire_upload(&self, id: UploadId, before: i64) -> Result<bool> {
        let mut staging = match self.0.blobs.stage(&id).await {
            Ok(staging) => staging,
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::UploadUnknown) => return Ok(false),
            Err(e) => return Err(e),
        };
        let expire = || self.0.meta.write(Change::ExpireUpload { id: id.clone(), before });
        match expire().await {
            Ok(0) => staging.discard().await.map(|()| true),
            Ok(_) => Ok(false),
            // The row cannot be deleted while the disk is full, so the bytes are deleted first. No writer can save in
            // the meantime, because the area is held.
            // Where bytes have keys of their own, a writer in another process would not be known.
            Err(e)
                if e.kind() == ErrorKind::StorageFull
                    && !self.0.blobs.has_own_keys()
                    && self.is_stale(&id, before).await? =>
            {
                staging.discard().await?;
                expire().await.map(|_| true)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a session has ended, or was not saved after `before`.
    pub(super) async fn is_stale(&self, id: &UploadId, before: i64) -> Result<bool> {
        Ok(self.0.meta.stale_uploads(before).await?.contains(id) || self.0.meta.upload(id).await?.is_none())
    }
}
