//! Proxies from the usual variables, read as Go programs and curl read them.
//!
//! ```text
//!   https_proxy, HTTPS_PROXY, all_proxy, ALL_PROXY     for https
//!   http_proxy, HTTP_PROXY, all_proxy, ALL_PROXY       for http; without HTTP_PROXY when there is a REQUEST_METHOD: in a
//!                                                      CGI program its client chooses that variable
//!   no_proxy, NO_PROXY     *, addresses, networks (10.0.0.0/8), names (a.example and what is below it), names with a
//!                          leading dot or `*.` (only what is below); each but networks with a port or without
//! ```
//!
//! The first variable that is not empty counts. This machine is never reached through a proxy.

use super::keychain::Secret;
use crate::reference::RegistryHost;
use crate::{Error, Result};
use std::net::IpAddr;
use url::Url;

/// The proxy of each address.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Secret>,
    https: Option<Secret>,
    exempt: Vec<Exempt>,
}

/// An entry of `no_proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exempt {
    All,
    Network { address: IpAddr, bits: u8 },
    Address { address: IpAddr, port: Option<u16> },
    Name { name: String, itself: bool, port: Option<u16> },
}

impl Proxies {
    /// The proxies of these variables.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|n| variable(n).filter(|v| !v.trim().is_empty()));
        let proxy = |names: &[&str]| {
            let text = first(names)?;
            let text = text.trim();
            // `proxy:3128` without a scheme is common.
            Some(if text.contains("://") { text.to_owned() } else { format!("http://{text}") }.into())
        };
        let is_cgi = variable("REQUEST_METHOD").is_some_and(|v| !v.is_empty());
        let own = if is_cgi { "http_proxy" } else { "HTTP_PROXY" };
        Self {
            http: proxy(&["http_proxy", own, "all_proxy", "ALL_PROXY"]),
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            exempt: first(&["no_proxy", "NO_PROXY"])
                .map(|list| list.split([',', ' ']).filter_map(Exempt::parse).collect())
                .unwrap_or_default(),
        }
    }

    /// The proxy for an address. It may contain a password.
    pub(crate) fn for_url(&self, url: &Url) -> Option<String> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            "http" => self.http.as_ref(),
            _ => None,
        }?;
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|a| a.to_canonical());
        let is_here = host == "localhost"
            || host.ends_with(".localhost")
            || address.is_some_and(|address| address.is_loopback());
        let port = url.port_or_known_default();
        let exempt = |e: &Exempt| e.covers(host.trim_end_matches('.'), address, port);
        if is_here || self.exempt.iter().any(exempt) {
            return None;
        }
        Some(proxy.expose().to_owned())
    }

    /// Checks that a proxy can be used: an invalid one is an error, and not ignored.
    pub(crate) fn check(proxy: &str) -> Result<Url> {
        let bad = || Error::invalid("the proxy is not a URL of http or https");
        let url = Url::parse(proxy).map_err(|_| bad())?;
        match url.scheme() {
            "http" | "https" => Ok(url),
            other => Err(bad().with_context("scheme", other)),
        }
    }

    /// The proxy for a registry.
    pub(crate) fn for_registry(&self, host: &RegistryHost, tls: bool) -> Option<String> {
        self.for_url(&Url::parse(&format!("{}://{host}/", if tls { "https" } else { "http" })).ok()?)
    }
}

impl Exempt {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            return (bits <= if address.is_ipv4() { 32 } else { 128 })
                .then_some(Self::Network { address, bits });
        }
        let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        if let Some(address) = bare(&entry) {
            return Some(Self::Address { address: address.to_canonical(), port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Some(address) = bare(host) {
            return Some(Self::Address { address: address.to_canonical(), port });
        }
        let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
        let name = below.unwrap_or(host).trim_end_matches('.');
        (!name.is_empty()).then(|| Self::Name { name: name.to_owned(), itself: below.is_none(), port })
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: Option<u16>) -> bool {
        let at = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Self::All => true,
            Self::Network { address: network, bits } => address.is_some_and(|a| within(a, *network, *bits)),
            Self::Address { address: wanted, port } => address == Some(*wanted) && at(port),
            Self::Name { name, itself, port } => {
                let is_below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (is_below || (*itself && host == name)) && at(port)
            }
        }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (a, n, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let shift = width - u32::from(bits);
    shift == 128 || a >> shift == n >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn of(pairs: &[(&str, &str)], url: &str) -> Option<String> {
        proxies(pairs).for_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn variables_count_in_both_cases() {
        let url = "http://r.example/";
        assert_eq!(of(&[("HTTP_PROXY", "http://p")], url).as_deref(), Some("http://p"));
        assert_eq!(
            of(&[("HTTP_PROXY", "http://p"), ("http_proxy", "q:3")], url).as_deref(),
            Some("http://q:3")
        );
        assert_eq!(of(&[("HTTP_PROXY", "http://p"), ("http_proxy", "")], url).as_deref(), Some("http://p"));
        assert_eq!(of(&[("HTTP_PROXY", "http://p"), ("REQUEST_METHOD", "GET")], url), None);
        assert_eq!(
            of(&[("http_proxy", "http://p"), ("REQUEST_METHOD", "GET")], url).as_deref(),
            Some("http://p")
        );
        assert_eq!(of(&[("HTTP_PROXY", "http://p")], "https://r.example/"), None);
        assert_eq!(of(&[("HTTPS_PROXY", "http://p")], "https://r.example/").as_deref(), Some("http://p"));
        assert_eq!(of(&[("ALL_PROXY", "http://p")], "https://r.example/").as_deref(), Some("http://p"));
        assert!(!format!("{:?}", proxies(&[("HTTP_PROXY", "http://u:hunter2@p")])).contains("hunter2"));
    }

    #[test]
    fn entries_of_no_proxy_exempt_addresses() {
        for (list, url, exempt) in [
            ("*", "https://r.example/", true),
            ("example", "https://r.example/", true),
            ("r.example", "https://r.example/", true),
            ("R.EXAMPLE", "https://r.example:5000/", true),
            (".r.example", "https://r.example/", false),
            (".example", "https://r.example/", true),
            ("*.example", "https://r.example/", true),
            ("*.r.example", "https://r.example/", false),
            ("xample", "https://r.example/", false),
            ("a, r.example ,b", "https://r.example/", true),
            ("a r.example", "https://r.example/", true),
            ("r.example:5000", "https://r.example:5000/", true),
            ("r.example:5000", "https://r.example/", false),
            ("r.example:443", "https://r.example/", true),
            ("10.0.0.0/8", "https://10.200.3.4:5000/", true),
            ("10.0.0.0/8", "https://11.0.0.1/", false),
            ("0.0.0.0/0", "https://11.0.0.1/", true),
            ("10.0.0.0/33", "https://10.0.0.1/", false),
            ("192.168.1.7", "https://192.168.1.7:5000/", true),
            ("192.168.1.7:80", "https://192.168.1.7:5000/", false),
            ("fd00::/8", "https://[fd12::1]:5000/", true),
            ("::/0", "https://[fd12::1]/", true),
            ("fd12::1", "https://[fd12::1]/", true),
            ("[fd12::1]", "https://[fd12::1]/", true),
            ("[fd12::1]:443", "https://[fd12::1]/", true),
            ("[fd12::1]:80", "https://[fd12::1]/", false),
            (",,:5000, .", "https://r.example:5000/", false),
            ("", "https://localhost:5000/", true),
            ("", "https://127.3.2.1/", true),
            ("", "https://[::1]:5000/", true),
        ] {
            let proxy = of(&[("https_proxy", "http://p"), ("NO_PROXY", list)], url);
            assert_eq!(proxy.is_none(), exempt, "{list} {url}");
        }
    }

    #[test]
    fn a_proxy_of_another_scheme_is_rejected() {
        assert!(Proxies::check("http://p:3128").is_ok());
        for bad in ["socks5://p", "http://", "p", "http://u:hunter2@"] {
            assert!(!format!("{:?}", Proxies::check(bad).unwrap_err()).contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn a_registry_has_a_proxy() {
        let proxies = proxies(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "r.example:5000")]);
        let host = |text: &str| RegistryHost::parse(text).unwrap();
        assert_eq!(proxies.for_registry(&host("r.example:5000"), true), None);
        assert!(proxies.for_registry(&host("r.example"), true).is_some());
        assert_eq!(proxies.for_registry(&host("r.example"), false), None);
    }
}
