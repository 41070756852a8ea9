//! A registry on a socket: the accept loop, its limits and its end.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge on one port. The loop is our own, over hyper-util's automatic builder,
//! because what keeps slow and greedy clients in check has to be set there:
//!
//! | limit | against |
//! |---|---|
//! | `max_connections` | floods; further clients wait in the backlog |
//! | `header_timeout` | a request line that never ends; also how long an idle connection is kept |
//! | `write_timeout` | a client that asks for a blob and does not read it |
//! | [`crate::Limits::body_idle`] | a body that stops coming |
//! | `drain_timeout` | requests that would hold up the end of the process |
//!
//! While it runs, uploads that rest for longer than [`RegistryOptions::upload_max_age`] are removed.
//!
//! # Invariants
//! - `TCP_NODELAY` is set: a small response would otherwise wait 40 ms for the client's delayed acknowledgement.
//! - A connection that ends with an answer to a body that was not read ends slowly: what the client is still sending is
//!   taken for a while, because the system would otherwise reset the connection, and the client lose the answer.
//! - When the shutdown future completes, no connection is accepted any more, idle ones are closed, requests in flight
//!   are answered, and what is left after `drain_timeout` is cut off.

use crate::error::ApiError;
use crate::{Registry, RegistryOptions};
use http::{Request, StatusCode, Version, header};
use hyper_sdk::store::SharedStore;
use hyper_sdk::{Error, ErrorKind, Result, ResultExt};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// The limits of the accept loop.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, the idle time before it included.
    pub header_timeout: Duration,
    /// How long a client may leave a response unread.
    pub write_timeout: Duration,
    /// How long requests in flight may take after the shutdown began.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Answers connections from `listener` until `shutdown` completes and requests in flight have ended.
///
/// Dropping the future closes the listener and every connection at once.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Io`] when the listener fails for good; faults of single connections are logged.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let builder = Arc::new(builder(&options));
    let slots = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let upkeep = tokio::spawn(cut.clone().run_until_cancelled_owned(upkeep(registry.clone())));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?.0, slot))
        };
        let (stream, slot) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                Err(e) if is_passing(&e) => {
                    // Out of file descriptors or memory: others must end before this can go on.
                    tracing::warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(e) => return Err(Error::from(e).with_op("accept a connection")),
            },
        };
        let started = Arc::new(AtomicBool::new(false));
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let unread = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Paced::new(stream, options.write_timeout, unread.clone()));
        let service = {
            let (registry, started) = (registry.clone(), started.clone());
            hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                started.store(true, Ordering::Relaxed);
                let (registry, unread) = (registry.clone(), unread.clone());
                async move {
                    let response = match nameless(&request) {
                        true => registry.refuse(without_host()),
                        false => registry.handle(request).await,
                    };
                    if response.headers().get(header::CONNECTION).is_some_and(|value| value == "close") {
                        unread.store(true, Ordering::Relaxed);
                    }
                    Ok::<_, std::convert::Infallible>(response)
                }
            })
        };
        let connection = graceful.watch(builder.serve_connection(io, service).into_owned());
        let (registry, patience) = (registry.clone(), options.header_timeout);
        let connection = async move {
            let _slot = slot;
            let _open = registry.0.metrics.connection();
            let mut connection = std::pin::pin!(connection);
            // The builder has no timeout for the first bytes, by which it tells HTTP/1 from HTTP/2.
            let first = tokio::time::timeout(patience, &mut connection).await;
            let ended = match first {
                Ok(ended) => ended,
                Err(_) if !started.load(Ordering::Relaxed) => return,
                Err(_) => connection.await,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        };
        let cut = cut.clone();
        tokio::spawn(async move { cut.run_until_cancelled(connection).await });
    }
    drop(listener);
    // Connections that still wait for their first byte have nothing to answer.
    if tokio::time::timeout(options.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off: they did not end in time");
    }
    upkeep.abort();
    Ok(())
}

/// Removes what is left of uploads, again and again.
async fn upkeep(registry: Registry) {
    let options = &registry.0.options;
    let Some(age) = options.upload_max_age.filter(|_| !options.read_only) else { return };
    let pause = (age / 4).clamp(Duration::from_millis(100), Duration::from_secs(600));
    loop {
        tokio::time::sleep(pause).await;
        match registry.store().expire_uploads(age).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "old uploads were removed"),
            Err(e) if e.kind() == ErrorKind::Unsupported => return,
            Err(error) => tracing::warn!(%error, "old uploads cannot be removed"),
        }
    }
}

/// Whether a request lacks the one `Host` that HTTP/1.1 asks for (RFC 9112, section 3.2).
fn nameless(request: &Request<hyper::body::Incoming>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    request.version() == Version::HTTP_11 && hosts != 1
}

fn without_host() -> ApiError {
    let message = "an HTTP/1.1 request needs one `Host` header";
    ApiError::new(StatusCode::BAD_REQUEST, "REQUEST_INVALID", message)
        .with_header(header::CONNECTION, "close")
}

fn builder(options: &ServerOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_headers(100)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_frame_size(256 << 10)
        .max_send_buf_size(1 << 20)
        .max_concurrent_streams(256)
        .max_header_list_size(64 << 10)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(options.header_timeout)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Whether a failed `accept` says nothing about the listener (accept(2)).
fn is_passing(e: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::OutOfMemory
    ) || Errno::from_io_error(e).is_some_and(|e| {
        matches!(e, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::PROTO | Errno::PERM)
    })
}

/// How much of an unread body is taken before its connection is closed, and for how long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER: Duration = Duration::from_secs(3);

/// A socket whose peer must take what is written to it within a time, and which ends slowly when it has to.
struct Paced {
    stream: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether the last answer came before the body of its request had been read.
    unread: Arc<AtomicBool>,
    ending: Option<Ending>,
}

/// A connection whose own direction has been shut down.
struct Ending {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl Paced {
    fn new(stream: TcpStream, patience: Duration, unread: Arc<AtomicBool>) -> Self {
        Self { stream, patience, stalled: None, unread, ending: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Takes what still comes, until the client closes its side too or enough was waited for.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ending) = &mut self.ending else { return Poll::Ready(()) };
        let mut space = [0; 16 << 10];
        while ending.left > 0 && ending.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    ending.left = ending.left.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) if self.unread.load(Ordering::Relaxed) => {
                    let until = Box::pin(tokio::time::sleep(LINGER));
                    self.ending = Some(Ending { until, left: LINGER_BYTES });
                }
                other => return other,
            }
        }
        self.linger(cx).map(Ok)
    }
}

/// Starts registries inside other programs: tests, the command line, Python.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Serves a store at `address` on the current tokio runtime; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the address cannot be listened at, and those of [`Registry::new`].
    pub async fn start(
        store: SharedStore,
        address: SocketAddr,
        registry: RegistryOptions,
        options: ServerOptions,
    ) -> Result<RunningServer> {
        let listener = TcpListener::bind(address).await.context("address", address)?;
        Self::start_on(listener, store, registry, options)
    }

    /// As [`Server::start`], on a socket that listens already.
    ///
    /// # Errors
    /// Those of [`Registry::new`].
    pub fn start_on(
        listener: TcpListener,
        store: SharedStore,
        registry: RegistryOptions,
        options: ServerOptions,
    ) -> Result<RunningServer> {
        let registry = Registry::new(store, registry)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, registry.clone(), options, shutdown));
        Ok(RunningServer { address, registry, stop: Some(stop), task: Some(task) })
    }
}

/// A registry that runs in the background. Dropping it stops it without waiting for requests in flight, which end
/// within their drain time.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    registry: Registry,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<()>>>,
}

impl RunningServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its root, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The registry that answers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Stops accepting, answers the requests in flight and returns when the last one has ended.
    ///
    /// # Errors
    /// Those of [`serve`].
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        match self.task.take() {
            Some(task) => task.await.map_err(|e| Error::internal("the server broke off").with_source(e))?,
            None => Ok(()),
        }
    }
}
