//! A set of public keys (JWK Set, RFC 7517, section 5).

use crate::auth::jose::{Algorithm, Jwk, PublicKey};
use hyper_sdk::{Error, Result};
use serde::Deserialize;

/// The most keys of an issuer.
const MAX_KEYS: usize = 100;

/// A key, with what its issuer says of it.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, when its issuer says so.
    algorithm: Option<String>,
    public: PublicKey,
}

/// The keys of this id for an algorithm; without an id all for the algorithm.
pub(super) fn find(keys: &[Key], id: Option<&str>, algorithm: Algorithm) -> Vec<PublicKey> {
    let keys = keys.iter().filter(|key| id.is_none_or(|id| key.id.as_deref() == Some(id)));
    let keys = keys.filter(|key| key.algorithm.as_deref().is_none_or(|name| name == algorithm.name()));
    keys.filter(|key| key.public.is_for(algorithm)).map(|key| key.public.clone()).collect()
}

/// Reads a set of keys. Those of other kinds, and those that are not for signatures, are left out.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Key>> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<serde_json::Value>,
    }
    let invalid = || Error::invalid("the keys are not a JSON Web Key Set");
    let document: Document = serde_json::from_slice(bytes).map_err(|_| invalid())?;
    if document.keys.len() > MAX_KEYS {
        return Err(Error::invalid(format!("the set has more than {MAX_KEYS} keys")));
    }
    let mut keys = Vec::new();
    for value in document.keys {
        let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            continue;
        }
        match PublicKey::from_jwk(&jwk) {
            Ok(public) => keys.push(Key { id: jwk.kid, algorithm: jwk.alg, public }),
            Err(error) => tracing::debug!(%error, "a key of an issuer is left out"),
        }
    }
    Ok(keys)
}

/// Checks a file with keys: it has one that is known.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] that says why not.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    match parse(bytes)?.is_empty() {
        true => Err(Error::invalid("the set has no public key of a kind that is known")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_keys_that_are_known() {
        let ed =
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}"#;
        let with = |more: &str| ed.replacen('{', &format!("{{{more},"), 1);
        let set = format!(
            r#"{{"keys":[{ed},{},{},{{"kty":"oct","k":"AA"}},7,{{"kid":1}}]}}"#,
            with(r#""use":"enc""#),
            with(r#""use":"sig","alg":"RS256""#),
        );
        let keys = parse(set.as_bytes()).unwrap();
        assert_eq!(find(&keys, Some("a"), Algorithm::EdDsa).len(), 1, "not the one for another algorithm");
        assert_eq!(find(&keys, None, Algorithm::EdDsa).len(), 1);
        assert!(
            find(&keys, Some("b"), Algorithm::EdDsa).is_empty()
                && find(&keys, Some("a"), Algorithm::Es256).is_empty()
        );
        let many = format!("{{\"keys\":[{}]}}", vec![ed; 101].join(","));
        for bad in ["", "[]", "{}", "null", r#"{"keys":{}}"#, &many] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for empty in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct"}]}"#] {
            assert!(
                parse(empty.as_bytes()).unwrap().is_empty() && check(empty.as_bytes()).is_err(),
                "{empty}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_set_is_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), text in "\\PC{0,100}") {
            let _ = parse(&bytes);
            let _ = parse(format!(r#"{{"keys":[{{"kty":"RSA","n":{text:?},"e":"AQAB"}}]}}"#).as_bytes());
        }
    }
}
