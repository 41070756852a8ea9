//! Two servers that write to one upload, where the tags of parts say nothing about their content: what a client was told of
//! is never replaced.

use super::*;
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::meta::{Change, MemoryMeta, MetaBackend as _};
use crate::testing::{Act, Front, given};
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;
use std::time::Duration;

const MIB: usize = 1 << 20;

type Store = Composed<S3Blobs, MemoryMeta>;

fn content(seed: u64, size: usize) -> Bytes {
    crate::testing::Random::new(seed).bytes(size).into()
}

/// A bucket, the metadata, and a session with nine saved mebibytes.
struct Session {
    server: &'static S3Server,
    bucket: String,
    meta: MemoryMeta,
    name: RepositoryName,
    bytes: Bytes,
    id: UploadId,
}

impl Session {
    async fn new(case: &str) -> Option<Self> {
        let server = given::<&S3Server>(case, S3Server::running())?;
        let (bucket, meta, name) =
            (server.bucket(), MemoryMeta::default(), RepositoryName::parse("a").unwrap());
        let bytes = content(1, 30 * MIB);
        let store = Composed::new(blobs_at(server.host(), &bucket), meta.clone());
        let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
        upload.append(bytes.slice(..9 * MIB)).await.unwrap();
        upload.save().await.unwrap();
        let id = upload.id().clone();
        Some(Self { server, bucket, meta, name, bytes, id })
    }

    fn store(&self, host: &str) -> Store {
        Composed::new(blobs_at(host, &self.bucket), self.meta.clone())
    }

    fn direct(&self) -> Store {
        self.store(self.server.host())
    }

    /// Appends bytes to what is saved, and saves them.
    async fn patch(&self, store: &Store, bytes: Bytes) -> Result<u64> {
        let mut upload = store.resume_upload(&self.name, &self.id).await?;
        upload.append(bytes).await?;
        upload.save().await?;
        Ok(upload.offset())
    }

    async fn finish(&self, store: &Store, bytes: &Bytes) -> Result<()> {
        let mut upload = store.resume_upload(&self.name, &self.id).await?;
        upload.append(bytes.slice(upload.offset() as usize..)).await?;
        upload.finish(&Digest::sha256(bytes)).await.map(drop)
    }

    async fn read(&self) -> Bytes {
        self.direct().read_blob(&self.name, &Digest::sha256(&self.bytes), 64 << 20).await.unwrap()
    }
}

fn is_part(method: &str, target: &str) -> bool {
    method == "PUT" && target.contains("partNumber=")
}

fn is_completion(method: &str, target: &str) -> bool {
    method == "POST" && target.contains("uploadId=")
}

/// The part of the one that loses arrives after the other one was told that its bytes are saved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_part_replaces_none_that_was_saved() {
    let Some(session) = Session::new("a_late_part").await else { return };
    let session = Arc::new(session);
    let front =
        Front::start(
            session.server.host(),
            |method, target| {
                if is_part(method, target) { Act::Hold } else { Act::Pass }
            },
        );
    let front = front.await;
    let (slow, fast) = (session.store(&front.host), session.direct());
    let (sharing, other) = (Arc::clone(&session), content(2, 12 * MIB));
    let late = tokio::spawn(async move { sharing.patch(&slow, other).await });
    front.held().await;
    let more = session.bytes.slice(9 * MIB..20 * MIB);
    let mine = session.patch(&fast, more.clone()).await;
    front.release();
    let late = late.await.unwrap();
    match (mine, late) {
        // Whoever is told that the bytes are saved ends with them.
        (Ok(_), Err(_)) => session.finish(&fast, &session.bytes).await.unwrap(),
        (Err(e), Ok(_)) => {
            assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
            assert!(e.retry_after().is_some(), "{e}");
            let all: Bytes = [&session.bytes[..9 * MIB], &content(2, 12 * MIB)[..]].concat().into();
            session.finish(&fast, &all).await.unwrap();
            let read = fast.read_blob(&session.name, &Digest::sha256(&all), 64 << 20).await.unwrap();
            assert!(read == all);
            return;
        }
        both => panic!("not one of two writers saved: {both:?}"),
    }
    assert!(session.read().await == session.bytes);
}

/// A bucket whose tags say nothing, as with keys of its own: the same bytes have another tag each time they are sent. A part
/// that failed may still arrive, so nobody writes it again before that is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_failed_keeps_its_claim() {
    let Some(session) = Session::new("a_part_that_failed").await else { return };
    let front = Front::start(session.server.host(), |method, target| {
        if is_part(method, target) { Act::Answer(503, "SlowDown") } else { Act::Pass }
    });
    let front = front.await;
    let failing = session.store(&front.host);
    let mut upload = failing.resume_upload(&session.name, &session.id).await.unwrap();
    upload.append(session.bytes.slice(9 * MIB..10 * MIB)).await.unwrap();
    let error = upload.append(session.bytes.slice(10 * MIB..20 * MIB)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // What came before is saved, as a server does.
    upload.save().await.unwrap();
    drop(upload);
    for store in [&failing, &session.direct()] {
        let error = session.finish(store, &session.bytes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.retry_after().is_some_and(|left| left.as_secs() <= 60), "{error}");
    }
    assert_eq!(session.meta.upload(&session.id).await.unwrap().unwrap().state.offset, 10 * MIB as u64);
    // Its time is over.
    let writer = "another".to_owned();
    let claim =
        Change::ClaimUpload { id: session.id.clone(), from: 10 << 20, writer, seconds: -1, renews: false };
    assert_eq!(session.meta.write(claim).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

/// While one server finishes an upload, another one neither ends it, nor lets it expire, nor finishes it with other content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_ends_an_upload_that_another_server_finishes() {
    let Some(session) = Session::new("nobody_ends_an_upload").await else { return };
    let session = Arc::new(session);
    let front = Front::start(session.server.host(), |method, target| {
        if is_completion(method, target) { Act::Hold } else { Act::Pass }
    });
    let front = front.await;
    let (one, two) = (session.store(&front.host), session.direct());
    let sharing = Arc::clone(&session);
    let first = tokio::spawn(async move { sharing.finish(&one, &sharing.bytes).await });
    front.held().await;
    let start = session.bytes.slice(..9 * MIB);
    for other in [content(3, 5), content(3, 12 * MIB)] {
        let other: Bytes = [&start[..], &other[..]].concat().into();
        let error = session.finish(&two, &other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    // Also with a wrong digest, which would end a session of its own.
    let upload = two.resume_upload(&session.name, &session.id).await.unwrap();
    let error = upload.finish(&Digest::sha256("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let upload = two.resume_upload(&session.name, &session.id).await.unwrap();
    assert_eq!(upload.abort().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let later = Arc::new(crate::clock::FrozenClock::new(i64::MAX / 2));
    let expired = session.direct().with_clock(later).expire_uploads(Duration::from_secs(60)).await.unwrap();
    assert_eq!(expired, 0);
    front.release();
    first.await.unwrap().unwrap();
    assert!(session.read().await == session.bytes);
}

/// A writer whose claim has ended and who does not know it saves nothing that another one may have replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_slept_saves_nothing() {
    let Some(session) = Session::new("a_writer_that_slept").await else { return };
    let (asleep, awake) = (session.direct().claiming(0), session.direct().claiming(0));
    let mut first = asleep.resume_upload(&session.name, &session.id).await.unwrap();
    first.append(session.bytes.slice(9 * MIB..20 * MIB)).await.unwrap();
    {
        // It replaces the part, and its request ends without a save.
        let mut second = awake.resume_upload(&session.name, &session.id).await.unwrap();
        second.append(content(4, 11 * MIB)).await.unwrap();
    }
    let error = first.save().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    drop(first);
    session.finish(&awake, &session.bytes).await.unwrap();
    assert!(session.read().await == session.bytes);
}

/// The right content still ends a session that wrong content could not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_content_seals_nothing() {
    let Some(session) = Session::new("wrong_content").await else { return };
    let plan = crate::store::wrap::FaultPlan::none();
    let faulty = crate::store::wrap::FaultyMeta::new(session.meta.clone(), plan.clone());
    let store = Composed::new(blobs_at(session.server.host(), &session.bucket), faulty);
    let mut upload = store.resume_upload(&session.name, &session.id).await.unwrap();
    upload.append(content(5, 5)).await.unwrap();
    // The database is away when the session is to end.
    plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::EndUpload { .. }));
    let error = upload.finish(&Digest::sha256(&session.bytes)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestInvalid, "{error}");
    session.finish(&session.direct(), &session.bytes).await.unwrap();
    assert!(session.read().await == session.bytes);
}
