//! Webhooks, with a receiver that fails in every way: nothing is lost, the order is kept, and nothing secret is shown.

use super::program::{Process, run, stderr};
use super::receiver::{Does, Received, Receiver, api, config, known, options, push};
use super::support::Api;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper_sdk::RepositoryPattern;
use hyper_sdk::store::{DiskStore, EventLimits};
use hyper_server::{Registry, WebhookFormat};
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn signature(secret: &[u8], one: &Received) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    let (id, at) = (&one.headers["webhook-id"], &one.headers["webhook-timestamp"]);
    mac.update(format!("{id}.{at}.{}", one.body).as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_fails_gets_every_event_in_order() {
    let receiver = Receiver::start(&[Does::Answer(500), Does::Hangs, Does::Closes]).await;
    let mut webhook = receiver.webhook("ci");
    webhook.secrets = vec!["whsec_c2VjcmV0".into(), "second".into()];
    webhook.headers = vec![("authorization".to_owned(), "Bearer hidden".into())];
    let api = api(vec![webhook]).await;
    api.image("team/app", "v1", b"1").await;
    api.image("team/app", "v1", b"2").await;
    receiver.wait_for_taken(5).await;
    let all = receiver.all();
    let expected = [
        "hyperregistry.repository.created team/app",
        "hyperregistry.manifest.pushed team/app",
        "hyperregistry.tag.created team/app:v1",
        "hyperregistry.manifest.pushed team/app",
        "hyperregistry.tag.moved team/app:v1",
    ];
    assert_eq!(receiver.taken().iter().map(Received::shown).collect::<Vec<_>>(), expected);
    // The first event was sent four times, with one id.
    assert_eq!(all.len(), 8);
    assert!(all[..4].iter().all(|one| one.headers["webhook-id"] == all[0].headers["webhook-id"]), "{all:?}");
    for one in &all {
        let both = format!("{} {}", signature(b"secret", one), signature(b"second", one));
        assert_eq!(one.headers["webhook-signature"], both);
        assert_eq!(one.headers["content-type"], "application/cloudevents+json");
        assert_eq!(one.headers["authorization"], "Bearer hidden");
        assert_eq!(one.headers["webhook-id"], one.json()["id"].as_str().unwrap());
    }
    let log = api.registry.store().event_log().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let consumer = log.consumers().await.unwrap().remove(0);
        if consumer.place.after() == 5 {
            assert_eq!((consumer.taken, consumer.skipped, consumer.failure), (5, 0, None));
            break;
        }
        assert!(Instant::now() < end, "{consumer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let metrics = api.get("/metrics").await.expect(200);
    for line in [
        "hyperregistry_webhook_deliveries_total{webhook=\"ci\"} 5",
        "hyperregistry_webhook_failures_total{webhook=\"ci\"} 3",
        "hyperregistry_webhook_skipped_events_total{webhook=\"ci\"} 0",
    ] {
        assert!(metrics.text().lines().any(|one| one == line), "{line}\n{}", metrics.text());
    }
    assert!(!metrics.text().contains("secret-path"));
}

/// Redirects are not followed, `Retry-After` is obeyed, and a webhook that fails keeps no other one and no push waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_webhook_does_not_wait_for_another_and_filters_choose() {
    let slow = Receiver::start(&[Does::Waits(4), Does::Answer(302)]).await;
    let fast = Receiver::start(&[]).await;
    let mut docker = fast.webhook("docker");
    docker.format = WebhookFormat::Docker;
    docker.repositories = vec![RepositoryPattern::parse("team/**").unwrap()];
    let api = api(vec![slow.webhook("slow"), docker]).await;
    let start = Instant::now();
    api.image("other/app", "v1", b"1").await;
    api.image("team/app", "v1", b"1").await;
    assert!(start.elapsed() < Duration::from_secs(2), "no push waits");
    fast.wait_for_taken(1).await;
    assert!(start.elapsed() < Duration::from_secs(4), "it does not wait for the other one");
    let [one] = &fast.taken()[..] else { panic!("{:?}", fast.taken()) };
    let target = &one.json()["events"][0]["target"];
    assert_eq!((&target["repository"], &target["tag"]), (&"team/app".into(), &"v1".into()));
    assert_eq!(one.headers["content-type"], "application/vnd.docker.distribution.events.v2+json");
    assert!(!one.headers.contains_key("webhook-signature"));
    slow.wait_for("it comes again", |one| one.all().len() > 1).await;
    assert!(start.elapsed() >= Duration::from_secs(4), "it waits as long as it was asked to");
    slow.wait_for_taken(1).await;
    assert!(slow.all().iter().all(|one| one.path == "/hook/secret-path"), "{:?}", slow.all());
    // Webhooks are replaced: the one that stays keeps its place, and the other one gets nothing more.
    api.registry.set_webhooks(vec![slow.webhook("slow")]).unwrap();
    slow.wait_for_taken(6).await;
    api.image("team/app", "v2", b"2").await;
    slow.wait_for_taken(8).await;
    let numbers: Vec<u64> = slow.taken().iter().map(Received::number).collect();
    assert_eq!(numbers, (1..=8).collect::<Vec<u64>>());
    assert_eq!(fast.taken().len(), 1);
}

/// What was not kept long enough is skipped, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_gone_are_skipped_and_counted() {
    let receiver = Receiver::start(&[Does::Answer(500)]).await;
    let api = api(vec![receiver.webhook("ci")]).await;
    api.image("a", "v1", b"1").await;
    receiver.wait_for("it fails", |one| !one.all().is_empty()).await;
    let log = api.registry.store().event_log().unwrap();
    assert_eq!(log.prune(EventLimits { count: 1, age: 3600 }).await.unwrap(), 2);
    receiver.wait_for_taken(1).await;
    assert_eq!(receiver.taken()[0].shown(), "hyperregistry.tag.created a:v1");
    let metrics = api.get("/metrics").await.expect(200);
    let line = "hyperregistry_webhook_skipped_events_total{webhook=\"ci\"} 2";
    assert!(metrics.text().lines().any(|one| one == line), "{}", metrics.text());
}

/// Two servers of one store: one delivers at a time, and the other one goes on when it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_delivers_and_the_other_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[]).await;
    let mut servers = Vec::new();
    for _ in 0..2 {
        let store = Arc::new(DiskStore::open(folder.path()).await.unwrap());
        servers.push(Api { registry: Registry::new(store, options(vec![receiver.webhook("ci")])).unwrap() });
    }
    let log = servers[0].registry.store().event_log().unwrap();
    known(&log).await;
    for number in 0..10u8 {
        let tag = format!("v{number}");
        servers[usize::from(number) % 2].image("a", &tag, &[number]).await;
    }
    // The first push has made the repository.
    receiver.wait_for_taken(21).await;
    let ended = servers.remove(0);
    ended.registry.stop_webhooks().await;
    drop(ended);
    for number in 10..15u8 {
        servers[0].image("a", &format!("v{number}"), &[number]).await;
    }
    receiver.wait_for_taken(31).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let numbers: Vec<u64> = receiver.all().iter().map(Received::number).collect();
    assert_eq!(numbers, (1..=31).collect::<Vec<u64>>());
    assert_eq!(log.consumers().await.unwrap()[0].taken, 31);
}

/// The server is killed while a request is in flight. The next one goes on: nothing that was acknowledged is lost, and what
/// arrives again has the same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_a_kill_in_the_middle_of_a_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[Does::Answer(200), Does::Answer(200), Does::Hangs]).await;
    let (data, file) = (folder.path().join("data"), folder.path().join("config.toml"));
    std::fs::write(&file, config(folder.path(), &[("ci", &receiver)])).unwrap();
    let file = file.to_str().unwrap();
    let mut process = Process::start(&data, &["--config", file]);
    push(&process.url, "v1", "1").await;
    push(&process.url, "v2", "2").await;
    receiver.wait_for("the third hangs", |one| one.all().len() >= 3).await;
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let process = Process::start(&data, &["--config", file]);
    push(&process.url, "v3", "3").await;
    receiver.wait_for("the last is taken", |one| one.taken().iter().any(|one| one.number() == 7)).await;
    let numbers: Vec<u64> = receiver.taken().iter().map(Received::number).collect();
    // Each run is in order, and together they have all.
    let mut seen = numbers.clone();
    seen.dedup();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=7).collect::<Vec<u64>>(), "{numbers:?}");
    let falls = numbers.windows(2).filter(|pair| pair[0] >= pair[1]).count();
    assert!(falls <= 1, "{numbers:?}");
    let mut ids: BTreeMap<u64, String> = BTreeMap::new();
    for one in receiver.all() {
        let id = one.headers["webhook-id"].clone();
        assert_eq!(*ids.entry(one.number()).or_insert_with(|| id.clone()), id);
    }
}

/// A receiver that asks for half an hour keeps the webhook from no other server, nor from who replays it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pause_ends_with_its_server_and_when_the_webhook_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[Does::Waits(1800)]).await;
    let (data, path) = (folder.path().join("data"), folder.path().join("config.toml"));
    std::fs::write(&path, config(folder.path(), &[("ci", &receiver)])).unwrap();
    let file = path.to_str().unwrap();
    let mut process = Process::start(&data, &["--config", file]);
    push(&process.url, "v1", "1").await;
    receiver.wait_for("it fails", |one| !one.all().is_empty()).await;
    // The failure is recorded after the answer, and renewed every two seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(receiver.all().len(), 1);
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let process = Process::start(&data, &["--config", file]);
    receiver.wait_for_taken(3).await;

    receiver.script.lock().unwrap().push_back(Does::Waits(1800));
    push(&process.url, "v2", "2").await;
    receiver.wait_for("it fails again", |one| one.all().len() == 5).await;
    let id = receiver.all()[4].headers["webhook-id"].clone();
    let args =
        ["webhook", "replay", "ci", "--since", &id, "--data", data.to_str().unwrap(), "--config", file];
    // What the server writes about the failure may come after it.
    let passed = |one: &Receiver| one.taken().last().is_some_and(|last| last.number() == 5);
    let end = Instant::now() + Duration::from_secs(60);
    while !passed(&receiver) {
        assert!(Instant::now() < end, "{:?}", receiver.all());
        assert!(run(&args, "").status.success());
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let numbers: Vec<u64> = receiver.taken().iter().map(Received::number).collect();
    assert!(!numbers.contains(&4), "{numbers:?}");
}

/// SIGHUP reads the webhooks again, SIGTERM ends soon although a request hangs, and the commands say how far they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_read_again_replayed_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    let (data, path) = (folder.path().join("data"), folder.path().join("config.toml"));
    std::fs::write(&path, config(folder.path(), &[("first", &first)])).unwrap();
    let file = path.to_str().unwrap();
    let mut process = Process::start(&data, &["--config", file]);
    push(&process.url, "v1", "1").await;
    first.wait_for_taken(3).await;
    std::fs::write(&path, config(folder.path(), &[("first", &first), ("second", &second)])).unwrap();
    process.signal("-HUP");
    let command =
        |args: &[&str]| run(&[args, &["--data", data.to_str().unwrap(), "--config", file]].concat(), "");
    let list = |args: &[&str]| {
        let output = command(args);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let end = Instant::now() + Duration::from_secs(10);
    while !list(&["webhook", "ls"]).contains("second") {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    push(&process.url, "v2", "2").await;
    first.wait_for_taken(5).await;
    second.wait_for_taken(2).await;
    assert_eq!(second.taken()[0].number(), 4, "a new one begins with what happens next");

    let id = second.taken()[0].headers["webhook-id"].clone();
    list(&["webhook", "replay", "second", "--since", &id]);
    second.wait_for_taken(3).await;
    assert_eq!(second.taken()[2].number(), 5);
    list(&["webhook", "replay", "first", "--since", "oldest"]);
    first.wait_for_taken(10).await;
    let numbers: Vec<u64> = first.taken().iter().map(Received::number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
    for args in [&["webhook", "replay", "third", "--since", "oldest"][..], &["webhook", "rm", "third"]] {
        let output = command(args);
        assert!(stderr(&output).contains("third"), "{}", stderr(&output));
    }
    assert!(list(&["webhook", "test", "first"]).contains("has answered 200"));
    let all = first.all();
    let tested = all.last().unwrap();
    assert_eq!(tested.json()["type"], "hyperregistry.webhook.test");
    assert_eq!(tested.headers["webhook-signature"], signature(b"a-secret-that-is-hidden", tested));

    first.script.lock().unwrap().extend([Does::Hangs]);
    push(&process.url, "v3", "3").await;
    first.wait_for("the last hangs", |one| !one.all().last().unwrap().taken).await;
    let start = Instant::now();
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let json: Value =
        serde_json::from_str(list(&["webhook", "ls", "--format", "json"]).lines().next().unwrap()).unwrap();
    assert_eq!((&json["name"], json["waiting"].as_u64()), (&"first".into(), Some(2)), "{json}");
    let shown = list(&["webhook", "ls"]);
    assert!(!shown.contains("secret"), "{shown}");
}
