//! Errors of responses.
//!
//! A registry reports errors as JSON, `{"errors":[{"code","message","detail"}]}` (distribution-spec, "Error Codes"). A
//! proxy or a storage in its place does not: then the status decides, together with the subject of the request.

use super::body;
use crate::client::timeouts::Timeouts;
use crate::{Error, ErrorDetail, ErrorKind, RegistryFailure};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

/// The most that is read of an error response.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How many characters of a registry's message are kept.
const MAX_MESSAGE: usize = 300;

/// The subject of a request, which decides the kind of a 404 without a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum Subject {
    Registry,
    Repository,
    Manifest,
    Blob,
    Upload,
}

impl Subject {
    fn unknown(self) -> ErrorKind {
        match self {
            Self::Registry => ErrorKind::NotFound,
            Self::Repository => ErrorKind::NameUnknown,
            Self::Manifest => ErrorKind::ManifestUnknown,
            Self::Blob => ErrorKind::BlobUnknown,
            Self::Upload => ErrorKind::UploadUnknown,
        }
    }
}

/// The error of a response with an unexpected status. Reads its body, up to a limit.
pub(super) async fn of_response(mut response: Response, subject: Subject, timeouts: Timeouts) -> Error {
    let status = response.status();
    let (bytes, _) = body::read_capped(&mut response, MAX_ERROR_BODY, timeouts).await.unwrap_or_default();
    of_status(status, &bytes, subject)
}

pub(super) fn of_status(status: StatusCode, bytes: &[u8], subject: Subject) -> Error {
    of_answer(Some(status), bytes, subject)
}

/// The error of a response; without a status, its body decides.
pub(in crate::client) fn of_answer(status: Option<StatusCode>, bytes: &[u8], subject: Subject) -> Error {
    let reported = serde_json::from_slice::<Body>(bytes).ok().and_then(|b| b.errors.into_iter().next());
    let by_code = reported.as_ref().and_then(|e| kind_of_code(&e.code, subject));
    let by_status = || status.map_or(ErrorKind::Invalid, |status| kind_of_status(status, subject));
    let kind = by_code.unwrap_or_else(by_status);
    let message = match &reported {
        Some(e) if !e.message.is_empty() => format!("the registry answered: {}", clip(&e.message)),
        Some(e) if !e.code.is_empty() => format!("the registry answered {}", clip(&e.code)),
        _ => default_message(kind),
    };
    let code = reported.map(|reported| clip(&reported.code)).filter(|code| !code.is_empty());
    let answer = RegistryFailure { status: status.map(|s| s.as_u16()), code, ..RegistryFailure::default() };
    let e = Error::new(kind, message).with_detail(ErrorDetail::Registry(answer));
    match status {
        Some(status) => e.with_retryable(is_transient(status)).with_context("status", status.as_u16()),
        None => e,
    }
}

/// Whether a later attempt can succeed after this status.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504 | 522 | 524)
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<ReportedError>,
}

#[derive(Deserialize)]
struct ReportedError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

fn kind_of_code(code: &str, subject: Subject) -> Option<ErrorKind> {
    Some(match code {
        "NOT_FOUND" => subject.unknown(),
        "BLOB_UNKNOWN" => ErrorKind::BlobUnknown,
        "BLOB_UPLOAD_INVALID" => ErrorKind::UploadInvalid,
        "BLOB_UPLOAD_UNKNOWN" => ErrorKind::UploadUnknown,
        "DIGEST_INVALID" => ErrorKind::DigestInvalid,
        "MANIFEST_BLOB_UNKNOWN" => ErrorKind::ManifestBlobUnknown,
        "MANIFEST_INVALID" | "MANIFEST_UNVERIFIED" => ErrorKind::ManifestInvalid,
        "MANIFEST_UNKNOWN" => ErrorKind::ManifestUnknown,
        "NAME_INVALID" => ErrorKind::NameInvalid,
        "NAME_UNKNOWN" => ErrorKind::NameUnknown,
        "SIZE_INVALID" => ErrorKind::SizeInvalid,
        "RANGE_INVALID" => ErrorKind::RangeInvalid,
        "TAG_INVALID" | "PAGINATION_NUMBER_INVALID" => ErrorKind::Invalid,
        "UNAUTHORIZED" => ErrorKind::Unauthorized,
        "DENIED" => ErrorKind::Denied,
        "UNSUPPORTED" => ErrorKind::Unsupported,
        "TOOMANYREQUESTS" => ErrorKind::TooManyRequests,
        "UNAVAILABLE" => ErrorKind::Unavailable,
        _ => return None,
    })
}

fn kind_of_status(status: StatusCode, subject: Subject) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Denied,
        404 => subject.unknown(),
        405 | 501 | 505 => ErrorKind::Unsupported,
        408 | 504 | 522 | 524 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        413 => ErrorKind::TooLarge,
        416 => ErrorKind::RangeInvalid,
        429 => ErrorKind::TooManyRequests,
        400..=499 => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    }
}

fn default_message(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::Unauthorized => "the registry needs credentials: log in to it first",
        ErrorKind::Denied => "the registry does not permit this",
        ErrorKind::TooManyRequests => "the registry has too many requests: try again later",
        ErrorKind::ManifestUnknown => "the registry does not have this manifest",
        ErrorKind::BlobUnknown => "the registry does not have this blob",
        ErrorKind::NameUnknown => "the registry does not have this repository",
        ErrorKind::UploadUnknown => "the registry does not know this upload",
        ErrorKind::TooLarge => "the registry does not take content of this size",
        _ => "the registry refused the request",
    }
    .to_owned()
}

/// One printable line of bounded length.
pub(super) fn clip(text: &str) -> String {
    let mut line: String =
        text.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_MESSAGE).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str, subject: Subject) -> Error {
        of_status(StatusCode::from_u16(status).unwrap(), body.as_bytes(), subject)
    }

    #[test]
    fn the_code_counts_before_the_status() {
        let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no\nsuch","detail":{}}]}"#;
        let e = of(404, body, Subject::Manifest);
        assert_eq!(e.kind(), ErrorKind::NameUnknown);
        assert_eq!(e.to_string(), "the registry answered: no such (status: 404)");
        let Some(ErrorDetail::Registry(answer)) = e.detail() else { panic!("{e:?}") };
        assert_eq!((answer.status, answer.code.as_deref()), (Some(404), Some("NAME_UNKNOWN")));
        assert_eq!(of(404, "<html>", Subject::Blob).kind(), ErrorKind::BlobUnknown);
        assert_eq!(of(404, r#"{"errors":[]}"#, Subject::Upload).kind(), ErrorKind::UploadUnknown);
        assert_eq!(of(404, r#"{"errors":null}"#, Subject::Manifest).kind(), ErrorKind::ManifestUnknown);
        assert!(of(503, "", Subject::Blob).is_retryable());
        assert!(!of(403, "", Subject::Blob).is_retryable());
    }

    #[test]
    fn a_message_is_clipped() {
        let body = format!(r#"{{"errors":[{{"code":"DENIED","message":"{}"}}]}}"#, "x".repeat(10_000));
        assert!(of(403, &body, Subject::Blob).to_string().len() < 400);
    }
}
