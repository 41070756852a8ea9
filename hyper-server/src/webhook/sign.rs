//! The signature of a request (Standard Webhooks 1.0): `webhook-id`, `webhook-timestamp` and `webhook-signature`.
//!
//! The signed text is `ID.TIMESTAMP.BODY`. The signature is `v1,` and HMAC-SHA256 in base64; with two secrets, as while one
//! replaces the other, there are two, with a space between them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper_sdk::Secret;
use sha2::Sha256;

/// What the text of a secret begins with whose key is in base64.
const PREFIX: &str = "whsec_";

/// The key of a secret: what is after `whsec_` in base64, or the bytes of its text.
pub(crate) fn key(secret: &Secret) -> Vec<u8> {
    let text = secret.expose();
    let encoded = text.strip_prefix(PREFIX).and_then(|encoded| STANDARD.decode(encoded).ok());
    encoded.unwrap_or_else(|| text.as_bytes().to_vec())
}

/// The headers of a request with this id and body at a time, in seconds since 1970.
pub(super) fn headers(secrets: &[Secret], id: &str, at: i64, body: &str) -> Vec<(&'static str, String)> {
    let mut headers = vec![("webhook-id", id.to_owned()), ("webhook-timestamp", at.to_string())];
    let signatures: Vec<String> =
        secrets.iter().filter_map(|secret| signature(secret, id, at, body)).collect();
    if !signatures.is_empty() {
        headers.push(("webhook-signature", signatures.join(" ")));
    }
    headers
}

fn signature(secret: &Secret, id: &str, at: i64, body: &str) -> Option<String> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(&key(secret)).ok()?;
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body.as_bytes());
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = Secret::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = r#"{"test": 2432232314}"#;
        let made = headers(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(made[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_are_two_signatures_and_none_is_none() {
        let [one, two] = ["old", "new"].map(Secret::from);
        let both = headers(&[one.clone(), two], "1", 5, "x");
        let (first, second) = both[2].1.split_once(' ').unwrap();
        assert_eq!(headers(&[one], "1", 5, "x")[2].1, first);
        assert_ne!(first, second);
        assert_eq!(headers(&[], "1", 5, "x").len(), 2);
    }
}
