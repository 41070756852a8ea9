//! One request as it is written, and its answer whatever that is: for checks of a registry.
//!
//! Only three things are done for the caller: a challenge is answered, redirects are followed, and a registry that is too busy
//! (429) gets the time that it asks for. Nothing else is sent twice.
//!
//! # Invariants
//! - `Authorization` goes to the registry's own origin only.
//! - What a registry names over HTTPS is not asked in plain HTTP.

use super::HttpClient;
use super::auth::Access;
use super::{body, retry, transport, transport_error};
use crate::reference::RepositoryName;
use crate::{Error, ErrorKind, Result, ResultExt as _};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response};
use std::time::Duration;
use url::Url;

/// The largest body of an answer, in bytes.
const MAX_BODY: usize = 40 << 20;
const MAX_REDIRECTS: usize = 5;
const DIGEST: &str = "docker-content-digest";
/// How often a busy registry is asked again, and how long at most it may have each time.
const MAX_WAITS: usize = 5;
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The body of a request.
#[derive(Clone)]
pub(in crate::client) enum Content {
    Empty,
    /// With its length before it.
    Sized(Bytes),
    /// In chunks, without its length.
    Chunked(Bytes),
}

/// Whose permissions a request needs.
#[derive(Clone)]
pub(in crate::client) enum Permission {
    /// None: no credentials are sent.
    Nobody,
    Registry,
    Catalog,
    /// All in one repository, and reading another one.
    Repository(RepositoryName, Option<RepositoryName>),
}

pub(in crate::client) struct Exchange {
    pub(in crate::client) method: Method,
    /// A path with its query, or a whole URL.
    pub(in crate::client) target: String,
    pub(in crate::client) headers: HeaderMap,
    pub(in crate::client) content: Content,
    pub(in crate::client) permission: Permission,
}

pub(in crate::client) struct Exchanged {
    pub(in crate::client) status: u16,
    pub(in crate::client) headers: HeaderMap,
    /// An error when it broke off.
    pub(in crate::client) body: Result<Bytes>,
    /// Where the answer came from.
    pub(in crate::client) url: Url,
}

impl HttpClient {
    /// Sends the request and reads its answer.
    ///
    /// # Errors
    /// Those of the network, and of credentials that the token server refuses. No status is one.
    pub(in crate::client) async fn exchange(&self, request: &Exchange) -> Result<Exchanged> {
        let transport = self.transport();
        if !transport.address.is_settled() {
            transport.ask(Method::GET, &self.url(""), None, &self.reporter).await?;
        }
        let access = match &request.permission {
            Permission::Nobody | Permission::Registry => Access::registry(),
            Permission::Catalog => Access::catalog(),
            Permission::Repository(name, other) => {
                let access = Access::repository(name, "pull,push,delete");
                other.iter().fold(access, Access::and_pull)
            }
        };
        let (mut waits, mut authenticated) = (0, matches!(request.permission, Permission::Nobody));
        loop {
            let url = transport
                .base()
                .join(&request.target)
                .map_err(|e| Error::invalid("the registry names no URL").with_source(e))
                .context("url", &request.target)?;
            transport::check_downgrade(transport.base(), &url)?;
            let authorization = match request.permission {
                Permission::Nobody => None,
                _ => transport.auth.header(&transport.http, &access, &self.reporter).await?,
            };
            let (mut response, url, digest) = self.follow(request, url, authorization.as_ref()).await?;
            let own = transport.is_own(&url);
            if response.status() == 401 && own && !authenticated {
                authenticated = true;
                let answered = transport
                    .auth
                    .refused(transport.base(), response.headers(), &access, authorization.as_ref())
                    .await;
                match answered {
                    Ok(()) => continue,
                    Err(e) if e.kind() != ErrorKind::Unauthorized => return Err(e),
                    // Nothing answers the challenge: then 401 is the answer.
                    Err(_) => {}
                }
            }
            if response.status() == 429 && waits < MAX_WAITS {
                waits += 1;
                let wait = retry::retry_after(response.headers(), super::now());
                tokio::time::sleep(wait.unwrap_or(Duration::from_secs(1)).min(MAX_WAIT)).await;
                continue;
            }
            let status = response.status().as_u16();
            let mut headers = response.headers().clone();
            if let Some(digest) = digest {
                headers.entry(DIGEST).or_insert(digest);
            }
            let body = body::read_all(&mut response, MAX_BODY, transport.timeouts).await;
            return Ok(Exchanged { status, headers, body, url });
        }
    }

    /// Sends the request, and again where the answer points. The digest is what the registry said of it before it pointed
    /// elsewhere.
    async fn follow(
        &self,
        request: &Exchange,
        mut url: Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, Url, Option<HeaderValue>)> {
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let mut digest = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(request, &url, authorization).await?;
            let status = response.status().as_u16();
            let is_redirect = matches!(status, 307 | 308) || reads && matches!(status, 301..=303);
            if !is_redirect {
                return Ok((response, url, digest));
            }
            let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let Some(next) = location.and_then(|l| url.join(l).ok()) else {
                return Ok((response, url, digest));
            };
            transport::check_downgrade(&url, &next)?;
            digest = response.headers().get(DIGEST).cloned().or(digest);
            url = next;
        }
        Err(Error::new(ErrorKind::Unavailable, "the registry redirects too often"))
    }

    /// Whether a URL that the registry named is its own.
    pub(in crate::client) fn is_own_url(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| self.transport().is_own(&url))
    }

    async fn once(
        &self,
        request: &Exchange,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response> {
        let transport = self.transport();
        let mut builder =
            transport.http.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(value) = authorization.filter(|_| transport.is_own(url)) {
            builder = builder.header(AUTHORIZATION, value);
        }
        let mut effort = 0;
        builder = match &request.content {
            Content::Empty if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) => {
                builder.header(CONTENT_LENGTH, 0)
            }
            Content::Empty => builder,
            Content::Sized(bytes) => {
                effort = bytes.len().max(1) as u64;
                builder.body(bytes.clone())
            }
            Content::Chunked(bytes) => {
                effort = bytes.len().max(1) as u64;
                let pieces: Vec<_> =
                    bytes.chunks(16 << 10).map(|piece| Ok::<_, Error>(bytes.slice_ref(piece))).collect();
                builder.body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)))
            }
        };
        let limit = transport.timeouts.answer_time(effort);
        let sent = tokio::time::timeout(limit, builder.send()).await;
        sent.map_err(|_| Error::new(ErrorKind::Timeout, "the registry does not answer"))?
            .map_err(transport_error::of_request)
    }
}
