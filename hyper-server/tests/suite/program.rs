//! The program `hyperregistry`: its command line, its signals, and what survives `kill -9`.

use super::support::{image, noise};
use hyper_sdk::oci::{ImageIndex, Manifest};
use hyper_sdk::store::{DiskStore, PutManifest, RegistryStore as _, SharedStore};
use hyper_sdk::{Digest, RepositoryName, Tag, media_type};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_hyperregistry");

pub(super) fn run(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A registry in a process of its own.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) url: String,
}

impl Process {
    pub(super) fn start(data: &Path, more: &[&str]) -> Self {
        Self::start_by(Command::new(PROGRAM), data, more)
    }

    /// Starts it by a command that goes on with the arguments.
    pub(super) fn start_by(command: Command, data: &Path, more: &[&str]) -> Self {
        Self::start_in(command, data, more, &[])
    }

    /// Starts it by a command, with these variables and no others.
    pub(super) fn start_in(
        mut command: Command,
        data: &Path,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data"])
            .arg(data)
            .args(more)
            .env_clear()
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(url.contains("://127.0.0.1:"), "{line}");
        Self { child, url }
    }

    pub(super) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("/bin/kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with an image that has a tag, one that has none, and a blob that was deleted.
async fn folder_with_garbage(folder: &Path) {
    let store: SharedStore = Arc::new(DiskStore::open(folder).await.unwrap());
    let name = RepositoryName::parse("team/app").unwrap();
    let index = |n: &str| {
        let annotations = [("n".to_owned(), n.to_owned())].into();
        Manifest::sniff(ImageIndex { annotations, ..ImageIndex::new(vec![]) }.to_bytes()).unwrap()
    };
    store.put_manifest(&name, PutManifest::new(index("tagged"), [Tag::latest()])).await.unwrap();
    store.put_manifest(&name, PutManifest::new(index("untagged"), [])).await.unwrap();
    let digest = Digest::sha256("deleted");
    store.put_blob(&name, &digest, "deleted".into()).await.unwrap();
    store.delete_blob(&name, &digest).await.unwrap();
}

#[tokio::test]
async fn gc_explains_in_a_dry_run_and_removes() {
    let dir = tempfile::tempdir().unwrap();
    folder_with_garbage(dir.path()).await;
    let data = dir.path().to_str().unwrap();
    let gc = |more: &[&str]| {
        let output = run(&[&["gc", "--data", data], more].concat(), "");
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let blob = format!("bytes of {} (7 bytes): no repository has the blob\n", Digest::sha256("deleted"));
    let sum = "0 manifests, 0 links of blobs, and the bytes of 1 blobs: 7 bytes\n";
    assert_eq!(gc(&["--dry-run"]), format!("{blob}would remove {sum}"));
    assert_eq!(gc(&[]), format!("{blob}removed {sum}"));
    assert!(gc(&[]).starts_with("removed 0 manifests"));
    let untagged = gc(&["--untagged-after", "0s"]);
    assert!(
        untagged.starts_with("manifest team/app@sha256:") && untagged.contains("removed 1 manifests"),
        "{untagged}"
    );
    let store = DiskStore::open(dir.path()).await.unwrap();
    let name = RepositoryName::parse("team/app").unwrap();
    assert!(store.get_manifest(&name, &Tag::latest().into()).await.is_ok());
}

#[test]
fn gc_needs_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["gc", "--data", dir.path().to_str().unwrap()], "");
    assert!(
        !output.status.success() && stderr(&output).contains("there is no store in the folder"),
        "{output:?}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let output = run(&["gc", "--untagged-after", "soon"], "");
    assert!(!output.status.success() && stderr(&output).contains("invalid duration"), "{output:?}");
}

#[test]
fn configuration_errors_name_the_key_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "read-only = true\n[auth]\nhtpaswd = \"x\"\n").unwrap();
    for args in [vec!["serve", "--config", path], vec!["config", "check", "--config", path]] {
        let output = run(&args, "");
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains("line 3") && text.contains("htpaswd") && text.contains(path), "{text}");
    }
    std::fs::write(&file, "[auth]\nhtpasswd = \"/does/not/exist\"\n").unwrap();
    let output = run(&["config", "check", "--config", path], "");
    assert!(stderr(&output).contains("/does/not/exist"), "{}", stderr(&output));
    let users = dir.path().join("users");
    std::fs::write(&users, "# users\nann:$apr1$abcdefgh$THEHASHTHEHASHTHEHASH1\n").unwrap();
    let data = dir.path().join("data");
    std::fs::write(&file, format!("data = {data:?}\n[auth]\nhtpasswd = {users:?}\n")).unwrap();
    for args in [vec!["serve", "--config", path], vec!["config", "check", "--config", path]] {
        let text = stderr(&run(&args, ""));
        for part in [users.to_str().unwrap(), "line 2", "MD5", "hyperregistry htpasswd"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("THEHASH"), "{text}");
    }
    let output = run(&["config", "check", "--config", "/does/not/exist"], "");
    assert_eq!(output.status.code(), Some(1));
    let reference = run(&["config", "reference"], "");
    std::fs::write(&file, &reference.stdout).unwrap();
    let output = run(&["config", "check", "--config", path], "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(run(&["serve", "--nonsense"], "").status.code(), Some(2));
    let output = run(&["serve", "--log-level", "a=b=c"], "");
    assert!(stderr(&output).contains("log level"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_user_logs_in_with_an_entry_made_by_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["htpasswd", "--cost", "8", "alice"], "s3cret\n");
    let file = dir.path().join("htpasswd");
    std::fs::write(&file, &output.stdout).unwrap();
    let process = Process::start(&dir.path().join("data"), &["--htpasswd", file.to_str().unwrap()]);
    let client = reqwest::Client::new();
    let url = format!("{}/v2/", process.url);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(client.get(&url).basic_auth("alice", Some("s3cret")).send().await.unwrap().status(), 200);
    assert_eq!(client.get(&url).basic_auth("alice", Some("other")).send().await.unwrap().status(), 401);
}

/// The log, in JSON, of a program that gets one request, with the id `find-me`; and the line of that request.
async fn logged(
    flags: &[&str],
    request: impl FnOnce(reqwest::Client, &str) -> reqwest::RequestBuilder,
) -> (String, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "trace", "--data"])
        .arg(dir.path())
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();
    let reader = std::thread::spawn({
        let mut log = child.stderr.take().unwrap();
        move || {
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            text
        }
    });
    let request = request(reqwest::Client::new(), &url).header("x-request-id", "find-me");
    assert_eq!(request.send().await.unwrap().status(), 404);
    let mut process = Process { child, url };
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    let log = reader.join().unwrap();
    let mut entries = log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")));
    let entry = entries.find(|e: &serde_json::Value| e["request_id"] == "find-me");
    let entry = entry.expect("the request is in the log");
    (log, entry)
}

#[tokio::test]
async fn the_log_is_json_and_holds_no_secret() {
    let (log, entry) = logged(&[], |client, url| {
        let url = format!("{url}/v2/some/name/tags/list?token=hunter2");
        client.get(url).basic_auth("alice", Some("hunter2"))
    })
    .await;
    assert_eq!(entry["status"], 404);
    assert_eq!(entry["path"], "/v2/some/name/tags/list");
    assert_eq!(entry["route"], "tags");
    assert_eq!(entry["code"], "NAME_UNKNOWN");
    assert_eq!(entry["client"], "127.0.0.1");
    assert!(entry["micros"].is_u64());
    assert!(!log.contains("hunter2") && !log.contains("YWxpY2U6"), "a secret is in the log");
}

/// Only a proxy that is named says who the client is.
#[tokio::test]
async fn the_log_has_the_client_that_a_trusted_proxy_names() {
    for (flags, client) in [
        (&[][..], "127.0.0.1"),
        (&["--trusted-proxy", "10.0.0.0/8"], "127.0.0.1"),
        (&["--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "127.0.0.1"], "192.0.2.7"),
    ] {
        let (_, entry) = logged(flags, |client, url| {
            let forwarded = "203.0.113.9, 192.0.2.7, 10.0.0.3";
            client.get(format!("{url}/v2/a/tags/list")).header("x-forwarded-for", forwarded)
        })
        .await;
        assert_eq!(entry["client"], client, "{flags:?}");
    }
}

#[tokio::test]
async fn a_signal_ends_the_program_after_the_requests_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    for signal in ["-TERM", "-INT"] {
        let mut process = Process::start(dir.path(), &[]);
        let client = reqwest::Client::new();
        let content = noise(9, 5_000_000);
        let url = format!("{}/v2/a/blobs/uploads/?digest={}", process.url, Digest::sha256(&content));
        let (first, rest) = (content[..1000].to_vec(), content[1000..].to_vec());
        let parts = futures::stream::unfold(0, move |n| {
            let part = [first.clone(), rest.clone()].get(n).cloned();
            async move {
                if n == 1 {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                part.map(|p| (Ok::<_, std::io::Error>(p), n + 1))
            }
        });
        let push = tokio::spawn(client.post(url).body(reqwest::Body::wrap_stream(parts)).send());
        tokio::time::sleep(Duration::from_millis(200)).await;
        process.signal(signal);
        assert_eq!(push.await.unwrap().unwrap().status(), 201);
        assert!(process.child.wait().unwrap().success());
    }
}

/// What a pusher was told.
#[derive(Default)]
struct Acknowledged {
    blobs: BTreeMap<Digest, Vec<u8>>,
    manifests: BTreeMap<Digest, Vec<u8>>,
    /// The manifests that a tag may name: the last acknowledged one, and any that was sent after it.
    tags: BTreeMap<String, Vec<Digest>>,
    /// Uploads with how many bytes the registry said it has, and their content.
    uploads: Vec<(String, usize, Vec<u8>)>,
}

static SEED: AtomicU64 = AtomicU64::new(1);

/// Pushes without end; returns when the registry does not answer any more.
async fn push_until_it_dies(url: String, known: Arc<Mutex<Acknowledged>>) -> Result<(), reqwest::Error> {
    let client = reqwest::Client::new();
    loop {
        let seed = SEED.fetch_add(1, Ordering::Relaxed);
        let content = noise(seed, 100 + (seed as usize * 7919) % 60_000);
        let digest = Digest::sha256(&content);
        let repository = format!("r{}", seed % 3);
        let base = format!("{url}/v2/{repository}");
        let chunked = seed.is_multiple_of(4);
        let sent = if chunked {
            let start = client.post(format!("{base}/blobs/uploads/")).send().await?;
            let location = start.headers()["location"].to_str().unwrap().to_owned();
            let half = content.len() / 2;
            let patch =
                client.patch(format!("{url}{location}")).body(content[..half].to_vec()).send().await?;
            assert_eq!(patch.status(), 202);
            if seed.is_multiple_of(8) {
                known.lock().unwrap().uploads.push((location, half, content));
                continue;
            }
            let put = format!("{url}{location}?digest={digest}");
            client.put(put).body(content[half..].to_vec()).send().await?
        } else {
            client.post(format!("{base}/blobs/uploads/?digest={digest}")).body(content.clone()).send().await?
        };
        assert_eq!(sent.status(), 201);
        known.lock().unwrap().blobs.insert(digest, content.clone());
        let manifest = image(&content).to_bytes();
        let manifest_digest = Digest::sha256(&manifest);
        let tag = format!("{repository}/manifests/t{}", seed % 5);
        known.lock().unwrap().tags.entry(tag.clone()).or_default().push(manifest_digest.clone());
        let put = client
            .put(format!("{url}/v2/{tag}"))
            .header("content-type", media_type::OCI_MANIFEST)
            .body(manifest.clone())
            .send()
            .await?;
        assert_eq!(put.status(), 201);
        known.lock().unwrap().manifests.insert(manifest_digest, manifest);
    }
}

async fn verify(url: &str, known: &Acknowledged) {
    let client = reqwest::Client::new();
    let get = async |path: String| {
        let response = client.get(format!("{url}/v2/{path}")).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.bytes().await.unwrap())
    };
    for (kind, objects) in [("blobs", &known.blobs), ("manifests", &known.manifests)] {
        for (digest, content) in objects {
            let mut found = 0;
            for repository in ["r0", "r1", "r2"] {
                let (status, bytes) = get(format!("{repository}/{kind}/{digest}")).await;
                if status == 200 {
                    assert_eq!(bytes, content, "{kind} {digest}");
                    found += 1;
                } else {
                    assert_eq!(status, 404);
                }
            }
            assert_eq!(found, 1, "{kind} {digest} was acknowledged and is gone");
        }
    }
    for repository in ["r0", "r1", "r2"] {
        let (status, list) = get(format!("{repository}/tags/list")).await;
        if status == 404 {
            continue;
        }
        let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
        for tag in list["tags"].as_array().unwrap() {
            let path = format!("{repository}/manifests/{}", tag.as_str().unwrap());
            let (status, manifest) = get(path.clone()).await;
            assert_eq!(status, 200, "the tag {path} names nothing");
            assert!(known.tags[&path].contains(&Digest::sha256(&manifest)));
            let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
            let config = manifest["config"]["digest"].as_str().unwrap();
            let (status, content) = get(format!("{repository}/blobs/{config}")).await;
            assert_eq!(status, 200, "the manifest of {path} misses its config");
            assert_eq!(Digest::sha256(&content).as_str(), config);
        }
    }
    for (location, half, content) in &known.uploads {
        let status = client.get(format!("{url}{location}")).send().await.unwrap();
        if status.status() == 404 {
            continue;
        }
        assert_eq!(status.status(), 204);
        assert_eq!(status.headers()["range"], format!("0-{}", half - 1));
        let digest = Digest::sha256(content);
        let put = client
            .put(format!("{url}{location}?digest={digest}"))
            .header("content-range", format!("{half}-{}", content.len() - 1))
            .body(content[*half..].to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_content_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let known = Arc::new(Mutex::new(Acknowledged::default()));
    let start = Instant::now();
    let mut rounds = 0u64;
    while start.elapsed() < Duration::from_secs(8) {
        let process = Process::start(dir.path(), &[]);
        let pushers: Vec<_> =
            (0..4).map(|_| tokio::spawn(push_until_it_dies(process.url.clone(), known.clone()))).collect();
        let life = 30 + (std::process::id() as u64 * 31 + rounds * 97) % 300;
        tokio::time::sleep(Duration::from_millis(life)).await;
        process.signal("-KILL");
        for pusher in pushers {
            assert!(pusher.await.unwrap().is_err());
        }
        drop(process);
        rounds += 1;
    }
    let known = std::mem::take(&mut *known.lock().unwrap());
    assert!(
        rounds >= 5 && !known.blobs.is_empty() && !known.manifests.is_empty() && !known.uploads.is_empty()
    );
    let process = Process::start(dir.path(), &[]);
    verify(&process.url, &known).await;
}

#[test]
fn the_error_of_an_address_has_the_reason_and_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // 192.0.2.0/24 is for documents and belongs to no machine.
    for (address, why) in [
        (taken.as_str(), "another program listens there"),
        ("192.0.2.1:5000", "no interface of this machine"),
        ("no-such-host.invalid:5000", "the host has no address"),
    ] {
        let output = run(&["serve", "--listen", address, "--data", dir.path().to_str().unwrap()], "");
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        for part in [why, address, "hint: another address is chosen with --listen"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.matches(address).count(), 1, "{text}");
        assert!(!text.contains("input or output failed"), "{text}");
    }
}

#[test]
fn a_configuration_with_a_setting_without_effect_has_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = run(&["config", "check", "--config", file.to_str().unwrap()], "");
        assert!(output.status.success());
        stderr(&output)
    };
    assert!(check("[auth]\nanonymous = \"pull\"").contains("nobody may push"));
    assert!(check("[auth]\nanonymous = \"none\"").contains("nobody may pull or push"));
    assert!(check("[limits]\nupload-memory = \"64MiB\"").contains("`limits.upload-memory` has no effect"));
    for fine in ["", "[auth]\nanonymous = \"full\"", "read-only = true\n[auth]\nanonymous = \"pull\""] {
        assert_eq!(check(fine), "", "{fine}");
    }
    let log = dir.path().join("log");
    let mut command = Command::new(PROGRAM);
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut process = Process::start_by(command, &dir.path().join("data"), &["--anonymous", "pull"]);
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    assert!(std::fs::read_to_string(&log).unwrap().contains("nobody may push"));
}

#[test]
fn the_data_folder_is_private() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let dir = tempfile::tempdir().unwrap();
    let set =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let data = dir.path().join("data");
    let mode = || data.metadata().unwrap().mode() & 0o7777;
    drop(Process::start(&data, &[]));
    assert_eq!(mode(), 0o700);
    set(&data, 0o755);
    drop(Process::start(&data, &[]));
    assert_eq!(mode(), 0o700);
    set(dir.path(), 0o777);
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("can be written by everybody"), "{}", stderr(&output));
}

#[test]
fn status_says_whether_the_server_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let (data, socket) = (dir.path().join("data"), dir.path().join("socket"));
    let unix = format!("unix:{}", socket.display());
    let log = dir.path().join("log/audit.log");
    std::fs::create_dir(log.parent().unwrap()).unwrap();
    let server = Process::start(&data, &["--listen", &unix, "--audit-log", log.to_str().unwrap()]);
    let address = server.url.strip_prefix("http://").unwrap();
    for place in [address, &server.url, &unix] {
        let output = run(&["status", place], "");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.starts_with(&format!("{place} is ready\n")), "{output:?}");
        assert!(text.lines().any(|line| line.starts_with("requests in flight ")), "{text}");
    }
    // One change is made before anybody knows that its line cannot be written.
    std::fs::rename(log.parent().unwrap(), dir.path().join("gone")).unwrap();
    let push = |n: u8| {
        let digest = Digest::sha256([n]);
        let mut client = std::net::TcpStream::connect(address).unwrap();
        write!(client, "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nconnection: close\r\n\r\n").unwrap();
        client.write_all(&[n]).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(push(1).starts_with("HTTP/1.1 201"));
    assert!(push(2).starts_with("HTTP/1.1 503"));
    let output = run(&["status", address, "--format", "json"], "");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success() && json["ready"] == false, "{json}");
    assert!(json["fault"].as_str().unwrap().contains("try again later"), "{json}");
    assert_eq!(json["counts"]["audit_lines_total"], 0);
    let nobody = run(&["status", "127.0.0.1:1"], "");
    assert!(!nobody.status.success() && stderr(&nobody).contains("is it running?"), "{nobody:?}");
}
