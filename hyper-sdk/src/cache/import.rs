//! Shared caches that a build reads.
//!
//! ```text
//!   the first step that the cache of this machine does not have ─▶ the manifest and the records of every cache
//!   a key that depends on files                                 ─▶ the index of a layer
//!   a step or an output that needs the files                    ─▶ the layer and its true times
//!   a step that runs with a cache mount that is not here        ─▶ the files of the mount, where that was asked for
//! ```
//!
//! # Invariants
//! - A cache that cannot be read is a warning, and its records are missing. So is a record whose layer cannot be had: it
//!   is lost, and the build begins anew without it; while a cache is written, that one is written without the record.
//! - What was fetched has the digest that the manifest names, and at most the bytes of a limit.
//! - An index is used in this build alone: it is not kept with those that this machine made.

use super::CacheFrom;
use super::place::OpenPlace;
use super::shared_records::{
    ARTIFACT, INDEX, MAX_SHARED_RECORDS, MAX_UNPACKED, MOUNT, RECORDS, SharedMount, SharedRecord,
    SharedRecords, TIMES,
};
use crate::client::{RegistryClientExt as _, choose};
use crate::layer::{Bounds, LayerIndex, TimesTable};
use crate::oci::{Descriptor, ImageConfig, Manifest};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::source::ClientFactory;
use crate::store::{BlobReader, ByteRange, MAX_CONFIG};
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The most bytes of an index or of a table of times, compressed.
const MAX_PACKED: u64 = 64 << 20;
/// How deep indexes of an image may be nested.
const MAX_DEPTH: usize = 4;

/// The shared caches of one build. Clones share what was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Imports(Option<Arc<Inner>>);

struct Inner {
    places: Vec<CacheFrom>,
    clients: ClientFactory,
    /// Those of which images are read.
    platforms: Vec<Platform>,
    progress: Progress,
    loaded: OnceCell<Loaded>,
    lost: Mutex<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    /// The caches that do not answer any more.
    caches: HashSet<usize>,
    /// The blobs that cannot be had, each with its cache.
    blobs: HashSet<(usize, Digest)>,
    /// Whether something was lost since somebody asked.
    more: bool,
    /// Whether the build has its outputs, and a cache is being written.
    writes_cache: bool,
}

impl Lost {
    fn has(&self, blob: &SharedBlob) -> bool {
        self.caches.contains(&blob.cache) || self.blobs.contains(&(blob.cache, blob.blob.digest.clone()))
    }
}

#[derive(Debug, Default)]
struct Loaded {
    caches: Vec<Option<OpenPlace>>,
    /// By key, those of earlier caches first.
    records: HashMap<Digest, Vec<Arc<Imported>>>,
    /// By diff ID, those of earlier caches first.
    indexes: HashMap<Digest, Vec<SharedBlob>>,
    /// By name, those of earlier caches first.
    mounts: HashMap<Digest, Vec<MountImport>>,
}

/// A record of a shared cache.
#[derive(Debug)]
pub(crate) struct Imported {
    cache: usize,
    pub(crate) record: SharedRecord,
}

/// A blob of a shared cache.
#[derive(Clone, Debug)]
pub(crate) struct SharedBlob {
    cache: usize,
    pub(crate) blob: Descriptor,
}

/// The content of a cache mount in a shared cache.
#[derive(Clone, Debug)]
pub(crate) struct MountImport {
    cache: usize,
    pub(crate) mount: SharedMount,
}

impl MountImport {
    /// Its archive as a blob.
    pub(crate) fn blob(&self) -> SharedBlob {
        SharedBlob { cache: self.cache, blob: self.mount.blob.clone() }
    }
}

impl Imported {
    /// The layer as a blob.
    pub(crate) fn layer(&self) -> SharedBlob {
        SharedBlob { cache: self.cache, blob: self.record.layer.clone() }
    }

    /// The table of the true times as a blob.
    pub(crate) fn times(&self) -> Option<SharedBlob> {
        let (_, blob) = self.record.times.as_ref()?;
        Some(SharedBlob { cache: self.cache, blob: blob.clone() })
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("places", &self.places)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Imports {
    /// Shared caches; of two with one key the first counts that has the layer. Nothing is read before something is looked up.
    pub(crate) fn new(
        places: Vec<CacheFrom>,
        clients: ClientFactory,
        platforms: Vec<Platform>,
        progress: &Progress,
    ) -> Self {
        let progress = progress.clone();
        let (loaded, lost) = (OnceCell::new(), Mutex::default());
        let is_empty = places.is_empty();
        let inner = Inner { places, clients, platforms, progress, loaded, lost };
        Self((!is_empty).then(|| Arc::new(inner)))
    }

    /// The record of a key: the first one that is not lost.
    pub(crate) async fn get(&self, key: &Digest) -> Option<Arc<Imported>> {
        let inner = self.0.as_ref()?;
        let found = inner.loaded().await.records.get(key)?;
        let lost = inner.lost();
        let is_lost = |record: &Imported| {
            lost.has(&record.layer()) || record.times().is_some_and(|times| lost.has(&times))
        };
        found.iter().find(|record| !is_lost(record)).cloned()
    }

    /// Whether a blob was found to be lost.
    pub(crate) fn is_lost(&self, blob: &SharedBlob) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.lost().has(blob))
    }

    /// The blob of the index of a layer: the first one that is not lost.
    pub(crate) async fn index_blob(&self, diff_id: &Digest) -> Option<SharedBlob> {
        let inner = self.0.as_ref()?;
        let found = inner.loaded().await.indexes.get(diff_id)?;
        let lost = inner.lost();
        found.iter().find(|blob| !lost.has(blob)).cloned()
    }

    /// Whether a cache is read whose contents of cache mounts are wanted.
    pub(crate) fn wants_mounts(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.places.iter().any(|from| from.mounts))
    }

    /// The content of a cache mount, from the first cache that has it and whose contents are wanted.
    pub(crate) async fn mount(&self, name: &Digest) -> Option<MountImport> {
        if !self.wants_mounts() {
            return None;
        }
        let inner = self.0.as_ref()?;
        let found = inner.loaded().await.mounts.get(name)?;
        let lost = inner.lost();
        found.iter().find(|mount| !lost.has(&mount.blob())).cloned()
    }

    /// Notes that the content of a cache mount cannot be had, and warns. No result depends on it, so nothing begins anew.
    pub(crate) fn lose_mount(&self, id: &str, import: &MountImport, error: &Error) {
        let Some(inner) = &self.0 else { return };
        inner.lost().blobs.insert((import.cache, import.mount.blob.digest.clone()));
        inner.progress.warn(format!(
            "the cache {} has no usable content of the cache mount `{}`: {}",
            inner.places[import.cache],
            id.escape_debug(),
            reason(error)
        ));
    }

    /// The index of a layer; `None` when no cache has one that can be read.
    pub(crate) async fn index(&self, diff_id: &Digest) -> Option<LayerIndex> {
        let inner = self.0.as_ref()?;
        while let Some(blob) = self.index_blob(diff_id).await {
            let read = async { LayerIndex::from_bytes_within(&self.unpacked(&blob).await?, Bounds::SHARED) };
            match read.await {
                Ok(index) => return Some(index),
                Err(e) => {
                    // The layer gives it as well, so that nothing is built anew.
                    inner.lost().blobs.insert((blob.cache, blob.blob.digest.clone()));
                    inner.progress.warn(format!(
                        "the cache {} has no usable index of the layer {}, which is fetched unless another cache has one: {}",
                        inner.places[blob.cache],
                        diff_id.short(),
                        reason(&e)
                    ));
                }
            }
        }
        None
    }

    /// The table of the true times of a record.
    ///
    /// # Errors
    /// Those of the cache; [`ErrorKind::DigestInvalid`] for another table than the record names.
    pub(crate) async fn times(&self, imported: &Imported) -> Result<Option<TimesTable>> {
        let Some((name, blob)) = imported.record.times.as_ref().zip(imported.times()) else {
            return Ok(None);
        };
        let table = TimesTable::from_bytes_within(&self.unpacked(&blob).await?, Bounds::SHARED)?;
        if *table.digest() != name.0 {
            return Err(Error::new(
                ErrorKind::DigestInvalid,
                "a table of times has another digest than its record says",
            ));
        }
        Ok(Some(table))
    }

    /// Opens a blob. The caller checks its bytes.
    ///
    /// # Errors
    /// Those of the cache; [`ErrorKind::SizeInvalid`] when it has another size than the manifest says.
    pub(crate) async fn open(&self, shared: &SharedBlob) -> Result<BlobReader> {
        let place = self.place(shared).await?;
        let reader = place.client.get_blob(&place.repository, &shared.blob.digest, None).await?;
        if reader.size != shared.blob.size {
            return Err(Error::new(
                ErrorKind::SizeInvalid,
                "a blob of the cache has another size than its manifest says",
            )
            .with_context("digest", &shared.blob.digest));
        }
        Ok(reader)
    }

    /// Opens a part of a blob.
    ///
    /// # Errors
    /// Those of the cache.
    pub(super) async fn open_part(&self, shared: &SharedBlob, range: ByteRange) -> Result<BlobReader> {
        let place = self.place(shared).await?;
        place.client.get_blob(&place.repository, &shared.blob.digest, Some(range)).await
    }

    /// Asks for a blob, and notes as lost what its cache does not have.
    pub(super) async fn ask(&self, shared: &SharedBlob) {
        if self.is_lost(shared) {
            return;
        }
        let stat = async {
            let place = self.place(shared).await?;
            place.client.stat_blob(&place.repository, &shared.blob.digest).await
        };
        let unknown = || Error::new(ErrorKind::BlobUnknown, "the cache does not have the blob");
        let error = match stat.await {
            Ok(Some(size)) if size == shared.blob.size => return,
            Ok(_) => unknown(),
            Err(e) => e,
        };
        self.lose(shared, &error);
    }

    async fn place(&self, shared: &SharedBlob) -> Result<&OpenPlace> {
        let gone = || Error::internal("a blob of a cache that was not read");
        let inner = self.0.as_ref().ok_or_else(gone)?;
        inner.loaded().await.caches.get(shared.cache).and_then(Option::as_ref).ok_or_else(gone)
    }

    /// A small blob, unpacked.
    async fn unpacked(&self, shared: &SharedBlob) -> Result<Vec<u8>> {
        let too_large = || {
            Error::new(ErrorKind::TooLarge, "an index or a table of times of the cache is too large")
                .with_context("digest", &shared.blob.digest)
        };
        if shared.blob.size > MAX_PACKED {
            return Err(too_large());
        }
        let place = self.place(shared).await?;
        let packed = place.client.read_blob(&place.repository, &shared.blob.digest, shared.blob.size).await?;
        let bytes = tokio::task::spawn_blocking(move || unpack(&packed)).await;
        let bytes = bytes.map_err(|e| Error::internal("unpacking panicked").with_source(e))?;
        let damaged = |e| {
            Error::new(ErrorKind::Corrupt, "an index or a table of times of the cache is damaged")
                .with_context("digest", &shared.blob.digest)
                .with_source(e)
        };
        bytes.map_err(damaged)?.ok_or_else(too_large)
    }

    /// Notes that a layer, a table of times or an index cannot be had, and warns. When its cache does not answer, the whole
    /// cache is left.
    pub(crate) fn lose(&self, blob: &SharedBlob, error: &Error) {
        let Some(inner) = &self.0 else { return };
        let is_of_blob = matches!(
            error.kind(),
            ErrorKind::BlobUnknown
                | ErrorKind::NotFound
                | ErrorKind::DigestInvalid
                | ErrorKind::SizeInvalid
                | ErrorKind::TooLarge
                | ErrorKind::Corrupt
                | ErrorKind::Invalid
                | ErrorKind::Unsupported
        );
        let place = &inner.places[blob.cache];
        let instead = {
            let mut lost = inner.lost();
            lost.more = true;
            let is_new = match is_of_blob {
                true => lost.blobs.insert((blob.cache, blob.blob.digest.clone())),
                false => lost.caches.insert(blob.cache),
            };
            if !is_new {
                return;
            }
            match lost.writes_cache {
                true => "the cache that is written has no results that need it",
                false => "steps run in place of it",
            }
        };
        let kind = match blob.blob.media_type.as_str() {
            TIMES => "table of times",
            INDEX => "index",
            MOUNT => "content of a cache mount",
            _ => "layer",
        };
        let what = match is_of_blob {
            true => format!("has no usable {kind} {}", blob.blob.digest.short()),
            false => "cannot be read any more".to_owned(),
        };
        inner.progress.warn(format!("the cache {place} {what}: {instead}: {}", reason(error)));
    }

    /// Says whether a cache is being written, after the outputs: what is lost then is left out of it.
    pub(crate) fn writing_cache(&self, writes: bool) {
        if let Some(inner) = &self.0 {
            inner.lost().writes_cache = writes;
        }
    }

    /// Whether something was lost since the last call.
    pub(crate) fn take_losses(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| std::mem::take(&mut inner.lost().more))
    }

    /// Leaves all caches.
    pub(crate) fn leave(&self) {
        if let Some(inner) = &self.0 {
            inner.lost().caches.extend(0..inner.places.len());
        }
    }

    /// The digests that a cache was found not to have, or not as they should be.
    pub(crate) fn lost_blobs(&self) -> HashSet<Digest> {
        let blobs = self.0.as_ref().map(|inner| inner.lost().blobs.clone()).unwrap_or_default();
        blobs.into_iter().map(|(_, digest)| digest).collect()
    }
}

impl Inner {
    fn lost(&self) -> std::sync::MutexGuard<'_, Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records of all caches, read once and at once.
    async fn loaded(&self) -> &Loaded {
        let load = async || {
            let caches = self.places.iter().map(|from| self.load(from));
            let mut loaded = Loaded::default();
            for (cache, read) in futures::future::join_all(caches).await.into_iter().enumerate() {
                let (open, records) = read.unzip();
                loaded.caches.push(open);
                let SharedRecords { records, indexes, mounts } = records.unwrap_or_default();
                if self.places[cache].mounts {
                    for mount in mounts {
                        let name = mount.name.clone();
                        loaded.mounts.entry(name).or_default().push(MountImport { cache, mount });
                    }
                }
                for record in records {
                    let imported = Arc::new(Imported { cache, record });
                    for key in &imported.record.keys {
                        loaded.records.entry(key.clone()).or_default().push(Arc::clone(&imported));
                    }
                }
                for (diff_id, blob) in indexes {
                    loaded.indexes.entry(diff_id).or_default().push(SharedBlob { cache, blob });
                }
            }
            loaded
        };
        self.loaded.get_or_init(load).await
    }

    async fn load(&self, CacheFrom { place, .. }: &CacheFrom) -> Option<(OpenPlace, SharedRecords)> {
        let task = self.progress.start(format!("import cache {place}"), None);
        let read = async {
            let open = place.open(&self.clients, &self.progress).await?;
            let (records, missing) = read_all(&open, &self.platforms).await?;
            Ok((open, records, missing))
        };
        match read.await {
            Ok((open, records, missing)) => {
                for (platform, error) in missing {
                    let why = reason(&error);
                    task.warn(format!("the cache {place} is not used for {platform}: {why}"));
                }
                task.done();
                Some((open, records))
            }
            Err(e) => {
                task.warn(format!("the cache {place} is not used: {}", reason(&e)));
                task.done();
                None
            }
        }
    }
}

/// Reads the records of a place for several platforms, each manifest once, and says which of the platforms have none.
///
/// # Errors
/// Those of [`read`], when no platform has records.
async fn read_all(
    open: &OpenPlace,
    platforms: &[Platform],
) -> Result<(SharedRecords, Vec<(Platform, Error)>)> {
    let root = open.client.get_manifest(&open.repository, &open.reference).await?;
    let Some(index) = root.index() else { return Ok((read(open, &root).await?, Vec::new())) };
    let (mut all, mut missing, mut seen) = (None::<SharedRecords>, Vec::new(), HashSet::new());
    for platform in platforms {
        let of_platform = async {
            let mut entry = choose(&index.manifests, platform)?;
            for _ in 0..MAX_DEPTH {
                if seen.contains(&entry.digest) {
                    return Ok(None);
                }
                let manifest = open.client.get_manifest(&open.repository, &entry.digest.into()).await?;
                let Some(below) = manifest.index() else {
                    seen.insert(manifest.digest().clone());
                    return read(open, &manifest).await.map(Some);
                };
                entry = choose(&below.manifests, platform)?;
            }
            Err(Error::invalid("the indexes of the image are nested too deep"))
        };
        match (of_platform.await, &mut all) {
            (Ok(Some(records)), Some(all)) => {
                all.records.extend(records.records);
                all.indexes.extend(records.indexes);
                all.mounts.extend(records.mounts);
            }
            (Ok(Some(records)), None) => all = Some(records),
            (Ok(None), _) => {}
            (Err(e), _) => missing.push((platform.clone(), e)),
        }
    }
    match all {
        Some(all) => Ok((all, missing)),
        None => {
            let first = missing.into_iter().next().map(|(_, error)| error);
            Err(first.unwrap_or_else(|| Error::internal("a build without a platform")))
        }
    }
}

/// Reads the records of an artifact, or those of an image.
async fn read(open: &OpenPlace, manifest: &Manifest) -> Result<SharedRecords> {
    let OpenPlace { client, repository, .. } = open;
    let Some(image) = manifest.image() else {
        return Err(Error::invalid("it is not the manifest of an image"));
    };
    let config = &image.config;
    if config.media_type == RECORDS {
        let bytes = client.read_blob(repository, &config.digest, MAX_SHARED_RECORDS).await?;
        return SharedRecords::parse(&bytes, &image.layers);
    }
    let not_a_cache =
        |why: &str| Err(Error::unsupported(format!("it is not a cache of this program: {why}")));
    match config.media_type.as_str() {
        crate::media_type::OCI_CONFIG | crate::media_type::DOCKER_CONFIG => {
            let config: Bytes = client.read_blob(repository, &config.digest, MAX_CONFIG).await?;
            match SharedRecords::of_image(&ImageConfig::parse(&config)?, &image.layers)? {
                Some(records) => Ok(records),
                None => not_a_cache(
                    "the image has no records, which a build with a cache of `type=inline` writes into it",
                ),
            }
        }
        other if image.artifact_type.as_deref() == Some(ARTIFACT) => {
            not_a_cache(&format!("its records are of another version (`{}`)", other.escape_debug()))
        }
        other => not_a_cache(&format!("its config is of the type `{}`", other.escape_debug())),
    }
}

/// Unpacks bytes up to the limit; `None` above it.
fn unpack(packed: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed)?;
    decoder.take(MAX_UNPACKED + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_UNPACKED).then_some(bytes))
}

/// An error and its causes in one line.
fn reason(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
