//! Collectors and pushers beside each other, each with the store open for itself.

use super::collection::{content, digest, name};
use crate::store::blob::{BlobBackend, BlobKey};
use crate::store::meta::MetaBackend;
use crate::store::{CollectOptions, Composed, RegistryStore as _, RegistryStoreExt as _};
use crate::testing::Random;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was acknowledged can be read until it is deleted.
async fn collect_and_push<B: BlobBackend, M: MetaBackend>(open: impl AsyncFn() -> Composed<B, M>) {
    let over = Arc::new(AtomicBool::new(false));
    let mut collectors = Vec::new();
    for _ in 0..2 {
        let (store, over) = (open().await, over.clone());
        collectors.push(tokio::spawn(async move {
            let mut blobs = 0;
            while !over.load(Ordering::SeqCst) {
                blobs += store.collect(CollectOptions::default()).await.unwrap().blobs;
                tokio::task::yield_now().await;
            }
            blobs
        }));
    }
    let mut pushers = Vec::new();
    for pusher in 0..4 {
        let store = open().await;
        pushers.push(tokio::spawn(async move {
            let (at, mut random) = (name(&format!("r{pusher}")), Random::new(pusher));
            for round in 0..40 {
                // All push the same few blobs.
                let n = 1 + random.below(3);
                match round % 3 {
                    0 => drop(store.put_blob(&at, &digest(n), content(n)).await.unwrap()),
                    _ => {
                        let mut upload = store.start_upload(&at, Default::default()).await.unwrap();
                        upload.append(content(n)).await.unwrap();
                        upload.finish(&digest(n)).await.unwrap();
                    }
                }
                let read = store.read_blob(&at, &digest(n), 1 << 20).await;
                assert_eq!(read.unwrap_or_else(|e| panic!("round {round}: {e}")), content(n));
                store.delete_blob(&at, &digest(n)).await.unwrap();
            }
        }));
    }
    for pusher in pushers {
        pusher.await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    let mut removed = 0;
    for collector in collectors {
        removed += collector.await.unwrap();
    }
    assert!(removed > 0, "the collectors had nothing to do");
    let store = open().await;
    store.collect(CollectOptions::default()).await.unwrap();
    assert!(store.meta().unlinked_blobs(None, 10).await.unwrap().is_empty());
    for stored in store.blobs().list(None, 1000).await.unwrap().items {
        // Bytes under keys of the backend stay for a day; no row names them.
        let is_named = store.meta().has_keys(std::slice::from_ref(&stored.key)).await.unwrap()[0];
        assert!(matches!(stored.key, BlobKey::Own(_)) && !is_named, "{} was left", stored.key);
    }
}

/// Servers that share a database and a bucket, each with connections of its own.
#[cfg(all(feature = "store-postgres", feature = "store-s3"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collectors_and_pushers_share_a_database_and_a_bucket() {
    use crate::testing::{S3Server, given};
    let Some(server) = super::postgres::server("collectors on PostgreSQL with S3") else { return };
    if given::<&S3Server>("collectors on PostgreSQL with S3", S3Server::running()).is_none() {
        return;
    }
    let url = server.url("collectors with S3");
    collect_and_push(async || {
        let blobs = super::s3::blobs_of(std::path::Path::new("collectors")).unwrap();
        Composed::new(blobs, super::postgres::connect(&url).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collectors_and_pushers_share_a_folder() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    collect_and_push(async || crate::store::DiskStore::open(folder.path()).await.unwrap()).await;
}

/// The same with a connection to one database each, as servers on several machines have it.
#[cfg(feature = "store-postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collectors_and_pushers_share_a_database() {
    use crate::store::{DiskStore, meta::PostgresOptions};
    let Some(server) = super::postgres::server("collectors and pushers on PostgreSQL") else { return };
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = PostgresOptions::parse(&server.url("collectors")).unwrap();
    collect_and_push(async || DiskStore::open_on(folder.path(), options.clone(), None).await.unwrap()).await;
}
