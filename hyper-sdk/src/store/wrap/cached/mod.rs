//! A bounded in-memory cache of manifests and small blobs in front of a store.
//!
//! The content of a digest never changes, but tags move, and a repository may lose content. Other processes may write
//! to the same store (such as the command line and a server on one folder), so an entry is valid only while the store
//! as a whole is unchanged. [`RegistryStore::version`] detects changes:
//!
//! ```text
//! look up   now = version;   entry.version == now ?  serve from memory, a blob only while its file is there
//!                            else, a blob:      ask the store whether the repository still has it, serve from memory
//!                            else, a manifest:  ask the store for it
//! insert    under the version that was read before the store was asked
//! ```
//!
//! A store whose metadata is in a database elsewhere asks that for the version ([`RegistryStore::fetch_version`]). One
//! question serves all look-ups that wait for it, so the cache saves the queries and the bytes, and not the way there.
//! When the database does not answer, there is no version. A store without a version is asked each time: only the bytes of
//! small blobs come from memory.
//!
//! # Invariants
//! - Linearisable: an entry is served without asking the store only if no change was committed between the read that
//!   created the entry and the look-up.
//! - The bytes of a blob are cached only if they match its digest.
//! - A blob whose file is lost is not served from memory. Otherwise HEAD and GET would disagree, and clients would
//!   never push the blob again.

mod entries;
mod pulled_in;

use self::entries::{Entries, Found, Key, Version};
pub(in crate::store) use self::pulled_in::PulledIn;
use crate::breaker::Breaker;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::errors::{bytes_damaged, missing_bytes};
use crate::store::meta::{Deletion, TagRecord};
use crate::store::{
    BlobReader, BlobUpload, ByteRange, CollectOptions, Collected, DeleteTarget, Listing, Page, PullNote,
    PutManifest, QuotaCheck, QuotaRules, QuotaUse, RegistryStore, RetainOptions, Retained, ScrubOptions,
    Scrubbed, SharedEventLog, SharedStore, StoreCapabilities, TagGuard, Undelete, UploadId, UploadOptions,
};
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The limits of a cache.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// The largest amount of memory, in bytes; 0 turns the cache off.
    pub bytes: usize,
    /// The largest blob that is cached, in bytes.
    pub blob_bytes: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { bytes: 32 << 20, blob_bytes: 64 << 10 }
    }
}

/// The statistics of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatistics {
    /// The bytes that it holds.
    pub bytes: usize,
    /// The number of look-ups with cached content.
    pub hits: u64,
    /// The number of look-ups without cached content.
    pub misses: u64,
}

/// A cached manifest or small blob. Its header texts are prepared once and shared.
#[derive(Clone, Debug)]
pub struct CachedContent {
    /// The content.
    pub bytes: Bytes,
    /// Its media type; that of a blob is `application/octet-stream`.
    pub media_type: Bytes,
    /// Its digest in double quotes, as an HTTP entity tag.
    pub quoted_digest: Bytes,
    /// The file of a blob, if there is one.
    file: Option<PathBuf>,
    /// When it was pulled.
    pub(in crate::store) pulled: PulledIn,
}

impl CachedContent {
    fn new(digest: &Digest, media_type: Bytes, bytes: Bytes) -> Self {
        Self {
            bytes,
            media_type,
            quoted_digest: Bytes::from(format!("\"{digest}\"")),
            file: None,
            pulled: PulledIn::default(),
        }
    }

    fn blob(digest: &Digest, bytes: Bytes, file: Option<PathBuf>) -> Self {
        Self { file, ..Self::new(digest, Bytes::from_static(b"application/octet-stream"), bytes) }
    }

    /// Whether the file of a blob exists and has the right size.
    fn is_stored(&self) -> bool {
        let whole =
            |file: &PathBuf| std::fs::metadata(file).is_ok_and(|meta| meta.len() == self.bytes.len() as u64);
        self.file.as_ref().is_none_or(whole)
    }

    fn manifest(manifest: &Manifest) -> Self {
        let media_type = Bytes::copy_from_slice(manifest.media_type().as_bytes());
        Self::new(manifest.digest(), media_type, manifest.bytes().clone())
    }

    /// Its digest.
    pub fn digest(&self) -> Bytes {
        self.quoted_digest.slice(1..self.quoted_digest.len() - 1)
    }

    fn to_manifest(&self) -> Result<Manifest> {
        let manifest = Manifest::parse(self.bytes.clone(), &String::from_utf8_lossy(&self.media_type))?;
        let digest = Digest::parse(&String::from_utf8_lossy(&self.digest()))?;
        if *manifest.digest() == digest { Ok(manifest) } else { manifest.with_digest(&digest) }
    }
}

/// A blob that was read from the store.
#[derive(Debug)]
pub enum FetchedBlob {
    /// A small blob, which is now cached.
    Whole(Arc<CachedContent>),
    /// A blob that is too large to be cached.
    Reader(BlobReader),
}

/// A store whose manifests and small blobs are cached in memory. Clones share the cache.
///
/// ```
/// use hyper_sdk::store::wrap::{CacheOptions, Cached};
/// use hyper_sdk::store::{MemoryStore, RegistryStoreExt as _};
/// use hyper_sdk::RepositoryName;
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let store = Cached::new(Arc::new(MemoryStore::default()), CacheOptions::default());
/// let name = RepositoryName::parse("team/app")?;
/// let blob = store.put_bytes(&name, "text/plain", "hello".into()).await?;
/// for _ in 0..2 {
///     assert_eq!(store.read_blob(&name, &blob.digest, 100).await?, "hello");
/// }
/// assert_eq!(store.statistics().hits, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cached(Arc<Inner>);

struct Inner {
    store: SharedStore,
    options: CacheOptions,
    entries: Entries,
}

impl Cached {
    /// Puts a cache in front of a store.
    pub fn new(store: SharedStore, options: CacheOptions) -> Self {
        let entries = Entries::new(options.bytes);
        Self(Arc::new(Inner { store, options, entries }))
    }

    /// The store behind the cache.
    pub fn store(&self) -> &SharedStore {
        &self.0.store
    }

    /// The statistics of the cache.
    pub fn statistics(&self) -> CacheStatistics {
        let entries = &self.0.entries;
        CacheStatistics {
            bytes: entries.bytes(),
            hits: entries.hits.load(Ordering::Relaxed),
            misses: entries.misses.load(Ordering::Relaxed),
        }
    }

    /// The version of the store. It is read before the store is asked.
    async fn now(&self) -> Version {
        if self.0.options.bytes == 0 {
            return None;
        }
        match self.0.store.version() {
            None => self.0.store.fetch_version().await,
            now => now,
        }
    }

    /// A manifest, from the cache or the store.
    ///
    /// # Errors
    /// Those of [`RegistryStore::get_manifest`].
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Arc<CachedContent>> {
        let (key, now) = (Key::manifest(repository, reference), self.now().await);
        if now.is_some()
            && let Found::Fresh(content) = self.0.entries.get(&key, now)
        {
            return Ok(content);
        }
        self.ask_manifest(repository, reference, key, now).await.map(|(_, content)| content)
    }

    async fn ask_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        key: Key,
        now: Version,
    ) -> Result<(Manifest, Arc<CachedContent>)> {
        match self.0.store.get_manifest(repository, reference).await {
            Ok(manifest) => {
                let content = Arc::new(CachedContent::manifest(&manifest));
                if now.is_some() {
                    self.0.entries.put(key, content.clone(), now);
                }
                Ok((manifest, content))
            }
            Err(e) => {
                self.0.entries.remove(&key);
                Err(e)
            }
        }
    }

    /// A blob of the repository that is cached and whose file, if it has one, still exists. If the store has changed
    /// since the blob was read, the store is asked whether the repository still has it.
    ///
    /// # Errors
    /// Those of [`RegistryStore::stat_blob`].
    pub async fn recall_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Arc<CachedContent>>> {
        let (key, now) = (Key::blob(repository, digest), self.now().await);
        match self.0.entries.get(&key, now) {
            Found::Fresh(content) if content.is_stored() => Ok(Some(content)),
            Found::Fresh(_) => {
                self.0.entries.remove(&key);
                Ok(None)
            }
            Found::Stale(content) => {
                self.stat_blob(repository, digest).await?;
                self.0.entries.renew(&key, now);
                Ok(Some(content))
            }
            Found::Nothing => Ok(None),
        }
    }

    /// A blob of the repository from the store; a small blob is cached.
    ///
    /// # Errors
    /// Those of [`RegistryStore::get_blob`], and [`crate::ErrorKind::BlobUnknown`] when the bytes of a small blob do
    /// not match its digest.
    pub async fn fetch_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<FetchedBlob> {
        let now = self.now().await;
        let reader = self.0.store.get_blob(repository, digest, None).await?;
        if reader.size > self.0.options.blob_bytes || !self.0.entries.fits(reader.size) {
            return Ok(FetchedBlob::Reader(reader));
        }
        let bytes = collect(reader, digest).await?;
        // Cached bytes are served until they are evicted, so they are checked here.
        if digest.algorithm().digest(&bytes) != *digest {
            tracing::error!(%repository, %digest, "a stored blob does not match its digest");
            return Err(bytes_damaged(digest));
        }
        let file = self.0.store.blob_path(repository, digest).await;
        let is_kept = file.is_ok();
        let content = Arc::new(CachedContent::blob(digest, bytes, file.ok().flatten()));
        if is_kept {
            self.0.entries.put(Key::blob(repository, digest), content.clone(), now);
        }
        Ok(FetchedBlob::Whole(content))
    }
}

/// The bytes of a small blob.
async fn collect(reader: BlobReader, digest: &Digest) -> Result<Bytes> {
    let BlobReader { length, mut stream, .. } = reader;
    let first = if length == 0 { Bytes::new() } else { stream.next().await.transpose()?.unwrap_or_default() };
    if first.len() as u64 == length {
        return Ok(first);
    }
    let mut all = BytesMut::from(first);
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk?);
    }
    if all.len() as u64 == length { Ok(all.freeze()) } else { Err(missing_bytes(digest)) }
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("store", &self.0.store)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.store.fmt(f)
    }
}

// A new method of the trait must be implemented here too, instead of using its default.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RegistryStore for Cached {
    fn capabilities(&self) -> StoreCapabilities {
        self.0.store.capabilities()
    }

    /// Clients call this before they push, so the store is asked and not the cache.
    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let size = self.0.store.stat_blob(repository, digest).await;
        if size.is_err() {
            self.0.entries.remove(&Key::blob(repository, digest));
        }
        size
    }

    async fn lease_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let size = self.0.store.lease_blob(repository, digest).await;
        if size.is_err() {
            self.0.entries.remove(&Key::blob(repository, digest));
        }
        size
    }

    async fn renew_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let size = self.0.store.renew_blob(repository, digest).await;
        if size.is_err() {
            self.0.entries.remove(&Key::blob(repository, digest));
        }
        size
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let content = match self.recall_blob(repository, digest).await? {
            Some(content) => content,
            None if range.is_some() => return self.0.store.get_blob(repository, digest, range).await,
            None => match self.fetch_blob(repository, digest).await? {
                FetchedBlob::Reader(reader) => return Ok(reader),
                FetchedBlob::Whole(content) => content,
            },
        };
        let size = content.bytes.len() as u64;
        let (offset, length) = range.map_or(Ok((0, size)), |range| range.resolve(size))?;
        let part = content.bytes.slice(offset as usize..(offset + length) as usize);
        let chunks = (!part.is_empty()).then_some(Ok(part));
        Ok(BlobReader { size, offset, length, stream: futures::stream::iter(chunks).boxed() })
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let deleted = self.0.store.delete_blob(repository, digest).await;
        self.0.entries.remove(&Key::blob(repository, digest));
        deleted
    }

    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<u64> {
        self.0.store.mount_blob(repository, digest, from).await
    }

    async fn start_upload(
        &self,
        repository: &RepositoryName,
        options: UploadOptions,
    ) -> Result<Box<dyn BlobUpload>> {
        self.0.store.start_upload(repository, options).await
    }

    async fn resume_upload(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<dyn BlobUpload>> {
        self.0.store.resume_upload(repository, id).await
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        let (key, now) = (Key::manifest(repository, reference), self.now().await);
        if now.is_some()
            && let Found::Fresh(content) = self.0.entries.get(&key, now)
        {
            return content.to_manifest();
        }
        self.ask_manifest(repository, reference, key, now).await.map(|(manifest, _)| manifest)
    }

    async fn put_manifest(&self, repository: &RepositoryName, put: PutManifest) -> Result<Descriptor> {
        self.0.store.put_manifest(repository, put).await
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        let deleted = self.0.store.delete_manifest(repository, reference).await;
        self.0.entries.remove(&Key::manifest(repository, reference));
        deleted
    }

    async fn delete_guarded(
        &self,
        repository: &RepositoryName,
        target: DeleteTarget,
        guard: TagGuard,
    ) -> Result<()> {
        let key = match &target {
            DeleteTarget::Manifest(reference) => Key::manifest(repository, reference),
            DeleteTarget::Blob(digest) => Key::blob(repository, digest),
        };
        let deleted = self.0.store.delete_guarded(repository, target, guard).await;
        self.0.entries.remove(&key);
        deleted
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.0.store.list_tags(repository, page).await
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        self.0.store.list_repositories(page).await
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.0.store.list_referrers(repository, digest, artifact_type).await
    }

    async fn repositories_with(&self, digest: &Digest, page: Page) -> Result<Listing<RepositoryName>> {
        self.0.store.repositories_with(digest, page).await
    }

    fn version(&self) -> Option<u64> {
        self.0.store.version()
    }

    fn breakers(&self) -> Vec<Breaker> {
        self.0.store.breakers()
    }

    async fn fetch_version(&self) -> Option<u64> {
        self.0.store.fetch_version().await
    }

    async fn put_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        self.0.store.put_blob(repository, digest, bytes).await
    }

    async fn put_blob_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        path: &Path,
    ) -> Result<Descriptor> {
        self.0.store.put_blob_file(repository, digest, path).await
    }

    async fn remove_damaged(&self, digest: &Digest) -> Result<bool> {
        self.0.store.remove_damaged(digest).await
    }

    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.0.store.blob_path(repository, digest).await
    }

    async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        self.0.store.expire_uploads(age).await
    }

    async fn collect(&self, options: CollectOptions) -> Result<Collected> {
        self.0.store.collect(options).await
    }

    async fn retain(&self, options: RetainOptions) -> Result<Retained> {
        self.0.store.retain(options).await
    }

    async fn note_pulls(&self, pulls: Vec<PullNote>, lost: bool) -> Result<()> {
        self.0.store.note_pulls(pulls, lost).await
    }

    async fn list_tag_records(&self, repository: &RepositoryName, page: Page) -> Result<Listing<TagRecord>> {
        self.0.store.list_tag_records(repository, page).await
    }

    fn set_undelete_window(&self, window: Duration) -> Result<()> {
        self.0.store.set_undelete_window(window)
    }

    async fn list_deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        self.0.store.list_deletions(repository, after, limit).await
    }

    async fn undelete(&self, repository: &RepositoryName, undelete: Undelete) -> Result<Descriptor> {
        self.0.store.undelete(repository, undelete).await
    }

    async fn purge_deleted(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.0.store.purge_deleted(repository, digest).await
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        self.0.store.event_log()
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        self.0.store.set_quotas(rules)
    }

    async fn count_quotas(&self) -> Result<()> {
        self.0.store.count_quotas().await
    }

    async fn is_counting(&self) -> Result<bool> {
        self.0.store.is_counting().await
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        self.0.store.quota_use().await
    }

    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        self.0.store.check_quotas(repair).await
    }

    async fn scrub(&self, options: ScrubOptions) -> Result<Scrubbed> {
        self.0.store.scrub(options).await
    }

    async fn scrub_blob(&self, digest: &Digest) -> Result<bool> {
        self.0.store.scrub_blob(digest).await
    }
}

#[cfg(test)]
mod tests;
