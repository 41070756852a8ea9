//! Parses method, path and query into an [`Endpoint`], without I/O.
//!
//! Repository names contain slashes, and words such as `blobs`, `manifests` and `uploads` are legal components of them
//! (`a/blobs/b`), so a path is parsed from the right, where the grammar is unambiguous:
//!
//! ```text
//! /v2/                                  Base
//! /v2/token                             Token
//! /v2/_catalog                          Catalog
//! /v2/_oci/ext/discover                 Extensions
//! /v2/NAME/_oci/ext/discover            Extensions
//! /v2/NAME/tags/list                    Tags
//! /v2/_hyper/events                     Events
//! /v2/NAME/_hyper/tags                  TagRecords
//! /v2/NAME/_hyper/tags/TAG/history      TagHistory
//! /v2/NAME/referrers/DIGEST             Referrers
//! /v2/NAME/manifests/TAG-or-DIGEST      Manifest
//! /v2/NAME/blobs/DIGEST                 Blob
//! /v2/NAME/blobs/uploads[/]             StartUpload
//! /v2/NAME/blobs/uploads/ID             Upload
//! /login /login/callback                Login, LoginCallback
//! /livez /readyz /metrics               Live, Ready, Metrics
//! ```
//!
//! The path is split at its slashes first and each segment is percent-decoded after that, so `%2f` is never a
//! separator: a segment that decodes to a slash, to a control character or to malformed UTF-8 is rejected.

use crate::auth::Callback;
use crate::event_query::{self, EventQuery};
use crate::login_query;
use http::Method;
use hyper_sdk::digest::Algorithm;
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::{Page, UploadId};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Tag};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The endpoint of a request, with its parsed parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The probe of the API version and of the credentials (end-1).
    Base,
    /// The repositories of the registry.
    Catalog(Page),
    /// The extensions of the registry or of one repository.
    Extensions(Option<RepositoryName>),
    /// A blob (end-2, end-10).
    Blob {
        /// The repository.
        repository: RepositoryName,
        /// The digest.
        digest: Digest,
    },
    /// The start of an upload, or a mount (end-4, end-11).
    StartUpload {
        /// The repository.
        repository: RepositoryName,
        /// The parameters of the query.
        start: StartUpload,
    },
    /// An upload session (end-5, end-6, end-13, end-14).
    Upload {
        /// The repository.
        repository: RepositoryName,
        /// The id of the session.
        id: UploadId,
        /// The digest that the content must have, on the closing request.
        digest: Option<Digest>,
    },
    /// A manifest (end-3, end-7, end-9).
    Manifest {
        /// The repository.
        repository: RepositoryName,
        /// The digest; of a manifest the digest or the tag.
        reference: ManifestReference,
        /// Additional tags (end-7b).
        tags: Vec<Tag>,
    },
    /// The tags of a repository (end-8).
    Tags {
        /// The repository.
        repository: RepositoryName,
        /// The requested page.
        page: Page,
    },
    /// The tags of a repository, with the times of their last push and pull.
    TagRecords {
        /// The repository.
        repository: RepositoryName,
        /// The requested page.
        page: Page,
    },
    /// The referrers of a manifest (end-12).
    Referrers {
        /// The repository.
        repository: RepositoryName,
        /// The subject.
        digest: Digest,
        /// The artifact type to filter by.
        artifact_type: Option<String>,
        /// The last digest of the page before.
        after: Option<Digest>,
    },
    /// The token endpoint, with what the query asks for.
    Token(TokenQuery),
    /// The public keys of tokens.
    TokenKeys,
    /// The events of the registry.
    Events(EventQuery),
    /// What a tag has named.
    TagHistory {
        /// The repository.
        repository: RepositoryName,
        /// The tag.
        tag: Tag,
        /// The most entries.
        limit: Option<usize>,
        /// The number of the event before which they begin.
        before: Option<u64>,
    },
    /// The beginning of a login in a browser.
    Login,
    /// Its end.
    LoginCallback(Callback),
    /// The liveness probe.
    Live,
    /// The readiness probe.
    Ready,
    /// The metrics.
    Metrics,
}

/// The query parameters of a request for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenQuery {
    /// The scopes.
    pub(crate) scopes: Vec<String>,
    /// Whether the client wants a refresh token.
    pub(crate) offline: bool,
    /// The name of the client program.
    pub(crate) client: String,
}

/// The query parameters of the request that starts an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartUpload {
    /// The digest of the content in the body, for an upload in one request (end-4b).
    pub(crate) digest: Option<Digest>,
    /// The algorithm of the digest of the closing request (end-4c).
    pub(crate) algorithm: Option<Algorithm>,
    /// The blob to mount (end-11).
    pub(crate) mount: Option<Digest>,
    /// The repository to mount it from.
    pub(crate) from: Option<RepositoryName>,
}

/// Why a request line is rejected.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// A name, a digest or a parameter is malformed.
    Malformed(Error),
    /// No such resource.
    NotFound,
    /// The resource does not support the method. The text is the value of the `Allow` header.
    Method(&'static str),
}

impl From<Error> for Rejection {
    fn from(e: Error) -> Self {
        Self::Malformed(e)
    }
}

impl Endpoint {
    /// The names of the kinds of endpoints in logs and metrics, by [`Endpoint::index`].
    pub(crate) const NAMES: [&'static str; 19] = [
        "base",
        "catalog",
        "extensions",
        "blob",
        "start_upload",
        "upload",
        "manifest",
        "tags",
        "referrers",
        "live",
        "ready",
        "metrics",
        "token",
        "token_keys",
        "events",
        "tag_history",
        "tag_records",
        "login",
        "login_callback",
    ];

    /// The position of the kind of this endpoint in [`Endpoint::NAMES`].
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Base => 0,
            Self::Catalog(_) => 1,
            Self::Extensions(_) => 2,
            Self::Blob { .. } => 3,
            Self::StartUpload { .. } => 4,
            Self::Upload { .. } => 5,
            Self::Manifest { .. } => 6,
            Self::Tags { .. } => 7,
            Self::Referrers { .. } => 8,
            Self::Live => 9,
            Self::Ready => 10,
            Self::Metrics => 11,
            Self::Token(_) => 12,
            Self::TokenKeys => 13,
            Self::Events(_) => 14,
            Self::TagHistory { .. } => 15,
            Self::TagRecords { .. } => 16,
            Self::Login => 17,
            Self::LoginCallback(_) => 18,
        }
    }

    /// The methods that this resource supports, as the value of the `Allow` header.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::StartUpload { .. } => "POST",
            Self::Token(_) => "GET, POST",
            Self::Login | Self::LoginCallback(_) => "GET",
            Self::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Self::Base
            | Self::Catalog(_)
            | Self::Extensions(_)
            | Self::Tags { .. }
            | Self::TagRecords { .. }
            | Self::Referrers { .. }
            | Self::Events(_)
            | Self::TagHistory { .. }
            | Self::Live
            | Self::Ready
            | Self::TokenKeys
            | Self::Metrics => "GET, HEAD",
        }
    }
}

/// Parses a request line. Every text gives an endpoint or a rejection, never a panic.
///
/// # Errors
/// See [`Rejection`].
pub(crate) fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Endpoint, Rejection> {
    let endpoint = resource(path, query.unwrap_or_default())?;
    let allow = endpoint.allow();
    if allow.split(", ").any(|m| m == method.as_str()) { Ok(endpoint) } else { Err(Rejection::Method(allow)) }
}

fn resource(path: &str, query: &str) -> Result<Endpoint, Rejection> {
    match path {
        "/livez" => return Ok(Endpoint::Live),
        "/readyz" => return Ok(Endpoint::Ready),
        "/metrics" => return Ok(Endpoint::Metrics),
        "/login" => return Ok(Endpoint::Login),
        "/login/callback" => return Ok(Endpoint::LoginCallback(login_query::parse(query))),
        "/v2" | "/v2/" => return Ok(Endpoint::Base),
        _ => {}
    }
    let rest = path.strip_prefix("/v2/").ok_or(Rejection::NotFound)?;
    let segments = rest.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
    let words: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let query = Query::parse(query)?;
    match words.as_slice() {
        ["token"] => Ok(Endpoint::Token(query.token())),
        ["token", "keys"] => Ok(Endpoint::TokenKeys),
        ["_catalog"] => Ok(Endpoint::Catalog(query.page()?)),
        ["_hyper", "events"] => Ok(Endpoint::Events(query.events()?)),
        [name @ .., "_hyper", "tags"] => {
            Ok(Endpoint::TagRecords { repository: repository(name)?, page: query.page()? })
        }
        [name @ .., "_hyper", "tags", tag, "history"] => Ok(Endpoint::TagHistory {
            repository: repository(name)?,
            tag: Tag::parse(tag)?,
            limit: query.page()?.limit,
            before: event_query::number("before", query.first("before"))?,
        }),
        ["_oci", "ext", "discover"] => Ok(Endpoint::Extensions(None)),
        [name @ .., "_oci", "ext", "discover"] => Ok(Endpoint::Extensions(Some(repository(name)?))),
        [name @ .., "tags", "list"] => {
            Ok(Endpoint::Tags { repository: repository(name)?, page: query.page()? })
        }
        [name @ .., "referrers", digest] => Ok(Endpoint::Referrers {
            repository: repository(name)?,
            digest: Digest::parse(digest)?,
            artifact_type: query.first("artifactType").filter(|t| !t.is_empty()).map(str::to_owned),
            after: query.digest("last")?,
        }),
        [name @ .., "manifests", reference] => {
            let repository = repository(name)?;
            let reference = reference.parse::<ManifestReference>()?;
            let tags = query.all("tag").map(Tag::parse).collect::<Result<Vec<_>, _>>()?;
            Ok(Endpoint::Manifest { repository, reference, tags })
        }
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
            Ok(Endpoint::StartUpload { repository: repository(name)?, start: query.start_upload()? })
        }
        [name @ .., "blobs", "uploads", id] => Ok(Endpoint::Upload {
            repository: repository(name)?,
            id: UploadId::parse(id)?,
            digest: query.digest("digest")?,
        }),
        [name @ .., "blobs", digest] => {
            Ok(Endpoint::Blob { repository: repository(name)?, digest: Digest::parse(digest)? })
        }
        _ => Err(Rejection::NotFound),
    }
}

/// The scopes of a list, each of which may hold several, separated by spaces.
fn scopes<'a>(values: impl Iterator<Item = &'a str>) -> Vec<String> {
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The form in the body of a POST to the token endpoint (RFC 6749, sections 4.3.2 and 6).
#[derive(Default)]
pub(crate) struct TokenForm {
    pub(crate) grant_type: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) refresh_token: String,
    pub(crate) query: TokenQuery,
}

impl TokenForm {
    /// Reads a form.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is not valid UTF-8.
    pub(crate) fn parse(text: &str) -> Result<Self, Rejection> {
        let query = Query::parse(text)?;
        let text = |key| query.first(key).unwrap_or_default().to_owned();
        Ok(Self {
            grant_type: text("grant_type"),
            username: text("username"),
            password: text("password"),
            refresh_token: text("refresh_token"),
            query: query.token(),
        })
    }
}

/// Decodes one segment of a path.
fn decode(segment: &str) -> Result<Cow<'_, str>, Rejection> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let text = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| Error::new(ErrorKind::NameInvalid, "the path is not valid UTF-8"))?;
    if text.contains(|c: char| c == '/' || c == '%' || c.is_control()) {
        return Err(Error::new(
            ErrorKind::NameInvalid,
            "the path holds an encoded slash, percent sign or control character",
        )
        .into());
    }
    Ok(text)
}

fn repository(components: &[&str]) -> Result<RepositoryName, Rejection> {
    if components.is_empty() {
        return Err(Rejection::NotFound);
    }
    Ok(RepositoryName::parse(&components.join("/"))?)
}

/// The parameters of a query, decoded, in their order. Unknown parameters are ignored, because clients may send `ns` to
/// any registry, and proxies add their own.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    fn parse(text: &'a str) -> Result<Self, Rejection> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((form_decode(key)?, form_decode(value)?));
        }
        Ok(Self(pairs))
    }

    fn all(&self, key: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_ref())
    }

    fn first(&self, key: &'static str) -> Option<&str> {
        self.all(key).next()
    }

    fn digest(&self, key: &'static str) -> Result<Option<Digest>, Rejection> {
        Ok(self.first(key).map(Digest::parse).transpose()?)
    }

    fn page(&self) -> Result<Page, Rejection> {
        let limit = match self.first("n") {
            None => None,
            Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => {
                Some(n.parse().unwrap_or(usize::MAX))
            }
            Some(_) => {
                return Err(Error::invalid("the parameter `n` must be a number of entries, 0 or more").into());
            }
        };
        Ok(Page { limit, after: self.first("last").filter(|l| !l.is_empty()).map(str::to_owned) })
    }

    /// What a query or a form asks for at the token endpoint: in a query `offline_token=true` is docker's word, in a form
    /// `access_type=offline`.
    fn token(&self) -> TokenQuery {
        TokenQuery {
            scopes: scopes(self.all("scope")),
            offline: self.first("offline_token") == Some("true")
                || self.first("access_type") == Some("offline"),
            client: self.first("client_id").unwrap_or_default().to_owned(),
        }
    }

    fn events(&self) -> Result<EventQuery, Rejection> {
        Ok(EventQuery::parse(self.first("since"), self.page()?.limit, self.first("wait"))?)
    }

    fn start_upload(&self) -> Result<StartUpload, Rejection> {
        Ok(StartUpload {
            digest: self.digest("digest")?,
            algorithm: self.first("digest-algorithm").map(str::parse).transpose()?,
            mount: self.digest("mount")?,
            from: self.first("from").filter(|f| !f.is_empty()).map(RepositoryName::parse).transpose()?,
        })
    }
}

fn form_decode(text: &str) -> Result<Cow<'_, str>, Rejection> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| Error::invalid("a parameter of the query is not valid UTF-8"))?;
    Ok(Cow::Owned(decoded.into_owned()))
}

#[cfg(test)]
mod tests;
