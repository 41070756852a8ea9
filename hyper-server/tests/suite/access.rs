//! Who may do what, and what hostile requests get.

use super::support::{Api, Reply, image, memory};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_sdk::{Digest, RepositoryName, Tag, media_type};
use hyper_server::auth::{Action, AnonymousAccess, Authorizer, Principal, htpasswd_entry};
use hyper_server::{Registry, RegistryOptions};
use std::sync::Arc;
use tempfile::NamedTempFile;

pub(super) fn users() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let lines = [htpasswd_entry("alice", "pass:word", 4).unwrap(), htpasswd_entry("bob", "b", 4).unwrap()];
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    file
}

pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(super) fn options(file: Option<&NamedTempFile>, anonymous: Option<AnonymousAccess>) -> RegistryOptions {
    RegistryOptions { htpasswd: file.map(|f| f.path().to_owned()), anonymous, ..RegistryOptions::default() }
}

/// Every kind of request, with whether it reads or changes.
async fn every_request(api: &Api, headers: &[(&str, &str)]) -> Vec<(String, bool, Reply)> {
    let digest = Digest::sha256(b"x");
    let upload = "0123456789abcdef0123456789abcdef";
    let mut replies = Vec::new();
    for (method, path, reads) in [
        ("GET", "/v2/".to_owned(), true),
        ("GET", "/v2/_catalog".to_owned(), true),
        ("GET", "/v2/_oci/ext/discover".to_owned(), true),
        ("GET", "/v2/a/tags/list".to_owned(), true),
        ("GET", format!("/v2/a/referrers/{digest}"), true),
        ("GET", "/v2/a/manifests/x".to_owned(), true),
        ("HEAD", "/v2/a/manifests/x".to_owned(), true),
        ("GET", format!("/v2/a/blobs/{digest}"), true),
        ("HEAD", format!("/v2/a/blobs/{digest}"), true),
        ("GET", "/v2/NOT/VALID".to_owned(), true),
        ("POST", "/v2/a/blobs/uploads/".to_owned(), false),
        ("POST", format!("/v2/a/blobs/uploads/?mount={digest}"), false),
        ("GET", format!("/v2/a/blobs/uploads/{upload}"), false),
        ("PATCH", format!("/v2/a/blobs/uploads/{upload}"), false),
        ("PUT", format!("/v2/a/blobs/uploads/{upload}?digest={digest}"), false),
        ("DELETE", format!("/v2/a/blobs/uploads/{upload}"), false),
        ("PUT", "/v2/a/manifests/x".to_owned(), false),
        ("DELETE", "/v2/a/manifests/x".to_owned(), false),
        ("DELETE", format!("/v2/a/blobs/{digest}"), false),
    ] {
        let reply = api.request(method, &path, headers, "").await;
        replies.push((format!("{method} {path}"), reads, reply));
    }
    replies
}

#[tokio::test]
async fn anonymous_access_limits_requests_without_credentials() {
    let file = users();
    let good = basic("alice", "pass:word");
    for (anonymous, reads, writes) in [
        (None, false, false),
        (Some(AnonymousAccess::None), false, false),
        (Some(AnonymousAccess::Pull), true, false),
        (Some(AnonymousAccess::Full), true, true),
    ] {
        let api = Api::with(options(Some(&file), anonymous));
        // An empty user name is what skopeo and podman send when they were challenged and have no credentials.
        let nobody = basic("", "");
        for headers in [&[][..], &[("authorization", nobody.as_str())]] {
            for (request, is_read, reply) in every_request(&api, headers).await {
                // The probe is where docker learns that there are users, and nowhere else.
                let probe = request == "GET /v2/";
                if !probe && if is_read { reads } else { writes } {
                    assert_ne!(reply.status, 401, "{request} {anonymous:?}");
                } else {
                    assert_eq!(reply.status, 401, "{request} {anonymous:?}");
                    let scheme = if reads { "Bearer realm=" } else { "Basic realm=\"hyperregistry\"" };
                    assert!(reply.header("www-authenticate").starts_with(scheme), "{request}");
                    if !request.starts_with("HEAD ") {
                        assert_eq!(reply.code(), "UNAUTHORIZED");
                    }
                }
            }
        }
        for (request, _, reply) in every_request(&api, &[("authorization", &good)]).await {
            assert!(![401, 403].contains(&reply.status.as_u16()), "{request}");
        }
        let wrong =
            [basic("alice", "wrong"), basic("nobody", "pass:word"), "Bearer x".into(), "Basic !".into()];
        for value in wrong {
            for (request, _, reply) in every_request(&api, &[("authorization", &value)]).await {
                assert_eq!(reply.status, 401, "{request} {anonymous:?}");
            }
        }
    }
}

#[tokio::test]
async fn without_users_a_denial_does_not_ask_for_a_password() {
    let api = Api::with(options(None, Some(AnonymousAccess::Pull)));
    let reply = api.post("/v2/a/blobs/uploads/").await.refused(403, "DENIED");
    assert_eq!(reply.header("www-authenticate"), "");
    api.get("/v2/").await.expect(200);
}

#[derive(Debug)]
struct OwnFolder;

impl Authorizer for OwnFolder {
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool {
        action == Action::Probe
            || repository
                .is_some_and(|r| r.as_str().starts_with(&format!("{}/", who.name().unwrap_or_default())))
    }

    fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn a_mount_needs_the_right_to_pull_from_its_source() {
    let file = users();
    let options = RegistryOptions { authorizer: Some(Arc::new(OwnFolder)), ..options(Some(&file), None) };
    let api = Api { registry: Registry::new(memory(), options).unwrap() };
    let (alice, bob) = (basic("alice", "pass:word"), basic("bob", "b"));
    let digest = Digest::sha256(b"alice's");
    let path = format!("/v2/alice/x/blobs/uploads/?digest={digest}");
    api.request("POST", &path, &[("authorization", &alice)], "alice's").await.expect(201);
    for query in [format!("mount={digest}&from=alice/x"), format!("mount={digest}")] {
        let path = format!("/v2/bob/x/blobs/uploads/?{query}");
        api.request("POST", &path, &[("authorization", &bob)], "").await.expect(202);
        let path = format!("/v2/alice/y/blobs/uploads/?{query}");
        api.request("POST", &path, &[("authorization", &alice)], "").await.expect(201);
    }
    let bobs = format!("/v2/bob/x/blobs/{digest}");
    api.request("GET", &bobs, &[("authorization", &bob)], "").await.expect(404);
    let alices = format!("/v2/alice/x/blobs/{digest}");
    api.request("GET", &alices, &[("authorization", &bob)], "").await.refused(403, "DENIED");
    let catalog = api.request("GET", "/v2/_catalog", &[("authorization", &bob)], "").await.expect(200);
    assert_eq!(catalog.json()["repositories"], serde_json::json!([]));
    let catalog = api.request("GET", "/v2/_catalog", &[("authorization", &alice)], "").await.expect(200);
    assert_eq!(catalog.json()["repositories"], serde_json::json!(["alice/x", "alice/y"]));
}

#[tokio::test]
async fn a_read_only_registry_rejects_changes() {
    let store = memory();
    let writer = Api { registry: Registry::new(store.clone(), RegistryOptions::default()).unwrap() };
    let (bytes, digest) = writer.image("a", "t", b"{}").await;
    let options = RegistryOptions { read_only: true, ..RegistryOptions::default() };
    let api = Api { registry: Registry::new(store, options).unwrap() };
    assert_eq!(api.get("/v2/a/manifests/t").await.expect(200).body, bytes);
    let blob = Digest::sha256(b"{}");
    api.post("/v2/a/blobs/uploads/").await.refused(405, "UNSUPPORTED");
    api.manifest("a", "t", media_type::OCI_MANIFEST, &image(b"{}").to_bytes())
        .await
        .refused(405, "UNSUPPORTED");
    api.delete(&format!("/v2/a/manifests/{digest}")).await.refused(405, "UNSUPPORTED");
    api.delete(&format!("/v2/a/blobs/{blob}")).await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn malformed_paths_return_a_json_error() {
    let api = Api::new();
    for (path, status, code) in [
        ("/v2/..%2f..%2fetc/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a%00/manifests/x", 400, "NAME_INVALID"),
        ("/v2/%c0%ae%c0%ae/manifests/x", 400, "NAME_INVALID"),
        ("/v2/%ff/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a%0d%0aX-Evil:%201/manifests/x", 400, "NAME_INVALID"),
        ("/v2/UPPER/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a/../b/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a/manifests/%2e%2e", 400, "REQUEST_INVALID"),
        ("/v2/a/tags/list?last=%00&n=1", 404, "NAME_UNKNOWN"),
        ("/", 404, "NOT_FOUND"),
        ("/etc/passwd", 404, "NOT_FOUND"),
        ("/v2/../../etc/passwd", 404, "NOT_FOUND"),
    ] {
        let reply = api.get(path).await.refused(status, code);
        assert!(reply.headers.get("x-evil").is_none());
    }
    let long = "a/".repeat(200);
    api.get(&format!("/v2/{long}a/manifests/x")).await.refused(400, "NAME_INVALID");
    let reply = api.request("POST", "/v2/a/manifests/x", &[], "").await.refused(405, "UNSUPPORTED");
    assert_eq!(reply.header("allow"), "GET, HEAD, PUT, DELETE");
    api.request("TRACE", "/v2/", &[], "").await.refused(405, "UNSUPPORTED");
}
