//! Registry stores: the trait, its composition from a blob and a metadata backend, and the backends.
//!
//! ```text
//!   RegistryStore            used by the registry server, the builder and the loopback client
//!        │
//!   Composed<B, M>           the semantics: checks digests and references, moves tags last
//!     ├── B: BlobBackend     bytes by digest, uploads by id          (blob/: memory, disk)
//!     └── M: MetaBackend     repositories, links, manifests, tags    (meta/: memory, sql)
//! ```
//!
//! # Invariants
//! - A blob can be read in a repository only through a link, so a repository never exposes the blobs of another.
//! - A manifest is accepted only when everything it references is in its repository; tags move last.
//! - Acknowledged content is durable if [`StoreCapabilities::durable`] says so.

#[cfg(feature = "store-sql")]
pub mod backup;
pub mod blob;
pub(crate) mod capabilities;
mod collect;
mod composed;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(feature = "client")]
pub(crate) mod damage;
mod edge;
pub mod errors;
mod event;
mod ext;
mod kinds;
mod local_name;
pub mod meta;
#[cfg(feature = "store-sql")]
mod portable;
mod pull_note;
mod pulls;
mod quota;
mod range;
mod retention;
mod scrub;
mod tag_guard;
mod undelete;
mod upload;
mod verified;
mod work;
pub mod wrap;

pub use capabilities::StoreCapabilities;
pub use collect::{CollectOptions, Collected, InternalRoots, Removal, RemovalObserver, Roots};
pub use composed::Composed;
#[cfg(feature = "build")]
pub(crate) use composed::LEASE as LINK_LEASE;
pub use event::{
    CLOUD_EVENT_TYPE, CLOUD_EVENTS_TYPE, ChangeContext, ConsumerFailure, ConsumerHold, ConsumerMove,
    DOCKER_EVENTS_TYPE, Event, EventChange, EventConsumer, EventCursor, EventKind, EventLimits, EventLog,
    EventPage, EventRules, EventStart, SharedEventLog, cloud_event, docker_action, docker_events,
};
pub use ext::{MAX_CONFIG, RegistryStoreExt, StoredImage};
#[cfg(feature = "store-sql")]
pub use kinds::DiskStore;
pub use kinds::MemoryStore;
#[cfg(feature = "build")]
pub(crate) use local_name::locate;
#[cfg(feature = "client")]
pub(crate) use local_name::prefixes;
#[cfg(feature = "build")]
pub(crate) use local_name::{base_repository, is_of_bases, is_of_records};
pub use local_name::{find_local, is_internal, local_reference, local_repository};
#[cfg(feature = "store-sql")]
pub use portable::Portable;
pub use pull_note::{PULL_LAG, PullNote};
pub use pulls::PullNotes;
pub use quota::{
    QuotaCheck, QuotaCounts, QuotaLimits, QuotaNamespace, QuotaResource, QuotaRule, QuotaRules, QuotaUse,
};
pub use range::ByteRange;
pub use retention::{
    RetainOptions, Retained, RetentionEnd, RetentionObserver, RetentionRule, RetentionRules, RetentionTurn,
    TagDecision, TagProtection, TagReason,
};
pub use scrub::{
    BlobDamage, DamageKind, ScrubEnd, ScrubEvent, ScrubObserver, ScrubOptions, ScrubTurn, Scrubbed,
};
pub use tag_guard::{DeleteTarget, TagChange, TagGuard};
pub use undelete::Undelete;
pub use upload::{BlobUpload, UploadId, UploadOptions};
pub use work::WORK_TARGET;

use self::meta::{Deletion, TagRecord};
use crate::breaker::Breaker;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::fmt::{self, Debug, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A stream of the bytes of a blob. Dropping it stops the reading.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// The content of a blob, or a part of it.
pub struct BlobReader {
    /// The size of the whole blob in bytes.
    pub size: u64,
    /// Where the part begins.
    pub offset: u64,
    /// How many bytes the stream yields.
    pub length: u64,
    /// The bytes. A damaged blob may end the stream with an error; it never ends early without one.
    pub stream: ByteStream,
}

impl Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("size", &self.size)
            .field("offset", &self.offset)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// A manifest to store.
#[derive(Clone, Debug)]
pub struct PutManifest {
    /// The manifest. It is stored under its digest.
    pub manifest: Manifest,
    /// The tags to move to the manifest, all or none, after it is stored.
    pub tags: Vec<Tag>,
    /// A condition: each of `tags` must name this digest (`None`: must not exist), otherwise the error is
    /// [`crate::ErrorKind::Conflict`].
    pub if_match: Option<Option<Digest>>,
    /// Is asked about each tag that is created or moved. Its error rejects the whole push. A store without
    /// [`StoreCapabilities::tag_guards`] refuses a push with a guard.
    pub guard: Option<TagGuard>,
    /// Accepts a manifest with missing references, which the distribution-spec ("Pushing Manifests") leaves to the
    /// registry.
    pub sparse: bool,
}

impl PutManifest {
    /// A manifest with its tags, without a condition, whose references must exist.
    pub fn new(manifest: Manifest, tags: impl IntoIterator<Item = Tag>) -> Self {
        Self { manifest, tags: tags.into_iter().collect(), if_match: None, guard: None, sparse: false }
    }
}

/// A request for a part of a sorted list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The largest number of entries; `None` leaves it to the store.
    pub limit: Option<usize>,
    /// The text after which the entries sort. It need not be an entry.
    pub after: Option<String>,
}

/// A part of a sorted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Whether there are more entries after the last one.
    pub more: bool,
}

/// A store of repositories with blobs, manifests and tags.
///
/// # Guarantees
/// Object-safe; every method may be called from many tasks at once. Dropping a future leaves each object unchanged or
/// completely changed, never in between. The suite in `store::conformance` tests a store.
///
/// ```
/// use hyper_sdk::oci::{ImageIndex, Manifest};
/// use hyper_sdk::store::{MemoryStore, PutManifest, RegistryStore, RegistryStoreExt as _};
/// use hyper_sdk::{RepositoryName, Tag};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let store: std::sync::Arc<dyn RegistryStore> = std::sync::Arc::new(MemoryStore::default());
/// let name = RepositoryName::parse("team/app")?;
/// let blob = store.put_bytes(&name, "text/plain", "hello".into()).await?;
/// let index = Manifest::sniff(ImageIndex::new(vec![blob.clone()]).to_bytes())?;
/// store.put_manifest(&name, PutManifest::new(index, [Tag::latest()])).await?;
/// assert_eq!(store.all_tags(&name).await?, [Tag::latest()]);
/// assert_eq!(store.read_blob(&name, &blob.digest, 100).await?, "hello");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method: [`crate::ErrorKind::Unsupported`] for operations that [`RegistryStore::capabilities`] excludes, and
/// the errors of the backend as [`crate::ErrorKind::Io`], [`crate::ErrorKind::Unavailable`] or
/// [`crate::ErrorKind::Corrupt`]. A repository that does not exist is like an empty one for blobs and manifests
/// ([`crate::ErrorKind::BlobUnknown`], [`crate::ErrorKind::ManifestUnknown`]) and [`crate::ErrorKind::NameUnknown`] for
/// its tag list; it is created with its first blob link or manifest, and exists until it is deleted.
#[async_trait]
pub trait RegistryStore: Display + Debug + Send + Sync + 'static {
    /// The capabilities of this store.
    fn capabilities(&self) -> StoreCapabilities;

    /// The size of a blob of a repository, in bytes. A blob whose bytes the store has lost counts as missing.
    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64>;

    /// [`RegistryStore::stat_blob`] for a client that is about to reference the blob and is told that it need not push it.
    /// A store that collects garbage then keeps the blob in the repository for as long as after a push, without a manifest.
    ///
    /// A store that is full, or cannot be written, answers without that promise: at worst the client's manifest is refused
    /// later, because the blob is missing.
    async fn lease_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.stat_blob(repository, digest).await
    }

    /// [`RegistryStore::lease_blob`] for whoever uses the blob from now on: its lease ends no earlier than that of a blob that
    /// is pushed now. [`RegistryStore::lease_blob`] may leave a lease as it is that ends earlier, so that it writes rarely.
    /// A store that cannot be written answers without that promise; one that is full fails with
    /// [`crate::ErrorKind::StorageFull`].
    async fn renew_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.lease_blob(repository, digest).await
    }

    /// The content of a blob of a repository, or a part of it. A blob whose bytes the store has lost counts as missing.
    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader>;

    /// Deletes a blob from a repository, even when manifests reference it: they are then incomplete, as the
    /// specification allows.
    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()>;

    /// Links a blob of the repository `from` into a repository, without copying bytes. Returns its size.
    ///
    /// # Errors
    /// [`crate::ErrorKind::BlobUnknown`] when `from` does not have it.
    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<u64>;

    /// Opens an upload session.
    async fn start_upload(
        &self,
        repository: &RepositoryName,
        options: UploadOptions,
    ) -> Result<Box<dyn BlobUpload>>;

    /// Opens another handle on an upload session of this repository.
    ///
    /// # Errors
    /// [`crate::ErrorKind::UploadUnknown`] when it does not exist, has ended or belongs to another repository.
    async fn resume_upload(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<dyn BlobUpload>>;

    /// A manifest by tag or digest. Its digest has the algorithm of the requested digest, or for a tag the one that it
    /// was stored under.
    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest>;

    /// Stores a manifest and moves its tags.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ManifestBlobUnknown`] when it references a blob, a config or a manifest that the repository
    /// does not have. Non-distributable layers, layers with `urls`, the `subject`, and entries of an index with a
    /// platform (sparse indexes) may be missing. An entry of an index may be a blob. A blob whose bytes the store has
    /// lost counts as missing. [`crate::ErrorKind::SizeInvalid`], with the field, when a descriptor and its content
    /// have different sizes; [`crate::ErrorKind::ManifestInvalid`] when the same bytes, without a `mediaType`, are
    /// stored under another media type.
    async fn put_manifest(&self, repository: &RepositoryName, put: PutManifest) -> Result<Descriptor>;

    /// Deletes a tag, or by digest a manifest with all of its tags.
    async fn delete_manifest(&self, repository: &RepositoryName, reference: &ManifestReference)
    -> Result<()>;

    /// Deletes a tag, a manifest or a blob if the guard allows it. In the same transaction, the guard is asked about every
    /// tag that is deleted or needs the target: by its manifest, or as an entry of an index that has the tag.
    ///
    /// # Errors
    /// That of the guard; [`crate::ErrorKind::Unsupported`] without [`StoreCapabilities::tag_guards`].
    async fn delete_guarded(
        &self,
        repository: &RepositoryName,
        target: DeleteTarget,
        guard: TagGuard,
    ) -> Result<()> {
        let _ = (repository, target, guard);
        Err(crate::Error::unsupported("the store cannot check rules for tags"))
    }

    /// The tags of a repository in byte order.
    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>>;

    /// The repositories in byte order. A repository whose last manifest was deleted is not listed until something is
    /// pushed to it again; its blobs can still be read.
    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>>;

    /// Descriptors of the manifests of the repository whose subject is `digest`, with artifact type and annotations, in
    /// a stable order. `artifact_type` filters them. An unknown subject has no referrers.
    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>>;

    /// The repositories that have a blob, for a mount without a source, in an order that the store chooses;
    /// `page.after` is the last repository of the previous page. The caller checks that the client may see them.
    ///
    /// A store without an index from blobs to repositories returns none.
    async fn repositories_with(&self, digest: &Digest, page: Page) -> Result<Listing<RepositoryName>> {
        let _ = (digest, page);
        Ok(Listing { items: Vec::new(), more: false })
    }

    /// A number that changes with every committed change of readable content, in this process or another; `None` when
    /// the store has no such number.
    ///
    /// A cache compares the number before and after a read to know whether the result is still valid. It does so for
    /// every request, so this method must take only microseconds. Repairing or removing damaged bytes need not change
    /// the number. A change that readers cannot see, such as a change of an upload, may change it.
    fn version(&self) -> Option<u64> {
        None
    }

    /// The number of [`version`](Self::version) of a store that has to ask a database elsewhere for it: what was committed
    /// before the call began has changed it. `None` when the database does not answer, and when the store has no such number
    /// or gives it with `version`.
    async fn fetch_version(&self) -> Option<u64> {
        None
    }

    /// The breakers in front of what the store needs elsewhere, such as a database and a bucket: while one is open, calls that
    /// need it fail at once with [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable).
    fn breakers(&self) -> Vec<Breaker> {
        Vec::new()
    }

    /// Stores a blob from memory, in one call without an upload session.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the bytes do not match the digest.
    async fn put_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let options = UploadOptions { algorithm: Some(digest.algorithm()), digest: Some(digest.clone()) };
        let mut upload = self.start_upload(repository, options).await?;
        upload.append(bytes).await?;
        upload.finish(digest).await
    }

    /// Moves a file into the store as a blob; the file is removed when this succeeds.
    ///
    /// The caller guarantees that the file has this digest: a store on the same file system moves the file without
    /// reading it. Every other store copies the bytes and checks them.
    async fn put_blob_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        path: &Path,
    ) -> Result<Descriptor> {
        use crate::ResultExt as _;
        let file = tokio::fs::File::open(path).await.at("cannot open the file of the blob", path)?;
        let options = UploadOptions { algorithm: Some(digest.algorithm()), digest: Some(digest.clone()) };
        let mut upload = self.start_upload(repository, options).await?;
        let mut chunks = tokio_util::io::ReaderStream::with_capacity(file, 512 * 1024);
        while let Some(chunk) = futures::StreamExt::next(&mut chunks).await {
            upload.append(chunk.at("cannot read the file of the blob", path)?).await?;
        }
        let descriptor = upload.finish(digest).await?;
        tokio::fs::remove_file(path).await.at("cannot remove the file of the blob", path)?;
        Ok(descriptor)
    }

    /// Removes the bytes of a blob if they do not match its digest, so that the blob counts as missing in every
    /// repository and can be stored again. Reads the whole blob. Returns whether it was damaged; a remote store always
    /// returns `false`.
    async fn remove_damaged(&self, _digest: &Digest) -> Result<bool> {
        Ok(false)
    }

    /// The path of a file with exactly the bytes of a blob of the repository, for readers without a copy; `None` when
    /// there is no such file. The file must not be changed.
    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.stat_blob(repository, digest).await?;
        Ok(None)
    }

    /// Removes upload sessions, with their bytes, that were not saved for `age`, and the leftovers of dead writers.
    /// Uploads with an active writer, in this process or another, are kept. Returns the number of removed sessions.
    ///
    /// A store in a folder calls this when it is opened; a server calls it regularly.
    async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        let _ = age;
        Ok(0)
    }

    /// Removes what nothing keeps: manifests, links and bytes, as the options say. Other processes may use the store
    /// meanwhile, and collect too. It can be dropped or killed anywhere; the next one goes on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the store cannot be written, or has no collector. What was removed before an
    /// error is gone.
    async fn collect(&self, options: CollectOptions) -> Result<Collected> {
        let _ = options;
        Err(crate::Error::unsupported("the store does not collect garbage"))
    }

    /// Deletes the tags that nothing keeps by some rules. Manifests stay: [`RegistryStore::collect`] removes those that have
    /// lost their last tag, if its options say so. Other processes may use the store meanwhile, and do the same: a tag goes only
    /// if it is what was judged, neither moved nor pushed again. It can be dropped or killed anywhere.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the store cannot be written and tags are to go, or when it does not know when its
    /// tags were pushed; [`crate::ErrorKind::NameUnknown`] when the options name a repository that does not exist;
    /// [`crate::ErrorKind::Unavailable`] when the clock goes back during the run. What was deleted before an error is gone.
    async fn retain(&self, options: RetainOptions) -> Result<Retained> {
        let _ = options;
        Err(crate::Error::unsupported("the store does not know when its tags were pushed"))
    }

    /// Notes that these manifests were pulled: by [`PullNotes::write`], which collects them. What is gone is left out. The first call,
    /// also one without pulls, begins the notes: what has none was not pulled since. With `lost`, and after a day without a call,
    /// they begin anew. A store that notes no pulls does nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the store cannot be written. Some may be noted then.
    async fn note_pulls(&self, pulls: Vec<PullNote>, lost: bool) -> Result<()> {
        let _ = (pulls, lost);
        Ok(())
    }

    /// [`RegistryStore::list_tags`], each tag with its manifest, and with when it was last pushed and pulled.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the store does not know when its tags were pushed.
    async fn list_tag_records(&self, repository: &RepositoryName, page: Page) -> Result<Listing<TagRecord>> {
        let _ = (repository, page);
        Err(crate::Error::unsupported("the store does not know when its tags were pushed"))
    }

    /// Keeps tags and manifests that this process deletes for so long that they can be undeleted, from now on. What was deleted before
    /// keeps its own window, and other processes have windows of their own. With [`Duration::ZERO`] nothing is kept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the store cannot undo deletions.
    fn set_undelete_window(&self, window: Duration) -> Result<()> {
        match window.is_zero() {
            true => Ok(()),
            false => Err(crate::Error::unsupported("the store cannot undo deletions")),
        }
    }

    /// What was deleted and can be undeleted, of a repository or of all: at most `limit` entries after the one with the number `after`,
    /// in the order of these numbers. Also tags that name another manifest by now, with the one that they had.
    async fn list_deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        let _ = (repository, after, limit);
        Ok(Listing { items: Vec::new(), more: false })
    }

    /// Stores a deleted manifest or tag again. An index comes with those of its entries that were deleted, in one
    /// change: when it fails, nothing comes back. Referrers were not deleted with their subject. Its events are those of a push.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ManifestUnknown`] when it was not deleted, or its window has ended
    /// ([`errors::not_kept`]); [`crate::ErrorKind::Conflict`] when the tag exists again; those of
    /// [`RegistryStore::put_manifest`], such as that of a quota, of the guard, and of a blob that was deleted by itself.
    async fn undelete(&self, repository: &RepositoryName, undelete: Undelete) -> Result<Descriptor> {
        Err(errors::not_kept(repository, undelete.reference))
    }

    /// Ends the window of a deleted manifest, and of the tags that it had: nobody can undelete it any more, and a garbage collection
    /// removes what it alone kept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ManifestUnknown`] when it was not deleted; [`crate::ErrorKind::Conflict`] when it is still there.
    async fn purge_deleted(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        Err(errors::not_kept(repository, digest))
    }

    /// What has changed, in its order; `None` when the store has no such log.
    fn event_log(&self) -> Option<SharedEventLog> {
        None
    }

    /// Refuses from now on, for whoever uses the store in this process, what would pass one of these quotas; rules of before end.
    /// Other processes have rules of their own.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when there are rules, and the store is without [`StoreCapabilities::quotas`].
    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        match rules.is_empty() {
            true => Ok(()),
            false => Err(crate::Error::unsupported("the store cannot enforce quotas")),
        }
    }

    /// Counts the namespaces of the quotas that were not counted yet, and those whose count was interrupted: in pieces, between which
    /// other changes come, however large the namespaces are. From the first piece on, every process counts each change, whatever
    /// its rules are. Until a namespace is counted, its limits hold for what is counted so far. The first push to a namespace
    /// begins a count, which ends at once if little is there; nobody goes on with it without this method, so call it after
    /// [`set_quotas`](Self::set_quotas), and again from time to time.
    ///
    /// Dropping it at any point loses nothing: the next call goes on. Two at once do no harm.
    ///
    /// # Errors
    /// Those of the store. The other namespaces are counted first.
    async fn count_quotas(&self) -> Result<()> {
        Ok(())
    }

    /// What the namespaces use that have a quota or were counted, in the order of their names.
    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        Ok(Vec::new())
    }

    /// Whether a count of a namespace has begun and not ended. It is cheap to ask, however many namespaces there are.
    async fn is_counting(&self) -> Result<bool> {
        Ok(false)
    }

    /// Reads again what all namespaces that are counted have, of one moment, and compares; with `repair` it counts those anew that
    /// are wrong, as [`count_quotas`](Self::count_quotas) does. Other processes may use the store meanwhile, and wait for nothing.
    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        let _ = repair;
        Ok(Vec::new())
    }

    /// Reads every blob of the store again, and finds those that are damaged: whose bytes are missing, do not match the digest,
    /// or have another size than the database says. With [`ScrubOptions::quarantine`], no repository has such a blob from then
    /// on, until it is pushed again, and its bytes are kept aside. Manifests that reference it stay. Other processes may use the
    /// store meanwhile. It can be dropped or killed anywhere.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the store cannot be written and the options want that, or when it cannot read its
    /// blobs; the error of reading when many blobs in a row cannot be read.
    async fn scrub(&self, options: ScrubOptions) -> Result<Scrubbed> {
        let _ = options;
        Err(crate::Error::unsupported("the store does not read its blobs again"))
    }

    /// Reads one blob again, and quarantines it if it is damaged, as [`RegistryStore::scrub`] does. Returns whether it is damaged.
    async fn scrub_blob(&self, digest: &Digest) -> Result<bool> {
        let _ = digest;
        Ok(false)
    }
}

/// A shared store of any kind.
pub type SharedStore = Arc<dyn RegistryStore>;

#[cfg(test)]
mod tests;
