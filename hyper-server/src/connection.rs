//! Connections: their addresses and their counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// The connection that a request came through. [`serve`](crate::serve) adds it to the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The address of the client or of a proxy; `None` for a socket of the file system.
    pub peer: Option<SocketAddr>,
    /// The address that the client connected to; `None` for a socket of the file system.
    pub local: Option<SocketAddr>,
    /// Whether this server speaks TLS with the peer.
    pub tls: bool,
}

impl ConnectionInfo {
    /// A connection from `peer` to `local`, for programs with an accept loop of their own.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer: Some(peer), local: Some(local), tls: false }
    }

    /// A connection of a socket of the file system.
    pub fn unix() -> Self {
        Self { peer: None, local: None, tls: false }
    }

    /// The same connection, with TLS.
    #[must_use]
    pub fn with_tls(self) -> Self {
        Self { tls: true, ..self }
    }
}

/// Is cancelled when the server ends. The accept loop adds it to the extensions of requests whose bodies may be slowed.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(pub(crate) CancellationToken);

/// Counts connections. Clones share the counts.
///
/// [`serve`](crate::serve) counts in the one of its [`ServerOptions`](crate::ServerOptions), and `/metrics` of a registry
/// shows those of [`Registry::connections`](crate::Registry::connections): give the accept loop that one.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicI64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Connections {
    /// The number of open connections.
    pub fn open(&self) -> i64 {
        self.0.open.load(Ordering::Relaxed)
    }

    /// The number of accepted connections.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// The number of malformed requests that the accept loop rejected.
    pub fn refused_requests(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Counts a connection as open until the value is dropped.
    pub(crate) fn accept(&self) -> Open {
        self.0.accepted.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    pub(crate) fn refuse_request(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open(Connections);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
