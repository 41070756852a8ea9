//! One connection: HTTP/1.1 and HTTP/2, and between requests little more than a socket.
//!
//! ```text
//!          ┌── first bytes ── HTTP/2 ── the preface ── to the end
//! socket ──┤
//!   ▲      └── first bytes ── HTTP/1 ── buffers, parser, timers ── the end
//!   │                            │ quiet for a moment
//!   └────────────────────────────┘
//! ```
//!
//! # Invariants
//! - Who has not sent the whole head of a request within the time for it, the idle time before it included, is cut off. The time begins
//!   with the connection, or with the end of the response before.
//! - What a connection of HTTP/1 needs for a request is made when its first bytes come, and is given back when the client has
//!   been quiet for a moment, so that ten thousand idle clients cost little. A busy connection keeps it, and so does one whose last
//!   request had a body.
//! - hyper measures the time for a head. Of the first one after it was made it does not know when the time began, so that is looked
//!   at here.
//! - When the server ends, idle connections are closed, and others after their response. A head that has begun to come has a moment.

use crate::progress::{Answer, Progress, Tracked};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The first bytes of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A client is quiet when it has sent nothing between two looks. The first one comes after this time, and each other one after twice as
/// much, up to the second time.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(4);

/// Whether the server ends.
pub(crate) struct Stop {
    token: CancellationToken,
    /// The same, for those who were woken and look again: the token has a lock that all connections share.
    is_set: AtomicBool,
}

impl Stop {
    /// Is set when the token is cancelled by [`Stop::set`] alone.
    pub(crate) fn new(token: CancellationToken) -> Self {
        Self { token, is_set: AtomicBool::new(false) }
    }

    pub(crate) fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}

/// How connections are spoken with.
pub(crate) struct Protocols {
    pub(crate) http1: http1::Builder,
    pub(crate) http2: http2::Builder<TokioExecutor>,
    /// How long a client may take for the head of a request, the idle time before it included.
    pub(crate) head_time: Duration,
    pub(crate) stop: Stop,
}

/// What came first.
enum First {
    Http1,
    Http2,
    /// The client has closed the connection, or the server ends.
    End,
    /// Nothing within the time, or an error.
    Nothing,
}

/// Why a connection of HTTP/1 is left.
enum Left {
    Ended(hyper::Result<()>),
    Quiet,
    TooLate,
    /// The server ends, and the client has sent no whole head.
    NoRequest,
}

impl Protocols {
    /// Answers the requests of a connection. The service counts each request in `progress`.
    pub(crate) async fn speak<S, R>(&self, stream: S, mut respond: R, progress: Arc<Progress>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        R: Service<Request<Incoming>, Response = Response<Answer>, Error = axum::Error> + Send + 'static,
        R::Future: Send + 'static,
    {
        let mut until = after(Instant::now(), self.head_time);
        let mut stream = Tracked::new(stream, progress.clone());
        let mut is_new = true;
        loop {
            let first = match stream.first().is_empty() {
                true => self.first(&mut stream, is_new, until).await,
                false => First::Http1,
            };
            is_new = false;
            match first {
                First::Nothing => return,
                First::End => return drop(stream.shutdown().await),
                First::Http2 => return Box::pin(self.http2(stream, respond, &progress, until)).await,
                First::Http1 => match self.http1(stream, respond, &progress, until).await {
                    Some(quiet) => (stream, respond, until) = quiet,
                    None => return,
                },
            }
        }
    }

    /// Waits for the first bytes. Only those of a new connection may be HTTP/2.
    async fn first<S>(&self, stream: &mut Tracked<S>, is_new: bool, until: Instant) -> First
    where
        S: AsyncRead + Unpin,
    {
        let coming = async {
            while poll_fn(|cx| stream.poll_first(cx)).await? {
                match stream.first() {
                    first if first == PREFACE && is_new => return Ok(First::Http2),
                    first if PREFACE.starts_with(first) && is_new => {}
                    _ => return Ok(First::Http1),
                }
            }
            // What is no request gets its answer by HTTP/1.
            Ok::<_, io::Error>(if stream.first().is_empty() { First::End } else { First::Http1 })
        };
        match self.stop.token.run_until_cancelled(tokio::time::timeout_at(until, coming)).await {
            None => First::End,
            Some(Ok(Ok(first))) => first,
            Some(Ok(Err(error))) => {
                tracing::debug!(%error, "connection ended");
                First::Nothing
            }
            Some(Err(_)) => First::Nothing,
        }
    }

    /// Speaks HTTP/1 until the client is quiet, and then returns what is left of the connection and until when the next head must have
    /// come. `None` when the connection has ended.
    async fn http1<S, R>(
        &self,
        stream: Tracked<S>,
        respond: R,
        progress: &Progress,
        until: Instant,
    ) -> Option<(Tracked<S>, R, Instant)>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        R: Service<Request<Incoming>, Response = Response<Answer>, Error = axum::Error>,
    {
        let mut connection = Box::new(self.http1.serve_connection(TokioIo::new(stream), respond));
        let mut turn = Turn::new(progress, until);
        // Both wake this task once they were polled. Each poll would take a lock, so there is none until they have something to say;
        // and none may be put off for the sake of other tasks, as it would not be made up for.
        let mut stopping = pin!(unconstrained(self.stop.token.cancelled()));
        let mut look = pin!(tokio::time::sleep_until(turn.next(Instant::now())));
        let mut is_awaited = false;
        // When the server ends: how many requests had begun.
        let mut last = None;
        let left = poll_fn(|cx| {
            if !std::mem::replace(&mut is_awaited, true) {
                let _ = stopping.as_mut().poll(cx);
                let _ = pin!(unconstrained(look.as_mut())).poll(cx);
            }
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
                    return Poll::Ready(Left::Ended(ended));
                }
                if last.is_none() && self.stop.is_set() {
                    last = Some(progress.begun());
                    Pin::new(&mut *connection).graceful_shutdown();
                    // hyper waits for the end of a head that has begun.
                    look.as_mut().reset(Instant::now() + FIRST_LOOK);
                    let _ = pin!(unconstrained(look.as_mut())).poll(cx);
                    continue;
                }
                if !look.is_elapsed() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                match (turn.look(progress, now, self.head_time), last) {
                    (_, Some(begun)) if progress.is_waiting() && progress.begun() == begun => {
                        return Poll::Ready(Left::NoRequest);
                    }
                    (None, _) | (Some(Left::Quiet), Some(_)) => {}
                    (Some(left), _) => return Poll::Ready(left),
                }
                last = last.map(|_| progress.begun());
                look.as_mut().reset(turn.next(now));
                if pin!(unconstrained(look.as_mut())).poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        match left.await {
            Left::Quiet => {
                let parts = connection.into_parts();
                let mut stream = parts.io.into_inner();
                stream.put_back(parts.read_buf);
                return Some((stream, parts.service, turn.until));
            }
            Left::NoRequest => drop(connection.into_parts().io.into_inner().shutdown().await),
            Left::Ended(Err(error)) => tracing::debug!(%error, "connection ended"),
            Left::TooLate => tracing::debug!("connection ended: no head of a request came in time"),
            Left::Ended(Ok(())) => {}
        }
        None
    }

    /// Speaks HTTP/2. The first request must have come by `until`; pings tell later whether the client is there.
    async fn http2<S, R>(&self, stream: Tracked<S>, respond: R, progress: &Progress, until: Instant)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        R: Service<Request<Incoming>, Response = Response<Answer>, Error = axum::Error> + Send + 'static,
        R::Future: Send + 'static,
    {
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(stream), respond));
        // As for HTTP/1.
        let mut stopping = pin!(unconstrained(self.stop.token.cancelled()));
        let (mut is_awaited, mut is_last) = (false, false);
        let mut spoken = pin!(poll_fn(|cx| {
            if !std::mem::replace(&mut is_awaited, true) {
                let _ = stopping.as_mut().poll(cx);
            }
            if self.stop.is_set() && !std::mem::replace(&mut is_last, true) {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        }));
        let ended = match tokio::time::timeout_at(until, &mut spoken).await {
            Ok(ended) => ended,
            Err(_) if progress.begun() == 0 => return,
            Err(_) => spoken.await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// What was seen of a connection of HTTP/1 when it was last looked at.
struct Turn {
    /// How many requests had begun when hyper got the connection.
    first: u32,
    /// How many requests had begun.
    seen: u32,
    /// Whether it was busy.
    was_busy: bool,
    /// Until when the next head must have come.
    until: Instant,
    /// How long to wait for the next look.
    pause: Duration,
}

impl Turn {
    fn new(progress: &Progress, until: Instant) -> Self {
        let begun = progress.begun();
        Self { first: begun, seen: begun, was_busy: false, until, pause: FIRST_LOOK }
    }

    /// When the next look is.
    fn next(&mut self, now: Instant) -> Instant {
        let next = now + self.pause;
        self.pause = (self.pause * 2).min(LAST_LOOK);
        // In time for a first head that does not come.
        if self.seen == self.first { next.min(self.until.max(now)) } else { next }
    }

    /// Whether the connection is left now.
    fn look(&mut self, progress: &Progress, now: Instant, head_time: Duration) -> Option<Left> {
        let (begun, is_busy) = (progress.begun(), progress.is_busy());
        if begun == self.first {
            return (now >= self.until).then_some(Left::TooLate);
        }
        // What ended since the last look may have something left to do, such as to close the connection.
        if is_busy || self.was_busy || begun != self.seen {
            (self.seen, self.was_busy, self.until) = (begun, is_busy, after(now, head_time));
            return None;
        }
        progress.is_quiet().then_some(Left::Quiet)
    }
}

/// A time after another, which may be farther than the system can say.
fn after(begin: Instant, time: Duration) -> Instant {
    let far = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    begin + time.min(far)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_left_when_it_was_quiet_from_one_look_to_the_next() {
        let (progress, head_time) = (Arc::new(Progress::default()), Duration::from_secs(10));
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut turn = Turn::new(&progress, at(10));
        assert!(turn.look(&progress, at(9), head_time).is_none(), "no request has come");
        assert!(matches!(turn.look(&progress, at(10), head_time), Some(Left::TooLate)));
        let request = progress.ask(false);
        assert!(turn.look(&progress, at(11), head_time).is_none(), "a request is under way");
        drop(request);
        assert!(turn.look(&progress, at(12), head_time).is_none(), "it has ended since the last look");
        assert!(matches!(turn.look(&progress, at(13), head_time), Some(Left::Quiet)));
        assert_eq!(turn.until, at(22));
        drop(progress.ask(true));
        for seconds in [14, 15, 100] {
            assert!(turn.look(&progress, at(seconds), head_time).is_none(), "hyper alone knows of the body");
        }
        drop(progress.ask(false));
        assert!(turn.look(&progress, at(101), head_time).is_none(), "another one has come and gone");
        assert!(matches!(turn.look(&progress, at(102), head_time), Some(Left::Quiet)));
    }

    #[test]
    fn looks_become_rare_and_are_in_time_for_a_first_head() {
        let progress = Arc::new(Progress::default());
        let begin = Instant::now();
        let mut turn = Turn::new(&progress, begin + Duration::from_secs(60));
        let (mut now, mut looks) = (begin, 0);
        while now < turn.until {
            now = turn.next(now);
            looks += 1;
        }
        assert_eq!(now, turn.until);
        assert!((15..25).contains(&looks), "{looks}");
    }
}
