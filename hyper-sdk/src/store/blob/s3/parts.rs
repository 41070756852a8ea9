//! The content of an object that is written in parts.
//!
//! # Invariants
//! - Where a part begins and ends depends on its number alone: a writer that sends the same bytes again replaces a part by
//!   itself.
//! - All parts but the last have one size up to 62.5 GiB, as some servers want it.
//! - No more is in memory than one part and the bytes that were appended last.

use super::bucket::Bucket;
use super::place::PARTS;
use crate::store::UploadId;
use crate::store::errors::staging_lost;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use object_store::PutPayload;
use object_store::path::Path as Key;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
/// The size of most parts, and the largest content that is sent with one request.
const PART: u64 = 8 * MIB;
/// How many parts have this size. Later ones are larger, because an object has at most 10 000 of them.
const SMALL_PARTS: usize = 8_000;
const LATER_PART: u64 = 64 * MIB;
const MAX_PARTS: usize = 10_000;

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
}

impl Parts {
    pub(super) fn new(sent: Option<Sent>, rest: Vec<Bytes>) -> Self {
        let rest_size = rest.iter().map(|piece| piece.len() as u64).sum();
        Self { sent, rest, rest_size }
    }

    pub(super) fn size(&self) -> u64 {
        self.sent.as_ref().map_or(0, Sent::size) + self.rest_size
    }

    pub(super) fn rest(&self) -> &[Bytes] {
        &self.rest
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
        let size = self.rest_size + bytes.len() as u64;
        if size < part_size(self.number()) {
            self.rest.push(bytes);
            self.rest_size = size;
            return Ok(());
        }
        let mut next = Self { sent: None, rest: self.rest.clone(), rest_size: size };
        next.rest.push(bytes);
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
            let tag = bucket.put_part(&sent.key(bucket), &sent.name, number, part).await;
            sent.tags.push(tag.map_err(|e| lost_or(bucket, &e))?);
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

    /// Makes the object of everything. It may be called again after an error.
    pub(super) async fn complete(&self, bucket: &Bucket, object: &str) -> Result<Completed> {
        let object = &bucket.place.blobs().join(object);
        let Some(sent) = &self.sent else {
            bucket.put(object, self.rest_payload()).await?;
            return Ok(Completed::Now);
        };
        let mut tags = sent.tags.clone();
        if self.rest_size > 0 {
            let last = bucket.put_part(object, &sent.name, tags.len(), self.rest_payload()).await;
            match last {
                Ok(tag) => tags.push(tag),
                // The upload may have ended with the object.
                Err(e) if bucket.is_missing(&e) => return self.earlier(bucket, object, staging_lost()).await,
                Err(e) => return Err(bucket.error(&e)),
            }
        }
        match bucket.complete(object, &sent.name, tags, self.size()).await {
            Ok(()) => match self.earlier(bucket, object, wrong_size()).await? {
                Completed::Earlier => Ok(Completed::Now),
                now => Ok(now),
            },
            // The answer to a request that did complete it may have been lost.
            Err(e) => {
                let otherwise = match bucket.has_other_parts(&e) {
                    // Another writer has sent another part in the place of one.
                    true => staging_lost(),
                    false => lost_or(bucket, &e),
                };
                self.earlier(bucket, object, otherwise).await
            }
        }
    }

    /// Whether an object of the right size is there.
    async fn earlier(&self, bucket: &Bucket, object: &Key, otherwise: Error) -> Result<Completed> {
        match bucket.head(object).await? {
            Some(meta) if meta.size == self.size() => Ok(Completed::Earlier),
            _ => Err(otherwise),
        }
    }
}

/// How an object came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completed {
    /// The bucket has just made it of these parts.
    Now,
    /// It is there, and has the right size. Whether it has the right content is not known.
    Earlier,
}

fn wrong_size() -> Error {
    Error::new(ErrorKind::Unavailable, "the bucket made an object of another size of the parts of a blob")
}

/// The error of a request about an upload in parts.
fn lost_or(bucket: &Bucket, error: &object_store::Error) -> Error {
    match bucket.is_missing(error) {
        true => staging_lost(),
        false => bucket.error(error),
    }
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
