//! Notes of pulls, and the list of tags that shows them.

use super::program::{Process, run, stderr};
use super::support::{Api, index, memory};
use hyper_sdk::media_type;
use hyper_sdk::oci::Descriptor;
use hyper_server::{Registry, RegistryOptions};
use serde_json::{Value, json};

/// The tags of a repository that count as pulled.
async fn pulled(api: &Api, repository: &str) -> Vec<String> {
    api.registry.note_last_pulls().await;
    let list = api.get(&format!("/v2/{repository}/_hyper/tags")).await.expect(200).json();
    let tags = list["tags"].as_array().unwrap().iter();
    tags.filter(|tag| !tag["pulled"].is_null()).map(|tag| tag["tag"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn each_way_to_pull_a_manifest_is_noted() {
    let api = Api::new();
    let (bytes, one) = api.image("team/app", "got", b"1").await;
    let (_, two) = api.image("team/app", "by-digest", b"2").await;
    api.image("team/app", "asked", b"3").await;
    let (_, four) = api.image("team/app", "known", b"4").await;
    let (_, entry) = api.image("team/app", "entry", b"5").await;
    let size = api.get("/v2/team/app/manifests/entry").await.body.len() as u64;
    let entry = Descriptor::new(media_type::OCI_MANIFEST, entry, size);
    let other = Api { registry: Registry::new(memory(), RegistryOptions::default()).unwrap() };
    other.image("team/app", "got", b"1").await;
    api.manifest("team/app", "index", media_type::OCI_INDEX, &index(vec![entry]).to_bytes())
        .await
        .expect(201);
    api.manifest("team/app", "also-got", media_type::OCI_MANIFEST, &bytes).await.expect(201);
    assert_eq!(pulled(&api, "team/app").await, ["entry"]);
    api.get("/v2/team/app/manifests/got").await.expect(200);
    assert_eq!(pulled(&api, "team/app").await, ["also-got", "entry", "got"], "of one image");
    api.head(&format!("/v2/team/app/manifests/{two}")).await.expect(200);
    api.head("/v2/team/app/manifests/asked").await.expect(200);
    api.get("/v2/team/app/manifests/index").await.expect(200);
    api.get("/v2/team/app/manifests/absent").await.expect(404);
    assert_eq!(pulled(&api, "team/app").await, ["also-got", "asked", "by-digest", "entry", "got", "index"]);
    // Who has it already asks for it, too.
    let known = [("if-none-match", format!("\"{four}\""))];
    let known: Vec<(&str, &str)> = known.iter().map(|(name, value)| (*name, value.as_str())).collect();
    api.request("GET", "/v2/team/app/manifests/known", &known, "").await.expect(304);
    assert_eq!(pulled(&api, "team/app").await.len(), 7);
    api.get(&format!("/v2/team/app/manifests/{one}")).await.expect(200);
    assert_eq!(pulled(&other, "team/app").await, [""; 0]);
}

#[tokio::test]
async fn tags_are_listed_in_pages_with_their_times() {
    let api = Api::new();
    api.get("/v2/absent/_hyper/tags").await.refused(404, "NAME_UNKNOWN");
    let (_, digest) = api.image("team/app", "v1", b"1").await;
    for tag in ["v2", "v3"] {
        api.image("team/app", tag, tag.as_bytes()).await;
    }
    let first = api.get("/v2/team/app/_hyper/tags?n=2").await.expect(200);
    assert_eq!(first.header("link"), "</v2/team/app/_hyper/tags?n=2&last=v2>; rel=\"next\"");
    let tags = first.json()["tags"].clone();
    assert_eq!((&tags[0]["tag"], &tags[0]["digest"]), (&json!("v1"), &json!(digest)));
    assert_eq!((&tags[0]["pulled"], tags.as_array().unwrap().len()), (&Value::Null, 2));
    assert!(tags[0]["pushed"].as_str().unwrap().starts_with("20"), "{tags}");
    let rest = api.get("/v2/team/app/_hyper/tags?n=2&last=v2").await.expect(200);
    assert_eq!((rest.header("link"), &rest.json()["tags"][0]["tag"]), ("", &json!("v3")));
    api.post("/v2/team/app/_hyper/tags").await.refused(405, "UNSUPPORTED");
    let extensions = api.get("/v2/team/app/_oci/ext/discover").await.expect(200);
    assert!(extensions.text().contains("/v2/team/app/_hyper/tags"), "{}", extensions.text());
}

#[tokio::test]
async fn a_server_that_is_read_only_notes_nothing() {
    let store = memory();
    let writer = Api { registry: Registry::new(store.clone(), RegistryOptions::default()).unwrap() };
    writer.image("team/app", "v1", b"1").await;
    let options = RegistryOptions { read_only: true, ..RegistryOptions::default() };
    let reader = Api { registry: Registry::new(store, options).unwrap() };
    reader.get("/v2/team/app/manifests/v1").await.expect(200);
    assert_eq!(pulled(&reader, "team/app").await, [""; 0]);
    writer.get("/v2/team/app/manifests/v1").await.expect(200);
    assert_eq!(pulled(&writer, "team/app").await, ["v1"]);
}

const RULES: &str = "[gc]\nuntagged-after = \"1h\"\n[[retention.rule]]\nrepositories = [\"**\"]\nkeep-pulled-within = \"1h\"\n";

/// A server that is stopped writes its last notes, and the command knows of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_explains_what_was_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("config.toml"));
    std::fs::write(&config, RULES).unwrap();
    let mut server = Process::start(&data, &["--config", config.to_str().unwrap()]);
    let client = reqwest::Client::new();
    for tag in ["v1", "v2"] {
        let manifest = index(vec![]).to_bytes();
        let put = client.put(format!("{}/v2/team/app/manifests/{tag}", server.url)).body(manifest);
        let put = put.header("content-type", media_type::OCI_INDEX);
        assert_eq!(put.send().await.unwrap().status(), 201);
    }
    let got = client.get(format!("{}/v2/team/app/manifests/v1", server.url)).send().await.unwrap();
    assert_eq!(got.status(), 200);
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
    let arguments = ["retention", "explain", "team/app:v1", "--format", "json"];
    let store = ["--data", data.to_str().unwrap(), "--config", config.to_str().unwrap()];
    let output = run(&[&arguments[..], &store].concat(), "");
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["goes"], &told["why"]), (&json!(false), &json!("pulled")));
    assert!(told["pulled"].is_string() && told["goes-at"].is_string(), "{told}");
}
