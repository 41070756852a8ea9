//! Damage on the disk, from the scrub to the push that repairs it.

use super::program::{Process, run, stderr};
use super::support::{Api, image, noise};
use http_body_util::BodyExt as _;
use hyper_sdk::store::{DiskStore, SharedStore};
use hyper_sdk::{Digest, media_type};
use hyper_server::{CacheOptions, Registry, RegistryOptions, Scrub};
use reqwest::{Client, StatusCode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn file(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

/// Flips a bit of the file of a blob.
fn damage(folder: &Path, digest: &Digest) {
    let path = file(folder, digest);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn open(folder: &Path) -> SharedStore {
    Arc::new(DiskStore::open(folder).await.unwrap())
}

/// Asks until a blob is not there.
async fn until_missing(api: &Api, path: &str) {
    for _ in 0..500 {
        if api.head(path).await.status.as_u16() == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the damage was not found");
}

#[tokio::test]
async fn a_scrub_finds_damage_and_a_push_repairs_it() {
    let folder = tempfile::tempdir().unwrap();
    let scrub = Scrub { every: Duration::from_millis(50), rate: 64 << 20 };
    let options = RegistryOptions { scrub: Some(scrub), ..RegistryOptions::default() };
    let api = Api { registry: Registry::new(open(folder.path()).await, options).unwrap() };
    for content in [noise(1, 100), noise(2, 1_500_000)] {
        let (bytes, _) = api.image("a", "latest", &content).await;
        let digest = Digest::sha256(&content);
        let path = format!("/v2/a/blobs/{digest}");
        // A small blob is in the cache.
        api.get(&path).await.expect(200);
        damage(folder.path(), &digest);
        until_missing(&api, &path).await;
        api.get(&path).await.refused(404, "BLOB_UNKNOWN");
        let mounted = api.post(&format!("/v2/b/blobs/uploads/?mount={digest}&from=a")).await;
        assert_eq!(mounted.status.as_u16(), 202);
        let again = image(&content).to_bytes();
        let refused = api.manifest("a", "again", media_type::OCI_MANIFEST, &again).await;
        assert_eq!(refused.code(), "MANIFEST_BLOB_UNKNOWN");
        assert_eq!(api.get("/v2/a/manifests/latest").await.expect(200).body, bytes);
        api.get("/readyz").await.expect(200);
        api.blob("a", &content).await;
        assert!(api.get(&path).await.expect(200).body == content);
    }
    let metrics = api.get("/metrics").await.expect(200).text().to_owned();
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("hyperregistry_{name} ")));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert!(value("damaged_blobs_total") >= 2 && value("scrub_bytes_total") >= 100, "{metrics}");
    assert!(value("scrub_last_round_timestamp_seconds") > 0, "{metrics}");
}

#[tokio::test]
async fn verified_reads_break_off_before_the_end_of_a_damaged_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for verify_reads in [true, false] {
        let options = RegistryOptions { verify_reads, ..RegistryOptions::default() };
        let api = Api { registry: Registry::new(store.clone(), options).unwrap() };
        let content = noise(u64::from(verify_reads), 2_000_000);
        let digest = api.blob("a", &content).await;
        let path = format!("/v2/a/blobs/{digest}");
        assert!(api.get(&path).await.expect(200).body == content);
        damage(folder.path(), &digest);
        let part = api.request("GET", &path, &[("range", "bytes=0-9")], axum::body::Body::empty()).await;
        assert_eq!(part.expect(206).body, content[..10], "parts are not checked");
        let request = http::Request::get(&path).body(axum::body::Body::empty()).unwrap();
        let mut body = api.registry.handle(request).await.into_body();
        let (mut got, mut is_cut) = (0, false);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => got += frame.data_ref().unwrap().len(),
                Err(_) => {
                    is_cut = true;
                    break;
                }
            }
        }
        assert_eq!((is_cut, got < content.len()), (verify_reads, verify_reads), "{got}");
        if verify_reads {
            until_missing(&api, &path).await;
            api.blob("a", &content).await;
            assert!(api.get(&path).await.expect(200).body == content);
        }
    }
}

/// Bytes are checked before they get into the cache, whatever the options say.
#[tokio::test]
async fn a_small_blob_is_checked_before_it_is_cached() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let options = RegistryOptions { cache: CacheOptions::default(), ..RegistryOptions::default() };
    let api = Api { registry: Registry::new(store, options).unwrap() };
    let digest = api.blob("a", &noise(3, 1000)).await;
    damage(folder.path(), &digest);
    let path = format!("/v2/a/blobs/{digest}");
    api.get(&path).await.refused(404, "BLOB_UNKNOWN");
    until_missing(&api, &path).await;
    assert!(folder.path().join("quarantine").exists());
}

#[tokio::test]
async fn check_reports_damage_beside_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let process = Process::start(&data, &[]);
    let client = Client::new();
    let content = noise(4, 100_000);
    let digest = Digest::sha256(&content);
    let push = format!("{}/v2/a/blobs/uploads/?digest={digest}", process.url);
    let path = format!("{}/v2/a/blobs/{digest}", process.url);
    let pushed = async || client.post(&push).body(content.clone()).send().await.unwrap().status();
    let status = async || client.head(&path).send().await.unwrap().status();
    assert_eq!(pushed().await, StatusCode::CREATED);
    let check = |more: &[&str]| {
        let output = run(&[&["check", "--data", data.to_str().unwrap()], more].concat(), "");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        (output.status.code().unwrap(), text, stderr(&output))
    };
    let (code, text, errors) = check(&[]);
    assert_eq!(
        (code, text.as_str()),
        (0, "read 1 blobs, 100000 bytes: 0 are damaged, 0 cannot be read\n"),
        "{errors}"
    );
    damage(&data, &digest);
    let (code, text, _) = check(&["--format", "json"]);
    assert_eq!(code, 1);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["digest"], digest.as_str());
    assert_eq!((&lines[0]["damage"], &lines[0]["repositories"][0]), (&"content".into(), &"a".into()));
    assert_eq!(lines[1]["damaged"], 1);
    assert_eq!(status().await, StatusCode::OK, "a check changes nothing");
    let (code, text, _) = check(&["--quarantine"]);
    assert!(code == 1 && text.contains("do not match the digest; no manifest needs it, a has it"), "{text}");
    assert_eq!(status().await, StatusCode::NOT_FOUND);
    assert_eq!(pushed().await, StatusCode::CREATED);
    assert_eq!(status().await, StatusCode::OK);
    assert_eq!(check(&["--rate", "50MiB"]).0, 0);
    let nowhere = run(&["check", "--data", folder.path().to_str().unwrap()], "");
    assert!(!nowhere.status.success() && stderr(&nowhere).contains("there is no store in the folder"));
}
