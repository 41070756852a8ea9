//! Uploads: in one request, in chunks or as a stream, resumed, cancelled; and mounts (end-4 to end-6, end-11, end-13,
//! end-14).
//!
//! Every location is the path `/v2/NAME/blobs/uploads/ID`; it stays the same for the whole session. The offset is
//! stored in the session, not in the location. A chunk that does not begin at the offset gets 416, also on the closing
//! PUT, and does not change the session.

use super::{CONTENT_DIGEST, Outcome, digest_value, empty, set};
use crate::audit::Deed;
use crate::auth::Action;
use crate::body::Incoming;
use crate::call::Call;
use crate::error::ApiError;
use crate::route::StartUpload;
use axum::response::Response;
use http::StatusCode;
use http::header::{self, HeaderName};
use hyper_sdk::store::{BlobUpload, Page, UploadId, UploadOptions};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName};
use tracing::Instrument as _;

static UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The largest body that is stored without a session.
const IN_MEMORY: usize = 256 << 10;

/// For a mount without `from`: how many pages of how many repositories with the blob are checked for the right to pull,
/// and how many of those with the right are tried.
const PAGES: usize = 5;
const PAGE: usize = 200;
const TRIED: usize = 3;

pub(super) async fn start(
    call: &Call<'_>,
    repository: RepositoryName,
    start: StartUpload,
    body: &mut Incoming,
) -> Outcome {
    if let Some(digest) = &start.mount
        && mount(call, &repository, digest, start.from.as_ref()).await?
    {
        return Ok(created(&repository, digest));
    }
    if let (Some(digest), Some(length)) = (&start.digest, body.announced)
        && length <= IN_MEMORY as u64
    {
        return put_monolithic(call, &repository, digest, body).await;
    }
    let algorithm = start.digest.as_ref().map(Digest::algorithm).or(start.algorithm);
    if start.digest.is_none() && !body.is_empty().await? {
        return Err(Error::new(
            ErrorKind::UploadInvalid,
            "a request that starts an upload has a body only with the parameter `digest`",
        )
        .into());
    }
    let options = UploadOptions { algorithm, digest: start.digest.clone() };
    let upload = call.store.start_upload(&repository, options).await?;
    let Some(digest) = start.digest else {
        return Ok(in_progress(StatusCode::ACCEPTED, &repository, upload.id(), upload.offset()));
    };
    // The client does not know the id of this session and cannot resume it.
    let ending = Ending { digest: Some(digest.clone()), is_known: false };
    receive(call, &repository, upload, body, None, ending).await?;
    Ok(created(&repository, &digest))
}

/// Stores a small blob that was sent with its digest in one request, without a session.
async fn put_monolithic(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    body: &mut Incoming,
) -> Outcome {
    check_size(call, body.announced.unwrap_or_default())?;
    let receiving = call.metrics.upload();
    let bytes = body.read_all(IN_MEMORY).await.map_err(from_upload)?;
    drop(receiving);
    let (to, wanted) = (repository.clone(), digest.clone());
    let deed = || Deed::push_blob(repository, digest);
    call.change(deed, None, move |store| async move { store.put_blob(&to, &wanted, bytes).await }).await?;
    Ok(created(repository, digest))
}

fn check_size(call: &Call<'_>, size: u64) -> Result<(), ApiError> {
    match call.options.limits.blob_bytes {
        Some(limit) if size > limit => {
            Err(Error::new(ErrorKind::TooLarge, "the blob is larger than the limit of this registry")
                .with_context("limit", limit)
                .into())
        }
        _ => Ok(()),
    }
}

pub(super) async fn append(
    call: &Call<'_>,
    repository: &RepositoryName,
    id: &UploadId,
    body: &mut Incoming,
) -> Outcome {
    let upload = call.store.resume_upload(repository, id).await.map_err(from_upload)?;
    let range = expected_range(call, repository, upload.as_ref(), body)?;
    let offset =
        receive(call, repository, upload, body, range, Ending { digest: None, is_known: true }).await?;
    Ok(in_progress(StatusCode::ACCEPTED, repository, id, offset))
}

pub(super) async fn finish(
    call: &Call<'_>,
    repository: &RepositoryName,
    id: &UploadId,
    digest: Option<Digest>,
    body: &mut Incoming,
) -> Outcome {
    let Some(digest) = digest else {
        return Err(Error::new(ErrorKind::DigestInvalid, "the parameter `digest` is missing").into());
    };
    let upload = call.store.resume_upload(repository, id).await.map_err(from_upload)?;
    let range = expected_range(call, repository, upload.as_ref(), body)?;
    let ending = Ending { digest: Some(digest.clone()), is_known: true };
    receive(call, repository, upload, body, range, ending).await?;
    Ok(created(repository, &digest))
}

pub(super) async fn status(call: &Call<'_>, repository: &RepositoryName, id: &UploadId) -> Outcome {
    let upload = call.store.resume_upload(repository, id).await.map_err(from_upload)?;
    Ok(in_progress(StatusCode::NO_CONTENT, repository, id, upload.offset()))
}

pub(super) async fn cancel(call: &Call<'_>, repository: &RepositoryName, id: &UploadId) -> Outcome {
    let upload = call.store.resume_upload(repository, id).await.map_err(from_upload)?;
    call.change(|| Deed::cancel_upload(repository), None, move |_| upload.abort())
        .await
        .map_err(from_upload)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The length from `Content-Range`, if there is one, checked against the session.
fn expected_range(
    call: &Call<'_>,
    repository: &RepositoryName,
    upload: &dyn BlobUpload,
    body: &Incoming,
) -> Result<Option<u64>, ApiError> {
    let Some(value) = call.headers().get(header::CONTENT_RANGE) else { return Ok(None) };
    let Some((first, length)) = value.to_str().ok().and_then(content_range) else {
        let e = Error::new(ErrorKind::UploadInvalid, "the Content-Range is not of the form `FIRST-LAST`");
        return Err(e.into());
    };
    if first != upload.offset() {
        return Err(out_of_order(repository, upload));
    }
    if body.announced.is_some_and(|announced| announced != length) {
        let e = Error::new(ErrorKind::SizeInvalid, "Content-Range and Content-Length do not agree");
        return Err(e.into());
    }
    Ok(Some(length))
}

/// What happens to a session after the body of a request.
#[derive(Debug)]
struct Ending {
    /// The digest of the blob on the closing request; `None` keeps the session open.
    digest: Option<Digest>,
    /// Whether the client knows the session and can resume it after a failure.
    is_known: bool,
}

impl Ending {
    /// Finishes or saves the session. Returns its offset.
    async fn run(self, mut upload: Box<dyn BlobUpload>, received: Result<(), Error>) -> Result<u64, Error> {
        match (received, self.digest) {
            (Ok(()), Some(digest)) => upload.finish(&digest).await.map(|descriptor| descriptor.size),
            (Err(e), _) if !self.is_known => {
                if let Err(error) = upload.abort().await {
                    tracing::debug!(%error, "a failed upload could not be removed and expires later");
                }
                Err(e)
            }
            (received, _) => {
                upload.save().await?;
                received.map(|()| upload.offset())
            }
        }
    }
}

/// Appends the body to the session, then finishes or saves the session. Returns its offset.
///
/// A separate task does both. When the client disconnects, at any moment, the bytes that arrived are saved, so that the
/// client can resume, or removed when nobody can resume.
async fn receive(
    call: &Call<'_>,
    repository: &RepositoryName,
    mut upload: Box<dyn BlobUpload>,
    body: &mut Incoming,
    length: Option<u64>,
    ending: Ending,
) -> Result<u64, ApiError> {
    let state = call.state.clone();
    let deed = |digest| Deed::push_blob(repository, digest);
    let mut pending = ending.digest.as_ref().and_then(|digest| call.begin(|| deed(digest), None));
    let mut taken = body.take();
    let held = call.turn.held();
    let receiving = call.context().scope(async move {
        let _held = held;
        let receiving = state.metrics.upload();
        let limit = state.options.limits.blob_bytes;
        let appended = taken.append_to(&mut upload, length, limit).await;
        drop(receiving);
        let mut received = appended.and_then(|got| match length {
            Some(length) if length != got => {
                Err(Error::new(ErrorKind::SizeInvalid, "the body is shorter than its Content-Range says"))
            }
            _ => Ok(()),
        });
        if let (Ok(()), Some(pending)) = (&received, &mut pending) {
            received = pending.ready().await;
        }
        let came = received.is_ok();
        let ended = ending.run(upload, received).await;
        match pending {
            Some(pending) if came => pending.ended(ended.as_ref().err()).await,
            // Nothing but the session has changed.
            Some(pending) => pending.forget(),
            None => {}
        }
        (ended, taken)
    });
    let task = tokio::spawn(receiving.in_current_span());
    let (ended, taken) =
        task.await.map_err(|e| Error::internal("the upload was interrupted").with_source(e))?;
    *body = taken;
    ended.map_err(from_upload)
}

/// Mounts a blob from the named repository, or without a name from any repository that the caller may pull from.
/// Returns whether the blob was mounted.
async fn mount(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    from: Option<&RepositoryName>,
) -> Result<bool, ApiError> {
    if let Some(from) = from {
        return mount_from(call, repository, digest, from).await;
    }
    let (mut after, mut tried) = (None, 0);
    for _ in 0..PAGES {
        let page = Page { limit: Some(PAGE), after };
        let listing = call.store.repositories_with(digest, page).await?;
        for from in listing.items.iter().filter(|from| call.may(from, Action::Pull)) {
            if mount_from(call, repository, digest, from).await? {
                return Ok(true);
            }
            tried += 1;
            // The bytes are lost, for every repository.
            if tried == TRIED {
                return Ok(false);
            }
        }
        match listing.items.last() {
            Some(last) if listing.more => after = Some(last.to_string()),
            _ => break,
        }
    }
    Ok(false)
}

async fn mount_from(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    from: &RepositoryName,
) -> Result<bool, ApiError> {
    // A missing permission is answered like a missing blob, so that callers cannot probe other repositories.
    if !call.may(from, Action::Pull) {
        return Ok(false);
    }
    match call.store.stat_blob(from, digest).await {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::NameUnknown) => return Ok(false),
        Err(e) => return Err(e.into()),
    }
    let (to, blob, from) = (repository.clone(), digest.clone(), from.clone());
    let deed = Deed::mount_blob(repository, digest, &from);
    let mounted = call
        .change(|| deed, None, move |store| async move { store.mount_blob(&to, &blob, &from).await })
        .await;
    match mounted {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::NameUnknown) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn location(repository: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

fn in_progress(status: StatusCode, repository: &RepositoryName, id: &UploadId, offset: u64) -> Response {
    let mut response = empty(status);
    set(&mut response, header::LOCATION, &location(repository, id));
    set(&mut response, header::RANGE, &received_range(offset));
    set(&mut response, UPLOAD_ID.clone(), id.as_str());
    response
}

fn created(repository: &RepositoryName, digest: &Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, header::LOCATION, &format!("/v2/{repository}/blobs/{digest}"));
    response.headers_mut().insert(CONTENT_DIGEST.clone(), digest_value(digest));
    response
}

/// The error for a chunk at the wrong offset, with the headers that the client needs to continue at the right one.
fn out_of_order(repository: &RepositoryName, upload: &dyn BlobUpload) -> ApiError {
    let offset = upload.offset();
    ApiError::from(
        Error::new(ErrorKind::RangeInvalid, "the chunk does not begin where the upload ends")
            .with_context("offset", offset),
    )
    .with_status(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID")
    .with_header(header::LOCATION, location(repository, upload.id()))
    .with_header(header::RANGE, received_range(offset))
}

/// The received range of an upload. The specification writes an empty upload as `0-0` too.
fn received_range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

/// The protocol's error for a failure of an upload.
fn from_upload(e: Error) -> ApiError {
    match e.kind() {
        ErrorKind::RangeInvalid => {
            ApiError::from(e).with_status(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID")
        }
        ErrorKind::Conflict => ApiError::new(
            StatusCode::CONFLICT,
            "BLOB_UPLOAD_INVALID",
            "another request is writing to this upload",
        ),
        ErrorKind::Timeout => ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "BLOB_UPLOAD_INVALID",
            "the body of the request timed out",
        ),
        _ => e.into(),
    }
}

/// First offset and length of a `Content-Range`: `FIRST-LAST` as the distribution specification has it, or `bytes
/// FIRST-LAST/SIZE` as RFC 9110 has it.
pub(crate) fn content_range(value: &str) -> Option<(u64, u64)> {
    let value = value.trim();
    let range = match value.strip_prefix("bytes ") {
        Some(rest) => rest.trim().split('/').next()?,
        None => value,
    };
    let (first, last) = range.split_once('-')?;
    let number = |s: &str| -> Option<u64> { s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok())? };
    let (first, last) = (number(first)?, number(last)?);
    let length = last.checked_sub(first)?.checked_add(1)?;
    Some((first, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_ranges_are_read_in_both_forms() {
        assert_eq!(content_range("0-4"), Some((0, 5)));
        assert_eq!(content_range("bytes 10-10/*"), Some((10, 1)));
        for bad in ["", "-", "5-4", "a-b", "0-", "+1-2", "0-18446744073709551615", "bytes */5"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = content_range(&text);
        }
    }
}
