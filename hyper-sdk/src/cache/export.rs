//! Writes a shared cache: an artifact at a registry, in an OCI image layout, or in a bucket (`in_bucket.rs`).
//!
//! # Invariants
//! - What the destination has is not sent again. When it has this very cache, nothing is sent.
//! - The tag moves last: until then the destination has the cache that it had before. Of several that write into one folder
//!   each keeps the tags of the others.
//! - A blob that an imported cache does not give is noted there as lost.

use super::CachePlace;
use super::import::{Imports, MountImport, SharedBlob};
use super::shared_records::{
    ARTIFACT, INDEX, MAX_UNPACKED, MOUNT, RECORDS, SharedMount, SharedRecords, TIMES,
};
use crate::client::{
    ClientCapabilities, PushOptions, RegistryClient, RemoteImage, SharedClient, copy_known, verified,
};
use crate::layer::CompressedLayer;
use crate::layout::{ImageLayout, LayoutWriter, REF_NAME, blob_path, blocking, lock_index, write_index};
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::progress::{Event, Progress};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::source::ClientFactory;
use crate::store::{BlobReader, ByteRange, Listing, Page, SharedStore};
use crate::{Digest, Error, ErrorKind, Result, media_type};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// The largest manifest that registries take, in bytes.
const MAX_MANIFEST: usize = 4 << 20;
/// How many blobs imported caches are asked for at once.
pub(super) const ASKED_AT_ONCE: usize = 8;
/// How many bytes of a temporary file are read at once.
const FILE_BLOCK: u64 = 256 << 10;
/// How small tables and indexes are compressed.
const LEVEL: i32 = 3;

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub(crate) enum SharedContent {
    /// In memory.
    Bytes(Bytes),
    /// In the store.
    Stored(RepositoryName),
    /// In a cache that the build imported.
    Imported(Box<SharedBlob>),
    /// In a temporary file, which has no name.
    File(Arc<File>),
}

/// The content of a cache mount that is exported.
#[derive(Clone, Debug)]
pub(crate) struct PackedMount {
    pub(crate) mount: SharedMount,
    pub(crate) content: SharedContent,
}

/// What is exported: records, and the blobs that they name.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheBundle {
    pub(crate) records: SharedRecords,
    blobs: BTreeMap<Digest, (Descriptor, SharedContent)>,
}

impl PackedMount {
    /// Whether an imported cache, which alone has it, has lost it.
    pub(crate) fn is_lost(&self, imports: &Imports) -> bool {
        matches!(&self.content, SharedContent::Imported(shared) if imports.is_lost(shared))
    }

    /// One that an imported cache has.
    pub(crate) fn imported(import: MountImport) -> Self {
        let content = SharedContent::Imported(Box::new(import.blob()));
        Self { mount: import.mount, content }
    }

    /// One that is in a temporary file.
    pub(crate) fn in_file(name: Digest, layer: CompressedLayer, file: File) -> Self {
        let blob = Descriptor::new(MOUNT, layer.digest, layer.size);
        let mount = SharedMount { name, blob, diff_id: layer.diff_id, size: layer.uncompressed_size };
        Self { mount, content: SharedContent::File(Arc::new(file)) }
    }
}

impl CacheBundle {
    /// Adds a blob.
    pub(crate) fn add(&mut self, blob: &Descriptor, content: SharedContent) {
        self.blobs.entry(blob.digest.clone()).or_insert_with(|| (blob.clone(), content));
    }

    /// Adds the index of a layer.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be compressed.
    pub(crate) fn add_index(&mut self, diff_id: &Digest, index: &[u8]) -> Result<()> {
        if let Some(blob) = self.add_packed(INDEX, index)? {
            self.records.indexes.push((diff_id.clone(), blob));
        }
        Ok(())
    }

    /// Adds the content of a cache mount.
    pub(crate) fn add_mount(&mut self, packed: &PackedMount) {
        self.add(&packed.mount.blob, packed.content.clone());
        self.records.mounts.push(packed.mount.clone());
    }

    /// Adds a table of times, and returns its blob; `None` for one that is too large.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be compressed.
    pub(crate) fn add_times(&mut self, table: &[u8]) -> Result<Option<Descriptor>> {
        self.add_packed(TIMES, table)
    }

    fn add_packed(&mut self, media_type: &str, bytes: &[u8]) -> Result<Option<Descriptor>> {
        if bytes.len() as u64 > MAX_UNPACKED {
            return Ok(None);
        }
        let packed = Bytes::from(zstd::bulk::compress(bytes, LEVEL).map_err(Error::from)?);
        let blob = Descriptor::of(media_type, &packed);
        self.add(&blob, SharedContent::Bytes(packed));
        Ok(Some(blob))
    }

    /// Asks imported caches for the blobs that would be copied from them. Those that they do not have are noted as lost.
    pub(crate) async fn find_losses(&self, imports: &Imports) {
        let mut imported = Vec::new();
        for (_, content) in self.blobs.values() {
            if let SharedContent::Imported(shared) = content {
                imported.push(shared.clone());
            }
        }
        let ask = |shared: Box<SharedBlob>| async move { imports.ask(&shared).await };
        futures::stream::iter(imported).for_each_concurrent(ASKED_AT_ONCE, ask).await;
    }

    /// The artifact. Equal caches give an equal one.
    fn artifact(&self, store: &SharedStore, imports: &Imports) -> Result<CacheArtifact> {
        let mut records = self.records.clone();
        records.records.sort_by(|a, b| a.keys.cmp(&b.keys));
        records.indexes.sort_by(|a, b| a.0.cmp(&b.0));
        records.mounts.sort_by(|a, b| a.name.cmp(&b.name));
        let records = Bytes::from(records.to_bytes()?);
        let config = Descriptor::of(RECORDS, &records);
        let layers = self.blobs.values().map(|(blob, _)| blob.clone()).collect();
        let mut manifest = ImageManifest::new(config.clone(), layers);
        manifest.artifact_type = Some(ARTIFACT.to_owned());
        let bytes = manifest.to_bytes();
        if bytes.len() > MAX_MANIFEST {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the cache has too many layers: export it with mode=min",
            )
            .with_context("limit", MAX_MANIFEST));
        }
        let manifest = Manifest::parse(bytes, media_type::OCI_MANIFEST)?;
        let mut blobs = self.blobs.clone();
        blobs.insert(config.digest.clone(), (config, SharedContent::Bytes(records)));
        Ok(CacheArtifact { manifest, blobs, store: Arc::clone(store), imports: imports.clone() })
    }

    /// Writes the cache to a place. `siblings` are repositories of registries that may have the layers.
    ///
    /// # Errors
    /// Those of the destination; [`ErrorKind::TooLarge`] for more records than a registry keeps.
    pub(crate) async fn export(
        &self,
        place: &CachePlace,
        siblings: &[crate::Reference],
        (store, imports): (&SharedStore, &Imports),
        clients: &ClientFactory,
        progress: &Progress,
    ) -> Result<()> {
        let artifact = self.artifact(store, imports)?;
        match place {
            CachePlace::Layout { folder, tag, .. } => {
                artifact.write_layout(folder, tag, &imports.lost_blobs()).await
            }
            #[cfg(feature = "cache-s3")]
            CachePlace::S3(place) => artifact.write_bucket(clients.s3_cache(place).await?, progress).await,
            #[cfg(not(feature = "cache-s3"))]
            CachePlace::S3(place) => clients.bucket(place).await.map(drop),
            CachePlace::Registry { reference, .. } => {
                let mount_from = siblings.iter().filter(|name| name.host() == reference.host());
                let mount_from: Vec<RepositoryName> = mount_from
                    .map(|name| name.repository().clone())
                    .filter(|name| name != reference.repository())
                    .collect();
                let open = place.open(clients, progress).await?;
                artifact.push(&open.client, &open.repository, &open.reference, mount_from, progress).await
            }
        }
    }
}

/// A cache that is ready to be sent: a client to copy from.
#[derive(Clone, Debug)]
pub(super) struct CacheArtifact {
    pub(super) manifest: Manifest,
    pub(super) blobs: BTreeMap<Digest, (Descriptor, SharedContent)>,
    store: SharedStore,
    pub(super) imports: Imports,
}

impl CacheArtifact {
    async fn push(
        self,
        client: &SharedClient,
        repository: &RepositoryName,
        reference: &ManifestReference,
        mount_from: Vec<RepositoryName>,
        progress: &Progress,
    ) -> Result<()> {
        // What the cache before this one has is there.
        let before = match client.get_manifest(repository, reference).await {
            Ok(before) if before.digest() == self.manifest.digest() => return Ok(()),
            Ok(before) => before.image().map(|image| image.layers.clone()).unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let lost = self.imports.lost_blobs();
        let known: HashSet<Digest> =
            before.into_iter().map(|blob| blob.digest).filter(|digest| !lost.contains(digest)).collect();
        let own = ManifestReference::Digest(self.manifest.digest().clone());
        let source: SharedClient = Arc::new(self);
        let from = RemoteImage::new(&source, repository, &own);
        let to = RemoteImage::new(client, repository, reference);
        // It is no image that the build made.
        let progress = progress.filter(|event| !matches!(event, Event::Result { .. }));
        let options = PushOptions { progress, mount_from, ..PushOptions::default() };
        match copy_known(&from, &to, &options, known).await {
            // The registry has lost a blob.
            Err(e) if matches!(e.kind(), ErrorKind::ManifestBlobUnknown | ErrorKind::ManifestInvalid) => {
                copy_known(&from, &to, &options, HashSet::new()).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    /// Writes the artifact into a layout, whose other tags stay.
    async fn write_layout(&self, folder: &Path, tag: &Tag, lost: &HashSet<Digest>) -> Result<()> {
        // Before the layers, which may take long, an index that cannot be read is an error.
        let layout = ImageLayout::in_folder(folder);
        blocking(move || index_of(&layout)).await?;
        let mut writer = LayoutWriter::without_index();
        writer.add_bytes(self.manifest.digest(), self.manifest.bytes().clone());
        for (blob, content) in self.blobs.values() {
            let path = folder.join(blob_path(&blob.digest));
            let is_there = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == blob.size);
            if is_there && !lost.contains(&blob.digest) {
                continue;
            }
            match content {
                SharedContent::Bytes(bytes) => writer.add_bytes(&blob.digest, bytes.clone()),
                // Opened when it is written: a cache has many layers.
                _ => {
                    let (source, of) = (self.clone(), blob.clone());
                    let stream = futures::stream::once(async move { source.open(&of).await })
                        .flat_map(|opened| match opened {
                            Ok(reader) => reader.stream,
                            Err(e) => futures::stream::iter([Err(e)]).boxed(),
                        })
                        .boxed();
                    writer.add_blob(
                        &blob.digest,
                        BlobReader { size: blob.size, offset: 0, length: blob.size, stream },
                    );
                }
            }
        }
        writer.write_folder(folder).await?;
        let mut entry = self.manifest.descriptor();
        entry.artifact_type = Some(ARTIFACT.to_owned());
        entry.annotations.insert(REF_NAME.to_owned(), tag.as_str().to_owned());
        let (folder, tag) = (folder.to_owned(), tag.clone());
        blocking(move || {
            let _turn = lock_index(&folder)?;
            let mut index = index_of(&ImageLayout::in_folder(&folder))?;
            let is_ours =
                |entry: &Descriptor| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag.as_str());
            index.manifests.retain(|entry| !is_ours(entry));
            index.manifests.push(entry);
            write_index(&folder, &index)
        })
        .await
    }

    /// Opens a blob. Its reader checks the digest.
    pub(super) async fn open(&self, blob: &Descriptor) -> Result<BlobReader> {
        let Some((_, content)) = self.blobs.get(&blob.digest) else {
            return Err(Error::new(ErrorKind::BlobUnknown, "the cache has no such blob")
                .with_context("digest", &blob.digest));
        };
        let reader = match content {
            SharedContent::Bytes(bytes) => {
                let stream = futures::stream::iter([Ok(bytes.clone())]).boxed();
                BlobReader { size: blob.size, offset: 0, length: blob.size, stream }
            }
            SharedContent::Stored(repository) => self.store.get_blob(repository, &blob.digest, None).await?,
            SharedContent::File(file) => part_of_file(file, blob.size, 0, blob.size),
            SharedContent::Imported(shared) => {
                let opened = self.imports.open(shared).await.inspect_err(|e| self.imports.lose(shared, e));
                return Ok(self.noting_loss(verified(opened?, &blob.digest), shared));
            }
        };
        Ok(verified(reader, &blob.digest))
    }

    /// A reader of an imported blob whose errors are noted.
    fn noting_loss(&self, reader: BlobReader, shared: &SharedBlob) -> BlobReader {
        let (imports, shared) = (self.imports.clone(), shared.clone());
        let stream = reader.stream.inspect(move |block| {
            if let Err(e) = block {
                imports.lose(&shared, e);
            }
        });
        BlobReader { stream: stream.boxed(), ..reader }
    }
}

/// A part of a temporary file with a whole blob.
fn part_of_file(file: &Arc<File>, size: u64, offset: u64, length: u64) -> BlobReader {
    let blocks =
        futures::stream::try_unfold((Arc::clone(file), offset, length), |(file, at, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let read = move || {
                let mut block = vec![0; left.min(FILE_BLOCK) as usize];
                file.read_exact_at(&mut block, at)?;
                Ok::<_, Error>((block, file))
            };
            let (block, file) = blocking(read).await?;
            let count = block.len() as u64;
            Ok(Some((Bytes::from(block), (file, at + count, left - count))))
        });
    BlobReader { size, offset, length, stream: blocks.boxed() }
}

/// The index of a layout, which need not exist yet.
fn index_of(layout: &ImageLayout) -> Result<ImageIndex> {
    match layout.index() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(ImageIndex::new(Vec::new())),
        index => index,
    }
}

impl fmt::Display for CacheArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {}", self.manifest.digest().short())
    }
}

#[async_trait]
impl RegistryClient for CacheArtifact {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities::PULL
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn get_manifest(&self, _: &RepositoryName, reference: &ManifestReference) -> Result<Manifest> {
        match reference {
            ManifestReference::Digest(digest) if digest == self.manifest.digest() => {
                Ok(self.manifest.clone())
            }
            other => Err(Error::new(ErrorKind::ManifestUnknown, "the cache has another digest")
                .with_context("reference", other)),
        }
    }

    async fn stat_blob(&self, _: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.blobs.get(digest).map(|(blob, _)| blob.size))
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let size = self.blobs.get(digest).map(|(blob, _)| blob.size).unwrap_or_default();
        let Some(range) = range else {
            return self.open(&Descriptor::new("", digest.clone(), size)).await;
        };
        match self.blobs.get(digest).map(|(_, content)| content) {
            Some(SharedContent::Stored(repository)) => {
                self.store.get_blob(repository, digest, Some(range)).await
            }
            Some(SharedContent::Bytes(bytes)) => {
                let (offset, length) = range.resolve(size)?;
                let part = bytes.slice(offset as usize..(offset + length) as usize);
                Ok(BlobReader { size, offset, length, stream: futures::stream::iter([Ok(part)]).boxed() })
            }
            Some(SharedContent::File(file)) => {
                let (offset, length) = range.resolve(size)?;
                Ok(part_of_file(file, size, offset, length))
            }
            Some(SharedContent::Imported(shared)) => {
                let part = self.imports.open_part(shared, range).await;
                Ok(self.noting_loss(part.inspect_err(|e| self.imports.lose(shared, e))?, shared))
            }
            None => Err(Error::new(ErrorKind::BlobUnknown, "the cache has no such blob")
                .with_context("digest", digest)),
        }
    }

    async fn list_tags(&self, _: &RepositoryName, _: Page) -> Result<Listing<Tag>> {
        Ok(Listing { items: Vec::new(), more: false })
    }

    async fn list_referrers(
        &self,
        _: &RepositoryName,
        _: &Digest,
        _: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}
