//! Authorization by a policy, over the API and in the program.

use super::access::{basic, users};
use super::program::{Process, run, stderr};
use super::support::{Api, Reply, image, index, memory};
use hyper_sdk::store::{DiskStore, SharedStore};
use hyper_sdk::{Digest, media_type};
use hyper_server::auth::PolicyFile;
use hyper_server::{Registry, RegistryOptions};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::{NamedTempFile, TempDir};

const POLICY: &str = r#"
[[allow]]
who = ["anyone"]
repositories = ["public/**"]
actions = ["pull"]

[[allow]]
who = ["user:alice"]
repositories = ["team/**", "public/**"]
actions = ["pull", "push", "create-tag", "move-tag", "delete"]

[[allow]]
who = ["user:bob"]
repositories = ["team/app", "bob/**"]
actions = ["push", "create-tag"]

[[deny]]
who = ["user:alice"]
repositories = ["team/secret"]
actions = ["pull"]

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]
"#;

/// A registry with a policy and the users of the suite `access`.
struct Guarded {
    api: Api,
    policy: PolicyFile,
    path: PathBuf,
    _files: (TempDir, NamedTempFile),
}

impl Guarded {
    fn new(store: SharedStore) -> Self {
        let (folder, users) = (tempfile::tempdir().unwrap(), users());
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, POLICY).unwrap();
        let policy = PolicyFile::open(&path).unwrap();
        let options = RegistryOptions {
            htpasswd: Some(users.path().to_owned()),
            authorizer: Some(Arc::new(policy.clone())),
            ..RegistryOptions::default()
        };
        let api = Api { registry: Registry::new(store, options).unwrap() };
        Self { api, policy, path, _files: (folder, users) }
    }

    /// Sends a request as a user; the empty name is nobody.
    async fn send(&self, who: &str, method: &str, path: &str, body: &[u8]) -> Reply {
        let header = match who {
            "" => None,
            "alice" => Some(basic("alice", "pass:word")),
            "bob" => Some(basic("bob", "b")),
            token => Some(format!("Bearer {token}")),
        };
        let mut headers = vec![("content-type", media_type::OCI_MANIFEST)];
        headers.extend(header.as_deref().map(|value| ("authorization", value)));
        self.api.request(method, path, &headers, body.to_vec()).await
    }

    /// Pushes an image, and returns its digest with the answer.
    async fn push(&self, who: &str, repository: &str, tag: &str, content: &[u8]) -> (Digest, Reply) {
        let blob = Digest::sha256(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={blob}");
        self.send(who, "POST", &path, content).await.expect(201);
        let bytes = image(content).to_bytes();
        let path = format!("/v2/{repository}/manifests/{tag}");
        (Digest::sha256(&bytes), self.send(who, "PUT", &path, &bytes).await)
    }

    async fn token(&self, who: &str, scope: &str) -> String {
        let reply = self.send(who, "GET", &format!("/v2/token?scope={scope}"), b"").await.expect(200);
        reply.json()["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn every_request_needs_the_action_of_its_kind() {
    let guarded = Guarded::new(memory());
    let (digest, reply) = guarded.push("alice", "team/app", "latest", b"x").await;
    reply.expect(201);
    let blob = Digest::sha256(b"x");
    let upload = "0123456789abcdef0123456789abcdef";
    for (method, path, action) in [
        ("GET", "tags/list".to_owned(), "pull from"),
        ("GET", format!("referrers/{digest}"), "pull from"),
        ("GET", "_oci/ext/discover".to_owned(), "pull from"),
        ("GET", "manifests/latest".to_owned(), "pull from"),
        ("GET", format!("manifests/{digest}"), "pull from"),
        ("GET", format!("blobs/{blob}"), "pull from"),
        ("POST", "blobs/uploads/".to_owned(), "push to"),
        ("POST", format!("blobs/uploads/?mount={blob}"), "push to"),
        ("GET", format!("blobs/uploads/{upload}"), "push to"),
        ("PATCH", format!("blobs/uploads/{upload}"), "push to"),
        ("PUT", format!("blobs/uploads/{upload}?digest={blob}"), "push to"),
        ("DELETE", format!("blobs/uploads/{upload}"), "push to"),
        ("PUT", "manifests/latest".to_owned(), "push to"),
        ("PUT", format!("manifests/{digest}?tag=x"), "push to"),
        ("DELETE", "manifests/latest".to_owned(), "delete in"),
        ("DELETE", format!("manifests/{digest}"), "delete in"),
        ("DELETE", format!("blobs/{blob}"), "delete in"),
    ] {
        // Bob may push to team/app alone, and pull and delete nowhere.
        for repository in ["team/app", "team/absent"] {
            let full = format!("/v2/{repository}/{path}");
            let anonymous = guarded.send("", method, &full, b"").await;
            assert_eq!(anonymous.status, 401, "{method} {full}");
            let alice = guarded.send("alice", method, &full, b"").await;
            assert!(![401, 403].contains(&alice.status.as_u16()), "{method} {full}");
            if repository == "team/app" {
                // What alice has deleted or moved comes back.
                guarded.push("alice", "team/app", "latest", b"x").await.1.expect(201);
            }
            if action == "push to" && repository == "team/app" {
                continue;
            }
            let bob = guarded.send("bob", method, &full, b"").await.refused(403, "DENIED");
            let expected = format!("no permission to {action} `{repository}`");
            assert_eq!(bob.json()["errors"][0]["message"], expected, "whether it exists or not");
        }
    }
    guarded.send("alice", "GET", "/v2/team/secret/tags/list", b"").await.refused(403, "DENIED");
    guarded.send("", "GET", "/v2/public/x/tags/list", b"").await.expect(404);
}

#[tokio::test]
async fn creating_and_moving_a_tag_are_told_apart() {
    let guarded = Guarded::new(memory());
    let bob = |actions: &str| {
        std::fs::write(&guarded.path, POLICY.replace("[\"push\", \"create-tag\"]", actions)).unwrap();
        guarded.policy.reload().unwrap();
    };
    bob("[\"pull\", \"push\", \"create-tag\"]");
    let (first, reply) = guarded.push("bob", "team/app", "edge", b"1").await;
    reply.expect(201);
    guarded.push("bob", "team/app", "edge", b"1").await.1.expect(201);
    let reply = guarded.push("bob", "team/app", "edge", b"2").await.1.refused(403, "DENIED");
    assert_eq!(reply.json()["errors"][0]["message"], "no permission to move-tag `edge` in `team/app`");
    guarded.push("alice", "team/app", "edge", b"2").await.1.expect(201);

    let path = format!("/v2/team/app/manifests/{first}?tag=new&tag=edge");
    let bytes = image(b"1").to_bytes();
    guarded.send("bob", "PUT", &path, &bytes).await.refused(403, "DENIED");
    guarded.send("alice", "GET", "/v2/team/app/manifests/new", b"").await.expect(404);

    // A push by digest needs no right to tags.
    bob("[\"pull\", \"push\"]");
    let digest = Digest::sha256(&bytes).to_string();
    guarded.push("bob", "bob/x", &digest, b"1").await.1.expect(201);
    let reply = guarded.push("bob", "bob/x", "new", b"1").await.1.refused(403, "DENIED");
    assert!(reply.text().contains("create-tag `new`"), "{}", reply.text());
}

#[tokio::test]
async fn an_immutable_tag_keeps_everything_that_it_needs() {
    let guarded = Guarded::new(memory());
    let (image_digest, reply) = guarded.push("alice", "team/app", "latest", b"1").await;
    reply.expect(201);
    let list = index(vec![hyper_sdk::oci::Descriptor::new(
        media_type::OCI_MANIFEST,
        image_digest.clone(),
        image(b"1").to_bytes().len() as u64,
    )])
    .to_bytes();
    let auth = basic("alice", "pass:word");
    let headers = [("content-type", media_type::OCI_INDEX), ("authorization", auth.as_str())];
    let path = "/v2/team/app/manifests/v1";
    guarded.api.request("PUT", path, &headers, list.to_vec()).await.expect(201);
    guarded.api.request("PUT", path, &headers, list.to_vec()).await.expect(201);
    let reply = guarded.push("alice", "team/app", "v1", b"2").await.1.refused(403, "DENIED");
    assert!(reply.text().contains("`v1` in `team/app` is immutable: move-tag"), "{}", reply.text());
    let blob = Digest::sha256(b"1");
    for target in [
        "manifests/v1".to_owned(),
        format!("manifests/{}", Digest::sha256(&list)),
        format!("manifests/{image_digest}"),
        format!("blobs/{blob}"),
    ] {
        let path = format!("/v2/team/app/{target}");
        let reply = guarded.send("alice", "DELETE", &path, b"").await.refused(403, "DENIED");
        assert!(reply.text().contains("`v1` in `team/app` is immutable"), "{}", reply.text());
    }
    guarded.send("alice", "GET", path, b"").await.expect(200);
    guarded.send("alice", "DELETE", "/v2/team/app/manifests/latest", b"").await.expect(202);
    guarded.send("alice", "DELETE", "/v2/team/app/manifests/v2", b"").await.expect(404);

    let text = format!(
        "{POLICY}\n[[allow]]\nwho = [\"user:alice\"]\nrepositories = [\"team/**\"]\nactions = [\"admin\"]"
    );
    std::fs::write(&guarded.path, text).unwrap();
    guarded.policy.reload().unwrap();
    guarded.send("alice", "DELETE", path, b"").await.expect(202);
}

#[tokio::test]
async fn a_tag_whose_deletion_is_denied_keeps_what_it_needs() {
    let guarded = Guarded::new(memory());
    let denial = "[[deny]]\nwho = [\"user:alice\"]\nrepositories = [\"**\"]\n\
                  actions = [\"move-tag\", \"delete\"]\ntags = [\"latest\"]\n";
    std::fs::write(&guarded.path, format!("{POLICY}\n{denial}")).unwrap();
    guarded.policy.reload().unwrap();
    let (digest, reply) = guarded.push("alice", "team/app", "latest", b"1").await;
    reply.expect(201);
    guarded.push("alice", "team/app", "other", b"1").await.1.expect(201);
    guarded.push("alice", "team/app", "latest", b"2").await.1.refused(403, "DENIED");
    for target in ["manifests/latest".to_owned(), format!("manifests/{digest}")] {
        let path = format!("/v2/team/app/{target}");
        let text = guarded.send("alice", "DELETE", &path, b"").await.refused(403, "DENIED").text().to_owned();
        assert!(text.contains("no permission to delete `latest`"), "{text}");
    }
    guarded.send("alice", "GET", "/v2/team/app/manifests/latest", b"").await.expect(200);
    guarded.send("alice", "DELETE", "/v2/team/app/manifests/other", b"").await.expect(202);
    let (digest, reply) = guarded.push("alice", "team/app", "other", b"3").await;
    reply.expect(201);
    guarded.send("alice", "DELETE", &format!("/v2/team/app/manifests/{digest}"), b"").await.expect(202);
}

/// Where everybody may push, a token for another repository permits what everybody may, and not what its user may.
#[tokio::test]
async fn a_token_outside_of_its_scopes_is_nobodys() {
    let guarded = Guarded::new(memory());
    let open = "[[allow]]\nwho = [\"anyone\"]\nrepositories = [\"open/**\"]\n\
                actions = [\"pull\", \"push\", \"create-tag\", \"move-tag\", \"delete\"]\n\
                [[allow]]\nwho = [\"user:alice\"]\nrepositories = [\"**\"]\nactions = [\"admin\"]\n\
                [[immutable]]\nrepositories = [\"open/**\"]\ntags = [\"v*\"]\n";
    std::fs::write(&guarded.path, open).unwrap();
    guarded.policy.reload().unwrap();
    guarded.push("", "open/x", "v1", b"1").await.1.expect(201);
    let token = guarded.token("alice", "repository:team/app:pull").await;
    guarded.push(&token, "open/x", "dev", b"2").await.1.expect(201);
    for (method, body) in [("PUT", image(b"2").to_bytes()), ("DELETE", Vec::new())] {
        let reply = guarded.send(&token, method, "/v2/open/x/manifests/v1", &body).await;
        assert!(matches!(reply.status.as_u16(), 401 | 403), "{method}: {}", reply.status);
    }
    let token = guarded.token("alice", "repository:open/x:pull,push,delete").await;
    guarded.send(&token, "PUT", "/v2/open/x/manifests/v1", &image(b"2").to_bytes()).await.expect(201);
    guarded.send(&token, "DELETE", "/v2/open/x/manifests/v1", b"").await.expect(202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_clients_one_creates_an_immutable_tag() {
    let folder = tempfile::tempdir().unwrap();
    let disk: SharedStore = Arc::new(DiskStore::open(folder.path().join("store")).await.unwrap());
    for store in [memory(), disk] {
        let guarded = Arc::new(Guarded::new(store));
        for round in 0..5 {
            let pushes = (0..8).map(|n: u8| {
                let guarded = guarded.clone();
                tokio::spawn(async move {
                    let who = if n.is_multiple_of(2) { "alice" } else { "bob" };
                    guarded.push(who, "team/app", &format!("v{round}"), &[round, n]).await
                })
            });
            let replies: Vec<_> =
                futures::future::join_all(pushes).await.into_iter().map(Result::unwrap).collect();
            let winners: Vec<&Digest> =
                replies.iter().filter(|(_, reply)| reply.status == 201).map(|(digest, _)| digest).collect();
            assert_eq!(winners.len(), 1, "{:?}", replies.iter().map(|(_, r)| r.status).collect::<Vec<_>>());
            assert!(replies.iter().all(|(_, reply)| [201, 403].contains(&reply.status.as_u16())));
            let path = format!("/v2/team/app/manifests/v{round}");
            let now = guarded.send("alice", "GET", &path, b"").await.expect(200);
            assert_eq!(now.header("docker-content-digest"), winners[0].as_str());
        }
    }
}

#[tokio::test]
async fn a_mount_needs_the_right_to_pull_and_tells_nothing() {
    let guarded = Guarded::new(memory());
    guarded.push("alice", "team/app", "latest", b"there").await.1.expect(201);
    guarded.push("alice", "public/app", "latest", b"open").await.1.expect(201);
    for (content, from, status) in [
        (&b"there"[..], "&from=team/app", 202),
        (b"absent", "&from=team/app", 202),
        (b"there", "", 202),
        (b"open", "&from=public/app", 201),
        (b"open", "", 201),
    ] {
        let path = format!("/v2/bob/x/blobs/uploads/?mount={}{from}", Digest::sha256(content));
        guarded.send("bob", "POST", &path, b"").await.expect(status);
    }
}

#[tokio::test]
async fn lists_show_what_the_caller_may_pull() {
    let guarded = Guarded::new(memory());
    for repository in ["public/app", "team/app", "team/secret"] {
        guarded.push("alice", repository, "latest", b"1").await.1.expect(201);
    }
    guarded.push("bob", "bob/x", "latest", b"1").await.1.expect(201);
    for (who, shown) in [("", "public/app"), ("bob", "public/app"), ("alice", "public/app,team/app")] {
        let list = guarded.send(who, "GET", "/v2/_catalog", b"").await.expect(200).json();
        let names: Vec<&str> =
            list["repositories"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names.join(","), shown, "{who}");
    }
}

#[tokio::test]
async fn a_token_has_what_the_policy_gives_now() {
    let guarded = Guarded::new(memory());
    guarded.push("alice", "team/app", "latest", b"1").await.1.expect(201);
    let reply = guarded.send("bob", "GET", "/v2/token?scope=repository:team/app:pull,push,delete", b"").await;
    assert_eq!(reply.expect(200).json()["scope"], "repository:team/app:push");
    let token = guarded.token("alice", "repository:team/app:pull,push,delete").await;
    guarded.send(&token, "GET", "/v2/team/app/manifests/latest", b"").await.expect(200);
    guarded.push(&token, "team/app", "v1", b"2").await.1.expect(201);
    guarded.push(&token, "team/app", "v1", b"3").await.1.refused(403, "DENIED");
    guarded.send(&token, "GET", "/v2/team/other/tags/list", b"").await.refused(401, "UNAUTHORIZED");

    let less = POLICY.replace("\"team/**\", \"public/**\"", "\"public/**\"");
    std::fs::write(&guarded.path, &less).unwrap();
    guarded.policy.reload().unwrap();
    guarded.send(&token, "GET", "/v2/team/app/manifests/latest", b"").await.refused(403, "DENIED");
    guarded.send(&token, "POST", "/v2/team/app/blobs/uploads/", b"").await.refused(403, "DENIED");

    // A policy without anything for anonymous callers closes the registry, and asks for passwords.
    guarded.send("", "GET", "/v2/_catalog", b"").await.expect(200);
    std::fs::write(&guarded.path, less.replace("\"anyone\"", "\"authenticated\"")).unwrap();
    guarded.policy.reload().unwrap();
    let reply = guarded.send("", "GET", "/v2/_catalog", b"").await.refused(401, "UNAUTHORIZED");
    assert!(reply.header("www-authenticate").starts_with("Basic "));
    guarded.send("", "GET", "/v2/token", b"").await.refused(401, "UNAUTHORIZED");

    std::fs::write(&guarded.path, "[[allow]]").unwrap();
    let e = guarded.policy.reload().unwrap_err().to_string();
    assert!(e.contains("line 1") && e.contains("`who`"), "{e}");
    guarded.send("alice", "GET", "/v2/public/x/tags/list", b"").await.expect(404);
}

/// Waits until a request has this status.
async fn becomes(url: &str, status: u16) {
    for _ in 0..250 {
        if reqwest::get(url).await.unwrap().status() == status {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{url} is not answered with {status}");
}

/// A registry with a policy in a process of its own, and the lines of its log.
struct Program {
    process: Process,
    log: std::sync::mpsc::Receiver<String>,
    path: PathBuf,
    _folder: TempDir,
}

impl Program {
    fn start(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, policy).unwrap();
        let mut command = std::process::Command::new(super::program::PROGRAM);
        command.stderr(std::process::Stdio::piped());
        let arguments = ["--policy", path.to_str().unwrap()];
        let mut process = Process::start_by(command, &folder.path().join("data"), &arguments);
        let (sender, log) = std::sync::mpsc::channel();
        let lines = BufReader::new(process.child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, log, path, _folder: folder }
    }

    /// Writes another policy, and asks the program to read it.
    fn hang_up(&self, policy: &str) {
        std::fs::write(&self.path, policy).unwrap();
        self.process.signal("-HUP");
    }

    /// Waits for a line of the log with all parts.
    fn logs(&self, parts: &[&str]) {
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(std::time::Duration::from_secs(10)) {
            if parts.iter().all(|part| line.contains(part)) {
                return;
            }
            seen.push(line);
        }
        panic!("{parts:?} is not in the log: {seen:?}");
    }

    fn tags_of(&self, repository: &str) -> String {
        format!("{}/v2/{repository}/tags/list", self.process.url)
    }
}

fn rule(kind: &str, who: &str, repository: &str) -> String {
    format!("[[{kind}]]\nwho = [\"{who}\"]\nrepositories = [\"{repository}\"]\nactions = [\"pull\"]\n")
}

#[tokio::test]
async fn sighup_reads_the_policy_again() {
    let mut program = Program::start(&rule("allow", "anyone", "a"));
    let (a, b) = (program.tags_of("a"), program.tags_of("b"));
    becomes(&a, 404).await;
    becomes(&b, 403).await;
    program.hang_up(&rule("allow", "anyone", "b"));
    becomes(&b, 404).await;
    becomes(&a, 403).await;
    program.hang_up(&rule("allow", "anyone", "B"));
    program.logs(&["ERROR", "the former one stays", "line 3", "`B`"]);
    becomes(&b, 404).await;
    program.process.signal("-TERM");
    assert!(program.process.child.wait().unwrap().success());
}

/// A policy that only takes rights away is used, even if rules have no effect any more.
#[tokio::test]
async fn a_denial_of_everything_takes_effect_at_sighup() {
    let group = |members: &str| format!("[groups]\ng = [{members}]\n") + &rule("allow", "group:g", "b");
    let open = group("\"anyone\"") + &rule("allow", "anyone", "a");
    let program = Program::start(&open);
    let (a, b) = (program.tags_of("a"), program.tags_of("b"));
    becomes(&a, 404).await;
    becomes(&b, 404).await;
    program.hang_up(&(open + &rule("deny", "anyone", "**")));
    program.logs(&["WARN", "policy.toml:3: the rule can never match", "the deny rule in line 11"]);
    becomes(&a, 403).await;
    becomes(&b, 403).await;
    program.hang_up(&(group("") + &rule("allow", "anyone", "a")));
    program.logs(&["WARN", "policy.toml:3: the rule can never match: its groups have no members"]);
    becomes(&a, 404).await;
    becomes(&b, 403).await;
}

#[tokio::test]
async fn a_server_starts_with_rules_that_never_match_and_says_so() {
    let policy =
        rule("allow", "user:x", "a") + &rule("allow", "claim:a=b", "a") + &rule("deny", "anyone", "**");
    let program = Program::start(&policy);
    program.logs(&["WARN", "policy.toml:1: the rule can never match", "line 9"]);
    program.logs(&["WARN", "there are no users", "auth.htpasswd"]);
    program.logs(&["WARN", "`claim:` never matches"]);
    becomes(&program.tags_of("a"), 403).await;
}

/// Who may not pull is not told which tags exist, as far as the status does not tell it.
#[tokio::test]
async fn who_may_not_pull_reads_no_names_of_tags() {
    let policy = POLICY.replace("[\"push\", \"create-tag\"]", "[\"push\", \"delete\", \"create-tag\"]");
    let guarded = Guarded::new(memory());
    std::fs::write(&guarded.path, policy).unwrap();
    guarded.policy.reload().unwrap();
    let (digest, reply) = guarded.push("alice", "team/app", "v1", b"1").await;
    reply.expect(201);
    let neutral = "no permission for this change in `team/app`: only who may pull reads why";
    let answers = [
        guarded.push("bob", "team/app", "v1", b"2").await.1,
        guarded.send("bob", "DELETE", "/v2/team/app/manifests/v1", b"").await,
        guarded.send("bob", "DELETE", &format!("/v2/team/app/manifests/{digest}"), b"").await,
        guarded.send("bob", "DELETE", &format!("/v2/team/app/blobs/{}", Digest::sha256(b"1")), b"").await,
    ];
    for answer in answers {
        let answer = answer.refused(403, "DENIED");
        assert_eq!(answer.json()["errors"][0]["message"], neutral);
    }
    let bytes = image(b"1").to_bytes();
    for (who, status) in [("bob", 403), ("alice", 412)] {
        let header = basic(who, if who == "bob" { "b" } else { "pass:word" });
        for condition in [("if-none-match", "*"), ("if-match", "\"sha256:0\"")] {
            let headers =
                [("content-type", media_type::OCI_MANIFEST), ("authorization", header.as_str()), condition];
            let reply =
                guarded.api.request("PUT", "/v2/team/app/manifests/v1", &headers, bytes.to_vec()).await;
            assert_eq!(reply.status, status, "{who} {condition:?}");
        }
    }
    // A token without the right to pull is no better than a user without it.
    let token = guarded.token("alice", "repository:team/app:push").await;
    let reply = guarded.push(&token, "team/app", "v1", b"2").await.1.refused(403, "DENIED");
    assert_eq!(reply.json()["errors"][0]["message"], neutral);
}

/// A store that asks no rules for tags changes nothing, instead of ignoring them.
#[tokio::test]
async fn a_store_that_cannot_ask_refuses_guarded_changes() {
    use super::http_store::HttpStore;
    use hyper_server::{Server, ServerOptions};
    let store = memory();
    let address = "127.0.0.1:0".parse().unwrap();
    let options = (RegistryOptions::default(), ServerOptions::default());
    let inner = Server::start(store.clone(), address, options.0, options.1).await.unwrap();
    let guarded = Guarded::new(Arc::new(HttpStore::new(inner.url(), store.capabilities())));
    let (digest, reply) = guarded.push("alice", "team/app", "edge", b"1").await;
    let reply = reply.refused(405, "UNSUPPORTED");
    assert!(reply.text().contains("cannot check rules for tags"), "{}", reply.text());
    let blob = Digest::sha256(b"1");
    for target in [format!("manifests/{digest}"), "manifests/edge".to_owned(), format!("blobs/{blob}")] {
        let path = format!("/v2/team/app/{target}");
        guarded.send("alice", "DELETE", &path, b"").await.refused(405, "UNSUPPORTED");
    }
    guarded.send("alice", "GET", &format!("/v2/team/app/blobs/{blob}"), b"").await.expect(200);
    guarded.send("alice", "GET", &format!("/v2/team/app/manifests/{digest}"), b"").await.expect(404);
}

#[test]
fn the_program_checks_and_explains_a_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let more = "\n[[allow]]\nwho = [\"user:carol\"]\nrepositories = [\"x\"]\nactions = [\"create-tag\"]\n\
                [[allow]]\nwho = [\"user:root\"]\nrepositories = [\"**\"]\nactions = [\"admin\"]\n\
                [[allow]]\nwho = [\"user:*\"]\nrepositories = [\"open/**\"]\nactions = [\"push\"]\n";
    std::fs::write(&path, POLICY.to_owned() + more).unwrap();
    let file = path.to_str().unwrap();
    let output = run(&["policy", "check", file], "");
    assert!(output.status.success() && stderr(&output).is_empty(), "{}", stderr(&output));
    for (arguments, expected) in [
        (&["alice", "push", "team/app"][..], format!("allowed: push by the rule {file}:7\n")),
        (&["alice", "pull", "team/secret"], format!("denied: the rule {file}:17 denies pull\n")),
        (&["bob", "delete", "team/app:v1"], format!("denied: no rule of {file} allows delete\n")),
        (
            &["alice", "create-tag", "team/app:v1"],
            format!("allowed: push by the rule {file}:7, create-tag by the rule {file}:7\n"),
        ),
        // The tag needs a push, too.
        (&["carol", "create-tag", "x:a"], format!("denied: no rule of {file} allows push\n")),
        (
            &["alice", "delete", "team/app"],
            format!(
                "allowed: delete by the rule {file}:7\nbut {file}:22 makes tags immutable: what such a tag needs \
                 cannot be deleted\n"
            ),
        ),
        (&["alice", "delete", "public/app"], format!("allowed: delete by the rule {file}:7\n")),
        (
            &["root", "move-tag", "team/app:v1"],
            format!("allowed: push by the rule {file}:30, move-tag by the rule {file}:30\n"),
        ),
        (
            &["alice", "move-tag", "team/app:v1"],
            format!("denied: {file}:22 makes the tag immutable, and no rule gives the right admin\n"),
        ),
        (&["anonymous", "pull", "public/x"], format!("allowed: pull by the rule {file}:2\n")),
        (&["user:anonymous", "push", "public/x"], format!("denied: no rule of {file} allows push\n")),
        (&["x-bot", "push", "open/a"], format!("allowed: push by the rule {file}:34\n")),
        (&["gh:x-bot", "push", "open/a"], format!("denied: no rule of {file} allows push\n")),
        (&["x", "pull", "x", "--claim", "groups=a"], format!("denied: no rule of {file} allows pull\n")),
    ] {
        let arguments = [&["policy", "explain"], arguments, &["--policy", file]].concat();
        let output = run(&arguments, "");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}");
        assert_eq!(stderr(&output), "");
        assert_eq!(output.status.code(), Some(i32::from(expected.starts_with("denied"))));
    }
    for (arguments, part) in [
        (&["alice", "read", "a"][..], "unknown action `read`"),
        (&["alice", "move-tag", "a"], "write a:TAG"),
        (&["alice", "pull", "a:b"], "write a"),
        (&["alice", "pull", "A"], "name"),
    ] {
        let arguments = [&["policy", "explain"], arguments, &["--policy", file]].concat();
        let output = run(&arguments, "");
        assert!(!output.status.success() && stderr(&output).contains(part), "{}", stderr(&output));
    }
    let (config, data) = (dir.path().join("config.toml"), dir.path().join("data"));
    let (config, data) = (config.as_path(), data.to_str().unwrap());
    std::fs::write(config, format!("data = \"{data}\"\n[auth]\npolicy = \"{file}\"")).unwrap();
    std::fs::write(&path, rule("allow", "user:x", "a") + &rule("deny", "claim:a=b", "a")).unwrap();
    let output = run(&["config", "check", "--config", config.to_str().unwrap()], "");
    let shown = stderr(&output);
    assert!(output.status.success() && shown.contains("warning: ") && shown.contains("`claim:`"), "{shown}");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    // A policy alone does not say which users there are.
    let output = run(&["policy", "check", file], "");
    assert!(output.status.success() && stderr(&output).is_empty(), "{}", stderr(&output));
    std::fs::write(&path, POLICY.replace("user:bob", "bob").replace("\"delete\"", "\"remove\"")).unwrap();
    for arguments in [
        &["policy", "check", file][..],
        &["config", "check", "--config", config.to_str().unwrap()],
        &["serve", "--config", config.to_str().unwrap(), "--listen", "127.0.0.1:0"],
    ] {
        let output = run(arguments, "");
        assert!(!output.status.success());
        for part in ["line 10", "`remove`", "line 13", "`bob`", file] {
            assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
        }
    }
    assert!(!dir.path().join("data").exists(), "the policy is read before a store is made");
    std::fs::write(config, format!("[auth]\npolicy = \"{file}\"\nanonymous = \"pull\"")).unwrap();
    let output = run(&["config", "check", "--config", config.to_str().unwrap()], "");
    assert!(stderr(&output).contains("`auth.policy` and `auth.anonymous`"), "{}", stderr(&output));
}
