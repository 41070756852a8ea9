//! Traces by OTLP: what a collector gets, and that no request waits for one.

use super::program::{PROGRAM, Process};
use super::support::{image, noise};
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use hyper_sdk::Digest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Client;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector on this machine.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Got>>);

#[derive(Default)]
struct Got {
    requests: Vec<(HeaderMap, ExportTraceServiceRequest)>,
    /// What it answers instead of 200.
    answers: Option<StatusCode>,
}

impl Collector {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let app = axum::Router::new().route("/v1/traces", post(receive)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.0.lock().unwrap();
        let of_resources = got.requests.iter().flat_map(|(_, request)| &request.resource_spans);
        let of_scopes = of_resources.flat_map(|of_resource| &of_resource.scope_spans);
        of_scopes.flat_map(|of_scope| of_scope.spans.clone()).collect()
    }

    /// The first span of this name.
    fn span(&self, name: &str) -> Span {
        let spans = self.spans();
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {names:?}")).clone()
    }
}

async fn receive(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut got = collector.0.lock().unwrap();
    got.requests.push((headers, request));
    got.answers.unwrap_or(StatusCode::OK)
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<Value> {
    attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value
}

fn text(span: &Span, name: &str) -> String {
    match attribute(&span.attributes, name) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{name}: {other:?} in {span:?}"),
    }
}

fn number(span: &Span, name: &str) -> i64 {
    match attribute(&span.attributes, name) {
        Some(Value::IntValue(number)) => number,
        other => panic!("{name}: {other:?} in {span:?}"),
    }
}

fn start(folder: &Path, otlp: &str) -> Process {
    let config = folder.join("config.toml");
    std::fs::write(&config, format!("[otlp]\n{otlp}\n")).unwrap();
    Process::start(&folder.join("data"), &["--config", config.to_str().unwrap()])
}

/// Ends a server, and waits until it has.
fn stop(mut server: Process) {
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
}

/// A server ends with what is left of its drain time for the collector, which is three seconds at most.
async fn stop_soon(server: Process) {
    let began = Instant::now();
    tokio::task::spawn_blocking(move || stop(server)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_collector_gets_the_spans_of_requests_and_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, endpoint) = Collector::start().await;
    let headers = dir.path().join("headers");
    std::fs::write(&headers, "authorization: Bearer of-the-collector\n").unwrap();
    let more = format!("endpoint = {endpoint:?}\nheaders-file = {headers:?}\nservice-name = \"test\"");
    let server = start(dir.path(), &more);
    let client = Client::new();
    let blob = noise(1, 600_000);
    let url = format!("{}/v2/a/blobs/uploads/?digest={}", server.url, Digest::sha256(&blob));
    assert_eq!(client.post(url).body(blob.clone()).send().await.unwrap().status(), 201);
    let url = format!("{}/v2/a/blobs/uploads/?digest={}", server.url, Digest::sha256(b"{}"));
    assert_eq!(client.post(url).body("{}").send().await.unwrap().status(), 201);
    let url = format!("{}/v2/a/manifests/latest", server.url);
    let put = client.put(&url).header("content-type", hyper_sdk::media_type::OCI_MANIFEST);
    assert_eq!(put.body(image(b"{}").to_bytes()).send().await.unwrap().status(), 201);
    let get = client.get(&url).header("traceparent", PARENT).header("user-agent", "tester/1");
    let answer = get.header("authorization", "Bearer hidden").send().await.unwrap();
    let request_id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(answer.status(), 200);
    let url = format!("{}/v2/a/blobs/{}", server.url, Digest::sha256(&blob));
    assert_eq!(client.get(&url).send().await.unwrap().bytes().await.unwrap().len(), blob.len());
    for path in ["/v2/token?account=hidden", "/elsewhere?hidden=1", "/livez", "/readyz"] {
        client.get(format!("{}{path}", server.url)).send().await.unwrap();
    }
    // What waits is sent at the end.
    tokio::task::spawn_blocking(move || stop(server)).await.unwrap();

    let got = collector.0.lock().unwrap().requests[0].clone();
    assert_eq!(got.0["authorization"], "Bearer of-the-collector");
    assert_eq!(got.0["content-type"], "application/x-protobuf");
    let resource = &got.1.resource_spans[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(resource, "service.name"), Some(Value::StringValue("test".to_owned())));
    assert!(attribute(resource, "service.instance.id").is_some());

    let get = collector.span("GET /v2/{name}/manifests/{reference}");
    assert_eq!(get.kind, 2);
    assert_eq!((get.trace_id.len(), get.span_id.len()), (16, 8));
    assert!(get.end_time_unix_nano >= get.start_time_unix_nano);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/v2/{name}/manifests/{reference}"),
        ("url.path", "/v2/a/manifests/latest"),
        ("url.scheme", "http"),
        ("client.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("server.address", "127.0.0.1"),
        ("user_agent.original", "tester/1"),
        ("hyper.request.id", &request_id),
    ] {
        assert_eq!(text(&get, name), value, "{name}");
    }
    assert_eq!(number(&get, "http.response.status_code"), 200);
    assert!(get.status.is_none() || get.status.as_ref().unwrap().code == 0);
    // A client that nobody trusts is linked.
    assert!(get.parent_span_id.is_empty());
    assert_eq!(get.links[0].trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_ne!(get.trace_id, get.links[0].trace_id);

    // The work of the store is below the request that it is done for.
    let push = collector.span("PUT /v2/{name}/manifests/{reference}");
    let spans = collector.spans();
    let below: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == push.span_id).collect();
    let write = below.iter().find(|span| text(span, "db.operation.name") == "write");
    let write = write.unwrap_or_else(|| panic!("{below:?}"));
    assert_eq!(text(write, "db.system.name"), "sqlite");
    assert_eq!((write.kind, &write.trace_id), (3, &push.trace_id));
    let pull = collector.span("GET /v2/{name}/blobs/{digest}");
    assert_eq!(number(&pull, "http.response.body.size"), 600_000);
    let read = collector.span("folder read");
    assert_eq!(text(&read, "hyper.blobs.place"), "folder");
    assert_eq!(read.trace_id, pull.trace_id);
    let upload = collector.span("POST /v2/{name}/blobs/uploads/");
    assert_eq!(number(&upload, "http.request.body.size"), 600_000);
    assert!(spans.iter().any(|span| span.trace_id == upload.trace_id && span.name == "folder commit"));
    for span in &spans {
        assert!(span.kind == 2 || !span.parent_span_id.is_empty(), "the work of no request: {span:?}");
        let shown = format!("{span:?}");
        assert!(!shown.contains("hidden") && !shown.contains("/livez"), "{shown}");
    }
}

#[tokio::test]
async fn a_trusted_client_decides_about_its_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, endpoint) = Collector::start().await;
    let more = format!("endpoint = {endpoint:?}\ntrust-parent = true\nsample = \"0%\"");
    let server = start(dir.path(), &more);
    let get = async |path: &str, parent: Option<&str>| {
        let mut request = Client::new().get(format!("{}{path}", server.url));
        if let Some(parent) = parent {
            request = request.header("traceparent", parent);
        }
        request.send().await.unwrap();
    };
    get("/v2/a/tags/list", None).await;
    get("/v2/_catalog", Some(&PARENT.replace("-01", "-00"))).await;
    get("/v2/", Some(PARENT)).await;
    tokio::task::spawn_blocking(move || stop(server)).await.unwrap();
    let spans = collector.spans();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(span.name, "GET /v2/");
    assert_eq!(span.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(span.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert!(span.links.is_empty());
}

async fn metric(server: &Process, outcome: &str) -> u64 {
    let metrics = Client::new().get(format!("{}/metrics", server.url)).send().await.unwrap();
    let name = format!("hyperregistry_trace_spans_total{{result=\"{outcome}\"}} ");
    let text = metrics.text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// It hangs or is away: requests are answered, the queue has its length, and the server ends.
#[tokio::test]
async fn no_request_waits_for_a_collector() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let more = format!("endpoint = \"http://{}\"\ntimeout = \"60s\"", hangs.local_addr().unwrap());
    let server = start(dir.path(), &more);
    let client = Client::new();
    // Two spans each and more.
    for _ in 0..60 {
        let all = (0..100).map(|_| client.get(format!("{}/v2/a/tags/list", server.url)).send());
        for answer in futures::future::join_all(all).await {
            assert_eq!(answer.unwrap().status(), 404);
        }
        if metric(&server, "dropped").await > 0 {
            break;
        }
    }
    assert!(metric(&server, "dropped").await > 0);
    assert_eq!((metric(&server, "sent").await, metric(&server, "failed").await), (0, 0));
    stop_soon(server).await;
    let away = hangs.local_addr().unwrap();
    drop(hangs);

    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &format!("endpoint = \"http://{away}\""));
    assert_eq!(client.get(format!("{}/v2/", server.url)).send().await.unwrap().status(), 200);
    stop_soon(server).await;
}

#[tokio::test]
async fn spans_that_a_collector_refuses_are_counted_until_it_takes_them() {
    let client = Client::new();
    let dir = tempfile::tempdir().unwrap();
    let (collector, endpoint) = Collector::start().await;
    collector.0.lock().unwrap().answers = Some(StatusCode::INTERNAL_SERVER_ERROR);
    let server = start(dir.path(), &format!("endpoint = {endpoint:?}"));
    assert_eq!(client.get(format!("{}/v2/", server.url)).send().await.unwrap().status(), 200);
    let until = Instant::now() + Duration::from_secs(60);
    while metric(&server, "failed").await == 0 {
        assert!(Instant::now() < until, "nothing has failed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // It is well again.
    collector.0.lock().unwrap().answers = None;
    assert_eq!(client.get(format!("{}/v2/", server.url)).send().await.unwrap().status(), 200);
    while metric(&server, "sent").await == 0 {
        assert!(Instant::now() < until, "nothing was sent");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A server does not start with what it cannot use.
#[test]
fn a_mistake_in_the_collector_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "[otlp]\nendpoint = \"http://127.0.0.1:1\"\nheaders-file = \"/missing\"\n")
        .unwrap();
    let check = |command: &[&str]| {
        let output = Command::new(PROGRAM).args(command).arg("--config").arg(&config).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("/missing"), "{text}");
    };
    check(&["config", "check"]);
    let data = dir.path().join("data");
    check(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
}
