//! Quotas: what a client is told, that deletion makes room, several servers on one database, and the commands.

use super::program::{Process, run, stderr};
use super::support::{Api, image, index};
use axum::body::Body;
use hyper_sdk::clock::Clock;
use hyper_sdk::store::{CollectOptions, MemoryStore, QuotaLimits, QuotaNamespace, QuotaRule, QuotaRules};
use hyper_sdk::testing::{PostgresServer, given};
use hyper_sdk::{Digest, ErrorKind, media_type};
use hyper_server::{Registry, RegistryOptions};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

fn quotas(namespace: &str, limits: QuotaLimits) -> Arc<QuotaRules> {
    let namespace = QuotaNamespace::parse(namespace).unwrap();
    Arc::new(QuotaRules::new(vec![QuotaRule { namespace, limits }]).unwrap())
}

fn bytes(bytes: u64) -> QuotaLimits {
    QuotaLimits { bytes: Some(bytes), ..QuotaLimits::default() }
}

/// A clock that tests set.
#[derive(Debug)]
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_full_namespace_is_refused_until_something_was_deleted_and_collected() {
    let clock = Arc::new(Hands(AtomicI64::new(1_000_000)));
    let store = MemoryStore::default().with_clock(clock.clone());
    let content = b"a config of some bytes";
    let size = (image(content).to_bytes().len() + content.len()) as u64;
    let options = RegistryOptions { quotas: quotas("team", bytes(size)), ..RegistryOptions::default() };
    let api = Api { registry: Registry::new(Arc::new(store), options).unwrap() };
    let (_, digest) = api.image("team/app", "v1", content).await;

    let started = api.post("/v2/team/other/blobs/uploads/").await.refused(403, "DENIED").json();
    let message = started["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("namespace `team` is reached") && message.contains("delete images"),
        "{message}"
    );
    let (new, path) = (b"new", format!("/v2/team/app/blobs/uploads/?digest={}", Digest::sha256(b"new")));
    let put = api.request("POST", &path, &[], new.to_vec()).await.refused(403, "DENIED").json();
    let detail = json!({
        "namespace": "team", "resource": "bytes", "used": size.to_string(), "limit": size.to_string(), "added": "3",
    });
    assert_eq!(put["errors"][0]["detail"], detail);
    assert_eq!(api.head(&format!("/v2/team/app/blobs/{}", Digest::sha256(b"new"))).await.status, 404);
    let (large, length) = (vec![b'x'; 300 << 10], (300 << 10).to_string());
    let path = format!("/v2/team/app/blobs/uploads/?digest={}", Digest::sha256(&large));
    let length = [("content-length", length.as_str())];
    api.request("POST", &path, &length, large.clone()).await.refused(403, "DENIED");
    let other = index(vec![]).to_bytes();
    api.manifest("team/app", "v2", media_type::OCI_INDEX, &other).await.refused(403, "DENIED");
    api.get("/v2/team/app/manifests/v2").await.expect(404);
    // What is there costs nothing, and other namespaces have room.
    api.image("team/app", "v1", content).await;
    api.image("team/copy", "v1", content).await;
    api.image("elsewhere", "v1", b"whatever").await;
    let mounted = format!("/v2/team/app/blobs/uploads/?mount={}&from=elsewhere", Digest::sha256(b"whatever"));
    api.post(&mounted).await.refused(403, "DENIED");

    let metrics = api.get("/metrics").await.expect(200);
    for line in [
        format!("hyperregistry_quota_used{{namespace=\"team\",resource=\"bytes\"}} {size}"),
        format!("hyperregistry_quota_limit{{namespace=\"team\",resource=\"bytes\"}} {size}"),
        "hyperregistry_quota_refusals_total 5".to_owned(),
    ] {
        assert!(metrics.text().lines().any(|one| one == line), "{line}\n{}", metrics.text());
    }

    for repository in ["team/app", "team/copy"] {
        api.delete(&format!("/v2/{repository}/manifests/{digest}")).await.expect(202);
    }
    clock.0.fetch_add(3 * 24 * 60 * 60, Ordering::Relaxed);
    api.registry.store().collect(CollectOptions::default()).await.unwrap();
    api.blob("team/app", new).await;
    api.registry.set_quotas(quotas("team", bytes(4))).unwrap();
    api.manifest("team/app", "v2", media_type::OCI_INDEX, &other).await.refused(403, "DENIED");
    api.registry.set_quotas(quotas("team", bytes(size + 1000))).unwrap();
    api.manifest("team/app", "v2", media_type::OCI_INDEX, &other).await.expect(201);
    api.registry.set_quotas(Arc::default()).unwrap();
    api.image("team/app", "v3", &[b'x'; 5000]).await;
    // A large blob that the repository has can be sent again when the namespace is full.
    api.request("POST", &path, &length, large.clone()).await.expect(201);
    api.registry.set_quotas(quotas("team", bytes(1))).unwrap();
    api.request("POST", &path, &length, large).await.expect(201);
    api.registry.set_quotas(Arc::default()).unwrap();
    assert!(!api.get("/metrics").await.expect(200).text().contains("quota_used{"));
}

/// A proxy does not take out a server that has reached a quota: it can be read, and written when something was deleted.
#[tokio::test]
async fn a_registry_that_has_reached_its_quota_is_ready() {
    let api = Api::with(RegistryOptions { quotas: quotas("**", bytes(5)), ..RegistryOptions::default() });
    api.blob("a", b"12345").await;
    api.post("/v2/a/blobs/uploads/").await.refused(403, "DENIED");
    assert_eq!(api.get("/readyz").await.expect(200).text(), "ok\n");
    assert!(api.get("/metrics").await.expect(200).text().contains("\nhyperregistry_ready 1\n"));
}

/// The bytes of an upload that is refused at its end are gone, and so is its session.
#[tokio::test]
async fn an_upload_in_chunks_ends_at_the_quota() {
    let options = RegistryOptions { quotas: quotas("**", bytes(10)), ..RegistryOptions::default() };
    let api = Api::with(options);
    let location = async || api.post("/v2/a/blobs/uploads/").await.expect(202).header("location").to_owned();
    let path = location().await;
    api.request("PATCH", &path, &[], "12345").await.expect(202);
    api.request("PATCH", &path, &[], "678901").await.refused(403, "DENIED");
    api.get(&path).await.expect(404);
    api.blob("b", b"7 bytes").await;
    let path = location().await;
    let end = format!("{path}?digest={}", Digest::sha256("1234"));
    api.request("PUT", &end, &[], "1234").await.refused(403, "DENIED");
    api.get(&path).await.expect(404);
    let path = location().await;
    let end = format!("{path}?digest={}", Digest::sha256("7 bytes"));
    api.request("PUT", &end, &[], Body::from("7 bytes")).await.expect(201);
}

/// The limits of `*` are not those of a namespace with a rule of its own, and the smallest limit is the one that is named.
#[tokio::test]
async fn an_upload_that_grows_too_large_names_its_namespace() {
    let rule = |namespace: &str, most| QuotaRule {
        namespace: QuotaNamespace::parse(namespace).unwrap(),
        limits: bytes(most),
    };
    let quotas = QuotaRules::new(vec![rule("*", 10), rule("team", 20), rule("**", 1000)]).unwrap();
    let api = Api::with(RegistryOptions { quotas: Arc::new(quotas), ..RegistryOptions::default() });
    api.blob("team/a", b"five!").await;
    for (repository, allowed, said) in [("team/a", 20, "`team`"), ("new/a", 10, "`new`")] {
        let location = api.post(&format!("/v2/{repository}/blobs/uploads/")).await.expect(202);
        let path = location.header("location").to_owned();
        api.request("PATCH", &path, &[], "x".repeat(allowed)).await.expect(202);
        let refusal = api.request("PATCH", &path, &[], "x").await;
        assert!(refusal.text().contains(said), "{}", refusal.text());
        refusal.refused(403, "DENIED");
    }
}

#[tokio::test]
async fn a_store_that_cannot_enforce_quotas_is_refused() {
    let options = || RegistryOptions { quotas: quotas("a", bytes(1)), ..RegistryOptions::default() };
    let server = hyper_server::Server::start_on(
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        Arc::new(MemoryStore::default()),
        RegistryOptions::default(),
        Default::default(),
    )
    .unwrap();
    let capabilities = server.registry().store().capabilities();
    let other = Arc::new(super::http_store::HttpStore::new(server.url(), capabilities));
    let error = Registry::new(other.clone(), options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("quotas"), "{error}");
    Registry::new(other, RegistryOptions { read_only: true, ..options() }).unwrap();
}

const TWO: &str =
    "[[quota]]\nnamespace = \"team\"\nbytes = 1000\ntags = 6\n[[quota]]\nnamespace = \"*\"\nmanifests = 50\n";

/// Pushes to two servers at once. Returns how many were accepted and how many refused.
async fn push_all(servers: &[Process], count: usize) -> (usize, usize) {
    let client = reqwest::Client::new();
    let pushes = (0..count).map(|number| {
        let (client, url) = (client.clone(), servers[number % servers.len()].url.clone());
        tokio::spawn(async move {
            // Of each three two are the same.
            let content = format!("{:0100}", if number % 3 == 0 { number } else { number / 3 });
            let digest = Digest::sha256(&content);
            let to = format!("{url}/v2/team/app{number}/blobs/uploads/?digest={digest}");
            client.post(to).body(content).send().await.unwrap().status().as_u16()
        })
    });
    let (mut accepted, mut refused) = (0, 0);
    for push in pushes.collect::<Vec<_>>() {
        match push.await.unwrap() {
            201 => accepted += 1,
            403 => refused += 1,
            other => panic!("{other}"),
        }
    }
    (accepted, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_database_share_a_quota() {
    let server: Option<&PostgresServer> = given("quotas on PostgreSQL", PostgresServer::shared());
    let Some(server) = server else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url("quotas of two"));
    let (data, config) = (folder.path().join("blobs"), folder.path().join("quotas.toml"));
    std::fs::write(&config, TWO).unwrap();
    let more = ["--database", &url, "--config", config.to_str().unwrap()];
    let servers = [(); 2].map(|()| Process::start(&data, &more));
    let (accepted, refused) = push_all(&servers, 60).await;
    assert!(accepted >= 10 && refused > 0, "{accepted} {refused}");
    let command = |arguments: &[&str]| {
        let store =
            ["--data", data.to_str().unwrap(), "--database", &url, "--config", config.to_str().unwrap()];
        let output = run(&[&["quota"], arguments, &store].concat(), "");
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = command(&["ls", "--format", "json"]);
    let team: Value = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|one: &Value| one["namespace"] == "team")
        .unwrap();
    assert_eq!(team["used"], json!({"bytes": 1000, "tags": 0, "manifests": 0}));
    assert_eq!(team["per-cent"]["bytes"], 100);
    assert!(command(&["check"]).starts_with("0 of "));
}

#[tokio::test]
async fn the_commands_show_and_repair_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("quotas.toml"), TWO).unwrap();
    let command = |arguments: &[&str]| {
        let store = ["--data", &path("data"), "--config", &path("quotas.toml")];
        run(&[&["quota"], arguments, &store].concat(), "")
    };
    let text = |arguments: &[&str], status: i32| {
        let output = command(arguments);
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(text(&["ls"], 0), "NAMESPACE  RESOURCE  USED  LIMIT    USE\n", "there is no store");
    let server = Process::start(Path::new(&path("data")), &["--config", &path("quotas.toml")]);
    let (accepted, refused) = push_all(std::slice::from_ref(&server), 30).await;
    assert!(accepted >= 10 && refused > 0);
    let listed = text(&["ls"], 0);
    let line = listed.lines().find(|line| line.starts_with("team") && line.contains("bytes")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["team", "bytes", "1000", "1000", "100%"],
        "{listed}"
    );
    assert_eq!(text(&["check"], 0), "0 of 1 namespaces are counted wrong\n");
    // A fault changes the counts beside the server.
    let program = "import sqlite3, sys\nd = sqlite3.connect(sys.argv[1])\nd.execute('UPDATE quotas SET bytes = 900')\nd.commit()";
    let database = Path::new(&path("data")).join("hyper.db");
    assert!(Command::new("python3").args(["-c", program]).arg(database).status().unwrap().success());
    assert_eq!(
        text(&["check"], 3),
        "team: 900 bytes recorded and 1000 found\n1 of 1 namespaces are counted wrong\n"
    );
    let json: Value = serde_json::from_str(&text(&["check", "--format", "json"], 3)).unwrap();
    assert_eq!(
        (&json["right"], &json["recorded"]["bytes"], &json["found"]["bytes"]),
        (&json!(false), &json!(900), &json!(1000))
    );
    assert!(text(&["check", "--repair"], 0).contains("1 of 1 namespaces were counted anew"));
    assert_eq!(text(&["check"], 0), "0 of 1 namespaces are counted wrong\n");
    std::fs::write(path("quotas.toml"), "[[quota]]\nnamespace = \"team/*\"\nbytes = 1\n").unwrap();
    let output = command(&["ls"]);
    assert!(!output.status.success() && stderr(&output).contains("write `team`"), "{}", stderr(&output));
}
