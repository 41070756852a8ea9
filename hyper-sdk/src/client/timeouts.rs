//! How long a request waits for its peer, and how often a peer that cannot be reached is tried: the rules for all HTTP.
//!
//! ```text
//!   answer      from the request (or the end of its body) to the head of the response: 1.5 × idle
//!   silence     between two pieces of a body, in either direction:                     idle
//!   rate        a body that comes slowly, over the time spent waiting for it:          1 KiB a second
//! ```
//!
//! Only time spent waiting for the peer counts: the reader or the source of a body may be slow. A body that is sent is cut
//! into small pieces, so that a peer that reads at all takes one in time: for it the limit of silence is enough.
//!
//! # Invariants
//! - No peer holds a request longer than it takes to move its content at 1 KiB a second, and one `idle`.

use crate::store::ByteStream;
use crate::{Error, ErrorDetail, ErrorKind, Result};
use bytes::Bytes;
use futures::Stream;
use reqwest::Response;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The error of a connector that finds no address for a name: it has no type for it, only this text.
const UNKNOWN_NAME: &str = "dns error";

/// The lowest rate of a body, in bytes a second.
const MIN_RATE: u64 = 1024;
/// The size of the pieces of a body that is sent. The HTTP engine holds up to 16 of them.
const PIECE: usize = 16 * 1024;
/// How many bytes a registry hashes in a second, at the least, when it finishes an upload.
const HASH_RATE: u64 = 8 * 1024 * 1024;

/// How long to wait for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::new(Duration::from_secs(20))
    }
}

impl Timeouts {
    pub(crate) fn new(idle: Duration) -> Self {
        Self { idle }
    }

    /// How long the head of a response may take when the peer has `effort` bytes to process first.
    pub(crate) fn answer_time(self, effort: u64) -> Duration {
        match effort {
            0 => self.idle * 3 / 2,
            bytes => self.idle * 3 + Duration::from_secs(bytes / HASH_RATE),
        }
    }

    /// The time over which the rate of a body is measured.
    fn window(self) -> Duration {
        self.idle * 3 / 2
    }

    /// Waits for the answer to a request without a body.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when it does not come.
    pub(crate) async fn answer<T>(self, work: impl Future<Output = T>) -> Result<T> {
        let limit = self.answer_time(0);
        tokio::time::timeout(limit, work).await.map_err(|_| no_answer(limit))
    }

    /// The check of a body that is received.
    pub(crate) fn rate_check(self) -> RateCheck {
        RateCheck { timeouts: self, least: MIN_RATE, waited: Duration::ZERO, bytes: 0 }
    }

    /// The check of a body that the peer sends to say that it is still at work: only silence is too slow. The caller limits
    /// the whole time.
    #[cfg(any(feature = "cache-s3", feature = "store-s3"))]
    pub(crate) fn silence_check(self) -> RateCheck {
        RateCheck { least: 0, ..self.rate_check() }
    }
}

/// Why a body that is received ended early.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The peer was too slow.
    Late(Error),
    /// The connection failed.
    Failed(reqwest::Error),
}

/// Receives a body piece by piece, as long as it comes fast enough.
#[derive(Debug)]
pub(crate) struct RateCheck {
    timeouts: Timeouts,
    /// In bytes a second.
    least: u64,
    /// The time spent waiting in this window, and the bytes that came in it.
    waited: Duration,
    bytes: u64,
}

impl RateCheck {
    /// The next piece, or `None` at the end of the body.
    pub(crate) async fn next(
        &mut self,
        response: &mut Response,
    ) -> std::result::Result<Option<Bytes>, Broken> {
        let start = Instant::now();
        let Ok(item) = tokio::time::timeout(self.timeouts.idle, response.chunk()).await else {
            return Err(Broken::Late(silence(self.timeouts.idle)));
        };
        let item = item.map_err(Broken::Failed)?;
        self.waited += start.elapsed();
        self.bytes += item.as_ref().map_or(0, |piece| piece.len() as u64);
        if item.is_some() && self.waited >= self.timeouts.window() {
            let wanted = (self.waited.as_secs_f64() * self.least as f64) as u64;
            if self.bytes < wanted {
                return Err(Broken::Late(
                    Error::new(ErrorKind::Timeout, "the server sends too slowly")
                        .with_context("bytes", self.bytes)
                        .with_context("seconds", self.waited.as_secs()),
                ));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(item)
    }
}

/// The cause of a request that got no response. Where no address is known for the name of the peer, it says so.
pub(crate) fn explained(error: reqwest::Error) -> Box<dyn std::error::Error + Send + Sync> {
    // The URL may carry a signature in its query: it stays out of the message.
    named(error.without_url())
}

fn named(error: impl std::error::Error + Send + Sync + 'static) -> Box<dyn std::error::Error + Send + Sync> {
    if !is_unknown_name(&error) {
        return error.into();
    }
    let message = "no address is known for the name of the host";
    Error::new(ErrorKind::Unavailable, message)
        .with_detail(ErrorDetail::UnknownHost)
        .with_source(error)
        .into()
}

fn is_unknown_name(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut links = std::iter::successors(Some(error), |link| link.source());
    links.any(|link| link.to_string() == UNKNOWN_NAME)
}

/// How many attempts in all an error of this kind allows, when the peer could not be reached. `None` for other errors: the
/// peer was reached.
///
/// A name without an address allows no second attempt. Where nothing listens, or when the name service failed, there is
/// one.
pub(crate) fn attempts_to_connect(error: &(dyn std::error::Error + 'static)) -> Option<u32> {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let mut cause = Some(error);
    while let Some(link) = cause {
        if link.to_string() == UNKNOWN_NAME {
            let why = link.source().map(ToString::to_string).unwrap_or_default();
            let is_transient = why.contains("emporary failure") || why.contains("ry again");
            return Some(if is_transient { 2 } else { 1 });
        }
        if let Some(io) = link.downcast_ref::<std::io::Error>() {
            if matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable) {
                return Some(2);
            }
            // What an I/O error carries is not its source.
            if let Some(found) = io.get_ref().and_then(|inner| attempts_to_connect(inner)) {
                return Some(found);
            }
        }
        cause = link.source();
    }
    None
}

fn silence(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "the server fell silent").with_context("seconds", limit.as_secs())
}

fn no_answer(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "the server does not answer").with_context("seconds", limit.as_secs())
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The source of the body, which has its own timeouts.
    Source,
    /// The peer has to take a piece of the body.
    Peer,
    /// The peer has the whole request and has to answer.
    Answer,
}

/// What a request waits for, and since when.
#[derive(Clone, Debug)]
pub(crate) struct RequestWatch(Arc<Mutex<(Turn, Instant)>>);

impl RequestWatch {
    /// A request whose body, if any, is sent at once.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new((Turn::Answer, Instant::now()))))
    }

    fn set(&self, turn: Turn) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (turn, Instant::now());
    }

    /// The body of the request, `length` bytes, in small pieces. The watch follows them.
    pub(crate) fn body(
        &self,
        length: u64,
        body: ByteStream,
    ) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        self.set(Turn::Peer);
        Pieces { body, piece: Bytes::new(), left: length, watch: self.clone() }
    }

    /// Ends when the peer has kept the request waiting for too long; it processes `effort` bytes before it answers.
    pub(crate) async fn stalled(&self, timeouts: Timeouts, effort: u64) -> Error {
        loop {
            let (turn, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = match turn {
                Turn::Answer => timeouts.answer_time(effort),
                Turn::Peer | Turn::Source => timeouts.idle,
            };
            let deadline = since + limit;
            if deadline > Instant::now() {
                tokio::time::sleep_until(deadline).await;
                continue;
            }
            match turn {
                Turn::Answer => return no_answer(limit),
                Turn::Peer => {
                    return Error::new(ErrorKind::Timeout, "the server does not take what is sent")
                        .with_context("seconds", limit.as_secs());
                }
                Turn::Source => tokio::time::sleep(timeouts.idle / 4).await,
            }
        }
    }
}

struct Pieces {
    body: ByteStream,
    piece: Bytes,
    left: u64,
    watch: RequestWatch,
}

impl Stream for Pieces {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.piece.is_empty() {
            match self.body.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(piece))) => self.piece = piece,
                Poll::Ready(other) => {
                    self.watch.set(Turn::Answer);
                    return Poll::Ready(other);
                }
                Poll::Pending => {
                    self.watch.set(Turn::Source);
                    return Poll::Pending;
                }
            }
        }
        let length = self.piece.len().min(PIECE);
        let piece = self.piece.split_to(length);
        self.left = self.left.saturating_sub(length as u64);
        // The engine does not ask for the end of a body whose length it knows.
        self.watch.set(if self.left == 0 { Turn::Answer } else { Turn::Peer });
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<dyn std::error::Error + Send + Sync>>);

    impl std::fmt::Display for Layer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_ref().map(|source| &**source as _)
        }
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_tried_once_or_twice() {
        use std::io::{Error as IoError, ErrorKind as Io};
        let looked_up = |why: &'static str| Layer("dns error", Some(IoError::other(why).into()));
        for (cause, expected) in [
            (looked_up("failed to lookup address information: Name or service not known"), Some(1)),
            (
                looked_up("failed to lookup address information: Temporary failure in name resolution"),
                Some(2),
            ),
            (Layer("tcp connect error", Some(IoError::from(Io::ConnectionRefused).into())), Some(2)),
            (Layer("tcp connect error", Some(IoError::from(Io::NetworkUnreachable).into())), Some(2)),
            (Layer("wrapped", Some(IoError::other(IoError::from(Io::HostUnreachable)).into())), Some(2)),
            (Layer("tcp connect error", Some(IoError::from(Io::ConnectionReset).into())), None),
            (Layer("timed out", None), None),
        ] {
            let shown = format!("{cause:?}");
            let error =
                Error::new(ErrorKind::Unavailable, "x").with_source(Layer("request", Some(cause.into())));
            assert_eq!(attempts_to_connect(&error), expected, "{shown}");
        }
    }

    #[test]
    fn an_unknown_name_is_told() {
        for (cause, told) in [("dns error", true), ("tcp connect error", false)] {
            let error = Error::new(ErrorKind::Unavailable, "cannot connect")
                .with_source(named(Layer("client error (Connect)", Some(Layer(cause, None).into()))));
            assert_eq!(error.details().any(|detail| *detail == ErrorDetail::UnknownHost), told, "{cause}");
            assert_eq!(attempts_to_connect(&error), told.then_some(1), "{cause}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_source_is_not_a_timeout_of_the_peer() {
        let watch = RequestWatch::new();
        let body = futures::stream::pending().boxed();
        let mut watched = Box::pin(watch.body(10, body));
        assert!(futures::poll!(watched.next()).is_pending());
        let stalled = watch.stalled(Timeouts::default(), 0);
        assert!(tokio::time::timeout(Duration::from_secs(3600), stalled).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_or_does_not_answer_times_out() {
        let watch = RequestWatch::new();
        let body = futures::stream::iter([Ok(Bytes::from(vec![0; 3 * PIECE]))]).boxed();
        let mut watched = Box::pin(watch.body(3 * PIECE as u64, body));
        assert_eq!(watched.next().await.unwrap().unwrap().len(), PIECE);
        let start = Instant::now();
        let e = watch.stalled(Timeouts::default(), 0).await;
        assert!(e.to_string().contains("does not take"), "{e}");
        assert_eq!(start.elapsed().as_secs(), 20);
        while watched.next().await.is_some() {}
        let start = Instant::now();
        let e = watch.stalled(Timeouts::default(), 1 << 30).await;
        assert!(e.to_string().contains("does not answer"), "{e}");
        assert_eq!(start.elapsed().as_secs(), 60 + 128);
    }
}
