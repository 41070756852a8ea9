//! The limits of clients: by address and by user, how often and how many at once.

use super::access::{basic, users};
use super::program::{PROGRAM, Process};
use super::support::{image, memory, noise};
use hyper_sdk::client::{HttpClient, LocalImage, PushOptions, RemoteImage, SharedClient, push};
use hyper_sdk::oci::Manifest;
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::store::PutManifest;
use hyper_sdk::{Digest, Reference, RepositoryName, Tag};
use hyper_server::auth::{Action, AnonymousAccess, Authorizer, Principal};
use hyper_server::{
    Allowance, RegistryOptions, RunningServer, Server, ServerOptions, Throttling, WrongPasswords,
};
use reqwest::{Client, Response};
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroU32;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn serve(options: RegistryOptions) -> RunningServer {
    let address = "127.0.0.1:0".parse().unwrap();
    Server::start(memory(), address, options, ServerOptions::default()).await.unwrap()
}

async fn limited(throttling: Throttling) -> RunningServer {
    serve(RegistryOptions { throttling, ..RegistryOptions::default() }).await
}

pub(super) fn of_address(address: Allowance) -> Throttling {
    Throttling { address, ..Throttling::default() }
}

fn reads(rate: &str) -> Allowance {
    Allowance { reads: Some(rate.parse().unwrap()), ..Allowance::default() }
}

pub(super) async fn get(server: &RunningServer, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Client::new().get(format!("{}{path}", server.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Checks that a limit has refused a request, and returns the seconds that the client is told to wait.
pub(super) async fn refused(response: Response) -> u64 {
    assert_eq!(response.status(), 429);
    let wait = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let body = response.text().await.unwrap();
    assert!(body.contains("\"code\":\"TOOMANYREQUESTS\""), "{body}");
    wait
}

#[tokio::test]
async fn an_address_above_its_rate_gets_429_and_health_checks_do_not() {
    let server = limited(of_address(reads("3/h"))).await;
    for path in ["/v2/", "/v2/a/tags/list", "/v2/NOT/VALID"] {
        assert_ne!(get(&server, path, &[]).await.status(), 429, "{path}");
    }
    for path in ["/v2/", "/v2/a/manifests/x", "/v2/_catalog", "/v2/NOT/VALID", "/elsewhere"] {
        let wait = refused(get(&server, path, &[]).await).await;
        assert!((1000..=1200).contains(&wait), "{wait}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(&server, path, &[]).await.status(), 200, "{path}");
    }
    let metrics = get(&server, "/metrics", &[]).await.text().await.unwrap();
    let line = "hyperregistry_requests_limited_total{by=\"address\",limit=\"reads\"} 5";
    assert!(metrics.lines().any(|l| l == line), "{metrics}");
    let push = Client::new().post(format!("{}/v2/a/blobs/uploads/", server.url()));
    assert_eq!(push.send().await.unwrap().status(), 202, "writes have no limit here");
}

/// The answer comes while the client still holds its body back, and is not lost when it does not.
#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    let none = Allowance { writes: Some("1/h".parse().unwrap()), ..Allowance::default() };
    let server = limited(of_address(none)).await;
    let url = format!("{}/v2/a/blobs/uploads/", server.url());
    assert_eq!(Client::new().post(&url).send().await.unwrap().status(), 202);
    for sent in [0, 300_000] {
        let head = "PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n";
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may close before it has all.
        let _ = stream.write_all(&noise(1, sent)).await;
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read.unwrap()]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn requests_at_once_get_the_burst_exactly() {
    let server = limited(of_address(reads("10/h"))).await;
    let all = (0..60).map(|_| get(&server, "/v2/", &[]));
    let answers = futures::future::join_all(all).await;
    let passed = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(passed, 10);
    assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status().as_u16())));
}

#[tokio::test]
async fn a_forged_header_neither_helps_nor_harms() {
    let server = limited(of_address(reads("2/h"))).await;
    for (n, allowed) in [(1, true), (2, true), (3, false), (4, false)] {
        let (forwarded, standard) = (format!("203.0.113.{n}"), format!("for=203.0.113.{n}"));
        let headers = [
            ("x-forwarded-for", forwarded.as_str()),
            ("x-real-ip", &forwarded),
            ("forwarded", &standard),
            ("true-client-ip", &forwarded),
        ];
        assert_eq!(get(&server, "/v2/", &headers).await.status() == 200, allowed);
    }
    let trusted_proxies = Some(vec!["127.0.0.1".parse().unwrap()]);
    let throttling = of_address(reads("2/h"));
    let server = serve(RegistryOptions { throttling, trusted_proxies, ..RegistryOptions::default() }).await;
    for (forwarded, allowed) in [
        ("203.0.113.1", true),
        ("203.0.113.2", true),
        // What the client made up stands before what the proxy has seen.
        ("198.51.100.1, 203.0.113.1", true),
        ("198.51.100.2, 203.0.113.1", false),
        ("203.0.113.1", false),
        ("203.0.113.2", true),
        ("2001:db8::1", true),
        ("2001:db8::2", true),
        ("2001:db8::3", false),
        ("2001:db8:0:1::3", true),
    ] {
        let status = get(&server, "/v2/", &[("x-forwarded-for", forwarded)]).await.status();
        assert_eq!(status, if allowed { 200 } else { 429 }, "{forwarded}");
    }
}

#[tokio::test]
async fn users_and_anonymous_clients_have_limits_of_their_own() {
    let file = users();
    let throttling = Throttling { user: reads("3/h"), anonymous: reads("1/h"), ..Throttling::default() };
    let (htpasswd, anonymous) = (Some(file.path().to_owned()), Some(AnonymousAccess::Pull));
    let options = RegistryOptions { htpasswd, anonymous, throttling, ..RegistryOptions::default() };
    let server = serve(options).await;
    let (alice, bob) = (basic("alice", "pass:word"), basic("bob", "b"));
    let status = async |path: &str, authorization: Option<&str>| {
        let headers: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        get(&server, path, &headers).await.status().as_u16()
    };
    // Every client begins so: the 401 takes nothing.
    for _ in 0..5 {
        assert_eq!(status("/v2/", None).await, 401);
    }
    assert_eq!(status("/v2/a/tags/list", None).await, 404);
    assert_eq!(status("/v2/a/tags/list", None).await, 429);
    for _ in 0..3 {
        assert_eq!(status("/v2/a/tags/list", Some(&alice)).await, 404);
    }
    assert_eq!(status("/v2/a/tags/list", Some(&alice)).await, 429);
    assert_eq!(status("/v2/a/tags/list", Some(&bob)).await, 404);
}

/// At both places that check passwords, and the same for users that do not exist.
#[tokio::test]
async fn whoever_guesses_passwords_has_to_wait() {
    let file = users();
    let wrong_passwords =
        WrongPasswords { user_at_address: Some("3/h".parse().unwrap()), ..WrongPasswords::default() };
    let throttling = Throttling { wrong_passwords, ..Throttling::default() };
    let htpasswd = Some(file.path().to_owned());
    let trusted_proxies = Some(vec!["127.0.0.1".parse().unwrap()]);
    let options = RegistryOptions { htpasswd, throttling, trusted_proxies, ..RegistryOptions::default() };
    let server = serve(options).await;
    let log_in = async |path: &str, user: &str, password: &str, client: &str| {
        let login = basic(user, password);
        get(&server, path, &[("authorization", login.as_str()), ("x-forwarded-for", client)]).await
    };
    let (here, elsewhere) = ("192.0.2.1", "192.0.2.2");
    for user in ["alice", "nobody"] {
        for (path, password) in [("/v2/", "1"), ("/v2/token", "2"), ("/v2/a/tags/list", "3")] {
            assert_eq!(log_in(path, user, password, here).await.status(), 401);
        }
        for (path, password) in [("/v2/", "4"), ("/v2/token", "pass:word")] {
            let wait = refused(log_in(path, user, password, here).await).await;
            assert!((1190..=1200).contains(&wait), "{wait}");
        }
        // It was checked before, so it tells nothing.
        assert_eq!(log_in("/v2/", user, "1", here).await.status(), 401);
    }
    assert_eq!(log_in("/v2/", "bob", "b", here).await.status(), 200);
    assert_eq!(log_in("/v2/", "alice", "pass:word", elsewhere).await.status(), 200);
    // The form of the other way to ask for a token.
    let form = "grant_type=password&service=x&username=alice&password=5";
    let url = format!("{}/v2/token", server.url());
    let request = Client::new().post(url).header("x-forwarded-for", here).body(form);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    refused(request.send().await.unwrap()).await;
    let metrics = get(&server, "/metrics", &[]).await.text().await.unwrap();
    let count = r#"requests_limited_total{by="user_at_address",limit="wrong_passwords"} 5"#;
    assert!(metrics.contains(count), "{metrics}");
}

#[derive(Debug)]
struct Nobody;

impl Authorizer for Nobody {
    fn allows(&self, _: &Principal, _: Option<&RepositoryName>, _: Action) -> bool {
        false
    }

    fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
        None
    }
}

/// What a user may not do takes of the limit, too.
#[tokio::test]
async fn refusals_of_a_user_count() {
    let file = users();
    let policy: Arc<dyn Authorizer> = Arc::new(Nobody);
    let options = RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        authorizer: Some(policy),
        throttling: Throttling { user: reads("3/h"), ..Throttling::default() },
        ..RegistryOptions::default()
    };
    let server = serve(options).await;
    let alice = basic("alice", "pass:word");
    for expected in [403, 403, 403, 429] {
        let answer = get(&server, "/v2/a/tags/list", &[("authorization", alice.as_str())]).await;
        assert_eq!(answer.status(), expected);
    }
}

#[tokio::test]
async fn as_many_requests_are_under_way_as_may_be() {
    let address = Allowance { requests_at_once: NonZeroU32::new(2), ..Allowance::default() };
    let server = limited(of_address(address)).await;
    let content = noise(3, 40 << 20);
    let digest = Digest::sha256(&content);
    let url = format!("{}/v2/a/blobs/uploads/?digest={digest}", server.url());
    assert_eq!(Client::new().post(url).body(content).send().await.unwrap().status(), 201);
    // Answers whose bodies nobody reads are under way.
    let path = format!("/v2/a/blobs/{digest}");
    let one = get(&server, &path, &[]).await;
    let two = get(&server, &path, &[]).await;
    assert!(one.status() == 200 && two.status() == 200);
    assert_eq!(refused(get(&server, "/v2/", &[]).await).await, 1);
    assert_eq!(get(&server, "/livez", &[]).await.status(), 200);
    assert_eq!(one.bytes().await.unwrap().len(), 40 << 20);
    // The end of the answer is seen by the client a moment before the server has counted it.
    let mut status = 429;
    for _ in 0..200 {
        status = get(&server, "/v2/", &[]).await.status().as_u16();
        if status != 429 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status, 200);
    drop(two);
}

#[tokio::test]
async fn a_client_that_waits_as_told_succeeds() {
    let address = Allowance {
        reads: Some("2/s burst 1".parse().unwrap()),
        writes: Some("2/s burst 1".parse().unwrap()),
        ..Allowance::default()
    };
    let server = limited(of_address(address)).await;
    let host = RegistryHost::parse(&server.address().to_string()).unwrap();
    let client: SharedClient = Arc::new(HttpClient::builder(host).build().unwrap());
    let reference: Reference = format!("{}/a:latest", server.address()).parse().unwrap();
    let store = memory();
    let name = RepositoryName::parse("a").unwrap();
    let config = b"{}";
    store.put_blob(&name, &Digest::sha256(config), config.to_vec().into()).await.unwrap();
    let manifest = Manifest::sniff(image(config).to_bytes()).unwrap();
    let digest = manifest.digest().clone();
    store.put_manifest(&name, PutManifest::new(manifest, [Tag::latest()])).await.unwrap();
    let source = LocalImage::new(&store, &name, &Tag::latest().into());
    let options = PushOptions { parallel: 1, ..PushOptions::default() };
    push(&source, &RemoteImage::named(&client, &reference), &options).await.unwrap();
    let pulled = client.get_manifest(&name, &Tag::latest().into()).await.unwrap();
    assert_eq!(*pulled.digest(), digest);
    let metrics = get(&server, "/metrics", &[]).await.text().await.unwrap();
    let limited = metrics.lines().filter(|line| line.starts_with("hyperregistry_requests_limited_total"));
    let sum: u64 = limited.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert!(sum > 0, "the limit has refused something on the way");
}

/// Their passwords are checked, and a limit of the address holds for them.
#[tokio::test]
async fn metrics_for_users_are_limited() {
    let file = users();
    let options = RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        metrics_for_users: true,
        throttling: of_address(reads("2/h")),
        ..RegistryOptions::default()
    };
    let server = serve(options).await;
    let guess = basic("alice", "guess");
    for expected in [401, 401, 429] {
        let answer = get(&server, "/metrics", &[("authorization", guess.as_str())]).await;
        assert_eq!(answer.status(), expected);
    }
    assert_eq!(get(&server, "/livez", &[]).await.status(), 200);
}

/// The file configures the program, and a flood leaves one line.
#[tokio::test]
async fn a_flood_of_refusals_is_one_line_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "[limits.address]\nreads = \"5/h\"\n").unwrap();
    let log = dir.path().join("log");
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "info", "--data"])
        .arg(dir.path().join("data"))
        .arg("--config")
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();
    let server = Process { child, url };
    let client = Client::new();
    for n in 0..40 {
        let status = client.get(format!("{}/v2/", server.url)).send().await.unwrap().status();
        assert_eq!(status, if n < 5 { 200 } else { 429 });
    }
    drop(server);
    let log = std::fs::read_to_string(&log).unwrap();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((lines("status=200"), lines("status=429"), lines("a limit refuses")), (5, 0, 1), "{log}");
}
