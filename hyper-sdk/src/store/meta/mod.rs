//! Metadata backends: repositories, links to blobs, manifests with what they reference, tags and upload sessions.
//!
//! Reads are methods; every write is one [`Change`], applied whole or not at all. That a write is a value is what lets
//! the SQL backend put the writes of many callers into one transaction, and a test backend fail the k-th of them.

mod memory;
#[cfg(feature = "store-sql")]
mod sql;

pub use super::edge::{Edge, EdgeKind};
pub use memory::MemoryMeta;
#[cfg(feature = "store-sql")]
pub use sql::SqlMeta;

use super::blob::{BlobKey, StagedState};
use super::errors::{manifest_blob_unknown, size_differs};
use super::{Listing, UploadId};
use crate::digest::Algorithm;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Result};
use async_trait::async_trait;
use std::fmt::{Debug, Display};

/// What is known of a blob, whichever repositories have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The key of its bytes in the blob backend.
    pub key: BlobKey,
    /// The mark of the collector that is removing it ([`Change::CondemnBlob`]).
    pub condemned: Option<u64>,
}

/// That a repository has a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobLink {
    /// The repository.
    pub repository: RepositoryName,
    /// The blob.
    pub digest: Digest,
}

/// A row of the table of upload sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRecord {
    /// The name of the session.
    pub id: UploadId,
    /// The repository that the blob is for, which need not exist yet.
    pub repository: RepositoryName,
    /// The hash that runs along.
    pub algorithm: Algorithm,
    /// What the staging area is to go on from.
    pub state: StagedState,
}

impl Edge {
    /// Checks the edge against the size in a blob's row.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SizeInvalid`] when the manifest says another size, and [`crate::ErrorKind::ManifestBlobUnknown`] when the
    /// edge is required and the bytes of the blob are missing or cut short.
    pub fn check_blob(&self, change: &ManifestChange, size: u64) -> Result<()> {
        self.check_size(size)?;
        if self.required && self.stored != Some(size) {
            return Err(manifest_blob_unknown(&change.repository, self));
        }
        Ok(())
    }

    /// Checks the edge against the size of what it points to.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SizeInvalid`] when the manifest says another size.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if self.size == size {
            return Ok(());
        }
        Err(size_differs(self, size))
    }
}

/// A manifest to be stored, with the conditions on it.
#[derive(Clone, Debug)]
pub struct ManifestChange {
    /// Where.
    pub repository: RepositoryName,
    /// The manifest, under its digest.
    pub manifest: Manifest,
    /// What it references, each digest at most once.
    pub edges: Vec<Edge>,
    /// The tags that move to it.
    pub tags: Vec<Tag>,
    /// What each of the tags must name beforehand ([`super::PutManifest::if_match`]).
    pub if_match: Option<Option<Digest>>,
}

/// A write. It is refused before it changes anything, or done as a whole.
#[derive(Clone, Debug)]
pub enum Change {
    /// Links a blob, whose bytes the blob backend has or is about to have, into a repository, and ends the upload that
    /// brought it. A blob that is marked for removal is kept when its bytes have a new key, and refused with
    /// [`crate::ErrorKind::Unavailable`] when they have the key that is being removed.
    LinkBlob {
        /// The repository, made when it does not exist.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The key of its bytes in the blob backend.
        key: BlobKey,
        /// The session that ends with it.
        upload: Option<UploadId>,
        /// The lease of the link, in seconds since 1970: until then it is not collected. A longer one stays.
        leased_until: i64,
    },
    /// Links a blob of another repository. Refused with [`crate::ErrorKind::BlobUnknown`] when that one does not have it.
    MountBlob {
        /// The repository, made when it does not exist.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The repository that has it.
        from: RepositoryName,
        /// The lease of the new link.
        leased_until: i64,
    },
    /// Removes a link. Refused with [`crate::ErrorKind::BlobUnknown`] when there is none.
    UnlinkBlob {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Extends the lease of a link, because a client was told that the blob is there. Refused with [`crate::ErrorKind::BlobUnknown`] when there
    /// is none.
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
    /// The first step of removing a blob for good: marks it if no repository has it, in place of an earlier mark. Returns
    /// 1 if it is marked. The caller then deletes its bytes, and ends with [`Change::RemoveBlob`].
    CondemnBlob {
        /// The blob.
        digest: Digest,
        /// A number that no other collector uses.
        mark: u64,
    },
    /// Removes the row of a blob that still has this mark. Returns 1 if it was removed.
    RemoveBlob {
        /// The blob.
        digest: Digest,
        /// The mark.
        mark: u64,
    },
    /// Stores a manifest and moves its tags. Refused with [`crate::ErrorKind::ManifestBlobUnknown`] when the target of
    /// a required edge is missing, with [`crate::ErrorKind::SizeInvalid`] when an edge has another size than what it points to, with
    /// [`crate::ErrorKind::ManifestInvalid`] when the same bytes are there under another media type, and with
    /// [`crate::ErrorKind::Conflict`] when a tag does not name what it must.
    PutManifest(Box<ManifestChange>),
    /// Deletes a manifest and its tags. Refused with [`crate::ErrorKind::ManifestUnknown`] when it does not exist.
    DeleteManifest {
        /// The repository.
        repository: RepositoryName,
        /// The manifest.
        digest: Digest,
    },
    /// Deletes a tag. Refused with [`crate::ErrorKind::ManifestUnknown`] when it does not exist.
    DeleteTag {
        /// The repository.
        repository: RepositoryName,
        /// The tag.
        tag: Tag,
    },
    /// Opens an upload session.
    StartUpload(UploadRecord),
    /// Saves the state of a session. Refused with [`crate::ErrorKind::UploadUnknown`] when it does not exist.
    SaveUpload {
        /// The session.
        id: UploadId,
        /// Its state now.
        state: StagedState,
    },
    /// Ends a session. Ending it again is not an error.
    EndUpload {
        /// The session.
        id: UploadId,
    },
    /// Ends a session that was not saved after a time. Returns 1 if it was saved later, and is therefore kept.
    ExpireUpload {
        /// The session.
        id: UploadId,
        /// Seconds since 1970.
        before: i64,
    },
}

/// Keeps the metadata of a registry. `Display` shows the kind and the place, for people.
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
    /// Whether a change that was acknowledged survives a power cut.
    fn durable(&self) -> bool;

    /// Whether changes can be made at all.
    fn writable(&self) -> bool;

    /// A number that every committed change alters, in this process or another; `None` when the backend has no such number.
    /// Changes of upload sessions need not alter it. Every request asks for it, so it must come within microseconds.
    fn version(&self) -> Option<u64>;

    /// Applies a change, as a whole or not at all, also when the future is dropped. Returns the size of the blob that it
    /// linked, the number that the change documents, or 0.
    async fn write(&self, change: Change) -> Result<u64>;

    /// A blob that is linked into the repository.
    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobRecord>>;

    /// The row of each of these blobs, in any repository.
    async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>>;

    /// At most `limit` of the repositories that have a blob, after the repository `after`, in an order that the backend
    /// chooses and does not change.
    async fn repositories_with(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>>;

    /// At most `limit` links to blobs that no manifest of their repository references and whose lease has ended `now`: those
    /// that [`Change::CollectLink`] removes.
    async fn unreferenced_links(&self, now: i64, limit: usize) -> Result<Vec<BlobLink>>;

    /// At most `limit` blobs that no repository has, after the digest `after`, in byte order.
    async fn unlinked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>>;

    /// Whether a blob has its bytes under this key. Bytes whose key no blob has can be deleted, unless they are new.
    async fn has_key(&self, key: &BlobKey) -> Result<bool>;

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

    /// At most `limit` repositories after the text `after`, in byte order, without those whose last manifest was deleted
    /// and that got nothing since.
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

/// The entry of a referrers list for a manifest (distribution-spec, "Listing Referrers").
pub fn referrer(manifest: &Manifest) -> Descriptor {
    Descriptor {
        artifact_type: manifest.artifact_type().map(str::to_owned),
        annotations: manifest.annotations().clone(),
        ..manifest.descriptor()
    }
}
