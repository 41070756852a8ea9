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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const U: &str = "0123456789abcdef0123456789abcdef";

    fn get(path: &str) -> Result<Endpoint, Rejection> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        resource(path, query.unwrap_or_default())
    }

    fn kind(path: &str) -> Option<ErrorKind> {
        match get(path) {
            Err(Rejection::Malformed(e)) => Some(e.kind()),
            Err(Rejection::NotFound) => Some(ErrorKind::NotFound),
            _ => None,
        }
    }

    #[test]
    fn a_repository_name_may_contain_words_of_the_grammar() {
        for name in
            ["a", "a/blobs/b", "blobs", "manifests", "a/blobs/uploads", "tags/list", "a/tags", "referrers/x"]
        {
            let repository = RepositoryName::parse(name).unwrap();
            let digest = Digest::parse(D).unwrap();
            assert_eq!(
                get(&format!("/v2/{name}/blobs/{D}")).unwrap(),
                Endpoint::Blob { repository: repository.clone(), digest: digest.clone() }
            );
            assert_eq!(
                get(&format!("/v2/{name}/manifests/list")).unwrap(),
                Endpoint::Manifest {
                    repository: repository.clone(),
                    reference: Tag::parse("list").unwrap().into(),
                    tags: vec![]
                }
            );
            assert_eq!(
                get(&format!("/v2/{name}/tags/list")).unwrap(),
                Endpoint::Tags { repository: repository.clone(), page: Page::default() }
            );
            for end in ["", "/"] {
                assert_eq!(
                    get(&format!("/v2/{name}/blobs/uploads{end}")).unwrap(),
                    Endpoint::StartUpload { repository: repository.clone(), start: StartUpload::default() }
                );
            }
            assert_eq!(
                get(&format!("/v2/{name}/blobs/uploads/{U}?digest={D}")).unwrap(),
                Endpoint::Upload {
                    repository: repository.clone(),
                    id: UploadId::parse(U).unwrap(),
                    digest: Some(digest)
                }
            );
            assert_eq!(
                get(&format!("/v2/{name}/_oci/ext/discover")).unwrap(),
                Endpoint::Extensions(Some(repository))
            );
        }
    }

    #[test]
    fn malformed_paths_are_rejected_with_a_reason() {
        for (path, expected) in [
            ("/v2/..%2fetc/blobs/x", ErrorKind::NameInvalid),
            ("/v2/a/../b/tags/list", ErrorKind::NameInvalid),
            ("/v2/a%00b/tags/list", ErrorKind::NameInvalid),
            ("/v2/%c0%ae%c0%ae/tags/list", ErrorKind::NameInvalid),
            ("/v2/%252e%252e/tags/list", ErrorKind::NameInvalid),
            ("/v2/A/tags/list", ErrorKind::NameInvalid),
            ("/v2//tags/list", ErrorKind::NameInvalid),
            ("/v2/a//tags/list", ErrorKind::NameInvalid),
            ("/v2/a/b%0d%0aSet-Cookie:x/tags/list", ErrorKind::NameInvalid),
            ("/v2/a/blobs/sha256:xyz", ErrorKind::DigestInvalid),
            ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", ErrorKind::DigestInvalid),
            ("/v2/a/manifests/sha256:baddigest", ErrorKind::DigestInvalid),
            ("/v2/a/manifests/.x", ErrorKind::Invalid),
            ("/v2/a/blobs/uploads/../x", ErrorKind::NotFound),
            ("/v2/a/blobs/uploads/nothex", ErrorKind::UploadUnknown),
            ("/v2/a/referrers/x", ErrorKind::DigestInvalid),
            ("/v2/tags/list", ErrorKind::NotFound),
            ("/v2/a/tags/list?n=x", ErrorKind::Invalid),
            ("/v2/a/tags/list?n=-1", ErrorKind::Invalid),
            ("/v2/a/tags/list?last=%ff", ErrorKind::Invalid),
            ("/v2/a/manifests/x?tag=a%0d%0ab", ErrorKind::Invalid),
            ("/v2/a/blobs/uploads/?digest-algorithm=md5", ErrorKind::DigestInvalid),
            ("/v2/a/blobs/uploads/?mount=x", ErrorKind::DigestInvalid),
            ("/v2/a/blobs/uploads/?from=../x", ErrorKind::NameInvalid),
            ("/v2/a", ErrorKind::NotFound),
            ("/v1/", ErrorKind::NotFound),
            ("", ErrorKind::NotFound),
        ] {
            assert_eq!(kind(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let Ok(Endpoint::Manifest { tags, .. }) = get("/v2/a/manifests/x?tag=1.2&tag=%61&ns=docker.io")
        else {
            panic!()
        };
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["1.2", "a"]);
        let Ok(Endpoint::Referrers { artifact_type, .. }) =
            get(&format!("/v2/a/referrers/{D}?artifactType=application%2Fx%2Bjson"))
        else {
            panic!()
        };
        assert_eq!(artifact_type.as_deref(), Some("application/x+json"));
        let Ok(Endpoint::Tags { page, .. }) = get("/v2/a/tags/list?n=0&last=z") else { panic!() };
        assert_eq!(page, Page { limit: Some(0), after: Some("z".into()) });
        assert!(get(&format!("/v2/a/blobs/{}", D.replace(':', "%3A"))).is_ok());
    }

    #[test]
    fn a_wrong_method_returns_the_allowed_ones() {
        let reject = |method: Method, path: &str| match parse(&method, path, None) {
            Err(Rejection::Method(allow)) => allow,
            other => panic!("{other:?}"),
        };
        assert_eq!(reject(Method::POST, "/v2/a/manifests/x"), "GET, HEAD, PUT, DELETE");
        assert_eq!(reject(Method::GET, "/v2/a/blobs/uploads/"), "POST");
        assert_eq!(reject(Method::PUT, "/v2/"), "GET, HEAD");
        assert!(parse(&Method::HEAD, "/v2/a/manifests/x", None).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(path: String, query: Option<String>) {
            let _ = parse(&Method::GET, &path, query.as_deref());
        }

        #[test]
        fn any_path_of_the_grammar_is_parsed_without_a_panic(
            words in prop::collection::vec("blobs|uploads|manifests|tags|list|referrers|_oci|ext|discover|[a-z.%0-9]{0,5}", 0..8),
            query in "((n|last|tag|digest|mount|from)=[a-z%0-9:+]{0,6}&){0,3}",
        ) {
            let path = format!("/v2/{}", words.join("/"));
            if let Ok(endpoint) = resource(&path, &query)
                && let Some(repository) = crate::admission::resource(&endpoint).repository()
            {
                prop_assert!(RepositoryName::parse(repository.as_str()).is_ok());
                prop_assert!(!repository.as_str().contains(".."));
            }
        }

        #[test]
        fn a_repository_name_is_parsed_from_its_path(name in "[a-z0-9]{1,4}(/(blobs|tags|manifests|uploads|[a-z]{1,3})){0,3}") {
            let endpoint = get(&format!("/v2/{name}/blobs/{D}")).unwrap();
            prop_assert_eq!(crate::admission::resource(&endpoint).repository().unwrap().as_str(), name);
        }
    }
}
