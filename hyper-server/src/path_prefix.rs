//! The path under which a registry answers, when the root of its host belongs to something else.
//!
//! # Invariants
//! - Requests lose the prefix before they are parsed, and the paths that responses name have it: `Location`, `Link`, the token
//!   endpoint of a challenge and the endpoints of extensions. Nothing in between knows of it.
//! - The probes and the metrics stay at the root, where what watches the server asks.

use http::header::{self, HeaderMap, HeaderValue};
use hyper_sdk::{Error, Result};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// The path before `/v2/` in the URLs of a registry, such as `/registry`.
///
/// It begins with a slash, does not end with one, and its segments have letters, digits, `-`, `_`, `.` and `~` alone. A
/// slash at the end of the text is left out.
///
/// ```
/// use hyper_server::{PathPrefix, RegistryOptions};
///
/// let options = RegistryOptions { path_prefix: Some("/registry".parse()?), ..RegistryOptions::default() };
/// assert_eq!(options.path_prefix.unwrap().to_string(), "/registry");
/// assert!("registry".parse::<PathPrefix>().is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// The path of a request without the prefix. `None` when it lies elsewhere.
    pub(crate) fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        if ["/livez", "/readyz", "/metrics"].contains(&path) {
            return Some(path);
        }
        let rest = path.strip_prefix(&self.0)?;
        // The probes have one place: a proxy that forwards the prefix does not show them.
        let is_here = ["/v2", "/login", "/login/callback"].contains(&rest) || rest.starts_with("/v2/");
        is_here.then_some(rest)
    }

    /// Adds the prefix to the paths in the headers of a response.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        for (name, open) in [(header::LOCATION, ""), (header::LINK, "<")] {
            let Some(text) = headers.get(&name).and_then(|value| value.to_str().ok()) else { continue };
            let Some(path) = text.strip_prefix(open).filter(|path| path.starts_with("/v2/")) else {
                continue;
            };
            if let Ok(value) = HeaderValue::from_str(&format!("{open}{}{path}", self.0)) {
                headers.insert(name, value);
            }
        }
    }
}

impl FromStr for PathPrefix {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let path = s.strip_suffix('/').unwrap_or(s);
        let is_segment = |segment: &str| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
        };
        match path.strip_prefix('/') {
            Some(segments) if s.len() <= 200 && segments.split('/').all(is_segment) => {
                Ok(Self(path.to_owned()))
            }
            _ => Err(Error::invalid(format!(
                "invalid path prefix `{}`: write a path such as /registry, of letters, digits, `-`, `_`, `.` and `~`",
                s.escape_debug()
            ))),
        }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PathPrefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::units::text(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_path_of_plain_segments() {
        for (text, read) in [("/registry", "/registry"), ("/a/b.c~1/", "/a/b.c~1"), ("/v2", "/v2")] {
            assert_eq!(text.parse::<PathPrefix>().unwrap().to_string(), read);
        }
        let long = format!("/{}", "a".repeat(200));
        for text in
            ["", "/", "a", "//", "/a//b", "/a/../b", "/.", "/a b", "/a%2f", "/a?b", "/a\r\nb", "/ä", &long]
        {
            assert!(text.parse::<PathPrefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_whole_segments_are_a_prefix() {
        let prefix: PathPrefix = "/a/b".parse().unwrap();
        for (path, rest) in [
            ("/a/b/v2/", Some("/v2/")),
            ("/a/b/v2", Some("/v2")),
            ("/a/b/v2/x/tags/list", Some("/v2/x/tags/list")),
            ("/a/bv2/", None),
            ("/a/b", None),
            ("/a/b/", None),
            ("/a/b/v2x", None),
            ("/v2/", None),
            ("/livez", Some("/livez")),
            ("/a/b/livez", None),
            ("/a/b/metrics", None),
        ] {
            assert_eq!(prefix.strip(path), rest, "{path}");
        }
    }

    #[test]
    fn paths_in_headers_get_the_prefix_once() {
        let prefix: PathPrefix = "/p".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_static("/v2/a/blobs/uploads/1"));
        headers.insert(header::LINK, HeaderValue::from_static("</v2/_catalog?n=1>; rel=\"next\""));
        prefix.add_to(&mut headers);
        assert_eq!(headers[header::LOCATION], "/p/v2/a/blobs/uploads/1");
        assert_eq!(headers[header::LINK], "</p/v2/_catalog?n=1>; rel=\"next\"");
        let mut elsewhere = HeaderMap::new();
        elsewhere.insert(header::LOCATION, HeaderValue::from_static("https://other/v2/a"));
        prefix.add_to(&mut elsewhere);
        assert_eq!(elsewhere[header::LOCATION], "https://other/v2/a");
    }
}
