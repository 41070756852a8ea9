//! What other machines get of the results of a build: records of steps, their layers, and what keys are computed with.

use super::SolveContext;
use super::blobs::blob_key;
use super::chain::{Chain, StepLayer, StepResult};
use super::made_layer::MadeLayer;
use super::sink::LAYERS_REPOSITORY;
use super::value::LayerTimes;
use crate::cache::{CacheBundle, SharedBlob, SharedContent, SharedRecord};
use crate::layer::CompressOptions;
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::RegistryStoreExt as _;
use crate::{Digest, Result};
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

impl SolveContext {
    /// Keeps the result of a vertex for a cache that other machines import.
    pub(super) fn keep_result(&self, result: &StepResult) {
        if let (Some(results), StepResult::Chain(chain)) = (&self.results, result) {
            results.lock().unwrap_or_else(PoisonError::into_inner).push(chain.clone());
        }
    }

    /// The records of chains, or without any of all steps, with their blobs. `compress` is how layers are compressed;
    /// without, as the build does it, and a layer that another machine made stays as it is. Records and indexes whose blobs
    /// an imported cache has lost are left out.
    ///
    /// # Errors
    /// Those of making blobs and of the store.
    pub(crate) async fn shared(
        &self,
        chains: Option<&[Chain]>,
        compress: Option<CompressOptions>,
    ) -> Result<CacheBundle> {
        let chains = match (chains, &self.results) {
            (Some(chains), _) => chains.to_vec(),
            (None, Some(results)) => results.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            (None, None) => Vec::new(),
        };
        let (mut cache, mut seen) = (CacheBundle::default(), HashSet::new());
        let (mut keyed, mut indexed) = (HashSet::new(), HashSet::new());
        for chain in &chains {
            for link in chain.down() {
                // What is below was seen with it.
                if !seen.insert(Arc::as_ptr(&link.layer) as usize) {
                    break;
                }
                // A result that is not kept here is not for others either.
                if let StepLayer::Made(made) = &*link.layer
                    && made.keys.first().is_some_and(|key| keyed.insert(key.clone()))
                {
                    self.share_layer(&link.layer, made, compress, &mut cache).await?;
                }
                if indexed.insert(link.layer.diff_id().clone()) {
                    self.share_index(link.layer.diff_id(), &mut cache).await?;
                }
            }
        }
        Ok(cache)
    }

    async fn share_layer(
        &self,
        layer: &StepLayer,
        made: &MadeLayer,
        compress: Option<CompressOptions>,
        cache: &mut CacheBundle,
    ) -> Result<()> {
        let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
        let options = compress.unwrap_or_else(|| self.compress_options());
        let wanted = blob_key(&made.diff_id, options);
        let is_wanted = |form: &Option<Digest>| compress.is_none() || form.as_ref() == Some(&wanted);
        let imported = made.imported.as_ref().filter(|imported| is_wanted(&imported.record.form));
        let is_lost = |blob: &SharedBlob| self.imports.is_lost(blob);
        let record = made.record();
        if let (Some(name), Some(imported)) = (&record.times, &made.imported)
            && imported.times().is_some_and(|times| is_lost(&times))
            && !self.has_times(name)
        {
            return Ok(());
        }
        let (blob, form, content) = match imported {
            Some(imported) => {
                let blob = imported.layer();
                let content = match self.store.has_blob(&repository, &blob.blob.digest).await? {
                    true => SharedContent::Stored(repository),
                    false if is_lost(&blob) => return Ok(()),
                    false => SharedContent::Imported(Box::new(blob.clone())),
                };
                (blob.blob, imported.record.form.clone(), content)
            }
            None => {
                let blob = match self.blob(layer, made, options, false).await {
                    // It was to be fetched for this, and the cache that has it says so now.
                    Err(_)
                        if made.imported.as_ref().is_some_and(|imported| {
                            is_lost(&imported.layer())
                                || imported.times().is_some_and(|times| is_lost(&times))
                        }) =>
                    {
                        return Ok(());
                    }
                    blob => blob?,
                };
                (blob, Some(wanted), SharedContent::Stored(repository))
            }
        };
        cache.add(&blob, content);
        let times = match &record.times {
            Some(name) => self.share_times(name, made, cache).await?.map(|blob| (name.clone(), blob)),
            None => None,
        };
        cache.records.records.push(SharedRecord {
            keys: made.keys.clone(),
            diff_id: made.diff_id.clone(),
            layer: blob,
            form,
            times,
            made: record.made,
        });
        Ok(())
    }

    async fn share_times(
        &self,
        name: &Digest,
        made: &MadeLayer,
        cache: &mut CacheBundle,
    ) -> Result<Option<Descriptor>> {
        if let Some(imported) = made.imported.as_ref().and_then(|imported| imported.times())
            && !self.has_times(name)
        {
            cache.add(&imported.blob, SharedContent::Imported(Box::new(imported.clone())));
            return Ok(Some(imported.blob));
        }
        match self.times(Some(&LayerTimes::Kept(name.clone()))) {
            Some(table) => cache.add_times(table.to_bytes()),
            None => Ok(None),
        }
    }

    /// Keys of copies depend on the files below, which are known by their index.
    async fn share_index(&self, diff_id: &Digest, cache: &mut CacheBundle) -> Result<()> {
        if let Ok(bytes) = tokio::fs::read(self.index_path(diff_id)).await {
            return cache.add_index(diff_id, &bytes);
        }
        if let Some(shared) = self.imports.index_blob(diff_id).await {
            cache.add(&shared.blob, SharedContent::Imported(Box::new(shared.clone())));
            cache.records.indexes.push((diff_id.clone(), shared.blob));
        }
        Ok(())
    }

    /// The records of the layers of a chain for the config of an image that has these blobs, each with its number.
    pub(crate) fn inline_records(
        &self,
        chain: &Chain,
        blobs: impl Iterator<Item = Descriptor>,
        options: CompressOptions,
    ) -> Vec<(usize, SharedRecord)> {
        let mut records = Vec::new();
        for (at, (link, blob)) in chain.links().into_iter().zip(blobs).enumerate() {
            let StepLayer::Made(made) = &*link.layer else { continue };
            if made.keys.is_empty() {
                continue;
            }
            let form = Some(blob_key(&made.diff_id, options));
            let (keys, diff_id) = (made.keys.clone(), made.diff_id.clone());
            records.push((at, SharedRecord { keys, diff_id, layer: blob, form, times: None, made: None }));
        }
        records
    }
}
