//! Trust in servers, and the certificate of the client.
//!
//! A server is trusted when a certificate authority of the system or of the caller signed its certificate, or when the
//! certificate is itself among these. `openssl req -x509` makes such certificates and often marks them as authorities,
//! which the usual check rejects for a server. Their name and validity are checked like those of any other certificate.

use crate::client::keychain::Secret;
use crate::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use std::sync::Arc;

/// The certificates in PEM text.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] when it has none, or one that is damaged.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let bad = || Error::invalid("the certificates are not PEM");
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| bad().with_source(e))?;
    if found.is_empty() {
        return Err(Error::invalid("there is no certificate in the PEM text"));
    }
    for certificate in &found {
        ParsedCertificate::try_from(certificate).map_err(|e| bad().with_source(e))?;
    }
    Ok(found)
}

/// The configuration of TLS: trusts the system's authorities and `roots`, and authenticates with `identity`, PEM text of a
/// key and a certificate chain.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for an identity that is not well formed.
pub(crate) fn config(roots: &[CertificateDer<'static>], identity: Option<&Secret>) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(roots, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal("TLS cannot be configured").with_source(e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            // The parser's message could quote the key: it is left out.
            let bad = || Error::invalid("the client certificate is not PEM of a key and a certificate");
            let text = pem.expose().as_bytes();
            let chain = certificates(text).map_err(|_| bad())?;
            let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| bad())?;
            builder.with_client_auth_cert(chain, key).map_err(|_| bad())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The configuration of TLS of a client of another protocol than HTTP, such as LDAP: it trusts the authorities of the system and
/// the certificates in `roots`, which are PEM. The caller sets the protocols of ALPN.
///
/// ```
/// use hyper_sdk::client::tls_config;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let mut config = tls_config(&[])?;
/// config.alpn_protocols = vec![b"imap".to_vec()];
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] when the certificates cannot be used.
pub fn tls_config(roots: &[Vec<u8>]) -> Result<ClientConfig> {
    let roots = roots.iter().map(|pem| certificates(pem)).collect::<Result<Vec<_>>>()?;
    let mut config = config(&roots.concat(), None)?;
    config.alpn_protocols.clear();
    Ok(config)
}

#[derive(Debug)]
pub(crate) struct Verifier {
    /// `None` when there is no authority at all.
    chains: Option<Arc<WebPkiServerVerifier>>,
    anchors: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(crate) fn new(roots: &[CertificateDer<'static>], provider: Arc<CryptoProvider>) -> Result<Self> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store
                .add(root.clone())
                .map_err(|e| Error::invalid("a root certificate cannot be used").with_source(e))?;
        }
        let system = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(system.certs.iter().cloned());
        let anchors = roots.iter().cloned().chain(system.certs).collect();
        let chains = if store.is_empty() {
            None
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
                .build()
                .map_err(|e| Error::internal("TLS cannot be configured").with_source(e))?;
            Some(verifier)
        };
        Ok(Self { chains, anchors, provider })
    }

    /// Checks a server's certificate that is one of the anchors.
    fn verify_own(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        let invalid = |e| Err(TlsError::InvalidCertificate(e));
        match validity(certificate) {
            None => invalid(CertificateError::BadEncoding),
            Some((from, _)) if now.as_secs() < from => invalid(CertificateError::NotValidYet),
            Some((_, to)) if now.as_secs() > to => invalid(CertificateError::Expired),
            Some(_) => Ok(ServerCertVerified::assertion()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        if self.anchors.iter().any(|anchor| anchor == end_entity) {
            return self.verify_own(end_entity, server_name, now);
        }
        match &self.chains {
            Some(chains) => {
                chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The period in which a certificate is valid, in seconds since 1970 (RFC 5280, section 4.1).
fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // Version (when it is there), serial number, algorithm, issuer.
    let (tag, _, after) = element(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, both, _) = element(rest)?;
    let (from_tag, from, after) = element(both)?;
    let (to_tag, to, _) = element(after)?;
    Some((time(from_tag, from)?, time(to_tag, to)?))
}

/// The first DER element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().try_fold(0usize, |n, d| n.checked_mul(256)?.checked_add(usize::from(*d)))?, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` (UTCTime, tag 23) or `YYYYMMDDHHMMSSZ` (GeneralizedTime, tag 24) in seconds since 1970; 0 for
/// earlier times.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        std::str::from_utf8(digits.get(range)?).ok()?.parse().ok()
    };
    let (year, at) = match (tag, digits.len()) {
        (0x17, 12) => {
            let year = number(0..2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        (0x18, 14) => (number(0..4)?, 4),
        _ => return None,
    };
    let field = |n: usize| number(at + 2 * n..at + 2 * n + 2);
    let (month, day) = (field(0)?, field(1)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil: years begin in March, so that the leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let days = y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + day_of_year - 719_468;
    let seconds = days * 86_400 + field(2)? * 3600 + field(3)? * 60 + field(4)?;
    Some(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_of_certificates() {
        assert_eq!(time(0x17, b"700101000000Z"), Some(0));
        assert_eq!(time(0x17, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(time(0x17, b"500101000000Z"), Some(0));
        assert_eq!(time(0x18, b"20240229120000Z"), Some(1_709_208_000));
        assert_eq!(time(0x18, b"99991231235959Z"), Some(253_402_300_799));
        for bad in [&b"20240229120000"[..], b"Z", b"2024022912000Z", b"2O240229120000Z", b"20241329120000Z"] {
            assert_eq!(time(0x18, bad), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = validity(&bytes);
        }
    }
}
