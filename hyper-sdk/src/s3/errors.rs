//! What goes wrong with a bucket, in the words of this library.
//!
//! # Invariants
//! - Of a server's text only the code and one sentence are shown, cut and escaped, and never with the token that it was
//!   sent.

use super::S3Bucket;
use crate::{Error, ErrorKind};
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error as StdError;
use std::fmt;

/// The most characters of a code and of a sentence.
const MAX_CODE: usize = 64;
const MAX_MESSAGE: usize = 300;

/// The codes of credentials that are wrong.
const OF_CREDENTIALS: [&str; 5] =
    ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"];

/// How the codes begin with which a server asks to slow down.
#[cfg(feature = "store-s3")]
const SLOW_DOWN: [&str; 4] = ["SlowDown", "Throttling", "RequestLimitExceeded", "BandwidthLimitExceeded"];

/// The answer to a request that a server refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: u16,
    code: String,
    message: String,
    /// The region in which the bucket is.
    region: Option<String>,
    /// Whether the answer of a server of S3 had no body, as to HEAD: then nobody knows the code.
    #[cfg_attr(not(feature = "store-s3"), allow(dead_code, reason = "nobody asks"))]
    is_bare: bool,
}

impl Refusal {
    pub(crate) fn new(status: u16, body: &[u8], region: Option<String>, token: Option<&str>) -> Self {
        let text = String::from_utf8_lossy(body);
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let code: String = element(&text, "Code").chars().filter(plain).take(MAX_CODE).collect();
        let message = element(&text, "Message");
        let message = match token {
            Some(token) if message.contains(token) => message.replace(token, "…"),
            _ => message.to_owned(),
        };
        let message = message.chars().take(MAX_MESSAGE).collect::<String>().escape_debug().to_string();
        let is_name = |region: &String| region.len() <= MAX_CODE && region.chars().all(|c| plain(&c));
        let named = Some(element(&text, "Region").to_owned()).filter(|region| !region.is_empty());
        Self { status, code, message, region: region.or(named).filter(is_name), is_bare: false }
    }

    /// Says that an answer without a body is one of S3, which gives each request a number.
    #[must_use]
    pub(crate) fn bare(mut self, is_bare: bool) -> Self {
        self.is_bare = is_bare;
        self
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        self.status >= 500 && self.status != 501
            || matches!(self.status, 408 | 429)
            || matches!(self.code.as_str(), "RequestTimeout" | "SlowDown")
    }

    /// Whether the server asks to send fewer requests. MinIO has codes of its own for reads and writes.
    #[cfg(feature = "store-s3")]
    fn asks_to_slow_down(&self) -> bool {
        self.status == 429 || self.status == 503 && SLOW_DOWN.iter().any(|code| self.code.starts_with(code))
    }

    #[cfg(feature = "store-s3")]
    fn is_unclear(&self) -> bool {
        self.status == 503 && self.is_bare
    }
}

/// The content of the first element with this name, without entities.
fn element<'a>(text: &'a str, name: &str) -> &'a str {
    let inner = |text: &'a str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.trim())
    };
    inner(text).unwrap_or_default()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, ", {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message.trim_end_matches('.'))?;
        }
        Ok(())
    }
}

impl StdError for Refusal {}

/// The service that was asked for credentials gave none.
#[derive(Debug)]
pub(crate) struct NoCredentials(String);

impl NoCredentials {
    pub(crate) fn new(cause: &(dyn StdError + 'static)) -> Self {
        Self(chain(cause))
    }
}

impl From<&str> for NoCredentials {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for NoCredentials {}

/// The code of the refusal of a server, if it is one.
#[cfg(feature = "store-s3")]
pub(crate) fn code<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a str> {
    links(error).find_map(|link| link.downcast_ref::<Refusal>()).map(|refusal| refusal.code.as_str())
}

/// Whether the server has not answered: there is no connection, it took too long, or what stands before it says so. Any other
/// answer, 500 too, may be about one object or one kind of request, and a server that asks to slow down has answered; without
/// credentials it was not asked.
#[cfg(feature = "store-s3")]
pub(crate) fn is_no_answer(error: &(dyn StdError + 'static)) -> bool {
    use HttpErrorKind::{Connect, Interrupted, Request, Timeout};
    if links(error).any(|link| link.is::<NoCredentials>()) {
        return false;
    }
    match links(error).find_map(|link| link.downcast_ref::<Refusal>()) {
        Some(refusal) => {
            matches!(refusal.status, 502..=504) && !refusal.asks_to_slow_down() && !refusal.is_unclear()
        }
        None => links(error)
            .filter_map(|link| link.downcast_ref::<HttpError>())
            .any(|http| matches!(http.kind(), Connect | Interrupted | Request | Timeout)),
    }
}

/// Whether the server asks to send fewer requests.
#[cfg(feature = "store-s3")]
pub(crate) fn asks_to_slow_down(error: &(dyn StdError + 'static)) -> bool {
    links(error).find_map(|link| link.downcast_ref::<Refusal>()).is_some_and(Refusal::asks_to_slow_down)
}

/// Whether the server may ask to send fewer requests, or may not answer: what it says to HEAD has no code.
#[cfg(feature = "store-s3")]
pub(crate) fn is_unclear(error: &(dyn StdError + 'static)) -> bool {
    links(error).find_map(|link| link.downcast_ref::<Refusal>()).is_some_and(Refusal::is_unclear)
}

/// An error and its causes.
fn links<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |link| (*link).source())
}

/// An error and its causes in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in links(error).map(ToString::to_string) {
        if !texts.last().is_some_and(|last| last.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Manifest,
    Blob,
}

/// The error of a request for an object. It names the bucket.
pub(crate) fn of_request(bucket: &S3Bucket, object: Object, error: &(dyn StdError + 'static)) -> Error {
    let name = bucket.name.as_deref().unwrap_or("$AWS_BUCKET");
    of_links(bucket, object, error).with_context("bucket", name)
}

fn of_links(bucket: &S3Bucket, object: Object, error: &(dyn StdError + 'static)) -> Error {
    let links = || links(error);
    if let Some(refusal) = links().find_map(|link| link.downcast_ref::<Refusal>()) {
        return of_refusal(bucket, object, refusal);
    }
    if let Some(none) = links().find_map(|link| link.downcast_ref::<NoCredentials>()) {
        let message = "there are no credentials for S3, and the service that was asked for some gave none";
        return caused(ErrorKind::Unauthorized, message, none.to_string());
    }
    if let Some(own) = links().find_map(|link| link.downcast_ref::<Error>()) {
        return caused(own.kind(), own.message(), chain(own));
    }
    let Some(http) = links().find_map(|link| link.downcast_ref::<HttpError>()) else {
        return caused(ErrorKind::Invalid, "the answer of the server is not that of S3", chain(error));
    };
    let (kind, message) = match http.kind() {
        HttpErrorKind::Timeout => (ErrorKind::Timeout, "the server did not answer in time"),
        HttpErrorKind::Connect => (ErrorKind::Unavailable, "cannot connect to the server"),
        _ => (ErrorKind::Unavailable, "the connection to the server failed"),
    };
    caused(kind, message, http.source().map(chain).unwrap_or_default())
}

fn caused(kind: ErrorKind, message: impl Into<String>, cause: String) -> Error {
    Error::new(kind, message).with_source(std::io::Error::other(cause))
}

fn of_refusal(bucket: &S3Bucket, object: Object, refusal: &Refusal) -> Error {
    let is_elsewhere = (refusal.status < 400 || refusal.code == "AuthorizationHeaderMalformed")
        && refusal.region != bucket.region;
    if let Some(region) = refusal.region.as_ref().filter(|_| is_elsewhere) {
        return Error::invalid(format!("the bucket is in another region: set region={region}"));
    }
    let (kind, message) = match (refusal.status, refusal.code.as_str()) {
        (404, "NoSuchBucket") => {
            return Error::new(
                ErrorKind::NameUnknown,
                "there is no such bucket: make it, or name another one",
            );
        }
        (404, _) if object == Object::Manifest => {
            return Error::new(ErrorKind::ManifestUnknown, "the bucket has no cache with this name yet");
        }
        (404, _) => return Error::new(ErrorKind::BlobUnknown, "the bucket does not have the blob"),
        (_, "RequestTimeTooSkewed") => {
            (ErrorKind::Unauthorized, "the clock of this machine differs from that of the server")
        }
        (status, code) if status == 401 || OF_CREDENTIALS.contains(&code) => {
            (ErrorKind::Unauthorized, "the credentials for the bucket are wrong or have expired")
        }
        (403, _) => (
            ErrorKind::Denied,
            "the bucket denies access: check the rights of the credentials; without the right to list the bucket, S3 \
             also says so of what is not there",
        ),
        (409 | 412, "ConditionalRequestConflict" | "PreconditionFailed") => {
            (ErrorKind::Conflict, "the object has been written by another in the meantime")
        }
        (429, _) => (ErrorKind::TooManyRequests, "the server gets too many requests"),
        (507, _) => (ErrorKind::StorageFull, "the server has no space left"),
        _ if refusal.is_transient() => (ErrorKind::Unavailable, "the server cannot do it at the moment"),
        (300..=399, _) => (ErrorKind::Invalid, "the server redirects to another one, which is not followed"),
        _ => (ErrorKind::Invalid, "the server refuses the request"),
    };
    caused(kind, message, refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str, object: Object) -> Error {
        let bucket = S3Bucket { name: Some("b".to_owned()), ..S3Bucket::default() };
        let refusal = Refusal::new(status, body.as_bytes(), None, Some("t0ken"));
        of_request(&bucket, object, &HttpError::new(HttpErrorKind::Unknown, refusal))
    }

    #[cfg(feature = "store-s3")]
    #[test]
    fn what_is_about_one_object_is_an_answer() {
        let of = |status| HttpError::new(HttpErrorKind::Request, Refusal::new(status, b"<p>", None, None));
        for status in [403, 404, 429, 500, 501, 507] {
            assert!(!is_no_answer(&of(status)), "{status}");
        }
        for status in [502, 503, 504] {
            assert!(is_no_answer(&of(status)), "{status}");
        }
        for (status, code, is_answer) in [
            (503, "SlowDown", true),
            (503, "SlowDownRead", true),
            (503, "ServiceUnavailable", false),
            (502, "SlowDown", false),
            (429, "", true),
            (403, "SlowDown", false),
        ] {
            let body = format!("<Error><Code>{code}</Code></Error>");
            let refusal = Refusal::new(status, body.as_bytes(), None, None);
            let error = HttpError::new(HttpErrorKind::Request, refusal);
            assert_eq!(asks_to_slow_down(&error), is_answer, "{status} {code}");
            assert!(!(is_answer && is_no_answer(&error)), "{status} {code}");
        }
        let bare =
            |status| HttpError::new(HttpErrorKind::Request, Refusal::new(status, b"", None, None).bare(true));
        assert!(is_unclear(&bare(503)) && !is_no_answer(&bare(503)) && !asks_to_slow_down(&bare(503)));
        assert!(is_no_answer(&bare(502)) && !is_unclear(&bare(502)) && !is_unclear(&of(503)));
        let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(is_no_answer(&HttpError::new(HttpErrorKind::Connect, reset())));
        assert!(!is_no_answer(&HttpError::new(HttpErrorKind::Connect, NoCredentials::new(&reset()))));
        assert!(!is_no_answer(&reset()));
    }

    #[test]
    fn refusals_have_kinds_and_no_secret() {
        let xml = |code: &str| {
            format!(
                "<Error><Code>{code}</Code><Message>no t0ken\u{1b} here.</Message><Token-0>t0ken</Token-0></Error>"
            )
        };
        for (status, code, kind) in [
            (403, "AccessDenied", ErrorKind::Denied),
            (403, "SignatureDoesNotMatch", ErrorKind::Unauthorized),
            (400, "ExpiredToken", ErrorKind::Unauthorized),
            (404, "NoSuchBucket", ErrorKind::NameUnknown),
            (404, "NoSuchKey", ErrorKind::BlobUnknown),
            (503, "SlowDown", ErrorKind::Unavailable),
            (429, "", ErrorKind::TooManyRequests),
            (412, "PreconditionFailed", ErrorKind::Conflict),
            (400, "Strange", ErrorKind::Invalid),
            (301, "PermanentRedirect", ErrorKind::Invalid),
        ] {
            let error = of(status, &xml(code), Object::Blob);
            assert_eq!(error.kind(), kind, "{code}");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("t0ken") && !shown.contains('\u{1b}'), "{shown}");
        }
        assert_eq!(of(404, "", Object::Manifest).kind(), ErrorKind::ManifestUnknown);
        let moved = of(301, "<Error><Code>PermanentRedirect</Code><Region>eu-west-1</Region>", Object::Blob);
        assert!(moved.to_string().contains("set region=eu-west-1"), "{moved}");
        let hostile = format!("<Code>{0}</Code><Message>{0}", "<x".repeat(9000));
        assert!(format!("{:?}", of(400, &hostile, Object::Blob)).len() < 2000);
    }
}
