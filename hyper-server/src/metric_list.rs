//! Every metric of the registry: the one list that `/metrics` and its reference are made of.
//!
//! What a metric is and how it is read stand side by side, so neither can be there without the other. The series of a metric
//! are bounded: each label has the values that it lists here.

mod reference;
mod sources;

pub(crate) use self::reference::reference;
pub(crate) use self::sources::Sources;

use crate::auth;
use crate::metrics::{self, Histogram};
use crate::quota_gauges;
use crate::reloads::{self, Files};
use crate::throttle;
use crate::tls::Tls;
use crate::trace;
use crate::webhook::{self, Counts};
use hyper_sdk::store::PullNotes;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// One metric.
struct Metric {
    /// The name, without the prefix `hyperregistry_`.
    name: &'static str,
    /// What is counted or measured.
    unit: &'static str,
    labels: &'static [Label],
    meaning: &'static str,
    read: Read,
}

/// A label and the values that it can have.
struct Label {
    name: &'static str,
    values: Values,
}

enum Values {
    /// These and no others.
    Of(fn() -> Vec<String>),
    /// One for each process, described in words.
    OneOf(&'static str),
}

/// Called for each series, with the values of its labels in their order.
type Each<'a, V> = &'a mut dyn FnMut(&[&str], V);

/// How a metric is read, and thereby its type.
enum Read {
    /// A counter without labels.
    Counter(fn(&Sources<'_>) -> u64),
    /// A counter with labels.
    Counters(fn(&Sources<'_>, Each<'_, u64>)),
    /// A gauge without labels.
    Gauge(fn(&Sources<'_>) -> i64),
    /// A gauge with labels.
    Gauges(fn(&Sources<'_>, Each<'_, i64>)),
    /// A histogram of durations with labels.
    Histograms(fn(&Sources<'_>, Each<'_, Histogram>)),
}

const ROUTE: Label = Label { name: "route", values: Values::Of(metrics::route_names) };
const METHOD: Label = Label { name: "method", values: Values::Of(metrics::method_names) };
const STATUS: Label = Label { name: "status", values: Values::Of(metrics::status_names) };
const BY: Label = Label { name: "by", values: Values::Of(throttle::by_names) };
const LIMIT: Label = Label { name: "limit", values: Values::Of(throttle::limit_names) };
const PACED: Label = Label { name: "by", values: Values::Of(throttle::paced_names) };
const DIRECTION: Label = Label { name: "direction", values: Values::Of(throttle::direction_names) };
const RESULT: Label = Label { name: "result", values: Values::Of(trace::outcomes) };
const NAMESPACE: Label = Label {
    name: "namespace",
    values: Values::OneOf(
        "the namespaces of the configuration; `*` is the one that uses most of what `*` gives each",
    ),
};
const ISSUER: Label =
    Label { name: "issuer", values: Values::OneOf("the names of the issuers of the configuration") };
const OUTCOME: Label = Label { name: "outcome", values: Values::Of(auth::outcomes) };
const RESOURCE: Label = Label { name: "resource", values: Values::OneOf("bytes, tags or manifests") };
const WEBHOOK: Label =
    Label { name: "webhook", values: Values::OneOf("the webhooks of the configuration, by their names") };
const DEPENDENCY: Label =
    Label { name: "dependency", values: Values::OneOf("`bucket`, `database`, `issuer`") };
const FILES: Label = Label { name: "files", values: Values::Of(reloads::names) };
const VERSION: Label = Label { name: "version", values: Values::OneOf("the version of the program") };

static METRICS: &[Metric] = &[
    Metric {
        name: "requests_total",
        unit: "requests",
        labels: &[ROUTE, METHOD, STATUS],
        meaning: "Answered requests",
        read: Read::Counters(|from, each| from.metrics.requests(each)),
    },
    Metric {
        name: "request_duration_seconds",
        unit: "seconds",
        labels: &[ROUTE],
        meaning: "Time from the request line to the first byte of the response",
        read: Read::Histograms(|from, each| from.metrics.durations(each)),
    },
    Metric {
        name: "requests_in_flight",
        unit: "requests",
        labels: &[],
        meaning: "Requests being handled",
        read: Read::Gauge(|from| from.metrics.in_flight.load(Ordering::Relaxed)),
    },
    Metric {
        name: "requests_refused_total",
        unit: "requests",
        labels: &[],
        meaning: "Malformed requests that had no route, such as those without a `Host` header",
        read: Read::Counter(|from| from.connections.refused_requests()),
    },
    Metric {
        name: "requests_limited_total",
        unit: "requests",
        labels: &[BY, LIMIT],
        meaning: "Requests that a limit of clients refused with 429",
        read: Read::Counters(|from, each| from.throttle.refusals().each(each)),
    },
    Metric {
        name: "slowed_bytes_total",
        unit: "bytes",
        labels: &[PACED, DIRECTION],
        meaning: "Bytes of bodies that had to wait for a rate of bytes",
        read: Read::Counters(|from, each| from.throttle.slowed(each)),
    },
    Metric {
        name: "trace_spans_total",
        unit: "spans",
        labels: &[RESULT],
        meaning: "Spans of traces that the collector took, that found the queue full, and that the collector did not take",
        read: Read::Counters(|from, each| from.spans.into_iter().for_each(|spans| spans.each(each))),
    },
    Metric {
        name: "uploads_in_progress",
        unit: "uploads",
        labels: &[],
        meaning: "Uploads whose bytes are being received",
        read: Read::Gauge(|from| from.metrics.uploads.load(Ordering::Relaxed)),
    },
    Metric {
        name: "bytes_received_total",
        unit: "bytes",
        labels: &[],
        meaning: "Bytes of request bodies",
        read: Read::Counter(|from| load(&from.metrics.bytes_in)),
    },
    Metric {
        name: "bytes_sent_total",
        unit: "bytes",
        labels: &[],
        meaning: "Bytes of response bodies",
        read: Read::Counter(|from| load(&from.metrics.bytes_out)),
    },
    Metric {
        name: "connections",
        unit: "connections",
        labels: &[],
        meaning: "Open connections",
        read: Read::Gauge(|from| from.connections.open()),
    },
    Metric {
        name: "connections_total",
        unit: "connections",
        labels: &[],
        meaning: "Accepted connections",
        read: Read::Counter(|from| from.connections.accepted()),
    },
    Metric {
        name: "cache_bytes",
        unit: "bytes",
        labels: &[],
        meaning: "Bytes held by the cache in memory",
        read: Read::Gauge(|from| i64::try_from(from.cache.bytes).unwrap_or(i64::MAX)),
    },
    Metric {
        name: "cache_hits_total",
        unit: "look-ups",
        labels: &[],
        meaning: "Look-ups that the cache in memory knew",
        read: Read::Counter(|from| from.cache.hits),
    },
    Metric {
        name: "cache_misses_total",
        unit: "look-ups",
        labels: &[],
        meaning: "Look-ups that the cache in memory did not know",
        read: Read::Counter(|from| from.cache.misses),
    },
    Metric {
        name: "gc_runs_total",
        unit: "collections",
        labels: &[],
        meaning: "Collections of garbage that ended",
        read: Read::Counter(|from| load(&from.metrics.collections)),
    },
    Metric {
        name: "gc_failures_total",
        unit: "collections",
        labels: &[],
        meaning: "Collections of garbage that failed",
        read: Read::Counter(|from| load(&from.metrics.failed_collections)),
    },
    Metric {
        name: "gc_manifests_total",
        unit: "manifests",
        labels: &[],
        meaning: "Manifests removed as garbage",
        read: Read::Counter(|from| load(&from.metrics.collected_manifests)),
    },
    Metric {
        name: "gc_blobs_total",
        unit: "blobs",
        labels: &[],
        meaning: "Blobs removed as garbage",
        read: Read::Counter(|from| load(&from.metrics.collected_blobs)),
    },
    Metric {
        name: "gc_bytes_total",
        unit: "bytes",
        labels: &[],
        meaning: "Bytes of blobs removed as garbage",
        read: Read::Counter(|from| load(&from.metrics.collected_bytes)),
    },
    Metric {
        name: "retention_runs_total",
        unit: "runs",
        labels: &[],
        meaning: "Runs of retention that ended",
        read: Read::Counter(|from| load(&from.metrics.retentions)),
    },
    Metric {
        name: "retention_failures_total",
        unit: "runs",
        labels: &[],
        meaning: "Runs of retention that failed",
        read: Read::Counter(|from| load(&from.metrics.failed_retentions)),
    },
    Metric {
        name: "retention_last_run_timestamp_seconds",
        unit: "seconds since 1970",
        labels: &[],
        meaning: "When the last run of retention ended, as this server knows; 0 before",
        read: Read::Gauge(|from| from.metrics.last_retention.load(Ordering::Relaxed)),
    },
    Metric {
        name: "retention_tags_total",
        unit: "tags",
        labels: &[],
        meaning: "Tags deleted by retention",
        read: Read::Counter(|from| load(&from.metrics.expired_tags)),
    },
    Metric {
        name: "quota_used",
        unit: "bytes, tags or manifests",
        labels: &[NAMESPACE, RESOURCE],
        meaning: "What a namespace uses of what its quota limits",
        read: Read::Gauges(|from, each| quota_gauges::used(from.quotas, each)),
    },
    Metric {
        name: "quota_limit",
        unit: "bytes, tags or manifests",
        labels: &[NAMESPACE, RESOURCE],
        meaning: "The limits of namespaces",
        read: Read::Gauges(|from, each| quota_gauges::limits(from.quotas, each)),
    },
    Metric {
        name: "quota_refusals_total",
        unit: "requests",
        labels: &[],
        meaning: "Requests that a quota refused",
        read: Read::Counter(|from| load(&from.metrics.quota_refusals)),
    },
    Metric {
        name: "webhook_deliveries_total",
        unit: "requests",
        labels: &[WEBHOOK],
        meaning: "Requests to a webhook that it has taken, from this server",
        read: Read::Counters(|from, each| {
            webhook::each(from.webhooks, each, |counts| load(&counts.delivered))
        }),
    },
    Metric {
        name: "webhook_failures_total",
        unit: "requests",
        labels: &[WEBHOOK],
        meaning: "Requests to a webhook that failed, from this server",
        read: Read::Counters(|from, each| webhook::each(from.webhooks, each, |counts| load(&counts.failed))),
    },
    Metric {
        name: "webhook_skipped_events_total",
        unit: "events",
        labels: &[WEBHOOK],
        meaning: "Events that were not kept long enough for a webhook to take them",
        read: Read::Counters(|from, each| webhook::each(from.webhooks, each, |counts| load(&counts.skipped))),
    },
    Metric {
        name: "webhook_given_up_events_total",
        unit: "events",
        labels: &[WEBHOOK],
        meaning: "Events that a webhook did not take and that this server has given up",
        read: Read::Counters(|from, each| {
            webhook::each(from.webhooks, each, |counts| load(&counts.given_up))
        }),
    },
    Metric {
        name: "webhook_pending_events",
        unit: "events",
        labels: &[WEBHOOK],
        meaning: "Events that a webhook has not taken yet, whichever server has it",
        read: Read::Gauges(|from, each| {
            webhook::each(from.webhooks, each, |counts| counts.pending.load(Ordering::Relaxed));
        }),
    },
    Metric {
        name: "webhook_lag_seconds",
        unit: "seconds",
        labels: &[WEBHOOK],
        meaning: "The age of the oldest event that a webhook has not taken yet",
        read: Read::Gauges(|from, each| webhook::each(from.webhooks, each, Counts::lag)),
    },
    Metric {
        name: "issuer_key_age_seconds",
        unit: "seconds",
        labels: &[ISSUER],
        meaning: "How old the known keys of another issuer of tokens are; absent before the first token of it",
        read: Read::Gauges(|from, each| {
            for issuer in from.issuers() {
                if let Some(age) = issuer.age {
                    each(&[issuer.name], i64::try_from(age).unwrap_or(i64::MAX));
                }
            }
        }),
    },
    Metric {
        name: "issuer_key_failures_total",
        unit: "fetches",
        labels: &[ISSUER],
        meaning: "Fetches of the keys of another issuer of tokens that failed",
        read: Read::Counters(|from, each| {
            for issuer in from.issuers() {
                each(&[issuer.name], issuer.failures);
            }
        }),
    },
    Metric {
        name: "pull_notes_lost_total",
        unit: "notes",
        labels: &[],
        meaning: "Notes of pulls that were lost because the database did not take them: rules by the last pull wait anew",
        read: Read::Counter(|from| from.pulls.map_or(0, PullNotes::lost)),
    },
    Metric {
        name: "ready",
        unit: "1",
        labels: &[],
        meaning: "Whether the store can be read and, unless the registry is read-only, written, as `/readyz` says: 1 or 0",
        read: Read::Gauge(|from| i64::from(from.ready)),
    },
    Metric {
        name: "breaker_state",
        unit: "0 is closed, 1 half-open, 2 open",
        labels: &[DEPENDENCY],
        meaning: "Whether a dependency answers: requests that need one whose breaker is open fail at once",
        read: Read::Gauges(|from, each| {
            from.dependencies.iter().for_each(|(name, one)| each(&[name], one.number()));
        }),
    },
    Metric {
        name: "breaker_opened_total",
        unit: "times",
        labels: &[DEPENDENCY],
        meaning: "How often a dependency has begun to answer no more",
        read: Read::Counters(|from, each| {
            from.dependencies.iter().for_each(|(name, one)| each(&[name], one.opened));
        }),
    },
    Metric {
        name: "breaker_refused_total",
        unit: "requests",
        labels: &[DEPENDENCY],
        meaning: "Requests to a dependency that were not sent, because it did not answer",
        read: Read::Counters(|from, each| {
            from.dependencies.iter().for_each(|(name, one)| each(&[name], one.refused));
        }),
    },
    Metric {
        name: "reload_failed",
        unit: "1",
        labels: &[FILES],
        meaning: "1 while files that were read again cannot be used, so that the former ones are in use",
        read: Read::Gauges(|from, each| {
            Files::ALL.iter().for_each(|files| each(&[files.name()], i64::from(from.reload_failed(*files))));
        }),
    },
    Metric {
        name: "tls_certificate_end_timestamp_seconds",
        unit: "seconds since 1970",
        labels: &[],
        meaning: "When the first certificate of the chain in use ends; 0 without TLS, and while ACME has given none",
        read: Read::Gauge(|from| from.tls.and_then(Tls::ends).unwrap_or_default()),
    },
    Metric {
        name: "acme_failures_total",
        unit: "tries",
        labels: &[],
        meaning: "How often this server tried to get a certificate by ACME and got none",
        read: Read::Counter(|from| from.tls.map_or(0, Tls::acme_failures)),
    },
    Metric {
        name: "ldap_requests_total",
        unit: "requests",
        labels: &[OUTCOME],
        meaning: "How often the directory (LDAP) was asked about a user, with or without a password; `failed` is no answer",
        read: Read::Counters(|from, each| {
            auth::each_outcome(from.directory, |outcome, count| each(&[outcome], count));
        }),
    },
    Metric {
        name: "audit_lines_total",
        unit: "lines",
        labels: &[],
        meaning: "Lines for the audit log",
        read: Read::Counter(|from| from.audit.map_or(0, |log| log.counts().0)),
    },
    Metric {
        name: "audit_lines_lost_total",
        unit: "lines",
        labels: &[],
        meaning: "Lines of the audit log that could be neither written nor kept",
        read: Read::Counter(|from| from.audit.map_or(0, |log| log.counts().1)),
    },
    Metric {
        name: "scrub_blobs_total",
        unit: "blobs",
        labels: &[],
        meaning: "Blobs that a scrub read and found whole",
        read: Read::Counter(|from| load(&from.metrics.scrubbed_blobs)),
    },
    Metric {
        name: "scrub_bytes_total",
        unit: "bytes",
        labels: &[],
        meaning: "Bytes of blobs that a scrub read",
        read: Read::Counter(|from| load(&from.metrics.scrubbed_bytes)),
    },
    Metric {
        name: "scrub_last_round_timestamp_seconds",
        unit: "seconds since 1970",
        labels: &[],
        meaning: "When the last round of the scrub ended, as this server knows; 0 before",
        read: Read::Gauge(|from| from.metrics.last_scrub.load(Ordering::Relaxed)),
    },
    Metric {
        name: "damaged_blobs_total",
        unit: "findings",
        labels: &[],
        meaning: "Findings of damaged blobs, by a scrub or a reader; a blob counts again in each round until it is pushed",
        read: Read::Counter(|from| load(&from.metrics.damaged)),
    },
    Metric {
        name: "unreadable_blobs_total",
        unit: "findings",
        labels: &[],
        meaning: "Blobs that a scrub could not read",
        read: Read::Counter(|from| load(&from.metrics.unreadable)),
    },
    Metric {
        name: "info",
        unit: "1",
        labels: &[VERSION],
        meaning: "Always 1; the labels say what runs",
        read: Read::Gauges(|_, each| each(&[env!("CARGO_PKG_VERSION")], 1)),
    },
];

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metric {
    fn kind(&self) -> &'static str {
        match self.read {
            Read::Counter(_) | Read::Counters(_) => "counter",
            Read::Gauge(_) | Read::Gauges(_) => "gauge",
            Read::Histograms(_) => "histogram",
        }
    }

    fn render(&self, from: &Sources<'_>, out: &mut String) {
        let (name, labels) = (self.name, self.labels);
        let help = self.meaning.replace('`', "");
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "# HELP hyperregistry_{name} {help}\n# TYPE hyperregistry_{name} {}", self.kind());
        match self.read {
            Read::Counter(read) => drop(writeln!(out, "hyperregistry_{name} {}", read(from))),
            Read::Gauge(read) => drop(writeln!(out, "hyperregistry_{name} {}", read(from))),
            Read::Counters(read) => read(from, &mut |values, count| {
                let _ = writeln!(out, "hyperregistry_{name}{{{}}} {count}", series(labels, values));
            }),
            Read::Gauges(read) => read(from, &mut |values, value| {
                let _ = writeln!(out, "hyperregistry_{name}{{{}}} {value}", series(labels, values));
            }),
            Read::Histograms(read) => read(from, &mut |values, histogram| {
                let Histogram { buckets, count, sum } = histogram;
                let series = series(labels, values);
                for (bound, below) in metrics::bucket_bounds().zip(buckets) {
                    let _ = writeln!(out, "hyperregistry_{name}_bucket{{{series},le=\"{bound}\"}} {below}");
                }
                let _ = writeln!(
                    out,
                    "hyperregistry_{name}_bucket{{{series},le=\"+Inf\"}} {count}\n\
                     hyperregistry_{name}_sum{{{series}}} {sum}\n\
                     hyperregistry_{name}_count{{{series}}} {count}"
                );
            }),
        }
    }
}

/// The labels with their values.
fn series(labels: &[Label], values: &[&str]) -> String {
    let pairs = labels.iter().zip(values).map(|(label, value)| format!("{}=\"{value}\"", label.name));
    pairs.collect::<Vec<_>>().join(",")
}

/// The answer to `/metrics`: the Prometheus text format, version 0.0.4.
pub(crate) fn render(from: &Sources<'_>) -> String {
    let mut out = String::with_capacity(8 << 10);
    METRICS.iter().for_each(|metric| metric.render(from, &mut out));
    out
}

#[cfg(test)]
mod tests;
