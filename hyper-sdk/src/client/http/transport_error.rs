//! Errors of connections that fail or break.

use crate::client::timeouts::explained;
use crate::{Error, ErrorDetail, ErrorKind, RegistryFailure};

/// The error of a request that got no response.
pub(in crate::client) fn of_request(e: reqwest::Error) -> Error {
    if is_untrusted_certificate(&e) {
        // The next attempt would get the same certificate.
        return Error::new(ErrorKind::Unavailable, "the certificate of the registry is not trusted")
            .with_retryable(false)
            .with_detail(ErrorDetail::Registry(RegistryFailure::from_untrusted_certificate()))
            .with_source(e.without_url());
    }
    let (kind, message) = if e.is_timeout() {
        (ErrorKind::Timeout, "the registry did not answer in time")
    } else if e.is_connect() {
        (ErrorKind::Unavailable, "cannot connect to the registry")
    } else if e.is_builder() {
        return Error::invalid("the request cannot be made").with_source(e.without_url());
    } else {
        (ErrorKind::Unavailable, "the connection to the registry broke")
    };
    Error::new(kind, message).with_source(explained(e))
}

/// Whether the certificate of the peer is not trusted.
fn is_untrusted_certificate(e: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = e.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    // What an I/O error carries is not its source.
    let carried = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    carried.is_some_and(|inner| is_untrusted_certificate(inner))
        || e.source().is_some_and(is_untrusted_certificate)
}
