//! What the cases are written with: requests, expectations, and content that nobody else has.

use super::Options;
use crate::client::HttpClient;
use crate::client::http::exchange::{Content, Exchange, Exchanged, Permission};
use crate::digest::Algorithm;
use crate::oci::{Descriptor, ImageIndex, ImageManifest};
use crate::reference::RepositoryName;
use crate::{Digest, Error, ErrorKind, media_type};
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use url::Url;

/// The longest chunk that a registry may ask for, in bytes.
const MAX_CHUNK: usize = 16 << 20;
/// How much of an answer a reason shows, in characters.
const SHOWN: usize = 200;
/// The largest JSON that is read, in bytes.
const MAX_JSON: usize = 8 << 20;
/// The most pages of a list.
pub(super) const MAX_PAGES: usize = 1000;
/// How long the removal of what was made may take.
const REMOVAL: Duration = Duration::from_secs(120);

/// How a case ends before its end.
pub(super) enum Stop {
    /// The rule is broken.
    Broken(String),
    /// The registry does not offer it.
    Skipped(String),
    /// There was no answer.
    Lost(String, Error),
}

impl Stop {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Lost(_, error) => error,
            other => Error::new(ErrorKind::Unavailable, other.to_string()),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(reason) | Self::Skipped(reason) => f.write_str(reason),
            Self::Lost(asked, error) => {
                write!(f, "{asked} got no answer: {error}")?;
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    write!(f, ": {cause}")?;
                    source = cause.source();
                }
                Ok(())
            }
        }
    }
}

pub(super) type Outcome = Result<(), Stop>;

/// Ends the case with a reason unless the condition is true.
pub(super) fn require(condition: bool, reason: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Broken(reason())) }
}

pub(super) fn skip<T>(reason: &str) -> Result<T, Stop> {
    Err(Stop::Skipped(reason.to_owned()))
}

/// What is removed at the end.
enum Made {
    Tag(RepositoryName, String),
    Manifest(RepositoryName, Digest),
    Blob(RepositoryName, Digest),
    Session(String),
}

pub(super) struct Kit {
    client: HttpClient,
    pub(super) repository: RepositoryName,
    pub(super) other: RepositoryName,
    /// Differs between two checks.
    run: u64,
    next: AtomicU64,
    made: Mutex<Vec<Made>>,
    has_referrers: OnceCell<bool>,
}

impl Kit {
    pub(super) fn new(client: HttpClient, options: &Options) -> Self {
        Self {
            client,
            repository: options.repository.clone(),
            other: options.other_repository.clone(),
            run: std::collections::hash_map::RandomState::new().build_hasher().finish(),
            next: AtomicU64::new(0),
            made: Mutex::default(),
            has_referrers: OnceCell::new(),
        }
    }

    /// A name that nothing else has.
    pub(super) fn name(&self) -> String {
        format!("conformance-{:016x}-{}", self.run, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Bytes that nothing else has.
    pub(super) fn bytes(&self, length: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(length + 32);
        let name = self.name();
        while bytes.len() < length {
            bytes.extend(Digest::sha256(format!("{name} {}", bytes.len())).hash_bytes());
        }
        bytes.truncate(length);
        bytes.into()
    }

    /// A request with the rights for the repository in its path.
    pub(super) fn ask(&self, method: Method, target: impl Into<String>) -> Ask<'_> {
        let target = target.into();
        let path = target.split('?').next().unwrap_or_default();
        let permission = match path.find("/v2/").map(|at| &path[at + 4..]) {
            Some("") => Permission::Registry,
            path => {
                let name = path.and_then(|path| {
                    let end = ["/blobs/", "/manifests/", "/tags/", "/referrers/"]
                        .iter()
                        .find_map(|m| path.rfind(m))?;
                    RepositoryName::parse(&path[..end]).ok()
                });
                self.all_in(name.as_ref().unwrap_or(&self.repository))
            }
        };
        let request =
            Exchange { method, target, headers: HeaderMap::new(), content: Content::Empty, permission };
        Ask { kit: self, request }
    }

    /// All rights in a repository. What is mounted into the other one is read in the first.
    fn all_in(&self, repository: &RepositoryName) -> Permission {
        let source = (*repository == self.other).then(|| self.repository.clone());
        Permission::Repository(repository.clone(), source)
    }

    /// Whether there are lists of referrers; found out once, with a referrer that is there.
    pub(super) async fn has_referrers(&self) -> Result<bool, Stop> {
        let find = || async {
            let subject = self.put_image(&self.image().await?).await?;
            let mut referrer = self.image().await?;
            referrer.subject = Some(subject.clone());
            let bytes = referrer.to_bytes();
            let put =
                self.put(Digest::sha256(&bytes), media_type::OCI_MANIFEST, bytes).await?.expect(&[201])?;
            let list = format!("/v2/{}/referrers/{}", self.repository, subject.digest);
            Ok(put.header("oci-subject").is_some() || self.get(list).send().await?.status != 404)
        };
        self.has_referrers.get_or_try_init(find).await.copied()
    }

    pub(super) fn get(&self, target: impl Into<String>) -> Ask<'_> {
        self.ask(Method::GET, target)
    }

    pub(super) fn head(&self, target: impl Into<String>) -> Ask<'_> {
        self.ask(Method::HEAD, target)
    }

    pub(super) fn delete(&self, target: impl Into<String>) -> Ask<'_> {
        self.ask(Method::DELETE, target)
    }

    pub(super) fn blob(&self, digest: &Digest) -> String {
        format!("/v2/{}/blobs/{digest}", self.repository)
    }

    pub(super) fn manifest(&self, reference: impl fmt::Display) -> String {
        format!("/v2/{}/manifests/{reference}", self.repository)
    }

    /// Opens an upload.
    pub(super) async fn session(&self) -> Result<Session, Stop> {
        let reply = self.ask(Method::POST, format!("/v2/{}/blobs/uploads/", self.repository)).send().await?;
        self.opened(&reply.expect(&[202])?)
    }

    /// The upload that an answer names.
    pub(super) fn opened(&self, reply: &Reply) -> Result<Session, Stop> {
        self.opened_in(&self.repository, reply)
    }

    /// The upload in a repository that an answer names.
    pub(super) fn opened_in(&self, repository: &RepositoryName, reply: &Reply) -> Result<Session, Stop> {
        let location = reply.location()?;
        let least = reply.header("oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if least > MAX_CHUNK {
            return skip("the registry wants chunks of over 16 MiB");
        }
        // What is removed at the end is an upload of this registry, whatever the answer names.
        let path = location.split('?').next().unwrap_or_default();
        let is_content = path.contains("/manifests/") || path.contains("/blobs/sha");
        if self.client.is_own_url(&location) && !is_content {
            self.note(Made::Session(location.clone()));
        }
        Ok(Session { location, least, permission: self.all_in(repository) })
    }

    fn note(&self, made: Made) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
    }

    /// Says that the registry got a blob.
    pub(super) fn has_blob(&self, digest: &Digest) {
        self.note(Made::Blob(self.repository.clone(), digest.clone()));
    }

    /// Says that the other repository got a blob.
    pub(super) fn other_has_blob(&self, digest: &Digest) {
        self.note(Made::Blob(self.other.clone(), digest.clone()));
    }

    /// That a blob that was pushed is these bytes.
    pub(super) async fn has(&self, digest: &Digest, bytes: &[u8]) -> Outcome {
        self.has_blob(digest);
        self.get(self.blob(digest)).send().await?.expect(&[200])?.has_body(bytes)
    }

    /// The manifest at a path or a URL, as the answer.
    pub(super) async fn pull(&self, target: impl Into<String>) -> Result<Reply, Stop> {
        self.get(target).with("accept", media_type::OCI_MANIFEST).send().await?.expect(&[200])
    }

    /// Pushes a blob: POST, then PUT.
    pub(super) async fn push(&self, bytes: &Bytes) -> Result<Digest, Stop> {
        self.push_as(Algorithm::Sha256, bytes).await
    }

    /// Pushes a blob under a digest of an algorithm, which the registry need not know but for sha256.
    pub(super) async fn push_as(&self, algorithm: Algorithm, bytes: &Bytes) -> Result<Digest, Stop> {
        let digest = algorithm.digest(bytes);
        let path = match algorithm {
            Algorithm::Sha256 => format!("/v2/{}/blobs/uploads/", self.repository),
            other => format!("/v2/{}/blobs/uploads/?digest-algorithm={}", self.repository, other.name()),
        };
        let reply = self.ask(Method::POST, path).send().await?;
        if algorithm != Algorithm::Sha256 && reply.status == 400 {
            return skip("the registry does not know the algorithm of the digest");
        }
        let session = self.opened(&reply.expect(&[202])?)?;
        self.has_blob(&digest);
        let put = session.put(self, &digest).body(bytes.clone()).send().await?;
        if algorithm != Algorithm::Sha256 && put.status == 400 {
            return skip("the registry does not know the algorithm of the digest");
        }
        put.expect(&[201])?;
        Ok(digest)
    }

    /// An image with blobs of its own, which are pushed; the manifest is not.
    pub(super) async fn image(&self) -> Result<ImageManifest, Stop> {
        let config = Bytes::from(format!(
            r#"{{"architecture":"amd64","os":"linux","author":"{}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
            self.name()
        ));
        let layer = self.bytes(512);
        self.push(&config).await?;
        self.push(&layer).await?;
        Ok(ImageManifest::new(
            Descriptor::of(media_type::OCI_CONFIG, &config),
            vec![Descriptor::of(media_type::OCI_LAYER, &layer)],
        ))
    }

    /// Sends a manifest; the answer may be anything.
    pub(super) async fn put(
        &self,
        reference: impl fmt::Display,
        kind: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<Reply, Stop> {
        let (bytes, reference) = (bytes.into(), reference.to_string());
        self.has_manifest(&bytes);
        match Digest::parse(&reference) {
            Ok(digest) => self.note(Made::Manifest(self.repository.clone(), digest)),
            Err(_) => self.has_tag(&reference),
        }
        let put = self.ask(Method::PUT, self.manifest(reference)).with("content-type", kind);
        put.body(bytes).send().await
    }

    /// Says that the registry got a manifest.
    pub(super) fn has_manifest(&self, bytes: &[u8]) {
        self.note(Made::Manifest(self.repository.clone(), Digest::sha256(bytes)));
    }

    /// Says that the registry got a tag.
    pub(super) fn has_tag(&self, tag: &str) {
        self.note(Made::Tag(self.repository.clone(), tag.to_owned()));
    }

    /// Pushes an image under its digest.
    pub(super) async fn put_image(&self, image: &ImageManifest) -> Result<Descriptor, Stop> {
        let bytes = Bytes::from(image.to_bytes());
        self.put(Digest::sha256(&bytes), media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
        Ok(Descriptor::of(media_type::OCI_MANIFEST, &bytes))
    }

    /// Pushes an index under its digest.
    pub(super) async fn put_index(&self, index: &ImageIndex) -> Result<Descriptor, Stop> {
        let bytes = Bytes::from(index.to_bytes());
        self.put(Digest::sha256(&bytes), media_type::OCI_INDEX, bytes.clone()).await?.expect(&[201])?;
        Ok(Descriptor::of(media_type::OCI_INDEX, &bytes))
    }

    /// Pushes a new image under a tag.
    pub(super) async fn tagged(&self, tag: &str) -> Result<Bytes, Stop> {
        let bytes = Bytes::from(self.image().await?.to_bytes());
        self.put(tag, media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
        Ok(bytes)
    }

    /// Removes what the cases made. What the registry keeps, stays; one that does not answer is left alone.
    pub(super) async fn remove_all(&self) {
        let mut made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        // The newest first, and what names others before them.
        made.reverse();
        made.sort_by_key(|made| match made {
            Made::Tag(..) => 0,
            Made::Manifest(..) => 1,
            Made::Blob(..) => 2,
            Made::Session(_) => 3,
        });
        let removal = async {
            for made in made {
                let target = match made {
                    Made::Tag(name, reference) => format!("/v2/{name}/manifests/{reference}"),
                    Made::Manifest(name, digest) => format!("/v2/{name}/manifests/{digest}"),
                    Made::Blob(name, digest) => format!("/v2/{name}/blobs/{digest}"),
                    Made::Session(location) => location,
                };
                if self.delete(target).send().await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(REMOVAL, removal).await;
    }
}

/// An upload.
pub(super) struct Session {
    location: String,
    least: usize,
    /// Its URL need not have the name of the repository.
    permission: Permission,
}

impl Session {
    /// The length of a chunk that is not the last one, in bytes.
    pub(super) fn chunk(&self) -> usize {
        self.least.max(1024)
    }

    /// A request to it.
    pub(super) fn ask<'a>(&self, kit: &'a Kit, method: Method) -> Ask<'a> {
        kit.ask(method, &self.location).permission(self.permission.clone())
    }

    /// The closing request.
    pub(super) fn put<'a>(&self, kit: &'a Kit, digest: impl fmt::Display) -> Ask<'a> {
        let target = with_query(&self.location, &format!("digest={digest}"));
        kit.ask(Method::PUT, target).permission(self.permission.clone())
    }

    /// Sends a chunk that begins at a byte, and goes on where the answer says.
    pub(super) async fn patch(&mut self, kit: &Kit, start: usize, chunk: Bytes) -> Result<Reply, Stop> {
        let end = start + chunk.len();
        let ask = self.ask(kit, Method::PATCH).with("content-range", range(start, end));
        let reply = ask.body(chunk).send().await?.expect(&[202])?;
        self.follow(&reply, end)?;
        Ok(reply)
    }

    /// Reads the answer to a chunk: where to go on, and that the registry has the bytes before `end`.
    pub(super) fn follow(&mut self, reply: &Reply, end: usize) -> Outcome {
        self.location = reply.location()?;
        reply.has_range(end)
    }

    /// What the registry has of it.
    pub(super) async fn status(&mut self, kit: &Kit, end: usize) -> Outcome {
        let reply = self.ask(kit, Method::GET).send().await?.expect(&[204])?;
        self.follow(&reply, end)
    }
}

/// `Content-Range` of an upload (distribution-spec, "Pushing a blob in chunks"): both ends are inclusive.
pub(super) fn range(start: usize, end: usize) -> String {
    format!("{start}-{}", end.saturating_sub(1))
}

/// A URL with another parameter.
pub(super) fn with_query(url: &str, parameter: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{parameter}")
}

/// A request in the making.
pub(super) struct Ask<'a> {
    kit: &'a Kit,
    request: Exchange,
}

impl Ask<'_> {
    pub(super) fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        let value = HeaderValue::from_str(value.as_ref()).expect("a header of a case");
        self.request.headers.append(HeaderName::from_static(name), value);
        self
    }

    pub(super) fn body(mut self, bytes: Bytes) -> Self {
        let octets = HeaderValue::from_static("application/octet-stream");
        self.request.headers.entry("content-type").or_insert(octets);
        self.request.content = Content::Sized(bytes);
        self
    }

    pub(super) fn chunked(mut self, bytes: Bytes) -> Self {
        self = self.body(bytes.clone());
        self.request.content = Content::Chunked(bytes);
        self
    }

    pub(super) fn permission(mut self, permission: Permission) -> Self {
        self.request.permission = permission;
        self
    }

    pub(super) async fn send(self) -> Result<Reply, Stop> {
        // Without the query, which may have a signature.
        let target = self.request.target.split('?').next().unwrap_or_default();
        let path = target.find("/v2/").map_or(target, |at| &target[at..]);
        let asked = format!("{} {path}", self.request.method);
        match self.kit.client.exchange(&self.request).await {
            Ok(Exchanged { status, headers, body: Ok(body), url }) => {
                Ok(Reply { asked, status, headers, body, url })
            }
            Ok(Exchanged { status, body: Err(error), .. }) => {
                Err(Stop::Broken(format!("{asked} answered {status} with a body that broke: {error}")))
            }
            Err(error) => Err(Stop::Lost(asked, error)),
        }
    }
}

/// An answer.
pub(super) struct Reply {
    asked: String,
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: Bytes,
    url: Url,
}

impl Reply {
    fn broken(&self, what: impl fmt::Display) -> Stop {
        Stop::Broken(format!("{} {what}", self.asked))
    }

    /// Ends the case unless the condition holds for this answer.
    pub(super) fn require(&self, condition: bool, what: impl fmt::Display) -> Outcome {
        if condition { Ok(()) } else { Err(self.broken(what)) }
    }

    /// The answer, if its status is one of these.
    pub(super) fn expect(self, statuses: &[u16]) -> Result<Self, Stop> {
        if statuses.contains(&self.status) {
            return Ok(self);
        }
        let wanted: Vec<String> = statuses.iter().map(u16::to_string).collect();
        let text = String::from_utf8_lossy(&self.body);
        let shown: String = text.trim().chars().take(SHOWN).collect();
        let body = if shown.is_empty() { String::new() } else { format!(": {shown}") };
        Err(self.broken(format_args!("answered {}, expected {}{body}", self.status, wanted.join(" or "))))
    }

    /// That the registry refuses the request, as its client's fault.
    pub(super) fn refused(&self) -> Outcome {
        let fits = (400..500).contains(&self.status);
        self.require(fits, format_args!("answered {}, expected an error of the client", self.status))
    }

    /// The codes of an error. Only a body in JSON has any.
    pub(super) fn codes(&self) -> Result<Vec<String>, Stop> {
        let is_json =
            self.header("content-type").is_some_and(|kind| media_type::essence(kind) == "application/json");
        if !is_json || self.body.is_empty() {
            return Ok(Vec::new());
        }
        let bad = || self.broken("answered with an error whose JSON is not as the specification has it");
        let json = self.json()?;
        let errors = json["errors"].as_array().filter(|list| !list.is_empty()).ok_or_else(bad)?;
        let codes = errors.iter().map(|error| Some(error["code"].as_str()?.to_owned()));
        codes.collect::<Option<_>>().ok_or_else(bad)
    }

    pub(super) fn json(&self) -> Result<serde_json::Value, Stop> {
        self.require(self.body.len() <= MAX_JSON, "answered with over 8 MiB of JSON")?;
        serde_json::from_slice(&self.body)
            .map_err(|e| self.broken(format_args!("answered with no JSON: {e}")))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect()
    }

    /// Where the answer points, as a whole URL.
    pub(super) fn location(&self) -> Result<String, Stop> {
        let location = self.header("location").ok_or_else(|| self.broken("answered without Location"))?;
        let url = self.url.join(location);
        Ok(url.map_err(|_| self.broken("answered with a Location that is no URL"))?.into())
    }

    /// The URL of the next page.
    pub(super) fn next(&self) -> Result<Option<String>, Stop> {
        let Some(link) = crate::client::http::link::next_link(&self.headers) else { return Ok(None) };
        let url = self.url.join(&link);
        Ok(Some(url.map_err(|_| self.broken("answered with a Link that is no URL"))?.into()))
    }

    /// That the registry says it has the bytes before `end` of an upload. What it says of no bytes at all is open.
    fn has_range(&self, end: usize) -> Outcome {
        let (given, expected) = (self.header("range").unwrap_or("none"), range(0, end));
        let fits = end == 0 || given == expected;
        self.require(fits, format_args!("answered with the Range {given}, expected {expected}"))
    }

    /// That the answer names a digest of these bytes.
    pub(super) fn has_digest_of(&self, bytes: &[u8]) -> Outcome {
        let given = self.header("docker-content-digest").unwrap_or("none");
        let fits = Digest::parse(given).is_ok_and(|digest| digest.algorithm().digest(bytes) == digest);
        self.require(
            fits,
            format_args!("answered with the Docker-Content-Digest {given}, which is not that of the content"),
        )
    }

    /// That the answer names this digest.
    pub(super) fn has_digest(&self, digest: &Digest) -> Outcome {
        let given = self.header("docker-content-digest").unwrap_or("none");
        self.require(
            given == digest.as_str(),
            format_args!("answered with the Docker-Content-Digest {given}, expected {digest}"),
        )
    }

    /// That the body is these bytes.
    pub(super) fn has_body(&self, bytes: &[u8]) -> Outcome {
        self.require(
            self.body == bytes,
            format_args!(
                "answered with {} bytes that are not the {} pushed ones",
                self.body.len(),
                bytes.len()
            ),
        )
    }

    /// That the answer names the length of the content; that to a GET need not.
    pub(super) fn has_length(&self, length: usize) -> Outcome {
        let given = self.header("content-length").unwrap_or(if self.asked.starts_with("GET") {
            return Ok(());
        } else {
            "none"
        });
        self.require(
            given == length.to_string(),
            format_args!("answered with the Content-Length {given}, expected {length}"),
        )
    }
}
