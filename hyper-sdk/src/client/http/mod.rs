//! The HTTP client of the distribution protocol (distribution-spec 1.1).
//!
//! ```text
//!   HttpClient        one method for each request and its answer
//!      ├── manifests  manifests and referrers         ├── uploads   sessions and chunks
//!      ├── blobs      streams that resume             └── listings  pages of tags and repositories
//!   Transport         one request until its answer: authorisation, redirects, retries
//!      ├── auth       challenges, tokens              └── retry, errors, transport_error, body, link
//!   webhook           requests to a webhook, which is no registry
//!   reqwest           connections and TLS
//! ```
//!
//! The environment is not read: no proxy variables, no home folder.

mod address;
mod auth;
mod blobs;
mod body;
mod builder;
mod challenge;
pub(super) mod errors;
#[cfg(feature = "registry-conformance")]
pub(super) mod exchange;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(super) mod link;
mod listings;
mod login;
mod manifests;
mod retry;
#[cfg(test)]
mod tests;
mod transport;
pub(super) mod transport_error;
mod uploads;
mod webhook;

pub use builder::HttpClientBuilder;
pub use login::CredentialCheck;
pub use retry::RetryPolicy;
pub use webhook::{WebhookAnswer, WebhookClient, WebhookOptions};

use super::{ClientCapabilities, Mount, RegistryClient, RegistryUpload, ResumeToken, SharedClient};
use crate::clock::{Clock, SystemClock};
use crate::oci::{Descriptor, Manifest};
use crate::progress::Progress;
use crate::reference::{ManifestReference, RegistryHost, RepositoryName, Tag};
use crate::store::{BlobReader, ByteRange, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result, ResultExt};
use async_trait::async_trait;
use auth::Access;
use errors::Subject;
use reqwest::Method;
use reqwest::header::HeaderMap;
use std::fmt;
use std::sync::Arc;
use transport::{Answer, Request, Transport};
use url::Url;

/// Speaks to one registry over HTTP.
///
/// # Guarantees
/// Credentials go only to the registry and to the token server that it names. Transient failures are retried within
/// [`RetryPolicy`]; a request with a streamed body is not. A broken download continues after its last byte within the
/// call. Clones share connections and tokens.
///
/// ```no_run
/// use hyper_sdk::client::keychain::DockerConfig;
/// use hyper_sdk::client::{HttpClient, RegistryClient as _};
/// use hyper_sdk::{Reference, Result};
/// use std::sync::Arc;
///
/// async fn digest_of(name: &str) -> Result<String> {
///     let name = Reference::parse(name)?;
///     let keychain = Arc::new(DockerConfig::new("/root/.docker/config.json"));
///     let client = HttpClient::builder(name.host().clone()).keychain(keychain).build()?;
///     Ok(client.resolve(name.repository(), &name.manifest()).await?.digest.to_string())
/// }
/// ```
#[derive(Clone)]
pub struct HttpClient {
    inner: Arc<Inner>,
    reporter: retry::RetryReporter,
}

struct Inner {
    host: RegistryHost,
    transport: Transport,
    listings: listings::Continuations,
    /// One update of a fallback tag at a time, so that two pushes of this client do not lose each other's entry.
    fallback: tokio::sync::Mutex<()>,
}

impl HttpClient {
    /// Starts the configuration of a client for a registry.
    pub fn builder(host: RegistryHost) -> HttpClientBuilder {
        HttpClientBuilder::new(host)
    }

    /// The registry's host, as given to the builder.
    pub fn host(&self) -> &RegistryHost {
        &self.inner.host
    }

    fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    async fn send(&self, request: Request) -> Result<Answer> {
        self.transport().send(request, &self.reporter).await.map_err(|e| e.with_registry(self))
    }

    /// The URL of a path below `/v2/`. Names, tags and digests need no escaping.
    fn url(&self, path: impl fmt::Display) -> Url {
        let mut url = self.transport().base().clone();
        url.set_path(&format!("/v2/{path}"));
        url
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("base", &self.transport().base().as_str()).finish_non_exhaustive()
    }
}

impl fmt::Display for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.host.fmt(f)
    }
}

/// The time for `Retry-After` dates, which compare with the registry's clock and not with a build's.
fn now() -> i64 {
    SystemClock.now()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The digest that the registry says the content has; one of an algorithm that is not known counts as none.
fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(header(headers, "docker-content-digest")?).ok()
}

/// The `Content-Encoding` of an answer, which the client did not ask for.
fn encoding(headers: &HeaderMap) -> Option<&str> {
    header(headers, "content-encoding").filter(|value| !value.eq_ignore_ascii_case("identity"))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    header(headers, "content-length")?.parse().ok()
}

#[async_trait]
impl RegistryClient for HttpClient {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities::ALL
    }

    fn host(&self) -> Option<&RegistryHost> {
        Some(&self.inner.host)
    }

    fn reporting(&self, progress: &Progress) -> Option<SharedClient> {
        let reporter = retry::RetryReporter { progress: progress.clone(), ..self.reporter.clone() };
        Some(Arc::new(Self { inner: self.inner.clone(), reporter }))
    }

    async fn ping(&self) -> Result<()> {
        let request = Request::new(Method::GET, self.url(""), Access::registry(), Subject::Registry, &[200]);
        match self.send(request).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::Unavailable, "the host does not speak the registry protocol")
                    .with_retryable(false)
                    .with_source(e))
            }
            Err(e) => Err(e),
        }
        .context("registry", self)
    }

    async fn resolve(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Descriptor> {
        self.resolve_manifest(repository, reference)
            .await
            .context("manifest", self.named(repository, reference))
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        self.fetch_manifest(repository, reference)
            .await
            .context("manifest", self.named(repository, reference))
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        self.store_manifest(repository, reference, manifest)
            .await
            .context("manifest", self.named(repository, reference))
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        self.remove(repository, format!("manifests/{reference}"), Subject::Manifest)
            .await
            .context("manifest", self.named(repository, reference))
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        self.blob_size(repository, digest).await.context("blob", self.blob_name(repository, digest))
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        self.read_blob(repository, digest, range).await.context("blob", self.blob_name(repository, digest))
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.remove(repository, format!("blobs/{digest}"), Subject::Blob)
            .await
            .context("blob", self.blob_name(repository, digest))
    }

    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<Mount> {
        self.mount(repository, digest, from).await.context("blob", self.blob_name(repository, digest))
    }

    async fn offer_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Mount> {
        self.offer(repository, digest).await.context("blob", self.blob_name(repository, digest))
    }

    async fn start_upload(&self, repository: &RepositoryName) -> Result<Box<dyn RegistryUpload>> {
        self.open_session(repository).await.context("repository", repository)
    }

    async fn resume_upload(
        &self,
        repository: &RepositoryName,
        token: &ResumeToken,
    ) -> Result<Box<dyn RegistryUpload>> {
        self.find_session(repository, token).await.context("repository", repository)
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.tags(repository, &page).await.context("repository", repository)
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        self.catalog(&page).await.context("registry", self)
    }

    async fn list_tag_texts(&self, repository: &RepositoryName, page: Page) -> Result<Listing<String>> {
        self.tag_texts(repository, &page).await.context("repository", repository)
    }

    async fn list_repository_texts(&self, page: Page) -> Result<Listing<String>> {
        self.catalog_texts(&page).await.context("registry", self)
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.referrers(repository, digest, artifact_type)
            .await
            .context("subject", self.blob_name(repository, digest))
    }
}

impl HttpClient {
    async fn remove(&self, repository: &RepositoryName, path: String, subject: Subject) -> Result<()> {
        let url = self.url(format_args!("{repository}/{path}"));
        let access = Access::repository(repository, "delete,pull,push");
        let request = Request::new(Method::DELETE, url, access, subject, &[200, 202, 204])
            .replay(transport::Replay::IfRefused);
        self.send(request).await.map(|_| ())
    }

    fn named(&self, repository: &RepositoryName, reference: &ManifestReference) -> String {
        match reference {
            ManifestReference::Tag(tag) => format!("{self}/{repository}:{tag}"),
            ManifestReference::Digest(digest) => self.blob_name(repository, digest),
        }
    }

    fn blob_name(&self, repository: &RepositoryName, digest: &Digest) -> String {
        format!("{self}/{repository}@{digest}")
    }
}
