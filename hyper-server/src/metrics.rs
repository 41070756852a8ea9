//! The counts of a registry, in memory; `metric_list.rs` says how they are shown.
//!
//! The set of series is fixed (endpoints × methods × statuses), so counting is one atomic addition, and a client cannot
//! create series. Nothing is global: each registry has its own counters.

use crate::route::Endpoint;
use http::{Method, StatusCode};
use hyper_sdk::store::{Collected, ScrubEvent};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const ROUTES: usize = Endpoint::NAMES.len() + 1;
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];
const STATUSES: [u16; 25] = [
    200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 414, 416, 429, 500, 501,
    503, 507, 499, 0,
];
/// Upper bounds of the latency buckets, in microseconds, and as they are printed.
const BUCKETS: [(u64, &str); 13] = [
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (500_000, "0.5"),
    (1_000_000, "1"),
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
    pub(crate) uploads: AtomicI64,
    pub(crate) collections: AtomicU64,
    pub(crate) failed_collections: AtomicU64,
    pub(crate) collected_manifests: AtomicU64,
    pub(crate) collected_blobs: AtomicU64,
    pub(crate) collected_bytes: AtomicU64,
    pub(crate) retentions: AtomicU64,
    pub(crate) failed_retentions: AtomicU64,
    /// When the last run of retention ended, of any server.
    pub(crate) last_retention: AtomicI64,
    pub(crate) expired_tags: AtomicU64,
    pub(crate) quota_refusals: AtomicU64,
    pub(crate) scrubbed_blobs: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) last_scrub: AtomicI64,
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

    /// Counts a run of retention that ended.
    pub(crate) fn retained(&self) {
        self.retentions.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets when the last run of retention ended, in seconds since 1970.
    pub(crate) fn retention_ended(&self, at: i64) {
        self.last_retention.store(at, Ordering::Relaxed);
    }

    /// Counts a run of retention that failed.
    pub(crate) fn retention_failed(&self) {
        self.failed_retentions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that a quota has refused.
    pub(crate) fn quota_refused(&self) {
        self.quota_refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a tag that retention deleted.
    pub(crate) fn tag_expired(&self) {
        self.expired_tags.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what a scrub reports.
    pub(crate) fn scrubbed(&self, event: &ScrubEvent<'_>) {
        let (counter, count) = match event {
            ScrubEvent::Begins(last) => return last.iter().for_each(|at| self.scrub_ended(*at)),
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

    /// The answered requests, without those that never came: route, method, status and count.
    pub(crate) fn requests(&self, each: &mut dyn FnMut(&[&str], u64)) {
        for (r, route) in self.routes.iter().enumerate() {
            for (method, counts) in METHODS.iter().zip(&route.requests) {
                for (status, count) in STATUSES.iter().zip(counts) {
                    let count = count.load(Ordering::Relaxed);
                    // The increase of a series is seen from its second sample on, and one 507 is an alert.
                    let is_always = *status == 507 && is_push(r, method);
                    if count > 0 || is_always {
                        each(&[route_name(r), method, &status_name(*status)], count);
                    }
                }
            }
        }
    }

    /// How long answers took, for each route that has answered.
    pub(crate) fn durations(&self, each: &mut dyn FnMut(&[&str], Histogram)) {
        for (r, route) in self.routes.iter().enumerate() {
            let count = route.count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let mut below = 0;
            let buckets = route.buckets.each_ref().map(|bucket| {
                below += bucket.load(Ordering::Relaxed);
                below
            });
            let sum = route.micros.load(Ordering::Relaxed) as f64 / 1e6;
            each(&[route_name(r)], Histogram { buckets, count: count.max(below), sum });
        }
    }
}

/// A histogram of durations, as it is shown.
pub(crate) struct Histogram {
    /// The values up to each of [`bucket_bounds`].
    pub(crate) buckets: [u64; BUCKETS.len()],
    /// All values.
    pub(crate) count: u64,
    /// Their sum, in seconds.
    pub(crate) sum: f64,
}

/// The upper bounds of the buckets, in seconds.
pub(crate) fn bucket_bounds() -> impl Iterator<Item = &'static str> {
    BUCKETS.iter().map(|(_, bound)| *bound)
}

/// The values of the label `route`.
pub(crate) fn route_names() -> Vec<String> {
    (0..ROUTES).map(|index| route_name(index).to_owned()).collect()
}

/// The values of the label `method`.
pub(crate) fn method_names() -> Vec<String> {
    METHODS.map(str::to_owned).into()
}

/// The values of the label `status`.
pub(crate) fn status_names() -> Vec<String> {
    let mut statuses = STATUSES;
    statuses.sort_unstable_by_key(|status| status.wrapping_sub(1));
    statuses.map(status_name).into()
}

fn route_name(index: usize) -> &'static str {
    Endpoint::NAMES.get(index).copied().unwrap_or("none")
}

/// Whether requests of this kind need space.
fn is_push(route: usize, method: &str) -> bool {
    let places = ["manifest", "blob", "start_upload", "upload"];
    places.contains(&route_name(route)) && ["POST", "PUT", "PATCH", "DELETE"].contains(&method)
}

fn status_name(status: u16) -> String {
    if status == 0 { "other".to_owned() } else { status.to_string() }
}
