//! Manifests: read, stored with their tags, deleted (end-3, end-7, end-9).

use super::{
    CONTENT_DIGEST, ContentHeaders, Outcome, content, digest_value, empty, etag_listed, etag_value,
    not_modified, set,
};
use crate::audit::Deed;
use crate::auth::Action;
use crate::body::Incoming;
use crate::call::Call;
use crate::error::ApiError;
use axum::response::Response;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use hyper_sdk::oci::Manifest;
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::{DeleteTarget, PutManifest};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Tag};

static OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
static OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Up to this many tags get a header line each, which all clients can read.
const LINES: usize = 50;
/// The most tags in one line. Some clients reject lines of more than 4 KiB.
const TAGS_IN_A_LINE: usize = 30;
/// The most tags of one push, whatever the configuration says: some clients read at most a hundred header lines, and
/// about ten others are sent.
const MOST_TAGS: usize = 80 * TAGS_IN_A_LINE;

pub(super) async fn get(
    call: &Call<'_>,
    repository: &RepositoryName,
    reference: &ManifestReference,
) -> Outcome {
    let manifest = call.cache.manifest(repository, reference).await;
    let manifest = manifest.map_err(|e| unreadable(e, repository, reference))?;
    if let Some(pulls) = &call.pulls {
        pulls.note(repository, reference, &manifest);
    }
    let known = ContentHeaders::new(&manifest);
    if let Some(response) = not_modified(call, &known.digest, &known.etag) {
        return Ok(response);
    }
    Ok(content(call, &manifest, known))
}

/// A manifest that is damaged in the store counts as missing: the client then pushes it again, which repairs it.
fn unreadable(e: Error, repository: &RepositoryName, reference: &ManifestReference) -> ApiError {
    if e.kind() != ErrorKind::Corrupt {
        return e.into();
    }
    tracing::error!(%repository, %reference, error = %e, "a stored manifest is damaged");
    let message = "the stored manifest is damaged: push the manifest again";
    Error::new(ErrorKind::ManifestUnknown, message).with_source(e).into()
}

pub(super) async fn put(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: ManifestReference,
    mut tags: Vec<Tag>,
    body: &mut Incoming,
) -> Outcome {
    let limits = &call.options.limits;
    let most = limits.tags_per_request.min(MOST_TAGS);
    if tags.len() > most {
        return Err(ApiError::new(
            StatusCode::URI_TOO_LONG,
            "SIZE_INVALID",
            format!("one request may give at most {most} tags"),
        ));
    }
    let by_parameter = !tags.is_empty();
    if by_parameter && matches!(reference, ManifestReference::Tag(_)) {
        return Err(Error::invalid(
            "the parameter `tag` needs a digest in the path: push the manifest by its digest",
        )
        .into());
    }
    let manifest = read(call, body, limits.manifest_bytes).await?;
    // The body may have taken long, and the rules may be others now.
    call.require(&repository, Action::Push)?;
    let manifest = match &reference {
        ManifestReference::Digest(digest) => manifest.with_digest(digest)?,
        ManifestReference::Tag(tag) => {
            tags.push(tag.clone());
            manifest
        }
    };
    let mut distinct: Vec<Tag> = Vec::with_capacity(tags.len());
    for tag in tags {
        if !distinct.contains(&tag) {
            distinct.push(tag);
        }
    }
    let digest = manifest.digest().clone();
    let subject = manifest.subject().map(|s| s.digest.clone());
    let if_match = condition(call, &repository, &distinct).await?;
    let conditional = if_match.is_some();
    let (rule, sparse) = (call.tag_rule(&repository, Action::Push)?, call.options.sparse);
    let guard = rule.as_ref().map(|rule| rule.guard.clone());
    let put = PutManifest { manifest, tags: distinct.clone(), if_match, guard, sparse };
    let target = repository.clone();
    let deed = || Deed::push_manifest(&repository, &digest, &distinct);
    call.change(deed, rule.as_ref(), move |store| async move { store.put_manifest(&target, put).await })
        .await
        .map_err(|e| match e.kind() {
            ErrorKind::Conflict if conditional => precondition_failed(),
            _ => call.failed_change(&repository, Action::Push, rule.as_ref(), e),
        })?;
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, header::LOCATION, &format!("/v2/{repository}/manifests/{digest}"));
    let headers = response.headers_mut();
    headers.insert(CONTENT_DIGEST.clone(), digest_value(&digest));
    headers.insert(header::ETAG, etag_value(&digest));
    if let Some(subject) = subject {
        headers.insert(OCI_SUBJECT.clone(), digest_value(&subject));
    }
    if by_parameter {
        list_tags(&mut response, &distinct);
    }
    Ok(response)
}

/// The manifest in the body of a request.
async fn read(call: &Call<'_>, body: &mut Incoming, limit: usize) -> Result<Manifest, ApiError> {
    let bytes = body.read_all(limit).await.map_err(|e| match e.kind() {
        ErrorKind::Timeout => ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "MANIFEST_INVALID",
            "the body of the request timed out",
        ),
        _ => e.into(),
    })?;
    Ok(match call.header(header::CONTENT_TYPE) {
        Some(content_type) => Manifest::parse(bytes, content_type)?,
        None => Manifest::sniff(bytes)?,
    })
}

/// Names the tags in `OCI-Tag` headers.
fn list_tags(response: &mut Response, tags: &[Tag]) {
    let in_a_line = if tags.len() <= LINES { 1 } else { TAGS_IN_A_LINE };
    for tags in tags.chunks(in_a_line) {
        let line = tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", ");
        let value = HeaderValue::from_str(&line).expect("a tag is made of visible ASCII characters");
        response.headers_mut().append(OCI_TAG.clone(), value);
    }
}

pub(super) async fn delete(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: ManifestReference,
) -> Outcome {
    if call.headers().contains_key(header::IF_MATCH) {
        return Err(Error::unsupported("If-Match is supported on PUT, not on DELETE").into());
    }
    super::delete(call, repository, DeleteTarget::Manifest(reference)).await
}

/// The condition of a PUT, from `If-Match` and `If-None-Match: *`: the digest that the tags must name.
///
/// The condition is compared with the digest that the first tag names now. The store moves the tags only if that digest
/// has not changed.
async fn condition(
    call: &Call<'_>,
    repository: &RepositoryName,
    tags: &[Tag],
) -> Result<Option<Option<Digest>>, ApiError> {
    let (if_match, if_none_match) = (call.header(header::IF_MATCH), call.header(header::IF_NONE_MATCH));
    if if_match.is_none() && if_none_match.is_none() {
        return Ok(None);
    }
    let Some(tag) = tags.first() else {
        return Err(Error::invalid("If-Match and If-None-Match need a tag: a digest cannot change").into());
    };
    // The answer tells what the tag names.
    call.require(repository, Action::Pull)?;
    let reference = ManifestReference::from(tag.clone());
    let current = match call.store.get_manifest(repository, &reference).await {
        Ok(manifest) => Some(manifest.digest().clone()),
        Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => None,
        Err(e) => return Err(unreadable(e, repository, &reference)),
    };
    let listed = |list: &str| current.as_ref().is_some_and(|d| etag_listed(list, d.as_str()));
    if if_match.is_some_and(|list| !listed(list)) || if_none_match.is_some_and(listed) {
        return Err(precondition_failed());
    }
    Ok(Some(current))
}

fn precondition_failed() -> ApiError {
    ApiError::new(
        StatusCode::PRECONDITION_FAILED,
        "CONFLICT",
        "the tag does not name the manifest that the condition expects",
    )
}
