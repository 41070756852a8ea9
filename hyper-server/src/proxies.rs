//! The proxies before this server, whose headers about the client are believed.

use crate::connection::ConnectionInfo;
use http::HeaderMap;
use hyper_sdk::{Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A proxy that is trusted to tell the truth about its clients: an address (`10.0.0.7`), a network (`10.0.0.0/8`,
/// `fd00::/8`), or `unix`: whoever may connect to a socket of the file system.
///
/// ```
/// use hyper_server::TrustedProxy;
///
/// let proxy: TrustedProxy = "10.1.0.0/16".parse()?;
/// assert_eq!(proxy.to_string(), "10.1.0.0/16");
/// assert!("10.1.0.0/40".parse::<TrustedProxy>().is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedProxy(Place);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Unix,
    Network(IpNet),
}

impl TrustedProxy {
    fn has(self, address: IpAddr) -> bool {
        matches!(self.0, Place::Network(network) if network.contains(&address.to_canonical()))
    }
}

impl FromStr for TrustedProxy {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let network = || Some(s.parse::<IpNet>().ok()?.trunc());
        let alone = || Some(s.parse::<IpAddr>().ok()?.to_canonical().into());
        match s {
            "unix" => Ok(Self(Place::Unix)),
            _ => network().or_else(alone).map(|network| Self(Place::Network(network))).ok_or_else(|| {
                Error::invalid(format!(
                    "invalid proxy `{}`: write an address such as 10.0.0.7, a network such as 10.0.0.0/8, or unix",
                    s.escape_debug()
                ))
            }),
        }
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Unix => f.write_str("unix"),
            Place::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Place::Network(network) => network.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for TrustedProxy {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::units::text(d)
    }
}

/// Whether the other end of a connection is one of the proxies.
pub(crate) fn is_trusted(proxies: &[TrustedProxy], connection: Option<&ConnectionInfo>) -> bool {
    match connection {
        None => false,
        Some(ConnectionInfo { peer: Some(peer), .. }) => proxies.iter().any(|proxy| proxy.has(peer.ip())),
        Some(ConnectionInfo { peer: None, .. }) => proxies.contains(&TrustedProxy(Place::Unix)),
    }
}

/// The address of the client of a request: that of the peer, or what trusted proxies say of it in `X-Forwarded-For`.
/// `None` when nobody says it, as for a socket of the file system.
///
/// Each proxy adds its peer at the right end of that header, so what stands to the left of the first address that is not
/// a trusted proxy's may be made up.
pub(crate) fn client(
    proxies: &[TrustedProxy],
    connection: Option<&ConnectionInfo>,
    headers: &HeaderMap,
) -> Option<IpAddr> {
    let mut client = connection?.peer.map(|peer| peer.ip().to_canonical());
    if !is_trusted(proxies, connection) {
        return client;
    }
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        let Ok(value) = value.to_str() else { return client };
        for hop in value.rsplit(',') {
            let Some(hop) = address(hop.trim()) else { return client };
            client = Some(hop);
            if !proxies.iter().any(|proxy| proxy.has(hop)) {
                return client;
            }
        }
    }
    client
}

/// An address of `X-Forwarded-For`, with or without brackets and a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address: Option<IpAddr> = text.parse().ok().or_else(bare).or_else(with_port);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(texts: &[&str]) -> Vec<TrustedProxy> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn from(peer: &str) -> ConnectionInfo {
        ConnectionInfo::new(SocketAddr::new(peer.parse().unwrap(), 1), ([127, 0, 0, 1], 2).into())
    }

    #[test]
    fn proxies_are_addresses_networks_or_sockets() {
        for (text, shown) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("::1", "::1"),
            ("fd00::/8", "fd00::/8"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("unix", "unix"),
        ] {
            assert_eq!(text.parse::<TrustedProxy>().unwrap().to_string(), shown);
        }
        for text in ["", "proxy.example.com", "10.0.0.0/33", "10.0.0", "fd00::/129", "unix:", "10.0.0.7:80"] {
            let e = text.parse::<TrustedProxy>().unwrap_err();
            assert!(e.message().contains(&format!("`{text}`")), "{e}");
        }
    }

    #[test]
    fn the_client_is_the_nearest_address_that_is_no_trusted_proxy() {
        let trusted = ["10.0.0.0/8", "fd00::/8"];
        for (peer, headers, expected) in [
            // Nobody whom we trust: the header is worth nothing.
            ("192.0.2.1", &["1.1.1.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("::ffff:10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            // The client made up the left part.
            ("10.0.0.1", &["9.9.9.9, 1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["9.9.9.9", "1.1.1.1"], "1.1.1.1"),
            // A chain of proxies.
            ("10.0.0.1", &["9.9.9.9,1.1.1.1 , 10.0.0.2,fd00::3"], "1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1", "10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["1.1.1.1:55"], "1.1.1.1"),
            // What is no address ends the chain at the proxy that wrote it.
            ("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["\u{e9}"], "10.0.0.1"),
        ] {
            let mut map = HeaderMap::new();
            for value in headers {
                map.append("x-forwarded-for", http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let found = client(&proxies(&trusted), Some(&from(peer)), &map);
            assert_eq!(found, Some(expected.parse().unwrap()), "{peer} {headers:?}");
            assert_eq!(
                client(&[], Some(&from(peer)), &map),
                Some(from(peer).peer.unwrap().ip().to_canonical())
            );
        }
    }

    #[test]
    fn a_socket_is_a_proxy_only_when_it_is_named() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "1.1.1.1".parse().unwrap());
        let (unix, all) = (ConnectionInfo::unix(), proxies(&["0.0.0.0/0", "::/0"]));
        assert_eq!(client(&all, Some(&unix), &headers), None);
        assert!(!is_trusted(&all, Some(&unix)) && !is_trusted(&all, None));
        assert_eq!(client(&proxies(&["unix"]), Some(&unix), &headers), Some([1, 1, 1, 1].into()));
        assert_eq!(client(&all, None, &headers), None);
    }
}
