//! What a line of the audit log says.

use crate::auth::Principal;
use crate::route::Endpoint;
use http::{HeaderValue, Method};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::errors::is_quota_exceeded;
use hyper_sdk::store::{DeleteTarget, Removal, TagDecision};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Tag};
use serde::Serialize;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most tags in the line of a refusal.
const MOST_REFUSED: usize = 5;

/// How a change has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It is made.
    Done,
    /// The sender may not make it, or a quota is exceeded.
    Refused,
    /// The store failed in between: it may be made or not.
    Unknown,
}

impl Outcome {
    /// The outcome of a change with this error; `None` when it has surely changed nothing, because the request was wrong. A
    /// store may deny the server something, whatever the sender may do.
    pub(crate) fn of(error: Option<&Error>, is_refused: bool) -> Option<Self> {
        let Some(error) = error else { return Some(Self::Done) };
        match error.kind() {
            ErrorKind::Denied if is_refused || is_quota_exceeded(error) => Some(Self::Refused),
            // The row may be there, and the bytes not.
            ErrorKind::Denied | ErrorKind::Unauthorized | ErrorKind::NotFound => Some(Self::Unknown),
            kind => crate::error::status_and_code(kind).0.is_server_error().then_some(Self::Unknown),
        }
    }
}

/// What is done, and to what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Deed {
    action: &'static str,
    repository: Option<RepositoryName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Tag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<RepositoryName>,
    /// The id of a token, which is no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The user of a token that the registry removes.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
}

impl Deed {
    fn new(action: &'static str, repository: &RepositoryName, digest: Option<&Digest>) -> Self {
        Self { repository: Some(repository.clone()), digest: digest.cloned(), ..Self::nowhere(action) }
    }

    /// Of what belongs to no repository.
    fn nowhere(action: &'static str) -> Self {
        Self { action, repository: None, digest: None, tags: Vec::new(), from: None, token: None, of: None }
    }

    pub(crate) fn push_manifest(repository: &RepositoryName, digest: &Digest, tags: &[Tag]) -> Self {
        Self { tags: tags.to_vec(), ..Self::new("push-manifest", repository, Some(digest)) }
    }

    pub(crate) fn push_blob(repository: &RepositoryName, digest: &Digest) -> Self {
        Self::new("push-blob", repository, Some(digest))
    }

    pub(crate) fn mount_blob(repository: &RepositoryName, digest: &Digest, from: &RepositoryName) -> Self {
        Self { from: Some(from.clone()), ..Self::new("mount-blob", repository, Some(digest)) }
    }

    pub(crate) fn cancel_upload(repository: &RepositoryName) -> Self {
        Self::new("cancel-upload", repository, None)
    }

    pub(crate) fn delete(repository: &RepositoryName, target: &DeleteTarget) -> Self {
        match target {
            DeleteTarget::Blob(digest) => Self::new("delete-blob", repository, Some(digest)),
            DeleteTarget::Manifest(ManifestReference::Digest(digest)) => {
                Self::new("delete-manifest", repository, Some(digest))
            }
            DeleteTarget::Manifest(ManifestReference::Tag(tag)) => {
                Self { tags: vec![tag.clone()], ..Self::new("delete-tag", repository, None) }
            }
        }
    }

    pub(crate) fn undelete(repository: &RepositoryName, reference: &ManifestReference) -> Self {
        match reference {
            ManifestReference::Digest(digest) => Self::new("undelete", repository, Some(digest)),
            ManifestReference::Tag(tag) => {
                Self { tags: vec![tag.clone()], ..Self::new("undelete", repository, None) }
            }
        }
    }

    pub(crate) fn purge(repository: &RepositoryName, digest: &Digest) -> Self {
        Self::new("purge", repository, Some(digest))
    }

    /// With a few of the tags: a request may name very many, and has not been checked.
    pub(crate) fn short(mut self) -> Self {
        self.tags.truncate(MOST_REFUSED);
        self
    }

    /// What garbage collection removes. The bytes of a blob belong to no repository.
    pub(crate) fn collect(removal: &Removal) -> Self {
        match removal {
            Removal::Manifest { repository, digest, .. } => {
                Self::new("collect-manifest", repository, Some(digest))
            }
            Removal::Link { repository, digest } => Self::new("collect-blob", repository, Some(digest)),
            Removal::Blob { digest, .. } => {
                Self { digest: Some(digest.clone()), ..Self::nowhere("collect-bytes") }
            }
        }
    }

    /// Whoever logs in gets a token that stands for the login later.
    pub(crate) fn create_token(id: &str) -> Self {
        Self { token: Some(id.to_owned()), ..Self::nowhere("create-token") }
    }

    /// The registry removes the token of a login that has ended.
    pub(crate) fn remove_token(id: &str, user: &str) -> Self {
        Self { token: Some(id.to_owned()), of: Some(user.to_owned()), ..Self::nowhere("remove-token") }
    }

    /// What retention deletes.
    pub(crate) fn expire(decision: &TagDecision) -> Self {
        let record = &decision.record;
        let tags = vec![record.tag.clone()];
        Self { tags, ..Self::new("expire-tag", &decision.repository, Some(&record.digest)) }
    }

    /// What a request asks for; `None` when it changes nothing.
    pub(crate) fn asked(endpoint: &Endpoint, method: &Method) -> Option<Self> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        Some(match endpoint {
            Endpoint::StartUpload { repository, start } => match (&start.mount, &start.from) {
                (Some(digest), Some(from)) => Self::mount_blob(repository, digest, from),
                (mount, _) => Self::new("push-blob", repository, mount.as_ref().or(start.digest.as_ref())),
            },
            Endpoint::Upload { repository, .. } if *method == Method::DELETE => {
                Self::cancel_upload(repository)
            }
            Endpoint::Upload { repository, digest, .. } if !reads => {
                Self::new("push-blob", repository, digest.as_ref())
            }
            Endpoint::Blob { repository, digest } if !reads => {
                Self::new("delete-blob", repository, Some(digest))
            }
            Endpoint::Deletion { repository, reference, .. } if *method == Method::DELETE => {
                match reference {
                    ManifestReference::Digest(digest) => Self::purge(repository, digest),
                    ManifestReference::Tag(tag) => {
                        Self { tags: vec![tag.clone()], ..Self::new("purge", repository, None) }
                    }
                }
            }
            Endpoint::Deletion { repository, reference, .. } => Self::undelete(repository, reference),
            Endpoint::Manifest { repository, reference, .. } if *method == Method::DELETE => {
                Self::delete(repository, &DeleteTarget::Manifest(reference.clone()))
            }
            Endpoint::Manifest { repository, reference, tags } if !reads => {
                let (mut tags, mut digest) = (tags.clone(), None);
                match reference {
                    ManifestReference::Tag(tag) => tags.push(tag.clone()),
                    ManifestReference::Digest(own) => digest = Some(own),
                }
                Self { tags, ..Self::new("push-manifest", repository, digest) }
            }
            _ => return None,
        })
    }
}

/// Who does it, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) request_id: HeaderValue,
    pub(crate) client: Option<IpAddr>,
    pub(crate) principal: Principal,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// `None` for what the registry does by itself.
    pub(crate) author: Option<Author>,
    pub(crate) deed: Deed,
    pub(crate) outcome: Outcome,
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    request_id: Option<&'a str>,
    user: Option<&'a str>,
    /// Of a user of another issuer: the issuer and the subject, as its token has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    client: Option<IpAddr>,
    #[serde(flatten)]
    deed: &'a Deed,
    outcome: Outcome,
}

impl Entry {
    /// Whether a client without credentials made it.
    pub(super) fn is_of_nobody(&self) -> bool {
        self.author.as_ref().is_some_and(|author| author.principal.is_anonymous())
    }

    /// The line, with its end, at the time of now.
    pub(super) fn line(&self) -> Vec<u8> {
        let author = self.author.as_ref();
        let line = Line {
            time: &now(),
            request_id: author.and_then(|a| a.request_id.to_str().ok()),
            user: author.and_then(|a| a.principal.name()),
            issuer: claim(author, "iss"),
            subject: claim(author, "sub"),
            client: author.and_then(|a| a.client),
            deed: &self.deed,
            outcome: self.outcome,
        };
        let mut bytes = serde_json::to_vec(&line).expect("texts and lists of texts are always JSON");
        bytes.push(b'\n');
        bytes
    }
}

/// A claim of the author that is a text.
fn claim<'a>(author: Option<&'a Author>, name: &str) -> Option<&'a str> {
    author.and_then(|author| author.principal.claim(name)?.as_str())
}

/// The time in UTC, with microseconds.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = rfc3339(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    text.pop();
    text.push_str(&format!(".{:06}Z", since.subsec_micros()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::parse;

    #[test]
    fn every_request_that_changes_something_is_named() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (method, path, expected) in [
            ("PUT", "manifests/v1".to_owned(), "push-manifest"),
            ("PUT", format!("manifests/{digest}?tag=a"), "push-manifest"),
            ("DELETE", "manifests/v1".to_owned(), "delete-tag"),
            ("DELETE", format!("manifests/{digest}"), "delete-manifest"),
            ("DELETE", format!("blobs/{digest}"), "delete-blob"),
            ("POST", "blobs/uploads/".to_owned(), "push-blob"),
            ("POST", format!("blobs/uploads/?mount={digest}"), "push-blob"),
            ("POST", format!("blobs/uploads/?mount={digest}&from=b"), "mount-blob"),
            ("PATCH", format!("blobs/uploads/{}", "0".repeat(32)), "push-blob"),
            ("PUT", format!("blobs/uploads/{}?digest={digest}", "0".repeat(32)), "push-blob"),
            ("DELETE", format!("blobs/uploads/{}", "0".repeat(32)), "cancel-upload"),
            ("GET", format!("blobs/uploads/{}", "0".repeat(32)), ""),
            ("GET", "manifests/v1".to_owned(), ""),
            ("HEAD", format!("blobs/{digest}"), ""),
            ("POST", "_hyper/deleted/v1".to_owned(), "undelete"),
            ("POST", format!("_hyper/deleted/{digest}"), "undelete"),
            ("DELETE", format!("_hyper/deleted/{digest}"), "purge"),
            ("GET", "_hyper/deleted".to_owned(), ""),
            ("GET", "tags/list".to_owned(), ""),
            ("GET", format!("referrers/{digest}"), ""),
        ] {
            let (path, query) = path.split_once('?').map_or((&*path, None), |(p, q)| (p, Some(q)));
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let endpoint = parse(&method, &format!("/v2/a/{path}"), query).unwrap();
            let deed = Deed::asked(&endpoint, &method);
            assert_eq!(deed.as_ref().map_or("", |d| d.action), expected, "{method} {path}");
            assert!(deed.is_none_or(|d| d.repository.unwrap().as_str() == "a"));
        }
    }

    #[test]
    fn an_outcome_is_unknown_only_when_the_store_failed() {
        let of = |kind, is_refused| Outcome::of(Some(&Error::new(kind, "x")), is_refused);
        assert_eq!(Outcome::of(None, true), Some(Outcome::Done));
        assert_eq!(of(ErrorKind::Denied, true), Some(Outcome::Refused));
        let excess = hyper_sdk::QuotaExcess {
            namespace: "team".to_owned(),
            resource: "bytes",
            used: 1,
            added: 1,
            limit: 1,
        };
        assert_eq!(
            Outcome::of(Some(&hyper_sdk::store::errors::quota_exceeded(excess)), false),
            Some(Outcome::Refused)
        );
        use ErrorKind::*;
        for kind in [Denied, Unauthorized, Unavailable, Timeout, Internal, Io, StorageFull, NotFound] {
            assert_eq!(of(kind, false), Some(Outcome::Unknown), "{kind}");
        }
        for kind in [DigestInvalid, ManifestUnknown, BlobUnknown, UploadUnknown, Conflict] {
            assert_eq!(of(kind, false), None, "{kind}");
        }
    }
}
