//! The bodies of requests and responses.
//!
//! A request body is read in blocks, with a limit and an idle timeout. A response body that streams a blob has a known
//! length. When the blob ends early, the connection is aborted, so a client never takes a part of a blob for all of it.

use crate::throttle::Pacer;
use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Version, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_sdk::store::{BlobReader, BlobUpload, ByteStream};
use hyper_sdk::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The size of the blocks that the store gets.
const BLOCK: usize = 512 << 10;
/// How much of an unread body is read and discarded, and for how long.
const DISCARD_BYTES: u64 = 256 << 10;
/// What a client that sends too often may still send of a body, to keep its connection.
const SHORT: u64 = 64 << 10;
const DISCARD_TIME: Duration = Duration::from_millis(500);
/// After how many bytes, and after how long, an upload is saved, so that little is lost when the process ends.
const SAVE_BYTES: u64 = 64 << 20;
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// How many times in a row a body may be idle whose bytes may be held back by others of its client.
const HELD_IDLES: u32 = 10;

/// The context key of an error about an incomplete body: the number of bytes that arrived.
pub(crate) const RECEIVED: &str = "received";

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: Body,
    idle: Duration,
    /// The length that the client announced.
    pub(crate) announced: Option<u64>,
    /// How many bytes have arrived.
    pub(crate) received: u64,
    /// Whether it has been read to its end.
    over: bool,
    /// Whether it was interrupted or timed out. The connection cannot be used after that.
    broken: bool,
    /// The rates of the client.
    pacer: Option<Pacer>,
    /// Whether bytes of other bodies that wait may keep those of this one from coming, as in one connection of HTTP/2.
    shares: bool,
}

/// Waits until the rates of a client let this many bytes pass, which take turns with those of its other bodies.
async fn wait_for_turns(pacer: &Pacer, mut left: usize) {
    let piece = pacer.piece();
    while left > 0 {
        let next = left.min(piece);
        if let Some(turn) = pacer.turn(next) {
            turn.await;
        }
        left -= next;
    }
}

impl Incoming {
    pub(crate) fn new(body: Body, idle: Duration) -> Self {
        let over = body.is_end_stream();
        let announced = body.size_hint().exact();
        Self { announced, body, idle, received: 0, over, broken: false, pacer: None, shares: false }
    }

    /// Reads the bytes at these rates from now on.
    pub(crate) fn pace(&mut self, pacer: Option<Pacer>, version: Version) {
        (self.pacer, self.shares) = (pacer, version >= Version::HTTP_2);
    }

    /// Moves the body out, for a task that outlives the request.
    pub(crate) fn take(&mut self) -> Self {
        let body = std::mem::take(&mut self.body);
        let over = std::mem::replace(&mut self.over, true);
        Self {
            body,
            idle: self.idle,
            announced: self.announced,
            received: self.received,
            over,
            broken: self.broken,
            pacer: self.pacer.clone(),
            shares: self.shares,
        }
    }

    /// Whether its length is known and small.
    pub(crate) fn is_short(&self) -> bool {
        self.announced.is_some_and(|length| length <= SHORT)
    }

    /// Whether nothing of it is left to read.
    pub(crate) fn is_over(&self) -> bool {
        self.over || self.announced == Some(self.received)
    }

    /// Reads and discards the rest of a body if it is short. Returns whether the whole body has been read, so that the
    /// connection can be reused.
    ///
    /// HTTP/2 does not need this. A client that waits with its body (`Expect: 100-continue`) is not told to continue.
    pub(crate) async fn discard(&mut self, headers: &HeaderMap, version: Version) -> bool {
        let waits = headers.contains_key(header::EXPECT) && self.received == 0;
        let left = self.announced.map(|announced| announced.saturating_sub(self.received));
        let small = left.is_none_or(|left| left <= DISCARD_BYTES);
        if !self.is_over() && !self.broken && !waits && small && version < Version::HTTP_2 {
            let most = self.received + DISCARD_BYTES;
            let reading = async {
                while !self.is_over() && self.received < most && self.frame().await.is_ok_and(|f| f.is_some())
                {
                }
            };
            let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
        }
        self.is_over()
    }

    /// The next bytes, as they arrived, when the rates of the client allow it.
    async fn frame(&mut self) -> Result<Option<Bytes>> {
        let mut idles = 0;
        loop {
            let Ok(frame) = tokio::time::timeout(self.idle, self.body.frame()).await else {
                idles += 1;
                // Bytes of the client that wait for their turn fill the window of the connection, so that these cannot come.
                let may_be_held = self.shares && idles < HELD_IDLES;
                if may_be_held && self.pacer.as_ref().is_some_and(Pacer::is_behind) {
                    continue;
                }
                self.broken = true;
                return Err(Error::new(ErrorKind::Timeout, "the body of the request timed out")
                    .with_context(RECEIVED, self.received));
            };
            match frame {
                None => {
                    self.over = true;
                    return Ok(None);
                }
                Some(Err(e)) => {
                    self.broken = true;
                    return Err(Error::invalid("the body of the request was interrupted").with_source(e));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.received += data.len() as u64;
                        if let Some(pacer) = &self.pacer {
                            wait_for_turns(pacer, data.len()).await;
                        }
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The next block: at least [`BLOCK`] bytes, fewer at the end or of a slow body. Bytes that arrived before a failure are returned
    /// first; the next call returns the error.
    async fn block(&mut self, failed: &mut Option<Error>) -> Result<Option<Bytes>> {
        if let Some(e) = failed.take() {
            return Err(e);
        }
        let Some(first) = self.frame().await? else { return Ok(None) };
        // Of a slow body less is gathered, so that little is lost when it ends early.
        let enough = self.pacer.as_ref().map_or(BLOCK, |pacer| BLOCK.min(4 * pacer.piece()));
        if first.len() >= enough || self.announced == Some(self.received) {
            return Ok(Some(first));
        }
        let mut block = BytesMut::with_capacity(match self.announced {
            Some(total) => {
                (total.saturating_sub(self.received) as usize + first.len()).min(enough + (64 << 10))
            }
            None => first.len() * 2,
        });
        block.extend_from_slice(&first);
        while block.len() < enough && self.announced != Some(self.received) {
            match self.frame().await {
                Ok(Some(data)) => block.extend_from_slice(&data),
                Ok(None) => break,
                Err(e) => {
                    *failed = Some(e);
                    break;
                }
            }
        }
        Ok(Some(block.freeze()))
    }

    /// The whole body, which must not be longer than `limit`.
    ///
    /// A body that is too long is read and discarded for a while, so that the client has sent it and reads the
    /// response.
    pub(crate) async fn read_all(&mut self, limit: usize) -> Result<Bytes> {
        let too_large = || {
            Error::new(ErrorKind::TooLarge, "the body of the request is too large")
                .with_context("limit", limit)
        };
        if self.announced.is_some_and(|a| a > limit as u64) {
            self.drain(4 * limit as u64).await;
            return Err(too_large());
        }
        let mut all = BytesMut::new();
        let mut whole = None;
        while let Some(data) = self.frame().await? {
            if all.len() + data.len() > limit {
                self.drain(4 * limit as u64).await;
                return Err(too_large());
            }
            if self.announced == Some(data.len() as u64) {
                whole = Some(data);
            } else {
                if all.is_empty() {
                    all.reserve(self.announced.map_or(data.len(), |a| a as usize));
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(whole.unwrap_or_else(|| all.freeze()))
    }

    async fn drain(&mut self, most: u64) {
        let reading = async {
            while self.received < most {
                match self.frame().await {
                    Ok(Some(_)) => {}
                    _ => break,
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    }

    /// Whether the body has no byte. Reads until the first one.
    pub(crate) async fn is_empty(&mut self) -> Result<bool> {
        Ok(self.announced == Some(0) || self.frame().await?.is_none())
    }

    /// Appends the whole body to an upload, and reads the next block while a block is stored. Returns the length of the
    /// body.
    ///
    /// When the body is interrupted or longer than `most`, the upload keeps the bytes before that. The upload is saved from
    /// time to time, so that little is lost, and no server takes it for an idle one.
    pub(crate) async fn append_to(
        &mut self,
        upload: &mut Box<dyn BlobUpload>,
        most: Option<u64>,
        limit: Option<u64>,
    ) -> Result<u64> {
        let start = upload.offset();
        let mut last = (start, Instant::now());
        let mut failed = None;
        let mut next = self.block(&mut failed).await?;
        while let Some(block) = next {
            let length = upload.offset() - start + block.len() as u64;
            if most.is_some_and(|m| length > m) {
                return Err(Error::new(
                    ErrorKind::SizeInvalid,
                    "the body is longer than its Content-Range says",
                ));
            }
            if let Some(limit) = limit.filter(|l| start + length > *l) {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "the blob is larger than the limit of this registry",
                )
                .with_context("limit", limit));
            }
            let due = upload.offset() - last.0 >= SAVE_BYTES
                || last.1.elapsed() >= SAVE_EVERY && upload.offset() > last.0;
            let store = async {
                if due {
                    upload.save().await?;
                    last = (upload.offset(), Instant::now());
                }
                upload.append(block).await
            };
            let mut coming = std::pin::pin!(self.block(&mut failed));
            let (stored, came) = tokio::join!(store, tokio::time::timeout(SAVE_EVERY, &mut coming));
            stored?;
            next = match came {
                Ok(next) => next?,
                Err(_) => {
                    // A client that stalls keeps no memory of the store that others wait for.
                    if upload.offset() > last.0 {
                        upload.save().await?;
                        last = (upload.offset(), Instant::now());
                    }
                    coming.await?
                }
            };
        }
        Ok(upload.offset() - start)
    }
}

/// A blob, or a part of a blob, as the body of a response.
pub(crate) struct BlobBody {
    first: Option<Bytes>,
    rest: ByteStream,
    left: u64,
}

impl BlobBody {
    /// Reads the first block, so that the response for an unreadable blob can still be an error.
    pub(crate) async fn open(reader: BlobReader) -> Result<Self> {
        let BlobReader { length, stream: mut rest, .. } = reader;
        let first = if length == 0 { None } else { rest.next().await.transpose()? };
        if length > 0 && first.is_none() {
            return Err(short(length));
        }
        Ok(Self { first, rest, left: length })
    }

    /// A body of `length` bytes from a stream.
    pub(crate) fn of(length: u64, rest: ByteStream) -> Self {
        Self { first: None, rest, left: length }
    }

    /// The rest of the bytes as a stream.
    pub(crate) fn into_stream(self) -> ByteStream {
        futures::stream::iter(self.first.map(Ok)).chain(self.rest).boxed()
    }
}

fn short(missing: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "the stored blob is shorter than its record")
        .with_context("missing", missing)
}

impl HttpBody for BlobBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => match self.rest.poll_next_unpin(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(Some(match next {
            None => Err(short(self.left)),
            Some(Err(e)) => Err(e),
            Some(Ok(data)) => match self.left.checked_sub(data.len() as u64) {
                Some(left) => {
                    self.left = left;
                    Ok(Frame::data(data))
                }
                None => Err(Error::new(ErrorKind::Corrupt, "the stored blob is longer than its record")),
            },
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Keeps an unread request body until the response has been sent. Otherwise an HTTP/2 client gets a stream reset before
/// or instead of the response.
pub(crate) struct HeldBody {
    body: Body,
    _request: Incoming,
}

impl HeldBody {
    pub(crate) fn new(body: Body, request: Incoming) -> Self {
        Self { body, _request: request }
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Calls a function with the number of sent bytes when the body has been sent or dropped.
pub(crate) struct CountedBody<F: FnOnce(u64, bool) + Unpin> {
    body: Body,
    sent: u64,
    then: Option<F>,
}

impl<F: FnOnce(u64, bool) + Unpin> CountedBody<F> {
    pub(crate) fn new(body: Body, then: F) -> Self {
        Self { body, sent: 0, then: Some(then) }
    }
}

impl<F: FnOnce(u64, bool) + Unpin> HttpBody for CountedBody<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.sent += data.len() as u64;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<F: FnOnce(u64, bool) + Unpin> Drop for CountedBody<F> {
    fn drop(&mut self) {
        let whole = self.body.is_end_stream();
        if let Some(then) = self.then.take() {
            then(self.sent, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use hyper_sdk::RepositoryName;
    use hyper_sdk::store::{MemoryStore, RegistryStore as _};

    /// Whatever the request: one whose client knows no session, too, is not idle while it sends.
    #[tokio::test]
    async fn a_long_body_is_saved_on_its_way() {
        let (store, name) = (MemoryStore::default(), RepositoryName::parse("a").unwrap());
        let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
        let id = upload.id().clone();
        let block = Bytes::from(vec![7; 8 << 20]);
        let blocks = stream::iter((0..10).map(move |_| Ok::<_, Error>(block.clone())));
        let mut body = Incoming::new(Body::from_stream(blocks), Duration::from_secs(5));
        assert_eq!(body.append_to(&mut upload, None, None).await.unwrap(), 80 << 20);
        drop(upload);
        let saved = store.resume_upload(&name, &id).await.unwrap().offset();
        assert!(saved >= 64 << 20, "{saved}");
    }

    fn reader(length: u64, parts: Vec<Result<Bytes>>) -> BlobReader {
        BlobReader { size: length, offset: 0, length, stream: stream::iter(parts).boxed() }
    }

    #[tokio::test]
    async fn a_short_or_broken_blob_never_ends_like_a_whole_one() {
        let part = || Ok(Bytes::from_static(b"abc"));
        let whole = BlobBody::open(reader(6, vec![part(), part()])).await.unwrap();
        assert_eq!(whole.size_hint().exact(), Some(6));
        assert_eq!(&whole.collect().await.unwrap().to_bytes().to_vec(), b"abcabc");
        for (length, parts) in [
            (7, vec![part(), part()]),
            (4, vec![part(), part()]),
            (6, vec![part(), Err(Error::new(ErrorKind::Corrupt, "x"))]),
        ] {
            let body = BlobBody::open(reader(length, parts)).await.unwrap();
            assert!(BodyExt::collect(body).await.is_err());
        }
        assert!(BlobBody::open(reader(3, vec![])).await.is_err());
        assert!(BlobBody::open(reader(0, vec![])).await.unwrap().is_end_stream());
    }

    #[tokio::test]
    async fn a_body_that_stalls_times_out() {
        let body = Body::from_stream(stream::pending::<Result<Bytes>>());
        let mut incoming = Incoming::new(body, Duration::from_millis(10));
        assert_eq!(incoming.read_all(10).await.unwrap_err().kind(), ErrorKind::Timeout);
    }

    /// Nor does one of the same connection of HTTP/2 that cannot come meanwhile, for a while.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_waits_for_its_rate_does_not_time_out() {
        let (pacer, start) = (Pacer::of("16KiB/s"), tokio::time::Instant::now());
        let part = Bytes::from(vec![1; 64 << 10]);
        let parts = stream::iter((0..4).map(move |_| Ok::<_, Error>(part.clone())));
        let mut body = Incoming::new(Body::from_stream(parts), Duration::from_millis(10));
        body.pace(Some(pacer.clone()), Version::HTTP_11);
        assert_eq!(body.read_all(1 << 20).await.unwrap().len(), 256 << 10);
        // The last piece waits for the fifteen before it, of which a second is free.
        assert_eq!(start.elapsed().as_secs(), 14);
        for (version, idles, time) in
            [(Version::HTTP_11, 1, 10), (Version::HTTP_2, 10, 10), (Version::HTTP_2, 2, 600)]
        {
            let stalled = Body::from_stream(stream::pending::<Result<Bytes>>());
            let mut stalled = Incoming::new(stalled, Duration::from_millis(time));
            stalled.pace(Some(pacer.clone()), version);
            let start = tokio::time::Instant::now();
            assert_eq!(stalled.read_all(10).await.unwrap_err().kind(), ErrorKind::Timeout);
            let waited = start.elapsed().as_millis() as u64;
            assert!((idles * time..=idles * time + 20).contains(&waited), "{version:?} {waited}");
        }
    }

    /// However large the frames are in which it came, so that the next request of an upload is not refused for it.
    #[tokio::test(start_paused = true)]
    async fn a_body_leaves_no_more_than_a_piece_of_debt() {
        let (pacer, start) = (Pacer::of("16KiB/s"), tokio::time::Instant::now());
        let mut body = Incoming::new(Body::from(vec![1; 256 << 10]), Duration::from_secs(1));
        body.pace(Some(pacer.clone()), Version::HTTP_11);
        assert_eq!(body.read_all(1 << 20).await.unwrap().len(), 256 << 10);
        assert_eq!(start.elapsed().as_secs(), 14);
        let next = pacer.reserve(1).unwrap() - tokio::time::Instant::now();
        assert!(next <= Duration::from_secs(1), "{next:?}");
    }

    #[tokio::test]
    async fn a_body_above_the_limit_is_rejected() {
        let idle = Duration::from_secs(1);
        let mut announced = Incoming::new(Body::from("12345"), idle);
        assert_eq!(announced.read_all(4).await.unwrap_err().kind(), ErrorKind::TooLarge);
        let chunks =
            || stream::iter([Ok::<_, Error>(Bytes::from_static(b"123")), Ok(Bytes::from_static(b"45"))]);
        let mut streamed = Incoming::new(Body::from_stream(chunks()), idle);
        assert_eq!(streamed.read_all(4).await.unwrap_err().kind(), ErrorKind::TooLarge);
        let mut fits = Incoming::new(Body::from_stream(chunks()), idle);
        assert_eq!(fits.read_all(5).await.unwrap(), "12345");
    }
}
