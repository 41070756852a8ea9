//! The accept loop: a service on a socket, its limits and its shutdown.
//!
//! HTTP/1.1 and HTTP/2 on one port: with TLS the client chooses by ALPN, without it by prior knowledge. The loop is our own, and so is the
//! choice between the two (`http_connection.rs`), because the limits against slow and greedy clients have to be set there:
//!
//! | limit | against |
//! |---|---|
//! | `max_connections` | floods; further clients wait in the backlog |
//! | `handshake_timeout` | a TLS handshake that never ends |
//! | `header_timeout` | a request head that never ends; also the idle time of a connection |
//! | `write_timeout` | a client that requests a blob and does not read it |
//! | [`crate::Limits::body_idle`] | a request body that stalls |
//! | `drain_timeout` | requests that would delay the end of the process |
//!
//! # Invariants
//! - `TCP_NODELAY` is set: a small response would otherwise wait 40 ms for the client's delayed acknowledgement.
//! - The write timeout and the slow close lie below TLS: they see the bytes of the socket.
//! - After a response to an unread body, the connection is closed slowly: the server reads for a while what the client
//!   still sends. Otherwise the system would reset the connection, and the client would lose the response.
//! - When the shutdown future completes, no further connection is accepted, idle connections are closed, and requests
//!   in flight are answered. Connections that are open after `drain_timeout` are aborted.

use crate::client_certificate::ClientCertificate;
use crate::connection::{ConnectionInfo, Connections, Stopping};
use crate::error::{API_VERSION, ApiError};
use crate::http_connection::{Protocols, Stop};
use crate::listener::{Accepted, Listeners};
use crate::progress::{Answer, Progress};
use crate::socket::IdleTimeout;
use crate::tls::Tls;
use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_sdk::{Error, Result};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

/// The limits of the accept loop.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// How long a client may take for the handshake of TLS.
    pub handshake_timeout: Duration,
    /// How long a client may take to send the head of a request, the idle time before it included.
    pub header_timeout: Duration,
    /// How long a client may leave a response unread.
    pub write_timeout: Duration,
    /// How long requests in flight may take after the shutdown has begun.
    pub drain_timeout: Duration,
    /// Whether a rate of bytes ([`crate::Allowance::upload`]) slows uploads. A stream of HTTP/2 then has so small a window that those
    /// that wait keep no others of their connection back, which may be of other clients behind a proxy. [`Server`](crate::Server) sets it
    /// by the options of its registry.
    pub slow_uploads: bool,
    /// Whether a rate of bytes ([`crate::Allowance::download`]) slows downloads. What is slowed then goes on without a rate when the
    /// shutdown begins, so that it has a chance to end; so do slowed uploads. [`Server`](crate::Server) sets it, too.
    pub slow_downloads: bool,
    /// The connection counts; [`crate::Registry::connections`] makes the metrics of a registry show them.
    pub connections: Connections,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            slow_uploads: false,
            slow_downloads: false,
            connections: Connections::default(),
        }
    }
}

/// Serves the connections of listeners until `shutdown` completes and the requests in flight have ended: of a
/// [`tokio::net::TcpListener`], a [`Listener`](crate::Listener) or a `Vec` of them.
///
/// The service is a [`Registry`](crate::Registry), the [`router`](crate::router) of one with routes and layers of the
/// program's own, or any other: it is cloned for each request. [`ConnectionInfo`] is in the extensions of each request, and
/// [`ClientCertificate`] when the client has shown one. Files of TLS are read again when they change, and certificates by ACME are
/// renewed.
/// When the service fails, the connection is closed.
///
/// Dropping the future closes the listeners and every connection immediately.
///
/// ```no_run
/// use hyper_sdk::store::DiskStore;
/// use hyper_server::{Registry, RegistryOptions, ServerOptions, serve};
/// use std::sync::Arc;
///
/// async fn run(listener: tokio::net::TcpListener) -> hyper_sdk::Result<()> {
///     let store = Arc::new(DiskStore::open("/srv/registry").await?);
///     let registry = Registry::new(store, RegistryOptions::default())?;
///     let options = ServerOptions { connections: registry.connections().clone(), ..ServerOptions::default() };
///     serve(listener, registry, options, std::future::pending()).await
/// }
/// ```
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Io`] when a listener fails permanently; failures of single connections are logged.
pub async fn serve<S, B>(
    listeners: impl Into<Listeners>,
    service: S,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listeners = listeners.into();
    let slots = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let stopping = cut.child_token();
    for tls in listeners.iter().filter_map(|listener| listener.tls_of().cloned()) {
        tokio::spawn(stopping.clone().run_until_cancelled_owned(tls.watch()));
    }
    let protocols = Protocols {
        http1: http1_builder(&options),
        http2: http2_builder(&options),
        head_time: options.header_timeout,
        stop: Stop::new(stopping),
    };
    let connections = Arc::new(ConnectionServer { protocols, options });
    let mut shutdown = std::pin::pin!(shutdown);
    let mut first = 0;
    // Those that are open when this is dropped are aborted.
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = open.join_next() => continue,
            accepted = accept(&listeners, &mut first, &slots) => accepted,
        };
        match accepted {
            Ok((accepted, slot)) => {
                open.spawn(connections.clone().run(service.clone(), accepted, slot));
            }
            Err(e) if is_temporary(&e) => {
                // Out of file descriptors or memory: other connections must end first.
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(e) => return Err(Error::from(e).with_op("accept a connection")),
        }
    }
    drop(listeners);
    // Connections without a request in flight end now, or a moment later when a head is coming.
    connections.protocols.stop.set();
    let ended = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(connections.options.drain_timeout, ended).await.is_err() {
        tracing::warn!("requests were aborted: they did not end within the drain time");
    }
    Ok(())
}

async fn accept(
    listeners: &Listeners,
    first: &mut usize,
    slots: &Arc<Semaphore>,
) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((listeners.accept(first).await?, slot))
}

/// Whether a failure of `accept` is temporary, so that the listener can still be used (accept(2)).
fn is_temporary(e: &io::Error) -> bool {
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

/// Answers the requests of connections.
struct ConnectionServer {
    protocols: Protocols,
    options: ServerOptions,
}

/// What is known of a connection, for the extensions of its requests.
#[derive(Clone)]
struct Known {
    info: ConnectionInfo,
    certificate: Option<ClientCertificate>,
}

impl ConnectionServer {
    /// Answers one connection to its end.
    async fn run<S, B>(self: Arc<Self>, service: S, accepted: Accepted, _slot: OwnedSemaphorePermit)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let _open = self.options.connections.accept();
        let unread = Arc::new(AtomicBool::new(false));
        let (stream, peer, tls) = match accepted {
            Accepted::Tcp { stream, peer, tls } => (stream, peer, tls),
            Accepted::Unix(stream) => {
                let io = IdleTimeout::new(stream, self.options.write_timeout, unread.clone());
                let known = Known { info: ConnectionInfo::unix(), certificate: None };
                return self.answer(service, io, known, unread).await;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Ok(local) = stream.local_addr() else { return };
        let info = ConnectionInfo::new(peer, local);
        let Some(tls) = tls else {
            let io = IdleTimeout::new(stream, self.options.write_timeout, unread.clone());
            return self.answer(service, io, Known { info, certificate: None }, unread).await;
        };
        let handshake = self.handshake(stream, &tls, unread.clone());
        let handshake = tokio::time::timeout(self.options.handshake_timeout, handshake);
        match self.protocols.stop.token().run_until_cancelled(handshake).await {
            Some(Ok(Ok(Some(stream)))) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let certificate =
                    shown.map(|der| ClientCertificate::new(der.clone().into_owned(), tls.name_rule()));
                let known = Known { info: info.with_tls(), certificate };
                self.answer(service, stream, known, unread).await;
            }
            Some(Ok(Err(error))) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Some(Err(_)) => tracing::debug!(%peer, "a TLS handshake took too long"),
            Some(Ok(Ok(None))) | None => {}
        }
    }

    /// Begins TLS. A client that speaks plain HTTP is told, and has no stream; so has a challenge of ACME that was answered.
    async fn handshake(
        &self,
        stream: TcpStream,
        tls: &Tls,
        unread: Arc<AtomicBool>,
    ) -> io::Result<Option<Box<TlsStream<IdleTimeout<TcpStream>>>>> {
        let mut first = [0];
        let is_http = stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase();
        let mut io = IdleTimeout::new(stream, self.options.write_timeout, unread.clone());
        if is_http {
            self.options.connections.refuse_request();
            unread.store(true, Ordering::Relaxed);
            io.write_all(SPEAKS_TLS.as_bytes()).await?;
            io.shutdown().await?;
            return Ok(None);
        }
        // Boxed, as a client that has sent nothing must not have the room for it.
        Ok(Box::pin(tls.accept(io)).await?.map(Box::new))
    }

    /// Answers the requests of a connection.
    async fn answer<S, B, I>(&self, service: S, io: I, known: Known, unread: Arc<AtomicBool>)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let progress = Arc::new(Progress::default());
        let is_slow = self.options.slow_uploads || self.options.slow_downloads;
        let link = Arc::new(Link {
            known,
            counts: self.options.connections.clone(),
            stopping: is_slow.then(|| Stopping(self.protocols.stop.token().clone())),
            unread,
        });
        let asking = progress.clone();
        let respond = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let asked = asking.ask(!request.body().is_end_stream());
            let (service, link) = (service.clone(), link.clone());
            link.add_to(&mut request);
            async move {
                let response = if lacks_host(&request) {
                    link.counts.refuse_request();
                    without_host()
                } else {
                    service.oneshot(request).await.map_err(axum::Error::new)?.map(Body::new)
                };
                if response.headers().get(header::CONNECTION).is_some_and(|value| value == "close") {
                    link.unread.store(true, Ordering::Relaxed);
                }
                Ok::<_, axum::Error>(response.map(|body| Answer::new(body, asked)))
            }
        });
        self.protocols.speak(io, respond, progress).await;
    }
}

/// What all requests of a connection share.
struct Link {
    known: Known,
    counts: Connections,
    /// When bodies may be slowed.
    stopping: Option<Stopping>,
    unread: Arc<AtomicBool>,
}

impl Link {
    /// Adds what is known of the connection to the extensions of a request.
    fn add_to(&self, request: &mut Request<Incoming>) {
        let extensions = request.extensions_mut();
        extensions.insert(self.known.info);
        if let Some(stopping) = &self.stopping {
            extensions.insert(stopping.clone());
        }
        if let Some(certificate) = &self.known.certificate {
            extensions.insert(certificate.clone());
        }
    }
}

/// The most streams of a connection of HTTP/2.
const STREAMS: u32 = 256;
/// The window of a stream where uploads are slowed.
const SLOW_STREAM: u32 = 64 << 10;

/// The answer to plain HTTP where TLS is spoken.
const SPEAKS_TLS: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 105\r\n\r\n",
    r#"{"errors":[{"code":"REQUEST_INVALID","message":"this port speaks TLS: use https:// instead of http://"}]}"#
);

/// Whether a request lacks the one `Host` header that HTTP/1.1 requires (RFC 9112, section 3.2).
fn lacks_host(request: &Request<Incoming>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    request.version() == Version::HTTP_11 && hosts != 1
}

fn without_host() -> Response {
    let message = "an HTTP/1.1 request needs one `Host` header";
    let error = ApiError::new(StatusCode::BAD_REQUEST, "REQUEST_INVALID", message);
    let mut response = error.with_header(header::CONNECTION, "close").into_response();
    response.headers_mut().insert(API_VERSION.clone(), HeaderValue::from_static("registry/2.0"));
    response
}

fn http1_builder(options: &ServerOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_headers(100)
        .half_close(false);
    builder
}

fn http2_builder(options: &ServerOptions) -> http2::Builder<TokioExecutor> {
    // Of a stream and of a connection. All streams that wait together must leave room in the connection.
    let (stream, connection) =
        if options.slow_uploads { (SLOW_STREAM, 2 * STREAMS * SLOW_STREAM) } else { (1 << 20, 4 << 20) };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .max_frame_size(256 << 10)
        .max_send_buf_size(1 << 20)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(options.header_timeout)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Ten thousand clients that say nothing have this, the state of their sockets and nothing else.
    #[tokio::test]
    async fn a_connection_that_waits_for_its_client_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let options = ServerOptions::default();
        let protocols = Protocols {
            http1: http1_builder(&options),
            http2: http2_builder(&options),
            head_time: options.header_timeout,
            stop: Stop::new(CancellationToken::new()),
        };
        let server = Arc::new(ConnectionServer { protocols, options });
        let service = tower::service_fn(async |_: Request<Incoming>| {
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let slot = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let size = size_of_val(&server.run(service, Accepted::Tcp { stream, peer, tls: None }, slot));
        assert!(size < 2048, "{size} bytes");
    }
}
