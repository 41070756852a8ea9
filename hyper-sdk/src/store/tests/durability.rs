//! Stores on disk: durability, sharing with other processes, and damage.

use crate::media_type;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::{BlobBackend as _, DiskBlobs};
use crate::store::meta::SqlMeta;
use crate::store::{DiskStore, Page, PutManifest, RegistryStore as _, RegistryStoreExt as _};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use std::path::Path;

fn name() -> RepositoryName {
    RepositoryName::parse("a/b").unwrap()
}

fn index(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

#[tokio::test]
async fn content_survives_reopening_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    assert!(store.capabilities().durable);
    assert!(store.to_string().contains(&folder.path().display().to_string()), "{store}");
    let blob = store.put_bytes(&name(), "x/y", Bytes::from_static(b"hello")).await.unwrap();
    let manifest = index("one");
    let put = PutManifest::new(manifest.clone(), [Tag::latest()]);
    store.put_manifest(&name(), put).await.unwrap();
    drop(store);
    let store = DiskStore::open(folder.path()).await.unwrap();
    assert_eq!(store.read_blob(&name(), &blob.digest, 100).await.unwrap(), "hello");
    assert_eq!(store.get_manifest(&name(), &Tag::latest().into()).await.unwrap(), manifest);
    let path = store.blob_path(&name(), &blob.digest).await.unwrap().unwrap();
    assert!(path.ends_with(Path::new("blobs/sha256/2c").join(blob.digest.hex())));
}

#[tokio::test]
async fn a_damaged_blob_is_repaired_by_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let blob = store.put_bytes(&name(), "x/y", Bytes::from_static(b"hello")).await.unwrap();
    let path = store.blob_path(&name(), &blob.digest).await.unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "jello").unwrap();
    store.put_bytes(&name(), "x/y", Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
}

#[tokio::test]
async fn an_upload_is_resumed_after_reopening_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let content = Bytes::from("0123456789abcdef".repeat(100_000));
    let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(content.slice(..700_001)).await.unwrap();
    upload.save().await.unwrap();
    upload.append(content.slice(700_001..1_500_000)).await.unwrap();
    drop((upload, store));
    let store = DiskStore::open(folder.path()).await.unwrap();
    let mut upload = store.resume_upload(&name(), &id).await.unwrap();
    assert_eq!(upload.offset(), 700_001);
    upload.append(content.slice(700_001..)).await.unwrap();
    let digest = Digest::sha256(&content);
    upload.finish(&digest).await.unwrap();
    assert!(store.read_blob(&name(), &digest, 1 << 30).await.unwrap() == content);
    assert_eq!(std::fs::read_dir(folder.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_cancelled_append_never_mixes_into_the_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let content = Bytes::from("0123456789abcdef".repeat(300_000));
    let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(content.slice(..16)).await.unwrap();
    upload.save().await.unwrap();
    // One poll starts the writing thread; then the future is dropped.
    let mut append = upload.append(content.clone());
    for _ in 0..20 {
        if futures::poll!(&mut append).is_ready() {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(append);
    drop(upload);
    let digest = Digest::sha256(&content);
    loop {
        let mut upload = store.resume_upload(&name(), &id).await.unwrap();
        assert_eq!(upload.offset(), 16);
        match upload.append(content.slice(16..)).await {
            Ok(()) => break upload.finish(&digest).await.map(drop).unwrap(),
            // The thread still holds the staging area.
            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{e}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(store.read_blob(&name(), &digest, 1 << 30).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_share_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let opened = futures::future::join_all((0..3).map(|_| DiskStore::open(folder.path()))).await;
    let stores: Vec<DiskStore> = opened.into_iter().map(|s| s.unwrap()).collect();
    let tasks = (0..24).map(|i| {
        let store = stores[i % 3].clone();
        tokio::spawn(async move {
            store.put_bytes(&name(), "x/y", Bytes::from(format!("blob {}", i / 2))).await.unwrap();
            let tag = Tag::parse(&format!("t{i:02}")).unwrap();
            store.put_manifest(&name(), PutManifest::new(index(&i.to_string()), [tag])).await.unwrap();
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    for store in &stores {
        assert_eq!(store.all_tags(&name()).await.unwrap().len(), 24);
        let digest = Digest::sha256("blob 3");
        assert_eq!(store.read_blob(&name(), &digest, 100).await.unwrap(), "blob 3");
    }
    // An upload can be resumed through the other store, but not while the first one writes.
    let mut first = stores[0].start_upload(&name(), Default::default()).await.unwrap();
    first.append(Bytes::from_static(b"x")).await.unwrap();
    let mut second = stores[1].resume_upload(&name(), first.id()).await.unwrap();
    let refused = second.append(Bytes::from_static(b"y")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
}

/// Each blob is the first of its folder, and both stores create that folder at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_create_the_folders_of_blobs_concurrently() {
    let folder = tempfile::tempdir().unwrap();
    let openings =
        [DiskBlobs::open(folder.path()).await.unwrap(), DiskBlobs::open(folder.path()).await.unwrap()];
    for number in 0..200 {
        let bytes = Bytes::from(format!("blob {number}"));
        let digest = Digest::sha256(&bytes);
        let puts = openings.clone().map(|blobs| {
            let (digest, bytes) = (digest.clone(), bytes.clone());
            tokio::spawn(async move { blobs.put(&digest, bytes).await })
        });
        for put in puts {
            put.await.unwrap().unwrap();
        }
        assert!(openings[0].path(&digest.clone().into()).unwrap().is_file());
    }
}

/// Every operation on a blob whose bytes are lost reports it as missing.
async fn lost(store: &DiskStore, digest: &Digest, size: u64) {
    let unknown = |e: crate::Error| {
        assert_eq!(e.kind(), ErrorKind::BlobUnknown, "{e}");
        assert!(e.message().contains("push the blob again"), "{e}");
    };
    let other = RepositoryName::parse("other").unwrap();
    unknown(store.stat_blob(&name(), digest).await.unwrap_err());
    unknown(store.get_blob(&name(), digest, None).await.unwrap_err());
    unknown(store.blob_path(&name(), digest).await.unwrap_err());
    unknown(store.mount_blob(&other, digest, &name()).await.unwrap_err());
    assert!(!store.has_blob(&name(), digest).await.unwrap());
    let descriptor = Descriptor::new(media_type::OCI_LAYER, digest.clone(), size);
    let image = ImageManifest::new(descriptor.clone(), vec![]).to_bytes();
    let index = ImageIndex::new(vec![descriptor]).to_bytes();
    for (bytes, field) in [(image, "`config`"), (index, "`manifests[0]`")] {
        let put = PutManifest::new(Manifest::sniff(bytes).unwrap(), [Tag::latest()]);
        let e = store.put_manifest(&name(), put).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ManifestBlobUnknown, "{e}");
        assert!(e.message().contains(field), "{e}");
    }
}

#[tokio::test]
async fn damaged_blobs_are_reported_and_repaired_by_a_push() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let content = Bytes::from(vec![7u8; 2_000_000]);
    let digest = Digest::sha256(&content);
    for damage in [0, 1_000_000, 3_000_000] {
        store.put_blob(&name(), &digest, content.clone()).await.unwrap();
        let path = store.blobs().path(&digest.clone().into()).unwrap();
        if damage == 0 {
            std::fs::remove_file(&path).unwrap();
        } else {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(damage).unwrap();
        }
        lost(&store, &digest, content.len() as u64).await;
    }
    // The row may be wrong instead of the file.
    let mut connection = raw(&folder.path().join("hyper.db")).await;
    sqlx::query("UPDATE blobs SET size = 7").execute(&mut connection).await.unwrap();
    let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
    upload.append(content.clone()).await.unwrap();
    upload.finish(&digest).await.unwrap();
    assert_eq!(store.stat_blob(&name(), &digest).await.unwrap(), content.len() as u64);
    // Cut while it is read: the stream ends with an error, not early.
    let mut blob = store.get_blob(&name(), &digest, None).await.unwrap();
    let path = store.blobs().path(&digest.clone().into()).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(600_000).unwrap();
    let mut outcome = Ok(0);
    while let Some(chunk) = futures::StreamExt::next(&mut blob.stream).await {
        outcome = chunk.map(|c| c.len());
    }
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn only_a_regular_file_is_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = DiskBlobs::open(folder.path()).await.unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    for path in [link.as_path(), folder.path()] {
        assert_eq!(blobs.adopt(&Digest::sha256("x"), path).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn the_error_of_an_unusable_database_has_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.db");
    std::fs::write(&file, "this is a text, and long enough for a header ".repeat(100)).unwrap();
    let e = SqlMeta::open(&file).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
    assert!(e.to_string().contains("not an SQLite database"), "{e}");

    let e = SqlMeta::open(folder.path().join("no/such/m.db")).await.unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Io), "{e:?}");
    assert!(e.to_string().contains("writable"), "{e}");

    let file = folder.path().join("newer.db");
    drop(SqlMeta::open(&file).await.unwrap());
    let mut connection = raw(&file).await;
    sqlx::query("INSERT INTO schema_version VALUES (99, 0)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let e = SqlMeta::open(&file).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e:?}");
    assert!(e.to_string().contains("version 99"), "{e}");

    let file = folder.path().join("row.db");
    let store = crate::store::Composed::new(
        DiskBlobs::open(folder.path()).await.unwrap(),
        SqlMeta::open(&file).await.unwrap(),
    );
    store.put_manifest(&name(), PutManifest::new(index("x"), [Tag::latest()])).await.unwrap();
    let mut connection = raw(&file).await;
    sqlx::query("UPDATE manifests SET body = x'7b7d'").execute(&mut connection).await.unwrap();
    let e = store.get_manifest(&name(), &Tag::latest().into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
    store.put_manifest(&name(), PutManifest::new(index("x"), [])).await.unwrap();
    assert_eq!(store.get_manifest(&name(), &Tag::latest().into()).await.unwrap(), index("x"));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_an_io_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let e = DiskStore::open(Path::new("/proc/self/no-such-folder")).await.unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Io), "{e:?}");
    if rustix::process::geteuid().is_root() {
        println!("SKIPPED: root may write to a read-only folder");
        return;
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let e = DiskStore::open(folder.path()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io, "{e:?}");
}

#[tokio::test]
async fn a_locked_database_is_unavailable_until_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.db");
    let meta = SqlMeta::open_with(file.clone(), std::time::Duration::from_millis(30)).await.unwrap();
    let store = crate::store::Composed::new(DiskBlobs::open(folder.path()).await.unwrap(), meta);
    let mut other = raw(&file).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let put = || PutManifest::new(index("x"), [Tag::latest()]);
    let e = store.put_manifest(&name(), put()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e:?}");
    assert!(e.is_retryable());
    assert!(store.list_repositories(Page::default()).await.unwrap().items.is_empty(), "reading still works");
    lock.rollback().await.unwrap();
    store.put_manifest(&name(), put()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_change_does_not_fail_its_batch() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let mut other = raw(&folder.path().join("hyper.db")).await;
    sqlx::raw_sql(
        "CREATE TRIGGER poison BEFORE INSERT ON tags WHEN NEW.name = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let tasks = (0..40).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let text = if i == 17 { "poison".to_owned() } else { format!("t{i}") };
            let put = PutManifest::new(index(&text), [Tag::parse(&text).unwrap()]);
            (i, store.put_manifest(&name(), put).await)
        })
    });
    for task in futures::future::join_all(tasks).await {
        let (i, outcome) = task.unwrap();
        assert_eq!(outcome.is_err(), i == 17);
    }
    assert_eq!(store.all_tags(&name()).await.unwrap().len(), 39);
    let poisoned = store.get_manifest(&name(), &index("poison").digest().clone().into()).await;
    assert_eq!(poisoned.unwrap_err().kind(), ErrorKind::ManifestUnknown);
}
