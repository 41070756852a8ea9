//! Sockets that listen, with what is spoken there: plain HTTP or TLS.

use crate::tls::Tls;
use crate::unix_socket::UnixSocket;
use hyper_sdk::Result;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// A socket that listens.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp { socket: TcpListener, tls: Option<Tls> },
    Unix(UnixSocket),
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp { stream: TcpStream, peer: SocketAddr, tls: Option<Tls> },
    Unix(UnixStream),
}

impl Listener {
    /// TLS on a socket that listens.
    pub fn tls(socket: TcpListener, tls: Tls) -> Self {
        Self(Kind::Tcp { socket, tls: Some(tls) })
    }

    /// Listens at a socket of the file system. See [`UnixSocket::bind`].
    ///
    /// # Errors
    /// Those of [`UnixSocket::bind`].
    pub fn unix(socket: UnixSocket) -> Self {
        Self(Kind::Unix(socket))
    }

    /// Where it listens, as a URL.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the system does not say.
    pub fn url(&self) -> Result<String> {
        match &self.0 {
            Kind::Tcp { socket, tls } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                Ok(format!("{scheme}://{}", socket.local_addr()?))
            }
            Kind::Unix(socket) => Ok(format!("unix:{}", socket.path().display())),
        }
    }

    pub(crate) fn tls_of(&self) -> Option<&Tls> {
        match &self.0 {
            Kind::Tcp { tls, .. } => tls.as_ref(),
            Kind::Unix(_) => None,
        }
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match &self.0 {
            Kind::Tcp { socket, tls } => socket.poll_accept(cx).map_ok(|(stream, peer)| Accepted::Tcp {
                stream,
                peer,
                tls: tls.clone(),
            }),
            Kind::Unix(socket) => {
                socket.listener().poll_accept(cx).map_ok(|(stream, _)| Accepted::Unix(stream))
            }
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self(Kind::Tcp { socket, tls: None })
    }
}

/// The sockets of one server.
#[derive(Debug)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Listener> {
        self.0.iter()
    }

    /// Accepts a connection of any of them. `first` is asked first, and moves on, so that none waits for another.
    pub(crate) async fn accept(&self, first: &mut usize) -> io::Result<Accepted> {
        std::future::poll_fn(|cx| {
            for offset in 0..self.0.len() {
                let at = (*first + offset) % self.0.len();
                if let Poll::Ready(accepted) = self.0[at].poll_accept(cx) {
                    *first = (at + 1) % self.0.len();
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl From<TcpListener> for Listeners {
    fn from(socket: TcpListener) -> Self {
        Self(vec![socket.into()])
    }
}

impl From<Listener> for Listeners {
    fn from(listener: Listener) -> Self {
        Self(vec![listener])
    }
}

impl From<Vec<Listener>> for Listeners {
    fn from(listeners: Vec<Listener>) -> Self {
        Self(listeners)
    }
}
