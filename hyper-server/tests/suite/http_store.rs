//! A registry at the other end of a socket, seen as a store.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hyper_sdk::oci::{Descriptor, ImageIndex, Manifest};
use hyper_sdk::reference::{ManifestReference, RepositoryName, Tag};
use hyper_sdk::store::{
    BlobReader, BlobUpload, ByteRange, Listing, Page, PutManifest, RegistryStore, StoreCapabilities,
    UploadId, UploadOptions,
};
use hyper_sdk::{Digest, Error, ErrorKind, Result};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, RequestBuilder, Response};
use std::fmt;

#[derive(Clone, Debug)]
pub(crate) struct HttpStore {
    client: Client,
    url: String,
    capabilities: StoreCapabilities,
}

impl HttpStore {
    pub(crate) fn new(url: String, capabilities: StoreCapabilities) -> Self {
        Self { client: Client::new(), url, capabilities }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}/v2/{path}", self.url))
    }

    /// Sends a request; `missing` is what a 404 without a body means.
    async fn send(&self, request: RequestBuilder, missing: ErrorKind) -> Result<Response> {
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(broken)?;
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = json["errors"][0]["code"].as_str().unwrap_or_default();
        let kind = match (code, status.as_u16()) {
            (_, 416) => ErrorKind::RangeInvalid,
            (_, 409 | 412) => ErrorKind::Conflict,
            (_, 405) => ErrorKind::Unsupported,
            (_, 413) => ErrorKind::TooLarge,
            ("DIGEST_INVALID", _) => ErrorKind::DigestInvalid,
            ("SIZE_INVALID", _) => ErrorKind::SizeInvalid,
            ("NAME_INVALID", _) => ErrorKind::NameInvalid,
            ("NAME_UNKNOWN", _) => ErrorKind::NameUnknown,
            ("BLOB_UNKNOWN", _) => ErrorKind::BlobUnknown,
            ("BLOB_UPLOAD_UNKNOWN", _) => ErrorKind::UploadUnknown,
            ("BLOB_UPLOAD_INVALID", _) => ErrorKind::UploadInvalid,
            ("MANIFEST_UNKNOWN", _) => ErrorKind::ManifestUnknown,
            ("MANIFEST_INVALID", _) => ErrorKind::ManifestInvalid,
            ("MANIFEST_BLOB_UNKNOWN", _) => ErrorKind::ManifestBlobUnknown,
            ("", 404) => missing,
            _ => ErrorKind::Internal,
        };
        Err(Error::new(kind, format!("{status} {code}")))
    }
}

fn broken(e: reqwest::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the request failed").with_source(e)
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |v| v.to_str().unwrap())
}

fn page_query(page: &Page) -> String {
    let mut query = String::new();
    if let Some(limit) = page.limit {
        query.push_str(&format!("n={limit}&"));
    }
    if let Some(after) = &page.after {
        query.push_str(&format!("last={}", utf8_percent_encode(after, NON_ALPHANUMERIC)));
    }
    query
}

impl fmt::Display for HttpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry at {}", self.url)
    }
}

#[async_trait]
impl RegistryStore for HttpStore {
    fn capabilities(&self) -> StoreCapabilities {
        self.capabilities.without_tag_guards().without_quotas()
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let request = self.request(Method::HEAD, &format!("{repository}/blobs/{digest}"));
        let response = self.send(request, ErrorKind::BlobUnknown).await?;
        assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
        Ok(header(&response, "content-length").parse().unwrap())
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let mut request = self.request(Method::GET, &format!("{repository}/blobs/{digest}"));
        if let Some(range) = range {
            request = request.header(
                "range",
                match range {
                    ByteRange::FromTo(first, None) => format!("bytes={first}-"),
                    ByteRange::FromTo(first, Some(last)) => format!("bytes={first}-{last}"),
                    ByteRange::Suffix(n) => format!("bytes=-{n}"),
                },
            );
        }
        let response = self.send(request, ErrorKind::BlobUnknown).await?;
        let length: u64 = header(&response, "content-length").parse().unwrap();
        let (offset, size) = match header(&response, "content-range").strip_prefix("bytes ") {
            None => (0, length),
            Some(text) => {
                let (range, size) = text.split_once('/').unwrap();
                (range.split_once('-').unwrap().0.parse().unwrap(), size.parse().unwrap())
            }
        };
        assert_eq!(range.is_some(), response.status() == 206);
        let stream = response.bytes_stream().map_err(broken).boxed();
        Ok(BlobReader { size, offset, length, stream })
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let request = self.request(Method::DELETE, &format!("{repository}/blobs/{digest}"));
        assert_eq!(self.send(request, ErrorKind::BlobUnknown).await?.status(), 202);
        Ok(())
    }

    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<u64> {
        let path = format!("{repository}/blobs/uploads/?mount={digest}&from={from}");
        let response = self.send(self.request(Method::POST, &path), ErrorKind::BlobUnknown).await?;
        if response.status() == 201 {
            return self.stat_blob(repository, digest).await;
        }
        let location = header(&response, "location").strip_prefix("/v2/").unwrap().to_owned();
        self.send(self.request(Method::DELETE, &location), ErrorKind::UploadUnknown).await?;
        Err(Error::new(ErrorKind::BlobUnknown, "the blob is not mounted"))
    }

    async fn start_upload(
        &self,
        repository: &RepositoryName,
        options: UploadOptions,
    ) -> Result<Box<dyn BlobUpload>> {
        let query = options.algorithm.map(|a| format!("?digest-algorithm={a}")).unwrap_or_default();
        let request = self.request(Method::POST, &format!("{repository}/blobs/uploads/{query}"));
        let response = self.send(request, ErrorKind::NameUnknown).await?;
        let id = UploadId::parse(header(&response, "docker-upload-uuid"))?;
        Ok(Box::new(HttpUpload { store: self.clone(), repository: repository.clone(), id, offset: 0 }))
    }

    async fn resume_upload(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<dyn BlobUpload>> {
        let request = self.request(Method::GET, &format!("{repository}/blobs/uploads/{id}"));
        let response = self.send(request, ErrorKind::UploadUnknown).await?;
        let last: u64 = header(&response, "range").strip_prefix("0-").unwrap().parse().unwrap();
        // `0-0` is one byte or none: only the next chunk can tell, so ask with an empty one.
        let offset = if last == 0 {
            let path = format!("{repository}/blobs/uploads/{id}");
            let probe = self.request(Method::PATCH, &path).header("content-range", "1-1").body("x");
            match self.send(probe, ErrorKind::UploadUnknown).await {
                Ok(_) => return Err(Error::internal("a byte was taken that was not meant")),
                Err(e) if e.kind() == ErrorKind::RangeInvalid => 0,
                Err(e) => return Err(e),
            }
        } else {
            last + 1
        };
        Ok(Box::new(HttpUpload {
            store: self.clone(),
            repository: repository.clone(),
            id: id.clone(),
            offset,
        }))
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        let path = format!("{repository}/manifests/{reference}");
        let response = self.send(self.request(Method::GET, &path), ErrorKind::ManifestUnknown).await?;
        let kind = header(&response, "content-type").to_owned();
        let digest = Digest::parse(header(&response, "docker-content-digest"))?;
        Manifest::parse(response.bytes().await.map_err(broken)?, &kind)?.with_digest(&digest)
    }

    async fn put_manifest(&self, repository: &RepositoryName, put: PutManifest) -> Result<Descriptor> {
        if put.guard.is_some() {
            return Err(Error::unsupported("a registry elsewhere asks no guard"));
        }
        let digest = put.manifest.digest();
        let query: String = put.tags.iter().map(|t| format!("tag={t}&")).collect();
        let path = format!("{repository}/manifests/{digest}?{query}");
        let mut request = self
            .request(Method::PUT, &path)
            .header("content-type", put.manifest.media_type())
            .body(put.manifest.bytes().clone());
        request = match &put.if_match {
            None => request,
            Some(None) => request.header("if-none-match", "*"),
            Some(Some(digest)) => request.header("if-match", format!("\"{digest}\"")),
        };
        let response = self.send(request, ErrorKind::NameUnknown).await?;
        assert_eq!(response.status(), 201);
        assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
        Ok(put.manifest.descriptor())
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        let request = self.request(Method::DELETE, &format!("{repository}/manifests/{reference}"));
        self.send(request, ErrorKind::ManifestUnknown).await.map(|_| ())
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        let path = format!("{repository}/tags/list?{}", page_query(&page));
        let response = self.send(self.request(Method::GET, &path), ErrorKind::NameUnknown).await?;
        let more = response.headers().contains_key("link");
        let json: serde_json::Value = response.json_value().await;
        assert_eq!(json["name"], repository.as_str());
        let items = json["tags"].as_array().unwrap().iter();
        Ok(Listing { items: items.map(|t| Tag::parse(t.as_str().unwrap())).collect::<Result<_>>()?, more })
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        let path = format!("_catalog?{}", page_query(&page));
        let response = self.send(self.request(Method::GET, &path), ErrorKind::NotFound).await?;
        let more = response.headers().contains_key("link");
        let json: serde_json::Value = response.json_value().await;
        let items = json["repositories"].as_array().unwrap().iter();
        let items = items.map(|t| RepositoryName::parse(t.as_str().unwrap())).collect::<Result<_>>()?;
        Ok(Listing { items, more })
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let filter = artifact_type
            .map(|t| format!("?artifactType={}", utf8_percent_encode(t, NON_ALPHANUMERIC)))
            .unwrap_or_default();
        let path = format!("{repository}/referrers/{digest}{filter}");
        let response = self.send(self.request(Method::GET, &path), ErrorKind::NotFound).await?;
        assert_eq!(response.headers().contains_key("oci-filters-applied"), artifact_type.is_some());
        let index: ImageIndex = serde_json::from_value(response.json_value().await).unwrap();
        Ok(index.manifests)
    }
}

#[async_trait]
trait JsonBody {
    async fn json_value(self) -> serde_json::Value;
}

#[async_trait]
impl JsonBody for Response {
    async fn json_value(self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes().await.unwrap()).unwrap()
    }
}

#[derive(Debug)]
struct HttpUpload {
    store: HttpStore,
    repository: RepositoryName,
    id: UploadId,
    offset: u64,
}

impl HttpUpload {
    fn request(&self, method: Method, query: &str) -> RequestBuilder {
        self.store.request(method, &format!("{}/blobs/uploads/{}{query}", self.repository, self.id))
    }
}

#[async_trait]
impl BlobUpload for HttpUpload {
    fn id(&self) -> &UploadId {
        &self.id
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let last = self.offset + bytes.len() as u64 - 1;
        let request = self
            .request(Method::PATCH, "")
            .header("content-range", format!("{}-{last}", self.offset))
            .body(bytes);
        let response = self.store.send(request, ErrorKind::UploadUnknown).await?;
        assert_eq!(header(&response, "range"), format!("0-{last}"));
        self.offset = last + 1;
        Ok(())
    }

    async fn save(&mut self) -> Result<()> {
        Ok(())
    }

    async fn finish(self: Box<Self>, digest: &Digest) -> Result<Descriptor> {
        let request = self.request(Method::PUT, &format!("?digest={digest}"));
        assert_eq!(self.store.send(request, ErrorKind::UploadUnknown).await?.status(), 201);
        Ok(Descriptor::new("application/octet-stream", digest.clone(), self.offset))
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let request = self.request(Method::DELETE, "");
        self.store.send(request, ErrorKind::UploadUnknown).await.map(|_| ())
    }
}
