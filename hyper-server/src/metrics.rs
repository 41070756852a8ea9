//! Metrics in memory, in the Prometheus text format.
//!
//! The set of series is fixed (endpoints × methods × statuses), so counting is one atomic addition, and a client cannot
//! create series. Nothing is global: each registry has its own counters.

use crate::audit::AuditLog;
use crate::connection::Connections;
use crate::route::Endpoint;
use http::{Method, StatusCode};
use hyper_sdk::store::wrap::CacheStatistics;
use hyper_sdk::store::{Collected, ScrubEvent};
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const ROUTES: usize = Endpoint::NAMES.len() + 1;
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];
const STATUSES: [u16; 24] = [
    200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 416, 429, 500, 501, 503,
    507, 499, 0,
];
/// Upper bounds of the latency buckets, in microseconds, and as they are printed.
const BUCKETS: [(u64, &str); 12] = [
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (500_000, "0.5"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
];

#[derive(Debug, Default)]
struct RouteCounters {
    requests: [[AtomicU64; STATUSES.len()]; METHODS.len()],
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    count: AtomicU64,
}

/// The counters of one registry.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    routes: [RouteCounters; ROUTES],
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) in_flight: AtomicI64,
    uploads: AtomicI64,
    collections: AtomicU64,
    failed_collections: AtomicU64,
    collected_manifests: AtomicU64,
    collected_blobs: AtomicU64,
    collected_bytes: AtomicU64,
    scrubbed_blobs: AtomicU64,
    scrubbed_bytes: AtomicU64,
    damaged: AtomicU64,
    unreadable: AtomicU64,
    last_scrub: AtomicI64,
}

/// Increments a gauge until it is dropped.
#[derive(Debug)]
pub(crate) struct GaugeGuard<'a>(&'a AtomicI64);

impl<'a> GaugeGuard<'a> {
    fn new(gauge: &'a AtomicI64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// An upload whose bytes are being received.
    pub(crate) fn upload(&self) -> GaugeGuard<'_> {
        GaugeGuard::new(&self.uploads)
    }

    /// Counts a collection of garbage that ended.
    pub(crate) fn collected(&self, collected: &Collected) {
        self.collections.fetch_add(1, Ordering::Relaxed);
        self.collected_manifests.fetch_add(collected.manifests, Ordering::Relaxed);
        self.collected_blobs.fetch_add(collected.blobs, Ordering::Relaxed);
        self.collected_bytes.fetch_add(collected.bytes, Ordering::Relaxed);
    }

    /// Counts a collection of garbage that failed.
    pub(crate) fn collection_failed(&self) {
        self.failed_collections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what a scrub reports.
    pub(crate) fn scrubbed(&self, event: &ScrubEvent<'_>) {
        let (counter, count) = match event {
            ScrubEvent::Read(bytes) => (&self.scrubbed_bytes, *bytes),
            ScrubEvent::Whole(_) => (&self.scrubbed_blobs, 1),
            ScrubEvent::Damaged(_) => return self.found_damage(),
            ScrubEvent::Unreadable(..) => (&self.unreadable, 1),
            _ => return,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a damaged blob.
    pub(crate) fn found_damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets when the last round of the scrub ended, in seconds since 1970.
    pub(crate) fn scrub_ended(&self, at: i64) {
        self.last_scrub.store(at, Ordering::Relaxed);
    }

    /// Counts an answered request; `route` is an index into [`Endpoint::NAMES`], `None` when there was none.
    pub(crate) fn answered(&self, route: Option<usize>, method: &Method, status: StatusCode, took: Duration) {
        let route = &self.routes[route.unwrap_or(ROUTES - 1)];
        let m = METHODS.iter().position(|m| *m == method.as_str()).unwrap_or(METHODS.len() - 1);
        let s = STATUSES.iter().position(|s| *s == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        route.requests[m][s].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(i) = BUCKETS.iter().position(|(bound, _)| micros <= *bound) {
            route.buckets[i].fetch_add(1, Ordering::Relaxed);
        }
        route.micros.fetch_add(micros, Ordering::Relaxed);
        route.count.fetch_add(1, Ordering::Relaxed);
    }

    fn render_requests(&self, out: &mut String) {
        header(out, "requests_total", "counter", "Requests by route, method and status");
        for (r, route) in self.routes.iter().enumerate() {
            let series = METHODS.iter().zip(&route.requests);
            let series =
                series.flat_map(|(method, counts)| STATUSES.iter().zip(counts).map(move |c| (method, c)));
            for (method, (status, count)) in series {
                let count = count.load(Ordering::Relaxed);
                if count == 0 {
                    continue;
                }
                let (route, status) = (route_name(r), status_name(*status));
                let _ = writeln!(
                    out,
                    "hyperregistry_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}"
                );
            }
        }
    }

    fn render_durations(&self, out: &mut String) {
        header(
            out,
            "request_duration_seconds",
            "histogram",
            "Time from the request line to the first byte of the response",
        );
        for (r, route) in self.routes.iter().enumerate() {
            let count = route.count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let name = route_name(r);
            let mut below = 0;
            for (bucket, (_, bound)) in route.buckets.iter().zip(&BUCKETS) {
                below += bucket.load(Ordering::Relaxed);
                let _ = writeln!(
                    out,
                    "hyperregistry_request_duration_seconds_bucket{{route=\"{name}\",le=\"{bound}\"}} {below}"
                );
            }
            let count = count.max(below);
            let seconds = route.micros.load(Ordering::Relaxed) as f64 / 1e6;
            let _ = writeln!(
                out,
                "hyperregistry_request_duration_seconds_bucket{{route=\"{name}\",le=\"+Inf\"}} {count}\n\
                 hyperregistry_request_duration_seconds_sum{{route=\"{name}\"}} {seconds}\n\
                 hyperregistry_request_duration_seconds_count{{route=\"{name}\"}} {count}"
            );
        }
    }

    /// The Prometheus text format, version 0.0.4.
    pub(crate) fn render(
        &self,
        cache: CacheStatistics,
        connections: &Connections,
        audit: Option<&AuditLog>,
    ) -> String {
        let mut out = String::with_capacity(8 << 10);
        self.render_requests(&mut out);
        self.render_durations(&mut out);
        let gauges = [
            ("requests_in_flight", "Requests being handled", self.in_flight.load(Ordering::Relaxed)),
            (
                "uploads_in_progress",
                "Uploads whose bytes are being received",
                self.uploads.load(Ordering::Relaxed),
            ),
            ("connections", "Open connections", connections.open()),
            (
                "scrub_last_round_timestamp_seconds",
                "When the last round of the scrub ended, as this server knows; 0 before",
                self.last_scrub.load(Ordering::Relaxed),
            ),
            (
                "cache_bytes",
                "Bytes held by the cache in memory",
                i64::try_from(cache.bytes).unwrap_or(i64::MAX),
            ),
        ];
        for (name, help, value) in gauges {
            header(&mut out, name, "gauge", help);
            let _ = writeln!(out, "hyperregistry_{name} {value}");
        }
        let (audit_lines, lost_lines) = audit.map(AuditLog::counts).unwrap_or_default();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("bytes_received_total", "Bytes of request bodies", load(&self.bytes_in)),
            ("bytes_sent_total", "Bytes of response bodies", load(&self.bytes_out)),
            ("connections_total", "Connections accepted", connections.accepted()),
            (
                "requests_refused_total",
                "Malformed requests that had no route, such as those without a Host header",
                connections.refused_requests(),
            ),
            ("cache_hits_total", "Look-ups that the cache in memory knew", cache.hits),
            ("cache_misses_total", "Look-ups that the cache in memory did not know", cache.misses),
            ("gc_runs_total", "Collections of garbage that ended", load(&self.collections)),
            ("gc_failures_total", "Collections of garbage that failed", load(&self.failed_collections)),
            ("gc_manifests_total", "Manifests removed as garbage", load(&self.collected_manifests)),
            ("gc_blobs_total", "Blobs removed as garbage", load(&self.collected_blobs)),
            ("gc_bytes_total", "Bytes of blobs removed as garbage", load(&self.collected_bytes)),
            ("audit_lines_total", "Lines for the audit log", audit_lines),
            ("audit_lines_lost_total", "Lines of the audit log that were lost", lost_lines),
            ("scrub_blobs_total", "Blobs that a scrub read and found whole", load(&self.scrubbed_blobs)),
            ("scrub_bytes_total", "Bytes of blobs that a scrub read", load(&self.scrubbed_bytes)),
            ("damaged_blobs_total", "Findings of damaged blobs, by a scrub or a reader", load(&self.damaged)),
            ("unreadable_blobs_total", "Blobs that a scrub could not read", load(&self.unreadable)),
        ];
        for (name, help, value) in counters {
            header(&mut out, name, "counter", help);
            let _ = writeln!(out, "hyperregistry_{name} {value}");
        }
        out
    }
}

fn route_name(index: usize) -> &'static str {
    Endpoint::NAMES.get(index).copied().unwrap_or("none")
}

fn status_name(status: u16) -> String {
    if status == 0 { "other".to_owned() } else { status.to_string() }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP hyperregistry_{name} {help}\n# TYPE hyperregistry_{name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_every_series() {
        let metrics = Metrics::default();
        let took = Duration::from_micros(300);
        metrics.answered(Some(6), &Method::GET, StatusCode::OK, took);
        metrics.answered(Some(6), &Method::GET, StatusCode::OK, Duration::from_secs(100));
        metrics.answered(None, &Method::TRACE, StatusCode::IM_A_TEAPOT, took);
        let _upload = metrics.upload();
        let text = metrics.render(CacheStatistics::default(), &Connections::default(), None);
        for line in [
            "hyperregistry_requests_total{route=\"manifest\",method=\"GET\",status=\"200\"} 2",
            "hyperregistry_requests_total{route=\"none\",method=\"other\",status=\"other\"} 1",
            "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"0.00025\"} 0",
            "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"0.0005\"} 1",
            "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"60\"} 1",
            "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"+Inf\"} 2",
            "hyperregistry_uploads_in_progress 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
