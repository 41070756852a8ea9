//! The program with its metadata in PostgreSQL.

use super::program::{Process, run, stderr};
use super::support::image;
use hyper_sdk::testing::{PostgresServer, given};
use hyper_sdk::{Digest, media_type};
use reqwest::{Client, StatusCode};
use std::path::Path;

async fn push(client: &Client, url: &str, tag: &str, config: &str) -> Digest {
    let digest = Digest::sha256(config);
    let blob = format!("{url}/v2/team/app/blobs/uploads/?digest={digest}");
    assert_eq!(client.post(blob).body(config.to_owned()).send().await.unwrap().status(), 201);
    let manifest = image(config.as_bytes()).to_bytes();
    let put = client.put(format!("{url}/v2/team/app/manifests/{tag}"));
    let put = put.header("content-type", media_type::OCI_MANIFEST).body(manifest.clone());
    assert_eq!(put.send().await.unwrap().status(), 201);
    Digest::sha256(&manifest)
}

/// The digest of the manifest that a tag has, or the status.
async fn digest(client: &Client, url: &str, tag: &str) -> Result<Digest, StatusCode> {
    let answer = client.get(format!("{url}/v2/team/app/manifests/{tag}")).send().await.unwrap();
    match answer.status() {
        StatusCode::OK => Ok(Digest::sha256(answer.bytes().await.unwrap())),
        other => Err(other),
    }
}

/// A push at one server is read at the other at once, and so is the next one, although both have a cache; an upload that
/// began at one ends at the other; and both collect garbage beside each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_database_are_one_registry() {
    let server: Option<&PostgresServer> = given("two servers on PostgreSQL", PostgresServer::shared());
    let Some(server) = server else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url("two programs"));
    let data = folder.path().join("blobs");
    let servers = [(); 2].map(|()| Process::start(&data, &["--database", &url]));
    let client = Client::new();
    for round in 0..12 {
        let (one, other) = (&servers[round % 2].url, &servers[(round + 1) % 2].url);
        let pushed = push(&client, one, "latest", &format!("{{\"round\":{round}}}")).await;
        for _ in 0..3 {
            assert_eq!(digest(&client, other, "latest").await, Ok(pushed.clone()), "round {round}");
            assert_eq!(digest(&client, one, "latest").await, Ok(pushed.clone()), "round {round}");
        }
        if round % 3 == 2 {
            let delete = client.delete(format!("{one}/v2/team/app/manifests/latest")).send().await.unwrap();
            assert_eq!(delete.status(), 202);
            assert_eq!(digest(&client, other, "latest").await, Err(StatusCode::NOT_FOUND));
        }
    }
    for server in &servers {
        let metrics =
            client.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
        let hits = metrics.lines().find_map(|line| line.strip_prefix("hyperregistry_cache_hits_total "));
        assert!(hits.unwrap().parse::<u64>().unwrap() >= 12, "{hits:?}");
        assert_eq!(client.get(format!("{}/readyz", server.url)).send().await.unwrap().status(), 200);
    }
    let start = client.post(format!("{}/v2/team/app/blobs/uploads/", servers[0].url)).send().await.unwrap();
    let location = start.headers()["location"].to_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let upload = |server: &Process| format!("{}/v2/team/app/blobs/uploads/{location}", server.url);
    assert_eq!(client.patch(upload(&servers[0])).body("half ").send().await.unwrap().status(), 202);
    assert_eq!(client.patch(upload(&servers[1])).body("and half").send().await.unwrap().status(), 202);
    let whole = Digest::sha256("half and half");
    let end = client.put(format!("{}?digest={whole}", upload(&servers[0]))).send().await.unwrap();
    assert_eq!(end.status(), 201);

    let data = data.to_str().unwrap();
    let gc = run(&["gc", "--data", data, "--database", &url, "--untagged-after", "0s"], "");
    assert!(gc.status.success(), "{}", stderr(&gc));
    assert!(String::from_utf8_lossy(&gc.stdout).contains("removed 12 manifests"), "{gc:?}");
}

/// A password is on no way to a reader, and a folder of SQLite is not taken over.
#[test]
fn a_database_that_cannot_be_used_is_an_error_without_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret-of-file\n").unwrap();
    let file = file.to_str().unwrap();
    let serve = |more: &[&str]| {
        let output = run(&[&["serve", "--listen", "127.0.0.1:0", "--data", data], more].concat(), "");
        assert!(!output.status.success());
        let text = stderr(&output);
        assert!(!text.contains("s3cret"), "{text}");
        text
    };
    let text =
        serve(&["--database", "postgres://ada:s3cret@127.0.0.1:1/a", "--database-password-file", file]);
    assert!(text.contains("127.0.0.1:1/a") && text.contains("connection"), "{text}");
    let text = serve(&["--database", "mysql://ada:s3cret@127.0.0.1:1/a"]);
    assert!(text.contains("postgres://USER@HOST"), "{text}");
    let text = serve(&["--database-password-file", file]);
    assert!(text.contains("database.url"), "{text}");
    let text = serve(&["--database", "postgres://ada@127.0.0.1:1/a", "--database-password-file", "/absent"]);
    assert!(text.contains("the password of the database"), "{text}");
    let gc = run(&["gc", "--data", data, "--database", "postgres://ada:s3cret@127.0.0.1:1/a"], "");
    assert!(stderr(&gc).contains("no store in the folder"), "{}", stderr(&gc));
    assert!(!Path::new(data).join("hyper.db").exists());
}
