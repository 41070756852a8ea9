//! Files from the web.
//!
//! A cached file is revalidated with `If-None-Match` and `If-Modified-Since` (RFC 9110, section 13). It is not
//! requested when it has the given checksum, and requested as if it were new when the checksum has another algorithm.
//! Its bytes are read and checked before they are used.

use super::growing_file::GrowingFile;
use super::integrity::{self, Expected};
use super::partial::{MAX_FILE, Partial, Whole, seconds};
use super::{Fetched, Inner, about, disk_space, keep, make_folder};
use crate::client::timeouts::{Broken, attempts_to_connect, explained};
use crate::client::tls;
use crate::digest::Algorithm;
use crate::dockerfile::without_password;
use crate::graph::WebSource;
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use reqwest::StatusCode;
use reqwest::header::{
    AUTHORIZATION, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedSender;
use url::Url;

const ATTEMPTS: u32 = 4;
/// The number of bytes between two checks of the free disk space.
const LOOK_EVERY: u64 = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest number of header lines of a response.
const MAX_HEADERS: usize = 1000;
const MAX_REDIRECTS: usize = 10;
const TOO_LARGE: &str = "is larger than 64 GiB, which is the most that is fetched";

/// The record of a response.
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

/// Fetches the file of a source into its own folder. `begun` is called for every download that starts.
pub(super) async fn fetch(
    inner: &Inner,
    source: &WebSource,
    begun: Option<&UnboundedSender<GrowingFile>>,
) -> Result<Fetched> {
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
    let (shown_here, folder_here) = (shown.clone(), folder.clone());
    let download =
        Download { inner, source, url, shown: shown_here, folder: folder_here, task: &task, begun };
    let result = download.run(known, &key).await.map_err(|e| about(e, &shown));
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

/// The record of an unchanged cached file. A changed file is removed, with a warning.
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
        let is_whole = integrity::is_whole(&file, &expected)?;
        if is_there && !is_whole {
            integrity::remove(&kept)?;
        }
        Ok((is_there, is_whole))
    })
    .await?;
    if is_there && !is_whole {
        inner
            .options
            .progress
            .warn(format!("the cached file of {shown} was changed: it is downloaded again"));
    }
    Ok(is_whole.then_some(record))
}

/// The modification time of a file, in seconds since 1970.
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
    begun: Option<&'a UnboundedSender<GrowingFile>>,
}

impl Download<'_> {
    /// The current record of the file, and whether it is new.
    async fn run(&self, known: Option<Record>, key: &Digest) -> Result<(Record, bool)> {
        // A revalidation does not check a checksum of another algorithm, so the bytes are needed.
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
        let mut under_way = None;
        let record = loop {
            let error = match self.attempt(&client, &headers, key, &mut under_way).await {
                Ok(record) => break record,
                Err(e) => e,
            };
            // A server that never responded is more likely misspelled than temporarily down.
            let few = attempts_to_connect(&error).filter(|_| under_way.is_none());
            let attempts = few.unwrap_or(ATTEMPTS);
            if attempt >= attempts || !error.is_retryable() {
                return Err(error);
            }
            attempt += 1;
            let why = first_cause(&error).map(|e| format!(": {e}")).unwrap_or_default();
            self.task.warn(format!("{error}{why}: trying again, attempt {attempt} of {attempts}"));
            tokio::time::sleep(wait).await;
            wait *= 3;
        };
        match (record, known) {
            (Some(record), _) => Ok((record, true)),
            (None, Some(known)) => {
                self.check(&known.digest)?;
                Ok((known, false))
            }
            (None, None) => Err(self
                .fail(ErrorKind::Unavailable, "answered that a file did not change that was never fetched")),
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

    /// The error of a response with this status.
    fn refused(&self, status: StatusCode) -> Error {
        let kind = match status.as_u16() {
            401 => ErrorKind::Unauthorized,
            403 => ErrorKind::Denied,
            404 | 410 => ErrorKind::NotFound,
            429 => ErrorKind::TooManyRequests,
            _ => ErrorKind::Unavailable,
        };
        let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        let why = if status.is_redirection() { ", which leads nowhere" } else { "" };
        self.fail(kind, format!("answered with {status}{why}")).with_retryable(passing)
    }

    /// Sends one request; `None` when the file is unchanged. Continues an incomplete download if possible.
    async fn attempt(
        &self,
        client: &reqwest::Client,
        headers: &HeaderMap,
        key: &Digest,
        under_way: &mut Option<Partial>,
    ) -> Result<Option<Record>> {
        let Some(response) = self.ask(client, headers, under_way).await? else { return Ok(None) };
        let partial = under_way.as_mut().ok_or_else(|| Error::internal("a download without its file"))?;
        self.receive(response, partial).await?;
        let partial = under_way.take().ok_or_else(|| Error::internal("a download without its file"))?;
        self.keep_whole(partial, key).await.map(Some)
    }

    fn late(&self, error: Error) -> Error {
        self.fail(ErrorKind::Timeout, "cannot be fetched").with_source(error)
    }

    fn broken(&self, error: reqwest::Error) -> Error {
        let passing = !(error.is_builder() || error.is_redirect());
        self.fail(ErrorKind::Unavailable, "cannot be fetched")
            .with_retryable(passing)
            .with_source(explained(error))
    }

    /// Requests the file, or the rest of it, and checks the response; `None` when the file has not changed.
    async fn ask(
        &self,
        client: &reqwest::Client,
        headers: &HeaderMap,
        under_way: &mut Option<Partial>,
    ) -> Result<Option<reqwest::Response>> {
        let mut headers = headers.clone();
        match under_way.as_ref().and_then(Partial::rest) {
            Some((range, condition)) => {
                headers.remove(IF_NONE_MATCH);
                headers.remove(IF_MODIFIED_SINCE);
                headers.extend([(RANGE, range), (IF_RANGE, condition)]);
            }
            None => *under_way = None,
        }
        let request = client.get(self.url.clone()).headers(headers);
        let timeouts = self.inner.options.timeouts();
        let answer = timeouts.answer(request.send()).await.map_err(|e| self.late(e))?;
        let response = answer.map_err(|e| self.broken(e))?;
        let status = response.status();
        let is_answer = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
        if is_answer && response.content_length().is_some_and(|length| length > MAX_FILE) {
            return Err(self.fail(ErrorKind::TooLarge, TOO_LARGE));
        }
        // A file that does not fit is rejected before a part of it fills the disk.
        if let (true, Some(length), Some(free)) =
            (is_answer, response.content_length(), disk_space::free(&self.folder))
            && length > free
        {
            let error = disk_space::full(&self.folder, &self.shown);
            return Err(error.with_context("size", length).with_context("free", free));
        }
        let goes_on = status == StatusCode::PARTIAL_CONTENT
            && under_way.as_mut().is_some_and(|partial| partial.go_on(response.headers()));
        match status {
            StatusCode::NOT_MODIFIED if under_way.is_none() => return Ok(None),
            StatusCode::OK => {
                let algorithm = self.source.checksum.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
                let name = &self.source.file_name;
                let partial = Partial::begin(response.headers(), &self.folder, name, algorithm)?;
                if let Some(begun) = self.begun {
                    let _ = begun.send(partial.growing()?);
                }
                *under_way = Some(partial);
            }
            StatusCode::PARTIAL_CONTENT if goes_on => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if under_way.is_some() => {
                *under_way = None;
                let what = "sent another part of the file than requested";
                return Err(self.fail(ErrorKind::Unavailable, what).with_retryable(true));
            }
            _ => return Err(self.refused(status)),
        }
        Ok(Some(response))
    }

    /// The error of a failed write.
    fn unwritten(&self, path: &Path, packed: bool, error: std::io::Error) -> Error {
        use std::io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput, UnexpectedEof};
        match error.kind() {
            FileTooLarge if error.raw_os_error().is_none() => self.fail(ErrorKind::TooLarge, TOO_LARGE),
            InvalidData | InvalidInput | UnexpectedEof if packed => {
                let what = "announced a body compressed with gzip, but sent something else or a part of it";
                self.fail(ErrorKind::Invalid, what).with_source(error)
            }
            _ => Error::io("cannot write the file", path, error),
        }
    }

    /// Writes the body of a response to its file.
    async fn receive(&self, mut response: reqwest::Response, partial: &mut Partial) -> Result<()> {
        let (path, packed) = (partial.path.clone(), partial.is_packed);
        let mut rate = self.inner.options.timeouts().rate_check();
        let (mut taken, mut unlooked) = (0, 0);
        while let Some(chunk) = rate.next(&mut response).await.map_err(|broken| match broken {
            Broken::Late(e) => self.late(e),
            Broken::Failed(e) => self.broken(e),
        })? {
            partial.write(&chunk).map_err(|e| self.unwritten(&path, packed, e))?;
            self.task.advance(chunk.len() as u64);
            unlooked += chunk.len() as u64;
            if unlooked >= LOOK_EVERY {
                taken += std::mem::take(&mut unlooked);
                if disk_space::is_short(&self.folder, taken) {
                    return Err(disk_space::full(&self.folder, &self.shown));
                }
            }
        }
        if !partial.is_complete() {
            let what = "sent less of the file than requested";
            return Err(self.fail(ErrorKind::Unavailable, what).with_retryable(true));
        }
        Ok(())
    }

    /// Checks a complete file and moves it to its final path.
    async fn keep_whole(&self, partial: Partial, key: &Digest) -> Result<Record> {
        let (path, packed) = (partial.path.clone(), partial.is_packed);
        let (etag, last_modified) = (partial.etag.clone(), partial.last_modified.clone());
        // Parts that do not match each other are not the file of the server.
        let is_resumed = partial.is_resumed;
        let Whole { folder: made, file, digest } =
            partial.finish().map_err(|e| self.unwritten(&path, packed, e))?;
        self.check(&digest).map_err(|e| if is_resumed { e.with_retryable(true) } else { e })?;
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
            // Without a record the existing folder was not checked.
            if place.exists() && !integrity::is_whole(&file, &expected)? {
                integrity::remove(&place)?;
            }
            keep(made, &place)
        })
        .await?;
        Ok(Record { etag, last_modified, digest, folder })
    }
}

/// The innermost cause of an error.
fn first_cause(error: &Error) -> Option<&(dyn std::error::Error + 'static)> {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes.last()
}
