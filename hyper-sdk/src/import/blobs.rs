//! One blob: it is there, linked from another repository of the target, or copied.

use super::importer::Import;
use super::report::{ImportEvent, add};
use super::target::{ImportTarget, Stop, at_target};
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::{BlobReader, SharedStore, UploadOptions};
use crate::{Digest, Error, ErrorKind};
use bytes::BytesMut;
use futures::TryStreamExt as _;

/// Up to this size a blob is stored in one call.
const AT_ONCE: u64 = 1 << 20;
/// How many blobs a dry run remembers to have counted.
const COUNTED: usize = 1_000_000;

impl Import {
    /// Makes sure that a repository of the target has a blob.
    ///
    /// # Errors
    /// [`ErrorKind::BlobUnknown`] when the source does not have it; [`ErrorKind::SizeInvalid`] and
    /// [`ErrorKind::DigestInvalid`] when its bytes are not those that the manifest names.
    pub(super) async fn bring_blob(
        &self,
        repository: &RepositoryName,
        blob: &Descriptor,
    ) -> Result<(), Stop> {
        let digest = &blob.digest;
        if self.target.has_blob(repository, digest).await? {
            return Ok(());
        }
        // The source must have it in this very repository: what others have is not for everybody to read.
        let size = self.source.stat_blob(repository, digest).await?;
        if size != blob.size {
            return Err(Error::new(ErrorKind::SizeInvalid, "a blob has another size than its manifest says")
                .with_context("digest", digest)
                .with_context("expected", blob.size)
                .with_context("got", size)
                .into());
        }
        let _permit = self.blob_permits.acquire().await;
        let _turn = self.blob_turns.take(digest.clone()).await;
        // Another image may have brought it meanwhile.
        if self.target.has_blob(repository, digest).await? {
            return Ok(());
        }
        if self.target.link_blob(repository, digest).await? {
            add(&self.counts.blobs_linked, 1);
            return Ok(());
        }
        match &self.target {
            ImportTarget::Store(store) => {
                let reader = self.source.blob(repository, digest).await?;
                self.copy(store, repository, blob, reader).await?;
            }
            ImportTarget::DryRun(_) if !self.count_once(digest) => return Ok(()),
            ImportTarget::DryRun(_) => {}
        }
        add(&self.counts.blobs, 1);
        add(&self.counts.bytes, size);
        Ok(())
    }

    /// Whether a dry run has not counted the blob yet.
    fn count_once(&self, digest: &Digest) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if counted.len() >= COUNTED {
            return !counted.contains(digest);
        }
        counted.insert(digest.clone())
    }

    async fn copy(
        &self,
        store: &SharedStore,
        repository: &RepositoryName,
        blob: &Descriptor,
        mut reader: BlobReader,
    ) -> Result<(), Stop> {
        let digest = &blob.digest;
        let changed = || {
            Error::new(ErrorKind::SizeInvalid, "the source has another number of bytes than it said")
                .with_context("digest", digest)
        };
        if reader.size != blob.size {
            return Err(changed().into());
        }
        if blob.size <= AT_ONCE {
            let mut whole = BytesMut::with_capacity(blob.size as usize);
            while let Some(bytes) = reader.stream.try_next().await? {
                if (whole.len() + bytes.len()) as u64 > blob.size {
                    return Err(changed().into());
                }
                whole.extend_from_slice(&bytes);
            }
            self.tell_copied(whole.len() as u64);
            store.put_blob(repository, digest, whole.freeze()).await.map_err(named(digest))?;
            return Ok(());
        }
        let options = UploadOptions { algorithm: Some(digest.algorithm()), digest: Some(digest.clone()) };
        let mut upload = store.start_upload(repository, options).await.map_err(at_target)?;
        let outcome = loop {
            match reader.stream.try_next().await {
                Ok(None) => break Ok(()),
                Err(e) => break Err(Stop::Image(e)),
                Ok(Some(bytes)) => {
                    let length = bytes.len() as u64;
                    if upload.offset() + length > blob.size {
                        break Err(Stop::Image(changed()));
                    }
                    if let Err(e) = upload.append(bytes).await {
                        break Err(at_target(e));
                    }
                    self.tell_copied(length);
                }
            }
        };
        if let Err(stop) = outcome {
            // The first error is the one to report.
            let _ = upload.abort().await;
            return Err(stop);
        }
        upload.finish(digest).await.map_err(named(digest)).map(drop)
    }

    fn tell_copied(&self, bytes: u64) {
        self.tell(&ImportEvent::Copied { bytes });
    }
}

/// An error of the target about a blob, with its digest.
fn named(digest: &Digest) -> impl Fn(Error) -> Stop {
    let digest = digest.clone();
    move |e| {
        at_target(match e.kind() {
            ErrorKind::DigestInvalid => {
                Error::new(ErrorKind::DigestInvalid, "the bytes of a blob do not match its digest")
                    .with_context("digest", &digest)
            }
            _ => e,
        })
    }
}
