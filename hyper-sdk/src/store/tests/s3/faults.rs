//! What a bucket does wrong: nothing that was acknowledged gets lost, and nothing is acknowledged that is not there.

use super::*;
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::blob::BlobBackend as _;
use crate::testing::{Act, Front, given};
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// More than two parts.
const LARGE: usize = (17 << 20) + 5;

/// Bytes of a size. The first kibibyte of each mebibyte differs.
fn content(seed: u64, size: usize) -> Bytes {
    let mut bytes = vec![seed as u8; size];
    for (number, start) in (0..size).step_by(1 << 20).enumerate() {
        let end = size.min(start + 1024);
        let noise = crate::testing::Random::new(seed * 1000 + number as u64).bytes(end - start);
        bytes[start..end].copy_from_slice(&noise);
    }
    bytes.into()
}

/// A store whose metadata outlives the bucket's moods, in front of which `act` decides while it is switched on.
struct Place {
    store: Composed<S3Blobs, meta::MemoryMeta>,
    front: Front,
    faulty: Arc<AtomicUsize>,
    name: RepositoryName,
}

impl Place {
    /// `act` also gets the number of the requests that it was asked about.
    async fn new(case: &str, act: impl Fn(usize, &str, &str) -> Act + Send + Sync + 'static) -> Option<Self> {
        let server = given::<&S3Server>(case, S3Server::running())?;
        let bucket = server.bucket();
        let faulty = Arc::new(AtomicUsize::new(0));
        let switch = Arc::clone(&faulty);
        let front = Front::start(server.host(), move |method, target| {
            let asked = switch.load(Ordering::SeqCst);
            if asked == 0 {
                return Act::Pass;
            }
            let act = act(asked, method, target);
            if act != Act::Pass {
                switch.fetch_add(1, Ordering::SeqCst);
            }
            act
        });
        let front = front.await;
        // A part that failed may still arrive: what comes next waits for the end of the claim, here for none.
        let store = Composed::new(blobs_at(&front.host, &bucket), meta::MemoryMeta::default()).claiming(0);
        Some(Self { store, front, faulty, name: RepositoryName::parse("a").unwrap() })
    }

    fn begin(&self) {
        self.faulty.store(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.faulty.store(0, Ordering::SeqCst);
    }

    /// An upload with saved bytes.
    async fn saved(&self, bytes: &Bytes) -> UploadId {
        let mut upload = self.store.start_upload(&self.name, Default::default()).await.unwrap();
        upload.append(bytes.clone()).await.unwrap();
        upload.save().await.unwrap();
        upload.id().clone()
    }

    async fn resume(&self, id: &UploadId, bytes: &Bytes, digest: &Digest) -> Result<()> {
        let mut upload = self.store.resume_upload(&self.name, id).await?;
        upload.append(bytes.slice(upload.offset() as usize..)).await?;
        upload.finish(digest).await.map(drop)
    }

    async fn read(&self, digest: &Digest) -> Result<Bytes> {
        self.store.read_blob(&self.name, digest, 64 << 20).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_busy_for_a_moment_is_asked_again() {
    for (status, code) in [(503, "SlowDown"), (500, "InternalError")] {
        // Each request fails twice before it passes.
        let tries = Mutex::new(HashMap::<String, u32>::new());
        let act = move |_: usize, method: &str, target: &str| {
            let key = format!("{method} {target}");
            let mut tries = tries.lock().unwrap();
            let count = tries.entry(key).or_default();
            *count += 1;
            if *count <= 2 { Act::Answer(status, code) } else { Act::Pass }
        };
        let Some(place) = Place::new("a_busy_bucket", act).await else { return };
        let bytes = content(1, 9 << 20);
        let digest = Digest::sha256(&bytes);
        place.begin();
        place.store.put_blob(&place.name, &digest, bytes.clone()).await.unwrap();
        assert!(place.read(&digest).await.unwrap() == bytes);
        assert!(place.front.count("POST", "uploadId=") >= 3, "nothing failed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_bucket_fails_nothing_is_acknowledged_or_lost() {
    let small = content(2, 100_000);
    let large = content(3, LARGE);
    let kept = Digest::sha256(&small);
    for (method, part) in
        [("PUT", "partNumber="), ("POST", "uploads"), ("POST", "uploadId="), ("PUT", "tail-")]
    {
        let act = move |_: usize, asked: &str, target: &str| {
            if asked == method && target.contains(part) { Act::Answer(503, "SlowDown") } else { Act::Pass }
        };
        let Some(place) = Place::new("a_failing_bucket", act).await else { return };
        place.store.put_blob(&place.name, &kept, small.clone()).await.unwrap();
        let digest = Digest::sha256(&large);
        let first = large.slice(..(9 << 20));
        let id = place.saved(&first).await;
        place.begin();
        let mut upload = place.store.resume_upload(&place.name, &id).await.unwrap();
        let failed = async {
            upload.append(large.slice(first.len()..)).await?;
            upload.save().await?;
            upload.finish(&digest).await.map(drop)
        };
        let outcome = match (method, part) {
            // The upload has begun.
            ("POST", "uploads") => place.store.put_blob(&place.name, &digest, large.clone()).await.map(drop),
            _ => failed.await,
        };
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable, "{method} {part}");
        assert!(!place.store.has_blob(&place.name, &digest).await.unwrap(), "{method} {part}");
        place.end();
        // What was acknowledged is there, the bytes of the upload among it.
        assert!(place.read(&kept).await.unwrap() == small);
        assert!(place.store.resume_upload(&place.name, &id).await.unwrap().offset() >= first.len() as u64);
        place.resume(&id, &large, &digest).await.unwrap();
        assert!(place.read(&digest).await.unwrap() == large, "{method} {part}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_completion_is_no_error() {
    let act = |asked: usize, method: &str, target: &str| {
        let is_completion = method == "POST" && target.contains("uploadId=");
        if is_completion && asked == 1 { Act::LoseAnswer } else { Act::Pass }
    };
    let Some(place) = Place::new("a_lost_answer", act).await else { return };
    let bytes = content(4, LARGE);
    let digest = Digest::sha256(&bytes);
    place.begin();
    place.store.put_blob(&place.name, &digest, bytes.clone()).await.unwrap();
    assert_eq!(place.faulty.load(Ordering::SeqCst), 2, "no answer was lost");
    assert!(place.read(&digest).await.unwrap() == bytes);
}

/// The object under the digest may be an older one of the same size: the answer of the bucket is the only thing that says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_not_adopted_on_the_word_of_an_object_that_is_there() {
    let act =
        |asked: usize, method: &str, target: &str| match method == "POST" && target.contains("uploadId=") {
            true if asked == 1 => Act::LoseAnswer,
            true => Act::Drop,
            false => Act::Pass,
        };
    let Some(place) = Place::new("a_file_is_not_adopted", act).await else { return };
    let bytes = content(7, LARGE);
    let digest = Digest::sha256(&bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    std::fs::write(&path, &bytes).unwrap();
    place.begin();
    let error = place.store.blobs().adopt(&digest, &path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    place.end();
    assert_eq!(place.store.blobs().adopt(&digest, &path).await.unwrap(), LARGE as u64);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_never_arrived_is_an_error() {
    let act = |_: usize, method: &str, target: &str| {
        if method == "POST" && target.contains("uploadId=") { Act::Drop } else { Act::Pass }
    };
    let Some(place) = Place::new("a_completion_that_never_arrived", act).await else { return };
    let bytes = content(5, LARGE);
    let digest = Digest::sha256(&bytes);
    let id = place.saved(&bytes).await;
    place.begin();
    let error = place.resume(&id, &bytes, &digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!place.store.has_blob(&place.name, &digest).await.unwrap());
    place.end();
    place.resume(&id, &bytes, &digest).await.unwrap();
    assert!(place.read(&digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_goes_on_where_it_broke() {
    let act = |_: usize, method: &str, target: &str| {
        if method == "GET" && target.contains("/blobs/") { Act::Cut(3_000_000) } else { Act::Pass }
    };
    let Some(place) = Place::new("a_body_that_breaks_off", act).await else { return };
    let bytes = content(6, LARGE);
    let digest = Digest::sha256(&bytes);
    place.store.put_blob(&place.name, &digest, bytes.clone()).await.unwrap();
    place.begin();
    assert!(place.read(&digest).await.unwrap() == bytes);
    let requests = place.front.count("GET", "/blobs/");
    assert!((6..=12).contains(&requests), "{requests} requests");
    let range = crate::store::ByteRange::FromTo(5, Some(7_000_004));
    let reader = place.store.get_blob(&place.name, &digest, Some(range)).await.unwrap();
    let pieces: Vec<Bytes> = futures::TryStreamExt::try_collect(reader.stream).await.unwrap();
    assert!(pieces.concat() == bytes[5..7_000_005]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_never_comes_is_an_error_and_not_short() {
    let act = |_: usize, method: &str, target: &str| {
        if method == "GET" && target.contains("/blobs/") { Act::Cut(0) } else { Act::Pass }
    };
    let Some(place) = Place::new("a_body_that_never_comes", act).await else { return };
    let bytes = content(7, 100_000);
    let digest = Digest::sha256(&bytes);
    place.store.put_blob(&place.name, &digest, bytes.clone()).await.unwrap();
    place.begin();
    let error = place.read(&digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    place.end();
    assert!(place.read(&digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_slowly_comes_whole() {
    let act = |_: usize, method: &str, target: &str| match method == "GET" && target.contains("/blobs/") {
        true => Act::Slow(Duration::from_millis(20)),
        false => Act::Pass,
    };
    let Some(place) = Place::new("a_body_that_comes_slowly", act).await else { return };
    let bytes = content(8, 20_000);
    let digest = Digest::sha256(&bytes);
    place.store.put_blob(&place.name, &digest, bytes.clone()).await.unwrap();
    place.begin();
    assert!(place.read(&digest).await.unwrap() == bytes);
}

/// The bucket is right about its keys, and a client of the registry learns nothing of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_are_named_at_the_start_and_later_only_as_unavailable() {
    let Some(server) = given::<&S3Server>("wrong_keys", S3Server::running()) else { return };
    let bucket = server.bucket();
    let place: S3BlobPlace = format!("s3://{bucket}/r?endpoint=http://{}", server.host()).parse().unwrap();
    let wrong = S3Blobs::open(&place, &access([S3Server::KEYS[0], "hunter2"])).unwrap();
    let error = wrong.check().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Denied), "{error}");
    let bytes = Bytes::from_static(b"hello");
    let error = wrong.put(&Digest::sha256(&bytes), bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let shown = format!("{error} {error:?} {wrong:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(S3Server::KEYS[0]), "{shown}");
    let missing: S3BlobPlace =
        format!("s3://absent-{bucket}?endpoint=http://{}", server.host()).parse().unwrap();
    let missing = S3Blobs::open(&missing, &access(S3Server::KEYS)).unwrap();
    assert_eq!(missing.check().await.unwrap_err().kind(), ErrorKind::NameUnknown);
    blobs_at(server.host(), &bucket).check().await.unwrap();
}
