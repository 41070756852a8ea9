//! Links of blobs, their leases, and the wait for a collector that removes a blob which is pushed.

use super::{Composed, LEASE, descriptor};
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::blob::{BlobBackend, BlobKey};
use crate::store::errors::{being_removed, blob_unknown, is_being_removed};
use crate::store::meta::{Change, MetaBackend};
use crate::{Digest, Result};
use std::time::{Duration, Instant};

/// How long a push waits for the collector that is removing its blob, and how often it asks.
const REMOVAL_WAIT: Duration = Duration::from_secs(60);
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// The end of a lease is rounded up to a multiple of this, so that repeated pushes of a blob cause few writes.
const LEASE_STEP: i64 = 10 * 60;

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// Links a blob. Waits while a garbage collector is removing it, or ends the removal of a dead one.
    pub(super) async fn link(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size: u64,
        key: BlobKey,
        upload: Option<UploadId>,
    ) -> Result<Descriptor> {
        let change = Change::LinkBlob {
            repository: repository.clone(),
            digest: digest.clone(),
            size,
            key,
            upload,
            leased_until: self.leased_until(),
        };
        let waits_until = Instant::now() + REMOVAL_WAIT;
        let mut right = None;
        loop {
            match self.0.meta.write(change.clone()).await {
                // The removal may have ended since, so the state of the blob does not tell.
                Err(e) if is_being_removed(&e) => {}
                outcome => return outcome.map(|_| descriptor(digest, size)),
            }
            if Instant::now() >= waits_until {
                return Err(being_removed(digest));
            }
            // The collector may have been killed. No other collector marks the blob again before this push is done, as
            // it keeps the right to delete.
            if right.is_none() {
                right = self.0.blobs.deletion_right().await?;
            }
            match right {
                Some(_) => self.end_removal(digest).await?,
                None => tokio::time::sleep(REMOVAL_PAUSE).await,
            }
        }
    }

    /// Waits until no collector removes a blob that it has marked, or ends the removal of a dead one.
    ///
    /// # Errors
    /// That of [`being_removed`] when it takes too long.
    #[cfg(feature = "store-sql")]
    pub(in crate::store) async fn wait_for_removal(&self, digest: &Digest) -> Result<()> {
        let waits_until = Instant::now() + REMOVAL_WAIT;
        loop {
            let records = self.0.meta.blobs(std::slice::from_ref(digest)).await?;
            if records.iter().flatten().all(|record| record.condemned.is_none()) {
                return Ok(());
            }
            if Instant::now() >= waits_until {
                return Err(being_removed(digest));
            }
            match self.0.blobs.deletion_right().await? {
                Some(_right) => self.end_removal(digest).await?,
                None => tokio::time::sleep(REMOVAL_PAUSE).await,
            }
        }
    }

    /// The end of the lease of a new link.
    pub(super) fn leased_until(&self) -> i64 {
        let end = self.1.now().saturating_add(LEASE);
        end.saturating_add(LEASE_STEP - 1).div_euclid(LEASE_STEP).saturating_mul(LEASE_STEP)
    }

    /// Gives the link of a blob the lease of a new one, if its own ends more than `slack` seconds before.
    pub(super) async fn lease(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        slack: i64,
    ) -> Result<u64> {
        let leased = self.0.meta.leased_blob(repository, digest).await?;
        let (record, end) = leased.ok_or_else(|| blob_unknown(repository, digest))?;
        self.check_bytes(repository, &record).await?;
        let (size, until) = (record.size, self.leased_until());
        if self.0.meta.writable() && end < until - slack {
            let (repository, digest) = (repository.clone(), digest.clone());
            self.0.meta.write(Change::LeaseBlob { repository, digest, until }).await?;
        }
        Ok(size)
    }
}
