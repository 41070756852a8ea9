//! Registry clients: the trait and its backends.
//!
//! A client is bound to one registry: repositories are named without the host. [`RegistryClient`] is the wire
//! protocol, one request or session a method; whole images are pushed and pulled by functions over it.

mod artifact;
mod certificates;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod copy;
pub mod http;
pub mod keychain;
#[cfg(feature = "build")]
mod layer_tar;
mod layout;
mod location;
mod loopback;
mod neighbours;
pub(crate) mod patience;
mod proxies;
mod pull;
mod push;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod transfer;
mod upload;
pub(crate) mod verify;

pub use artifact::{Artifact, ArtifactContent, ArtifactFile, ArtifactOptions, TITLE, save_artifact};
pub use certificates::{HostCertificates, read_authorities};
pub use copy::copy;
pub use http::{CredentialCheck, HttpClient, HttpClientBuilder, RetryPolicy};
#[cfg(feature = "build")]
pub use layer_tar::layer_tar;
pub use layout::Layout;
pub use location::{LocalImage, LocalTarget, RemoteImage};
pub use loopback::Loopback;
pub use proxies::Proxies;
pub use pull::{PullOptions, pull};
pub use push::{PushOptions, push};
pub use transfer::Platforms;
#[cfg(feature = "build")]
pub(crate) use transfer::choose;

use crate::oci::{Descriptor, Manifest};
use crate::progress::Progress;
use crate::reference::{ManifestReference, RegistryHost, RepositoryName, Tag};
use crate::store::{BlobReader, ByteRange, ByteStream, Listing, Page, UploadId};
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::{Debug, Display};
use std::sync::Arc;

/// What a client can do beyond pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCapabilities {
    /// Content can be pushed.
    pub push: bool,
    /// Manifests and blobs can be deleted.
    pub delete: bool,
    /// Blobs can be mounted from another repository.
    pub mount: bool,
    /// An upload goes on after it broke off.
    pub resume: bool,
    /// The repositories can be listed.
    pub catalog: bool,
}

impl ClientCapabilities {
    /// Everything.
    pub const ALL: Self = Self { push: true, delete: true, mount: true, resume: true, catalog: true };
    /// Pulling only.
    pub const PULL: Self = Self { push: false, delete: false, mount: false, resume: false, catalog: false };
}

impl ClientCapabilities {
    crate::store::capabilities::switches! {
        push: with_push, without_push;
        delete: with_delete, without_delete;
        mount: with_mount, without_mount;
        resume: with_resume, without_resume;
        catalog: with_catalog, without_catalog;
    }
}

/// An upload session at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadSession {
    /// The name of the session, where the backend has one.
    pub id: Option<UploadId>,
    /// Where the next request goes, as the registry said.
    pub location: String,
    /// How many bytes the registry has.
    pub offset: u64,
    /// The smallest chunk that the registry takes, in bytes (`OCI-Chunk-Min-Length`).
    pub chunk_min_length: u64,
    /// The offset is what the registry said, so that what follows has to say where it begins even when that is zero.
    pub resumed: bool,
}

/// What became of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// The blob is in the repository.
    Mounted,
    /// The registry opened an upload session instead.
    Upload(UploadSession),
}

/// Talks to one registry.
///
/// # Guarantees
/// Object-safe; every method may be called from many tasks at once. Content that was asked for by digest is checked:
/// a manifest before it is returned, a whole blob at the end of its stream, which then fails. Dropping a future stops
/// the request. Retries and credentials are the backend's affair.
///
/// # Errors
/// Every method: the [`crate::ErrorKind`] that the registry's error code means, [`crate::ErrorKind::Unauthorized`] and
/// [`crate::ErrorKind::Denied`], [`crate::ErrorKind::Unavailable`] when there is no connection, and
/// [`crate::ErrorKind::Unsupported`] for what [`RegistryClient::capabilities`] denies.
#[async_trait]
pub trait RegistryClient: Display + Debug + Send + Sync + 'static {
    /// What this client can do.
    fn capabilities(&self) -> ClientCapabilities;

    /// The host of the registry, where it has one.
    fn host(&self) -> Option<&RegistryHost> {
        None
    }

    /// The same client, which tells `progress` of everything that it tries again; `None` when it never does.
    fn reporting(&self, progress: &Progress) -> Option<SharedClient> {
        let _ = progress;
        None
    }

    /// Sees whether the registry is there and speaks the protocol, with the credentials (end-1).
    async fn ping(&self) -> Result<()>;

    /// The descriptor of a manifest, without its content (end-3, HEAD).
    async fn resolve(&self, repository: &RepositoryName, reference: &ManifestReference)
    -> Result<Descriptor>;

    /// A manifest (end-3).
    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest>;

    /// Stores a manifest under a tag, or under its digest (end-7a).
    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor>;

    /// Deletes a tag, or a manifest by its digest (end-9).
    async fn delete_manifest(&self, repository: &RepositoryName, reference: &ManifestReference)
    -> Result<()>;

    /// The size of a blob in bytes, or `None` when the repository does not have it (end-2, HEAD).
    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>>;

    /// The content of a blob, whole or in part (end-2).
    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader>;

    /// Deletes a blob (end-10).
    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()>;

    /// Asks for a blob of another repository (end-11).
    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<Mount>;

    /// Offers a blob: it is mounted when the registry has it and says so, from whatever repository; else an upload
    /// session is opened (end-11 without `from`).
    async fn offer_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Mount> {
        let _ = digest;
        self.start_upload(repository).await.map(Mount::Upload)
    }

    /// Opens an upload session (end-4a).
    async fn start_upload(&self, repository: &RepositoryName) -> Result<UploadSession>;

    /// Asks how far a session is (end-13).
    async fn upload_status(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
    ) -> Result<UploadSession>;

    /// Sends a chunk at the session's offset and returns the session after it (end-5).
    async fn upload_chunk(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
        chunk: Bytes,
    ) -> Result<UploadSession>;

    /// Streams the rest of the content, whose length is known, and closes the session (end-6).
    async fn finish_upload(
        &self,
        repository: &RepositoryName,
        session: UploadSession,
        digest: &Digest,
        rest: Option<(u64, ByteStream)>,
    ) -> Result<()>;

    /// Gives a session up (end-14).
    async fn cancel_upload(&self, repository: &RepositoryName, session: UploadSession) -> Result<()>;

    /// The tags of a repository (end-8).
    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>>;

    /// The repositories of the registry (`_catalog`).
    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>>;

    /// The referrers of a manifest, through the fallback tag where the registry has no referrers API (end-12).
    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>>;
}

/// A shared client of any kind.
pub type SharedClient = Arc<dyn RegistryClient>;

/// The client as it is used by work with this progress.
pub(crate) fn reporting(client: &SharedClient, progress: &Progress) -> SharedClient {
    client.reporting(progress).unwrap_or_else(|| client.clone())
}
