//! The body of a response to a client with a rate of bytes.
//!
//! # Invariants
//! - It has the length and the bytes of the body within, and fails when that does.
//! - While it waits, it reads nothing of the body within.

use crate::throttle::Pacer;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Passes a body in pieces, each in its turn by the rates of the client. Dropping it gives a turn that was taken not back.
pub(crate) struct PacedBody {
    body: Body,
    pacer: Pacer,
    piece: usize,
    /// What came from the body, and has not passed.
    rest: Bytes,
    /// The turn of the next piece of the rest.
    turn: Turn,
}

enum Turn {
    NotTaken,
    Waits(BoxFuture<'static, ()>),
    Came,
}

impl PacedBody {
    pub(crate) fn new(body: Body, pacer: Pacer) -> Self {
        let piece = pacer.piece();
        Self { body, pacer, piece, rest: Bytes::new(), turn: Turn::NotTaken }
    }

    fn next_piece(&self) -> usize {
        self.rest.len().min(self.piece)
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        if let Turn::NotTaken = this.turn {
            this.turn = this.pacer.turn(this.next_piece()).map_or(Turn::Came, Turn::Waits);
        }
        if let Turn::Waits(wait) = &mut this.turn {
            ready!(wait.poll_unpin(cx));
        }
        this.turn = Turn::NotTaken;
        let most = this.next_piece();
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(most)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt as _, stream};
    use hyper_sdk::Error;
    use std::time::Duration;
    use tokio::time::Instant;

    /// Reads a body to its end, and checks after each piece that no more came than may.
    async fn read(body: PacedBody, start: Instant, rate: u64) -> Vec<u8> {
        let (mut all, piece) = (Vec::new(), body.piece as u64);
        let mut data = Body::new(body).into_data_stream();
        while let Some(part) = data.next().await {
            all.extend_from_slice(&part.unwrap());
            let allowed = rate as f64 * (1.0 + start.elapsed().as_secs_f64()) + piece as f64;
            // A timer of the runtime has a resolution of one millisecond.
            assert!(all.len() as f64 <= allowed + rate as f64 / 500.0, "{} {allowed}", all.len());
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_comes_whole_at_its_rate() {
        let content: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let start = Instant::now();
        let body = PacedBody::new(Body::from(content.clone()), Pacer::of("100KB/s"));
        assert_eq!(body.size_hint().exact(), Some(1_000_000));
        assert!(read(body, start, 100_000).await == content);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(8700) && took < Duration::from_millis(9100), "{took:?}");
    }

    /// The first one has the bytes of a second that pass at once. From then on they take turns, and have the rate of one together.
    #[tokio::test(start_paused = true)]
    async fn two_bodies_of_a_client_share_its_rate() {
        let pacer = Pacer::of("100KB/s");
        let start = Instant::now();
        let get = || async {
            let body = PacedBody::new(Body::from(vec![1; 500_000]), pacer.clone());
            let read = read(body, start, 100_000).await.len();
            (read, start.elapsed())
        };
        let ((first, one), (second, two)) = tokio::join!(get(), get());
        assert_eq!((first, second), (500_000, 500_000));
        assert!(one.max(two) > Duration::from_millis(8700), "{one:?} {two:?}");
        assert!(one.abs_diff(two) < Duration::from_millis(1500), "{one:?} {two:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_fails_fails_after_what_came_before() {
        let parts = [Ok(Bytes::from_static(&[1; 40_000])), Err(Error::internal("a disk"))];
        let body = PacedBody::new(Body::from_stream(stream::iter(parts)), Pacer::of("16KiB/s"));
        let mut data = Body::new(body).into_data_stream();
        for expected in [16_384, 16_384, 40_000 - 32_768] {
            assert_eq!(data.next().await.unwrap().unwrap().len(), expected);
        }
        data.next().await.unwrap().unwrap_err();
    }
}
