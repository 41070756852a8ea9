//! The registry as a service: one request in, one response out, over any store.
//!
//! ```text
//! request ── id ── route::parse ── who ── may? ── handlers::* ── response
//!                      │             │      │         │
//!                      └─────────────┴──────┴─────────┴── ApiError ── JSON
//! every response: Docker-Distribution-Api-Version, X-Request-Id; one line in the log; the counters
//! ```
//!
//! # Invariants
//! - The log has the path, never the query's values, a header or a body, so no credential gets into it.
//! - What changes the store runs to its end even when the client goes away, so that nobody sees half of it.

use crate::auth::{
    Action, AnonymousAccess, Asked, Authenticator, AuthenticatorOptions, Authorizer, Caller, Principal,
    Verdict, weigh,
};
use crate::body::{Counted, Held, Incoming};
use crate::error::ApiError;
use crate::handlers;
use crate::metrics::Metrics;
use crate::route::{self, Endpoint, Rejection};
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, header};
use hyper_sdk::store::SharedStore;
use hyper_sdk::store::wrap::{CacheOptions, Cached};
use hyper_sdk::{RepositoryName, Result};
use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What a request may weigh.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest manifest, in bytes. The specification wants at least 4 MiB.
    pub manifest_bytes: usize,
    /// The largest blob, in bytes.
    pub blob_bytes: Option<u64>,
    /// The most tags that one request may give a manifest.
    pub tags_per_request: usize,
    /// The most entries of a list in one response.
    pub page_entries: usize,
    /// How long the body of a request may stand still.
    pub body_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: (4 << 20) + (128 << 10),
            blob_bytes: None,
            tags_per_request: 100,
            page_entries: 10_000,
            body_idle: Duration::from_secs(60),
        }
    }
}

/// How a registry behaves.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Refuses everything that writes.
    pub read_only: bool,
    /// Accepts manifests whose blobs or manifests are not there, which clients may then fail to pull.
    pub sparse: bool,
    /// The users: an htpasswd file with bcrypt hashes.
    pub htpasswd: Option<PathBuf>,
    /// What callers without credentials may do; `None` means nothing when there are users, everything when there are
    /// none.
    pub anonymous: Option<AnonymousAccess>,
    /// Decides in place of `anonymous`.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// What clients show when they ask for a password, and the service that tokens are for.
    pub realm: String,
    /// The file with the key of tokens, made when it does not exist; `None` makes a key for this process alone.
    pub token_key: Option<PathBuf>,
    /// The URL at which clients reach the server; `None` takes what each request says.
    pub public_url: Option<String>,
    /// How long an upload may rest before it is removed; `None` keeps all.
    pub upload_max_age: Option<Duration>,
    /// Limits.
    pub limits: Limits,
    /// The cache in memory.
    pub cache: CacheOptions,
    /// Serves `/metrics`.
    pub metrics: bool,
    /// Serves `/metrics` only to callers with credentials.
    pub metrics_for_users: bool,
    /// Writes a line for each request to the log, at the level `info`.
    pub access_log: bool,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            sparse: false,
            htpasswd: None,
            anonymous: None,
            authorizer: None,
            realm: "hyperregistry".to_owned(),
            token_key: None,
            public_url: None,
            upload_max_age: Some(Duration::from_secs(24 * 60 * 60)),
            limits: Limits::default(),
            cache: CacheOptions::default(),
            metrics: true,
            metrics_for_users: false,
            access_log: true,
        }
    }
}

/// A registry: a tower service that answers requests from a store. Clones share everything.
#[derive(Clone, Debug)]
pub struct Registry(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: SharedStore,
    pub(crate) options: RegistryOptions,
    /// The same store, with what only a cache can do.
    pub(crate) cache: Cached,
    pub(crate) metrics: Metrics,
    pub(crate) whereabouts: handlers::Whereabouts,
    pub(crate) readiness: handlers::Readiness,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    request_ids: RequestIds,
}

/// A request on its way through the handlers.
pub(crate) struct Call<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) caller: &'a Caller,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

impl std::ops::Deref for Call<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.registry.0
    }
}

impl Call<'_> {
    /// Whether the caller may do this in a repository.
    pub(crate) fn may(&self, repository: &RepositoryName, action: Action) -> bool {
        weigh(&*self.authorizer, self.caller, Some(repository), action) == Verdict::Allowed
    }

    /// Whether the caller learns of a repository. A list is of no repository that a token could have been made for.
    pub(crate) fn sees(&self, repository: &RepositoryName) -> bool {
        self.authorizer.allows(&self.caller.who, Some(repository), Action::Pull)
    }

    /// Whether only the head of the response is wanted.
    pub(crate) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// A header as text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Runs a change of the store to its end, whether the client stays or not.
    pub(crate) async fn change<T, F, Fut>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(SharedStore) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        tokio::spawn(change(self.store.clone()))
            .await
            .map_err(|e| hyper_sdk::Error::internal("a change of the store broke off").with_source(e))?
    }
}

pub(crate) static API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Marks a response whose body is a stream, so that it is counted and logged when it has been sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed;

impl Registry {
    /// Puts a registry on a store.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] or [`hyper_sdk::ErrorKind::Io`] when the htpasswd file cannot be used.
    pub fn new(store: SharedStore, options: RegistryOptions) -> Result<Self> {
        let cache = Cached::new(store, options.cache.clone());
        let store: SharedStore = Arc::new(cache.clone());
        let anonymous = options.anonymous.unwrap_or(match options.htpasswd {
            Some(_) => AnonymousAccess::None,
            None => AnonymousAccess::Full,
        });
        let authorizer = options.authorizer.clone().unwrap_or_else(|| Arc::new(anonymous));
        Ok(Self(Arc::new(Inner {
            authenticator: Authenticator::new(&AuthenticatorOptions {
                htpasswd: options.htpasswd.as_deref(),
                realm: &options.realm,
                token_key: options.token_key.as_deref(),
                public_url: options.public_url.as_deref(),
                open: authorizer.allows(&Principal::Anonymous, None, Action::Probe),
            })?,
            authorizer,
            readiness: handlers::Readiness::default(),
            cache,
            metrics: Metrics::default(),
            whereabouts: handlers::Whereabouts::default(),
            request_ids: RequestIds::new()?,
            store,
            options,
        })))
    }

    /// The store that is served.
    pub fn store(&self) -> &SharedStore {
        &self.0.store
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response
    where
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let start = Instant::now();
        let present = InFlight::new(self);
        let (parts, body) = request.into_parts();
        let request_id = self.0.request_ids.of(&parts.headers);
        let parsed = route::parse(&parts.method, parts.uri.path(), parts.uri.query());
        let route = parsed.as_ref().ok().map(Endpoint::index);
        let mut body = Incoming::new(Body::new(body), self.0.options.limits.body_idle);
        let mut caller = Caller::NOBODY;
        let outcome = match parsed {
            Ok(endpoint) => match self.0.admit(&endpoint, &parts, &mut caller).await {
                Ok(()) => {
                    let (method, headers) = (&parts.method, &parts.headers);
                    let call = Call { registry: self, caller: &caller, method, headers };
                    handlers::dispatch(&call, endpoint, &mut body).await
                }
                Err(e) => Err(e),
            },
            // Who may not even probe does not learn what is malformed, either.
            Err(rejection) => match self.0.admit_to_registry(&parts, &mut caller).await {
                Ok(()) => Err(match rejection {
                    Rejection::Malformed(e) => e.into(),
                    Rejection::NotFound => ApiError::not_found(),
                    Rejection::Method(allow) => ApiError::method(allow),
                }),
                Err(e) => Err(e),
            },
        };
        // A body that nobody wanted: what little is left of it is read, so that the connection can go on.
        let unread = !body.settle(&parts.headers, parts.version).await;
        self.0.metrics.bytes_in.fetch_add(body.received, Ordering::Relaxed);
        let version = parts.version;
        let mut record = Record {
            request_id: request_id.clone(),
            method: parts.method,
            uri: parts.uri,
            route,
            who: caller.who,
            received: body.received,
            status: StatusCode::OK,
            code: "",
            start,
        };
        let mut response = match outcome {
            Ok(response) => response,
            Err(e) => {
                record.code = e.code;
                record.log_cause(&e);
                e.into_response()
            }
        };
        record.status = response.status();
        self.0.metrics.answered(route, &record.method, record.status, start.elapsed());
        let headers = response.headers_mut();
        headers.insert(API_VERSION.clone(), HeaderValue::from_static("registry/2.0"));
        headers.insert(REQUEST_ID.clone(), request_id);
        if unread {
            if version < Version::HTTP_2 {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let (head, answer) = response.into_parts();
            response = Response::from_parts(head, Body::new(Held::new(answer, body)));
        }
        if response.extensions_mut().remove::<Streamed>().is_some() {
            let (head, body) = response.into_parts();
            let registry = self.clone();
            let then = move |sent, whole| {
                registry.0.metrics.bytes_out.fetch_add(sent, Ordering::Relaxed);
                record.log(&registry, sent, whole);
                drop(present);
            };
            return Response::from_parts(head, Body::new(Counted::new(body, then)));
        }
        let sent = response.body().size_hint().exact().unwrap_or(0);
        self.0.metrics.bytes_out.fetch_add(sent, Ordering::Relaxed);
        record.log(self, sent, true);
        response
    }
}

impl Registry {
    /// Answers a request that is none, before it is looked at.
    pub(crate) fn refuse(&self, e: ApiError) -> Response {
        self.0.metrics.answered(None, &Method::GET, e.status, Duration::ZERO);
        let mut response = e.into_response();
        response.headers_mut().insert(API_VERSION.clone(), HeaderValue::from_static("registry/2.0"));
        response
    }
}

/// Holds a request in the gauge of those that are being handled, for as long as its body lives.
struct InFlight(Registry);

impl InFlight {
    fn new(registry: &Registry) -> Self {
        registry.0.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(registry.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// Finds out who the caller is and whether the caller may do this.
    async fn admit(
        &self,
        endpoint: &Endpoint,
        parts: &http::request::Parts,
        caller: &mut Caller,
    ) -> Result<(), ApiError> {
        let action = match (endpoint, parts.method.as_str()) {
            (Endpoint::Live | Endpoint::Ready | Endpoint::Token(_), _) => return Ok(()),
            (Endpoint::Metrics, _) if !self.options.metrics_for_users => return Ok(()),
            (Endpoint::Base | Endpoint::Extensions(None) | Endpoint::Catalog(_) | Endpoint::Metrics, _) => {
                Action::Probe
            }
            (Endpoint::StartUpload { .. } | Endpoint::Upload { .. }, _) | (_, "PUT") => Action::Push,
            (_, "DELETE") => Action::Delete,
            _ => Action::Pull,
        };
        let asked = asked(parts, endpoint.repository(), action);
        *caller = self.authenticator.caller(&asked).await?;
        let for_users = match endpoint {
            Endpoint::Base => self.authenticator.wants_login(caller),
            Endpoint::Metrics => caller.who == Principal::Anonymous,
            _ => false,
        };
        let verdict = weigh(&*self.authorizer, caller, endpoint.repository(), action);
        if for_users || verdict != Verdict::Allowed {
            return Err(self.authenticator.refuse(caller, &asked, verdict == Verdict::NotGranted));
        }
        if self.options.read_only && matches!(action, Action::Push | Action::Delete) {
            return Err(hyper_sdk::Error::unsupported("this registry is read-only").into());
        }
        Ok(())
    }

    async fn admit_to_registry(
        &self,
        parts: &http::request::Parts,
        caller: &mut Caller,
    ) -> Result<(), ApiError> {
        let asked = asked(parts, None, Action::Probe);
        *caller = self.authenticator.caller(&asked).await?;
        if self.authorizer.allows(&caller.who, None, Action::Probe) {
            Ok(())
        } else {
            Err(self.authenticator.refuse(caller, &asked, false))
        }
    }
}

fn asked<'a>(
    parts: &'a http::request::Parts,
    repository: Option<&'a RepositoryName>,
    action: Action,
) -> Asked<'a> {
    Asked { headers: &parts.headers, uri: &parts.uri, repository, action }
}

/// What the log says of a request.
struct Record {
    request_id: HeaderValue,
    method: Method,
    uri: Uri,
    route: Option<usize>,
    who: Principal,
    received: u64,
    status: StatusCode,
    code: &'static str,
    start: Instant,
}

impl Record {
    fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Logs what the client is not told.
    fn log_cause(&self, e: &ApiError) {
        if !e.status.is_server_error() {
            return;
        }
        let Some(cause) = &e.cause else { return };
        let mut chain = cause.to_string();
        let mut source = std::error::Error::source(cause);
        while let Some(e) = source {
            chain.push_str(": ");
            chain.push_str(&e.to_string());
            source = e.source();
        }
        tracing::error!(request_id = self.request_id(), kind = %cause.kind(), error = chain, "request failed");
    }

    fn log(&self, registry: &Registry, sent: u64, whole: bool) {
        if !registry.0.options.access_log {
            return;
        }
        let route = self.route.and_then(|r| Endpoint::NAMES.get(r)).copied().unwrap_or("none");
        tracing::info!(
            target: "hyperregistry::access",
            request_id = self.request_id(),
            method = self.method.as_str(),
            path = self.uri.path(),
            route,
            user = self.who.name(),
            status = self.status.as_u16(),
            code = self.code,
            received = self.received,
            sent,
            whole,
            micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

/// Names requests: by what the client said in `X-Request-Id`, else by a random start and a number.
#[derive(Debug)]
struct RequestIds {
    start: u32,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Result<Self> {
        let random = hyper_sdk::store::UploadId::random()?;
        let start = u32::from_str_radix(&random.as_str()[..8], 16).unwrap_or_default();
        Ok(Self { start, next: AtomicU64::new(0) })
    }

    fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let fits = |v: &&HeaderValue| {
            (1..=128).contains(&v.len())
                && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
        };
        headers.get(&REQUEST_ID).filter(fits).cloned().unwrap_or_else(|| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            HeaderValue::from_str(&format!("{:08x}-{number:08x}", self.start))
                .expect("hexadecimal characters are visible ASCII")
        })
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

/// The registry as an axum router, for programs that add routes of their own. It answers every path.
pub fn router(registry: Registry) -> axum::Router {
    axum::Router::new().fallback_service(registry)
}
