//! Pages of other origins that may talk to the registry in a browser (Fetch standard, CORS protocol).
//!
//! # Invariants
//! - A preflight is a request like others for the limits of an address, the log and the counters; it needs no credentials, as
//!   browsers send none with it. Any other `OPTIONS` is answered as without this.
//! - Only paths of the API are shown to pages: not the probes, and not the metrics.

use axum::body::Body;
use axum::response::Response;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode};
use hyper_sdk::{Error, Result};
use std::time::Duration;

/// The pages of other origins that may talk to a registry.
///
/// ```
/// use hyper_server::{Cors, RegistryOptions};
/// use std::time::Duration;
///
/// let cors = Cors::new(["https://ui.example.com"], true, Duration::from_secs(3600))?;
/// let options = RegistryOptions { cors: Some(cors), ..RegistryOptions::default() };
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `None` is every origin.
    origins: Option<Vec<HeaderValue>>,
    credentials: bool,
    max_age: HeaderValue,
}

/// Headers of requests that a page may set.
const REQUEST: &str = "accept, authorization, cache-control, content-range, content-type, if-match, if-none-match, \
                       if-range, range, x-request-id";

/// Headers of responses that a page may read.
const RESPONSE: &str = "accept-ranges, allow, content-length, content-range, docker-content-digest, \
                        docker-distribution-api-version, docker-upload-uuid, etag, link, location, \
                        oci-chunk-min-length, oci-filters-applied, oci-subject, oci-tag, range, retry-after, warning, \
                        www-authenticate, x-request-id";

/// What pages may ask for.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

impl Cors {
    /// Allows pages of these origins, or of all when `*` stands alone. With `credentials` a browser may send the password that it
    /// has for the registry. Browsers remember the answer for `max_age`, in whole seconds.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when a text is not an origin as browsers write it: scheme and host in small letters, the
    /// port when it is not the usual one, and nothing else; when `*` does not stand alone, or with `credentials`.
    pub fn new(
        origins: impl IntoIterator<Item = impl AsRef<str>>,
        credentials: bool,
        max_age: Duration,
    ) -> Result<Self> {
        let texts: Vec<_> = origins.into_iter().collect();
        let origins = if texts.iter().any(|text| text.as_ref() == "*") {
            if credentials || texts.len() > 1 {
                return Err(Error::invalid("the origin `*` stands alone, and excludes credentials"));
            }
            None
        } else {
            Some(texts.iter().map(|text| origin(text.as_ref())).collect::<Result<_>>()?)
        };
        Ok(Self { origins, credentials, max_age: HeaderValue::from(max_age.as_secs()) })
    }

    /// The answer to a request that asks what a page may do. `None` for any other request, and for pages that may do nothing.
    pub(crate) fn preflight(&self, parts: &Parts) -> Option<Response> {
        let asks = parts.method == Method::OPTIONS
            && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            && self.allowed(&parts.headers).is_some();
        asks.then(|| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
            response
        })
    }

    /// Says in a response that the page which asked may read it.
    pub(crate) fn add_to(&self, answer: &mut HeaderMap, request: &HeaderMap) {
        if self.origins.is_some() {
            // A cache between must not give one page the answer for another.
            answer.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = self.allowed(request) else { return };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE));
        if self.credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// Whether pages may talk to the registry in the name that the browser has there.
    pub(crate) fn allows_credentials(&self) -> bool {
        self.credentials
    }

    /// Whether a page of another origin sends a request, and is not one that may talk to the registry. Browsers send a form of any
    /// page, and only keep the answer from it.
    pub(crate) fn is_stranger(cors: Option<&Self>, request: &HeaderMap) -> bool {
        let Some(origin) = request.get(header::ORIGIN) else { return false };
        let is_same = |site: &HeaderValue| site == "same-origin" || site == "none";
        // Older browsers, and all without TLS, do not say it.
        let host = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
        let is_host = || host.is_some_and(|host| request.get(header::HOST).is_some_and(|own| own == host));
        let is_own = request.get("sec-fetch-site").map_or_else(is_host, is_same);
        !is_own && cors.is_none_or(|cors| cors.allowed(request).is_none())
    }

    /// The value of `Access-Control-Allow-Origin` for a page.
    fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(header::ORIGIN)?;
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => origins.contains(origin).then(|| origin.clone()),
        }
    }
}

/// An origin as browsers send it.
fn origin(text: &str) -> Result<HeaderValue> {
    let (host, usual) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(host), _) => (host, 443),
        (_, Some(host)) => (host, 80),
        _ => ("", 0),
    };
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_:[]".contains(&b);
    let authority = host.parse::<Authority>().ok().filter(|_| host.bytes().all(is_plain));
    let is_origin = authority.is_some_and(|authority| {
        let port = authority.as_str().strip_prefix(authority.host()).and_then(|port| port.strip_prefix(':'));
        !authority.host().is_empty()
            && port.is_none_or(|port| {
                port.parse::<u16>().is_ok_and(|number| number != usual && number.to_string() == port)
            })
    });
    HeaderValue::from_str(text).ok().filter(|_| is_origin).ok_or_else(|| {
        Error::invalid(format!(
            "invalid origin `{}`: write it as browsers do, such as https://ui.example.com, in small letters, without a path \
             and without the usual port",
            text.escape_debug()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let of = |origins: &[&str], credentials| Cors::new(origins, credentials, Duration::ZERO);
        assert!(of(&["*"], false).is_ok());
        let good = ["https://ui.example.com", "http://localhost:8080", "http://[::1]:1", "https://a:80"];
        assert!(of(&good, true).is_ok());
        for bad in [
            "",
            "ui.example.com",
            "https://",
            "https://:1",
            "https://ui.example.com/",
            "https://UI.example.com",
            "https://ui.example.com:443",
            "https://ui.example.com:",
            "http://ui.example.com:80",
            "http://a:080",
            "http://a:99999",
            "https://[:::",
            "https://a b",
            "https://user@a",
            "null",
            "https://*.example.com",
            "https://a\r\nb",
        ] {
            assert!(of(&[bad], false).is_err(), "{bad}");
        }
        assert!(of(&["*"], true).is_err());
        assert!(of(&["*", "https://a"], false).is_err());
    }
}
