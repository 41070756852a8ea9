//! The blobs of layers: made when something needs them, in the compression that it needs.

use super::SolveContext;
use super::chain::{Chain, StepLayer};
use super::layers::Stored;
use super::made_layer::MadeLayer;
use super::retime::rewrite;
use super::sink::LAYERS_REPOSITORY;
use super::value::{Layer, LayerChain};
use crate::cache::CacheRecord;
use crate::digest::Hasher;
use crate::layer::{CompressOptions, LayerWriter, TABLE_DIGEST};
use crate::media_type::Compression;
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::RegistryStoreExt as _;
use crate::{Digest, Error, ErrorKind, Result};
use std::io;
use std::sync::Arc;

/// How an output wants the layers of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishOptions {
    pub(crate) compress: CompressOptions,
    /// Whether they are eStargz.
    pub(crate) estargz: bool,
    /// Whether layers of base images are recompressed, too.
    pub(crate) all: bool,
    /// Whether layers that the builder made have the true times of their files.
    pub(crate) true_times: bool,
}

impl SolveContext {
    /// The complete layers of a chain, with blobs for the layers that the builder made. A layer of a base image that has
    /// the compression stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when true times are asked for and those of a layer are lost; those of the store.
    pub(crate) async fn publish(&self, chain: &Chain, options: PublishOptions) -> Result<LayerChain> {
        // A few at once.
        futures::future::try_join_all(chain.down().map(|link| self.fetch_made(&link.layer))).await?;
        let mut layers = Vec::with_capacity(chain.depth());
        for link in chain.links() {
            let layer = match &*link.layer {
                StepLayer::Made(made) if options.true_times => {
                    Arc::new(StepLayer::Image(self.retimed(&link.layer, made, options.compress).await?))
                }
                _ => Arc::clone(&link.layer),
            };
            let is_own = matches!(&*link.layer, StepLayer::Made(_));
            layers.push(self.published(&layer, options, is_own || options.all).await?);
        }
        Ok(LayerChain::new(layers))
    }

    /// A complete layer. One that has a blob stays as it is when `may_change` is not set.
    async fn published(&self, layer: &StepLayer, options: PublishOptions, may_change: bool) -> Result<Layer> {
        if let StepLayer::Image(complete) = layer {
            let compression = Compression::of_layer(&complete.blob.media_type);
            let same = compression == Some(options.compress.compression)
                && (!options.estargz || complete.blob.annotations.contains_key(TABLE_DIGEST));
            if same || !may_change {
                return Ok(complete.clone());
            }
        }
        if options.estargz {
            return self.estargz(layer, options.compress).await;
        }
        let blob = match layer {
            StepLayer::Made(made) => self.blob(layer, made, options.compress, false).await?,
            StepLayer::Image(_) => self.compressed(layer, options.compress, false).await?,
        };
        complete(blob, layer.diff_id().clone(), layer)
    }

    /// The blob of a step's layer. Whoever asks while it is being made waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when nothing has the files of the layer any more; those of the store.
    pub(super) async fn blob(
        &self,
        layer: &StepLayer,
        made: &MadeLayer,
        options: CompressOptions,
        in_background: bool,
    ) -> Result<Descriptor> {
        if (options.compression, options.level) != (self.compression, self.compression_level) {
            return self.compressed(layer, options, in_background).await;
        }
        let make = || self.compressed(layer, options, in_background);
        made.blob.get_or_try_init(make).await.cloned()
    }

    /// A blob of a layer in a compression, from the store or made.
    async fn compressed(
        &self,
        layer: &StepLayer,
        options: CompressOptions,
        in_background: bool,
    ) -> Result<Descriptor> {
        let diff_id = layer.diff_id();
        if let Some(blob) = self.kept_blob(&blob_key(diff_id, options)).await? {
            self.note_blob(layer, &blob).await?;
            return Ok(blob);
        }
        if let StepLayer::Made(made) = layer
            && let Some(blob) = self.imported_blob(made, &blob_key(diff_id, options)).await?
        {
            self.keep_blob(&blob_key(diff_id, options), &blob, diff_id).await?;
            return Ok(blob);
        }
        // A layer that has a blob already is compressed once more, which is worth telling.
        let again = match layer {
            StepLayer::Image(_) => true,
            StepLayer::Made(made) => made.record().layer.is_some(),
        };
        let task = again.then(|| self.progress.start(format!("recompress {}", diff_id.short()), None));
        let stored = match self.open_layer(layer).await {
            Ok(mut tar) => {
                self.store_layer(options, in_background, move |mut sink| {
                    io::copy(&mut tar, &mut sink)?;
                    Ok((sink, ()))
                })
                .await
            }
            Err(e) => Err(e),
        };
        let stored = match task {
            Some(task) => task.end_with(stored),
            None => stored,
        };
        let (stored, ()) = stored?;
        if stored.diff_id != *diff_id {
            return Err(Error::internal("a layer has other bytes than when it was made")
                .with_context("layer", diff_id));
        }
        self.keep_blob(&blob_key(diff_id, options), &stored.blob, diff_id).await?;
        self.note_blob(layer, &stored.blob).await?;
        Ok(stored.blob)
    }

    /// Notes the blob of a step's layer in its record.
    async fn note_blob(&self, layer: &StepLayer, blob: &Descriptor) -> Result<()> {
        match layer {
            StepLayer::Made(made) => self.has_blob(made, blob).await,
            StepLayer::Image(_) => Ok(()),
        }
    }

    /// Remembers a blob that was made together with its step.
    pub(super) async fn keep_own_blob(&self, diff_id: &Digest, blob: &Descriptor) -> Result<()> {
        self.keep_blob(&blob_key(diff_id, self.compress_options()), blob, diff_id).await
    }

    async fn kept_blob(&self, key: &Digest) -> Result<Option<Descriptor>> {
        let Some(CacheRecord { layer: Some(blob), repository, .. }) = self.cache.get(key).await? else {
            return Ok(None);
        };
        if self.sees_blob(&repository, &blob.digest).await? {
            return Ok(Some(blob));
        }
        self.damage.warn(&self.progress, &blob.digest);
        Ok(None)
    }

    async fn keep_blob(&self, key: &Digest, blob: &Descriptor, diff_id: &Digest) -> Result<()> {
        let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
        self.cache.put(key, &CacheRecord::of_blob(blob.clone(), diff_id.clone(), repository)).await
    }

    /// A layer with true times instead of at most the epoch, from the cache or rewritten.
    async fn retimed(&self, layer: &StepLayer, made: &MadeLayer, options: CompressOptions) -> Result<Layer> {
        self.fetch_times(made).await?;
        let Some(times) = self.times(made.times.as_ref()) else {
            let message = "the times of the files of a cached layer are not known: build once without the cache, or \
                           leave `rewrite-timestamp=false` out";
            return Err(Error::new(ErrorKind::NotFound, message).with_context("layer", &made.diff_id));
        };
        let mut hasher = Hasher::sha256();
        hasher.update_field("hyper true times 2");
        hasher.update_field(made.diff_id.as_str());
        hasher.update_field(times.digest().as_str());
        hasher.update_field(format!("{:?} {:?}", options.compression, options.level));
        let key = hasher.finish();
        if let Some(kept) = self.kept_layer(&key).await? {
            return Ok(kept);
        }
        let task = self.progress.start(format!("put times into {}", made.diff_id.short()), None);
        let stored = match self.open_layer(layer).await {
            Ok(tar) => {
                self.store_layer(options, false, move |sink| {
                    let mut writer = LayerWriter::new(sink, None);
                    rewrite(tar, &times, &mut writer)?;
                    Ok((writer.finish()?.0, ()))
                })
                .await
            }
            Err(e) => Err(e),
        };
        let (stored, ()) = task.end_with(stored)?;
        self.keep_layer(&key, stored).await
    }

    /// A layer as eStargz, whose diff ID is another, from the cache or written.
    async fn estargz(&self, layer: &StepLayer, options: CompressOptions) -> Result<Layer> {
        let mut hasher = Hasher::sha256();
        hasher.update_field("hyper estargz 2");
        hasher.update_field(layer.diff_id().as_str());
        hasher.update_field(format!("{:?} {:?}", options.compression, options.level));
        let key = hasher.finish();
        if let Some(kept) = self.kept_layer(&key).await? {
            return Ok(Layer { times: layer.times().cloned(), ..kept });
        }
        let task = self.progress.start(format!("recompress {}", layer.diff_id().short()), None);
        let stored = match self.open_layer(layer).await {
            Ok(tar) => self.store_layer(options, false, move |sink| Ok((sink.estargz(tar)?, ()))).await,
            Err(e) => Err(e),
        };
        let (stored, ()) = task.end_with(stored)?;
        Ok(Layer { times: layer.times().cloned(), ..self.keep_layer(&key, stored).await? })
    }

    /// A layer that was made of another one and has a diff ID of its own.
    async fn kept_layer(&self, key: &Digest) -> Result<Option<Layer>> {
        let Some(CacheRecord { layer: Some(blob), diff_id, repository, .. }) = self.cache.get(key).await?
        else {
            return Ok(None);
        };
        let is_there = self.store.has_blob(&repository, &blob.digest).await?;
        Ok(is_there.then_some(Layer { blob, diff_id, repository, times: None, origin: None }))
    }

    async fn keep_layer(&self, key: &Digest, stored: Stored) -> Result<Layer> {
        self.keep_blob(key, &stored.blob, &stored.diff_id).await?;
        let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
        Ok(Layer { blob: stored.blob, diff_id: stored.diff_id, repository, times: None, origin: None })
    }
}

/// The complete layer with a blob of the builder's own.
fn complete(blob: Descriptor, diff_id: Digest, layer: &StepLayer) -> Result<Layer> {
    let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
    Ok(Layer { blob, diff_id, repository, times: layer.times().cloned(), origin: None })
}

/// The key of the record of a blob: what its bytes depend on.
pub(super) fn blob_key(diff_id: &Digest, options: CompressOptions) -> Digest {
    let mut hasher = Hasher::sha256();
    hasher.update_field("hyper blob 1");
    hasher.update_field(diff_id.as_str());
    hasher.update_field(format!("{:?} {:?}", options.compression, options.level));
    hasher.finish()
}
