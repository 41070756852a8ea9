//! What operators see: health, metrics, request ids.

use super::program::Process;
use super::support::Api;
use http::Request;
use http_body_util::BodyExt;
use hyper_server::{Registry, RegistryOptions, router};
use std::collections::{BTreeMap, BTreeSet};
use tower::ServiceExt;

#[tokio::test]
async fn health_checks_need_no_credentials() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let api = Api::with(RegistryOptions { htpasswd: Some(file.path().into()), ..RegistryOptions::default() });
    api.get("/v2/").await.expect(401);
    for path in ["/livez", "/readyz", "/metrics"] {
        api.get(path).await.expect(200);
    }
    assert_eq!(api.get("/readyz").await.text(), "ok\n");
}

#[tokio::test]
async fn metrics_count_requests_and_bytes() {
    let api = Api::new();
    let digest = api.blob("a", &[7; 100_000]).await;
    api.get(&format!("/v2/a/blobs/{digest}")).await.expect(200);
    api.get("/v2/a/manifests/none").await.expect(404);
    let text = api.get("/metrics").await.expect(200).text().to_owned();
    for line in [
        "hyperregistry_requests_total{route=\"start_upload\",method=\"POST\",status=\"201\"} 1",
        "hyperregistry_requests_total{route=\"blob\",method=\"GET\",status=\"200\"} 1",
        "hyperregistry_requests_total{route=\"manifest\",method=\"GET\",status=\"404\"} 1",
        "hyperregistry_request_duration_seconds_count{route=\"blob\"} 1",
        "hyperregistry_bytes_received_total 100000",
        "hyperregistry_requests_in_flight 1",
        "hyperregistry_uploads_in_progress 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let sent = text.lines().find_map(|l| l.strip_prefix("hyperregistry_bytes_sent_total ")).unwrap();
    assert!(sent.parse::<u64>().unwrap() >= 100_000);
    let hidden = Api::with(RegistryOptions { metrics: false, ..RegistryOptions::default() });
    hidden.get("/metrics").await.refused(404, "NOT_FOUND");
}

/// A row of a table of the reference: its cells, without backticks.
fn rows(page: &str) -> Vec<Vec<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").map(|cell| cell.replace('`', "")).collect()).collect()
}

/// The labels of a series, `{a="b",c="d"}`.
fn labels(series: &str) -> Vec<(String, String)> {
    let Some((_, labels)) = series.split_once('{') else { return Vec::new() };
    let pairs = labels.trim_end_matches('}').split(',').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

#[tokio::test]
async fn a_server_shows_the_metrics_of_the_reference_and_no_others() {
    let rows = rows(include_str!("../../../docs/reference/metrics.md"));
    let (metrics, label_rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.len() == 5);
    let values: BTreeMap<String, BTreeSet<String>> = label_rows
        .into_iter()
        .map(|row| (row[0].clone(), row[1].split(", ").map(str::to_owned).collect()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let server = Process::start(&folder.path().join("data"), &["--audit-log", log.to_str().unwrap()]);
    let client = reqwest::Client::new();
    for (method, path) in [("GET", "/v2/"), ("POST", "/v2/a/blobs/uploads/"), ("BREW", "/v2/"), ("GET", "/x")]
    {
        client.request(method.parse().unwrap(), format!("{}{path}", server.url)).send().await.unwrap();
    }
    let text = reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    let served: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
    let listed = metrics.iter().map(|row| format!("{} {}", row[0], row[1])).collect();
    assert_eq!(served, listed);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let row = metrics.iter().find(|row| row[0] == name || Some(&*row[0]) == histogram).expect(line);
        let mut has = labels(series);
        has.retain(|(name, _)| name != "le");
        assert_eq!(has.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(", "), row[3], "{line}");
        for (label, value) in has.iter().filter(|(label, _)| label != "version") {
            assert!(values[label].contains(value), "{line}: {:?}", values[label]);
        }
    }
}

#[tokio::test]
async fn a_request_keeps_a_valid_id_or_gets_a_new_one() {
    let api = Api::new();
    let reply = api.request("GET", "/v2/", &[("x-request-id", "abc-1.2")], "").await;
    assert_eq!(reply.header("x-request-id"), "abc-1.2");
    for bad in ["", "a b", "<script>", &"x".repeat(129)] {
        let reply = api.request("GET", "/v2/", &[("x-request-id", bad)], "").await;
        assert_ne!(reply.header("x-request-id"), bad);
    }
    let (one, two) = (api.get("/v2/").await, api.get("/v2/").await);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}

#[tokio::test]
async fn the_registry_is_a_router() {
    let registry: Registry = Api::new().registry;
    let request = Request::get("/v2/").body(axum::body::Body::empty()).unwrap();
    let response = router(registry).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
}
