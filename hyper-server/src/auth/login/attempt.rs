//! A login that has begun: what the browser keeps of it in a sealed cookie.
//!
//! ```text
//! BASE64URL( nonce, 12 bytes | AES-256-GCM( {"state", "nonce", "verifier", "begun"} ) | tag )
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_sdk::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// How long a login may take, in seconds.
pub(super) const LIFETIME: i64 = 10 * 60;
/// How far the clocks of two servers may differ, in seconds.
const SKEW: i64 = 60;
/// The longest cookie that is opened.
const MAX_COOKIE: usize = 2048;

/// A login that has begun.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    begun: i64,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Attempt {
    /// A login that begins now, in seconds since 1970.
    pub(super) fn new(now: i64) -> Result<Self> {
        let random = || {
            let mut bytes = [0; 32];
            crate::auth::fill_random(&mut bytes)?;
            Ok::<_, Error>(URL_SAFE_NO_PAD.encode(bytes))
        };
        Ok(Self { state: random()?, nonce: random()?, verifier: random()?, begun: now })
    }

    /// What the issuer gets of the verifier (RFC 7636, section 4.2).
    pub(super) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(&self.verifier))
    }

    /// The value of the cookie. `purpose` says what it is for: with another one it cannot be opened.
    pub(super) fn seal(&self, key: &[u8; 32], purpose: &str) -> Result<String> {
        let failed = || Error::internal("a login cannot be sealed");
        let mut nonce = [0; NONCE_LEN];
        crate::auth::fill_random(&mut nonce)?;
        let mut bytes = serde_json::to_vec(self).map_err(|_| failed())?;
        let aad = Aad::from(purpose.as_bytes());
        aead(key)
            .and_then(|key| {
                key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes).ok()
            })
            .ok_or_else(failed)?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    /// Opens a cookie; `None` when nobody here has sealed it for this purpose, or the login has taken too long.
    pub(super) fn open(text: &str, keys: &[[u8; 32]], purpose: &str, now: i64) -> Option<Self> {
        if text.len() > MAX_COOKIE {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let opened = keys.iter().find_map(|key| {
            let (mut bytes, aad) = (sealed.to_vec(), Aad::from(purpose.as_bytes()));
            let opened =
                aead(key)?.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut bytes).ok()?;
            Some(opened.to_vec())
        })?;
        let attempt: Self = serde_json::from_slice(&opened).ok()?;
        let age = now.saturating_sub(attempt.begun);
        (-SKEW..LIFETIME).contains(&age).then_some(attempt)
    }
}

fn aead(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

    #[test]
    fn a_login_is_opened_by_those_who_sealed_it() {
        let attempt = Attempt::new(1000).unwrap();
        let cookie = attempt.seal(&KEYS[0], "a").unwrap();
        assert!(!cookie.contains(&attempt.state) && cookie.len() < 600, "{cookie}");
        assert_ne!(cookie, attempt.seal(&KEYS[0], "a").unwrap());
        let open =
            |text: &str, keys: &[[u8; 32]], purpose: &str, now| Attempt::open(text, keys, purpose, now);
        assert_eq!(open(&cookie, &KEYS, "a", 1000), Some(attempt.clone()));
        assert_eq!(open(&cookie, &[KEYS[1], KEYS[0]], "a", 1000 + LIFETIME - 1), Some(attempt.clone()));
        assert_eq!(open(&cookie, &KEYS, "a", 1000 + LIFETIME), None);
        assert_eq!(open(&cookie, &KEYS, "a", 1000 - SKEW - 1), None);
        assert_eq!(open(&cookie, &KEYS[1..], "a", 1000), None);
        assert_eq!(open(&cookie, &KEYS, "b", 1000), None);
        for at in [0, 16, 40, cookie.len() - 1] {
            let mut bytes = URL_SAFE_NO_PAD.decode(&cookie).unwrap();
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1;
            assert_eq!(open(&URL_SAFE_NO_PAD.encode(bytes), &KEYS, "a", 1000), None, "{at}");
        }
        for bad in ["", "a", "é", &cookie[1..], &cookie.repeat(10)] {
            assert_eq!(open(bad, &KEYS, "a", 1000), None, "{bad}");
        }
        assert!(!format!("{attempt:?}").contains(&attempt.verifier));
    }

    #[test]
    fn the_challenge_is_that_of_the_specification() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        let attempt = Attempt { verifier, ..Attempt::new(0).unwrap() };
        assert_eq!(attempt.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
