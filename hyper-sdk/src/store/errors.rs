//! The errors of the store contract, with the same message in every backend and store.
//!
//! Backends outside of this crate use these constructors too: clients and servers decide by the kind of an error, and
//! the repair of damaged blobs by its context `digest`.

use super::UploadId;
use super::edge::{Edge, EdgeKind};
use super::local_name::shown;
use crate::oci::Manifest;
use crate::reference::{RepositoryName, Tag};
use crate::{Digest, Error, ErrorDetail, ErrorKind, QuotaExcess, Result};
use std::fmt::Display;
use std::time::Duration;

/// [`ErrorKind::DigestInvalid`]: the content does not match the expected digest.
pub fn digest_mismatch(expected: &Digest, got: &Digest) -> Error {
    Error::new(ErrorKind::DigestInvalid, "the content does not match its digest")
        .with_context("expected", expected)
        .with_context("got", got)
}

/// [`ErrorKind::Conflict`]: another writer holds the staging area of the upload.
pub fn busy(id: &UploadId) -> Error {
    Error::new(ErrorKind::Conflict, "another writer is working on this upload: wait for it to end")
        .with_context("upload", id)
}

/// [`ErrorKind::UploadUnknown`]: the session exists, but the bytes that were saved in it do not.
pub fn staging_lost() -> Error {
    Error::new(ErrorKind::UploadUnknown, "the bytes of the upload are gone: start the upload again")
}

/// [`ErrorKind::UploadUnknown`]: there is no such session.
pub fn upload_unknown(id: &UploadId) -> Error {
    Error::new(ErrorKind::UploadUnknown, "no such upload").with_context("upload", id)
}

/// [`ErrorKind::UploadUnknown`]: another request finishes the session with other content
/// ([`Change::SealUpload`](super::meta::Change::SealUpload)).
pub fn sealed_otherwise(id: &UploadId) -> Error {
    Error::new(
        ErrorKind::UploadUnknown,
        "another request finishes this upload with other content: start the upload again",
    )
    .with_detail(ErrorDetail::UploadContentDiffers)
    .with_context("upload", id)
}

/// [`ErrorKind::UploadUnknown`] with [`ErrorDetail::UploadContentDiffers`]: another request has put the parts of the upload
/// together, with other content. The session stays for whoever has that content.
pub fn other_content() -> Error {
    Error::new(
        ErrorKind::UploadUnknown,
        "the parts of the upload were put together with other content: start the upload again",
    )
    .with_detail(ErrorDetail::UploadContentDiffers)
}

/// Whether this is the error of [`sealed_otherwise`] or [`other_content`].
pub fn is_other_content(error: &Error) -> bool {
    error.details().any(|detail| *detail == ErrorDetail::UploadContentDiffers)
}

/// [`ErrorKind::Unavailable`] with [`ErrorDetail::UploadClaimed`]: a writer in another process has claimed the upload
/// ([`Change::ClaimUpload`](super::meta::Change::ClaimUpload)), for this time at most, or had claimed it meanwhile.
pub fn claimed(id: &UploadId, left: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, "another request is writing to this upload: try again")
        .with_context("upload", id)
        .with_detail(ErrorDetail::UploadClaimed)
        .with_retry_after(left.max(Duration::from_secs(1)))
}

/// Whether this is the error of [`claimed`].
pub fn is_claimed(error: &Error) -> bool {
    error.details().any(|detail| *detail == ErrorDetail::UploadClaimed)
}

/// How far the clock of a backend may be behind the time at which a tag was judged, in seconds: small corrections of a clock
/// end no run of retention.
const CLOCK_SLACK: i64 = 2;

/// Checks in the transaction that expires a tag, by the time that this records, that the clock has not gone back since the tag
/// was judged ([`Change::ExpireTag`](super::meta::Change::ExpireTag)): what is pushed by such a clock looks old.
///
/// # Errors
/// [`ErrorKind::Unavailable`] with [`ErrorDetail::ClockWentBack`] when it has, by more than two seconds.
pub fn check_judged_at(judged_at: i64, now: i64) -> Result<()> {
    if now >= judged_at.saturating_sub(CLOCK_SLACK) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "the clock went back while tags were judged by their age: a later run does the rest",
    )
    .with_detail(ErrorDetail::ClockWentBack))
}

/// Whether this is the error of [`check_judged_at`].
pub fn is_clock_back(error: &Error) -> bool {
    error.details().any(|detail| *detail == ErrorDetail::ClockWentBack)
}

/// [`ErrorKind::Unavailable`] with [`ErrorDetail::UploadPartsMissing`]: the parts of an upload are not there. Another request
/// may be making its object of them, or they are lost; a store tells by the time since the session last changed.
pub fn parts_missing() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "another request is finishing this upload, or its parts are gone: try again",
    )
    .with_detail(ErrorDetail::UploadPartsMissing)
}

/// Whether this is the error of [`parts_missing`].
pub fn is_parts_missing(error: &Error) -> bool {
    error.details().any(|detail| *detail == ErrorDetail::UploadPartsMissing)
}

/// [`ErrorKind::RangeInvalid`]: the handle is at `offset`, but another writer has saved the session at `saved`.
pub fn upload_moved(offset: u64, saved: u64) -> Error {
    Error::new(
        ErrorKind::RangeInvalid,
        "another writer has appended to this upload: get its offset and continue there",
    )
    .with_context("offset", offset)
    .with_context("saved", saved)
}

/// [`ErrorKind::UploadInvalid`]: an operation on the staging area was cancelled, so the handle no longer knows the
/// state of the area.
pub fn interrupted() -> Error {
    Error::new(
        ErrorKind::UploadInvalid,
        "an earlier operation on this upload was cancelled: resume the upload with a new handle",
    )
}

/// [`ErrorKind::Internal`]: the caller commits a staging area whose content was not verified after the last change.
pub fn not_verified() -> Error {
    Error::internal("an upload was committed before its digest was verified")
}

/// [`ErrorKind::Corrupt`]: a blob backend does not have the bytes of a blob, or has fewer or more of them than
/// recorded.
pub fn missing_bytes(digest: &Digest) -> Error {
    Error::new(ErrorKind::Corrupt, "the bytes of the blob are missing or cut short: push the blob again")
        .with_context("digest", digest)
}

/// [`ErrorKind::Unavailable`] with [`ErrorDetail::BlobBeingRemoved`]: a garbage collector is removing the blob, and the
/// bytes have the key that is removed.
pub fn being_removed(digest: &Digest) -> Error {
    Error::new(ErrorKind::Unavailable, "the blob is being removed from the store: push it again")
        .with_detail(ErrorDetail::BlobBeingRemoved)
        .with_context("digest", digest)
}

/// Whether this is the error of [`being_removed`].
pub fn is_being_removed(error: &Error) -> bool {
    error.details().any(|detail| *detail == ErrorDetail::BlobBeingRemoved)
}

/// [`ErrorKind::BlobUnknown`]: the repository has no link to the blob.
pub fn blob_unknown(repository: &RepositoryName, digest: &Digest) -> Error {
    Error::new(ErrorKind::BlobUnknown, "the repository does not have this blob")
        .with_context("repository", shown(repository))
        .with_context("digest", digest)
}

/// [`ErrorKind::BlobUnknown`]: the repository has a link to the blob, but the store has lost its bytes. The error has
/// the same kind as for an unknown blob, so that clients push it again.
pub fn bytes_lost(repository: &RepositoryName, digest: &Digest) -> Error {
    Error::new(
        ErrorKind::BlobUnknown,
        "the bytes of this blob are missing or cut short in the store: push the blob again",
    )
    .with_context("repository", shown(repository))
    .with_context("digest", digest)
}

/// [`ErrorKind::BlobUnknown`]: the stored bytes of the blob do not match its digest.
pub fn bytes_damaged(digest: &Digest) -> Error {
    Error::new(ErrorKind::BlobUnknown, "the stored blob does not match its digest: push the blob again")
        .with_detail(ErrorDetail::BlobDamaged)
        .with_context("digest", digest)
}

/// Whether this is the error of [`bytes_damaged`].
pub fn is_bytes_damaged(error: &Error) -> bool {
    error.details().any(|detail| *detail == ErrorDetail::BlobDamaged)
}

/// [`ErrorKind::NameUnknown`]: the repository does not exist.
pub fn repository_unknown(repository: &RepositoryName) -> Error {
    Error::new(ErrorKind::NameUnknown, "there is no such repository")
        .with_context("repository", shown(repository))
}

/// [`ErrorKind::ManifestUnknown`]: the repository has no manifest with this tag or digest.
pub fn manifest_unknown(repository: &RepositoryName, reference: impl Display) -> Error {
    Error::new(ErrorKind::ManifestUnknown, "the repository does not have this manifest")
        .with_context("repository", shown(repository))
        .with_context("reference", reference)
}

/// [`ErrorKind::Conflict`]: a manifest that is there is not purged.
pub fn not_deleted(repository: &RepositoryName, digest: &Digest) -> Error {
    Error::new(ErrorKind::Conflict, "the manifest is not deleted: delete it first")
        .with_context("repository", shown(repository))
        .with_context("digest", digest)
}

/// [`ErrorKind::ManifestUnknown`]: the repository has not deleted this lately.
pub fn not_kept(repository: &RepositoryName, reference: impl Display) -> Error {
    Error::new(
        ErrorKind::ManifestUnknown,
        "this was not deleted, or so long ago that it cannot be undeleted any more",
    )
    .with_context("repository", shown(repository))
    .with_context("reference", reference)
}

/// [`ErrorKind::ManifestBlobUnknown`]: a manifest references a blob or manifest that the repository does not have.
pub fn manifest_blob_unknown(repository: &RepositoryName, edge: &Edge) -> Error {
    let what = match edge.kind {
        EdgeKind::Blob => "blob",
        EdgeKind::Entry => "manifest",
    };
    let field = &edge.field;
    let message =
        format!("`{field}` names a {what} that the repository does not have: push the {what} first");
    Error::new(ErrorKind::ManifestBlobUnknown, message)
        .with_context("repository", shown(repository))
        .with_context("digest", &edge.digest)
}

/// [`ErrorKind::SizeInvalid`]: a manifest gives a size other than the `size` of the referenced content.
pub fn size_differs(edge: &Edge, size: u64) -> Error {
    Error::new(
        ErrorKind::SizeInvalid,
        format!("`{}.size` is {}, but the content has {size} bytes", edge.field, edge.size),
    )
    .with_context("digest", &edge.digest)
    .with_context("size", size)
}

/// [`ErrorKind::SizeInvalid`]: two fields of a manifest give the same digest and different sizes.
pub fn two_sizes(first: &str, second: &str, digest: &Digest) -> Error {
    Error::new(
        ErrorKind::SizeInvalid,
        format!("`{first}.size` and `{second}.size` differ, but their digest is the same"),
    )
    .with_context("digest", digest)
}

/// [`ErrorKind::ManifestInvalid`]: the same bytes are stored under the media type `stored`.
pub fn other_media_type(manifest: &Manifest, stored: &str) -> Error {
    Error::new(
        ErrorKind::ManifestInvalid,
        format!(
            "this manifest is stored as `{stored}` and has no field `mediaType`: push it with that content type, \
             or add `mediaType` to the manifest"
        ),
    )
    .with_context("digest", manifest.digest())
}

/// [`ErrorKind::Conflict`]: the tag names `now`, which the condition of the push does not expect.
pub fn tag_moved(tag: &Tag, now: Option<&Digest>) -> Error {
    Error::new(ErrorKind::Conflict, "the tag does not name the expected manifest")
        .with_context("tag", tag)
        .with_context("names", now.map_or("nothing", Digest::as_str))
}

/// [`ErrorKind::Denied`] with [`ErrorDetail::Quota`]: a namespace may not have as much as a change adds to it.
pub fn quota_exceeded(excess: QuotaExcess) -> Error {
    Error::new(ErrorKind::Denied, excess.to_string())
        .with_context("namespace", &excess.namespace)
        .with_context("resource", excess.resource)
        .with_context("used", excess.used)
        .with_context("limit", excess.limit)
        .with_context("added", excess.added)
        .with_detail(ErrorDetail::Quota(Box::new(excess)))
}

/// Whether this is the error of [`quota_exceeded`].
pub fn is_quota_exceeded(error: &Error) -> bool {
    error.details().any(|detail| matches!(detail, ErrorDetail::Quota(_)))
}

/// [`ErrorKind::Unsupported`]: the store is read-only; `what` is the rejected operation, such as `store a blob`.
pub fn read_only(what: &str) -> Error {
    Error::unsupported(format!("the store is read-only: it cannot {what}"))
}

/// [`ErrorKind::NotFound`] with [`ErrorDetail::CursorGone`]: a reader of events cannot go on at its place.
pub fn cursor_gone(why: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "the cursor of events cannot be used: {why}; read the registry anew, and begin without a cursor"
        ),
    )
    .with_detail(ErrorDetail::CursorGone)
}

/// Whether this is the error of [`cursor_gone`].
pub fn is_cursor_gone(error: &Error) -> bool {
    error.details().any(|detail| matches!(detail, ErrorDetail::CursorGone))
}
