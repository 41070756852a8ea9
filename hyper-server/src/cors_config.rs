//! The table `[cors]` of the configuration: the pages of other origins that may talk to the registry in a browser.

use crate::units::TimeSpan;
use http::{HeaderName, HeaderValue, Method, header};
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// What pages of other origins may do (Fetch standard, CORS protocol).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CorsConfig {
    /// The origins, or `*` for all; none when it is empty.
    pub(crate) origins: Vec<String>,
    /// Whether browsers may send the passwords that they have for the registry.
    pub(crate) credentials: bool,
    /// How long browsers remember the answer.
    pub(crate) max_age: TimeSpan,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self { origins: Vec::new(), credentials: false, max_age: TimeSpan(Duration::from_secs(60 * 60)) }
    }
}

/// Headers of requests that a page may set.
const REQUEST: [HeaderName; 9] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
];

/// Headers of responses that a page may read.
const RESPONSE: [HeaderName; 16] = [
    header::ACCEPT_RANGES,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    header::LINK,
    header::LOCATION,
    header::RANGE,
    header::RETRY_AFTER,
    header::WARNING,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("docker-content-digest"),
    HeaderName::from_static("docker-distribution-api-version"),
    HeaderName::from_static("docker-upload-uuid"),
    HeaderName::from_static("oci-chunk-min-length"),
    HeaderName::from_static("oci-filters-applied"),
    HeaderName::from_static("oci-subject"),
];

impl CorsConfig {
    /// What answers for the registry; `None` when no page of another origin may talk to it.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn layer(&self) -> Result<Option<CorsLayer>> {
        if self.origins.is_empty() {
            return Ok(None);
        }
        let origins = if self.origins.iter().any(|origin| origin == "*") {
            if self.credentials || self.origins.len() > 1 {
                return Err(Error::invalid(
                    "the configuration key `cors.origins` has `*`, which stands alone and excludes `cors.credentials`",
                ));
            }
            AllowOrigin::any()
        } else {
            AllowOrigin::list(self.origins.iter().map(|text| origin(text)).collect::<Result<Vec<_>>>()?)
        };
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let layer = CorsLayer::new().allow_origin(origins).allow_methods(methods).allow_headers(REQUEST);
        let layer =
            layer.expose_headers(RESPONSE).allow_credentials(self.credentials).max_age(self.max_age.0);
        Ok(Some(layer))
    }
}

/// An origin as browsers send it: scheme and host, the port where it is not the usual one, and nothing else.
fn origin(text: &str) -> Result<HeaderValue> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_plain = |b: u8| (b.is_ascii_alphanumeric() && !b.is_ascii_uppercase()) || b".-_:[]".contains(&b);
    let is_usual = (text.starts_with("https://") && host.ends_with(":443"))
        || (text.starts_with("http://") && host.ends_with(":80"));
    HeaderValue::from_str(text)
        .ok()
        .filter(|_| !host.is_empty() && host.bytes().all(is_plain) && !is_usual)
        .ok_or_else(|| {
            Error::invalid(format!(
                "the configuration key `cors.origins` has `{}`: write an origin as browsers do, such as \
                 https://ui.example.com, in small letters, without a path and without the usual port",
                text.escape_debug()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let of = |origins: &[&str], credentials| {
            let origins = origins.iter().map(|&text| text.to_owned()).collect();
            CorsConfig { origins, credentials, ..CorsConfig::default() }.layer().map(|layer| layer.is_some())
        };
        assert!(!of(&[], false).unwrap());
        assert!(of(&["*"], false).unwrap());
        assert!(of(&["https://ui.example.com", "http://localhost:8080", "http://[::1]:1"], true).unwrap());
        for bad in [
            "ui.example.com",
            "https://",
            "https://ui.example.com/",
            "https://UI.example.com",
            "https://ui.example.com:443",
            "http://ui.example.com:80",
            "https://a b",
            "null",
            "https://*.example.com",
            "https://a\r\nb",
        ] {
            assert!(of(&[bad], false).unwrap_err().to_string().contains("cors.origins"), "{bad}");
        }
        assert!(of(&["*"], true).is_err());
        assert!(of(&["*", "https://a"], false).is_err());
    }
}
