//! Backups beside a running server, what a killed command leaves, and a registry that comes back from a backup.

use super::program::{PROGRAM, Process, run, stderr};
use super::support::{image, noise};
use hyper_sdk::testing::{PostgresServer, Random, S3Server, given};
use hyper_sdk::{Digest, media_type};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", S3Server::KEYS[0]), ("AWS_SECRET_ACCESS_KEY", S3Server::KEYS[1])];

/// Runs the program, which knows the keys of the bucket.
fn program(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).env_clear().envs(KEYS).output().unwrap()
}

#[track_caller]
fn works(args: &[&str]) -> String {
    let output = program(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&works(&[args, &["--format", "json"]].concat())).unwrap()
}

#[track_caller]
fn refused(args: &[&str]) -> String {
    let output = program(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
    stderr(&output)
}

async fn push(client: &Client, url: &str, repository: &str, tag: &str, config: Vec<u8>) -> Digest {
    let digest = Digest::sha256(&config);
    let manifest = image(&config).to_bytes();
    let blob = format!("{url}/v2/{repository}/blobs/uploads/?digest={digest}");
    assert_eq!(client.post(blob).body(config).send().await.unwrap().status(), StatusCode::CREATED);
    let put = client.put(format!("{url}/v2/{repository}/manifests/{tag}"));
    let put = put.header("content-type", media_type::OCI_MANIFEST).body(manifest.clone());
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
    Digest::sha256(&manifest)
}

/// Pulls an image whole, and compares all digests.
async fn pulls(client: &Client, url: &str, repository: &str, digest: &Digest) {
    let answer = client.get(format!("{url}/v2/{repository}/manifests/{digest}")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{repository}@{digest}");
    let manifest = answer.bytes().await.unwrap();
    assert_eq!(Digest::sha256(&manifest), *digest);
    let config: Value = serde_json::from_slice(&manifest).unwrap();
    let config = Digest::parse(config["config"]["digest"].as_str().unwrap()).unwrap();
    let answer = client.get(format!("{url}/v2/{repository}/blobs/{config}")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{config} of {repository}@{digest}");
    assert_eq!(Digest::sha256(answer.bytes().await.unwrap()), config);
}

async fn has_tag(client: &Client, url: &str, repository: &str, tag: &str) -> Digest {
    let answer = client.get(format!("{url}/v2/{repository}/manifests/{tag}")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{repository}:{tag}");
    Digest::sha256(answer.bytes().await.unwrap())
}

/// A folder with the folders of a store and of backups, as texts.
struct Site {
    top: tempfile::TempDir,
    client: Client,
}

impl Site {
    fn new() -> Self {
        Self { top: tempfile::tempdir().unwrap(), client: Client::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// A server dies with its disk: another one, filled from the backup, has the same images, tags and tokens.
#[tokio::test]
async fn a_destroyed_registry_comes_back_with_every_digest() {
    let site = Site::new();
    let (data, dest) = (site.text("data"), site.text("backups"));
    let server = Process::start(&site.path("data"), &[]);
    let mut pushed = Vec::new();
    for (number, repository) in ["team/app", "team/base", "team/app"].into_iter().enumerate() {
        let seed = number as u64;
        let digest = push(&site.client, &server.url, repository, "latest", noise(seed, 300_000)).await;
        pushed.push((repository, digest));
    }
    works(&["token", "add", "ci", "--scope", "**:pull", "--data", &data]);
    let first = json(&["backup", "create", &dest, "--data", &data]);
    assert_eq!((&first["copied"], &first["rows"]["tokens"]), (&3.into(), &1.into()), "{first}");
    pushed.push(("late", push(&site.client, &server.url, "late", "v1", noise(9, 1000)).await));
    let second = json(&["backup", "create", &dest, "--data", &data]);
    assert_eq!(second["copied"], 1, "{second}");
    let listed = json(&["backup", "ls", &dest]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[1]["id"], second["id"]);
    assert!(works(&["backup", "check", &dest, "--read-data"]).contains(" 0 faults"));

    // The disaster.
    drop(server);
    std::fs::remove_dir_all(&data).unwrap();
    let text = works(&["restore", &dest, "--data", &data]);
    assert!(text.starts_with("restored 3 repositories, 4 manifests, 3 tags, 1 tokens, 4 blobs"), "{text}");
    let server = Process::start(&site.path("data"), &[]);
    for (repository, digest) in &pushed {
        pulls(&site.client, &server.url, repository, digest).await;
    }
    assert_eq!(has_tag(&site.client, &server.url, "team/app", "latest").await, pushed[2].1);
    assert!(works(&["token", "ls", "--data", &data]).contains("ci"));
    push(&site.client, &server.url, "new", "v1", noise(10, 1000)).await;
    drop(server);
    let error = refused(&["restore", &dest, "--data", &data]);
    assert!(error.contains("the store is not empty"), "{error}");

    // The restored registry is another one, and goes on with the same folder.
    assert_eq!(json(&["backup", "create", &dest, "--data", &data])["copied"], 1);
    let removed = json(&["backup", "rm", &dest, "--keep", "1"]);
    assert_eq!(removed["snapshots"].as_array().unwrap(), &[first["id"].clone()], "each keeps its own");
    assert_eq!(json(&["restore", &dest, "--data", &site.text("newest")])["rows"]["manifests"], 5);
    let older = second["id"].as_str().unwrap();
    works(&["restore", &dest, older, "--data", &site.text("older")]);
    assert_eq!(json(&["backup", "rm", &dest, older])["blobs"], 0, "the other snapshot has the blobs, too");
    assert!(refused(&["backup", "rm", &dest, "none"]).contains("no such snapshot"));

    // A registry of its own makes it a choice, and the command of each is printed.
    works(&["restore", &dest, "--data", &site.text("third")]);
    std::fs::remove_dir_all(site.path("older")).unwrap();
    let other = Process::start(&site.path("older"), &[]);
    push(&site.client, &other.url, "of-another", "v1", noise(11, 1000)).await;
    let newest = json(&["backup", "create", &dest, "--data", &site.text("older")]);
    let target = site.text("chosen");
    let error = refused(&["restore", &dest, "--data", &target]);
    let commands: Vec<&str> =
        error.lines().filter_map(|line| line.trim().strip_prefix("hyperregistry ")).collect();
    assert!(commands.len() == 2 && commands[0].contains(newest["id"].as_str().unwrap()), "{error}");
    let typed: Vec<&str> = commands[0].split(' ').collect();
    assert!(works(&typed).starts_with("restored 1 repositories"), "{typed:?}");
    let text = works(&["backup", "ls", &dest]);
    let lines: Vec<&str> = text.lines().collect();
    let at = lines[0].find("CREATED").unwrap();
    assert!(
        lines.len() == 3
            && lines[1..].iter().all(|line| line[at..].starts_with("20") && &line[at - 2..at] == "  "),
        "{text}"
    );
}

/// A server that was started on the empty store before would not know that it is filled.
#[tokio::test]
async fn a_store_that_a_server_has_open_is_not_filled() {
    let site = Site::new();
    let (data, dest, target) = (site.text("data"), site.text("backups"), site.text("target"));
    let source = Process::start(&site.path("data"), &[]);
    let digest = push(&site.client, &source.url, "a", "v1", noise(1, 1000)).await;
    works(&["backup", "create", &dest, "--data", &data]);
    let server = Process::start(&site.path("target"), &[]);
    let error = refused(&["restore", &dest, "--data", &target]);
    assert!(
        error.contains("another process has the store open") && error.contains("stop it first"),
        "{error}"
    );
    let migrate = ["migrate", "--from-data", &data, "--to-data", &target, "--spool", &site.text("")];
    assert!(refused(&migrate).contains("another process has the store open"));
    // The server goes on as before.
    push(&site.client, &server.url, "b", "v1", noise(2, 1000)).await;
    drop(server);
    std::fs::remove_dir_all(&target).unwrap();
    works(&migrate);
    let server = Process::start(&site.path("target"), &[]);
    pulls(&site.client, &server.url, "a", &digest).await;
}

/// What was acknowledged before a backup began is in it, and all of it can be read, whatever is pushed, deleted and collected
/// meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_beside_pushes_deletions_and_collections_is_whole() {
    let site = Site::new();
    let (data, dest) = (site.text("data"), site.text("backups"));
    let server = Process::start(&site.path("data"), &[]);
    let url = server.url.clone();
    let mut kept = Vec::new();
    for seed in 0..20 {
        kept.push(push(&site.client, &url, "kept", &format!("v{seed}"), noise(seed, 20_000)).await);
    }
    let (stop, client) =
        (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), site.client.clone());
    let busy = tokio::spawn({
        let (stop, url, data) = (stop.clone(), url.clone(), data.clone());
        async move {
            let (mut random, mut there, mut seed) = (Random::new(1), Vec::new(), 1000);
            let (mut configs, mut collected) = (BTreeMap::new(), 0);
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                seed += 1;
                there.push(push(&client, &url, "busy", &format!("t{}", seed % 7), noise(seed, 20_000)).await);
                configs.insert(there[there.len() - 1].clone(), Digest::sha256(noise(seed, 20_000)));
                if there.len() > 3 {
                    let digest: Digest = there.swap_remove(random.below(there.len()));
                    let delete = client.delete(format!("{url}/v2/busy/manifests/{digest}"));
                    assert_eq!(delete.send().await.unwrap().status(), StatusCode::ACCEPTED);
                    // Without its lease, the blob is one that a collection removes.
                    let config = configs.remove(&digest).unwrap();
                    let delete = client.delete(format!("{url}/v2/busy/blobs/{config}"));
                    assert_eq!(delete.send().await.unwrap().status(), StatusCode::ACCEPTED);
                }
                if seed % 10 == 0 {
                    let data = data.clone();
                    let gc = tokio::task::spawn_blocking(move || {
                        run(&["gc", "--data", &data, "--untagged-after", "0s"], "")
                    });
                    let gc = gc.await.unwrap();
                    assert!(gc.status.success(), "{}", stderr(&gc));
                    collected += removed_blobs(&gc);
                }
            }
            collected
        }
    });
    let mut ids = Vec::new();
    for round in 0..3u64 {
        kept.push(push(&site.client, &url, "kept", &format!("r{round}"), noise(100 + round, 20_000)).await);
        let (dest, data) = (dest.clone(), data.clone());
        let created =
            tokio::task::spawn_blocking(move || json(&["backup", "create", &dest, "--data", &data]));
        let created = created.await.unwrap();
        assert_eq!(created["damaged"].as_array().unwrap().len(), 0, "{created}");
        ids.push((created["id"].as_str().unwrap().to_owned(), kept.len()));
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let meanwhile = busy.await.unwrap();
    let last = run(&["gc", "--data", &data, "--untagged-after", "0s"], "");
    assert!(meanwhile + removed_blobs(&last) > 0, "no collection has removed bytes");
    assert!(works(&["backup", "check", &dest, "--read-data"]).contains(" 0 faults"));
    for (number, (id, count)) in ids.iter().enumerate() {
        let name = format!("restored {number}");
        works(&["restore", &dest, id, "--data", &site.text(&name)]);
        let server = Process::start(&site.path(&name), &[]);
        for digest in &kept[..*count] {
            pulls(&site.client, &server.url, "kept", digest).await;
        }
        // All that the snapshot lists is whole.
        let check = works(&["check", "--data", &site.text(&name)]);
        assert!(check.contains(": 0 are damaged"), "{check}");
    }
}

/// How many blobs a collection has removed, as it says.
fn removed_blobs(gc: &Output) -> u64 {
    let text = String::from_utf8_lossy(&gc.stdout).into_owned();
    let count = text.split("the bytes of ").nth(1).and_then(|text| text.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

fn spawn(args: &[&str]) -> std::process::Child {
    Command::new(PROGRAM).args(args).env_clear().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills a command at several moments. Returns how often it had not ended.
fn kill_often(args: &[&str], mut after: impl FnMut()) -> u32 {
    let mut killed = 0;
    for step in 1..8u64 {
        let mut child = spawn(args);
        std::thread::sleep(Duration::from_millis(step * 25));
        let was_running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += u32::from(was_running);
        after();
        if !was_running {
            break;
        }
    }
    killed
}

#[tokio::test]
async fn killed_commands_leave_whole_snapshots_and_stores_that_say_what_they_are() {
    let site = Site::new();
    let (data, dest, other) = (site.text("data"), site.text("backups"), site.text("other"));
    let server = Process::start(&site.path("data"), &[]);
    let mut pushed = vec![push(&site.client, &server.url, "a", "first", noise(1, 1000)).await];
    let first = json(&["backup", "create", &dest, "--data", &data])["id"].as_str().unwrap().to_owned();
    for seed in 2..42 {
        pushed.push(push(&site.client, &server.url, "a", "latest", noise(seed, 1_500_000)).await);
    }
    let create = ["backup", "create", &dest, "--data", &data, "--jobs", "1"];
    let killed = kill_often(&create, || {
        assert!(works(&["backup", "check", &dest, &first, "--read-data"]).contains(" 0 faults"));
    });
    assert!(killed > 0, "no backup was killed in the middle");
    let created = json(&create);
    assert!(created["copied"].as_u64().unwrap() <= 40, "{created}");
    let id = created["id"].as_str().unwrap();
    assert_eq!(std::fs::read_dir(site.path("backups/tmp")).unwrap().count(), 0);
    assert!(works(&["backup", "check", &dest, "--read-data"]).contains(" 0 faults"));

    let restore = ["restore", &dest, id, "--data", &other, "--jobs", "1"];
    let unfinished = std::cell::Cell::new(0);
    kill_often(&restore, || {
        if !Path::new(&other).join("hyper.db").exists() {
            return;
        }
        for command in ["serve", "gc", "check"] {
            let listen: &[&str] = if command == "serve" { &["--listen", "127.0.0.1:0"] } else { &[] };
            // One that is whole is left alone here.
            let mut child = spawn(&[&[command], listen, &["--data", &other]].concat());
            std::thread::sleep(Duration::from_millis(150));
            let ended = child.try_wait().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            unfinished
                .set(unfinished.get() + u32::from(ended.is_some_and(|status| status.code() == Some(1))));
        }
    });
    assert!(unfinished.get() > 0, "no store was seen in the middle");
    let error = program(&["token", "ls", "--data", &other]);
    if !error.status.success() {
        assert!(stderr(&error).contains("the store is not whole"), "{}", stderr(&error));
        works(&restore);
    }
    let server = Process::start(&site.path("other"), &[]);
    for digest in &pushed {
        pulls(&site.client, &server.url, "a", digest).await;
    }
}

#[tokio::test]
async fn damage_ends_with_a_status_of_its_own() {
    let site = Site::new();
    let (data, dest) = (site.text("data"), site.text("backups"));
    let server = Process::start(&site.path("data"), &[]);
    let whole = push(&site.client, &server.url, "a", "whole", noise(1, 1000)).await;
    push(&site.client, &server.url, "a", "broken", noise(2, 1000)).await;
    let lost = Digest::sha256(noise(2, 1000));
    let file = |top: &str| site.path(top).join("blobs/sha256").join(&lost.hex()[..2]).join(lost.hex());
    let kept = std::fs::read(file("data")).unwrap();
    std::fs::remove_file(file("data")).unwrap();
    let output = program(&["backup", "create", &dest, "--data", &data]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("damaged: blob {lost}: ")), "{}", stderr(&output));
    let output = program(&["restore", &dest, "--data", &site.text("b")]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let restored = Process::start(&site.path("b"), &[]);
    pulls(&site.client, &restored.url, "a", &whole).await;
    let head = site.client.head(format!("{}/v2/a/blobs/{lost}", restored.url)).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::NOT_FOUND, "clients push it again");
    let check = program(&["check", "--data", &site.text("b")]);
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.code() == Some(1) && text.contains(lost.as_str()), "{text}");
    let output = program(&["backup", "create", &site.text("again"), "--data", &site.text("b")]);
    assert!(
        output.status.code() == Some(3) && stderr(&output).contains(lost.as_str()),
        "{}",
        stderr(&output)
    );
    push(&site.client, &restored.url, "a", "broken", noise(2, 1000)).await;
    works(&["check", "--data", &site.text("b")]);
    works(&["backup", "create", &site.text("again"), "--data", &site.text("b")]);

    std::fs::write(file("data"), kept).unwrap();
    works(&["backup", "create", &dest, "--data", &data]);
    std::fs::remove_file(file("backups")).unwrap();
    let output = program(&["backup", "check", &dest]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.code() == Some(1) && text.contains(&format!("{lost}: the blob is missing")),
        "{text}"
    );
    let error = refused(&["restore", &dest, "--data", &site.text("c")]);
    assert!(error.contains("lack 1 blobs"), "{error}");
    assert_eq!(
        program(&["restore", &dest, "--skip-damaged", "--data", &site.text("c")]).status.code(),
        Some(3)
    );
    for args in
        [&["backup", "ls", &data][..], &["backup", "check", &data], &["restore", &data, "--data", "x"]]
    {
        assert!(refused(args).contains("the folder has no backups"), "{args:?}");
    }
    let nowhere = site.text("nowhere");
    assert!(
        refused(&["backup", "create", &nowhere, "--data", &site.text("d")])
            .contains("no store in the folder")
    );
    assert!(!site.path("nowhere").exists());
    for within in [&data, &format!("{data}/backups")] {
        assert!(refused(&["backup", "create", within, "--data", &data]).contains("the folder of a store"));
    }
    let foreign = site.text("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(site.path("foreign/photo"), "x").unwrap();
    let error = refused(&["restore", &dest, "--skip-damaged", "--data", &foreign]);
    assert!(error.contains("something else than a store") && error.contains("photo"), "{error}");
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1, "nothing was written");
}

/// From a folder to a database and a bucket, by a copy of the bytes first, and back by a backup and by a move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_moves_to_a_database_and_a_bucket_and_back() {
    let test = "a registry moves to PostgreSQL and S3";
    let Some(bucket) = given::<&S3Server>(test, S3Server::running()) else { return };
    let Some(database) = given::<&PostgresServer>(test, PostgresServer::shared()) else { return };
    let site = Site::new();
    let (data, dest) = (site.text("data"), site.text("backups"));
    let blobs = format!("s3://{}/moved?endpoint=http://{}", bucket.bucket(), bucket.host());
    let url = database.url("backup moves");
    let server = Process::start(&site.path("data"), &[]);
    let mut pushed = BTreeMap::new();
    for seed in 0..6u64 {
        let (repository, size) = (format!("r{}/app", seed % 2), 100 + seed as usize * 2_000_000);
        let digest =
            push(&site.client, &server.url, &repository, &format!("v{seed}"), noise(seed, size)).await;
        pushed.insert((repository, format!("v{seed}")), digest);
    }
    let spool = site.text("");
    let to = ["--to-database", &url, "--to-blobs", &blobs, "--spool", &spool];
    let migrate = [&["migrate", "--from-data", &data][..], &to].concat();
    let early = json(&[&migrate[..], &["--bytes-only"]].concat());
    assert_eq!(early["copied"], 6, "{early}");
    let serve = ["--database", &url, "--blobs", &blobs];
    let error = refused(&[&["gc", "--data", "/nonexistent"][..], &serve].concat());
    assert!(error.contains("the store is not whole"), "{error}");
    let late = push(&site.client, &server.url, "r0/app", "late", noise(77, 5000)).await;
    pushed.insert(("r0/app".to_owned(), "late".to_owned()), late);
    let moved = json(&migrate);
    assert_eq!((&moved["copied"], &moved["rows"]["manifests"]), (&1.into(), &7.into()), "{moved}");
    assert!(refused(&migrate).contains("the store is not empty"));
    drop(server);

    let cluster = Process::start_in(Command::new(PROGRAM), &site.path("none"), &serve, &KEYS);
    let error = refused(&migrate);
    assert!(error.contains("another process has the store open") && error.contains("sessions: "), "{error}");
    for ((repository, tag), digest) in &pushed {
        pulls(&site.client, &cluster.url, repository, digest).await;
        assert_eq!(has_tag(&site.client, &cluster.url, repository, tag).await, *digest);
    }
    // Ids of new rows do not meet those that were moved.
    let new = push(&site.client, &cluster.url, "new/one", "v1", noise(78, 5000)).await;
    pushed.insert(("new/one".to_owned(), "v1".to_owned()), new);
    let created = json(&[&["backup", "create", &dest][..], &serve].concat());
    assert_eq!((&created["copied"], created["damaged"].as_array().unwrap().len()), (&8.into(), 0));
    works(&["restore", &dest, "--data", &site.text("restored")]);
    let back = ["migrate", "--from-database", &url, "--from-blobs", &blobs, "--spool", &spool, "--to-data"];
    let text = site.text("back");
    works(&[&back[..], &[&text]].concat());
    for name in ["restored", "back"] {
        let server = Process::start(&site.path(name), &[]);
        for ((repository, tag), digest) in &pushed {
            pulls(&site.client, &server.url, repository, digest).await;
            assert_eq!(has_tag(&site.client, &server.url, repository, tag).await, *digest);
        }
        assert!(works(&["check", "--data", &site.text(name)]).contains(": 0 are damaged"));
    }
    let error = refused(&["migrate", "--from-data", &data]);
    assert!(error.contains("--to-data"), "{error}");
}

/// Variables name a store for other commands; here they would name both.
#[tokio::test]
async fn a_move_between_folders_reads_no_variables() {
    let site = Site::new();
    let server = Process::start(&site.path("data"), &[]);
    let digest = push(&site.client, &server.url, "a", "v1", noise(1, 1000)).await;
    let (data, to, spool) = (site.text("data"), site.text("to"), site.text(""));
    let output = Command::new(PROGRAM)
        .args(["migrate", "--from-data", &data, "--to-data", &to, "--spool", &spool])
        .env_clear()
        .env("HYPERREGISTRY_DATABASE", "postgres://nobody@127.0.0.1:1/none")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let server = Process::start(&site.path("to"), &[]);
    pulls(&site.client, &server.url, "a", &digest).await;
}
