//! The listener of `tracing` that makes records of spans.

use super::message::attribute;
use crate::trace::{Outcome, REQUEST_TARGET, SpanCounts, TraceParent};
use hyper_sdk::store::WORK_TARGET;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::Sender;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer;
use tracing_subscriber::registry::LookupSpan;

/// The most bytes of a text. A path of a request may be as long as its head.
const LONGEST_TEXT: usize = 1024;

/// The flags of a span or a link: whether its trace is sampled, and whether its parent is of another process.
const SAMPLED: u32 = 1;
const LOCAL: u32 = SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32;
const REMOTE: u32 = LOCAL | SpanFlags::ContextIsRemoteMask as u32;

/// Lets the spans of requests through, and those of the store below them.
#[derive(Debug)]
pub(crate) struct Filter;

impl<S: Subscriber + for<'s> LookupSpan<'s>> layer::Filter<S> for Filter {
    fn enabled(&self, of: &Metadata<'_>, context: &layer::Context<'_, S>) -> bool {
        of.is_span()
            && (of.target() == REQUEST_TARGET
                // The work of tasks that no request waits for has no trace.
                || of.target() == WORK_TARGET && context.lookup_current().is_some())
    }

    fn callsite_enabled(&self, of: &'static Metadata<'static>) -> Interest {
        match of.is_span() && [REQUEST_TARGET, WORK_TARGET].contains(&of.target()) {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

/// Makes a record of each span, and puts it into the queue when the span ends.
#[derive(Debug)]
pub(crate) struct SpanLayer {
    queue: Sender<Span>,
    counts: Arc<SpanCounts>,
    random: RandomState,
    next: AtomicU64,
}

/// A span that has not ended.
struct Open {
    span: Span,
    began: Instant,
}

impl SpanLayer {
    pub(super) fn new(queue: Sender<Span>, counts: Arc<SpanCounts>) -> Self {
        Self { queue, counts, random: RandomState::new(), next: AtomicU64::new(0) }
    }

    /// A number that nobody can guess, and is not 0.
    fn random(&self) -> u64 {
        self.random.hash_one(self.next.fetch_add(1, Ordering::Relaxed)).max(1)
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for SpanLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: layer::Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let mut open = Open {
            span: Span {
                span_id: self.random().to_be_bytes().to_vec(),
                name: attributes.metadata().name().to_owned(),
                kind: SpanKind::Internal as i32,
                flags: LOCAL,
                start_time_unix_nano: u64::try_from(start).unwrap_or(u64::MAX),
                attributes: Vec::with_capacity(16),
                ..Span::default()
            },
            began: Instant::now(),
        };
        if let Some(parent) = span.parent()
            && let Some(parent) = parent.extensions().get::<Open>()
        {
            open.span.trace_id = parent.span.trace_id.clone();
            open.span.parent_span_id = parent.span.span_id.clone();
        }
        attributes.record(&mut Fields(&mut open.span));
        if open.span.trace_id.is_empty() {
            open.span.trace_id = [self.random().to_be_bytes(), self.random().to_be_bytes()].concat();
        }
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: layer::Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut Fields(&mut open.span));
        }
    }

    fn on_close(&self, id: Id, context: layer::Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Open { mut span, began }) = span.extensions_mut().remove::<Open>() else { return };
        if span.span_id.is_empty() {
            return;
        }
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        span.end_time_unix_nano = span.start_time_unix_nano.saturating_add(took);
        if self.queue.try_send(span).is_err() {
            self.counts.add(Outcome::Dropped, 1);
        }
    }
}

/// Puts fields into a span. Those that `tracing` has no other way for say what the span is.
struct Fields<'s>(&'s mut Span);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: Value) {
        match self.0.attributes.iter_mut().find(|known| known.key == field.name()) {
            // Each name once: what is recorded later counts.
            Some(known) => *known = attribute(field.name(), value),
            None => self.0.attributes.push(attribute(field.name(), value)),
        }
    }

    fn text(&mut self, field: &Field, mut text: String) {
        match field.name() {
            "otel.name" => self.0.name = text,
            "otel.kind" => {
                self.0.kind = match text.as_str() {
                    "server" => SpanKind::Server,
                    "client" => SpanKind::Client,
                    _ => SpanKind::Internal,
                } as i32;
            }
            "otel.status_code" => {
                let code = if text == "ERROR" { StatusCode::Error } else { StatusCode::Unset };
                self.0.status = Some(Status { code: code as i32, ..Status::default() });
            }
            "traceparent" => {
                if let Some(parent) = TraceParent::parse(&text) {
                    self.0.trace_id = parent.trace.to_be_bytes().to_vec();
                    self.0.parent_span_id = parent.span.to_be_bytes().to_vec();
                    self.0.flags = REMOTE;
                }
            }
            "link.traceparent" => {
                if let Some(linked) = TraceParent::parse(&text) {
                    self.0.links.push(Link {
                        trace_id: linked.trace.to_be_bytes().to_vec(),
                        span_id: linked.span.to_be_bytes().to_vec(),
                        flags: if linked.is_sampled { REMOTE } else { REMOTE & !SAMPLED },
                        ..Link::default()
                    });
                }
            }
            _ => {
                if text.len() > LONGEST_TEXT {
                    text.truncate(text.floor_char_boundary(LONGEST_TEXT));
                }
                self.add(field, Value::StringValue(text));
            }
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Cut before it is copied.
        let length = value.floor_char_boundary(LONGEST_TEXT);
        self.text(field, value[..length].to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::DoubleValue(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "hyper.limited" {
            // A span without an id is not sent.
            self.0.span_id.clear();
            return;
        }
        self.add(field, Value::BoolValue(value));
    }
}

#[cfg(test)]
mod tests;
