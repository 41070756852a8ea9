//! Tags, catalog, referrers and extensions (end-8, end-12).

use super::http_store::HttpStore;
use super::support::{Api, image, index, memory};
use hyper_sdk::oci::{Descriptor, Manifest};
use hyper_sdk::store::PutManifest;
use hyper_sdk::{Digest, RepositoryName, Tag, media_type};
use hyper_server::auth::{Action, Authorizer, Principal};
use hyper_server::{Limits, Registry, RegistryOptions, Server, ServerOptions};
use std::sync::Arc;

fn link(header: &str) -> &str {
    header
        .strip_prefix('<')
        .and_then(|h| h.strip_suffix(">; rel=\"next\""))
        .unwrap_or_else(|| panic!("{header}"))
}

#[tokio::test]
async fn a_tag_list_has_pages_with_links() {
    let api = Api::new();
    for tag in ["b", "a", "c", "B", "a.1"] {
        api.image("r/s", tag, b"{}").await;
    }
    let all = api.get("/v2/r/s/tags/list").await.expect(200);
    assert_eq!(all.text(), r#"{"name":"r/s","tags":["B","a","a.1","b","c"]}"#);
    assert_eq!(all.header("link"), "");
    let mut path = "/v2/r/s/tags/list?n=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = api.get(&path).await.expect(200);
        seen.push(page.json()["tags"].as_array().unwrap().len());
        if page.header("link").is_empty() {
            break;
        }
        path = link(page.header("link")).to_owned();
    }
    assert_eq!(seen, [2, 2, 1]);
    let none = api.get("/v2/r/s/tags/list?n=0").await.expect(200);
    assert_eq!(none.json()["tags"].as_array().unwrap().len(), 0);
    assert_eq!(none.header("link"), "");
    let after = api.get("/v2/r/s/tags/list?last=aaa").await.expect(200);
    assert_eq!(after.json()["tags"], serde_json::json!(["b", "c"]));
    assert_eq!(api.get("/v2/r/s/tags/list?n=5").await.header("link"), "");
    api.get("/v2/r/s/tags/list?n=99999999999999999999999").await.expect(200);
    api.get("/v2/r/s/tags/list?n=x").await.refused(400, "REQUEST_INVALID");
    api.get("/v2/none/tags/list").await.refused(404, "NAME_UNKNOWN");
    api.get("/v2/none/tags/list?n=0").await.refused(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn a_list_is_never_longer_than_the_limit() {
    let limits = Limits { page_entries: 2, ..Limits::default() };
    let api = Api::with(RegistryOptions { limits, ..RegistryOptions::default() });
    for tag in ["a", "b", "c"] {
        api.image(tag, tag, b"{}").await;
        api.image("r", tag, b"{}").await;
    }
    for path in ["/v2/r/tags/list", "/v2/r/tags/list?n=3", "/v2/_catalog", "/v2/_catalog?n=100"] {
        let page = api.get(path).await.expect(200);
        let rest = api.get(link(page.header("link"))).await.expect(200);
        assert!(rest.text().contains("\"c\""), "{}", rest.text());
    }
}

#[tokio::test]
async fn the_catalog_lists_repositories() {
    let api = Api::new();
    assert_eq!(api.get("/v2/_catalog").await.expect(200).text(), r#"{"repositories":[]}"#);
    for name in ["b", "a/x", "a"] {
        api.image(name, "t", b"{}").await;
    }
    assert_eq!(api.get("/v2/_catalog").await.text(), r#"{"repositories":["a","a/x","b"]}"#);
    let page = api.get("/v2/_catalog?n=2").await;
    assert_eq!(link(page.header("link")), "/v2/_catalog?n=2&last=a%2Fx");
    assert_eq!(api.get(link(page.header("link"))).await.text(), r#"{"repositories":["b"]}"#);
}

/// Shows the repositories of one team.
#[derive(Debug)]
struct OneTeam;

impl Authorizer for OneTeam {
    fn allows(&self, _: &Principal, repository: Option<&RepositoryName>, _: Action) -> bool {
        repository.is_none_or(|repository| repository.as_str().starts_with("team/"))
    }

    fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
        None
    }
}

/// How many queries of the catalog a registry has answered.
async fn catalog_queries(registry: &Api) -> u64 {
    let metrics = registry.get("/metrics").await.expect(200);
    let series = "hyperregistry_requests_total{route=\"catalog\",";
    let lines = metrics.text().lines().filter(|line| line.starts_with(series));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// A registry whose store is another one, which counts what it is asked.
#[tokio::test]
async fn hidden_repositories_take_few_queries_whatever_the_length_of_a_page() {
    let store = memory();
    let empty = Manifest::sniff(index(vec![]).to_bytes()).unwrap();
    let mut names: Vec<String> = (0..3000).map(|n| format!("hidden/{n}")).collect();
    names.extend(["team/a", "team/b", "team/c", "zz/hidden"].map(str::to_owned));
    for name in names {
        let name = RepositoryName::parse(&name).unwrap();
        store.put_manifest(&name, PutManifest::new(empty.clone(), [Tag::latest()])).await.unwrap();
    }
    let address = "127.0.0.1:0".parse().unwrap();
    let (options, server) = (RegistryOptions::default(), ServerOptions::default());
    let inner = Server::start(store.clone(), address, options, server).await.unwrap();
    let counts = Api { registry: inner.registry().clone() };
    let outer = Arc::new(HttpStore::new(inner.url(), store.capabilities()));
    let options = RegistryOptions { authorizer: Some(Arc::new(OneTeam)), ..RegistryOptions::default() };
    let api = Api { registry: Registry::new(outer, options).unwrap() };
    for limit in ["?n=1", "?n=2", "?n=3", "?n=100", ""] {
        let (mut found, mut path) = (Vec::new(), format!("/v2/_catalog{limit}"));
        loop {
            let before = catalog_queries(&counts).await;
            let page = api.get(&path).await.expect(200);
            let queries = catalog_queries(&counts).await - before;
            assert!(queries <= 6, "{path} took {queries} queries");
            found.extend(page.json()["repositories"].as_array().unwrap().iter().cloned());
            match page.header("link") {
                "" => break,
                next => path = link(next).to_owned(),
            }
        }
        assert_eq!(found, ["team/a", "team/b", "team/c"], "{limit}");
    }
    inner.stop().await.unwrap();
}

#[tokio::test]
async fn referrers_have_types_and_annotations_and_never_return_404() {
    let api = Api::new();
    let kind = media_type::OCI_MANIFEST;
    let (subject_bytes, subject) = api.image("a", "subject", b"{}").await;
    let path = format!("/v2/a/referrers/{subject}");
    for path in [path.as_str(), &format!("/v2/nowhere/referrers/{subject}")] {
        let reply = api.get(path).await.expect(200);
        assert_eq!(reply.header("content-type"), media_type::OCI_INDEX);
        assert_eq!(reply.json()["manifests"], serde_json::json!([]));
        assert_eq!(reply.json()["schemaVersion"], 2);
    }
    let mut typed = image(b"{}");
    typed.subject = Some(Descriptor::of(kind, &subject_bytes));
    typed.artifact_type = Some("application/x.sbom".into());
    typed.annotations.insert("k".into(), "v".into());
    let reply = api.manifest("a", Digest::sha256(typed.to_bytes()).as_str(), kind, &typed.to_bytes()).await;
    assert_eq!(reply.expect(201).header("oci-subject"), subject.as_str());
    let mut plain = image(b"{}");
    plain.subject = Some(Descriptor::of(kind, &subject_bytes));
    api.manifest("a", "plain", kind, &plain.to_bytes()).await.expect(201);
    let all = api.get(&path).await.expect(200);
    assert_eq!(all.header("oci-filters-applied"), "");
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    for (filter, expected) in [
        ("application%2Fx.sbom", typed.to_bytes()),
        ("application/vnd.oci.image.config.v1%2Bjson", plain.to_bytes()),
    ] {
        let reply = api.get(&format!("{path}?artifactType={filter}")).await.expect(200);
        assert_eq!(reply.header("oci-filters-applied"), "artifactType");
        let manifests = reply.json()["manifests"].as_array().unwrap().clone();
        assert_eq!(manifests.len(), 1);
        assert_eq!(manifests[0]["digest"], Digest::sha256(&expected).as_str());
        assert_eq!(manifests[0]["size"], expected.len());
        assert_eq!(manifests[0]["mediaType"], kind);
    }
    let typed_entry = api.get(&format!("{path}?artifactType=application/x.sbom")).await.json();
    assert_eq!(typed_entry["manifests"][0]["annotations"]["k"], "v");
    assert_eq!(typed_entry["manifests"][0]["artifactType"], "application/x.sbom");
    api.delete("/v2/a/manifests/subject").await.expect(202);
    api.delete(&format!("/v2/a/manifests/{}", Digest::sha256(plain.to_bytes()))).await.expect(202);
    assert_eq!(api.get(&path).await.json()["manifests"].as_array().unwrap().len(), 1);
    api.get("/v2/a/referrers/sha256:x").await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn referrers_include_those_of_the_fallback_tag() {
    let api = Api::new();
    let subject = Digest::sha256(b"subject");
    let (bytes, noted) = api.image("a", "artifact", b"{}").await;
    let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    entry.artifact_type = Some("application/x.old".into());
    let tag = format!("sha256-{}", subject.hex());
    api.manifest("a", &tag, media_type::OCI_INDEX, &index(vec![entry]).to_bytes()).await.expect(201);
    let path = format!("/v2/a/referrers/{subject}");
    let reply = api.get(&path).await.expect(200);
    assert_eq!(reply.json()["manifests"][0]["digest"], noted.as_str());
    let other = api.get(&format!("{path}?artifactType=application/x.new")).await.expect(200);
    assert_eq!(other.json()["manifests"], serde_json::json!([]));
    api.delete(&format!("/v2/a/manifests/{noted}")).await.expect(202);
    assert_eq!(api.get(&path).await.json()["manifests"], serde_json::json!([]));
}

#[tokio::test]
async fn a_long_list_of_referrers_has_pages() {
    let api = Api::new();
    api.blob("a", b"{}").await;
    let subject = Digest::sha256(b"subject");
    for n in 0..5 {
        let mut artifact = image(b"{}");
        artifact.subject = Some(Descriptor::new(media_type::OCI_MANIFEST, subject.clone(), 7));
        artifact.annotations.insert("filler".into(), format!("{n}{}", "x".repeat(1_500_000)));
        let bytes = artifact.to_bytes();
        let digest = Digest::sha256(&bytes);
        api.manifest("a", digest.as_str(), media_type::OCI_MANIFEST, &bytes).await.expect(201);
    }
    let mut path =
        format!("/v2/a/referrers/{subject}?artifactType={}", media_type::OCI_CONFIG.replace('+', "%2B"));
    let mut seen = std::collections::BTreeSet::new();
    let mut parts = 0;
    loop {
        let reply = api.get(&path).await.expect(200);
        assert!(reply.body.len() <= 4 << 20);
        for entry in reply.json()["manifests"].as_array().unwrap() {
            assert!(seen.insert(entry["digest"].as_str().unwrap().to_owned()));
        }
        parts += 1;
        if reply.header("link").is_empty() {
            break;
        }
        path = link(reply.header("link")).to_owned();
    }
    assert_eq!((seen.len(), parts), (5, 3));
}

#[tokio::test]
async fn extensions_are_discovered() {
    let api = Api::new();
    let reply = api.get("/v2/_oci/ext/discover").await.expect(200);
    assert_eq!(reply.json()["extensions"][1]["endpoints"][0], "/v2/_catalog");
    let reply = api.get("/v2/a/b/_oci/ext/discover").await.expect(200);
    assert_eq!(reply.json()["extensions"][0]["endpoints"][0], "/v2/a/b/_oci/ext/discover");
}
