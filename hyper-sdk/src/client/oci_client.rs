//! A client on the crate `oci-client`, for programs that have a configuration of it.
//!
//! The crate has no requests for deletions, for sessions that go on, or for single pages, and gives no sizes of blobs.
//! [`OciClient::capabilities`] denies what it cannot do. The rest is asked for in another way:
//! - the size of a blob is the length of a download that is dropped at once;
//! - a page has more after it when a request for what follows finds something;
//! - an upload session is opened by [`RegistryUpload::finish`], so nothing is at the registry before. One that fails stays
//!   there until it expires, because nothing gives its place.
//!
//! The crate reads manifests and lists whole, of whatever length, and does not try again. Its own client keeps the first
//! credentials of a registry and the tokens that they gave, so each [`OciClient`] makes one of its own.

use super::http::broken;
use super::http::errors::{self, Subject};
use super::upload::SourceError;
use super::verify::verified;
use super::{ClientCapabilities, Mount, RegistryClient, RegistryUpload};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RegistryHost, RepositoryName, Tag};
use crate::store::{BlobReader, ByteRange, ByteStream, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _, media_type};
use ::oci_client::client::BlobResponse;
use ::oci_client::errors::{DigestError, OciDistributionError};
use ::oci_client::{Client, Reference, RegistryOperation};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use std::fmt;

/// The crate's own types, of the version that [`OciClient`] takes.
pub use ::oci_client::{
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};

/// The repository that a question to the registry itself names. Nobody has it.
const NOBODY: &str = "hyper/ping";
/// The most pages in a row without a valid name that are followed.
const MAX_EMPTY_PAGES: usize = 100;

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
    /// A client of the registry at `host`, which shows it `auth`. Its clones share its tokens; no other client does.
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

    /// A repository in the crate's form; the tag says nothing.
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

/// A page in the registry's order, and whether there is more after it: the crate hides the link to the next page.
async fn listing<T, F>(
    page: Page,
    parse: impl Fn(&str) -> Result<T>,
    list: impl Fn(Option<usize>, Option<String>) -> F,
) -> Result<Listing<T>>
where
    F: Future<Output = Result<Vec<String>>>,
{
    let mut after = page.after;
    for _ in 0..MAX_EMPTY_PAGES {
        let mut found = match page.limit {
            Some(0) => Vec::new(),
            limit => following(&list, limit, after.as_ref(), &[]).await?,
        };
        found.truncate(page.limit.unwrap_or(usize::MAX));
        let last = found.last().cloned().or(after);
        let more = !following(&list, Some(1), last.as_ref(), &found).await?.is_empty();
        let items: Vec<T> = found.iter().filter_map(|text| parse(text).ok()).collect();
        // The next page is asked for by an item of this one.
        if !items.is_empty() || !more || page.limit == Some(0) {
            return Ok(Listing { items, more });
        }
        after = last;
    }
    Err(Error::new(ErrorKind::TooLarge, "the registry's list has too many pages without a valid name")
        .with_context("pages", MAX_EMPTY_PAGES))
}

/// What the registry lists after an entry. `given` is the page that the entry ends.
async fn following<F>(
    list: &impl Fn(Option<usize>, Option<String>) -> F,
    limit: Option<usize>,
    after: Option<&String>,
    given: &[String],
) -> Result<Vec<String>>
where
    F: Future<Output = Result<Vec<String>>>,
{
    let mut found = list(limit, after.cloned()).await?;
    let Some(after) = after else { return Ok(found) };
    let is_known = found.contains(after) || found.first().is_some_and(|first| given.contains(first));
    if limit.is_some() && is_known {
        // The registry begins anew: its whole list shows what is behind the entry.
        found = list(None, Some(after.clone())).await?;
    }
    if let Some(at) = found.iter().rposition(|text| text == after) {
        found.drain(..=at);
    }
    Ok(found)
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

    /// Asks the registry for its challenge. The crate does not tell whether the answer is a registry's.
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
        let manifest = Manifest::sniff(bytes)?;
        match reference {
            ManifestReference::Digest(digest) => manifest.with_digest(digest),
            ManifestReference::Tag(_) => manifest.with_digest(&Digest::parse(&digest)?),
        }
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        let descriptor = match reference {
            ManifestReference::Digest(digest) => manifest.clone().with_digest(digest)?.descriptor(),
            ManifestReference::Tag(_) => manifest.descriptor(),
        };
        let kind = HeaderValue::from_str(manifest.media_type())
            .map_err(|e| Error::invalid("the media type cannot be sent").with_source(e))?;
        // The crate panics when a registry gives no place for a manifest that was pushed by digest. In the place of the
        // tag, the digest makes the same request.
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
        let (client, repository) = (self.clone(), repository.clone());
        Ok(Box::new(OciUpload { client, repository, is_over: false }))
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

/// An upload that the registry knows of only while it is finished.
#[derive(Debug)]
struct OciUpload {
    client: OciClient,
    repository: RepositoryName,
    is_over: bool,
}

impl OciUpload {
    fn open(&self) -> Result<()> {
        if self.is_over {
            return Err(Error::new(ErrorKind::UploadUnknown, "the upload has ended"));
        }
        Ok(())
    }
}

#[async_trait]
impl RegistryUpload for OciUpload {
    fn offset(&self) -> u64 {
        0
    }

    async fn append(&mut self, _bytes: Bytes) -> Result<()> {
        Err(Error::unsupported(
            "the crate `oci-client` sends a blob as one stream: finish the upload with it",
        )
        .with_context("client", &self.client))
    }

    async fn refresh(&mut self) -> Result<u64> {
        self.open().map(|()| 0)
    }

    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        self.open()?;
        let (length, stream) = rest.unwrap_or_else(|| (0, futures::stream::empty().boxed()));
        let reader = BlobReader { size: length, offset: 0, length, stream };
        let source = SourceError::default();
        let stream = source.guard(verified(reader, digest).stream);
        let stream = stream.map_err(|e| OciDistributionError::IoError(std::io::Error::other(e)));
        let name = self.client.repository(&self.repository).await;
        let pushed = self.client.client.push_blob_stream(&name, stream, digest.as_str(), Some(length)).await;
        match (pushed, source.take()) {
            (Ok(_), None) => self.is_over = true,
            (_, Some(e)) => return Err(e),
            (Err(e), None) => return Err(error(e, Subject::Repository).with_context("digest", digest)),
        }
        Ok(())
    }

    async fn cancel(&mut self) -> Result<()> {
        self.open()?;
        self.is_over = true;
        Ok(())
    }
}

/// What an error of the crate means. Errors of registries stay out of the chain: their text names URLs that may be signed.
fn error(e: OciDistributionError, subject: Subject) -> Error {
    match e {
        OciDistributionError::RegistryError { envelope, .. } => {
            let body = serde_json::to_vec(&envelope).unwrap_or_default();
            errors::of_answer(None, &body, subject)
        }
        OciDistributionError::ServerError { code, message, .. } => {
            errors::of_answer(StatusCode::from_u16(code).ok(), message.as_bytes(), subject)
        }
        OciDistributionError::UnauthorizedError { .. } => {
            errors::of_answer(Some(StatusCode::UNAUTHORIZED), b"", subject)
        }
        OciDistributionError::AuthenticationFailure(_) => {
            Error::new(ErrorKind::Unauthorized, "the token server does not accept the credentials")
        }
        OciDistributionError::RequestError(e) => match e.status() {
            Some(status) => errors::of_answer(Some(status), b"", subject),
            None => broken::of_transport(e),
        },
        OciDistributionError::ImageManifestNotFoundError(_) => {
            errors::of_answer(Some(StatusCode::NOT_FOUND), b"", Subject::Manifest)
        }
        OciDistributionError::DigestError(e) => digest_error(e),
        OciDistributionError::IoError(e) => stream_error(e),
        e @ (OciDistributionError::ManifestParsingError(_)
        | OciDistributionError::VersionedParsingError(_)
        | OciDistributionError::ManifestEncodingError(_)
        | OciDistributionError::UnsupportedMediaTypeError(_)
        | OciDistributionError::UnsupportedSchemaVersionError(_)) => {
            Error::new(ErrorKind::ManifestInvalid, "the registry's manifest cannot be read").with_source(e)
        }
        e => Error::invalid("the registry's answer is not understood").with_source(e),
    }
}

fn digest_error(e: DigestError) -> Error {
    Error::new(ErrorKind::DigestInvalid, "the content does not match its digest").with_source(e)
}

/// What an error in the middle of a blob means.
fn stream_error(e: std::io::Error) -> Error {
    let kind = e.kind();
    let Some(inner) = e.into_inner() else {
        return std::io::Error::from(kind).into();
    };
    match inner.downcast::<reqwest::Error>() {
        Ok(e) => broken::of_transport(*e),
        Err(inner) => match inner.downcast::<DigestError>() {
            Ok(e) => digest_error(*e),
            Err(inner) => std::io::Error::new(kind, inner).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> OciDistributionError {
        let envelope = serde_json::from_str(body).unwrap();
        OciDistributionError::RegistryError { envelope, url: "http://r.example/?signature=s3cret".to_owned() }
    }

    #[test]
    fn errors_have_the_kind_that_the_registry_means() {
        let server = |code, message: &str| OciDistributionError::ServerError {
            code,
            url: "http://r.example/?signature=s3cret".to_owned(),
            message: message.to_owned(),
        };
        let one = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"m"}}]}}"#);
        for (e, kind) in [
            (answer(&one("NAME_UNKNOWN")), ErrorKind::NameUnknown),
            (answer(&one("RANGE_INVALID")), ErrorKind::RangeInvalid),
            (answer(&one("TOOMANYREQUESTS")), ErrorKind::TooManyRequests),
            (answer(&one("NOT_FOUND")), ErrorKind::BlobUnknown),
            (answer(r#"{"errors":[]}"#), ErrorKind::Invalid),
            (server(404, ""), ErrorKind::BlobUnknown),
            (server(400, &one("DIGEST_INVALID")), ErrorKind::DigestInvalid),
            (server(503, "busy"), ErrorKind::Unavailable),
            (OciDistributionError::UnauthorizedError { url: "u".to_owned() }, ErrorKind::Unauthorized),
            (OciDistributionError::AuthenticationFailure("no".to_owned()), ErrorKind::Unauthorized),
            (OciDistributionError::PushNoDataError, ErrorKind::Invalid),
        ] {
            let shown = format!("{e}");
            let e = error(e, Subject::Blob);
            assert_eq!(e.kind(), kind, "{shown}");
            assert!(!format!("{e:?}").contains("s3cret"), "{e:?}");
        }
    }

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

    #[tokio::test]
    async fn there_is_more_when_the_next_request_finds_it() {
        // Registries cap pages, ignore `last`, or ignore `n`.
        let all = ["a", "b", "c", "d"];
        for (cap, heeds_last) in [(usize::MAX, true), (2, true), (usize::MAX, false)] {
            let list = |limit: Option<usize>, after: Option<String>| async move {
                let after = after.filter(|_| heeds_last).unwrap_or_default();
                let found = all.iter().filter(|t| **t > after.as_str()).map(|t| (*t).to_owned());
                Ok(found.take(limit.unwrap_or(usize::MAX).min(cap)).collect())
            };
            let page = |limit, after: Option<&str>| Page { limit, after: after.map(str::to_owned) };
            if heeds_last {
                let two = listing(page(Some(2), Some("a")), Tag::parse, list).await.unwrap();
                assert_eq!((two.items.len(), two.more), (2, true), "cap {cap}");
                let rest = listing(page(None, Some("c")), Tag::parse, list).await.unwrap();
                assert_eq!((rest.items.len(), rest.more), (1, false), "cap {cap}");
            } else {
                let whole = listing(page(None, None), Tag::parse, list).await.unwrap();
                assert_eq!((whole.items.len(), whole.more), (4, false));
            }
        }
    }

    #[tokio::test]
    async fn a_list_in_another_order_loses_nothing() {
        // Not the order of bytes; one text is no tag. Registries cap pages, or ignore `last`.
        let all = ["v10", "v9", "-", "a", "V1", "v2"];
        let valid = ["v10", "v9", "a", "V1", "v2"];
        for (cap, heeds_last) in [(usize::MAX, true), (2, true), (1, true), (usize::MAX, false)] {
            let list = |limit: Option<usize>, after: Option<String>| async move {
                let after = after.filter(|_| heeds_last);
                let start = after.map_or(0, |after| all.iter().position(|t| *t == after).unwrap() + 1);
                let found = all[start..].iter().map(|t| (*t).to_owned());
                Ok(found.take(limit.unwrap_or(usize::MAX).min(cap)).collect())
            };
            let limits = if heeds_last { vec![None, Some(1), Some(2), Some(3)] } else { vec![None] };
            for limit in limits {
                let (mut tags, mut after) = (Vec::<String>::new(), None);
                loop {
                    let found = listing(Page { limit, after }, Tag::parse, list).await.unwrap();
                    tags.extend(found.items.iter().map(ToString::to_string));
                    assert!(tags.len() <= valid.len(), "{tags:?}");
                    if !found.more {
                        break;
                    }
                    after = tags.last().cloned();
                }
                assert_eq!(tags, valid, "cap {cap}, limit {limit:?}, heeds last {heeds_last}");
            }
        }
    }

    #[tokio::test]
    async fn a_list_without_valid_names_ends() {
        let list = |_: Option<usize>, after: Option<String>| async move {
            Ok(vec![format!("{}-", after.unwrap_or_default())])
        };
        let e = listing(Page { limit: None, after: None }, Tag::parse, list).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge, "{e}");
    }
}
