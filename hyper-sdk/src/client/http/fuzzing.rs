//! The doors of the fuzz targets to what a registry answers. There are no guarantees, and nothing else uses them.

use super::{challenge, link};
use reqwest::header::{HeaderMap, HeaderValue, LINK};

/// The challenges of a `WWW-Authenticate` header: each scheme, with its parameters.
pub fn challenges(value: &str) -> Vec<(String, Vec<(String, String)>)> {
    challenge::parse(value).into_iter().map(|challenge| (challenge.scheme, challenge.parameters)).collect()
}

/// The address of the next page in a `Link` header.
pub fn next_link(value: &[u8]) -> Option<String> {
    let value = HeaderValue::from_bytes(value).ok()?;
    link::next_link(&HeaderMap::from_iter([(LINK, value)]))
}

/// The first and the last offset of a `Range` header that an upload is answered with.
pub fn upload_range(value: &str) -> Option<(u64, u64)> {
    link::parse_range(value)
}

/// The first offset, the last one, and the size of the whole of a `Content-Range` header.
pub fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    link::parse_content_range(value)
}
