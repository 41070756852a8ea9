//! The audit log: every change has a line, also when the client goes away, and none is made while lines cannot be written.

use super::access::{basic, options, users};
use super::program::{Process, run, stderr};
use super::support::{Api, image};
use futures::FutureExt as _;
use http::Request;
use hyper_sdk::oci::{ImageIndex, Manifest};
use hyper_sdk::store::blob::MemoryBlobs;
use hyper_sdk::store::meta::{MemoryMeta, MemoryTokens, TokenStore as _};
use hyper_sdk::store::wrap::{FaultPlan, FaultyBlobs, FaultyMeta};
use hyper_sdk::store::{Composed, MemoryStore, PutManifest, RegistryStore as _};
use hyper_sdk::{Digest, ErrorKind, RepositoryName, Tag, media_type};
use hyper_server::auth::{Authorizer, PolicyFile};
use hyper_server::{AuditLog, ConnectionInfo, GarbageCollection, Registry, RegistryOptions};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The fields of a line that say what was done.
fn deeds(path: &Path) -> Vec<Value> {
    let mut lines = lines(path);
    for line in &mut lines {
        let fields = line.as_object_mut().unwrap();
        for known in ["time", "request_id", "user", "client"] {
            assert!(fields.remove(known).is_some(), "{known}");
        }
    }
    lines
}

fn audited(options: RegistryOptions) -> (TempDir, PathBuf, Api) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("log")).unwrap();
    let path = folder.path().join("log/audit.log");
    let options = RegistryOptions { audit: Some(AuditLog::open(&path).unwrap()), ..options };
    (folder, path, Api::with(options))
}

/// Waits until there are so many lines.
async fn wait_for(path: &Path, count: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while lines(path).len() < count {
        assert!(Instant::now() < end, "{:?}", lines(path));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_change_has_a_line_and_nothing_else_has() {
    let (_folder, path, api) = audited(RegistryOptions::default());
    let (bytes, digest) = api.image("team/app", "v1", b"content").await;
    let config = Digest::sha256(b"content");
    let by_digest = format!("/v2/team/app/manifests/{digest}?tag=a&tag=b");
    api.request("PUT", &by_digest, &[("content-type", media_type::OCI_MANIFEST)], bytes).await.expect(201);
    api.post(&format!("/v2/other/blobs/uploads/?mount={config}&from=team/app")).await.expect(201);
    api.post(&format!("/v2/third/blobs/uploads/?mount={config}")).await.expect(201);
    let upload = api.post("/v2/team/app/blobs/uploads/").await.expect(202).header("location").to_owned();
    api.request("PATCH", &upload, &[], "in ").await.expect(202);
    let wanted = Digest::sha256(b"in parts");
    api.request("PUT", &format!("{upload}?digest={wanted}"), &[], "parts").await.expect(201);
    let upload = api.post("/v2/team/app/blobs/uploads/").await.expect(202).header("location").to_owned();
    api.delete(&upload).await.expect(204);
    let streamed = vec![7; 300 << 10];
    let large = api.blob("team/app", &streamed).await;
    api.delete(&format!("/v2/team/app/blobs/{large}")).await.expect(202);
    api.delete("/v2/team/app/manifests/a").await.expect(202);
    api.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
    let done = |action: &str, repository: &str, digest: &Digest| json!({ "action": action, "repository": repository, "digest": digest, "outcome": "done" });
    let with = |mut line: Value, key: &str, value: Value| {
        line[key] = value;
        line
    };
    let expected = [
        done("push-blob", "team/app", &config),
        with(done("push-manifest", "team/app", &digest), "tags", json!(["v1"])),
        with(done("push-manifest", "team/app", &digest), "tags", json!(["a", "b"])),
        with(done("mount-blob", "other", &config), "from", json!("team/app")),
        with(done("mount-blob", "third", &config), "from", json!("other")),
        done("push-blob", "team/app", &wanted),
        json!({ "action": "cancel-upload", "repository": "team/app", "outcome": "done" }),
        done("push-blob", "team/app", &large),
        done("delete-blob", "team/app", &large),
        json!({ "action": "delete-tag", "repository": "team/app", "tags": ["a"], "outcome": "done" }),
        done("delete-manifest", "team/app", &digest),
    ];
    // The answer comes after the line: nothing is waited for.
    assert_eq!(deeds(&path), expected);
    api.get("/v2/team/app/tags/list").await;
    api.delete("/v2/team/app/manifests/none").await.expect(404);
    api.manifest("team/app", "v1", media_type::OCI_MANIFEST, b"{}").await.expect(400);
    let wrong = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"x"));
    for body in [vec![1; 10], vec![1; 300 << 10]] {
        api.request("POST", &wrong, &[], body).await.expect(400);
    }
    assert_eq!(deeds(&path).len(), expected.len(), "{:?}", deeds(&path));
    let metrics = api.get("/metrics").await.text().to_owned();
    assert!(metrics.contains("\nhyperregistry_audit_lines_total 11\n"), "{metrics}");
}

#[tokio::test]
async fn a_line_says_who_and_from_where_and_what_was_refused() {
    let file = users();
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("policy.toml");
    let text = "[[allow]]\nwho = [\"user:alice\"]\nrepositories = [\"team/**\"]\nactions = [\"admin\"]\n\
                [[allow]]\nwho = [\"user:bob\"]\nrepositories = [\"team/**\"]\nactions = [\"pull\", \"push\", \"create-tag\"]\n";
    std::fs::write(&rules, text).unwrap();
    let policy = PolicyFile::open(&rules).unwrap();
    let (_folder, path, api) = audited(RegistryOptions {
        authorizer: Some(Arc::new(policy)),
        trusted_proxies: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        ..options(Some(&file), None)
    });
    let request = |method: &str, path: String, who: &str, body: Vec<u8>| {
        let mut request = Request::builder().method(method).uri(path).header("x-request-id", "the-id");
        if !who.is_empty() {
            request = request.header("authorization", who);
        }
        let request = request.header("content-type", media_type::OCI_MANIFEST);
        let mut request =
            request.header("x-forwarded-for", "203.0.113.9").body(axum::body::Body::from(body)).unwrap();
        let local = ([127, 0, 0, 1], 5000).into();
        request.extensions_mut().insert(ConnectionInfo::new(([10, 1, 2, 3], 999).into(), local));
        let registry = api.registry.clone();
        async move { registry.handle(request).await.status().as_u16() }
    };
    let (alice, bob) = (basic("alice", "pass:word"), basic("bob", "b"));
    let blob = Digest::sha256(b"x");
    let push = format!("/v2/team/app/blobs/uploads/?digest={blob}");
    assert_eq!(request("POST", push, &alice, b"x".to_vec()).await, 201);
    let tagged = |n: &[u8]| (image(n).to_bytes(), "/v2/team/app/manifests/v1".to_owned());
    let (bytes, to) = tagged(b"x");
    assert_eq!(request("PUT", to.clone(), &alice, bytes.to_vec()).await, 201);
    let pushed = Digest::sha256(&bytes);
    let first = lines(&path);
    assert_eq!(first.len(), 2);
    for line in &first {
        assert_eq!((&line["user"], &line["client"]), (&json!("alice"), &json!("203.0.113.9")));
        assert_eq!(line["request_id"], "the-id");
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
    }
    // Bob may push, but not delete, nor move a tag, nor anything elsewhere. Others are not known, and leave no line.
    for (method, path, who) in [
        ("DELETE", to.clone(), &bob),
        ("DELETE", format!("/v2/team/app/manifests/{pushed}"), &bob),
        ("DELETE", format!("/v2/team/app/blobs/{blob}"), &bob),
        ("POST", "/v2/elsewhere/blobs/uploads/".to_owned(), &bob),
        ("PUT", "/v2/elsewhere/manifests/x".to_owned(), &bob),
        ("DELETE", to.clone(), &String::new()),
        ("DELETE", to.clone(), &basic("bob", "wrong")),
    ] {
        let status = request(method, path.clone(), who, Vec::new()).await;
        assert!([401, 403].contains(&status), "{method} {path} {status}");
    }
    let other = Manifest::sniff(ImageIndex::new(vec![]).to_bytes()).unwrap();
    let kind = media_type::OCI_INDEX;
    let moved =
        Request::builder().method("PUT").uri(&to).header("authorization", &bob).header("content-type", kind);
    let moved = moved.body(axum::body::Body::from(other.bytes().to_vec())).unwrap();
    assert_eq!(api.registry.handle(moved).await.status(), 403);
    let refused = lines(&path).split_off(2);
    let seen: Vec<_> =
        refused.iter().map(|l| (l["action"].as_str().unwrap(), l["repository"].as_str().unwrap())).collect();
    let expected = [
        ("delete-tag", "team/app"),
        ("delete-manifest", "team/app"),
        ("delete-blob", "team/app"),
        ("push-blob", "elsewhere"),
        ("push-manifest", "elsewhere"),
        ("push-manifest", "team/app"),
    ];
    assert_eq!(seen, expected);
    assert!(refused.iter().all(|l| l["user"] == "bob" && l["outcome"] == "refused"), "{refused:?}");
    assert_eq!(refused[5]["digest"], json!(other.digest()));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_line_of_its_change() {
    let (_folder, path, api) = audited(RegistryOptions::default());
    let index = ImageIndex::new(vec![]).to_bytes();
    let digest = Digest::sha256(b"small");
    for (n, (method, uri, body)) in [
        ("PUT", "/v2/a/manifests/v1".to_owned(), index.to_vec()),
        ("POST", format!("/v2/a/blobs/uploads/?digest={digest}"), b"small".to_vec()),
        ("DELETE", format!("/v2/a/blobs/{digest}"), Vec::new()),
        ("DELETE", "/v2/a/manifests/v1".to_owned(), Vec::new()),
    ]
    .into_iter()
    .enumerate()
    {
        let request =
            Request::builder().method(method).uri(uri).header("content-type", media_type::OCI_INDEX);
        let request = request.body(axum::body::Body::from(body)).unwrap();
        let registry = api.registry.clone();
        // Polled once: the change has begun, in a task of its own, and the answer is dropped.
        let answer = Box::pin(async move { registry.handle(request).await }).now_or_never();
        assert!(answer.is_none());
        wait_for(&path, n + 1).await;
    }
    let seen: Vec<_> = deeds(&path).iter().map(|l| l["action"].as_str().unwrap().to_owned()).collect();
    assert_eq!(seen, ["push-manifest", "push-blob", "delete-blob", "delete-tag"]);
    assert!(deeds(&path).iter().all(|l| l["outcome"] == "done"), "{:?}", deeds(&path));
}

#[tokio::test]
async fn while_lines_cannot_be_written_no_change_begins() {
    let (folder, path, api) = audited(RegistryOptions::default());
    api.blob("a", b"one").await;
    let log = folder.path().join("log");
    std::fs::rename(&log, folder.path().join("gone")).unwrap();
    // Nobody knows yet: the change is made, and its line is kept.
    let two = api.blob("a", b"two").await;
    let push = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"three"));
    for (method, path) in [
        ("POST", push.as_str()),
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/x"),
        ("DELETE", "/v2/a/manifests/x"),
        ("DELETE", &format!("/v2/a/blobs/{two}")),
    ] {
        let reply = api.request(method, path, &[], "three").await.refused(503, "UNAVAILABLE");
        assert_eq!(reply.header("retry-after"), "1", "{method} {path}");
    }
    api.get(&format!("/v2/a/blobs/{two}")).await.expect(200);
    api.get("/readyz").await.refused(503, "UNAVAILABLE");
    api.get("/livez").await.expect(200);
    std::fs::create_dir(&log).unwrap();
    api.request("POST", &push, &[], "three").await.expect(201);
    api.get("/readyz").await.expect(200);
    let digests: Vec<_> = deeds(&path).iter().map(|l| l["digest"].clone()).collect();
    assert_eq!(digests, [json!(two), json!(Digest::sha256(b"three"))]);
    assert_eq!(deeds(&folder.path().join("gone/audit.log")).len(), 1);
}

/// A token that stands for a login for weeks is worth a line, when it is made and when the registry removes it.
#[tokio::test]
async fn tokens_of_logins_have_lines() {
    let (file, tokens) = (users(), MemoryTokens::default());
    let (folder, path, api) =
        audited(RegistryOptions { api_tokens: Some(Arc::new(tokens.clone())), ..options(Some(&file), None) });
    let log_in = async |query: &str| {
        let (query, proof) = (format!("/v2/token?service=x{query}"), basic("alice", "pass:word"));
        api.request("GET", &query, &[("authorization", &proof)], "").await.expect(200).json()
    };
    log_in("").await;
    let refresh = log_in("&offline_token=true").await["refresh_token"].as_str().unwrap().to_owned();
    let kept = tokens.tokens(None, 10).await.unwrap().items;
    assert_eq!(lines(&path)[0]["user"], "alice");
    assert_eq!(
        deeds(&path),
        [json!({"action": "create-token", "repository": null, "token": kept[0].id, "outcome": "done"})]
    );
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&refresh[20..]));

    // Without a log a client gets its token, and keeps the password.
    std::fs::rename(folder.path().join("log"), folder.path().join("gone")).unwrap();
    let push = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"one"));
    let proof = basic("alice", "pass:word");
    api.request("POST", &push, &[("authorization", &proof)], "one").await.expect(201);
    let reply = log_in("&offline_token=true").await;
    assert!(reply["token"].is_string() && reply["refresh_token"].is_null(), "{reply}");
    assert_eq!(tokens.tokens(None, 10).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_renamed_file_is_made_anew() {
    let (folder, path, api) = audited(RegistryOptions::default());
    api.blob("a", b"one").await;
    std::fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
    api.blob("a", b"two").await;
    assert_eq!(deeds(&path).len(), 1);
    assert_eq!(deeds(&folder.path().join("audit.log.1")).len(), 1);
}

#[tokio::test]
async fn what_garbage_collection_removes_has_a_line() {
    let store = Arc::new(MemoryStore::default());
    let name = RepositoryName::parse("team/app").unwrap();
    let manifest = |n: &str| {
        let annotations = [("n".to_owned(), n.to_owned())].into();
        Manifest::sniff(ImageIndex { annotations, ..ImageIndex::new(vec![]) }.to_bytes()).unwrap()
    };
    let (goes, stays) = (manifest("goes"), manifest("stays"));
    store.put_manifest(&name, PutManifest::new(goes.clone(), [])).await.unwrap();
    store.put_manifest(&name, PutManifest::new(stays, [Tag::latest()])).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let collection =
        GarbageCollection { every: Duration::from_millis(10), untagged_after: Some(Duration::ZERO) };
    let options = RegistryOptions {
        audit: Some(AuditLog::open(&path).unwrap()),
        garbage_collection: Some(collection),
        ..RegistryOptions::default()
    };
    let registry = Registry::new(store.clone(), options).unwrap();
    wait_for(&path, 1).await;
    // More collections find nothing more.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(registry);
    let line = lines(&path).remove(0);
    for nobody in ["user", "request_id", "client"] {
        assert_eq!(line[nobody], Value::Null);
    }
    let digest = goes.digest();
    let expected = json!({ "action": "collect-manifest", "repository": "team/app", "digest": digest, "outcome": "done" });
    assert_eq!(deeds(&path), [expected]);
    let gone = store.get_manifest(&name, &digest.clone().into()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::ManifestUnknown);
    store.get_manifest(&name, &Tag::latest().into()).await.unwrap();
}

/// A registry on a store whose next change fails once it is made.
fn failing() -> (TempDir, PathBuf, Api, FaultPlan) {
    let plan = FaultPlan::none();
    let (blobs, meta) = (MemoryBlobs::default(), MemoryMeta::default());
    let store = Composed::new(FaultyBlobs::new(blobs, plan.clone()), FaultyMeta::new(meta, plan.clone()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let options =
        RegistryOptions { audit: Some(AuditLog::open(&path).unwrap()), ..RegistryOptions::default() };
    let api = Api { registry: Registry::new(Arc::new(store), options).unwrap() };
    (folder, path, api, plan)
}

#[tokio::test]
async fn the_line_of_a_change_that_the_store_broke_off_says_that_its_end_is_unknown() {
    let (_folder, path, api, plan) = failing();
    let index = ImageIndex::new(vec![]).to_bytes();
    let mut unknown = 0;
    // Whichever operation fails: there is a line unless the registry has said what was wrong with the request.
    for k in 1..20 {
        plan.after_the_operation(true);
        plan.fail_at(k);
        let status = api.manifest("a", &format!("v{k}"), media_type::OCI_INDEX, &index).await.status.as_u16();
        let has_failed = plan.has_failed();
        plan.fail_at(0);
        let last = deeds(&path).pop().unwrap_or_default();
        assert_eq!(last["tags"], json!([format!("v{k}")]), "{status}");
        assert_eq!(last["outcome"], if status == 201 { "done" } else { "unknown" });
        unknown += u32::from(status != 201);
        if !has_failed {
            break;
        }
    }
    assert!(unknown > 0);
}

#[tokio::test]
async fn a_user_without_rights_cannot_fill_the_room_of_other_lines() {
    let file = users();
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("policy.toml");
    let text = "[[allow]]\nwho = [\"user:alice\"]\nrepositories = [\"**\"]\nactions = [\"admin\"]\n";
    std::fs::write(&rules, text).unwrap();
    let policy: Arc<dyn Authorizer> = Arc::new(PolicyFile::open(&rules).unwrap());
    let (folder, path, api) =
        audited(RegistryOptions { authorizer: Some(policy), ..options(Some(&file), None) });
    let (alice, bob) = (basic("alice", "pass:word"), basic("bob", "b"));
    let digest = Digest::sha256(b"x");
    let tags: String = (0..500).map(|n| format!("&tag=t{n}")).collect();
    let refused = format!("/v2/a/manifests/{digest}?{}", &tags[1..]);
    api.request("PUT", &refused, &[("authorization", &bob)], "").await.expect(403);
    assert!(std::fs::metadata(&path).unwrap().len() < 1000, "{:?}", lines(&path));
    let log = folder.path().join("log");
    std::fs::rename(&log, folder.path().join("gone")).unwrap();
    let push = format!("/v2/a/blobs/uploads/?digest={digest}");
    api.request("POST", &push, &[("authorization", &alice)], "x").await.expect(201);
    for _ in 0..50 {
        api.request("PUT", &refused, &[("authorization", &bob)], "").await.expect(403);
    }
    std::fs::create_dir(&log).unwrap();
    api.request("POST", &push, &[("authorization", &alice)], "x").await.expect(201);
    let users: Vec<_> = lines(&path).iter().map(|l| l["user"].as_str().unwrap().to_owned()).collect();
    assert_eq!(users, ["alice", "alice"]);
    let metrics = api.get("/metrics").await.text().to_owned();
    assert!(metrics.contains("\nhyperregistry_audit_lines_lost_total 50\n"), "{metrics}");
}

#[tokio::test]
async fn a_body_that_was_held_back_changes_nothing_while_lines_cannot_be_written() {
    let (folder, path, api) = audited(RegistryOptions::default());
    let digest = Digest::sha256([7; 300 << 10]);
    let index = ImageIndex::new(vec![]).to_bytes();
    let held = |method: &str, uri: String, bytes: Vec<u8>| {
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        let body = futures::stream::once(async move {
            let _ = receive.await;
            Ok::<_, std::io::Error>(bytes)
        });
        let request =
            Request::builder().method(method).uri(uri).header("content-type", media_type::OCI_INDEX);
        let request = request.body(axum::body::Body::from_stream(body)).unwrap();
        let registry = api.registry.clone();
        (send, tokio::spawn(async move { registry.handle(request).await.status().as_u16() }))
    };
    let upload = api.post("/v2/a/blobs/uploads/").await.expect(202).header("location").to_owned();
    let (send, blob) = held("PUT", format!("{upload}?digest={digest}"), vec![7; 300 << 10]);
    let (send_too, manifest) = held("PUT", "/v2/a/manifests/v1".to_owned(), index.to_vec());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let log = folder.path().join("log");
    std::fs::rename(&log, folder.path().join("gone")).unwrap();
    api.blob("a", b"the one that notices").await;
    send.send(()).unwrap();
    send_too.send(()).unwrap();
    assert_eq!((blob.await.unwrap(), manifest.await.unwrap()), (503, 503));
    api.get(&format!("/v2/a/blobs/{digest}")).await.expect(404);
    api.get("/v2/a/manifests/v1").await.expect(404);
    std::fs::create_dir(&log).unwrap();
    // The bytes of the upload have stayed.
    api.request("PUT", &format!("{upload}?digest={digest}"), &[], "").await.expect(201);
    assert_eq!(lines(&path).len(), 2);
}

#[tokio::test]
async fn the_program_writes_the_file_that_its_flag_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let server = Process::start(&folder.path().join("data"), &["--audit-log", path.to_str().unwrap()]);
    let digest = Digest::sha256(b"x");
    let url = format!("{}/v2/a/blobs/uploads/?digest={digest}", server.url);
    assert_eq!(reqwest::Client::new().post(url).body("x").send().await.unwrap().status(), 201);
    let line = lines(&path).remove(0);
    assert_eq!((line["client"].as_str(), line["user"].as_str()), (Some("127.0.0.1"), None));
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[log]\naudit = \"/none/audit.log\"\n").unwrap();
    let config = config.to_str().unwrap();
    for command in
        [["config", "check", "--config", config], ["serve", "--listen=127.0.0.1:0", "--config", config]]
    {
        let output = run(&command, "");
        assert!(!output.status.success() && stderr(&output).contains("/none/audit.log"), "{output:?}");
    }
}
