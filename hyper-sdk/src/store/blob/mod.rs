//! Blob backends: bytes by digest, and the staging areas of uploads.
//!
//! A backend does not know repositories, manifests or permissions: they are metadata. It guarantees two things: bytes
//! are found under a key only if they were checked against the digest of their blob (by the backend or the caller), and
//! a staging area has one writer at a time.
//!
//! ```text
//!   put, adopt          ──▶  bytes under their digest                                       BlobKey::Digest
//!   stage … verify      ──▶  returns the key of the bytes; metadata records it
//!           … commit    ──▶  bytes under their digest, or where they were staged already    BlobKey::Digest, ::Own
//! ```
//!
//! In a backend with its own keys, a store writes everything through staging areas. Each push then stores new bytes,
//! and the earlier bytes can be read until the metadata names the new ones.
//!
//! [`blob_conformance!`](crate::blob_conformance) tests a backend.

mod disk;
mod leftovers;
mod memory;
mod reading;
pub(crate) use self::reading::file_stream;
#[cfg(feature = "store-s3")]
mod s3;

#[cfg(feature = "store-sql")]
pub(crate) use disk::BACKUP_MARKER;
pub use disk::DiskBlobs;
pub use memory::MemoryBlobs;
#[cfg(feature = "store-s3")]
pub use s3::S3Blobs;

use super::{ByteStream, Listing, UploadId};
use crate::breaker::Breaker;
use crate::digest::Algorithm;
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::{self, Debug, Display};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The saved state of an upload: what a staging area needs to resume it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StagedState {
    /// How many bytes are staged.
    pub offset: u64,
    /// The saved state of the running hash over them ([`crate::digest::Hasher::save`]); empty at offset 0.
    pub hash: Vec<u8>,
    /// Further state of the backend in its own format, such as the parts that an object store has accepted. Empty when
    /// the backend needs none.
    pub backend: Vec<u8>,
}

/// The key under which a backend finds the bytes of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlobKey {
    /// The digest of the blob.
    Digest(Digest),
    /// A key that the backend chooses and never reuses, such as the key of the object that an upload was written to.
    Own(String),
}

impl From<Digest> for BlobKey {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => Display::fmt(digest, f),
            Self::Own(name) => f.write_str(name),
        }
    }
}

/// Bytes that a backend stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBytes {
    /// Their key.
    pub key: BlobKey,
    /// Their size.
    pub size: u64,
    /// When they were stored; `None` while the upload that they are of has not ended: then nobody may take them for left.
    pub modified: Option<SystemTime>,
}

/// The result of [`BlobStaging::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The size of the content.
    pub size: u64,
    /// The key of the bytes once they are committed.
    pub key: BlobKey,
}

impl Verified {
    /// Content of this size that is stored under its digest.
    pub fn by_digest(digest: &Digest, size: u64) -> Self {
        Self { size, key: BlobKey::Digest(digest.clone()) }
    }
}

/// The right of [`BlobBackend::deletion_right`].
pub type DeletionRight = Box<dyn std::any::Any + Send + Sync>;

/// A backend that stores the bytes of blobs.
///
/// `Display` shows the kind and the location of the backend. Every method may be called from many tasks at once.
/// Dropping a future leaves the bytes of a blob complete or absent.
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::digest::Algorithm;
/// use hyper_sdk::store::UploadId;
/// use hyper_sdk::store::blob::{BlobBackend, BlobKey, MemoryBlobs, StagedState};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let blobs = MemoryBlobs::default();
/// // Bytes in memory.
/// let (hello, digest) = ("hello", Digest::sha256("hello"));
/// blobs.put(&digest, hello.into()).await?;
/// assert_eq!(blobs.sizes(&[BlobKey::Digest(digest.clone())]).await?, [Some(5)]);
/// // Bytes that arrive in parts: they are verified first and then committed.
/// let mut staging = blobs.stage(&UploadId::random()?).await?;
/// staging.restore(&StagedState::default(), Algorithm::Sha256).await?;
/// staging.append("hello ".into()).await?;
/// staging.append("world".into()).await?;
/// let digest = Digest::sha256("hello world");
/// let verified = staging.verify(&digest).await?;
/// staging.commit(&digest).await?;
/// assert_eq!(blobs.list(None, 10).await?.items.len(), 2);
/// assert!(blobs.delete(&verified.key).await?);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait BlobBackend: Display + Debug + Send + Sync + 'static {
    /// Whether acknowledged bytes survive a power failure.
    fn durable(&self) -> bool;

    /// Whether [`BlobStaging::verify`] may return a [`BlobKey::Own`], so that the key of a blob must be looked up in
    /// the metadata.
    fn has_own_keys(&self) -> bool;

    /// The breaker in front of a service that has the bytes, if they are elsewhere.
    fn breaker(&self) -> Option<Breaker> {
        None
    }

    /// Stores bytes that the caller has checked against `digest` under it. Storing the same blob again is not an error; it
    /// repairs damaged bytes.
    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()>;

    /// Moves the file at `path`, whose content the caller has checked, into the backend under its digest. Returns its
    /// size.
    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64>;

    /// The size of the bytes under each key; `None` where there are none. It does not read the bytes.
    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>>;

    /// Reads `length` bytes from `offset`. The caller has limited both to the recorded `size` of the blob.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`], directly or within the stream, when the bytes are missing or have another size
    /// ([`missing_bytes`](super::errors::missing_bytes)).
    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream>;

    /// The file that holds exactly the bytes under a key, when there is such a file.
    fn path(&self, key: &BlobKey) -> Option<PathBuf>;

    /// Removes bytes that do not match the digest of their blob. Returns whether they were damaged.
    async fn remove_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool>;

    /// Keeps bytes that do not match the digest of their blob where no reader finds them, for whoever wants to look at them:
    /// reads all of them, and moves them away. A push of the blob in the meantime is left alone. A backend with keys of its own
    /// moves nothing, because the metadata say that the key is not read any more
    /// ([`Change::QuarantineBlob`](super::meta::Change::QuarantineBlob)). Returns whether they are damaged; missing bytes are not.
    /// By default they are removed.
    ///
    /// # Errors
    /// Those of reading: bytes that cannot be read are not taken for damaged ones.
    async fn set_aside(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        self.remove_damaged(key, digest).await
    }

    /// Removes what [`BlobBackend::set_aside`] has moved away before a time. Returns how much it was.
    async fn forget_set_aside(&self, before: SystemTime) -> Result<u64> {
        let _ = before;
        Ok(0)
    }

    /// Deletes bytes, as durably as [`BlobBackend::durable`] says. Returns whether there were any. A concurrent reader
    /// continues or gets an error.
    ///
    /// The caller marks the blob first, so that no request reports the bytes as present in the meantime
    /// ([`Change::CondemnBlob`](super::meta::Change::CondemnBlob)).
    async fn delete(&self, key: &BlobKey) -> Result<bool>;

    /// The right to delete bytes under a digest, which one caller has at a time, across processes; `None` while another
    /// has it. It ends with the value, and with the process.
    ///
    /// A collector that has been stopped after it marked a blob could otherwise go on when the blob was removed by another
    /// collector and pushed again. A backend whose keys are its own needs no such right: it never uses a key again. Every
    /// other backend must have one.
    async fn deletion_right(&self) -> Result<Option<DeletionRight>> {
        Ok(Some(Box::new(())))
    }

    /// At most `limit` of the stored bytes, after the key `after`, in an order that the backend chooses and does not
    /// change. Bytes that are stored or deleted concurrently may be listed or not. Staged bytes are not listed.
    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>>;

    /// Opens the staging area of an upload, for one writer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] while another writer has it open, in this process or another
    /// ([`busy`](super::errors::busy)).
    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>>;

    /// The ids of the staging areas that hold bytes, including those that were never saved and those that have a
    /// writer. An area without bytes that a dead writer left may be among them, and not one that a writer begins.
    async fn staged(&self) -> Result<Vec<UploadId>>;

    /// Removes leftovers that belong to no upload and were not written to after `before`. Returns the ids of the
    /// staging areas that were not written to after `before` either; the caller knows whether their sessions still
    /// exist.
    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>>;
}

/// A staging area that this writer holds. Dropping it releases the area for another writer.
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::digest::Algorithm;
/// use hyper_sdk::store::UploadId;
/// use hyper_sdk::store::blob::{BlobBackend as _, MemoryBlobs, StagedState};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (blobs, upload) = (MemoryBlobs::default(), UploadId::random()?);
/// let mut staging = blobs.stage(&upload).await?;
/// staging.restore(&StagedState::default(), Algorithm::Sha256).await?;
/// staging.append("hello ".into()).await?;
/// let saved = staging.save().await?;
/// drop(staging);
/// // The next request of the upload goes on from there.
/// let mut staging = blobs.stage(&upload).await?;
/// staging.restore(&saved, Algorithm::Sha256).await?;
/// staging.append("world".into()).await?;
/// let digest = Digest::sha256("hello world");
/// assert_eq!(staging.verify(&digest).await?.size, 11);
/// staging.commit(&digest).await?;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait BlobStaging: Debug + Send + Sync + 'static {
    /// Restores a saved state and discards the bytes after it. Called once, before every other method.
    ///
    /// `algorithm` is the algorithm of the running hash when nothing is staged yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::UploadUnknown`] when the staged bytes are gone.
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()>;

    /// Appends bytes. After an error the area is as it was before.
    async fn append(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the staged bytes as durable as the backend promises, and returns the state to save.
    async fn save(&mut self) -> Result<StagedState>;

    /// The content that a store must seal the session with ([`Change::SealUpload`](super::meta::Change::SealUpload)) before it
    /// calls [`BlobStaging::verify`]: the digest of everything staged, by the algorithm of the running hash. `None`, as by
    /// default, where no other process can finish the upload with what this one has staged.
    ///
    /// A server of S3 may say of an upload in parts that it has completed it when another request had, with other parts. Of
    /// finishers with one content, it does not matter whose request counts.
    fn seal(&self) -> Option<Digest> {
        None
    }

    /// Whether appending so many bytes replaces what another process may have written for the upload, so that the store must
    /// claim the session first ([`Change::ClaimUpload`](super::meta::Change::ClaimUpload)). Never, as by default, where
    /// nobody else can have the area open.
    fn needs_claim(&self, _appended: u64) -> bool {
        false
    }

    /// Whether others wait for the memory that this area has had for a while. The store then saves the session, and opens the
    /// area again, which waits for its turn.
    fn keeps_others_waiting(&self) -> bool {
        false
    }

    /// Checks the digest of everything staged, and makes the bytes durable. Returns the size, and the key of the bytes
    /// once they are committed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the content does not match; it then stays staged.
    async fn verify(&mut self, digest: &Digest) -> Result<Verified>;

    /// Commits the bytes that [`BlobStaging::verify`] checked against this digest: they are then stored under the
    /// returned key, and no longer staged. When the key is that of the staged bytes, nothing is copied.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when the content was not verified after the last change.
    async fn commit(&mut self, digest: &Digest) -> Result<()>;

    /// Removes the staged bytes. Those that were committed stay; what else the area keeps goes. A store calls this when the
    /// metadata name the bytes: until then, a backend with keys of its own may keep what it takes to end the upload again.
    async fn discard(&mut self) -> Result<()>;
}
