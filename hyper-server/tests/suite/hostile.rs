//! Random and hostile requests, from a seed: malformed, cut, slow, parallel, reset.
//!
//! The program answers each with a status that blames the client, or closes the connection. It neither fails nor panics,
//! keeps no request, and its folder holds nothing wrong afterwards. `HYPER_TEST_ROUNDS` makes the attack so many times
//! longer.

use super::program::{PROGRAM, Process};
use hyper_sdk::testing::Random;
use hyper_sdk::{Digest, media_type};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far more than anything here takes: who runs into it hangs.
const HANG: Duration = Duration::from_secs(60);

const LIMITS: &str = "[limits]\nheader-timeout = \"3s\"\nbody-timeout = \"1s\"\nwrite-timeout = \"3s\"\nblob = \"4MiB\"\n[cache]\nblob = \"1KiB\"\n";

/// A program under attack.
struct Victim {
    process: Process,
    folder: tempfile::TempDir,
    client: reqwest::Client,
    /// Paths of upload sessions that were started.
    sessions: Mutex<BTreeSet<String>>,
}

impl Victim {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, LIMITS).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.stderr(Stdio::from(log));
        let data = folder.path().join("data");
        let process = Process::start_by(command, &data, &["--config", config.to_str().unwrap()]);
        let victim = Self { process, folder, client: reqwest::Client::new(), sessions: Mutex::default() };
        for (repository, text) in
            [("a", "small".to_owned()), ("a/b", "large".repeat(100_000)), ("a", "{}".into())]
        {
            let path = format!("/v2/{repository}/blobs/uploads/?digest={}", Digest::sha256(&text));
            assert_eq!(victim.send("POST", &path, text).await, 201);
        }
        let manifest = super::support::image(b"{}").to_bytes();
        let put = victim
            .client
            .put(victim.url("/v2/a/manifests/latest"))
            .header("content-type", media_type::OCI_MANIFEST);
        assert_eq!(put.body(manifest).send().await.unwrap().status(), 201);
        for _ in 0..4 {
            victim.session("a").await;
        }
        victim
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.process.url)
    }

    fn address(&self) -> &str {
        self.process.url.strip_prefix("http://").unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> u16 {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let sent = self.client.request(method, self.url(path)).body(body).send();
        tokio::time::timeout(HANG, sent).await.expect("the server hangs").unwrap().status().as_u16()
    }

    /// Starts an upload session.
    async fn session(&self, repository: &str) -> String {
        let start =
            self.client.post(self.url(&format!("/v2/{repository}/blobs/uploads/"))).send().await.unwrap();
        assert_eq!(start.status(), 202);
        let location = start.headers()["location"].to_str().unwrap().to_owned();
        self.sessions.lock().unwrap().insert(location.clone());
        location
    }

    fn any_session(&self, random: &mut Random) -> String {
        let known: Vec<String> = self.sessions.lock().unwrap().iter().cloned().collect();
        random.pick(&known).unwrap().clone()
    }

    /// Sends bytes as they are, in two pieces, and reads what comes until the server closes.
    async fn exchange(&self, bytes: &[u8], random: &mut Random) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        let (first, second) = bytes.split_at(random.below(bytes.len() + 1));
        // The server may have closed already.
        let _ = stream.write_all(first).await;
        if random.once_in(4) {
            tokio::task::yield_now().await;
        }
        let _ = stream.write_all(second).await;
        let mut answer = Vec::new();
        match random.below(10) {
            0 => return answer,
            1 => drop(stream.shutdown().await),
            _ => {}
        }
        let reading = tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await;
        assert!(reading.is_ok(), "the server hangs: {}", shown(bytes));
        answer
    }

    /// Notes the session that an answer names.
    fn note(&self, answer: &str) {
        let location = answer.lines().find_map(|line| line.strip_prefix("location: "));
        if let Some(location) = location.filter(|location| location.contains("/blobs/uploads/")) {
            self.sessions.lock().unwrap().insert(location.to_owned());
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// A count of `/metrics`.
    async fn count(&self, name: &str) -> u64 {
        let text = self.client.get(self.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }

    /// Checks that nothing is left of an attack.
    async fn check(self) {
        let log = self.log();
        for word in ["panicked", " ERROR "] {
            assert!(!log.contains(word), "{log}");
        }
        for quiet in ["hyperregistry_uploads_in_progress", "hyperregistry_requests_in_flight"] {
            // The question itself is in flight.
            let most = u64::from(quiet.ends_with("flight"));
            let mut left = 0;
            for _ in 0..1000 {
                left = self.count(quiet).await;
                if left <= most {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(left <= most, "{quiet} {left}");
        }
        let sessions = std::mem::take(&mut *self.sessions.lock().unwrap());
        for session in sessions {
            // What was received of a request that is gone may still be being saved.
            let mut status = 409;
            for _ in 0..500 {
                status = self.send("DELETE", &session, "").await;
                if status != 409 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(matches!(status, 204 | 404), "{session}: {status}");
        }
        let data = self.folder.path().join("data");
        let staged = || files(&data.join("uploads"));
        for _ in 0..1000 {
            if staged().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(staged().is_empty(), "{:?}", staged());
        for path in files(&data.join("blobs")) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let found = if name.len() == 128 {
                hyper_sdk::digest::Algorithm::Sha512.digest(&bytes)
            } else {
                Digest::sha256(&bytes)
            };
            assert_eq!(found.hex(), name, "{}", path.display());
        }
        for path in ["/livez", "/readyz", "/v2/a/manifests/latest", "/v2/_catalog"] {
            assert_eq!(self.send("GET", path, "").await, 200, "{path}");
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).unwrap();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let most: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(most < 600 << 10, "the program took {most} KiB");
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let below = entries.map(|entry| entry.unwrap().path());
    below.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned()
}

fn rounds(usual: usize) -> usize {
    let times = std::env::var("HYPER_TEST_ROUNDS").ok().and_then(|times| times.parse::<usize>().ok());
    usual * times.unwrap_or(1)
}

/// The status of an answer, if there is one.
fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

fn digest(random: &mut Random) -> String {
    let good = Digest::sha256("small").to_string();
    let hex = |length| "0123456789abcdef".repeat(16)[..length].to_owned();
    let all = [
        good.clone(),
        Digest::sha256("large".repeat(100_000)).to_string(),
        Digest::sha256("nothing").to_string(),
        hyper_sdk::digest::Algorithm::Sha512.digest(b"small").to_string(),
        good.replace(':', "%3A"),
        good.to_uppercase(),
        format!("{good}0"),
        format!("{good}%00"),
        good[..70].to_owned(),
        format!("md5:{}", hex(32)),
        format!("sha512:{}", hex(64)),
        "sha256:".to_owned(),
        ":".to_owned(),
        "sha256:../../../../etc/passwd".to_owned(),
        "..%2f..%2fhyper.db".to_owned(),
        format!("{}:{}", "a+".repeat(200), hex(64)),
    ];
    random.pick(&all).unwrap().clone()
}

fn name(random: &mut Random) -> String {
    let all = [
        "a",
        "a",
        "a/b",
        "none",
        "A",
        "..",
        "a/../b",
        "%2e%2e",
        "a%2fb",
        "a%00",
        "%ff",
        "%",
        "%zz",
        "a//b",
        "",
        "/",
        "_catalog",
        "token",
        "blobs",
        "a/blobs/uploads",
        "\u{e9}",
        "a?b",
        "a#b",
        "hyper.local/x",
    ];
    match random.below(30) {
        0 => "x".repeat(5000),
        1 => "a/".repeat(2000) + "a",
        _ => (*random.pick(&all).unwrap()).to_owned(),
    }
}

fn target(victim: &Victim, random: &mut Random) -> String {
    let (name, digest) = (name(random), digest(random));
    let tags = ["latest", "none", ".", "-x", "a b", "%0d%0a", "list", "x".repeat(200).leak() as &str];
    let tag = *random.pick(&tags).unwrap();
    let path = match random.below(12) {
        0 => format!("/v2/{name}/blobs/{digest}"),
        1 => format!("/v2/{name}/manifests/{tag}"),
        2 => format!("/v2/{name}/manifests/{digest}"),
        3 => format!("/v2/{name}/blobs/uploads/"),
        4 => format!("/v2/{name}/tags/list"),
        5 => format!("/v2/{name}/referrers/{digest}"),
        6 | 7 => victim.any_session(random),
        8 => format!("/v2/{name}/blobs/uploads/{digest}"),
        9 => "/v2/_catalog".to_owned(),
        10 => format!("/v2/{name}"),
        _ => (*random
            .pick(&[
                "/",
                "*",
                "/v2",
                "/v2//",
                "/metrics",
                "/readyz",
                "//v2/",
                "http://x/v2/",
                "/v2/token",
                "x:1",
            ])
            .unwrap())
        .to_owned(),
    };
    let mut query = Vec::new();
    for _ in 0..random.below(4) {
        let numbers = ["0", "1", "-1", "1e9", "", "99999999999999999999999999", "%31", "\u{0}", "0x10"];
        query.push(match random.below(9) {
            0 | 1 => format!("digest={}", self::digest(random)),
            2 => format!("n={}", random.pick(&numbers).unwrap()),
            3 => format!("last={}", self::name(random)),
            4 => format!("last={}", "z".repeat(20_000)),
            5 => format!("mount={}&from={}", self::digest(random), self::name(random)),
            6 => "tag=a".to_owned() + &"&tag=b".repeat(random.below(300)),
            7 => format!("artifactType={}&digest-algorithm={}", self::name(random), self::name(random)),
            _ => "&=&%&=".repeat(50),
        });
    }
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

/// Header lines, each with its end.
fn headers(random: &mut Random) -> String {
    let mut lines = String::new();
    for _ in 0..random.below(4) {
        let range = |random: &mut Random| {
            let ends =
                ["0", "1", "499999", "500000", "18446744073709551615", "99999999999999999999", "", "-1", "x"];
            format!("{}-{}", random.pick(&ends).unwrap(), random.pick(&ends).unwrap())
        };
        let many = 1 + random.below(30);
        let ranges = (0..many).map(|_| range(random)).collect::<Vec<_>>().join(",");
        let line = match random.below(12) {
            0 => format!("range: bytes={ranges}"),
            1 => format!("range: bytes={}", "0-0,".repeat(1100)),
            2 => format!("content-range: {}", range(random)),
            3 => format!("content-range: bytes {}/{}", range(random), random.number()),
            4 => format!("if-match: {}", self::digest(random)),
            5 => "if-none-match: *".to_owned(),
            6 => format!(
                "content-type: {}",
                random.pick(&[media_type::OCI_MANIFEST, media_type::OCI_INDEX, "x", ""]).unwrap()
            ),
            7 => "authorization: Basic !!!!\r\nauthorization: Bearer x.y.z".to_owned(),
            8 => "x-flood: y\r\n".repeat(random.below(200)) + "x-flood: z",
            9 => format!("x-long: {}", "y".repeat(random.below(200_000))),
            10 => "x-forwarded-host: \u{e9}\"\r\nx-forwarded-proto: gopher\r\nforwarded: ;;=".to_owned(),
            _ => format!("x-request-id: {}", "\u{7f}".repeat(random.below(3))),
        };
        lines.push_str(&line);
        lines.push_str("\r\n");
    }
    lines
}

/// The lines that frame a body, and the body, which may be another than they say.
fn body(random: &mut Random) -> Vec<u8> {
    let contents = [
        Vec::new(),
        b"small".to_vec(),
        super::support::image(b"{}").to_bytes(),
        super::support::image(b"missing").to_bytes(),
        b"[".repeat(100_000),
        br#"{"schemaVersion":1e999,"config":{"size":-1}}"#.to_vec(),
        random.bytes(3000),
        random.bytes(700_000),
    ];
    let content = random.pick(&contents).unwrap().clone();
    let framed = |head: String, body: &[u8]| [head.as_bytes(), b"\r\n\r\n", body].concat();
    let length = content.len();
    match random.below(14) {
        0..=4 => framed(format!("content-length: {length}"), &content),
        5 => framed(format!("content-length: {}", length + 10), &content),
        6 => framed(format!("content-length: {}", length / 2), &content),
        7 => framed(
            format!("content-length: {}", random.pick(&["-1", "x", "99999999999999999999", "5, 5"]).unwrap()),
            &content,
        ),
        8 => framed(format!("content-length: {length}\r\ntransfer-encoding: chunked"), &content),
        9 => framed("transfer-encoding: gzip, chunked".to_owned(), b"0\r\n\r\n"),
        10 => framed(
            "transfer-encoding: chunked".to_owned(),
            &[&b"ffffffffffffffff\r\n"[..], &content].concat(),
        ),
        11 => framed(
            "transfer-encoding: chunked".to_owned(),
            &[format!("{length:x}\r\n").as_bytes(), &content].concat(),
        ),
        12 => framed("expect: 100-continue\r\ncontent-length: 1000000".to_owned(), b""),
        _ => {
            let whole =
                [format!("{length:x};x=\"\r\n").as_bytes(), &content, b"\r\n0\r\nx: y\r\n\r\n"].concat();
            framed("transfer-encoding: chunked".to_owned(), if length == 0 { b"0\r\n\r\n" } else { &whole })
        }
    }
}

#[tokio::test]
async fn malformed_and_truncated_requests_get_a_client_error() {
    let victim = Arc::new(Victim::start().await);
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..8u64 {
        let victim = victim.clone();
        tasks.spawn(async move {
            let mut random = Random::new(seed);
            let methods = [
                "GET", "GET", "HEAD", "PUT", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
                "PROPFIND", "get", "", "G T", "PRI",
            ];
            for _ in 0..rounds(50) {
                let method = *random.pick(&methods).unwrap();
                let version = *random
                    .pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""])
                    .unwrap();
                let host = *random
                    .pick(&[
                        "host: x\r\n",
                        "host: x\r\n",
                        "host: x\r\n",
                        "",
                        "host: x\r\nhost: y\r\n",
                        "host: \u{e9} /\r\n",
                    ])
                    .unwrap();
                let head = format!(
                    "{method} {} {version}\r\n{host}connection: close\r\n{}",
                    target(&victim, &mut random),
                    headers(&mut random)
                );
                let mut request = [head.as_bytes(), &body(&mut random)].concat();
                if random.once_in(10) {
                    request.truncate(random.below(request.len()));
                }
                if random.once_in(10) {
                    let at = random.below(request.len().min(300));
                    request.insert(at, random.number() as u8);
                }
                let answer = victim.exchange(&request, &mut random).await;
                let answer = String::from_utf8_lossy(&answer).into_owned();
                victim.note(&answer);
                assert!(status(&answer).is_none_or(|status| status < 500), "{}\n{answer}", shown(&request));
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(victim).unwrap().check().await;
}

/// Requests that write to, close and end one session at once.
#[tokio::test]
async fn parallel_requests_to_one_upload_leave_it_whole_or_ended() {
    let victim = Arc::new(Victim::start().await);
    let current = Arc::new(Mutex::new(victim.session("a").await));
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..8u64 {
        let (victim, current) = (victim.clone(), current.clone());
        tasks.spawn(async move {
            let mut random = Random::new(1000 + seed);
            for _ in 0..rounds(40) {
                let session = current.lock().unwrap().clone();
                let size = 1 + random.below(100_000);
                let piece = random.bytes(size);
                let status = match random.below(10) {
                    0..=3 => victim.send("PATCH", &session, piece).await,
                    4 => {
                        let end = format!("{session}?digest={}", Digest::sha256(&piece));
                        victim.send("PUT", &end, piece).await
                    }
                    5 => {
                        victim.send("PUT", &format!("{session}?digest={}", Digest::sha256("x")), piece).await
                    }
                    6 => victim.send("DELETE", &session, "").await,
                    7 => victim.send("HEAD", &session, "").await,
                    _ => victim.send("GET", &session, "").await,
                };
                assert!(matches!(status, 201 | 202 | 204 | 400 | 404 | 409 | 416), "{status}");
                if matches!(status, 201 | 404) || status == 204 && random.once_in(8) {
                    let next = victim.session("a").await;
                    *current.lock().unwrap() = next;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(victim).unwrap().check().await;
}

/// Clients of HTTP/2 that give up in the middle, and bytes that are no frames.
#[tokio::test]
async fn resets_and_malformed_frames_end_streams_and_connections_alone() {
    let victim = Arc::new(Victim::start().await);
    let large = format!("/v2/a/b/blobs/{}", Digest::sha256("large".repeat(100_000)));
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..6u64 {
        let (victim, large) = (victim.clone(), large.clone());
        tasks.spawn(async move {
            let mut random = Random::new(2000 + seed);
            let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
            for _ in 0..rounds(30) {
                let pieces: Vec<_> =
                    (0..random.below(20)).map(|n| Ok::<_, std::io::Error>(vec![n as u8; 10_000])).collect();
                let pieces = futures::StreamExt::then(futures::stream::iter(pieces), |piece| async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    piece
                });
                let body = reqwest::Body::wrap_stream(pieces);
                let request = match random.below(4) {
                    0 => http2.get(victim.url(&large)),
                    1 => http2
                        .post(victim.url(&format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256("x"))))
                        .body(body),
                    2 => http2.patch(victim.url(&victim.any_session(&mut random))).body(body),
                    _ => http2.put(victim.url("/v2/a/manifests/x")).body(body),
                };
                let patience = Duration::from_millis(random.below(30) as u64);
                if let Ok(Ok(answer)) = tokio::time::timeout(patience, request.send()).await {
                    assert!(answer.status().as_u16() < 500, "{answer:?}");
                }
                let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
                for _ in 0..random.below(200) {
                    let payload = random.below(40);
                    let kind = random.below(12) as u8;
                    let stream = (1 + 2 * random.below(50)) as u32;
                    frames.extend_from_slice(&[0, 0, payload as u8, kind, random.number() as u8]);
                    frames.extend_from_slice(&stream.to_be_bytes());
                    frames.extend_from_slice(&random.bytes(payload));
                }
                victim.exchange(&frames, &mut random).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(victim).unwrap().check().await;
}

/// A client that opens many streams and resets each at once.
#[tokio::test]
async fn a_flood_of_resets_costs_the_client_its_connection() {
    let victim = Victim::start().await;
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0..20_000u32 {
        let stream = (1 + 2 * number).to_be_bytes();
        // `:method GET`, `:scheme http`, `:path /`, `:authority x`, as indices and literals of the static table.
        frames.extend_from_slice(&[0, 0, 6, 1, 5]);
        frames.extend_from_slice(&stream);
        frames.extend_from_slice(&[0x82, 0x86, 0x84, 0x41, 1, b'x']);
        frames.extend_from_slice(&[0, 0, 4, 3, 0]);
        frames.extend_from_slice(&stream);
        frames.extend_from_slice(&[0, 0, 0, 8]);
    }
    let mut random = Random::new(1);
    for _ in 0..3 {
        victim.exchange(&frames, &mut random).await;
    }
    victim.check().await;
}
