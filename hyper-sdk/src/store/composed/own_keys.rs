//! Blobs whose bytes have a [`BlobKey::Own`].
//!
//! The row of an existing blob names other bytes, which clients read. So the new bytes are committed before the row
//! names them. At every moment, and after every failure, the row names bytes that exist.

use super::Composed;
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::blob::{BlobBackend, BlobKey, StagedState, Verified};
use crate::store::meta::MetaBackend;
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// Stores a blob in memory through a staging area without a session.
    pub(super) async fn put_staged(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        mut content: impl Stream<Item = Result<Bytes>> + Unpin + Send,
    ) -> Result<Descriptor> {
        let mut staging = self.0.blobs.stage(&UploadId::random()?).await?;
        let stored = async {
            staging.restore(&StagedState::default(), digest.algorithm()).await?;
            while let Some(bytes) = content.try_next().await? {
                staging.append(bytes).await?;
            }
            let verified = staging.verify(digest).await?;
            staging.commit(digest).await.map(|()| verified)
        };
        match stored.await {
            Ok(verified) => {
                let descriptor = self.link_committed(repository, digest, verified, None).await?;
                if let Err(error) = staging.discard().await {
                    tracing::debug!(%error, %digest, "what an upload leaves is removed later");
                }
                Ok(descriptor)
            }
            // Nothing was linked, so nothing names the bytes.
            Err(e) => {
                if let Err(error) = staging.discard().await {
                    tracing::debug!(%error, %digest, "staged bytes could not be removed and expire later");
                }
                Err(e)
            }
        }
    }

    /// Links a blob whose bytes are committed. When the database rejects the link, the bytes are removed; after any
    /// other error they stay, because the link may have been stored.
    pub(super) async fn link_committed(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        Verified { size, key }: Verified,
        upload: Option<UploadId>,
    ) -> Result<Descriptor> {
        let linked = self.link(repository, digest, size, key.clone(), upload).await;
        let refused = [ErrorKind::StorageFull, ErrorKind::UploadUnknown, ErrorKind::Conflict];
        if linked.as_ref().is_err_and(|e| refused.contains(&e.kind()))
            && matches!(key, BlobKey::Own(_))
            && !self.0.meta.has_key(&key).await.unwrap_or(true)
            && let Err(error) = self.0.blobs.delete(&key).await
        {
            tracing::debug!(%error, %key, "the bytes of a blob that was not linked could not be removed");
        }
        linked
    }
}
