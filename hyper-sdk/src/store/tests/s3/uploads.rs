//! Uploads that go on elsewhere, that nobody ends, and that two write to.

use super::*;
use crate::clock::FrozenClock;
use crate::digest::Algorithm;
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::blob::{BlobBackend as _, BlobKey, StagedState};
use crate::store::wrap::{FaultPlan, FaultyMeta};
use crate::testing::{Act, Front, given};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use std::time::{Duration, SystemTime};

fn content(size: usize) -> Bytes {
    crate::testing::Random::new(size as u64).bytes(size).into()
}

#[cfg(feature = "store-sql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_at_another_server_and_is_not_read_again() {
    let Some(server) = given::<&S3Server>("an_upload_goes_on", S3Server::running()) else { return };
    let bucket = server.bucket();
    let front = Front::start(server.host(), |_, _| Act::Pass).await;
    let folder = tempfile::tempdir().unwrap();
    let name = RepositoryName::parse("a").unwrap();
    let open = async || {
        let meta = meta::SqlMeta::open(folder.path().join("hyper.db")).await.unwrap();
        Composed::new(blobs_at(&front.host, &bucket), meta)
    };
    let bytes = content((20 << 20) + 7);
    let digest = Digest::sha256(&bytes);
    let id = {
        let store = open().await;
        store.start_upload(&name, Default::default()).await.unwrap().id().clone()
    };
    for (from, to) in [(0, 3 << 20), (3 << 20, 11 << 20), (11 << 20, bytes.len())] {
        // Each part of the upload goes to another server.
        let store = open().await;
        let mut upload = store.resume_upload(&name, &id).await.unwrap();
        assert_eq!(upload.offset(), from as u64);
        upload.append(bytes.slice(from..to)).await.unwrap();
        upload.save().await.unwrap();
    }
    let store = open().await;
    let upload = store.resume_upload(&name, &id).await.unwrap();
    upload.finish(&digest).await.unwrap();
    assert_eq!(front.count("GET", "/blobs/"), 0, "the object was read");
    assert_eq!(front.count("PUT", "partNumber="), 3, "parts were sent again");
    assert_eq!(store.blobs().objects("uploads").await, 0, "objects beside the upload were left");
    assert!(open().await.read_blob(&name, &digest, 64 << 20).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_nobody_ends_is_removed_with_its_parts() {
    let Some(server) = given::<&S3Server>("an_abandoned_upload", S3Server::running()) else { return };
    let bucket = server.bucket();
    let clock = Arc::new(FrozenClock::new(crate::clock::Clock::now(&crate::clock::SystemClock)));
    let meta = meta::MemoryMeta::default();
    let open = || {
        let blobs = blobs_at(server.host(), &bucket);
        Composed::new(blobs, meta.clone()).with_clock(clock.clone())
    };
    let name = RepositoryName::parse("a").unwrap();
    let bytes = content((9 << 20) + 1);
    let state = {
        // One with a session, one without, as of a process that died.
        let store = open();
        let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
        upload.append(bytes.clone()).await.unwrap();
        upload.save().await.unwrap();
        let id = UploadId::random().unwrap();
        let mut staging = store.blobs().stage(&id).await.unwrap();
        staging.restore(&StagedState::default(), Algorithm::Sha256).await.unwrap();
        staging.append(bytes.clone()).await.unwrap();
        (id, staging.save().await.unwrap())
    };
    let store = open();
    assert_eq!(store.blobs().objects("uploads").await, 4);
    store.expire_uploads(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(store.blobs().objects("uploads").await, 4, "a young upload was removed");
    clock.advance(2 * 3600);
    assert_eq!(store.expire_uploads(Duration::from_secs(3600)).await.unwrap(), 2);
    assert_eq!(store.blobs().objects("uploads").await, 0);
    // The parts have gone, too: what is known of them does not make an object.
    let mut staging = store.blobs().stage(&state.0).await.unwrap();
    let error = staging.restore(&state.1, Algorithm::Sha256).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UploadUnknown);
    assert_eq!(store.blobs().objects("blobs").await, 0);
}

/// The database fails at each point of the end of an upload, after its object was made, too: what was acknowledged is still
/// there, and the client ends the same upload again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_link_fails_is_ended_again() {
    let Some(server) = given::<&S3Server>("an_upload_whose_link_fails", S3Server::running()) else { return };
    let plan = FaultPlan::none();
    let meta = FaultyMeta::new(meta::MemoryMeta::default(), plan.clone());
    let store = Composed::new(blobs_at(server.host(), &server.bucket()), meta);
    let name = RepositoryName::parse("a").unwrap();
    for size in [5, (9 << 20) + 1, 16 << 20] {
        for point in 1.. {
            let bytes = content(size + point);
            let digest = Digest::sha256(&bytes);
            let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
            let id = upload.id().clone();
            upload.append(bytes.clone()).await.unwrap();
            upload.save().await.unwrap();
            drop(upload);
            plan.fail_at(point as u64);
            let ended = async { store.resume_upload(&name, &id).await?.finish(&digest).await };
            let ended = ended.await;
            let has_failed = plan.has_failed();
            plan.fail_at(0);
            if has_failed && ended.is_err() {
                let upload = store.resume_upload(&name, &id).await.unwrap();
                assert_eq!(upload.offset(), bytes.len() as u64);
                upload.finish(&digest).await.unwrap_or_else(|e| panic!("{size}, {point}: {e:?}"));
            }
            assert!(store.read_blob(&name, &digest, 64 << 20).await.unwrap() == bytes);
            assert_eq!(store.blobs().objects("uploads").await, 0, "{size}, {point}");
            if !has_failed {
                assert!(point > 2, "nothing failed");
                break;
            }
        }
    }
}

/// The time of an object that was made of parts may be that of its first part. A collector of bytes that no row names goes
/// by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_new_until_its_upload_has_ended() {
    let blobs = S3Blobs::over(Arc::new(InMemory::new()), "s3://memory".parse().unwrap());
    let bytes = content(9 << 20);
    let digest = Digest::sha256(&bytes);
    let mut staging = blobs.stage(&UploadId::random().unwrap()).await.unwrap();
    staging.restore(&StagedState::default(), Algorithm::Sha256).await.unwrap();
    staging.append(bytes).await.unwrap();
    staging.verify(&digest).await.unwrap();
    staging.commit(&digest).await.unwrap();
    let made = SystemTime::now();
    let modified = async || blobs.list(None, 10).await.unwrap().items[0].modified;
    assert_eq!(modified().await, None);
    staging.discard().await.unwrap();
    assert!(modified().await.is_some_and(|at| at <= made));
}

/// A push that fails after its bytes were committed must not remove them: the row may name them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_bytes_survive_the_end_of_their_area() {
    let blobs = S3Blobs::over(Arc::new(InMemory::new()), "s3://memory".parse().unwrap());
    for size in [5, 9 << 20] {
        let bytes = content(size);
        let digest = Digest::sha256(&bytes);
        let mut staging = blobs.stage(&UploadId::random().unwrap()).await.unwrap();
        staging.restore(&StagedState::default(), Algorithm::Sha256).await.unwrap();
        staging.append(bytes.clone()).await.unwrap();
        let key = staging.verify(&digest).await.unwrap().key;
        staging.commit(&digest).await.unwrap();
        staging.discard().await.unwrap();
        assert_eq!(blobs.sizes(&[key]).await.unwrap(), [Some(size as u64)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unannounced_algorithm_is_checked_and_what_fails_leaves_nothing() {
    let blobs = S3Blobs::over(Arc::new(InMemory::new()), "s3://memory".parse().unwrap());
    let bytes = content((9 << 20) + 3);
    for is_right in [false, true] {
        let digest = Algorithm::Sha512.digest(if is_right { &bytes[..] } else { b"other" });
        let mut staging = blobs.stage(&UploadId::random().unwrap()).await.unwrap();
        staging.restore(&StagedState::default(), Algorithm::Sha256).await.unwrap();
        staging.append(bytes.clone()).await.unwrap();
        let verified = staging.verify(&digest).await;
        if is_right {
            staging.commit(&digest).await.unwrap();
            staging.discard().await.unwrap();
            assert_eq!(blobs.sizes(&[verified.unwrap().key]).await.unwrap(), [Some(bytes.len() as u64)]);
        } else {
            assert_eq!(verified.unwrap_err().kind(), ErrorKind::DigestInvalid);
            staging.discard().await.unwrap();
            assert!(blobs.list(None, 10).await.unwrap().items.is_empty(), "an object of nobody was left");
        }
        assert_eq!(blobs.objects("uploads").await, 0);
    }
}

/// Two servers write to one upload from the same state. Whoever commits has the content that was verified, or fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_at_two_servers_do_not_corrupt_a_blob() {
    let Some(server) = given::<&S3Server>("two_writers", S3Server::running()) else { return };
    let bucket = server.bucket();
    let (one, two) = (blobs_at(server.host(), &bucket), blobs_at(server.host(), &bucket));
    let start = content(9 << 20);
    // The states before and after the first part was sent.
    for saved in [1 << 20, 9 << 20] {
        let id = UploadId::random().unwrap();
        let state = {
            let mut staging = one.stage(&id).await.unwrap();
            staging.restore(&StagedState::default(), Algorithm::Sha256).await.unwrap();
            staging.append(start.slice(..saved)).await.unwrap();
            staging.save().await.unwrap()
        };
        let mut writers = Vec::new();
        for (blobs, end) in [(&one, 1u8), (&two, 2u8)] {
            let mut staging = blobs.stage(&id).await.unwrap();
            staging.restore(&state, Algorithm::Sha256).await.unwrap();
            let mut bytes = start[..saved].to_vec();
            bytes.resize(saved + (10 << 20), end);
            staging.append(Bytes::copy_from_slice(&bytes[saved..])).await.unwrap();
            writers.push((staging, bytes));
        }
        let mut committed = 0;
        for (mut staging, bytes) in writers {
            let digest = Digest::sha256(&bytes);
            let key: BlobKey = staging.verify(&digest).await.unwrap().key;
            match staging.commit(&digest).await {
                Ok(()) => {
                    committed += 1;
                    let size = bytes.len() as u64;
                    let pieces = one.read(&key, size, 0, size).await.unwrap();
                    let got: Vec<Bytes> = futures::TryStreamExt::try_collect(pieces).await.unwrap();
                    assert!(got.concat() == bytes, "a commit took the bytes of another writer");
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::UploadUnknown, "{e}"),
            }
        }
        assert!(committed >= 1, "nobody came to an end from {saved} bytes");
        let mut staging = one.stage(&id).await.unwrap();
        staging.discard().await.unwrap();
        assert!(one.leftovers(SystemTime::now() + Duration::from_secs(60)).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_belongs_to_one_registry() {
    let Some(server) = given::<&S3Server>("a_place_belongs_to_one", S3Server::running()) else { return };
    let bucket = server.bucket();
    let (one, two) = (blobs_at(server.host(), &bucket), blobs_at(server.host(), &bucket));
    let (first, second) = tokio::join!(one.take("one"), two.take("two"));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let (owner, other) = if first.is_ok() { ("one", "two") } else { ("two", "one") };
    one.take(owner).await.unwrap();
    two.take(owner).await.unwrap();
    assert_eq!(two.take(other).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(one.list(None, 10).await.unwrap().items.is_empty(), "the id is listed as a blob");
}

/// Two servers write to one upload from the same offset. The one that saves later is told so, and the bytes of the other stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_of_two_saves_is_rejected() {
    let (objects, meta) = (Arc::new(InMemory::new()), meta::MemoryMeta::default());
    let open = || {
        let blobs = S3Blobs::over(objects.clone(), "s3://memory".parse().unwrap());
        Composed::new(blobs, meta.clone())
    };
    let (one, two, name) = (open(), open(), RepositoryName::parse("a").unwrap());
    let id = one.start_upload(&name, Default::default()).await.unwrap().id().clone();
    let mut first = one.resume_upload(&name, &id).await.unwrap();
    let mut second = two.resume_upload(&name, &id).await.unwrap();
    first.append(Bytes::from_static(b"first ")).await.unwrap();
    second.append(Bytes::from_static(b"second, and longer")).await.unwrap();
    first.save().await.unwrap();
    assert_eq!(second.save().await.unwrap_err().kind(), ErrorKind::RangeInvalid);
    drop(second);
    let mut upload = two.resume_upload(&name, &id).await.unwrap();
    assert_eq!(upload.offset(), 6);
    upload.append(Bytes::from_static(b"last")).await.unwrap();
    let digest = Digest::sha256("first last");
    upload.finish(&digest).await.unwrap();
    assert_eq!(one.read_blob(&name, &digest, 100).await.unwrap(), "first last");
}

/// While one server reads the state of an upload, another one saves it twice, and what the state needs goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_moves_while_it_is_restored_goes_on() {
    let Some(server) = given::<&S3Server>("an_upload_that_moves", S3Server::running()) else { return };
    let (bucket, meta) = (server.bucket(), meta::MemoryMeta::default());
    let direct = Composed::new(blobs_at(server.host(), &bucket), meta.clone());
    let name = RepositoryName::parse("a").unwrap();
    let mut upload = direct.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(Bytes::from_static(b"1")).await.unwrap();
    upload.save().await.unwrap();
    let (sender, moves) = std::sync::mpsc::sync_channel::<()>(0);
    let (moved, has_moved) = std::sync::mpsc::sync_channel::<()>(0);
    let (moved, moving) = (Mutex::new((moves, moved)), direct.clone());
    let (of, upload_id) = (name.clone(), id.clone());
    let mover = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (moves, moved) = moved.into_inner().unwrap();
        moves.recv().unwrap();
        runtime.block_on(async {
            for piece in ["2", "3"] {
                let mut upload = moving.resume_upload(&of, &upload_id).await.unwrap();
                upload.append(Bytes::from_static(piece.as_bytes())).await.unwrap();
                upload.save().await.unwrap();
            }
        });
        moved.send(()).unwrap();
    });
    let once = Mutex::new(Some((sender, has_moved)));
    let act = move |method: &str, target: &str| {
        let is_tail = method == "GET" && target.contains("tail-");
        if let Some((sender, has_moved)) = is_tail.then(|| once.lock().unwrap().take()).flatten() {
            sender.send(()).unwrap();
            has_moved.recv().unwrap();
        }
        Act::Pass
    };
    let front = Front::start(server.host(), act).await;
    let other = Composed::new(blobs_at(&front.host, &bucket), meta);
    let mut upload = other.resume_upload(&name, &id).await.unwrap();
    let error = upload.append(Bytes::from_static(b"x")).await.unwrap_err();
    mover.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::RangeInvalid, "{error}");
    let upload = other.resume_upload(&name, &id).await.unwrap();
    assert_eq!(upload.offset(), 3);
    let digest = Digest::sha256("123");
    upload.finish(&digest).await.unwrap();
    assert_eq!(direct.read_blob(&name, &digest, 100).await.unwrap(), "123");
}

/// A writer with a wrong digest does not remove the object that another one has made a blob of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_digest_does_not_remove_the_blob_of_another_writer() {
    let Some(server) = given::<&S3Server>("a_wrong_digest", S3Server::running()) else { return };
    let bucket = server.bucket();
    let (one, two) = (blobs_at(server.host(), &bucket), blobs_at(server.host(), &bucket));
    let (id, bytes) = (UploadId::random().unwrap(), content((9 << 20) + 1));
    let mut writers = Vec::new();
    let state = {
        let mut staging = one.stage(&id).await.unwrap();
        staging.restore(&StagedState::default(), Algorithm::Sha256).await.unwrap();
        staging.append(bytes.clone()).await.unwrap();
        staging.save().await.unwrap()
    };
    for blobs in [&one, &two] {
        let mut staging = blobs.stage(&id).await.unwrap();
        staging.restore(&state, Algorithm::Sha256).await.unwrap();
        writers.push(staging);
    }
    let digest = Digest::sha256(&bytes);
    let key = writers[0].verify(&digest).await.unwrap().key;
    writers[0].commit(&digest).await.unwrap();
    let wrong = Algorithm::Sha512.digest(b"other");
    assert_eq!(writers[1].verify(&wrong).await.unwrap_err().kind(), ErrorKind::DigestInvalid);
    writers[1].discard().await.unwrap();
    assert_eq!(one.sizes(&[key]).await.unwrap(), [Some(bytes.len() as u64)], "the blob was removed");
}
