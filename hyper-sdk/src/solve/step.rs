//! One step: its keys and its record in the cache; and the context that all steps of a graph share.

use super::chain::{Chain, StepLayer, StepResult};
use super::keys::Keys;
use super::made_layer::{BlobTime, MadeLayer};
use super::on_error::AfterFailure;
use super::options::{EpochChoice, SolverBackends, SolverOptions};
use super::record::{Ended, FileLister, StepRecorder};
use super::sink::{LAYERS_REPOSITORY, Target};
use super::step_lock::{StepLock, Turn};
use super::used_mounts::UsedMounts;
use super::value::{Layer, LayerTimes};
use super::{Failed, PendingResult, StepReport};
use crate::cache::{CacheRecord, Imports, SharedCache};
use crate::digest::Hasher;
use crate::exec::{DevicePermissions, Devices, Executor, Network, SecretBytes};
use crate::graph::{Graph, MountKind, Op, SourceOp, Vertex, VertexId};
use crate::layer::copy::StatCache;
use crate::layer::{LayerIndex, TreeIndex};
use crate::media_type::Compression;
use crate::platform::Platform;
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
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::mpsc;

/// The repository of the local store for layers of sources without a repository.
pub(crate) const SOURCES_REPOSITORY: &str = "hyper.local/sources";

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
    /// The folder of the builder.
    pub(super) folder: PathBuf,
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
    pub(super) limits: crate::exec::StepLimits,
    /// Set when commands can have these limits.
    pub(super) limits_checked: tokio::sync::OnceCell<()>,
    /// The network of this build, from its first command that runs.
    pub(super) build_network: tokio::sync::OnceCell<crate::exec::BuildNetwork>,
    pub(super) extra_hosts: Vec<(String, String)>,
    pub(super) resolv_conf: Option<String>,
    pub(super) ssh: BTreeMap<String, PathBuf>,
    pub(super) secrets: BTreeMap<String, SecretBytes>,
    pub(super) after_failure: AfterFailure,
    /// The platforms whose programs this machine cannot run, and why.
    pub(super) refused: OnceLock<BTreeMap<Platform, String>>,
    /// Who keeps what keys were made of, and the graph, which has the names of steps.
    pub(super) recorder: Option<(StepRecorder, Arc<Graph>)>,
    pub(super) damage: Damage,
    /// The caches of other machines.
    pub(super) imports: Imports,
    /// The results of vertices, when they are kept for a cache that other machines import.
    pub(super) results: Option<Mutex<Vec<Chain>>>,
    /// The cache mounts of steps, when their contents are for other machines.
    pub(super) used_mounts: Option<Mutex<UsedMounts>>,
    pub(super) progress: Progress,
    /// How many commands run at once.
    pub(super) commands: tokio::sync::Semaphore,
    /// How many layers are pulled at once.
    pub(super) pulls: tokio::sync::Semaphore,
    /// The layers that are or were pulled, by repository and digest.
    pub(super) fetched_layers: Mutex<HashMap<(RepositoryName, Digest), Once>>,
    /// The indexes that were read, by diff ID.
    pub(super) indexes: tokio::sync::Mutex<HashMap<Digest, Arc<LayerIndex>>>,
    /// The blobs that were seen in the store: several records may name one, and each is asked for more than once.
    pub(super) seen_blobs: Mutex<HashSet<(RepositoryName, Digest)>>,
    /// The tables of times that were found intact.
    pub(super) seen_times: Mutex<HashSet<Digest>>,
    /// The merged views of chains, by chain ID: the last one of each branch.
    pub(super) trees: Mutex<HashMap<Digest, Arc<TreeIndex>>>,
    /// The layers whose files nothing but this process has.
    pub(super) pending: Mutex<Vec<Arc<StepLayer>>>,
    /// Takes the layers whose blobs are made while later steps run; none when all steps are done.
    pub(super) later: Mutex<Option<mpsc::Sender<Arc<StepLayer>>>>,
}

impl SolveContext {
    pub(super) fn new(
        graph: &Arc<Graph>,
        roots: &[VertexId],
        backends: SolverBackends,
        options: SolverOptions,
    ) -> Self {
        let SolverBackends { store, snapshotter, executor, cache, sources, folder } = backends;
        let has_caches = graph.reachable(roots).into_iter().any(|at| {
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
            folder,
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
            limits: options.limits,
            limits_checked: tokio::sync::OnceCell::new(),
            build_network: tokio::sync::OnceCell::new(),
            extra_hosts: options.extra_hosts,
            resolv_conf: options.resolv_conf,
            ssh: options.ssh,
            secrets: options.secrets,
            after_failure: AfterFailure::new(options.on_error, options.on_error_in),
            refused: OnceLock::new(),
            recorder: options.recorder.map(|recorder| (recorder, Arc::clone(graph))),
            damage: options.damage,
            imports: options.imports,
            results: options.keeps_results.then(Mutex::default),
            used_mounts: options.shares_mounts.then(Mutex::default),
            progress: options.progress,
            commands: tokio::sync::Semaphore::new(options.parallel.unwrap_or(processors.max(4))),
            pulls: tokio::sync::Semaphore::new(PULLS),
            fetched_layers: Mutex::default(),
            indexes: tokio::sync::Mutex::default(),
            seen_blobs: Mutex::default(),
            seen_times: Mutex::default(),
            trees: Mutex::default(),
            pending: Mutex::default(),
            later: Mutex::default(),
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
        time: BlobTime,
        inputs: &[StepResult],
    ) -> Result<(StepResult, Option<StepReport>)> {
        if let Op::Source(source) = &vertex.op {
            return Ok((self.source(source).await?, None));
        }
        let Some(StepResult::Chain(base)) = inputs.first() else {
            return Err(Error::internal("a step without a root file system"));
        };
        let task = self.progress.start(vertex.name.clone(), None);
        let listed = self.file_lister(vertex, inputs);
        // Files that are fetched are not looked at again.
        let at_once = listed.as_ref().filter(|_| !self.uses_local_folders(inputs));
        let mut keys = match self.listed_keys(vertex, base, inputs, at_once).await {
            Ok(keys) => keys,
            Err(e) => return failed(vertex, task, e),
        };
        self.note_mounts(vertex, inputs).await?;
        if !vertex.no_cache
            && let Some(layer) = self.find(&mut keys, time).await?
        {
            return Ok(self.cached(vertex, task, base, layer).await);
        }
        // The files in the folders may change from here on.
        self.sources.forget_listings();
        let mut step_lock = None;
        let made = match &vertex.op {
            Op::Exec(exec) => match self.run(exec, (vertex, &mut keys, time), base, inputs, &task).await {
                Ok(Turn::Found(layer)) => return Ok(self.cached(vertex, task, base, layer).await),
                Ok(Turn::Runs((layer, keys_hold, lock))) => {
                    step_lock = lock;
                    Ok((*layer, None, keys_hold))
                }
                Err(e) => Err(e),
            },
            Op::File(file) => {
                match self.files(file, base, (inputs, keys.plan.take()), file_target(time)).await {
                    Ok((layer, made)) => {
                        let hold =
                            self.still_hold(&keys.digests, vertex, base, inputs, listed.as_ref()).await;
                        Ok((layer, made, hold))
                    }
                    Err(e) => Err(e),
                }
            }
            Op::Source(_) => Err(Error::internal("a source is not a step")),
        };
        let ended = |kept, failed| Ended { vertex, task: task.id(), keys: &keys, kept, failed };
        let (new, made, keys_hold) = match made {
            Ok(made) => made,
            Err(e) => {
                // What is full has no room for this either.
                if e.kind() != ErrorKind::StorageFull {
                    self.record(ended(false, true), base, listed).await;
                }
                return failed(vertex, task, e);
            }
        };
        let record = CacheRecord {
            layer: new.blob,
            diff_id: new.diff_id,
            repository: RepositoryName::parse(LAYERS_REPOSITORY)?,
            times: match &new.times {
                Some(LayerTimes::Kept(digest)) => Some(digest.clone()),
                _ => None,
            },
            made,
            snapshot: new.snapshot,
            origin: self.recorder.as_ref().map(|(recorder, _)| recorder.origin(task.id())),
        };
        let kept_under = if keys_hold { keys.digests.clone() } else { Vec::new() };
        let layer = MadeLayer::new(record, new.times, kept_under, time, new.tar);
        let layer = Arc::new(StepLayer::Made(layer));
        let kept = self.keep(&layer).await;
        // Those who wait for the step look into the cache now.
        step_lock.into_iter().for_each(StepLock::end);
        kept?;
        // After the result is kept: whoever ends the build here loses no more than the record.
        self.record(ended(keys_hold, false), base, listed).await;
        self.blob_later(&layer).await;
        self.note_origin(&layer, &task);
        if !keys_hold {
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
            Opened::Nothing => return Ok(StepResult::Chain(Chain::default())),
            Opened::Folder(root) => return Ok(StepResult::Folder(root)),
            Opened::Image(origin) => origin,
        };
        let image = origin.image();
        let repository = match &image.repository {
            Some(repository) => repository.clone(),
            None => RepositoryName::parse(SOURCES_REPOSITORY)?,
        };
        Ok(StepResult::Chain(Chain::of_layers(image.layers.iter().map(|layer| Layer {
            blob: layer.blob.clone(),
            diff_id: layer.diff_id.clone(),
            repository: repository.clone(),
            times: None,
            origin: Some(Arc::clone(&origin)),
        }))))
    }

    /// The keys of a step, best first: by the definition of what it uses, then by its content.
    pub(super) async fn keys(&self, vertex: &Vertex, base: &Chain, inputs: &[StepResult]) -> Result<Keys> {
        self.listed_keys(vertex, base, inputs, None).await
    }

    /// [`SolveContext::keys`]. `files` gets the files of a context that they are made of.
    pub(super) async fn listed_keys(
        &self,
        vertex: &Vertex,
        base: &Chain,
        inputs: &[StepResult],
        files: Option<&Arc<FileLister>>,
    ) -> Result<Keys> {
        let mut hasher = Hasher::sha256();
        // How blobs are compressed is not part of it: the layer is the same.
        hasher.update_field("hyper step 2");
        if self.epoch_is_key {
            hasher.update_field(self.epoch().await?.to_string());
        }
        match &vertex.op {
            Op::Exec(exec) => self.exec_keys(hasher, exec, base, inputs).await,
            Op::File(file) => {
                self.file_keys(hasher, &vertex.op.to_bytes(), file, base, (inputs, files)).await
            }
            Op::Source(_) => Ok(Keys { digests: Vec::new(), planned: None, plan: None, used: Vec::new() }),
        }
    }

    /// Whether the files of folders still match the keys. Otherwise the result must not be cached under them.
    pub(super) async fn still_hold(
        &self,
        keys: &[Digest],
        vertex: &Vertex,
        base: &Chain,
        inputs: &[StepResult],
        files: Option<&Arc<FileLister>>,
    ) -> bool {
        !self.uses_local_folders(inputs)
            || self.listed_keys(vertex, base, inputs, files).await.is_ok_and(|now| now.digests == keys)
    }

    /// Whether an input is a folder that others may change. A fetched source is in its own folder, which nothing else writes.
    fn uses_local_folders(&self, inputs: &[StepResult]) -> bool {
        inputs.iter().any(|input| matches!(input, StepResult::Folder(root) if self.sources.may_change(root)))
    }

    /// Notes which step of which build made a layer, when the build is recorded.
    fn note_origin(&self, layer: &StepLayer, task: &Task) {
        if let (Some((recorder, _)), StepLayer::Made(made)) = (&self.recorder, layer)
            && let Some(origin) = made.state().record.origin.clone()
        {
            recorder.note(task.id(), origin);
        }
    }

    /// The result of a step that the cache has.
    async fn cached(
        &self,
        vertex: &Vertex,
        task: Task,
        base: &Chain,
        layer: Arc<StepLayer>,
    ) -> (StepResult, Option<StepReport>) {
        self.blob_later(&layer).await;
        self.note_origin(&layer, &task);
        let report = report(vertex, true, &task);
        task.cached();
        (StepResult::Chain(base.with(layer)), Some(report))
    }

    /// The cached layer of a key, when its files and its times still exist.
    pub(super) async fn find(&self, keys: &mut Keys, time: BlobTime) -> Result<Option<Arc<StepLayer>>> {
        for key in &keys.digests {
            let Some(record) = self.cache.get(key).await? else { continue };
            if !self.is_left(&record).await? {
                let has_times = record.times.as_ref().is_none_or(|times| self.has_times(times));
                if let Some(blob) = &record.layer
                    && has_times
                {
                    self.damage.warn(&self.progress, &blob.digest);
                }
                // A snapshot that is not known here may be one of another kind of isolation, which the record serves. The
                // step replaces the record when it has run.
                if !has_times || record.snapshot.is_none() {
                    self.cache.remove(key).await?;
                }
                continue;
            }
            for other in keys.digests.iter().filter(|other| *other != key) {
                self.cache.put(other, &record).await?;
            }
            let planned = keys.planned.take().map(|planned| planned.for_cached(record.made));
            let times = planned.or(record.times.clone().map(LayerTimes::Kept));
            let layer = MadeLayer::cached(record, times, keys.digests.clone(), time);
            return Ok(Some(Arc::new(StepLayer::Made(layer))));
        }
        let planned = &mut keys.planned;
        let layer = self.find_imported(&keys.digests, || planned.take(), time).await?;
        Ok(layer.map(|layer| Arc::new(StepLayer::Made(layer))))
    }

    /// Whether the files of a record and their times still exist: in a blob, or in a snapshot.
    pub(super) async fn is_left(&self, record: &CacheRecord) -> Result<bool> {
        if !record.times.as_ref().is_none_or(|times| self.has_times(times)) {
            return Ok(false);
        }
        if let Some(blob) = &record.layer
            && self.sees_blob(&record.repository, &blob.digest).await?
        {
            return Ok(true);
        }
        self.snapshot_of(record).await
    }

    /// Whether the store has a blob, or had it earlier in this build.
    pub(super) async fn sees_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let blob = (repository.clone(), digest.clone());
        let seen = || self.seen_blobs.lock().unwrap_or_else(PoisonError::into_inner);
        if seen().contains(&blob) {
            return Ok(true);
        }
        let is_there = self.store.has_blob(repository, digest).await?;
        if is_there {
            seen().insert(blob);
        }
        Ok(is_there)
    }

    /// Gives a layer to those whose blobs are made while later steps run, if an output needs its blob.
    ///
    /// Waits while many are waiting: each may hold a file.
    async fn blob_later(&self, layer: &Arc<StepLayer>) {
        if !matches!(&**layer, StepLayer::Made(made) if made.time == BlobTime::Later) {
            return;
        }
        let later = self.later.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(later) = later {
            // Nobody takes it any more when the build ends.
            let _ = later.send(Arc::clone(layer)).await;
        }
    }
}

/// What becomes of the tar of a file operation.
fn file_target(time: BlobTime) -> Target {
    if time == BlobTime::Now { Target::Blob } else { Target::Tar }
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
