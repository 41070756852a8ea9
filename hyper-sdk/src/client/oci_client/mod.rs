//! A client on the crate `oci-client`, for programs that have a configuration of it.
//!
//! The crate has no requests for deletions, for sessions that continue, or for single pages, and gives no sizes of blobs.
//! [`OciClient::capabilities`] denies what it cannot do. The rest is done in another way:
//! - the size of a blob is the length of a download that is dropped at once;
//! - there is another page when a request for the entries after this one finds some;
//! - an upload session is opened by [`RegistryUpload::finish`], so nothing is at the registry before. One that fails stays
//!   there until it expires, because the crate does not give its location.
//!
//! The crate reads manifests and lists whole, of whatever length, and does not try again. Its own client keeps the first
//! credentials of a registry and the tokens that they gave, so each [`OciClient`] makes one of its own.

mod errors;
mod lists;
mod upload;

use self::errors::{error, stream_error};
use self::lists::listing;
use self::upload::OciUpload;
use super::http::errors::Subject;
use super::verify::{verified, verified_manifest};
use super::{ClientCapabilities, Mount, RegistryClient, RegistryUpload};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RegistryHost, RepositoryName, Tag};
use crate::store::{BlobReader, ByteRange, ByteStream, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _, media_type};
use ::oci_client::client::BlobResponse;
use ::oci_client::errors::OciDistributionError;
use ::oci_client::{Client, Reference, RegistryOperation};
use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::HeaderValue;
use std::fmt;

/// The crate's own types, of the version that [`OciClient`] takes.
pub use ::oci_client::{
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};

/// The repository of a request about the registry itself. It does not exist.
const NOBODY: &str = "hyper/ping";

/// A client of the crate `oci-client`, bound to one registry.
///
/// ```
/// use hyper_sdk::client::RegistryClient as _;
/// use hyper_sdk::client::oci_client::{ClientConfig, OciClient, RegistryAuth};
/// use hyper_sdk::reference::RegistryHost;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// // `use_monolithic_push` sends a blob in one request.
/// let config = ClientConfig { use_monolithic_push: true, ..ClientConfig::default() };
/// let client = OciClient::new(config, RegistryHost::parse("ghcr.io")?, RegistryAuth::Anonymous)?;
/// assert!(client.capabilities().push && !client.capabilities().resume);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OciClient {
    client: Client,
    host: RegistryHost,
    auth: RegistryAuth,
}

impl OciClient {
    /// A client of the registry at `host` with these credentials. Its clones share its tokens; no other client does.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a configuration that the crate does not take, such as a certificate that is not one.
    pub fn new(config: ClientConfig, host: RegistryHost, auth: RegistryAuth) -> Result<Self> {
        let client = Client::try_from(config).map_err(|e| {
            Error::invalid("the crate `oci-client` does not take the configuration").with_source(e)
        })?;
        Ok(Self { client, host, auth })
    }

    /// A name in the crate's form, after the crate has the credentials.
    async fn name(&self, repository: &str, reference: &ManifestReference) -> Reference {
        let (registry, repository) = (self.host.to_string(), repository.to_owned());
        let name = match reference {
            ManifestReference::Tag(tag) => Reference::with_tag(registry, repository, tag.to_string()),
            ManifestReference::Digest(digest) => {
                Reference::with_digest(registry, repository, digest.to_string())
            }
        };
        self.client.store_auth_if_needed(name.resolve_registry(), &self.auth).await;
        name
    }

    /// A repository in the crate's form; the tag has no meaning.
    async fn repository(&self, repository: &RepositoryName) -> Reference {
        self.name(repository.as_str(), &Tag::latest().into()).await
    }

    async fn whole(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobReader> {
        let name = self.repository(repository).await;
        let found = self.client.pull_blob_stream(&name, digest.as_str()).await;
        let found = found.map_err(|e| error(e, Subject::Blob))?;
        let size = found.content_length.ok_or_else(|| {
            Error::new(ErrorKind::SizeInvalid, "the registry does not say how large the blob is")
        })?;
        let stream = found.stream.map_err(stream_error).boxed();
        Ok(BlobReader { size, offset: 0, length: size, stream })
    }

    async fn part(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<BlobReader> {
        let size = self.whole(repository, digest).await?.size;
        let (offset, length) = range.resolve(size)?;
        let name = self.repository(repository).await;
        let found = self.client.pull_blob_stream_partial(&name, digest.as_str(), offset, Some(length)).await;
        let (found, skip) = match found.map_err(|e| error(e, Subject::Blob))? {
            BlobResponse::Partial(found) => (found, 0),
            BlobResponse::Full(found) => (found, offset),
        };
        let stream = cut(found.stream.map_err(stream_error).boxed(), skip, length);
        Ok(BlobReader { size, offset, length, stream })
    }
}

/// The bytes of a stream after the first `skip`, `length` of them.
fn cut(stream: ByteStream, skip: u64, length: u64) -> ByteStream {
    let cut =
        futures::stream::try_unfold((stream, skip, length), |(mut stream, mut skip, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            while let Some(mut bytes) = stream.try_next().await? {
                let skipped = skip.min(bytes.len() as u64);
                skip -= skipped;
                let _ = bytes.split_to(skipped as usize);
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                if !bytes.is_empty() {
                    let left = left - bytes.len() as u64;
                    return Ok(Some((bytes, (stream, skip, left))));
                }
            }
            Ok(None)
        });
    cut.boxed()
}

impl fmt::Debug for OciClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OciClient").field("host", &self.host).finish_non_exhaustive()
    }
}

impl fmt::Display for OciClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)
    }
}

#[async_trait]
impl RegistryClient for OciClient {
    /// Pushes and mounts, each blob as one stream; deletes nothing.
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities::PULL.with_push().with_mount().with_catalog()
    }

    fn host(&self) -> Option<&RegistryHost> {
        Some(&self.host)
    }

    /// Asks for the challenge of the registry. The crate does not report whether the server is a registry.
    async fn ping(&self) -> Result<()> {
        let name = self.name(NOBODY, &Tag::latest().into()).await;
        let asked = self.client.auth(&name, &self.auth, RegistryOperation::Pull).await;
        asked.map(drop).map_err(|e| error(e, Subject::Registry)).context("registry", self)
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        let name = self.name(repository.as_str(), reference).await;
        let pulled = self.client.pull_manifest_raw(&name, &self.auth, &media_type::MANIFESTS).await;
        let (bytes, digest) = pulled
            .map_err(|e| error(e, Subject::Manifest))
            .context("manifest", format_args!("{self}/{repository}:{reference}"))?;
        let digest = match reference {
            ManifestReference::Digest(digest) => digest.clone(),
            ManifestReference::Tag(_) => Digest::parse(&digest)?,
        };
        Manifest::sniff(bytes)?.with_digest(&digest)
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        let descriptor = verified_manifest(manifest.clone(), reference)?.descriptor();
        let kind = HeaderValue::from_str(manifest.media_type())
            .map_err(|e| Error::invalid("the media type cannot be sent").with_source(e))?;
        // The crate panics when a registry gives no location for a manifest that was pushed by digest. With the digest in
        // place of the tag the request is the same.
        let name = self.repository(repository).await;
        let name = Reference::with_tag(
            name.registry().to_owned(),
            name.repository().to_owned(),
            reference.to_string(),
        );
        let pushed = self.client.push_manifest_raw(&name, manifest.bytes().clone(), kind).await;
        pushed
            .map_err(|e| error(e, Subject::Manifest))
            .context("manifest", format_args!("{self}/{repository}:{reference}"))?;
        Ok(descriptor)
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        let name = self.repository(repository).await;
        let there = self.client.blob_exists(&name, digest.as_str()).await;
        if !there.map_err(|e| error(e, Subject::Blob)).context("digest", digest)? {
            return Ok(None);
        }
        match self.whole(repository, digest).await {
            Ok(reader) => Ok(Some(reader.size)),
            Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::NameUnknown) => Ok(None),
            Err(e) => Err(e.with_context("digest", digest)),
        }
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let reader = match range {
            None => self.whole(repository, digest).await,
            Some(range) => self.part(repository, digest, range).await,
        };
        Ok(verified(reader.context("digest", digest)?, digest))
    }

    /// Mounts what the other repository has. It is asked first, because a mount that is declined opens a session that the
    /// crate does not give.
    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<Mount> {
        let (name, source) = (self.repository(repository).await, self.repository(from).await);
        let there = self.client.blob_exists(&source, digest.as_str()).await;
        if there.map_err(|e| error(e, Subject::Blob)).context("digest", digest)? {
            match self.client.mount_blob(&name, &source, digest.as_str()).await {
                Ok(()) => return Ok(Mount::Mounted),
                // Another status than that of a mount.
                Err(OciDistributionError::SpecViolationError(_)) => {}
                Err(e) => return Err(error(e, Subject::Repository).with_context("digest", digest)),
            }
        }
        self.start_upload(repository).await.map(Mount::Upload)
    }

    async fn start_upload(&self, repository: &RepositoryName) -> Result<Box<dyn RegistryUpload>> {
        Ok(Box::new(OciUpload::new(self.clone(), repository.clone())))
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        let name = &self.repository(repository).await;
        let list = move |limit, after: Option<String>| async move {
            let listed = self.client.list_tags(name, &self.auth, limit, after.as_deref()).await;
            listed.map(|listed| listed.tags).map_err(|e| error(e, Subject::Repository))
        };
        listing(page, Tag::parse, list).await.context("repository", repository)
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        let name = &self.name(NOBODY, &Tag::latest().into()).await;
        let list = move |limit, after: Option<String>| async move {
            let listed = self.client.catalog(name, &self.auth, limit, after.as_deref()).await;
            listed.map(|listed| listed.repositories).map_err(|e| error(e, Subject::Registry))
        };
        listing(page, RepositoryName::parse, list).await.context("registry", self)
    }

    /// The first page of them: the crate does not follow links. No fallback tag is kept up when a referrer is pushed.
    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let name = self.name(repository.as_str(), &digest.clone().into()).await;
        let index = self.client.pull_referrers(&name, artifact_type).await;
        let index = index.map_err(|e| error(e, Subject::Repository)).context("subject", digest)?;
        let mut found = Vec::new();
        for entry in index.manifests {
            let descriptor = serde_json::to_value(entry).and_then(serde_json::from_value::<Descriptor>);
            let descriptor = descriptor.map_err(|e| {
                Error::new(
                    ErrorKind::ManifestInvalid,
                    "the registry lists a referrer that is not a descriptor",
                )
                .with_source(e)
            })?;
            if artifact_type.is_none() || descriptor.artifact_type.as_deref() == artifact_type {
                found.push(descriptor);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn a_stream_is_cut_exactly() {
        let stream = |pieces: &[&'static str]| {
            let pieces: Vec<_> = pieces.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect();
            futures::stream::iter(pieces).boxed()
        };
        for (skip, length, expected) in
            [(0, 6, "abcdef"), (1, 2, "bc"), (3, 3, "def"), (5, 9, "f"), (2, 0, "")]
        {
            let bytes: Vec<Bytes> =
                cut(stream(&["ab", "", "cdef"]), skip, length).try_collect().await.unwrap();
            assert_eq!(bytes.concat(), expected.as_bytes());
        }
    }
}
