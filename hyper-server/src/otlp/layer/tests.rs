//! What is recorded of spans, and what is not.

use super::super::message;
use super::*;
use crate::route::Endpoint;
use crate::trace::{TraceOptions, Tracer, answered};
use http::{HeaderValue, Request};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use std::net::{IpAddr, Ipv4Addr};
use tokio::sync::mpsc::channel;
use tracing::field::Empty;
use tracing_subscriber::layer::SubscriberExt as _;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What is recorded meanwhile, with a queue of this length, and how many spans were dropped.
fn recorded(length: usize, then: impl FnOnce()) -> (Vec<Span>, String) {
    let (sender, mut queue) = channel(length);
    let counts = Arc::<SpanCounts>::default();
    let layer = SpanLayer::new(sender, counts.clone()).with_filter(Filter);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), then);
    let mut spans = Vec::new();
    while let Ok(span) = queue.try_recv() {
        spans.push(span);
    }
    let mut shown = String::new();
    counts.each(&mut |name, count| shown.push_str(&format!("{} {count} ", name[0])));
    (spans, shown)
}

fn work() -> tracing::Span {
    tracing::trace_span!(
        target: WORK_TARGET,
        "statement",
        otel.name = "SELECT",
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "sqlite"
    )
}

fn request(uri: &str, method: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(uri).header("host", "registry:5000");
    let request = request.header("authorization", "Bearer hidden").header("traceparent", PARENT);
    request.body(()).unwrap()
}

/// The span of a request.
fn begin(options: TraceOptions, request: Request<()>, route: Option<&str>) -> tracing::Span {
    let (parts, ()) = request.into_parts();
    let route = route.map(|name| Endpoint::NAMES.iter().position(|known| *known == name).unwrap());
    let client = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Tracer::new(options).begin(&parts, route, client, &HeaderValue::from_static("id-1"), &[])
}

fn value(span: &Span, name: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value
}

fn text(span: &Span, name: &str) -> String {
    match value(span, name) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_request_and_the_work_for_it_are_one_trace() {
    let (spans, counts) = recorded(8, || {
        let request = request("/v2/a/manifests/latest?token=hidden", "PUT");
        let span = begin(TraceOptions::default(), request, Some("manifest"));
        span.in_scope(|| {
            work().record("otel.status_code", "ERROR");
            tracing::trace_span!("of somebody else").in_scope(|| drop(work()));
        });
        answered(&span, http::StatusCode::BAD_GATEWAY, 7, false);
    });
    assert_eq!(counts, "sent 0 dropped 0 failed 0 ");
    let [failed, done, request] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((request.kind, request.name.as_str()), (2, "PUT /v2/{name}/manifests/{reference}"));
    assert_eq!((request.trace_id.len(), request.span_id.len(), request.parent_span_id.len()), (16, 8, 0));
    assert!(request.end_time_unix_nano >= request.start_time_unix_nano && request.start_time_unix_nano > 0);
    assert_eq!(request.status.as_ref().unwrap().code, StatusCode::Error as i32);
    assert_eq!(value(request, "http.response.status_code"), Some(Value::IntValue(502)));
    assert_eq!(value(request, "http.request.body.size"), Some(Value::IntValue(7)));
    for (name, wanted) in [
        ("http.request.method", "PUT"),
        ("http.route", "/v2/{name}/manifests/{reference}"),
        ("error.type", "502"),
        ("url.path", "/v2/a/manifests/latest"),
        ("url.scheme", "http"),
        ("server.address", "registry"),
        ("client.address", "127.0.0.1"),
        ("hyper.request.id", "id-1"),
    ] {
        assert_eq!(text(request, name), wanted, "{name}");
    }
    assert_eq!(value(request, "server.port"), Some(Value::IntValue(5000)));
    assert_eq!(value(request, "http.request.method_original"), None);
    // Nobody trusts the client: it is linked.
    assert_ne!(request.trace_id, request.links[0].trace_id);
    assert_eq!(request.links[0].span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    for child in [failed, done] {
        assert_eq!((child.kind, child.name.as_str()), (3, "SELECT"));
        assert_eq!((&child.trace_id, &child.parent_span_id), (&request.trace_id, &request.span_id));
        assert_eq!(text(child, "db.system.name"), "sqlite");
    }
    assert_eq!(failed.status.as_ref().unwrap().code, StatusCode::Error as i32);
    assert_eq!(done.status, None);
    assert!(!format!("{spans:?}").contains("hidden"));
}

#[test]
fn a_trusted_parent_goes_on_and_decides() {
    let trusting = TraceOptions { sampled: 0.0, trust_parents: true };
    let (spans, _) = recorded(8, || drop(begin(trusting, request("/v2/", "BREW"), None)));
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((span.name.as_str(), text(span, "http.request.method").as_str()), ("HTTP", "_OTHER"));
    assert_eq!(text(span, "http.request.method_original"), "BREW");
    assert_eq!(span.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(span.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!((span.flags, span.links.len()), (0x301, 0));
    let mut unsampled = request("/v2/", "GET");
    unsampled.headers_mut().insert("traceparent", PARENT.replace("-01", "-00").parse().unwrap());
    let all = TraceOptions { sampled: 1.0, trust_parents: true };
    let (spans, _) = recorded(8, || drop(begin(all, unsampled, Some("base"))));
    assert!(spans.is_empty(), "{spans:?}");
}

#[test]
fn work_for_no_sampled_request_and_probes_have_no_spans() {
    let (spans, _) = recorded(8, || {
        drop(work());
        let none = TraceOptions { sampled: 0.0, ..TraceOptions::default() };
        begin(none, request("/v2/", "GET"), Some("base")).in_scope(|| drop(work()));
        for probe in ["live", "ready", "metrics"] {
            begin(TraceOptions::default(), request("/", "GET"), Some(probe)).in_scope(|| drop(work()));
        }
    });
    assert!(spans.is_empty(), "{spans:?}");
}

#[test]
fn a_request_that_a_limit_refuses_has_no_span_and_a_cut_answer_says_so() {
    let (spans, counts) = recorded(8, || {
        let refused = begin(TraceOptions::default(), request("/v2/", "GET"), Some("base"));
        answered(&refused, http::StatusCode::TOO_MANY_REQUESTS, 0, true);
        let cut = begin(TraceOptions::default(), request("/v2/", "GET"), Some("base"));
        answered(&cut, http::StatusCode::OK, 0, false);
        crate::trace::sent(&cut, 5, false);
    });
    let [cut] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(counts, "sent 0 dropped 0 failed 0 ");
    assert_eq!(text(cut, "error.type"), "cut");
    assert_eq!(value(cut, "http.response.body.size"), Some(Value::IntValue(5)));
}

#[test]
fn with_trusted_proxies_a_stranger_is_no_trusted_parent() {
    let trusting = TraceOptions { sampled: 0.0, trust_parents: true };
    let (spans, _) = recorded(8, || {
        for peer in ["10.0.0.1:1", "10.0.0.2:1"] {
            let (mut parts, ()) = request("/v2/", "GET").into_parts();
            let peer = peer.parse().unwrap();
            parts.extensions.insert(crate::ConnectionInfo::new(peer, peer));
            let proxies = ["10.0.0.1".parse().unwrap()];
            let id = HeaderValue::from_static("id");
            drop(Tracer::new(trusting).begin(&parts, Some(0), None, &id, &proxies));
        }
    });
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(text(span, "network.peer.address"), "10.0.0.1");
}

#[test]
fn a_full_queue_drops_and_long_texts_are_cut() {
    let path = format!("/v/{}", "ä".repeat(2000));
    let uri: String = path.bytes().map(|b| if b.is_ascii() { char::from(b) } else { 'x' }).collect();
    let (spans, counts) = recorded(2, || {
        for _ in 0..5 {
            drop(begin(TraceOptions::default(), request(&uri, "GET"), None));
        }
        let span = begin(TraceOptions::default(), request("/", "GET"), None);
        span.record("error.type", path.as_str());
    });
    assert_eq!((spans.len(), counts.as_str()), (2, "sent 0 dropped 4 failed 0 "));
    assert_eq!(text(&spans[0], "url.path").len(), LONGEST_TEXT);
    let (spans, _) = recorded(1, || {
        let span = begin(TraceOptions::default(), request("/", "GET"), None);
        span.record("error.type", path.as_str());
    });
    assert_eq!(text(&spans[0], "error.type"), path[..LONGEST_TEXT - 1]);
}

#[test]
fn a_batch_is_read_as_it_was_recorded() {
    let (spans, _) =
        recorded(8, || drop(begin(TraceOptions::default(), request("/v2/", "GET"), Some("base"))));
    let resource = message::resource(&[("service.name", "a".to_owned())]);
    let bytes = message::request(&resource, spans.clone());
    let read = ExportTraceServiceRequest::decode(bytes).unwrap();
    let [of_resource] = &read.resource_spans[..] else { panic!("{read:?}") };
    let service = &of_resource.resource.as_ref().unwrap().attributes[0];
    assert_eq!(service, &attribute("service.name", Value::StringValue("a".to_owned())));
    let [of_scope] = &of_resource.scope_spans[..] else { panic!("{read:?}") };
    assert_eq!(of_scope.scope.as_ref().unwrap().name, "hyperregistry");
    assert_eq!(of_scope.spans, spans);
}
