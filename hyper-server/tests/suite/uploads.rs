//! Uploads and mounts (end-4 to end-6, end-11, end-13, end-14).

use super::support::{Api, Reply, noise};
use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use hyper_sdk::Digest;
use hyper_sdk::digest::Algorithm;
use hyper_server::{Limits, Registry, RegistryOptions};

async fn start(api: &Api) -> String {
    let reply = api.post("/v2/a/blobs/uploads/").await.expect(202);
    assert_eq!(reply.header("range"), "0-0");
    assert_eq!(reply.header("content-length"), "0");
    let location = reply.header("location").to_owned();
    assert!(location.ends_with(reply.header("docker-upload-uuid")));
    location
}

async fn patch(api: &Api, location: &str, range: Option<&str>, body: &'static [u8]) -> Reply {
    let headers: Vec<_> = range.map(|r| ("content-range", r)).into_iter().collect();
    api.request("PATCH", location, &headers, body).await
}

async fn offset(api: &Api, location: &str) -> String {
    let reply = api.get(location).await.expect(204);
    assert_eq!(reply.header("location"), location);
    assert!(reply.headers.get("content-length").is_none());
    reply.header("range").to_owned()
}

#[tokio::test]
async fn one_post_uploads_a_blob() {
    let api = Api::new();
    let content = noise(1, 700_000);
    let digest = Digest::sha256(&content);
    let path = format!("/v2/a/b/blobs/uploads/?digest={digest}");
    let reply = api.request("POST", &path, &[], content.clone()).await.expect(201);
    assert_eq!(reply.header("location"), format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(reply.header("docker-content-digest"), digest.as_str());
    assert_eq!(api.get(reply.header("location")).await.expect(200).body, content);
}

#[tokio::test]
async fn a_post_and_a_put_upload_a_blob() {
    let api = Api::new();
    let location = start(&api).await;
    let digest = Digest::sha256(b"hello");
    let reply = api.request("PUT", &format!("{location}?digest={digest}"), &[], "hello").await.expect(201);
    assert_eq!(reply.header("location"), format!("/v2/a/blobs/{digest}"));
    api.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn an_upload_accepts_chunks_in_order() {
    let api = Api::new();
    let location = start(&api).await;
    let reply = patch(&api, &location, Some("0-2"), b"abc").await.expect(202);
    assert_eq!((reply.header("range"), reply.header("location")), ("0-2", location.as_str()));
    assert_eq!(patch(&api, &location, None, b"de").await.expect(202).header("range"), "0-4");
    assert_eq!(offset(&api, &location).await, "0-4");
    let digest = Digest::sha256(b"abcdefgh");
    let path = format!("{location}?digest={digest}");
    api.request("PUT", &path, &[("content-range", "5-7")], "fgh").await.expect(201);
    assert_eq!(api.get(&format!("/v2/a/blobs/{digest}")).await.text(), "abcdefgh");
}

#[tokio::test]
async fn an_upload_accepts_a_stream_without_length_and_range() {
    let api = Api::new();
    let location = start(&api).await;
    let content = noise(3, 3_000_000);
    let parts: Vec<_> =
        content.chunks(70_001).map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c))).collect();
    let reply =
        api.request("PATCH", &location, &[], Body::from_stream(stream::iter(parts))).await.expect(202);
    assert_eq!(reply.header("range"), "0-2999999");
    let digest = Digest::sha256(&content);
    api.request("PUT", &format!("{location}?digest={digest}"), &[], "").await.expect(201);
    assert_eq!(api.get(&format!("/v2/a/blobs/{digest}")).await.body, content);
}

#[tokio::test]
async fn a_chunk_out_of_order_is_416_and_changes_nothing() {
    let api = Api::new();
    let location = start(&api).await;
    let digest = Digest::sha256(b"abcdef");
    let put = format!("{location}?digest={digest}");
    patch(&api, &location, Some("3-5"), b"def").await.refused(416, "BLOB_UPLOAD_INVALID");
    assert_eq!(offset(&api, &location).await, "0-0");
    api.request("PUT", &put, &[("content-range", "3-5")], "def").await.refused(416, "BLOB_UPLOAD_INVALID");
    assert_eq!(offset(&api, &location).await, "0-0");
    patch(&api, &location, Some("0-2"), b"abc").await.expect(202);
    patch(&api, &location, Some("0-2"), b"abc").await.refused(416, "BLOB_UPLOAD_INVALID");
    patch(&api, &location, Some("4-5"), b"ef").await.refused(416, "BLOB_UPLOAD_INVALID");
    api.request("PUT", &put, &[("content-range", "4-5")], "ef").await.refused(416, "BLOB_UPLOAD_INVALID");
    assert_eq!(offset(&api, &location).await, "0-2");
    api.request("PUT", &put, &[("content-range", "3-5")], "def").await.expect(201);
}

#[tokio::test]
async fn an_upload_rejects_malformed_and_wrong_ranges() {
    let api = Api::new();
    let location = start(&api).await;
    for range in ["x", "5-4", "0", "bytes"] {
        patch(&api, &location, Some(range), b"abc").await.refused(400, "BLOB_UPLOAD_INVALID");
    }
    patch(&api, &location, Some("0-9"), b"abc").await.refused(400, "SIZE_INVALID");
    assert_eq!(offset(&api, &location).await, "0-0");
    let chunks = || Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))]));
    let range = [("content-range", "0-1")];
    api.request("PATCH", &location, &range, chunks()).await.refused(400, "SIZE_INVALID");
    let range = [("content-range", "0-8")];
    api.request("PATCH", &location, &range, chunks()).await.refused(400, "SIZE_INVALID");
    assert_eq!(offset(&api, &location).await, "0-2");
}

#[tokio::test]
async fn an_upload_keeps_the_bytes_before_a_broken_body() {
    let api = Api::new();
    let location = start(&api).await;
    let broken =
        || Body::from_stream(stream::iter([Ok(Bytes::from_static(b"abc")), Err("the line was cut")]));
    api.request("PATCH", &location, &[], broken()).await.expect(400);
    assert_eq!(offset(&api, &location).await, "0-2");
    let digest = Digest::sha256(b"abcd");
    api.request("PUT", &format!("{location}?digest={digest}"), &[("content-range", "3-3")], "d")
        .await
        .expect(201);

    let digest = Digest::sha256(b"abc");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    api.request("POST", &path, &[], broken()).await.expect(400);
    api.get(&format!("/v2/a/blobs/{digest}")).await.expect(404);
}

#[tokio::test]
async fn wrong_and_malformed_digests_are_400() {
    let api = Api::new();
    let wrong = Digest::sha256(b"other");
    for digest in [wrong.as_str(), "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "x", "sha256:%00"] {
        let path = format!("/v2/a/blobs/uploads/?digest={digest}");
        api.request("POST", &path, &[], "hello").await.refused(400, "DIGEST_INVALID");
        let location = start(&api).await;
        let path = format!("{location}?digest={digest}");
        api.request("PUT", &path, &[], "hello").await.refused(400, "DIGEST_INVALID");
    }
    let location = start(&api).await;
    api.request("PUT", &location, &[], "hello").await.refused(400, "DIGEST_INVALID");
    api.get(&format!("/v2/a/blobs/{wrong}")).await.expect(404);
}

#[tokio::test]
async fn an_upload_learns_its_algorithm_from_the_post_or_from_the_digest() {
    let api = Api::new();
    let digest = Algorithm::Sha512.digest(b"abcdef");
    for query in ["", "?digest-algorithm=sha512", "?digest-algorithm=sha256"] {
        let path = format!("/v2/a/blobs/uploads/{query}");
        let location = api.post(&path).await.expect(202).header("location").to_owned();
        patch(&api, &location, Some("0-2"), b"abc").await.expect(202);
        let reply = api.request("PUT", &format!("{location}?digest={digest}"), &[], "def").await.expect(201);
        assert_eq!(reply.header("docker-content-digest"), digest.as_str());
        api.delete(&format!("/v2/a/blobs/{digest}")).await.expect(202);
    }
    let path = "/v2/a/blobs/uploads/?digest-algorithm=md5";
    api.post(path).await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn a_post_with_a_body_needs_a_digest() {
    let api = Api::new();
    let reply = api.request("POST", "/v2/a/blobs/uploads/", &[], "hello").await;
    reply.refused(400, "BLOB_UPLOAD_INVALID");
}

#[tokio::test]
async fn an_upload_is_unknown_after_its_end_and_in_other_repositories() {
    let api = Api::new();
    let location = start(&api).await;
    patch(&api, &location, None, b"abc").await.expect(202);
    let foreign = location.replace("/v2/a/", "/v2/b/");
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let path = format!("{foreign}?digest={}", Digest::sha256(b"abc"));
        api.request(method, &path, &[], "").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    api.delete(&location).await.expect(204);
    api.delete(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    patch(&api, &location, None, b"abc").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    api.get("/v2/a/blobs/uploads/..%2f..%2fx").await.refused(400, "NAME_INVALID");
}

#[tokio::test]
async fn a_mount_finds_a_blob_with_and_without_from() {
    let api = Api::new();
    let digest = api.blob("from/here", b"shared").await;
    let other = Digest::sha256(b"nowhere");
    let reply = api.post(&format!("/v2/a/blobs/uploads/?mount={digest}&from=from/here")).await.expect(201);
    assert_eq!(reply.header("location"), format!("/v2/a/blobs/{digest}"));
    assert_eq!(reply.header("docker-content-digest"), digest.as_str());
    assert_eq!(api.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).text(), "shared");
    api.post(&format!("/v2/b/blobs/uploads/?mount={digest}")).await.expect(201);
    assert_eq!(api.get(&format!("/v2/b/blobs/{digest}")).await.expect(200).text(), "shared");
    for query in [
        format!("mount={digest}&from=not/there"),
        format!("mount={other}&from=from/here"),
        format!("mount={other}"),
    ] {
        let reply = api.post(&format!("/v2/c/blobs/uploads/?{query}")).await.expect(202);
        let path = format!("{}?digest={digest}", reply.header("location"));
        api.request("PUT", &path, &[], "shared").await.expect(201);
        api.delete(&format!("/v2/c/blobs/{digest}")).await.expect(202);
    }
    api.post("/v2/c/blobs/uploads/?mount=x").await.refused(400, "DIGEST_INVALID");
    api.post(&format!("/v2/c/blobs/uploads/?mount={digest}&from=..%2fx")).await.refused(400, "NAME_INVALID");
}

/// The store knows where a blob is: no server has to have seen it, and no number of repositories is too large.
#[tokio::test]
async fn a_mount_from_anywhere_finds_a_blob_among_many_repositories() {
    let store = super::support::memory();
    let api = Api { registry: Registry::new(store.clone(), RegistryOptions::default()).unwrap() };
    for n in 0..250 {
        api.blob(&format!("a/{n}"), b"common").await;
    }
    let digest = api.blob("z", b"rare").await;
    let restarted = Api { registry: Registry::new(store, RegistryOptions::default()).unwrap() };
    restarted.post(&format!("/v2/b/blobs/uploads/?mount={digest}")).await.expect(201);
    assert_eq!(restarted.get(&format!("/v2/b/blobs/{digest}")).await.expect(200).text(), "rare");
}

#[tokio::test]
async fn a_blob_over_the_limit_is_413() {
    let limits = Limits { blob_bytes: Some(10), ..Limits::default() };
    let api = Api::with(RegistryOptions { limits, ..RegistryOptions::default() });
    api.blob("a", b"0123456789").await;
    let digest = Digest::sha256(b"0123456789x");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    api.request("POST", &path, &[], "0123456789x").await.refused(413, "SIZE_INVALID");
    let location = start(&api).await;
    patch(&api, &location, None, b"0123456789").await.expect(202);
    patch(&api, &location, None, b"x").await.refused(413, "SIZE_INVALID");
}
