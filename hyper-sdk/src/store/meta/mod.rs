//! Metadata backends: repositories, links to blobs, manifests with their references, tags and upload sessions.
//!
//! Reads are methods; every write is one [`Change`], which is applied atomically. Because a write is a value, the SQL
//! backend can put the writes of many callers into one transaction, and a test backend can fail the k-th write.

mod event_drafts;
mod memory;
mod records;
#[cfg(feature = "store-sql")]
mod row;
#[cfg(feature = "store-sql")]
mod sql;
mod tokens;

pub use super::edge::{Edge, EdgeKind};
pub use memory::MemoryMeta;
pub use records::{BlobLink, BlobRecord, ManifestAt, ScrubPlace, TagRecord, UploadRecord};
#[cfg(feature = "store-sql")]
pub use row::{
    Ancestor, BlobRow, DamagedRow, LinkRow, ManifestRow, RepositoryRow, Row, RowCounts, RowKind, TagRow,
    TokenRow,
};
#[cfg(feature = "store-sql")]
pub(crate) use row::{MAX_NUMBER, move_source};
#[cfg(feature = "store-postgres")]
pub use sql::PostgresOptions;
#[cfg(feature = "store-sql")]
pub use sql::SqlMeta;
pub use tokens::{MemoryTokens, TokenRecord, TokenStore};

use super::blob::{BlobKey, StagedState};
use super::errors::{manifest_blob_unknown, size_differs};
use super::{
    DeleteTarget, EventChange, Listing, QuotaCheck, QuotaNamespace, QuotaRules, QuotaUse, SharedEventLog,
    TagGuard, UploadId,
};
use crate::clock::{SharedClock, SystemClock};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Result};
use async_trait::async_trait;
use std::fmt::{Debug, Display};
use std::sync::Arc;

impl Edge {
    /// Checks the edge against the size in the row of a blob.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SizeInvalid`] when the manifest gives another size, and
    /// [`crate::ErrorKind::ManifestBlobUnknown`] when the edge is required and the bytes of the blob are missing or cut
    /// short.
    pub fn check_blob(&self, change: &ManifestChange, size: u64) -> Result<()> {
        self.check_size(size)?;
        if self.required && self.stored != Some(size) {
            return Err(manifest_blob_unknown(&change.repository, self));
        }
        Ok(())
    }

    /// Checks the edge against the size of its target.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SizeInvalid`] when the manifest gives another size.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if self.size == size {
            return Ok(());
        }
        Err(size_differs(self, size))
    }
}

/// A manifest to store, with its conditions.
#[derive(Clone, Debug)]
pub struct ManifestChange {
    /// Where.
    pub repository: RepositoryName,
    /// The manifest, under its digest.
    pub manifest: Manifest,
    /// The references of the manifest, each digest at most once.
    pub edges: Vec<Edge>,
    /// The tags to move to the manifest.
    pub tags: Vec<Tag>,
    /// The condition on the tags ([`super::PutManifest::if_match`]).
    pub if_match: Option<Option<Digest>>,
    /// The rule for the tags ([`super::PutManifest::guard`]).
    pub guard: Option<TagGuard>,
}

/// A write. It is rejected before it changes anything, or applied completely.
#[derive(Clone, Debug)]
pub enum Change {
    /// Links a blob into a repository and ends its upload. The blob backend has the bytes, or they are committed next.
    /// Rejected with [`crate::ErrorKind::UploadUnknown`] when that upload has ended: what another request has removed with it
    /// must not become a blob. If the blob is marked for removal, a new key clears the mark; the marked key is rejected with
    /// [`being_removed`](super::errors::being_removed), by which a store knows that it has to wait.
    LinkBlob {
        /// The repository, created when it does not exist.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The key of its bytes in the blob backend.
        key: BlobKey,
        /// The session to end, which must exist.
        upload: Option<UploadId>,
        /// The end of the lease of the link, in seconds since 1970. Until then the link is not collected. A longer
        /// lease stays.
        leased_until: i64,
    },
    /// Links a blob of another repository. Rejected with [`crate::ErrorKind::BlobUnknown`] when that repository does
    /// not have it.
    MountBlob {
        /// The repository, created when it does not exist.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The repository that has it.
        from: RepositoryName,
        /// The end of the lease of the new link.
        leased_until: i64,
    },
    /// Removes a link. Rejected with [`crate::ErrorKind::BlobUnknown`] when there is none.
    UnlinkBlob {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Extends the lease of a link, because a client got the answer that the blob exists. Rejected with
    /// [`crate::ErrorKind::BlobUnknown`] when there is no link.
    LeaseBlob {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The end of the lease, in seconds since 1970. A longer lease stays.
        until: i64,
    },
    /// Removes a link if no manifest of the repository references the blob and its lease has ended. Returns 1 if it was
    /// removed.
    CollectLink {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The time, in seconds since 1970.
        now: i64,
    },
    /// The first step of removing a blob permanently: marks it if no repository has it, and replaces an earlier mark.
    /// Returns 1 if it is marked. The caller then deletes the bytes, and finishes with [`Change::RemoveBlob`].
    CondemnBlob {
        /// The blob.
        digest: Digest,
        /// A number that no other garbage collector uses.
        mark: u64,
    },
    /// Removes the row of a blob if it still has this mark. Returns 1 if it was removed.
    RemoveBlob {
        /// The blob.
        digest: Digest,
        /// The mark.
        mark: u64,
    },
    /// The first step of removing bytes under a digest that no row names: makes a marked row for them unless the blob has
    /// a row. Returns 1 if it did. The caller then deletes the bytes, and finishes with [`Change::RemoveBlob`].
    CondemnBytes {
        /// The digest that is the key of the bytes.
        digest: Digest,
        /// Their size.
        size: u64,
        /// A number that no other garbage collector uses.
        mark: u64,
    },
    /// Marks a blob whose bytes under this key are damaged: from then on no repository has it, until it is linked with another
    /// key. Its row and its links stay. Linking the same key again is rejected with [`crate::ErrorKind::BlobUnknown`]. Returns 1
    /// if it is marked now, and 0 when its row names another key, or has this mark or that of a collector.
    ///
    /// Only for keys that no push uses again: bytes under a digest come after their link, so a mark could outlive them.
    QuarantineBlob {
        /// The blob.
        digest: Digest,
        /// The key of the damaged bytes.
        key: BlobKey,
    },
    /// Takes the right to scrub, or renews or ends it; one holder has it at a time. Returns 1 if this holder has it, and 0 while
    /// another one does.
    HoldScrub {
        /// A number that no other scrub uses.
        holder: u64,
        /// How long nobody else may have it, by the clock of the backend. With 0 the right ends.
        seconds: i64,
        /// How far the scrub is, when that is to be recorded.
        place: Option<ScrubPlace>,
    },
    /// Takes the right to delete old tags, or renews or ends it, as [`Change::HoldScrub`] does that to scrub. Returns 1 if this
    /// holder has it, and 0 while another one does.
    HoldRetention {
        /// A number that no other run uses.
        holder: u64,
        /// How long nobody else may have it, by the clock of the backend. With 0 the right ends.
        seconds: i64,
        /// When the run ended, if it did, in seconds since 1970.
        ended_at: Option<i64>,
    },
    /// Takes or renews a hold on all bytes, or ends it with 0 seconds; many may have one at once. Until it ends,
    /// [`Change::CondemnBlob`] marks no blob that has no mark yet, and [`Change::CondemnBytes`] makes no row: what a reader has
    /// found in the metadata since can be read. Returns 1, and 0 when a hold to be renewed has ended before.
    HoldBytes {
        /// A number that no other holder uses.
        holder: u64,
        /// For how many seconds, by the clock of the backend.
        seconds: i64,
        /// Whether the holder has it already.
        renews: bool,
    },
    /// Deletes a manifest if [`MetaBackend::unkept_manifests`] lists it. Returns 1 if it was deleted.
    CollectManifest {
        /// The repository.
        repository: RepositoryName,
        /// The manifest.
        digest: Digest,
        /// The time, in seconds since 1970.
        before: i64,
    },
    /// Stores a manifest and moves its tags. Rejected with [`crate::ErrorKind::ManifestBlobUnknown`] when the target of
    /// a required edge is missing, with [`crate::ErrorKind::SizeInvalid`] when an edge and its target have different
    /// sizes, with [`crate::ErrorKind::ManifestInvalid`] when the same bytes are stored under another media type, and
    /// with [`crate::ErrorKind::Conflict`] when a tag does not fulfil the condition, and with the error of its guard.
    PutManifest(Box<ManifestChange>),
    /// Deletes a manifest and its tags. Rejected with [`crate::ErrorKind::ManifestUnknown`] when it does not exist.
    DeleteManifest {
        /// The repository.
        repository: RepositoryName,
        /// The manifest.
        digest: Digest,
    },
    /// Deletes a tag. Rejected with [`crate::ErrorKind::ManifestUnknown`] when it does not exist.
    DeleteTag {
        /// The repository.
        repository: RepositoryName,
        /// The tag.
        tag: Tag,
    },
    /// Deletes a tag if it still names this manifest and was not pushed since. Returns 1 if it was deleted, and 0 when it is
    /// gone, was moved or was pushed again. The manifest then counts as stored now: what collects manifests without a tag leaves
    /// it for as long as after a push. Rejected with [`ErrorDetail::ClockWentBack`](crate::ErrorDetail::ClockWentBack) when the
    /// time that the transaction records lies before `judged_at`
    /// ([`check_judged_at`](super::errors::check_judged_at)).
    ExpireTag {
        /// The repository.
        repository: RepositoryName,
        /// The tag as [`MetaBackend::tag_records`] listed it.
        record: TagRecord,
        /// The time by which the tag is too old, as [`MetaBackend::fetch_time`] told it.
        judged_at: i64,
    },
    /// Deletes a manifest, a tag or a blob, as the changes above do, if the guard allows it for every tag that is deleted
    /// or needs the target ([`super::RegistryStore::delete_guarded`]). Rejected with the error of the guard.
    DeleteGuarded {
        /// The repository.
        repository: RepositoryName,
        /// What is deleted.
        target: DeleteTarget,
        /// The rule for the tags.
        guard: TagGuard,
    },
    /// Counts what a namespace uses from now on, and a piece of what it has: it begins where the last piece ended, whoever counted
    /// that, and lasts some tens of milliseconds. Returns 1 if more is left, and 0 when the namespace is counted, and for
    /// [`QuotaNamespace::Each`], which cannot be counted. Until all is counted, what is counted so far is what the namespace uses.
    CountNamespace {
        /// The namespace.
        namespace: QuotaNamespace,
        /// The most rows of blobs, manifests and tags that the piece has.
        rows: u64,
    },
    /// Ends the counts of some of the namespaces that have nothing and that no rule names. Returns where the next such change goes
    /// on, and 0 when no namespace is left.
    ForgetNamespaces {
        /// What the change before has returned, and 0 for the first one.
        after: u64,
    },
    /// Opens an upload session.
    StartUpload {
        /// The session.
        record: UploadRecord,
        /// The digest of the content, if the client has said it: no quota refuses an upload of a blob that the repository has.
        resends: Option<Digest>,
    },
    /// Saves the state of a session. Rejected with [`crate::ErrorKind::UploadUnknown`] when it does not exist, and with
    /// [`crate::ErrorKind::RangeInvalid`] when its saved offset is not `from`: another writer has saved it in the meantime
    /// ([`upload_moved`](super::errors::upload_moved)). With a `writer` it is rejected with
    /// [`claimed`](super::errors::claimed), too, when the claim is not that of this writer any more; else its claim ends, unless it keeps it.
    SaveUpload {
        /// The session.
        id: UploadId,
        /// The offset that the writer began at.
        from: u64,
        /// The new state.
        state: StagedState,
        /// The writer whose claim the state depends on.
        writer: Option<String>,
        /// Whether the claim goes on, because a request that failed may still write a part.
        keeps_claim: bool,
    },
    /// Claims a session for a writer, or prolongs its claim: until then no other one may claim it, end it or let it expire.
    /// Rejected as [`Change::SaveUpload`] is when the session does not exist or has moved, and with
    /// [`claimed`](super::errors::claimed) while another writer has it.
    ClaimUpload {
        /// The session.
        id: UploadId,
        /// The offset that the writer began at.
        from: u64,
        /// A name that no other writer has.
        writer: String,
        /// For how many seconds, by the clock of the backend.
        seconds: i64,
        /// Whether the writer has the claim already: rejected in the same way when another one has had it since.
        renews: bool,
    },
    /// Ends the claim of a writer, if it has one.
    ReleaseUpload {
        /// The session.
        id: UploadId,
        /// The writer.
        writer: String,
    },
    /// Seals a session: from now on it can be finished with this content only. Sealing it with the same content again is not
    /// an error. Rejected with [`crate::ErrorKind::UploadUnknown`] when the session does not exist, and when it is sealed with
    /// other content ([`sealed_otherwise`](super::errors::sealed_otherwise)); with [`crate::ErrorKind::RangeInvalid`] when it
    /// was saved further, and with [`claimed`](super::errors::claimed) when the writer has no claim or another one has had it
    /// since.
    SealUpload {
        /// The session.
        id: UploadId,
        /// The saved offset that the writer began at.
        from: u64,
        /// The writer.
        writer: String,
        /// The digest of the content by the algorithm of the session.
        content: Digest,
    },
    /// Ends a session. Ending it again is not an error. Rejected with [`claimed`](super::errors::claimed) while another
    /// writer than this one has claimed it.
    EndUpload {
        /// The session.
        id: UploadId,
        /// The writer that ends it.
        writer: Option<String>,
    },
    /// Ends a session that was not saved after a given time and that no writer has claimed. Returns 1 if it is kept.
    ExpireUpload {
        /// The session.
        id: UploadId,
        /// The time, in seconds since 1970.
        before: i64,
    },
    /// Changes the event log, and no content.
    Events(EventChange),
}

/// A backend that stores the metadata of a registry. `Display` shows the kind and the location of the backend.
///
/// ```
/// use hyper_sdk::store::blob::BlobKey;
/// use hyper_sdk::store::meta::{Change, MemoryMeta, MetaBackend};
/// use hyper_sdk::{Digest, RepositoryName};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let meta = MemoryMeta::default();
/// let (name, digest) = (RepositoryName::parse("team/app")?, Digest::sha256("hello"));
/// let size = meta
///     .write(Change::LinkBlob {
///         repository: name.clone(),
///         digest: digest.clone(),
///         size: 5,
///         key: BlobKey::Digest(digest.clone()),
///         upload: None,
///         leased_until: 0,
///     })
///     .await?;
/// assert_eq!(size, 5);
/// assert_eq!(meta.repositories_with(&digest, None, 10).await?.items, [name]);
/// assert!(meta.unlinked_blobs(None, 10).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait MetaBackend: Display + Debug + Send + Sync + 'static {
    /// Whether an acknowledged change survives a power failure.
    fn durable(&self) -> bool;

    /// Whether changes can be made at all.
    fn writable(&self) -> bool;

    /// A number that every committed change alters, in this process or another; `None` when the backend has no such
    /// number. Changes of upload sessions need not alter it. It is read for every request, so it must take only
    /// microseconds.
    fn version(&self) -> Option<u64>;

    /// A number like that of [`version`](Self::version), from a backend that has it in a database elsewhere. The number is
    /// read from the database after the call began; one question answers all callers that wait for it. `None` when the
    /// database does not answer, and when the backend has no such number or gives it with `version`.
    async fn fetch_version(&self) -> Option<u64> {
        None
    }

    /// The breaker in front of a database elsewhere.
    fn breaker(&self) -> Option<crate::breaker::Breaker> {
        None
    }

    /// The clock by which the backend records the times of changes: that of a database which several machines use.
    fn clock(&self) -> SharedClock {
        Arc::new(SystemClock)
    }

    /// The time that a change would record now, in seconds since 1970. That of a database elsewhere is read from it after the call
    /// began: the clock of one that another process uses may have been set back since this process has written to it.
    ///
    /// # Errors
    /// Those of the database.
    async fn fetch_time(&self) -> Result<i64> {
        Ok(self.clock().now())
    }

    /// Whether quotas can be enforced.
    fn has_quotas(&self) -> bool {
        false
    }

    /// See [`RegistryStore::set_quotas`](super::RegistryStore::set_quotas). Changes that add to a namespace are then rejected
    /// with [`quota_exceeded`](super::errors::quota_exceeded) before they pass its limits, and so are new upload sessions when
    /// no byte is left.
    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        match rules.is_empty() {
            true => Ok(()),
            false => Err(crate::Error::unsupported("the store cannot enforce quotas")),
        }
    }

    /// An upload with more bytes than this cannot become a blob of the repository because of its quotas, whatever it has.
    async fn largest_upload(&self, repository: &RepositoryName) -> Result<Option<u64>> {
        let _ = repository;
        Ok(None)
    }

    /// See [`RegistryStore::quota_use`](super::RegistryStore::quota_use).
    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        Ok(Vec::new())
    }

    /// See [`RegistryStore::is_counting`](super::RegistryStore::is_counting).
    async fn is_counting(&self) -> Result<bool> {
        Ok(false)
    }

    /// See [`RegistryStore::check_quotas`](super::RegistryStore::check_quotas).
    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        let _ = repair;
        Ok(Vec::new())
    }

    /// The events of the changes, which the transaction of each change records with its
    /// [`ChangeContext`](super::ChangeContext); `None` when the backend has none.
    fn event_log(&self) -> Option<SharedEventLog> {
        None
    }

    /// Applies a change atomically, even when the future is dropped. Returns the size of the linked blob, the number
    /// that the change documents, or 0.
    async fn write(&self, change: Change) -> Result<u64>;

    /// A blob that is linked into the repository, and not quarantined.
    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobRecord>>;

    /// A blob that is linked into the repository and not quarantined, and the end of the lease of its link, in seconds since 1970.
    async fn leased_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(BlobRecord, i64)>>;

    /// The row of each of these blobs, in any repository.
    async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>>;

    /// Whether the repository has each of these tags and manifests, in their order.
    async fn has_manifests(
        &self,
        repository: &RepositoryName,
        references: &[ManifestReference],
    ) -> Result<Vec<bool>> {
        let mut found = Vec::with_capacity(references.len());
        for reference in references {
            found.push(self.manifest(repository, reference).await?.is_some());
        }
        Ok(found)
    }

    /// At most `limit` of the repositories that have a blob, after the repository `after`, in an order that the backend
    /// chooses and does not change.
    async fn repositories_with(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>>;

    /// At most `limit` links to blobs that no manifest of their repository references and whose lease has ended at
    /// `now`: the links that [`Change::CollectLink`] removes. They come after the link `after`, which may be gone, in an
    /// order that the backend chooses and does not change.
    async fn unreferenced_links(
        &self,
        now: i64,
        after: Option<&BlobLink>,
        limit: usize,
    ) -> Result<Vec<BlobLink>>;

    /// At most `limit` manifests that nothing keeps: they were last stored no later than `before`, in seconds since 1970,
    /// and have no tag; and so it is with every index of the repository that has them as an entry, with their subject if
    /// the repository has it, and with what could keep those. They come after the manifest `after`, which may be gone, in
    /// an order that the backend chooses and does not change.
    async fn unkept_manifests(
        &self,
        before: i64,
        after: Option<&ManifestAt>,
        limit: usize,
    ) -> Result<Vec<ManifestAt>>;

    /// At most `limit` blobs that no repository has, after the digest `after`, in byte order.
    async fn unlinked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>>;

    /// At most `limit` blobs that a repository has, after the digest `after`, in byte order. Those that are marked are among them.
    async fn linked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>>;

    /// At most `limit` manifests that reference a blob, in any repository.
    async fn manifests_with(&self, digest: &Digest, limit: usize) -> Result<Vec<ManifestAt>>;

    /// How far the scrub is ([`Change::HoldScrub`]).
    async fn scrub_place(&self) -> Result<ScrubPlace>;

    /// When the last run of retention ended, in seconds since 1970 ([`Change::HoldRetention`]).
    async fn last_retention(&self) -> Result<Option<i64>>;

    /// Whether somebody holds all bytes just now ([`Change::HoldBytes`]), so that a collector need not try to remove some.
    async fn bytes_held(&self) -> Result<bool> {
        Ok(false)
    }

    /// Whether a row names each of these keys, in their order. A key may come twice. Bytes whose key no row names can be
    /// deleted, unless they are new.
    async fn has_keys(&self, keys: &[BlobKey]) -> Result<Vec<bool>>;

    /// A manifest by tag or by the digest that it is stored under.
    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Option<Manifest>>;

    /// At most `limit` tags after the text `after`, in byte order; `None` when the repository does not exist.
    async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<Tag>>>;

    /// [`MetaBackend::tags`], each tag with its manifest and the time of its last push.
    async fn tag_records(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<TagRecord>>>;

    /// At most `limit` repositories after the text `after`, in byte order, without those whose last manifest was
    /// deleted and to which nothing was pushed since.
    async fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Listing<RepositoryName>>;

    /// Descriptors of the manifests with this subject, ordered by digest, with artifact type and annotations.
    async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>>;

    /// An upload session, of any repository.
    async fn upload(&self, id: &UploadId) -> Result<Option<UploadRecord>>;

    /// The sessions that were started and saved no later than `before`, in seconds since 1970.
    async fn stale_uploads(&self, before: i64) -> Result<Vec<UploadId>>;
}

/// The descriptor of a manifest in a list of referrers (distribution-spec, "Listing Referrers").
pub fn referrer(manifest: &Manifest) -> Descriptor {
    Descriptor {
        artifact_type: manifest.artifact_type().map(str::to_owned),
        annotations: manifest.annotations().clone(),
        ..manifest.descriptor()
    }
}
