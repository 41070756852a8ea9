//! From failed requests and error responses to [`Error`].
//!
//! A registry says what is wrong in JSON, `{"errors":[{"code","message","detail"}]}` (distribution-spec, "Error
//! Codes"). Whoever answers in its place (a proxy, a storage) does not: then the status decides, with what was asked.

use super::body;
use crate::client::patience::Patience;
use crate::{Error, ErrorDetail, ErrorKind, RegistryFailure};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

/// The most that is read of an error response.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// The most of a stranger's message that is passed on.
const MAX_MESSAGE: usize = 300;

/// What a request was about: the kind of a 404 that does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
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

/// The error that a response of another status than the expected one means. Reads its body, up to a limit.
pub(super) async fn of_response(mut response: Response, subject: Subject, patience: Patience) -> Error {
    let status = response.status();
    let (bytes, _) = body::read_capped(&mut response, MAX_ERROR_BODY, patience).await.unwrap_or_default();
    of_status(status, &bytes, subject)
}

pub(super) fn of_status(status: StatusCode, bytes: &[u8], subject: Subject) -> Error {
    let said = serde_json::from_slice::<Body>(bytes).ok().and_then(|b| b.errors.into_iter().next());
    let by_code = said.as_ref().and_then(|e| kind_of_code(&e.code));
    let mut kind = by_code.unwrap_or_else(|| kind_of_status(status, subject));
    // Some registries answer 404 with the code of the level above the one that was asked for.
    if status == StatusCode::NOT_FOUND && kind == ErrorKind::NotFound {
        kind = subject.unknown();
    }
    let message = match &said {
        Some(e) if !e.message.is_empty() => format!("the registry answered: {}", clip(&e.message)),
        Some(e) if !e.code.is_empty() => format!("the registry answered {}", clip(&e.code)),
        _ => default_message(kind),
    };
    let retryable = is_passing(status);
    let code = said.map(|said| clip(&said.code)).filter(|code| !code.is_empty());
    let answer = RegistryFailure::of_answer(status.as_u16(), code);
    Error::new(kind, message)
        .with_retryable(retryable)
        .with_context("status", status.as_u16())
        .with_detail(ErrorDetail::Registry(answer))
}

/// Whether a later attempt can succeed after this status.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504 | 522 | 524)
}

/// The error of a request that got no response.
pub(super) fn of_transport(e: reqwest::Error) -> Error {
    // The URL may carry a signature in its query: it stays out of the message.
    let e = e.without_url();
    if is_distrust(&e) {
        // Trying again would meet the same certificate.
        return Error::new(ErrorKind::Unavailable, "the certificate of the registry is not trusted")
            .with_retryable(false)
            .with_detail(ErrorDetail::Registry(RegistryFailure::of_untrusted_certificate()))
            .with_source(e);
    }
    let (kind, message) = if e.is_timeout() {
        (ErrorKind::Timeout, "the registry did not answer in time")
    } else if e.is_connect() {
        (ErrorKind::Unavailable, "cannot connect to the registry")
    } else if e.is_builder() {
        return Error::invalid("the request cannot be made").with_source(e);
    } else {
        (ErrorKind::Unavailable, "the connection to the registry broke")
    };
    Error::new(kind, message).with_source(e)
}

/// Whether the certificate of the peer was refused.
fn is_distrust(e: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = e.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    // What an I/O error carries is not its source.
    let carried = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    carried.is_some_and(|inner| is_distrust(inner)) || e.source().is_some_and(is_distrust)
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

fn kind_of_code(code: &str) -> Option<ErrorKind> {
    Some(match code {
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
        ErrorKind::Unauthorized => "the registry wants credentials: log in to it first",
        ErrorKind::Denied => "the registry does not permit this",
        ErrorKind::TooManyRequests => "the registry answers too many requests: try again later",
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
    fn codes_win_over_status_and_status_over_nothing() {
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
