//! Webhooks whose receivers refuse events, and webhooks that are removed: no event keeps the others back, and every loss is shown.

use super::program::{PROGRAM, Process, run, stderr};
use super::receiver::{Received, Receiver, api, config, push};
use hyper_sdk::oci::ImageIndex;
use hyper_sdk::store::{EventConsumer, EventStart};
use hyper_sdk::testing::{PostgresServer, given};
use hyper_sdk::{Digest, media_type};
use hyper_server::WebhookFormat;
use std::process::Command;
use std::time::{Duration, Instant};

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn numbers(received: &[Received]) -> Vec<u64> {
    received.iter().map(Received::number).collect()
}

/// A receiver that will never take one event gets the next ones, and what it did not take is counted, named and sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_refused_for_ever_is_given_up() {
    let receiver = Receiver::start(&[]).await;
    receiver.judge(|body| body.contains("tag.created").then_some(422));
    let mut webhook = receiver.webhook("ci");
    // A hundredth of it is a second.
    webhook.give_up = Duration::from_secs(100);
    let api = api(vec![webhook]).await;
    let log = api.registry.store().event_log().unwrap();
    api.image("a", "v1", b"1").await;
    api.image("a", "v1", b"2").await;
    receiver.wait_for_taken(4).await;
    assert_eq!(numbers(&receiver.taken()), [1, 2, 4, 5], "the events after the third");
    let attempts = receiver.all().iter().filter(|one| one.number() == 3).count();
    assert!((3..20).contains(&attempts), "{attempts}");
    let consumer = async || -> EventConsumer { log.consumers().await.unwrap().remove(0) };
    until("the place is recorded", async || consumer().await.place.after() == 5).await;
    let found = consumer().await;
    assert_eq!((found.taken, found.skipped, found.given_up, &found.failure), (4, 0, 1, &None));
    assert_eq!(found.last_given_up.unwrap().after(), 3);
    let metrics = api.get("/metrics").await.expect(200);
    let line = "hyperregistry_webhook_given_up_events_total{webhook=\"ci\"} 1";
    assert!(metrics.text().lines().any(|one| one == line), "{}", metrics.text());
    // It takes everything now.
    receiver.judge(|_| None);
    log.reset("ci", &EventStart::Oldest).await.unwrap();
    receiver.wait_for_taken(9).await;
    assert_eq!(numbers(&receiver.taken()[4..]), [1, 2, 3, 4, 5]);
}

/// A receiver that refuses everything is broken: that costs one event, not one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_refuses_all_loses_one_event() {
    let receiver = Receiver::start(&[]).await;
    receiver.judge(|_| Some(422));
    let mut webhook = receiver.webhook("ci");
    webhook.give_up = Duration::from_secs(100);
    let api = api(vec![webhook]).await;
    let log = api.registry.store().event_log().unwrap();
    api.image("a", "v1", b"1").await;
    let attempts = |number: u64| receiver.all().iter().filter(|one| one.number() == number).count();
    until("the second was refused, too", async || attempts(2) >= 2).await;
    assert_eq!((attempts(3), log.consumers().await.unwrap()[0].given_up), (0, 1));
    receiver.judge(|_| None);
    receiver.wait_for_taken(2).await;
    assert_eq!(numbers(&receiver.taken()), [2, 3]);
}

/// An error of the receiver is tried for the whole time, and then one event goes, not all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_not_answered_well_is_given_up_after_the_whole_time() {
    let receiver = Receiver::start(&[]).await;
    receiver.judge(|body| body.contains("repository.created").then_some(500));
    let mut webhook = receiver.webhook("ci");
    webhook.give_up = Duration::from_secs(4);
    let api = api(vec![webhook]).await;
    let start = Instant::now();
    api.image("a", "v1", b"1").await;
    receiver.wait_for_taken(2).await;
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(numbers(&receiver.taken()), [2, 3]);
}

async fn push_tags(api: &super::support::Api, tags: &[String]) {
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let body = ImageIndex::new(vec![]).to_bytes();
    let target = format!("/v2/a/manifests/{}?{}", Digest::sha256(&body), query.join("&"));
    api.request("PUT", &target, &[("content-type", media_type::OCI_INDEX)], body).await.expect(201);
}

fn tags_of(received: &[Received]) -> Vec<String> {
    let of = |one: &Received| -> Vec<String> {
        let json = one.json();
        let tag = |event: &serde_json::Value| event["target"]["tag"].as_str().unwrap().to_owned();
        json["events"].as_array().unwrap().iter().map(tag).collect()
    };
    received.iter().flat_map(of).collect()
}

/// A push with many tags is one event and many entries of Docker's envelope: one that is refused takes no other one with it, and
/// none is so large that a receiver refuses it for its size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_is_small_and_what_is_refused_in_it_is_found() {
    let receiver = Receiver::start(&[]).await;
    receiver.judge(|body| body.contains("bad-tag").then_some(413));
    let mut webhook = receiver.webhook("ci");
    webhook.format = WebhookFormat::Docker;
    webhook.give_up = Duration::from_secs(100);
    let api = api(vec![webhook]).await;
    let name = |number: usize| format!("{number:03}-{}", "x".repeat(124));
    let mut tags: Vec<String> = (0..99).map(name).collect();
    tags[40] = "bad-tag".to_owned();
    push_tags(&api, &tags).await;
    let log = api.registry.store().event_log().unwrap();
    until("all is sent", async || {
        let consumer = log.consumers().await.unwrap().remove(0);
        consumer.place.after() == consumer.last && consumer.last > 90
    })
    .await;
    let expected: Vec<String> = tags.iter().filter(|tag| *tag != "bad-tag").cloned().collect();
    assert_eq!(tags_of(&receiver.taken()), expected);
    let largest = receiver.all().iter().map(|one| one.body.len()).max().unwrap();
    assert!(largest < 40 << 10, "{largest}");
    assert!(receiver.taken().len() < 20, "the others are sent together: {}", receiver.taken().len());
    let consumer = log.consumers().await.unwrap().remove(0);
    assert_eq!((consumer.given_up, consumer.last_given_up.unwrap().after()), (1, 2));
    let mut ids: Vec<String> = receiver.taken().iter().map(|one| one.headers["webhook-id"].clone()).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "each request has an id of its own");
}

/// The time of an event may be over with its first entry: each other one is tried a few times all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_entry_that_is_refused_has_some_attempts() {
    let receiver = Receiver::start(&[]).await;
    receiver.judge(|body| body.contains("bad-").then_some(413));
    let mut webhook = receiver.webhook("ci");
    webhook.format = WebhookFormat::Docker;
    webhook.give_up = Duration::from_secs(1);
    let api = api(vec![webhook]).await;
    push_tags(&api, &["bad-1".to_owned(), "bad-2".to_owned()]).await;
    let log = api.registry.store().event_log().unwrap();
    until("all is sent", async || {
        let consumer = log.consumers().await.unwrap().remove(0);
        consumer.given_up == 1 && consumer.place.after() == consumer.last
    })
    .await;
    let tags: Vec<Vec<String>> =
        receiver.all().iter().map(|one| tags_of(std::slice::from_ref(one))).collect();
    for tag in ["bad-1", "bad-2"] {
        let attempts = tags.iter().filter(|tags| **tags == [tag]).count();
        assert!(attempts >= 3, "{tag}: {attempts}");
    }
}

/// A webhook that is removed while a server has it gets nothing more, is not brought back by that server, and begins where the
/// configuration is read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_was_removed_comes_back_where_it_begins() {
    let receiver = Receiver::start(&[]).await;
    receiver.judge(|_| Some(500));
    let api = api(vec![receiver.webhook("ci")]).await;
    let log = api.registry.store().event_log().unwrap();
    api.image("a", "v1", b"1").await;
    receiver.wait_for("it fails", |one| !one.all().is_empty()).await;
    assert!(log.forget("ci").await.unwrap());
    receiver.judge(|_| None);
    api.image("a", "v2", b"2").await;
    // Longer than the pause after the first failures, and than what is asked every half second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(log.consumers().await.unwrap().is_empty(), "the server does not bring it back");
    let seen = receiver.taken().len();
    api.registry.set_webhooks(vec![receiver.webhook("ci")]).unwrap();
    until("it begins", async || !log.consumers().await.unwrap().is_empty()).await;
    api.image("b", "v1", b"1").await;
    receiver.wait_for_taken(seen + 3).await;
    let taken = receiver.taken();
    assert!(
        taken[seen..]
            .iter()
            .all(|one| one.body.contains("b:v1") || one.body.contains("\"b\"") || one.body.contains("b@"))
    );
    // Nor does it come back when the server ends.
    log.forget("ci").await.unwrap();
    api.registry.stop_webhooks().await;
    assert!(log.consumers().await.unwrap().is_empty());
    // A reload that was under way then begins nothing.
    api.registry.set_webhooks(vec![receiver.webhook("ci")]).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(log.consumers().await.unwrap().is_empty());
}

/// The commands: what is configured or served is not removed, one that was given up is sent again by its id, and what no
/// configuration has is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_show_what_was_given_up_and_keep_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[]).await;
    let (data, path) = (folder.path().join("data"), folder.path().join("config.toml"));
    let text = format!("{}give-up = \"100s\"\n", config(folder.path(), &[("ci", &receiver)]));
    std::fs::write(&path, &text).unwrap();
    let file = path.to_str().unwrap();
    let mut process = Process::start(&data, &["--config", file]);
    receiver.judge(|body| body.contains("tag.created").then_some(422));
    push(&process.url, "v1", "1").await;
    receiver.wait_for("it is refused", |one| one.all().len() >= 3).await;
    let command =
        |args: &[&str]| run(&[args, &["--data", data.to_str().unwrap(), "--config", file]].concat(), "");
    let list = || {
        let output = command(&["webhook", "ls", "--format", "json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str::<serde_json::Value>(text.lines().next().unwrap_or("null")).unwrap()
    };
    until("it is given up", async || list()["given_up"] == 1).await;
    let listed = list();
    let id = listed["last_given_up"].as_str().unwrap().to_owned();
    assert!(id.ends_with("-3") && listed["failure"].is_null(), "{listed}");
    let shown = String::from_utf8(command(&["webhook", "ls"]).stdout).unwrap();
    assert!(shown.contains(&format!("1 given up (the last {id})")), "{shown}");
    let refused = command(&["webhook", "rm", "ci"]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("configuration still has"), "{}", stderr(&refused));
    receiver.judge(|_| None);
    assert!(command(&["webhook", "replay", "ci", "--from", &id]).status.success());
    receiver.wait_for("it is sent again", |one| one.taken().iter().any(|one| one.number() == 3)).await;
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    // The table was taken out: the server says so, and the webhook may go.
    std::fs::write(&path, "[events]\nenabled = true\n").unwrap();
    let (log_file, mut program) = (folder.path().join("log"), Command::new(PROGRAM));
    program.stderr(std::fs::File::create(&log_file).unwrap());
    let process = Process::start_by(program, &data, &["--config", file]);
    until("the server says so", async || {
        let log = std::fs::read_to_string(&log_file).unwrap();
        log.lines().any(|line| line.contains("not in the configuration") && line.contains("ci"))
    })
    .await;
    push(&process.url, "v2", "2").await;
    assert!(command(&["webhook", "rm", "ci"]).status.success());
    assert!(list().is_null());
    // A replay brings back one that the configuration has.
    std::fs::write(&path, &text).unwrap();
    assert!(command(&["webhook", "replay", "ci", "--since", "oldest"]).status.success());
    assert_eq!(list()["waiting"], 5);
}

/// What keeps a server from starting, or a signature from being one, is found before.
#[test]
fn a_mistake_in_a_webhook_is_found_by_a_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("empty"), "whsec_\n").unwrap();
    let check = |rest: &str| {
        std::fs::write(path("config.toml"), format!("[[webhook]]\nname = \"ci\"\n{rest}\n")).unwrap();
        run(&["config", "check", "--config", &path("config.toml")], "")
    };
    for (wrong, part) in [
        ("url = \"ftp://bad\"".to_owned(), "http"),
        ("url = \"https://x\"\nheaders = { \"bad name\" = \"x\" }".to_owned(), "bad name"),
        (format!("url = \"https://x\"\nsecret-file = {:?}", path("none")), "none"),
        (format!("url = \"https://x\"\nsecret-file = {:?}", path("empty")), "16 bytes"),
        (format!("url-file = {:?}", path("empty")), "http"),
    ] {
        let output = check(&wrong);
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains(part) && text.contains("ci"), "{wrong}: {text}");
    }
    let warned = check("url = \"http://ci.example.com/hidden\"");
    assert!(warned.status.success());
    assert!(
        stderr(&warned).contains("plain HTTP") && !stderr(&warned).contains("hidden"),
        "{}",
        stderr(&warned)
    );
    assert_eq!(stderr(&check("url = \"https://ci.example.com\"")), "");
}

/// Two programs on PostgreSQL: one delivers, the other one goes on when that is killed during an outage of the receiver, and what was
/// tried counts for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_postgres_deliver_each_event_in_order() {
    let database: Option<&PostgresServer> = given("webhooks on PostgreSQL", PostgresServer::shared());
    let Some(database) = database else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), database.url("webhooks"));
    let (data, path) = (folder.path().join("blobs"), folder.path().join("config.toml"));
    let receiver = Receiver::start(&[]).await;
    std::fs::write(&path, config(folder.path(), &[("ci", &receiver)])).unwrap();
    let arguments = ["--database", &url, "--config", path.to_str().unwrap()];
    let mut first = Process::start(&data, &arguments);
    push(&first.url, "v0", "0").await;
    receiver.wait_for_taken(3).await;
    // The first one has it, and keeps it while there is work.
    let second = Process::start(&data, &arguments);
    for number in 1..10 {
        let url = if number % 2 == 0 { &first.url } else { &second.url };
        push(url, &format!("v{number}"), &number.to_string()).await;
    }
    receiver.wait_for_taken(21).await;
    assert_eq!(numbers(&receiver.all()), (1..=21).collect::<Vec<u64>>());
    let tried = || {
        let args =
            ["webhook", "ls", "--format", "json", "--data", data.to_str().unwrap(), "--database", &url];
        let listed = run(&args, "");
        assert!(listed.status.success(), "{}", stderr(&listed));
        let text = String::from_utf8(listed.stdout).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["tried_seconds"].as_u64()
    };
    receiver.judge(|_| Some(503));
    push(&first.url, "v10", "10").await;
    until("it was tried for some seconds", async || tried() >= Some(3)).await;
    let (before, attempts) = (tried(), receiver.all().len());
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    receiver.wait_for("the other one tries", |one| one.all().len() > attempts + 1).await;
    let after = tried();
    // Some seconds pass until the first one's time is over, in which nobody tries.
    assert!(after >= before && after <= before.map(|seconds| seconds + 10), "{before:?} {after:?}");
    receiver.judge(|_| None);
    push(&second.url, "v11", "11").await;
    receiver
        .wait_for("all are taken", |one| one.taken().last().is_some_and(|last| last.number() == 25))
        .await;
    let mut taken = numbers(&receiver.taken());
    taken.dedup();
    assert_eq!(taken, (1..=25).collect::<Vec<u64>>());
}
