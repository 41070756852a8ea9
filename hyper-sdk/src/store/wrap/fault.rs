//! Fault injection: backends that fail on purpose, for tests of the state after an error.
//!
//! The faults are injected below [`Composed`](crate::store::Composed), where disks and databases fail: each call of a
//! backend or staging method is one operation, counted across both backends by one [`FaultPlan`]. A failing operation
//! has done nothing or, with [`FaultPlan::after_the_operation`], everything (only its result is lost); a failing append
//! has taken half of its bytes.

use crate::breaker::Breaker;
use crate::clock::SharedClock;
use crate::digest::Algorithm;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::blob::{
    BlobBackend, BlobKey, BlobStaging, DeletionRight, StagedState, StoredBytes, Verified,
};
use crate::store::meta::{
    BlobLink, BlobRecord, Change, Deletion, ManifestAt, MetaBackend, ScrubPlace, TagRecord, UnkeptManifest,
    UploadRecord,
};
use crate::store::{ByteStream, Listing, QuotaCheck, QuotaRules, QuotaUse, SharedEventLog, UploadId};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Decides which operation fails. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan(Arc<Plan>);

#[derive(Debug, Default)]
struct Plan {
    count: AtomicU64,
    fails_at: AtomicU64,
    after: AtomicBool,
    /// The change that is refused once.
    refused: Mutex<Option<(ErrorKind, IsRefused)>>,
}

/// Whether a change is the one that is refused.
type IsRefused = fn(&Change) -> bool;

impl FaultPlan {
    /// A plan without a fault.
    pub fn none() -> Self {
        Self::default()
    }

    /// Fails the `k`-th operation from now, counted from 1, and no other.
    pub fn fail_at(&self, k: u64) {
        self.0.count.store(0, Ordering::SeqCst);
        self.0.fails_at.store(k, Ordering::SeqCst);
    }

    /// Whether the failing operation is completed before its error is returned.
    pub fn after_the_operation(&self, after: bool) {
        self.0.after.store(after, Ordering::SeqCst);
    }

    /// Whether the planned fault was injected.
    pub fn has_failed(&self) -> bool {
        let fails_at = self.0.fails_at.load(Ordering::SeqCst);
        fails_at != 0 && self.0.count.load(Ordering::SeqCst) >= fails_at
    }

    /// Refuses the next change of this sort with an error of this kind, as a database on a full disk does.
    pub fn refuse(&self, kind: ErrorKind, is_refused: fn(&Change) -> bool) {
        *self.0.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, is_refused));
    }

    /// How many operations there were since the beginning, or since the last [`Self::fail_at`], which sets it to zero.
    pub fn operations(&self) -> u64 {
        self.0.count.load(Ordering::SeqCst)
    }

    fn refusal(&self, change: &Change) -> Option<Error> {
        let mut refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, _) = refused.take_if(|(_, is_refused)| is_refused(change))?;
        Some(Error::new(kind, "a fault was injected"))
    }

    fn fails_now(&self) -> bool {
        let at = self.0.count.fetch_add(1, Ordering::SeqCst) + 1;
        at == self.0.fails_at.load(Ordering::SeqCst)
    }

    async fn run<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.fails_now() {
            return operation.await;
        }
        if self.0.after.load(Ordering::SeqCst) {
            operation.await?;
        }
        Err(injected())
    }
}

fn injected() -> Error {
    Error::new(ErrorKind::Io, "a fault was injected")
}

/// A blob backend that fails as planned.
#[derive(Debug)]
pub struct FaultyBlobs<B>(B, FaultPlan);

impl<B> FaultyBlobs<B> {
    /// Wraps a backend.
    pub fn new(inner: B, plan: FaultPlan) -> Self {
        Self(inner, plan)
    }
}

impl<B: BlobBackend> fmt::Display for FaultyBlobs<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.0)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<B: BlobBackend> BlobBackend for FaultyBlobs<B> {
    fn durable(&self) -> bool {
        self.0.durable()
    }

    fn has_own_keys(&self) -> bool {
        self.0.has_own_keys()
    }

    fn breaker(&self) -> Option<Breaker> {
        self.0.breaker()
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        self.1.run(self.0.put(digest, bytes)).await
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        self.1.run(self.0.adopt(digest, path)).await
    }

    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        self.1.run(self.0.read(key, size, offset, length)).await
    }

    async fn staged(&self) -> Result<Vec<UploadId>> {
        self.0.staged().await
    }

    async fn deletion_right(&self) -> Result<Option<DeletionRight>> {
        self.1.run(self.0.deletion_right()).await
    }

    async fn remove_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        self.0.remove_damaged(key, digest).await
    }

    async fn set_aside(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        self.1.run(self.0.set_aside(key, digest)).await
    }

    async fn forget_set_aside(&self, before: SystemTime) -> Result<u64> {
        self.1.run(self.0.forget_set_aside(before)).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<bool> {
        self.1.run(self.0.delete(key)).await
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
        self.1.run(self.0.list(after, limit)).await
    }

    fn path(&self, key: &BlobKey) -> Option<PathBuf> {
        self.0.path(key)
    }

    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>> {
        self.1.run(self.0.sizes(keys)).await
    }

    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>> {
        self.1.run(self.0.leftovers(before)).await
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let inner = self.1.run(self.0.stage(id)).await?;
        Ok(Box::new(FaultyStaging { inner, plan: self.1.clone() }))
    }
}

#[derive(Debug)]
struct FaultyStaging {
    inner: Box<dyn BlobStaging>,
    plan: FaultPlan,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobStaging for FaultyStaging {
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        self.plan.run(self.inner.restore(state, algorithm)).await
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        if self.plan.fails_now() {
            let half = bytes.slice(..bytes.len() / 2);
            self.inner.append(half).await?;
            return Err(injected());
        }
        self.inner.append(bytes).await
    }

    async fn save(&mut self) -> Result<StagedState> {
        self.plan.run(self.inner.save()).await
    }

    fn seal(&self) -> Option<Digest> {
        self.inner.seal()
    }

    fn needs_claim(&self, appended: u64) -> bool {
        self.inner.needs_claim(appended)
    }

    fn keeps_others_waiting(&self) -> bool {
        self.inner.keeps_others_waiting()
    }

    async fn verify(&mut self, digest: &Digest) -> Result<Verified> {
        self.plan.run(self.inner.verify(digest)).await
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        self.plan.run(self.inner.commit(digest)).await
    }

    async fn discard(&mut self) -> Result<()> {
        self.plan.run(self.inner.discard()).await
    }
}

/// A metadata backend that fails as planned.
#[derive(Debug)]
pub struct FaultyMeta<M>(M, FaultPlan);

impl<M> FaultyMeta<M> {
    /// Wraps a backend.
    pub fn new(inner: M, plan: FaultPlan) -> Self {
        Self(inner, plan)
    }
}

impl<M: MetaBackend> fmt::Display for FaultyMeta<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.0)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: MetaBackend> MetaBackend for FaultyMeta<M> {
    fn durable(&self) -> bool {
        self.0.durable()
    }

    fn writable(&self) -> bool {
        self.0.writable()
    }

    fn version(&self) -> Option<u64> {
        self.0.version()
    }

    async fn fetch_version(&self) -> Option<u64> {
        self.0.fetch_version().await
    }

    fn breaker(&self) -> Option<Breaker> {
        self.0.breaker()
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn fetch_time(&self) -> Result<i64> {
        self.1.run(self.0.fetch_time()).await
    }

    async fn has_manifests(
        &self,
        repository: &RepositoryName,
        references: &[ManifestReference],
    ) -> Result<Vec<bool>> {
        self.1.run(self.0.has_manifests(repository, references)).await
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        self.0.event_log()
    }

    fn has_quotas(&self) -> bool {
        self.0.has_quotas()
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        self.0.set_quotas(rules)
    }

    async fn largest_upload(&self, repository: &RepositoryName) -> Result<Option<u64>> {
        self.1.run(self.0.largest_upload(repository)).await
    }

    async fn is_counting(&self) -> Result<bool> {
        self.1.run(self.0.is_counting()).await
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        self.1.run(self.0.quota_use()).await
    }

    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        self.1.run(self.0.check_quotas(repair)).await
    }

    async fn write(&self, change: Change) -> Result<u64> {
        if let Some(refusal) = self.1.refusal(&change) {
            return Err(refusal);
        }
        self.1.run(self.0.write(change)).await
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobRecord>> {
        self.1.run(self.0.blob(repository, digest)).await
    }

    async fn leased_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(BlobRecord, i64)>> {
        self.1.run(self.0.leased_blob(repository, digest)).await
    }

    async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        self.1.run(self.0.blobs(digests)).await
    }

    async fn repositories_with(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>> {
        self.1.run(self.0.repositories_with(digest, after, limit)).await
    }

    async fn unreferenced_links(
        &self,
        now: i64,
        after: Option<&BlobLink>,
        limit: usize,
    ) -> Result<Vec<BlobLink>> {
        self.1.run(self.0.unreferenced_links(now, after, limit)).await
    }

    async fn unkept_manifests(
        &self,
        before: i64,
        after: Option<&ManifestAt>,
        limit: usize,
    ) -> Result<Vec<UnkeptManifest>> {
        self.1.run(self.0.unkept_manifests(before, after, limit)).await
    }

    async fn unlinked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        self.1.run(self.0.unlinked_blobs(after, limit)).await
    }

    async fn linked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        self.1.run(self.0.linked_blobs(after, limit)).await
    }

    async fn manifests_with(&self, digest: &Digest, limit: usize) -> Result<Vec<ManifestAt>> {
        self.1.run(self.0.manifests_with(digest, limit)).await
    }

    fn set_undelete_window(&self, seconds: i64) -> Result<()> {
        self.0.set_undelete_window(seconds)
    }

    async fn deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        self.1.run(self.0.deletions(repository, after, limit)).await
    }

    async fn deletion_of(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Deletion>> {
        self.1.run(self.0.deletion_of(repository, tag)).await
    }

    async fn deleted_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>> {
        self.1.run(self.0.deleted_manifest(repository, digest)).await
    }

    async fn last_retention(&self) -> Result<Option<i64>> {
        self.1.run(self.0.last_retention()).await
    }

    async fn pulls_noted_since(&self) -> Result<Option<i64>> {
        self.1.run(self.0.pulls_noted_since()).await
    }

    async fn scrub_place(&self) -> Result<ScrubPlace> {
        self.1.run(self.0.scrub_place()).await
    }

    async fn bytes_held(&self) -> Result<bool> {
        self.1.run(self.0.bytes_held()).await
    }

    async fn has_keys(&self, keys: &[BlobKey]) -> Result<Vec<bool>> {
        self.1.run(self.0.has_keys(keys)).await
    }

    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Option<Manifest>> {
        self.1.run(self.0.manifest(repository, reference)).await
    }

    async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<Tag>>> {
        self.1.run(self.0.tags(repository, after, limit)).await
    }

    async fn tag_records(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<TagRecord>>> {
        self.1.run(self.0.tag_records(repository, after, limit)).await
    }

    async fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Listing<RepositoryName>> {
        self.1.run(self.0.repositories(after, limit)).await
    }

    async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.1.run(self.0.referrers(repository, subject, artifact_type)).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<UploadRecord>> {
        self.1.run(self.0.upload(id)).await
    }

    async fn stale_uploads(&self, before: i64) -> Result<Vec<UploadId>> {
        self.1.run(self.0.stale_uploads(before)).await
    }
}
