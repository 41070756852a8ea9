//! A bucket that does not answer is left alone, and found again.

use super::*;
use crate::breaker::{BreakerOptions, BreakerState, is_refusal};
use crate::store::blob::{BlobBackend as _, BlobKey};
use crate::testing::{Act, Front, given};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(400);

const UP: u8 = 0;
const DOWN: u8 = 1;
const REFUSES: u8 = 2;
const HOLDS: u8 = 3;
const FAILS: u8 = 4;
const BUSY: u8 = 5;

/// A bucket that a test takes away, and counts the requests to.
struct Place {
    blobs: S3Blobs,
    front: Front,
    state: Arc<AtomicU8>,
    key: BlobKey,
}

impl Place {
    async fn new(case: &str) -> Option<Self> {
        let server = given::<&S3Server>(case, S3Server::running())?;
        let bucket = server.bucket();
        let state = Arc::new(AtomicU8::new(UP));
        let now = Arc::clone(&state);
        let front = Front::start(server.host(), move |_, _| match now.load(Ordering::SeqCst) {
            UP => Act::Pass,
            DOWN => Act::Answer(503, ""),
            BUSY => Act::Answer(503, "SlowDown"),
            HOLDS => Act::Hold,
            FAILS => Act::Answer(500, "InternalError"),
            _ => Act::Answer(403, "AccessDenied"),
        })
        .await;
        let options = BreakerOptions {
            failures: 2,
            failing_for: Duration::ZERO,
            first_pause: PAUSE,
            longest_pause: PAUSE,
        };
        let blobs = blobs_at(&front.host, &bucket).breaking(options);
        let bytes = Bytes::from_static(b"hello");
        let digest = Digest::sha256(&bytes);
        blobs.put(&digest, bytes).await.unwrap();
        Some(Self { blobs, front, state, key: digest.into() })
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    async fn size(&self) -> crate::Result<Option<u64>> {
        Ok(self.blobs.sizes(std::slice::from_ref(&self.key)).await?[0])
    }

    fn breaker(&self) -> BreakerState {
        self.blobs.breaker().unwrap().state()
    }

    fn requests(&self) -> usize {
        self.front.count("HEAD", "")
    }

    /// Lets the bucket fail until it is left alone.
    async fn take_away(&self) {
        self.set(DOWN);
        for _ in 0..2 {
            let error = self.size().await.unwrap_err();
            assert!(error.kind() == ErrorKind::Unavailable && !is_refusal(&error), "{error}");
        }
        assert_eq!(self.breaker(), BreakerState::Open);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_does_not_answer_is_not_asked_until_it_does() {
    let Some(place) = Place::new("a_bucket_that_does_not_answer").await else { return };
    place.take_away().await;
    let (before, began) = (place.requests(), Instant::now());
    for _ in 0..100 {
        let error = place.size().await.unwrap_err();
        assert!(is_refusal(&error) && error.kind() == ErrorKind::Unavailable, "{error}");
        assert!(error.retry_after() >= Some(Duration::from_secs(1)));
        let error = place.blobs.list(None, 1).await.unwrap_err();
        assert!(is_refusal(&error), "{error}");
    }
    // All clones share it.
    let error = place.blobs.clone().put(&Digest::sha256("x"), "x".into()).await.unwrap_err();
    assert!(is_refusal(&error), "{error}");
    assert!(began.elapsed() < PAUSE, "it took time");
    assert_eq!(place.requests(), before, "the bucket was asked");
    // It is asked once after each pause.
    tokio::time::sleep(PAUSE).await;
    let error = place.size().await.unwrap_err();
    assert!(!is_refusal(&error), "{error}");
    assert!(is_refusal(&place.size().await.unwrap_err()));
    place.set(UP);
    tokio::time::sleep(PAUSE).await;
    assert_eq!(place.size().await.unwrap(), Some(5));
    assert_eq!(place.breaker(), BreakerState::Closed);
}

/// A refusal and a missing object are answers: the breaker is about the bucket, not about what clients ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_open_nothing() {
    let Some(place) = Place::new("answers_open_nothing").await else { return };
    let missing = BlobKey::from(Digest::sha256("missing"));
    for _ in 0..5 {
        assert_eq!(place.blobs.sizes(std::slice::from_ref(&missing)).await.unwrap(), [None]);
        assert_eq!(place.blobs.read(&missing, 5, 0, 5).await.err().unwrap().kind(), ErrorKind::Corrupt);
    }
    place.set(REFUSES);
    for _ in 0..5 {
        assert!(place.size().await.is_err());
    }
    assert_eq!(place.breaker(), BreakerState::Closed);
    // It asks for fewer requests.
    place.set(BUSY);
    for _ in 0..3 {
        // The answer to HEAD has no code.
        assert!(!is_refusal(&place.size().await.unwrap_err()));
        assert!(!is_refusal(&place.blobs.put(&Digest::sha256("x"), "x".into()).await.unwrap_err()));
    }
    assert_eq!(place.breaker(), BreakerState::Closed);
    // One damaged object, at a server that has no better word for it.
    place.set(FAILS);
    for _ in 0..3 {
        assert!(!is_refusal(&place.size().await.unwrap_err()));
    }
    assert_eq!(place.breaker(), BreakerState::Closed);
}

/// What a collector asks a bucket is mostly what it has of uploads: nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_list_is_an_answer() {
    let Some(place) = Place::new("an_empty_list_is_an_answer").await else { return };
    place.take_away().await;
    place.set(UP);
    tokio::time::sleep(PAUSE).await;
    place.blobs.check().await.unwrap();
    assert_eq!(place.breaker(), BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_while_the_bucket_is_tried_leaves_its_place_to_the_next() {
    let Some(place) = Place::new("a_client_that_goes_away").await else { return };
    place.take_away().await;
    place.set(HOLDS);
    tokio::time::sleep(PAUSE).await;
    let place = Arc::new(place);
    let asking = Arc::clone(&place);
    let probe = tokio::spawn(async move { asking.size().await });
    place.front.held().await;
    assert_eq!(place.breaker(), BreakerState::HalfOpen);
    assert!(is_refusal(&place.size().await.unwrap_err()));
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    place.set(UP);
    assert_eq!(place.size().await.unwrap(), Some(5));
    assert_eq!(place.breaker(), BreakerState::Closed);
}
