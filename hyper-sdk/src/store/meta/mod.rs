//! Metadata backends: repositories, links to blobs, manifests with their references, tags and upload sessions.
//!
//! Reads are methods; every write is one [`Change`], which is applied atomically. Because a write is a value, the SQL
//! backend can put the writes of many callers into one transaction, and a test backend can fail the k-th write.

mod change;
mod event_drafts;
mod memory;
mod records;
#[cfg(feature = "store-sql")]
mod row;
#[cfg(feature = "store-sql")]
mod sql;
mod tokens;

pub use super::edge::{Edge, EdgeKind};
pub use change::{Change, ManifestChange};
pub use memory::MemoryMeta;
#[cfg(feature = "store-sql")]
pub(super) use records::NOTE_AGAIN;
pub use records::{
    BlobLink, BlobRecord, Deletion, ManifestAt, ScrubPlace, TagRecord, UnkeptManifest, UploadRecord,
};
pub(super) use records::{MOST_KEPT_TAGS, NOTES_GAP, is_noted_again};
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

use super::blob::BlobKey;
use super::{Listing, QuotaCheck, QuotaRules, QuotaUse, SharedEventLog, UploadId};
use crate::clock::{SharedClock, SystemClock};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Result};
use async_trait::async_trait;
use std::fmt::{Debug, Display};
use std::sync::Arc;

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
    /// the repository has it, and with what could keep those. What was deleted within a window that has not ended keeps as if it was
    /// there. They come after the manifest `after`, which may be gone, in
    /// an order that the backend chooses and does not change.
    async fn unkept_manifests(
        &self,
        before: i64,
        after: Option<&ManifestAt>,
        limit: usize,
    ) -> Result<Vec<UnkeptManifest>>;

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

    /// Lets tags and manifests that this process deletes be undeleted for so many seconds, from now on; 0 ends that. What
    /// was deleted before keeps its own window.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when deletions cannot be undone.
    fn set_undelete_window(&self, seconds: i64) -> Result<()> {
        match seconds {
            0 => Ok(()),
            _ => Err(crate::Error::unsupported("the store cannot undo deletions")),
        }
    }

    /// At most `limit` deletions whose window has not ended, after the one with the number `after`, of a repository or of all.
    async fn deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        let _ = (repository, after, limit);
        Ok(Listing { items: Vec::new(), more: false })
    }

    /// The last deletion of a tag whose window has not ended, unless it names the same manifest again.
    async fn deletion_of(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Deletion>> {
        let _ = (repository, tag);
        Ok(None)
    }

    /// A deleted manifest whose window has not ended.
    async fn deleted_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>> {
        let _ = (repository, digest);
        Ok(None)
    }

    /// Since when the pulls of all servers are noted ([`Change::NotePulls`]), in seconds since 1970: what has no note was not pulled
    /// since. `None` when they are not, or when nobody has told for a day
    /// that they are.
    async fn pulls_noted_since(&self) -> Result<Option<i64>> {
        Ok(None)
    }

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

    /// [`MetaBackend::tags`], each tag with its manifest and the times of its last push and pull.
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
