//! What the machine does to the program: disks that are full, files of other kinds, signals that are ignored.

use super::program::{PROGRAM, Process, run, stderr};
use super::support::noise;
use hyper_sdk::Digest;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Mounts a file system of few bytes; `false` where that may not be.
fn mount_small(folder: &Path) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "mode=0700,size=8m", "none"]).arg(folder);
    let may = mount.output().is_ok_and(|mount| mount.status.success());
    if !may {
        println!("SKIPPED: a small file system needs the right to mount");
    }
    may
}

/// Unmounts a folder at the end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn fill(folder: &Path, rest: u64) {
    let mut filler = File::create(folder.join("filler")).unwrap();
    let free = || {
        let stat = rustix::fs::statvfs(folder).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    while free() > rest {
        if filler.write_all(&vec![0; (free() - rest).min(1 << 20) as usize]).is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn a_server_starts_on_a_full_disk_and_reads() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    if !mount_small(data) {
        return;
    }
    let _mounted = Mounted(data);
    let client = reqwest::Client::new();
    let content = noise(1, 300_000);
    let blob = format!("v2/a/blobs/{}", Digest::sha256(&content));
    for rest in [0, 4096, 20_000] {
        // The first start has space, and ends in good order.
        let mut process = Process::start(data, &[]);
        let push = format!("{}/v2/a/blobs/uploads/?digest={}", process.url, Digest::sha256(&content));
        assert_eq!(client.post(push).body(content.clone()).send().await.unwrap().status(), 201);
        process.signal("-TERM");
        assert!(process.child.wait().unwrap().success());
        // A process may end before its thread has removed the log, and what is in that could be written over.
        for _ in 0..20 {
            if !data.join("hyper.db-wal").exists() {
                break;
            }
            let mut process = Process::start(data, &[]);
            process.signal("-TERM");
            assert!(process.child.wait().unwrap().success());
        }
        assert!(!data.join("hyper.db-wal").exists());

        fill(data, rest);
        let process = Process::start(data, &[]);
        let get = async |path: &str| client.get(format!("{}/{path}", process.url)).send().await.unwrap();
        let post = async || client.post(format!("{}/v2/a/blobs/uploads/", process.url)).send().await.unwrap();
        for _ in 0..5 {
            assert_eq!(get(&blob).await.bytes().await.unwrap(), content);
            assert_eq!(get("v2/_catalog").await.status(), 200);
            let full = post().await;
            let (status, wait) = (full.status(), full.headers().get("retry-after").cloned());
            assert_eq!(status, 507, "{rest} {}", full.text().await.unwrap());
            assert_eq!(wait.unwrap(), "30");
        }
        assert_eq!(get("readyz").await.status(), 503);
        std::fs::remove_file(data.join("filler")).unwrap();
        assert_eq!(post().await.status(), 202);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(get("readyz").await.status(), 200);
    }
}

/// The first start on a full disk cannot make a store, and says so.
#[test]
fn the_error_of_a_new_store_on_a_full_disk_names_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    if !mount_small(folder.path()) {
        return;
    }
    let _mounted = Mounted(folder.path());
    fill(folder.path(), 0);
    let data = folder.path().to_str().unwrap();
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--data", data], "");
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("full") && text.contains(data) && !text.contains("panicked"), "{text}");
}

/// Runs the program with a guard against a wait without end.
fn ends(args: &[&str]) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it does not end: {args:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn special_files_are_rejected_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Larger than any bound, and without a byte on the disk.
    let endless = dir.path().join("endless");
    File::create(&endless).unwrap().set_len(1 << 40).unwrap();
    let data = dir.path().join("data");
    let config = dir.path().join("config.toml");
    for hostile in [pipe.as_path(), Path::new("/dev/zero"), &endless, dir.path()] {
        let hostile = hostile.to_str().unwrap();
        std::fs::write(&config, format!("[auth]\nhtpasswd = \"{hostile}\"\n")).unwrap();
        let (config, data) = (config.to_str().unwrap(), data.to_str().unwrap());
        for args in [
            &["serve", "--listen", "127.0.0.1:0", "--data", data, "--htpasswd", hostile][..],
            &["serve", "--listen", "127.0.0.1:0", "--data", data, "--config", hostile],
            &["serve", "--listen", "127.0.0.1:0", "--data", data, "--config", config],
            &["config", "check", "--config", hostile],
            &["config", "check", "--config", config],
        ] {
            let output = ends(args);
            assert_eq!(output.status.code(), Some(1), "{args:?} {}", stderr(&output));
            assert!(stderr(&output).contains(hostile), "{args:?} {}", stderr(&output));
        }
    }
}

/// The users stay who they were when their file becomes something that cannot be read.
#[tokio::test]
async fn a_file_of_users_that_becomes_a_pipe_blocks_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, hyper_server::auth::htpasswd_entry("alice", "secret", 4).unwrap()).unwrap();
    let process = Process::start(&dir.path().join("data"), &["--htpasswd", users.to_str().unwrap()]);
    let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    std::fs::remove_file(&users).unwrap();
    assert!(Command::new("mkfifo").arg(&users).status().unwrap().success());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..3 {
        let get = client.get(format!("{}/v2/", process.url)).basic_auth("alice", Some("secret"));
        assert_eq!(get.send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_ignored_sighup_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap \"\" HUP; exec \"$@\"", "sh", PROGRAM]);
    let log = dir.path().join("log");
    shell.stderr(std::fs::File::create(&log).unwrap());
    let mut process = Process::start_by(shell, &dir.path().join("data"), &[]);
    for _ in 0..3 {
        process.signal("-HUP");
        let answer = reqwest::get(format!("{}/v2/", process.url)).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("SIGHUP is ignored"), "{said}");
}
