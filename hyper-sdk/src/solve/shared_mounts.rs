//! The contents of cache mounts that machines share, where a build asks for that.
//!
//! # Invariants
//! - What leaves the machine are the folders that steps of the build mount, whether the steps ran or were cached.
//! - Nothing uses a folder while it is read.
//! - A folder that exists stays as it is. Another one is filled before the first step uses it, and only for a step that runs.
//! - A content that cannot be had is a warning: caches may be empty at any time.

use super::mounts::{CacheFolder, Caches, Lock, wait_for_lock};
use super::sink::LAYERS_REPOSITORY;
use super::used_mounts::UsedMount;
use super::{SolveContext, StepResult, blocking};
use crate::cache::{MAX_SHARED_MOUNT, MountImport, PackedMount};
use crate::graph::{MountKind, Op, Vertex};
use crate::layer::{CompressOptions, LayerCompressor, VerifiedLayer};
use crate::media_type::Compression;
use crate::progress::{Event, Task};
use crate::reference::RepositoryName;
use crate::{Digest, Error, ErrorKind, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use std::io::{self, BufWriter, Read as _};
use std::path::Path;
use std::sync::PoisonError;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// After how many more bytes progress is reported.
const TOLD_AFTER: u64 = 1 << 20;

impl SolveContext {
    /// Notes the cache mounts of a step, when their contents are for other machines.
    pub(super) async fn note_mounts(&self, vertex: &Vertex, inputs: &[StepResult]) -> Result<()> {
        let (Some(used), Op::Exec(exec)) = (&self.used_mounts, &vertex.op) else { return Ok(()) };
        for mount in &exec.mounts {
            let MountKind::Cache { id, owner, .. } = &mount.kind else { continue };
            let Some(name) = self.cache_name(&mount.kind, inputs).await? else { continue };
            let mount = UsedMount { id: id.clone(), has_owner: owner.is_some() };
            used.lock().unwrap_or_else(PoisonError::into_inner).insert(name, mount);
        }
        Ok(())
    }

    /// The contents of the cache mounts of the steps. One that is not here is taken from an imported cache that has it and
    /// gives the contents of cache mounts. One that cannot be read is left out with a warning.
    ///
    /// # Errors
    /// [`ErrorKind::StorageFull`] when there is no room for the compressed files.
    pub(crate) async fn pack_mounts(&self) -> Result<Vec<PackedMount>> {
        let Some(used) = &self.used_mounts else { return Ok(Vec::new()) };
        let used = used.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut packed = Vec::new();
        for (name, mount) in used {
            let key = match mount.has_owner {
                true => self.generation(name.hex(), false)?,
                false => name.hex().to_owned(),
            };
            let folder = self.cache_mounts.join(key);
            if !is_there(&folder) {
                packed.extend(self.imports.mount(&name).await.map(PackedMount::imported));
                continue;
            }
            let id = mount.id.escape_debug().to_string();
            let task = self.progress.start(format!("read cache mount {id}"), None);
            match self.pack_mount(&name, &folder).await {
                Ok(mount) => packed.push(mount),
                Err(e) if e.kind() == ErrorKind::StorageFull => return task.end_with(Err(e)),
                Err(e) => {
                    task.warn(format!(
                        "the content of the cache mount `{id}` is not exported: {}",
                        reason(&e)
                    ));
                }
            }
            task.done();
        }
        Ok(packed)
    }

    async fn pack_mount(&self, name: &Digest, folder: &Path) -> Result<PackedMount> {
        // In this order, and one folder after the other: whoever waits for one of these has none that is waited for here.
        let _alone = wait_for_lock(folder, Lock::Alone).await?;
        let _still = wait_for_lock(folder, Lock::Still).await?;
        if std::fs::symlink_metadata(folder).is_ok_and(|meta| !meta.is_dir()) {
            return Err(Error::unsupported("it is a file, and only folders are exported"));
        }
        let files = self.executor.pack_cache(folder).await?;
        let scratch = self.scratch.clone();
        let (layer, file) = blocking(move || {
            let failed = |e| Error::io("cannot write the content of a cache mount", &scratch, e);
            let file = tempfile::tempfile_in(&scratch).map_err(failed)?;
            let options = CompressOptions::new(Compression::Zstd);
            let mut compressor = LayerCompressor::new(BufWriter::new(file), options)?;
            let mut files = files.take(MAX_SHARED_MOUNT + 1);
            if io::copy(&mut files, &mut compressor)? > MAX_SHARED_MOUNT {
                return Err(Error::new(ErrorKind::TooLarge, "it is too large")
                    .with_context("limit", MAX_SHARED_MOUNT));
            }
            let (sink, layer) = compressor.finish()?;
            Ok((layer, sink.into_inner().map_err(|e| failed(e.into_error()))?))
        })
        .await?;
        Ok(PackedMount::in_file(name.clone(), layer, file))
    }

    /// Fills the cache folders of a command that do not exist with what an imported cache has for them.
    ///
    /// # Errors
    /// Those of this machine. What the imported cache has and cannot be used is a warning.
    pub(super) async fn fill_caches(&self, caches: &Caches) -> Result<()> {
        if !self.imports.wants_mounts() {
            return Ok(());
        }
        for cache in &caches.shareable {
            let repository = RepositoryName::parse(LAYERS_REPOSITORY)?;
            let of_folder = Digest::sha256(cache.folder.as_os_str().as_encoded_bytes());
            let once = self.fetch_of(&repository, &of_folder);
            once.get_or_try_init(|| self.fill_cache(cache)).await?;
        }
        Ok(())
    }

    async fn fill_cache(&self, cache: &CacheFolder) -> Result<()> {
        while !is_there(&cache.folder) {
            let Some(import) = self.imports.mount(&cache.name).await else { return Ok(()) };
            let id = cache.id.escape_debug();
            let size = import.mount.blob.size;
            let task = self.progress.start(format!("import cache mount {id}"), Some(size));
            let filled = self.fill_from(&cache.folder, &import, &task).await;
            match filled {
                Ok(()) => {
                    task.done();
                    return Ok(());
                }
                Err(e) => {
                    self.imports.lose_mount(&cache.id, &import, &e);
                    task.failed(&e);
                }
            }
        }
        Ok(())
    }

    async fn fill_from(&self, folder: &Path, import: &MountImport, task: &Task) -> Result<()> {
        let (progress, id, total) = (task.progress().clone(), task.id(), import.mount.blob.size);
        let (mut done, mut told) = (0, 0);
        let reader = self.imports.open(&import.blob()).await?;
        let blocks = reader.stream.map_err(io::Error::from).inspect(move |block| {
            if let Ok(block) = block {
                done += block.len() as u64;
                if done - told >= TOLD_AFTER || done == total {
                    told = done;
                    progress.send(Event::Advanced { task: id, done, total: Some(total) });
                }
            }
        });
        let archive = SyncIoBridge::new(StreamReader::new(blocks.boxed()));
        let mount = import.mount.clone();
        let opened = blocking(move || {
            let blob = mount.blob;
            VerifiedLayer::new(archive, blob.digest, blob.size, Some(mount.diff_id))
                .map(|archive| archive.with_limit(mount.size))
        });
        self.executor.fill_cache(folder, Box::new(opened.await?)).await
    }
}

/// Whether a cache has its folder: at its place, or lent to a step without isolation.
fn is_there(folder: &Path) -> bool {
    [folder, &folder.with_extension("lent")].iter().any(|path| std::fs::symlink_metadata(path).is_ok())
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
