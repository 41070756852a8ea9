//! Events: the API with a cursor, the history of a tag, who sees what, and the commands.

use super::access::{basic, users};
use super::program::{Process, run, stderr};
use super::support::{Api, image, memory};
use axum::body::Body;
use hyper_sdk::oci::ImageIndex;
use hyper_sdk::store::EventRules;
use hyper_sdk::{Digest, media_type};
use hyper_server::auth::PolicyFile;
use hyper_server::{Events, Registry, RegistryOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn recording() -> RegistryOptions {
    RegistryOptions { events: Some(Events::default()), ..RegistryOptions::default() }
}

/// What each event is about.
fn shown(answer: &Value) -> Vec<String> {
    let events = answer["events"].as_array().unwrap();
    let text = |event: &Value| {
        let kind = event["type"].as_str().unwrap().strip_prefix("hyperregistry.").unwrap();
        let subject = event["subject"].as_str().unwrap().split('@').next().unwrap();
        format!("{kind} {subject}")
    };
    events.iter().map(text).collect()
}

#[tokio::test]
async fn events_are_read_with_a_cursor() {
    let api = Api::with(recording());
    let (_, digest) = api.image("team/app", "v1", b"1").await;
    let all = api.get("/v2/_hyper/events").await.expect(200).json();
    let expected = ["repository.created team/app", "manifest.pushed team/app", "tag.created team/app:v1"];
    assert_eq!(shown(&all), expected);
    let event = &all["events"][2];
    assert_eq!((&event["specversion"], &event["source"]), (&json!("1.0"), &json!("/v2/")));
    assert_eq!((&event["data"]["digest"], &event["data"]["tag"]), (&json!(digest), &json!("v1")));
    let id = event["data"]["by"]["request_id"].as_str().unwrap();
    assert!(!id.is_empty());
    let next = all["next"].as_str().unwrap();
    assert_eq!((event["id"].as_str().unwrap(), &all["more"]), (next, &json!(false)));

    let none = api.get(&format!("/v2/_hyper/events?since={next}")).await.expect(200).json();
    assert_eq!((none["events"].as_array().unwrap().len(), &none["next"]), (0, &json!(next)));
    api.image("team/app", "v1", b"2").await;
    api.delete("/v2/team/app/manifests/v1").await.expect(202);
    let first = api.get(&format!("/v2/_hyper/events?since={next}&n=2")).await.expect(200).json();
    assert_eq!(shown(&first), ["manifest.pushed team/app", "tag.moved team/app:v1"]);
    assert_eq!(first["more"], json!(true));
    let rest = format!("/v2/_hyper/events?since={}", first["next"].as_str().unwrap());
    assert_eq!(shown(&api.get(&rest).await.expect(200).json()), ["tag.deleted team/app:v1"]);
    assert_eq!(shown(&api.get("/v2/_hyper/events?since=now").await.json()).len(), 0);
    assert_eq!(shown(&api.get("/v2/_hyper/events?n=0").await.json()).len(), 0);

    for (query, status) in [
        ("since=nonsense", 400),
        ("since=memory-99", 410),
        ("since=another-0", 410),
        ("wait=soon", 400),
        ("n=-1", 400),
    ] {
        api.get(&format!("/v2/_hyper/events?{query}")).await.expect(status);
    }
    api.get("/v2/_hyper/events?since=another-0").await.refused(410, "CURSOR_GONE");
    api.post("/v2/_hyper/events").await.refused(405, "UNSUPPORTED");
    let extensions = api.get("/v2/_oci/ext/discover").await.expect(200).json();
    let names: Vec<&Value> =
        extensions["extensions"].as_array().unwrap().iter().map(|e| &e["name"]).collect();
    assert!(names.contains(&&json!("_hyper")), "{names:?}");
}

#[tokio::test]
async fn a_request_waits_for_an_event_and_not_for_ever() {
    let api = Api::with(recording());
    api.image("a", "v1", b"1").await;
    let start = Instant::now();
    let none = api.get("/v2/_hyper/events?since=now&wait=1").await.expect(200).json();
    assert_eq!(shown(&none).len(), 0);
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    let start = Instant::now();
    let push = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        api.image("a", "v2", b"2").await;
    };
    let (answer, ()) = tokio::join!(api.get("/v2/_hyper/events?since=now&wait=20"), push);
    assert_eq!(shown(&answer.expect(200).json())[0], "manifest.pushed a");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Other readers have places, too.
#[tokio::test]
async fn one_caller_waits_in_few_requests() {
    let api = Api::with(recording());
    let wait = || api.get("/v2/_hyper/events?since=now&wait=3");
    let late = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        wait().await
    };
    let (waits, late) = tokio::join!(futures::future::join_all((0..16).map(|_| wait())), late);
    for one in waits {
        one.expect(200);
    }
    assert_eq!(late.header("retry-after"), "20");
    late.refused(429, "TOOMANYREQUESTS");
    wait().await.expect(200);
}

/// A push with many tags is a large event. However many there are, an answer has a few of them.
#[tokio::test]
async fn an_answer_is_bounded_and_the_next_one_goes_on() {
    let api = Api::with(recording());
    let tags: Vec<String> = (0..100).map(|number| format!("{number:03}-{}", "x".repeat(124))).collect();
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let body = ImageIndex::new(vec![]).to_bytes();
    let target = format!("/v2/a/manifests/{}?{}", Digest::sha256(&body), query.join("&"));
    for _ in 0..300 {
        let body = body.clone();
        api.request("PUT", &target, &[("content-type", media_type::OCI_INDEX)], body).await.expect(201);
    }
    let (mut since, mut numbers, mut answers) = (String::new(), Vec::new(), 0);
    loop {
        let answer = api.get(&format!("/v2/_hyper/events?n=1000&since={since}")).await.expect(200);
        assert!(answer.body.len() < 2_200_000, "{}", answer.body.len());
        let json = answer.json();
        for event in json["events"].as_array().unwrap() {
            numbers.push(event["sequence"].as_str().unwrap().parse::<u64>().unwrap());
        }
        since = json["next"].as_str().unwrap().to_owned();
        answers += 1;
        if json["more"] == false {
            break;
        }
    }
    let last = *numbers.last().unwrap();
    assert!(last > 400 && answers > 1, "{last} {answers}");
    assert_eq!(numbers, (1..=last).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_registry_without_events_says_so() {
    let api = Api::new();
    api.image("a", "v1", b"1").await;
    api.get("/v2/_hyper/events").await.refused(404, "UNSUPPORTED");
    api.get("/v2/a/_hyper/tags/v1/history").await.refused(404, "UNSUPPORTED");
    let extensions = api.get("/v2/_oci/ext/discover").await.expect(200);
    assert!(!extensions.text().contains("_hyper"));
}

#[tokio::test]
async fn the_history_of_a_tag_is_told_with_who_has_moved_it() {
    let api = Api::with(recording());
    let (_, one) = api.image("team/app", "v1", b"1").await;
    let (_, two) = api.image("team/app", "v1", b"2").await;
    api.image("team/app", "v2", b"2").await;
    api.delete("/v2/team/app/manifests/v1").await.expect(202);
    let history = api.get("/v2/team/app/_hyper/tags/v1/history").await.expect(200).json();
    let entries: Vec<(&Value, &Value, &Value)> = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["event"], &entry["digest"], &entry["former"]))
        .collect();
    let (one, two) = (json!(one), json!(two));
    assert_eq!(
        entries,
        [
            (&json!("tag.deleted"), &two, &Value::Null),
            (&json!("tag.moved"), &two, &one),
            (&json!("tag.created"), &one, &Value::Null),
        ]
    );
    assert_eq!(history["before"], Value::Null);
    let page = api.get("/v2/team/app/_hyper/tags/v1/history?n=2").await.expect(200).json();
    let before = page["before"].as_u64().unwrap();
    let rest = api.get(&format!("/v2/team/app/_hyper/tags/v1/history?n=2&before={before}")).await.json();
    assert_eq!(rest["history"].as_array().unwrap()[..], history["history"].as_array().unwrap()[2..]);
    api.get("/v2/team/app/_hyper/tags/-/history").await.expect(400);
}

/// Who may not pull from a repository does not learn of it, and who may only pull does not learn who works there.
#[tokio::test]
async fn events_are_those_of_the_repositories_that_the_caller_may_see() {
    let policy = "[[allow]]\nwho = [\"user:alice\"]\nrepositories = [\"**\"]\n\
         actions = [\"pull\", \"push\", \"create-tag\", \"move-tag\", \"delete\"]\n\
         [[allow]]\nwho = [\"user:bob\"]\nrepositories = [\"open/**\"]\nactions = [\"pull\"]\n";
    let (folder, users) = (tempfile::tempdir().unwrap(), users());
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, policy).unwrap();
    let options = RegistryOptions {
        htpasswd: Some(users.path().to_owned()),
        authorizer: Some(Arc::new(PolicyFile::open(&path).unwrap())),
        events: Some(Events { rules: EventRules { blobs: true }, ..Events::default() }),
        ..RegistryOptions::default()
    };
    let api = Api { registry: Registry::new(memory(), options).unwrap() };
    let (alice, bob) = (basic("alice", "pass:word"), basic("bob", "b"));
    let send = async |who: &str, method: &str, path: &str, body: Vec<u8>| {
        let headers = [("authorization", who), ("content-type", media_type::OCI_MANIFEST)];
        api.request(method, path, &headers, body).await
    };
    for name in ["open/app", "secret/app"] {
        let digest = hyper_sdk::Digest::sha256(b"x");
        let upload = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        send(&alice, "POST", &upload, b"x".to_vec()).await.expect(201);
        let manifest = image(b"x").to_bytes().to_vec();
        send(&alice, "PUT", &format!("/v2/{name}/manifests/v1"), manifest).await.expect(201);
    }
    let mount =
        format!("/v2/open/app/blobs/uploads/?mount={}&from=secret/app", hyper_sdk::Digest::sha256(b"x"));
    send(&alice, "POST", &mount, Vec::new()).await.expect(201);
    let events = async |who: &str| send(who, "GET", "/v2/_hyper/events", Vec::new()).await.expect(200).json();
    let (of_alice, of_bob) = (events(&alice).await, events(&bob).await);
    assert_eq!(of_alice["events"].as_array().unwrap().len(), 9);
    assert_eq!(of_alice["events"][8]["data"]["from"], "secret/app");
    assert_eq!(of_alice["events"][1]["data"]["by"]["actor"], "alice");
    let names = [
        "blob.pushed open/app",
        "repository.created open/app",
        "manifest.pushed open/app",
        "tag.created open/app:v1",
        "blob.mounted open/app",
    ];
    assert_eq!(shown(&of_bob), names);
    let text = of_bob.to_string();
    assert!(!text.contains("secret") && !text.contains("alice") && !text.contains("request_id"), "{text}");
    assert_eq!(of_bob["next"], of_alice["next"], "the cursor is after what was hidden");
    let history = async |who: &str, name: &str| {
        send(who, "GET", &format!("/v2/{name}/_hyper/tags/v1/history"), Vec::new()).await
    };
    assert_eq!(history(&alice, "open/app").await.expect(200).json()["history"][0]["by"]["actor"], "alice");
    assert_eq!(history(&bob, "open/app").await.expect(200).json()["history"][0]["by"], json!({}));
    history(&bob, "secret/app").await.expect(403);
    api.request("GET", "/v2/_hyper/events", &[], Body::empty()).await.expect(401);
    // A token for the catalog alone reads no tags.
    let token = "/v2/token?service=hyperregistry&scope=registry:catalog:*";
    let token = send(&alice, "GET", token, Vec::new()).await.expect(200).json();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    send(&bearer, "GET", "/v2/_catalog", Vec::new()).await.expect(200);
    assert_eq!(shown(&events(&bearer).await).len(), 0);
}

/// A server and the commands beside it, with what survives `kill -9`.
#[tokio::test]
async fn the_program_records_events_that_its_commands_print() {
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("config.toml"));
    std::fs::write(&config, "[events]\nenabled = true\nblobs = true\n").unwrap();
    let (data_text, config) = (data.to_str().unwrap(), config.to_str().unwrap());
    let mut process = Process::start(&data, &["--config", config]);
    let client = reqwest::Client::new();
    let digest = hyper_sdk::Digest::sha256(b"x");
    let upload = format!("{}/v2/a/b/blobs/uploads/?digest={digest}", process.url);
    assert_eq!(client.post(upload).body("x").send().await.unwrap().status(), 201);
    let put = client.put(format!("{}/v2/a/b/manifests/v1", process.url));
    let put = put.header("content-type", media_type::OCI_MANIFEST).body(image(b"x").to_bytes());
    assert_eq!(put.send().await.unwrap().status(), 201);
    process.child.kill().unwrap();
    process.child.wait().unwrap();

    let command = |args: &[&str]| {
        let output = run(&[args, &["--data", data_text, "--config", config]].concat(), "");
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = command(&["events"]);
    let kinds: Vec<&str> = text.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(kinds, ["blob.pushed", "repository.created", "manifest.pushed", "tag.created"], "{text}");
    assert!(text.lines().all(|line| line.contains("from 127.0.0.1")), "{text}");
    let json = command(&["events", "--format", "json"]);
    let third: Value = serde_json::from_str(json.lines().nth(2).unwrap()).unwrap();
    let since = third["id"].as_str().unwrap();
    assert_eq!(command(&["events", "--since", since]).lines().count(), 1);
    assert_eq!(command(&["events", "--since", "now"]), "");
    assert!(command(&["tag", "history", "a/b:v1"]).contains("tag.created"));
    assert_eq!(command(&["tag", "history", "a/b:v2"]), "");

    // A command that changes the store records that, too.
    let deleted = reqwest::Client::new();
    let process = Process::start(&data, &["--config", config]);
    let path = format!("{}/v2/a/b/manifests/v1", process.url);
    assert_eq!(deleted.delete(path).send().await.unwrap().status(), 202);
    drop(process);
    command(&["gc", "--untagged-after", "0s"]);
    let text = command(&["events", "--since", since]);
    assert!(text.contains("manifest.deleted") && text.contains("by collection"), "{text}");
    let wrong = run(&["events", "--since", "x", "--data", data_text], "");
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    let gone = run(&["events", "--since", "x-1", "--data", data_text], "");
    assert!(stderr(&gone).contains("without a cursor"), "{}", stderr(&gone));
}
