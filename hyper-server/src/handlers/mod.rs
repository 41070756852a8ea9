//! One function for each endpoint: it gets parsed names, calls the store and returns a response.

mod blobs;
mod deletions;
mod events;
mod lists;
mod login;
mod manifests;
pub(crate) mod ranges;
mod token;
mod uploads;

#[cfg(feature = "fuzzing")]
pub(crate) use uploads::content_range;

use crate::audit::Deed;
use crate::auth::Action;
use crate::body::Incoming;
use crate::call::Call;
use crate::error::ApiError;
use crate::metric_list;
use crate::route::Endpoint;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use hyper_sdk::store::wrap::CachedContent;
use hyper_sdk::store::{DeleteTarget, QuotaUse, SharedStore};
use hyper_sdk::{Digest, Error, RepositoryName};

type Outcome = Result<Response, ApiError>;

pub(crate) static CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Answers an admitted request.
pub(crate) async fn dispatch(call: &Call<'_>, endpoint: Endpoint, body: &mut Incoming) -> Outcome {
    match (&endpoint, call.method()) {
        (Endpoint::Manifest { repository, reference, .. }, &Method::GET | &Method::HEAD) => {
            manifests::get(call, repository, reference).await
        }
        // Boxed, so that a request has the room for its own handler and not for the largest one.
        _ => Box::pin(dispatch_others(call, endpoint, body)).await,
    }
}

async fn dispatch_others(call: &Call<'_>, endpoint: Endpoint, body: &mut Incoming) -> Outcome {
    let method = call.method().clone();
    match endpoint {
        Endpoint::Base => Ok(json(b"{}".to_vec())),
        Endpoint::Token(query) => token::issue(call, query, body).await,
        Endpoint::TokenKeys => token::keys(call),
        Endpoint::Login => login::begin(call).await,
        Endpoint::LoginCallback(callback) => login::finish(call, &callback).await,
        Endpoint::Live => Ok(text("ok\n".to_owned())),
        Endpoint::Ready => ready(call).await,
        Endpoint::Metrics if call.options.metrics => {
            let (quotas, ready) = tokio::join!(quotas(call), is_ready(call));
            Ok(text(metric_list::render(&metric_list::Sources {
                quotas: &quotas,
                ready,
                dependencies: &call.dependencies.all(),
                reloads: &call.reloads,
                tls: call.tls.get(),
                webhooks: &call.webhooks.counts(),
                directory: call.tokens.as_ref().and_then(|tokens| tokens.directory()),
                issuers: [
                    call.tokens.as_ref().map(|tokens| tokens.issuers()),
                    call.logins.as_ref().map(|logins| logins.issuers()),
                ],
                pulls: call.pulls.as_ref(),
                metrics: &call.metrics,
                cache: call.cache.statistics(),
                connections: &call.connections,
                throttle: &call.throttle,
                spans: call.spans.get().map(AsRef::as_ref),
                audit: call.options.audit.as_ref(),
            })))
        }
        Endpoint::Metrics => Err(ApiError::not_found()),
        Endpoint::Extensions(repository) => Ok(lists::extensions(call, repository.as_ref())),
        Endpoint::Catalog(page) => lists::catalog(call, page).await,
        Endpoint::Events(query) => events::list(call, query).await,
        Endpoint::TagHistory { repository, tag, limit, before } => {
            events::tag_history(call, &repository, &tag, (limit, before)).await
        }
        Endpoint::Tags { repository, page } => lists::tags(call, &repository, page).await,
        Endpoint::TagRecords { repository, page } => lists::tag_records(call, &repository, page).await,
        Endpoint::Deletions { repository, limit, after } => {
            deletions::list(call, &repository, limit, after).await
        }
        Endpoint::Deletion { repository, reference, replaces } => match method {
            Method::POST => deletions::undelete(call, repository, reference, replaces).await,
            Method::DELETE => deletions::purge(call, repository, reference).await,
            _ => Err(without_handler()),
        },
        Endpoint::Referrers { repository, digest, artifact_type, after } => {
            lists::referrers(call, &repository, &digest, artifact_type.as_deref(), after.as_ref()).await
        }
        Endpoint::Blob { repository, digest } => match method {
            Method::DELETE => blobs::delete(call, repository, digest).await,
            Method::GET | Method::HEAD => blobs::get(call, &repository, &digest).await,
            _ => Err(without_handler()),
        },
        Endpoint::StartUpload { repository, start } => uploads::start(call, repository, start, body).await,
        Endpoint::Upload { repository, id, digest } => match method {
            Method::PATCH => uploads::append(call, &repository, &id, body).await,
            Method::PUT => uploads::finish(call, &repository, &id, digest, body).await,
            Method::DELETE => uploads::cancel(call, &repository, &id).await,
            Method::GET | Method::HEAD => uploads::status(call, &repository, &id).await,
            _ => Err(without_handler()),
        },
        Endpoint::Manifest { repository, reference, tags } => match method {
            Method::PUT => manifests::put(call, repository, reference, tags, body).await,
            Method::DELETE => manifests::delete(call, repository, reference).await,
            _ => Err(without_handler()),
        },
    }
}

/// How long metrics wait for the use of quotas.
const QUOTA_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// What namespaces use of their quotas; nothing when the database does not answer.
async fn quotas(call: &Call<'_>) -> Vec<QuotaUse> {
    if call.state.quotas().is_empty() {
        return Vec::new();
    }
    // All other metrics are there when the database is not, and who asks for them does not wait for long.
    match tokio::time::timeout(QUOTA_TIME, call.store.quota_use()).await {
        Ok(Ok(uses)) => return uses,
        Ok(Err(error)) => tracing::warn!(%error, "the use of quotas is not among the metrics"),
        Err(_) => tracing::warn!("the use of quotas is not among the metrics: the database is slow"),
    }
    Vec::new()
}

/// Deletes a tag, a manifest or a blob, as far as the rules for tags allow it.
async fn delete(call: &Call<'_>, repository: RepositoryName, target: DeleteTarget) -> Outcome {
    let (rule, name) = (call.tag_rule(&repository, Action::Delete)?, repository.clone());
    let deed = Deed::delete(&repository, &target);
    let guard = rule.as_ref().map(|rule| rule.guard.clone());
    let deletion = move |store: SharedStore| async move {
        match (guard, target) {
            (Some(guard), target) => store.delete_guarded(&name, target, guard).await,
            (None, DeleteTarget::Manifest(reference)) => store.delete_manifest(&name, &reference).await,
            (None, DeleteTarget::Blob(digest)) => store.delete_blob(&name, &digest).await,
        }
    };
    let deleted = call.change(|| deed, rule.as_ref(), deletion).await;
    deleted.map_err(|e| call.failed_change(&repository, Action::Delete, rule.as_ref(), e))?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// A method that the routes allow, and that nothing here answers.
fn without_handler() -> ApiError {
    Error::internal("the method has no handler").into()
}

/// Whether the registry takes changes.
fn takes_changes(call: &Call<'_>) -> bool {
    !call.options.read_only && call.store.capabilities().write
}

/// Whether the registry is ready, as the metrics show it.
async fn is_ready(call: &Call<'_>) -> bool {
    let write = takes_changes(call);
    call.readiness.is_ready(&call.store, write).await && audit_ready(call, write).await.is_ok()
}

async fn audit_ready(call: &Call<'_>, write: bool) -> hyper_sdk::Result<()> {
    match call.options.audit.as_ref().filter(|_| write) {
        Some(audit) => audit.ready().await,
        None => Ok(()),
    }
}

async fn check_ready(call: &Call<'_>) -> hyper_sdk::Result<()> {
    let write = takes_changes(call);
    let ready = call.readiness.check(&call.store, write).await;
    ready.and(audit_ready(call, write).await)
}

/// Whoever may see the metrics without credentials learns which dependency does not answer.
async fn ready(call: &Call<'_>) -> Outcome {
    let ready = check_ready(call).await;
    let is_open = call.options.metrics && !call.options.metrics_for_users;
    let states = call.dependencies.all().into_iter().filter(|_| is_open);
    let states = states.map(|(name, dependency)| (name, dependency.state));
    match ready {
        Ok(()) => {
            let lines = states.map(|(name, state)| format!("{name}: {state}\n"));
            Ok(text(std::iter::once("ok\n".to_owned()).chain(lines).collect()))
        }
        Err(e) => {
            let refused = ApiError::from(e).with_status(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE");
            Err(states.fold(refused, |refused, (name, state)| refused.with_detail(name, state)))
        }
    }
}

fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))], text)
        .into_response()
}

fn json(bytes: Vec<u8>) -> Response {
    let length = HeaderValue::from(bytes.len());
    (
        [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CONTENT_LENGTH, length),
        ],
        bytes,
    )
        .into_response()
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    // RFC 9110, section 8.6: a 204 has no Content-Length.
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// Sets a header whose value consists of parsed names, numbers and digests.
fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A digest as a header value.
fn digest_value(digest: &Digest) -> HeaderValue {
    HeaderValue::from_str(digest.as_str()).expect("a digest is made of visible ASCII characters")
}

/// A digest as an entity tag.
fn etag_value(digest: &Digest) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{digest}\"")).expect("a digest is made of visible ASCII characters")
}

/// The header values of cached content, which share its bytes.
struct ContentHeaders {
    digest: HeaderValue,
    etag: HeaderValue,
}

impl ContentHeaders {
    fn new(content: &CachedContent) -> Self {
        let value = |text| {
            HeaderValue::from_maybe_shared(text).expect("a digest is made of visible ASCII characters")
        };
        Self { digest: value(content.digest()), etag: value(content.quoted_digest.clone()) }
    }
}

/// The response with cached content, a manifest or a blob.
fn content(call: &Call<'_>, content: &CachedContent, known: ContentHeaders) -> Response {
    let body = if call.is_head() { Body::empty() } else { Body::from(content.bytes.clone()) };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.reserve(8);
    let media_type = HeaderValue::from_maybe_shared(content.media_type.clone());
    headers.insert(
        header::CONTENT_TYPE,
        media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(content.bytes.len()));
    headers.insert(CONTENT_DIGEST.clone(), known.digest);
    headers.insert(header::ETAG, known.etag);
    response
}

/// Whether a list of entity tags (`If-Match`, `If-None-Match`) names this one (RFC 9110, section 13.1).
fn etag_listed(list: &str, etag: &str) -> bool {
    let bare = |t: &str| t.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    list.trim() == "*" || list.split(',').any(|t| bare(t) == bare(etag))
}

/// The response to a client that has the content already.
fn not_modified(call: &Call<'_>, digest: &HeaderValue, etag: &HeaderValue) -> Option<Response> {
    let list = call.header(header::IF_NONE_MATCH)?;
    if !etag_listed(list, etag.to_str().unwrap_or_default()) {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, etag.clone());
    response.headers_mut().insert(CONTENT_DIGEST.clone(), digest.clone());
    Some(response)
}
