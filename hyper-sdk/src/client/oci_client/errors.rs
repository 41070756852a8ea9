//! Errors of the crate.

use crate::client::http::errors::{self, Subject};
use crate::client::http::transport_error;
use crate::{Error, ErrorKind};
use ::oci_client::errors::{DigestError, OciDistributionError};
use reqwest::StatusCode;

/// Converts an error of the crate. Errors of registries stay out of the chain: their text has URLs that may be signed.
pub(super) fn error(e: OciDistributionError, subject: Subject) -> Error {
    match e {
        OciDistributionError::RegistryError { envelope, .. } => {
            let body = serde_json::to_vec(&envelope).unwrap_or_default();
            errors::of_answer(None, &body, subject)
        }
        OciDistributionError::ServerError { code, message, .. } => {
            errors::of_answer(StatusCode::from_u16(code).ok(), message.as_bytes(), subject)
        }
        OciDistributionError::UnauthorizedError { .. } => {
            errors::of_answer(Some(StatusCode::UNAUTHORIZED), b"", subject)
        }
        OciDistributionError::AuthenticationFailure(_) => {
            Error::new(ErrorKind::Unauthorized, "the token server does not accept the credentials")
        }
        OciDistributionError::RequestError(e) => match e.status() {
            Some(status) => errors::of_answer(Some(status), b"", subject),
            None => transport_error::of_request(e),
        },
        OciDistributionError::ImageManifestNotFoundError(_) => {
            errors::of_answer(Some(StatusCode::NOT_FOUND), b"", Subject::Manifest)
        }
        OciDistributionError::DigestError(e) => digest_error(e),
        OciDistributionError::IoError(e) => stream_error(e),
        e @ (OciDistributionError::ManifestParsingError(_)
        | OciDistributionError::VersionedParsingError(_)
        | OciDistributionError::ManifestEncodingError(_)
        | OciDistributionError::UnsupportedMediaTypeError(_)
        | OciDistributionError::UnsupportedSchemaVersionError(_)) => {
            Error::new(ErrorKind::ManifestInvalid, "the registry's manifest cannot be read").with_source(e)
        }
        e => Error::invalid("the answer of the registry is not valid").with_source(e),
    }
}

fn digest_error(e: DigestError) -> Error {
    Error::new(ErrorKind::DigestInvalid, "the content does not match its digest").with_source(e)
}

/// Converts an error in the middle of a blob.
pub(super) fn stream_error(e: std::io::Error) -> Error {
    let kind = e.kind();
    let Some(inner) = e.into_inner() else {
        return std::io::Error::from(kind).into();
    };
    match inner.downcast::<reqwest::Error>() {
        Ok(e) => transport_error::of_request(*e),
        Err(inner) => match inner.downcast::<DigestError>() {
            Ok(e) => digest_error(*e),
            Err(inner) => std::io::Error::new(kind, inner).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> OciDistributionError {
        let envelope = serde_json::from_str(body).unwrap();
        OciDistributionError::RegistryError { envelope, url: "http://r.example/?signature=s3cret".to_owned() }
    }

    #[test]
    fn errors_have_the_kind_that_the_registry_means() {
        let server = |code, message: &str| OciDistributionError::ServerError {
            code,
            url: "http://r.example/?signature=s3cret".to_owned(),
            message: message.to_owned(),
        };
        let one = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"m"}}]}}"#);
        for (e, kind) in [
            (answer(&one("NAME_UNKNOWN")), ErrorKind::NameUnknown),
            (answer(&one("RANGE_INVALID")), ErrorKind::RangeInvalid),
            (answer(&one("TOOMANYREQUESTS")), ErrorKind::TooManyRequests),
            (answer(&one("NOT_FOUND")), ErrorKind::BlobUnknown),
            (answer(r#"{"errors":[]}"#), ErrorKind::Invalid),
            (server(404, ""), ErrorKind::BlobUnknown),
            (server(400, &one("DIGEST_INVALID")), ErrorKind::DigestInvalid),
            (server(503, "busy"), ErrorKind::Unavailable),
            (OciDistributionError::UnauthorizedError { url: "u".to_owned() }, ErrorKind::Unauthorized),
            (OciDistributionError::AuthenticationFailure("no".to_owned()), ErrorKind::Unauthorized),
            (OciDistributionError::PushNoDataError, ErrorKind::Invalid),
        ] {
            let shown = format!("{e}");
            let e = error(e, Subject::Blob);
            assert_eq!(e.kind(), kind, "{shown}");
            assert!(!format!("{e:?}").contains("s3cret"), "{e:?}");
        }
    }
}
