//! A registry whose blobs are in a bucket, on a real server of S3.

use super::program::{PROGRAM, Process, run, stderr};
use super::support::noise;
use bytes::Bytes;
use hyper_sdk::testing::{S3Server, given};
use hyper_sdk::{Digest, ErrorKind};
use reqwest::{Client, StatusCode};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", S3Server::KEYS[0]), ("AWS_SECRET_ACCESS_KEY", S3Server::KEYS[1])];

fn start(data: &Path, blobs: &str) -> Process {
    Process::start_in(Command::new(PROGRAM), data, &["--blobs", blobs], &KEYS)
}

fn refused(args: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(args).env_clear().envs(KEYS).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

#[tokio::test]
async fn an_upload_outlives_kill_9_and_its_blob_is_in_the_bucket() {
    let Some(server) = given::<&S3Server>("an_upload_outlives_kill_9", S3Server::running()) else { return };
    let bucket = server.bucket();
    let blobs = format!("s3://{bucket}/team?endpoint=http://{}", server.host());
    let folder = tempfile::tempdir().unwrap();
    let (data, client) = (folder.path().join("data"), Client::new());
    let content = Bytes::from(noise(3, 10 << 20));
    let digest = Digest::sha256(&content);
    let mut process = start(&data, &blobs);
    let begun = client.post(format!("{}/v2/a/blobs/uploads/", process.url)).send().await.unwrap();
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let path = location.strip_prefix(&process.url).unwrap_or(&location).to_owned();
    for range in [0..9_000_000, 9_000_000..9_500_000] {
        let sent = client.patch(format!("{}{path}", process.url)).body(content.slice(range)).send().await;
        assert_eq!(sent.unwrap().status(), StatusCode::ACCEPTED);
    }
    process.child.kill().unwrap();
    process.child.wait().unwrap();

    let process = start(&data, &blobs);
    let there = client.get(format!("{}{path}", process.url)).send().await.unwrap();
    assert_eq!(there.headers()["range"], "0-9499999", "acknowledged bytes are gone");
    let end = client
        .put(format!("{}{path}?digest={digest}", process.url))
        .body(content.slice(9_500_000..))
        .send()
        .await
        .unwrap();
    assert_eq!(end.status(), StatusCode::CREATED);
    let url = format!("{}/v2/a/blobs/{digest}", process.url);
    assert!(client.get(&url).send().await.unwrap().bytes().await.unwrap() == content);
    let part = client.get(&url).header("range", "bytes=9000000-9000009").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap(), content.slice(9_000_000..9_000_010));
    assert!(!data.join("blobs").exists(), "a folder has blobs");
    drop(process);

    // The same folder without its bucket, and the same place for another registry.
    let (data, other) = (data.to_str().unwrap(), folder.path().join("other"));
    let error = refused(&["serve", "--listen", "127.0.0.1:0", "--data", data]);
    assert!(error.contains("has its blobs in a bucket: name it with --blobs"), "{error}");
    let error = refused(&["gc", "--data", data]);
    assert!(error.contains("has its blobs in a bucket"), "{error}");
    let other = other.to_str().unwrap();
    let error = refused(&["serve", "--listen", "127.0.0.1:0", "--data", other, "--blobs", &blobs]);
    assert!(error.contains("another registry has its blobs at this place"), "{error}");
    assert!(
        !folder.path().join("other/bucket.id").exists(),
        "the folder belongs to a bucket that refused it"
    );
    // An empty place is not that of this registry, which has blobs elsewhere; nor is one for which it may not ask to write.
    let empty = blobs.replace('?', "/empty?");
    for flags in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["serve", "--listen", "127.0.0.1:0", "--read-only"],
        &["gc"],
    ] {
        let error = refused(&[flags, &["--data", data, "--blobs", &empty]].concat());
        assert!(error.contains("this registry has no blobs at this place"), "{error}");
    }
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "read-only = true\n").unwrap();
    let error = refused(&["gc", "--config", config.to_str().unwrap(), "--data", data, "--blobs", &empty]);
    assert!(error.contains("`read-only` forbids a collection"), "{error}");
    let gc = Command::new(PROGRAM)
        .args(["gc", "--data", data, "--blobs", &blobs])
        .env_clear()
        .envs(KEYS)
        .output()
        .unwrap();
    assert!(gc.status.success() && String::from_utf8_lossy(&gc.stdout).contains("removed 0 manifests"));
}

#[tokio::test]
async fn a_bucket_that_cannot_be_reached_is_503_with_retry_after() {
    let Some(server) = given::<&S3Server>("a_bucket_that_cannot_be_reached", S3Server::running()) else {
        return;
    };
    let (bucket, is_up) = (server.bucket(), Arc::new(AtomicBool::new(true)));
    let front = wire(server.host(), Arc::clone(&is_up));
    let folder = tempfile::tempdir().unwrap();
    let process = start(&folder.path().join("data"), &format!("s3://{bucket}?endpoint=http://{front}"));
    let (client, content) = (Client::new(), noise(4, 50_000));
    let digest = Digest::sha256(&content);
    let push = format!("{}/v2/a/blobs/uploads/?digest={digest}", process.url);
    let pull = format!("{}/v2/a/blobs/{digest}", process.url);
    // No cache of the server has this one.
    let large = noise(5, 200_000);
    let other = Digest::sha256(&large);
    let put = format!("{}/v2/a/blobs/uploads/?digest={other}", process.url);
    assert_eq!(client.post(&put).body(large.clone()).send().await.unwrap().status(), StatusCode::CREATED);
    is_up.store(false, Ordering::SeqCst);
    let failed = client.post(&push).body(content.clone()).send().await.unwrap();
    assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(failed.headers().contains_key("retry-after"));
    let text = failed.text().await.unwrap();
    assert!(text.contains("UNAVAILABLE") && !text.contains(S3Server::KEYS[0]), "{text}");
    let get = client.get(format!("{}/v2/a/blobs/{other}", process.url)).send().await.unwrap();
    assert_eq!(get.status(), StatusCode::SERVICE_UNAVAILABLE);
    let ready = client.get(format!("{}/readyz", process.url)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    is_up.store(true, Ordering::SeqCst);
    assert_eq!(client.get(&pull).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    // The server finds out by itself.
    let began = std::time::Instant::now();
    while client.post(&push).body(content.clone()).send().await.unwrap().status() != StatusCode::CREATED {
        assert!(began.elapsed() < Duration::from_secs(30), "the bucket is not found again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.get(&pull).send().await.unwrap().bytes().await.unwrap(), content);
}

/// One client has the memory of all uploads, and stalls: another one gets it after some seconds, and the first can go on.
#[tokio::test]
async fn a_client_that_stalls_keeps_no_memory_from_others() {
    let Some(server) = given::<&S3Server>("a_client_that_stalls", S3Server::running()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[limits]\nupload-memory = \"8MiB\"\n").unwrap();
    let blobs = format!("s3://{}?endpoint=http://{}", server.bucket(), server.host());
    let data = folder.path().join("data");
    let flags = ["--config", config.to_str().unwrap(), "--blobs", &blobs];
    let process = Process::start_in(Command::new(PROGRAM), &data, &flags, &KEYS);
    let (client, content) = (Client::new(), Bytes::from(noise(6, 3 << 20)));
    let digest = Digest::sha256(&content);
    let begun = client.post(format!("{}/v2/a/blobs/uploads/", process.url)).send().await.unwrap();
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let path = location.strip_prefix(&process.url).unwrap_or(&location).to_owned();
    let mut stalled = TcpStream::connect(process.url.strip_prefix("http://").unwrap()).unwrap();
    let head = format!("PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", content.len());
    stalled.write_all(head.as_bytes()).unwrap();
    stalled.write_all(&content[..2 << 20]).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let other = Bytes::from(noise(7, 3 << 20));
    let push = format!("{}/v2/b/blobs/uploads/?digest={}", process.url, Digest::sha256(&other));
    let began = std::time::Instant::now();
    assert_eq!(client.post(&push).body(other).send().await.unwrap().status(), StatusCode::CREATED);
    assert!(began.elapsed() > Duration::from_secs(1), "there was no need to wait");
    stalled.write_all(&content[2 << 20..]).unwrap();
    let mut answer = [0; 12];
    stalled.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
    let end = client.put(format!("{}{path}?digest={digest}", process.url)).send().await.unwrap();
    assert_eq!(end.status(), StatusCode::CREATED);
}

#[test]
fn what_is_wrong_with_the_place_of_blobs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    for (blobs, why) in [
        ("s3://b?endpoint=http://192.0.2.1", "the endpoint of the bucket has no TLS"),
        ("s3://b", "the bucket `b` has no region"),
    ] {
        let error = refused(&["serve", "--listen", "127.0.0.1:0", "--data", data, "--blobs", blobs]);
        assert!(error.contains(why), "{error}");
    }
    for (blobs, why) in [
        ("s3://b?secret_access_key=hunter2", "`secret_access_key` is not a key"),
        ("s3://me:hunter2@b", "has credentials"),
        ("/hunter2", "is not a text such as s3://"),
    ] {
        for command in ["serve", "gc"] {
            let output = run(&[command, "--data", data, "--blobs", blobs], "");
            assert_eq!(output.status.code(), Some(1));
            let error = stderr(&output);
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }
    std::fs::create_dir(folder.path().join("blobs")).unwrap();
    let error = refused(&["serve", "--data", data, "--blobs", "s3://b?region=r"]);
    assert!(error.contains("has blobs of its own"), "{error}");
    assert!(!error.contains(&format!("{:?}", ErrorKind::Internal)));
}

/// A wire to a server, which is cut while the value is false.
fn wire(server: &str, is_up: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (host, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if !is_up.load(Ordering::SeqCst) {
                continue;
            }
            let server = TcpStream::connect(&server).unwrap();
            for (from, to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server.try_clone().unwrap(), client.try_clone().unwrap()),
            ] {
                let is_up = Arc::clone(&is_up);
                std::thread::spawn(move || carry(from, to, &is_up));
            }
        }
    });
    host
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_up: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut block = [0; 16 << 10];
    while is_up.load(Ordering::SeqCst) {
        match from.read(&mut block) {
            Ok(0) => break,
            Ok(count) if to.write_all(&block[..count]).is_err() => break,
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            _ => {}
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
