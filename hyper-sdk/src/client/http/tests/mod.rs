//! Tests of the HTTP client against a scripted server.

mod authorisation;
mod downloads;
mod login;
mod mounts;
mod pages;
mod peer;
mod server;
mod timeouts;
mod tls;
mod uploads;

use super::{HttpClient, RetryPolicy};
use crate::client::keychain::{Credentials, StaticKeychain};
use crate::client::{RegistryClient, SharedClient};
use crate::oci::{Descriptor, ImageManifest, Manifest};
use crate::reference::{ManifestReference, RegistryHost, RepositoryName, Tag};
use crate::{Digest, ErrorKind, media_type};
use server::{Reply, Seen, Server};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const QUICK: RetryPolicy = RetryPolicy {
    attempts: 4,
    first_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(2),
    budget: Duration::from_secs(3),
};

fn client_as(server: &Server, credentials: Credentials) -> HttpClient {
    let host = RegistryHost::parse(&server.address).unwrap();
    let keychain = StaticKeychain::default().with(host.clone(), credentials);
    HttpClient::builder(host)
        .retry(QUICK)
        .keychain(Arc::new(keychain))
        .idle_timeout(Duration::from_secs(5))
        .build()
        .unwrap()
}

fn client(server: &Server) -> HttpClient {
    client_as(server, Credentials::Anonymous)
}

fn repository() -> RepositoryName {
    RepositoryName::parse("a/b").unwrap()
}

fn latest() -> ManifestReference {
    Tag::latest().into()
}

fn manifest(text: &str) -> Manifest {
    let config = Descriptor::of(media_type::OCI_CONFIG, text.as_bytes());
    Manifest::sniff(ImageManifest::new(config, vec![]).to_bytes()).unwrap()
}

fn manifest_reply(manifest: &Manifest) -> Reply {
    Reply::new(200)
        .header("Content-Type", manifest.media_type())
        .header("Docker-Content-Digest", manifest.digest())
        .body(manifest.bytes().to_vec())
}

/// Counts the calls of a script.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

#[tokio::test]
async fn transient_failures_are_retried_and_permanent_ones_are_not() {
    let calls = Counter::default();
    let server = Server::start(move |_| match calls.next() {
        0 => Reply::new(500),
        1 => Reply::new(503),
        _ => manifest_reply(&manifest("x")),
    })
    .await;
    assert_eq!(client(&server).get_manifest(&repository(), &latest()).await.unwrap(), manifest("x"));
    assert_eq!(server.seen().len(), 3);

    let server = Server::start(|_| Reply::new(403)).await;
    let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!((e.kind(), server.seen().len()), (ErrorKind::Denied, 1));
}

#[tokio::test]
async fn the_number_of_attempts_is_limited() {
    let server = Server::start(|_| Reply::new(502)).await;
    let e = client(&server).ping().await.unwrap_err();
    assert_eq!((e.kind(), e.is_retryable(), server.seen().len()), (ErrorKind::Unavailable, true, 4));
}

#[tokio::test]
async fn retry_after_is_respected() {
    let calls = Counter::default();
    let server = Server::start(move |_| match calls.next() {
        0 => Reply::new(429).header("Retry-After", 1),
        _ => Reply::new(200),
    })
    .await;
    let start = std::time::Instant::now();
    client(&server).ping().await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));

    let server = Server::start(|_| Reply::new(429).header("Retry-After", 1000)).await;
    let e = client(&server).ping().await.unwrap_err();
    assert_eq!((e.kind(), server.seen().len()), (ErrorKind::TooManyRequests, 1));
    assert_eq!(e.retry_after(), Some(Duration::from_secs(1000)));
}

#[tokio::test]
async fn a_host_without_a_registry_is_unavailable() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let host = RegistryHost::parse(&free.to_string()).unwrap();
    let client = HttpClient::builder(host).retry(QUICK).build().unwrap();
    assert_eq!(client.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let (progress, mut events) = crate::progress::Progress::channel();
    let told = client.reporting(&progress).unwrap();
    assert_eq!(told.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let warnings = timeouts::warnings(&mut events);
    assert!(warnings.len() == 1 && warnings[0].contains("attempt 2 of 2"), "{warnings:?}");
    let server = Server::start(|_| Reply::new(404)).await;
    assert_eq!(self::client(&server).ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

/// What answered before may be starting anew.
#[tokio::test]
async fn a_registry_that_went_away_gets_all_attempts_of_the_policy() {
    let server = Server::start(|_| Reply::new(200).header("Connection", "close")).await;
    let (progress, mut events) = crate::progress::Progress::channel();
    let client = client(&server).reporting(&progress).unwrap();
    client.ping().await.unwrap();
    drop(server);
    assert_eq!(client.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let warnings = timeouts::warnings(&mut events);
    assert!(warnings.len() == 3 && warnings[2].contains("attempt 4 of 4"), "{warnings:?}");
}

#[tokio::test]
async fn a_silent_registry_is_a_timeout() {
    let server = Server::start(|_| Reply::new(200).delay(Duration::from_secs(60))).await;
    let host = RegistryHost::parse(&server.address).unwrap();
    let client = HttpClient::builder(host)
        .retry(RetryPolicy::NEVER)
        .idle_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    assert_eq!(client.ping().await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn an_answer_with_many_header_lines_is_read() {
    let server =
        Server::start(|_| (0..300).fold(Reply::new(200), |reply, n| reply.header("OCI-Tag", n))).await;
    client(&server).ping().await.unwrap();
}

#[tokio::test]
async fn error_bodies_are_read_up_to_a_limit() {
    let body = format!(r#"{{"errors":[{{"code":"DENIED","message":"{}"}}]}}"#, "x".repeat(8 << 20));
    let server = Server::start(move |_| Reply::new(403).body(body.clone())).await;
    let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Denied && e.to_string().len() < 1000);
    // The beginning alone is no JSON, so what it says is not known.
    assert!(!e.to_string().contains("xxx"), "{e}");
}

#[tokio::test]
async fn error_codes_become_kinds() {
    let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
    let server = Server::start(move |_| Reply::new(404).body(body)).await;
    let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NameUnknown);
    assert!(e.to_string().contains("a/b:latest"), "{e}");
}
