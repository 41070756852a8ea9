//! The doors of the fuzz targets: parsers that are private otherwise. There are no guarantees, and nothing else uses them.

pub use crate::auth::fuzzing::{claims, key_set, token};

use crate::config::Config;
use crate::handlers::{content_range as read_content_range, ranges};
use crate::route::{self, TokenForm};
use http::Method;
use hyper_sdk::Result;
use std::ops::Range;

/// Whether a request line leads to an endpoint.
pub fn route(method: &[u8], path: &str, query: Option<&str>) -> bool {
    Method::from_bytes(method).is_ok_and(|method| route::parse(&method, path, query).is_ok())
}

/// Whether the body of a request for a token is a form.
pub fn token_form(text: &str) -> bool {
    TokenForm::parse(text).is_ok()
}

/// The parts of content of `size` bytes that a `Range` header asks for.
pub fn range(value: &str, size: u64) -> Option<Vec<Range<u64>>> {
    Some(ranges::resolve(&ranges::parse(value)?, size))
}

/// The first offset and the length of a `Content-Range` header.
pub fn content_range(value: &str) -> Option<(u64, u64)> {
    read_content_range(value)
}

/// Reads and checks the text of a configuration.
///
/// # Errors
/// As a server says them.
pub fn config(text: &str) -> Result<()> {
    let config = Config::read(text)?;
    config.check()?;
    config.warnings();
    config.registry();
    config.server();
    Ok(())
}
