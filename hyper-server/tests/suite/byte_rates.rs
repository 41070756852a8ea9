//! Rates of bytes: bodies of clients are slowed and whole, and who waits for long is refused.

use super::limits::{get, of_address, refused};
use super::support::{memory, noise};
use hyper_sdk::Digest;
use hyper_server::{Allowance, Limits, RegistryOptions, RunningServer, Server, ServerOptions, Throttling};
use reqwest::Client;
use std::time::{Duration, Instant};

/// A server whose own times are shorter than what its clients wait for their rate.
async fn limited(address: Allowance) -> RunningServer {
    let throttling = of_address(address);
    let limits = Limits { body_idle: Duration::from_secs(2), ..Limits::default() };
    let options = RegistryOptions { throttling, limits, ..RegistryOptions::default() };
    let of_server = ServerOptions { write_timeout: Duration::from_secs(2), ..ServerOptions::default() };
    Server::start(memory(), "127.0.0.1:0".parse().unwrap(), options, of_server).await.unwrap()
}

async fn push(server: &RunningServer, client: &Client, blob: &[u8]) -> u16 {
    let url = format!("{}/v2/a/blobs/uploads/?digest={}", server.url(), Digest::sha256(blob));
    client.post(url).body(blob.to_vec()).send().await.unwrap().status().as_u16()
}

fn blob_url(server: &RunningServer, blob: &[u8]) -> String {
    format!("{}/v2/a/blobs/{}", server.url(), Digest::sha256(blob))
}

async fn slowed(server: &RunningServer, direction: &str) -> u64 {
    let metrics = get(server, "/metrics", &[]).await.text().await.unwrap();
    let name = format!("hyperregistry_slowed_bytes_total{{by=\"address\",direction=\"{direction}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// Pushes and pulls two blobs, and returns how long each took.
async fn transfer(server: &RunningServer, client: &Client) -> (Duration, Duration) {
    // The first one is in a session, the second one is short.
    let blobs = [noise(1, 400_000), noise(2, 200_000)];
    let began = Instant::now();
    for blob in &blobs {
        assert_eq!(push(server, client, blob).await, 201);
    }
    let pushed = began.elapsed();
    let pulls = blobs.iter().map(|blob| async move {
        let got = client.get(blob_url(server, blob)).send().await.unwrap();
        assert_eq!(got.content_length(), Some(blob.len() as u64));
        assert!(got.bytes().await.unwrap() == blob[..]);
    });
    futures::future::join_all(pulls).await;
    (pushed, began.elapsed() - pushed)
}

/// Whatever connections and requests they come in, and however long the wait is beside the times of the server.
#[tokio::test]
async fn bytes_of_a_client_pass_whole_at_its_rate() {
    let rate = Some("100KB/s".parse().unwrap());
    let cases = [false, true].map(|is_http2| async move {
        let client = Client::builder();
        let client = if is_http2 { client.http2_prior_knowledge() } else { client.http1_only() };
        let client = client.build().unwrap();
        let server = limited(Allowance { upload: rate, ..Allowance::default() }).await;
        let (pushed, _) = transfer(&server, &client).await;
        // The last bytes wait until the first blob has fitted, of which a second is free.
        assert!(pushed > Duration::from_millis(2900), "{pushed:?}");
        assert!(slowed(&server, "upload").await > 0 && slowed(&server, "download").await == 0);
        let server = limited(Allowance { download: rate, ..Allowance::default() }).await;
        let (_, pulled) = transfer(&server, &client).await;
        assert!(pulled > Duration::from_millis(4700), "{pulled:?}");
        assert!(slowed(&server, "download").await > 0 && slowed(&server, "upload").await == 0);
    });
    futures::future::join_all(cases).await;
}

/// Who waits for ten seconds in all of his transfers can begin no other, until they have ended.
#[tokio::test]
async fn a_debtor_gets_429_and_may_come_again() {
    let address = Allowance { download: Some("16KiB/s".parse().unwrap()), ..Allowance::default() };
    let server = limited(address).await;
    let blob = noise(3, 1 << 20);
    assert_eq!(push(&server, &Client::new(), &blob).await, 201);
    let path = format!("/v2/a/blobs/{}", Digest::sha256(&blob));
    // Each of them waits with a second of the rate behind those before it.
    let mut open = Vec::new();
    let refusal = loop {
        let answer = get(&server, &path, &[]).await;
        if answer.status() == 429 {
            break answer;
        }
        assert_eq!(answer.status(), 200);
        open.push(answer);
        assert!(open.len() < 60, "nothing was refused");
    };
    assert!(open.len() >= 10, "{}", open.len());
    let wait = refused(refusal).await;
    assert!((1..=60).contains(&wait), "{wait}");
    // Health checks, metrics and the other direction wait for nothing.
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(&server, path, &[]).await.status(), 200, "{path}");
    }
    assert_eq!(push(&server, &Client::new(), b"a").await, 201);
    let metrics = get(&server, "/metrics", &[]).await.text().await.unwrap();
    let count = "hyperregistry_requests_limited_total{by=\"address\",limit=\"download\"} ";
    assert!(metrics.lines().any(|l| l.strip_prefix(count).is_some_and(|n| n != "0")), "{metrics}");
    drop(open);
    let until = Instant::now() + Duration::from_secs(60);
    while get(&server, &path, &[]).await.status() == 429 {
        assert!(Instant::now() < until, "the debt has no end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A server that ends slows nothing any more, so that what is under way ends.
#[tokio::test]
async fn the_end_of_a_server_does_not_wait_for_slowed_bodies() {
    let address = Allowance { download: Some("16KiB/s".parse().unwrap()), ..Allowance::default() };
    let server = limited(address).await;
    let blob = noise(4, 8 << 20);
    assert_eq!(push(&server, &Client::new(), &blob).await, 201);
    let begun = Client::new().get(blob_url(&server, &blob)).send().await.unwrap();
    // It would take eight minutes.
    let both = async { tokio::join!(server.stop(), begun.bytes()) };
    let (stopped, got) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    stopped.unwrap();
    assert!(got.unwrap() == blob);
}

/// A rate of a user holds wherever he comes from, and others have their own.
#[tokio::test]
async fn a_rate_of_a_user_holds_for_no_other() {
    let user = Allowance { download: Some("16KiB/s".parse().unwrap()), ..Allowance::default() };
    let file = super::access::users();
    let options = RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        throttling: Throttling { user, ..Throttling::default() },
        ..RegistryOptions::default()
    };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(memory(), address, options, ServerOptions::default()).await.unwrap();
    let (alice, bob) = (super::access::basic("alice", "pass:word"), super::access::basic("bob", "b"));
    let blob = noise(5, 1 << 20);
    let url = format!("{}/v2/a/blobs/uploads/?digest={}", server.url(), Digest::sha256(&blob));
    let push = Client::new().post(url).header("authorization", alice.as_str()).body(blob.clone());
    assert_eq!(push.send().await.unwrap().status(), 201);
    let path = format!("/v2/a/blobs/{}", Digest::sha256(&blob));
    let mut open = Vec::new();
    loop {
        let answer = get(&server, &path, &[("authorization", alice.as_str())]).await;
        if answer.status() == 429 {
            assert!(answer.text().await.unwrap().contains("of this user"));
            break;
        }
        open.push(answer);
        assert!(open.len() < 60, "nothing was refused");
    }
    assert_eq!(get(&server, &path, &[("authorization", bob.as_str())]).await.status(), 200);
}

/// As through a proxy: what waits of one user does not fill the connection of the others.
#[tokio::test]
async fn slowed_uploads_keep_no_others_of_a_connection_back() {
    let user = Allowance { upload: Some("16KiB/s".parse().unwrap()), ..Allowance::default() };
    let file = super::access::users();
    let options = RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        throttling: Throttling { user, ..Throttling::default() },
        limits: Limits { body_idle: Duration::from_secs(4), ..Limits::default() },
        ..RegistryOptions::default()
    };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(memory(), address, options, ServerOptions::default()).await.unwrap();
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    // The connection, which all of them share.
    client.get(format!("{}/livez", server.url())).send().await.unwrap();
    let push = |user: &str, password: &str, blob: Vec<u8>| {
        let url = format!("{}/v2/a/blobs/uploads/?digest={}", server.url(), Digest::sha256(&blob));
        client.post(url).header("authorization", super::access::basic(user, password)).body(blob).send()
    };
    let of_alice: Vec<_> =
        (0..8).map(|seed| tokio::spawn(push("alice", "pass:word", noise(seed + 10, 1 << 20)))).collect();
    // They have filled what they can.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(push("bob", "b", noise(9, 100_000)).await.unwrap().status(), 201);
    assert!(of_alice.iter().all(|push| !push.is_finished()));
    of_alice.iter().for_each(tokio::task::JoinHandle::abort);
}
