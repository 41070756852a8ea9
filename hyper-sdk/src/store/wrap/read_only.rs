//! A read-only view of a store.

use crate::breaker::Breaker;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::errors::read_only;
use crate::store::meta::{Deletion, TagRecord};
use crate::store::{
    BlobReader, BlobUpload, ByteRange, CollectOptions, Collected, ConsumerHold, DeleteTarget, Event,
    EventConsumer, EventLimits, EventLog, EventPage, EventRules, EventStart, Listing, Page, PullNote,
    PutManifest, QuotaCheck, QuotaRules, QuotaUse, RegistryStore, RetainOptions, Retained, ScrubOptions,
    Scrubbed, SharedEventLog, SharedStore, StoreCapabilities, TagGuard, Undelete, UploadId, UploadOptions,
};
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Forwards reads and rejects every write with [`crate::ErrorKind::Unsupported`].
///
/// ```
/// use hyper_sdk::store::wrap::ReadOnly;
/// use hyper_sdk::store::{MemoryStore, RegistryStoreExt as _};
/// use hyper_sdk::{ErrorKind, RepositoryName};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let store = ReadOnly::new(Arc::new(MemoryStore::default()));
/// let name = RepositoryName::parse("team/app")?;
/// let refused = store.put_bytes(&name, "text/plain", "hello".into()).await;
/// assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReadOnly(SharedStore);

impl ReadOnly {
    /// Wraps a store.
    pub fn new(store: SharedStore) -> Self {
        Self(store)
    }
}

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (read-only)", self.0)
    }
}

fn rejected<T>(what: &str) -> Result<T> {
    Err(read_only(what))
}

// A new method of the trait must be implemented here too, instead of using its default.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RegistryStore for ReadOnly {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities { durable: self.0.capabilities().durable, ..StoreCapabilities::READ_ONLY }
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.0.stat_blob(repository, digest).await
    }

    async fn lease_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.0.stat_blob(repository, digest).await
    }

    async fn renew_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.0.stat_blob(repository, digest).await
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        self.0.get_blob(repository, digest, range).await
    }

    async fn delete_blob(&self, _: &RepositoryName, _: &Digest) -> Result<()> {
        rejected("delete a blob")
    }

    async fn mount_blob(&self, _: &RepositoryName, _: &Digest, _: &RepositoryName) -> Result<u64> {
        rejected("mount a blob")
    }

    async fn start_upload(&self, _: &RepositoryName, _: UploadOptions) -> Result<Box<dyn BlobUpload>> {
        rejected("start an upload")
    }

    async fn resume_upload(&self, _: &RepositoryName, _: &UploadId) -> Result<Box<dyn BlobUpload>> {
        rejected("start an upload")
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        self.0.get_manifest(repository, reference).await
    }

    async fn put_manifest(&self, _: &RepositoryName, _: PutManifest) -> Result<Descriptor> {
        rejected("store a manifest")
    }

    async fn delete_manifest(&self, _: &RepositoryName, _: &ManifestReference) -> Result<()> {
        rejected("delete a manifest")
    }

    async fn delete_guarded(&self, _: &RepositoryName, target: DeleteTarget, _: TagGuard) -> Result<()> {
        match target {
            DeleteTarget::Manifest(_) => rejected("delete a manifest"),
            DeleteTarget::Blob(_) => rejected("delete a blob"),
        }
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.0.list_tags(repository, page).await
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        self.0.list_repositories(page).await
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.0.list_referrers(repository, digest, artifact_type).await
    }

    async fn repositories_with(&self, digest: &Digest, page: Page) -> Result<Listing<RepositoryName>> {
        self.0.repositories_with(digest, page).await
    }

    fn version(&self) -> Option<u64> {
        self.0.version()
    }

    fn breakers(&self) -> Vec<Breaker> {
        self.0.breakers()
    }

    async fn fetch_version(&self) -> Option<u64> {
        self.0.fetch_version().await
    }

    async fn put_blob(&self, _: &RepositoryName, _: &Digest, _: Bytes) -> Result<Descriptor> {
        rejected("store a blob")
    }

    async fn put_blob_file(&self, _: &RepositoryName, _: &Digest, _: &Path) -> Result<Descriptor> {
        rejected("store a blob")
    }

    async fn remove_damaged(&self, _: &Digest) -> Result<bool> {
        rejected("remove a damaged blob")
    }

    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.0.blob_path(repository, digest).await
    }

    async fn expire_uploads(&self, _: Duration) -> Result<u64> {
        rejected("remove uploads")
    }

    async fn collect(&self, _: CollectOptions) -> Result<Collected> {
        rejected("remove what nothing uses")
    }

    async fn retain(&self, options: RetainOptions) -> Result<Retained> {
        match options.dry_run {
            true => self.0.retain(options).await,
            false => rejected("delete tags"),
        }
    }

    async fn note_pulls(&self, _: Vec<PullNote>, _: bool) -> Result<()> {
        rejected("note pulls")
    }

    async fn list_tag_records(&self, repository: &RepositoryName, page: Page) -> Result<Listing<TagRecord>> {
        self.0.list_tag_records(repository, page).await
    }

    fn set_undelete_window(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    async fn list_deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        self.0.list_deletions(repository, after, limit).await
    }

    async fn undelete(&self, _: &RepositoryName, _: Undelete) -> Result<Descriptor> {
        rejected("undelete a manifest")
    }

    async fn purge_deleted(&self, _: &RepositoryName, _: &Digest) -> Result<()> {
        rejected("purge a deleted manifest")
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        self.0.event_log().map(|log| Arc::new(ReadOnlyLog(log)) as SharedEventLog)
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        match rules.is_empty() {
            true => Ok(()),
            false => rejected("enforce quotas"),
        }
    }

    async fn count_quotas(&self) -> Result<()> {
        rejected("count what namespaces use")
    }

    async fn is_counting(&self) -> Result<bool> {
        self.0.is_counting().await
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        self.0.quota_use().await
    }

    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        match repair {
            true => rejected("repair counts"),
            false => self.0.check_quotas(false).await,
        }
    }

    async fn scrub(&self, options: ScrubOptions) -> Result<Scrubbed> {
        match options.quarantine || options.turn.is_some() {
            true => rejected("quarantine blobs"),
            false => self.0.scrub(options).await,
        }
    }

    async fn scrub_blob(&self, _: &Digest) -> Result<bool> {
        rejected("quarantine a blob")
    }
}

/// The events of a store, which can be read.
#[derive(Debug)]
struct ReadOnlyLog(SharedEventLog);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl EventLog for ReadOnlyLog {
    /// Nothing is changed here, so there is nothing to record.
    fn record(&self, _: Option<EventRules>) {}

    async fn read(&self, start: &EventStart, limit: usize) -> Result<EventPage> {
        self.0.read(start, limit).await
    }

    async fn tag_history(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Listing<Event>> {
        self.0.tag_history(repository, tag, before, limit).await
    }

    async fn prune(&self, _: EventLimits) -> Result<u64> {
        rejected("remove events")
    }

    async fn consumers(&self) -> Result<Vec<EventConsumer>> {
        self.0.consumers().await
    }

    async fn begin(&self, _: &str) -> Result<bool> {
        rejected("begin a consumer")
    }

    async fn hold(&self, _: ConsumerHold) -> Result<Option<EventConsumer>> {
        rejected("record the place of a consumer")
    }

    async fn reset(&self, _: &str, _: &EventStart) -> Result<bool> {
        rejected("reset a consumer")
    }

    async fn forget(&self, _: &str) -> Result<bool> {
        rejected("forget a consumer")
    }
}
