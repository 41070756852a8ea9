//! Recompresses layers.

use super::SolveContext;
use super::layers::LAYERS_REPOSITORY;
use super::value::{Layer, LayerChain};
use crate::Result;
use crate::cache::CacheRecord;
use crate::digest::Hasher;
use crate::layer::{CompressOptions, TABLE_DIGEST, write_estargz};
use crate::media_type::Compression;
use std::io;

impl SolveContext {
    /// The chain with recompressed layers: those that the builder made, and with `all` those of base images, too. A layer
    /// that has the compression stays as it is. With `estargz` they are eStargz, whose diff IDs are others.
    pub(crate) async fn recompress(
        &self,
        chain: &LayerChain,
        options: CompressOptions,
        estargz: bool,
        all: bool,
    ) -> Result<LayerChain> {
        let mut layers = Vec::new();
        for (layer, _) in chain.layers() {
            let same = Compression::of_layer(&layer.blob.media_type) == Some(options.compression)
                && (!estargz || layer.blob.annotations.contains_key(TABLE_DIGEST));
            let stays = match layer.repository.as_str() == LAYERS_REPOSITORY {
                true => same && options.level == self.compression_level,
                false => same || !all,
            };
            layers.push(match stays {
                true => layer.clone(),
                false => self.recompressed(layer, options, estargz).await?,
            });
        }
        Ok(LayerChain::new(layers))
    }

    /// A layer in another compression, from the cache or recompressed. Its files are the same.
    async fn recompressed(&self, layer: &Layer, options: CompressOptions, estargz: bool) -> Result<Layer> {
        let mut hasher = Hasher::sha256();
        hasher.update_field("hyper recompress 1");
        hasher.update_field(layer.blob.digest.as_str());
        hasher.update_field(format!("{:?} {:?}", options.compression, options.level));
        if estargz {
            hasher.update_field("estargz 1");
        }
        let key = hasher.finish();
        if let Some(CacheRecord { layer: blob, diff_id, repository, .. }) = self.cache.get(&key).await?
            && self.store.stat_blob(&repository, &blob.digest).await.is_ok()
        {
            return Ok(Layer { blob, diff_id, repository, times: layer.times.clone(), origin: None });
        }
        let task = self.progress.start(format!("recompress {}", layer.diff_id.short()), None);
        let made = match self.open_layer(layer).await {
            Ok(mut tar) => {
                self.store_layer(options, move |mut sink| {
                    if estargz {
                        return Ok((write_estargz(tar, sink)?, ()));
                    }
                    io::copy(&mut tar, &mut sink)?;
                    Ok((sink, ()))
                })
                .await
            }
            Err(e) => Err(e),
        };
        let (made, ()) = task.end_with(made)?;
        let record = CacheRecord {
            layer: made.blob.clone(),
            diff_id: made.diff_id.clone(),
            repository: made.repository.clone(),
            times: None,
            made: None,
        };
        self.cache.put(&key, &record).await?;
        Ok(Layer { times: layer.times.clone(), ..made })
    }
}
