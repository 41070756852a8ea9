//! Signed tokens in the compact form (JWS, RFC 7515) and public keys in JSON (JWK, RFC 7517).
//!
//! ```text
//! BASE64URL(header) . BASE64URL(claims) . BASE64URL(signature)
//! header: {"alg":"ES256","kid":"…","typ":"JWT"}
//! ```
//!
//! # Invariants
//! - A key says which algorithms it is for. The header of a token names one of them, and never chooses how a key is used: no key
//!   here is a secret, and `none` is no algorithm.
//! - A header with `crit` is refused: no extension is known.

mod algorithm;
mod public_key;

pub(crate) use algorithm::Algorithm;
pub(crate) use public_key::{Jwk, PublicKey};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A token whose signature is not verified.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    /// The algorithm, as the header names it.
    pub(crate) algorithm: Option<Algorithm>,
    /// The key, as the header names it.
    pub(crate) key: Option<String>,
    /// What is signed.
    signed: &'a str,
    /// The claims, which nobody vouches for yet.
    pub(crate) claims: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Unverified<'a> {
    /// Reads a token; `None` when it has another form, or needs an extension.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        Some(Self {
            algorithm: header.alg.parse().ok(),
            key: header.kid,
            signed,
            claims: URL_SAFE_NO_PAD.decode(claims).ok()?,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Whether a key that is for this algorithm has signed the token with it.
    pub(crate) fn is_signed_by(&self, key: &PublicKey, algorithm: Algorithm) -> bool {
        self.algorithm == Some(algorithm) && key.verifies(algorithm, self.signed.as_bytes(), &self.signature)
    }
}

/// Whether a text has the form of a signed token, whatever is in it. Nobody has such a password by chance.
pub(crate) fn is_like(text: &str) -> bool {
    text.starts_with("eyJ")
        && text.split('.').count() == 3
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"), "c2ln")
    }

    #[test]
    fn a_token_is_read_strictly() {
        let read = |header: &str| {
            let text = token(header);
            Unverified::parse(&text).map(|token| (token.algorithm.map(Algorithm::name), token.key))
        };
        assert_eq!(read(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#), Some((Some("ES256"), Some("k".into()))));
        for unknown in ["none", "None", "HS256", "HS512", "es256", ""] {
            assert_eq!(read(&format!(r#"{{"alg":"{unknown}"}}"#)), Some((None, None)), "{unknown}");
        }
        for bad in [
            "",
            "{}",
            r#"{"alg":1}"#,
            r#"{"alg":"ES256","kid":1}"#,
            r#"{"alg":"ES256","alg":"RS256"}"#,
            r#"{"alg":"ES256","crit":["exp"]}"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let good = token(r#"{"alg":"ES256"}"#);
        for bad in ["", ".", "..", "a.b", &good[1..], &format!("{good}="), &format!("{good}.x"), "é.é.é"] {
            assert!(Unverified::parse(bad).is_none(), "{bad}");
        }
        assert!(is_like(&good) && !is_like("a.b.c") && !is_like(&format!("{good}.x")) && !is_like("eyJ.é.x"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}", parts in proptest::collection::vec("[A-Za-z0-9_-]{0,40}", 0..5)) {
            let _ = Unverified::parse(&text);
            let _ = Unverified::parse(&parts.join("."));
        }
    }
}
