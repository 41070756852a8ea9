//! A connection to a directory: TCP, TLS, and one request at a time.
//!
//! # Invariants
//! - Nothing but StartTLS is sent before TLS, unless the options say that the connection may be plain.
//! - A message has a largest size, and so has what one connection receives: a directory cannot fill the memory.
//! - Bytes are read as a message needs them, so nothing that came before TLS is taken for something that came through it.

use super::ber;
use super::message::{self, Answer, Entry, Outcome, Search};
use super::server::{Security, Server};
use hyper_sdk::{Error, ErrorKind, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The largest message, in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// What one connection receives at most, in bytes.
const MAX_RECEIVED: usize = 4 << 20;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to a directory. Dropping it closes it.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    last: u32,
    received: usize,
    seconds: u32,
}

/// What a search has found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    /// Whether there are more than were asked for.
    pub(super) has_more: bool,
}

impl Connection {
    /// Connects, and begins TLS.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] that says what fails.
    pub(super) async fn open(server: &Server, tls: &Arc<ClientConfig>, time: Duration) -> Result<Self> {
        let failed = |what: &str| Error::new(ErrorKind::Unavailable, what.to_owned());
        let stream = TcpStream::connect((server.host.as_str(), server.port))
            .await
            .map_err(|e| failed("cannot connect to the directory").with_source(e))?;
        let _ = stream.set_nodelay(true);
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
        let over = |stream: Box<dyn Stream>| Self { stream, last: 0, received: 0, seconds };
        let stream = match server.security {
            Security::Plain => return Ok(over(Box::new(stream))),
            Security::Tls => stream,
            Security::StartTls => start_tls(stream).await?,
        };
        let name = ServerName::try_from(server.host.clone())
            .map_err(|_| Error::invalid("the name of the directory is no name for TLS"))?;
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| failed("TLS with the directory fails").with_source(e))?;
        Ok(over(Box::new(stream)))
    }

    /// Binds with a name and a password. Returns whether the directory accepts them.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it answers something else than yes or no; [`ErrorKind::Invalid`] without a password, which
    /// would be no proof of anything (RFC 4513, section 5.1.2).
    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<Result<(), Outcome>> {
        if dn.is_empty() || password.is_empty() {
            return Err(Error::invalid("a bind needs a name and a password"));
        }
        let id = self.next();
        self.send(&message::bind(id, dn, password)).await?;
        match self.answer(id).await? {
            Answer::Bound(outcome) if outcome.code == Outcome::SUCCESS => Ok(Ok(())),
            Answer::Bound(outcome) if outcome.refuses_login() => Ok(Err(outcome)),
            Answer::Bound(outcome) => Err(refused("the directory does not bind", &outcome)),
            _ => Err(garbled()),
        }
    }

    /// Searches. References to other directories are left out, and so are entries beyond the most.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the directory does not search; [`ErrorKind::NotFound`] when there is no base.
    pub(super) async fn search(&mut self, search: &Search<'_>) -> Result<Found> {
        let id = self.next();
        // One more, to see whether there are more.
        let asked = Search { filter: search.filter.clone(), most: search.most + 1, ..*search };
        self.send(&message::search(id, &asked, self.seconds)).await?;
        let mut found = Found { entries: Vec::new(), has_more: false };
        loop {
            match self.answer(id).await? {
                Answer::Found(entry) if found.entries.len() < search.most as usize => {
                    found.entries.push(entry)
                }
                Answer::Found(_) => found.has_more = true,
                Answer::Elsewhere => {}
                Answer::Searched(outcome) => {
                    return match outcome.code {
                        Outcome::SUCCESS => Ok(found),
                        Outcome::SIZE_LIMIT => Ok(Found { has_more: true, ..found }),
                        Outcome::NO_SUCH_OBJECT => {
                            let gone = refused("the directory has no such entry", &outcome);
                            Err(gone.with_kind(ErrorKind::NotFound))
                        }
                        _ => Err(refused("the directory does not search", &outcome)),
                    };
                }
                _ => return Err(garbled()),
            }
        }
    }

    /// Says good-bye, as far as that takes no time.
    pub(super) async fn close(mut self) {
        let id = self.next();
        let _ = self.send(&message::unbind(id)).await;
        let _ = self.stream.shutdown().await;
    }

    fn next(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|e| lost().with_source(e))
    }

    /// The next answer to the request with this number.
    async fn answer(&mut self, id: u32) -> Result<Answer> {
        let content = receive(&mut self.stream, &mut self.received).await?;
        // The directory ends the connection by a message of its own (RFC 4511, section 4.4.1).
        match message::read(&content).ok_or_else(garbled)? {
            (found, answer) if found == id => Ok(answer),
            (0, Answer::Extended(outcome)) => Err(refused("the directory ends the connection", &outcome)),
            _ => Err(garbled()),
        }
    }
}

/// Asks for TLS on a connection that has none.
async fn start_tls(mut stream: TcpStream) -> Result<TcpStream> {
    stream.write_all(&message::start_tls(1)).await.map_err(|e| lost().with_source(e))?;
    let content = receive(&mut stream, &mut 0).await?;
    match message::read(&content) {
        Some((1, Answer::Extended(outcome))) if outcome.code == Outcome::SUCCESS => Ok(stream),
        Some((1, Answer::Extended(outcome))) => Err(refused("the directory does not begin TLS", &outcome)),
        _ => Err(garbled()),
    }
}

/// The content of the next message, and no byte more. `received` counts what came.
async fn receive<S: AsyncRead + Unpin>(stream: &mut S, received: &mut usize) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(6);
    let length = loop {
        match ber::head(&head).map_err(|()| garbled())? {
            Some((_, length)) => break length,
            None => head.push(stream.read_u8().await.map_err(|e| lost().with_source(e))?),
        }
    };
    *received = received.saturating_add(head.len()).saturating_add(length);
    if head[0] != 0x30 {
        return Err(garbled());
    }
    if length > MAX_MESSAGE || *received > MAX_RECEIVED {
        return Err(Error::new(ErrorKind::Unavailable, "the directory sends too much"));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await.map_err(|e| lost().with_source(e))?;
    Ok(content)
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to the directory is lost")
}

fn garbled() -> Error {
    Error::new(ErrorKind::Unavailable, "the directory does not speak LDAP")
}

fn refused(what: &str, outcome: &Outcome) -> Error {
    Error::new(ErrorKind::Unavailable, what.to_owned())
        .with_context("result", outcome.code)
        .with_context("explanation", &outcome.explanation)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(bytes: &[u8]) -> Result<Vec<u8>> {
        receive(&mut &bytes[..], &mut 0).await
    }

    #[tokio::test]
    async fn a_message_is_bounded_before_memory_is_set_aside() {
        assert_eq!(received(b"\x30\x02abcd").await.unwrap(), b"ab");
        assert_eq!(received(b"\x30\x81\x02ab").await.unwrap(), b"ab");
        for (bad, part) in [
            (&b"\x30\x84\xff\xff\xff\xff"[..], "too much"),
            (b"\x30\x83\x10\x00\x01", "too much"),
            (b"\x30\x80", "speak LDAP"),
            (b"\x04\x02ab", "speak LDAP"),
            (b"HTTP/1.1 400", "speak LDAP"),
            (b"\x30\x02a", "lost"),
            (b"", "lost"),
        ] {
            let e = received(bad).await.unwrap_err();
            assert!(e.to_string().contains(part), "{bad:?}: {e}");
        }
        let mut many = MAX_RECEIVED;
        let e = receive(&mut &b"\x30\x02ab"[..], &mut many).await.unwrap_err();
        assert!(e.to_string().contains("too much"));
    }
}
