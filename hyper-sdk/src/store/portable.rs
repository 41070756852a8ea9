//! Stores whose content can be carried to another one.

use super::blob::{BlobBackend, BlobKey, StagedState};
use super::errors::{bytes_damaged, digest_mismatch};
use super::meta::{Ancestor, BlobRow, Change, MetaBackend as _, Row, RowCounts, SqlMeta};
use super::{ByteStream, Composed, UploadId};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use std::fmt::{Debug, Display};
use tokio::sync::mpsc::{Receiver, Sender};

/// A blob of this size is put in one piece.
const SMALL: u64 = 1 << 20;

/// A store that can be backed up, restored and moved: every one with its metadata in an [`SqlMeta`], and any other that
/// implements this.
///
/// `Display` shows the kind and the location of the store.
///
/// ```
/// use hyper_sdk::store::{DiskStore, Portable, RegistryStoreExt as _};
/// use hyper_sdk::RepositoryName;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// let store = DiskStore::open(folder.path().join("registry")).await?;
/// let name = RepositoryName::parse("team/app")?;
/// store.put_bytes(&name, "text/plain", "hello".into()).await?;
/// let (sender, mut rows) = tokio::sync::mpsc::channel(8);
/// store.export(sender).await?;
/// // A blob, a repository, and the link between them.
/// assert_eq!(rows.recv().await.map_or(0, |page| page.len()), 1);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Portable: Display + Debug + Send + Sync + 'static {
    /// The name by which backups know the registry: random, and the same as long as the store lives.
    async fn registry_name(&self) -> Result<String>;

    /// The registries of which this one was made, the oldest first.
    async fn ancestors(&self) -> Result<Vec<Ancestor>>;

    /// Sends all rows of one moment, in the order of [`RowKind`](super::meta::RowKind); [`Row::Damaged`] names a row that is not
    /// valid. Changes go on meanwhile.
    async fn export(&self, rows: Sender<Vec<Row>>) -> Result<()>;

    /// Takes, renews or (with 0 seconds) ends a hold: until its end the bytes of every blob that [`Portable::export`] lists stay,
    /// whatever is deleted and collected. Returns `false` when a hold to be renewed had ended before. A store that this process
    /// cannot write is not held, and warns of it.
    async fn hold_bytes(&self, holder: u64, seconds: i64, renews: bool) -> Result<bool>;

    /// The bytes of a blob, whichever repositories have it. They may be damaged: the caller checks them.
    ///
    /// # Errors
    /// [`ErrorKind::BlobUnknown`] or [`ErrorKind::Corrupt`], directly or within the stream, when the bytes are missing, cut short
    /// or quarantined.
    async fn read_bytes(&self, blob: &BlobRow) -> Result<ByteStream>;

    /// Begins to fill the store, which must be empty, or goes on where another restore was interrupted. `holder` is a number
    /// that no other restore uses; `source` says to people what fills it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the store has content, another process has it open, or a move goes on from another source.
    async fn begin_restore(&self, holder: u64, source: &str) -> Result<()>;

    /// Which of these blobs [`Portable::add_bytes`] has stored already.
    async fn has_bytes(&self, blobs: &[BlobRow]) -> Result<Vec<bool>>;

    /// Stores the bytes of a blob, as durably as the store stores any, while the restore of this holder is the last one and goes on. Dropped, it leaves nothing that counts.
    ///
    /// # Errors
    /// [`ErrorKind::DigestInvalid`] when they do not match the digest; the first error of the stream.
    async fn add_bytes(&self, holder: u64, blob: &BlobRow, content: ByteStream) -> Result<()>;

    /// Adds all rows but those of blobs, whose bytes are there, and makes the store whole: both at once, or not at all. A
    /// [`Row::Blob`] is one whose bytes are missing, and that counts as damaged until it is pushed. `ancestors` are the registries of
    /// which the store is made.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another restore began since; [`ErrorKind::Corrupt`] when the rows are not as many as `counts`
    /// says, or one names what is not there.
    async fn finish_restore(
        &self,
        holder: u64,
        rows: &mut Receiver<Vec<Row>>,
        counts: &RowCounts,
        ancestors: &[Ancestor],
    ) -> Result<()>;
}

/// All bytes of a stream, which are no more than `size`.
async fn collect(mut content: ByteStream, size: u64) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(part) = content.try_next().await? {
        if (bytes.len() + part.len()) as u64 > size {
            return Err(Error::new(ErrorKind::DigestInvalid, "a blob is longer than its row says"));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.freeze())
}

impl<B: BlobBackend> Composed<B, SqlMeta> {
    /// Stores bytes in the blob backend alone, and returns their key.
    async fn store_bytes(&self, blob: &BlobRow, mut content: ByteStream) -> Result<BlobKey> {
        let BlobRow { digest, size, .. } = blob;
        if *size <= SMALL && !self.blobs().has_own_keys() {
            let bytes = collect(content, *size).await?;
            let got = digest.algorithm().digest(&bytes);
            if got != *digest {
                return Err(digest_mismatch(digest, &got));
            }
            self.blobs().put(digest, bytes).await?;
            return Ok(BlobKey::Digest(digest.clone()));
        }
        let mut staging = self.blobs().stage(&UploadId::random()?).await?;
        let stored = async {
            staging.restore(&StagedState::default(), digest.algorithm()).await?;
            while let Some(part) = content.try_next().await? {
                staging.append(part).await?;
            }
            let verified = staging.verify(digest).await?;
            staging.commit(digest).await?;
            match verified.size == *size {
                true => Ok(verified.key),
                false => {
                    Err(Error::new(ErrorKind::DigestInvalid, "a blob has another size than its row says")
                        .with_context("digest", digest))
                }
            }
        };
        let stored = stored.await;
        if let Err(error) = staging.discard().await {
            tracing::debug!(%error, %digest, "what an upload leaves is removed later");
        }
        stored
    }
}

#[async_trait]
impl<B: BlobBackend> Portable for Composed<B, SqlMeta> {
    async fn registry_name(&self) -> Result<String> {
        self.meta().registry_name().await
    }

    async fn ancestors(&self) -> Result<Vec<Ancestor>> {
        self.meta().ancestors().await
    }

    async fn export(&self, rows: Sender<Vec<Row>>) -> Result<()> {
        self.meta().export_rows(rows).await
    }

    async fn hold_bytes(&self, holder: u64, seconds: i64, renews: bool) -> Result<bool> {
        if !self.meta().writable() {
            if seconds > 0 && !renews {
                tracing::warn!(
                    "the store is read-only here, so its blobs are not held: a server that writes to it elsewhere may collect \
                     some before they are copied"
                );
            }
            return Ok(true);
        }
        Ok(self.meta().write(Change::HoldBytes { holder, seconds, renews }).await? == 1)
    }

    async fn read_bytes(&self, blob: &BlobRow) -> Result<ByteStream> {
        let records = self.meta().blobs(std::slice::from_ref(&blob.digest)).await?;
        let unknown = || {
            Error::new(ErrorKind::BlobUnknown, "the store does not have the blob any more")
                .with_context("digest", &blob.digest)
        };
        let record = records.into_iter().flatten().next().ok_or_else(unknown)?;
        if record.quarantined {
            return Err(bytes_damaged(&blob.digest).with_kind(ErrorKind::Corrupt));
        }
        self.blobs().read(&record.key, record.size, 0, record.size).await
    }

    async fn begin_restore(&self, holder: u64, source: &str) -> Result<()> {
        self.meta().begin_restore(holder, source).await
    }

    async fn has_bytes(&self, blobs: &[BlobRow]) -> Result<Vec<bool>> {
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest.clone()).collect();
        let mut records = self.meta().blobs(&digests).await?;
        for record in &mut records {
            // What is damaged, and what a collector removes, does not count.
            record.take_if(|record| record.quarantined || record.condemned.is_some());
        }
        let keys: Vec<BlobKey> = records.iter().flatten().map(|record| record.key.clone()).collect();
        let mut sizes = self.blobs().sizes(&keys).await?.into_iter();
        let is_there = |(blob, record): (&BlobRow, &Option<_>)| {
            record.is_some() && sizes.next().flatten() == Some(blob.size)
        };
        Ok(blobs.iter().zip(&records).map(is_there).collect())
    }

    async fn add_bytes(&self, holder: u64, blob: &BlobRow, content: ByteStream) -> Result<()> {
        // A collector that marked the blob before the restore began would delete what is stored now. None marks one since.
        self.wait_for_removal(&blob.digest).await?;
        let key = self.store_bytes(blob, content).await?;
        self.meta().add_blob(holder, blob, &key).await
    }

    async fn finish_restore(
        &self,
        holder: u64,
        rows: &mut Receiver<Vec<Row>>,
        counts: &RowCounts,
        ancestors: &[Ancestor],
    ) -> Result<()> {
        let own_keys = self.blobs().has_own_keys();
        self.meta().finish_restore(holder, rows, counts, ancestors, own_keys).await
    }
}
