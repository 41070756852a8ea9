//! The HTTP client of ACME: that of the SDK, with its limits of time and size, its authorities and its proxies.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper_sdk::client::{DocumentClient, DocumentOptions, Proxies, read_authorities};
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::{Error, ErrorKind, Result};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest time for one request.
const TIME: Duration = Duration::from_secs(30);

/// The longest time between two looks at an order, in seconds, whatever the directory wants.
const POLL: i64 = 15;

/// The client, and what the last refusal asked for. Clones share it.
#[derive(Clone)]
pub(super) struct Wire {
    client: DocumentClient,
    not_before: Arc<Mutex<Option<i64>>>,
}

impl Wire {
    /// # Errors
    /// Those of [`read_authorities`] and [`DocumentClient::new`].
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self> {
        let roots = authorities.into_iter().map(read_authorities).collect::<Result<_>>()?;
        // As other programs read them.
        let proxies = Proxies::from_variables(|name| std::env::var(name).ok());
        let options = DocumentOptions { roots, proxies, time: TIME, ..DocumentOptions::default() };
        Ok(Self { client: DocumentClient::new(&options)?, not_before: Arc::default() })
    }

    /// Before when the directory wants no other request, in seconds since 1970.
    pub(super) fn not_before(&self) -> Option<i64> {
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets a resource that needs no account. Returns its body, and when to get it again.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the directory does not answer, or with another status than 200.
    pub(super) async fn get(&self, url: &str) -> Result<(Bytes, Option<i64>)> {
        let request =
            Request::get(url).header(header::USER_AGENT, concat!("hyper/", env!("CARGO_PKG_VERSION")));
        let request = request.body(Bytes::new());
        let request = request.map_err(|e| Error::invalid("the URL is not well formed").with_source(e))?;
        check_scheme(request.uri())?;
        let (parts, body) = self.client.send(request).await?.into_parts();
        match parts.status {
            StatusCode::OK => Ok((body, wait(&parts.headers))),
            status => Err(Error::new(ErrorKind::Unavailable, "the directory does not answer")
                .with_context("status", status.as_u16())),
        }
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse> {
        let (head, body) = request.into_parts();
        let is_directory = head.method == Method::GET;
        check_scheme(&head.uri)?;
        let Ok(body) = body.collect().await;
        let answer = self.client.send(Request::from_parts(head, body.to_bytes())).await?;
        let (mut parts, body) = answer.into_parts();
        let status = parts.status;
        // The crate adds what it reads there to the time, and gives an order up that is to be looked at later than its patience lasts.
        let asked = wait(&parts.headers);
        if parts.headers.remove(header::RETRY_AFTER).is_some() && status.is_success() {
            let seconds = asked.unwrap_or(0).saturating_sub(SystemClock.now()).clamp(1, POLL);
            parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if is_directory {
            check_directory(&body)?;
        }
        if status.is_client_error() || status.is_server_error() {
            if asked.is_some() {
                *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = asked;
            }
            // An error of something in between, or of a server that is no directory, is no problem document (RFC 7807).
            let is_problem =
                serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|b| b["type"].is_string());
            if !is_problem {
                return Err(Error::new(ErrorKind::Unavailable, "the directory does not answer as one")
                    .with_context("status", status.as_u16()));
            }
        }
        Ok(BytesResponse { parts, body: Box::new(body) })
    }
}

impl HttpClient for Wire {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let sent = self.clone().send(request);
        Box::pin(async move { sent.await.map_err(|e| instant_acme::Error::Other(Box::new(e))) })
    }
}

/// ACME is spoken over TLS alone (RFC 8555, section 6.1), also with this machine.
fn check_scheme(url: &Uri) -> Result<()> {
    match url.scheme_str() {
        Some("https") => Ok(()),
        _ => Err(Error::new(ErrorKind::Unavailable, "the directory names an address that is not of https")),
    }
}

/// That the addresses in a directory are some: the crate panics where they are not. An answer that is no directory is refused later.
fn check_directory(body: &[u8]) -> Result<()> {
    let directory = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    for name in ["newNonce", "newAccount", "newOrder"] {
        if directory[name].as_str().is_some_and(|url| url.parse::<Uri>().is_err()) {
            return Err(Error::new(ErrorKind::Unavailable, "the directory does not answer as one")
                .with_context("key", name));
        }
    }
    Ok(())
}

/// The header `Retry-After`, as a time.
fn wait(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(SystemClock.now().saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX))),
        Err(_) => {
            let at: SystemTime = httpdate::parse_http_date(text).ok()?;
            i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_number_of_seconds_or_a_date() {
        let of = |text: &str| wait(&HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]));
        let now = SystemClock.now();
        assert!((now + 119..now + 122).contains(&of("120").unwrap()));
        assert_eq!(of("Fri, 31 Dec 2100 23:59:59 GMT"), Some(4_133_980_799));
        for wrong in ["", "soon", "-1", "99999999999999999999", "Fri, 31 Dec 1899 23:59:59 GMT"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(wait(&HeaderMap::new()), None);
        assert_eq!(of("18446744073709551615"), Some(i64::MAX));
    }

    #[test]
    fn addresses_of_a_directory_are_some() {
        check_directory(br#"{"newNonce": "https://a.example/nonce", "newOrder": "https://a.example/order"}"#)
            .unwrap();
        for name in ["newNonce", "newAccount", "newOrder"] {
            let e = check_directory(format!("{{\"{name}\": \"a b\"}}").as_bytes()).unwrap_err();
            assert!(e.to_string().contains(name), "{e}");
        }
    }
}
