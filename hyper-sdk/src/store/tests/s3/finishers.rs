//! Two servers that end one upload, and one that ends it again: nothing that was acknowledged is ever unreadable.
//!
//! The claims of these servers end at once, as if each had stopped for longer than its claim: whatever they then do at the
//! same time must be safe without it. What claims do is tested in `claims.rs`.

use super::*;
use crate::clock::{Clock as _, FrozenClock, SystemClock};
use crate::digest::Algorithm;
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::meta::{Change, MemoryMeta};
use crate::store::wrap::{FaultPlan, FaultyMeta};
use crate::testing::{Act, Front, given};
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// More than one part.
const LARGE: usize = (9 << 20) + 5;

type Store = Composed<S3Blobs, FaultyMeta<MemoryMeta>>;

/// A bucket and the metadata, which servers share.
struct Shared {
    server: &'static S3Server,
    bucket: String,
    meta: MemoryMeta,
    name: RepositoryName,
}

impl Shared {
    fn new(case: &str) -> Option<Self> {
        let server = given::<&S3Server>(case, S3Server::running())?;
        let name = RepositoryName::parse("a").unwrap();
        Some(Self { server, bucket: server.bucket(), meta: MemoryMeta::default(), name })
    }

    /// A server, and the faults of its database.
    fn server(&self) -> (Store, FaultPlan) {
        self.server_at(self.server.host())
    }

    fn server_at(&self, host: &str) -> (Store, FaultPlan) {
        let plan = FaultPlan::none();
        let meta = FaultyMeta::new(self.meta.clone(), plan.clone());
        (Composed::new(blobs_at(host, &self.bucket), meta).claiming(0), plan)
    }

    async fn front(&self, act: impl Fn(&str, &str) -> Act + Send + Sync + 'static) -> Front {
        Front::start(self.server.host(), act).await
    }

    /// An upload with saved bytes.
    async fn saved(&self, bytes: &[u8]) -> UploadId {
        let (store, _) = self.server();
        let mut upload = store.start_upload(&self.name, Default::default()).await.unwrap();
        upload.append(Bytes::copy_from_slice(bytes)).await.unwrap();
        upload.save().await.unwrap();
        upload.id().clone()
    }

    /// Ends an upload at a server with the rest of its bytes.
    async fn end(&self, store: &Store, id: &UploadId, bytes: &Bytes) -> Result<Descriptor> {
        self.end_as(store, id, bytes, &Digest::sha256(bytes)).await
    }

    /// Ends an upload at a server with the rest of its bytes, and a digest of its own.
    async fn end_as(
        &self,
        store: &Store,
        id: &UploadId,
        bytes: &Bytes,
        digest: &Digest,
    ) -> Result<Descriptor> {
        let mut upload = store.resume_upload(&self.name, id).await?;
        upload.append(bytes.slice(upload.offset() as usize..)).await?;
        upload.finish(digest).await
    }

    async fn read(&self, bytes: &Bytes) -> Result<Bytes> {
        self.server().0.read_blob(&self.name, &Digest::sha256(bytes), 64 << 20).await
    }

    /// How many objects of blobs, and how many beside uploads, are in the bucket.
    async fn objects(&self) -> (usize, usize) {
        let blobs = blobs_at(self.server.host(), &self.bucket);
        (blobs.objects("blobs").await, blobs.objects("uploads").await)
    }
}

fn content(seed: u64, size: usize) -> Bytes {
    crate::testing::Random::new(seed).bytes(size).into()
}

fn is_completion(method: &str, target: &str) -> bool {
    method == "POST" && target.contains("uploadId=")
}

/// One server is told that the upload does not exist, while another one is about to put it together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_another_server_has_begun_can_be_sent_again() {
    for code in ["NoSuchUpload", "InvalidPart"] {
        let Some(shared) = Shared::new("a_completion_of_another_server") else { return };
        let front = shared.front(move |method, target| match is_completion(method, target) {
            true => Act::Answer(if code == "InvalidPart" { 400 } else { 404 }, code),
            false => Act::Pass,
        });
        let front = front.await;
        let ((one, _), (two, _)) = (shared.server(), shared.server_at(&front.host));
        let bytes = content(1, LARGE);
        let id = shared.saved(&bytes).await;
        let error = shared.end(&two, &id, &bytes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        // The upload is as it was: the other server ends it.
        shared.end(&one, &id, &bytes).await.unwrap();
        assert!(shared.read(&bytes).await.unwrap() == bytes);
        assert_eq!(shared.objects().await, (1, 0));
    }
}

/// The second of two servers finds what the first one has put together meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_of_another_server_is_found() {
    let Some(shared) = Shared::new("a_completion_is_found") else { return };
    let looks = Mutex::new(0);
    let front = shared.front(move |method, target| match is_completion(method, target) {
        true => Act::Answer(404, "NoSuchUpload"),
        // It has looked for the object once, and the second look waits for the first server.
        false if method == "HEAD" => {
            let mut looks = looks.lock().unwrap();
            *looks += 1;
            if *looks == 2 { Act::Hold } else { Act::Pass }
        }
        false => Act::Pass,
    });
    let front = front.await;
    let ((one, _), (two, _)) = (shared.server(), shared.server_at(&front.host));
    let bytes = content(2, LARGE);
    let id = shared.saved(&bytes).await;
    let first = async {
        front.held().await;
        let first = shared.end(&one, &id, &bytes).await;
        front.release();
        first
    };
    let (first, second) = tokio::join!(first, shared.end(&two, &id, &bytes));
    first.unwrap();
    second.unwrap();
    assert!(shared.read(&bytes).await.unwrap() == bytes);
    assert_eq!(shared.objects().await, (1, 0));
}

/// The object is there, the link failed, and the client sends the last bytes again: with the request that ends the upload, or
/// with one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_bytes_can_be_sent_again_when_the_link_failed() {
    for saved in [LARGE, 8 << 20] {
        for extra in [3, 20 << 20] {
            for is_patched in [false, true] {
                let Some(shared) = Shared::new("the_last_bytes_again") else { return };
                let (store, plan) = shared.server();
                let bytes = content(3, saved + extra);
                let id = shared.saved(&bytes[..saved]).await;
                plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::LinkBlob { .. }));
                let error = shared.end(&store, &id, &bytes).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                if is_patched {
                    for _ in 0..2 {
                        let mut upload = store.resume_upload(&shared.name, &id).await.unwrap();
                        let from = upload.offset() as usize;
                        let to = bytes.len().min(from + extra / 2 + 2);
                        upload.append(bytes.slice(from..to)).await.unwrap();
                        upload.save().await.unwrap();
                    }
                    let upload = store.resume_upload(&shared.name, &id).await.unwrap();
                    assert_eq!(upload.offset(), bytes.len() as u64);
                }
                shared.end(&store, &id, &bytes).await.unwrap_or_else(|e| panic!("{saved} {extra}: {e:?}"));
                assert!(shared.read(&bytes).await.unwrap() == bytes);
                assert_eq!(shared.objects().await, (1, 0), "{saved} {extra} {is_patched}");
            }
        }
    }
}

/// What was put together is read before it is believed: a client that sends other bytes gets no blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_last_bytes_make_no_blob_of_what_was_put_together() {
    let Some(shared) = Shared::new("other_last_bytes") else { return };
    let (store, plan) = shared.server();
    let bytes = content(4, LARGE);
    let id = shared.saved(&bytes).await;
    plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::LinkBlob { .. }));
    let all: Bytes = [&bytes[..], &content(5, 1 << 20)[..]].concat().into();
    shared.end(&store, &id, &all).await.unwrap_err();
    let other: Bytes = [&bytes[..], &content(6, 1 << 20)[..]].concat().into();
    let error = shared.end(&store, &id, &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UploadUnknown, "{error}");
    assert!(!store.has_blob(&shared.name, &Digest::sha256(&other)).await.unwrap());
    // The right ones still end it.
    shared.end(&store, &id, &all).await.unwrap();
    assert!(shared.read(&all).await.unwrap() == all);
}

/// Two servers finish one upload at once, with last bytes that differ and are as many. The one whose content is recorded first
/// wins, whatever order their requests have at the bucket; the blob of a digest has that digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finishers_with_other_last_bytes_make_no_blob_of_each_others() {
    for (case, algorithm) in [Algorithm::Sha256, Algorithm::Sha256, Algorithm::Sha512].iter().enumerate() {
        let Some(shared) = Shared::new("finishers_with_other_last_bytes") else { return };
        let shared = Arc::new(shared);
        // What one of them sends last is held until the other one has made the object. That one's link fails, or does not.
        let front = shared.front(|method, target| match is_completion(method, target) {
            true => Act::Hold,
            false => Act::Pass,
        });
        let front = front.await;
        let ((one, plan), (two, _)) = (shared.server(), shared.server_at(&front.host));
        let start = content(20, LARGE);
        let with = |end: &Bytes| Bytes::from([&start[..], &end[..]].concat());
        let (first, second) = (with(&content(21, 1000)), with(&content(22, 1000)));
        let id = shared.saved(&start).await;
        let (sharing, upload, bytes) = (Arc::clone(&shared), id.clone(), second.clone());
        let digest = algorithm.digest(&second);
        let late = tokio::spawn(async move { sharing.end_as(&two, &upload, &bytes, &digest).await });
        front.held().await;
        if case != 1 {
            plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::LinkBlob { .. }));
        }
        let early = shared.end(&one, &id, &first).await;
        front.release();
        let late = late.await.unwrap();
        for (bytes, outcome) in [(&first, &early), (&second, &late)] {
            if let Ok(blob) = outcome {
                let read = one.read_blob(&shared.name, &blob.digest, 64 << 20).await.unwrap();
                assert!(read == *bytes, "{case}: a blob has the bytes of another one");
            }
        }
        assert_eq!(early.unwrap_err().kind(), ErrorKind::UploadUnknown, "{case}");
        late.unwrap_or_else(|e| panic!("{case}: {e:?}"));
        assert!(!one.has_blob(&shared.name, &Digest::sha256(&first)).await.unwrap());
        assert_eq!(shared.objects().await, (1, 0), "{case}");
    }
}

/// The same without an order: whatever was acknowledged can be read, and has its digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finishers_in_any_order_make_blobs_of_their_own_bytes() {
    for round in 0..12 {
        let Some(shared) = Shared::new("finishers_in_any_order") else { return };
        let shared = Arc::new(shared);
        let random = crate::testing::Random::new(round).bytes(8);
        let pauses = std::sync::Mutex::new(random.into_iter());
        let front = shared.front(move |_, _| {
            let pause = pauses.lock().unwrap().next().unwrap_or(0);
            Act::Late(Duration::from_millis(u64::from(pause) / 16))
        });
        let front = front.await;
        let start = content(round, LARGE);
        let id = shared.saved(&start).await;
        let ends = (0..3u64).map(|number| {
            let host = if number == 0 { shared.server.host() } else { &front.host };
            let (store, plan) = shared.server_at(host);
            if (round + number) % 3 == 0 {
                plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::LinkBlob { .. }));
            }
            // Two of three have the same end.
            let bytes = Bytes::from([&start[..], &content(100 + number % 2, 500)[..]].concat());
            let (shared, id) = (Arc::clone(&shared), id.clone());
            tokio::spawn(async move {
                let outcome = shared.end(&store, &id, &bytes).await;
                (outcome, bytes)
            })
        });
        for ended in futures::future::join_all(ends.collect::<Vec<_>>()).await {
            let (outcome, bytes) = ended.unwrap();
            match outcome {
                Ok(_) => assert!(shared.read(&bytes).await.unwrap() == bytes, "round {round}"),
                Err(e) => assert!(
                    matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::UploadUnknown),
                    "round {round}: {e:?}"
                ),
            }
        }
    }
}

/// A server that has died while it finished an upload does not keep another one from it, and its claim ends with the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_takes_over_from_a_finisher_that_died() {
    let Some(shared) = Shared::new("a_finisher_that_died") else { return };
    let front = shared.front(|method, target| match is_completion(method, target) {
        true => Act::Hold,
        false => Act::Pass,
    });
    let front = front.await;
    let ((one, _), (two, _)) = (shared.server(), shared.server_at(&front.host));
    let bytes = content(23, LARGE + 1000);
    let id = shared.saved(&bytes[..LARGE]).await;
    let shared = Arc::new(shared);
    let (sharing, upload, all) = (Arc::clone(&shared), id.clone(), bytes.clone());
    let died = tokio::spawn(async move { sharing.end(&two, &upload, &all).await });
    front.held().await;
    died.abort();
    assert!(died.await.unwrap_err().is_cancelled());
    shared.end(&one, &id, &bytes).await.unwrap();
    // What it had sent arrives now.
    front.release();
    assert!(shared.read(&bytes).await.unwrap() == bytes);
    assert_eq!(shared.objects().await, (1, 0));
}

/// What is sent again after the object was made must be what it has: nobody else has the bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_a_made_object_does_not_have_are_refused() {
    for case in ["other", "more", "less"] {
        let Some(shared) = Shared::new("a_made_object") else { return };
        let (store, plan) = shared.server();
        let bytes = content(24, LARGE + (9 << 20));
        let id = shared.saved(&bytes[..LARGE]).await;
        plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::LinkBlob { .. }));
        shared.end(&store, &id, &bytes).await.unwrap_err();
        let mut end = bytes[LARGE..].to_vec();
        match case {
            "other" => end[8 << 20] ^= 1,
            "more" => end.push(7),
            _ => end.truncate(8 << 20),
        }
        let mut upload = store.resume_upload(&shared.name, &id).await.unwrap();
        let mut appended = Ok(());
        for piece in end.chunks(1 << 20) {
            appended = upload.append(Bytes::copy_from_slice(piece)).await;
            if appended.is_err() {
                break;
            }
        }
        if case == "less" {
            appended.unwrap();
            upload.save().await.unwrap();
            // The rest of them ends it.
            shared.end(&store, &id, &bytes).await.unwrap();
            assert!(shared.read(&bytes).await.unwrap() == bytes);
            continue;
        }
        assert_eq!(appended.unwrap_err().kind(), ErrorKind::UploadUnknown, "{case}");
        drop(upload);
        // That client begins again. Whoever has the right ones ends it.
        shared.end(&store, &id, &bytes).await.unwrap();
        assert!(shared.read(&bytes).await.unwrap() == bytes);
        assert_eq!(shared.objects().await, (1, 0));
    }
}

/// Parts that are lost, or that are not those that were sent, are missing for ever: at first the client is asked to come
/// again, as another server may be finishing the upload, and then it begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_parts_are_lost_ends() {
    for (case, is_patched) in [("NoSuchUpload", true), ("NoSuchUpload", false), ("InvalidPart", false)] {
        let Some(shared) = Shared::new("lost_parts") else { return };
        let lost = move |method: &str, target: &str| {
            is_completion(method, target) || is_patched && method == "PUT" && target.contains("uploadId=")
        };
        let front = shared.front(move |method, target| match lost(method, target) {
            true => Act::Answer(if case == "InvalidPart" { 400 } else { 404 }, case),
            false => Act::Pass,
        });
        let front = front.await;
        let (store, _) = shared.server_at(&front.host);
        let clock = Arc::new(FrozenClock::new(SystemClock.now()));
        let store = store.with_clock(clock.clone());
        let bytes = content(25, LARGE + (8 << 20));
        let id = shared.saved(&bytes[..LARGE]).await;
        let end = async || match is_patched {
            true => {
                let mut upload = store.resume_upload(&shared.name, &id).await?;
                let outcome = upload.append(bytes.slice(LARGE..)).await.map(drop);
                // As a server does after a request that failed.
                let _ = upload.save().await;
                outcome
            }
            false => shared.end(&store, &id, &bytes).await.map(drop),
        };
        for minutes in [0, 9] {
            clock.advance(minutes * 60);
            let error = end().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{case}: {error}");
        }
        clock.advance(2 * 60);
        let error = end().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UploadUnknown, "{case}: {error}");
        assert_eq!(shared.objects().await, (0, 0), "{case}");
        assert_eq!(end().await.unwrap_err().kind(), ErrorKind::UploadUnknown);
    }
}

/// A session that ends while its object is made, by a client that gives up or by its age: nothing of it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_its_object_is_made_leaves_nothing() {
    for is_aborted in [true, false] {
        let Some(shared) = Shared::new("a_session_that_ends") else { return };
        let front = shared.front(|method, target| match is_completion(method, target) {
            true => Act::Hold,
            false => Act::Pass,
        });
        let front = front.await;
        let ((one, _), (two, _)) = (shared.server(), shared.server_at(&front.host));
        let bytes = content(26, LARGE);
        let id = shared.saved(&bytes).await;
        let shared = Arc::new(shared);
        let (sharing, upload, all) = (Arc::clone(&shared), id.clone(), bytes.clone());
        let finishing = tokio::spawn(async move { sharing.end(&two, &upload, &all).await });
        front.held().await;
        match is_aborted {
            true => one.resume_upload(&shared.name, &id).await.unwrap().abort().await.unwrap(),
            false => {
                let clock = Arc::new(FrozenClock::new(SystemClock.now() + 7200));
                let later = shared.server().0.with_clock(clock);
                assert_eq!(later.expire_uploads(Duration::from_secs(3600)).await.unwrap(), 1);
            }
        }
        front.release();
        let error = finishing.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::UploadUnknown), "{error}");
        assert!(!one.has_blob(&shared.name, &Digest::sha256(&bytes)).await.unwrap());
        assert_eq!(shared.objects().await, (0, 0), "aborted: {is_aborted}");
    }
}

/// The database loses the answer to the link, or fails in what follows a refused one: the bytes stay until it is known that
/// no row names them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_fails_after_a_link_loses_no_bytes() {
    let Some(shared) = Shared::new("a_database_that_fails") else { return };
    let (store, plan) = shared.server();
    let bytes = content(27, LARGE);
    for failing in 1.. {
        let id = shared.saved(&bytes).await;
        plan.after_the_operation(true);
        plan.fail_at(failing);
        let outcome = shared.end(&store, &id, &bytes).await;
        let has_failed = plan.has_failed();
        plan.after_the_operation(false);
        plan.fail_at(0);
        if outcome.is_ok() || store.has_blob(&shared.name, &Digest::sha256(&bytes)).await.unwrap() {
            assert!(shared.read(&bytes).await.unwrap() == bytes, "{failing}");
        }
        if !has_failed {
            break;
        }
        shared.end(&store, &id, &bytes).await.ok();
        let link = store.delete_blob(&shared.name, &Digest::sha256(&bytes)).await;
        link.unwrap_or_else(|e| panic!("{failing}: the upload could not be finished: {e:?}"));
    }
}

/// Two servers have the whole content; one links it, and then the other one. Both say that it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_finishers_finds_the_blob_of_the_first() {
    for size in [100_000, LARGE] {
        let Some(shared) = Shared::new("the_second_finisher") else { return };
        let ((one, _), (two, _)) = (shared.server(), shared.server());
        let bytes = content(7, size);
        let digest = Digest::sha256(&bytes);
        let id = shared.saved(&bytes[..size - 5]).await;
        let mut uploads = Vec::new();
        for store in [&one, &two] {
            let mut upload = store.resume_upload(&shared.name, &id).await.unwrap();
            upload.append(bytes.slice(size - 5..)).await.unwrap();
            uploads.push(upload);
        }
        for upload in uploads {
            upload.finish(&digest).await.unwrap();
            assert!(shared.read(&bytes).await.unwrap() == bytes);
        }
        assert_eq!(shared.objects().await, (1, 0), "{size}");
    }
}

/// The link of one server is refused. Before it removes the object, another one links it: then the object stays, or the link
/// of the other is refused, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_link_removes_no_object_that_another_server_links() {
    let Some(shared) = Shared::new("a_refused_link") else { return };
    let shared = Arc::new(shared);
    let bytes = content(8, LARGE);
    let id = shared.saved(&bytes).await;
    let (two, _) = shared.server();
    let mut other = two.resume_upload(&shared.name, &id).await.unwrap();
    other.append(Bytes::new()).await.unwrap();
    let is_removing = AtomicBool::new(false);
    let front = shared.front(move |method, target| {
        // The first deletion is that of the object; the store deletes with either method.
        let is_deletion = method == "DELETE" || method == "POST" && target.ends_with("?delete");
        match is_deletion && !is_removing.swap(true, Ordering::SeqCst) {
            true => Act::Hold,
            false => Act::Pass,
        }
    });
    let front = front.await;
    let (one, plan) = shared.server_at(&front.host);
    plan.refuse(ErrorKind::StorageFull, |change| matches!(change, Change::LinkBlob { .. }));
    let (sharing, upload, all) = (Arc::clone(&shared), id.clone(), bytes.clone());
    let refused = tokio::spawn(async move { sharing.end(&one, &upload, &all).await });
    front.held().await;
    let outcome = other.finish(&Digest::sha256(&bytes)).await;
    front.release();
    assert_eq!(refused.await.unwrap().unwrap_err().kind(), ErrorKind::StorageFull);
    match outcome {
        Ok(_) => assert!(shared.read(&bytes).await.unwrap() == bytes, "an acknowledged blob is unreadable"),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::UploadUnknown, "{e}");
            assert_eq!(shared.objects().await, (0, 0), "an object of nobody was left");
        }
    }
}

/// The other order: the link of one server is refused when the blob is linked already. Its row may have got another key since,
/// while clients read what the first one named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_link_removes_no_object_that_another_server_has_linked() {
    for is_pushed_again in [false, true] {
        let Some(shared) = Shared::new("a_refused_link_after") else { return };
        let shared = Arc::new(shared);
        let bytes = content(9, LARGE);
        let digest = Digest::sha256(&bytes);
        let id = shared.saved(&bytes).await;
        let front = shared.front(|method, target| match is_completion(method, target) {
            true => Act::Hold,
            false => Act::Pass,
        });
        let front = front.await;
        let ((one, _), (two, plan)) = (shared.server(), shared.server_at(&front.host));
        plan.refuse(ErrorKind::StorageFull, |change| matches!(change, Change::LinkBlob { .. }));
        let (sharing, upload, all) = (Arc::clone(&shared), id.clone(), bytes.clone());
        let late = tokio::spawn(async move { sharing.end(&two, &upload, &all).await });
        front.held().await;
        shared.end(&one, &id, &bytes).await.unwrap();
        if is_pushed_again {
            one.put_blob(&shared.name, &digest, bytes.clone()).await.unwrap();
        }
        front.release();
        assert_eq!(late.await.unwrap().unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(shared.read(&bytes).await.unwrap() == bytes, "an acknowledged blob is unreadable");
        // One that nothing names any more is left to a collector.
        assert_eq!(shared.objects().await.0, 1 + usize::from(is_pushed_again));
    }
}
