//! Errors in the protocol: one table from [`ErrorKind`] to status and code, one JSON body.
//!
//! A response says what the client did wrong. The details of a failure of the server (a path, a query, an error of the
//! system) go only to the log, under the request id that the client also gets.

use crate::auth::{AuthError, Challenge};
use crate::body::RECEIVED;
use crate::throttle::LIMITED;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use hyper_sdk::{Error, ErrorKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Display;

pub(crate) static API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The status and the code of an error of this kind (distribution-spec, "Error Codes").
pub(crate) fn status_and_code(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "REQUEST_INVALID"),
        ErrorKind::DigestInvalid => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        ErrorKind::SizeInvalid => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
        ErrorKind::NameInvalid => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
        ErrorKind::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        ErrorKind::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        ErrorKind::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        ErrorKind::ManifestInvalid => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        ErrorKind::ManifestBlobUnknown => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
        ErrorKind::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        ErrorKind::UploadInvalid => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        ErrorKind::RangeInvalid => (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "CONFLICT"),
        ErrorKind::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "DENIED"),
        ErrorKind::Unsupported => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        ErrorKind::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        ErrorKind::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "STORAGE_FULL"),
        ErrorKind::Unavailable | ErrorKind::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}

/// A failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    /// The message for the client.
    message: String,
    detail: BTreeMap<&'static str, String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the sender lacks the right.
    pub(crate) is_refusal: bool,
    /// Whether a limit of the client has refused the request.
    pub(crate) is_limit: bool,
    /// The error for the log.
    pub(crate) cause: Option<Error>,
}

/// How many seconds a client waits after a temporary error. A full disk takes longer than one second to be emptied.
fn default_wait(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some("1"),
        StatusCode::INSUFFICIENT_STORAGE => Some("30"),
        _ => None,
    }
}

/// The context keys that a response may contain: they describe what the client sent.
const PUBLIC_CONTEXT: [&str; 11] =
    ["digest", "expected", "got", "size", "offset", "limit", "tag", "namespace", "resource", "used", "added"];

impl ApiError {
    /// An error with this status and code.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            detail: BTreeMap::new(),
            headers: Vec::new(),
            is_refusal: false,
            is_limit: false,
            cause: None,
        }
    }

    /// Adds a header to the response.
    pub(crate) fn with_header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    /// Adds a detail for the client.
    pub(crate) fn with_detail(mut self, name: &'static str, value: impl Display) -> Self {
        self.detail.insert(name, value.to_string());
        self
    }

    /// Says that the sender lacks the right.
    pub(crate) fn into_refusal(mut self) -> Self {
        self.is_refusal = true;
        self
    }

    /// Replaces the status and the code, where the protocol requires others.
    pub(crate) fn with_status(mut self, status: StatusCode, code: &'static str) -> Self {
        self.status = status;
        self.code = code;
        self
    }

    /// The resource does not support the method.
    pub(crate) fn method(allow: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            format!("this resource supports only {allow}"),
        )
        .with_header(header::ALLOW, allow)
    }

    /// No such resource.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no such resource")
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        let (status, code) = match e.kind() {
            // The client timed out, not the store.
            ErrorKind::Timeout if e.context_value(RECEIVED).is_some() => {
                (StatusCode::REQUEST_TIMEOUT, "REQUEST_INVALID")
            }
            kind => status_and_code(kind),
        };
        let mut out = if status.is_server_error() {
            let message = match status {
                StatusCode::SERVICE_UNAVAILABLE => "the registry cannot answer now: try again later",
                StatusCode::INSUFFICIENT_STORAGE => {
                    "the registry has no space left: its operator has to free some space"
                }
                _ => "the registry failed: its log has the details under the request id",
            };
            Self::new(status, code, message)
        } else {
            let mut out = Self::new(status, code, e.message());
            for key in PUBLIC_CONTEXT {
                if let Some(value) = e.context_value(key) {
                    out.detail.insert(key, value.to_owned());
                }
            }
            out
        };
        if let Some(wait) = e.retry_after() {
            // Whole seconds, rounded up: a client that comes too early is refused again.
            let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
            out = out.with_header(header::RETRY_AFTER, seconds);
        }
        out.is_limit = e.context_value(LIMITED).is_some();
        out.cause = Some(e);
        out
    }
}

impl From<Challenge> for ApiError {
    fn from(challenge: Challenge) -> Self {
        let refused = Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", challenge.reason());
        let values = challenge.values().iter().cloned();
        values.fold(refused, |refused, value| refused.with_header(header::WWW_AUTHENTICATE, value))
    }
}

impl From<AuthError> for ApiError {
    fn from(e: AuthError) -> Self {
        match e {
            AuthError::Challenge(challenge) => challenge.into(),
            AuthError::Failed(error) => error.into(),
        }
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    errors: [ErrorEntry<'a>; 1],
}

#[derive(Serialize)]
struct ErrorEntry<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    detail: &'a BTreeMap<&'static str, String>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            errors: [ErrorEntry { code: self.code, message: &self.message, detail: &self.detail }],
        };
        let body = serde_json::to_vec(&body).expect("strings always serialise");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let own = self.headers.iter().any(|(name, _)| *name == header::RETRY_AFTER);
        if let Some(wait) = default_wait(self.status).filter(|_| !own) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(wait));
        }
        headers.extend(self.headers);
        (self.status, headers, Body::from(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::time::Duration;

    async fn shown(e: Error) -> (StatusCode, String) {
        let response = ApiError::from(e).into_response();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn an_error_shows_clients_no_internal_detail() {
        let (status, body) = shown(
            Error::new(ErrorKind::DigestInvalid, "the content does not match")
                .with_context("expected", "sha256:x")
                .with_context("path", "/srv/secret"),
        )
        .await;
        assert_eq!(status, 400);
        assert_eq!(
            body,
            r#"{"errors":[{"code":"DIGEST_INVALID","message":"the content does not match","detail":{"expected":"sha256:x"}}]}"#
        );
        let (status, body) =
            shown(Error::io("cannot open", "/srv/secret", std::io::Error::other("boom"))).await;
        assert_eq!(status, 500);
        assert!(!body.contains("secret") && !body.contains("boom") && body.contains("UNKNOWN"), "{body}");
    }

    #[tokio::test]
    async fn temporary_errors_have_retry_after() {
        for kind in [ErrorKind::Unavailable, ErrorKind::TooManyRequests, ErrorKind::Timeout] {
            let response = ApiError::from(Error::new(kind, "x")).into_response();
            assert_eq!(response.headers()["retry-after"], "1");
        }
        for (wait, header) in [(Duration::from_secs(7), "7"), (Duration::from_millis(1200), "2")] {
            let busy = Error::new(ErrorKind::Unavailable, "x").with_retry_after(wait);
            assert_eq!(ApiError::from(busy).into_response().headers()["retry-after"], header);
        }
        let full = || ApiError::from(Error::new(ErrorKind::StorageFull, "x"));
        assert_eq!(full().into_response().headers()["retry-after"], "30");
        let unready = full().with_status(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE").into_response();
        assert_eq!(unready.headers()["retry-after"], "1");
        let io = ApiError::from(Error::new(ErrorKind::Io, "x"));
        let response = io.with_status(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE").into_response();
        assert_eq!(response.headers()["retry-after"], "1");
    }

    #[tokio::test]
    async fn a_full_disk_is_507() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let (status, body) = shown(Error::io("cannot write", "/srv/secret", full)).await;
        assert_eq!(status, 507);
        assert!(body.contains("no space left") && !body.contains("secret"), "{body}");
    }
}
