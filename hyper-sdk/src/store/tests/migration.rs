//! A database of an earlier version is migrated when it is opened, and keeps its content.

use crate::clock::{Clock as _, SystemClock};
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::{BlobBackend as _, BlobKey, DiskBlobs};
use crate::store::meta::{BlobLink, Change, MetaBackend as _};
use crate::store::{
    DiskStore, Page, RegistryStore as _, RegistryStoreExt as _, ScrubOptions, ScrubTurn, UploadId,
};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::path::Path;
use std::time::Duration;

const VERSION_2: &str = include_str!("version_2.sql");
const UPLOAD: &str = "38b38ca5bb61849437ae026165490279";

async fn old_store(root: &Path) {
    let blobs = DiskBlobs::open(root).await.unwrap();
    let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    for text in [config, "layer", "loose"] {
        blobs.put(&Digest::sha256(text), Bytes::from(text)).await.unwrap();
    }
    std::fs::write(root.join("uploads").join(UPLOAD), "half").unwrap();
    let options = SqliteConnectOptions::new()
        .filename(root.join("hyper.db"))
        .create_if_missing(true)
        .foreign_keys(false);
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(VERSION_2).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_database_of_version_2_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    old_store(folder.path()).await;
    let [app, other] = ["team/app", "other"].map(|name| RepositoryName::parse(name).unwrap());
    let layer = Digest::sha256("layer");
    for _ in 0..2 {
        let store = DiskStore::open_with(folder.path(), None).await.unwrap();
        let image = store.get_image(&app, &Tag::latest().into(), None).await.unwrap();
        assert_eq!(image.manifest.image().unwrap().layers[0].digest, layer);
        assert_eq!(store.read_blob(&other, &layer, 100).await.unwrap(), "layer");
        let with = store.repositories_with(&layer, Page::default()).await.unwrap();
        assert_eq!(with.items, [app.clone(), other.clone()]);
        let record = store.meta().blob(&app, &layer).await.unwrap().unwrap();
        assert_eq!((record.key, record.condemned), (BlobKey::Digest(layer.clone()), None));
    }
    let store = DiskStore::open_with(folder.path(), None).await.unwrap();
    let mut upload = store.resume_upload(&app, &UploadId::parse(UPLOAD).unwrap()).await.unwrap();
    assert_eq!(upload.offset(), 4);
    upload.append(Bytes::from_static(b" and half")).await.unwrap();
    upload.finish(&Digest::sha256("half and half")).await.unwrap();
    let links = store.meta().unreferenced_links(SystemClock.now(), None, 10).await.unwrap();
    let link = |repository: &RepositoryName, digest| BlobLink { repository: repository.clone(), digest };
    assert!(links.contains(&link(&app, Digest::sha256("loose"))), "{links:?}");
    assert!(links.contains(&link(&other, layer.clone())) && !links.contains(&link(&app, layer)), "{links:?}");
}

/// A database as the version before the scrub has left it.
#[tokio::test]
async fn a_database_of_version_5_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let (name, digest) = (RepositoryName::parse("a").unwrap(), Digest::sha256("hello"));
    let store = DiskStore::open(folder.path()).await.unwrap();
    store.put_blob(&name, &digest, Bytes::from_static(b"hello")).await.unwrap();
    drop(store);
    let options = SqliteConnectOptions::new().filename(folder.path().join("hyper.db"));
    let mut connection = options.connect().await.unwrap();
    let back = "DROP TABLE deletions; DROP TABLE deleted_refs; DROP TABLE deleted_manifests; DROP TABLE pulls; DROP TABLE pull_notes; DROP TABLE events; DROP TABLE event_log; DROP TABLE event_consumers; DROP TABLE quota_blobs; DROP TABLE quota_manifests; DROP TABLE quotas; DROP TABLE byte_holds; DROP TABLE registry_name; DROP TABLE restore; DROP TABLE api_tokens; DROP TABLE scrub; ALTER TABLE blobs DROP COLUMN quarantined; DELETE FROM schema_version WHERE version > 5";
    sqlx::raw_sql(back).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    for _ in 0..2 {
        let store = DiskStore::open(folder.path()).await.unwrap();
        let record = store.meta().blob(&name, &digest).await.unwrap().unwrap();
        assert!(!record.quarantined);
        let turn = Some(ScrubTurn::new(Duration::ZERO).unwrap());
        let scrubbed = store.scrub(ScrubOptions { turn, quarantine: true, ..ScrubOptions::default() }).await;
        let scrubbed = scrubbed.unwrap();
        assert_eq!((scrubbed.blobs, scrubbed.damaged), (1, 0));
    }
}

/// A push of a blob that a garbage collector is removing waits for the removal and stores the bytes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_waits_for_the_removal_of_the_same_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let (name, digest) = (RepositoryName::parse("a").unwrap(), Digest::sha256("hello"));
    store.put_blob(&name, &digest, Bytes::from_static(b"hello")).await.unwrap();
    store.delete_blob(&name, &digest).await.unwrap();
    let right = store.blobs().deletion_right().await.unwrap().unwrap();
    let condemn = Change::CondemnBlob { digest: digest.clone(), mark: u64::MAX };
    assert_eq!(store.meta().write(condemn).await.unwrap(), 1);
    let push = tokio::spawn({
        let (store, name, digest) = (store.clone(), name.clone(), digest.clone());
        async move { store.put_blob(&name, &digest, Bytes::from_static(b"hello")).await }
    });
    // Whether the push has begun or not, it must not rely on bytes that are being removed.
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let e = store.stat_blob(&name, &digest).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BlobUnknown, "{e}");
    assert!(store.blobs().delete(&BlobKey::Digest(digest.clone())).await.unwrap());
    let remove = Change::RemoveBlob { digest: digest.clone(), mark: u64::MAX };
    assert_eq!(store.meta().write(remove).await.unwrap(), 1);
    drop(right);
    push.await.unwrap().unwrap();
    assert_eq!(store.read_blob(&name, &digest, 10).await.unwrap(), "hello");
}
