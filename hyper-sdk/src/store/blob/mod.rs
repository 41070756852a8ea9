//! Blob backends: bytes by digest, and the staging areas of uploads.
//!
//! A backend knows nothing of repositories, manifests and who may see what: that is metadata. It keeps two promises:
//! bytes are found under a key only when they have been checked against the digest of their blob (or the caller vouched
//! for them), and one staging area has one writer at a time.
//!
//! ```text
//!   put, adopt          ──▶  bytes under their digest                                       BlobKey::Digest
//!   stage … verify      ──▶  says which key the bytes get; metadata records it
//!           … commit    ──▶  bytes under their digest, or where they were staged already    BlobKey::Digest, ::Own
//! ```
//!
//! A store keeps everything in a backend with keys of its own through staging areas, so that each push has new bytes and
//! those of before can be read until the metadata names the new ones.
//!
//! [`blob_conformance!`](crate::blob_conformance) tests a backend.

mod disk;
mod leftovers;
mod memory;
mod reading;

pub use disk::DiskBlobs;
pub use memory::MemoryBlobs;

use super::{ByteStream, Listing, UploadId};
use crate::digest::Algorithm;
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::{self, Debug, Display};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The saved state of an upload: what a staging area needs to continue it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StagedState {
    /// How many bytes are staged.
    pub offset: u64,
    /// The saved state of the running hash over them ([`crate::digest::Hasher::save`]); empty at offset 0.
    pub hash: Vec<u8>,
    /// What else the backend needs to continue, in its own format, such as the parts that an object store has accepted.
    /// Empty when it needs nothing else.
    pub backend: Vec<u8>,
}

/// The key under which a backend finds the bytes of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlobKey {
    /// The digest of the blob.
    Digest(Digest),
    /// A key that the backend chose and never uses twice, such as that of the object that an upload was written to.
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
    /// When they were stored.
    pub modified: SystemTime,
}

/// What [`BlobStaging::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The size of the content.
    pub size: u64,
    /// The key of the bytes once they are committed.
    pub key: BlobKey,
}

impl Verified {
    /// Content of this size, to be kept under its digest.
    pub fn by_digest(digest: &Digest, size: u64) -> Self {
        Self { size, key: BlobKey::Digest(digest.clone()) }
    }
}

/// Keeps the bytes of blobs.
///
/// `Display` shows the kind and the place, for people. Every method may be called from many tasks at once, and dropping a
/// future leaves bytes whole or absent.
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
/// // Bytes that are at hand.
/// let (hello, digest) = ("hello", Digest::sha256("hello"));
/// blobs.put(&digest, hello.into()).await?;
/// assert_eq!(blobs.sizes(&[BlobKey::Digest(digest.clone())]).await?, [Some(5)]);
/// // Bytes that come in parts: they are verified first and committed then.
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
    /// Whether bytes that were acknowledged survive a power cut.
    fn durable(&self) -> bool;

    /// Whether [`BlobStaging::verify`] may name a [`BlobKey::Own`], so that the key of a blob must be looked up in the
    /// metadata.
    fn has_own_keys(&self) -> bool;

    /// Stores bytes that the caller has checked against `digest` under it. Storing the same blob again is not an error; it
    /// repairs damaged bytes.
    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()>;

    /// Takes over the file at `path`, whose content the caller has checked, under its digest. The file is then gone. Returns
    /// its size.
    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64>;

    /// The sizes of the bytes that are there under each key, `None` where there are none. It does not read them.
    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>>;

    /// Reads `length` bytes from `offset`. The caller has clipped both to the `size` of the blob that it knows.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`], at once or within the stream, when the bytes are missing or have another size
    /// ([`missing_bytes`](super::errors::missing_bytes)).
    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream>;

    /// The file that holds exactly the bytes under a key, when there is such a file.
    fn path(&self, key: &BlobKey) -> Option<PathBuf>;

    /// Removes bytes that do not match the digest of their blob. Returns whether they were damaged.
    async fn remove_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool>;

    /// Deletes bytes, as durably as the backend promises. Returns whether there were any. A reader of them continues or
    /// gets an error.
    ///
    /// The caller makes sure that no answer says in the meantime that the bytes are there
    /// ([`Change::CondemnBlob`](super::meta::Change::CondemnBlob)).
    async fn delete(&self, key: &BlobKey) -> Result<bool>;

    /// At most `limit` of the stored bytes, after the key `after`, in an order that the backend chooses and does not
    /// change. Bytes that are stored or deleted in the meantime may be listed or not. Staged bytes are not listed.
    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>>;

    /// Opens the staging area of an upload, for one writer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] while another writer has it open, in this process or another
    /// ([`busy`](super::errors::busy)).
    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>>;

    /// The staging areas that hold bytes, also those that were never saved and those that have a writer.
    async fn staged(&self) -> Result<Vec<UploadId>>;

    /// Removes leftovers that belong to no upload and were not written to after `before`. Returns the staging areas that
    /// were not written to after it either; the caller knows whether their sessions still exist.
    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>>;
}

/// A staging area that this writer holds. Dropping it lets another writer in.
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
    /// Goes back to a saved state and forgets what came after. Called once, before anything else.
    ///
    /// `algorithm` is the hash that runs along when nothing is staged yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::UploadUnknown`] when the staged bytes are gone.
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()>;

    /// Appends bytes. After an error the area stands where it stood before.
    async fn append(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the staged bytes as durable as the backend promises, and returns the state to save.
    async fn save(&mut self) -> Result<StagedState>;

    /// Checks the digest of everything staged and makes it last. Says what the bytes will be known by.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the content is another; it is then still staged.
    async fn verify(&mut self, digest: &Digest) -> Result<Verified>;

    /// Makes a blob of what [`BlobStaging::verify`] found to have this digest: the bytes are under the key that it said, and
    /// not staged any more. Where the key is that of the staged bytes themselves, nothing is copied.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when it was not verified since the last change.
    async fn commit(&mut self, digest: &Digest) -> Result<()>;

    /// Removes what is staged.
    async fn discard(&mut self) -> Result<()>;
}
