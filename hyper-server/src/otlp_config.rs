//! The table `[otlp]` of the configuration: the collector that gets traces.

use crate::auth::fill_random;
use crate::otlp::ExporterOptions;
use crate::trace::TraceOptions;
use crate::units::{TimeSpan, text};
use crate::webhook_config::is_open_way;
use http::Uri;
use http::header::{HeaderName, HeaderValue};
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, Result, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The largest file of headers, and of authorities.
const MAX_HEADERS: u64 = 64 << 10;
const MAX_CA: u64 = 4 << 20;

/// The collector of traces.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct OtlpConfig {
    /// The address of the collector; without it there are no traces.
    endpoint: Option<String>,
    /// The file with headers of each request, `Name: value` in a line.
    headers_file: Option<PathBuf>,
    /// Authorities that are trusted besides those of the system, PEM.
    ca: Option<PathBuf>,
    /// How long a request may take.
    timeout: TimeSpan,
    /// The name of the service.
    service_name: String,
    /// The part of the requests that are traced.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "String")]
    sample: Share,
    /// Believes the `traceparent` of clients.
    trust_parent: bool,
}

/// A part of a whole: `5%`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Share(f64);

impl FromStr for Share {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("invalid share `{}`: write 100%, 5% or 0.1%", s.escape_debug()));
        let number = s.trim().strip_suffix('%').ok_or_else(bad)?;
        let is_plain = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        let percent: f64 = number.parse().ok().filter(|_| is_plain).ok_or_else(bad)?;
        (0.0..=100.0).contains(&percent).then_some(Self(percent / 100.0)).ok_or_else(bad)
    }
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers_file: None,
            ca: None,
            timeout: TimeSpan(Duration::from_secs(10)),
            service_name: "hyperregistry".to_owned(),
            sample: Share(TraceOptions::default().sampled),
            trust_parent: false,
        }
    }
}

impl OtlpConfig {
    /// Checks the keys, without the files.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key, and [`hyper_sdk::ErrorKind::Unsupported`] without the feature `otlp`.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(endpoint) = &self.endpoint else {
            return match *self == Self::default() {
                true => Ok(()),
                false => Err(Error::invalid(
                    "the configuration keys of `otlp` need a collector: set `otlp.endpoint` too",
                )),
            };
        };
        if !cfg!(feature = "otlp") {
            return Err(Error::unsupported("the configuration table `otlp` needs the feature `otlp`"));
        }
        let is_address = |uri: &Uri| {
            let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
            let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
            is_http && uri.host().is_some_and(|host| !host.is_empty()) && !has_user && uri.query().is_none()
        };
        if !endpoint.parse::<Uri>().is_ok_and(|uri| is_address(&uri)) || endpoint.contains('#') {
            return Err(Error::invalid(
                "the configuration key `otlp.endpoint` must be a http:// or https:// URL without a user and a query, such as \
                 http://127.0.0.1:4318: secrets belong into `otlp.headers-file`",
            ));
        }
        if self.service_name.is_empty() || self.service_name.len() > 255 {
            return Err(Error::invalid("the configuration key `otlp.service-name` must have 1 to 255 bytes"));
        }
        if self.timeout.0 < Duration::from_secs(1) || self.timeout.0 > Duration::from_secs(60) {
            return Err(Error::invalid("the configuration key `otlp.timeout` must be from 1s to 1m"));
        }
        Ok(())
    }

    /// What may be a mistake.
    pub(crate) fn warnings(&self, has_proxies: bool) -> Vec<String> {
        let Some(endpoint) = &self.endpoint else { return Vec::new() };
        let mut warnings = Vec::new();
        if is_open_way(endpoint) {
            warnings.push(
                "the collector of `otlp` gets spans over plain HTTP: whoever is on the way reads paths, the addresses of clients and \
                 the headers of `otlp.headers-file`"
                    .to_owned(),
            );
        }
        if self.trust_parent && !has_proxies {
            warnings.push(
                "with `otlp.trust-parent` and without `trusted-proxies` each client decides whether its requests are traced, and in \
                 which trace"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Which requests are traced; `None` when there is no collector.
    pub(crate) fn traces(&self) -> Option<TraceOptions> {
        self.endpoint.as_ref()?;
        Some(TraceOptions { sampled: self.sample.0, trust_parents: self.trust_parent })
    }

    /// Where traces are sent, with what is in the files; `None` when there is no collector.
    ///
    /// # Errors
    /// Those of reading; [`hyper_sdk::ErrorKind::Invalid`] for a file that is not what it should be.
    pub(crate) fn exporter(&self) -> Result<Option<ExporterOptions>> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        let base = endpoint.trim_end_matches('/');
        let base = base.strip_suffix("/v1/traces").unwrap_or(base);
        let authorities = match &self.ca {
            Some(file) => {
                vec![small_file::read(file, "the authorities of the collector", MAX_CA, Kinds::Files)?]
            }
            None => Vec::new(),
        };
        let mut instance = [0; 16];
        fill_random(&mut instance)?;
        Ok(Some(ExporterOptions {
            url: format!("{base}/v1/traces"),
            headers: self.headers_file.as_deref().map(headers).transpose()?.unwrap_or_default(),
            timeout: self.timeout.0,
            authorities,
            resource: vec![
                ("service.name", self.service_name.clone()),
                ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
                ("service.instance.id", format!("{:032x}", u128::from_be_bytes(instance))),
                ("telemetry.sdk.name", "hyper".to_owned()),
                ("telemetry.sdk.language", "rust".to_owned()),
                ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
            ],
        }))
    }
}

/// The headers of a file.
fn headers(file: &Path) -> Result<Vec<(String, Secret)>> {
    let read =
        small_file::read_text(file, "the headers for the collector", MAX_HEADERS, Kinds::FilesAndPipes)?;
    let lines = read.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = |(number, line): (usize, &str)| {
        let bad = || {
            Error::invalid(format!("line {} is no header: write `Name: value`", number + 1))
                .with_context("path", file.display())
        };
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let (name, value) = (name.trim(), value.trim());
        let is_valid =
            HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok();
        is_valid.then(|| (name.to_owned(), Secret::from(value))).ok_or_else(bad)
    };
    lines.map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_share_is_a_percentage() {
        for (text, share) in [("100%", 1.0), ("5%", 0.05), (" 0.5%", 0.005), ("0%", 0.0)] {
            assert!((text.parse::<Share>().unwrap().0 - share).abs() < 1e-9, "{text}");
        }
        for text in ["", "%", "5", "101%", "-1%", "nan%", "1e1%", "inf%", "1.2.3%"] {
            text.parse::<Share>().unwrap_err();
        }
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, part) in [
            ("sample = \"5\"", "100%, 5% or 0.1%"),
            ("sample = \"5%\"", "otlp.endpoint"),
            ("protocol = \"grpc\"", "protocol"),
        ] {
            let read = Config::parse(&format!("[otlp]\n{text}\n")).and_then(|config| config.check());
            let e = read.unwrap_err().to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    }

    #[cfg(not(feature = "otlp"))]
    #[test]
    fn a_build_without_the_feature_says_so() {
        let config = Config::parse("[otlp]\nendpoint = \"http://127.0.0.1:4318\"\n");
        let e = config.and_then(|config| config.check()).unwrap_err();
        assert!(e.kind() == hyper_sdk::ErrorKind::Unsupported && e.to_string().contains("`otlp`"), "{e}");
    }

    #[cfg(feature = "otlp")]
    #[test]
    fn a_collector_is_read_with_its_files_and_shows_no_secret() {
        use std::io::Write as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "authorization: Basic hidden==\n\nx-tenant: a:b").unwrap();
        let text = |endpoint: &str| {
            format!(
                "[otlp]\nendpoint = {endpoint:?}\nheaders-file = {:?}\nsample = \"5%\"\ntrust-parent = true\n",
                file.path()
            )
        };
        let config = Config::parse(&text("http://collector:4318/")).unwrap();
        config.check().unwrap();
        let traces = TraceOptions { sampled: 0.05, trust_parents: true };
        assert_eq!(config.registry().traces, Some(traces));
        let options = config.otlp.exporter().unwrap().unwrap();
        assert_eq!(options.url, "http://collector:4318/v1/traces");
        let headers: Vec<_> =
            options.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("authorization", "Basic hidden=="), ("x-tenant", "a:b")]);
        assert!(!format!("{config:?} {options:?}").contains("hidden"));
        let whole = Config::parse(&text("http://collector:4318/v1/traces")).unwrap();
        assert_eq!(whole.otlp.exporter().unwrap().unwrap().url, "http://collector:4318/v1/traces");
        for bad in [
            "collector:4318",
            "grpc://a",
            "http://",
            "http://user:hidden@a/",
            "http://a/?key=hidden",
            "http://a/#hidden",
        ] {
            let e = Config::parse(&text(bad)).and_then(|config| config.check()).unwrap_err().to_string();
            assert!(e.contains("otlp.endpoint") && !e.contains("hidden"), "{e}");
        }
        writeln!(file, "no header").unwrap();
        let e = config.otlp.exporter().unwrap_err().to_string();
        assert!(e.contains("line 4") && !e.contains("hidden"), "{e}");
    }
}
