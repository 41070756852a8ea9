//! One step: its keys and its record in the cache; and the context that all steps of a graph share.

use super::options::{EpochChoice, SolverBackends, SolverOptions};
use super::value::{Layer, LayerChain, LayerTimes, Planned, StepResult};
use super::{Failed, PendingResult, StepReport};
use crate::cache::{CacheRecord, SharedCache};
use crate::digest::Hasher;
use crate::exec::{DevicePermissions, Devices, Executor, Network, SecretBytes};
use crate::graph::{Graph, MountKind, Op, SourceOp, Vertex, VertexId};
use crate::layer::LayerIndex;
use crate::layer::copy::StatCache;
use crate::media_type::Compression;
use crate::progress::{Progress, Task};
use crate::reference::RepositoryName;
use crate::snapshot::SharedSnapshotter;
use crate::source::{Opened, Sources};
use crate::store::damage::Damage;
use crate::store::{RegistryStoreExt as _, SharedStore};
use crate::{Digest, Error, ErrorKind, FailedStep, Result};
use futures::future::{BoxFuture, WeakShared};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// The repository of the local store for layers of sources without a repository.
const SOURCES_REPOSITORY: &str = "hyper.local/sources";

/// How many layers are pulled at once.
const PULLS: usize = 4;

/// A vertex that is being solved, which does not keep it so.
type WeakPendingResult = WeakShared<BoxFuture<'static, std::result::Result<StepResult, Failed>>>;
/// Work that runs once, for all callers.
type Once = Arc<tokio::sync::OnceCell<()>>;

/// The context that the steps of a graph share.
#[derive(Debug)]
pub(crate) struct SolveContext {
    pub(super) store: SharedStore,
    pub(super) snapshotter: SharedSnapshotter,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) cache: SharedCache,
    pub(super) sources: Sources,
    pub(super) stat_cache: Arc<StatCache>,
    /// The folder with the indexes of layers.
    pub(super) index_folder: PathBuf,
    /// The folder for temporary files of steps.
    pub(super) scratch: PathBuf,
    /// The folder with the cache mounts.
    pub(super) cache_mounts: PathBuf,
    /// The cache mounts that this build has reset.
    pub(super) reset_caches: Mutex<HashSet<String>>,
    epoch: EpochChoice,
    epoch_seconds: OnceLock<i64>,
    /// The vertices that the epoch depends on. They are weak, as the vertices own this context.
    epoch_needs: OnceLock<Vec<WeakPendingResult>>,
    /// Whether the epoch was given, so that it is part of the keys.
    pub(super) epoch_is_key: bool,
    /// Whether steps see copied files with the times of the layer. In a build with cache mounts they see the true times.
    pub(super) copies_as_published: bool,
    pub(super) compression: Compression,
    pub(super) compression_level: Option<i32>,
    pub(super) network: Network,
    pub(super) allow_insecure: bool,
    pub(super) allow_host_network: bool,
    pub(super) devices: Devices,
    pub(super) allow_devices: DevicePermissions,
    pub(super) extra_hosts: Vec<(String, String)>,
    pub(super) resolv_conf: Option<String>,
    pub(super) ssh: BTreeMap<String, PathBuf>,
    pub(super) secrets: BTreeMap<String, SecretBytes>,
    pub(super) damage: Damage,
    pub(super) progress: Progress,
    /// How many commands run at once.
    pub(super) commands: tokio::sync::Semaphore,
    /// How many layers are pulled at once.
    pub(super) pulls: tokio::sync::Semaphore,
    /// The layers that are or were pulled, by repository and digest.
    pub(super) fetched_layers: Mutex<HashMap<(RepositoryName, Digest), Once>>,
    /// The indexes that were read, by diff ID.
    pub(super) indexes: tokio::sync::Mutex<HashMap<Digest, Arc<LayerIndex>>>,
}

/// The keys of a step, best first.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) digests: Vec<Digest>,
    /// The current times of the files in a layer of these keys, when the keys depend on them.
    pub(super) planned: Option<Planned>,
}

impl From<Vec<Digest>> for Keys {
    fn from(digests: Vec<Digest>) -> Self {
        Self { digests, planned: None }
    }
}

impl SolveContext {
    pub(super) fn new(
        graph: &Graph,
        root: VertexId,
        backends: SolverBackends,
        options: SolverOptions,
    ) -> Self {
        let SolverBackends { store, snapshotter, executor, cache, sources, folder } = backends;
        let has_caches = graph.reachable(root).into_iter().any(|at| {
            let Op::Exec(exec) = &graph.vertex(at).op else { return false };
            exec.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Cache { .. }))
        });
        let epoch_is_key = matches!(options.epoch, EpochChoice::Given(_));
        let processors = std::thread::available_parallelism().map_or(4, usize::from);
        Self {
            store,
            snapshotter,
            executor,
            cache,
            sources,
            stat_cache: options.stat_cache,
            index_folder: folder.join("indexes"),
            scratch: folder.join("scratch"),
            cache_mounts: folder.join("mounts"),
            reset_caches: Mutex::default(),
            epoch: options.epoch,
            epoch_seconds: OnceLock::new(),
            epoch_needs: OnceLock::new(),
            epoch_is_key,
            copies_as_published: epoch_is_key && !has_caches && !options.keeps_times,
            compression: options.compression,
            compression_level: options.compression_level,
            network: options.network,
            allow_insecure: options.allow_insecure,
            allow_host_network: options.allow_host_network,
            devices: options.devices,
            allow_devices: options.allow_devices,
            extra_hosts: options.extra_hosts,
            resolv_conf: options.resolv_conf,
            ssh: options.ssh,
            secrets: options.secrets,
            damage: options.damage,
            progress: options.progress,
            commands: tokio::sync::Semaphore::new(options.parallel.unwrap_or(processors.max(4))),
            pulls: tokio::sync::Semaphore::new(PULLS),
            fetched_layers: Mutex::default(),
            indexes: tokio::sync::Mutex::default(),
        }
    }

    /// Sets the vertices that the epoch depends on.
    pub(super) fn epoch_needs(&self, fetched: Vec<PendingResult>) {
        let _ = self.epoch_needs.set(fetched.iter().filter_map(PendingResult::downgrade).collect());
    }

    /// The epoch. It waits for the fetched sources, as they have times.
    pub(super) async fn epoch(&self) -> Result<i64> {
        match (self.epoch, self.epoch_seconds.get()) {
            (_, Some(seconds)) => Ok(*seconds),
            (EpochChoice::Given(seconds) | EpochChoice::Known(seconds), None) => Ok(seconds),
            (EpochChoice::Newest { newest, otherwise }, None) => {
                for fetched in self.epoch_needs.get().into_iter().flatten().filter_map(WeakShared::upgrade) {
                    if fetched.await.is_err() {
                        // The build fails with the error of the fetch.
                        return std::future::pending().await;
                    }
                }
                let seconds = newest.max(self.sources.newest()).unwrap_or(otherwise);
                Ok(*self.epoch_seconds.get_or_init(|| seconds))
            }
        }
    }

    pub(super) async fn step(
        &self,
        vertex: &Vertex,
        inputs: &[StepResult],
    ) -> Result<(StepResult, Option<StepReport>)> {
        if let Op::Source(source) = &vertex.op {
            return Ok((self.source(source).await?, None));
        }
        let Some(StepResult::Chain(base)) = inputs.first() else {
            return Err(Error::internal("a step without a root file system"));
        };
        let task = self.progress.start(vertex.name.clone(), None);
        let mut keys = match self.keys(vertex, base, inputs).await {
            Ok(keys) => keys,
            Err(e) => return failed(vertex, task, e),
        };
        if !vertex.no_cache
            && let Some(layer) = self.find(&mut keys).await?
        {
            let report = report(vertex, true, &task);
            task.cached();
            return Ok((StepResult::Chain(base.with(layer)), Some(report)));
        }
        // The files in the folders may change from here on.
        self.sources.forget_listings();
        let made = match &vertex.op {
            Op::Exec(exec) => {
                let run = self.run(exec, (vertex, &keys.digests), base, inputs, &task).await;
                run.map(|(layer, keys_hold)| (layer, None, keys_hold))
            }
            Op::File(file) => match self.files(file, base, inputs).await {
                Ok((layer, made)) => {
                    Ok((layer, made, self.still_hold(&keys.digests, vertex, base, inputs).await))
                }
                Err(e) => Err(e),
            },
            Op::Source(_) => Err(Error::internal("a source is not a step")),
        };
        let (layer, made, keys_hold) = match made {
            Ok(made) => made,
            Err(e) => return failed(vertex, task, e),
        };
        let record = CacheRecord {
            layer: layer.blob.clone(),
            diff_id: layer.diff_id.clone(),
            repository: layer.repository.clone(),
            times: match &layer.times {
                Some(LayerTimes::Kept(digest)) => Some(digest.clone()),
                _ => None,
            },
            made,
        };
        if keys_hold {
            for key in &keys.digests {
                self.cache.put(key, &record).await?;
            }
        } else {
            self.progress.warn(format!(
                "files changed while `{}` read them: its result is not kept for later builds",
                vertex.name
            ));
        }
        let report = report(vertex, false, &task);
        task.done();
        Ok((StepResult::Chain(base.with(layer)), Some(report)))
    }

    pub(super) async fn source(&self, source: &SourceOp) -> Result<StepResult> {
        let origin = match self.sources.open(source).await? {
            Opened::Nothing => return Ok(StepResult::Chain(LayerChain::default())),
            Opened::Folder(root) => return Ok(StepResult::Folder(root)),
            Opened::Image(origin) => origin,
        };
        let image = origin.image();
        let repository = match &image.repository {
            Some(repository) => repository.clone(),
            None => RepositoryName::parse(SOURCES_REPOSITORY)?,
        };
        Ok(StepResult::Chain(LayerChain::new(image.layers.iter().map(|layer| Layer {
            blob: layer.blob.clone(),
            diff_id: layer.diff_id.clone(),
            repository: repository.clone(),
            times: None,
            origin: Some(Arc::clone(&origin)),
        }))))
    }

    /// The keys of a step, best first: by the definition of what it uses, then by its content.
    pub(super) async fn keys(
        &self,
        vertex: &Vertex,
        base: &LayerChain,
        inputs: &[StepResult],
    ) -> Result<Keys> {
        let mut hasher = Hasher::sha256();
        hasher.update_field("hyper step 1");
        hasher.update_field(match self.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        });
        hasher.update_field(format!("{:?}", self.compression_level));
        if self.epoch_is_key {
            hasher.update_field(self.epoch().await?.to_string());
        }
        match &vertex.op {
            Op::Exec(exec) => Ok(self.exec_keys(hasher, exec, base, inputs).await?.into()),
            Op::File(file) => self.file_keys(hasher, &vertex.op.to_bytes(), file, base, inputs).await,
            Op::Source(_) => Ok(Vec::new().into()),
        }
    }

    /// Whether the files of folders still match the keys. Otherwise the result must not be cached under them.
    pub(super) async fn still_hold(
        &self,
        keys: &[Digest],
        vertex: &Vertex,
        base: &LayerChain,
        inputs: &[StepResult],
    ) -> bool {
        // A fetched source is in its own folder, which nothing else writes.
        let uses_folders = inputs
            .iter()
            .any(|input| matches!(input, StepResult::Folder(root) if self.sources.may_change(root)));
        !uses_folders || self.keys(vertex, base, inputs).await.is_ok_and(|now| now.digests == keys)
    }

    /// The cached layer of a key, when its blob and its times still exist.
    async fn find(&self, keys: &mut Keys) -> Result<Option<Layer>> {
        for key in &keys.digests {
            let Some(record) = self.cache.get(key).await? else { continue };
            let is_there = self.store.has_blob(&record.repository, &record.layer.digest).await?;
            if !is_there {
                self.damage.warn(&self.progress, &record.layer.digest);
            }
            if !is_there || !record.times.as_ref().is_none_or(|times| self.has_times(times)) {
                self.cache.remove(key).await?;
                continue;
            }
            for other in keys.digests.iter().filter(|other| *other != key) {
                self.cache.put(other, &record).await?;
            }
            let CacheRecord { layer: blob, diff_id, repository, times, made } = record;
            let planned = keys.planned.take().map(|planned| planned.for_cached(made));
            let times = planned.or(times.map(LayerTimes::Kept));
            return Ok(Some(Layer { blob, diff_id, repository, times, origin: None }));
        }
        Ok(None)
    }
}

pub(super) fn report(vertex: &Vertex, cached: bool, task: &crate::progress::Task) -> StepReport {
    let milliseconds = task.elapsed().as_millis() as u64;
    StepReport { name: vertex.name.clone(), cached, milliseconds }
}

/// Ends the task of a step that failed. The error gets the step and its place in the text.
pub(super) fn failed<T>(vertex: &Vertex, task: Task, error: Error) -> Result<T> {
    match error.kind() {
        // The output is in the error already.
        ErrorKind::CommandFailed => task.failed(&Error::new(error.kind(), error.message())),
        _ => task.failed(&error),
    }
    Err(at_step(vertex, error))
}

/// Adds the step and its place in the text to an error.
pub(super) fn at_step(vertex: &Vertex, error: Error) -> Error {
    error.with_step(FailedStep::new(&vertex.name, vertex.origin.as_ref().map(ToString::to_string)))
}
