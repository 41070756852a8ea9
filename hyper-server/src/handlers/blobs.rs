//! Blobs: read whole or in part, and deleted (end-2, end-10).

use super::ranges::{self, Multipart};
use super::{CONTENT_DIGEST, ContentHeaders, Outcome, content, digest_value, etag_value, not_modified};
use crate::body::BlobBody;
use crate::call::{Call, Streamed};
use crate::error::ApiError;
use crate::suspects;
use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{self, HeaderValue};
use hyper_sdk::store::wrap::{CachedContent, FetchedBlob};
use hyper_sdk::store::{ByteRange, DeleteTarget};
use hyper_sdk::{Digest, ErrorKind, RepositoryName};
use std::ops::Range;

/// The content of a digest never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

pub(super) async fn get(call: &Call<'_>, repository: &RepositoryName, digest: &Digest) -> Outcome {
    let unchanged = || not_modified(call, &digest_value(digest), &etag_value(digest));
    if call.is_head() {
        // Clients send HEAD before they push, so the store is asked and not the cache, and keeps the blob for their manifest.
        let size = call.store.lease_blob(repository, digest).await?;
        return Ok(unchanged().unwrap_or_else(|| streamed(digest, size, Body::empty())));
    }
    let range = requested_ranges(call, digest);
    if let Some(content) = call.cache.recall_blob(repository, digest).await? {
        return from_memory(call, &content, range);
    }
    if let Some(response) = unchanged() {
        call.store.stat_blob(repository, digest).await?;
        return Ok(response);
    }
    match range.as_deref() {
        Some([range]) => part(call, repository, digest, *range).await,
        Some(ranges) => parts(call, repository, digest, ranges).await,
        None => whole(call, repository, digest).await,
    }
}

/// The whole blob; a small blob is cached.
async fn whole(call: &Call<'_>, repository: &RepositoryName, digest: &Digest) -> Outcome {
    let fetched = call.cache.fetch_blob(repository, digest).await;
    let reader = match fetched.inspect_err(|e| suspects::suspect(call.state, digest, e))? {
        FetchedBlob::Whole(content) => return from_memory(call, &content, None),
        FetchedBlob::Reader(reader) => suspects::checked(call.state, digest, reader),
    };
    let size = reader.size;
    let mut response = streamed(digest, size, Body::new(BlobBody::open(reader).await?));
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

/// One range of a blob.
async fn part(call: &Call<'_>, repository: &RepositoryName, digest: &Digest, range: ByteRange) -> Outcome {
    let reader = match call.store.get_blob(repository, digest, Some(range)).await {
        Ok(reader) => reader,
        Err(e) if e.kind() == ErrorKind::RangeInvalid => {
            return Err(unsatisfiable(call.store.stat_blob(repository, digest).await?));
        }
        Err(e) => return Err(e.into()),
    };
    let (size, part) = (reader.size, reader.offset..reader.offset + reader.length);
    let mut response = streamed(digest, reader.length, Body::new(BlobBody::open(reader).await?));
    partial(&mut response, &part, size);
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

/// Several ranges of a blob. How they are merged depends on the size of the blob.
async fn parts(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    ranges: &[ByteRange],
) -> Outcome {
    let size = call.store.stat_blob(repository, digest).await?;
    let parts = satisfiable(ranges, size)?;
    let first = ByteRange::FromTo(parts[0].start, Some(parts[0].end - 1));
    if parts.len() == 1 {
        return part(call, repository, digest, first).await;
    }
    let opened = BlobBody::open(call.store.get_blob(repository, digest, Some(first)).await?).await?;
    let multipart = Multipart::new(parts, size)?;
    let (length, kind) = (multipart.length(), multipart.content_type());
    let body = multipart.stream(opened, call.store.clone(), repository.clone(), digest.clone());
    let mut response = streamed(digest, length, Body::new(body));
    several(&mut response, &kind);
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

pub(super) async fn delete(call: &Call<'_>, repository: RepositoryName, digest: Digest) -> Outcome {
    super::delete(call, repository, DeleteTarget::Blob(digest)).await
}

fn from_memory(call: &Call<'_>, object: &CachedContent, range: Option<Vec<ByteRange>>) -> Outcome {
    let known = ContentHeaders::new(object);
    if let Some(response) = not_modified(call, &known.digest, &known.etag) {
        return Ok(response);
    }
    let mut response = content(call, object, known);
    response.headers_mut().insert(header::CACHE_CONTROL, FOREVER);
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(wanted) = range {
        let size = object.bytes.len() as u64;
        let parts = satisfiable(&wanted, size)?;
        let body = if let [part] = parts.as_slice() {
            partial(&mut response, part, size);
            object.bytes.slice(part.start as usize..part.end as usize)
        } else {
            let multipart = Multipart::new(parts, size)?;
            several(&mut response, &multipart.content_type());
            multipart.whole(&object.bytes)
        };
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }
    Ok(response)
}

fn streamed(digest: &Digest, length: u64, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_DIGEST.clone(), digest_value(digest));
    headers.insert(header::ETAG, etag_value(digest));
    headers.insert(header::CACHE_CONTROL, FOREVER);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn partial(response: &mut Response, part: &Range<u64>, size: u64) {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let (first, last) = (part.start, part.end - 1);
    super::set(response, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
}

fn several(response: &mut Response, content_type: &str) {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    super::set(response, header::CONTENT_TYPE, content_type);
}

fn unsatisfiable(size: u64) -> ApiError {
    ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", "the range is outside the blob")
        .with_header(header::CONTENT_RANGE, format!("bytes */{size}"))
}

/// The requested ranges. Other units and malformed ranges give the whole blob, as RFC 9110 (section 14.2) allows. A
/// range whose end is before its beginning is unsatisfiable.
fn requested_ranges(call: &Call<'_>, digest: &Digest) -> Option<Vec<ByteRange>> {
    let ranges = ranges::parse(call.header(header::RANGE)?)?;
    match call.header(header::IF_RANGE) {
        Some(etag) if etag.trim_matches('"') != digest.as_str() => None,
        _ => Some(ranges),
    }
}

/// The parts of a blob of `size` bytes to send: at least one.
fn satisfiable(wanted: &[ByteRange], size: u64) -> Result<Vec<Range<u64>>, ApiError> {
    let parts = ranges::resolve(wanted, size);
    if parts.is_empty() { Err(unsatisfiable(size)) } else { Ok(parts) }
}
