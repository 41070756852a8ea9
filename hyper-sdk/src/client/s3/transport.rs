//! HTTP below the crate `object_store`: with the TLS, the proxies and the timeouts of this library.
//!
//! # Invariants
//! - A body that is not a file of the bucket is read up to a limit, and one that is a file as fast as it is wanted.
//! - A failed request is an error of one of the types of `s3/errors.rs`. The text of a server is cut, and without the token
//!   that was sent to it.
//! - Redirects are not followed.

use crate::client::timeouts::{Broken, RateCheck, RequestWatch, Timeouts, explained};
use crate::client::{Proxies, S3Access, read_authorities, tls};
use crate::s3::{NoCredentials, Refusal};
use crate::{Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use reqwest::header::{CONTENT_LENGTH, HeaderMap};
use reqwest::{Method, Response};
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use url::{Host, Origin, Url};

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a service of credentials in the local network may take to answer.
const METADATA: Duration = Duration::from_secs(2);
/// How long the body of the answer to a request for work may take, at the least.
const WORK: Duration = Duration::from_secs(600);
/// The most bytes of an answer that is no file.
const MAX_ANSWER: usize = 1 << 20;
/// The most bytes that are read of the answer that a failed request gets.
const MAX_FAILURE: usize = 16 << 10;

/// Sends the requests for a bucket, and those for its credentials.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
    /// The URL of the bucket.
    bucket: String,
    timeouts: Timeouts,
    largest: Largest,
}

/// The size of the largest object that the server was asked to put together or to copy.
#[derive(Clone, Debug, Default)]
pub(super) struct Largest(Arc<AtomicU64>);

impl Largest {
    /// Announces a request by which the server puts an object of this size together, or copies it.
    pub(super) fn announce(&self, size: u64) {
        self.0.fetch_max(size, Ordering::Relaxed);
    }
}

impl Transport {
    /// Reads the certificates, and blocks while it does.
    ///
    /// # Errors
    /// Those of [`read_authorities`]; [`crate::ErrorKind::Invalid`] for a proxy or certificates that are not well formed.
    pub(super) fn new(bucket: &str, access: &S3Access) -> Result<Self> {
        let mut roots = Vec::new();
        for file in &access.authorities {
            roots.extend(tls::certificates(&read_authorities(file)?)?);
        }
        let proxies = access.proxies.clone();
        let url = Url::parse(bucket).ok();
        if let Some(proxy) = url.as_ref().and_then(|url| proxies.for_url(url)) {
            Proxies::check(&proxy)?;
        }
        let own = url.map(|url| url.origin());
        let http = reqwest::Client::builder()
            .no_proxy()
            .proxy(reqwest::Proxy::custom(move |url| proxy_of(&proxies, own.as_ref(), url)))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .user_agent(concat!("hyper/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .tls_backend_preconfigured(tls::config(&roots, None)?)
            .build()
            .map_err(|e| Error::invalid("the HTTP client cannot be configured").with_source(e))?;
        Ok(Self {
            http,
            bucket: bucket.to_owned(),
            timeouts: Timeouts::default(),
            largest: Largest::default(),
        })
    }

    pub(super) fn largest(&self) -> Largest {
        self.largest.clone()
    }

    pub(super) fn client(&self) -> HttpClient {
        HttpClient::new(self.clone())
    }

    fn is_of_bucket(&self, url: &str) -> bool {
        url.strip_prefix(&self.bucket).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }

    /// How long a request waits. On most machines nobody listens at the address of a service of credentials.
    fn timeouts(&self, url: &Url) -> Timeouts {
        match is_metadata(url) && !self.is_of_bucket(url.as_str()) {
            true => Timeouts::new(METADATA),
            false => self.timeouts,
        }
    }

    /// The error of a request that got no answer.
    fn no_answer(&self, url: &Url, kind: HttpErrorKind, cause: Box<dyn StdError + Send + Sync>) -> HttpError {
        match self.is_of_bucket(url.as_str()) {
            true => HttpError::new_boxed(kind, cause),
            false => HttpError::new(of_credentials(url, kind), NoCredentials::new(&*cause)),
        }
    }

    /// The error that an answer says.
    async fn refused(
        &self,
        url: &Url,
        token: Option<&str>,
        response: Response,
        timeouts: Timeouts,
    ) -> HttpError {
        let status = response.status();
        let region = response.headers().get("x-amz-bucket-region");
        let region = region.and_then(|region| region.to_str().ok()).map(str::to_owned);
        let is_of_s3 = response.headers().contains_key("x-amz-request-id");
        let body = read(response, MAX_FAILURE, timeouts.rate_check())
            .await
            .map(|(body, _)| body)
            .unwrap_or_default();
        let refusal = Refusal::new(status.as_u16(), &body, region, token).bare(is_of_s3 && body.is_empty());
        // The crate sends requests again that failed with this kind.
        let kind = if refusal.is_transient() { HttpErrorKind::Request } else { HttpErrorKind::Unknown };
        match self.is_of_bucket(url.as_str()) {
            true => HttpError::new(kind, refusal),
            false => HttpError::new(of_credentials(url, kind), NoCredentials::new(&refusal)),
        }
    }
}

/// The kind of a failed request for credentials. On most machines nobody listens at a local address: another attempt would
/// only take time.
fn of_credentials(url: &Url, kind: HttpErrorKind) -> HttpErrorKind {
    if is_metadata(url) { HttpErrorKind::Unknown } else { kind }
}

/// The proxy for the scheme, the host and the port of a URL. Services of credentials are reached without one; a bucket can
/// have an address like theirs.
fn proxy_of(proxies: &Proxies, bucket: Option<&Origin>, url: &Url) -> Option<Url> {
    let is_of_bucket = bucket == Some(&url.origin());
    let proxy = proxies.for_url(url).filter(|_| is_of_bucket || !is_metadata(url))?;
    Url::parse(&proxy).ok()
}

/// Whether an address is one that services of credentials have.
fn is_metadata(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_link_local(),
        Some(Host::Ipv6(address)) => address.is_unicast_link_local() || address.is_unique_local(),
        _ => false,
    }
}

/// Whether the server works before it answers: it puts an object together, or copies one. It says status 200 early then,
/// and sends spaces until it is done.
fn is_work(method: &Method, query: Option<&str>, headers: &HeaderMap) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    headers.contains_key("x-amz-copy-source")
        || method == Method::POST && pairs.any(|pair| pair.starts_with("uploadId="))
}

/// The body of an answer that is sent when the work is done, as [`read`] gives it.
async fn read_of_work(
    response: Response,
    timeouts: Timeouts,
    effort: u64,
) -> std::result::Result<(Bytes, bool), Broken> {
    let limit = timeouts.answer_time(effort).max(WORK);
    let whole = read(response, MAX_ANSWER, timeouts.silence_check());
    tokio::time::timeout(limit, whole).await.unwrap_or_else(|_| {
        let late = Error::new(ErrorKind::Timeout, "the server does not come to an end");
        Err(Broken::Late(late.with_context("seconds", limit.as_secs())))
    })
}

/// The body of an answer up to `limit` bytes, and whether that is all of it.
async fn read(
    mut response: Response,
    limit: usize,
    mut rate: RateCheck,
) -> std::result::Result<(Bytes, bool), Broken> {
    let mut all = BytesMut::new();
    while let Some(bytes) = rate.next(&mut response).await? {
        let left = limit - all.len();
        all.extend_from_slice(&bytes[..bytes.len().min(left)]);
        if bytes.len() > left {
            return Ok((all.freeze(), false));
        }
    }
    Ok((all.freeze(), true))
}

fn of_broken(broken: Broken) -> Box<dyn StdError + Send + Sync> {
    match broken {
        Broken::Late(e) => e.into(),
        Broken::Failed(e) => explained(e),
    }
}

/// The body of a file, which fails when it does not come fast enough.
fn file_body(response: Response, timeouts: Timeouts) -> HttpResponseBody {
    let pieces = futures::stream::try_unfold(
        (response, timeouts.rate_check()),
        |(mut response, mut rate)| async move {
            let piece = rate.next(&mut response).await.map_err(of_broken)?;
            Ok::<_, Box<dyn StdError + Send + Sync>>(piece.map(|piece| (piece, (response, rate))))
        },
    );
    let broken = |e| HttpError::new(HttpErrorKind::Interrupted, e);
    HttpResponseBody::new(reqwest::Body::wrap_stream(pieces).map_err(broken))
}

fn kind_of(e: &reqwest::Error) -> HttpErrorKind {
    if e.is_timeout() {
        HttpErrorKind::Timeout
    } else if crate::client::timeouts::attempts_to_connect(e) == Some(1) || e.is_builder() {
        // The name has no address.
        HttpErrorKind::Unknown
    } else if e.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Interrupted
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url =
            Url::parse(&parts.uri.to_string()).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let is_file = parts.method == Method::GET && url.query().is_none() && self.is_of_bucket(url.as_str());
        let timeouts = self.timeouts(&url);
        let token = parts.headers.get("x-amz-security-token").and_then(|token| token.to_str().ok());
        let token = token.map(str::to_owned);
        let length = body.content_length() as u64;
        let is_work = is_work(&parts.method, url.query(), &parts.headers);
        let effort = if is_work { self.largest.0.load(Ordering::Relaxed).max(length).max(1) } else { length };
        let watch = RequestWatch::new();
        let mut outgoing = reqwest::Request::new(parts.method, url.clone());
        *outgoing.headers_mut() = parts.headers;
        for (name, value) in outgoing.headers_mut() {
            // Not shown by the logs of the crates below.
            value.set_sensitive(matches!(name.as_str(), "authorization" | "x-amz-security-token"));
        }
        if length > 0 {
            let unreadable = |e| Error::internal("the body of a request cannot be read").with_source(e);
            let pieces = body.into_data_stream().map_err(unreadable).boxed();
            outgoing.headers_mut().insert(CONTENT_LENGTH, length.into());
            *outgoing.body_mut() = Some(reqwest::Body::wrap_stream(watch.body(length, pieces)));
        }
        let answer = tokio::select! {
            biased;
            answer = self.http.execute(outgoing) => answer,
            late = watch.stalled(timeouts, effort) => {
                return Err(self.no_answer(&url, HttpErrorKind::Timeout, late.into()));
            }
        };
        let response = answer.map_err(|e| self.no_answer(&url, kind_of(&e), explained(e)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(&url, token.as_deref(), response, timeouts).await);
        }
        let headers: HeaderMap = response.headers().clone();
        let body = if is_file {
            file_body(response, timeouts)
        } else {
            let whole = match is_work {
                true => read_of_work(response, timeouts, effort).await,
                false => read(response, MAX_ANSWER, timeouts.rate_check()).await,
            };
            match whole {
                Ok((bytes, true)) => bytes.into(),
                Ok((_, false)) => {
                    let large = Error::invalid("the answer of the server is above the limit");
                    return Err(HttpError::new(HttpErrorKind::Unknown, large));
                }
                Err(broken) => {
                    return Err(self.no_answer(&url, HttpErrorKind::Interrupted, of_broken(broken)));
                }
            }
        };
        let mut whole = HttpResponse::new(body);
        *whole.status_mut() = status;
        *whole.headers_mut() = headers;
        Ok(whole)
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.client())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_may_have_an_address_like_that_of_a_service_of_credentials() {
        let proxies = Proxies::from_variables(|name| (name == "http_proxy").then(|| "http://p:1".to_owned()));
        let access = S3Access { proxies: proxies.clone(), ..S3Access::default() };
        let transport = Transport::new("http://[fd00::1]:9000/b", &access).unwrap();
        let own = Url::parse("http://[fd00::1]:9000").unwrap().origin();
        let of = |url: &str| {
            let url = Url::parse(url).unwrap();
            (transport.timeouts(&url) == Timeouts::default(), proxy_of(&proxies, Some(&own), &url).is_some())
        };
        assert_eq!(of("http://[fd00::1]:9000/b/x"), (true, true));
        assert_eq!(of("http://example.com/"), (true, true));
        assert_eq!(of("http://169.254.169.254/latest"), (false, false));
        assert_eq!(of("http://[fd00:ec2::254]/latest"), (false, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_at_work_may_send_spaces() {
        let (none, mut copy) = (HeaderMap::new(), HeaderMap::new());
        copy.insert("x-amz-copy-source", "/b/x".parse().unwrap());
        assert!(is_work(&Method::POST, Some("uploadId=1"), &none) && is_work(&Method::PUT, None, &copy));
        assert!(!is_work(&Method::PUT, Some("partNumber=1&uploadId=1"), &none));
        assert!(!is_work(&Method::POST, Some("uploads"), &none));
        let spaces = |count: u32| {
            let piece = |left: u32| async move {
                let left = left.checked_sub(1)?;
                tokio::time::sleep(Duration::from_secs(10)).await;
                Some((Ok::<_, Error>(Bytes::from_static(b" ")), left))
            };
            let body = reqwest::Body::wrap_stream(futures::stream::unfold(count, piece));
            Response::from(HttpResponse::new(Bytes::new().into()).map(|_| body))
        };
        let rate = read(spaces(30), MAX_ANSWER, Timeouts::default().rate_check());
        assert!(matches!(rate.await, Err(Broken::Late(_))));
        let of = |count, effort| read_of_work(spaces(count), Timeouts::default(), effort);
        assert_eq!(of(30, 1).await.unwrap().0.len(), 30);
        assert!(matches!(of(100, 1).await, Err(Broken::Late(_))));
        assert_eq!(of(100, 16 << 30).await.unwrap().0.len(), 100);
    }
}
