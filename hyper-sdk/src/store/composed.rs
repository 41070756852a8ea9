//! The semantics of a registry store, once for every pair of backends.
//!
//! # Invariants
//! - A blob is in a repository when its link is there *and* the blob backend has as many bytes as its row says. A link
//!   without them counts for nothing, so that clients push the blob again, which repairs file and row.
//! - The bytes of a blob are checked first, then it is linked, then its bytes are moved to their place: when the
//!   database cannot be written, the bytes are still those of an upload and go away with it.
//! - What a manifest requires is checked in the same transaction that stores the manifest and moves its tags, so that
//!   no deletion comes in between.
//! - One upload has one writer: the staging area is held from the first [`BlobUpload::append`] until the next
//!   [`BlobUpload::save`] or the end of the handle, and its writer begins by comparing its offset with the saved one.
//!
//! # Limits
//! Bytes whose last link is deleted stay in the blob backend: they cannot be read any more, but take space until
//! garbage collection removes them, which does not exist yet. Sessions that nobody ends are removed by their age
//! ([`RegistryStore::expire_uploads`]).

mod expiry;

use super::blob::{BlobBackend, BlobStaging, StagedState};
use super::errors::{
    blob_unknown, bytes_lost, digest_mismatch, manifest_unknown, repository_unknown, two_sizes, upload_moved,
    upload_unknown,
};
use super::meta::{Change, Edge, EdgeKind, ManifestChange, MetaBackend, UploadRecord};
use super::{
    BlobReader, BlobUpload, ByteRange, Listing, Page, PutManifest, RegistryStore, StoreCapabilities,
    UploadId, UploadOptions,
};
use crate::digest::Algorithm;
use crate::media_type;
use crate::oci::{Descriptor, Manifest, ManifestBody};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The length of a page when the caller leaves it to the store, and the most that is given at once.
pub const MAX_PAGE: usize = 10_000;

/// What a finished upload is described as: a store does not know what a blob is for.
const BLOB_MEDIA_TYPE: &str = "application/octet-stream";

/// Bytes above this are hashed on a thread that may block.
const HASH_INLINE: usize = 256 * 1024;

/// A registry store of a blob and a metadata backend. Clones share both.
#[derive(Debug)]
pub struct Composed<B, M>(Arc<Backends<B, M>>);

#[derive(Debug)]
struct Backends<B, M> {
    blobs: B,
    meta: M,
}

impl<B, M> Clone for Composed<B, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// Puts two backends together.
    pub fn new(blobs: B, meta: M) -> Self {
        Self(Arc::new(Backends { blobs, meta }))
    }

    /// The blob backend.
    pub fn blobs(&self) -> &B {
        &self.0.blobs
    }

    /// The metadata backend.
    pub fn meta(&self) -> &M {
        &self.0.meta
    }

    async fn link(&self, repository: &RepositoryName, digest: &Digest, size: u64) -> Result<Descriptor> {
        let (repository, linked) = (repository.clone(), digest.clone());
        self.0.meta.write(Change::LinkBlob { repository, digest: linked, size, upload: None }).await?;
        Ok(Descriptor::new(BLOB_MEDIA_TYPE, digest.clone(), size))
    }

    /// The size in the row of a blob, whatever became of its bytes.
    async fn size_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.0.meta.blob(repository, digest).await?.ok_or_else(|| blob_unknown(repository, digest))
    }

    /// Refuses what could only end in a write. Where reading comes first, its outcome would say something else.
    fn writable(&self) -> Result<()> {
        match self.0.meta.writable() {
            true => Ok(()),
            false => Err(Error::unsupported("the store can only be read")),
        }
    }

    /// Ends a session whose staging area is held. Its bytes go first: the database may be what is full.
    async fn drop_upload(&self, id: &UploadId, mut staging: Box<dyn BlobStaging>) -> Result<()> {
        let discarded = staging.discard().await;
        self.0.meta.write(Change::EndUpload { id: id.clone() }).await?;
        discarded
    }
}

impl<B: BlobBackend, M: MetaBackend> Display for Composed<B, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blobs, meta) = (self.0.blobs.to_string(), self.0.meta.to_string());
        if blobs == meta { f.write_str(&blobs) } else { write!(f, "{blobs} with {meta}") }
    }
}

/// What a manifest points to, each digest once: the config and layers of an image, the entries of an index.
///
/// # Errors
/// [`ErrorKind::SizeInvalid`] when two descriptors of one digest say different sizes.
fn edges(manifest: &Manifest) -> Result<Vec<Edge>> {
    let edge = |kind, field: String, d: &Descriptor, required| Edge {
        kind,
        digest: d.digest.clone(),
        required,
        size: d.size,
        stored: None,
        field,
    };
    let all: Vec<Edge> = match manifest.body() {
        ManifestBody::Image(image) => {
            std::iter::once(edge(EdgeKind::Blob, "config".to_owned(), &image.config, true))
                .chain(image.layers.iter().enumerate().map(|(i, layer)| {
                    let exempt =
                        media_type::is_non_distributable(&layer.media_type) || !layer.urls.is_empty();
                    edge(EdgeKind::Blob, format!("layers[{i}]"), layer, !exempt)
                }))
                .collect()
        }
        // An entry for a platform may be left out: the index is then sparse (image-spec, image-index.md).
        ManifestBody::Index(index) => index
            .manifests
            .iter()
            .enumerate()
            .map(|(i, entry)| {
                edge(EdgeKind::Entry, format!("manifests[{i}]"), entry, entry.platform.is_none())
            })
            .collect(),
    };
    let mut places: HashMap<Digest, usize> = HashMap::with_capacity(all.len());
    let mut edges: Vec<Edge> = Vec::with_capacity(all.len());
    for edge in all {
        let Some(first) = places.get(&edge.digest).and_then(|i| edges.get_mut(*i)) else {
            places.insert(edge.digest.clone(), edges.len());
            edges.push(edge);
            continue;
        };
        if edge.size != first.size {
            return Err(two_sizes(&first.field, &edge.field, &first.digest));
        }
        // A required mention wins over an exempt one of the same content.
        first.required |= edge.required;
    }
    Ok(edges)
}

async fn digest_of(algorithm: Algorithm, bytes: &Bytes) -> Result<Digest> {
    if bytes.len() <= HASH_INLINE {
        return Ok(algorithm.digest(bytes));
    }
    let bytes = bytes.clone();
    tokio::task::spawn_blocking(move || algorithm.digest(&bytes))
        .await
        .map_err(|e| Error::internal("the hashing thread ended early").with_source(e))
}

#[async_trait]
impl<B: BlobBackend, M: MetaBackend> RegistryStore for Composed<B, M> {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            durable: self.0.blobs.durable() && self.0.meta.durable(),
            ..if self.0.meta.writable() { StoreCapabilities::ALL } else { StoreCapabilities::READ_ONLY }
        }
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let size = self.size_of(repository, digest).await?;
        match self.0.blobs.sizes(std::slice::from_ref(digest)).await?.as_slice() {
            [Some(there)] if *there == size => Ok(size),
            _ => Err(bytes_lost(repository, digest)),
        }
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let size = self.size_of(repository, digest).await?;
        let (offset, length) = range.map_or(Ok((0, size)), |range| range.resolve(size))?;
        let stream = self.0.blobs.read(digest, size, offset, length).await.map_err(|e| match e.kind() {
            ErrorKind::Corrupt => {
                tracing::warn!(%repository, %digest, "a blob is missing or cut short in the store");
                bytes_lost(repository, digest).with_source(e)
            }
            _ => e,
        })?;
        Ok(BlobReader { size, offset, length, stream })
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let (repository, digest) = (repository.clone(), digest.clone());
        self.0.meta.write(Change::UnlinkBlob { repository, digest }).await.map(drop)
    }

    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<u64> {
        self.writable()?;
        self.stat_blob(from, digest).await?;
        let (repository, digest, from) = (repository.clone(), digest.clone(), from.clone());
        self.0.meta.write(Change::MountBlob { repository, digest, from }).await
    }

    async fn start_upload(
        &self,
        repository: &RepositoryName,
        options: UploadOptions,
    ) -> Result<Box<dyn BlobUpload>> {
        let record = UploadRecord {
            id: UploadId::random()?,
            repository: repository.clone(),
            algorithm: options.algorithm.unwrap_or(Algorithm::Sha256),
            state: StagedState::default(),
        };
        self.0.meta.write(Change::StartUpload(record.clone())).await?;
        Ok(Box::new(Upload { store: self.clone(), offset: 0, record, staging: None }))
    }

    async fn resume_upload(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<dyn BlobUpload>> {
        self.writable()?;
        let record = self.0.meta.upload(id).await?.filter(|record| record.repository == *repository);
        let record = record.ok_or_else(|| upload_unknown(id))?;
        Ok(Box::new(Upload { store: self.clone(), offset: record.state.offset, record, staging: None }))
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        let manifest = self.0.meta.manifest(repository, reference).await?;
        manifest.ok_or_else(|| manifest_unknown(repository, reference))
    }

    async fn put_manifest(&self, repository: &RepositoryName, put: PutManifest) -> Result<Descriptor> {
        let descriptor = put.manifest.descriptor();
        let mut edges = edges(&put.manifest)?;
        let digests: Vec<Digest> = edges.iter().map(|edge| edge.digest.clone()).collect();
        let stored = self.0.blobs.sizes(&digests).await?;
        for (edge, stored) in edges.iter_mut().zip(stored) {
            edge.stored = stored;
            edge.required &= !put.sparse;
        }
        let change = ManifestChange {
            repository: repository.clone(),
            edges,
            manifest: put.manifest,
            tags: put.tags,
            if_match: put.if_match,
        };
        self.0.meta.write(Change::PutManifest(Box::new(change))).await?;
        Ok(descriptor)
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        let repository = repository.clone();
        let change = match reference.clone() {
            ManifestReference::Tag(tag) => Change::DeleteTag { repository, tag },
            ManifestReference::Digest(digest) => Change::DeleteManifest { repository, digest },
        };
        self.0.meta.write(change).await.map(drop)
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let tags = self.0.meta.tags(repository, page.after.as_deref(), limit).await?;
        tags.ok_or_else(|| repository_unknown(repository))
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        self.0.meta.repositories(page.after.as_deref(), limit).await
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.0.meta.referrers(repository, digest, artifact_type).await
    }

    fn version(&self) -> Option<u64> {
        self.0.meta.version()
    }

    async fn put_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let got = digest_of(digest.algorithm(), &bytes).await?;
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        let descriptor = self.link(repository, digest, bytes.len() as u64).await?;
        self.0.blobs.put(digest, bytes).await?;
        Ok(descriptor)
    }

    async fn put_blob_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        path: &Path,
    ) -> Result<Descriptor> {
        let meta = tokio::fs::symlink_metadata(path).await.at("cannot open the file of the blob", path)?;
        // The row of a blob that is there would get the size of the link, or of the folder.
        if !meta.is_file() {
            return Err(
                Error::invalid("only a regular file can become a blob").with_context("path", path.display())
            );
        }
        let descriptor = self.link(repository, digest, meta.len()).await?;
        self.0.blobs.adopt(digest, path).await?;
        Ok(descriptor)
    }

    async fn remove_damaged(&self, digest: &Digest) -> Result<bool> {
        self.0.blobs.remove_damaged(digest).await
    }

    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.stat_blob(repository, digest).await?;
        Ok(self.0.blobs.path(digest))
    }

    async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        self.expire(age).await
    }
}

#[derive(Debug)]
struct Upload<B, M> {
    store: Composed<B, M>,
    record: UploadRecord,
    offset: u64,
    staging: Option<Box<dyn BlobStaging>>,
}

impl<B: BlobBackend, M: MetaBackend> Upload<B, M> {
    /// The staging area, opened when this handle does not hold it yet.
    async fn staging(&mut self) -> Result<&mut Box<dyn BlobStaging>> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => self.open().await?,
        };
        Ok(self.staging.insert(staging))
    }

    /// Only a writer that holds the area may look at the saved state: it cannot change any more then.
    async fn open(&self) -> Result<Box<dyn BlobStaging>> {
        let Backends { blobs, meta } = &*self.store.0;
        let id = &self.record.id;
        let mut staging = blobs.stage(id).await?;
        let Some(saved) = meta.upload(id).await? else {
            // The session has ended, so this area was made just now and is of no use to anybody.
            staging.discard().await?;
            return Err(upload_unknown(id));
        };
        if saved.state.offset != self.offset {
            return Err(upload_moved(self.offset, saved.state.offset));
        }
        match staging.restore(&saved.state, self.record.algorithm).await {
            Ok(()) => Ok(staging),
            Err(e) => {
                if e.kind() == ErrorKind::UploadUnknown {
                    self.drop_quietly(staging).await;
                }
                Err(e)
            }
        }
    }

    /// Ends the session because of an error, which is the one to tell: what cannot be removed now expires.
    async fn drop_quietly(&self, staging: Box<dyn BlobStaging>) {
        if let Err(error) = self.store.drop_upload(&self.record.id, staging).await {
            tracing::debug!(%error, upload = %self.record.id, "an upload is not removed at once");
        }
    }

    /// Passes an outcome on. A session that ran into a full disk is ended, which gives its space back: its client could
    /// only go on when others did so.
    async fn unless_full<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let Err(e) = &outcome
            && e.kind() == ErrorKind::StorageFull
            && let Some(staging) = self.staging.take()
        {
            self.drop_quietly(staging).await;
        }
        outcome
    }
}

#[async_trait]
impl<B: BlobBackend, M: MetaBackend> BlobUpload for Upload<B, M> {
    fn id(&self) -> &UploadId {
        &self.record.id
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        let length = bytes.len() as u64;
        let appended = self.staging().await?.append(bytes).await;
        self.unless_full(appended).await?;
        self.offset += length;
        Ok(())
    }

    async fn save(&mut self) -> Result<()> {
        let Some(staging) = &mut self.staging else { return Ok(()) };
        let saved = staging.save().await;
        let state = self.unless_full(saved).await?;
        let change = Change::SaveUpload { id: self.record.id.clone(), state: state.clone() };
        let saved = self.store.0.meta.write(change).await;
        self.unless_full(saved).await?;
        self.record.state = state;
        self.staging = None;
        Ok(())
    }

    async fn finish(mut self: Box<Self>, digest: &Digest) -> Result<Descriptor> {
        let verified = self.staging().await?.verify(digest).await;
        if verified.as_ref().is_err_and(|e| e.kind() == ErrorKind::DigestInvalid)
            && let Some(staging) = self.staging.take()
        {
            self.drop_quietly(staging).await;
        }
        let size = self.unless_full(verified).await?;
        let change = Change::LinkBlob {
            repository: self.record.repository.clone(),
            digest: digest.clone(),
            size,
            upload: Some(self.record.id.clone()),
        };
        let linked = self.store.0.meta.write(change).await;
        self.unless_full(linked).await?;
        let placed = self.staging().await?.commit(digest).await;
        if placed.is_err()
            && let Some(staging) = self.staging.take()
        {
            // The session has ended with the link: nobody can go on with these bytes.
            self.drop_quietly(staging).await;
        }
        placed?;
        Ok(Descriptor::new(BLOB_MEDIA_TYPE, digest.clone(), size))
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => self.store.0.blobs.stage(&self.record.id).await?,
        };
        self.store.drop_upload(&self.record.id, staging).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{ImageIndex, ImageManifest};
    use crate::platform::Platform;

    #[test]
    fn exemptions_follow_the_media_type_the_urls_and_the_platform() {
        let blob = |media_type: &str, text: &str| Descriptor::of(media_type, text.as_bytes());
        let elsewhere =
            Descriptor { urls: vec!["https://example.org/b".into()], ..blob(media_type::OCI_LAYER, "b") };
        let foreign = blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "c");
        let config = blob(media_type::OCI_CONFIG, "{}");
        let layers =
            vec![foreign, elsewhere, blob(media_type::OCI_LAYER, "a"), blob(media_type::OCI_LAYER, "a")];
        let image = ImageManifest::new(config, layers).to_bytes();
        let image = edges(&Manifest::parse(image, media_type::OCI_MANIFEST).unwrap()).unwrap();
        let required = |text: &str| image.iter().find(|e| e.digest == Digest::sha256(text)).unwrap().required;
        assert_eq!(image.len(), 4);
        assert!(required("{}") && required("a") && !required("b") && !required("c"));

        let plain = blob(media_type::OCI_MANIFEST, "m");
        let linux = Platform::new("linux", "amd64", None);
        let index = ImageIndex::new(vec![Descriptor { platform: Some(linux), ..plain.clone() }, plain]);
        let index = edges(&Manifest::parse(index.to_bytes(), media_type::OCI_INDEX).unwrap()).unwrap();
        assert!(index.len() == 1 && index[0].required && index[0].kind == EdgeKind::Entry);
        assert_eq!(index[0].field, "manifests[0]");
    }
}
