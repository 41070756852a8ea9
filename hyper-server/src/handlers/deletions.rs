//! What was deleted (`_hyper/deleted`): listed, undeleted, purged.

use super::{CONTENT_DIGEST, Outcome, digest_value, empty, json, set};
use crate::audit::Deed;
use crate::auth::Action;
use crate::call::Call;
use crate::cors::Cors;
use crate::error::ApiError;
use http::StatusCode;
use http::header;
use hyper_sdk::clock::rfc3339;
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::Undelete;
use hyper_sdk::store::meta::Deletion;
use hyper_sdk::{Error, RepositoryName};
use serde_json::{Value, json};

/// The most entries in one answer, and their number when none is asked for.
const MOST: usize = 1000;

pub(super) async fn list(
    call: &Call<'_>,
    repository: &RepositoryName,
    limit: Option<usize>,
    after: u64,
) -> Outcome {
    // The names of tags are for those who may pull.
    call.require(repository, Action::Pull)?;
    let limit = limit.unwrap_or(MOST).min(MOST).min(call.options.limits.page_entries);
    let found = call.store.list_deletions(Some(repository), after, limit).await?;
    let entry = |one: &Deletion| {
        let tag = match &one.reference {
            ManifestReference::Tag(tag) => Some(tag),
            ManifestReference::Digest(_) => None,
        };
        json!({
            "tag": tag,
            "digest": one.digest,
            "deleted": rfc3339(one.deleted_at),
            "kept-until": rfc3339(one.kept_until),
        })
    };
    let deleted: Vec<Value> = found.items.iter().map(entry).collect();
    let mut response = json(json!({ "name": repository, "deleted": deleted }).to_string().into_bytes());
    if let Some(last) = found.items.last().filter(|_| found.more) {
        let next = format!("</v2/{repository}/_hyper/deleted?n={limit}&last={}>; rel=\"next\"", last.number);
        set(&mut response, header::LINK, &next);
    }
    Ok(response)
}

/// Whether the request has a token, which no browser sends by itself.
fn has_token(call: &Call<'_>) -> bool {
    let value = call.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scheme = value.and_then(|value| value.split_whitespace().next());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
}

pub(super) async fn undelete(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: ManifestReference,
    replaces: bool,
) -> Outcome {
    // Browsers send this for any page, without asking, in the name of whoever reads it. A page that may talk to the registry, but not
    // in that name, has a token of its own.
    let is_own_name = call.principal.is_anonymous() || has_token(call);
    let cors = call.options.cors.as_ref().filter(|cors| is_own_name || cors.allows_credentials());
    if Cors::is_stranger(cors, call.headers()) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "DENIED",
            "a page of another origin must not undelete: `cors` in the configuration names those that may",
        ));
    }
    // The answer says whether a tag exists, and what it had.
    call.require(&repository, Action::Pull)?;
    let rule = call.tag_rule(&repository, Action::Push)?;
    let guard = rule.as_ref().map(|rule| rule.guard.clone());
    let deed = Deed::undelete(&repository, &reference);
    let undelete = Undelete { reference, replaces, sparse: call.options.sparse, guard };
    let target = repository.clone();
    let change =
        move |store: hyper_sdk::store::SharedStore| async move { store.undelete(&target, undelete).await };
    let pushed = call.change_of(|| deed, rule.as_ref(), change, |pushed| Some(&pushed.digest)).await;
    let descriptor = pushed.map_err(|e| call.failed_change(&repository, Action::Push, rule.as_ref(), e))?;
    let mut response = empty(StatusCode::CREATED);
    let digest = &descriptor.digest;
    set(&mut response, header::LOCATION, &format!("/v2/{repository}/manifests/{digest}"));
    response.headers_mut().insert(CONTENT_DIGEST.clone(), digest_value(digest));
    Ok(response)
}

pub(super) async fn purge(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: ManifestReference,
) -> Outcome {
    let ManifestReference::Digest(digest) = reference else {
        return Err(Error::invalid("only a manifest can be purged: give its digest").into());
    };
    let deed = Deed::purge(&repository, &digest);
    let change = move |store: hyper_sdk::store::SharedStore| async move {
        store.purge_deleted(&repository, &digest).await
    };
    call.change(|| deed, None, change).await?;
    Ok(empty(StatusCode::ACCEPTED))
}
