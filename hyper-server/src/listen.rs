//! The address of a listener, in the form that people write.

use hyper_sdk::{Error, ErrorDetail, ErrorKind, Result};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use tokio::net::{TcpListener, TcpStream};

/// An address and a port: `127.0.0.1:5000`, `[::1]:5000`, `localhost:5000`, or `:5000` for every address of the machine.
/// Port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    host: String,
    port: u16,
}

impl ListenAddress {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Binds the address. A host name is resolved, and its IPv4 addresses are tried first.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the host name cannot be resolved, or none of its addresses can be bound.
    pub async fn bind(&self) -> Result<TcpListener> {
        let mut last = None;
        for address in self.addresses().await.map_err(|e| self.unknown_host().with_source(e))? {
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                // Clients would not try another address of the same name.
                Err(e) if matches!(e.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                    return Err(cannot_listen(self, e));
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.map_or_else(|| self.unknown_host(), |e| cannot_listen(self, e)))
    }

    /// Connects to a server that listens here. One that listens at every address is asked at that of the machine itself.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let mut addresses = self.addresses().await?;
        for address in &mut addresses {
            if address.ip().is_unspecified() {
                let own =
                    if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                address.set_ip(own);
            }
        }
        TcpStream::connect(&*addresses).await
    }

    fn unknown_host(&self) -> Error {
        let message = format!(
            "cannot listen at `{self}`: the host has no address. Use a name or an address of this machine"
        );
        Error::new(ErrorKind::Io, message).with_detail(ErrorDetail::Listen { address: self.to_string() })
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if self.host.is_empty() {
            // An IPv6 socket accepts both families. IPv4 is tried where there is no IPv6.
            let all: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
            return Ok(all.map(|ip| SocketAddr::new(ip, self.port)).into());
        }
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let mut found: Vec<SocketAddr> = tokio::net::lookup_host((host, self.port)).await?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        Ok(found)
    }
}

/// The error for an address that cannot be bound, with what to do about it.
pub(crate) fn cannot_listen(address: impl fmt::Display, e: io::Error) -> Error {
    let why = match e.kind() {
        io::ErrorKind::AddrInUse => {
            ": another program listens there. End that program, or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            ": no interface of this machine has the address. `:PORT` listens at every address"
        }
        io::ErrorKind::PermissionDenied => {
            ": the system keeps low ports for root. Choose a port above 1023, or give the program CAP_NET_BIND_SERVICE"
        }
        _ => "",
    };
    let message = format!("cannot listen at `{address}`{why}");
    let detail = ErrorDetail::Listen { address: address.to_string() };
    Error::new(ErrorKind::Io, message).with_source(e).with_detail(detail)
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: address.port() }
    }
}

impl FromStr for ListenAddress {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "`{}` is not an address to listen at: write IP:PORT, HOST:PORT or :PORT, such as 127.0.0.1:5000 or [::1]:5000",
                s.escape_debug()
            ))
        };
        if let Ok(address) = s.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let (host, port) = s.rsplit_once(':').ok_or_else(bad)?;
        let is_name = host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && !host.starts_with(['-', '.']);
        if !is_name || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_parsed_with_and_without_a_host() {
        for text in ["127.0.0.1:5000", "[::1]:5000", "localhost:0", ":5000", "registry.example.com:80"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            ":",
            "5000",
            "localhost",
            "localhost:",
            "a b:1",
            "::1:5000:",
            "x:70000",
            "x:-1",
            "[::1]",
            "http://x:1",
        ] {
            let e = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(e.contains("HOST:PORT or :PORT"), "{text}: {e}");
        }
    }

    /// Checks that an error names the address once, and has it as a detail.
    fn assert_names_once(e: &Error, address: &str) {
        assert_eq!(e.to_string().matches(address).count(), 1, "{e}");
        let Some(ErrorDetail::Listen { address: detail }) = e.detail() else { panic!("{e:?}") };
        assert!(detail.contains(address), "{detail}");
    }

    #[tokio::test]
    async fn bind_listens_at_names_and_at_every_address() {
        for (text, loopback) in [("localhost:0", true), (":0", false), ("127.0.0.1:0", true)] {
            let listener = text.parse::<ListenAddress>().unwrap().bind().await.unwrap();
            let address = listener.local_addr().unwrap();
            assert_eq!(address.ip().is_loopback(), loopback, "{text}");
            tokio::net::TcpStream::connect(("127.0.0.1", address.port())).await.unwrap();
        }
        let e = "no-such-host.invalid:0".parse::<ListenAddress>().unwrap().bind().await.unwrap_err();
        assert_names_once(&e, "no-such-host.invalid");
    }

    #[tokio::test]
    async fn bind_fails_when_the_port_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let e = format!("localhost:{port}").parse::<ListenAddress>().unwrap().bind().await.unwrap_err();
        assert_names_once(&e, &format!("localhost:{port}"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = text.parse::<ListenAddress>();
        }
    }
}
