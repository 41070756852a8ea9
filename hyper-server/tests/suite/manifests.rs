//! Manifests (end-3, end-7, end-9).

use super::support::{Api, image, index};
use hyper_sdk::digest::Algorithm;
use hyper_sdk::oci::Descriptor;
use hyper_sdk::{Digest, media_type};
use hyper_server::RegistryOptions;

#[tokio::test]
async fn a_manifest_keeps_its_bytes_and_its_media_type_without_parameters() {
    let api = Api::new();
    api.blob("a", b"{}").await;
    let bytes = [&b"\n  "[..], &image(b"{}").to_bytes(), b"\n"].concat();
    let kind = format!("{}; charset=utf-8", media_type::OCI_MANIFEST);
    let reply = api.manifest("a", "v1", &kind, &bytes).await.expect(201);
    let digest = Digest::sha256(&bytes);
    assert_eq!(reply.header("location"), format!("/v2/a/manifests/{digest}"));
    assert_eq!(reply.header("docker-content-digest"), digest.as_str());
    for path in ["/v2/a/manifests/v1".to_owned(), format!("/v2/a/manifests/{digest}")] {
        for _ in 0..2 {
            let get = api.get(&path).await.expect(200);
            let head = api.head(&path).await.expect(200);
            assert_eq!(get.body, bytes);
            assert!(head.body.is_empty());
            for reply in [get, head] {
                assert_eq!(reply.header("content-type"), media_type::OCI_MANIFEST);
                assert_eq!(reply.header("content-length"), bytes.len().to_string());
                assert_eq!(reply.header("docker-content-digest"), digest.as_str());
                assert_eq!(reply.header("etag"), format!("\"{digest}\""));
            }
        }
    }
}

#[tokio::test]
async fn a_push_of_docker_schema_2_is_accepted_and_of_schema_1_rejected_by_name() {
    let api = Api::new();
    api.blob("a", b"{}").await;
    let mut docker = image(b"{}");
    docker.media_type = Some(media_type::DOCKER_MANIFEST.into());
    let bytes = docker.to_bytes();
    api.manifest("a", "docker", media_type::DOCKER_MANIFEST, &bytes).await.expect(201);
    let accept = [("accept", media_type::OCI_MANIFEST)];
    let reply = api.request("GET", "/v2/a/manifests/docker", &accept, "").await.expect(200);
    assert_eq!(reply.header("content-type"), media_type::DOCKER_MANIFEST);
    assert_eq!(reply.body, bytes);
    let mut list = index(vec![Descriptor::of(media_type::DOCKER_MANIFEST, &bytes)]);
    list.media_type = Some(media_type::DOCKER_MANIFEST_LIST.into());
    api.manifest("a", "list", media_type::DOCKER_MANIFEST_LIST, &list.to_bytes()).await.expect(201);
    for kind in [media_type::DOCKER_SCHEMA1, media_type::DOCKER_SCHEMA1_SIGNED] {
        let reply = api.manifest("a", "old", kind, b"{\"schemaVersion\":1}").await;
        assert!(reply.refused(400, "MANIFEST_INVALID").text().contains("schema 1"));
    }
}

#[tokio::test]
async fn a_manifest_above_the_limit_is_413() {
    let api = Api::new();
    api.blob("a", b"{}").await;
    let mut manifest = image(b"{}");
    manifest.annotations.insert("filler".into(), "x".repeat((4 << 20) - 600));
    let bytes = manifest.to_bytes();
    assert!(bytes.len() > (4 << 20) - 500 && bytes.len() <= 4 << 20);
    api.manifest("a", "large", media_type::OCI_MANIFEST, &bytes).await.expect(201);
    assert_eq!(api.get("/v2/a/manifests/large").await.body.len(), bytes.len());
    manifest.annotations.insert("more".into(), "x".repeat(200 << 10));
    let bytes = manifest.to_bytes();
    api.manifest("a", "larger", media_type::OCI_MANIFEST, &bytes).await.refused(413, "SIZE_INVALID");
}

#[tokio::test]
async fn a_push_by_a_wrong_digest_is_rejected_in_either_algorithm() {
    let api = Api::new();
    api.blob("a", b"{}").await;
    let bytes = image(b"{}").to_bytes();
    let sha512 = Algorithm::Sha512.digest(&bytes);
    let kind = media_type::OCI_MANIFEST;
    let reply = api.manifest("a", sha512.as_str(), kind, &bytes).await.expect(201);
    assert_eq!(reply.header("docker-content-digest"), sha512.as_str());
    assert_eq!(reply.header("location"), format!("/v2/a/manifests/{sha512}"));
    let reply = api.get(&format!("/v2/a/manifests/{sha512}")).await.expect(200);
    assert_eq!(reply.header("docker-content-digest"), sha512.as_str());
    let wrong = Digest::sha256(b"other");
    api.manifest("a", wrong.as_str(), kind, &bytes).await.refused(400, "DIGEST_INVALID");
    api.manifest("a", "sha256:baddigest", kind, &bytes).await.refused(400, "DIGEST_INVALID");
    api.get("/v2/a/manifests/sha256:baddigest").await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn a_push_with_missing_parts_names_them() {
    let api = Api::new();
    let kind = media_type::OCI_MANIFEST;
    let bytes = image(b"{}").to_bytes();
    api.manifest("a", "x", kind, &bytes).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    api.get("/v2/a/manifests/x").await.refused(404, "MANIFEST_UNKNOWN");
    api.blob("b", b"{}").await;
    api.manifest("a", "x", kind, &bytes).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    api.blob("a", b"{}").await;
    let mut manifest = image(b"{}");
    manifest.subject = Some(Descriptor::of(kind, b"not there"));
    manifest.layers.push(Descriptor::of(
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        b"not there, either",
    ));
    let reply = api.manifest("a", "x", kind, &manifest.to_bytes()).await.expect(201);
    assert_eq!(reply.header("oci-subject"), Digest::sha256(b"not there").as_str());
}

#[tokio::test]
async fn a_sparse_registry_accepts_manifests_with_missing_parts() {
    let api = Api::with(RegistryOptions { sparse: true, ..RegistryOptions::default() });
    let bytes = image(b"not there").to_bytes();
    api.manifest("a", "x", media_type::OCI_MANIFEST, &bytes).await.expect(201);
    assert_eq!(api.get("/v2/a/manifests/x").await.expect(200).body, bytes);
    let absent = Descriptor::of(media_type::OCI_MANIFEST, b"not there, either");
    let bytes = index(vec![absent]).to_bytes();
    api.manifest("a", "y", media_type::OCI_INDEX, &bytes).await.expect(201);
    api.get(&format!("/v2/a/blobs/{}", Digest::sha256(b"not there"))).await.refused(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn one_put_gives_a_manifest_several_tags() {
    let api = Api::new();
    api.blob("a", b"{}").await;
    let bytes = image(b"{}").to_bytes();
    let digest = Digest::sha256(&bytes);
    let kind = media_type::OCI_MANIFEST;
    let reply = api.manifest("a", &format!("{digest}?tag=1&tag=1.2&tag=1"), kind, &bytes).await.expect(201);
    let tags: Vec<_> = reply.headers.get_all("oci-tag").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(tags, ["1", "1.2"]);
    for tag in tags {
        assert_eq!(api.get(&format!("/v2/a/manifests/{tag}")).await.expect(200).body, bytes);
    }
    let reply = api.manifest("a", "tag", kind, &bytes).await.expect(201);
    assert_eq!(reply.header("oci-tag"), "");
    // Some clients read no more than a hundred lines.
    let hundred: Vec<String> = (0..100).map(|n| format!("h{n}")).collect();
    let query: String = hundred.iter().map(|tag| format!("&tag={tag}")).collect();
    let reply = api.manifest("a", &format!("{digest}?x{query}"), kind, &bytes).await.expect(201);
    assert!(reply.headers.len() < 30, "{:?}", reply.headers);
    let lines = reply.headers.get_all("oci-tag").iter().map(|line| line.to_str().unwrap());
    assert_eq!(lines.flat_map(|line| line.split(", ")).collect::<Vec<_>>(), hundred);
    let many: String = (0..101).map(|n| format!("&tag=t{n}")).collect();
    api.manifest("a", &format!("{digest}?x{many}"), kind, &bytes).await.refused(414, "SIZE_INVALID");
    api.manifest("a", &format!("{digest}?tag=a%20b"), kind, &bytes).await.refused(400, "REQUEST_INVALID");
    api.manifest("a", "x?tag=y", kind, &bytes).await.refused(400, "REQUEST_INVALID");
    api.get("/v2/a/manifests/t0").await.expect(404);
}

#[tokio::test]
async fn malformed_manifests_are_400() {
    let api = Api::new();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["", "{}", "[]", "{", "null", deep.as_str(), "{\"schemaVersion\":2,\"config\":1}"] {
        let reply = api.manifest("a", "x", media_type::OCI_MANIFEST, body.as_bytes()).await;
        reply.refused(400, "MANIFEST_INVALID");
    }
    let bytes = image(b"{}").to_bytes();
    api.manifest("a", "x", "text/html", &bytes).await.refused(400, "MANIFEST_INVALID");
    api.manifest("a", "x", media_type::OCI_INDEX, &bytes).await.refused(400, "MANIFEST_INVALID");
}

#[tokio::test]
async fn deleting_a_tag_leaves_the_manifest_and_deleting_the_manifest_takes_its_tags() {
    let api = Api::new();
    let (_, digest) = api.image("a", "one", b"{}").await;
    api.image("a", "two", b"{}").await;
    let by_digest = format!("/v2/a/manifests/{digest}");
    for path in ["/v2/a/manifests/one", "/v2/a/manifests/two", by_digest.as_str()] {
        api.get(path).await.expect(200);
    }
    api.delete("/v2/a/manifests/one").await.expect(202);
    api.get("/v2/a/manifests/one").await.refused(404, "MANIFEST_UNKNOWN");
    api.delete("/v2/a/manifests/one").await.refused(404, "MANIFEST_UNKNOWN");
    api.get("/v2/a/manifests/two").await.expect(200);
    api.get(&by_digest).await.expect(200);
    api.delete(&by_digest).await.expect(202);
    api.get(&by_digest).await.refused(404, "MANIFEST_UNKNOWN");
    api.get("/v2/a/manifests/two").await.refused(404, "MANIFEST_UNKNOWN");
    api.head("/v2/a/manifests/two").await.expect(404);
}

#[tokio::test]
async fn a_moved_tag_is_visible_immediately() {
    let api = Api::new();
    for n in 0..20u8 {
        let (bytes, _) = api.image("a", "latest", &[n]).await;
        assert_eq!(api.get("/v2/a/manifests/latest").await.body, bytes);
        assert_eq!(api.get("/v2/a/manifests/latest").await.body, bytes);
    }
}

#[tokio::test]
async fn tags_move_only_if_the_condition_holds() {
    let api = Api::new();
    let (_, first) = api.image("a", "t", b"1").await;
    api.blob("a", b"2").await;
    let second = image(b"2").to_bytes();
    let put = async |headers: &[(&str, &str)]| {
        let headers = [&[("content-type", media_type::OCI_MANIFEST)], headers].concat();
        api.request("PUT", "/v2/a/manifests/t", &headers, second.clone()).await
    };
    put(&[("if-none-match", "*")]).await.refused(412, "CONFLICT");
    put(&[("if-match", "\"sha256:other\"")]).await.refused(412, "CONFLICT");
    assert_eq!(api.head("/v2/a/manifests/t").await.header("docker-content-digest"), first.as_str());
    let etag = format!("\"x\", \"{first}\"");
    let reply = put(&[("if-match", &etag)]).await.expect(201);
    assert_eq!(reply.header("etag"), format!("\"{}\"", Digest::sha256(&second)));
    put(&[("if-match", &etag)]).await.refused(412, "CONFLICT");
    put(&[("if-match", "*")]).await.expect(201);
    api.delete("/v2/a/manifests/t").await.expect(202);
    put(&[("if-match", "*")]).await.refused(412, "CONFLICT");
    put(&[("if-none-match", "*")]).await.expect(201);
    let headers = [("if-match", "\"x\"")];
    api.request("DELETE", "/v2/a/manifests/t", &headers, "").await.refused(405, "UNSUPPORTED");
    let etag = format!("\"{}\"", Digest::sha256(&second));
    let headers = [("if-none-match", etag.as_str())];
    api.request("GET", "/v2/a/manifests/t", &headers, "").await.expect(304);
}

#[tokio::test]
async fn a_rejected_manifest_names_the_field() {
    let api = Api::new();
    api.blob("a", b"{}").await;
    let good = serde_json::to_value(image(b"{}")).unwrap();
    let put = async |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        api.manifest("a", "x", media_type::OCI_MANIFEST, &bytes).await
    };
    let size = put(&|m| m["config"]["size"] = 3.into()).await.refused(400, "SIZE_INVALID");
    assert!(size.text().contains("`config.size` is 3, but the content has 2 bytes"), "{}", size.text());
    let digest = put(&|m| m["config"]["digest"] = "x".into()).await.refused(400, "MANIFEST_INVALID");
    assert!(digest.text().contains("`config.digest`"), "{}", digest.text());
    let layers =
        put(&|m| m["layers"] = serde_json::json!([{"size": 1}])).await.refused(400, "MANIFEST_INVALID");
    assert!(layers.text().contains("layers[0]") && layers.text().contains("digest"), "{}", layers.text());
    let missing = Digest::sha256("missing");
    let layer = serde_json::json!([{"digest": missing.as_str(), "size": 7}]);
    let missing = put(&|m| m["layers"] = layer.clone()).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    assert!(missing.text().contains("`layers[0]`"), "{}", missing.text());
    // A layer without a media type is taken, and so is null where a list or a map could be.
    let layer = serde_json::json!([{"digest": Digest::sha256("{}").as_str(), "size": 2, "urls": null}]);
    put(&|m| m["layers"] = layer.clone()).await.expect(201);
    put(&|m| m["layers"] = serde_json::Value::Null).await.expect(201);
    let empty = br#"{"schemaVersion":2,"manifests":null}"#;
    api.manifest("a", "y", media_type::OCI_INDEX, empty).await.expect(201);
}

/// A build cache is an index whose entries are layers.
#[tokio::test]
async fn an_index_may_list_blobs() {
    let api = Api::new();
    api.blob("a", b"layer").await;
    let mut entries = vec![Descriptor::of(media_type::OCI_LAYER_GZIP, b"layer")];
    for kind in [media_type::OCI_INDEX, media_type::DOCKER_MANIFEST_LIST] {
        let mut cache = index(entries.clone());
        cache.media_type = Some(kind.to_owned());
        api.manifest("a", "cache", kind, &cache.to_bytes()).await.expect(201);
    }
    entries.push(Descriptor::of("application/vnd.example.cacheconfig.v0", b"missing"));
    let bytes = index(entries).to_bytes();
    let reply = api.manifest("a", "cache", media_type::OCI_INDEX, &bytes).await;
    assert!(reply.refused(400, "MANIFEST_BLOB_UNKNOWN").text().contains("manifests[1]"));
}
