//! The URL at which clients reach this server. The challenge needs it, because it names the token endpoint by an
//! absolute URL.
//!
//! A configured URL takes precedence. Otherwise the URL comes from the request: a proxy that terminates TLS sends the
//! scheme and the host in `X-Forwarded-Proto` and `X-Forwarded-Host` (or `Forwarded`, RFC 7239). Where the trusted proxies
//! are known, only they are believed. Where they are not, a client that forges these headers affects only its own
//! response, because these responses are never cached. Where this server speaks TLS itself, the scheme is `https`.

use super::AuthRequest;
use crate::proxies::{TrustedProxy, is_trusted};
use http::header;

/// The URL of the root of the server, without a slash at its end.
pub(crate) fn root(
    configured: Option<&str>,
    proxies: Option<&[TrustedProxy]>,
    request: &AuthRequest<'_>,
) -> String {
    if let Some(url) = configured {
        return url.trim_end_matches('/').to_owned();
    }
    let (headers, uri) = (request.headers(), request.uri());
    let has_tls = request.connection().is_some_and(|connection| connection.tls);
    let is_believed = proxies.is_none_or(|proxies| is_trusted(proxies, request.connection()));
    let first = |name: &str| {
        if !is_believed {
            return None;
        }
        let value = headers.get(name)?.to_str().ok()?;
        Some(value.split(',').next().unwrap_or_default().trim().to_owned())
    };
    let forwarded = first("forwarded").unwrap_or_default();
    let scheme = first("x-forwarded-proto").or_else(|| parameter(&forwarded, "proto"));
    let scheme = match scheme.map(|s| s.to_ascii_lowercase()).as_deref() {
        _ if has_tls => "https",
        Some("https" | "wss") => "https",
        _ => "http",
    };
    let host = first("x-forwarded-host")
        .or_else(|| parameter(&forwarded, "host"))
        .filter(|host| is_host(host))
        .or_else(|| headers.get(header::HOST)?.to_str().ok().map(str::to_owned))
        .or_else(|| uri.authority().map(|authority| authority.as_str().to_owned()))
        .filter(|host| is_host(host))
        .unwrap_or_else(|| "localhost".to_owned());
    format!("{scheme}://{host}")
}

/// A parameter of the first element of a `Forwarded` header.
fn parameter(element: &str, name: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// Whether the text is a host, with or without a port, that needs no escape in a challenge.
fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 300
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]%".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Action, Resource};
    use crate::connection::ConnectionInfo;
    use http::request::Parts;
    use http::{HeaderMap, Uri};

    fn root_of(
        configured: Option<&str>,
        proxies: Option<&[TrustedProxy]>,
        headers: HeaderMap,
        uri: &Uri,
        tls: bool,
    ) -> String {
        let mut parts: Parts = http::Request::get(uri.clone()).body(()).unwrap().into_parts().0;
        parts.headers = headers;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let connection = ConnectionInfo::new(address, address);
        parts.extensions.insert(if tls { connection.with_tls() } else { connection });
        root(configured, proxies, &AuthRequest::new(&parts, Resource::Registry, Action::Probe))
    }

    #[test]
    fn the_root_url_follows_the_request() {
        let uri: Uri = "http://by-uri:80/v2/".parse().unwrap();
        for (headers, expected) in [
            (&[("host", "r:5000")][..], "http://r:5000"),
            (&[("host", "[::1]:5000")], "http://[::1]:5000"),
            (&[], "http://by-uri:80"),
            (&[("host", "r"), ("x-forwarded-proto", "https")], "https://r"),
            (&[("host", "r"), ("x-forwarded-proto", "HTTPS, http")], "https://r"),
            (&[("host", "r"), ("x-forwarded-proto", "gopher")], "http://r"),
            (
                &[("host", "in"), ("x-forwarded-host", "out.example"), ("x-forwarded-proto", "https")],
                "https://out.example",
            ),
            (
                &[("host", "in"), ("forwarded", "for=1;proto=https;host=\"out:8443\", for=2")],
                "https://out:8443",
            ),
            (&[("host", "in"), ("x-forwarded-host", "a\",b=\"")], "http://in"),
            (&[("host", "a b\"")], "http://localhost"),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            assert_eq!(root_of(None, None, map.clone(), &uri, false), expected, "{headers:?}");
            let secure = expected.replace("http://", "https://");
            assert_eq!(root_of(None, None, map, &uri, true), secure, "{headers:?}");
        }
        assert_eq!(
            root_of(Some("https://r.example/"), None, HeaderMap::new(), &uri, false),
            "https://r.example"
        );
    }

    #[test]
    fn only_the_named_proxies_are_believed() {
        let uri: Uri = "/v2/".parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("host", "in"), ("x-forwarded-proto", "https"), ("forwarded", "host=out;proto=https")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        for (proxies, expected) in [
            (&[][..], "http://in"),
            (&["10.0.0.0/8", "unix"], "http://in"),
            (&["10.0.0.0/8", "127.0.0.1"], "https://out"),
        ] {
            let proxies: Vec<TrustedProxy> = proxies.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(root_of(None, Some(&proxies), headers.clone(), &uri, false), expected);
        }
    }
}
