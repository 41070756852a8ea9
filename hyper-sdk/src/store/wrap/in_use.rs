//! A store as running work sees it: what it finds in the repositories of the build cache stays while it runs.

use crate::breaker::Breaker;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::meta::{Deletion, TagRecord};
use crate::store::{
    BlobReader, BlobUpload, ByteRange, CollectOptions, Collected, DeleteTarget, Listing, Page, PullNote,
    PutManifest, QuotaCheck, QuotaRules, QuotaUse, RegistryStore, RetainOptions, Retained, ScrubOptions,
    Scrubbed, SharedEventLog, SharedStore, StoreCapabilities, TagGuard, Undelete, UploadId, UploadOptions,
    is_of_records,
};
use crate::{Digest, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Renews the lease of each blob of these repositories when the work first asks for it, so that a clean-up sees that it was
/// used after the work began. Records of the cache do not tell: they can be replaced meanwhile, or be found by other keys.
#[derive(Debug)]
pub(crate) struct InUse {
    store: SharedStore,
    renewed: Mutex<HashSet<(RepositoryName, Digest)>>,
}

impl InUse {
    /// The store for work that has begun ([`crate::uses::Use`]).
    pub(crate) fn new(store: SharedStore) -> Self {
        Self { store, renewed: Mutex::default() }
    }

    /// Renews the lease of a blob, and returns its size, when this is needed and was not done yet.
    async fn renew(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        if !is_of_records(repository) {
            return Ok(None);
        }
        let blob = (repository.clone(), digest.clone());
        let renewed = || self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed().contains(&blob) {
            return Ok(None);
        }
        match self.store.renew_blob(repository, digest).await {
            Ok(size) => {
                renewed().insert(blob);
                Ok(Some(size))
            }
            // The blob can be used, and is tried again with the next use.
            Err(e) if e.kind() == ErrorKind::StorageFull => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.store, f)
    }
}

// A new method of the trait must be implemented here too, instead of using its default.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RegistryStore for InUse {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        match self.renew(repository, digest).await? {
            Some(size) => Ok(size),
            None => self.store.stat_blob(repository, digest).await,
        }
    }

    async fn lease_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        match self.renew(repository, digest).await? {
            Some(size) => Ok(size),
            None => self.store.lease_blob(repository, digest).await,
        }
    }

    async fn renew_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.store.renew_blob(repository, digest).await
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        self.renew(repository, digest).await?;
        self.store.get_blob(repository, digest, range).await
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.store.delete_blob(repository, digest).await
    }

    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<u64> {
        self.renew(from, digest).await?;
        self.store.mount_blob(repository, digest, from).await
    }

    async fn start_upload(
        &self,
        repository: &RepositoryName,
        options: UploadOptions,
    ) -> Result<Box<dyn BlobUpload>> {
        self.store.start_upload(repository, options).await
    }

    async fn resume_upload(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<dyn BlobUpload>> {
        self.store.resume_upload(repository, id).await
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        self.store.get_manifest(repository, reference).await
    }

    async fn put_manifest(&self, repository: &RepositoryName, put: PutManifest) -> Result<Descriptor> {
        self.store.put_manifest(repository, put).await
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        self.store.delete_manifest(repository, reference).await
    }

    async fn delete_guarded(
        &self,
        repository: &RepositoryName,
        target: DeleteTarget,
        guard: TagGuard,
    ) -> Result<()> {
        self.store.delete_guarded(repository, target, guard).await
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.store.list_tags(repository, page).await
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        self.store.list_repositories(page).await
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.store.list_referrers(repository, digest, artifact_type).await
    }

    async fn repositories_with(&self, digest: &Digest, page: Page) -> Result<Listing<RepositoryName>> {
        self.store.repositories_with(digest, page).await
    }

    fn version(&self) -> Option<u64> {
        self.store.version()
    }

    fn breakers(&self) -> Vec<Breaker> {
        self.store.breakers()
    }

    async fn fetch_version(&self) -> Option<u64> {
        self.store.fetch_version().await
    }

    async fn put_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        content: Bytes,
    ) -> Result<Descriptor> {
        self.store.put_blob(repository, digest, content).await
    }

    async fn put_blob_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        path: &Path,
    ) -> Result<Descriptor> {
        self.store.put_blob_file(repository, digest, path).await
    }

    async fn remove_damaged(&self, digest: &Digest) -> Result<bool> {
        self.store.remove_damaged(digest).await
    }

    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.renew(repository, digest).await?;
        self.store.blob_path(repository, digest).await
    }

    async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        self.store.expire_uploads(age).await
    }

    async fn collect(&self, options: CollectOptions) -> Result<Collected> {
        self.store.collect(options).await
    }

    async fn retain(&self, options: RetainOptions) -> Result<Retained> {
        self.store.retain(options).await
    }

    async fn note_pulls(&self, pulls: Vec<PullNote>, lost: bool) -> Result<()> {
        self.store.note_pulls(pulls, lost).await
    }

    async fn list_tag_records(&self, repository: &RepositoryName, page: Page) -> Result<Listing<TagRecord>> {
        self.store.list_tag_records(repository, page).await
    }

    fn set_undelete_window(&self, window: Duration) -> Result<()> {
        self.store.set_undelete_window(window)
    }

    async fn list_deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        self.store.list_deletions(repository, after, limit).await
    }

    async fn undelete(&self, repository: &RepositoryName, undelete: Undelete) -> Result<Descriptor> {
        self.store.undelete(repository, undelete).await
    }

    async fn purge_deleted(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.store.purge_deleted(repository, digest).await
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        self.store.event_log()
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        self.store.set_quotas(rules)
    }

    async fn count_quotas(&self) -> Result<()> {
        self.store.count_quotas().await
    }

    async fn is_counting(&self) -> Result<bool> {
        self.store.is_counting().await
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        self.store.quota_use().await
    }

    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        self.store.check_quotas(repair).await
    }

    async fn scrub(&self, options: ScrubOptions) -> Result<Scrubbed> {
        self.store.scrub(options).await
    }

    async fn scrub_blob(&self, digest: &Digest) -> Result<bool> {
        self.store.scrub_blob(digest).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type;
    use crate::store::{MemoryStore, RegistryStoreExt as _};
    use crate::testing::FrozenClock;
    use std::sync::Arc;

    const HOUR: i64 = 60 * 60;

    /// Each way in which work asks for a blob keeps it, in the repositories that records keep alone.
    #[tokio::test]
    async fn what_work_finds_has_the_lease_of_what_is_pushed_now() {
        let name = |text: &str| RepositoryName::parse(text).unwrap();
        let (layers, bases, other) =
            (name("hyper.local/layers"), name("hyper.local/bases/a"), name("docker.io/library/a"));
        let clock = Arc::new(FrozenClock::default());
        let store = MemoryStore::default().with_clock(clock.clone());
        let put = async |repository: &RepositoryName, text: &'static str| {
            store.put_bytes(repository, media_type::OCI_LAYER, text.into()).await.unwrap().digest
        };
        let all = ["stat", "lease", "read", "path", "mount", "unused"];
        let mut digests = Vec::new();
        for text in all {
            digests.push(put(&layers, text).await);
        }
        let (of_base, of_image) = (put(&bases, "base").await, put(&other, "image").await);
        clock.advance(2 * HOUR);
        let used = InUse::new(Arc::new(store.clone()));
        for _ in 0..2 {
            assert_eq!(used.stat_blob(&layers, &digests[0]).await.unwrap(), 4);
            assert_eq!(used.lease_blob(&layers, &digests[1]).await.unwrap(), 5);
            assert_eq!(used.read_blob(&layers, &digests[2], 9).await.unwrap(), "read");
            used.blob_path(&layers, &digests[3]).await.unwrap();
            assert_eq!(used.mount_blob(&other, &digests[4], &layers).await.unwrap(), 5);
            used.stat_blob(&bases, &of_base).await.unwrap();
            used.stat_blob(&other, &of_image).await.unwrap();
            let e = used.stat_blob(&layers, &Digest::sha256("nothing")).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BlobUnknown);
        }
        // Those of two hours ago have ended.
        clock.advance(23 * HOUR);
        let roots: Arc<dyn crate::store::Roots> = Arc::new(Nothing);
        store.collect(CollectOptions { roots, ..CollectOptions::default() }).await.unwrap();
        for (text, digest) in all.iter().zip(&digests) {
            assert_eq!(store.has_blob(&layers, digest).await.unwrap(), *text != "unused", "{text}");
        }
        assert!(!store.has_blob(&bases, &of_base).await.unwrap());
        assert!(!store.has_blob(&other, &of_image).await.unwrap());
    }

    /// Keeps nothing.
    #[derive(Debug)]
    struct Nothing;

    impl crate::store::Roots for Nothing {
        fn keeps_manifest(&self, _: &RepositoryName, _: &Digest) -> bool {
            false
        }

        fn keeps_blob(&self, _: &RepositoryName, _: &Digest) -> bool {
            false
        }
    }
}
