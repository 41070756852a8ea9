//! Refresh tokens: what `docker login` stores in place of a password.

use super::access::{basic, options, users};
use super::program::run;
use super::support::{Api, Reply};
use hyper_sdk::store::meta::{MemoryTokens, TokenStore as _};
use hyper_sdk::testing::FrozenClock;
use hyper_server::auth::{AnonymousAccess, PolicyFile, htpasswd_entry};
use hyper_server::{ConnectionInfo, Cors, Rate, RegistryOptions, Throttling, WrongPasswords};
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;

const NOW: i64 = 1_700_000_000;
const DAY: i64 = 24 * 60 * 60;

struct Site {
    api: Api,
    tokens: MemoryTokens,
    users: NamedTempFile,
    clock: Arc<FrozenClock>,
}

impl Site {
    fn with(change: impl FnOnce(RegistryOptions) -> RegistryOptions) -> Self {
        let (users, tokens, clock) = (users(), MemoryTokens::default(), Arc::new(FrozenClock::new(NOW)));
        let api_tokens = Some(Arc::new(tokens.clone()) as _);
        let options = options(Some(&users), Some(AnonymousAccess::Pull));
        let options = RegistryOptions { api_tokens, clock: clock.clone(), ..options };
        Self { api: Api::with(change(options)), tokens, users, clock }
    }

    fn new() -> Self {
        Self::with(|options| options)
    }

    async fn get(&self, query: &str, authorization: Option<&str>) -> Reply {
        let headers: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        self.api.request("GET", &format!("/v2/token?{query}"), &headers, "").await
    }

    async fn post(&self, form: &str) -> Reply {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.api.request("POST", "/v2/token", &headers, form.to_owned()).await
    }

    /// What docker login stores.
    async fn login(&self) -> String {
        let alice = basic("alice", "pass:word");
        let query = "service=hyperregistry&offline_token=true&client_id=docker&account=alice";
        let reply = self.get(query, Some(&alice)).await.expect(200);
        assert_eq!(reply.header("cache-control"), "no-store");
        reply.json()["refresh_token"].as_str().unwrap().to_owned()
    }

    async fn exchange(&self, token: &str, scope: &str) -> Reply {
        self.post(&format!("grant_type=refresh_token&service=hyperregistry&client_id=docker&refresh_token={token}&scope={scope}")).await
    }

    async fn push(&self, reply: Reply) -> Reply {
        let bearer = format!("Bearer {}", reply.expect(200).json()["access_token"].as_str().unwrap());
        self.api.request("POST", "/v2/a/b/blobs/uploads/", &[("authorization", &bearer)], "").await
    }
}

const PUSH: &str = "repository:a/b:pull,push";

#[tokio::test]
async fn a_login_goes_on_without_the_password() {
    let site = Site::new();
    let token = site.login().await;
    assert!(token.starts_with("hyf_"), "{token}");
    let kept = site.tokens.tokens(None, 10).await.unwrap().items;
    assert_eq!((kept.len(), kept[0].user.as_str(), kept[0].name.as_str()), (1, "alice", "docker"));
    assert!(!format!("{kept:?}").contains(&token));
    let reply = site.exchange(&token, PUSH).await.expect(200);
    let json = reply.json();
    assert_eq!((json["scope"].as_str(), json["refresh_token"].as_str()), (Some(PUSH), None));
    assert_eq!(json["token_type"], "Bearer");
    site.push(reply).await.expect(202);
    // By POST, with the words of OAuth 2.
    let form = "grant_type=password&username=alice&password=pass%3Aword&access_type=offline&client_id=crane&service=s";
    let token = site.post(form).await.expect(200).json()["refresh_token"].as_str().unwrap().to_owned();
    site.push(site.exchange(&token, PUSH).await).await.expect(202);
}

#[tokio::test]
async fn only_a_password_gets_one_and_only_when_it_is_asked_for() {
    let site = Site::new();
    let (_, record) = hyper_server::auth::api_token("alice", "ci", &["**:pull"], NOW, None).unwrap();
    site.tokens.add_token(&record).await.unwrap();
    let (machine, record) = hyper_server::auth::api_token("alice", "ci", &["**:*"], NOW, None).unwrap();
    site.tokens.add_token(&record).await.unwrap();
    let alice = basic("alice", "pass:word");
    for (query, authorization) in [
        ("offline_token=true", None),
        ("offline_token=true", Some(basic("alice", machine.expose()))),
        ("scope=repository:a/b:pull", Some(alice.clone())),
        ("offline_token=false", Some(alice.clone())),
    ] {
        let reply = site.get(query, authorization.as_deref()).await.expect(200);
        assert!(reply.json().get("refresh_token").is_none(), "{query}");
    }
    site.get("offline_token=true", Some(&basic("alice", "wrong"))).await.refused(401, "UNAUTHORIZED");
    for change in [
        |options| RegistryOptions { refresh_tokens: None, ..options },
        |options| RegistryOptions { api_tokens: None, ..options },
        |options| RegistryOptions { read_only: true, ..options },
    ] as [fn(RegistryOptions) -> RegistryOptions; 3]
    {
        let site = Site::with(change);
        let reply = site.get("offline_token=true", Some(&alice)).await.expect(200);
        assert!(reply.json().get("refresh_token").is_none());
    }
}

/// What stands for a password at the token endpoint is none elsewhere, and an API token is no refresh token.
#[tokio::test]
async fn a_refresh_token_is_no_password_and_no_bearer_token() {
    let site = Site::new();
    let token = site.login().await;
    let (machine, record) = hyper_server::auth::api_token("alice", "ci", &["**:*"], NOW, None).unwrap();
    site.tokens.add_token(&record).await.unwrap();
    for authorization in [format!("Bearer {token}"), basic("alice", &token), basic("", &token)] {
        let headers = [("authorization", authorization.as_str())];
        site.api.request("GET", "/v2/", &headers, "").await.refused(401, "UNAUTHORIZED");
    }
    let as_api = token.replacen("hyf_", "hyr_", 1);
    let as_refresh = machine.expose().replacen("hyr_", "hyf_", 1);
    for wrong in [machine.expose(), &as_api, &as_refresh, "", "x", &token[1..], &format!("{token}a")] {
        let reply = site.exchange(wrong, PUSH).await.refused(401, "UNAUTHORIZED");
        assert!(reply.text().contains("refresh token is invalid"), "{wrong}: {}", reply.text());
        assert!(!reply.text().contains("hyf_"));
    }
    site.post("grant_type=client_credentials").await.refused(400, "UNSUPPORTED_GRANT_TYPE");
    site.exchange(&token, PUSH).await.expect(200);
}

#[tokio::test]
async fn a_login_ends_when_it_is_not_used_for_a_while() {
    let site = Site::new();
    let (used, unused) = (site.login().await, site.login().await);
    for _ in 0..3 {
        site.clock.advance(20 * DAY);
        site.exchange(&used, PUSH).await.expect(200);
        // The use is recorded beside the answer.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.exchange(&unused, PUSH).await.refused(401, "UNAUTHORIZED");
    site.clock.advance(31 * DAY);
    site.exchange(&used, PUSH).await.refused(401, "UNAUTHORIZED");
    // A further login removes what has ended.
    site.login().await;
    assert_eq!(site.tokens.tokens(None, 10).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_logins() {
    let site = Site::new();
    let first = site.login().await;
    for _ in 0..100 {
        site.clock.advance(1);
        site.login().await;
    }
    assert_eq!(site.tokens.tokens(None, 200).await.unwrap().items.len(), 100);
    site.exchange(&first, PUSH).await.refused(401, "UNAUTHORIZED");
}

/// What was issued for a login ends with it, and each exchange looks the rights up anew.
#[tokio::test]
async fn a_login_ends_with_its_password_its_user_and_its_token() {
    let entry = |user: &str, password: &str| format!("{}\n", htpasswd_entry(user, password, 4).unwrap());
    let mallory = entry("mallory", "x");
    for (change, why) in [
        (Some(entry("alice", "other") + &mallory), "another password"),
        (Some(mallory.clone()), "the user was removed"),
        (None, "the token was removed"),
    ] {
        let site = Site::new();
        let token = site.login().await;
        let bearer = site.exchange(&token, PUSH).await.expect(200);
        match change {
            Some(text) => std::fs::write(site.users.path(), text).unwrap(),
            None => {
                let id = site.tokens.tokens(None, 1).await.unwrap().items[0].id.clone();
                site.tokens.remove_token(&id).await.unwrap();
            }
        }
        // The file is looked at once a second, and a token is remembered for two.
        tokio::time::sleep(Duration::from_millis(2100)).await;
        site.exchange(&token, PUSH).await.refused(401, "UNAUTHORIZED");
        let refused = site.push(bearer).await;
        assert_eq!(refused.status, 401, "{why}");
    }
    let policy = NamedTempFile::new().unwrap();
    let write = |actions: &str| {
        let text =
            format!("[[allow]]\nwho = [\"user:alice\"]\nrepositories = [\"a/**\"]\nactions = [{actions}]\n");
        std::fs::write(policy.path(), text).unwrap();
    };
    write("\"pull\", \"push\"");
    let file = PolicyFile::open(policy.path()).unwrap();
    let authorizer = Some(Arc::new(file.clone()) as _);
    let site = Site::with(|options| RegistryOptions { authorizer, anonymous: None, ..options });
    let token = site.login().await;
    assert_eq!(site.exchange(&token, PUSH).await.expect(200).json()["scope"], PUSH);
    write("\"pull\"");
    file.reload().unwrap();
    let scope = site.exchange(&token, PUSH).await.expect(200).json()["scope"].clone();
    assert_eq!(scope, "repository:a/b:pull");
}

#[tokio::test]
async fn wrong_refresh_tokens_are_limited_as_wrong_passwords_are() {
    let rate: Rate = "3/m".parse().unwrap();
    let wrong_passwords = WrongPasswords { address: Some(rate), ..WrongPasswords::default() };
    let site = Site::with(|options| RegistryOptions {
        throttling: Throttling { wrong_passwords, ..Throttling::default() },
        trusted_proxies: Some(vec!["127.0.0.1".parse().unwrap()]),
        ..options
    });
    let token = site.login().await;
    let peer: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
    let ask = async |client: &str, token: &str| {
        let form = format!("grant_type=refresh_token&refresh_token={token}");
        let mut request = http::Request::post("/v2/token").body(axum::body::Body::from(form)).unwrap();
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
        request.extensions_mut().insert(hyper_server::ConnectionInfo::new(peer, peer));
        site.api.registry.handle(request).await.status().as_u16()
    };
    for _ in 0..3 {
        assert_eq!(ask("192.0.2.1", "hyf_x").await, 401);
    }
    assert_eq!(ask("192.0.2.1", &token).await, 429);
    assert_eq!(ask("192.0.2.2", &token).await, 200);
}

#[tokio::test]
async fn the_program_lists_and_removes_logins() {
    use super::program::Process;
    let folder = tempfile::tempdir().unwrap();
    let users = users();
    let data = folder.path().join("data");
    let server = Process::start(&data, &["--htpasswd", users.path().to_str().unwrap()]);
    let data = data.to_str().unwrap();
    let url = format!("{}/v2/token", server.url);
    let http = reqwest::Client::new();
    let asked =
        http.get(format!("{url}?offline_token=true&client_id=docker")).basic_auth("alice", Some("pass:word"));
    let answer: serde_json::Value =
        serde_json::from_str(&asked.send().await.unwrap().text().await.unwrap()).unwrap();
    let token = answer["refresh_token"].as_str().unwrap();
    let exchange = async || {
        let form = format!("grant_type=refresh_token&refresh_token={token}");
        http.post(&url).body(form).send().await.unwrap().status().as_u16()
    };
    assert_eq!(exchange().await, 200);
    let listed = run(&["token", "ls", "--format", "json", "--data", data], "");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["user"], &listed[0]["name"]),
        (&"refresh".into(), &"alice".into(), &"docker".into())
    );
    let id = listed[0]["id"].as_str().unwrap();
    assert!(run(&["token", "rm", id, "--data", data], "").status.success());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(exchange().await, 401);
}

/// A browser sends the form of any page that somebody reads: that must not use up what the address may guess.
#[tokio::test]
async fn pages_of_other_origins_log_nobody_in_or_out() {
    let cors = Cors::new(["https://ui.example.com"], false, Duration::ZERO).unwrap();
    let site = Site::with(|options| RegistryOptions { cors: Some(cors), ..options });
    let form = |password: &str| format!("grant_type=password&service=x&username=alice&password={password}");
    let post = async |headers: &[(&str, &str)], password: &str| {
        let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
        all.extend(headers);
        from(&site.api, "/v2/token", &all, form(password)).await
    };
    for headers in [
        &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "https://other.example.com"), ("sec-fetch-site", "same-site")],
    ] {
        for n in 0..4 {
            assert_eq!(post(headers, &format!("guess{n}")).await, 403, "{headers:?}");
        }
    }
    for headers in [
        &[][..],
        &[("origin", "https://ui.example.com"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://registry.example.com"), ("sec-fetch-site", "same-origin")],
        &[("origin", "http://registry.internal:5000"), ("host", "registry.internal:5000")],
    ] {
        assert_eq!(post(headers, "pass:word").await, 200, "{headers:?}");
        assert_eq!(post(headers, "wrong").await, 401, "{headers:?}");
    }
}

/// The status of a form that a client at one address sends.
async fn from(api: &Api, path: &str, headers: &[(&str, &str)], body: String) -> u16 {
    let request =
        headers.iter().fold(http::Request::post(path), |to, (name, value)| to.header(*name, *value));
    let mut request = request.body(axum::body::Body::from(body)).unwrap();
    let peer = "192.0.2.1:1".parse().unwrap();
    request.extensions_mut().insert(ConnectionInfo::new(peer, peer));
    api.registry.handle(request).await.status().as_u16()
}
