//! Results of other machines: steps that are found in an imported cache, and the fetching of their layers.
//!
//! # Invariants
//! - What this machine has in its own cache counts before what a cache of another machine has.
//! - A layer is fetched when its files or its blob are needed. It has the digests that the record names, uncompressed too,
//!   before its record enters the cache of this machine.

use super::SolveContext;
use super::made_layer::{BlobTime, MadeLayer};
use super::sink::LAYERS_REPOSITORY;
use super::value::{LayerTimes, Planned};
use crate::cache::{CacheRecord, Imported};
use crate::layer::scan;
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::store::{RegistryStoreExt as _, UploadOptions};
use crate::{Digest, Error, Result};
use futures::StreamExt as _;
use std::io;

/// Who is to blame for a failed fetch.
enum Failure {
    /// The cache of the other machine.
    Cache(Error),
    /// This machine.
    Own(Error),
}

impl SolveContext {
    /// The layer of the first of these keys that a cache of another machine has. `planned` gives the current times of its
    /// files, when the keys depend on them.
    pub(super) async fn find_imported(
        &self,
        keys: &[Digest],
        planned: impl FnOnce() -> Option<Planned>,
        time: BlobTime,
    ) -> Result<Option<MadeLayer>> {
        for key in keys {
            let Some(imported) = self.imports.get(key).await else { continue };
            let shared = &imported.record;
            let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
            let record = CacheRecord {
                times: shared.times.as_ref().map(|(name, _)| name.clone()),
                made: shared.made,
                ..CacheRecord::of_blob(shared.layer.clone(), shared.diff_id.clone(), repository)
            };
            let planned = planned().map(|planned| planned.for_cached(record.made));
            let times = planned.or(record.times.clone().map(LayerTimes::Kept));
            return Ok(Some(MadeLayer::imported(record, times, keys.to_vec(), time, imported)));
        }
        Ok(None)
    }

    /// Fetches the table of the true times of a layer that is another machine's.
    pub(super) async fn fetch_times(&self, made: &MadeLayer) -> Result<()> {
        let Some(imported) = &made.imported else { return Ok(()) };
        let fetch = async || {
            let Some((name, _)) = &imported.record.times else { return Ok(()) };
            if self.has_times(name) {
                return Ok(());
            }
            let table = self.imports.times(imported).await;
            let lose = |e: &Error| {
                if let Some(times) = imported.times() {
                    self.imports.lose(&times, e);
                }
            };
            match table.inspect_err(lose)? {
                Some(table) => self.keep_times(&table).map(drop),
                None => Ok(()),
            }
        };
        made.fetched[0].get_or_try_init(fetch).await.map(drop)
    }

    /// Fetches a layer that is another machine's, with its times, and puts its record into the cache of this machine.
    ///
    /// # Errors
    /// Those of the cache that it comes from, which is then without the record; those of the store.
    pub(super) async fn fetch_imported(&self, made: &MadeLayer) -> Result<()> {
        let Some(imported) = &made.imported else { return Ok(()) };
        let fetch = async || {
            self.fetch_times(made).await?;
            let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
            // Another record may give the blob another diff ID.
            let (blob, diff_id) = (&imported.record.layer.digest, &imported.record.diff_id);
            let once = self.fetch_of(&repository, &Digest::sha256(format!("{blob} {diff_id}")));
            once.get_or_try_init(|| self.fetch_once_imported(imported, &repository)).await?;
            self.write_record(made).await
        };
        made.fetched[1].get_or_try_init(fetch).await.map(drop)
    }

    async fn fetch_once_imported(&self, imported: &Imported, repository: &RepositoryName) -> Result<()> {
        let (blob, diff_id) = (&imported.record.layer, &imported.record.diff_id);
        if !self.store.has_blob(repository, &blob.digest).await? {
            let permit = self.pulls.acquire().await;
            let _permit = permit.map_err(|e| Error::internal("no permits").with_source(e))?;
            let task = self.progress.start(format!("import {}", blob.digest.short()), Some(blob.size));
            let fetched = match self.receive(imported, repository, &task).await {
                Err(Failure::Cache(e)) => {
                    self.imports.lose(&imported.layer(), &e);
                    Err(e)
                }
                Err(Failure::Own(e)) => Err(e),
                Ok(()) => Ok(()),
            };
            task.end_with(fetched)?;
        }
        // Its files are read once, which checks the layer and gives its index.
        let opened = self.open_blob(repository, blob, diff_id).await;
        let index = match opened {
            Ok(mut tar) => {
                super::blocking(move || {
                    let index = scan(&mut tar)?;
                    io::copy(&mut tar, &mut io::sink())?;
                    Ok(index)
                })
                .await
            }
            Err(e) => Err(e),
        };
        let index = index.inspect_err(|e| self.imports.lose(&imported.layer(), e))?;
        self.save_index(diff_id, &index)
    }

    /// Fetches a blob into the store, which checks its digest.
    async fn receive(
        &self,
        imported: &Imported,
        repository: &RepositoryName,
        task: &crate::progress::Task,
    ) -> std::result::Result<(), Failure> {
        let shared = imported.layer();
        let mut reader = self.imports.open(&shared).await.map_err(Failure::Cache)?;
        let options = UploadOptions { algorithm: Some(shared.blob.digest.algorithm()), digest: None };
        let mut upload = self.store.start_upload(repository, options).await.map_err(Failure::Own)?;
        while let Some(block) = reader.stream.next().await {
            let appended = match block {
                Ok(block) => {
                    task.advance(block.len() as u64);
                    upload.append(block).await.map_err(Failure::Own)
                }
                Err(e) => Err(Failure::Cache(e)),
            };
            if let Err(failure) = appended {
                let _ = upload.abort().await;
                return Err(failure);
            }
        }
        upload.finish(&shared.blob.digest).await.map(drop).map_err(|e| match e.kind() {
            crate::ErrorKind::DigestInvalid | crate::ErrorKind::SizeInvalid => Failure::Cache(e),
            _ => Failure::Own(e),
        })
    }

    /// The blob of a layer that is another machine's, fetched, when it is the one of this key: in the wanted compression.
    pub(super) async fn imported_blob(&self, made: &MadeLayer, key: &Digest) -> Result<Option<Descriptor>> {
        let Some(imported) = made.imported.as_ref().filter(|it| it.record.form.as_ref() == Some(key)) else {
            return Ok(None);
        };
        self.fetch_imported(made).await?;
        Ok(Some(imported.record.layer.clone()))
    }
}
