//! Certificates and keys of TLS in PEM, and what is wrong with them.

use hyper_sdk::{Error, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An error about a file.
pub(crate) fn invalid(message: impl fmt::Display, path: &Path) -> Error {
    Error::invalid(message.to_string()).with_context("path", path.display())
}

/// The certificates of a file.
pub(crate) fn certificates(bytes: &[u8], what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(format!("{what} is not PEM"), path).with_source(e))?;
    match found.is_empty() {
        true => Err(invalid(
            format!("{what} has no certificate: a PEM file with `BEGIN CERTIFICATE` is needed"),
            path,
        )),
        false => Ok(found),
    }
}

/// The key of a file.
pub(crate) fn private_key(bytes: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>> {
    let is_encrypted =
        |text: &str| text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED");
    PrivateKeyDer::from_pem_slice(bytes).map_err(|e| match std::str::from_utf8(bytes) {
        // The error of the parser may quote the line that it does not understand.
        Ok(text) if is_encrypted(text) => invalid(
            "the key of the certificate is encrypted: write it without a password, `openssl pkey` does so",
            path,
        ),
        _ if matches!(e, rustls::pki_types::pem::Error::NoItemsFound) => invalid(
            "the key of the certificate has no key: a PEM file with `BEGIN PRIVATE KEY` is needed",
            path,
        ),
        _ => invalid("the key of the certificate is not PEM", path),
    })
}

/// Says that a certificate has expired, or is not valid yet.
pub(crate) fn outside_of_validity(path: &Path, der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let now =
        i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).ok()?;
    let validity = certificate.validity();
    let (path, subject) = (path.display(), certificate.subject().to_string());
    let subject = subject.escape_debug();
    if validity.not_after.timestamp() < now {
        return Some(format!("the certificate of `{subject}` in `{path}` expired at {}", validity.not_after));
    }
    (validity.not_before.timestamp() > now).then(|| {
        format!("the certificate of `{subject}` in `{path}` is not valid before {}", validity.not_before)
    })
}
