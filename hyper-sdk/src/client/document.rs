//! Fetches small documents that are trusted because of where they come from, such as the public keys of an issuer of tokens.
//!
//! # Invariants
//! - TLS alone, but for this machine: nobody on the way can replace a document.
//! - No redirect is followed: the document is what the named server says.
//! - A request has one limit of time for all of it, and a document one of size.

use super::{Proxies, tls};
use crate::{Error, ErrorKind, Result, Secret};
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use std::fmt;
use std::time::Duration;
use url::{Host, Url};

/// How documents are fetched.
#[derive(Clone, Debug)]
pub struct DocumentOptions {
    /// The largest document, in bytes.
    pub bytes: usize,
    /// The longest time for a document, from the connection to its last byte.
    pub time: Duration,
    /// Certificates to trust besides those of the system, as PEM.
    pub roots: Vec<Vec<u8>>,
    /// The proxies.
    pub proxies: Proxies,
}

impl Default for DocumentOptions {
    fn default() -> Self {
        Self {
            bytes: 512 << 10,
            time: Duration::from_secs(5),
            roots: Vec::new(),
            proxies: Proxies::default(),
        }
    }
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its bytes.
    pub bytes: Bytes,
    /// How long its server wants it to be kept (`Cache-Control: max-age`).
    pub max_age: Option<Duration>,
}

/// The answer to a form.
#[derive(Clone, Debug)]
pub struct FormAnswer {
    /// The status.
    pub status: u16,
    /// The bytes of the body, whatever the status is.
    pub bytes: Bytes,
}

/// Fetches documents over TLS. Clones share their connections.
///
/// ```no_run
/// use hyper_sdk::client::{DocumentClient, DocumentOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let client = DocumentClient::new(&DocumentOptions::default())?;
/// let document = client.get("https://login.example.com/.well-known/openid-configuration").await?;
/// println!("{} bytes", document.bytes.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DocumentClient {
    http: reqwest::Client,
    bytes: usize,
    time: Duration,
}

impl fmt::Debug for DocumentClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentClient")
            .field("bytes", &self.bytes)
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

impl DocumentClient {
    /// A client with these options. Reads the authorities of the system.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the certificates cannot be used.
    pub fn new(options: &DocumentOptions) -> Result<Self> {
        let roots = options.roots.iter().map(|pem| tls::certificates(pem)).collect::<Result<Vec<_>>>()?;
        let proxies = options.proxies.clone();
        let http = reqwest::Client::builder()
            .no_proxy()
            .proxy(reqwest::Proxy::custom(move |url| {
                proxies.for_url(url).and_then(|proxy| Url::parse(&proxy).ok())
            }))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(options.time)
            .timeout(options.time)
            .pool_max_idle_per_host(1)
            .tls_backend_preconfigured(tls::config(&roots.concat(), None)?)
            .build()
            .map_err(|e| Error::invalid("the HTTP client cannot be configured").with_source(e))?;
        Ok(Self { http, bytes: options.bytes, time: options.time })
    }

    /// Whether documents may come from a URL: of https, or of http on this machine.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] that says why not.
    pub fn check(url: &str) -> Result<()> {
        parse(url).map(drop)
    }

    /// Fetches a document. Dropping the future ends the request.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a URL that [`check`](Self::check) refuses, and for a document that is too large;
    /// [`ErrorKind::Timeout`] when it takes too long; [`ErrorKind::Unavailable`] when the server cannot be reached, or answers with
    /// another status than 200.
    pub async fn get(&self, url: &str) -> Result<Document> {
        let url = parse(url)?;
        let shown = url.to_string();
        match tokio::time::timeout(self.time, self.read(url)).await {
            Ok(document) => document,
            Err(_) => Err(late(self.time)),
        }
        .map_err(|e| e.with_context("url", shown))
    }

    /// Sends a form (`application/x-www-form-urlencoded`) to a server, with a value of the header `Authorization` if there is one, and
    /// returns its answer of any status. Dropping the future ends the request, which may have arrived.
    ///
    /// # Errors
    /// Those of [`get`](Self::get), but for the status.
    pub async fn post_form(
        &self,
        url: &str,
        form: &Secret,
        authorization: Option<&Secret>,
    ) -> Result<FormAnswer> {
        let url = parse(url)?;
        let shown = url.to_string();
        let mut request = self.http.post(url).header(ACCEPT, "application/json");
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(value) = authorization {
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|_| Error::invalid("the credentials have characters that a header cannot have"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let answer = async {
            let response = request.body(form.expose().to_owned()).send().await.map_err(|e| self.failed(e))?;
            let status = response.status().as_u16();
            Ok(FormAnswer { status, bytes: self.body(response).await? })
        };
        match tokio::time::timeout(self.time, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(late(self.time)),
        }
        .map_err(|e: Error| e.with_context("url", shown))
    }

    /// Sends a request, and returns its answer of any status. Dropping the future ends the request, which may have arrived.
    ///
    /// # Errors
    /// Those of [`get`](Self::get), but for the status.
    pub async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let shown = parse(&request.uri().to_string())?.to_string();
        let request = reqwest::Request::try_from(request)
            .map_err(|e| Error::invalid("the request is not well formed").with_source(e.without_url()))?;
        let answer = async {
            let mut response = self.http.execute(request).await.map_err(|e| self.failed(e))?;
            let mut answer = http::Response::new(Bytes::new());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = std::mem::take(response.headers_mut());
            *answer.body_mut() = self.body(response).await?;
            Ok(answer)
        };
        match tokio::time::timeout(self.time, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(late(self.time)),
        }
        .map_err(|e: Error| e.with_context("url", shown))
    }

    fn failed(&self, e: reqwest::Error) -> Error {
        match e.is_timeout() {
            true => late(self.time),
            false => Error::new(ErrorKind::Unavailable, "the document cannot be fetched")
                .with_source(e.without_url()),
        }
    }

    async fn read(&self, url: Url) -> Result<Document> {
        let request = self.http.get(url).header(ACCEPT, "application/json");
        let response = request.send().await.map_err(|e| self.failed(e))?;
        let status = response.status();
        if status != StatusCode::OK {
            let why = if status.is_redirection() { "redirects, which is not followed" } else { "refuses" };
            let message = format!("the server of the document {why}");
            return Err(Error::new(ErrorKind::Unavailable, message).with_context("status", status.as_u16()));
        }
        let max_age = max_age(response.headers());
        Ok(Document { bytes: self.body(response).await?, max_age })
    }

    /// The body of a response, within the limit.
    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes> {
        let too_large = || {
            Error::invalid("the document is too large").with_context("limit", format!("{} bytes", self.bytes))
        };
        if response.content_length().is_some_and(|length| length > self.bytes as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.failed(e))? {
            if bytes.len() + piece.len() > self.bytes {
                return Err(too_large());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }
}

fn late(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "the document takes too long")
        .with_context("seconds", limit.as_secs_f32().to_string())
}

fn parse(text: &str) -> Result<Url> {
    let bad = |why: &str| Error::invalid(format!("invalid URL `{}`: {why}", text.escape_debug()));
    let url = Url::parse(text).map_err(|_| bad("it is not a URL"))?;
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(bad("it has no host")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid("the URL of a document must have no user and no password"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        _ => Err(bad("use https, or http for this machine alone")),
    }
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = directives.find_map(|directive| match directive.split_once('=') {
        Some((name, seconds)) if name.eq_ignore_ascii_case("max-age") => {
            seconds.trim_matches('"').parse().ok()
        }
        _ => None,
    });
    seconds.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A server that gives each connection this answer, and then leaves it open.
    async fn server(answer: String) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                open.push(stream);
            }
        });
        url
    }

    fn client() -> DocumentClient {
        let options =
            DocumentOptions { bytes: 10, time: Duration::from_millis(300), ..DocumentOptions::default() };
        DocumentClient::new(&options).unwrap()
    }

    #[tokio::test]
    async fn a_document_is_whole_within_its_limits() {
        let good =
            "HTTP/1.1 200 OK\r\ncache-control: public, Max-Age=60\r\ncontent-length: 10\r\n\r\n0123456789";
        let document = client().get(&server(good.to_owned()).await).await.unwrap();
        assert_eq!(
            (&document.bytes[..], document.max_age),
            (&b"0123456789"[..], Some(Duration::from_secs(60)))
        );
        for (answer, kind) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n", ErrorKind::Invalid),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n", ErrorKind::Invalid),
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n012", ErrorKind::Timeout),
            ("", ErrorKind::Timeout),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", ErrorKind::Unavailable),
            ("HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n", ErrorKind::Unavailable),
            ("nonsense\r\n\r\n", ErrorKind::Unavailable),
        ] {
            let e = client().get(&server(answer.to_owned()).await).await.unwrap_err();
            assert_eq!(e.kind(), kind, "{answer}: {e}");
        }
        let e = client().get("http://127.0.0.1:1/").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    }

    #[tokio::test]
    async fn an_answer_to_a_form_has_any_status() {
        let bad = server("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}".to_owned()).await;
        let form = Secret::from("a=b");
        let answer = client().post_form(&bad, &form, Some(&"Basic eDp5".into())).await.unwrap();
        assert_eq!((answer.status, &answer.bytes[..]), (400, &b"{}"[..]));
        let large = server("HTTP/1.1 400 Bad Request\r\ncontent-length: 11\r\n\r\n".to_owned()).await;
        assert_eq!(client().post_form(&large, &form, None).await.unwrap_err().kind(), ErrorKind::Invalid);
        let e = client().post_form("http://a.example/", &form, None).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn an_answer_to_a_request_has_any_status_and_its_headers() {
        let busy = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}";
        let url = server(busy.to_owned()).await;
        let post = |url: &str| http::Request::post(url).body(Bytes::from("a")).unwrap();
        let answer = client().send(post(&url)).await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (429, &b"{}"[..]));
        assert_eq!(answer.headers()["retry-after"], "7");
        let large = server("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n".to_owned()).await;
        for (url, kind) in [
            (large.as_str(), ErrorKind::Invalid),
            ("http://a.example/", ErrorKind::Invalid),
            ("http://127.0.0.1:1/", ErrorKind::Unavailable),
        ] {
            assert_eq!(client().send(post(url)).await.unwrap_err().kind(), kind, "{url}");
        }
    }

    #[test]
    fn documents_come_over_tls_but_for_this_machine() {
        for good in ["https://a.example/x", "http://127.0.0.1:1/", "http://[::1]/", "http://localhost:5/"] {
            DocumentClient::check(good).unwrap();
        }
        for bad in [
            "http://a.example/",
            "http://127.0.0.1.a.example/",
            "http://localhost.a.example/",
            "http://10.0.0.1/",
            "ftp://a.example/",
            "file:///etc/passwd",
            "data:x",
            "a.example",
            "",
            "https://user:secret@a.example/",
        ] {
            let e = DocumentClient::check(bad).unwrap_err();
            assert!(e.kind() == ErrorKind::Invalid && !e.to_string().contains("secret"), "{bad}: {e}");
        }
    }
}
