//! Blob backends: bytes by digest, and the staging areas of uploads.
//!
//! A backend knows nothing of repositories, manifests and who may see what: that is metadata. It keeps two promises:
//! bytes are found under a digest only when they have been checked against it (or the caller vouched for them), and
//! one staging area has one writer at a time.

mod disk;
mod leftovers;
mod memory;
mod reading;

pub use disk::DiskBlobs;
pub use memory::MemoryBlobs;

use super::{ByteStream, UploadId};
use crate::digest::Algorithm;
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::{Debug, Display};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where an upload stands: what a staging area needs to go on, and nothing that changes with each byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StagedState {
    /// How many bytes are staged.
    pub offset: u64,
    /// The saved state of the running hash over them ([`crate::digest::Hasher::save`]); empty at offset 0.
    pub hash: Vec<u8>,
}

/// Keeps the bytes of blobs.
///
/// `Display` shows the kind and the place, for people.
#[async_trait]
pub trait BlobBackend: Display + Debug + Send + Sync + 'static {
    /// Whether bytes that were acknowledged survive a power cut.
    fn durable(&self) -> bool;

    /// Stores bytes that the caller has checked against `digest`. Storing the same blob again is no error.
    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()>;

    /// Takes over the file at `path`, whose content is vouched for. The file is gone afterwards.
    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64>;

    /// The sizes of the bytes that are there under each digest, `None` where there are none. It does not read them.
    async fn sizes(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>>;

    /// Reads `length` bytes from `offset`. The caller has clipped both to the `size` of the blob that it knows.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`], at once or within the stream, when the bytes are not there.
    async fn read(&self, digest: &Digest, size: u64, offset: u64, length: u64) -> Result<ByteStream>;

    /// The file that holds exactly the bytes of the blob, when there is such a file.
    fn path(&self, digest: &Digest) -> Option<PathBuf>;

    /// Takes the bytes of a blob away when they are others than its digest says. Returns whether they were.
    async fn remove_damaged(&self, digest: &Digest) -> Result<bool>;

    /// Opens the staging area of an upload, for one writer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] while another writer has it open, in this process or another.
    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>>;

    /// The staging areas that hold bytes, whoever writes to them.
    async fn staged(&self) -> Result<Vec<UploadId>>;

    /// Removes what was left behind, belongs to no upload and was not written to after `before`, and names the staging
    /// areas that were not written to after it either: whether their sessions still exist, the caller knows.
    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>>;
}

/// A staging area that this writer holds. Dropping it lets another writer in.
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

    /// Makes what is staged last as long as the backend promises, and says where it stands.
    async fn save(&mut self) -> Result<StagedState>;

    /// Checks the digest of everything staged and makes it last. Returns its size.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the content is another; it is then still staged.
    async fn verify(&mut self, digest: &Digest) -> Result<u64>;

    /// Makes a blob of what [`BlobStaging::verify`] found to have this digest.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when it was not verified since the last change.
    async fn commit(&mut self, digest: &Digest) -> Result<()>;

    /// Removes what is staged.
    async fn discard(&mut self) -> Result<()>;
}
