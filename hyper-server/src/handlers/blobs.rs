//! Blobs: read whole or in part, and deleted (end-2, end-10).

use super::{CONTENT_DIGEST, Outcome, content, empty, not_modified};
use crate::body::BlobBody;
use crate::cache::{Found, Key, Object, digest_value, etag_value};
use crate::error::ApiError;
use crate::registry::{Call, Streamed};
use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{self, HeaderValue};
use hyper_sdk::store::ByteRange;
use hyper_sdk::{Digest, RepositoryName};
use std::sync::Arc;

/// What a digest names never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

pub(super) async fn get(call: &Call<'_>, repository: &RepositoryName, digest: &Digest) -> Outcome {
    let key = Key::blob(repository, digest);
    let stamp = call.cache.stamp();
    let range = if call.is_head() { None } else { range(call, digest) };
    match call.cache.get(&key, stamp) {
        Found::Fresh(object) => return from_memory(call, &object, range),
        Found::Stale(object) => {
            if let Err(e) = call.store.stat_blob(repository, digest).await {
                call.cache.remove(&key);
                return Err(e.into());
            }
            call.cache.renew(&key, stamp);
            return from_memory(call, &object, range);
        }
        Found::Nothing => {}
    }
    if call.is_head() || call.headers.contains_key(header::IF_NONE_MATCH) {
        let size = call.store.stat_blob(repository, digest).await?;
        if let Some(response) = not_modified(call, &digest_value(digest), &etag_value(digest)) {
            return Ok(response);
        }
        if call.is_head() {
            return Ok(streamed(digest, size, Body::empty()));
        }
    }
    if let Some(range) = range {
        let size = call.store.stat_blob(repository, digest).await?;
        let (offset, length) = range.resolve(size).map_err(|_| unsatisfiable(size))?;
        let reader = call.store.get_blob(repository, digest, Some(range)).await?;
        let mut response = streamed(digest, length, Body::new(BlobBody::open(reader).await?));
        partial(&mut response, offset, length, size);
        response.extensions_mut().insert(Streamed);
        return Ok(response);
    }
    let reader = call.store.get_blob(repository, digest, None).await?;
    call.whereabouts.seen(digest, repository);
    if call.cache.takes_blob(reader.size) {
        let bytes = BlobBody::open(reader).await?.collect().await?;
        let object = Arc::new(Object::blob(digest, bytes));
        call.cache.put(key, object.clone(), stamp);
        return from_memory(call, &object, None);
    }
    let size = reader.size;
    let mut response = streamed(digest, size, Body::new(BlobBody::open(reader).await?));
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

pub(super) async fn delete(call: &Call<'_>, repository: RepositoryName, digest: Digest) -> Outcome {
    let key = Key::blob(&repository, &digest);
    call.change(move |store| async move { store.delete_blob(&repository, &digest).await }).await?;
    call.cache.remove(&key);
    Ok(empty(StatusCode::ACCEPTED))
}

fn from_memory(call: &Call<'_>, object: &Object, range: Option<ByteRange>) -> Outcome {
    if let Some(response) = not_modified(call, &object.digest, &object.etag) {
        return Ok(response);
    }
    let mut response = content(call, object);
    response.headers_mut().insert(header::CACHE_CONTROL, FOREVER);
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(range) = range {
        let size = object.bytes.len() as u64;
        let (offset, length) = range.resolve(size).map_err(|_| unsatisfiable(size))?;
        *response.body_mut() = Body::from(object.bytes.slice(offset as usize..(offset + length) as usize));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        partial(&mut response, offset, length, size);
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

fn partial(response: &mut Response, offset: u64, length: u64, size: u64) {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    super::set(response, header::CONTENT_RANGE, &format!("bytes {offset}-{}/{size}", offset + length - 1));
}

fn unsatisfiable(size: u64) -> ApiError {
    ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", "the range is outside the blob")
        .with_header(header::CONTENT_RANGE, format!("bytes */{size}"))
}

/// The range that is wanted. Other units, several ranges and malformed ones give the whole blob, as RFC 9110 (section
/// 14.2) allows; a range with its ends exchanged is kept and refused as unsatisfiable.
fn range(call: &Call<'_>, digest: &Digest) -> Option<ByteRange> {
    let range = parse_range(call.header(header::RANGE)?)?;
    match call.header(header::IF_RANGE) {
        Some(etag) if etag.trim_matches('"') != digest.as_str() => None,
        _ => Some(range),
    }
}

fn parse_range(value: &str) -> Option<ByteRange> {
    let (first, last) = value.trim().strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |s: &str| {
        let s = s.trim();
        (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => Some(ByteRange::Suffix(number(last)?)),
        (first, "") => Some(ByteRange::FromTo(number(first)?, None)),
        (first, last) => Some(ByteRange::FromTo(number(first)?, Some(number(last)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        use ByteRange::{FromTo, Suffix};
        for (text, range) in [
            ("bytes=0-0", Some(FromTo(0, Some(0)))),
            ("bytes=500-", Some(FromTo(500, None))),
            ("bytes=-500", Some(Suffix(500))),
            ("bytes=500-0", Some(FromTo(500, Some(0)))),
            ("bytes=0-99999999999999999999999", Some(FromTo(0, Some(u64::MAX)))),
            ("bytes=0-1,2-3", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("items=0-1", None),
            ("", None),
        ] {
            assert_eq!(parse_range(text), range, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            let _ = parse_range(&text);
        }
    }
}
