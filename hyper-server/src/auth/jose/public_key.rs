//! Public keys in JSON (JWK, RFC 7517, RFC 7518 section 6, and RFC 8037), and their thumbprints (RFC 7638).

use super::Algorithm;
use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_sdk::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The first byte of a point of a curve that is not compressed.
const UNCOMPRESSED: u8 = 4;

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// A point on P-256: 4, x, y.
    P256(Vec<u8>),
    /// A point on P-384.
    P384(Vec<u8>),
    /// 32 bytes.
    Ed25519(Vec<u8>),
    /// Modulus and exponent, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PublicKey").field(&self.thumbprint()).finish()
    }
}

/// An entry of a set of keys, as far as it is read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default)]
    crv: String,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// The id of the key.
    pub(crate) kid: Option<String>,
    /// The only algorithm that it is for.
    pub(crate) alg: Option<String>,
    /// What it is for: `sig`, or something else.
    #[serde(rename = "use")]
    pub(crate) usage: Option<String>,
}

impl PublicKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unsupported`] for a kind that is not known, such as a secret;
    /// [`hyper_sdk::ErrorKind::Invalid`] for a key of another form.
    pub(crate) fn from_jwk(jwk: &Jwk) -> Result<Self> {
        match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("EC", "P-256") => Ok(Self::P256(point(jwk, 32)?)),
            ("EC", "P-384") => Ok(Self::P384(point(jwk, 48)?)),
            ("OKP", "Ed25519") => Ok(Self::Ed25519(member("x", jwk.x.as_ref(), 32..=32)?)),
            ("RSA", _) => {
                let without_zeros =
                    |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
                let n: Vec<u8> = without_zeros(member("n", jwk.n.as_ref(), 1..=1025)?);
                let e: Vec<u8> = without_zeros(member("e", jwk.e.as_ref(), 1..=8)?);
                match n.len() {
                    256..=1024 if !e.is_empty() => Ok(Self::Rsa { n, e }),
                    _ => Err(Error::invalid("a key of RSA must have 2048 to 8192 bits")),
                }
            }
            (kind, curve) => Err(Error::unsupported(format!(
                "a key of the kind `{}` with the curve `{}` is not supported",
                kind.escape_debug(),
                curve.escape_debug()
            ))),
        }
    }

    /// The members that identify the key, in the order of their names: what a thumbprint is of.
    fn members(&self) -> Vec<(&'static str, String)> {
        let of_point = |curve: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            vec![
                ("crv", curve.to_owned()),
                ("kty", "EC".to_owned()),
                ("x", URL_SAFE_NO_PAD.encode(x)),
                ("y", URL_SAFE_NO_PAD.encode(y)),
            ]
        };
        match self {
            Self::P256(point) => of_point("P-256", point),
            Self::P384(point) => of_point("P-384", point),
            Self::Ed25519(x) => vec![
                ("crv", "Ed25519".to_owned()),
                ("kty", "OKP".to_owned()),
                ("x", URL_SAFE_NO_PAD.encode(x)),
            ],
            Self::Rsa { n, e } => vec![
                ("e", URL_SAFE_NO_PAD.encode(e)),
                ("kty", "RSA".to_owned()),
                ("n", URL_SAFE_NO_PAD.encode(n)),
            ],
        }
    }

    /// The thumbprint (RFC 7638): SHA-256 in base64url.
    pub(crate) fn thumbprint(&self) -> String {
        let members: Vec<String> =
            self.members().iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{{{}}}", members.join(","))))
    }

    /// The key in JSON, under the id of its thumbprint.
    pub(crate) fn to_jwk(&self, algorithm: Algorithm) -> Value {
        let mut jwk = json!({"alg": algorithm.name(), "kid": self.thumbprint(), "use": "sig"});
        for (name, value) in self.members() {
            jwk[name] = value.into();
        }
        jwk
    }

    /// Whether the key is one for an algorithm.
    pub(crate) fn is_for(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::P256(_) => algorithm == Algorithm::Es256,
            Self::P384(_) => algorithm == Algorithm::Es384,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
            Self::Rsa { .. } => algorithm.rsa().is_some(),
        }
    }

    /// Whether the signature of a message is that of this key, by an algorithm that the key is for.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        let verified = match self {
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Self::P384(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
            Self::Rsa { n, e } => {
                let Some(parameters) = algorithm.rsa() else { return false };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
        };
        verified.is_ok()
    }
}

fn point(jwk: &Jwk, length: usize) -> Result<Vec<u8>> {
    let mut point = vec![UNCOMPRESSED];
    point.extend(member("x", jwk.x.as_ref(), length..=length)?);
    point.extend(member("y", jwk.y.as_ref(), length..=length)?);
    Ok(point)
}

fn member(name: &str, text: Option<&String>, lengths: std::ops::RangeInclusive<usize>) -> Result<Vec<u8>> {
    // Some issuers pad.
    let decoded = text.and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
    decoded
        .filter(|bytes| lengths.contains(&bytes.len()))
        .ok_or_else(|| Error::invalid(format!("the member `{name}` of a key is missing or not valid")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::ErrorKind;

    fn read(json: Value) -> Result<PublicKey> {
        PublicKey::from_jwk(&serde_json::from_value(json).unwrap())
    }

    /// The example of RFC 7638, section 3.1.
    #[test]
    fn a_thumbprint_is_that_of_the_rfc() {
        let key = read(json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"
        }));
        assert_eq!(key.unwrap().thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    /// The example of RFC 8037, appendix A.3 and A.4.
    #[test]
    fn a_key_of_ed25519_verifies_its_algorithm_alone() {
        let key =
            read(json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}));
        let key = key.unwrap();
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature =
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for algorithm in Algorithm::ALL {
            assert_eq!(
                key.verifies(algorithm, signed, &signature),
                algorithm == Algorithm::EdDsa,
                "{algorithm}"
            );
        }
        signature[5] ^= 1;
        assert!(!key.verifies(Algorithm::EdDsa, signed, &signature));
        assert_eq!(key.to_jwk(Algorithm::EdDsa)["use"], "sig");
    }

    #[test]
    fn keys_of_other_kinds_and_forms_are_refused() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        for (json, kind) in [
            (json!({}), ErrorKind::Unsupported),
            (json!({"kty": "oct", "k": "AAAA"}), ErrorKind::Unsupported),
            (json!({"kty": "EC", "crv": "P-521", "x": x, "y": x}), ErrorKind::Unsupported),
            (json!({"kty": "OKP", "crv": "X25519", "x": x}), ErrorKind::Unsupported),
            (json!({"kty": "OKP", "crv": "Ed25519"}), ErrorKind::Invalid),
            (json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}), ErrorKind::Invalid),
            (json!({"kty": "EC", "crv": "P-256", "x": x}), ErrorKind::Invalid),
            (json!({"kty": "RSA", "n": x, "e": "AQAB"}), ErrorKind::Invalid),
            (json!({"kty": "RSA", "n": "A".repeat(4000), "e": "AQAB"}), ErrorKind::Invalid),
        ] {
            assert_eq!(read(json.clone()).unwrap_err().kind(), kind, "{json}");
        }
        // A point that is not on the curve has no signature.
        let key = read(json!({"kty": "EC", "crv": "P-256", "x": x, "y": x})).unwrap();
        assert!(!key.verifies(Algorithm::Es256, b"m", &[1; 64]));
    }
}
