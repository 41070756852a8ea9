//! Where a directory is, by its URL (RFC 4516, without the parts for a search).

use hyper_sdk::{Error, Result};
use std::net::IpAddr;

/// The host and the port of a directory, and how the connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// A name or an address; that of IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// TLS from the first byte: `ldaps://`.
    Tls,
    /// TLS that is asked for first: `ldap://`.
    StartTls,
    /// Not at all.
    Plain,
}

impl Server {
    /// Reads a URL. `start_tls` and `plain` are what the options say of `ldap://`.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says what is wrong, also when passwords would be sent in the clear.
    pub(super) fn parse(url: &str, start_tls: Option<bool>, plain: bool) -> Result<Self> {
        let invalid = |why: &str| {
            Error::invalid(format!(
                "invalid URL of a directory `{}`: {why}",
                url.chars().take(200).collect::<String>().escape_debug()
            ))
        };
        let form = "write ldaps://HOST or ldap://HOST, with a port if it is another one";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(form))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let is_tls = match scheme {
            "ldaps" => true,
            "ldap" => false,
            _ => return Err(invalid(form)),
        };
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, port))) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            Some(None) => return Err(invalid(form)),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
                None => (rest, Some("")),
            },
        };
        let port = match port {
            Some("") if is_tls => 636,
            Some("") => 389,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| invalid(form))?,
            None => return Err(invalid(form)),
        };
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !is_address && !is_name {
            return Err(invalid(form));
        }
        let is_here =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let security = match (is_tls, start_tls) {
            (true, Some(true)) => return Err(invalid("ldaps:// has TLS already: leave `start-tls` out")),
            (true, _) => Security::Tls,
            (false, None | Some(true)) => Security::StartTls,
            (false, Some(false)) if is_here || plain => Security::Plain,
            (false, Some(false)) => {
                return Err(invalid(
                    "without TLS everybody on the way reads the passwords: use ldaps:// or StartTLS, or set `allow-plain`",
                ));
            }
        };
        Ok(Self { host: host.to_owned(), port, security })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_host_port_and_protection() {
        let parse = |url: &str, start_tls, plain| {
            Server::parse(url, start_tls, plain).map(|server| (server.host, server.port, server.security))
        };
        let is = |url: &str, start_tls, plain, host: &str, port, security| {
            assert_eq!(parse(url, start_tls, plain).unwrap(), (host.to_owned(), port, security), "{url}");
        };
        is("ldaps://a.example", None, false, "a.example", 636, Security::Tls);
        is("ldaps://a.example:1636/", Some(false), true, "a.example", 1636, Security::Tls);
        is("ldap://a.example", None, true, "a.example", 389, Security::StartTls);
        is("ldap://[::1]:3", Some(true), false, "::1", 3, Security::StartTls);
        is("ldap://[::1]", Some(false), false, "::1", 389, Security::Plain);
        is("ldap://127.0.0.1:3", Some(false), false, "127.0.0.1", 3, Security::Plain);
        is("ldap://a.example", Some(false), true, "a.example", 389, Security::Plain);
        for bad in ["ldap://a.example", "ldap://10.0.0.1", "ldap://localhost.example"] {
            let e = parse(bad, Some(false), false).unwrap_err();
            assert!(e.to_string().contains("allow-plain"), "{e}");
        }
        parse("ldaps://a.example", Some(true), false).unwrap_err();
        for bad in [
            "",
            "a.example",
            "http://a.example",
            "ldapi:///x",
            "ldap://",
            "ldaps://a.example:0",
            "ldaps://a.example:",
            "ldaps://a.example:x",
            "ldaps://a.example/dc=x",
            "ldaps://u:p@a.example",
            "ldaps://[::1",
            "ldaps://[::1]x",
            "ldaps://a b",
        ] {
            assert!(parse(bad, None, false).is_err(), "{bad}");
        }
    }
}
