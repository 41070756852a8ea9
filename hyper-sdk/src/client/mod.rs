//! Registry clients: the trait and its backends.
//!
//! A client is bound to one registry: repositories are named without the host. [`RegistryClient`] is the wire protocol,
//! with one method for each request or session; [`RegistryClientExt`] has methods built from these. Functions on top push,
//! pull and copy whole images.

mod artifact;
mod certificates;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod copy;
mod document;
#[cfg(feature = "build")]
mod engine;
mod ext;
mod http;
pub mod keychain;
mod layout;
mod location;
mod loopback;
#[cfg(feature = "oci-client")]
pub mod oci_client;
mod proxies;
mod pull;
mod push;
#[cfg(feature = "registry-conformance")]
pub mod registry_conformance;
mod registry_upload;
#[cfg(any(feature = "cache-s3", feature = "store-s3"))]
mod s3;
mod s3_access;
mod sibling_repositories;
#[cfg(test)]
mod tests;
pub(crate) mod timeouts;
pub(crate) mod tls;
mod transfer;
mod upload;
pub(crate) mod verify;

#[cfg(feature = "oci-client")]
pub use self::oci_client::OciClient;
#[cfg(feature = "cache-s3")]
pub(crate) use self::s3::{Kept, S3Cache};
pub use artifact::{Artifact, ArtifactContent, ArtifactFile, ArtifactOptions, TITLE, save_artifact};
pub use certificates::{HostCertificates, read_authorities};
pub use copy::copy;
#[cfg(feature = "build")]
pub(crate) use copy::copy_known;
pub use document::{Document, DocumentClient, DocumentOptions, FormAnswer};
#[cfg(feature = "build")]
pub use engine::{Engine, EngineAddresses};
pub use ext::RegistryClientExt;
#[cfg(feature = "fuzzing")]
pub use http::fuzzing;
pub use http::{
    CredentialCheck, HttpClient, HttpClientBuilder, RetryPolicy, WebhookAnswer, WebhookClient, WebhookOptions,
};
pub use layout::Layout;
pub use location::{LocalImage, LocalTarget, RemoteImage};
pub use loopback::Loopback;
pub use proxies::Proxies;
pub use pull::{PullOptions, pull};
pub use push::{PushOptions, push};
pub use registry_upload::{RegistryUpload, ResumeToken};
pub use s3_access::S3Access;
pub use tls::tls_config;
pub use transfer::Platforms;
#[cfg(feature = "build")]
pub(crate) use transfer::choose;
pub use verify::verified;

use crate::oci::{Descriptor, Manifest};
use crate::progress::Progress;
use crate::reference::{ManifestReference, RegistryHost, RepositoryName, Tag};
use crate::store::{BlobReader, ByteRange, Listing, Page};
use crate::{Digest, Error, Result};
use async_trait::async_trait;
use std::fmt::{Debug, Display};
use std::sync::Arc;

/// What a client can do beyond pull.
///
/// ```
/// use hyper_sdk::client::ClientCapabilities;
///
/// // A client that pushes, and can do nothing else that changes the registry.
/// const MINE: ClientCapabilities = ClientCapabilities::PULL.with_push();
/// assert!(MINE.push && !MINE.delete);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCapabilities {
    /// Content can be pushed.
    pub push: bool,
    /// Manifests and blobs can be deleted.
    pub delete: bool,
    /// Blobs can be mounted from another repository.
    pub mount: bool,
    /// An upload takes bytes piece by piece, and not only as one stream.
    pub append: bool,
    /// An upload continues after it broke off, and in another process.
    pub resume: bool,
    /// The repositories can be listed.
    pub catalog: bool,
}

impl ClientCapabilities {
    /// Everything.
    pub const ALL: Self =
        Self { push: true, delete: true, mount: true, append: true, resume: true, catalog: true };
    /// Pulling only.
    pub const PULL: Self =
        Self { push: false, delete: false, mount: false, append: false, resume: false, catalog: false };
}

impl ClientCapabilities {
    crate::store::capabilities::switches! {
        push: with_push, without_push;
        delete: with_delete, without_delete;
        mount: with_mount, without_mount;
        append: with_append, without_append;
        resume: with_resume, without_resume;
        catalog: with_catalog, without_catalog;
    }
}

/// The result of a mount.
#[derive(Debug)]
pub enum Mount {
    /// The blob is in the repository.
    Mounted,
    /// The registry opened an upload session instead.
    Upload(Box<dyn RegistryUpload>),
}

/// Talks to one registry.
///
/// Seven methods are required: those of a client that pulls. The defaults of the others return
/// [`crate::ErrorKind::Unsupported`], as [`ClientCapabilities::PULL`] says; a client that can do more implements them and
/// reports the capability. [`RegistryClientExt`] has methods built from these, such as whole blobs and complete lists.
///
/// # Guarantees
/// Object-safe; every method may be called from many tasks at once. Content that was asked for by digest is checked:
/// a manifest before it is returned, a whole blob at the end of its stream, which then fails. Dropping a future stops
/// the request. Retries and credentials are up to the backend. The suite in `client::conformance` tests a client.
///
/// # Example
/// A client for pulls that counts the blobs that it fetches:
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::client::{ClientCapabilities, RegistryClient, SharedClient};
/// use hyper_sdk::oci::{Descriptor, Manifest};
/// use hyper_sdk::reference::ManifestReference;
/// use hyper_sdk::store::{BlobReader, ByteRange, Listing, Page};
/// use hyper_sdk::{Digest, RepositoryName, Result, Tag};
/// use std::fmt;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// #[derive(Debug)]
/// struct Counting {
///     inner: SharedClient,
///     blobs: AtomicUsize,
/// }
///
/// impl fmt::Display for Counting {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "{}, counted", self.inner)
///     }
/// }
///
/// #[async_trait]
/// impl RegistryClient for Counting {
///     fn capabilities(&self) -> ClientCapabilities {
///         ClientCapabilities::PULL
///     }
///
///     async fn ping(&self) -> Result<()> {
///         self.inner.ping().await
///     }
///
///     async fn get_manifest(&self, name: &RepositoryName, reference: &ManifestReference) -> Result<Manifest> {
///         self.inner.get_manifest(name, reference).await
///     }
///
///     async fn stat_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
///         self.inner.stat_blob(name, digest).await
///     }
///
///     async fn get_blob(
///         &self,
///         name: &RepositoryName,
///         digest: &Digest,
///         range: Option<ByteRange>,
///     ) -> Result<BlobReader> {
///         self.blobs.fetch_add(1, Ordering::Relaxed);
///         self.inner.get_blob(name, digest, range).await
///     }
///
///     async fn list_tags(&self, name: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
///         self.inner.list_tags(name, page).await
///     }
///
///     async fn list_referrers(
///         &self,
///         name: &RepositoryName,
///         digest: &Digest,
///         artifact_type: Option<&str>,
///     ) -> Result<Vec<Descriptor>> {
///         self.inner.list_referrers(name, digest, artifact_type).await
///     }
/// }
/// ```
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

    /// The same client, which reports each retry to `progress`; `None` when the client never retries.
    fn reporting(&self, progress: &Progress) -> Option<SharedClient> {
        let _ = progress;
        None
    }

    /// Checks that the registry answers and speaks the protocol, with the credentials (end-1).
    async fn ping(&self) -> Result<()>;

    /// The descriptor of a manifest, without its content where the registry gives it alone (end-3, HEAD).
    async fn resolve(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Descriptor> {
        Ok(self.get_manifest(repository, reference).await?.descriptor())
    }

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
    ) -> Result<Descriptor> {
        let _ = (repository, reference, manifest);
        Err(unsupported(self, "push"))
    }

    /// Deletes a tag, or a manifest by its digest (end-9).
    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        let _ = (repository, reference);
        Err(unsupported(self, "delete"))
    }

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
    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let _ = (repository, digest);
        Err(unsupported(self, "delete"))
    }

    /// Mounts a blob of another repository (end-11).
    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<Mount> {
        let _ = (repository, digest, from);
        Err(unsupported(self, "mount blobs"))
    }

    /// Offers a blob: the registry mounts it when any of its repositories has it, or opens an upload session (end-11
    /// without `from`).
    async fn offer_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Mount> {
        let _ = digest;
        self.start_upload(repository).await.map(Mount::Upload)
    }

    /// Opens an upload session (end-4a).
    async fn start_upload(&self, repository: &RepositoryName) -> Result<Box<dyn RegistryUpload>> {
        let _ = repository;
        Err(unsupported(self, "push"))
    }

    /// Finds an upload session of this repository again, with its offset (end-13).
    ///
    /// # Errors
    /// [`crate::ErrorKind::UploadUnknown`] or [`crate::ErrorKind::UploadInvalid`] when the session does not exist, has
    /// ended or belongs to another repository, and when the token is from another kind of client.
    async fn resume_upload(
        &self,
        repository: &RepositoryName,
        token: &ResumeToken,
    ) -> Result<Box<dyn RegistryUpload>> {
        let _ = (repository, token);
        Err(unsupported(self, "resume uploads"))
    }

    /// The tags of a repository (end-8).
    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>>;

    /// The repositories of the registry (`_catalog`).
    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        let _ = page;
        Err(unsupported(self, "list repositories"))
    }

    /// The tags of a repository as the registry writes them, also those that are not valid here and cannot be asked for.
    async fn list_tag_texts(&self, repository: &RepositoryName, page: Page) -> Result<Listing<String>> {
        let Listing { items, more } = self.list_tags(repository, page).await?;
        Ok(Listing { items: items.iter().map(ToString::to_string).collect(), more })
    }

    /// The repositories of the registry as it writes them, also those that are not valid here and cannot be asked for.
    async fn list_repository_texts(&self, page: Page) -> Result<Listing<String>> {
        let Listing { items, more } = self.list_repositories(page).await?;
        Ok(Listing { items: items.iter().map(ToString::to_string).collect(), more })
    }

    /// The referrers of a manifest, through the fallback tag where the registry has no referrers API (end-12).
    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>>;
}

/// The error of an unsupported operation.
fn unsupported(client: &(impl RegistryClient + ?Sized), what: &str) -> Error {
    Error::unsupported(format!("this registry client cannot {what}")).with_context("client", client)
}

/// A shared client of any kind.
pub type SharedClient = Arc<dyn RegistryClient>;

/// The client, which reports retries to this progress.
pub(crate) fn reporting(client: &SharedClient, progress: &Progress) -> SharedClient {
    client.reporting(progress).unwrap_or_else(|| client.clone())
}
