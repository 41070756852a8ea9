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
//! /v2/NAME/_hyper/deleted               Deletions
//! /v2/NAME/_hyper/deleted/TAG-or-DIGEST Deletion
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
use crate::query::Query;
pub(crate) use crate::query::{Rejection, StartUpload, TokenQuery};
use http::Method;
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
    /// What was deleted from a repository and can be undeleted.
    Deletions {
        /// The repository.
        repository: RepositoryName,
        /// The most entries.
        limit: Option<usize>,
        /// The number of the last entry of the page before.
        after: u64,
    },
    /// A deleted tag or manifest, to be undeleted or purged.
    Deletion {
        /// The repository.
        repository: RepositoryName,
        /// The tag or the manifest.
        reference: ManifestReference,
        /// Whether a tag may be taken from what it names by now.
        replaces: bool,
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

impl Endpoint {
    /// The names of the kinds of endpoints in logs and metrics, by [`Endpoint::index`].
    pub(crate) const NAMES: [&'static str; 21] = [
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
        "deletions",
        "deletion",
    ];

    /// Their paths with names in the place of what differs, in the same order.
    pub(crate) const TEMPLATES: [&'static str; Self::NAMES.len()] = [
        "/v2/",
        "/v2/_catalog",
        "/v2/_oci/ext/discover",
        "/v2/{name}/blobs/{digest}",
        "/v2/{name}/blobs/uploads/",
        "/v2/{name}/blobs/uploads/{id}",
        "/v2/{name}/manifests/{reference}",
        "/v2/{name}/tags/list",
        "/v2/{name}/referrers/{digest}",
        "/livez",
        "/readyz",
        "/metrics",
        "/v2/token",
        "/v2/token/keys",
        "/v2/_hyper/events",
        "/v2/{name}/_hyper/tags/{tag}/history",
        "/v2/{name}/_hyper/tags",
        "/login",
        "/login/callback",
        "/v2/{name}/_hyper/deleted",
        "/v2/{name}/_hyper/deleted/{reference}",
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
            Self::Deletions { .. } => 19,
            Self::Deletion { .. } => 20,
        }
    }

    /// The methods that this resource supports, as the value of the `Allow` header.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::StartUpload { .. } => "POST",
            Self::Deletion { .. } => "POST, DELETE",
            Self::Token(_) => "GET, POST",
            Self::Login | Self::LoginCallback(_) => "GET",
            Self::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Self::Base
            | Self::Catalog(_)
            | Self::Extensions(_)
            | Self::Tags { .. }
            | Self::TagRecords { .. }
            | Self::Deletions { .. }
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
        [name @ .., "_hyper", "deleted"] => Ok(Endpoint::Deletions {
            repository: repository(name)?,
            limit: query.page()?.limit,
            after: event_query::number("last", query.first("last"))?.unwrap_or(0),
        }),
        [name @ .., "_hyper", "deleted", reference] => Ok(Endpoint::Deletion {
            repository: repository(name)?,
            reference: reference.parse::<ManifestReference>()?,
            replaces: query.flag("replace")?,
        }),
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

#[cfg(test)]
mod tests;
