//! The answers to challenges: their files, and the handshake of tls-alpn-01.

use hyper_sdk::{Error, Result};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::sync::Arc;

/// The protocol of the handshake (RFC 8737, section 4).
pub(super) const PROTOCOL: &[u8] = b"acme-tls/1";

/// The file with the certificate that answers for a domain, which is one of the options.
pub(super) fn tls_file(domain: &str) -> String {
    format!("challenge-tls-{domain}")
}

/// The file with the answer for a token; `None` for what is no token (RFC 8555, section 8.3).
pub(super) fn http_file(token: &str) -> Option<String> {
    let is_token = (16..=128).contains(&token.len())
        && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    is_token.then(|| format!("challenge-http-{token}"))
}

/// The certificate that answers for a domain (RFC 8737, section 3), with its key.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Internal`] when there is no random number.
#[cfg(feature = "acme")]
pub(super) fn certificate(domain: &str, digest: &[u8]) -> Result<String> {
    let failed = |e| Error::internal("the certificate of a challenge cannot be made").with_source(e);
    let mut params = rcgen::CertificateParams::new([domain.to_owned()]).map_err(failed)?;
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    Ok(format!("{}{}", params.self_signed(&key).map_err(failed)?.pem(), key.serialize_pem()))
}

/// TLS for the one handshake that answers.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] when the file has no certificate with its key.
pub(super) fn tls_config(text: &str) -> Result<Arc<ServerConfig>> {
    let bad = || Error::invalid("the file of a challenge has no certificate with its key");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).flatten().collect();
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| bad())?;
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key).map_err(|_| bad())?;
    if chain.is_empty() {
        return Err(bad());
    }
    // Not checked against each other: the critical extension of the challenge is unknown to the verifier.
    let pair = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal("TLS cannot be set up").with_source(e))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(pair));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_no_path() {
        assert_eq!(http_file("evaGxfADs6pSRb2LAv9IZ-_").unwrap(), "challenge-http-evaGxfADs6pSRb2LAv9IZ-_");
        let long = "a".repeat(129);
        for wrong in
            ["", "../../../../etc/passwd", "0123456789abcde", "0123456789abcdef/", "0123456789abcde\0", &long]
        {
            assert_eq!(http_file(wrong), None, "{wrong}");
        }
    }

    #[test]
    #[cfg(feature = "acme")]
    fn a_challenge_is_answered_with_its_own_protocol_alone() {
        let text = certificate("a.example", &[7; 32]).unwrap();
        assert_eq!(tls_config(&text).unwrap().alpn_protocols, [PROTOCOL]);
        let key = text.find("-----BEGIN PRIVATE").unwrap();
        for wrong in ["", &text[..key], &text[key..]] {
            assert!(tls_config(wrong).is_err(), "{wrong}");
        }
    }
}
