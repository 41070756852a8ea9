//! Upload sessions over HTTP.
//!
//! A session is where the registry said (`Location`), which may be on another host: it then gets no credentials.

use super::auth::Access;
use super::fault::Subject;
use super::transport::{Answer, Payload, Replay, Request, check_downgrade};
use super::{HttpClient, header, link};
use crate::client::{Mount, UploadSession};
use crate::reference::RepositoryName;
use crate::store::{ByteStream, UploadId};
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use url::Url;

const OCTETS: &str = "application/octet-stream";

fn push(repository: &RepositoryName) -> Access {
    Access::repository(repository, "pull,push")
}

impl HttpClient {
    pub(super) async fn open_session(&self, repository: &RepositoryName) -> Result<UploadSession> {
        let url = self.url(format_args!("{repository}/blobs/uploads/"));
        let request = Request::new(Method::POST, url, push(repository), Subject::Repository, &[202]);
        let answer = self.send(request).await?;
        session_of(&answer, None, 0)
    }

    /// Opens a session for a blob, or has it mounted from wherever the registry knows it to be (end-11 without `from`).
    pub(super) async fn offer(&self, repository: &RepositoryName, digest: &Digest) -> Result<Mount> {
        let mut url = self.url(format_args!("{repository}/blobs/uploads/"));
        url.query_pairs_mut().append_pair("mount", digest.as_str());
        let request = Request::new(Method::POST, url, push(repository), Subject::Repository, &[201, 202]);
        let answer = match self.send(request).await {
            Ok(answer) => answer,
            Err(e) if e.is_retryable() => return Err(e),
            // Not every registry takes a mount from nowhere for a session.
            Err(_) => return self.open_session(repository).await.map(Mount::Upload),
        };
        if answer.response.status() == 201 {
            return Ok(Mount::Mounted);
        }
        session_of(&answer, None, 0).map(Mount::Upload)
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
        Ok(Mount::Upload(session_of(&answer, None, 0)?))
    }

    pub(super) async fn session_status(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
    ) -> Result<UploadSession> {
        let url = self.location(session)?;
        let request = Request::new(Method::GET, url, push(repository), Subject::Upload, &[200, 202, 204]);
        let answer = self.send(request).await?;
        // `0-0` is what registries say for no byte and for one; only who was told of one knows.
        let empty = if session.offset == 1 { 1 } else { 0 };
        let offset = match header(answer.response.headers(), "range").and_then(link::parse_range) {
            Some((0, 0)) => empty,
            Some((_, last)) => last.saturating_add(1),
            None => 0,
        };
        Ok(UploadSession { resumed: true, ..session_of(&answer, Some(session), offset)? })
    }

    pub(super) async fn send_chunk(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
        chunk: Bytes,
    ) -> Result<UploadSession> {
        if chunk.is_empty() {
            return Ok(session.clone());
        }
        let end = session.offset + chunk.len() as u64;
        let request = Request::new(
            Method::PATCH,
            self.location(session)?,
            push(repository),
            Subject::Upload,
            &[202, 204],
        )
        .header(CONTENT_TYPE, OCTETS)?
        .header(CONTENT_RANGE, format!("{}-{}", session.offset, end - 1))?
        .payload(Payload::Bytes(chunk))
        .replay(Replay::IfRefused);
        let answer = self.send(request).await?;
        let offset = match header(answer.response.headers(), "range").and_then(link::parse_range) {
            Some((_, last)) => last.saturating_add(1),
            None => end,
        };
        session_of(&answer, Some(session), offset)
    }

    pub(super) async fn close_session(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
        digest: &Digest,
        rest: Option<(u64, ByteStream)>,
    ) -> Result<()> {
        let mut url = self.location(session)?;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let mut request = Request::new(Method::PUT, url, push(repository), Subject::Upload, &[201, 202, 204])
            .header(CONTENT_TYPE, OCTETS)?
            .replay(Replay::IfRefused);
        let rest_length = rest.as_ref().map(|(length, _)| *length);
        if let Some((length, stream)) = rest.filter(|(length, _)| *length > 0) {
            if session.offset > 0 || session.resumed {
                let last = session.offset.saturating_add(length - 1);
                request = request.header(CONTENT_RANGE, format!("{}-{last}", session.offset))?;
            }
            request = request.payload(Payload::Stream(length, stream));
        }
        let length = rest_length.unwrap_or_default();
        self.send(request.effort(session.offset.saturating_add(length))).await.map(|_| ())
    }

    pub(super) async fn drop_session(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
    ) -> Result<()> {
        let url = self.location(session)?;
        let request = Request::new(Method::DELETE, url, push(repository), Subject::Upload, &[200, 202, 204])
            .replay(Replay::IfRefused);
        self.send(request).await.map(|_| ())
    }

    /// The session's URL, which may have been saved as a path.
    fn location(&self, session: &UploadSession) -> Result<Url> {
        let base = self.transport().base();
        let mut url = base
            .join(&session.location)
            .map_err(|e| Error::invalid("the location of the upload is no URL").with_source(e))?;
        self.transport().address.adapt(&mut url);
        check_downgrade(base, &url)?;
        Ok(url)
    }
}

fn session_of(answer: &Answer, before: Option<&UploadSession>, offset: u64) -> Result<UploadSession> {
    let headers = answer.response.headers();
    let location = match (header(headers, "location"), before) {
        (Some(location), _) => answer.url.join(location).map_err(|e| {
            Error::invalid("the registry gave an upload a location that is no URL").with_source(e)
        })?,
        (None, Some(before)) => answer
            .url
            .join(&before.location)
            .map_err(|e| Error::invalid("the location of the upload is no URL").with_source(e))?,
        (None, None) => {
            return Err(Error::new(
                ErrorKind::UploadInvalid,
                "the registry opened an upload and did not say where",
            ));
        }
    };
    check_downgrade(&answer.url, &location)?;
    let id = location.path_segments().and_then(|mut s| s.next_back()).and_then(|s| UploadId::parse(s).ok());
    let chunk_min_length = header(headers, "oci-chunk-min-length")
        .and_then(|v| v.trim().parse().ok())
        .or(before.map(|b| b.chunk_min_length))
        .unwrap_or(0);
    let resumed = before.is_some_and(|b| b.resumed);
    Ok(UploadSession { id, location: location.into(), offset, chunk_min_length, resumed })
}
