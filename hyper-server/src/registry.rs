//! The registry as a service: one request in, one response out, over any store.
//!
//! ```text
//! request ── id ── route::parse ── limits of the address ── admission::admit ── handlers::* ── response
//!                      │                      │                      │                 │
//!                      └──────────────────────┴──────────────────────┴─────────────────┴── ApiError ── JSON
//! every response: Docker-Distribution-Api-Version, X-Request-Id; the counters; one line in the log, unless a limit refused
//! ```
//!
//! # Invariants
//! - A change of the store runs to its end even when the client disconnects, so it is never left half done.

use crate::access_log::Record;
use crate::admission::{self, admit};
use crate::audit::Deed;
use crate::auth::Principal;
use crate::body::{CountedBody, HeldBody, Incoming};
use crate::call::{Audit, Call, Streamed};
use crate::connection::{Connections, Stopping};
use crate::error::{API_VERSION, ApiError};
use crate::handlers;
use crate::maintenance;
use crate::options::RegistryOptions;
use crate::paced_body::PacedBody;
use crate::proxies;
use crate::reloads::Reloads;
use crate::request_id::REQUEST_ID;
use crate::route::{self, Endpoint, Rejection};
use crate::state::State;
use crate::throttle::Turn;
use crate::tls::Tls;
use crate::trace::{self, SpanCounts};
use crate::webhook::Webhook;
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, StatusCode, Version};
use hyper_sdk::Result;
use hyper_sdk::store::errors::is_quota_exceeded;
use hyper_sdk::store::{QuotaRules, SharedStore};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::{Instrument as _, Span};

/// A registry: a tower service that answers requests from a store. Clones share everything.
///
/// ```
/// use hyper_sdk::store::MemoryStore;
/// use hyper_server::{Registry, RegistryOptions, router};
/// use std::sync::Arc;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let registry = Registry::new(Arc::new(MemoryStore::default()), RegistryOptions::default())?;
/// // The registry in a server with other routes.
/// let app = router(registry).route("/hello", axum::routing::get(|| async { "hello" }));
/// # let _: axum::Router = app;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Registry(Arc<State>);

impl Registry {
    /// A registry on a store.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] or [`hyper_sdk::ErrorKind::Io`] when the htpasswd file or a file of the directory cannot be used, and
    /// [`hyper_sdk::ErrorKind::Invalid`] when the options name both such users and an authenticator;
    /// [`hyper_sdk::ErrorKind::Unsupported`] when there are quotas, events or a window of undeletion, and the store does not have them.
    pub fn new(store: SharedStore, options: RegistryOptions) -> Result<Self> {
        let state = Arc::new(State::new(store, options)?);
        state.set_quotas(state.options.quotas.clone())?;
        state.record_events()?;
        state.keep_deleted()?;
        state.set_webhooks(state.options.webhooks.clone())?;
        maintenance::start(&state);
        Ok(Self(state))
    }

    /// Replaces the quotas of the options, while requests are answered. A task of the registry counts the namespaces that are new
    /// ([`count_quotas`](hyper_sdk::store::RegistryStore::count_quotas)).
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unsupported`] when the store cannot enforce quotas: those of before stay.
    pub fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        self.0.set_quotas(rules)
    }

    /// Replaces the webhooks of the options, while requests are answered. Those that are the same go on.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when one is not well formed or the registry records no events, and
    /// [`hyper_sdk::ErrorKind::Unsupported`] without the feature `webhooks`: those of before stay.
    pub fn set_webhooks(&self, webhooks: Vec<Webhook>) -> Result<()> {
        self.0.set_webhooks(webhooks)
    }

    /// Ends the deliveries to webhooks, and waits until their places are recorded, for a few seconds at most. A request in flight is
    /// broken off, and is sent again when the registry starts again: [`Registry::set_webhooks`] begins none after this. Dropping the
    /// registry ends them as well, without waiting.
    pub async fn stop_webhooks(&self) {
        self.0.webhooks.stop().await;
    }

    /// Makes `/metrics` show when the certificate of this TLS ends, and whether its files can be used. The first one counts.
    pub fn show_tls(&self, tls: &Tls) {
        let _ = self.0.tls.set(tls.clone());
    }

    /// Makes `/metrics` show what became of spans.
    pub(crate) fn show_spans(&self, counts: &Arc<SpanCounts>) {
        let _ = self.0.spans.set(counts.clone());
    }

    /// Which files could not be read again.
    pub(crate) fn reloads(&self) -> &Reloads {
        &self.0.reloads
    }

    /// Writes when what was last pulled, as far as that waits, for a few seconds at most: at the end of a server. Otherwise the pulls
    /// of the last minute may be lost.
    pub async fn note_last_pulls(&self) {
        maintenance::note_last_pulls(&self.0).await;
    }

    /// The quotas of now.
    pub fn quotas(&self) -> Arc<QuotaRules> {
        self.0.quotas()
    }

    /// The store of the registry.
    pub fn store(&self) -> &SharedStore {
        &self.0.store
    }

    /// The connection counts that `/metrics` shows. Pass them to the accept loop
    /// ([`crate::ServerOptions::connections`]).
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Answers one request.
    ///
    /// When the future is dropped, a change of the store that has begun runs to its end, and an upload keeps the bytes
    /// that have arrived.
    pub async fn handle<B>(&self, request: Request<B>) -> Response
    where
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let state = &self.0;
        maintenance::start(state);
        let start = Instant::now();
        let (parts, body) = request.into_parts();
        let mut body = Incoming::new(Body::new(body), state.options.limits.body_idle);
        let request_id = state.request_ids.choose(&parts.headers);
        let prefix = state.options.path_prefix.as_ref();
        let path = parts.uri.path();
        let path = prefix.map_or(Some(path), |prefix| prefix.strip(path)).ok_or(Rejection::NotFound);
        let cors =
            state.options.cors.clone().filter(|_| path.as_ref().is_ok_and(|path| path.starts_with("/v2")));
        let asked = cors.as_ref().and_then(|cors| cors.preflight(&parts));
        let parsed = path.and_then(|path| route::parse(&parts.method, path, parts.uri.query()));
        let route = parsed.as_ref().ok().map(Endpoint::index);
        let trusted = state.options.trusted_proxies.as_deref().unwrap_or_default();
        let client = proxies::client(trusted, parts.extensions.get(), &parts.headers);
        let tracer = state.tracer.as_ref();
        let span = tracer
            .map_or_else(Span::none, |tracer| tracer.begin(&parts, route, client, &request_id, trusted));
        let kind = admission::kind(state, parsed.as_ref().ok(), &parts.method);
        let mut in_flight = InFlight::new(state, Turn::new(client, kind));
        let mut principal = Principal::anonymous();
        let audit = Audit::new(request_id, client);
        let outcome = match asked {
            Some(preflight) => {
                in_flight.turn.of_address(&state.throttle).map(|()| preflight).map_err(ApiError::from)
            }
            None => {
                answer(state, parsed, &parts, &mut body, &mut principal, &mut in_flight.turn, &audit)
                    .instrument(span.clone())
                    .await
            }
        };
        if outcome.as_ref().is_err_and(|e| e.cause.as_ref().is_some_and(is_quota_exceeded)) {
            state.metrics.quota_refused();
        }
        let is_limited = outcome.as_ref().is_err_and(|e| e.is_limit);
        if is_limited {
            in_flight.turn.end();
        }
        // A short rest of an unread body is read now, so that the connection can be reused. A long one that a limit has refused
        // gets no further time.
        let unread = match is_limited && !body.is_short() {
            true => !body.is_over(),
            false => !body.discard(&parts.headers, parts.version).await,
        };
        let version = parts.version;
        let stopping = parts.extensions.get::<Stopping>().cloned();
        let mut record = Record {
            request_id: audit.request_id,
            client,
            method: parts.method,
            uri: parts.uri,
            route,
            principal,
            received: body.received,
            status: StatusCode::OK,
            code: "",
            is_limited,
            start,
            span,
        };
        let mut response = outcome.unwrap_or_else(|error| {
            record.error(&error);
            error.into_response()
        });
        record.status = response.status();
        trace::answered(&record.span, record.status, record.received, is_limited);
        state.metrics.bytes_in.fetch_add(record.received, Ordering::Relaxed);
        state.metrics.answered(route, &record.method, record.status, start.elapsed());
        let headers = response.headers_mut();
        headers.insert(API_VERSION.clone(), HeaderValue::from_static("registry/2.0"));
        headers.insert(REQUEST_ID.clone(), record.request_id.clone());
        if let Some(prefix) = &state.options.path_prefix {
            prefix.add_to(headers);
        }
        if let Some(cors) = cors {
            cors.add_to(headers, &parts.headers);
        }
        if record.method == Method::HEAD {
            response = without_body(response);
        }
        if unread {
            response = hold(response, body, version);
        }
        deliver(state, response, record, in_flight, stopping.as_ref())
    }
}

/// Admits the request and calls its handler.
async fn answer(
    state: &Arc<State>,
    parsed: Result<Endpoint, Rejection>,
    parts: &Parts,
    body: &mut Incoming,
    principal: &mut Principal,
    turn: &mut Turn,
    audit: &Audit,
) -> Result<Response, ApiError> {
    let log = state.options.audit.as_ref();
    let asked = log.and_then(|_| Deed::asked(parsed.as_ref().ok()?, &parts.method));
    let changes = asked.is_some();
    let answered = async {
        turn.of_address(&state.throttle)?;
        admit(state, parsed.as_ref().ok(), parts, principal, turn).await?;
        if let Some(log) = log.filter(|_| changes) {
            // A client may hold its body back, so it is asked again when the change begins.
            log.ready().await?;
        }
        let (principal, turn) = (&*principal, &*turn);
        let sends = turn.sends().map(|pacer| pacer.until(parts.extensions.get()));
        body.pace(sends, parts.version);
        match parsed {
            Ok(endpoint) => {
                handlers::dispatch(&Call { state, principal, parts, audit, turn }, endpoint, body).await
            }
            Err(Rejection::Malformed(e)) => Err(e.into()),
            Err(Rejection::NotFound) => Err(ApiError::not_found()),
            Err(Rejection::Method(allow)) => Err(ApiError::method(allow)),
        }
    };
    let outcome = answered.await;
    if outcome.as_ref().is_err_and(|e| e.is_refusal) {
        audit.refused(state, principal, asked).await;
    }
    outcome
}

/// The answer to HEAD: the head that GET gets, and no body (RFC 9110, section 9.3.2). HTTP/1 leaves it out by itself, HTTP/2 does
/// not, and clients take it for a fault of the protocol.
fn without_body(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

/// Closes the connection after the response to a request with an unread body, and keeps that body until the response
/// has been sent.
fn hold(mut response: Response, body: Incoming, version: Version) -> Response {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (head, answer) = response.into_parts();
    Response::from_parts(head, Body::new(HeldBody::new(answer, body)))
}

/// Counts and logs a response: a stream after it has been sent, any other response now.
fn deliver(
    state: &Arc<State>,
    mut response: Response,
    record: Record,
    in_flight: InFlight,
    stopping: Option<&Stopping>,
) -> Response {
    let has_content = record.status.is_success() && !response.body().is_end_stream();
    if let Some(pacer) = in_flight.turn.gets().filter(|_| has_content) {
        response = response.map(|body| Body::new(PacedBody::new(body, pacer.until(stopping))));
        // What is in memory takes its time, too.
        response.extensions_mut().insert(Streamed);
    }
    let count = move |state: &State, sent, whole| {
        state.metrics.bytes_out.fetch_add(sent, Ordering::Relaxed);
        trace::sent(&record.span, sent, whole);
        if state.options.access_log && !record.is_limited {
            record.write(sent, whole);
        }
    };
    if response.extensions_mut().remove::<Streamed>().is_none() {
        count(state, response.body().size_hint().exact().unwrap_or(0), true);
        return response;
    }
    let (head, body) = response.into_parts();
    let then = move |sent, whole| count(&in_flight.state, sent, whole);
    Response::from_parts(head, Body::new(CountedBody::new(body, then)))
}

/// Counts a request as in flight, and for the limits of its sender, until it is dropped.
struct InFlight {
    state: Arc<State>,
    turn: Turn,
}

impl InFlight {
    fn new(state: &Arc<State>, turn: Turn) -> Self {
        state.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { state: state.clone(), turn }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B> tower::Service<Request<B>> for Registry
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let registry = self.clone();
        Box::pin(async move { Ok(registry.handle(request).await) })
    }
}

/// The registry as an axum router, for programs that add routes or layers of their own. It answers every path.
///
/// ```
/// use axum::routing::get;
/// use hyper_sdk::store::MemoryStore;
/// use hyper_server::{Registry, RegistryOptions, router};
/// use std::sync::Arc;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let registry = Registry::new(Arc::new(MemoryStore::default()), RegistryOptions::default())?;
/// let app = router(registry).route("/hello", get(|| async { "hello" }));
/// # let _: axum::Router = app;
/// # Ok(())
/// # }
/// ```
pub fn router(registry: Registry) -> axum::Router {
    axum::Router::new().fallback_service(registry)
}
