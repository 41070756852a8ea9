//! The server on PostgreSQL and S3 while they fail: what was acknowledged is there with the right bytes, nothing half is
//! served, and a client that must try again is told so.

use super::program::{PROGRAM, Process};
use super::support::{image, noise};
use bytes::Bytes;
use hyper_sdk::testing::{Act, Front, PostgresServer, S3Server, given};
use hyper_sdk::{Digest, media_type};
use reqwest::{Client, Method, RequestBuilder, Response};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", S3Server::KEYS[0]), ("AWS_SECRET_ACCESS_KEY", S3Server::KEYS[1])];

/// More than two parts of an object, and more than any cache takes.
const LARGE: usize = (17 << 20) + 5;
/// Whether the database crashes at the next commit.
const ARMED: u8 = 0;
const CRASHING: u8 = 1;
const CRASHED: u8 = 2;
/// How long a client goes on trying.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to a request for the bucket, by its method and its target.
type Mood = Box<dyn Fn(&str, &str) -> Act + Send>;

/// A server, and what its clients know.
struct Site {
    process: Process,
    front: Front,
    mood: Arc<Mutex<Mood>>,
    client: Client,
    /// The blobs that were tried, and whether they were acknowledged.
    blobs: Mutex<BTreeMap<Digest, (Bytes, bool)>>,
    /// The manifests that were tried for a tag; the last one that was acknowledged comes first.
    tags: Mutex<BTreeMap<String, Vec<Vec<u8>>>>,
    /// The requests that were told to come again.
    told: AtomicUsize,
    _folder: tempfile::TempDir,
}

impl Site {
    /// Starts a server on a database and, behind a front, on a bucket.
    async fn start(bucket: &S3Server, database: &str) -> Self {
        let mood: Arc<Mutex<Mood>> = Arc::new(Mutex::new(Box::new(|_, _| Act::Pass)));
        let now = Arc::clone(&mood);
        let front = Front::start(bucket.host(), move |method, target| (*now.lock().unwrap())(method, target));
        let front = front.await;
        let folder = tempfile::tempdir().unwrap();
        let (data, database) = (folder.path().join("data"), database.to_owned());
        let blobs = format!("s3://{}/faults?endpoint=http://{}", bucket.bucket(), front.host);
        let process = tokio::task::spawn_blocking(move || {
            Process::start_in(
                Command::new(PROGRAM),
                &data,
                &["--database", &database, "--blobs", &blobs],
                &KEYS,
            )
        });
        Self {
            process: process.await.unwrap(),
            front,
            mood,
            client: Client::new(),
            blobs: Mutex::default(),
            tags: Mutex::default(),
            told: AtomicUsize::new(0),
            _folder: folder,
        }
    }

    fn set(&self, mood: impl Fn(&str, &str) -> Act + Send + 'static) {
        *self.mood.lock().unwrap() = Box::new(mood);
    }

    fn heal(&self) {
        self.set(|_, _| Act::Pass);
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let path = path.find("/v2/").map_or(path, |start| &path[start..]);
        self.client.request(method, format!("{}{path}", self.process.url))
    }

    /// The answer, if it is the one that is wanted. Any other one tells the client to come again, in the words of the protocol.
    async fn expect(&self, request: RequestBuilder, wanted: u16) -> Option<Response> {
        let answer = request.send().await.unwrap();
        if answer.status() == wanted {
            return Some(answer);
        }
        self.told.fetch_add(1, Ordering::SeqCst);
        come_again(answer).await;
        None
    }

    /// Pushes a blob in pieces. Returns whether it was acknowledged.
    async fn push_blob(&self, bytes: &Bytes, piece: usize) -> bool {
        let digest = Digest::sha256(bytes);
        self.blobs.lock().unwrap().entry(digest.clone()).or_insert_with(|| (bytes.clone(), false));
        let push = async {
            let begun = self.expect(self.ask(Method::POST, "/v2/a/blobs/uploads/"), 202).await?;
            let mut location = location(&begun);
            for start in (0..bytes.len()).step_by(piece) {
                let part = bytes.slice(start..bytes.len().min(start + piece));
                let patch = self.ask(Method::PATCH, &location).body(part);
                location = self::location(&self.expect(patch, 202).await?);
            }
            let end = if location.contains('?') { '&' } else { '?' };
            self.expect(self.ask(Method::PUT, &format!("{location}{end}digest={digest}")), 201).await
        };
        let is_there = push.await.is_some();
        if is_there {
            self.blobs.lock().unwrap().insert(digest, (bytes.clone(), true));
        }
        is_there
    }

    /// Pushes a blob until it is acknowledged.
    async fn insist(&self, bytes: &Bytes, piece: usize) {
        let began = Instant::now();
        while !self.push_blob(bytes, piece).await {
            assert!(began.elapsed() < PATIENCE, "the pushes do not go on");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Pushes an image with this config until it is acknowledged.
    async fn insist_on_image(&self, tag: &str, config: &str) {
        self.insist(&Bytes::from(config.to_owned()), 1 << 20).await;
        let manifest = image(config.as_bytes()).to_bytes();
        self.tags.lock().unwrap().entry(tag.to_owned()).or_default().push(manifest.clone());
        let began = Instant::now();
        loop {
            let put = self.ask(Method::PUT, &format!("/v2/a/manifests/{tag}"));
            let put = put.header("content-type", media_type::OCI_MANIFEST).body(manifest.clone());
            if self.expect(put, 201).await.is_some() {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "the pushes do not go on");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.tags.lock().unwrap().insert(tag.to_owned(), vec![manifest]);
    }

    /// The bytes of a blob, when all of them come.
    async fn read(&self, digest: &Digest) -> Option<Bytes> {
        let answer = self.ask(Method::GET, &format!("/v2/a/blobs/{digest}")).send().await.unwrap();
        if answer.status() != 200 {
            come_again(answer).await;
            return None;
        }
        answer.bytes().await.ok()
    }

    /// An answer that does not ask to come again.
    async fn get(&self, path: &str) -> Response {
        let began = Instant::now();
        loop {
            let answer = self.ask(Method::GET, path).send().await.unwrap();
            if answer.status() != 503 {
                return answer;
            }
            come_again(answer).await;
            assert!(began.elapsed() < PATIENCE, "{path} is not served again");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Checks that what was acknowledged is there, and that of the rest nothing half is.
    async fn check(&self) {
        let blobs = self.blobs.lock().unwrap().clone();
        for (digest, (bytes, is_there)) in blobs {
            let answer = self.get(&format!("/v2/a/blobs/{digest}")).await;
            if answer.status() == 404 && !is_there {
                continue;
            }
            assert_eq!(answer.status(), 200, "{digest}, acknowledged: {is_there}");
            assert!(answer.bytes().await.unwrap() == bytes, "{digest} has other bytes");
        }
        let tags = self.tags.lock().unwrap().clone();
        for (tag, manifests) in tags {
            let answer = self.get(&format!("/v2/a/manifests/{tag}")).await;
            assert_eq!(answer.status(), 200, "{tag}");
            let digest = answer.headers()["docker-content-digest"].to_str().unwrap().to_owned();
            let found = answer.bytes().await.unwrap();
            assert!(manifests.iter().any(|one| *one == found), "{tag} has another manifest");
            assert_eq!(digest, Digest::sha256(&found).as_str());
        }
    }

    async fn ready(&self) -> (u16, String) {
        let answer = self.client.get(format!("{}/readyz", self.process.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn metric(&self, series: &str) -> u64 {
        let answer = self.client.get(format!("{}/metrics", self.process.url)).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("hyperregistry_{series} ")));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }
}

/// Checks that an error of the server is that of the protocol, and says when to come again.
async fn come_again(answer: Response) {
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    assert_eq!(status, 503, "{text}");
    let wait = headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["errors"][0]["code"], "UNAVAILABLE", "{text}");
    assert!(!text.contains(S3Server::KEYS[0]) && !text.contains("127.0.0.1"), "{text}");
}

fn location(answer: &Response) -> String {
    answer.headers()["location"].to_str().unwrap().to_owned()
}

/// A server on the shared database; nothing where PostgreSQL or S3 is missing.
async fn site(case: &str) -> Option<Site> {
    let bucket = given::<&S3Server>(case, S3Server::running())?;
    let database = given::<&PostgresServer>(case, PostgresServer::shared())?;
    Some(Site::start(bucket, &database.url(case)).await)
}

fn large(seed: u64) -> Bytes {
    Bytes::from(noise(seed, LARGE))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_answers_500_and_503_loses_nothing() {
    let Some(site) = site("faults 500 and 503").await else { return };
    let kept = large(1);
    site.insist(&kept, 9 << 20).await;
    for (seed, (status, code)) in [(500, "InternalError"), (503, "SlowDown")].into_iter().enumerate() {
        // Each request fails twice before it passes: no client learns of it.
        let tries = Mutex::new(HashMap::<String, u32>::new());
        site.set(move |method, target| {
            let mut tries = tries.lock().unwrap();
            let count = tries.entry(format!("{method} {target}")).or_default();
            *count += 1;
            if *count <= 2 { Act::Answer(status, code) } else { Act::Pass }
        });
        let told = site.told.load(Ordering::SeqCst);
        let bytes = large(10 + seed as u64);
        assert!(site.push_blob(&bytes, 9 << 20).await);
        assert!(site.read(&Digest::sha256(&kept)).await.unwrap() == kept);
        assert_eq!(site.told.load(Ordering::SeqCst), told);
        // Some requests fail for good: each kind of push is told so, and is done later.
        for (part, bytes) in [
            ("partNumber=", large(20 + seed as u64)),
            ("uploadId=", large(30 + seed as u64)),
            ("/blobs/", Bytes::from(noise(40 + seed as u64, 100_000))),
        ] {
            site.set(move |method, target| match method != "GET" && target.contains(part) {
                true => Act::Answer(status, code),
                false => Act::Pass,
            });
            assert!(!site.push_blob(&bytes, 9 << 20).await, "{part}");
            site.heal();
            site.check().await;
            site.insist(&bytes, 9 << 20).await;
        }
    }
    site.insist_on_image("last", "{}").await;
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_cut_on_the_way_to_the_bucket_and_back_are_never_taken_for_whole() {
    let Some(site) = site("faults cut bodies").await else { return };
    let bytes = large(2);
    let digest = Digest::sha256(&bytes);
    // Up: the first attempt of each request with a body loses its end.
    let tries = Mutex::new(HashMap::<String, u32>::new());
    site.set(move |method, target| {
        let mut tries = tries.lock().unwrap();
        let count = tries.entry(format!("{method} {target}")).or_default();
        *count += 1;
        if method == "PUT" && *count == 1 { Act::CutRequest(70_000) } else { Act::Pass }
    });
    site.insist(&bytes, 9 << 20).await;
    site.insist(&Bytes::from(noise(3, 300_000)), 1 << 20).await;
    site.heal();
    site.check().await;
    // Up, each time.
    site.set(|method, _| if method == "PUT" { Act::CutRequest(70_000) } else { Act::Pass });
    let other = Bytes::from(noise(4, 300_000));
    assert!(!site.push_blob(&other, 1 << 20).await);
    site.heal();
    site.check().await;
    // Down: it goes on where it broke.
    let is_blob = |method: &str, target: &str| method == "GET" && target.contains("/blobs/");
    let before = site.front.count("GET", "/blobs/");
    site.set(move |method, target| if is_blob(method, target) { Act::Cut(3_000_000) } else { Act::Pass });
    assert!(site.read(&digest).await.unwrap() == bytes);
    assert!(site.front.count("GET", "/blobs/") > before + 3, "nothing was cut");
    // Down, each time at once: no bytes, or an answer that ends too early.
    site.set(move |method, target| if is_blob(method, target) { Act::Cut(0) } else { Act::Pass });
    assert!(site.read(&digest).await.is_none());
    site.heal();
    site.insist(&other, 1 << 20).await;
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_the_bucket_to_the_end_of_an_upload_loses_nothing() {
    let Some(site) = site("faults lost completion").await else { return };
    for round in 0..3 {
        let lost = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lost);
        site.set(move |method, target| {
            let is_completion = method == "POST" && target.contains("uploadId=");
            // In the last round the object is made, and nobody ever says so.
            match is_completion && (count.fetch_add(1, Ordering::SeqCst) == 0 || round == 2) {
                true => Act::LoseAnswer,
                false => Act::Pass,
            }
        });
        let bytes = large(50 + round);
        site.push_blob(&bytes, 9 << 20).await;
        assert!(lost.load(Ordering::SeqCst) > 0, "no answer was lost");
        site.heal();
        site.check().await;
        site.insist(&bytes, 9 << 20).await;
        site.check().await;
    }
}

/// Passes bytes between a server and the database on a socket in `folder`. While it is armed, the database crashes before the
/// next commit gets there: in the middle of a transaction.
async fn relay(folder: PathBuf, database: Arc<PostgresServer>, crash: Arc<AtomicU8>) {
    let listener = tokio::net::UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    while let Ok((client, _)) = listener.accept().await {
        let upstream = tokio::net::UnixStream::connect(database.folder().join(".s.PGSQL.5432")).await;
        let Ok(upstream) = upstream else { continue };
        let (database, crash) = (Arc::clone(&database), Arc::clone(&crash));
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut bytes = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                let is_commit = bytes[..count].windows(6).any(|part| part == b"COMMIT");
                let order = Ordering::SeqCst;
                if is_commit && crash.compare_exchange(ARMED, CRASHING, order, order).is_ok() {
                    let stopped = tokio::task::spawn_blocking(move || database.stop());
                    stopped.await.unwrap().unwrap();
                    crash.store(CRASHED, order);
                    return;
                }
                if to_server.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_crashes_in_the_middle_of_transactions_loses_nothing() {
    let case = "faults of the database";
    let Some(bucket) = given::<&S3Server>(case, S3Server::running()) else { return };
    let database: Option<PostgresServer> = given(case, PostgresServer::start().unwrap());
    let Some(database) = database else { return };
    let (database, folder) = (Arc::new(database), tempfile::tempdir().unwrap());
    let crash = Arc::new(AtomicU8::new(CRASHED));
    let path = |path: &Path| path.display().to_string();
    let url = database.url("faults").replace(&path(database.folder()), &path(folder.path()));
    tokio::spawn(relay(folder.path().to_owned(), Arc::clone(&database), Arc::clone(&crash)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let site = Arc::new(Site::start(bucket, &url).await);
    site.insist_on_image("before", "{\"n\":0}").await;
    for round in 0..3 {
        crash.store(ARMED, Ordering::SeqCst);
        let pushes: Vec<_> = (0..6)
            .map(|pusher| {
                let site = Arc::clone(&site);
                tokio::spawn(async move {
                    for n in 0..4 {
                        // One writer a tag: who was last is not known otherwise.
                        let tag = format!("t{pusher}-{}", n % 2);
                        site.insist_on_image(&tag, &format!("{{\"n\":[{round},{pusher},{n}]}}")).await;
                    }
                })
            })
            .collect();
        while crash.load(Ordering::SeqCst) != CRASHED {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let back = Arc::clone(&database);
        tokio::task::spawn_blocking(move || back.up().unwrap()).await.unwrap();
        for push in pushes {
            push.await.unwrap();
        }
        site.check().await;
    }
    assert!(site.told.load(Ordering::SeqCst) >= 3, "a commit without an answer was taken for done");
    let (status, text) = site.ready().await;
    assert_eq!((status, text.as_str()), (200, "ok\nbucket: closed\ndatabase: closed\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_gone_for_a_time_is_left_alone_and_found_again() {
    let Some(site) = site("faults bucket gone").await else { return };
    let bytes = large(60);
    site.insist(&bytes, 9 << 20).await;
    site.insist_on_image("kept", "{\"kept\":true}").await;
    assert_eq!(site.ready().await.0, 200);
    assert_eq!(site.metric("breaker_state{dependency=\"bucket\"}").await, 0);
    site.check().await;

    site.set(|_, _| Act::Drop);
    let (new, began) = (Bytes::from(noise(61, 200_000)), Instant::now());
    while site.metric("breaker_state{dependency=\"bucket\"}").await == 0 {
        assert!(began.elapsed() < PATIENCE, "the breaker does not open");
        assert!(!site.push_blob(&new, 1 << 20).await);
        assert!(site.read(&Digest::sha256(&bytes)).await.is_none());
    }
    // Nobody waits for the bucket any more, and it is hardly asked.
    let (began, before) = (Instant::now(), site.front.count("PUT", "") + site.front.count("GET", ""));
    for _ in 0..20 {
        assert!(!site.push_blob(&new, 1 << 20).await);
        assert!(site.read(&Digest::sha256(&bytes)).await.is_none());
    }
    let (took, after) = (began.elapsed(), site.front.count("PUT", "") + site.front.count("GET", ""));
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(after - before < 20, "{} requests in {took:?}", after - before);
    assert!(site.metric("breaker_opened_total{dependency=\"bucket\"}").await == 1);
    assert!(site.metric("breaker_refused_total{dependency=\"bucket\"}").await > 0);
    let (status, text) = site.ready().await;
    assert_eq!(site.metric("ready").await, 0);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let detail = &json["errors"][0]["detail"];
    assert_eq!((status, &detail["database"]), (503, &"closed".into()), "{text}");
    assert!(["open", "half-open"].contains(&detail["bucket"].as_str().unwrap()), "{text}");
    // What the server knows without the bucket is served.
    let manifest = site.ask(Method::GET, "/v2/a/manifests/kept").send().await.unwrap();
    assert_eq!(manifest.status(), 200);
    let config = Digest::sha256("{\"kept\":true}");
    assert_eq!(site.read(&config).await.unwrap(), "{\"kept\":true}");

    site.heal();
    site.insist(&new, 1 << 20).await;
    site.insist_on_image("after", "{\"after\":true}").await;
    site.check().await;
    assert_eq!(site.metric("breaker_state{dependency=\"bucket\"}").await, 0);
    // The result of a probe is good for a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(site.ready().await, (200, "ok\nbucket: closed\ndatabase: closed\n".to_owned()));
}
