//! How far a connection is, as those see it who take part in it: what waits for the client, the socket and the service.
//!
//! ```text
//! Tracked (socket) ── bytes came, or do not leave ──┐
//! service ── Asked, kept by its Answer ── a request ┴─ Progress ── http_connection: is the client idle?
//! ```
//!
//! # Invariants
//! - A connection of HTTP/1 is quiet when no request is under way, the last one had no body, no byte of a next one has come, and all
//!   bytes of the last response have left. It then has no state but its socket. A body may be read after its response, by a task of the
//!   service, so nobody knows when it has ended but hyper, which then lets the next head come.

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are read to see what a client wants: as many as tell HTTP/2 from HTTP/1.
const FIRST: usize = 24;

/// How far a connection is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// How many requests have begun. It may overflow.
    begun: AtomicU32,
    /// How many requests have not got their whole response.
    under_way: AtomicU32,
    /// Whether the last request had a body.
    has_body: AtomicBool,
    /// Whether bytes came since a request began or ended.
    has_come: AtomicBool,
    /// Whether the socket took no more bytes when it was last tried.
    is_full: AtomicBool,
    /// Whether the connection is being closed, which may take a while when the client still sends.
    is_closing: AtomicBool,
}

impl Progress {
    /// Counts a request, which is under way until the value is dropped.
    pub(crate) fn ask(self: &Arc<Self>, has_body: bool) -> Asked {
        self.has_body.store(has_body, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.has_come.store(false, Ordering::Relaxed);
        Asked(self.clone())
    }

    /// How many requests have begun.
    pub(crate) fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether the client waits for this server, or takes what it was sent; also while the connection is being closed.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
            || self.is_full.load(Ordering::Relaxed)
            || self.is_closing.load(Ordering::Relaxed)
    }

    /// Whether nothing is left of the last request, so that the head of the next one is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.is_busy() && !self.has_body.load(Ordering::Relaxed)
    }

    /// Whether it is, and nothing of the head has come.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_waiting() && !self.has_come.load(Ordering::Relaxed)
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct Asked(Arc<Progress>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.has_come.store(false, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response. Its request is under way until it is dropped.
pub(crate) struct Answer {
    body: Body,
    _asked: Asked,
}

impl Answer {
    pub(crate) fn new(body: Body, asked: Asked) -> Self {
        Self { body, _asked: asked }
    }
}

impl HttpBody for Answer {
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

/// A stream that notes what passes. Bytes that were read to look at them are read again.
pub(crate) struct Tracked<S> {
    stream: S,
    first: Bytes,
    progress: Arc<Progress>,
}

impl<S: AsyncRead + Unpin> Tracked<S> {
    pub(crate) fn new(stream: S, progress: Arc<Progress>) -> Self {
        Self { stream, first: Bytes::new(), progress }
    }

    /// The bytes that will be read again.
    pub(crate) fn first(&self) -> &[u8] {
        &self.first
    }

    /// Makes these the bytes that are read next.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        // Empty ones may have the whole buffer that they were read into.
        self.first = if bytes.is_empty() { Bytes::new() } else { bytes };
    }

    /// Reads some of the [first bytes](Self::first), up to 24 in all. `false` at the end of the stream. No memory is reserved
    /// until there are some.
    pub(crate) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [0; FIRST];
        let known = self.first.len().min(FIRST);
        space[..known].copy_from_slice(&self.first[..known]);
        let mut buffer = ReadBuf::new(&mut space);
        buffer.set_filled(known);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        if buffer.filled().len() == known {
            return Poll::Ready(Ok(false));
        }
        self.first = Bytes::copy_from_slice(buffer.filled());
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if this.first.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        } else {
            let most = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first.split_to(most));
            if this.first.is_empty() {
                this.first = Bytes::new();
            }
        }
        if buf.filled().len() > before {
            this.progress.has_come.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Tracked<S> {
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.is_full.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.progress.is_closing.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn first_bytes_are_read_again_and_are_something_of_a_request() {
        let (mut client, server) = tokio::io::duplex(64);
        let progress = Arc::new(Progress::default());
        let mut stream = Tracked::new(server, progress.clone());
        for (sent, first) in [("PR", "PR"), ("I * and more than 24 bytes", "PRI * and more than 24 b")] {
            client.write_all(sent.as_bytes()).await.unwrap();
            assert!(poll_fn(|cx| stream.poll_first(cx)).await.unwrap());
            assert_eq!(stream.first(), first.as_bytes());
        }
        assert!(progress.is_quiet(), "nobody has read them yet");
        drop(client);
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "PRI * and more than 24 bytes");
        assert!(!progress.is_quiet() && !progress.is_busy());
        assert!(!poll_fn(|cx| stream.poll_first(cx)).await.unwrap(), "the end");
    }

    #[tokio::test]
    async fn a_connection_is_quiet_between_its_requests_alone() {
        let (mut client, server) = tokio::io::duplex(64);
        let progress = Arc::new(Progress::default());
        let mut stream = Tracked::new(server, progress.clone());
        client.write_all(b"GET").await.unwrap();
        stream.read_exact(&mut [0; 3]).await.unwrap();
        assert!(!progress.is_quiet(), "half of a head");
        let answer = Answer::new(Body::from("x"), progress.ask(false));
        assert!(progress.is_busy() && progress.begun() == 1);
        let full = tokio::time::timeout(std::time::Duration::from_millis(20), stream.write_all(&[1; 65]));
        assert!(full.await.is_err());
        drop(answer);
        assert!(progress.is_busy(), "the client does not read");
        client.read_exact(&mut [0; 64]).await.unwrap();
        stream.flush().await.unwrap();
        assert!(progress.is_quiet());
        drop(progress.ask(true));
        assert!(!progress.is_quiet() && !progress.is_busy(), "a task may read the body");
        drop(progress.ask(false));
        assert!(progress.is_quiet());
        stream.shutdown().await.unwrap();
        assert!(progress.is_busy(), "it is being closed");
    }
}
