//! Spans of what a store asks of its database and of the place of its blobs, for whoever listens to the crate `tracing`.
//!
//! They have the target [`WORK_TARGET`], the level TRACE, and fields with the names that OpenTelemetry has for them. What no
//! listener wants costs a comparison. A span has the span of the caller as its parent, so a task that works for a request needs to
//! run in that (`tracing::Instrument`).
//!
//! # Invariants
//! - No value of a statement, no digest and no name of a repository is in a field: the text of a statement has placeholders.

use futures::FutureExt as _;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

/// The target of these spans.
pub const WORK_TARGET: &str = "hyper_sdk::store::work";

/// The span of a statement of a database.
#[cfg(feature = "store-sql")]
pub(crate) fn statement(system: &'static str, text: &'static str) -> Span {
    tracing::trace_span!(
        target: WORK_TARGET,
        "statement",
        otel.name = verb(text),
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = system,
        db.operation.name = verb(text),
        db.query.text = text,
    )
}

/// The span of something that a database does in statements of its own.
#[cfg(feature = "store-sql")]
pub(crate) fn operation(system: &'static str, name: &'static str) -> Span {
    tracing::trace_span!(
        target: WORK_TARGET,
        "operation",
        otel.name = name,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = system,
        db.operation.name = name,
    )
}

/// The span of a request to the place of the blobs: a folder or a bucket.
pub(crate) fn blobs(place: &'static str, name: &'static str) -> Span {
    tracing::trace_span!(
        target: WORK_TARGET,
        "blobs",
        otel.name = format_args!("{place} {name}"),
        otel.kind = "client",
        otel.status_code = Empty,
        hyper.blobs.place = place,
        hyper.blobs.operation = name,
    )
}

/// Does work in a span, which has the status of the outcome.
pub(crate) fn within<T, E>(
    span: Span,
    work: impl Future<Output = std::result::Result<T, E>>,
) -> impl Future<Output = std::result::Result<T, E>> {
    within_where(span, |_| true, work)
}

/// The same, where some errors are outcomes that were to be expected, and others faults.
pub(crate) fn within_where<T, E>(
    span: Span,
    is_fault: fn(&E) -> bool,
    work: impl Future<Output = std::result::Result<T, E>>,
) -> impl Future<Output = std::result::Result<T, E>> {
    // No async block: it would keep a second place for the work.
    let entered = span.clone();
    work.instrument(entered).inspect(move |outcome| {
        if outcome.as_ref().is_err_and(is_fault) {
            span.record("otel.status_code", "ERROR");
        }
    })
}

/// The first word of a statement.
#[cfg(feature = "store-sql")]
fn verb(text: &'static str) -> &'static str {
    text.split_whitespace().next().unwrap_or_default()
}
