//! Requests to a webhook: a POST to one address.

use super::retry::retry_after;
use crate::client::timeouts::explained;
use crate::client::{Proxies, tls};
use crate::clock::{Clock as _, SystemClock};
use crate::secret::Secret;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use url::Url;

/// How much of an answer is read, so that its connection can be used again.
const ANSWER: usize = 64 * 1024;

/// How a webhook is reached.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// How long a request may take, from the connection to the end of the answer.
    pub timeout: Duration,
    /// PEM texts of authorities that are trusted besides those of the system.
    pub roots: Vec<Vec<u8>>,
    /// Headers of each request, whose values are never shown.
    pub headers: Vec<(String, Secret)>,
    /// The proxies; `None` uses none.
    pub proxies: Option<Proxies>,
}

impl Default for WebhookOptions {
    /// Ten seconds, and the authorities of the system.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), roots: Vec::new(), headers: Vec::new(), proxies: None }
    }
}

/// What a webhook has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookAnswer {
    /// The status.
    pub status: u16,
    /// How long it asks to wait.
    pub retry_after: Option<Duration>,
}

impl WebhookAnswer {
    /// Whether it has taken what was sent.
    pub fn is_success(self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Sends requests to one address, which may have a secret: it is never shown. Redirects are not followed.
///
/// ```no_run
/// use hyper_sdk::client::{WebhookClient, WebhookOptions};
///
/// # async fn send() -> hyper_sdk::Result<()> {
/// let webhook = WebhookClient::new(&"https://ci.example/hook".into(), WebhookOptions::default())?;
/// let answer = webhook.post("application/json", &[("webhook-id", "1".to_owned())], "{}".into()).await?;
/// assert!(answer.is_success());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WebhookClient {
    http: reqwest::Client,
    url: Secret,
    place: String,
    headers: HeaderMap,
}

impl WebhookClient {
    /// A client of the webhook at an `http` or `https` address.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the address, a certificate or a header is not well formed.
    pub fn new(url: &Secret, options: WebhookOptions) -> Result<Self> {
        let invalid = || Error::invalid("the address of a webhook must be a http:// or https:// URL");
        let parsed = Url::parse(url.expose()).map_err(|_| invalid())?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(invalid());
        }
        let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
        let place = format!("{}://{}{port}", parsed.scheme(), parsed.host_str().unwrap_or_default());
        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            let bad = || Error::invalid(format!("the header `{}` is not well formed", name.escape_debug()));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let roots =
            options.roots.iter().map(|pem| tls::certificates(pem)).collect::<Result<Vec<_>>>()?.concat();
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .user_agent(concat!("hyper/", env!("CARGO_PKG_VERSION")))
            .timeout(options.timeout)
            .pool_max_idle_per_host(1)
            .tls_backend_preconfigured(tls::config(&roots, None)?);
        if let Some(proxies) = options.proxies {
            http = http.proxy(reqwest::Proxy::custom(move |url| {
                proxies.for_url(url).and_then(|proxy| Url::parse(&proxy).ok())
            }));
        }
        let http = http.build().map_err(|e| {
            Error::invalid("the HTTP client cannot be configured").with_source(e.without_url())
        })?;
        Ok(Self { http, url: url.clone(), place, headers })
    }

    /// Scheme, host and port of the address, which can be shown.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Sends a body. Dropping the future breaks the request off; nobody knows then whether it has arrived.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] and [`ErrorKind::Timeout`] when there is no answer.
    pub async fn post(
        &self,
        content_type: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<WebhookAnswer> {
        let mut all = self.headers.clone();
        let bad = || Error::invalid("a header of the request is not well formed");
        all.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).map_err(|_| bad())?);
        for (name, value) in headers {
            all.insert(HeaderName::from_static(name), HeaderValue::from_str(value).map_err(|_| bad())?);
        }
        let failed = |e: reqwest::Error| {
            let (kind, message) = match (e.is_timeout(), e.is_connect()) {
                (true, _) => (ErrorKind::Timeout, "the webhook did not answer in time"),
                (false, true) => (ErrorKind::Unavailable, "cannot connect to the webhook"),
                (false, false) => (ErrorKind::Unavailable, "the connection to the webhook broke"),
            };
            Error::new(kind, message).with_context("webhook", &self.place).with_source(explained(e))
        };
        let request = self.http.post(self.url.expose()).headers(all).body(body);
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let wait = retry_after(answer.headers(), SystemClock.now());
        // The status counts, however the body ends.
        let mut rest = ANSWER;
        while let Ok(Some(chunk)) = answer.chunk().await {
            match rest.checked_sub(chunk.len()) {
                Some(left) => rest = left,
                None => break,
            }
        }
        Ok(WebhookAnswer { status, retry_after: wait })
    }
}
