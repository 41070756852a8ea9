//! Several servers that share a database and a bucket, and no folder: each request goes to a random one.

use super::access::{basic, users};
use super::program::{PROGRAM, Process, stderr};
use super::support::{image, noise};
use bytes::Bytes;
use hyper_sdk::testing::{PostgresServer, Random, S3Server, given};
use hyper_sdk::{Digest, media_type};
use reqwest::{Client, Method, RequestBuilder, Response};
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", S3Server::KEYS[0]), ("AWS_SECRET_ACCESS_KEY", S3Server::KEYS[1])];

/// The servers, in front of which a balancer of loads chooses blindly.
struct Cluster {
    servers: Vec<Process>,
    arguments: Vec<String>,
    folder: PathBuf,
    client: Client,
    random: Random,
    token: String,
}

impl Cluster {
    fn start(&mut self) {
        let data = self.folder.join(format!("data {}", self.random.below(usize::MAX)));
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.servers.push(Process::start_in(Command::new(PROGRAM), &data, &arguments, &KEYS));
    }

    /// A request to one of the servers, with a token of another one.
    fn ask(&mut self, method: Method, path: &str) -> RequestBuilder {
        let path = path.find("/v2/").map_or(path, |start| &path[start..]);
        let server = self.random.below(self.servers.len());
        self.client.request(method, format!("{}{path}", self.servers[server].url)).bearer_auth(&self.token)
    }

    async fn log_in(&mut self) {
        let scopes = "scope=repository:team/app:pull,push,delete&scope=repository:team/copy:pull,push,delete";
        let path = format!("/v2/token?service=hyperregistry&{scopes}");
        let request = self.client.get(format!("{}{path}", self.servers[0].url));
        let request = request.header("authorization", basic("alice", "pass:word"));
        let text = expect(request, 200).await.text().await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        self.token = answer["token"].as_str().unwrap().to_owned();
    }

    /// Pushes a blob in chunks.
    async fn push(&mut self, bytes: &Bytes, chunk: usize) -> Digest {
        let digest = Digest::sha256(bytes);
        let begun = expect(self.ask(Method::POST, "/v2/team/app/blobs/uploads/"), 202).await;
        let mut location = location(&begun);
        for start in (0..bytes.len()).step_by(chunk) {
            let end = bytes.len().min(start + chunk);
            let patch = self.ask(Method::PATCH, &location).body(bytes.slice(start..end));
            let patch = patch.header("content-range", format!("{start}-{}", end - 1));
            location = self::location(&expect(patch, 202).await);
            let there = expect(self.ask(Method::GET, &location), 204).await;
            assert_eq!(there.headers()["range"], format!("0-{}", end - 1));
        }
        let end = if location.contains('?') { '&' } else { '?' };
        expect(self.ask(Method::PUT, &format!("{location}{end}digest={digest}")), 201).await;
        digest
    }

    /// Collects garbage once, with the flags of a server and without a folder.
    fn collect(&self) -> String {
        let output = Command::new(PROGRAM)
            .args(["gc", "--untagged-after", "0s", "--data", "/nonexistent"])
            .args(self.arguments.iter().take(4))
            .env_clear()
            .envs(KEYS)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn location(answer: &Response) -> String {
    answer.headers()["location"].to_str().unwrap().to_owned()
}

async fn expect(request: RequestBuilder, status: u16) -> Response {
    let answer = request.send().await.unwrap();
    if answer.status() != status {
        let (got, url) = (answer.status(), answer.url().clone());
        panic!("{got} instead of {status}: {url}: {}", answer.text().await.unwrap());
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_without_a_common_folder_are_one_registry() {
    let name = "servers on PostgreSQL and S3";
    let Some(bucket) = given::<&S3Server>(name, S3Server::running()) else { return };
    let Some(database) = given::<&PostgresServer>(name, PostgresServer::shared()) else { return };
    let (url, folder, users) = (database.url("cluster"), tempfile::tempdir().unwrap(), users());
    let place = format!("s3://{}/team", bucket.bucket());
    let blobs = format!("{place}?endpoint=http://{}", bucket.host());
    let arguments = ["--database", &url, "--blobs", &blobs, "--htpasswd", users.path().to_str().unwrap()];
    let mut all = Cluster {
        servers: Vec::new(),
        arguments: arguments.map(str::to_owned).into(),
        folder: folder.path().to_owned(),
        client: Client::new(),
        random: Random::new(7),
        token: String::new(),
    };
    (0..3).for_each(|_| all.start());
    all.log_in().await;
    let mut pushed = Vec::new();
    for round in 0..6u64 {
        // The first has several parts in the bucket.
        let (size, chunk) = if round == 0 { (19 << 20, 3 << 20) } else { (50_000 + round as usize, 20_000) };
        let bytes = Bytes::from(noise(round + 1, size));
        let digest = all.push(&bytes, chunk).await;
        let blob = format!("/v2/team/app/blobs/{digest}");
        assert!(expect(all.ask(Method::GET, &blob), 200).await.bytes().await.unwrap() == bytes);
        let mount = format!("/v2/team/copy/blobs/uploads/?mount={digest}&from=team/app");
        expect(all.ask(Method::POST, &mount), 201).await;
        let copy = format!("/v2/team/copy/blobs/{digest}");
        let part = all.ask(Method::GET, &copy).header("range", "bytes=40000-49999");
        assert_eq!(expect(part, 206).await.bytes().await.unwrap(), bytes.slice(40_000..50_000));
        let config = format!("{{\"round\":{round}}}");
        let manifest = image(config.as_bytes()).to_bytes();
        all.push(&Bytes::from(config), 5).await;
        let tag = "/v2/team/app/manifests/latest";
        let put = all.ask(Method::PUT, tag).header("content-type", media_type::OCI_MANIFEST);
        expect(put.body(manifest.clone()), 201).await;
        for _ in 0..3 {
            assert_eq!(expect(all.ask(Method::GET, tag), 200).await.bytes().await.unwrap(), manifest);
        }
        if round == 2 {
            // One server dies, and another one begins.
            let mut dead = all.servers.remove(0);
            dead.child.kill().unwrap();
            dead.child.wait().unwrap();
            all.start();
        }
        pushed.push(digest);
    }
    let collected = all.collect();
    assert!(collected.contains("removed 5 manifests") && collected.contains("of 0 blobs"), "{collected}");
    for digest in &pushed {
        expect(all.ask(Method::HEAD, &format!("/v2/team/app/blobs/{digest}")), 200).await;
        expect(all.ask(Method::DELETE, &format!("/v2/team/app/blobs/{digest}")), 202).await;
        expect(all.ask(Method::HEAD, &format!("/v2/team/app/blobs/{digest}")), 404).await;
        expect(all.ask(Method::DELETE, &format!("/v2/team/copy/blobs/{digest}")), 202).await;
    }
    let collected = all.collect();
    let bytes: usize = (19 << 20) + (1..6).map(|round| 50_000 + round).sum::<usize>();
    assert!(collected.contains(&format!("the bytes of 6 blobs: {bytes} bytes")), "{collected}");
    expect(all.ask(Method::GET, "/v2/team/app/manifests/latest"), 200).await;
    assert!(std::fs::read_dir(&all.folder).unwrap().next().is_none(), "a server made a folder");

    // Who names another place, or no bucket, is told so.
    let refused = |more: &[&str]| {
        let output = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--database", &url, "--data"])
            .arg(Path::new(&all.folder).join("other"))
            .args(more)
            .env_clear()
            .envs(KEYS)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stderr(&output)
    };
    let elsewhere = blobs.replace("/team?", "/elsewhere?");
    for more in [vec!["--blobs", &elsewhere], vec![]] {
        let error = refused(&more);
        assert!(error.contains("at another place") && error.contains(&place), "{error}");
    }
    let other = database.url("another cluster");
    let output = Command::new(PROGRAM)
        .args(["gc", "--database", &other, "--blobs", &blobs])
        .env_clear()
        .envs(KEYS)
        .output()
        .unwrap();
    assert!(stderr(&output).contains("another registry has its blobs at this place"), "{output:?}");
}
