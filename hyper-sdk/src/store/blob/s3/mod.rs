//! Blobs as objects in a bucket of S3.
//!
//! ```text
//!   mod       the backend: sizes, deletions, lists
//!   staging   an upload; parts: its content, of which whole parts are in the bucket already
//!   reading   ranges of an object
//!   memory    what all uploads together may have in memory
//!   bucket    requests and their errors; place: the keys of objects
//! ```
//!
//! An upload is written to the object that it becomes, whose name is random: committing it copies nothing, and the metadata
//! says which blob it is. Its state, the tags of its parts and the hash among it, goes to the metadata with its offset, so
//! that it goes on in another process that has the same bucket and the same metadata. Nothing is read again.
//!
//! # Several processes on one bucket
//! One writer at a time is kept within a process. Writers of one upload in two processes do not corrupt a blob: the state that
//! was saved last counts; an object is made of the parts with the tags of those that were hashed; and the metadata say with
//! which content an upload is finished, before its last bytes and the request that makes the object are sent
//! ([`BlobStaging::seal`]). So it does not matter who makes the object, or how often. A writer is not known to another
//! process, so what was never saved goes only when it is old.

mod bucket;
mod memory;
mod parts;
mod place;
mod reading;
mod staging;
mod throttled;

use self::bucket::{Bucket, Objects};
use self::memory::{Held, Memory};
use self::parts::{Completed, Parts};
use self::staging::{Claim, S3Staging, Writers};
use super::{BlobBackend, BlobKey, BlobStaging, StoredBytes};
use crate::breaker::Breaker;
use crate::s3::S3BlobPlace;
use crate::store::errors::busy;
use crate::store::{ByteStream, Listing, UploadId};
use crate::{Digest, ErrorKind, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

/// The most bytes of the id of a registry.
const MAX_OWNER: u64 = 64;

/// How many requests for sizes are sent at once.
const SIZES: usize = 16;

/// Blobs in a bucket of S3, or of a server that speaks its protocol. Clones share the bucket.
///
/// `S3Blobs::open` opens it; the metadata of a store on it must record keys, as every
/// [`MetaBackend`](crate::store::meta::MetaBackend) does.
#[derive(Clone, Debug)]
pub struct S3Blobs {
    bucket: Bucket,
    writers: Writers,
    memory: Memory,
}

impl S3Blobs {
    /// The blobs at a place in a store of objects.
    pub(crate) fn over(store: Arc<dyn Objects>, place: S3BlobPlace) -> Self {
        let memory = Memory::new(memory::DEFAULT);
        Self { bucket: Bucket::new(store, place), writers: Writers::default(), memory }
    }

    /// Limits the memory of all uploads together to so many bytes, or to one part of 8 MiB if that is more. The default is
    /// 256 MiB. An eighth of it is for the saved ends of uploads, which the next request then need not fetch.
    ///
    /// An upload takes the place of a part while it has more than 256 KiB of one in memory. When there is none, it waits in the
    /// order in which the uploads came, and after 20 seconds fails with [`ErrorKind::Unavailable`], from where it can go on.
    /// Parts beyond 62.5 GiB have 64 MiB: such an upload waits until eight places are free, or all of them if there are fewer,
    /// and has more memory than the limit then.
    #[must_use]
    pub fn with_upload_memory(mut self, bytes: u64) -> Self {
        self.memory = Memory::new(bytes);
        self
    }

    /// Lets uploads wait for their memory for this time.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn waiting(mut self, wait: std::time::Duration) -> Self {
        self.memory = self.memory.waiting(wait);
        self
    }

    /// Puts another breaker in front of the bucket.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn breaking(mut self, options: crate::breaker::BreakerOptions) -> Self {
        self.bucket.breaker = Breaker::new("bucket", options);
        self
    }

    /// Says of each object that the server is about to put together how large it is.
    #[must_use]
    pub(crate) fn announcing(mut self, announce: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.bucket.announce = Arc::new(announce);
        self
    }

    /// Asks the bucket for something, so that a wrong address, missing rights and wrong credentials are known at once.
    ///
    /// # Errors
    /// Those of the server, such as [`ErrorKind::Unauthorized`], [`ErrorKind::Denied`] and, without the bucket,
    /// [`ErrorKind::NameUnknown`].
    pub async fn check(&self) -> Result<()> {
        self.bucket.check().await
    }

    /// Takes the place for the registry with this id, or confirms that it has it. Two registries with metadata of their own
    /// would each collect the blobs of the other as garbage.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another registry has it, [`ErrorKind::Invalid`] for an id that is longer than 64 bytes,
    /// and those of [`S3Blobs::check`].
    pub async fn take(&self, owner: &str) -> Result<()> {
        if owner.is_empty() || owner.len() as u64 > MAX_OWNER {
            return Err(crate::Error::invalid("the id of a registry has 1 to 64 bytes"));
        }
        match self.bucket.take(owner, MAX_OWNER).await? {
            found if found == owner.as_bytes() => Ok(()),
            _ => Err(crate::Error::new(
                ErrorKind::Conflict,
                "another registry has its blobs at this place of the bucket: name another prefix",
            )
            .with_context("blobs", self)),
        }
    }

    /// Confirms that the registry with this id has the place, and writes nothing. A registry that already has blobs must find
    /// them here.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another registry has it, or none, and those of [`S3Blobs::check`].
    pub async fn confirm(&self, owner: &str) -> Result<()> {
        let message = match self.bucket.owner(MAX_OWNER).await? {
            Some(found) if found == owner.as_bytes() => return Ok(()),
            Some(_) => {
                "another registry has its blobs at this place of the bucket: name the place of this one"
            }
            None => {
                "this registry has no blobs at this place: name the bucket, the prefix and the endpoint that it began with"
            }
        };
        Err(crate::Error::new(ErrorKind::Conflict, message).with_context("blobs", self))
    }

    /// Replaces the object of a key, or removes it.
    #[cfg(test)]
    pub(crate) async fn replace(&self, key: &BlobKey, bytes: Option<&str>) {
        let object = self.object(key).unwrap();
        match bytes {
            Some(bytes) => self.bucket.put(&object, Bytes::copy_from_slice(bytes.as_bytes()).into()).await,
            None => self.bucket.delete(&object).await,
        }
        .unwrap();
    }

    /// How many objects are below a folder.
    #[cfg(test)]
    pub(crate) async fn objects(&self, folder: &str) -> usize {
        let folder = match folder {
            "uploads" => self.bucket.place.uploads(),
            _ => self.bucket.place.blobs(),
        };
        self.bucket.list(&folder, None).try_collect::<Vec<_>>().await.unwrap().len()
    }

    fn object(&self, key: &BlobKey) -> Result<Key> {
        self.bucket.place.blob(key).ok_or_else(|| reading::missing(key))
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>> {
        let Some(object) = self.bucket.place.blob(key) else { return Ok(None) };
        Ok(self.bucket.head(&object).await?.map(|meta| meta.size))
    }

    /// Whether there is an object that does not match the digest of its blob.
    async fn is_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        let Some(size) = self.size(key).await? else { return Ok(false) };
        let object = self.object(key)?;
        let mut bytes = match reading::open(&self.bucket, &object, key, size, 0..size).await {
            // It was removed or replaced in the meantime.
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(false),
            other => other?,
        };
        let mut hasher = digest.algorithm().hasher();
        while let Some(piece) = bytes.try_next().await? {
            hasher.update(&piece);
        }
        Ok(hasher.finish() != *digest)
    }

    /// Says of objects that no row may name yet that their upload has not ended. The time of an object that was made of parts may be that
    /// of its first part, days ago, and its upload keeps a note until a row names it.
    async fn mark_new(&self, items: &mut [StoredBytes]) -> Result<()> {
        let own = |(number, stored): (usize, &StoredBytes)| match &stored.key {
            BlobKey::Own(name) => Some((name.clone(), number)),
            BlobKey::Digest(_) => None,
        };
        let numbers: HashMap<String, usize> = items.iter().enumerate().filter_map(own).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let mut beside = self.bucket.list(&self.bucket.place.uploads(), None);
        while let Some(meta) = beside.try_next().await? {
            let object = meta.location.filename().and_then(|name| name.strip_prefix(place::PARTS));
            if let Some(number) = object.and_then(|object| numbers.get(object)) {
                items[*number].modified = None;
            }
        }
        Ok(())
    }

    fn is_written(&self, id: &UploadId) -> bool {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Sends a file under a digest, in parts with a name of their own.
    async fn send(&self, name: &str, file: tokio::fs::File, path: &Path) -> Result<u64> {
        let id = UploadId::random()?;
        let mut parts = Parts::default();
        let object = &self.bucket.place.blobs().join(name);
        let mut pieces = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
        let mut held = Held::default();
        let sent = async {
            while let Some(piece) = pieces.next().await {
                let piece = piece.at("cannot read the file of the blob", path)?;
                let (bytes, part) = parts.in_memory(piece.len() as u64);
                self.memory.hold(&mut held, bytes, part).await?;
                parts.push(&self.bucket, &id, name, piece).await?;
                held.shrink(parts.in_memory(0).0);
            }
            match parts.complete(&self.bucket, name, || ()).await? {
                // The caller has checked the content, and the key names it.
                Completed::Now => Ok(()),
                // It may be an object with other content that was there before.
                Completed::Earlier => Err(crate::Error::new(
                    ErrorKind::Unavailable,
                    "the bucket did not say whether it has stored the blob: try again",
                )),
            }
        };
        let sent = sent.await;
        if let Some(begun) = &parts.sent {
            let ended = match &sent {
                Ok(()) => Ok(()),
                Err(_) => self.bucket.abort(object, &begun.name).await,
            };
            if ended.is_ok() {
                // What stays is found as a leftover.
                let _ = self.bucket.delete(&self.bucket.place.beside(&id).join(begun.note.as_str())).await;
            }
        }
        sent.map(|()| parts.size())
    }
}

impl fmt::Display for S3Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bucket.place.fmt(f)
    }
}

#[async_trait]
impl BlobBackend for S3Blobs {
    fn durable(&self) -> bool {
        true
    }

    fn has_own_keys(&self) -> bool {
        true
    }

    fn breaker(&self) -> Option<Breaker> {
        Some(self.bucket.breaker.clone())
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        let object = self.object(&digest.clone().into())?;
        self.bucket.put(&object, bytes.into()).await
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        let name = place::name_of(digest);
        let file = tokio::fs::File::open(path).await.at("cannot read the file of the blob", path)?;
        let size = self.send(&name, file, path).await?;
        tokio::fs::remove_file(path).await.at("cannot remove the file of the blob", path)?;
        Ok(size)
    }

    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>> {
        let sizes: Vec<_> = keys.iter().map(|key| self.size(key)).collect();
        futures::stream::iter(sizes).buffered(SIZES).try_collect().await
    }

    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        let end = offset.saturating_add(length);
        if end > size {
            return Err(reading::missing(key));
        }
        reading::open(&self.bucket, &self.object(key)?, key, size, offset..end).await
    }

    fn path(&self, _: &BlobKey) -> Option<PathBuf> {
        None
    }

    async fn remove_damaged(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        let is_damaged = self.is_damaged(key, digest).await?;
        if is_damaged {
            self.bucket.delete(&self.object(key)?).await?;
        }
        Ok(is_damaged)
    }

    /// The object stays under its key, which no push uses again.
    async fn set_aside(&self, key: &BlobKey, digest: &Digest) -> Result<bool> {
        self.is_damaged(key, digest).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<bool> {
        // The answer to a deletion does not say whether there was something.
        if self.size(key).await?.is_none() {
            return Ok(false);
        }
        self.bucket.delete(&self.object(key)?).await?;
        Ok(true)
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
        let after = after.map(|key| self.object(key)).transpose()?;
        let place = Arc::clone(&self.bucket.place);
        let objects = self.bucket.list(&self.bucket.place.blobs(), after.as_ref());
        // Objects of others are not touched.
        let mut objects = objects.try_filter_map(move |meta| {
            let stored = place.key_of(&meta.location).map(|key| StoredBytes {
                key,
                size: meta.size,
                modified: Some(meta.last_modified.into()),
            });
            std::future::ready(Ok(stored))
        });
        let (mut items, mut more) = (Vec::new(), false);
        while let Some(stored) = objects.try_next().await? {
            if items.len() == limit {
                more = limit > 0;
                break;
            }
            items.push(stored);
        }
        drop(objects);
        self.mark_new(&mut items).await?;
        Ok(Listing { items, more })
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let claim = Claim::of(&self.writers, id).ok_or_else(|| busy(id))?;
        Ok(Box::new(S3Staging::new(self.bucket.clone(), self.memory.clone(), claim)?))
    }

    /// None: a writer in another process is not known, so what was never saved may have one.
    async fn staged(&self) -> Result<Vec<UploadId>> {
        Ok(Vec::new())
    }

    async fn leftovers(&self, before: SystemTime) -> Result<Vec<UploadId>> {
        let mut objects = self.bucket.list(&self.bucket.place.uploads(), None);
        // The objects beside one upload follow each other.
        let mut idle: Vec<(UploadId, SystemTime)> = Vec::new();
        while let Some(meta) = objects.try_next().await? {
            let Some(id) = self.bucket.place.upload_of(&meta.location) else { continue };
            let written = SystemTime::from(meta.last_modified);
            match idle.last_mut() {
                Some((last, newest)) if *last == id => *newest = (*newest).max(written),
                _ => idle.push((id, written)),
            }
        }
        let is_idle = |(id, newest): &(UploadId, SystemTime)| *newest <= before && !self.is_written(id);
        Ok(idle.into_iter().filter(is_idle).map(|(id, _)| id).collect())
    }
}
