//! The doors of the fuzz targets to the tokens of other issuers.

use super::claims::{Rules, Standard};
use super::{IssuerOptions, key_set};
use hyper_sdk::Result;
use std::sync::LazyLock;

/// The user of verified claims, if they are accepted at a time in seconds since 1970.
pub fn claims(bytes: &[u8], now: i64) -> Option<String> {
    static RULES: LazyLock<Rules> = LazyLock::new(|| {
        let options = IssuerOptions {
            user: "{sub}-{email}".to_owned(),
            groups: Some("groups".to_owned()),
            claims: vec!["ref".to_owned()],
            require: [("ref".to_owned(), vec!["refs/*".to_owned()])].into(),
            ..IssuerOptions::new("ci", "https://ci.example.com", "registry")
        };
        Rules::new(&options).expect("the options are right")
    });
    let (standard, all) = Standard::parse(bytes)?;
    standard.check(&["registry".to_owned()], now).ok()?;
    Some(RULES.identity("ci", &standard, &all).ok()?.user)
}

/// Reads a set of public keys.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] when it is none, or has no key that is known.
pub fn key_set(bytes: &[u8]) -> Result<()> {
    key_set::check(bytes)
}
