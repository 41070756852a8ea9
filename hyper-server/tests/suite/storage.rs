//! What the disk does to a registry: it is full, read-only, or lost a file; and what uploads leave on it.

use super::support::{Api, image, noise};
use axum::body::Body;
use hyper_sdk::store::{DiskStore, MemoryStore, PutManifest, RegistryStoreExt as _, SharedStore};
use hyper_sdk::testing::FrozenClock;
use hyper_sdk::{Digest, RepositoryName, media_type};
use hyper_server::{GarbageCollection, Registry, RegistryOptions, Server, ServerOptions};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

async fn registry(folder: &Path) -> Api {
    Api { registry: Registry::new(open(folder).await, RegistryOptions::default()).unwrap() }
}

async fn open(folder: &Path) -> SharedStore {
    Arc::new(DiskStore::open(folder).await.unwrap())
}

fn file(folder: &Path, digest: &Digest) -> std::path::PathBuf {
    folder.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

/// Every way to push a blob, each of which must mend it.
async fn push(api: &Api, way: usize, content: &[u8]) {
    let digest = Digest::sha256(content);
    let location = match way {
        0 => {
            api.blob("a", content).await;
            return;
        }
        _ => api.post("/v2/a/blobs/uploads/").await.expect(202).header("location").to_owned(),
    };
    let (first, rest) = if way == 1 { (&content[..0], content) } else { content.split_at(content.len() / 2) };
    if !first.is_empty() {
        api.request("PATCH", &location, &[], first.to_vec()).await.expect(202);
    }
    api.request("PUT", &format!("{location}?digest={digest}"), &[], rest.to_vec()).await.expect(201);
}

#[tokio::test]
async fn a_blob_whose_file_is_lost_is_404_until_a_push_repairs_it() {
    let dir = tempfile::tempdir().unwrap();
    let api = registry(dir.path()).await;
    for (n, size) in [20usize, 20_000, 1_500_000].into_iter().enumerate() {
        for way in 0..3 {
            let content = noise((10 * n + way) as u64, size);
            let digest = api.blob("a", &content).await;
            let path = format!("/v2/a/blobs/{digest}");
            let manifest = image(&content).to_bytes();
            for cut in [None, Some(0), Some(size as u64 / 2)] {
                for cached in [false, true] {
                    if cached {
                        api.get(&path).await.expect(200);
                    }
                    let stored = file(dir.path(), &digest);
                    match cut {
                        None => std::fs::remove_file(&stored).unwrap(),
                        Some(length) => std::fs::File::options()
                            .write(true)
                            .open(&stored)
                            .and_then(|f| f.set_len(length))
                            .unwrap(),
                    }
                    // What is in memory does not outlive the file.
                    let range = [("range", "bytes=0-1")];
                    api.request("GET", &path, &range, "").await.refused(404, "BLOB_UNKNOWN");
                    api.get(&path).await.refused(404, "BLOB_UNKNOWN");
                    api.head(&path).await.expect(404);
                    for from in ["&from=a", ""] {
                        api.post(&format!("/v2/b/blobs/uploads/?mount={digest}{from}")).await.expect(202);
                    }
                    api.manifest("a", "x", media_type::OCI_MANIFEST, &manifest)
                        .await
                        .refused(400, "MANIFEST_BLOB_UNKNOWN");
                    push(&api, way, &content).await;
                    api.head(&path).await.expect(200);
                    assert_eq!(api.get(&path).await.expect(200).body, content);
                    api.manifest("a", "x", media_type::OCI_MANIFEST, &manifest).await.expect(201);
                }
            }
        }
    }
}

#[tokio::test]
async fn wrong_bytes_are_not_cached_and_replaced_by_a_push() {
    let dir = tempfile::tempdir().unwrap();
    let api = registry(dir.path()).await;
    let content = noise(1, 5000);
    let digest = api.blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let stored = file(dir.path(), &digest);
    let mut wrong = content.clone();
    wrong[17] ^= 1;
    std::fs::write(&stored, &wrong).unwrap();
    api.get(&path).await.refused(404, "BLOB_UNKNOWN");
    for way in 0..3 {
        std::fs::write(&stored, &wrong).unwrap();
        push(&api, way, &content).await;
        assert_eq!(api.get(&path).await.expect(200).body, content, "{way}");
        api.delete(&path).await.expect(202);
        push(&api, way, &content).await;
    }
}

#[tokio::test]
async fn a_push_repairs_a_damaged_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let api = registry(dir.path()).await;
    let (bytes, digest) = api.image("a", "t", b"{}").await;
    let wrong = String::from_utf8(bytes.clone()).unwrap().replace("schemaVersion\":2", "schemaVersion\":3");
    let script = format!(
        "import sqlite3,sys\nd=sqlite3.connect(sys.argv[1])\nd.execute('update manifests set body=?',(bytes.fromhex('{}'),))\nd.commit()",
        wrong.bytes().map(|b| format!("{b:02x}")).collect::<String>()
    );
    let python = Command::new("python3").args(["-c", &script]).arg(dir.path().join("hyper.db")).status();
    if !python.is_ok_and(|status| status.success()) {
        println!("SKIPPED: the database is damaged by a Python program, and there is no Python");
        return;
    }
    for reference in ["t".to_owned(), digest.to_string()] {
        let path = format!("/v2/a/manifests/{reference}");
        api.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
        api.head(&path).await.expect(404);
    }
    api.manifest("a", "t", media_type::OCI_MANIFEST, &bytes).await.expect(201);
    assert_eq!(api.get(&format!("/v2/a/manifests/{digest}")).await.expect(200).body, bytes);
}

/// A small file system, which goes with the value.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "none"]).arg(dir.path()).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(dir));
        }
        println!("SKIPPED: a small file system needs the right to mount");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Mounts the disk anew. It is busy as long as a process that another test started just now has inherited a file that
    /// was open for writing.
    fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        let mut remount = Command::new("mount");
        remount.args(["-o", &how]).arg(self.path());
        for _ in 0..500 {
            if remount.output().unwrap().status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the disk stays busy: {:?}", remount.output());
    }

    fn fill(&self) {
        let block = vec![0; 64 << 10];
        let mut filler = std::fs::File::create(self.path().join("filler")).unwrap();
        for size in [block.len(), 1] {
            while std::io::Write::write_all(&mut filler, &block[..size]).is_ok() {}
        }
    }

    /// Gives the space back. A process that another test starts just now may have inherited the file, and would keep the
    /// space of one that is only removed.
    fn empty(&self) {
        let filler = self.path().join("filler");
        std::fs::File::options().write(true).open(&filler).and_then(|file| file.set_len(0)).unwrap();
        std::fs::remove_file(filler).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_returns_507_until_there_is_space() {
    let Some(disk) = Disk::new() else { return };
    let api = registry(disk.path()).await;
    let digest = api.blob("a", b"before").await;
    api.image("a", "before", b"{}").await;
    api.get("/readyz").await.expect(200);
    for round in 0..3u64 {
        disk.fill();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let reply = api.get("/readyz").await.refused(503, "UNAVAILABLE");
        assert_eq!(reply.header("retry-after"), "1");
        api.get("/livez").await.expect(200);
        api.get(&format!("/v2/a/blobs/{digest}")).await.expect(200);
        api.get("/v2/a/manifests/before").await.expect(200);
        for size in [1000usize, 300_000, 2_000_000] {
            let content = noise(round * 10 + size as u64, size);
            let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(&content));
            let reply = api.request("POST", &path, &[], content.clone()).await;
            assert!(reply.refused(507, "STORAGE_FULL").text().contains("no space left"));
            let chunks =
                content.chunks(100_000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>();
            let body = Body::from_stream(futures::stream::iter(chunks));
            api.request("POST", &path, &[], body).await.refused(507, "STORAGE_FULL");
        }
        assert_eq!(std::fs::read_dir(disk.path().join("uploads")).unwrap().count(), 0);
        disk.empty();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        api.get("/readyz").await.expect(200);
        let content = noise(round, 2_000_000);
        push(&api, 2, &content).await;
        api.image("a", &format!("after-{round}"), format!("{{\"n\":{round}}}").as_bytes()).await;
    }
    // The session that fills the disk ends, and its space is there again for others.
    let location = api.post("/v2/a/blobs/uploads/").await.expect(202).header("location").to_owned();
    api.request("PATCH", &location, &[], noise(9, 1_000_000)).await.expect(202);
    api.request("PATCH", &location, &[], noise(9, 12_000_000)).await.refused(507, "STORAGE_FULL");
    api.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(std::fs::read_dir(disk.path().join("uploads")).unwrap().count(), 0);
    push(&api, 2, &noise(10, 2_000_000)).await;
}

#[tokio::test]
async fn a_store_on_a_read_only_file_system_is_served() {
    let Some(disk) = Disk::new() else { return };
    let store = open(disk.path()).await;
    let writer = Api { registry: Registry::new(store.clone(), RegistryOptions::default()).unwrap() };
    let (bytes, digest) = writer.image("a", "t", b"{}").await;
    drop((writer, store));
    // The last connection takes its log along when it is closed.
    for _ in 0..200 {
        if !disk.path().join("hyper.db-wal").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    disk.remount("ro");
    let store = open(disk.path()).await;
    assert!(!store.capabilities().write);
    for read_only in [true, false] {
        let options = RegistryOptions {
            read_only,
            token_key: Some(disk.path().join("token.key")),
            ..RegistryOptions::default()
        };
        let api = Api { registry: Registry::new(store.clone(), options).unwrap() };
        for _ in 0..2 {
            for reference in ["t", digest.as_str()] {
                let reply = api.get(&format!("/v2/a/manifests/{reference}")).await.expect(200);
                assert_eq!(reply.body, bytes);
            }
            api.get(&format!("/v2/a/blobs/{}", Digest::sha256("{}"))).await.expect(200);
        }
        api.get("/readyz").await.expect(200);
        api.post("/v2/a/blobs/uploads/").await.refused(405, "UNSUPPORTED");
        api.delete("/v2/a/manifests/t").await.refused(405, "UNSUPPORTED");
    }
    let program = |more: &[&str]| {
        Command::new("timeout")
            .args(["3", env!("CARGO_BIN_EXE_hyperregistry"), "serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(disk.path())
            .args(more)
            .output()
            .unwrap()
    };
    let refused = program(&[]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && text.contains("--read-only"), "{text}");
    let served = program(&["--read-only"]);
    assert!(String::from_utf8_lossy(&served.stdout).contains("listens on"), "{served:?}");
}

/// A second mount that is read-only says nothing of the first.
#[tokio::test]
async fn a_read_only_mount_shows_what_another_server_writes() {
    let Some(disk) = Disk::new() else { return };
    let writer = registry(disk.path()).await;
    writer.image("a", "t", b"{}").await;
    let second = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        assert!(Command::new("mount").args(args).arg(second.path()).status().unwrap().success());
    };
    mount(&["--bind", disk.path().to_str().unwrap()]);
    mount(&["-o", "remount,bind,ro"]);
    let unmount = scopeguard(second.path());
    let reader = registry(second.path()).await;
    assert!(!reader.registry.store().capabilities().write);
    for n in 0..5 {
        let (bytes, _) = writer.image("a", "t", format!("{{\"n\":{n}}}").as_bytes()).await;
        for _ in 0..2 {
            assert_eq!(reader.get("/v2/a/manifests/t").await.expect(200).body, bytes, "{n}");
        }
    }
    drop((reader, unmount));
}

/// Unmounts a folder when it is dropped.
fn scopeguard(folder: &Path) -> impl Drop {
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    Unmount(folder.to_owned())
}

/// Whoever sends everything in one request cannot go on with it after a break.
#[tokio::test]
async fn an_upload_in_one_request_leaves_nothing_when_its_client_disconnects() {
    let dir = tempfile::tempdir().unwrap();
    let api = registry(dir.path()).await;
    let (send, receive) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = Body::from_stream(futures::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|block| (block, receive))
    }));
    let registry = api.registry.clone();
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256("x"));
    let request = http::Request::post(path).body(body).unwrap();
    let post = tokio::spawn(async move { registry.handle(request).await });
    let staged = || std::fs::read_dir(dir.path().join("uploads")).unwrap().count();
    for _ in 0..4 {
        send.send(Ok(vec![7; 1 << 20])).await.unwrap();
    }
    while staged() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    post.abort();
    drop(send);
    for _ in 0..500 {
        if staged() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(staged(), 0);
}

#[tokio::test]
async fn a_server_with_users_starts_without_a_writable_key_file() {
    let Some(disk) = Disk::new() else { return };
    let users = super::access::users();
    let key = disk.path().join("token.key");
    let start = || {
        let options =
            RegistryOptions { token_key: Some(key.clone()), ..super::access::options(Some(&users), None) };
        Registry::new(super::support::memory(), options).unwrap();
    };
    disk.fill();
    start();
    disk.empty();
    start();
    assert_eq!(std::fs::metadata(&key).unwrap().len(), 32);
    // A key that cannot be replaced is not used, and no reason to serve nothing.
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    disk.remount("ro");
    start();
}

/// What no manifest references goes a day after a client was told of it last: by a push or by the answer to HEAD.
#[tokio::test]
async fn a_running_server_removes_what_nothing_keeps() {
    let clock = Arc::new(FrozenClock::default());
    let store: SharedStore = Arc::new(MemoryStore::default().with_clock(clock.clone()));
    let collection = GarbageCollection { every: Duration::from_millis(20), untagged_after: None };
    let options = RegistryOptions { garbage_collection: Some(collection), ..RegistryOptions::default() };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(store.clone(), address, options, ServerOptions::default()).await.unwrap();
    let name = RepositoryName::parse("a").unwrap();
    let config = store.put_bytes(&name, media_type::OCI_CONFIG, "{}".into()).await.unwrap().digest;
    let kept = hyper_sdk::oci::Manifest::sniff(image(b"{}").to_bytes()).unwrap();
    store.put_manifest(&name, PutManifest::new(kept, [])).await.unwrap();
    let [loose, asked] = ["loose", "asked"].map(Digest::sha256);
    for (digest, text) in [(&loose, "loose"), (&asked, "asked")] {
        store.put_blob(&name, digest, text.into()).await.unwrap();
    }
    clock.advance(20 * 60 * 60);
    let client = reqwest::Client::new();
    let head = client.head(format!("{}/v2/a/blobs/{asked}", server.url())).send().await.unwrap();
    assert_eq!(head.status(), 200);
    clock.advance(10 * 60 * 60);
    let mut is_gone = false;
    for _ in 0..500 {
        is_gone = !store.has_blob(&name, &loose).await.unwrap();
        if is_gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_gone, "the blob is still there");
    for digest in [&config, &asked] {
        assert!(store.has_blob(&name, digest).await.unwrap(), "{digest} was removed");
    }
    let mut metrics = String::new();
    for _ in 0..500 {
        metrics = client.get(format!("{}/metrics", server.url())).send().await.unwrap().text().await.unwrap();
        if metrics.contains("\nhyperregistry_gc_blobs_total 1\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(metrics.contains("\nhyperregistry_gc_bytes_total 5\n"), "{metrics}");
}

#[tokio::test]
async fn a_running_server_removes_expired_uploads() {
    let dir = tempfile::tempdir().unwrap();
    let store: SharedStore = Arc::new(DiskStore::open_with(dir.path(), None).await.unwrap());
    let options =
        RegistryOptions { upload_max_age: Some(Duration::from_secs(1)), ..RegistryOptions::default() };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(store, address, options, ServerOptions::default()).await.unwrap();
    let client = reqwest::Client::new();
    let mut locations = Vec::new();
    for bytes in [0, 500_000] {
        let start = client.post(format!("{}/v2/a/blobs/uploads/", server.url())).send().await.unwrap();
        let location = format!("{}{}", server.url(), start.headers()["location"].to_str().unwrap());
        if bytes > 0 {
            let patch = client.patch(&location).body(vec![1; bytes]).send().await.unwrap();
            assert_eq!(patch.status(), 202);
        }
        locations.push(location);
    }
    for location in locations {
        let mut gone = false;
        for _ in 0..500 {
            if client.get(&location).send().await.unwrap().status() == 404 {
                gone = true;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(gone, "{location} is still there");
    }
    // The bytes go after the row.
    let staged = || std::fs::read_dir(dir.path().join("uploads")).unwrap().count();
    for _ in 0..500 {
        if staged() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(staged(), 0);
    server.stop().await.unwrap();
}

/// What came of a request that is still running is not lost when the process ends.
#[tokio::test]
async fn a_long_upload_is_saved_regularly() {
    let dir = tempfile::tempdir().unwrap();
    let api = registry(dir.path()).await;
    let location = api.post("/v2/a/blobs/uploads/").await.expect(202).header("location").to_owned();
    let block = || Ok::<_, std::io::Error>(vec![7u8; 8 << 20]);
    let mut blocks: Vec<_> = (0..12).map(|_| block()).collect();
    blocks.push(Err(std::io::Error::other("the line was cut")));
    // Another server on the folder sees how far it is, while the first has not answered.
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let body = Body::from_stream(futures::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|block| (block, receive))
    }));
    let registry = api.registry.clone();
    let request = http::Request::patch(location.as_str()).body(body).unwrap();
    let patch = tokio::spawn(async move { registry.handle(request).await });
    let last = blocks.pop().unwrap();
    for block in blocks {
        send.send(block).await.unwrap();
    }
    let other = self::registry(dir.path()).await;
    let mut saved = 0;
    for _ in 0..500 {
        let range = other.get(&location).await.expect(204).header("range").to_owned();
        saved = range[2..].parse::<usize>().unwrap();
        if saved > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(saved > 60 << 20, "{saved}");
    send.send(last).await.unwrap();
    assert_eq!(patch.await.unwrap().status(), 400);
}
