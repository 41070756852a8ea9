//! Spans of requests, for traces.
//!
//! ```text
//! request ── Tracer::begin ── sampled? ──▶ span "request" ──▶ spans of the store (hyper_sdk::store::WORK_TARGET)
//!                                │
//!                                └── no: no span, and so none below it
//! ```
//!
//! The spans are those of the crate `tracing`, with the target [`REQUEST_TARGET`], the level TRACE and the fields of OpenTelemetry's
//! semantic conventions for servers of HTTP. The module `otlp`, which the feature of that name has, sends them to a collector.
//!
//! # Invariants
//! - No query, no body and none of the headers that have credentials is in a field.
//! - A request that is not sampled costs a look at one header and a random number.

mod counts;
mod parent;

#[cfg(feature = "otlp")]
pub(crate) use counts::Outcome;
pub(crate) use counts::{SpanCounts, outcomes};
pub(crate) use parent::TraceParent;

use crate::connection::ConnectionInfo;
use crate::proxies::{self, TrustedProxy};
use crate::route::Endpoint;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::Span;
use tracing::field::Empty;

/// The target of the spans of requests.
pub(crate) const REQUEST_TARGET: &str = "hyper_server::request";

/// The endpoints whose requests have no span.
const UNTRACED: [&str; 3] = ["live", "ready", "metrics"];

/// The methods that the semantic conventions know.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

/// Which requests get a span of the crate `tracing`, for traces. The spans have the target `hyper_server::request` and the level
/// TRACE, and below them are those of the store ([`hyper_sdk::store::WORK_TARGET`]). Whoever embeds a registry subscribes to them, as
/// with `tracing-opentelemetry`; the program sends them by OTLP, with the feature `otlp`.
///
/// ```
/// use hyper_server::{RegistryOptions, TraceOptions};
///
/// let traces = TraceOptions { sampled: 0.05, ..TraceOptions::default() };
/// let options = RegistryOptions { traces: Some(traces), ..RegistryOptions::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceOptions {
    /// The part of the requests that get a span, from 0 to 1. Those of health checks and metrics get none.
    pub sampled: f64,
    /// Takes the trace and the decision about it from the `traceparent` of clients (W3C Trace Context), as behind a proxy that
    /// replaces it: with [`trusted_proxies`](crate::RegistryOptions::trusted_proxies) from those alone. Otherwise the span of a client is linked, and has no say.
    pub trust_parents: bool,
}

impl Default for TraceOptions {
    /// All requests, and no client is trusted.
    fn default() -> Self {
        Self { sampled: 1.0, trust_parents: false }
    }
}

/// Begins the spans of requests.
#[derive(Debug)]
pub(crate) struct Tracer {
    options: TraceOptions,
    random: RandomState,
    next: AtomicU64,
}

impl Tracer {
    pub(crate) fn new(options: TraceOptions) -> Self {
        Self { options, random: RandomState::new(), next: AtomicU64::new(0) }
    }

    /// The span of a request, which is none when the request is not sampled.
    pub(crate) fn begin(
        &self,
        parts: &Parts,
        route: Option<usize>,
        client: Option<IpAddr>,
        request_id: &HeaderValue,
        proxies: &[TrustedProxy],
    ) -> Span {
        // Probes and scrapes come every few seconds, and say nothing.
        let name = route.and_then(|index| Endpoint::NAMES.get(index)).copied();
        if name.is_some_and(|name| UNTRACED.contains(&name)) {
            return Span::none();
        }
        let parent = TraceParent::of(&parts.headers);
        let connection = parts.extensions.get::<ConnectionInfo>();
        let is_trusted =
            self.options.trust_parents && (proxies.is_empty() || proxies::is_trusted(proxies, connection));
        let trusted = parent.filter(|_| is_trusted);
        if !trusted.map_or_else(|| self.draws(), |parent| parent.is_sampled) {
            return Span::none();
        }
        let linked = parent.filter(|_| trusted.is_none());
        let method = METHODS.iter().find(|known| **known == parts.method.as_str()).copied();
        let template = route.and_then(|index| Endpoint::TEMPLATES.get(index)).copied();
        let peer = connection.and_then(|connection| connection.peer);
        let is_tls = connection.is_some_and(|connection| connection.tls);
        let server = authority(parts);
        let verb = method.unwrap_or("HTTP");
        tracing::trace_span!(
            target: REQUEST_TARGET,
            "request",
            otel.name = match template {
                Some(template) => display(Joined(verb, " ", template)),
                None => display(Joined(verb, "", "")),
            },
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method.unwrap_or("_OTHER"),
            http.request.method_original = method.is_none().then(|| parts.method.as_str()),
            http.route = template,
            http.response.status_code = Empty,
            http.request.body.size = Empty,
            http.response.body.size = Empty,
            "error.type" = Empty,
            hyper.limited = Empty,
            url.path = parts.uri.path(),
            url.scheme = if is_tls { "https" } else { "http" },
            client.address = client.map(display),
            server.address = server.as_ref().map(|server| server.host()),
            server.port = server.as_ref().and_then(|server| server.port_u16()),
            network.peer.address = peer.map(|peer| display(peer.ip())),
            network.peer.port = peer.map(|peer| peer.port()),
            network.protocol.version = protocol(parts.version),
            user_agent.original = text(&parts.headers, &header::USER_AGENT),
            hyper.request.id = request_id.to_str().ok(),
            traceparent = trusted.map(display),
            link.traceparent = linked.map(display),
        )
    }

    /// Whether the next request is one of those that are sampled.
    fn draws(&self) -> bool {
        if self.options.sampled >= 1.0 {
            return true;
        }
        let number = self.random.hash_one(self.next.fetch_add(1, Ordering::Relaxed));
        // 53 bits are exact.
        ((number >> 11) as f64) < self.options.sampled * (1_u64 << 53) as f64
    }
}

/// Records the answer to a request.
///
/// One that a limit of clients has refused has no span: a flood of them would take the places of the others, as it would fill the log.
pub(crate) fn answered(span: &Span, status: StatusCode, received: u64, is_limited: bool) {
    if span.is_disabled() {
        return;
    }
    if is_limited {
        span.record("hyper.limited", true);
        return;
    }
    span.record("http.response.status_code", status.as_u16());
    span.record("http.request.body.size", received);
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
}

/// Records how much of an answer was sent, and whether that was all.
pub(crate) fn sent(span: &Span, bytes: u64, whole: bool) {
    if !span.is_disabled() {
        span.record("http.response.body.size", bytes);
        if !whole {
            span.record("error.type", "cut");
        }
    }
}

/// Texts one after the other.
struct Joined(&'static str, &'static str, &'static str);

impl std::fmt::Display for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        [self.0, self.1, self.2].into_iter().try_for_each(|part| f.write_str(part))
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The host that the client asked for.
fn authority(parts: &Parts) -> Option<Authority> {
    let in_header = || text(&parts.headers, &header::HOST)?.parse().ok();
    parts.uri.authority().cloned().or_else(in_header)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_as_many_requests_are_sampled_as_asked_for() {
        let drawn = |sampled: f64| {
            let tracer = Tracer::new(TraceOptions { sampled, ..TraceOptions::default() });
            (0..100_000).filter(|_| tracer.draws()).count()
        };
        assert_eq!(drawn(0.0), 0);
        assert_eq!(drawn(1.0), 100_000);
        // Ten times the standard deviation.
        assert!((9_000..11_000).contains(&drawn(0.1)));
    }

    #[test]
    fn without_a_listener_no_request_has_a_span() {
        let (parts, ()) = http::Request::new(()).into_parts();
        let tracer = Tracer::new(TraceOptions::default());
        assert!(tracer.begin(&parts, Some(0), None, &HeaderValue::from_static("id"), &[]).is_disabled());
    }
}
