//! Request ids, for the log and the client.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use hyper_sdk::Result;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Chooses request ids: the `X-Request-Id` of the client, else a random prefix and a number.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: u32,
    next: AtomicU64,
}

impl RequestIds {
    /// Chooses the prefix.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the system has no random bytes.
    pub(crate) fn new() -> Result<Self> {
        let mut prefix = [0; 4];
        crate::auth::fill_random(&mut prefix)?;
        Ok(Self { prefix: u32::from_be_bytes(prefix), next: AtomicU64::new(0) })
    }

    /// The id of a request.
    pub(crate) fn choose(&self, headers: &HeaderMap) -> HeaderValue {
        let is_valid = |value: &&HeaderValue| {
            (1..=128).contains(&value.len())
                && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
        };
        headers.get(&REQUEST_ID).filter(is_valid).cloned().unwrap_or_else(|| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            HeaderValue::from_str(&format!("{:08x}-{number:08x}", self.prefix))
                .expect("hexadecimal characters are visible ASCII")
        })
    }
}
