//! SIGHUP: what a server reads again, and that no signal of this kind ends it.

use super::program::{PROGRAM, Process};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tempfile::TempDir;

/// A server with a configuration file, and its log.
struct Server {
    process: Process,
    log: Receiver<String>,
    config: PathBuf,
    _folder: TempDir,
}

impl Server {
    fn start(config: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&path)
            .arg("--data")
            .arg(folder.path().join("data"))
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_owned();
        let (sender, log) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process: Process { child, url }, log, config: path, _folder: folder }
    }

    fn hang_up(&self, config: &str) {
        std::fs::write(&self.config, config).unwrap();
        self.process.signal("-HUP");
    }

    /// Waits for a line of the log with this part; the lines before it.
    fn logs(&self, part: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(Duration::from_secs(10)) {
                Ok(line) if line.contains(part) => return seen,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("`{part}` is not in the log: {seen:?}"),
                Err(e) => panic!("the server has ended, and `{part}` is not in its log: {e}: {seen:?}"),
            }
        }
    }

    /// Waits until the metrics have a line.
    async fn shows(&self, line: &str) {
        for _ in 0..500 {
            let answer = reqwest::get(format!("{}/metrics", self.process.url)).await.unwrap();
            if answer.text().await.unwrap().lines().any(|one| one == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the metrics do not have {line}");
    }

    async fn get(&self, path: &str) -> u16 {
        reqwest::get(format!("{}{path}", self.process.url)).await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn sighup_changes_the_level_of_the_log() {
    for format in ["text", "json"] {
        let config = |level: &str| format!("[log]\nformat = \"{format}\"\nlevel = \"{level}\"\n");
        let server = Server::start(&config("warn"), &[]);
        assert_eq!(server.get("/v2/one/tags/list").await, 404);
        server.hang_up(&config("info"));
        let before = server.logs("the level of the log changes");
        assert_eq!(before, [""; 0], "requests are at the level `info`");
        assert_eq!(server.get("/v2/two/tags/list").await, 404);
        server.logs("/v2/two/tags/list");
        server.hang_up(&config("error"));
        server.logs("the level of the log changes");
        // That line is the last one of the former level.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(server.get("/v2/three/tags/list").await, 404);
        server.hang_up(&config("info"));
        assert_eq!(server.logs("the level of the log changes"), [""; 0]);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_leaves_the_server_as_it_was() {
    let server = Server::start("[log]\nlevel = \"warn\"\n", &[]);
    for (config, part) in [
        ("[log]\nlevel = \"a=b=c\"\n", "invalid log level"),
        ("[log]\nlevel = \"warning\"\n", "`warning` is no level"),
        ("[log]\nlevel = \"\"\n", "invalid log level"),
        ("[log]\nlvl = 1\n", "unknown field `lvl`"),
        ("nonsense", "configuration line 1"),
        ("[limits]\npage = 0\n[log]\nlevel = \"debug\"\n", "limits.page"),
    ] {
        server.hang_up(config);
        let before = server.logs(part);
        assert_eq!(before, [""; 0]);
        assert_eq!(server.get("/v2/").await, 200);
        server.shows("hyperregistry_reload_failed{files=\"configuration\"} 1").await;
    }
    std::fs::remove_file(&server.config).unwrap();
    server.process.signal("-HUP");
    server.logs("cannot be read again");
    // A pipe that nobody writes to keeps the server from nothing.
    assert!(Command::new("mkfifo").arg(&server.config).status().unwrap().success());
    server.process.signal("-HUP");
    server.logs("cannot be read again");
    std::fs::remove_file(&server.config).unwrap();
    server.hang_up("[log]\nlevel = \"info\"\n");
    server.logs("the level of the log changes");
    server.shows("hyperregistry_reload_failed{files=\"configuration\"} 0").await;
    server.process.signal("-TERM");
    server.logs("stopped");
}

#[tokio::test]
async fn other_changes_of_the_file_are_named_and_wait_for_a_restart() {
    let server = Server::start("[log]\nlevel = \"warn\"\n", &["--sparse"]);
    server.hang_up("read-only = true\n[log]\nlevel = \"info\"\n");
    assert_eq!(server.logs("changes that need a restart"), [""; 0]);
    server.logs("the level of the log changes");
    let client = reqwest::Client::new();
    let push = client.post(format!("{}/v2/a/blobs/uploads/", server.process.url)).send().await.unwrap();
    assert_eq!(push.status(), 202);
    // Flags are not changes of the file.
    server.hang_up("[log]\nlevel = \"warn\"\n");
    let before = server.logs("the level of the log changes");
    assert!(!before.iter().any(|line| line.contains("need a restart")), "{before:?}");
}

#[tokio::test]
async fn a_flag_takes_precedence_over_the_level_of_the_file() {
    let server = Server::start("[log]\nlevel = \"info\"\n", &["--log-level", "warn"]);
    server.hang_up("[log]\nlevel = \"debug\"\n");
    assert_eq!(server.get("/v2/one/tags/list").await, 404);
    server.hang_up("nonsense");
    assert_eq!(server.logs("configuration line 1"), [""; 0]);
}

#[tokio::test]
async fn sighup_without_a_file_to_read_ends_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), &[]);
    for _ in 0..3 {
        process.signal("-HUP");
        let answer = reqwest::get(format!("{}/v2/", process.url)).await.unwrap();
        assert_eq!(answer.status(), 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
}

#[tokio::test]
async fn sighup_changes_quotas() {
    let quota = |tags: u64| format!("[[quota]]\nnamespace = \"team\"\ntags = {tags}\n");
    let server = Server::start(&quota(1), &[]);
    let push = async |tag: &str| {
        let path = format!("{}/v2/team/app/manifests/{tag}", server.process.url);
        let index =
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let put = reqwest::Client::new()
            .put(path)
            .header("content-type", "application/vnd.oci.image.index.v1+json");
        put.body(index).send().await.unwrap().status().as_u16()
    };
    assert_eq!((push("one").await, push("two").await), (201, 403));
    server.hang_up(&quota(2));
    server.logs("the quotas were read again");
    assert_eq!((push("two").await, push("three").await), (201, 403));
    server.hang_up(&quota(0));
    server.logs("the quotas were read again");
    assert_eq!(
        (push("one").await, push("three").await, server.get("/v2/team/app/manifests/two").await),
        (201, 403, 200)
    );
    server.hang_up("[[quota]]\nnamespace = \"team\"\n");
    server.logs("has no limit");
    assert_eq!(push("three").await, 403, "what cannot be read changes nothing");
    server.hang_up("");
    server.logs("the quotas were read again");
    assert_eq!(push("three").await, 201);
}
