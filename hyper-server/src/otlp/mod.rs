//! Sends spans to a collector of OpenTelemetry: OTLP over HTTP, as protobuf.
//!
//! ```text
//! tracing ── layer: a record for each span that ends ── queue of a fixed length ── export: batches ── message ── POST /v1/traces
//!                                                          │ full: dropped, counted
//! ```
//!
//! The messages are the types of the OpenTelemetry project (`opentelemetry-proto`). Its exporter is not used: it would bring an HTTP
//! client with a configuration of its own, and its queue does not say how many spans it drops. The client here is the one that sends
//! webhooks.
//!
//! # Invariants
//! - No request waits for a collector, whatever it does: a span that finds the queue full is dropped.
//! - The queue and a batch have fixed lengths, and the text of a field is cut, so the memory is bounded.
//! - Neither a header nor the path of the collector is shown.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod layer;
#[cfg(feature = "otlp")]
mod message;

#[cfg(not(feature = "otlp"))]
pub(crate) use absent::{Exporter, check};
#[cfg(feature = "otlp")]
pub(crate) use export::{Exporter, check};

use hyper_sdk::Secret;
use std::time::{Duration, Instant};
use tracing_subscriber::{Layer, Registry};

/// What listens to spans.
pub(crate) type SpanListener = Box<dyn Layer<Registry> + Send + Sync>;

/// How long the end of a server waits for the collector: the rest of the drain time, and within these bounds.
const LAST: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Sends what waits when a server ends that was asked to at this time.
pub(crate) async fn finish(exporter: Option<Exporter>, asked: Option<Instant>, drain: Duration) {
    let Some(exporter) = exporter else { return };
    let rest = drain.saturating_sub(asked.map_or(Duration::ZERO, |asked| asked.elapsed()));
    exporter.stop(rest.clamp(LAST[0], LAST[1])).await;
}

/// Where spans are sent.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "no exporter reads them"))]
pub(crate) struct ExporterOptions {
    /// The address that spans are posted to.
    pub(crate) url: String,
    /// Headers of each request.
    pub(crate) headers: Vec<(String, Secret)>,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// PEM texts of authorities that are trusted besides those of the system.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// What is known of the process, such as `service.name`.
    pub(crate) resource: Vec<(&'static str, String)>,
}
