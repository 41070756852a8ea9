//! Fetches layers of images into the store when they are read: each layer once, and a few at a time.

use super::SolveContext;
use super::chain::{Chain, StepLayer};
use super::value::{Layer, LayerChain};
use crate::cache::CacheRecord;
use crate::digest::Hasher;
use crate::media_type;
use crate::progress::Task;
use crate::reference::RepositoryName;
use crate::source::LayerOrigin;
use crate::store::{RegistryStoreExt as _, UploadOptions};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use futures::StreamExt as _;
use std::sync::{Arc, PoisonError};

impl SolveContext {
    /// Fetches the blobs of all layers of a chain into the store.
    pub(crate) async fn fetch_chain(&self, chain: &LayerChain) -> Result<()> {
        let layers = chain.layers().iter().map(|(layer, _)| self.fetch_layer(layer));
        futures::future::try_join_all(layers).await.map(drop)
    }

    /// Fetches the blobs of the layers of images in a chain.
    pub(super) async fn fetch_images(&self, chain: &Chain) -> Result<()> {
        futures::future::try_join_all(chain.down().map(|link| self.fetch_image(&link.layer))).await.map(drop)
    }

    /// Fetches the blob of a layer of an image, or of a step whose result is another machine's.
    pub(super) async fn fetch_image(&self, layer: &StepLayer) -> Result<()> {
        match layer {
            StepLayer::Image(layer) => self.fetch_layer(layer).await,
            StepLayer::Made(made) => self.fetch_imported(made).await,
        }
    }

    /// Fetches the blob of a layer into the store, unless a step made the layer.
    pub(crate) async fn fetch_layer(&self, layer: &Layer) -> Result<()> {
        let Some(origin) = &layer.origin else { return Ok(()) };
        // A non-distributable layer may be missing everywhere (image-spec, "Non-Distributable Layers").
        if media_type::is_non_distributable(&layer.blob.media_type) {
            return Ok(());
        }
        let cell = self.fetch_of(&layer.repository, &layer.blob.digest);
        cell.get_or_try_init(|| self.fetch_once(layer, origin)).await.map(drop)
    }

    /// Fetches the layer of a step whose result is another machine's.
    pub(super) async fn fetch_made(&self, layer: &StepLayer) -> Result<()> {
        match layer {
            StepLayer::Made(made) => self.fetch_imported(made).await,
            StepLayer::Image(_) => Ok(()),
        }
    }

    /// What makes sure that a blob is fetched once.
    pub(super) fn fetch_of(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Arc<tokio::sync::OnceCell<()>> {
        let mut fetched = self.fetched_layers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(fetched.entry((repository.clone(), digest.clone())).or_default())
    }

    async fn fetch_once(&self, layer: &Layer, origin: &LayerOrigin) -> Result<()> {
        if self.store.has_blob(&layer.repository, &layer.blob.digest).await? {
            return Ok(());
        }
        let note = note_of(layer);
        if origin.image().is_kept || self.cache.get(&note).await?.is_some() {
            // The store had it before.
            self.damage.warn(&self.progress, &layer.blob.digest);
        }
        let _permit = self.pulls.acquire().await.map_err(|e| Error::internal("no permits").with_source(e))?;
        let task = self.progress.start(format!("pull {}", layer.blob.digest.short()), Some(layer.blob.size));
        let pulled = self.pull(layer, origin, &task).await;
        task.end_with(pulled.context("image", &origin.image().reference))?;
        let (blob, diff_id) = (layer.blob.clone(), layer.diff_id.clone());
        self.cache.put(&note, &CacheRecord::of_blob(blob, diff_id, layer.repository.clone())).await
    }

    async fn pull(&self, layer: &Layer, origin: &LayerOrigin, task: &Task) -> Result<()> {
        let mut blob = origin.open_layer(&layer.blob).await?;
        if blob.size != layer.blob.size {
            return Err(Error::new(
                ErrorKind::SizeInvalid,
                "the blob has another size than its descriptor says",
            )
            .with_context("digest", &layer.blob.digest)
            .with_context("expected size", layer.blob.size)
            .with_context("got", blob.size));
        }
        let options = UploadOptions { algorithm: Some(layer.blob.digest.algorithm()), digest: None };
        let mut upload = self.store.start_upload(&layer.repository, options).await?;
        while let Some(block) = blob.stream.next().await {
            let appended = match block {
                Ok(block) => {
                    task.advance(block.len() as u64);
                    upload.append(block).await
                }
                Err(e) => Err(e),
            };
            if let Err(e) = appended {
                let _ = upload.abort().await;
                return Err(e);
            }
        }
        upload.finish(&layer.blob.digest).await.map(drop)
    }
}

/// The key of the note that the blob of a layer was fetched. A blob with a note that is missing was lost.
fn note_of(layer: &Layer) -> Digest {
    let mut hasher = Hasher::sha256();
    hasher.update_field("hyper base layer 1");
    hasher.update_field(layer.repository.as_str());
    hasher.update_field(layer.blob.digest.as_str());
    hasher.finish()
}
