//! The semantics of a registry store, once for every pair of backends.
//!
//! # Invariants
//! - Bytes come first, metadata second: a link is written only after its blob is in the blob backend, as durable as
//!   that promises. A fault in between leaves bytes that nothing names, never a name without bytes.
//! - What a manifest requires is checked in the same transaction that stores the manifest and moves its tags, so that
//!   no deletion comes in between.
//! - One upload has one writer: the staging area is held from the first [`BlobUpload::append`] until the next
//!   [`BlobUpload::save`] or the end of the handle, and its writer begins by comparing its offset with the saved one.
//!
//! # Limits
//! Bytes whose last link is deleted stay in the blob backend: they cannot be read any more, but take space until
//! garbage collection removes them, which does not exist yet. The same holds for sessions that nobody ends.

use super::blob::{BlobBackend, BlobStaging, StagedState, digest_mismatch};
use super::meta::{
    Change, Edge, EdgeKind, ManifestChange, MetaBackend, UploadRecord, blob_unknown, manifest_unknown,
    upload_unknown,
};
use super::{
    BlobReader, BlobUpload, ByteRange, Listing, Page, PutManifest, RegistryStore, StoreCapabilities,
    UploadId, UploadOptions,
};
use crate::digest::Algorithm;
use crate::media_type;
use crate::oci::{Descriptor, Manifest, ManifestBody};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashSet;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    pub fn of(blobs: B, meta: M) -> Self {
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

    async fn size_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.0.meta.blob(repository, digest).await?.ok_or_else(|| blob_unknown(repository, digest))
    }
}

impl<B: BlobBackend, M: MetaBackend> Display for Composed<B, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blobs, meta) = (self.0.blobs.to_string(), self.0.meta.to_string());
        if blobs == meta { f.write_str(&blobs) } else { write!(f, "{blobs} with {meta}") }
    }
}

/// What a manifest points to, each digest once: the config and layers of an image, the manifests of an index.
fn edges(manifest: &Manifest) -> Vec<Edge> {
    let edge = |kind, d: &Descriptor, required| Edge { kind, digest: d.digest.clone(), required };
    let mut edges: Vec<Edge> = match manifest.body() {
        ManifestBody::Image(image) => std::iter::once(edge(EdgeKind::Blob, &image.config, true))
            .chain(image.layers.iter().map(|layer| {
                let exempt = media_type::is_non_distributable(&layer.media_type) || !layer.urls.is_empty();
                edge(EdgeKind::Blob, layer, !exempt)
            }))
            .collect(),
        // An entry for a platform may be left out: the index is then sparse (image-spec, image-index.md).
        ManifestBody::Index(index) => index
            .manifests
            .iter()
            .map(|entry| edge(EdgeKind::Manifest, entry, entry.platform.is_none()))
            .collect(),
    };
    // The required ones win over an exempt mention of the same content.
    edges.sort_by_key(|e| !e.required);
    let mut seen = HashSet::new();
    edges.retain(|e| seen.insert(e.digest.clone()));
    edges
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
            ..StoreCapabilities::ALL
        }
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.size_of(repository, digest).await
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let size = self.size_of(repository, digest).await?;
        let (offset, length) = range.map_or(Ok((0, size)), |range| range.resolve(size))?;
        let stream = self.0.blobs.read(digest, size, offset, length).await?;
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
        let mut edges = edges(&put.manifest);
        for edge in &mut edges {
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
        tags.ok_or_else(|| {
            Error::new(ErrorKind::NameUnknown, "there is no such repository")
                .with_context("repository", repository)
        })
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
        let size = bytes.len() as u64;
        self.0.blobs.put(digest, bytes).await?;
        self.link(repository, digest, size).await
    }

    async fn put_blob_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        path: &Path,
    ) -> Result<Descriptor> {
        let size = self.0.blobs.adopt(digest, path).await?;
        self.link(repository, digest, size).await
    }

    async fn blob_path(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<PathBuf>> {
        self.size_of(repository, digest).await?;
        Ok(self.0.blobs.path(digest))
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
            return Err(Error::new(
                ErrorKind::RangeInvalid,
                "another writer has moved this upload on: ask where it stands and go on from there",
            )
            .with_context("offset", self.offset)
            .with_context("saved", saved.state.offset));
        }
        staging.restore(&saved.state, self.record.algorithm).await?;
        Ok(staging)
    }

    async fn end(&self) -> Result<()> {
        self.store.0.meta.write(Change::EndUpload { id: self.record.id.clone() }).await.map(drop)
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
        self.staging().await?.append(bytes).await?;
        self.offset += length;
        Ok(())
    }

    async fn save(&mut self) -> Result<()> {
        let Some(staging) = &mut self.staging else { return Ok(()) };
        let state = staging.save().await?;
        let change = Change::SaveUpload { id: self.record.id.clone(), state: state.clone() };
        self.store.0.meta.write(change).await?;
        self.record.state = state;
        self.staging = None;
        Ok(())
    }

    async fn finish(mut self: Box<Self>, digest: &Digest) -> Result<Descriptor> {
        let size = match self.staging().await?.commit(digest).await {
            Ok(size) => size,
            Err(e) if e.kind() == ErrorKind::DigestInvalid => {
                self.end().await?;
                self.staging().await?.discard().await?;
                return Err(e);
            }
            Err(e) => return Err(e),
        };
        let change = Change::LinkBlob {
            repository: self.record.repository.clone(),
            digest: digest.clone(),
            size,
            upload: Some(self.record.id.clone()),
        };
        self.store.0.meta.write(change).await?;
        Ok(Descriptor::new(BLOB_MEDIA_TYPE, digest.clone(), size))
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let mut staging = match self.staging.take() {
            Some(staging) => staging,
            None => self.store.0.blobs.stage(&self.record.id).await?,
        };
        self.end().await?;
        staging.discard().await
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
        let image = edges(&Manifest::parse(image, media_type::OCI_MANIFEST).unwrap());
        let required = |text: &str| image.iter().find(|e| e.digest == Digest::sha256(text)).unwrap().required;
        assert_eq!(image.len(), 4);
        assert!(required("{}") && required("a") && !required("b") && !required("c"));

        let plain = blob(media_type::OCI_MANIFEST, "m");
        let linux = Platform::new("linux", "amd64", None);
        let index = ImageIndex::new(vec![Descriptor { platform: Some(linux), ..plain.clone() }, plain]);
        let index = edges(&Manifest::parse(index.to_bytes(), media_type::OCI_INDEX).unwrap());
        assert!(index.len() == 1 && index[0].required && index[0].kind == EdgeKind::Manifest);
    }
}
