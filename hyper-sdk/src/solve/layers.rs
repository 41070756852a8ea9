//! Stores layers as blobs with an index, and unpacks blobs into snapshots.

use super::SolveContext;
use super::value::{Layer, LayerChain, LayerTimes, files_name, snapshot_name};
use crate::layer::{CompressOptions, CompressedLayer, LayerCompressor};
use crate::layer::{EntryTimes, LayerIndex, LayerWriter, ReadAhead, TreeIndex, VerifiedLayer};
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::snapshot::{TarStream, UnpackOptions};
use crate::store::{RegistryStoreExt as _, UploadOptions};
use crate::{Digest, Error, Result, ResultExt as _, media_type};
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// The repository of the local store that keeps the layers of build steps.
pub(crate) const LAYERS_REPOSITORY: &str = "hyper.local/layers";

/// Writes into a channel that an upload drains.
#[derive(Debug)]
pub(super) struct ChannelWriter(mpsc::Sender<Bytes>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::Error::other("the store stopped taking the layer"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) type LayerSink = LayerCompressor<ChannelWriter>;

impl SolveContext {
    /// Makes a layer. `write` writes it on a blocking thread, and returns the true times of its entries. The layer is hashed,
    /// compressed and stored meanwhile.
    pub(super) async fn make_layer<F>(&self, write: F) -> Result<(Layer, EntryTimes)>
    where
        F: FnOnce(&mut LayerWriter<LayerSink>) -> Result<EntryTimes> + Send + 'static,
    {
        let options =
            CompressOptions { level: self.compression_level, ..CompressOptions::new(self.compression) };
        let epoch = self.epoch().await?;
        let write = move |sink| {
            let mut writer = LayerWriter::new(sink, Some(epoch));
            let times = write(&mut writer)?;
            let (sink, index) = writer.finish()?;
            Ok((sink, (index, times)))
        };
        let (layer, (index, times)) = self.store_layer(options, write).await?;
        self.save_index(&layer.diff_id, &index)?;
        Ok((layer, times))
    }

    /// Stores the output of `write` as the blob of a layer.
    pub(super) async fn store_layer<F, T>(&self, options: CompressOptions, write: F) -> Result<(Layer, T)>
    where
        F: FnOnce(LayerSink) -> Result<(LayerSink, T)> + Send + 'static,
        T: Send + 'static,
    {
        let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
        let (sender, mut blocks) = mpsc::channel::<Bytes>(8);
        let work = tokio::task::spawn_blocking(move || -> Result<(CompressedLayer, T)> {
            let (sink, more) = write(LayerCompressor::new(ChannelWriter(sender), options)?)?;
            Ok((sink.finish()?.1, more))
        });
        let mut upload = self.store.start_upload(&repository, UploadOptions::default()).await?;
        while let Some(block) = blocks.recv().await {
            if let Err(e) = upload.append(block).await {
                drop(blocks);
                let _ = upload.abort().await;
                return Err(e);
            }
        }
        let made = work.await.map_err(|e| Error::internal("making a layer panicked").with_source(e));
        let (compressed, more) = match made.and_then(|r| r) {
            Ok(made) => made,
            Err(e) => {
                let _ = upload.abort().await;
                return Err(e);
            }
        };
        upload.finish(&compressed.digest).await?;
        let mut blob = Descriptor::new(compressed.media_type, compressed.digest, compressed.size);
        blob.annotations = compressed.annotations;
        let layer = Layer { blob, diff_id: compressed.diff_id, repository, times: None, origin: None };
        Ok((layer, more))
    }

    /// Makes a layer from a tar with true times.
    pub(super) async fn layer_of_tar(&self, tar: TarStream) -> Result<(Layer, EntryTimes)> {
        self.make_layer(move |writer| {
            writer.append_all(tar)?;
            Ok(writer.take_times())
        })
        .await
    }

    pub(super) fn index_path(&self, diff_id: &Digest) -> PathBuf {
        self.index_folder.join(diff_id.hex())
    }

    fn save_index(&self, diff_id: &Digest, index: &LayerIndex) -> Result<()> {
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
    pub(super) async fn index(&self, layer: &Layer) -> Result<Arc<LayerIndex>> {
        if let Some(index) = self.indexes.lock().await.get(&layer.diff_id) {
            return Ok(Arc::clone(index));
        }
        let path = self.index_path(&layer.diff_id);
        let index = match std::fs::read(&path).ok().and_then(|bytes| LayerIndex::from_bytes(&bytes).ok()) {
            Some(index) => index,
            None => {
                let reader = self.open_layer(layer).await?;
                let index = blocking(move || crate::layer::scan(reader)).await?;
                self.save_index(&layer.diff_id, &index)?;
                index
            }
        };
        let index = Arc::new(index);
        self.indexes.lock().await.insert(layer.diff_id.clone(), Arc::clone(&index));
        Ok(index)
    }

    /// The layers of images that have no index.
    async fn unknown<'a>(&self, chain: &'a LayerChain) -> Vec<&'a Layer> {
        let known = self.indexes.lock().await;
        let is_unknown = |layer: &&Layer| {
            layer.origin.is_some()
                && !known.contains_key(&layer.diff_id)
                && !self.index_path(&layer.diff_id).exists()
        };
        chain.layers().iter().map(|(layer, _)| layer).filter(is_unknown).collect()
    }

    /// Whether a layer of the chain has no index, so that its blob may have to be pulled.
    pub(super) async fn has_unknown(&self, chain: &LayerChain) -> bool {
        for layer in self.unknown(chain).await {
            if !matches!(self.store.has_blob(&layer.repository, &layer.blob.digest).await, Ok(true)) {
                return true;
            }
        }
        false
    }

    /// Brings the layers of a chain that have no index yet, all at once.
    async fn fetch_unknown(&self, chain: &LayerChain) -> Result<()> {
        let unknown = self.unknown(chain).await;
        futures::future::try_join_all(unknown.into_iter().map(|layer| self.fetch_layer(layer)))
            .await
            .map(drop)
    }

    /// The merged view of a chain.
    pub(super) async fn tree(&self, chain: &LayerChain) -> Result<TreeIndex> {
        self.fetch_unknown(chain).await?;
        let mut layers = Vec::new();
        for (layer, _) in chain.layers() {
            layers.push(self.index(layer).await?);
        }
        blocking(move || Ok(TreeIndex::new(layers))).await
    }

    /// The paths of the indexes of a chain, lowest first. Missing indexes are made.
    pub(super) async fn index_paths(&self, chain: &LayerChain) -> Result<Vec<PathBuf>> {
        self.fetch_unknown(chain).await?;
        let mut paths = Vec::new();
        for (layer, _) in chain.layers() {
            self.index(layer).await?;
            paths.push(self.index_path(&layer.diff_id));
        }
        Ok(paths)
    }

    /// The uncompressed tar of a layer. A blob that does not match its digests gives an error at its end.
    pub(crate) async fn open_layer(&self, layer: &Layer) -> Result<Box<dyn Read + Send>> {
        media_type::check_layer(&layer.blob.media_type).context("digest", &layer.blob.digest)?;
        self.fetch_layer(layer).await?;
        let blob = self.store.get_blob(&layer.repository, &layer.blob.digest, None).await?;
        let reader = SyncIoBridge::new(StreamReader::new(blob.stream.map_err_io()));
        let (blob, diff_id) = (layer.blob.clone(), layer.diff_id.clone());
        let damage = self.damage.clone();
        blocking(move || {
            let digest = blob.digest.clone();
            let tar = VerifiedLayer::new(reader, blob.digest, blob.size, Some(diff_id))
                .inspect_err(|_| damage.suspect(&digest))?;
            Ok(Box::new(damage.watch(&digest, ReadAhead::new(tar)?)) as Box<dyn Read + Send>)
        })
        .await
    }

    /// Unpacks a chain with the true times of its files, and returns the name of its snapshot.
    pub(crate) async fn unpack(&self, chain: &LayerChain) -> Result<Option<Digest>> {
        let mut names = chain.snapshots();
        let mut from = 0;
        for (at, name) in names.iter().enumerate().rev() {
            if self.snapshotter.has(name).await? {
                from = at + 1;
                break;
            }
        }
        // Fetches that run already are shared.
        let fetch = chain.layers()[from..].iter().map(|(layer, _)| self.fetch_layer(layer));
        let unpack = async {
            for (at, (layer, id)) in chain.layers().iter().enumerate().skip(from) {
                let below = at.checked_sub(1).map(|below| (&names[below], &chain.layers()[below].1));
                names[at] = self.unpack_layer(layer, id, below).await?;
            }
            Ok(())
        };
        futures::future::try_join(futures::future::try_join_all(fetch), unpack).await?;
        Ok(names.pop())
    }

    /// Unpacks one layer onto the snapshot `below`, which is a name and a chain ID. Returns the name of the new snapshot.
    async fn unpack_layer(
        &self,
        layer: &Layer,
        chain: &Digest,
        below: Option<(&Digest, &Digest)>,
    ) -> Result<Digest> {
        let parent = below.map(|(name, _)| name);
        let mut table = None;
        let mut times = layer.times.as_ref().map(LayerTimes::digest);
        loop {
            let name = snapshot_name(below, layer, chain, times);
            let files = files_name(chain, times);
            if self.snapshotter.share(parent, &name, &files).await? {
                return Ok(name);
            }
            if times.is_some() && table.is_none() {
                table = self.times(layer.times.as_ref());
                if table.is_none() {
                    // Without the times it is another snapshot.
                    times = None;
                    continue;
                }
            }
            let task = self.progress.start(format!("unpack {}", layer.diff_id.short()), None);
            let result = match self.open_layer(layer).await {
                Ok(tar) => {
                    let options =
                        UnpackOptions { layer: Some(files), times: table, ..UnpackOptions::default() };
                    self.snapshotter.apply(parent, &name, options, tar).await
                }
                Err(e) => Err(e),
            };
            task.end_with(result)?;
            return Ok(name);
        }
    }
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
