//! A blob backend that keeps the bytes of an upload under their own key, as an object store does: metadata records the
//! key, and neither a commit nor a second repository copies bytes.

use crate::digest::{Algorithm, Hasher};
use crate::reference::RepositoryName;
use crate::store::blob::{BlobBackend, BlobKey, BlobStaging, StagedState, StoredBytes, Verified};
use crate::store::errors::{busy, digest_mismatch, not_verified, staging_lost};
use crate::store::meta::{MemoryMeta, MetaBackend as _, SqlMeta};
use crate::store::{
    ByteStream, Composed, Listing, RegistryStore as _, RegistryStoreExt as _, SharedStore, UploadId,
};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// An object: the parts that it was uploaded in.
#[derive(Clone, Debug)]
struct Object {
    parts: Vec<Bytes>,
    modified: SystemTime,
}

impl Object {
    fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<BlobKey, Object>,
    /// The parts of each upload, and whether somebody writes to it.
    uploads: HashMap<UploadId, (Vec<Bytes>, bool)>,
    /// Whether the object store is unavailable.
    is_broken: bool,
}

impl State {
    fn works(&self) -> Result<()> {
        match self.is_broken {
            true => Err(Error::new(ErrorKind::Unavailable, "the object store is unavailable")),
            false => Ok(()),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct ObjectStore(Arc<Mutex<State>>);

impl fmt::Display for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }
}

#[async_trait]
impl BlobBackend for ObjectStore {
    fn durable(&self) -> bool {
        false
    }

    fn has_own_keys(&self) -> bool {
        true
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        let object = Object { parts: vec![bytes], modified: SystemTime::now() };
        let mut state = self.0.lock().unwrap();
        state.works()?;
        state.objects.insert(digest.clone().into(), object);
        Ok(())
    }

    async fn adopt(&self, digest: &Digest, path: &Path) -> Result<u64> {
        let bytes = Bytes::from(std::fs::read(path)?);
        let size = bytes.len() as u64;
        self.put(digest, bytes).await?;
        std::fs::remove_file(path)?;
        Ok(size)
    }

    async fn sizes(&self, keys: &[BlobKey]) -> Result<Vec<Option<u64>>> {
        let state = self.0.lock().unwrap();
        Ok(keys.iter().map(|key| state.objects.get(key).map(Object::size)).collect())
    }

    async fn read(&self, key: &BlobKey, size: u64, offset: u64, length: u64) -> Result<ByteStream> {
        let object = self.0.lock().unwrap().objects.get(key).cloned();
        let object = object.filter(|object| object.size() == size).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "there is no such object").with_context("key", key)
        })?;
        let (mut skip, mut rest) = (offset as usize, length as usize);
        let mut parts = Vec::new();
        for part in object.parts {
            let from = skip.min(part.len());
            let to = part.len().min(from.saturating_add(rest));
            skip -= from;
            rest -= to - from;
            parts.push(Ok(part.slice(from..to)));
        }
        Ok(futures::stream::iter(parts).boxed())
    }

    fn path(&self, _: &BlobKey) -> Option<PathBuf> {
        None
    }

    async fn remove_damaged(&self, _: &BlobKey, _: &Digest) -> Result<bool> {
        Ok(false)
    }

    async fn delete(&self, key: &BlobKey) -> Result<bool> {
        Ok(self.0.lock().unwrap().objects.remove(key).is_some())
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
        let state = self.0.lock().unwrap();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = state.objects.range((start, Bound::Unbounded)).map(|(key, object)| StoredBytes {
            key: key.clone(),
            size: object.size(),
            modified: Some(object.modified),
        });
        let items = rest.by_ref().take(limit).collect();
        Ok(Listing { items, more: limit > 0 && rest.next().is_some() })
    }

    async fn stage(&self, id: &UploadId) -> Result<Box<dyn BlobStaging>> {
        let mut state = self.0.lock().unwrap();
        let (_, is_busy) = state.uploads.entry(id.clone()).or_default();
        if std::mem::replace(is_busy, true) {
            return Err(busy(id));
        }
        let (store, id) = (self.clone(), id.clone());
        Ok(Box::new(Parts { store, id, parts: Vec::new(), hasher: Hasher::sha256(), verified: None }))
    }

    async fn staged(&self) -> Result<Vec<UploadId>> {
        Ok(Vec::new())
    }

    async fn leftovers(&self, _: SystemTime) -> Result<Vec<UploadId>> {
        let state = self.0.lock().unwrap();
        Ok(state.uploads.iter().filter(|(_, (_, is_busy))| !is_busy).map(|(id, _)| id.clone()).collect())
    }
}

#[derive(Debug)]
struct Parts {
    store: ObjectStore,
    id: UploadId,
    parts: Vec<Bytes>,
    hasher: Hasher,
    verified: Option<Digest>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        let mut state = self.store.0.lock().unwrap();
        match state.uploads.get_mut(&self.id) {
            Some((saved, _)) if saved.is_empty() => drop(state.uploads.remove(&self.id)),
            Some((_, is_busy)) => *is_busy = false,
            None => {}
        }
    }
}

#[async_trait]
impl BlobStaging for Parts {
    /// The backend's own state is the number of parts.
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        self.hasher = if state.offset == 0 { algorithm.hasher() } else { Hasher::restore(&state.hash)? };
        let count = state.backend.first().copied().unwrap_or(0) as usize;
        let all = self.store.0.lock().unwrap();
        let (saved, _) = all.uploads.get(&self.id).ok_or_else(staging_lost)?;
        self.parts = saved.get(..count).ok_or_else(staging_lost)?.to_vec();
        Ok(())
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.verified = None;
        self.hasher.update(&bytes);
        self.parts.push(bytes);
        Ok(())
    }

    async fn save(&mut self) -> Result<StagedState> {
        let mut all = self.store.0.lock().unwrap();
        let (saved, _) = all.uploads.get_mut(&self.id).ok_or_else(staging_lost)?;
        *saved = self.parts.clone();
        let offset = self.parts.iter().map(|part| part.len() as u64).sum();
        Ok(StagedState { offset, hash: self.hasher.save(), backend: vec![self.parts.len() as u8] })
    }

    async fn verify(&mut self, digest: &Digest) -> Result<Verified> {
        let mut hasher = digest.algorithm().hasher();
        self.parts.iter().for_each(|part| hasher.update(part));
        let got = hasher.finish();
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        self.verified = Some(got);
        let size = self.parts.iter().map(|part| part.len() as u64).sum();
        Ok(Verified { size, key: BlobKey::Own(format!("uploads/{}", self.id)) })
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        if self.verified.as_ref() != Some(digest) {
            return Err(not_verified());
        }
        let mut all = self.store.0.lock().unwrap();
        all.works()?;
        let object = Object { parts: std::mem::take(&mut self.parts), modified: SystemTime::now() };
        all.objects.insert(BlobKey::Own(format!("uploads/{}", self.id)), object);
        all.uploads.remove(&self.id);
        Ok(())
    }

    async fn discard(&mut self) -> Result<()> {
        self.parts.clear();
        self.store.0.lock().unwrap().uploads.remove(&self.id);
        Ok(())
    }
}

mod blobs {
    use super::*;

    async fn fixture(_: PathBuf) -> ObjectStore {
        ObjectStore::default()
    }
    crate::blob_conformance!(fixture);
}

mod with_memory {
    use super::*;

    async fn fixture(_: PathBuf) -> (SharedStore, ()) {
        (Arc::new(Composed::new(ObjectStore::default(), MemoryMeta::default())), ())
    }
    crate::store_conformance!(fixture);
}

mod with_sql {
    use super::*;

    async fn fixture(path: PathBuf) -> (SharedStore, ()) {
        let meta = SqlMeta::open(path).await.unwrap();
        (Arc::new(Composed::new(ObjectStore::default(), meta)), ())
    }
    crate::store_conformance!(fixture);
}

#[tokio::test]
async fn a_commit_copies_nothing_and_metadata_knows_the_key() {
    let store = Composed::new(ObjectStore::default(), MemoryMeta::default());
    let name = RepositoryName::parse("a").unwrap();
    let content = Bytes::from(vec![7; 100_000]);
    let digest = Digest::sha256(&content);
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let key = BlobKey::Own(format!("uploads/{}", upload.id()));
    upload.append(content.clone()).await.unwrap();
    upload.finish(&digest).await.unwrap();
    let record = store.meta().blob(&name, &digest).await.unwrap().unwrap();
    assert_eq!(record.key, key);
    let stored = store.blobs().0.lock().unwrap().objects[&key].parts[0].clone();
    assert_eq!(stored.as_ptr(), content.as_ptr(), "the bytes were copied");
    // The same blob pushed whole has another key from then on; the bytes under the old one are of nobody.
    store.put_blob(&name, &digest, content.clone()).await.unwrap();
    assert!(!store.meta().has_keys(std::slice::from_ref(&key)).await.unwrap()[0]);
    assert_eq!(store.read_blob(&name, &digest, 1 << 20).await.unwrap(), content);
}

/// The row of a blob names a new key only once the bytes are there: until then, and when they never come, the old ones
/// are read.
#[tokio::test]
async fn a_blob_stays_readable_when_pushing_it_again_fails() {
    let store = Composed::new(ObjectStore::default(), MemoryMeta::default());
    let name = RepositoryName::parse("a").unwrap();
    let content = Bytes::from(vec![7; 100_000]);
    let digest = Digest::sha256(&content);
    let push = async || {
        let mut upload = store.start_upload(&name, Default::default()).await?;
        upload.append(content.clone()).await?;
        upload.finish(&digest).await
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("blob");
    push().await.unwrap();
    for is_broken in [true, false] {
        store.blobs().0.lock().unwrap().is_broken = is_broken;
        std::fs::write(&file, &content).unwrap();
        assert_eq!(push().await.is_err(), is_broken);
        assert_eq!(store.read_blob(&name, &digest, 1 << 20).await.unwrap(), content);
        assert_eq!(store.put_blob(&name, &digest, content.clone()).await.is_err(), is_broken);
        assert_eq!(store.read_blob(&name, &digest, 1 << 20).await.unwrap(), content);
        assert_eq!(store.put_blob_file(&name, &digest, &file).await.is_err(), is_broken);
        assert_eq!(store.read_blob(&name, &digest, 1 << 20).await.unwrap(), content);
        assert_eq!(file.exists(), is_broken);
        assert!(store.blobs().0.lock().unwrap().uploads.is_empty(), "staged bytes were left behind");
    }
    let other = Digest::sha256("other");
    std::fs::write(&file, &content).unwrap();
    let e = store.put_blob_file(&name, &other, &file).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DigestInvalid);
    assert!(!store.has_blob(&name, &other).await.unwrap());
}
