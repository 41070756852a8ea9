//! API tokens: what machines log in with.

use super::access::{basic, options, users};
use super::program::{Process, run, stderr};
use super::support::{Api, Reply, image};
use async_trait::async_trait;
use hyper_sdk::store::Listing;
use hyper_sdk::store::meta::{MemoryTokens, TokenRecord, TokenStore};
use hyper_sdk::testing::FrozenClock;
use hyper_sdk::{Digest, Error, ErrorKind, Result, media_type};
use hyper_server::auth::{AnonymousAccess, PolicyFile, api_token};
use hyper_server::{Registry, RegistryOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

const NOW: i64 = 1_700_000_000;

/// Tokens that count the questions, and may fail.
#[derive(Debug, Default)]
struct Tokens {
    inner: MemoryTokens,
    asked: AtomicUsize,
    is_down: AtomicBool,
}

#[async_trait]
impl TokenStore for Tokens {
    async fn add_token(&self, token: &TokenRecord) -> Result<()> {
        self.inner.add_token(token).await
    }

    async fn token(&self, id: &str) -> Result<Option<TokenRecord>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the database is away"));
        }
        self.inner.token(id).await
    }

    async fn tokens(&self, after: Option<&str>, limit: usize) -> Result<Listing<TokenRecord>> {
        self.inner.tokens(after, limit).await
    }

    async fn remove_token(&self, id: &str) -> Result<bool> {
        self.inner.remove_token(id).await
    }

    async fn touch_token(&self, id: &str, used: i64) -> Result<()> {
        self.inner.touch_token(id, used).await
    }

    async fn trim_refresh_tokens(&self, user: &str, keep: usize, unused_since: i64) -> Result<u64> {
        self.inner.trim_refresh_tokens(user, keep, unused_since).await
    }
}

struct Site {
    api: Api,
    tokens: Arc<Tokens>,
    users: NamedTempFile,
    clock: Arc<FrozenClock>,
}

impl Site {
    fn new(anonymous: Option<AnonymousAccess>) -> Self {
        Self::with(|options| RegistryOptions { anonymous, ..options })
    }

    fn with(change: impl FnOnce(RegistryOptions) -> RegistryOptions) -> Self {
        let (users, tokens, clock) = (users(), Arc::new(Tokens::default()), Arc::new(FrozenClock::new(NOW)));
        let options = options(Some(&users), None);
        let options = RegistryOptions { api_tokens: Some(tokens.clone()), clock: clock.clone(), ..options };
        Self { api: Api::with(change(options)), tokens, users, clock }
    }

    /// A token of a user, and its id.
    async fn token(&self, user: &str, scopes: &[&str]) -> (String, String) {
        let (token, record) = api_token(user, "test", scopes, NOW, Some(NOW + 3600)).unwrap();
        self.tokens.add_token(&record).await.unwrap();
        (token.expose().to_owned(), record.id)
    }

    async fn send(&self, authorization: &str, method: &str, path: &str, body: &[u8]) -> Reply {
        let headers = [("authorization", authorization), ("content-type", media_type::OCI_MANIFEST)];
        self.api.request(method, path, &headers, body.to_vec()).await
    }

    async fn push(&self, authorization: &str, repository: &str, tag: &str) -> (Digest, Reply) {
        let blob = Digest::sha256("{}");
        let path = format!("/v2/{repository}/blobs/uploads/?digest={blob}");
        let reply = self.send(authorization, "POST", &path, b"{}").await;
        if reply.status != 201 {
            return (blob, reply);
        }
        let bytes = image(b"{}").to_bytes();
        let reply =
            self.send(authorization, "PUT", &format!("/v2/{repository}/manifests/{tag}"), &bytes).await;
        (Digest::sha256(&bytes), reply)
    }

    /// What the token endpoint issues for a password.
    async fn exchange(&self, user: &str, password: &str, scopes: &str) -> (String, String) {
        let path = format!("/v2/token?service=hyperregistry&scope={scopes}");
        let json = self.send(&basic(user, password), "GET", &path, b"").await.expect(200).json();
        (format!("Bearer {}", json["token"].as_str().unwrap()), json["scope"].as_str().unwrap().to_owned())
    }

    /// Waits until a request gets this status: what a registry knows of a token or a user may be some seconds old.
    async fn becomes(&self, authorization: &str, path: &str, status: u16) {
        let start = Instant::now();
        while self.send(authorization, "GET", path, b"").await.status != status {
            assert!(start.elapsed() < Duration::from_secs(20), "{path} never gets {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_token_is_a_password_and_a_bearer_token() {
    for anonymous in [None, Some(AnonymousAccess::Pull)] {
        let site = Site::new(anonymous);
        let (token, id) = site.token("alice", &["team/**:pull,push"]).await;
        let (issued, granted) = site.exchange("alice", &token, "repository:team/a:pull,push").await;
        assert_eq!(granted, "repository:team/a:pull,push");
        for authorization in [basic("alice", &token), format!("Bearer {token}"), issued] {
            site.send(&authorization, "GET", "/v2/", b"").await.expect(200);
            let (_, reply) = site.push(&authorization, "team/a", "t").await;
            reply.expect(201);
            site.send(&authorization, "GET", "/v2/team/a/manifests/t", b"").await.expect(200);
        }
        let form =
            format!("grant_type=password&username=alice&password={token}&scope=repository:team/a:pull");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        site.api.request("POST", "/v2/token", &headers, form).await.expect(200);
        // The use is recorded to the hour, beside the request.
        for _ in 0..200 {
            if site.tokens.inner.token(&id).await.unwrap().unwrap().used == Some(NOW / 3600 * 3600) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(site.tokens.inner.token(&id).await.unwrap().unwrap().used, Some(NOW / 3600 * 3600));
    }
}

#[tokio::test]
async fn what_is_no_valid_token_is_refused() {
    let site = Site::new(None);
    let (token, id) = site.token("alice", &["**:*"]).await;
    let (other, _) = site.token("alice", &["**:*"]).await;
    let damaged = format!("{}{}", &token[..67], if token.ends_with('a') { "b" } else { "a" });
    let refused = async |authorization: String| {
        site.send(&authorization, "GET", "/v2/", b"").await.refused(401, "UNAUTHORIZED");
        let reply = site.send(&authorization, "GET", "/v2/token?scope=repository:a:pull", b"").await;
        reply.refused(401, "UNAUTHORIZED");
    };
    for authorization in [
        basic("bob", &token),
        basic("", &token),
        basic("Alice", &token),
        basic("alice", &damaged),
        basic("alice", &token[..67]),
        basic(&token, ""),
        format!("Bearer {damaged}"),
        format!("Bearer {id}"),
        format!("Bearer {}", &token[4..]),
    ] {
        refused(authorization).await;
    }
    assert_eq!(site.tokens.asked.load(Ordering::SeqCst), 1, "what is no token is looked up");
    // The id of one with the secret of another, and a right checksum.
    let (mut forged, _) =
        api_token("alice", "", &["**:*"], NOW, None).map(|(t, r)| (t.expose().to_owned(), r)).unwrap();
    refused(format!("Bearer {forged}")).await;
    forged = format!("{}{}", &token[..20], &other[20..]);
    refused(basic("alice", &forged)).await;
    // A token is not a user's password anywhere else.
    site.send(&basic("alice", "pass:word"), "GET", "/v2/", b"").await.expect(200);
    site.clock.advance(3599);
    site.send(&basic("alice", &token), "GET", "/v2/", b"").await.expect(200);
    let (issued, _) = site.exchange("alice", &token, "repository:a:pull").await;
    site.clock.advance(1);
    refused(basic("alice", &token)).await;
    refused(format!("Bearer {token}")).await;
    site.send(&issued, "GET", "/v2/", b"").await.refused(401, "UNAUTHORIZED");
}

/// The rights of its user end where its scopes end, on every way.
#[tokio::test]
async fn a_token_allows_nothing_outside_of_its_scopes() {
    let site = Site::new(None);
    let alice = basic("alice", "pass:word");
    for repository in ["in/a", "out/a"] {
        site.push(&alice, repository, "t").await.1.expect(201);
    }
    let (blob, manifest) = (Digest::sha256("{}"), Digest::sha256(image(b"{}").to_bytes()));
    let (reader, _) = site.token("alice", &["in/*:pull"]).await;
    let (writer, _) = site.token("alice", &["in/**:pull,push"]).await;
    let (deleter, _) = site.token("alice", &["in/**:delete"]).await;
    let started = site.send(&alice, "POST", "/v2/out/a/blobs/uploads/", b"").await.expect(202);
    let foreign = started.header("location").to_owned();
    let started =
        site.send(&format!("Bearer {writer}"), "POST", "/v2/in/a/blobs/uploads/", b"").await.expect(202);
    let own = started.header("location").to_owned();
    let mount = format!("/v2/in/b/blobs/uploads/?mount={blob}&from=out/a");
    let everything =
        "repository:out/a:pull,push,delete&scope=repository:in/a:pull,push,delete&scope=registry:catalog:*";
    for (token, scope) in [(&reader, "pull"), (&writer, "pull,push"), (&deleter, "delete")] {
        let (issued, granted) = site.exchange("alice", token, everything).await;
        assert_eq!(
            granted,
            format!("repository:out/a: repository:in/a:{scope}"),
            "no catalog, and nothing outside"
        );
        for (authorization, status) in
            [(basic("alice", token), 403), (format!("Bearer {token}"), 403), (issued, 401)]
        {
            let allows = |action: &str| scope.contains(action);
            for (method, path, allowed, done) in [
                ("GET", "/v2/out/a/manifests/t".to_owned(), false, 0),
                ("HEAD", format!("/v2/out/a/blobs/{blob}"), false, 0),
                ("GET", "/v2/out/a/tags/list".to_owned(), false, 0),
                ("GET", format!("/v2/out/a/referrers/{manifest}"), false, 0),
                ("POST", "/v2/out/a/blobs/uploads/".to_owned(), false, 0),
                ("PATCH", foreign.clone(), false, 0),
                ("GET", foreign.clone(), false, 0),
                ("DELETE", foreign.clone(), false, 0),
                ("PUT", "/v2/out/a/manifests/u".to_owned(), false, 0),
                ("DELETE", "/v2/out/a/manifests/t".to_owned(), false, 0),
                ("DELETE", format!("/v2/out/a/blobs/{blob}"), false, 0),
                ("GET", "/v2/in/a/manifests/t".to_owned(), allows("pull"), 200),
                ("GET", "/v2/in/a/tags/list".to_owned(), allows("pull"), 200),
                ("GET", format!("/v2/in/a/referrers/{manifest}"), allows("pull"), 200),
                ("GET", own.clone(), allows("push"), 204),
                ("POST", "/v2/in/a/blobs/uploads/".to_owned(), allows("push"), 202),
                ("DELETE", "/v2/in/a/manifests/absent".to_owned(), allows("delete"), 404),
            ] {
                let reply = site.send(&authorization, method, &path, b"").await;
                let expected = if allowed { done } else { status };
                assert_eq!(reply.status, expected, "{scope}: {method} {path}");
            }
        }
        let catalog = site.send(&basic("alice", token), "GET", "/v2/_catalog", b"").await.expect(200).json();
        let listed = if scope.contains("pull") { vec!["in/a"] } else { vec![] };
        assert_eq!(catalog["repositories"], serde_json::json!(listed), "{scope}");
    }
    let mounted = site.send(&basic("alice", &writer), "POST", &mount, b"").await;
    assert_eq!(mounted.status, 202, "a mount from a repository outside of the scopes");
    site.send(&basic("alice", &writer), "HEAD", &format!("/v2/in/b/blobs/{blob}"), b"").await.expect(404);
    site.send(&alice, "GET", "/v2/out/a/manifests/t", b"").await.expect(200);
}

/// A token has the rights of its user at most: what the policy denies, it denies.
#[tokio::test]
async fn the_policy_of_the_user_holds() {
    let policy = NamedTempFile::new().unwrap();
    let rules = r#"
        [[allow]]
        who = ["user:alice"]
        repositories = ["team/**"]
        actions = ["pull", "push", "create-tag", "move-tag", "delete"]
        [[deny]]
        who = ["user:alice"]
        repositories = ["team/closed"]
        actions = ["push"]
        [[immutable]]
        repositories = ["team/**"]
        tags = ["v*"]
    "#;
    std::fs::write(policy.path(), rules).unwrap();
    let file = PolicyFile::open(policy.path()).unwrap();
    let site = Site::with(|options| RegistryOptions { authorizer: Some(Arc::new(file)), ..options });
    let (token, _) = site.token("alice", &["**:*"]).await;
    let (bobs, _) = site.token("bob", &["**:*"]).await;
    let (issued, granted) = site
        .exchange("alice", &token, "repository:team/a:pull,push,delete&scope=repository:other:pull")
        .await;
    assert_eq!(granted, "repository:team/a:pull,push,delete repository:other:");
    for authorization in [format!("Bearer {token}"), issued] {
        let (digest, reply) = site.push(&authorization, "team/a", "v1").await;
        reply.expect(201);
        site.push(&authorization, "team/a", "latest").await.1.expect(201);
        for path in [format!("/v2/team/a/manifests/{digest}"), "/v2/team/a/manifests/v1".to_owned()] {
            let reply = site.send(&authorization, "DELETE", &path, b"").await.refused(403, "DENIED");
            assert!(reply.text().contains("immutable"), "{}", reply.text());
        }
        let other = image(b"{}").to_bytes();
        let mut moved: serde_json::Value = serde_json::from_slice(&other).unwrap();
        moved["annotations"] = serde_json::json!({"other": "content"});
        let moved = serde_json::to_vec(&moved).unwrap();
        site.send(&authorization, "PUT", "/v2/team/a/manifests/v1", &moved).await.refused(403, "DENIED");
    }
    for (token, path) in [
        (&token, "/v2/team/closed/blobs/uploads/"),
        (&token, "/v2/other/blobs/uploads/"),
        (&bobs, "/v2/team/a/blobs/uploads/"),
    ] {
        site.send(&format!("Bearer {token}"), "POST", path, b"").await.refused(403, "DENIED");
    }
    let (narrow, _) = site.token("alice", &["team/a:pull,push"]).await;
    site.send(&format!("Bearer {narrow}"), "DELETE", "/v2/team/a/manifests/latest", b"")
        .await
        .refused(403, "DENIED");
}

/// With everything open to everybody, a token outside of its scopes is like no token, in its tags too.
#[tokio::test]
async fn a_token_outside_of_its_scopes_is_nobodys() {
    let policy = NamedTempFile::new().unwrap();
    let rules = r#"
        [[allow]]
        who = ["anyone"]
        repositories = ["**"]
        actions = ["pull", "push", "create-tag"]
        [[allow]]
        who = ["user:alice"]
        repositories = ["**"]
        actions = ["pull", "push", "move-tag"]
    "#;
    std::fs::write(policy.path(), rules).unwrap();
    let file = PolicyFile::open(policy.path()).unwrap();
    let site = Site::with(|options| RegistryOptions { authorizer: Some(Arc::new(file)), ..options });
    let (token, _) = site.token("alice", &["team/**:pull,push"]).await;
    let bearer = format!("Bearer {token}");
    let moved = {
        let mut json: serde_json::Value = serde_json::from_slice(&image(b"{}").to_bytes()).unwrap();
        json["annotations"] = serde_json::json!({"other": "content"});
        serde_json::to_vec(&json).unwrap()
    };
    for (repository, status) in [("team/a", 201), ("other", 403)] {
        site.push(&bearer, repository, "t").await.1.expect(201);
        let path = format!("/v2/{repository}/manifests/t");
        site.send(&bearer, "PUT", &path, &moved).await.expect(status);
    }
}

#[tokio::test]
async fn a_token_ends_with_its_removal_and_with_its_user() {
    let site = Site::new(None);
    let (token, id) = site.token("alice", &["**:*"]).await;
    let (bobs, _) = site.token("bob", &["**:*"]).await;
    let (issued, _) = site.exchange("alice", &token, "repository:a:pull").await;
    let (bobs_issued, _) = site.exchange("bob", &bobs, "repository:a:pull").await;
    for authorization in [&issued, &bobs_issued, &basic("alice", &token), &format!("Bearer {bobs}")] {
        site.send(authorization, "GET", "/v2/", b"").await.expect(200);
    }
    assert!(site.tokens.remove_token(&id).await.unwrap());
    let start = Instant::now();
    for authorization in [&basic("alice", &token), &issued, &format!("Bearer {token}")] {
        site.becomes(authorization, "/v2/", 401).await;
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    site.send(&basic("alice", "pass:word"), "GET", "/v2/", b"").await.expect(200);
    std::fs::write(site.users.path(), "# nobody\n").unwrap();
    for authorization in [&basic("bob", &bobs), &bobs_issued, &format!("Bearer {bobs}")] {
        site.becomes(authorization, "/v2/", 401).await;
    }
}

#[tokio::test]
async fn a_failed_attempt_costs_one_question_and_a_good_one_is_remembered() {
    let site = Site::new(None);
    let (token, _) = site.token("alice", &["**:pull"]).await;
    let asked = || site.tokens.asked.swap(0, Ordering::SeqCst);
    for _ in 0..20 {
        site.send(&format!("Bearer {token}"), "GET", "/v2/", b"").await.expect(200);
    }
    assert!(asked() <= 2);
    for _ in 0..5 {
        let (unknown, _) = api_token("alice", "", &["**:*"], NOW, None).unwrap();
        let authorization = basic("alice", unknown.expose());
        site.send(&authorization, "GET", "/v2/", b"").await.refused(401, "UNAUTHORIZED");
    }
    assert_eq!(asked(), 5);
    // A database that is away is no reason to let anybody in, and none to say that a token is wrong.
    site.tokens.is_down.store(true, Ordering::SeqCst);
    let (other, _) = site.token("alice", &["**:pull"]).await;
    for authorization in [basic("alice", &other), format!("Bearer {other}")] {
        assert_eq!(site.send(&authorization, "GET", "/v2/", b"").await.status, 503);
    }
    site.becomes(&format!("Bearer {token}"), "/v2/", 503).await;
}

#[tokio::test]
async fn metrics_for_users_are_not_for_api_tokens() {
    let site = Site::with(|options| RegistryOptions { metrics_for_users: true, ..options });
    let (token, _) = site.token("alice", &["**:*"]).await;
    for authorization in [basic("alice", &token), format!("Bearer {token}")] {
        assert_eq!(site.send(&authorization, "GET", "/metrics", b"").await.status, 401);
    }
    assert_eq!(site.send(&basic("alice", "pass:word"), "GET", "/metrics", b"").await.status, 200);
}

#[test]
fn api_tokens_need_users() {
    let tokens = Some(Arc::new(MemoryTokens::default()) as Arc<dyn TokenStore>);
    let options = RegistryOptions { api_tokens: tokens, ..RegistryOptions::default() };
    let e = Registry::new(super::support::memory(), options).unwrap_err();
    assert!(e.to_string().contains("htpasswd"), "{e}");
}

/// The commands, beside a server.
#[tokio::test]
async fn the_program_makes_lists_and_removes_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file, config) = (dir.path().join("data"), dir.path().join("users"), dir.path().join("c.toml"));
    let entry = run(&["htpasswd", "--cost", "8", "ci"], "s3cret\n");
    std::fs::write(&file, &entry.stdout).unwrap();
    std::fs::write(&config, format!("data = {data:?}\n[auth]\nhtpasswd = {file:?}\n")).unwrap();
    let token = |args: &[&str]| {
        let at = ["--config", config.to_str().unwrap()];
        run(&[&["token"], args, &at].concat(), "")
    };
    let output = token(&["ls"]);
    assert!(stderr(&output).contains("there is no store"), "{}", stderr(&output));
    let process = Process::start(&data, &["--htpasswd", file.to_str().unwrap()]);
    let (client, url) = (reqwest::Client::new(), format!("{}/v2/", process.url));
    let status =
        async |token: &str| client.get(&url).bearer_auth(token).send().await.unwrap().status().as_u16();

    let output =
        token(&["add", "ci", "--name", "nightly", "--scope", "team/**:pull,push", "--format", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let (secret, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert_eq!((&made["user"], &made["scopes"]), (&"ci".into(), &serde_json::json!(["team/**:pull,push"])));
    assert_eq!(status(secret).await, 200);
    let output = token(&["add", "ci", "--scope", "**:pull", "--expires", "never"]);
    let other = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(status(other.trim_end()).await, 200);
    assert!(stderr(&output).contains("never expires") && !stderr(&output).contains(other.trim_end()));

    let listed = token(&["ls"]);
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(text.contains(id) && text.contains("nightly") && text.lines().count() == 3, "{text}");
    let json: serde_json::Value = serde_json::from_slice(&token(&["ls", "--format", "json"]).stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    for shown in [text, json.to_string()] {
        assert!(!shown.contains(&secret[20..]) && !shown.contains("sha256"), "{shown}");
    }
    let bytes: Vec<u8> =
        ["hyper.db", "hyper.db-wal"].iter().flat_map(|n| std::fs::read(data.join(n)).unwrap()).collect();
    assert!(
        !bytes.windows(40).any(|window| window == &secret.as_bytes()[20..60]),
        "the secret is in the database"
    );

    for (args, why) in [
        (&["add", "nobody", "--scope", "**:pull"][..], "does not have this user"),
        (&["add", "ci", "--scope", "team/**"], "invalid scope"),
        (&["add", "ci"], "--scope"),
        (&["add", "ci", "--scope", "**:pull", "--expires", "soon"], "never"),
        (&["add", "ci", "--scope", "**:pull", "--expires", "0d"], "never"),
        (&["add", "ci", "--scope", "**:pull", "--expires", "9999999999d"], "never"),
        (&["rm", "unknown"], "no token has this id"),
    ] {
        let output = token(args);
        assert!(!output.status.success() && stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
    }
    assert!(token(&["rm", id]).status.success());
    let start = Instant::now();
    while status(secret).await != 401 {
        assert!(start.elapsed() < Duration::from_secs(5), "the token still works");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(other.trim_end()).await, 200);
}
