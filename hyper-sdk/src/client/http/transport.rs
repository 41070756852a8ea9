//! Sends one request until it is answered: authorisation, redirects, retries.
//!
//! # Invariants
//! - `Authorization` goes to the registry's own origin (scheme, host and port) only, on redirects too.
//! - A body that streams is sent once. Other bodies are sent again as far as [`Replay`] permits.
//! - At most five redirects; none from HTTPS to HTTP.

use super::address::Address;
use super::auth::{Access, Authenticator};
use super::body;
use super::errors::{self, Subject};
use super::retry::{self, Attempts, RetryPolicy, RetryReporter};
use super::transport_error;
use crate::client::timeouts::{RequestWatch, Timeouts};
use crate::reference::RegistryHost;
use crate::store::ByteStream;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

const MAX_REDIRECTS: usize = 5;
/// The largest body that is handed to the system in one piece.
const SMALL: usize = 64 * 1024;

/// When a request whose fate is unknown may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    /// Always: sending it twice has the effect of once.
    Always,
    /// Only when the registry did not accept it: there was no connection, or the registry was too busy.
    IfRefused,
}

pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    Stream(u64, ByteStream),
}

/// A request without its body. The body may be a stream, which cannot be shared between threads.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) access: Access,
    pub(super) subject: Subject,
    pub(super) replay: Replay,
    pub(super) accept: &'static [u16],
    /// How many bytes of the body are read before the request counts as answered.
    pub(super) whole: Option<usize>,
    /// How many bytes the registry processes before it answers.
    pub(super) effort: u64,
}

impl Head {
    /// The request for messages, without the query, which may have a signature.
    fn shown(&self) -> String {
        format!("{} {}", self.method, self.url.path())
    }
}

pub(super) struct Request {
    head: Head,
    payload: Payload,
}

impl Request {
    /// A request without a body that may be repeated and is answered by one of the statuses `accept`.
    pub(super) fn new(
        method: Method,
        url: Url,
        access: Access,
        subject: Subject,
        accept: &'static [u16],
    ) -> Self {
        let head = Head {
            method,
            url,
            headers: HeaderMap::new(),
            access,
            subject,
            replay: Replay::Always,
            accept,
            whole: None,
            effort: 0,
        };
        Self { head, payload: Payload::Empty }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Result<Self> {
        let value = HeaderValue::from_str(value.as_ref())
            .map_err(|e| Error::invalid("a header cannot carry this value").with_source(e))?;
        self.head.headers.append(name, value);
        Ok(self)
    }

    pub(super) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    pub(super) fn replay(mut self, replay: Replay) -> Self {
        self.head.replay = replay;
        self
    }

    /// Reads the body of a successful response too, up to `cap` bytes. A broken body counts as a failure of the request.
    pub(super) fn whole(mut self, cap: usize) -> Self {
        self.head.whole = Some(cap);
        self
    }

    /// Waits longer for the answer, because the registry processes so many bytes first.
    pub(super) fn effort(mut self, bytes: u64) -> Self {
        self.head.effort = bytes;
        self
    }
}

/// A response with the URL that it came from.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) url: Url,
    /// The body, when the request reads it.
    pub(super) content: Bytes,
}

pub(super) struct Transport {
    pub(super) http: reqwest::Client,
    pub(super) address: Address,
    pub(super) host: RegistryHost,
    pub(super) auth: Authenticator,
    pub(super) policy: RetryPolicy,
    pub(super) timeouts: Timeouts,
}

impl Transport {
    /// The root of the registry.
    pub(super) fn base(&self) -> &Url {
        self.address.base()
    }

    /// Whether a request in plain HTTP has to be sent again over TLS.
    async fn is_tls_after_all(&self, outcome: &Result<Answer, Failure>) -> bool {
        if self.address.is_settled() {
            return false;
        }
        let is_bad_request = outcome.as_ref().is_ok_and(|answer| answer.response.status() == 400);
        if (outcome.is_err() || is_bad_request) && self.address.speaks_tls(&self.host).await {
            return true;
        }
        if outcome.is_ok() {
            self.address.is_plain();
        }
        false
    }

    /// Sends a request with this authorisation, or none, and returns the answer whatever its status is.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: &Url,
        authorization: Option<&HeaderValue>,
        reporter: &RetryReporter,
    ) -> Result<Answer> {
        let request = Request::new(method, url.clone(), Access::registry(), Subject::Registry, &[]);
        let mut request = request.head;
        let mut attempts = Attempts::new(self.policy, reporter);
        loop {
            self.address.adapt(&mut request.url);
            let outcome = self.follow(&request, Payload::Empty, authorization, reporter).await;
            if self.is_tls_after_all(&outcome).await {
                continue;
            }
            let (error, wait) = match outcome {
                Ok(answer) if !errors::is_transient(answer.response.status()) => return Ok(answer),
                Ok(answer) => {
                    let wait = retry::retry_after(answer.response.headers(), super::now());
                    (errors::of_response(answer.response, request.subject, self.timeouts).await, wait)
                }
                Err(Failure { error, .. }) => (error, None),
            };
            if !error.is_retryable() || !attempts.again(wait, request.shown(), &error).await {
                return Err(error);
            }
        }
    }

    /// Sends a request and returns the response if its status is an accepted one.
    pub(super) async fn send(&self, request: Request, reporter: &RetryReporter) -> Result<Answer> {
        self.send_within(request, &mut Attempts::new(self.policy, reporter), reporter).await
    }

    /// Sends a request within attempts that other requests count in, too.
    pub(super) async fn send_within(
        &self,
        request: Request,
        attempts: &mut Attempts,
        reporter: &RetryReporter,
    ) -> Result<Answer> {
        let Request { head: mut request, mut payload } = request;
        let streams = matches!(payload, Payload::Stream(..));
        if streams && !self.auth.is_known() {
            // A stream cannot be sent twice: a request without a body gets the challenge first.
            let url = self.base().join("/v2/").map_err(|e| Error::invalid("not a URL").with_source(e))?;
            let probe =
                Request::new(Method::GET, url, Access::registry(), Subject::Registry, &[200, 401, 403, 404]);
            let _ = Box::pin(self.send(probe, reporter)).await;
        }
        let mut authenticated = false;
        loop {
            self.address.adapt(&mut request.url);
            let authorization = if self.is_own(&request.url) {
                self.auth.header(&self.http, &request.access, reporter).await?
            } else {
                None
            };
            let sent = std::mem::replace(&mut payload, Payload::Empty);
            let kept = match &sent {
                Payload::Bytes(bytes) => Payload::Bytes(bytes.clone()),
                _ => Payload::Empty,
            };
            let outcome = self.follow(&request, sent, authorization.as_ref(), reporter).await;
            if self.is_tls_after_all(&outcome).await && !streams {
                payload = kept;
                continue;
            }
            let (error, wait, refused) = match outcome {
                Err(Failure { error, unsent }) => (error, None, unsent),
                Ok(mut answer) => {
                    let status = answer.response.status();
                    let own = self.is_own(&answer.url);
                    if status == StatusCode::UNAUTHORIZED && own && !authenticated {
                        let headers = answer.response.headers();
                        let answered = self
                            .auth
                            .refused(self.base(), headers, &request.access, authorization.as_ref())
                            .await;
                        let error =
                            errors::of_response(answer.response, request.subject, self.timeouts).await;
                        match answered {
                            Err(why) if why.kind() != ErrorKind::Unauthorized => return Err(why),
                            Err(why) => return Err(why.with_source(error)),
                            // The caller can send the stream again, now with credentials.
                            Ok(()) if streams => return Err(error.with_retryable(true)),
                            Ok(()) => {}
                        }
                        authenticated = true;
                        payload = kept;
                        continue;
                    }
                    if request.accept.contains(&status.as_u16()) {
                        if own && authorization.is_none() && status.is_success() {
                            self.auth.was_open();
                        }
                        let Some(cap) = request.whole.filter(|_| status.is_success()) else {
                            return Ok(answer);
                        };
                        match body::read_all(&mut answer.response, cap, self.timeouts).await {
                            Ok(content) => return Ok(Answer { content, ..answer }),
                            Err(e) => (e, None, false),
                        }
                    } else {
                        let wait = retry::retry_after(answer.response.headers(), super::now());
                        let refused = matches!(status.as_u16(), 429 | 503);
                        let error =
                            errors::of_response(answer.response, request.subject, self.timeouts).await;
                        (error, wait, refused)
                    }
                }
            };
            let replay = !streams && (refused || request.replay == Replay::Always);
            if !replay || !error.is_retryable() || !attempts.again(wait, request.shown(), &error).await {
                return Err(match wait {
                    Some(wait) => error.with_retry_after(wait),
                    None => error,
                });
            }
            payload = kept;
        }
    }

    /// Whether the URL is of the registry itself, by scheme, host and port.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base().origin()
    }

    /// Sends a request once, and follows redirects.
    async fn follow(
        &self,
        request: &Head,
        payload: Payload,
        authorization: Option<&HeaderValue>,
        reporter: &RetryReporter,
    ) -> Result<Answer, Failure> {
        let mut url = request.url.clone();
        let mut method = request.method.clone();
        let mut payload = payload;
        for _ in 0..=MAX_REDIRECTS {
            let kept = match &payload {
                Payload::Bytes(bytes) => Some(Payload::Bytes(bytes.clone())),
                Payload::Empty => Some(Payload::Empty),
                Payload::Stream(..) => None,
            };
            let authorization = authorization.filter(|_| self.is_own(&url));
            let response = self.once(request, &method, &url, payload, authorization).await?;
            reporter.reached();
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, url, content: Bytes::new() });
            }
            let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let next = location.and_then(|l| url.join(l).ok()).ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "the registry redirects without a valid location")
                    .with_retryable(false)
            })?;
            check_downgrade(&url, &next)?;
            if response.status() == StatusCode::SEE_OTHER && method != Method::HEAD {
                method = Method::GET;
                payload = Payload::Empty;
            } else {
                payload = kept.ok_or_else(|| {
                    Error::unsupported("the registry redirects an upload while it streams")
                        .with_context("to", next.host_str().unwrap_or_default())
                })?;
            }
            url = next;
        }
        Err(Error::new(ErrorKind::Unavailable, "the registry redirects too often")
            .with_retryable(false)
            .into())
    }

    async fn once(
        &self,
        request: &Head,
        method: &Method,
        url: &Url,
        payload: Payload,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut builder = self.http.request(method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        let watch = RequestWatch::new();
        builder = match payload {
            Payload::Empty if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {
                builder.header(CONTENT_LENGTH, 0)
            }
            Payload::Empty => builder,
            Payload::Bytes(bytes) if bytes.len() <= SMALL => builder.body(bytes),
            Payload::Bytes(bytes) => {
                let length = bytes.len() as u64;
                let body = futures::stream::iter([Ok(bytes)]).boxed();
                builder
                    .header(CONTENT_LENGTH, length)
                    .body(reqwest::Body::wrap_stream(watch.body(length, body)))
            }
            Payload::Stream(length, stream) => builder
                .header(CONTENT_LENGTH, length)
                .body(reqwest::Body::wrap_stream(watch.body(length, stream))),
        };
        tokio::select! {
            sent = builder.send() => sent.map_err(|e| {
                let unsent = e.is_connect();
                Failure { error: transport_error::of_request(e), unsent }
            }),
            error = watch.stalled(self.timeouts, request.effort) => Err(Failure { error, unsent: false }),
        }
    }
}

/// A request without an answer, and whether it is certain that the registry did not get it.
pub(super) struct Failure {
    error: Error,
    unsent: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, unsent: false }
    }
}

/// Rejects a change from HTTPS to HTTP.
pub(super) fn check_downgrade(from: &Url, to: &Url) -> Result<()> {
    let safe = match to.scheme() {
        "https" => true,
        "http" => from.scheme() == "http",
        _ => false,
    };
    if safe {
        return Ok(());
    }
    let (what, place) = match to.scheme() {
        "http" => ("an address without TLS", to.host_str().unwrap_or_default()),
        other => ("an address of another scheme", other),
    };
    let message = format!("the registry redirects to {what}, and such redirects are not followed");
    Err(Error::new(ErrorKind::Denied, message).with_context("to", place))
}
