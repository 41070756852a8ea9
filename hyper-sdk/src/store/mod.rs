//! Registry stores: the trait, its composition from a blob and a metadata backend, and the backends.
//!
//! ```text
//!   RegistryStore            what a registry server, the builder and the client's loopback talk to
//!        │
//!   Composed<B, M>           the semantics, once: digests checked, references kept whole, tags moved last
//!     ├── B: BlobBackend     bytes by digest, uploads by id          (blob/: memory, disk)
//!     └── M: MetaBackend     repositories, links, manifests, tags    (meta/: memory, sql)
//! ```
//!
//! # Invariants
//! - A blob can be read in a repository only through a link: there is no leak from one repository to another.
//! - A manifest is accepted only when everything it references is in its repository; tags move last.
//! - What was acknowledged is durable, as far as the backend's [`StoreCapabilities::durable`] says.

pub mod blob;
mod composed;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod damage;
mod ext;
mod local_name;
pub mod meta;
pub mod wrap;

pub use composed::{Composed, MAX_PAGE};
pub use ext::{MAX_CONFIG, RegistryStoreExt, StoredImage};

pub use local_name::{find_local, local_reference, local_repository};

use crate::digest::Algorithm;
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

/// What a store can do beyond pull and push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCapabilities {
    /// Content can be written.
    pub write: bool,
    /// Manifests, tags and blobs can be deleted.
    pub delete: bool,
    /// An upload can be resumed from another handle, also after the process was restarted if `durable`.
    pub resume: bool,
    /// What was acknowledged survives the end of the process and a power cut.
    pub durable: bool,
}

impl StoreCapabilities {
    /// Everything.
    pub const ALL: Self = Self { write: true, delete: true, resume: true, durable: true };
    /// Everything but durability.
    pub const VOLATILE: Self = Self { durable: false, ..Self::ALL };
    /// Reading only.
    pub const READ_ONLY: Self = Self { write: false, delete: false, resume: false, durable: true };
}

/// A range of bytes that is asked for. Ends are inclusive, as in HTTP (RFC 9110, section 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first offset to the last, both included; `None` means the end of the content.
    FromTo(u64, Option<u64>),
    /// The last bytes, as many as this.
    Suffix(u64),
}

impl ByteRange {
    /// The offset and length within content of `size` bytes, clipped to it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::RangeInvalid`] when no byte of the content is in the range.
    pub fn resolve(self, size: u64) -> Result<(u64, u64)> {
        let bad = || {
            crate::Error::new(crate::ErrorKind::RangeInvalid, "the range is outside the content")
                .with_context("size", size)
        };
        match self {
            Self::FromTo(first, last) => {
                let end = last.map_or(size, |l| l.saturating_add(1).min(size));
                if first >= size || last.is_some_and(|l| l < first) {
                    return Err(bad());
                }
                Ok((first, end - first))
            }
            Self::Suffix(0) => Err(bad()),
            Self::Suffix(_) if size == 0 => Err(bad()),
            Self::Suffix(n) => {
                let n = n.min(size);
                Ok((size - n, n))
            }
        }
    }
}

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

/// The name of an upload session: 32 lower-case hexadecimal characters, not to be guessed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(String);

impl UploadId {
    /// A new random name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the system has no random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0u8; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(std::io::Error::from)?;
        }
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// Parses a name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::UploadUnknown`] when no session can have this name.
    pub fn parse(s: &str) -> Result<Self> {
        if s.len() == 32 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(s.to_owned()));
        }
        Err(crate::Error::new(crate::ErrorKind::UploadUnknown, "no such upload"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How to start an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadOptions {
    /// The algorithm that the digest will have, when the client said so; else it is learnt at the end.
    pub algorithm: Option<Algorithm>,
}

/// An upload in progress.
///
/// Dropping the handle keeps the session: [`RegistryStore::resume_upload`] finds it again with every byte that
/// [`BlobUpload::save`] acknowledged; bytes appended after that may be forgotten. Two handles on one session do not corrupt it: the second writer gets
/// [`crate::ErrorKind::Conflict`] or [`crate::ErrorKind::RangeInvalid`].
#[async_trait]
pub trait BlobUpload: Debug + Send + 'static {
    /// The name of the session.
    fn id(&self) -> &UploadId;

    /// How many bytes have arrived.
    fn offset(&self) -> u64;

    /// Appends bytes, and returns when they are taken.
    async fn append(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes every byte appended so far, and the offset, part of the session, so that another handle finds them.
    async fn save(&mut self) -> Result<()>;

    /// Ends the session: checks the digest of everything appended and links the blob into the repository.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the content is another; the session has then ended too.
    async fn finish(self: Box<Self>, digest: &Digest) -> Result<Descriptor>;

    /// Ends the session and forgets its bytes.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// A manifest to store.
#[derive(Clone, Debug)]
pub struct PutManifest {
    /// The manifest; its digest is what it is stored under.
    pub manifest: Manifest,
    /// The tags that will name it, moved after it is stored, all or none.
    pub tags: Vec<Tag>,
    /// Only when each of `tags` now names this digest (`None`: names nothing), else [`crate::ErrorKind::Conflict`].
    pub if_match: Option<Option<Digest>>,
    /// Accepts the manifest also when what it references is not there (distribution-spec, "Pushing Manifests", leaves
    /// that to the registry).
    pub sparse: bool,
}

impl PutManifest {
    /// A manifest with its tags, without condition, whose references must be there.
    pub fn new(manifest: Manifest, tags: impl IntoIterator<Item = Tag>) -> Self {
        Self { manifest, tags: tags.into_iter().collect(), if_match: None, sparse: false }
    }
}

/// Which part of a sorted list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many; `None` leaves it to the store.
    pub limit: Option<usize>,
    /// Only entries that sort after this text, which need not exist.
    pub after: Option<String>,
}

/// A part of a sorted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Keeps repositories of blobs, manifests and tags.
///
/// # Guarantees
/// Object-safe; every method may be called from many tasks at once. Cancelling a future (dropping it) leaves each
/// object either as it was or as it was to be, never in between. The suite in `store::conformance` tests a backend.
///
/// # Errors
/// Every method: [`crate::ErrorKind::Unsupported`] for what [`RegistryStore::capabilities`] denies, and backend
/// faults as [`crate::ErrorKind::Io`], [`crate::ErrorKind::Unavailable`] or [`crate::ErrorKind::Corrupt`].
/// A repository that does not exist is like an empty one for blobs and manifests ([`crate::ErrorKind::BlobUnknown`],
/// [`crate::ErrorKind::ManifestUnknown`]) and [`crate::ErrorKind::NameUnknown`] for its tag list; it comes into being
/// with its first blob link or manifest, and goes only when it is deleted.
#[async_trait]
pub trait RegistryStore: Display + Debug + Send + Sync + 'static {
    /// What this store can do.
    fn capabilities(&self) -> StoreCapabilities;

    /// The size of a blob of a repository, in bytes. A blob whose bytes the store has lost is not there.
    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64>;

    /// The content of a blob of a repository, whole or in part. A blob whose bytes the store has lost is not there.
    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader>;

    /// Takes a blob out of a repository. Fails with [`crate::ErrorKind::Conflict`] never: manifests that reference it
    /// are then incomplete, as the specification allows.
    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()>;

    /// Links a blob of the repository `from` into a repository, without moving a byte. Returns its size.
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

    /// Finds an upload session of this repository again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::UploadUnknown`] when it does not exist, has ended or belongs to another repository.
    async fn resume_upload(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<dyn BlobUpload>>;

    /// A manifest by tag or digest. Its digest is of the algorithm that it was asked by or stored under.
    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest>;

    /// Stores a manifest and moves its tags.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ManifestBlobUnknown`] when it names a blob, a config or a manifest that the repository does
    /// not have. Exempt are non-distributable layers, layers with `urls`, the `subject`, and, for an index, entries of
    /// platforms that are left out (sparse indexes). An entry of an index may be a blob. A blob whose bytes the store has
    /// lost is not there. [`crate::ErrorKind::SizeInvalid`], with the field, when a descriptor has another size than its
    /// content; [`crate::ErrorKind::ManifestInvalid`] when the same bytes, which name no media type, are there under
    /// another one.
    async fn put_manifest(&self, repository: &RepositoryName, put: PutManifest) -> Result<Descriptor>;

    /// Deletes a tag alone, or by digest a manifest and every tag of it.
    async fn delete_manifest(&self, repository: &RepositoryName, reference: &ManifestReference)
    -> Result<()>;

    /// The tags of a repository in byte order.
    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>>;

    /// The repositories in byte order. One whose last manifest was deleted is not listed until something is pushed to it
    /// again; its blobs can still be read.
    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>>;

    /// Descriptors of the manifests of the repository whose subject is `digest`, with artifact type and annotations,
    /// in a stable order, optionally of one artifact type. An unknown subject has none.
    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>>;

    /// Stores a blob that is in memory, without a session: one step where an upload takes three.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the bytes have another digest.
    async fn put_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let options = UploadOptions { algorithm: Some(digest.algorithm()) };
        let mut upload = self.start_upload(repository, options).await?;
        upload.append(bytes).await?;
        upload.finish(digest).await
    }

    /// Takes over a file as a blob; the file is gone when this succeeds.
    ///
    /// The caller has hashed the file while writing it and vouches for `digest`: a store on the same file system moves
    /// the file without reading it again. Every other store copies the bytes and checks them.
    async fn put_blob_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        path: &Path,
    ) -> Result<Descriptor> {
        use crate::ResultExt as _;
        let file = tokio::fs::File::open(path).await.at("cannot open the file of the blob", path)?;
        let options = UploadOptions { algorithm: Some(digest.algorithm()) };
        let mut upload = self.start_upload(repository, options).await?;
        let mut chunks = tokio_util::io::ReaderStream::with_capacity(file, 512 * 1024);
        while let Some(chunk) = futures::StreamExt::next(&mut chunks).await {
            upload.append(chunk.at("cannot read the file of the blob", path)?).await?;
        }
        let descriptor = upload.finish(digest).await?;
        tokio::fs::remove_file(path).await.at("cannot remove the file of the blob", path)?;
        Ok(descriptor)
    }

    /// Takes the bytes of a blob away when they are others than its digest says, so that the blob counts as missing in
    /// every repository and can be stored again. Reads it whole. Returns whether it was damaged; a store that is not at
    /// hand never says so.
    async fn remove_damaged(&self, _digest: &Digest) -> Result<bool> {
        Ok(false)
    }

    /// The path of a file with exactly the bytes of a blob of the repository, for readers that need no copy; `None`
    /// where there is no such file. The file must not be changed.
    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.stat_blob(repository, digest).await?;
        Ok(None)
    }

    /// Removes upload sessions, with their bytes, into which nothing was saved for as long as `age`, and what dead
    /// writers left behind. Uploads that a handle is writing to, in this process or another, are left alone. Returns
    /// how many went.
    ///
    /// A store in a folder does this when it is opened; a server repeats it while it runs.
    async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        let _ = age;
        Ok(0)
    }
}

/// A store in memory.
pub type MemoryStore = Composed<blob::MemoryBlobs, meta::MemoryMeta>;

impl MemoryStore {
    /// An empty store in memory.
    pub fn new() -> Self {
        Self::of(blob::MemoryBlobs::default(), meta::MemoryMeta::default())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

/// A store in a folder: blobs as files, metadata in SQLite. Several processes may have one folder open at once.
///
/// ```text
///   ROOT/hyper.db      metadata (SQLite; beside it -wal, -shm and .lock)
///   ROOT/blobs/        the bytes of blobs, by digest
///   ROOT/uploads/      the bytes of uploads in progress
/// ```
#[cfg(feature = "store-sql")]
pub type DiskStore = Composed<blob::DiskBlobs, meta::SqlMeta>;

#[cfg(feature = "store-sql")]
impl DiskStore {
    /// How long an upload may rest before it is removed, unless the caller says otherwise.
    pub const UPLOAD_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

    /// Opens the store in the folder `root`, which is made when it does not exist and closed to other users, and removes
    /// uploads that rested for [`DiskStore::UPLOAD_MAX_AGE`]. That the folder was open before says
    /// [`blob::DiskBlobs::warning`].
    ///
    /// A store that exists on a file system that is read-only can be read;
    /// [`capabilities`](RegistryStore::capabilities) then deny writing.
    ///
    /// # Errors
    /// Those of [`crate::private_folder::open`];
    /// [`crate::ErrorKind::Io`] when the folder cannot be written, [`crate::ErrorKind::Corrupt`] when the database is
    /// damaged, [`crate::ErrorKind::Unavailable`] when another process keeps it locked, and
    /// [`crate::ErrorKind::Unsupported`] when a newer version of Hyper has written it.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, Some(Self::UPLOAD_MAX_AGE)).await
    }

    /// As [`DiskStore::open`], and removes uploads that rested for `upload_max_age`, or none.
    ///
    /// # Errors
    /// Those of [`DiskStore::open`]. Uploads that cannot be removed are logged.
    pub async fn open_with(root: impl AsRef<Path>, upload_max_age: Option<Duration>) -> Result<Self> {
        let root = root.as_ref();
        let blobs = blob::DiskBlobs::open(root).await?;
        let store = Self::of(blobs, meta::SqlMeta::open(root.join("hyper.db")).await?);
        if let Some(age) = upload_max_age.filter(|_| store.capabilities().write)
            && let Err(error) = store.expire_uploads(age).await
        {
            tracing::warn!(%error, root = %root.display(), "old uploads cannot be removed");
        }
        Ok(store)
    }
}

/// A shared store of any kind.
pub type SharedStore = Arc<dyn RegistryStore>;

#[cfg(test)]
mod tests;
