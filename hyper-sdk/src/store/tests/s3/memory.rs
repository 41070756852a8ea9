//! What uploads keep in memory, and what a collector asks for.

use super::*;
use crate::clock::{Clock as _, FrozenClock, SystemClock};
use crate::digest::Algorithm;
use crate::reference::RepositoryName;
use crate::store::blob::{BlobBackend as _, BlobKey, StagedState};
use crate::store::meta::MemoryMeta;
use crate::store::wrap::{FaultPlan, FaultyMeta};
use crate::store::{CollectOptions, UploadId};
use crate::testing::{Act, Front, given};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn content(seed: u64, size: usize) -> Bytes {
    crate::testing::Random::new(seed).bytes(size).into()
}

/// Blobs in memory, whose uploads may have so many parts in memory.
fn blobs_with(parts: u64) -> S3Blobs {
    let blobs = S3Blobs::over(Arc::new(InMemory::new()), "s3://memory".parse().unwrap());
    // With the eighth for saved ends.
    let memory = parts << 23;
    blobs.with_upload_memory(memory + memory / 7 + 8).waiting(Duration::from_millis(200))
}

#[tokio::test]
async fn an_upload_waits_for_its_memory_and_then_can_go_on() {
    let store = Composed::new(blobs_with(1), MemoryMeta::default());
    let name = RepositoryName::parse("a").unwrap();
    let bytes = content(1, 1 << 20);
    let digest = Digest::sha256(&bytes);
    let mut one = store.start_upload(&name, Default::default()).await.unwrap();
    let mut two = store.start_upload(&name, Default::default()).await.unwrap();
    let id = two.id().clone();
    one.append(bytes.clone()).await.unwrap();
    two.append(bytes.slice(..200_000)).await.unwrap();
    let error = two.append(bytes.slice(200_000..)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    two.save().await.unwrap();
    let mut two = store.resume_upload(&name, &id).await.unwrap();
    assert_eq!(two.offset(), 200_000);
    // A small blob needs no place.
    let small = content(2, 100_000);
    store.put_blob(&name, &Digest::sha256(&small), small).await.unwrap();
    one.save().await.unwrap();
    two.append(bytes.slice(200_000..)).await.unwrap();
    two.finish(&digest).await.unwrap();
    assert!(store.read_blob(&name, &digest, 2 << 20).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_share_a_little_memory_and_all_come_to_their_end() {
    let blobs = blobs_with(2).waiting(Duration::from_secs(20));
    let store = Composed::new(blobs, MemoryMeta::default());
    let name = RepositoryName::parse("a").unwrap();
    let (in_memory, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let pushes = (0..12).map(|seed| {
        let (store, name) = (store.clone(), name.clone());
        let (in_memory, most) = (Arc::clone(&in_memory), Arc::clone(&most));
        tokio::spawn(async move {
            let bytes = content(seed, (9 << 20) + seed as usize);
            let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
            for start in (0..bytes.len()).step_by(1 << 20) {
                let end = bytes.len().min(start + (1 << 20));
                // What of this upload is in memory until the next bytes come, which may send a part.
                upload.append(bytes.slice(start..end)).await.unwrap();
                let rest = end % (8 << 20);
                most.fetch_max(in_memory.fetch_add(rest, Ordering::SeqCst) + rest, Ordering::SeqCst);
                tokio::task::yield_now().await;
                in_memory.fetch_sub(rest, Ordering::SeqCst);
            }
            let digest = Digest::sha256(&bytes);
            upload.finish(&digest).await.unwrap();
            assert!(store.read_blob(&name, &digest, 64 << 20).await.unwrap() == bytes);
        })
    });
    futures::future::try_join_all(pushes.collect::<Vec<_>>()).await.unwrap();
    // Two parts, and a little of each.
    let most = most.load(Ordering::SeqCst);
    assert!((1 << 20..(2 << 23) + 12 * (256 << 10)).contains(&most), "{most} bytes were in memory");
}

/// A part that was sent gives its place back: a client that stalls after it keeps nobody waiting.
#[tokio::test]
async fn a_sent_part_gives_its_place_back() {
    let store = Composed::new(blobs_with(1), MemoryMeta::default());
    let name = RepositoryName::parse("a").unwrap();
    let bytes = content(6, (8 << 20) + 1000);
    let mut one = store.start_upload(&name, Default::default()).await.unwrap();
    one.append(bytes.slice(..1 << 20)).await.unwrap();
    let mut two = store.start_upload(&name, Default::default()).await.unwrap();
    two.append(bytes.slice(..1 << 20)).await.unwrap_err();
    one.append(bytes.slice(1 << 20..)).await.unwrap();
    let mut two = store.start_upload(&name, Default::default()).await.unwrap();
    two.append(bytes.clone()).await.unwrap();
    for upload in [one, two] {
        upload.finish(&Digest::sha256(&bytes)).await.unwrap();
    }
    assert!(store.read_blob(&name, &Digest::sha256(&bytes), 64 << 20).await.unwrap() == bytes);
}

/// Clients that send slowly take turns: none of them keeps a place that it does not fill while others wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_uploads_keep_no_place_that_they_do_not_fill() {
    let blobs = blobs_with(1).waiting(Duration::from_secs(2));
    let store = Composed::new(blobs, MemoryMeta::default());
    let name = RepositoryName::parse("a").unwrap();
    let slow = (0..3).map(|seed| {
        let (store, name) = (store.clone(), name.clone());
        tokio::spawn(async move {
            let bytes = content(seed, 6 << 20);
            let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
            for piece in 0..12 {
                upload.append(bytes.slice(piece << 19..(piece + 1) << 19)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            upload.finish(&Digest::sha256(&bytes)).await.unwrap();
        })
    });
    let slow: Vec<_> = slow.collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for seed in 10..13 {
        let bytes = content(seed, 1 << 20);
        store.put_blob(&name, &Digest::sha256(&bytes), bytes).await.unwrap();
    }
    for push in slow {
        push.await.unwrap();
    }
}

/// The request that makes the object may take minutes, and needs none of the bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finisher_gives_its_place_back_when_the_last_part_is_there() {
    let Some(server) = given::<&S3Server>("a_finisher_gives_its_place", S3Server::running()) else { return };
    let bucket = server.bucket();
    let front = Front::start(server.host(), |method, target| {
        if method == "POST" && target.contains("uploadId=") { Act::Hold } else { Act::Pass }
    });
    let front = front.await;
    let blobs = blobs_at(&front.host, &bucket).with_upload_memory(8 << 20).waiting(Duration::from_secs(5));
    let store = Composed::new(blobs, MemoryMeta::default());
    let name = RepositoryName::parse("a").unwrap();
    let large = content(7, 10 << 20);
    let (pushing, to, bytes) = (store.clone(), name.clone(), large.clone());
    let push =
        tokio::spawn(async move { pushing.put_blob(&to, &Digest::sha256(&bytes), bytes.clone()).await });
    front.held().await;
    let small = content(8, 1 << 20);
    store.put_blob(&name, &Digest::sha256(&small), small).await.unwrap();
    front.release();
    push.await.unwrap().unwrap();
    assert!(store.read_blob(&name, &Digest::sha256(&large), 64 << 20).await.unwrap() == large);
}

/// What a server has saved last it need not fetch, and another one fetches it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_upload_is_not_fetched_where_it_is() {
    let Some(server) = given::<&S3Server>("the_end_of_an_upload", S3Server::running()) else { return };
    let (bucket, meta) = (server.bucket(), MemoryMeta::default());
    let front = Front::start(server.host(), |_, _| Act::Pass).await;
    let open = || Composed::new(blobs_at(&front.host, &bucket), meta.clone());
    let (one, two, name) = (open(), open(), RepositoryName::parse("a").unwrap());
    let bytes = content(3, (9 << 20) + 7);
    let id = one.start_upload(&name, Default::default()).await.unwrap().id().clone();
    let part = bytes.len() / 4 + 1;
    for (number, store) in [&one, &one, &one, &two].into_iter().enumerate() {
        let mut upload = store.resume_upload(&name, &id).await.unwrap();
        upload.append(bytes.slice(number * part..bytes.len().min((number + 1) * part))).await.unwrap();
        upload.save().await.unwrap();
        assert_eq!(front.count("GET", "tail-"), usize::from(number == 3));
    }
    let digest = Digest::sha256(&bytes);
    let upload = two.resume_upload(&name, &id).await.unwrap();
    upload.finish(&digest).await.unwrap();
    assert_eq!(front.count("GET", "tail-"), 1);
    assert!(one.read_blob(&name, &digest, 64 << 20).await.unwrap() == bytes);
}

/// Bytes that no row names, as of a server that died between a commit and its link.
async fn unnamed(blobs: &S3Blobs, bytes: &Bytes) -> BlobKey {
    let mut staging = blobs.stage(&UploadId::random().unwrap()).await.unwrap();
    staging.restore(&StagedState::default(), Algorithm::Sha256).await.unwrap();
    staging.append(bytes.clone()).await.unwrap();
    let digest = Digest::sha256(bytes);
    let key = staging.verify(&digest).await.unwrap().key;
    staging.commit(&digest).await.unwrap();
    key
}

/// The age of bytes that no row names is counted by the clock that is behind: the one of this machine, or of the database.
#[tokio::test]
async fn a_clock_that_is_ahead_makes_no_bytes_old() {
    let clock = Arc::new(FrozenClock::new(SystemClock.now() - 10 * 24 * 3600));
    let store = Composed::new(blobs_with(1), MemoryMeta::default()).with_clock(clock.clone());
    let key = unnamed(store.blobs(), &content(4, 1000)).await;
    let collect = async || {
        store.collect(CollectOptions { unnamed: true, ..CollectOptions::default() }).await.unwrap().blobs
    };
    assert_eq!(collect().await, 0);
    // The clock of the store is ahead: it may be wrong, too.
    clock.advance(1000 * 24 * 3600);
    assert_eq!(collect().await, 0);
    assert_eq!(store.blobs().sizes(&[key]).await.unwrap(), [Some(1000)]);
}

#[tokio::test]
async fn a_collector_asks_for_a_page_of_keys_at_once() {
    let plan = FaultPlan::none();
    let meta = FaultyMeta::new(MemoryMeta::default(), plan.clone());
    let store = Composed::new(blobs_with(1), meta);
    let name = RepositoryName::parse("a").unwrap();
    for number in 0..300 {
        let bytes = Bytes::from(format!("blob {number}"));
        store.put_blob(&name, &Digest::sha256(&bytes), bytes).await.unwrap();
    }
    plan.fail_at(8);
    let collected =
        store.collect(CollectOptions { unnamed: true, ..CollectOptions::default() }).await.unwrap();
    assert_eq!(collected.blobs, 0);
    assert!(!plan.has_failed(), "the database was asked for each key");
}
