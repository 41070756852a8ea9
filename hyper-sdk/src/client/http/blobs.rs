//! Blobs over HTTP: streams that continue after a broken connection.

use super::auth::Access;
use super::errors::Subject;
use super::retry::Attempts;
use super::transport::{Answer, Request};
use super::{HttpClient, body, content_length, encoding, header, link};
use crate::client::timeouts::RateCheck;
use crate::client::verify::verified;
use crate::reference::RepositoryName;
use crate::store::{BlobReader, ByteRange};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, RANGE};
use reqwest::{Method, Response};

/// After this many bytes, earlier failures of a download no longer count.
const PROGRESS: u64 = 256 * 1024;

impl HttpClient {
    pub(super) async fn blob_size(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>> {
        let url = self.url(format_args!("{repository}/blobs/{digest}"));
        let access = Access::repository(repository, "pull");
        let request = Request::new(Method::HEAD, url, access, Subject::Blob, &[200, 404]);
        let Answer { response, .. } = self.send(request).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        match content_length(response.headers()) {
            Some(size) => Ok(Some(size)),
            None => {
                Err(Error::new(ErrorKind::SizeInvalid, "the registry does not say how large the blob is"))
            }
        }
    }

    pub(super) async fn read_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let wanted = match range {
            None => None,
            Some(ByteRange::FromTo(first, Some(last))) if last < first => {
                return Err(Error::new(ErrorKind::RangeInvalid, "the range ends before it begins"));
            }
            Some(ByteRange::FromTo(first, Some(last))) => Some(format!("bytes={first}-{last}")),
            Some(ByteRange::FromTo(first, None)) => Some(format!("bytes={first}-")),
            Some(ByteRange::Suffix(n)) => Some(format!("bytes=-{n}")),
        };
        let mut attempts = Attempts::new(self.transport().policy, &self.reporter);
        let response = self.request_blob(repository, digest, wanted, &mut attempts).await?;
        let part = match part_of(&response)? {
            Some(part) => part,
            None => {
                let size = self.blob_size(repository, digest).await?.ok_or_else(|| {
                    Error::new(ErrorKind::BlobUnknown, "the registry does not have this blob")
                })?;
                Part { size: Some(size), first: 0, length: size }
            }
        };
        let size = match part.size {
            Some(size) => size,
            None => self.blob_size(repository, digest).await?.unwrap_or(part.end()),
        };
        let (offset, length) = match range {
            None => (0, size),
            Some(range) => range.resolve(size)?,
        };
        if offset < part.first || offset.saturating_add(length) > part.end() {
            return Err(Error::new(
                ErrorKind::RangeInvalid,
                "the registry sends another range than asked for",
            )
            .with_context("offset", part.first)
            .with_context("length", part.length));
        }
        let encoding = encoding(response.headers()).map(str::to_owned);
        let download = Download {
            client: self.clone(),
            repository: repository.clone(),
            digest: digest.clone(),
            skip: offset - part.first,
            response: Some(response),
            position: offset,
            end: offset.saturating_add(length),
            since_failure: 0,
            rate: self.transport().timeouts.rate_check(),
            attempts,
        };
        let stream = futures::stream::try_unfold(download, |mut download| async move {
            Ok(download.next().await?.map(|bytes| (bytes, download)))
        });
        let reader = BlobReader { size, offset, length, stream: stream.boxed() };
        let BlobReader { stream, .. } = verified(reader, digest);
        // Storages may keep compressed blobs with this header; the digest shows whether the bytes are those of the blob.
        let stream = stream.map(move |item| match &encoding {
            Some(encoding) => item.context("content-encoding", encoding),
            None => item,
        });
        Ok(BlobReader { size, offset, length, stream: stream.boxed() })
    }

    async fn request_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<String>,
        attempts: &mut Attempts,
    ) -> Result<Response> {
        let url = self.url(format_args!("{repository}/blobs/{digest}"));
        let access = Access::repository(repository, "pull");
        let mut request = Request::new(Method::GET, url, access, Subject::Blob, &[200, 206])
            .header(ACCEPT_ENCODING, "identity")?;
        if let Some(range) = range {
            request = request.header(RANGE, range)?;
        }
        Ok(self.transport().send_within(request, attempts, &self.reporter).await?.response)
    }
}

/// Which bytes of the blob a response carries.
struct Part {
    size: Option<u64>,
    first: u64,
    length: u64,
}

impl Part {
    fn end(&self) -> u64 {
        self.first.saturating_add(self.length)
    }
}

fn part_of(response: &Response) -> Result<Option<Part>> {
    if response.status() != 206 {
        return Ok(content_length(response.headers()).map(|n| Part { size: Some(n), first: 0, length: n }));
    }
    let (first, last, size) =
        header(response.headers(), "content-range").and_then(link::parse_content_range).ok_or_else(|| {
            Error::new(ErrorKind::RangeInvalid, "the registry sends a part of the blob without its range")
        })?;
    Ok(Some(Part { size, first, length: (last - first).saturating_add(1) }))
}

/// A download, with what is needed to continue it.
struct Download {
    client: HttpClient,
    repository: RepositoryName,
    digest: Digest,
    response: Option<Response>,
    /// Bytes of the response before those that are wanted.
    skip: u64,
    position: u64,
    end: u64,
    since_failure: u64,
    rate: RateCheck,
    attempts: Attempts,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.position == self.end && self.response.is_none() {
                return Ok(None);
            }
            let failure = match self.read().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => return Ok(None),
                Err(e) => e,
            };
            self.response = None;
            if self.since_failure >= PROGRESS {
                self.attempts.progressed();
            }
            self.since_failure = 0;
            let what = format!("blob {} at byte {} of {}", self.digest.short(), self.position, self.end);
            if !failure.is_retryable() || !self.attempts.again(None, what, &failure).await {
                return Err(failure);
            }
        }
    }

    /// The next wanted bytes; sends the request again after a broken response.
    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.response.is_none() {
            let range = format!("bytes={}-{}", self.position, self.end - 1);
            let response = self
                .client
                .request_blob(&self.repository, &self.digest, Some(range), &mut self.attempts)
                .await
                .map_err(|e| e.with_retryable(false))?;
            self.rate = self.client.transport().timeouts.rate_check();
            let first = part_of(&response)?.map_or(0, |part| part.first);
            self.skip = self
                .position
                .checked_sub(first)
                .ok_or_else(|| Error::new(ErrorKind::RangeInvalid, "the registry continues after a gap"))?;
            self.response = Some(response);
        }
        let Some(response) = &mut self.response else { return Ok(None) };
        while self.position < self.end {
            let Some(mut bytes) = body::next_chunk(&mut self.rate, response).await? else {
                return Err(Error::new(ErrorKind::Unavailable, "the registry ended the blob too early"));
            };
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            let _ = bytes.split_to(skipped as usize);
            bytes.truncate(usize::try_from(self.end - self.position).unwrap_or(usize::MAX));
            if bytes.is_empty() {
                continue;
            }
            self.position += bytes.len() as u64;
            self.since_failure += bytes.len() as u64;
            return Ok(Some(bytes));
        }
        self.response = None;
        Ok(None)
    }
}
