//! What came from the place of the keys of an issuer.

use bytes::Bytes;
use std::time::Duration;

/// A set of keys, as text.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    /// How long the issuer wants it to be kept.
    pub(super) max_age: Option<Duration>,
}
