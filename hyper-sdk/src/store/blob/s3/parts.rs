//! The content of an object that is written in parts.
//!
//! # Invariants
//! - Where a part begins and ends depends on its number alone: a writer that sends the same bytes again replaces a part by
//!   itself.
//! - All parts but the last have one size up to 62.5 GiB, as some servers want it.
//! - No more is in memory than one part and the bytes that were appended last.
//! - An upload in parts that is not there is not taken for lost: another request may have made the object of it, which is read
//!   before it is believed. What is appended to it then is compared with it.

use super::bucket::Bucket;
use super::place::PARTS;
use super::reading;
use crate::store::UploadId;
use crate::store::blob::BlobKey;
use crate::store::errors::{interrupted, other_content, parts_missing, staging_lost};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::PutPayload;
use object_store::path::Path as Key;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// The size of most parts, and the largest content that is sent with one request.
pub(super) const PART: u64 = 8 * MIB;
/// How many parts have this size. Later ones are larger, because an object has at most 10 000 of them.
const SMALL_PARTS: usize = 8_000;
const LATER_PART: u64 = 64 * MIB;
const MAX_PARTS: usize = 10_000;
/// How long to wait for an object that another request makes, before each look, in milliseconds.
const COMPLETION: [u64; 6] = [0, 50, 100, 250, 500, 800];

/// The size of a part.
pub(super) fn part_size(number: usize) -> u64 {
    if number < SMALL_PARTS { PART } else { LATER_PART }
}

/// The parts that the bucket has, by their tags, and the name of the upload that they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    /// The name of the object that they become.
    pub(super) object: String,
    pub(super) name: String,
    /// The object beside the upload that keeps both names.
    pub(super) note: String,
    pub(super) tags: Vec<String>,
}

impl Sent {
    fn key(&self, bucket: &Bucket) -> Key {
        bucket.place.blobs().join(self.object.as_str())
    }

    pub(super) fn size(&self) -> u64 {
        (0..self.tags.len()).map(part_size).sum()
    }
}

/// What was appended.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) sent: Option<Sent>,
    /// What comes after the last part: less than a part.
    rest: Vec<Bytes>,
    rest_size: u64,
    /// The size of the object when it is there already, of an earlier end of the upload. Then the rest is in it.
    made: Option<u64>,
    /// The tag of the last part, which may be shorter, once the bucket has it. The rest is not in memory any more.
    last: Option<String>,
}

impl Parts {
    pub(super) fn new(sent: Option<Sent>, rest: Vec<Bytes>) -> Self {
        let rest_size = rest.iter().map(|piece| piece.len() as u64).sum();
        Self { sent, rest, rest_size, ..Self::default() }
    }

    /// What was appended to an object that is there already, and has this size.
    pub(super) fn of_made(sent: Option<Sent>, rest_size: u64, made: u64) -> Self {
        Self { sent, rest_size, made: Some(made), ..Self::default() }
    }

    /// Whether what comes after the last part can still be saved.
    pub(super) fn has_rest(&self) -> bool {
        self.last.is_none()
    }

    pub(super) fn made(&self) -> Option<u64> {
        self.made
    }

    pub(super) fn size(&self) -> u64 {
        self.sent.as_ref().map_or(0, Sent::size) + self.rest_size
    }

    pub(super) fn rest(&self) -> &[Bytes] {
        &self.rest
    }

    /// How much more than now there is in memory at most while `more` is appended: the bytes after the last part, and the size
    /// that this part will have.
    pub(super) fn in_memory(&self, more: u64) -> (u64, u64) {
        match self.made {
            Some(_) => (0, PART),
            None => (self.rest_size + more, part_size(self.number())),
        }
    }

    fn number(&self) -> usize {
        self.sent.as_ref().map_or(0, |sent| sent.tags.len())
    }

    /// Appends bytes, and sends the parts that are whole. After an error nothing was appended.
    pub(super) async fn push(
        &mut self,
        bucket: &Bucket,
        id: &UploadId,
        object: &str,
        bytes: Bytes,
    ) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.last.is_some() {
            return Err(interrupted());
        }
        let size = self.rest_size + bytes.len() as u64;
        if let (Some(made), Some(sent)) = (self.made, &self.sent) {
            compare(bucket, sent, made, self.size(), &[bytes]).await?;
            self.rest_size = size;
            return Ok(());
        }
        if size < part_size(self.number()) {
            self.rest.push(bytes);
            self.rest_size = size;
            return Ok(());
        }
        let mut next = Self { rest: self.rest.clone(), rest_size: size, ..Self::default() };
        next.rest.push(bytes);
        let appended = next.rest.clone();
        let mut sent = match self.sent.clone() {
            Some(sent) => sent,
            // Without parts, it says nothing about the content.
            None => self.sent.insert(begin(bucket, id, object).await?).clone(),
        };
        while next.rest_size >= part_size(sent.tags.len()) {
            let number = sent.tags.len();
            if number == MAX_PARTS - 1 {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "the blob is too large for an object of a bucket",
                ));
            }
            let part = next.cut(part_size(number));
            match bucket.put_part(&sent.key(bucket), &sent.name, number, part).await {
                Ok(tag) => sent.tags.push(tag),
                // An earlier request has ended the upload, and the client learned of an error.
                Err(e) if bucket.is_missing(&e) => {
                    let made = awaited(bucket, &sent.key(bucket)).await?;
                    if let Some(before) = &self.sent {
                        compare(bucket, before, made, before.size(), &appended).await?;
                    }
                    *self = Self::of_made(self.sent.take(), size, made);
                    return Ok(());
                }
                Err(e) => return Err(bucket.error(&e)),
            }
        }
        next.sent = Some(sent);
        *self = next;
        Ok(())
    }

    /// Takes bytes from the start of what is left.
    fn cut(&mut self, size: u64) -> PutPayload {
        let (mut missing, mut part) = (size as usize, Vec::new());
        let mut rest = std::mem::take(&mut self.rest).into_iter();
        while missing > 0
            && let Some(mut piece) = rest.next()
        {
            let taken = piece.split_to(piece.len().min(missing));
            missing -= taken.len();
            part.push(taken);
            if !piece.is_empty() {
                self.rest.push(piece);
            }
        }
        self.rest.extend(rest);
        self.rest_size -= size - missing as u64;
        part.into_iter().collect()
    }

    pub(super) fn rest_payload(&self) -> PutPayload {
        self.rest.iter().cloned().collect()
    }

    /// Makes the object of everything. It may be called again after an error. `is_sent` is called when nothing is in memory any
    /// more.
    pub(super) async fn complete(
        &mut self,
        bucket: &Bucket,
        object: &str,
        is_sent: impl FnOnce() + Send,
    ) -> Result<Completed> {
        let object = &bucket.place.blobs().join(object);
        let Some(sent) = &self.sent else {
            bucket.put(object, self.rest_payload()).await?;
            self.rest = Vec::new();
            is_sent();
            return Ok(Completed::Now);
        };
        if self.made.is_some() {
            return self.earlier(bucket, object).await;
        }
        let mut tags = sent.tags.clone();
        if self.rest_size > 0 && self.last.is_none() {
            let last = bucket.put_part(object, &sent.name, tags.len(), self.rest_payload()).await;
            match last {
                Ok(tag) => self.last = Some(tag),
                Err(e) if bucket.is_missing(&e) => return self.earlier(bucket, object).await,
                Err(e) => return Err(bucket.error(&e)),
            }
            // What follows may take long, and needs none of it.
            self.rest = Vec::new();
        }
        is_sent();
        tags.extend(self.last.clone());
        match bucket.complete(object, &sent.name, tags, self.size()).await {
            Ok(()) => match bucket.head(object).await? {
                Some(meta) if meta.size == self.size() => Ok(Completed::Now),
                _ => Err(wrong_size()),
            },
            // Another request ends the upload, at another server: it has the parts, or has replaced one.
            Err(e) if bucket.is_missing(&e) || bucket.has_other_parts(&e) => {
                self.earlier(bucket, object).await
            }
            // The answer to a request that did complete it may have been lost.
            Err(e) => match bucket.head(object).await? {
                Some(meta) if meta.size == self.size() => Ok(Completed::Earlier),
                _ => Err(bucket.error(&e)),
            },
        }
    }

    /// Waits for the object that another request makes, or has made.
    async fn earlier(&self, bucket: &Bucket, object: &Key) -> Result<Completed> {
        match awaited(bucket, object).await? {
            size if size == self.size() => Ok(Completed::Earlier),
            _ => Err(other_content()),
        }
    }
}

/// The size of the object of an upload that has ended. The server may be about to make it.
async fn awaited(bucket: &Bucket, object: &Key) -> Result<u64> {
    for pause in COMPLETION {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if let Some(meta) = bucket.head(object).await? {
            return Ok(meta.size);
        }
    }
    Err(parts_missing())
}

/// Compares bytes with those of the object that an earlier end of the upload has made, of this size.
async fn compare(bucket: &Bucket, sent: &Sent, made: u64, from: u64, pieces: &[Bytes]) -> Result<()> {
    let to = from + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    if to > made {
        return Err(other_content());
    }
    let key = BlobKey::Own(sent.object.clone());
    let there = reading::open(bucket, &sent.key(bucket), &key, made, from..to).await;
    let mut there = there.map_err(removed)?;
    let mut pieces = pieces.iter();
    let mut piece = Bytes::new();
    while let Some(mut found) = there.try_next().await.map_err(removed)? {
        while !found.is_empty() {
            while piece.is_empty() {
                piece = pieces.next().cloned().ok_or_else(other_content)?;
            }
            let most = found.len().min(piece.len());
            if found.split_to(most) != piece.split_to(most) {
                return Err(other_content());
            }
        }
    }
    Ok(())
}

/// An object that was made of the parts and is gone takes the upload with it.
pub(super) fn removed(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt => staging_lost().with_source(error),
        _ => error,
    }
}

/// How an object came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completed {
    /// The bucket says that it has made it of these parts. It may have been another request with the same content.
    Now,
    /// It is there, and has the right size. Whether it has the right content is not known.
    Earlier,
}

fn wrong_size() -> Error {
    Error::new(ErrorKind::Unavailable, "the bucket made an object of another size of the parts of a blob")
}

/// Begins an upload in parts. Its name is in the bucket before its first part is, so that its parts are found when the writer
/// dies.
async fn begin(bucket: &Bucket, id: &UploadId, object: &str) -> Result<Sent> {
    let note = format!("{PARTS}{object}");
    let mut sent = Sent { object: object.to_owned(), name: String::new(), note, tags: Vec::new() };
    let key = sent.key(bucket);
    sent.name = bucket.begin(&key).await?;
    let beside = bucket.place.beside(id).join(sent.note.as_str());
    let text = format!("{} {}", sent.object, sent.name);
    match bucket.put(&beside, Bytes::from(text).into()).await {
        Ok(()) => Ok(sent),
        Err(e) => {
            // What is wrong is told already. Without parts, the upload takes no space.
            let _ = bucket.abort(&key, &sent.name).await;
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_at_their_size() {
        let pieces = ["ab", "cde", "f"].map(|piece| Bytes::from_static(piece.as_bytes()));
        let mut parts = Parts::new(None, pieces.to_vec());
        let text = |payload: PutPayload| String::from_utf8(Bytes::from(payload).to_vec()).unwrap();
        assert_eq!(text(parts.cut(3)), "abc");
        assert_eq!((text(parts.rest_payload()), parts.size()), ("def".to_owned(), 3));
        assert_eq!(text(parts.cut(3)), "def");
        assert_eq!((parts.rest().len(), parts.size()), (0, 0));
    }

    #[test]
    fn an_object_may_have_more_than_a_hundred_gibibytes() {
        let sent = |count: usize| Sent { tags: vec![String::new(); count], ..Sent::default() }.size();
        assert_eq!((sent(0), sent(1), sent(SMALL_PARTS)), (0, PART, PART * SMALL_PARTS as u64));
        assert!(sent(MAX_PARTS - 1) > 180 << 30);
    }
}
