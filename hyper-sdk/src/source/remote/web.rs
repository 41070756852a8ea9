//! Files of the web.
//!
//! A file that was fetched before is asked for with `If-None-Match` and `If-Modified-Since` (RFC 9110, section 13), not
//! at all when its checksum is given and known, and as if it were new when the checksum is of another algorithm. Its
//! bytes are read and checked before they are used.

use super::kept::{self, Expected};
use super::{Fetched, Inner, keep, make_folder};
use crate::client::patience::Broken;
use crate::client::tls;
use crate::digest::{Algorithm, Hasher};
use crate::dockerfile::without_password;
use crate::graph::WebSource;
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use flate2::write::MultiGzDecoder;
use reqwest::StatusCode;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use url::Url;

const ATTEMPTS: u32 = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How many lines the head of an answer may have.
const MAX_HEADERS: usize = 1000;
const MAX_REDIRECTS: usize = 10;
/// The largest file that is fetched.
const MAX_FILE: u64 = 64 << 30;
const TOO_LARGE: &str = "is larger than 64 GiB, which is the most that is fetched";

/// What is remembered of an answer.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    etag: Option<String>,
    last_modified: Option<String>,
    digest: Digest,
    folder: String,
}

impl Record {
    fn read(path: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let plain = !record.folder.contains('/') && !record.folder.starts_with('.');
        (plain && !record.folder.is_empty()).then_some(record)
    }

    fn time(&self) -> Option<i64> {
        self.last_modified.as_deref().and_then(seconds)
    }

    fn fetched(&self, folder: &Path) -> Fetched {
        Fetched { path: folder.join(&self.folder), time: self.time() }
    }
}

/// Fetches the file, named as the source says, into a folder of its own.
pub(super) async fn fetch(inner: &Inner, source: &WebSource) -> Result<Fetched> {
    let shown = without_password(&source.url);
    let url = Url::parse(&source.url)
        .map_err(|e| Error::invalid(format!("`{shown}` is not a web address")).with_source(e))?;
    let folder = inner.root.join("web");
    make_folder(&folder)?;
    let key = Digest::sha256(format!("{}\0{}", source.url, source.file_name));
    let record_path = folder.join(format!("{}.json", key.hex()));
    let known = match Record::read(&record_path) {
        Some(record) => whole(inner, source, &shown, &folder, record).await?,
        None => None,
    };
    if let (Some(record), Some(checksum)) = (&known, &source.checksum)
        && record.digest == *checksum
    {
        return Ok(record.fetched(&folder));
    }
    let task = inner.options.progress.start(format!("fetch {shown}"), None);
    let download = Download { inner, source, url, shown: shown.clone(), folder: folder.clone(), task: &task };
    let result = download.run(known, &key).await.map_err(|e| e.with_context("url", &shown));
    let (record, fresh) = task.end_with(result)?;
    if fresh {
        let mut file = tempfile::NamedTempFile::new_in(&folder).at("cannot write a record in", &folder)?;
        serde_json::to_writer(&mut file, &record)
            .map_err(|e| Error::internal("a record cannot be written as JSON").with_source(e))?;
        file.persist(&record_path)
            .map_err(|e| Error::io("cannot write the record", &record_path, e.error))?;
    }
    Ok(record.fetched(&folder))
}

/// The record of a file that is still as it was written. One that was changed since is removed, with a warning.
async fn whole(
    inner: &Inner,
    source: &WebSource,
    shown: &str,
    folder: &Path,
    record: Record,
) -> Result<Option<Record>> {
    let kept = folder.join(&record.folder);
    let file = kept.join(&source.file_name);
    let expected = Expected { digest: record.digest.clone(), time: file_time(record.time()) };
    let (is_there, is_whole) = super::blocking(move || {
        let is_there = file.symlink_metadata().is_ok();
        let is_whole = kept::is_whole(&file, &expected)?;
        if is_there && !is_whole {
            kept::remove(&kept)?;
        }
        Ok((is_there, is_whole))
    })
    .await?;
    if is_there && !is_whole {
        inner.options.progress.warn(format!(
            "the file that was kept of {shown} was changed since it was downloaded: it is downloaded again"
        ));
    }
    Ok(is_whole.then_some(record))
}

/// The time that a file gets: seconds since 1970.
fn file_time(last_modified: Option<i64>) -> i64 {
    last_modified.unwrap_or(0).max(0)
}

struct Download<'a> {
    inner: &'a Inner,
    source: &'a WebSource,
    url: Url,
    shown: String,
    folder: PathBuf,
    task: &'a crate::progress::Task,
}

impl Download<'_> {
    /// The record of the file as it is now, and whether that is a new one.
    async fn run(&self, known: Option<Record>, key: &Digest) -> Result<(Record, bool)> {
        // That the file is as it was says nothing about a checksum of another algorithm: its bytes are needed.
        let wanted = self.source.checksum.as_ref().map(Digest::algorithm);
        let known = known.filter(|r| wanted.is_none_or(|algorithm| algorithm == r.digest.algorithm()));
        let client = self.client()?;
        let mut headers = self.authorization()?;
        if let Some(record) = &known {
            for (name, value) in [(IF_NONE_MATCH, &record.etag), (IF_MODIFIED_SINCE, &record.last_modified)] {
                if let Some(value) = value.as_deref().and_then(|v| HeaderValue::from_str(v).ok()) {
                    headers.insert(name, value);
                }
            }
        }
        let mut wait = Duration::from_millis(300);
        let mut attempt = 1;
        let record = loop {
            let error = match self.attempt(&client, &headers, key).await {
                Ok(record) => break record,
                Err(e) => e,
            };
            if attempt == ATTEMPTS || !error.is_retryable() {
                return Err(error);
            }
            attempt += 1;
            let why = first_cause(&error).map(|e| format!(": {e}")).unwrap_or_default();
            self.task.warn(format!("{error}{why}: trying again, attempt {attempt} of {ATTEMPTS}"));
            tokio::time::sleep(wait).await;
            wait *= 3;
        };
        match (record, known) {
            (Some(record), _) => Ok((record, true)),
            (None, Some(known)) => {
                self.check(&known.digest)?;
                Ok((known, false))
            }
            (None, None) => Err(self.fail(ErrorKind::Unavailable, "was not changed since never")),
        }
    }

    fn client(&self) -> Result<reqwest::Client> {
        let redirects = reqwest::redirect::Policy::custom(|attempt| {
            let downgrade = attempt.url().scheme() != "https"
                && attempt.previous().last().is_some_and(|from| from.scheme() == "https");
            if downgrade {
                attempt.error("a redirect from https to http is not followed")
            } else if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else {
                attempt.follow()
            }
        });
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .referer(false)
            .redirect(redirects)
            .user_agent(concat!("hyper/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .http1_max_headers(MAX_HEADERS)
            .tls_backend_preconfigured(tls::config(&[], None)?);
        if let Some(choice) = self.inner.options.proxy.clone() {
            builder = builder.proxy(reqwest::Proxy::custom(move |url| {
                choice.of(url).and_then(|proxy| Url::parse(&proxy).ok())
            }));
        }
        builder.build().map_err(|e| Error::invalid("the HTTP client cannot be configured so").with_source(e))
    }

    fn authorization(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let host = self.url.host_str().unwrap_or_default();
        let mut hosts = vec![host.to_owned()];
        hosts.extend(self.url.port().map(|port| format!("{host}:{port}")));
        let ids = |prefix: &str| hosts.iter().map(|h| format!("{prefix}{h}")).collect::<Vec<_>>();
        let header = self.inner.secret(&ids("HTTP_AUTH_HEADER_")).map(|s| s.expose().to_vec());
        let token = || self.inner.secret(&ids("HTTP_AUTH_TOKEN_")).map(|s| [b"Bearer ", s.expose()].concat());
        if let Some(value) = header.or_else(token) {
            let mut value = HeaderValue::from_bytes(value.trim_ascii()).map_err(|_| {
                Error::invalid(format!(
                    "the secret for {host} cannot be sent as a header: it has line breaks"
                ))
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    fn fail(&self, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("{} {what}", self.shown))
    }

    fn check(&self, got: &Digest) -> Result<()> {
        match &self.source.checksum {
            Some(wanted) if wanted != got => Err(self
                .fail(ErrorKind::DigestInvalid, "has another checksum")
                .with_context("expected", wanted)
                .with_context("got", got)),
            _ => Ok(()),
        }
    }

    /// One request; `None` when the file is as it was.
    async fn attempt(
        &self,
        client: &reqwest::Client,
        headers: &HeaderMap,
        key: &Digest,
    ) -> Result<Option<Record>> {
        let failed = |e: reqwest::Error| {
            let passing = !(e.is_builder() || e.is_redirect());
            self.fail(ErrorKind::Unavailable, "cannot be fetched")
                .with_retryable(passing)
                .with_source(e.without_url())
        };
        let request = client.get(self.url.clone()).headers(headers.clone());
        let late = |e: Error| self.fail(ErrorKind::Timeout, "cannot be fetched").with_source(e);
        let patience = self.inner.options.patience();
        let mut response = patience.answer(request.send()).await.map_err(late)?.map_err(failed)?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if status != StatusCode::OK {
            let kind = match status.as_u16() {
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Denied,
                404 | 410 => ErrorKind::NotFound,
                429 => ErrorKind::TooManyRequests,
                _ => ErrorKind::Unavailable,
            };
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            let why = if status.is_redirection() { ", which leads nowhere" } else { "" };
            return Err(self.fail(kind, format!("answered with {status}{why}")).with_retryable(passing));
        }
        if response.content_length().is_some_and(|length| length > MAX_FILE) {
            return Err(self.fail(ErrorKind::TooLarge, TOO_LARGE));
        }
        let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (etag, last_modified) = (text(ETAG), text(LAST_MODIFIED));
        let made = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&self.folder)
            .at("cannot make a folder in", &self.folder)?;
        let path = made.path().join(&self.source.file_name);
        let file = std::fs::File::create_new(&path).at("cannot write the file", &path)?;
        let algorithm = self.source.checksum.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let sink = Sink { file, hasher: algorithm.hasher(), left: MAX_FILE };
        let packed = text(CONTENT_ENCODING).is_some_and(|encoding| encoding.eq_ignore_ascii_case("gzip"));
        let mut body = if packed {
            Body::Gzip(Box::new(MultiGzDecoder::new(sink)))
        } else {
            Body::Plain(Box::new(sink))
        };
        use std::io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput, UnexpectedEof};
        let unwritten = |e: std::io::Error| match e.kind() {
            FileTooLarge if e.raw_os_error().is_none() => self.fail(ErrorKind::TooLarge, TOO_LARGE),
            InvalidData | InvalidInput | UnexpectedEof if packed => {
                let what = "says that its answer is compressed with gzip, and it is not or is cut off";
                self.fail(ErrorKind::Invalid, what).with_source(e)
            }
            _ => Error::io("cannot write the file", &path, e),
        };
        let mut pace = patience.pace();
        while let Some(chunk) = pace.next(&mut response).await.map_err(|broken| match broken {
            Broken::Late(e) => late(e),
            Broken::Failed(e) => failed(e),
        })? {
            body.write(&chunk).map_err(unwritten)?;
            self.task.advance(chunk.len() as u64);
        }
        let Sink { file, hasher, .. } = body.finish().map_err(unwritten)?;
        let digest = hasher.finish();
        self.check(&digest)?;
        let time = last_modified.as_deref().and_then(seconds);
        let expected = Expected { digest: digest.clone(), time: file_time(time) };
        let mtime = UNIX_EPOCH + Duration::from_secs(expected.time.unsigned_abs());
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .and_then(|()| file.set_modified(mtime))
            .and_then(|()| file.sync_data())
            .at("cannot write the file", &path)?;
        let folder = format!("{}-{}-{}", digest.hex(), &key.hex()[..16], time.unwrap_or(0));
        let place = self.folder.join(&folder);
        let file = place.join(&self.source.file_name);
        super::blocking(move || {
            // Without a record nothing has looked at what is there.
            if place.exists() && !kept::is_whole(&file, &expected)? {
                kept::remove(&place)?;
            }
            keep(made, &place)
        })
        .await?;
        Ok(Some(Record { etag, last_modified, digest, folder }))
    }
}

/// What an error came of in the end.
fn first_cause(error: &Error) -> Option<&(dyn std::error::Error + 'static)> {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes.last()
}

/// Where the bytes of a file go.
struct Sink {
    file: std::fs::File,
    hasher: Hasher,
    /// How many bytes it may still take: a small answer unpacks to any size, and one may never end.
    left: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let count = self.file.write(bytes)?;
        self.left -= count as u64;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The body of an answer. Some servers compress for the way without being asked: that is no part of the file.
enum Body {
    Plain(Box<Sink>),
    Gzip(Box<MultiGzDecoder<Sink>>),
}

impl Body {
    fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(chunk),
            Self::Gzip(decoder) => decoder.write_all(chunk),
        }
    }

    fn finish(self) -> std::io::Result<Sink> {
        match self {
            Self::Plain(sink) => Ok(*sink),
            Self::Gzip(decoder) => decoder.finish(),
        }
    }
}

/// The seconds since 1970 of an HTTP date (RFC 9110, section 5.6.7). Some servers write `UTC` or an offset of nothing in
/// the place of `GMT`.
fn seconds(date: &str) -> Option<i64> {
    let date = date.trim();
    let zones = ["UTC", "UT", "+0000", "-0000", "Z"];
    let named = date.rsplit_once(' ').filter(|(_, zone)| zones.iter().any(|z| z.eq_ignore_ascii_case(zone)));
    let date = named.map_or_else(|| date.to_owned(), |(rest, _)| format!("{rest} GMT"));
    let time: SystemTime = httpdate::parse_http_date(&date).ok()?;
    time.duration_since(UNIX_EPOCH).ok()?.as_secs().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_the_limit_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let sink = |name: &str| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            Box::new(Sink { file, hasher: Hasher::sha256(), left: 100_000 })
        };
        let mut plain = Body::Plain(sink("plain"));
        plain.write(&[0; 100_000]).unwrap();
        assert_eq!(plain.write(&[0]).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&[0; 1 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 10_000);
        let mut packed = Body::Gzip(Box::new(MultiGzDecoder::new(*sink("packed"))));
        let written = packed.write(&bomb).and_then(|()| packed.finish().map(drop));
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
        assert!(std::fs::metadata(folder.path().join("packed")).unwrap().len() <= 100_000);
    }

    #[test]
    fn dates_are_read_whatever_servers_call_universal_time() {
        let time = Some(784_111_777);
        for zone in ["GMT", "UTC", "utc", "UT", "+0000", "-0000"] {
            assert_eq!(seconds(&format!("Sun, 06 Nov 1994 08:49:37 {zone}")), time, "{zone}");
        }
        assert_eq!(seconds("Sunday, 06-Nov-94 08:49:37 UTC"), time);
        assert_eq!(seconds("Sun Nov  6 08:49:37 1994"), time);
        for wrong in ["", "UTC", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 CET"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
