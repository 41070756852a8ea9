//! Where the program listens, and what it speaks there.

use crate::listen::ListenAddress;
use crate::listener::Listener;
use crate::tls::Tls;
use crate::unix_socket::UnixSocket;
use hyper_sdk::{Error, Result};
use serde::de::{self, SeqAccess};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A listener of the program: `ADDRESS`, which speaks TLS when there is a certificate, `http://ADDRESS`,
/// `https://ADDRESS`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenOn {
    /// An address. `tls` is `None` when the certificate decides.
    Address { tls: Option<bool>, address: ListenAddress },
    /// A socket of the file system.
    Unix(PathBuf),
}

impl ListenOn {
    /// Whether it cannot listen without a certificate.
    pub(crate) fn needs_tls(&self) -> bool {
        matches!(self, Self::Address { tls: Some(true), .. })
    }

    /// Whether it speaks TLS when there is a certificate.
    pub(crate) fn may_speak_tls(&self) -> bool {
        matches!(self, Self::Address { tls: None | Some(true), .. })
    }

    /// Listens. A socket of the file system gets the mode.
    pub(crate) async fn bind(&self, tls: Option<&Tls>, mode: u32) -> Result<Listener> {
        match self {
            Self::Unix(path) => Ok(Listener::unix(UnixSocket::bind(path, mode)?)),
            Self::Address { address, .. } => {
                let socket = address.bind().await?;
                Ok(match tls.filter(|_| self.may_speak_tls()) {
                    Some(tls) => Listener::tls(socket, tls.clone()),
                    None => socket.into(),
                })
            }
        }
    }
}

impl FromStr for ListenOn {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        if let Some(path) = s.strip_prefix("unix:") {
            return match path {
                "" => {
                    Err(Error::invalid("`unix:` needs the path of a socket: unix:/run/hyperregistry/socket"))
                }
                path => Ok(Self::Unix(path.into())),
            };
        }
        let (tls, address) = match (s.strip_prefix("http://"), s.strip_prefix("https://")) {
            (Some(address), _) => (Some(false), address),
            (_, Some(address)) => (Some(true), address),
            _ => (None, s),
        };
        Ok(Self::Address { tls, address: address.parse()? })
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { tls: None, address } => write!(f, "{address}"),
            Self::Address { tls: Some(tls), address } => {
                write!(f, "{}://{address}", if *tls { "https" } else { "http" })
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for ListenOn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::units::text(d)
    }
}

/// Reads one listener or a list of them.
pub(crate) fn one_or_more<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<ListenOn>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<ListenOn>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address, or a list of addresses")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.parse().map_err(|e: Error| E::custom(e.message()))?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = texts.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }
    d.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_written_as_it_is_read() {
        for (text, may, needs) in [
            (":5000", true, false),
            ("http://127.0.0.1:5000", false, false),
            ("https://localhost:5443", true, true),
            ("unix:/run/r/socket", false, false),
        ] {
            let read: ListenOn = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
            assert_eq!((read.may_speak_tls(), read.needs_tls()), (may, needs), "{text}");
        }
        for text in ["unix:", "https://", "ftp://x:1", "https://x:1/path"] {
            assert!(text.parse::<ListenOn>().is_err(), "{text}");
        }
    }
}
