//! The metrics against the conventions, and against their list.

use super::*;
use crate::connection::Connections;
use crate::metrics::Metrics;
use crate::reloads::Reloads;
use crate::throttle::Throttle;
use crate::trace::SpanCounts;
use http::{Method, StatusCode};
use hyper_sdk::store::wrap::CacheStatistics;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn rendered(metrics: &Metrics) -> String {
    let (cache, connections) = (CacheStatistics::default(), &Connections::default());
    render(&Sources {
        metrics,
        cache,
        connections,
        throttle: &Throttle::new(&crate::throttle::Throttling::default()),
        spans: Some(&SpanCounts::default()),
        audit: None,
        quotas: &[],
        webhooks: &[],
        issuers: [None, None],
        pulls: None,
        directory: None,
        ready: true,
        dependencies: &BTreeMap::new(),
        reloads: &Reloads::default(),
        tls: None,
    })
}

#[test]
fn metrics_render_every_series() {
    let metrics = Metrics::default();
    let took = Duration::from_micros(300);
    metrics.answered(Some(6), &Method::GET, StatusCode::OK, took);
    metrics.answered(Some(6), &Method::GET, StatusCode::OK, Duration::from_secs(100));
    metrics.answered(None, &Method::TRACE, StatusCode::IM_A_TEAPOT, took);
    let _upload = metrics.upload();
    let text = rendered(&metrics);
    for line in [
        "hyperregistry_requests_total{route=\"manifest\",method=\"GET\",status=\"200\"} 2",
        "hyperregistry_requests_total{route=\"none\",method=\"other\",status=\"other\"} 1",
        "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"0.00025\"} 0",
        "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"0.0005\"} 1",
        "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"60\"} 1",
        "hyperregistry_request_duration_seconds_bucket{route=\"manifest\",le=\"+Inf\"} 2",
        "hyperregistry_uploads_in_progress 1",
        concat!("hyperregistry_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

/// The conventions of Prometheus, by which people find and read metrics.
#[test]
fn names_follow_the_conventions() {
    let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len(), "a name is there twice");
    for metric in METRICS {
        let name = metric.name;
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(plain), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind() == "counter", "{name}");
        let unit = name.trim_end_matches("_total").rsplit('_').next().unwrap_or_default();
        assert_eq!(unit == "seconds", metric.unit.starts_with("seconds"), "{name}");
        assert!(!metric.unit.is_empty() && !metric.meaning.is_empty(), "{name}");
        assert!(!metric.meaning.contains(['\n', '\\', '|']), "{name}");
        assert_eq!(
            metric.labels.is_empty(),
            matches!(metric.read, Read::Counter(_) | Read::Gauge(_)),
            "{name}"
        );
    }
}

#[test]
fn labels_have_the_values_of_the_list_alone() {
    let metrics = Metrics::default();
    for route in (0..metrics::route_names().len() - 1).map(Some).chain([None]) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW"] {
            for status in 100..600 {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                metrics.answered(route, &method, StatusCode::from_u16(status).unwrap(), Duration::ZERO);
            }
        }
    }
    let text = rendered(&metrics);
    for (metric, label) in METRICS.iter().flat_map(|metric| metric.labels.iter().map(move |l| (metric, l))) {
        let Values::Of(values) = label.values else { continue };
        let series = text.lines().filter(|line| line.starts_with(&format!("hyperregistry_{}", metric.name)));
        let shown: BTreeSet<String> = series
            .filter_map(|line| line.split_once(&format!("{}=\"", label.name))?.1.split('"').next())
            .map(str::to_owned)
            .collect();
        assert_eq!(shown, values().into_iter().collect(), "{}", label.name);
    }
}
