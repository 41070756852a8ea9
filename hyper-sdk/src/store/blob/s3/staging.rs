//! The staging area of an upload.
//!
//! ```text
//!   append   ▶ parts of the object, as soon as one is whole
//!   save     ▶ what comes after the last part, as an object beside the upload; the rest of the state is for the caller
//!   restore  ◀ that object
//!   commit   ▶ the parts become the object
//!   discard  ▶ objects beside the upload go: after a commit, when a row names the object
//! ```
//!
//! # Invariants
//! - What a state needs is in the bucket before the state is given out, and stays until the state after the next one.
//! - The name of an object is random. All who make it of one upload in parts make it of the same content: the store has sealed
//!   the session with it. It is believed to have the content when the bucket says that it has made it of the verified parts,
//!   or when it was read again.

use super::bucket::Bucket;
use super::memory::{Held, Memory};
use super::parts::{Completed, Parts, Sent, part_size, removed};
use super::place::{PARTS, TAIL, random_name};
use super::reading;
use crate::digest::{Algorithm, Hasher};
use crate::store::UploadId;
use crate::store::blob::{BlobKey, BlobStaging, StagedState, Verified};
use crate::store::errors::{digest_mismatch, interrupted, not_verified, other_content, staging_lost};
use crate::{Digest, Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path as Key;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The uploads that somebody in this process writes to.
pub(super) type Writers = Arc<Mutex<HashSet<UploadId>>>;

/// What is saved of an area besides its offset and its hash.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<Sent>,
    /// The object beside the upload that has the bytes after the last part.
    tail: String,
    /// The one of the state before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    /// The size of the object when it was there already, of an earlier end of the upload. Then it has the bytes after the
    /// parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<u64>,
}

/// The right of one writer in this process.
#[derive(Debug)]
pub(super) struct Claim {
    writers: Writers,
    id: UploadId,
}

impl Claim {
    /// `None` while another writer has it.
    pub(super) fn of(writers: &Writers, id: &UploadId) -> Option<Self> {
        let is_new = writers.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        is_new.then(|| Self { writers: Arc::clone(writers), id: id.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[derive(Debug)]
pub(super) struct S3Staging {
    bucket: Bucket,
    memory: Memory,
    held: Held,
    claim: Claim,
    /// The name of the object.
    object: String,
    hasher: Hasher,
    parts: Parts,
    /// The saved state that the area is at, and the tail of the one before.
    saved: Option<(u64, String)>,
    before: Option<String>,
    verified: Option<Digest>,
    progress: Progress,
}

/// How far the object has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is written to.
    Open,
    /// It is there, and of nobody.
    Complete,
    /// It is that of a blob, whatever becomes of the area.
    Committed,
}

impl S3Staging {
    pub(super) fn new(bucket: Bucket, memory: Memory, claim: Claim) -> Result<Self> {
        Ok(Self {
            bucket,
            memory,
            held: Held::default(),
            claim,
            object: random_name()?,
            hasher: Hasher::sha256(),
            parts: Parts::default(),
            saved: None,
            before: None,
            verified: None,
            progress: Progress::Open,
        })
    }

    fn key(&self) -> BlobKey {
        BlobKey::Own(self.object.clone())
    }

    fn beside(&self, name: &str) -> Key {
        self.bucket.place.beside(&self.claim.id).join(name)
    }

    fn state(&self, tail: String) -> Result<StagedState> {
        let saved = Saved {
            sent: self.parts.sent.clone(),
            tail,
            before: self.before.clone(),
            made: self.parts.made(),
        };
        let backend = serde_json::to_vec(&saved)
            .map_err(|e| Error::internal("the state of an upload cannot be written").with_source(e))?;
        Ok(StagedState { offset: self.parts.size(), hash: self.hasher.save(), backend })
    }

    /// Makes the object.
    async fn complete(&mut self) -> Result<()> {
        if self.progress != Progress::Open {
            return Ok(());
        }
        let held = &mut self.held;
        let completed = self.parts.complete(&self.bucket, &self.object, || held.shrink(0)).await?;
        // Nothing is in memory when it was found.
        self.held.shrink(0);
        if completed == Completed::Earlier {
            let digest = self.hasher.clone().finish();
            let got = self.rehash(digest.algorithm()).await?;
            if got != digest {
                return Err(other_content());
            }
        }
        self.progress = Progress::Complete;
        Ok(())
    }

    /// Reads the object to its end.
    async fn rehash(&self, algorithm: Algorithm) -> Result<Digest> {
        let size = self.parts.size();
        let object = self.bucket.place.blobs().join(self.object.as_str());
        let bytes = reading::open(&self.bucket, &object, &self.key(), size, 0..size).await;
        let mut bytes = bytes.map_err(removed)?;
        let mut hasher = algorithm.hasher();
        while let Some(piece) = bytes.try_next().await.map_err(removed)? {
            hasher.update(&piece);
        }
        Ok(hasher.finish())
    }

    /// Removes the objects beside the upload that are not needed any more. What stays is found as a leftover.
    async fn tidy(&mut self) {
        let tail = self.saved.take().map(|(_, tail)| tail);
        let note = self.parts.sent.as_ref().map(|sent| sent.note.clone());
        for name in [tail, self.before.take(), note].into_iter().flatten() {
            drop(self.memory.take_end(&self.beside(&name)));
            if let Err(error) = self.bucket.delete(&self.beside(&name)).await {
                tracing::debug!(%error, upload = %self.claim.id, "an object beside an upload stays for now");
            }
        }
    }
}

#[async_trait]
impl BlobStaging for S3Staging {
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        if state.offset == 0 {
            self.hasher = algorithm.hasher();
            return Ok(());
        }
        let saved: Saved =
            serde_json::from_slice(&state.backend).map_err(|e| staging_lost().with_source(e))?;
        let (sent, count) =
            (saved.sent.as_ref().map_or(0, Sent::size), saved.sent.as_ref().map(|s| s.tags.len()));
        let is_part = |tail: &u64| saved.made.is_some() || *tail < part_size(count.unwrap_or(0));
        let tail = state.offset.checked_sub(sent).filter(is_part).ok_or_else(staging_lost)?;
        let rest = match saved.made {
            Some(_) => Vec::new(),
            None => {
                self.memory.hold(&mut self.held, tail, part_size(count.unwrap_or(0))).await?;
                let rest = match self.memory.take_end(&self.beside(&saved.tail)) {
                    Some(rest) => Some(vec![rest]),
                    None => self.bucket.get_small(&self.beside(&saved.tail), tail).await?,
                };
                rest.ok_or_else(staging_lost)?
            }
        };
        self.hasher = Hasher::restore(&state.hash)?;
        if let Some(sent) = &saved.sent {
            self.object = sent.object.clone();
        }
        self.parts = match saved.made {
            None => Parts::new(saved.sent, rest),
            Some(made) => Parts::of_made(saved.sent, tail, made),
        };
        self.saved = Some((state.offset, saved.tail));
        self.before = saved.before;
        Ok(())
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        if self.progress != Progress::Open {
            return Err(interrupted());
        }
        if self.verified.take().is_some() && self.parts.sent.is_none() {
            // A request with the verified content may still arrive.
            self.object = random_name()?;
        }
        let (in_memory, part) = self.parts.in_memory(bytes.len() as u64);
        self.memory.hold(&mut self.held, in_memory, part).await?;
        let mut hasher = self.hasher.clone();
        hasher.update(&bytes);
        self.parts.push(&self.bucket, &self.claim.id, &self.object, bytes).await?;
        self.held.shrink(self.parts.in_memory(0).0);
        self.hasher = hasher;
        Ok(())
    }

    async fn save(&mut self) -> Result<StagedState> {
        let offset = self.parts.size();
        if !self.parts.has_rest() {
            return Err(interrupted());
        }
        match &self.saved {
            _ if offset == 0 => {
                return Ok(StagedState { offset: 0, hash: self.hasher.save(), ..StagedState::default() });
            }
            Some((saved, tail)) if *saved == offset => return self.state(tail.clone()),
            _ => {}
        }
        let name = format!("{TAIL}{}", random_name()?);
        self.bucket.put(&self.beside(&name), self.parts.rest_payload()).await?;
        // The state of `saved` is recorded, so nobody comes back to the one before.
        let outdated = std::mem::replace(&mut self.before, self.saved.take().map(|(_, tail)| tail));
        self.memory.keep_end(self.beside(&name), self.parts.rest());
        self.saved = Some((offset, name.clone()));
        if let Some(outdated) = outdated
            && let Err(error) = self.bucket.delete(&self.beside(&outdated)).await
        {
            tracing::debug!(%error, upload = %self.claim.id, "an object beside an upload stays for now");
        }
        self.state(name)
    }

    /// Nobody else knows an upload in parts that was not saved.
    fn seal(&self) -> Option<Digest> {
        let is_shared = self.saved.is_some() && self.parts.sent.is_some();
        is_shared.then(|| self.hasher.clone().finish())
    }

    /// The parts of an upload that was saved have numbers that another process may use, too.
    fn needs_claim(&self, appended: u64) -> bool {
        let is_shared = self.saved.is_some() && self.parts.sent.is_some();
        let (in_memory, part) = self.parts.in_memory(appended);
        is_shared && in_memory >= part
    }

    fn keeps_others_waiting(&self) -> bool {
        self.memory.is_wanted(&self.held)
    }

    async fn verify(&mut self, digest: &Digest) -> Result<Verified> {
        let got = if digest.algorithm() == self.hasher.algorithm() {
            self.hasher.clone().finish()
        } else if self.parts.sent.is_none() {
            let mut hasher = digest.algorithm().hasher();
            self.parts.rest().iter().for_each(|piece| hasher.update(piece));
            hasher.finish()
        } else {
            // Parts cannot be read before they are an object.
            self.complete().await?;
            self.rehash(digest.algorithm()).await?
        };
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        self.verified = Some(got);
        Ok(Verified { size: self.parts.size(), key: self.key() })
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        if self.verified.as_ref() != Some(digest) {
            return Err(not_verified());
        }
        self.complete().await?;
        self.progress = Progress::Committed;
        Ok(())
    }

    /// What a committed area keeps beside it is needed until a row names the object: a link that fails is tried again.
    ///
    /// Also removes the object when this writer alone made it and did not commit it, and what earlier writers left.
    async fn discard(&mut self) -> Result<()> {
        if self.progress == Progress::Committed {
            self.tidy().await;
            return Ok(());
        }
        let beside = self.bucket.place.beside(&self.claim.id);
        let found: Vec<_> = self.bucket.list(&beside, None).try_collect().await?;
        // The upload in parts that has become the object has ended.
        let sent = self.parts.sent.as_ref().filter(|_| self.progress != Progress::Open);
        let ended = sent.map(|sent| sent.name.clone());
        for meta in &found {
            if meta.location.filename().is_some_and(|name| name.starts_with(PARTS))
                && let Some(note) = self.bucket.get_small(&meta.location, meta.size).await?
                && let Ok(note) = String::from_utf8(note.concat())
                && let Some((object, name)) = note.split_once(' ')
                && ended.as_deref() != Some(name)
            {
                self.bucket.abort(&self.bucket.place.blobs().join(object), name).await?;
            }
        }
        // An area that was saved may have a writer elsewhere, whose blob is the object: it then goes as one that no row
        // names.
        if self.progress == Progress::Complete && self.saved.is_none() {
            self.bucket.delete(&self.bucket.place.blobs().join(self.object.as_str())).await?;
            self.progress = Progress::Open;
        }
        for meta in &found {
            drop(self.memory.take_end(&meta.location));
            self.bucket.delete(&meta.location).await?;
        }
        self.parts = Parts::default();
        (self.saved, self.before, self.verified) = (None, None, None);
        Ok(())
    }
}
