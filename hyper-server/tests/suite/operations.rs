//! What operators see: health, metrics, request ids.

use super::support::Api;
use http::Request;
use http_body_util::BodyExt;
use hyper_server::{Registry, RegistryOptions, router};
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

#[tokio::test]
async fn the_manual_names_every_metric_and_no_other() {
    let api = Api::new();
    api.get("/v2/").await.expect(200);
    let text = api.get("/metrics").await.expect(200).text().to_owned();
    let served = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut served: Vec<String> = served.map(|line| line.replace(' ', "` | ")).collect();
    let manual = include_str!("../../../docs/registry.md");
    let rows =
        manual.lines().filter_map(|line| line.strip_prefix("| `")).filter(|row| row.starts_with("hyper"));
    let mut named: Vec<String> =
        rows.map(|row| row.splitn(3, " | ").take(2).collect::<Vec<_>>().join(" | ")).collect();
    served.sort();
    named.sort();
    assert_eq!(served, named);
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
