//! Upload sessions over HTTP.
//!
//! The address of a session comes from the registry (`Location`). It may be on another host, which then gets no
//! credentials. The token of a session is the repository and this address.

use super::auth::Access;
use super::errors::Subject;
use super::transport::{Answer, Payload, Replay, Request, check_downgrade};
use super::{HttpClient, header, link};
use crate::client::{Mount, RegistryUpload, ResumeToken};
use crate::reference::RepositoryName;
use crate::store::ByteStream;
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use std::fmt;
use url::Url;

const OCTETS: &str = "application/octet-stream";

fn push(repository: &RepositoryName) -> Access {
    Access::repository(repository, "pull,push")
}

impl HttpClient {
    pub(super) async fn open_session(&self, repository: &RepositoryName) -> Result<Box<dyn RegistryUpload>> {
        let url = self.url(format_args!("{repository}/blobs/uploads/"));
        let request = Request::new(Method::POST, url, push(repository), Subject::Repository, &[202]);
        let answer = self.send(request).await?;
        self.upload(repository, &answer)
    }

    fn upload(&self, repository: &RepositoryName, answer: &Answer) -> Result<Box<dyn RegistryUpload>> {
        let session = Session::of(answer, None, 0)?;
        Ok(Box::new(HttpUpload { client: self.clone(), repository: repository.clone(), session }))
    }

    /// A session whose state is not known yet.
    pub(super) fn session_at(&self, repository: &RepositoryName, location: &str) -> HttpUpload {
        let session = Session { location: location.to_owned(), offset: 0, min_chunk: 0, is_resumed: true };
        HttpUpload { client: self.clone(), repository: repository.clone(), session }
    }

    /// Finds a session by its token.
    pub(super) async fn find_session(
        &self,
        repository: &RepositoryName,
        token: &ResumeToken,
    ) -> Result<Box<dyn RegistryUpload>> {
        let location = token.as_str().split_once(' ').filter(|(of, _)| *of == repository.as_str());
        let Some((_, location)) = location else {
            return Err(Error::new(
                ErrorKind::UploadUnknown,
                "the token is not of an upload to this repository",
            ));
        };
        let mut upload = self.session_at(repository, location);
        upload.ask().await?;
        Ok(Box::new(upload))
    }

    /// Opens a session for a blob, unless the registry has the blob and mounts it (end-11 without `from`).
    pub(super) async fn offer(&self, repository: &RepositoryName, digest: &Digest) -> Result<Mount> {
        let mut url = self.url(format_args!("{repository}/blobs/uploads/"));
        url.query_pairs_mut().append_pair("mount", digest.as_str());
        let request = Request::new(Method::POST, url, push(repository), Subject::Repository, &[201, 202]);
        let answer = match self.send(request).await {
            Ok(answer) => answer,
            Err(e) if e.is_retryable() => return Err(e),
            // Some registries refuse a mount without a source instead of opening a session.
            Err(_) => return self.open_session(repository).await.map(Mount::Upload),
        };
        if answer.response.status() == 201 {
            return Ok(Mount::Mounted);
        }
        self.upload(repository, &answer).map(Mount::Upload)
    }

    pub(super) async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<Mount> {
        let mut url = self.url(format_args!("{repository}/blobs/uploads/"));
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from.as_str());
        let access = push(repository).and_pull(from);
        let request = Request::new(Method::POST, url, access, Subject::Repository, &[201, 202]);
        let answer = self.send(request).await?;
        if answer.response.status() == 201 {
            return Ok(Mount::Mounted);
        }
        self.upload(repository, &answer).map(Mount::Upload)
    }
}

/// The address of a session, and how far it is.
struct Session {
    /// The address of the next request, as the registry gave it.
    location: String,
    /// How many bytes the registry has.
    offset: u64,
    /// The smallest chunk that the registry takes (`OCI-Chunk-Min-Length`).
    min_chunk: u64,
    /// The registry has reported how far the session is: what follows needs a range, even when it begins at zero.
    is_resumed: bool,
}

impl Session {
    /// The session after an answer.
    fn of(answer: &Answer, before: Option<&Self>, offset: u64) -> Result<Self> {
        let headers = answer.response.headers();
        let location = match (header(headers, "location"), before) {
            (Some(location), _) => answer.url.join(location).map_err(|e| {
                Error::invalid("the registry gave an upload a location that is not a URL").with_source(e)
            })?,
            (None, Some(before)) => answer.url.join(&before.location).map_err(not_a_url)?,
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::UploadInvalid,
                    "the registry opened an upload without a location",
                ));
            }
        };
        check_downgrade(&answer.url, &location)?;
        let min_chunk = header(headers, "oci-chunk-min-length")
            .and_then(|v| v.trim().parse().ok())
            .or(before.map(|b| b.min_chunk))
            .unwrap_or(0);
        let is_resumed = before.is_some_and(|b| b.is_resumed);
        Ok(Self { location: location.into(), offset, min_chunk, is_resumed })
    }
}

fn not_a_url(e: url::ParseError) -> Error {
    Error::invalid("the location of the upload is not a URL").with_source(e)
}

/// A session at the registry.
pub(super) struct HttpUpload {
    client: HttpClient,
    repository: RepositoryName,
    session: Session,
}

impl fmt::Debug for HttpUpload {
    /// Without the location, which registries sign.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpUpload")
            .field("client", &self.client)
            .field("repository", &self.repository)
            .field("offset", &self.session.offset)
            .finish_non_exhaustive()
    }
}

impl HttpUpload {
    /// The session's URL, which may have been saved as a path.
    fn location(&self) -> Result<Url> {
        let base = self.client.transport().base();
        let mut url = base.join(&self.session.location).map_err(not_a_url)?;
        self.client.transport().address.adapt(&mut url);
        check_downgrade(base, &url)?;
        Ok(url)
    }

    fn request(&self, method: Method, url: Url, expected: &'static [u16]) -> Request {
        Request::new(method, url, push(&self.repository), Subject::Upload, expected)
    }

    async fn ask(&mut self) -> Result<()> {
        let request = self.request(Method::GET, self.location()?, &[200, 202, 204]);
        let answer = self.client.send(request).await?;
        // Registries report `0-0` for no bytes and for one byte: the handle knows whether it sent one.
        let empty = if self.session.offset == 1 { 1 } else { 0 };
        let offset = match header(answer.response.headers(), "range").and_then(link::parse_range) {
            Some((0, 0)) => empty,
            Some((_, last)) => last.saturating_add(1),
            None => 0,
        };
        self.session = Session { is_resumed: true, ..Session::of(&answer, Some(&self.session), offset)? };
        Ok(())
    }

    async fn send_chunk(&mut self, chunk: Bytes) -> Result<()> {
        let first = self.session.offset;
        let end = first.saturating_add(chunk.len() as u64);
        let request = self
            .request(Method::PATCH, self.location()?, &[202, 204])
            .header(CONTENT_TYPE, OCTETS)?
            .header(CONTENT_RANGE, format!("{first}-{}", end - 1))?
            .payload(Payload::Bytes(chunk))
            .replay(Replay::IfRefused);
        let answer = self.client.send(request).await?;
        let offset = match header(answer.response.headers(), "range").and_then(link::parse_range) {
            Some((_, last)) => last.saturating_add(1),
            None => end,
        };
        self.session = Session::of(&answer, Some(&self.session), offset)?;
        Ok(())
    }

    async fn close(&self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        let offset = self.session.offset;
        let mut url = self.location()?;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let mut request = self
            .request(Method::PUT, url, &[201, 202, 204])
            .header(CONTENT_TYPE, OCTETS)?
            .replay(Replay::IfRefused);
        let rest_length = rest.as_ref().map(|(length, _)| *length);
        if let Some((length, stream)) = rest.filter(|(length, _)| *length > 0) {
            if offset > 0 || self.session.is_resumed {
                let last = offset.saturating_add(length - 1);
                request = request.header(CONTENT_RANGE, format!("{offset}-{last}"))?;
            }
            request = request.payload(Payload::Stream(length, stream));
        }
        let length = rest_length.unwrap_or_default();
        self.client.send(request.effort(offset.saturating_add(length))).await.map(|_| ())
    }
}

#[async_trait]
impl RegistryUpload for HttpUpload {
    fn offset(&self) -> u64 {
        self.session.offset
    }

    fn token(&self) -> Option<ResumeToken> {
        Some(ResumeToken::new(format!("{} {}", self.repository, self.session.location)))
    }

    fn min_chunk(&self) -> u64 {
        self.session.min_chunk
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = self.send_chunk(bytes).await;
        sent.context("repository", &self.repository)
    }

    async fn refresh(&mut self) -> Result<u64> {
        let asked = self.ask().await;
        asked.context("repository", &self.repository).map(|()| self.session.offset)
    }

    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        let name = self.client.blob_name(&self.repository, digest);
        self.close(digest, rest).await.context("blob", name)
    }

    async fn cancel(&mut self) -> Result<()> {
        let request = self
            .location()
            .map(|url| self.request(Method::DELETE, url, &[200, 202, 204]).replay(Replay::IfRefused));
        let sent = match request {
            Ok(request) => self.client.send(request).await.map(|_| ()),
            Err(e) => Err(e),
        };
        sent.context("repository", &self.repository)
    }
}
