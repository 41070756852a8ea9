//! Leftovers of dead writers in a folder, and their removal.

use crate::clock::{Clock as _, FrozenClock, SystemClock};
use crate::reference::RepositoryName;
use crate::store::blob::BlobBackend as _;
use crate::store::{DiskStore, RegistryStore as _, UploadId};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn name() -> RepositoryName {
    RepositoryName::parse("a/b").unwrap()
}

fn age(path: &Path, age: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

fn files(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("uploads")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Moves the save times of the sessions into the past.
async fn age_rows(root: &Path, age: Duration) {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(root.join("hyper.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::query("UPDATE upload_sessions SET updated_at = updated_at - $1")
        .bind(age.as_secs() as i64)
        .execute(&mut connection)
        .await
        .unwrap();
}

async fn rows(root: &Path) -> i64 {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(root.join("hyper.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::query_scalar("SELECT COUNT(*) FROM upload_sessions").fetch_one(&mut connection).await.unwrap()
}

/// A request that is dropped between opening the area and reading the saved state leaves the area unchanged.
#[tokio::test]
async fn an_unused_staging_area_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    drop(store.blobs().stage(&UploadId::random().unwrap()).await.unwrap());
    assert_eq!(files(folder.path()), Vec::<String>::new());
    let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
    upload.append(Bytes::from_static(b"saved")).await.unwrap();
    upload.save().await.unwrap();
    let id = upload.id().clone();
    drop(upload);
    drop(store.blobs().stage(&id).await.unwrap());
    let upload = store.resume_upload(&name(), &id).await.unwrap();
    upload.finish(&Digest::sha256("saved")).await.unwrap();
}

/// Another request may end a session while this one writes to it.
#[tokio::test]
async fn the_bytes_of_a_session_that_another_request_ended_are_removed() {
    use crate::store::meta::{Change, MetaBackend as _};
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    for end in ["save", "finish"] {
        let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
        upload.append(Bytes::from(vec![1; 2_000_000])).await.unwrap();
        assert_eq!(files(folder.path()).len(), 1);
        store.meta().write(Change::EndUpload { id: upload.id().clone(), writer: None }).await.unwrap();
        match end {
            "save" => assert_eq!(upload.save().await.unwrap_err().kind(), ErrorKind::UploadUnknown),
            _ => drop(upload.finish(&Digest::sha256("other")).await.unwrap_err()),
        }
        assert!(files(folder.path()).is_empty(), "{end}: {:?}", files(folder.path()));
    }
}

#[tokio::test]
async fn uploads_expire_by_the_clock_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(FrozenClock::new(SystemClock.now()));
    let store = DiskStore::open(folder.path()).await.unwrap().with_clock(clock.clone());
    let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
    upload.append(Bytes::from_static(b"bytes")).await.unwrap();
    upload.save().await.unwrap();
    let id = upload.id().clone();
    drop(upload);
    // The leftovers of a writer that saved nothing.
    let unsaved = folder.path().join("uploads").join(UploadId::random().unwrap().as_str());
    fs::write(&unsaved, "left").unwrap();
    clock.advance(DAY.as_secs() as i64 - 60);
    store.expire_uploads(DAY).await.unwrap();
    assert_eq!(store.resume_upload(&name(), &id).await.unwrap().offset(), 5);
    clock.advance(120);
    store.expire_uploads(DAY).await.unwrap();
    assert_eq!(store.resume_upload(&name(), &id).await.unwrap_err().kind(), ErrorKind::UploadUnknown);
    assert_eq!(files(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn opening_a_store_removes_old_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let store = DiskStore::open(root).await.unwrap();
    let mut dead = store.start_upload(&name(), Default::default()).await.unwrap();
    dead.append(Bytes::from(vec![1; 2_000_000])).await.unwrap();
    dead.save().await.unwrap();
    let dead = dead.id().clone();
    let empty = store.start_upload(&name(), Default::default()).await.unwrap().id().clone();
    let uploads = root.join("uploads");
    // The files of a writer that was killed before its first save, of one that stored a blob without a session, and a
    // file without a session.
    let unsaved = UploadId::random().unwrap();
    let unsaved_path = uploads.join(unsaved.as_str());
    let put = uploads.join(format!("{}.put", UploadId::random().unwrap()));
    let locked = uploads.join("locked");
    for path in [&unsaved_path, &put, &locked] {
        fs::write(path, "left").unwrap();
        age(path, 2 * DAY);
    }
    let lock = File::open(&locked).unwrap();
    lock.lock().unwrap();
    age_rows(root, 2 * DAY).await;
    let mut young = store.start_upload(&name(), Default::default()).await.unwrap();
    young.append(Bytes::from_static(b"young")).await.unwrap();
    young.save().await.unwrap();
    let young = young.id().clone();
    drop(store);

    let store = DiskStore::open_with(root, Some(3 * DAY)).await.unwrap();
    assert_eq!(rows(root).await, 3, "three days have not passed");
    drop(store);
    let store = DiskStore::open(root).await.unwrap();
    assert_eq!(rows(root).await, 1);
    let mut left = vec!["locked".to_owned(), young.to_string()];
    left.sort();
    assert_eq!(files(root), left);
    for id in [&dead, &empty] {
        assert_eq!(store.resume_upload(&name(), id).await.unwrap_err().kind(), ErrorKind::UploadUnknown);
    }
    assert_eq!(store.resume_upload(&name(), &young).await.unwrap().offset(), 5);
}

#[tokio::test]
async fn an_upload_with_a_writer_in_another_store_does_not_expire() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let theirs = DiskStore::open(root).await.unwrap();
    let mut upload = theirs.start_upload(&name(), Default::default()).await.unwrap();
    upload.append(Bytes::from(vec![1; 600_000])).await.unwrap();
    age_rows(root, 2 * DAY).await;
    age(&root.join("uploads").join(upload.id().as_str()), 2 * DAY);
    let ours = DiskStore::open(root).await.unwrap();
    assert_eq!(ours.expire_uploads(Duration::ZERO).await.unwrap(), 0);
    upload.append(Bytes::from_static(b"x")).await.unwrap();
    let mut content = vec![1; 600_000];
    content.push(b'x');
    upload.finish(&Digest::sha256(&content)).await.unwrap();
    assert_eq!(files(root), [] as [&str; 0]);
}

#[tokio::test]
async fn an_upload_without_its_bytes_ends_when_it_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
    upload.append(Bytes::from_static(b"hello")).await.unwrap();
    upload.save().await.unwrap();
    fs::remove_file(folder.path().join("uploads").join(upload.id().as_str())).unwrap();
    let mut again = store.resume_upload(&name(), upload.id()).await.unwrap();
    let e = again.append(Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UploadUnknown, "{e}");
    assert_eq!((files(folder.path()).len(), rows(folder.path()).await), (0, 0));
}

#[tokio::test]
async fn unsaved_bytes_are_removed_with_their_writer() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let store = DiskStore::open(root).await.unwrap();
    // A handle that is dropped, for example after an error.
    let mut dropped = store.start_upload(&name(), Default::default()).await.unwrap();
    dropped.append(Bytes::from(vec![1; 2_000_000])).await.unwrap();
    let id = dropped.id().clone();
    assert_eq!(files(root), [id.to_string()]);
    drop(dropped);
    assert_eq!(files(root), [] as [&str; 0]);
    // Files of a killed process with and without a session, however new; the third one has an active writer.
    let killed = store.start_upload(&name(), Default::default()).await.unwrap().id().clone();
    let begun = UploadId::random().unwrap();
    for (id, left) in [(&killed, "left"), (&UploadId::random().unwrap(), "left"), (&begun, "")] {
        fs::write(root.join("uploads").join(id.as_str()), left).unwrap();
    }
    // Without bytes only those that are not so new that their writer may be about to lock them.
    let empty = store.start_upload(&name(), Default::default()).await.unwrap().id().clone();
    for id in [&empty, &UploadId::random().unwrap()] {
        let path = root.join("uploads").join(id.as_str());
        fs::write(&path, "").unwrap();
        age(&path, Duration::from_secs(61));
    }
    let mut busy = store.start_upload(&name(), Default::default()).await.unwrap();
    busy.append(Bytes::from(vec![1; 2_000_000])).await.unwrap();
    let mut saved = store.start_upload(&name(), Default::default()).await.unwrap();
    saved.append(Bytes::from_static(b"saved")).await.unwrap();
    saved.save().await.unwrap();
    let saved = saved.id().clone();
    DiskStore::open(root).await.unwrap();
    let mut left = vec![busy.id().to_string(), saved.to_string(), begun.to_string()];
    left.sort();
    assert_eq!(files(root), left);
    busy.finish(&Digest::sha256(vec![1; 2_000_000])).await.unwrap();
    for (id, offset) in [(&id, 0), (&killed, 0), (&empty, 0), (&saved, 5)] {
        let mut again = store.resume_upload(&name(), id).await.unwrap();
        assert_eq!(again.offset(), offset);
        again.append(Bytes::from_static(b"x")).await.unwrap();
    }
}

/// A file with an old modification time that becomes a blob is in the folder of uploads for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_file_that_becomes_a_blob_is_not_a_leftover() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let blobs = store.blobs().clone();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let upkeep = tokio::spawn({
        let done = done.clone();
        async move {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                blobs.leftovers(SystemTime::now() - DAY).await.unwrap();
            }
        }
    });
    let path = folder.path().join("made-long-ago");
    for n in 0..1000u32 {
        fs::write(&path, n.to_le_bytes()).unwrap();
        age(&path, 2 * DAY);
        store.put_blob_file(&name(), &Digest::sha256(n.to_le_bytes()), &path).await.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    upkeep.await.unwrap();
}

#[tokio::test]
async fn only_a_regular_file_can_replace_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let digest = Digest::sha256("content");
    store.put_blob(&name(), &digest, Bytes::from_static(b"content")).await.unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "content").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&link, &folder.path().join("uploads")] {
        let e = store.put_blob_file(&name(), &digest, path).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
        assert_eq!(store.stat_blob(&name(), &digest).await.unwrap(), 7);
    }
}
