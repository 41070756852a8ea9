//! The semantics of a registry store, implemented once for every pair of backends.
//!
//! # Invariants
//! - A blob is in a repository when its link exists *and* the blob backend has as many bytes as its row says. Otherwise
//!   the blob counts as missing, so clients push it again, which repairs the file and the row.
//! - The bytes of a blob are checked first, then the blob is linked, then its bytes are committed: when the database
//!   cannot be written, the bytes still belong to an upload and are removed with it. Only bytes with a
//!   [`BlobKey::Own`](super::blob::BlobKey::Own) are committed first, because the row names other bytes until it is
//!   updated.
//! - The references of a manifest are checked in the transaction that stores the manifest and moves its tags, so no
//!   deletion can happen in between.
//! - One upload has one writer: the staging area is held from the first [`BlobUpload::append`] until the next
//!   [`BlobUpload::save`] or the end of the handle, and a writer first compares its offset with the saved offset.
//!
//! # Limits
//! Bytes whose last link was deleted stay in the blob backend. They cannot be read, but use space until
//! [`RegistryStore::collect`] removes them. Abandoned sessions are removed when they are old
//! ([`RegistryStore::expire_uploads`]).

mod claim;
mod collect;
mod edges;
mod expiry;
mod links;
mod own_keys;
mod pulls;
mod quotas;
mod retain;
mod scrub;
mod undelete;
mod upload;

pub(super) use self::edges::edges;
use self::upload::Upload;
use super::blob::{BlobBackend, BlobKey, BlobStaging, StagedState};
use super::errors::{
    blob_unknown, bytes_lost, digest_mismatch, manifest_unknown, repository_unknown, upload_unknown,
};
use super::meta::{BlobRecord, Change, Deletion, ManifestChange, MetaBackend, TagRecord, UploadRecord};
use super::{
    BlobReader, BlobUpload, ByteRange, CollectOptions, Collected, DeleteTarget, Listing, Page, PullNote,
    PutManifest, QuotaCheck, QuotaRules, QuotaUse, RegistryStore, RetainOptions, Retained, ScrubOptions,
    Scrubbed, SharedEventLog, StoreCapabilities, TagGuard, Undelete, UploadId, UploadOptions,
};
use crate::clock::SharedClock;
use crate::digest::Algorithm;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// The default and the largest number of entries in a page.
const MAX_PAGE: usize = 10_000;

/// The media type of a finished upload, because a store does not know the use of a blob.
const BLOB_MEDIA_TYPE: &str = "application/octet-stream";

/// How long a new link is kept without a manifest that references the blob, in seconds.
pub(crate) const LEASE: i64 = 24 * 60 * 60;

/// Larger content is hashed on a blocking thread.
const HASH_INLINE: usize = 256 * 1024;

/// A registry store of a blob backend and a metadata backend. Clones share both.
///
/// ```
/// use hyper_sdk::store::blob::MemoryBlobs;
/// use hyper_sdk::store::meta::MemoryMeta;
/// use hyper_sdk::store::{Composed, SharedStore};
/// use std::sync::Arc;
///
/// let store: SharedStore = Arc::new(Composed::new(MemoryBlobs::default(), MemoryMeta::default()));
/// ```
#[derive(Debug)]
pub struct Composed<B, M>(Arc<Backends<B, M>>, SharedClock);

#[derive(Debug)]
struct Backends<B, M> {
    blobs: B,
    meta: M,
    /// For how many seconds a writer claims a session.
    claim: i64,
    /// The age at which bytes that no row names are nobody's.
    unnamed_age: Duration,
}

impl<B, M> Clone for Composed<B, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), Arc::clone(&self.1))
    }
}

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// A store of these two backends.
    pub fn new(blobs: B, meta: M) -> Self {
        let clock = meta.clock();
        Self(
            Arc::new(Backends { blobs, meta, claim: claim::SECONDS, unnamed_age: collect::UNNAMED_AGE }),
            clock,
        )
    }

    /// Sets the clock by which leases end and uploads expire. The default is the clock of the metadata backend, by which it
    /// records the times of writes in any case.
    #[must_use]
    pub fn with_clock(self, clock: SharedClock) -> Self {
        Self(self.0, clock)
    }

    /// Lets claims end after this time. That of writers without one ends at once, as if they had stopped for long.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn claiming(mut self, seconds: i64) -> Self {
        if let Some(backends) = Arc::get_mut(&mut self.0) {
            backends.claim = seconds;
        }
        self
    }

    /// Lets a collector remove bytes that no row names however new they are.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn collecting_at_once(mut self) -> Self {
        if let Some(backends) = Arc::get_mut(&mut self.0) {
            backends.unnamed_age = Duration::ZERO;
        }
        self
    }

    /// The blob backend.
    pub fn blobs(&self) -> &B {
        &self.0.blobs
    }

    /// The metadata backend.
    pub fn meta(&self) -> &M {
        &self.0.meta
    }

    /// The row of a blob, even when its bytes are missing.
    async fn record(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobRecord> {
        self.0.meta.blob(repository, digest).await?.ok_or_else(|| blob_unknown(repository, digest))
    }

    /// Fails when the bytes of a blob are missing or have another size than its row.
    async fn check_bytes(&self, repository: &RepositoryName, record: &BlobRecord) -> Result<()> {
        match self.0.blobs.sizes(std::slice::from_ref(&record.key)).await?.as_slice() {
            [Some(there)] if *there == record.size => Ok(()),
            _ => Err(bytes_lost(repository, &record.digest)),
        }
    }

    /// The keys of the bytes of these blobs in the blob backend.
    async fn keys(&self, digests: Vec<Digest>) -> Result<Vec<BlobKey>> {
        if !self.0.blobs.has_own_keys() {
            return Ok(digests.into_iter().map(BlobKey::Digest).collect());
        }
        let records = self.0.meta.blobs(&digests).await?;
        let key = |(digest, record): (Digest, Option<BlobRecord>)| {
            record.map_or(BlobKey::Digest(digest), |record| record.key)
        };
        Ok(digests.into_iter().zip(records).map(key).collect())
    }

    /// The change that stores a manifest.
    async fn manifest_change(&self, repository: &RepositoryName, put: PutManifest) -> Result<ManifestChange> {
        let mut edges = edges(&put.manifest)?;
        let keys = self.keys(edges.iter().map(|edge| edge.digest.clone()).collect()).await?;
        let stored = self.0.blobs.sizes(&keys).await?;
        for (edge, stored) in edges.iter_mut().zip(stored) {
            edge.stored = stored;
            edge.required &= !put.sparse;
        }
        Ok(ManifestChange {
            repository: repository.clone(),
            edges,
            manifest: put.manifest,
            tags: put.tags,
            if_match: put.if_match,
            undeletes: false,
            entries: Vec::new(),
            guard: put.guard,
        })
    }

    /// Rejects a write to a read-only store first, before a read fails with a different error.
    fn writable(&self) -> Result<()> {
        match self.0.meta.writable() {
            true => Ok(()),
            false => Err(Error::unsupported("the store is read-only")),
        }
    }

    /// Ends a session whose staging area is held by a writer.
    async fn drop_upload(
        &self,
        id: &UploadId,
        mut staging: Box<dyn BlobStaging>,
        writer: Option<String>,
    ) -> Result<()> {
        let end = Change::EndUpload { id: id.clone(), writer };
        if self.0.blobs.has_own_keys() {
            // Another server may be about to link the bytes: it cannot once the session has ended.
            self.0.meta.write(end).await?;
            return staging.discard().await;
        }
        // The bytes first, because the database may need their space.
        let discarded = staging.discard().await;
        self.0.meta.write(end).await?;
        discarded
    }
}

impl<B: BlobBackend, M: MetaBackend> Display for Composed<B, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blobs, meta) = (self.0.blobs.to_string(), self.0.meta.to_string());
        if blobs == meta { f.write_str(&blobs) } else { write!(f, "{blobs} with {meta}") }
    }
}

/// A finished upload.
fn descriptor(digest: &Digest, size: u64) -> Descriptor {
    Descriptor::new(BLOB_MEDIA_TYPE, digest.clone(), size)
}

async fn digest_of(algorithm: Algorithm, bytes: &Bytes) -> Result<Digest> {
    if bytes.len() <= HASH_INLINE {
        return Ok(algorithm.digest(bytes));
    }
    let bytes = bytes.clone();
    tokio::task::spawn_blocking(move || algorithm.digest(&bytes))
        .await
        .map_err(|e| Error::internal("the hashing thread ended early").with_source(e))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<B: BlobBackend, M: MetaBackend> RegistryStore for Composed<B, M> {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            durable: self.0.blobs.durable() && self.0.meta.durable(),
            quotas: self.0.meta.writable() && self.0.meta.has_quotas(),
            ..if self.0.meta.writable() { StoreCapabilities::ALL } else { StoreCapabilities::READ_ONLY }
        }
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let record = self.record(repository, digest).await?;
        self.check_bytes(repository, &record).await?;
        Ok(record.size)
    }

    async fn lease_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        // Half of the time is left at least, and most requests write nothing.
        match self.lease(repository, digest, LEASE / 2).await {
            Err(e) if e.kind() == ErrorKind::StorageFull => self.stat_blob(repository, digest).await,
            other => other,
        }
    }

    async fn renew_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.lease(repository, digest, 0).await
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let BlobRecord { size, key, .. } = self.record(repository, digest).await?;
        let (offset, length) = range.map_or(Ok((0, size)), |range| range.resolve(size))?;
        let stream = self.0.blobs.read(&key, size, offset, length).await.map_err(|e| match e.kind() {
            ErrorKind::Corrupt => {
                tracing::warn!(%repository, %digest, "a blob is missing or cut short in the store");
                bytes_lost(repository, digest).with_source(e)
            }
            _ => e,
        })?;
        // The error needs the digest of the blob, by which the blob can be repaired.
        let stream = match key {
            BlobKey::Digest(_) => stream,
            BlobKey::Own(_) => {
                let digest = digest.clone();
                stream.map_err(move |e| e.with_context("digest", &digest)).boxed()
            }
        };
        Ok(BlobReader { size, offset, length, stream })
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let (repository, digest) = (repository.clone(), digest.clone());
        self.0.meta.write(Change::UnlinkBlob { repository, digest }).await.map(drop)
    }

    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<u64> {
        self.writable()?;
        self.stat_blob(from, digest).await?;
        let (repository, digest, from) = (repository.clone(), digest.clone(), from.clone());
        let leased_until = self.leased_until();
        self.0.meta.write(Change::MountBlob { repository, digest, from, leased_until }).await
    }

    async fn start_upload(
        &self,
        repository: &RepositoryName,
        options: UploadOptions,
    ) -> Result<Box<dyn BlobUpload>> {
        let record = UploadRecord {
            id: UploadId::random()?,
            repository: repository.clone(),
            algorithm: options.algorithm.unwrap_or(Algorithm::Sha256),
            state: StagedState::default(),
        };
        let change = Change::StartUpload { record: record.clone(), resends: options.digest };
        self.0.meta.write(change).await?;
        Ok(Box::new(Upload::new(self.clone(), record)))
    }

    async fn resume_upload(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<dyn BlobUpload>> {
        self.writable()?;
        let record = self.0.meta.upload(id).await?.filter(|record| record.repository == *repository);
        let record = record.ok_or_else(|| upload_unknown(id))?;
        Ok(Box::new(Upload::new(self.clone(), record)))
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        let manifest = self.0.meta.manifest(repository, reference).await?;
        manifest.ok_or_else(|| manifest_unknown(repository, reference))
    }

    async fn put_manifest(&self, repository: &RepositoryName, put: PutManifest) -> Result<Descriptor> {
        let descriptor = put.manifest.descriptor();
        let change = self.manifest_change(repository, put).await?;
        self.0.meta.write(Change::PutManifest(Box::new(change))).await?;
        Ok(descriptor)
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        let repository = repository.clone();
        let change = match reference.clone() {
            ManifestReference::Tag(tag) => Change::DeleteTag { repository, tag },
            ManifestReference::Digest(digest) => Change::DeleteManifest { repository, digest },
        };
        self.0.meta.write(change).await.map(drop)
    }

    async fn delete_guarded(
        &self,
        repository: &RepositoryName,
        target: DeleteTarget,
        guard: TagGuard,
    ) -> Result<()> {
        let repository = repository.clone();
        self.0.meta.write(Change::DeleteGuarded { repository, target, guard }).await.map(drop)
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let tags = self.0.meta.tags(repository, page.after.as_deref(), limit).await?;
        tags.ok_or_else(|| repository_unknown(repository))
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        self.0.meta.repositories(page.after.as_deref(), limit).await
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.0.meta.referrers(repository, digest, artifact_type).await
    }

    async fn repositories_with(&self, digest: &Digest, page: Page) -> Result<Listing<RepositoryName>> {
        let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        self.0.meta.repositories_with(digest, page.after.as_deref(), limit).await
    }

    fn version(&self) -> Option<u64> {
        self.0.meta.version()
    }

    fn breakers(&self) -> Vec<crate::breaker::Breaker> {
        self.0.blobs.breaker().into_iter().chain(self.0.meta.breaker()).collect()
    }

    async fn fetch_version(&self) -> Option<u64> {
        self.0.meta.fetch_version().await
    }

    async fn put_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let got = digest_of(digest.algorithm(), &bytes).await?;
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        if self.0.blobs.has_own_keys() {
            let content = futures::stream::once(std::future::ready(Ok(bytes)));
            return self.put_staged(repository, digest, content).await;
        }
        let key = BlobKey::Digest(digest.clone());
        let descriptor = self.link(repository, digest, bytes.len() as u64, key, None).await?;
        self.0.blobs.put(digest, bytes).await?;
        Ok(descriptor)
    }

    async fn put_blob_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        path: &Path,
    ) -> Result<Descriptor> {
        let meta = tokio::fs::symlink_metadata(path).await.at("cannot open the file of the blob", path)?;
        // Otherwise the row of an existing blob would get the size of the link or the folder.
        if !meta.is_file() {
            return Err(
                Error::invalid("only a regular file can become a blob").with_context("path", path.display())
            );
        }
        if self.0.blobs.has_own_keys() {
            let file = tokio::fs::File::open(path).await.at("cannot open the file of the blob", path)?;
            let content = ReaderStream::with_capacity(file, 1 << 20);
            let content = content.map(|part| part.at("cannot read the file of the blob", path));
            let descriptor = self.put_staged(repository, digest, content).await?;
            tokio::fs::remove_file(path).await.at("cannot remove the file of the blob", path)?;
            return Ok(descriptor);
        }
        let key = BlobKey::Digest(digest.clone());
        let descriptor = self.link(repository, digest, meta.len(), key, None).await?;
        self.0.blobs.adopt(digest, path).await?;
        Ok(descriptor)
    }

    async fn remove_damaged(&self, digest: &Digest) -> Result<bool> {
        for key in self.keys(vec![digest.clone()]).await? {
            if self.0.blobs.remove_damaged(&key, digest).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        let record = self.record(repository, digest).await?;
        self.check_bytes(repository, &record).await?;
        Ok(self.0.blobs.path(&record.key))
    }

    async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        self.expire(age).await
    }

    async fn collect(&self, options: CollectOptions) -> Result<Collected> {
        self.collect_garbage(&options).await
    }

    async fn retain(&self, options: RetainOptions) -> Result<Retained> {
        self.retain_tags(&options).await
    }

    async fn note_pulls(&self, pulls: Vec<PullNote>, lost: bool) -> Result<()> {
        self.write_pulls(pulls, lost).await
    }

    async fn list_tag_records(&self, repository: &RepositoryName, page: Page) -> Result<Listing<TagRecord>> {
        let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let tags = self.0.meta.tag_records(repository, page.after.as_deref(), limit).await?;
        tags.ok_or_else(|| repository_unknown(repository))
    }

    fn set_undelete_window(&self, window: Duration) -> Result<()> {
        let seconds = window.as_secs().saturating_add(u64::from(window.subsec_nanos() > 0));
        self.0.meta.set_undelete_window(i64::try_from(seconds).unwrap_or(i64::MAX))
    }

    async fn list_deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        self.0.meta.deletions(repository, after, limit.min(MAX_PAGE)).await
    }

    async fn undelete(&self, repository: &RepositoryName, undelete: Undelete) -> Result<Descriptor> {
        self.undelete_kept(repository, undelete).await
    }

    async fn purge_deleted(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.purge_kept(repository, digest).await
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        self.0.meta.event_log()
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        if !rules.is_empty() {
            self.writable()?;
        }
        self.0.meta.set_quotas(rules)
    }

    async fn count_quotas(&self) -> Result<()> {
        self.count_namespaces().await
    }

    async fn is_counting(&self) -> Result<bool> {
        self.0.meta.is_counting().await
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        self.0.meta.quota_use().await
    }

    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        self.0.meta.check_quotas(repair).await
    }

    async fn scrub(&self, options: ScrubOptions) -> Result<Scrubbed> {
        self.scrub_blobs(&options).await
    }

    async fn scrub_blob(&self, digest: &Digest) -> Result<bool> {
        self.scrub_suspect(digest).await
    }
}
