//! Retention of tags: by a running server, by several on one database, and by the command.

use super::program::{Process, run, stderr};
use super::support::{Api, image};
use hyper_sdk::store::blob::MemoryBlobs;
use hyper_sdk::store::meta::MemoryMeta;
use hyper_sdk::store::{Composed, DiskStore, PutManifest, RetentionRule, RetentionRules, SharedStore};
use hyper_sdk::testing::{FrozenClock, PostgresServer, given};
use hyper_sdk::{Digest, RepositoryName, RepositoryPattern, Tag, TextPattern, media_type};
use hyper_server::auth::PolicyFile;
use hyper_server::{AuditLog, GarbageCollection, Registry, RegistryOptions, Retention};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const POLICY: &str = r#"
[[allow]]
who = ["anyone"]
repositories = ["**"]
actions = ["pull", "push", "create-tag", "move-tag", "delete"]

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]
"#;

const RULES: &str = r#"
[gc]
untagged-after = "720h"
[retention]
every = "200ms"
[[retention.rule]]
repositories = ["team/**"]
tags = ["v*"]
keep-tags = ["*"]
[[retention.rule]]
repositories = ["team/**"]
keep-newest = 2
keep-tags = ["latest"]
"#;

/// Keeps the newest of `team/**`, and `latest`.
fn newest(count: usize, every: Duration) -> Retention {
    let rule = RetentionRule {
        repositories: vec![RepositoryPattern::parse("team/**").unwrap()],
        tags: vec![TextPattern::of_tags("*").unwrap()],
        keep_newest: Some(count),
        keep_younger_than: None,
        keep_pulled_within: None,
        keep_tags: vec![TextPattern::of_tags("latest").unwrap()],
    };
    Retention { every, rules: Arc::new(RetentionRules::new(vec![rule]).unwrap()) }
}

/// A store in memory, and its clock.
fn clocked() -> (SharedStore, Arc<FrozenClock>) {
    let clock = Arc::new(FrozenClock::new(1_800_000_000));
    let meta = MemoryMeta::with_clock(clock.clone());
    (Arc::new(Composed::new(MemoryBlobs::default(), meta)), clock)
}

async fn tags(api: &Api, repository: &str) -> Vec<String> {
    let list = api.get(&format!("/v2/{repository}/tags/list")).await.expect(200).json();
    list["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// Waits until the tags are these.
async fn wait_for(api: &Api, repository: &str, expected: &[&str]) {
    let end = Instant::now() + Duration::from_secs(20);
    while tags(api, repository).await != expected {
        assert!(Instant::now() < end, "{:?}", tags(api, repository).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn metric(api: &Api, name: &str) -> u64 {
    let text = api.get("/metrics").await.expect(200);
    let line = text.text().lines().find_map(|line| line.strip_prefix(&format!("hyperregistry_{name} ")));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_server_deletes_old_tags_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("policy.toml"), POLICY).unwrap();
    let (store, clock) = clocked();
    let before = Api { registry: Registry::new(store.clone(), RegistryOptions::default()).unwrap() };
    let (bytes, digest) = before.image("team/app", "b1", b"one").await;
    before.manifest("team/app", "latest", media_type::OCI_MANIFEST, &bytes).await.expect(201);
    before.image("team/app", "b2", b"two").await;
    clock.advance(1);
    before.image("team/app", "b3", b"three").await;
    before.image("team/app", "v1", b"release").await;
    before.image("other", "b1", b"one").await;
    let options = RegistryOptions {
        retention: Some(newest(1, Duration::from_millis(50))),
        authorizer: Some(Arc::new(PolicyFile::open(&path("policy.toml")).unwrap())),
        audit: Some(AuditLog::open(&path("audit.log")).unwrap()),
        ..RegistryOptions::default()
    };
    let api = Api { registry: Registry::new(store, options).unwrap() };
    wait_for(&api, "team/app", &["b3", "latest", "v1"]).await;
    assert_eq!(tags(&api, "other").await, ["b1"]);
    api.get("/v2/team/app/manifests/b1").await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(api.get(&format!("/v2/team/app/manifests/{digest}")).await.expect(200).body, bytes);
    assert_eq!(metric(&api, "retention_tags_total").await, 2);
    let end = Instant::now() + Duration::from_secs(20);
    while metric(&api, "retention_runs_total").await < 2 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(metric(&api, "retention_failures_total").await, 0);
    let text = loop {
        let text = std::fs::read_to_string(path("audit.log")).unwrap();
        if text.lines().count() == 2 {
            break text;
        }
        assert!(Instant::now() < end, "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let deleted: Vec<&str> = lines.iter().map(|line| line["tags"][0].as_str().unwrap()).collect();
    assert_eq!(deleted, ["b1", "b2"]);
    assert_eq!(
        (&lines[0]["action"], &lines[0]["user"], &lines[0]["repository"], &lines[0]["digest"]),
        (&"expire-tag".into(), &Value::Null, &"team/app".into(), &digest.to_string().into())
    );
}

/// A tag that clients push again and again is never missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_beside_runs_lose_no_tag() {
    let every = Duration::from_millis(1);
    let collection = GarbageCollection { every: Duration::from_millis(5), untagged_after: None };
    let options = RegistryOptions {
        retention: Some(newest(3, every)),
        garbage_collection: Some(collection),
        ..RegistryOptions::default()
    };
    let (store, clock) = clocked();
    let api = Api { registry: Registry::new(store, options).unwrap() };
    for round in 0..100 {
        let content = format!("{{\"round\":{round}}}");
        // The last names come first. Three newer tags make the moved one old, just before it is pushed again.
        for own in ["a", "b", "c"].map(|own| format!("z{:04}{own}", 100 - round)) {
            api.image("team/app", &own, format!("{content}{own}").as_bytes()).await;
        }
        clock.advance(1);
        let (bytes, _) = api.image("team/app", "moved", content.as_bytes()).await;
        clock.advance(1);
        for _ in 0..3 {
            let got = api.get("/v2/team/app/manifests/moved").await.expect(200);
            assert_eq!(got.body, bytes, "in round {round}");
            tokio::task::yield_now().await;
        }
    }
    wait_for(&api, "team/app", &["moved", "z0001a", "z0001b", "z0001c"]).await;
}

#[tokio::test]
async fn a_server_that_is_read_only_deletes_nothing() {
    let (store, clock) = clocked();
    let writer = Api { registry: Registry::new(store.clone(), RegistryOptions::default()).unwrap() };
    for tag in ["b1", "b2"] {
        writer.image("team/app", tag, tag.as_bytes()).await;
        clock.advance(1);
    }
    let options = |read_only| RegistryOptions {
        read_only,
        retention: Some(newest(1, Duration::from_millis(10))),
        ..RegistryOptions::default()
    };
    let reader = Api { registry: Registry::new(store.clone(), options(true)).unwrap() };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(tags(&reader, "team/app").await, ["b1", "b2"]);
    let other = Api { registry: Registry::new(store, options(false)).unwrap() };
    wait_for(&other, "team/app", &["b2"]).await;
}

/// A folder with tags of `team/app`, in the order of their pushes, and of `other`.
async fn folder_with_tags(folder: &Path) -> Digest {
    let store: SharedStore = Arc::new(DiskStore::open(folder).await.unwrap());
    let name = |text: &str| RepositoryName::parse(text).unwrap();
    let mut last = Digest::sha256("");
    for (at, tag) in [
        ("team/app", "b1"),
        ("team/app", "b2"),
        ("team/app", "b3"),
        ("team/app", "latest"),
        ("team/app", "v1"),
        ("other", "b1"),
    ] {
        let config = Digest::sha256(tag);
        store.put_blob(&name(at), &config, tag.to_owned().into()).await.unwrap();
        let manifest = hyper_sdk::oci::Manifest::sniff(image(tag.as_bytes()).to_bytes()).unwrap();
        last = manifest.digest().clone();
        let put = PutManifest::new(manifest, [Tag::parse(tag).unwrap()]);
        store.put_manifest(&name(at), put).await.unwrap();
        if tag == "b1" {
            // Pushes of one second have one time.
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    }
    last
}

#[tokio::test]
async fn the_command_explains_and_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let digest = folder_with_tags(Path::new(&path("data"))).await;
    std::fs::write(path("rules.toml"), RULES).unwrap();
    let command = |arguments: &[&str]| {
        let store = ["--data", &path("data"), "--config", &path("rules.toml")];
        run(&[&["retention"], arguments, &store].concat(), "")
    };
    let ok = |arguments: &[&str]| {
        let output = command(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let goes = "team/app:b1 goes: rule 2: 2 are newer\n";
    assert_eq!(
        ok(&["explain", "team/app"]),
        format!(
            "{goes}team/app:b2 stays: rule 2: it is one of the newest 2\n\
             team/app:b3 stays: rule 2: it is one of the newest 2\n\
             team/app:latest stays: rule 2: `latest` keeps its name\n\
             team/app:v1 stays: rule 1: `*` keeps its name\n"
        )
    );
    assert_eq!(ok(&["explain", "other"]), "other:b1 stays: no rule is about it\n");
    let json: Value = serde_json::from_str(&ok(&["explain", "team/app:b1", "--format", "json"])).unwrap();
    assert_eq!((&json["tag"], &json["goes"], &json["rule"]), (&"b1".into(), &true.into(), &2.into()));
    assert_eq!(json["why"], "expired");
    assert_eq!(json["digest"], digest.to_string());
    for absent in ["absent", "team/app:absent"] {
        let output = command(&["explain", absent]);
        assert!(!output.status.success() && stderr(&output).contains("absent"), "{}", stderr(&output));
    }
    let sum = "1 of 5 tags in 1 repositories with rules\n";
    assert_eq!(ok(&["run", "--dry-run"]), format!("{goes}would delete {sum}"));
    let told = ok(&["run", "--dry-run", "--format", "json"]);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let expected = serde_json::json!({
        "dry-run": true, "repositories": 1, "tags": 5, "removed": 1, "changed": 0,
    });
    assert_eq!((&last["summary"], told.lines().count()), (&expected, 2));
    assert_eq!(ok(&["run", "--dry-run"]), format!("{goes}would delete {sum}"), "nothing was deleted");
    assert_eq!(ok(&["run"]), format!("{goes}deleted {sum}"));
    assert_eq!(ok(&["run"]), "deleted 0 of 4 tags in 1 repositories with rules\n");

    for (text, why) in [
        (String::new(), "no rule"),
        (format!("read-only = true\n{RULES}"), "read-only"),
        (format!("{RULES}keep-newst = 1\n"), "keep-newst"),
        (RULES.replace("keep-newest = 2\n", ""), "rule 2"),
    ] {
        std::fs::write(path("rules.toml"), text).unwrap();
        let output = command(&["run"]);
        assert!(!output.status.success() && stderr(&output).contains(why), "{}", stderr(&output));
    }
}

/// The rules of the policy hold for the command, too.
#[tokio::test]
async fn immutable_tags_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    folder_with_tags(Path::new(&path("data"))).await;
    std::fs::write(path("policy.toml"), POLICY).unwrap();
    let rule =
        "[[retention.rule]]\nrepositories = [\"**\"]\ntags = [\"v*\", \"b1\"]\nkeep-younger-than = \"1ms\"\n";
    let text = format!("[auth]\npolicy = \"{}\"\n{rule}", path("policy.toml"));
    std::fs::write(path("rules.toml"), text).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let output = run(&["retention", "run", "--data", &path("data"), "--config", &path("rules.toml")], "");
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("other:b1 goes") && text.contains("team/app:b1 goes"), "{text}");
    assert!(!text.contains("v1") && text.contains("deleted 2 of 6 tags"), "{text}");
}

/// Two servers run retention beside each other: each tag goes once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_database_delete_each_tag_once() {
    let server: Option<&PostgresServer> = given("retention on PostgreSQL", PostgresServer::shared());
    let Some(server) = server else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url("retention of two"));
    let (data, config) = (folder.path().join("blobs"), folder.path().join("rules.toml"));
    std::fs::write(&config, RULES).unwrap();
    let more = ["--database", &url, "--config", config.to_str().unwrap()];
    let servers = [(); 2].map(|()| Process::start(&data, &more));
    let client = reqwest::Client::new();
    let manifest = image(b"{}").to_bytes();
    let blob = format!("{}/v2/team/app/blobs/uploads/?digest={}", servers[0].url, Digest::sha256("{}"));
    assert_eq!(client.post(blob).body("{}").send().await.unwrap().status(), 201);
    for number in 0..40 {
        if number == 38 {
            // Pushes of one second have one time.
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        let put = client.put(format!("{}/v2/team/app/manifests/b{number:03}", servers[number % 2].url));
        let put = put.header("content-type", media_type::OCI_MANIFEST).body(manifest.clone());
        assert_eq!(put.send().await.unwrap().status(), 201);
    }
    let text = async |url: String| client.get(url).send().await.unwrap().text().await.unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let list: Value =
            serde_json::from_str(&text(format!("{}/v2/team/app/tags/list", servers[0].url)).await).unwrap();
        if list["tags"] == serde_json::json!(["b038", "b039"]) {
            break;
        }
        assert!(Instant::now() < end, "{list}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // They are counted after they are gone.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut deleted = 0;
    for server in &servers {
        let metrics = text(format!("{}/metrics", server.url)).await;
        let count = metrics.lines().find_map(|line| line.strip_prefix("hyperregistry_retention_tags_total "));
        deleted += count.unwrap().parse::<u64>().unwrap();
    }
    assert_eq!(deleted, 38);
}
