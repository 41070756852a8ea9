//! Undeletion: by the API, with its rights, and by the command.

use super::access::{basic, users};
use super::program::{Process, run, stderr};
use super::support::{Api, index};
use hyper_sdk::media_type;
use hyper_sdk::oci::Manifest;
use hyper_sdk::store::{
    DiskStore, PutManifest, QuotaLimits, QuotaNamespace, QuotaRule, QuotaRules, RegistryStore as _,
};
use hyper_sdk::{RepositoryName, Tag};
use hyper_server::auth::PolicyFile;
use hyper_server::{AuditLog, Cors, RegistryOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn with_window() -> RegistryOptions {
    RegistryOptions { undelete_window: Duration::from_secs(3600), ..RegistryOptions::default() }
}

async fn deleted(api: &Api, repository: &str) -> Vec<Value> {
    let list = api.get(&format!("/v2/{repository}/_hyper/deleted")).await.expect(200).json();
    list["deleted"].as_array().unwrap().clone()
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_comes_back() {
    let api = Api::with(with_window());
    let (bytes, digest) = api.image("team/app", "v1", b"1").await;
    assert_eq!(deleted(&api, "team/app").await, [Value::Null; 0]);
    api.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
    for reference in ["v1", digest.as_str()] {
        api.get(&format!("/v2/team/app/manifests/{reference}")).await.refused(404, "MANIFEST_UNKNOWN");
    }
    let listed = deleted(&api, "team/app").await;
    let tags: Vec<&Value> = listed.iter().map(|one| &one["tag"]).collect();
    assert!(tags.len() == 2 && tags.contains(&&Value::Null) && tags.contains(&&json!("v1")), "{listed:?}");
    assert!(listed.iter().all(|one| one["digest"] == json!(digest) && one["kept-until"].is_string()));
    let back = api.post("/v2/team/app/_hyper/deleted/v1").await.expect(201);
    assert_eq!(back.header("docker-content-digest"), digest.as_str());
    assert_eq!(back.header("location"), format!("/v2/team/app/manifests/{digest}"));
    assert_eq!(api.get("/v2/team/app/manifests/v1").await.expect(200).body, bytes);
    api.post("/v2/team/app/_hyper/deleted/v1").await.refused(404, "MANIFEST_UNKNOWN");
    api.post("/v2/team/app/_hyper/deleted/v1?replace=perhaps").await.expect(400);
    api.get("/v2/team/app/_hyper/deleted/v1").await.refused(405, "UNSUPPORTED");
    api.post("/v2/team/app/_hyper/deleted").await.refused(405, "UNSUPPORTED");
    // A tag that has moved.
    api.image("team/app", "v1", b"2").await;
    api.post("/v2/team/app/_hyper/deleted/v1").await.refused(409, "CONFLICT");
    api.post("/v2/team/app/_hyper/deleted/v1?replace=true").await.expect(201);
    assert_eq!(api.get("/v2/team/app/manifests/v1").await.expect(200).body, bytes);
}

#[tokio::test]
async fn a_purge_is_for_good() {
    let api = Api::with(with_window());
    let (_, digest) = api.image("team/app", "v1", b"1").await;
    let path = format!("/v2/team/app/_hyper/deleted/{digest}");
    api.delete(&path).await.refused(409, "CONFLICT");
    api.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
    api.delete("/v2/team/app/_hyper/deleted/v1").await.expect(400);
    api.delete(&path).await.expect(202);
    api.delete(&path).await.refused(404, "MANIFEST_UNKNOWN");
    api.post(&path).await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(deleted(&api, "team/app").await, [Value::Null; 0]);
}

#[tokio::test]
async fn an_emptied_repository_is_hidden_and_its_list_has_pages() {
    let api = Api::with(with_window());
    for tag in ["v1", "v2", "v3"] {
        let (_, digest) = api.image("team/app", tag, tag.as_bytes()).await;
        api.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
    }
    assert_eq!(api.get("/v2/_catalog").await.expect(200).json(), json!({ "repositories": [] }));
    let first = api.get("/v2/team/app/_hyper/deleted?n=4").await.expect(200);
    let link = first.header("link");
    assert!(link.starts_with("</v2/team/app/_hyper/deleted?n=4&last="), "{link}");
    let next = link.trim_start_matches('<').split('>').next().unwrap();
    let second = api.get(next).await.expect(200);
    assert_eq!(second.header("link"), "");
    let entries = |reply: &super::support::Reply| reply.json()["deleted"].as_array().unwrap().clone();
    let (first, second) = (entries(&first), entries(&second));
    assert_eq!((first.len(), second.len()), (4, 2));
    assert!(first.iter().all(|one| !second.contains(one)));
    assert_eq!(deleted(&api, "absent").await, [Value::Null; 0]);
    api.get("/v2/team/app/_hyper/deleted?n=x").await.expect(400);
    api.get("/v2/team/app/_hyper/deleted?last=x").await.expect(400);
    api.post("/v2/team/app/_hyper/deleted/v2").await.expect(201);
    assert_eq!(api.get("/v2/_catalog").await.expect(200).json(), json!({ "repositories": ["team/app"] }));
}

#[tokio::test]
async fn what_is_kept_counts_for_quotas_until_it_is_purged() {
    let limits = QuotaLimits { manifests: Some(1), ..QuotaLimits::default() };
    let rule = QuotaRule { namespace: QuotaNamespace::parse("team").unwrap(), limits };
    let quotas = Arc::new(QuotaRules::new(vec![rule]).unwrap());
    let api = Api::with(RegistryOptions { quotas, ..with_window() });
    let (_, digest) = api.image("team/app", "v1", b"1").await;
    api.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
    let other = index(vec![]).to_bytes();
    let push = async || api.manifest("team/app", "v2", media_type::OCI_INDEX, &other).await;
    push().await.refused(403, "DENIED");
    // It comes back although the quota is reached.
    api.post("/v2/team/app/_hyper/deleted/v1").await.expect(201);
    api.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
    push().await.refused(403, "DENIED");
    api.delete(&format!("/v2/team/app/_hyper/deleted/{digest}")).await.expect(202);
    push().await.expect(201);
}

#[tokio::test]
async fn without_a_window_nothing_comes_back() {
    let api = Api::new();
    api.image("team/app", "v1", b"1").await;
    api.delete("/v2/team/app/manifests/v1").await.expect(202);
    assert_eq!(deleted(&api, "team/app").await, [Value::Null; 0]);
    api.post("/v2/team/app/_hyper/deleted/v1").await.refused(404, "MANIFEST_UNKNOWN");
}

const POLICY: &str = r#"
[[allow]]
who = ["anyone"]
repositories = ["open/**"]
actions = ["pull", "push", "create-tag", "move-tag", "delete"]

[[allow]]
who = ["anyone"]
repositories = ["pushed/**"]
actions = ["pull", "push", "create-tag"]

[[allow]]
who = ["anyone"]
repositories = ["pulled/**"]
actions = ["pull"]

[[allow]]
who = ["anyone"]
repositories = ["untagged/**"]
actions = ["pull", "push"]

[[allow]]
who = ["user:alice"]
repositories = ["**"]
actions = ["admin"]

[[allow]]
who = ["anyone"]
repositories = ["blind/**"]
actions = ["push", "create-tag", "move-tag"]

[[immutable]]
repositories = ["open/**"]
tags = ["v*"]
"#;

#[tokio::test]
async fn an_undeletion_needs_the_rights_of_a_push() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, log) = (folder.path().join("policy.toml"), folder.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let all = Api::with(with_window());
    for repository in ["open/app", "pushed/app", "pulled/app", "blind/app", "untagged/app"] {
        let (_, digest) = all.image(repository, "latest", b"1").await;
        all.image(repository, "latest", b"2").await;
        let (_, gone) = all.image(repository, "v1", b"3").await;
        all.delete(&format!("/v2/{repository}/manifests/{gone}")).await.expect(202);
        assert_ne!(digest, gone);
    }
    let users = users();
    let options = RegistryOptions {
        htpasswd: Some(users.path().to_owned()),
        authorizer: Some(Arc::new(PolicyFile::open(&policy).unwrap())),
        audit: Some(AuditLog::open(&log).unwrap()),
        ..with_window()
    };
    let store = all.registry.store().clone();
    let api = Api { registry: hyper_server::Registry::new(store, options).unwrap() };
    // The audit log has what known users are refused.
    let bob = basic("bob", "b");
    let send = async |method: &str, path: &str| {
        api.request(method, path, &[("authorization", bob.as_str())], "").await
    };
    let alice = basic("alice", "pass:word");
    let admin = async |method: &str, path: &str| {
        api.request(method, path, &[("authorization", alice.as_str())], "").await
    };
    for (repository, may_create, may_move) in [
        ("pulled/app", 403, 403),
        ("blind/app", 403, 403),
        ("untagged/app", 403, 403),
        ("pushed/app", 201, 403),
        ("open/app", 201, 201),
    ] {
        let path = format!("/v2/{repository}/_hyper/deleted");
        // Who may only pull does not learn the names of what is gone, nor who may only push those of any tag.
        let status = if ["pulled/app", "blind/app"].contains(&repository) { 403 } else { 200 };
        let list = send("GET", &path).await.expect(status);
        assert_eq!(String::from_utf8_lossy(&list.body).contains("v1"), status == 200);
        send("POST", &format!("{path}/v1")).await.expect(may_create);
        send("POST", &format!("{path}/latest?replace=true")).await.expect(may_move);
    }
    let (_, gone) = all.image("pushed/app", "v2", b"4").await;
    all.delete(&format!("/v2/pushed/app/manifests/{gone}")).await.expect(202);
    let purged = format!("/v2/pushed/app/_hyper/deleted/{gone}");
    send("DELETE", &purged).await.refused(403, "DENIED");
    // An immutable tag stays where it is.
    all.image("open/app", "v1", b"5").await;
    let replaced = "/v2/open/app/_hyper/deleted/v1?replace=true";
    send("POST", replaced).await.refused(403, "DENIED");
    let back = admin("POST", replaced).await.expect(201).header("docker-content-digest").to_owned();
    // Without a tag no right to one is needed.
    let (_, gone) = all.image("untagged/app", "v2", b"6").await;
    all.delete(&format!("/v2/untagged/app/manifests/{gone}")).await.expect(202);
    send("POST", &format!("/v2/untagged/app/_hyper/deleted/{gone}")).await.expect(201);
    admin("DELETE", &purged).await.expect(202);
    admin("DELETE", &purged).await.expect(404);
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |action: &str, repository: &str| -> Vec<String> {
        let those = lines.iter().filter(|line| line["action"] == action && line["repository"] == repository);
        those.map(|line| line["outcome"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("undelete", "pulled/app"), ["refused", "refused"], "{text}");
    assert_eq!(of("undelete", "pushed/app"), ["done", "refused"], "{text}");
    assert_eq!(of("undelete", "open/app"), ["done", "done", "refused", "done"], "{text}");
    assert_eq!(of("undelete", "untagged/app"), ["refused", "refused", "done"], "{text}");
    assert_eq!(of("purge", "pushed/app"), ["refused", "done"], "{text}");
    let last = lines.iter().rev().find(|line| line["repository"] == "open/app").unwrap();
    assert_eq!((&last["digest"], &last["tags"]), (&json!(back), &json!(["v1"])), "what came back");
}

/// A browser sends a form of any page without asking, in the name of whoever reads it.
#[tokio::test]
async fn pages_of_other_origins_undelete_nothing() {
    let cors = Cors::new(["https://ui.example.com"], false, Duration::ZERO).unwrap();
    let api = Api::with(RegistryOptions { cors: Some(cors), ..with_window() });
    let (one, _) = api.image("team/app", "v1", b"1").await;
    let (two, _) = api.image("team/app", "v1", b"2").await;
    let path = "/v2/team/app/_hyper/deleted/v1?replace=true";
    let post = async |headers: &[(&str, &str)]| {
        let form = ("content-type", "application/x-www-form-urlencoded");
        api.request("POST", path, &[&[form], headers].concat(), "").await
    };
    for headers in [
        &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
    ] {
        post(headers).await.refused(403, "DENIED");
        assert_eq!(api.get("/v2/team/app/manifests/v1").await.expect(200).body, two, "{headers:?}");
    }
    post(&[("origin", "https://ui.example.com"), ("sec-fetch-site", "cross-site")]).await.expect(201);
    assert_eq!(api.get("/v2/team/app/manifests/v1").await.expect(200).body, one);
    post(&[("origin", "https://registry.example.com"), ("sec-fetch-site", "same-origin")]).await.expect(201);
    assert_eq!(api.get("/v2/team/app/manifests/v1").await.expect(200).body, two);
}

/// A browser adds the password that it remembers to a form of any page, also of one that may not use it.
#[tokio::test]
async fn pages_that_may_not_use_a_password_undelete_nothing_with_it() {
    let all = Api::with(with_window());
    let users = users();
    let page = "https://ui.example.com";
    for (credentials, origins, status) in [(false, "*", 403), (false, page, 403), (true, page, 201)] {
        let (_, digest) = all.image("team/app", "v1", b"1").await;
        all.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
        let options = RegistryOptions {
            htpasswd: Some(users.path().to_owned()),
            cors: Some(Cors::new([origins], credentials, Duration::ZERO).unwrap()),
            ..with_window()
        };
        let store = all.registry.store().clone();
        let api = Api { registry: hyper_server::Registry::new(store, options).unwrap() };
        let alice = basic("alice", "pass:word");
        let form = [("authorization", alice.as_str()), ("origin", page), ("sec-fetch-site", "cross-site")];
        api.request("POST", "/v2/team/app/_hyper/deleted/v1", &form, "").await.expect(status);
        // A program.
        let path = "/v2/team/app/_hyper/deleted/v1?replace=true";
        let again = if status == 201 { 404 } else { 201 };
        api.request("POST", path, &form[..1], "").await.expect(again);
    }
}

#[tokio::test]
async fn a_read_only_registry_lists_what_was_deleted() {
    let all = Api::with(with_window());
    let (_, digest) = all.image("team/app", "v1", b"1").await;
    all.delete(&format!("/v2/team/app/manifests/{digest}")).await.expect(202);
    let options = RegistryOptions { read_only: true, ..with_window() };
    let api = Api { registry: hyper_server::Registry::new(all.registry.store().clone(), options).unwrap() };
    assert_eq!(deleted(&api, "team/app").await.len(), 2);
    api.post("/v2/team/app/_hyper/deleted/v1").await.refused(405, "UNSUPPORTED");
    api.delete(&format!("/v2/team/app/_hyper/deleted/{digest}")).await.refused(405, "UNSUPPORTED");
    let extensions = api.get("/v2/team/app/_oci/ext/discover").await.expect(200);
    assert!(extensions.text().contains("/v2/team/app/_hyper/deleted"));
}

/// The window of the file holds for retention by the command, which can be undone. A tag that exists again is taken with `--force`
/// alone, and an immutable one stays.
#[tokio::test]
async fn the_command_takes_a_tag_with_consent_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("policy.toml"), "[[immutable]]\nrepositories = [\"**\"]\ntags = [\"v*\"]\n").unwrap();
    let rule = "[[retention.rule]]\nrepositories = [\"**\"]\ntags = [\"old\"]\nkeep-younger-than = \"1ms\"\n";
    let text = format!("[undelete]\nwindow = \"1h\"\n{rule}");
    std::fs::write(path("plain.toml"), &text).unwrap();
    std::fs::write(path("config.toml"), format!("[auth]\npolicy = \"{}\"\n{text}", path("policy.toml")))
        .unwrap();
    let (name, manifests) = (RepositoryName::parse("team/app").unwrap(), ["1", "2"].map(manifest));
    {
        let store = DiskStore::open(path("data")).await.unwrap();
        store.set_undelete_window(Duration::from_secs(3600)).unwrap();
        for (tag, manifest) in ["b1", "v1"].iter().flat_map(|tag| manifests.iter().map(move |one| (tag, one)))
        {
            let put = PutManifest::new(manifest.clone(), [Tag::parse(tag).unwrap()]);
            store.put_manifest(&name, put).await.unwrap();
        }
        let put = PutManifest::new(manifests[0].clone(), [Tag::parse("old").unwrap()]);
        store.put_manifest(&name, put).await.unwrap();
    }
    let run_with = |config: &str, arguments: &[&str]| {
        run(&[arguments, &["--data", &path("data"), "--config", &path(config)]].concat(), "")
    };
    let [first, second] = [&manifests[0], &manifests[1]].map(|one| one.digest().to_string());
    for (reference, force, says) in [
        ("team/app:b1", false, "the tag exists again: --force takes it from there"),
        ("team/app:b1", true, first.as_str()),
        ("team/app:v1", false, "stays"),
        ("team/app:v1", true, "stays"),
    ] {
        let arguments = ["undelete", "run", reference, "--force"];
        let output = run_with("config.toml", &arguments[..3 + usize::from(force)]);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert!(text.contains(says), "{reference}: {text}");
        assert_eq!(output.status.success(), says == first, "{reference}: {text}");
    }
    assert!(run_with("plain.toml", &["undelete", "run", "team/app:v1", "--force"]).status.success());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(run_with("plain.toml", &["retention", "run"]).status.success());
    let listed = String::from_utf8(run_with("plain.toml", &["undelete", "ls"]).stdout).unwrap();
    for line in [format!("team/app:old  {first}"), format!("team/app:b1  {second}")] {
        assert!(listed.contains(&line), "{listed}");
    }
    assert!(run_with("config.toml", &["undelete", "run", "team/app:old"]).status.success());
    std::fs::write(path("read.toml"), format!("read-only = true\n{text}")).unwrap();
    let output = run_with("read.toml", &["undelete", "run", "team/app:b1", "--force"]);
    assert!(!output.status.success() && stderr(&output).contains("read-only"), "{}", stderr(&output));
}

fn manifest(text: &str) -> Manifest {
    let mut index = index(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_lists_brings_back_and_purges() {
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("config.toml"));
    std::fs::write(&config, "[undelete]\nwindow = \"1h\"\n").unwrap();
    let server = Process::start(&data, &["--config", config.to_str().unwrap()]);
    let client = reqwest::Client::new();
    let manifest = index(vec![]).to_bytes();
    let put = async |tag: &str| {
        let put = client.put(format!("{}/v2/team/app/manifests/{tag}", server.url)).body(manifest.clone());
        let put = put.header("content-type", media_type::OCI_INDEX).send().await.unwrap();
        assert_eq!(put.status(), 201);
        put.headers()["docker-content-digest"].to_str().unwrap().to_owned()
    };
    let digest = put("v1").await;
    let delete = async || {
        let url = format!("{}/v2/team/app/manifests/{digest}", server.url);
        assert_eq!(client.delete(url).send().await.unwrap().status(), 202);
    };
    delete().await;
    let command = |arguments: &[&str]| {
        let store = ["--data", data.to_str().unwrap(), "--config", config.to_str().unwrap()];
        run(&[&["undelete"], arguments, &store].concat(), "")
    };
    let ok = |arguments: &[&str]| {
        let output = command(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = ok(&["ls"]);
    assert!(listed.contains(&format!("team/app:v1  {digest}  deleted 20")), "{listed}");
    assert!(listed.contains(&format!("team/app@{digest}  deleted 20")), "{listed}");
    assert_eq!(ok(&["ls", "other"]), "");
    let json = ok(&["ls", "team/app", "--format", "json"]);
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((&first["repository"], &first["digest"]), (&json!("team/app"), &json!(digest)));
    assert_eq!(ok(&["run", "team/app:v1"]), format!("team/app@{digest} is there again\n"));
    let got = client.get(format!("{}/v2/team/app/manifests/v1", server.url)).send().await.unwrap();
    assert_eq!(got.status(), 200);
    delete().await;
    ok(&["purge", &format!("team/app@{digest}")]);
    for arguments in [["run", "team/app:v1"], ["purge", "team/app:v1"], ["run", "team"]] {
        let output = command(&arguments);
        assert!(!output.status.success(), "{arguments:?}");
    }
    assert_eq!(ok(&["ls"]), "");
}
