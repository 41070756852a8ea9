//! The bytes of an object, as a stream that goes on where it broke.

use super::bucket::{Body, Bucket};
use crate::store::ByteStream;
use crate::store::blob::BlobKey;
use crate::store::errors::missing_bytes;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use object_store::path::Path as Key;
use std::ops::Range;
use std::time::Duration;

/// How often in a row a request may bring nothing.
const ATTEMPTS: u32 = 4;
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The unread part of an object.
struct Reading {
    bucket: Bucket,
    object: Key,
    key: BlobKey,
    size: u64,
    left: Range<u64>,
    body: Option<Body>,
    failures: u32,
}

/// Opens a part of an object that must have this size.
pub(super) async fn open(
    bucket: &Bucket,
    object: &Key,
    key: &BlobKey,
    size: u64,
    part: Range<u64>,
) -> Result<ByteStream> {
    let mut reading = Reading {
        bucket: bucket.clone(),
        object: object.clone(),
        key: key.clone(),
        size,
        left: part,
        body: None,
        failures: 0,
    };
    if reading.left.is_empty() {
        let there = bucket.head(object).await?.map(|meta| meta.size);
        return match there == Some(size) {
            true => Ok(futures::stream::empty().boxed()),
            false => Err(missing(key)),
        };
    }
    reading.reopen().await?;
    let next = |mut reading: Reading| async move {
        let next = reading.next().await.transpose()?;
        if next.is_err() {
            reading.left = 0..0;
        }
        Some((next, reading))
    };
    Ok(futures::stream::unfold(reading, next).boxed())
}

impl Reading {
    async fn reopen(&mut self) -> Result<()> {
        match self.bucket.get(&self.object, self.left.clone()).await? {
            Some((size, body)) if size == self.size => self.body = Some(body),
            _ => return Err(missing(&self.key)),
        }
        Ok(())
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let Some(body) = &mut self.body else {
                match self.reopen().await {
                    Err(e) if e.kind() == ErrorKind::Unavailable => self.failed(e).await?,
                    other => other?,
                }
                continue;
            };
            let error = match body.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) if bytes.len() as u64 > self.left.end - self.left.start => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "the bucket sent more than it was asked for",
                    )
                    .with_context("key", &self.key));
                }
                Some(Ok(bytes)) => {
                    self.failures = 0;
                    self.left.start += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Some(Err(e)) => self.bucket.error(&e),
                None => Error::new(ErrorKind::Unavailable, "the bucket sent less than it was asked for"),
            };
            self.body = None;
            self.failed(error).await?;
        }
        Ok(None)
    }

    /// Waits before another attempt, if there is one.
    async fn failed(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        if self.failures >= ATTEMPTS {
            return Err(error.with_context("key", &self.key));
        }
        tracing::debug!(%error, key = %self.key, at = self.left.start, "reading a blob goes on where it broke");
        tokio::time::sleep(FIRST_DELAY * 2u32.pow(self.failures - 1)).await;
        Ok(())
    }
}

/// The error of bytes that are not there, or not all or too many of them.
pub(super) fn missing(key: &BlobKey) -> Error {
    match key {
        BlobKey::Digest(digest) => missing_bytes(digest),
        BlobKey::Own(_) => {
            Error::new(ErrorKind::Corrupt, "the bytes of the blob are missing or cut short in the bucket")
                .with_context("key", key)
        }
    }
}
