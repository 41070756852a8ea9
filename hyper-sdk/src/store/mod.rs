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
pub(crate) mod capabilities;
mod composed;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod damage;
mod edge;
pub mod errors;
mod ext;
mod kinds;
mod local_name;
pub mod meta;
mod range;
mod upload;
pub mod wrap;

pub use capabilities::StoreCapabilities;
pub use composed::{Composed, MAX_PAGE};
pub use ext::{MAX_CONFIG, RegistryStoreExt, StoredImage};
#[cfg(feature = "store-sql")]
pub use kinds::DiskStore;
pub use kinds::MemoryStore;
#[cfg(feature = "client")]
pub(crate) use local_name::prefixes;
pub use local_name::{base_repository, find_local, is_internal, local_reference, local_repository};
pub use range::ByteRange;
pub use upload::{BlobUpload, UploadId, UploadOptions};

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
/// object either as it was or as it was to be, never in between. The suite in `store::conformance` tests a store.
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

    /// The repositories that have a blob, for a mount that does not say where from. In an order of the store's own;
    /// `page.after` is the last repository of the page before. The caller checks that the client may know of them.
    ///
    /// A store without an index from blobs to repositories names none.
    async fn repositories_with(&self, digest: &Digest, page: Page) -> Result<Listing<RepositoryName>> {
        let _ = (digest, page);
        Ok(Listing { items: Vec::new(), more: false })
    }

    /// A number that every committed change of readable content alters, in this process or another; `None` when the store
    /// has no such number.
    ///
    /// A reader that asks before and after knows whether its result is still valid. A cache asks for every request, so the
    /// answer must come within microseconds. Repairing or removing damaged bytes need not alter the number. A change that
    /// readers cannot see, such as that of an upload, may alter it.
    fn version(&self) -> Option<u64> {
        None
    }

    /// Stores a blob that is in memory, without a session: one step where an upload takes three.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the bytes do not match the digest.
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

    /// Removes the bytes of a blob if they do not match its digest, so that the blob counts as missing in every repository
    /// and can be stored again. Reads all of it. Returns whether it was damaged; a remote store always returns `false`.
    async fn remove_damaged(&self, _digest: &Digest) -> Result<bool> {
        Ok(false)
    }

    /// The path of a file with exactly the bytes of a blob of the repository, for readers that need no copy; `None`
    /// where there is no such file. The file must not be changed.
    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.stat_blob(repository, digest).await?;
        Ok(None)
    }

    /// Removes upload sessions, with their bytes, into which nothing was saved for `age`, and the leftovers of
    /// ended writers. Uploads that a handle is writing to, in this process or another, are kept. Returns how many were
    /// removed.
    ///
    /// A store in a folder does this when it is opened; a server repeats it while it runs.
    async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        let _ = age;
        Ok(0)
    }
}

/// A shared store of any kind.
pub type SharedStore = Arc<dyn RegistryStore>;

#[cfg(test)]
mod tests;
