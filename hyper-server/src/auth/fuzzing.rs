//! The doors of the fuzz targets to tokens.

pub use super::issuers::fuzzing::{claims, key_set};

use super::Scope;
use super::api_token::ApiToken;
use super::jose::Unverified;
use super::token::Issuer;
use std::sync::LazyLock;

/// Reads a text as each kind of token. Gives whether it opens a registry, whose key the caller does not know.
pub fn token(text: &str, now: i64) -> bool {
    static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
        let mut key = [0; 32];
        super::fill_random(&mut key)
            .and_then(|()| Issuer::with_key("registry", &key))
            .expect("there is a key")
    });
    for token in [ApiToken::parse(text), ApiToken::parse_refresh(text)].into_iter().flatten() {
        assert!(text.contains(token.id()));
        token.hash();
    }
    let _ = (Unverified::parse(text), Scope::of_pattern(text), text.parse::<Scope>());
    ISSUER.verify(text, now).is_some()
}
