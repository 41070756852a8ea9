//! Tokens: what docker and its kin do where everybody may pull and users may push.

use super::access::{basic, options, users};
use super::support::{Api, Reply, image, memory};
use hyper_sdk::testing::FrozenClock;
use hyper_sdk::{Digest, RepositoryName, Tag, media_type};
use hyper_server::auth::{Action, AnonymousAccess, Authorizer, Principal};
use hyper_server::{Registry, RegistryOptions};
use std::sync::Arc;

/// A parameter of the challenge of a refusal.
fn parameter(reply: &Reply, name: &str) -> String {
    let challenge = reply.header("www-authenticate");
    let rest = challenge.strip_prefix("Bearer ").unwrap_or_else(|| panic!("{challenge:?}"));
    let found = rest.split(',').collect::<Vec<_>>().join(",");
    let start = found.find(&format!("{name}=\"")).unwrap_or_else(|| panic!("{name}: {challenge}"));
    let value = &found[start + name.len() + 2..];
    value[..value.find('"').unwrap()].to_owned()
}

async fn token(api: &Api, scope: &str, authorization: Option<&str>) -> Reply {
    let path = format!("/v2/token?service=hyperregistry&scope={scope}&account=x&client_id=docker");
    let headers: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
    api.request("GET", &path, &headers, "").await
}

fn bearer(reply: Reply) -> String {
    let json = reply.expect(200).json();
    assert_eq!(json["token"], json["access_token"]);
    assert!(json["expires_in"].as_i64().unwrap() >= 60);
    format!("Bearer {}", json["token"].as_str().unwrap())
}

#[tokio::test]
async fn docker_logs_in_pushes_and_pulls() {
    let file = users();
    let api = Api::with(options(Some(&file), Some(AnonymousAccess::Pull)));
    let reply =
        api.request("GET", "/v2/", &[("host", "r.example:5000")], "").await.refused(401, "UNAUTHORIZED");
    assert_eq!(parameter(&reply, "realm"), "http://r.example:5000/v2/token");
    assert_eq!(parameter(&reply, "service"), "hyperregistry");

    for wrong in [basic("alice", "wrong"), basic("nobody", "x"), "Basic !".to_owned(), "Bearer x".to_owned()]
    {
        let reply = token(&api, "repository:a:pull", Some(&wrong)).await.refused(401, "UNAUTHORIZED");
        assert!(reply.header("www-authenticate").starts_with("Basic "), "{wrong}");
    }
    let alice = basic("alice", "pass:word");
    // docker login asks without a scope, and then probes with what it got.
    let login =
        api.request("GET", "/v2/token?service=x&offline_token=true", &[("authorization", &alice)], "").await;
    let login = bearer(login);
    api.request("GET", "/v2/", &[("authorization", &login)], "").await.expect(200);

    let reply = api.post("/v2/a/b/blobs/uploads/").await.refused(401, "UNAUTHORIZED");
    assert_eq!(parameter(&reply, "scope"), "repository:a/b:pull,push");
    let push = bearer(token(&api, "repository:a/b:pull,push", Some(&alice)).await);
    let auth = [("authorization", push.as_str())];
    let blob = Digest::sha256("{}");
    api.request("HEAD", &format!("/v2/a/b/blobs/{blob}"), &auth, "").await.expect(404);
    api.request("POST", &format!("/v2/a/b/blobs/uploads/?digest={blob}"), &auth, "{}").await.expect(201);
    let bytes = image(b"{}").to_bytes();
    let with_type = [auth[0], ("content-type", media_type::OCI_MANIFEST)];
    api.request("PUT", "/v2/a/b/manifests/t", &with_type, bytes.clone()).await.expect(201);

    // The token is for this repository and for pushing, and for nothing else.
    let reply = api.request("POST", "/v2/other/blobs/uploads/", &auth, "").await.refused(401, "UNAUTHORIZED");
    assert_eq!(parameter(&reply, "error"), "insufficient_scope");
    assert_eq!(parameter(&reply, "scope"), "repository:other:pull,push");
    assert!(reply.text().contains("the token does not grant this"), "{}", reply.text());
    let reply = api.request("DELETE", "/v2/a/b/manifests/t", &auth, "").await.refused(401, "UNAUTHORIZED");
    assert_eq!(parameter(&reply, "scope"), "repository:a/b:pull,delete");

    // Nobody's token is for pulling, and so is no token at all.
    let nobody = bearer(token(&api, "repository:a/b:pull,push", None).await);
    for headers in
        [&[][..], &[("authorization", nobody.as_str())], &auth[..], &[("authorization", alice.as_str())]]
    {
        assert_eq!(api.request("GET", "/v2/a/b/manifests/t", headers, "").await.expect(200).body, bytes);
        let catalog = api.request("GET", "/v2/_catalog", headers, "").await.expect(200);
        assert_eq!(catalog.json()["repositories"], serde_json::json!(["a/b"]));
    }
    api.request("GET", "/v2/", &[("authorization", &nobody)], "").await.expect(200);
    // Clients fetch such a token by themselves: their users have to log in, and know of no token.
    let refused = api.request("POST", "/v2/a/b/blobs/uploads/", &[("authorization", &nobody)], "").await;
    let refused = refused.refused(401, "UNAUTHORIZED");
    assert!(refused.text().contains("log in first"), "{}", refused.text());
    let all = bearer(token(&api, "repository:a/b:*", Some(&alice)).await);
    api.request("DELETE", "/v2/a/b/manifests/t", &[("authorization", &all)], "").await.expect(202);
    // Basic credentials go on working everywhere.
    api.request("GET", "/v2/", &[("authorization", &alice)], "").await.expect(200);
    api.request("POST", "/v2/any/blobs/uploads/", &[("authorization", &alice)], "").await.expect(202);
}

#[tokio::test]
async fn a_mount_needs_the_source_in_its_token_unless_all_may_pull_it() {
    let file = users();
    for (anonymous, mounted) in [(AnonymousAccess::Pull, 201), (AnonymousAccess::None, 202)] {
        let api = Api::with(options(Some(&file), Some(anonymous)));
        let alice = basic("alice", "pass:word");
        let blob = Digest::sha256("x");
        let path = format!("/v2/from/blobs/uploads/?digest={blob}");
        api.request("POST", &path, &[("authorization", &alice)], "x").await.expect(201);
        let mount = format!("/v2/to/blobs/uploads/?mount={blob}&from=from");
        let push = bearer(token(&api, "repository:to:pull,push", Some(&alice)).await);
        api.request("POST", &mount, &[("authorization", &push)], "").await.expect(mounted);
        let both = "repository:to:pull,push&scope=repository:from:pull";
        let push = bearer(token(&api, both, Some(&alice)).await);
        api.request("POST", &mount, &[("authorization", &push)], "").await.expect(201);
    }
}

/// Pushes an empty index, so that the catalog lists the repository.
async fn fill(api: &Api, repository: &str, authorization: &str) {
    let path = format!("/v2/{repository}/manifests/x");
    let headers = [("authorization", authorization), ("content-type", media_type::OCI_INDEX)];
    api.request("PUT", &path, &headers, super::support::index(vec![]).to_bytes()).await.expect(201);
}

async fn catalog(api: &Api, query: &str, authorization: &str) -> Reply {
    api.request("GET", &format!("/v2/_catalog{query}"), &[("authorization", authorization)], "").await
}

/// A token for one repository is often given away, to a job that pulls.
#[tokio::test]
async fn the_catalog_needs_a_token_for_it_unless_it_is_open() {
    let file = users();
    for (anonymous, without) in [(AnonymousAccess::Pull, 200), (AnonymousAccess::None, 401)] {
        let api = Api::with(options(Some(&file), Some(anonymous)));
        let alice = basic("alice", "pass:word");
        for name in ["a", "b"] {
            fill(&api, name, &alice).await;
        }
        for scope in ["repository:a:pull", "repository:a:*", "registry:catalog:pull", "registry:other:*", ""]
        {
            let limited = bearer(token(&api, scope, Some(&alice)).await);
            let reply = catalog(&api, "", &limited).await.expect(without);
            if without == 401 {
                assert_eq!(parameter(&reply, "scope"), "registry:catalog:*");
                assert_eq!(parameter(&reply, "error"), "insufficient_scope");
            }
        }
        let reply = token(&api, "registry:catalog:*", Some(&alice)).await.expect(200);
        assert_eq!(reply.json()["scope"], "registry:catalog:*");
        for authorization in [bearer(reply), alice] {
            let reply = catalog(&api, "", &authorization).await.expect(200);
            assert_eq!(reply.json()["repositories"], serde_json::json!(["a", "b"]));
        }
    }
}

/// Opens the repositories below `open/` to everybody, and all to users.
#[derive(Debug)]
struct OpenOnes;

impl Authorizer for OpenOnes {
    fn allows(&self, who: &Principal, name: Option<&RepositoryName>, _: Action) -> bool {
        !who.is_anonymous() || name.is_none_or(|name| name.as_str().starts_with("open/"))
    }

    fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
        None
    }
}

async fn partly_open(file: &tempfile::NamedTempFile) -> Api {
    let authorizer: Arc<dyn Authorizer> = Arc::new(OpenOnes);
    let api = Api::with(RegistryOptions { authorizer: Some(authorizer), ..options(Some(file), None) });
    for name in ["closed/a", "closed/b", "open/c", "open/d", "zclosed"] {
        fill(&api, name, &basic("alice", "pass:word")).await;
    }
    api
}

#[tokio::test]
async fn the_catalog_lists_what_the_caller_may_pull() {
    let file = users();
    let api = partly_open(&file).await;
    let alice = basic("alice", "pass:word");
    let seen = |reply: Reply| reply.expect(200).json()["repositories"].clone();
    for (scope, expected) in [
        ("repository:open/c:pull", &["open/c", "open/d"][..]),
        ("repository:closed/a:pull", &["closed/a", "open/c", "open/d"]),
        ("repository:closed/a:push", &["open/c", "open/d"]),
        ("registry:catalog:*", &["closed/a", "closed/b", "open/c", "open/d", "zclosed"]),
    ] {
        let token = bearer(token(&api, scope, Some(&alice)).await);
        assert_eq!(seen(catalog(&api, "", &token).await), serde_json::json!(expected), "{scope}");
    }
    let nobody = bearer(token(&api, "registry:catalog:*", None).await);
    for reply in [catalog(&api, "", &nobody).await, api.get("/v2/_catalog").await] {
        assert_eq!(seen(reply), serde_json::json!(["open/c", "open/d"]));
    }
}

/// Neither an empty page nor the link to the next one tells of others.
#[tokio::test]
async fn pages_of_the_catalog_are_full_and_have_no_hidden_repository() {
    let file = users();
    let api = partly_open(&file).await;
    for (query, expected, next) in [
        ("?n=1", &["open/c"][..], "</v2/_catalog?n=1&last=open%2Fc>; rel=\"next\""),
        ("?n=1&last=open%2Fc", &["open/d"], ""),
        ("?n=2", &["open/c", "open/d"], ""),
        ("?n=1&last=open%2Fd", &[], ""),
        ("?n=0", &[], ""),
    ] {
        let reply = api.get(&format!("/v2/_catalog{query}")).await.expect(200);
        assert_eq!(reply.json()["repositories"], serde_json::json!(expected), "{query}");
        assert_eq!(reply.header("link"), next, "{query}");
    }
}

#[tokio::test]
async fn metrics_for_users_are_not_for_tokens() {
    let file = users();
    for anonymous in [AnonymousAccess::Pull, AnonymousAccess::None] {
        let api =
            Api::with(RegistryOptions { metrics_for_users: true, ..options(Some(&file), Some(anonymous)) });
        let alice = basic("alice", "pass:word");
        api.request("GET", "/metrics", &[("authorization", &alice)], "").await.expect(200);
        let mut refused = vec![bearer(token(&api, "repository:a:pull", Some(&alice)).await)];
        if anonymous == AnonymousAccess::Pull {
            refused.push(bearer(token(&api, "repository:a:pull", None).await));
        }
        let mut replies = vec![api.get("/metrics").await];
        for authorization in &refused {
            replies.push(api.request("GET", "/metrics", &[("authorization", authorization)], "").await);
        }
        for reply in replies {
            let reply = reply.refused(401, "UNAUTHORIZED");
            assert!(reply.header("www-authenticate").starts_with("Basic "));
        }
    }
}

#[tokio::test]
async fn the_token_endpoint_supports_the_password_grant_of_oauth() {
    let file = users();
    let api = Api::with(options(Some(&file), Some(AnonymousAccess::Pull)));
    let post = async |form: &'static str| {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        api.request("POST", "/v2/token", &headers, form).await
    };
    let good = "grant_type=password&username=alice&password=pass%3Aword&service=s&client_id=c\
                &scope=repository%3Aa%3Apull%2Cpush+repository%3Ab%3Apull";
    let reply = post(good).await.expect(200);
    assert_eq!(reply.json()["scope"], "repository:a:pull,push repository:b:pull");
    assert_eq!(reply.header("cache-control"), "no-store");
    let push = bearer(reply);
    api.request("POST", "/v2/a/blobs/uploads/", &[("authorization", &push)], "").await.expect(202);
    post("grant_type=password&username=alice&password=wrong").await.refused(401, "UNAUTHORIZED");
    post("grant_type=refresh_token&refresh_token=x").await.refused(401, "UNAUTHORIZED");
    post("grant_type=authorization_code&code=x").await.refused(400, "UNSUPPORTED_GRANT_TYPE");
    post("").await.refused(400, "UNSUPPORTED_GRANT_TYPE");
    let scopes = "&scope=repository:a:pull".repeat(100);
    token(&api, &format!("x{scopes}"), None).await.refused(400, "REQUEST_INVALID");
    let wide = format!("{good}&x={}", "y".repeat(70_000));
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    api.request("POST", "/v2/token", &headers, wide).await.refused(413, "SIZE_INVALID");
    api.request("PUT", "/v2/token", &[], "").await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn anonymous_callers_get_no_token_without_anonymous_access() {
    let file = users();
    let closed = Api::with(options(Some(&file), None));
    token(&closed, "repository:a:pull", None).await.refused(401, "UNAUTHORIZED");
    let alice = bearer(token(&closed, "repository:a:pull", Some(&basic("alice", "pass:word"))).await);
    let path = "/v2/a/manifests/x";
    closed.request("GET", path, &[("authorization", &alice)], "").await.refused(404, "MANIFEST_UNKNOWN");
    let reply = closed.get(path).await.refused(401, "UNAUTHORIZED");
    assert!(reply.header("www-authenticate").starts_with("Basic "));
    token(&Api::new(), "repository:a:pull", None).await.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn the_realm_follows_the_proxy_or_the_configuration() {
    let file = users();
    let api = Api::with(options(Some(&file), Some(AnonymousAccess::Pull)));
    let headers = [("host", "inner:5000"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "r.example")];
    let reply = api.request("GET", "/v2/", &headers, "").await.expect(401);
    assert_eq!(parameter(&reply, "realm"), "https://r.example/v2/token");
    let set = RegistryOptions {
        public_url: Some("https://set.example".to_owned()),
        ..options(Some(&file), Some(AnonymousAccess::Pull))
    };
    let reply = Api::with(set).request("GET", "/v2/", &headers, "").await.expect(401);
    assert_eq!(parameter(&reply, "realm"), "https://set.example/v2/token");
}

#[tokio::test]
async fn a_token_is_valid_on_all_servers_with_one_key_until_its_user_is_removed() {
    let file = users();
    let dir = tempfile::tempdir().unwrap();
    let new = |key: &str| {
        let options = RegistryOptions {
            token_key: Some(dir.path().join(key)),
            ..options(Some(&file), Some(AnonymousAccess::Pull))
        };
        Api { registry: Registry::new(memory(), options).unwrap() }
    };
    let (one, two, other) = (new("a.key"), new("a.key"), new("b.key"));
    let push = bearer(token(&one, "repository:a:pull,push", Some(&basic("bob", "b"))).await);
    let auth = [("authorization", push.as_str())];
    for (api, status) in [(&one, 202), (&two, 202), (&other, 401)] {
        api.request("POST", "/v2/a/blobs/uploads/", &auth, "").await.expect(status);
    }
    let alice = std::fs::read_to_string(file.path()).unwrap().lines().next().unwrap().to_owned();
    std::fs::write(file.path(), alice).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    one.request("POST", "/v2/a/blobs/uploads/", &auth, "").await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn an_expired_token_is_rejected() {
    let (file, clock) = (users(), Arc::new(FrozenClock::new(1_700_000_000)));
    let options =
        RegistryOptions { clock: clock.clone(), ..options(Some(&file), Some(AnonymousAccess::Pull)) };
    let api = Api { registry: Registry::new(memory(), options).unwrap() };
    let reply = token(&api, "repository:a:pull,push", Some(&basic("bob", "b"))).await.expect(200);
    let life = reply.json()["expires_in"].as_i64().unwrap();
    let push = bearer(reply);
    let auth = [("authorization", push.as_str())];
    clock.advance(life - 1);
    api.request("POST", "/v2/a/blobs/uploads/", &auth, "").await.expect(202);
    clock.advance(1);
    let reply = api.request("POST", "/v2/a/blobs/uploads/", &auth, "").await.refused(401, "UNAUTHORIZED");
    assert!(reply.header("www-authenticate").contains("invalid_token"));
}
