//! The file of a download, and its continuation after an interruption.
//!
//! The missing part is requested alone (`Range`, RFC 9110, section 14) when the server has given a validator for
//! `If-Range`: a strong entity tag, or, if it supports ranges, a time of the last change that is not recent. Otherwise
//! the whole file is fetched again.
//!
//! The file can be read while it grows: see [`GrowingFile`].

use super::growing_file::{GrowingFile, WriteProgress};
use crate::digest::{Algorithm, Hasher};
use crate::private_folder::{self, TemporaryFolder};
use crate::{Digest, Result, ResultExt as _};
use flate2::write::MultiGzDecoder;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
    HeaderValue, LAST_MODIFIED,
};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The largest file that is fetched.
pub(super) const MAX_FILE: u64 = 64 << 30;
/// A file that was changed less than this many seconds ago may change again with the same time.
const FRESH: i64 = 60;

/// The text of a header.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// An incomplete download.
pub(super) struct Partial {
    folder: TemporaryFolder,
    pub(super) path: PathBuf,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Whether the response has a content encoding.
    pub(super) is_packed: bool,
    /// Whether it consists of several responses.
    pub(super) is_resumed: bool,
    body: Body,
    received: u64,
    total: Option<u64>,
    validator: Option<HeaderValue>,
    progress: WriteProgress,
}

/// A complete download.
pub(super) struct Whole {
    pub(super) folder: TemporaryFolder,
    pub(super) file: File,
    pub(super) digest: Digest,
}

impl Partial {
    /// Starts the file of a response in a new folder below `folder`.
    pub(super) fn begin(
        headers: &HeaderMap,
        folder: &Path,
        name: &str,
        algorithm: Algorithm,
    ) -> Result<Self> {
        let made = private_folder::temporary(".new-", Some(folder))?;
        let path = made.path().join(name);
        let file = File::create_new(&path).at("cannot write the file", &path)?;
        let progress = WriteProgress::default();
        let sink = Sink { file, hasher: algorithm.hasher(), left: MAX_FILE, progress: progress.clone() };
        let encoding = text(headers, CONTENT_ENCODING);
        let is_packed = encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("gzip"));
        let body = match is_packed {
            true => Body::Gzip(Box::new(MultiGzDecoder::new(sink))),
            false => Body::Plain(Box::new(sink)),
        };
        let kept = |name| text(headers, name).map(str::to_owned);
        Ok(Self {
            folder: made,
            path,
            etag: kept(ETAG),
            last_modified: kept(LAST_MODIFIED),
            is_packed,
            is_resumed: false,
            body,
            received: 0,
            total: text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            validator: validator(headers, encoding.is_some()),
            progress,
        })
    }

    /// The file for a reader that reads it while it grows.
    pub(super) fn growing(&self) -> Result<GrowingFile> {
        let file = File::open(&self.path).at("cannot open the download", &self.path)?;
        Ok(self.progress.follow(file))
    }

    /// The headers that request the rest, `Range` and `If-Range`; `None` when the whole file must be requested.
    pub(super) fn rest(&self) -> Option<(HeaderValue, HeaderValue)> {
        let validator = self.validator.clone().filter(|_| self.received > 0)?;
        Some((HeaderValue::from_str(&format!("bytes={}-", self.received)).ok()?, validator))
    }

    /// Checks whether a response continues the file.
    pub(super) fn go_on(&mut self, headers: &HeaderMap) -> bool {
        let fits = || {
            let (range, total) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
            let first: u64 = range.split_once('-')?.0.trim().parse().ok()?;
            let same_total = total == "*" || self.total.is_none_or(|known| total.parse() == Ok(known));
            let same_tag = text(headers, ETAG).is_none_or(|etag| self.etag.as_deref() == Some(etag));
            Some(first == self.received && same_total && same_tag && !headers.contains_key(CONTENT_ENCODING))
        };
        self.is_resumed = fits() == Some(true);
        self.is_resumed
    }

    /// Writes bytes of the body.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.body.write(chunk)?;
        self.received += chunk.len() as u64;
        Ok(())
    }

    /// Whether the file has the length that the first response gave.
    pub(super) fn is_complete(&self) -> bool {
        self.total.is_none_or(|total| total == self.received)
    }

    /// Completes the file.
    pub(super) fn finish(self) -> io::Result<Whole> {
        let Sink { file, hasher, .. } = self.body.finish()?;
        self.progress.finish();
        Ok(Whole { folder: self.folder, file, digest: hasher.finish() })
    }
}

/// The validator of a response.
fn validator(headers: &HeaderMap, is_encoded: bool) -> Option<HeaderValue> {
    let ranges = text(headers, ACCEPT_RANGES).map(str::to_ascii_lowercase);
    if is_encoded || ranges.as_deref() == Some("none") {
        return None;
    }
    if text(headers, ETAG).is_some_and(|etag| etag.starts_with('"')) {
        return headers.get(ETAG).cloned();
    }
    let changed = text(headers, LAST_MODIFIED).and_then(seconds)?;
    let now = || Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs().cast_signed());
    let sent = text(headers, DATE).and_then(seconds).or_else(now)?;
    let is_old = sent.checked_sub(changed).is_some_and(|age| age >= FRESH);
    headers.get(LAST_MODIFIED).filter(|_| is_old && ranges.as_deref() == Some("bytes")).cloned()
}

/// The target of the bytes: a file and its hash.
struct Sink {
    file: File,
    hasher: Hasher,
    /// The remaining limit in bytes: a small response can decompress to any size, and a response may never end.
    left: u64,
    progress: WriteProgress,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.file.write(bytes)?;
        self.left -= count as u64;
        self.progress.advance(count);
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The body of a response. Some servers send a content encoding without being asked; it is not part of the file.
enum Body {
    Plain(Box<Sink>),
    Gzip(Box<MultiGzDecoder<Sink>>),
}

impl Body {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(chunk),
            Self::Gzip(decoder) => decoder.write_all(chunk),
        }
    }

    fn finish(self) -> io::Result<Sink> {
        match self {
            Self::Plain(sink) => Ok(*sink),
            Self::Gzip(decoder) => decoder.finish(),
        }
    }
}

/// The seconds since 1970 of an HTTP date (RFC 9110, section 5.6.7). Some servers write `UTC` or a zero offset instead
/// of `GMT`.
pub(super) fn seconds(date: &str) -> Option<i64> {
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
    fn content_above_the_limit_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let sink = |name: &str| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            Box::new(Sink {
                file,
                hasher: Hasher::sha256(),
                left: 100_000,
                progress: WriteProgress::default(),
            })
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
    fn dates_with_every_name_of_utc_are_parsed() {
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
