//! Blobs whose bytes have a [`BlobKey::Own`].
//!
//! The row of an existing blob names other bytes, which clients read. So the new bytes are committed before the row
//! names them. At every moment, and after every failure, the row names bytes that exist.

use super::{Composed, descriptor};
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::blob::{BlobBackend, BlobKey, BlobStaging, StagedState, Verified};
use crate::store::meta::{Change, MetaBackend};
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
            Ok(verified) => self.link_committed(repository, digest, verified, None, None, staging).await,
            // Nothing was linked, so nothing names the bytes.
            Err(e) => {
                discard(staging.as_mut(), digest).await;
                Err(e)
            }
        }
    }

    /// Links a blob whose bytes are committed, and ends its upload.
    ///
    /// The bytes are removed when no row names them and none can: they have no session, or their session has ended. After
    /// any other error they stay, because the link may have been stored, or another server may be about to store it.
    pub(super) async fn link_committed(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        Verified { size, key }: Verified,
        upload: Option<UploadId>,
        writer: Option<String>,
        mut staging: Box<dyn BlobStaging>,
    ) -> Result<Descriptor> {
        let linked = self.link(repository, digest, size, key.clone(), upload.clone()).await;
        let is_over = match linked.as_ref().map_err(crate::Error::kind) {
            Ok(_) => {
                discard(staging.as_mut(), digest).await;
                return linked;
            }
            Err(ErrorKind::UploadUnknown) => true,
            // The space of the upload is needed, or a quota refuses the blob.
            Err(ErrorKind::StorageFull | ErrorKind::Conflict | ErrorKind::Denied) => match upload.clone() {
                Some(id) => self.0.meta.write(Change::EndUpload { id, writer }).await.is_ok(),
                None => true,
            },
            Err(_) => false,
        };
        if is_over {
            if matches!(key, BlobKey::Own(_))
                && !self.may_be_read(digest, &key, staging.seal().is_some()).await
                && let Err(error) = self.0.blobs.delete(&key).await
            {
                tracing::debug!(%error, %key, "the bytes of a blob that was not linked could not be removed");
            }
            discard(staging.as_mut(), digest).await;
        }
        match linked {
            // Another server has ended the upload with the same content, which is as good.
            Err(e) if upload.is_some() && e.kind() == ErrorKind::UploadUnknown => {
                match self.lease(repository, digest, 0).await {
                    Ok(size) => Ok(descriptor(digest, size)),
                    Err(there) if there.kind() == ErrorKind::BlobUnknown => Err(e),
                    Err(failed) => Err(failed),
                }
            }
            other => other,
        }
    }

    /// Whether a reader may have found the key in a row, or find it there. When others could finish the upload, and the blob has
    /// a row with another key, the row may have had this one before: another server had linked it, and the blob was pushed
    /// again. A collector removes it later.
    async fn may_be_read(&self, digest: &Digest, key: &BlobKey, is_shared: bool) -> bool {
        let rows = async {
            let has_row = is_shared && self.0.meta.blobs(std::slice::from_ref(digest)).await? != [None];
            Ok::<_, crate::Error>(has_row || self.is_named(key).await?)
        };
        rows.await.unwrap_or(true)
    }
}

/// Removes what an area keeps beside committed bytes.
async fn discard(staging: &mut dyn BlobStaging, digest: &Digest) {
    if let Err(error) = staging.discard().await {
        tracing::debug!(%error, %digest, "what an upload leaves is removed later");
    }
}
