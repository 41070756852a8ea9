//! PostgreSQL: restarts, several servers on one database, what a lost answer says.

use crate::breaker::{Breaker, BreakerState, is_refusal};
use crate::oci::{ImageIndex, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::blob::MemoryBlobs;
use crate::store::meta::{MetaBackend as _, PostgresOptions, SqlMeta};
use crate::store::wrap::{CacheOptions, Cached};
use crate::store::{Composed, DiskStore, PutManifest, RegistryStore, RegistryStoreExt as _, SharedStore};
use crate::testing::{PostgresServer, given};
use crate::{ErrorKind, Result, media_type};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The server that the tests share; says that the test is skipped where there is none.
pub(in crate::store) fn server(test: &str) -> Option<&'static PostgresServer> {
    given(test, PostgresServer::shared())
}

/// The metadata backend of a test, named by its folder.
pub(super) async fn meta(folder: &Path) -> Option<SqlMeta> {
    let name = folder.parent()?.file_name()?.to_str()?.to_owned();
    Some(connect(&PostgresServer::shared()?.url(&name)).await)
}

pub(in crate::store) async fn connect(url: &str) -> SqlMeta {
    SqlMeta::connect(PostgresOptions::parse(url).unwrap().connections(4)).await.unwrap()
}

type Pair = Composed<MemoryBlobs, SqlMeta>;

async fn store(url: &str, blobs: &MemoryBlobs) -> Pair {
    Composed::new(blobs.clone(), connect(url).await)
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn index(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

async fn tag(store: &dyn RegistryStore, text: &str) -> Result<()> {
    store.put_manifest(&name("a"), PutManifest::new(index(text), [Tag::latest()])).await.map(drop)
}

/// Pushes go on while the server crashes and starts again: each one succeeds, or is told that the database is not available,
/// and nothing that succeeded is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_database_loses_nothing_that_was_acknowledged() {
    let server: Option<PostgresServer> = given("a crash of PostgreSQL", PostgresServer::start().unwrap());
    let Some(server) = server else { return };
    let (url, server) = (server.url("crash"), Arc::new(server));
    let blobs = MemoryBlobs::default();
    let store = Arc::new(store(&url, &blobs).await);

    // Changes that wait together share a commit.
    let transactions = || server.sql("postgres", "SELECT txid_current()").trim().parse::<u64>().unwrap();
    let before = transactions();
    let puts = (0..200).map(|n| {
        let store = Arc::clone(&store);
        async move { store.put_manifest(&name("together"), PutManifest::new(index(&n.to_string()), [])).await }
    });
    futures::future::try_join_all(puts).await.unwrap();
    let used = transactions() - before;
    assert!(used <= 40, "200 changes took {used} transactions");

    let over = Arc::new(AtomicBool::new(false));
    let pushers: Vec<_> = (0..6)
        .map(|pusher| {
            let (store, over) = (Arc::clone(&store), Arc::clone(&over));
            tokio::spawn(async move {
                let (mut done, mut failed) = (Vec::new(), 0);
                for round in 0.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let text = format!("{pusher} {round}");
                    let put =
                        PutManifest::new(index(&text), [Tag::parse(&format!("t{pusher}-{round}")).unwrap()]);
                    match store.put_manifest(&name("crash"), put).await {
                        Ok(descriptor) => done.push((round, descriptor.digest)),
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
                            failed += 1;
                        }
                    }
                }
                (pusher, done, failed)
            })
        })
        .collect();
    let crashing = Arc::clone(&server);
    tokio::task::spawn_blocking(move || {
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            crashing.stop().unwrap();
            crashing.up().unwrap();
        }
        std::thread::sleep(Duration::from_millis(400));
    })
    .await
    .unwrap();
    over.store(true, Ordering::SeqCst);
    let fresh = self::store(&url, &blobs).await;
    let mut count = 0;
    for pusher in pushers {
        let (pusher, done, _) = pusher.await.unwrap();
        for (round, digest) in done {
            let tag = Tag::parse(&format!("t{pusher}-{round}")).unwrap();
            assert_eq!(*fresh.get_manifest(&name("crash"), &tag.into()).await.unwrap().digest(), digest);
            count += 1;
        }
    }
    assert!(count > 20, "only {count} pushes were acknowledged");

    // A cache does not answer for a database that is down.
    let cached = Cached::new(Arc::clone(&store) as SharedStore, CacheOptions::default());
    tag(&cached, "before").await.unwrap();
    for _ in 0..2 {
        cached.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap();
    }
    assert_eq!(cached.statistics().hits, 1);
    server.stop().unwrap();
    let e = cached.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    let e = tag(&cached, "during").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    server.up().unwrap();
    tag(&cached, "after").await.unwrap();
    assert_eq!(cached.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap(), index("after"));
}

/// While the database is away for long, requests fail without waiting; when it is back, it is found without help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_answer_is_left_alone_and_found_again() {
    let server: Option<PostgresServer> =
        given("a database that does not answer", PostgresServer::start().unwrap());
    let Some(server) = server else { return };
    let blobs = MemoryBlobs::default();
    let store = Arc::new(store(&server.url("breaker"), &blobs).await);
    tag(&*store, "before").await.unwrap();
    let [breaker] = &store.breakers()[..] else { panic!("there is one breaker: the blobs are here") };
    // Refusals, and what is not there, are answers.
    for _ in 0..5 {
        let missing = store.get_manifest(&name("none"), &Tag::latest().into()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::ManifestUnknown);
    }
    server.stop().unwrap();
    let began = std::time::Instant::now();
    while breaker.state() == BreakerState::Closed {
        assert!(began.elapsed() < Duration::from_secs(60), "the breaker does not open");
        let e = store.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "a short restart would open it");
    let refused = async || {
        let began = std::time::Instant::now();
        let read = store.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap_err();
        let written = tag(&*store, "during").await.unwrap_err();
        let is_refused = is_refusal(&read) && is_refusal(&written) && written.retry_after().is_some();
        is_refused && began.elapsed() < Duration::from_millis(200)
    };
    assert!(refused().await);
    assert_eq!(store.fetch_version().await, None);
    server.up().unwrap();
    let began = std::time::Instant::now();
    while tag(&*store, "after").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "the database is not found again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(store.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap(), index("after"));
}

/// Which answer a [`relay`] loses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    /// The commit arrives, and its answer does not.
    Answer,
    /// The commit does not arrive.
    Commit,
    /// No change is answered, and no connection ends.
    All,
}

/// Passes bytes between clients on a socket in `folder` and the server. While `lose` says so, a connection ends at its next
/// commit.
async fn relay(folder: PathBuf, server: PathBuf, lose: Arc<std::sync::Mutex<Option<Lost>>>) {
    let listener = tokio::net::UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(upstream) = tokio::net::UnixStream::connect(server.join(".s.PGSQL.5432")).await else {
            continue;
        };
        let lose = Arc::clone(&lose);
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            let answers =
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                let sent = &bytes[..count];
                let has = |text: &[u8]| sent.windows(text.len()).any(|part| part == text);
                let commits = has(b"COMMIT");
                if has(b"SET kept_version") && *lose.lock().unwrap() == Some(Lost::All) {
                    std::future::pending::<()>().await;
                }
                let lost = if commits { lose.lock().unwrap().take() } else { None };
                if let Some(lost) = lost {
                    answers.abort();
                    let _ = answers.await;
                    if lost == Lost::Commit {
                        return;
                    }
                    to_server.write_all(sent).await.unwrap();
                    // The client may know that the connection is gone before the server has done it.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return;
                }
                if to_server.write_all(sent).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A commit without an answer is never a success, whether it was done or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_a_commit_is_no_success() {
    let Some(server) = server("a lost answer of a commit") else { return };
    let (folder, direct) = (tempfile::tempdir().unwrap(), server.url("lost answer"));
    let lose = Arc::new(std::sync::Mutex::new(None));
    tokio::spawn(relay(folder.path().to_owned(), server.folder().to_owned(), Arc::clone(&lose)));
    let direct = store(&direct, &MemoryBlobs::default()).await;
    let through = server
        .url("lost answer")
        .replace(&server.folder().display().to_string(), &folder.path().display().to_string());
    // The relay listens a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let relayed = store(&through, &MemoryBlobs::default()).await;
    for lost in [Lost::Answer, Lost::Commit, Lost::Answer] {
        tag(&relayed, "before").await.unwrap();
        *lose.lock().unwrap() = Some(lost);
        let error = tag(&relayed, "lost").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("may have been made"), "{error}");
        let wanted = index(if lost == Lost::Answer { "lost" } else { "before" });
        let mut now = direct.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap();
        for _ in 0..500 {
            if now == wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            now = direct.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap();
        }
        assert_eq!(now, wanted, "{lost:?}");
        tag(&relayed, "again").await.unwrap();
    }
}

/// Asks until a dependency is left alone.
async fn until_open(breaker: &Breaker, ask: impl AsyncFn()) {
    let began = std::time::Instant::now();
    while breaker.state() == BreakerState::Closed {
        assert!(began.elapsed() < Duration::from_secs(60), "the breaker does not open");
        ask().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A change that finds out whether the database answers again may take long. The others are refused at once, and not in a row
/// behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_waits_behind_the_one_that_tries_the_database() {
    let server: Option<PostgresServer> = given("a database that hangs", PostgresServer::start().unwrap());
    let Some(server) = server else { return };
    let (folder, lose) = (tempfile::tempdir().unwrap(), Arc::new(std::sync::Mutex::new(None)));
    let url = server.url("hangs");
    let through = url.replace(&server.folder().display().to_string(), &folder.path().display().to_string());
    tokio::spawn(relay(folder.path().to_owned(), server.folder().to_owned(), Arc::clone(&lose)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let store = Arc::new(store(&through, &MemoryBlobs::default()).await);
    let [breaker] = &store.breakers()[..] else { panic!("there is one breaker") };
    server.stop().unwrap();
    until_open(breaker, async || drop(tag(&*store, "away").await)).await;
    *lose.lock().unwrap() = Some(Lost::All);
    server.up().unwrap();
    while !breaker.is_passable() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (trying, tried) = (Arc::clone(&store), tokio::time::Instant::now());
    let probe = tokio::spawn(async move { tag(&*trying, "probe").await });
    // Once the breaker would let the next one through.
    tokio::time::sleep_until(tried + Duration::from_millis(5500)).await;
    assert!(!probe.is_finished() && breaker.is_passable());
    for n in 0..5 {
        let change = tokio::time::timeout(Duration::from_secs(1), tag(&*store, &n.to_string())).await;
        let error = change.expect("it waits").unwrap_err();
        assert!(is_refusal(&error) && error.retry_after().is_some(), "{error}");
    }
    probe.abort();
}

/// What is asked outside of changes and of the reads of clients is an answer, too; and whatever was in the place of the registry
/// before, a database that is away is only away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_question_says_whether_the_database_answers() {
    let server: Option<PostgresServer> = given("questions to a database", PostgresServer::start().unwrap());
    let Some(server) = server else { return };
    let (url, blobs) = (server.database(), MemoryBlobs::default());
    let meta = connect(&url).await;
    let pair = Composed::new(blobs, meta.clone());
    let [breaker] = &pair.breakers()[..] else { panic!("there is one breaker") };
    meta.keep_blobs_at("here").await.unwrap();
    server.stop().unwrap();
    until_open(breaker, async || drop(meta.blobs_kept_at().await)).await;
    server.up().unwrap();
    let began = std::time::Instant::now();
    while meta.blobs_kept_at().await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "the database is not found again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(breaker.state(), BreakerState::Closed);

    let (_, rest) = url.split_once("localhost/").unwrap();
    let (database, _) = rest.split_once('?').unwrap();
    server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
    server.sql("postgres", &format!("CREATE DATABASE {database}"));
    // The connections of before end first, and while the database was not tried again the last error is told.
    let until_told = async |is_replaced: bool| {
        let began = std::time::Instant::now();
        loop {
            let error = meta.blobs_kept_at().await.unwrap_err();
            if !is_refusal(&error) && error.to_string().contains("was replaced") == is_replaced {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until_told(true).await;
    server.stop().unwrap();
    until_told(false).await;
}

/// What one server changed, the other sees at once, although both have a cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_one_registry() {
    let Some(server) = server("two servers on one database") else { return };
    let (url, blobs) = (server.url("two servers"), MemoryBlobs::default());
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(Cached::new(Arc::new(store(&url, &blobs).await), CacheOptions::default()));
    }
    let reference: ManifestReference = Tag::latest().into();
    for round in 0..30 {
        let (one, other) = (&servers[round % 2], &servers[(round + 1) % 2]);
        let manifest = index(&round.to_string());
        one.put_manifest(&name("a"), PutManifest::new(manifest.clone(), [Tag::latest()])).await.unwrap();
        let blob = one.put_bytes(&name("a"), "x/y", format!("blob {round}").into()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(other.get_manifest(&name("a"), &reference).await.unwrap(), manifest, "round {round}");
            assert_eq!(
                other.read_blob(&name("a"), &blob.digest, 100).await.unwrap(),
                format!("blob {round}")
            );
        }
        one.delete_manifest(&name("a"), &reference).await.unwrap();
        one.delete_blob(&name("a"), &blob.digest).await.unwrap();
        let e = other.get_manifest(&name("a"), &reference).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ManifestUnknown);
        let e = other.read_blob(&name("a"), &blob.digest, 100).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BlobUnknown);
    }
    for server in &servers {
        assert!(server.statistics().hits >= 60, "{:?}", server.statistics());
        // An upload changes nothing that a reader sees, so the cache stays.
        tag(server, "stays").await.unwrap();
        let before = server.fetch_version().await.unwrap();
        let upload = server.start_upload(&name("a"), Default::default()).await.unwrap();
        upload.abort().await.unwrap();
        assert_eq!(server.fetch_version().await.unwrap(), before);
    }
}

/// A server whose database is dropped, and made anew with another registry, neither reads that one nor writes to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_does_not_go_on_with_another_registry_in_the_place_of_its_own() {
    let Some(server) = server("a database that is replaced") else { return };
    let (url, blobs) = (server.database(), MemoryBlobs::default());
    let (_, rest) = url.split_once("localhost/").unwrap();
    let (database, _) = rest.split_once('?').unwrap();
    let old = store(&url, &blobs).await;
    tag(&old, "old").await.unwrap();
    server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
    server.sql("postgres", &format!("CREATE DATABASE {database}"));
    let ask = async |what: &str| {
        let reference: ManifestReference = Tag::latest().into();
        let read = old.get_manifest(&name("a"), &reference).await.map(drop);
        [read.expect_err(what), tag(&old, what).await.expect_err(what)]
    };
    for e in ask("an empty database").await {
        assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("was replaced"), "{e:#}");
    }
    let new = store(&url, &blobs).await;
    tag(&new, "new").await.unwrap();
    for _ in 0..5 {
        for e in ask("another registry").await {
            assert_eq!(e.kind(), ErrorKind::Unavailable, "{e:#}");
        }
    }
    let kept = new.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap();
    assert_eq!(kept, index("new"));
}

/// A counter with a condition, raised by many tasks at two servers: no update is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_between_servers() {
    let Some(server) = server("conditions between servers") else { return };
    let (url, blobs) = (server.url("conditions"), MemoryBlobs::default());
    let servers = [store(&url, &blobs).await, store(&url, &blobs).await];
    tag(&servers[0], "0").await.unwrap();
    let tasks = (0..8).map(|task| {
        let store = servers[task % 2].clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < 5 {
                let now = store.get_manifest(&name("a"), &Tag::latest().into()).await.unwrap();
                let number: u32 = now.annotations()["text"].parse().unwrap();
                let put = PutManifest::new(index(&(number + 1).to_string()), [Tag::latest()]);
                let put = PutManifest { if_match: Some(Some(now.digest().clone())), ..put };
                match store.put_manifest(&name("a"), put).await {
                    Ok(_) => done += 1,
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{e}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let now = servers[1].get_manifest(&name("a"), &Tag::latest().into()).await.unwrap();
    assert_eq!(now, index("40"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_together_migrate_once() {
    let Some(server) = server("migrations on PostgreSQL") else { return };
    let url = server.database();
    let starts = (0..6).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { connect(&url).await.registry_id().unwrap().to_owned() })
    });
    let ids = futures::future::try_join_all(starts.collect::<Vec<_>>()).await.unwrap();
    assert!(ids.iter().all(|id| *id == ids[0] && id.len() == 32), "{ids:?}");
    let database = url.split(['/', '?']).nth(3).unwrap();
    assert_eq!(server.sql(database, "SELECT count(*), max(version) FROM schema_version").trim(), "15|15");
    server.sql(database, "INSERT INTO schema_version VALUES (99, 0)");
    let e = SqlMeta::connect(PostgresOptions::parse(&url).unwrap()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("use a newer version"), "{e}");
}

/// The rights that the page for operators names are enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_the_right_to_create_tables_is_enough_later() {
    let Some(server) = server("a user of PostgreSQL") else { return };
    let url = server.database();
    drop(connect(&url).await);
    let database = url.split(['/', '?']).nth(3).unwrap();
    server.sql(
        database,
        "CREATE ROLE registry_user LOGIN; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO registry_user",
    );
    let meta = connect(&url.replace("//postgres@", "//registry_user@")).await;
    let store = Composed::new(MemoryBlobs::default(), meta);
    tag(&store, "1").await.unwrap();
    let missing = url.replace(&format!("/{database}?"), "/absent?");
    let e = SqlMeta::connect(PostgresOptions::parse(&missing).unwrap()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("does not exist"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_the_database_cannot_store_is_an_invalid_manifest() {
    let Some(server) = server("a NUL character in a manifest") else { return };
    let store = store(&server.url("nul"), &MemoryBlobs::default()).await;
    let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","artifactType":"a/\u0000","manifests":[]}"#;
    let put = PutManifest::new(Manifest::parse(text.as_bytes().to_vec(), media_type::OCI_INDEX).unwrap(), []);
    let (a, b) = (name("a"), name("b"));
    let together = futures::future::join3(
        tag(&store, "1"),
        store.put_manifest(&a, put),
        store.put_manifest(&b, PutManifest::new(index("2"), [])),
    );
    let (one, other, two) = together.await;
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(other.unwrap_err().kind(), ErrorKind::ManifestInvalid);
}

#[tokio::test]
async fn a_database_that_does_not_wait_for_its_disk_is_not_durable() {
    let Some(server) = server("durability of PostgreSQL") else { return };
    let url = server.url("durable");
    assert!(connect(&url).await.durable());
    assert!(!connect(&format!("{url}%20-c%20synchronous_commit%3Doff")).await.durable());
}

/// The blobs of a folder are those of one registry: a collector would remove the blobs of another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_belongs_to_one_database() {
    let Some(server) = server("folders of PostgreSQL") else { return };
    let (one, other) = (server.url("folder one"), server.url("folder other"));
    let folder = tempfile::tempdir().unwrap();
    let (ours, sqlite) = (folder.path().join("ours"), folder.path().join("sqlite"));
    let open = async |root: &Path, url: &str| {
        DiskStore::open_on(root, PostgresOptions::parse(url).unwrap(), None).await.map(drop)
    };
    for _ in 0..2 {
        open(&ours, &one).await.unwrap();
    }
    let e = open(&ours, &other).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.message().contains("another database"), "{e}");
    let e = DiskStore::open(&ours).await.map(drop).unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.message().contains("PostgreSQL"), "{e}");
    drop(DiskStore::open(&sqlite).await.unwrap());
    let e = open(&sqlite, &one).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.message().contains("hyper.db"), "{e}");
}

/// A server that was told another place would not find the blobs of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_blobs_of_a_database_are_at_one_place() {
    let Some(server) = server("the place of blobs") else { return };
    let (url, folder) = (server.url("place"), tempfile::tempdir().unwrap());
    let (one, two) = (connect(&url).await, connect(&url).await);
    let (first, second) = tokio::join!(one.keep_blobs_at("s3://a/b"), two.keep_blobs_at("s3://a/b"));
    first.and(second).unwrap();
    let e = one.keep_blobs_at("s3://a/c").await.unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.to_string().contains("s3://a/b"), "{e}");
    let options = PostgresOptions::parse(&url).unwrap();
    let e = DiskStore::open_on(folder.path(), options, None).await.map(drop).unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.to_string().contains("at another place"), "{e}");
    // The folder is that of nobody: a registry of its own may begin there.
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "the folder was taken");
    drop(DiskStore::open(folder.path()).await.unwrap());
    let secret = |meta: &SqlMeta| meta.registry_secret().unwrap().expose().to_owned();
    assert_eq!(secret(&one), secret(&two));
    assert_eq!(secret(&one).len(), 64);
    assert!(!format!("{one:?}").contains(&secret(&one)));
    let other = connect(&server.database()).await;
    assert_ne!(secret(&one), secret(&other));
}
