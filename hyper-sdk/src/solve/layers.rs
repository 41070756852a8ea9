//! Makes the layers of steps with an index, stores blobs, and unpacks layers into snapshots.

use super::SolveContext;
use super::chain::{Chain, Link, StepLayer};
use super::sink::{ChannelWriter, Keep, LAYERS_REPOSITORY, LayerSink, Tar, TarHasher, Target};
use super::value::{Layer, LayerTimes, files_name, snapshot_name};
use crate::layer::{CompressOptions, CompressedLayer, LayerCompressor};
use crate::layer::{EntryTimes, LayerIndex, LayerWriter, TreeIndex, VerifiedLayer};
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::snapshot::{LayerToUnpack, TarStream, UnpackOptions};
use crate::store::damage::LOST_SNAPSHOT;
use crate::store::{RegistryStoreExt as _, UploadOptions};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _, media_type};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::{StreamReader, SyncIoBridge};

/// A blob that was stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
}

/// A layer that was made just now.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub(super) diff_id: Digest,
    pub(super) times: Option<LayerTimes>,
    pub(super) blob: Option<Descriptor>,
    pub(super) tar: Option<Tar>,
    pub(super) snapshot: Option<Digest>,
}

impl SolveContext {
    /// How the build compresses layers.
    pub(super) fn compress_options(&self) -> CompressOptions {
        CompressOptions { level: self.compression_level, ..CompressOptions::new(self.compression) }
    }

    /// Makes a layer. `write` writes it on a blocking thread, and returns the true times of its entries. The layer is hashed
    /// meanwhile and, for a blob, compressed and stored.
    pub(super) async fn make_layer<F>(&self, target: Target, write: F) -> Result<(NewLayer, EntryTimes)>
    where
        F: FnOnce(&mut LayerWriter<LayerSink>) -> Result<EntryTimes> + Send + 'static,
    {
        let epoch = self.epoch().await?;
        let write = move |sink| {
            let mut writer = LayerWriter::new(sink, Some(epoch));
            let times = write(&mut writer)?;
            let (sink, index) = writer.finish()?;
            Ok((sink, (index, times)))
        };
        let mut new =
            NewLayer { diff_id: Digest::sha256(""), times: None, blob: None, tar: None, snapshot: None };
        let (index, times) = match target {
            Target::Blob => {
                let (stored, made) = self.store_layer(self.compress_options(), false, write).await?;
                self.keep_own_blob(&stored.diff_id, &stored.blob).await?;
                (new.diff_id, new.blob) = (stored.diff_id, Some(stored.blob));
                made
            }
            Target::Tar | Target::SmallTar | Target::Hash => {
                let keep = match target {
                    Target::Tar => Keep::All(self.scratch.clone()),
                    Target::SmallTar => Keep::Small,
                    _ => Keep::Nothing,
                };
                let (diff_id, tar, made) = blocking(move || {
                    let (sink, made) = write(LayerSink::Hash(TarHasher::new(keep)))?;
                    let (diff_id, tar) = sink.hashed()?;
                    Ok((diff_id, tar, made))
                })
                .await?;
                (new.diff_id, new.tar) = (diff_id, tar);
                made
            }
        };
        self.save_index(&new.diff_id, &index)?;
        Ok((new, times))
    }

    /// Stores the output of `write` as a blob. In the background its threads yield to everything else that runs.
    pub(super) async fn store_layer<F, T>(
        &self,
        options: CompressOptions,
        in_background: bool,
        write: F,
    ) -> Result<(Stored, T)>
    where
        F: FnOnce(LayerSink) -> Result<(LayerSink, T)> + Send + 'static,
        T: Send + 'static,
    {
        let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
        let (sender, mut blocks) = mpsc::channel::<Bytes>(8);
        let work = move || -> Result<(CompressedLayer, T)> {
            let compressor = LayerCompressor::new(ChannelWriter(sender), options)?;
            let (sink, more) = write(LayerSink::Blob(Box::new(compressor)))?;
            Ok((sink.compressed()?, more))
        };
        let work = match in_background {
            true => yielding(work)?,
            false => tokio::task::spawn_blocking(work).map(|done| done.map_err(panicked)?).boxed(),
        };
        let mut upload = self.store.start_upload(&repository, UploadOptions::default()).await?;
        while let Some(block) = blocks.recv().await {
            if let Err(e) = upload.append(block).await {
                drop(blocks);
                let _ = upload.abort().await;
                return Err(e);
            }
        }
        let (compressed, more) = match work.await {
            Ok(made) => made,
            Err(e) => {
                let _ = upload.abort().await;
                return Err(e);
            }
        };
        upload.finish(&compressed.digest).await?;
        let mut blob = Descriptor::new(compressed.media_type, compressed.digest, compressed.size);
        blob.annotations = compressed.annotations;
        Ok((Stored { blob, diff_id: compressed.diff_id }, more))
    }

    /// Makes a layer from a tar with true times.
    pub(super) async fn layer_of_tar(
        &self,
        target: Target,
        tar: TarStream,
    ) -> Result<(NewLayer, EntryTimes)> {
        self.make_layer(target, move |writer| {
            writer.append_all(tar)?;
            Ok(writer.take_times())
        })
        .await
    }

    pub(super) fn index_path(&self, diff_id: &Digest) -> PathBuf {
        self.index_folder.join(diff_id.hex())
    }

    pub(super) fn save_index(&self, diff_id: &Digest, index: &LayerIndex) -> Result<()> {
        let path = self.index_path(diff_id);
        tempfile::NamedTempFile::new_in(&self.index_folder)
            .and_then(|mut staged| {
                staged.write_all(&index.to_bytes())?;
                staged.persist(&path).map_err(|e| e.error)
            })
            .map(drop)
            .map_err(|e| Error::io("cannot write the index of a layer", &path, e))
    }

    /// The index of a layer. The first call reads the layer and keeps the index.
    pub(super) async fn index(&self, layer: &StepLayer) -> Result<Arc<LayerIndex>> {
        let diff_id = layer.diff_id();
        if let Some(index) = self.indexes.lock().await.get(diff_id) {
            return Ok(Arc::clone(index));
        }
        let path = self.index_path(diff_id);
        let index = match std::fs::read(&path).ok().and_then(|bytes| LayerIndex::from_bytes(&bytes).ok()) {
            Some(index) => index,
            None => match self.imports.index(diff_id).await {
                Some(index) => index,
                None => self.make_index(layer).await?,
            },
        };
        let index = Arc::new(index);
        self.indexes.lock().await.insert(diff_id.clone(), Arc::clone(&index));
        Ok(index)
    }

    /// Reads a layer for its index, and keeps it.
    async fn make_index(&self, layer: &StepLayer) -> Result<LayerIndex> {
        let reader = self.open_layer(layer).await?;
        let index = blocking(move || crate::layer::scan(reader)).await?;
        self.save_index(layer.diff_id(), &index)?;
        Ok(index)
    }

    /// The layers of other machines that have no index, each with its blob.
    async fn unknown<'a>(&self, chain: &'a Chain) -> Vec<(&'a StepLayer, RepositoryName, Digest)> {
        let mut unknown = Vec::new();
        for link in chain.down() {
            let (repository, blob) = match &*link.layer {
                StepLayer::Image(Layer { origin: Some(_), repository, blob, .. }) => {
                    (repository.clone(), blob.digest.clone())
                }
                StepLayer::Made(made) => match &made.imported {
                    Some(imported) => (made.record().repository, imported.record.layer.digest.clone()),
                    None => continue,
                },
                StepLayer::Image(_) => continue,
            };
            let diff_id = link.layer.diff_id();
            if !self.indexes.lock().await.contains_key(diff_id)
                && !self.index_path(diff_id).exists()
                && self.imports.index_blob(diff_id).await.is_none()
            {
                unknown.push((&*link.layer, repository, blob));
            }
        }
        unknown
    }

    /// Whether a layer of the chain has no index, so that its blob may have to be pulled.
    pub(super) async fn has_unknown(&self, chain: &Chain) -> bool {
        for (_, repository, blob) in self.unknown(chain).await {
            if !matches!(self.store.has_blob(&repository, &blob).await, Ok(true)) {
                return true;
            }
        }
        false
    }

    /// Brings the layers of a chain that have no index yet, all at once.
    async fn fetch_unknown(&self, chain: &Chain) -> Result<()> {
        let unknown = self.unknown(chain).await;
        futures::future::try_join_all(unknown.into_iter().map(|(layer, ..)| self.fetch_image(layer)))
            .await
            .map(drop)
    }

    /// The merged view of a chain. It is that of a chain below, extended: a layer costs the same at any depth.
    pub(super) async fn tree(&self, chain: &Chain) -> Result<Arc<TreeIndex>> {
        let Some(id) = chain.id() else { return Ok(Arc::default()) };
        self.fetch_unknown(chain).await?;
        let (mut below, mut missing) = (None, Vec::new());
        {
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(tree) = trees.get(id) {
                return Ok(Arc::clone(tree));
            }
            for link in chain.down() {
                below = trees.remove(&link.id);
                if below.is_some() {
                    break;
                }
                missing.push(link);
            }
        }
        let mut layers = Vec::with_capacity(missing.len());
        for link in missing.into_iter().rev() {
            layers.push(self.index(&link.layer).await?);
        }
        let tree = blocking(move || {
            let mut tree = below.map(Arc::unwrap_or_clone).unwrap_or_default();
            layers.into_iter().for_each(|layer| tree.push(layer));
            Ok(Arc::new(tree))
        })
        .await?;
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.insert(id.clone(), Arc::clone(&tree));
        Ok(tree)
    }

    /// The paths of the indexes of a chain, lowest first. Missing indexes are made.
    pub(super) async fn index_paths(&self, chain: &Chain) -> Result<Vec<PathBuf>> {
        self.fetch_unknown(chain).await?;
        let mut paths = Vec::new();
        for link in chain.links() {
            paths.push(self.kept_index(&link.layer).await?);
        }
        Ok(paths)
    }

    /// The path of the index of a layer, which is made when it is missing.
    pub(super) async fn kept_index(&self, layer: &StepLayer) -> Result<PathBuf> {
        self.index(layer).await?;
        let path = self.index_path(layer.diff_id());
        if !path.exists() {
            // The index is that of a cache of another machine, which is not kept.
            self.make_index(layer).await?;
        }
        Ok(path)
    }

    /// The uncompressed tar of a layer. What does not match its digests gives an error at its end.
    pub(crate) async fn open_layer(&self, layer: &StepLayer) -> Result<Box<dyn Read + Send>> {
        match layer {
            StepLayer::Image(layer) => {
                media_type::check_layer(&layer.blob.media_type).context("digest", &layer.blob.digest)?;
                self.fetch_layer(layer).await?;
                self.open_blob(&layer.repository, &layer.blob, &layer.diff_id).await
            }
            StepLayer::Made(made) => self.open_made(made).await,
        }
    }

    pub(super) async fn open_blob(
        &self,
        repository: &RepositoryName,
        blob: &Descriptor,
        diff_id: &Digest,
    ) -> Result<Box<dyn Read + Send>> {
        let reader = self.store.get_blob(repository, &blob.digest, None).await?;
        let reader = SyncIoBridge::new(StreamReader::new(reader.stream.map_err_io()));
        let (blob, diff_id, damage) = (blob.clone(), diff_id.clone(), self.damage.clone());
        blocking(move || {
            let digest = blob.digest.clone();
            let tar = VerifiedLayer::new(reader, blob.digest, blob.size, Some(diff_id))
                .inspect_err(|_| damage.suspect(&digest))?;
            Ok(Box::new(damage.watch(&digest, tar.read_ahead()?)) as Box<dyn Read + Send>)
        })
        .await
    }

    /// Unpacks a chain with the true times of its files, and returns the name of its snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the build has found a snapshot that is not as it was written: this one may stand on it or
    /// share its files.
    pub(crate) async fn unpack(&self, chain: &Chain) -> Result<Option<Digest>> {
        if self.damage.has_lost() {
            return Err(Error::new(ErrorKind::Corrupt, LOST_SNAPSHOT));
        }
        let (mut missing, mut below) = (Vec::new(), None);
        for link in chain.down() {
            if self.snapshotter.has(link.snapshot()).await? {
                below = Some((link.snapshot().clone(), &link.id));
                break;
            }
            missing.push(link);
        }
        // Fetches that run already are shared.
        let fetch = missing.iter().map(|link| self.fetch_image(&link.layer));
        let unpack = async {
            let (mut layers, mut names) = (Vec::new(), Vec::new());
            for link in missing.iter().rev() {
                let under = below.as_ref().map(|(name, id)| (name, *id));
                let (name, to_unpack) = self.layer_to_unpack(link, under).await?;
                layers.extend(to_unpack);
                names.push((link, name.clone()));
                below = Some((name, &link.id));
            }
            self.snapshotter.apply_all(layers).await?;
            for (link, name) in names {
                self.has_snapshot(&link.layer, &name).await?;
            }
            Ok(())
        };
        futures::future::try_join(futures::future::try_join_all(fetch), unpack).await?;
        Ok(below.map(|(name, _)| name))
    }

    /// Finds out how one layer is unpacked onto the snapshot `below`, which is a name and a chain ID. Returns the name of the
    /// new snapshot, and the layer unless its files were unpacked before.
    async fn layer_to_unpack<'a>(
        &'a self,
        link: &'a Link,
        below: Option<(&Digest, &Digest)>,
    ) -> Result<(Digest, Option<LayerToUnpack<'a>>)> {
        let (layer, chain) = (&*link.layer, &link.id);
        let parent = below.map(|(name, _)| name);
        let mut times = layer.times().map(LayerTimes::digest);
        let mut name = snapshot_name(below, layer.diff_id(), chain, times);
        let mut files = files_name(chain, times);
        if self.snapshotter.share(parent, &name, &files).await? {
            return Ok((name, None));
        }
        if let StepLayer::Made(made) = layer {
            self.fetch_times(made).await?;
        }
        let table = if times.is_some() { self.times(layer.times()) } else { None };
        if times.is_some() && table.is_none() {
            // Without the times it is another snapshot.
            times = None;
            name = snapshot_name(below, layer.diff_id(), chain, times);
            files = files_name(chain, times);
            if self.snapshotter.share(parent, &name, &files).await? {
                return Ok((name, None));
            }
        }
        let task = Arc::new(Mutex::new(None));
        let started = Arc::clone(&task);
        let open = async move {
            let task = self.progress.start(format!("unpack {}", layer.diff_id().short()), None);
            *started.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
            self.open_layer(layer).await
        };
        let ended = move |result: &Result<()>| {
            match (task.lock().unwrap_or_else(PoisonError::into_inner).take(), result) {
                (Some(task), Ok(())) => task.done(),
                (Some(task), Err(e)) => task.failed(e),
                // It was there already.
                (None, _) => {}
            }
        };
        let options = UnpackOptions { layer: Some(files), times: table, ..UnpackOptions::default() };
        let layer = LayerToUnpack {
            parent: parent.cloned(),
            chain: name.clone(),
            options,
            open: Box::pin(open),
            ended: Box::new(ended),
        };
        Ok((name, Some(layer)))
    }
}

/// Starts blocking work on a thread of its own, with the lowest priority. Threads that it starts have the same.
fn yielding<T, F>(work: F) -> Result<BoxFuture<'static, Result<T>>>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let (sender, done) = oneshot::channel();
    let body = move || {
        // Of this thread alone, as the kernel has it. Without the right to it the work is only as fast as the rest.
        let _ = rustix::process::nice(19);
        let _ = sender.send(work());
    };
    std::thread::Builder::new()
        .name("layer-background".to_owned())
        .spawn(body)
        .map_err(|e| Error::new(ErrorKind::Io, "cannot start a thread").with_source(e))?;
    Ok(done.map(|done| done.map_err(panicked)?).boxed())
}

fn panicked(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("making a layer panicked").with_source(cause)
}

/// Runs blocking work on a thread for blocking work.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("blocking work panicked").with_source(e))?
}

trait MapErrIo {
    fn map_err_io(self) -> futures::stream::BoxStream<'static, io::Result<Bytes>>;
}

impl MapErrIo for crate::store::ByteStream {
    fn map_err_io(self) -> futures::stream::BoxStream<'static, io::Result<Bytes>> {
        use futures::{StreamExt, TryStreamExt};
        self.map_err(io::Error::from).boxed()
    }
}
