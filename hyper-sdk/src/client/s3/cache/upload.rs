//! Sends blobs to a bucket: a small one with one request, a large one in parts.
//!
//! # Invariants
//! - The object appears when its last byte is there and the source has confirmed its digest.
//! - Parts of an upload that fails, or that is dropped, are removed from the bucket, if the server answers in time. A program
//!   that is killed, or that ends before, leaves them there.

use super::S3Cache;
use crate::client::S3Access;
use crate::oci::Descriptor;
use crate::progress::Task;
use crate::s3::{Object, S3Place};
use crate::store::{BlobReader, ByteStream};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

/// The size of a part, and the largest blob that is sent with one request.
const PART: u64 = 8 << 20;
/// The most parts of an object.
const MAX_PARTS: u64 = 10_000;
/// The most bytes of the name of an upload.
const MAX_ID: usize = 4096;
/// How long the removal of parts may take when the upload was dropped.
const ABORT: Duration = Duration::from_secs(5);

/// The size of the parts of a blob.
fn part_size(size: u64) -> u64 {
    PART.max(size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20))
}

impl S3Cache {
    /// Sends a blob, whose reader checks its digest. What the bucket has under its key is replaced. Dropping the future
    /// leaves what was there.
    ///
    /// # Errors
    /// Those of the reader and of the server; [`ErrorKind::SizeInvalid`] when the reader has another size.
    pub(crate) async fn put_blob(&self, blob: &Descriptor, reader: BlobReader, task: &Task) -> Result<()> {
        let key = self.blob(&blob.digest)?;
        let mut source = Pieces { stream: reader.stream, rest: Bytes::new(), left: blob.size };
        if blob.size > PART {
            return self.put_in_parts(&key, blob.size, source, task).await;
        }
        let _permit = self.permit().await?;
        let payload = source.next(PART).await?;
        self.store.put(&key, payload).await.map_err(|e| self.error(Object::Blob, &e))?;
        task.advance(blob.size);
        Ok(())
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = self.parts.clone().acquire_owned().await;
        permit.map_err(|e| Error::internal("the uploads have ended").with_source(e))
    }

    async fn put_in_parts(&self, key: &Key, size: u64, mut source: Pieces, task: &Task) -> Result<()> {
        let id = self.store.create_multipart(key).await.map_err(|e| self.error(Object::Blob, &e))?;
        if id.len() > MAX_ID || !id.bytes().all(|c| c.is_ascii_graphic()) {
            let message = "the server names an upload in a way that cannot be sent back to it";
            return Err(Error::invalid(message).with_context("bucket", &self.address.bucket));
        }
        self.largest.announce(size);
        let mut begun = Begun {
            place: self.place.clone(),
            access: self.access.clone(),
            key: key.clone(),
            id: Some(id.clone()),
        };
        let sent = match self.send_parts(key, &id, part_size(size), &mut source, task).await {
            Ok(parts) => self.complete(key, &id, size, parts).await,
            Err(e) => Err(e),
        };
        if sent.is_err() {
            // What is wrong with the upload is told, and not that its parts are there still.
            let _ = self.store.abort_multipart(key, &id).await;
        }
        // Not before: a future that is dropped while it removes the parts removes them again.
        begun.id = None;
        sent
    }

    async fn send_parts(
        &self,
        key: &Key,
        id: &str,
        length: u64,
        source: &mut Pieces,
        task: &Task,
    ) -> Result<Vec<PartId>> {
        // Dropped before the upload is: no part arrives after its end.
        let mut running: JoinSet<object_store::Result<(usize, u64, PartId)>> = JoinSet::new();
        let mut parts = BTreeMap::new();
        let mut note = |done: std::result::Result<object_store::Result<(usize, u64, PartId)>, _>| {
            let done = done.map_err(|e| Error::internal("sending a part panicked").with_source(e))?;
            let (number, sent, part) = done.map_err(|e| self.error(Object::Blob, &e))?;
            task.advance(sent);
            parts.insert(number, part);
            Ok::<_, Error>(())
        };
        for number in 0.. {
            if source.left == 0 {
                break;
            }
            let permit = self.permit().await?;
            while let Some(done) = running.try_join_next() {
                note(done)?;
            }
            let payload = source.next(length).await?;
            let (store, key, id) = (self.store.clone(), key.clone(), id.to_owned());
            running.spawn(async move {
                let sent = payload.content_length() as u64;
                let part = store.put_part(&key, &id, number, payload).await?;
                drop(permit);
                Ok((number, sent, part))
            });
        }
        while let Some(done) = running.join_next().await {
            note(done)?;
        }
        Ok(parts.into_values().collect())
    }

    async fn complete(&self, key: &Key, id: &str, size: u64, parts: Vec<PartId>) -> Result<()> {
        let Err(e) = self.store.complete_multipart(key, &id.to_owned(), parts).await else { return Ok(()) };
        let error = self.error(Object::Blob, &e);
        // The answer to a request that did complete it may have been lost: the next one finds no upload.
        match error.kind() == ErrorKind::BlobUnknown
            && self.head(key).await?.is_some_and(|meta| meta.size == size)
        {
            true => Ok(()),
            false => Err(error),
        }
    }
}

/// The content of a blob in pieces of a size.
struct Pieces {
    stream: ByteStream,
    rest: Bytes,
    /// How many bytes are to come.
    left: u64,
}

impl Pieces {
    /// The next bytes: `length` of them, or those that are left.
    async fn next(&mut self, length: u64) -> Result<PutPayload> {
        let wrong =
            |why: &str| Error::new(ErrorKind::SizeInvalid, format!("the blob is {why} than announced"));
        let mut missing = length.min(self.left) as usize;
        let mut pieces = Vec::new();
        while missing > 0 {
            if self.rest.is_empty() {
                self.rest = self.stream.next().await.ok_or_else(|| wrong("shorter"))??;
            }
            let piece = self.rest.split_to(self.rest.len().min(missing));
            missing -= piece.len();
            self.left -= piece.len() as u64;
            pieces.push(piece);
        }
        if self.left == 0 {
            // The reader tells at its end whether the digest is right.
            match self.stream.next().await.transpose()? {
                None if self.rest.is_empty() => {}
                _ => return Err(wrong("longer")),
            }
        }
        Ok(pieces.into_iter().collect())
    }
}

/// An upload in parts that has not ended.
struct Begun {
    place: S3Place,
    access: S3Access,
    key: Key,
    id: Option<String>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (place, access, key) = (self.place.clone(), self.access.clone(), self.key.clone());
        // The runtime ends when a program is interrupted, and waits a moment for blocking work alone.
        runtime.spawn_blocking(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let Ok(cache) = S3Cache::open(&place, &access) else { return };
                let _ = tokio::time::timeout(ABORT, cache.store.abort_multipart(&key, &id)).await;
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_at_most_ten_thousand_parts() {
        assert_eq!(part_size(PART + 1), PART);
        assert_eq!(part_size(PART * MAX_PARTS), PART);
        for size in [PART * MAX_PARTS + 1, 1 << 40, 5 << 40] {
            let part = part_size(size);
            assert!(size.div_ceil(part) <= MAX_PARTS && part < 1 << 30, "{size}");
        }
    }

    #[tokio::test]
    async fn pieces_have_their_sizes_and_the_end_is_asked_for() {
        let of = |pieces: &[&'static str], left: u64| {
            let items: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
            Pieces { stream: futures::stream::iter(items).boxed(), rest: Bytes::new(), left }
        };
        let text = |payload: PutPayload| String::from_utf8(Bytes::from(payload).to_vec()).unwrap();
        let mut source = of(&["ab", "", "cdefg", "h"], 8);
        assert_eq!(text(source.next(3).await.unwrap()), "abc");
        assert_eq!(text(source.next(3).await.unwrap()), "def");
        assert_eq!(text(source.next(3).await.unwrap()), "gh");
        assert_eq!(source.left, 0);
        for (pieces, left) in [(&["abc"][..], 4), (&["abc"], 2), (&["ab", "c"], 2)] {
            let error = of(pieces, left).next(10).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SizeInvalid, "{pieces:?}");
        }
        let failing = futures::stream::iter([Ok(Bytes::from_static(b"ab")), Err(Error::invalid("no"))]);
        let mut source = Pieces { stream: failing.boxed(), rest: Bytes::new(), left: 2 };
        assert!(source.next(2).await.is_err());
    }
}
