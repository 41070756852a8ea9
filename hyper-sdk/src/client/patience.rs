//! How long a peer may keep a request waiting, and how often one is looked for that nobody finds: the rules for
//! everything that goes over HTTP.
//!
//! ```text
//!   answer      from the request (or the end of its body) to the head of the response: 1.5 × idle
//!   silence     between two pieces of a body, in either direction:                     idle
//!   pace        a body that comes by drops, over the time spent waiting for it:        1 KiB a second
//! ```
//!
//! Only waiting for the peer counts: a body whose reader or whose source is slow is nobody's fault. A body that is sent
//! is cut into pieces so small that a peer that reads at all takes one in time, so silence is its pace too.
//!
//! # Invariants
//! - No peer holds a request longer than it takes to move its content at 1 KiB a second, and one `idle`.

use crate::store::ByteStream;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::Stream;
use reqwest::Response;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The slowest body that is waited for, in bytes a second.
const SLOWEST: u64 = 1024;
/// The pieces of a body that is sent. The HTTP engine holds up to 16 of them.
const PIECE: usize = 16 * 1024;
/// What a registry digests in a second at the least when it closes an upload, in bytes.
const DIGESTS: u64 = 8 * 1024 * 1024;

/// How long to wait for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self::new(Duration::from_secs(20))
    }
}

impl Patience {
    pub(crate) fn new(idle: Duration) -> Self {
        Self { idle }
    }

    /// How long the head of a response may take, of a peer that has `effort` bytes to go through for it.
    fn answer_time(self, effort: u64) -> Duration {
        match effort {
            0 => self.idle * 3 / 2,
            bytes => self.idle * 3 + Duration::from_secs(bytes / DIGESTS),
        }
    }

    /// The time over which the pace of a body is taken.
    fn window(self) -> Duration {
        self.idle * 3 / 2
    }

    /// Waits for the answer to a request without a body of length.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when it does not come.
    pub(crate) async fn answer<T>(self, work: impl Future<Output = T>) -> Result<T> {
        let limit = self.answer_time(0);
        tokio::time::timeout(limit, work).await.map_err(|_| no_answer(limit))
    }

    /// The watch over a body that comes in.
    pub(crate) fn pace(self) -> Pace {
        Pace { patience: self, waited: Duration::ZERO, bytes: 0 }
    }
}

/// Why a body that comes in broke off.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The peer kept it waiting.
    Late(Error),
    /// The connection failed.
    Failed(reqwest::Error),
}

/// Takes a body that comes in, piece by piece, as long as it comes fast enough.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Patience,
    /// Time spent waiting in this window, and what came in it.
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The next piece, or `None` at the end of the body.
    pub(crate) async fn next(
        &mut self,
        response: &mut Response,
    ) -> std::result::Result<Option<Bytes>, Broken> {
        let start = Instant::now();
        let Ok(item) = tokio::time::timeout(self.patience.idle, response.chunk()).await else {
            return Err(Broken::Late(silence(self.patience.idle)));
        };
        let item = item.map_err(Broken::Failed)?;
        self.waited += start.elapsed();
        self.bytes += item.as_ref().map_or(0, |piece| piece.len() as u64);
        if item.is_some() && self.waited >= self.patience.window() {
            let wanted = (self.waited.as_secs_f64() * SLOWEST as f64) as u64;
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

/// How often a peer is looked for in all, when this is why it was not found. `None` for other errors: the peer is there.
///
/// A name without an address is not asked for again; where nothing listens, or where the name could not be looked up, one
/// more time.
pub(crate) fn attempts_to_find(error: &(dyn std::error::Error + 'static)) -> Option<u32> {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let mut cause = Some(error);
    while let Some(link) = cause {
        // The connector has no type for this error, only its text.
        if link.to_string() == "dns error" {
            let why = link.source().map(ToString::to_string).unwrap_or_default();
            let passing = why.contains("emporary failure") || why.contains("ry again");
            return Some(if passing { 2 } else { 1 });
        }
        if let Some(io) = link.downcast_ref::<std::io::Error>() {
            if matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable) {
                return Some(2);
            }
            // What an I/O error carries is not its source.
            if let Some(found) = io.get_ref().and_then(|inner| attempts_to_find(inner)) {
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

/// Who has to move next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The source of the body, which has a patience of its own.
    Source,
    /// The peer has to take what was handed over.
    Peer,
    /// The peer has everything and has to answer.
    Answer,
}

/// The watch over a request: what it waits for, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Outflow(Arc<Mutex<(Turn, Instant)>>);

impl Outflow {
    /// A request that is sent whole now.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new((Turn::Answer, Instant::now()))))
    }

    fn set(&self, turn: Turn) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (turn, Instant::now());
    }

    /// The body of the request, `length` bytes, handed over in small pieces that are noted here.
    pub(crate) fn watch(
        &self,
        length: u64,
        body: ByteStream,
    ) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        self.set(Turn::Peer);
        Pieces { body, piece: Bytes::new(), left: length, outflow: self.clone() }
    }

    /// Ends when the peer has kept the request waiting for too long; `effort` bytes are gone through for its answer.
    pub(crate) async fn stalled(&self, patience: Patience, effort: u64) -> Error {
        loop {
            let (turn, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = match turn {
                Turn::Answer => patience.answer_time(effort),
                Turn::Peer | Turn::Source => patience.idle,
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
                Turn::Source => tokio::time::sleep(patience.idle / 4).await,
            }
        }
    }
}

struct Pieces {
    body: ByteStream,
    piece: Bytes,
    left: u64,
    outflow: Outflow,
}

impl Stream for Pieces {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.piece.is_empty() {
            match self.body.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(piece))) => self.piece = piece,
                Poll::Ready(other) => {
                    self.outflow.set(Turn::Answer);
                    return Poll::Ready(other);
                }
                Poll::Pending => {
                    self.outflow.set(Turn::Source);
                    return Poll::Pending;
                }
            }
        }
        let length = self.piece.len().min(PIECE);
        let piece = self.piece.split_to(length);
        self.left = self.left.saturating_sub(length as u64);
        // The engine does not ask for the end of a body whose length it knows.
        self.outflow.set(if self.left == 0 { Turn::Answer } else { Turn::Peer });
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
    fn what_is_not_found_is_looked_for_once_or_twice() {
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
            assert_eq!(attempts_to_find(&error), expected, "{shown}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_is_slow_is_not_the_peers_fault() {
        let outflow = Outflow::new();
        let body = futures::stream::pending().boxed();
        let mut watched = Box::pin(outflow.watch(10, body));
        assert!(futures::poll!(watched.next()).is_pending());
        let stalled = outflow.stalled(Patience::default(), 0);
        assert!(tokio::time::timeout(Duration::from_secs(3600), stalled).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_or_does_not_answer_is_noticed() {
        let outflow = Outflow::new();
        let body = futures::stream::iter([Ok(Bytes::from(vec![0; 3 * PIECE]))]).boxed();
        let mut watched = Box::pin(outflow.watch(3 * PIECE as u64, body));
        assert_eq!(watched.next().await.unwrap().unwrap().len(), PIECE);
        let start = Instant::now();
        let e = outflow.stalled(Patience::default(), 0).await;
        assert!(e.to_string().contains("does not take"), "{e}");
        assert_eq!(start.elapsed().as_secs(), 20);
        while watched.next().await.is_some() {}
        let start = Instant::now();
        let e = outflow.stalled(Patience::default(), 1 << 30).await;
        assert!(e.to_string().contains("does not answer"), "{e}");
        assert_eq!(start.elapsed().as_secs(), 60 + 128);
    }
}
