//! The solver: runs the vertices of a graph, in parallel, through the cache.
//!
//! A vertex is solved once, after its inputs. Its key is made of the operation and of what its inputs came to (chain
//! IDs, and for files of a context or a stage a digest of the content that is selected), so a step whose inputs came
//! out the same is found even when the steps before it changed.
//!
//! # Invariants
//! - The solver never looks into a source text and knows no instruction.
//! - A result enters the cache after its layer is in the store.
//! - Dropping the future of [`Solver::solve`] ends every command that runs.

mod exec;
mod files;
mod files_out;
mod layers;
mod mounts;
mod recompress;
mod retime;
mod task_log;
mod times;
mod value;

pub(crate) use exec::threads;
pub(crate) use files_out::ForeignOwner;
pub use layers::LAYERS_REPOSITORY;
pub(crate) use layers::blocking;
pub use value::{Chain, Layer, LayerTimes, Value, chain_id};

use crate::cache::{CacheRecord, SharedCache};
use crate::digest::Hasher;
use crate::exec::{DevicePermissions, Devices, Executor, Network, SecretBytes};
use crate::graph::{Graph, Op, Source, Vertex, VertexId};
use crate::layer::LayerIndex;
use crate::layer::copy::{SourceRoot, StatCache};
use crate::media_type::Compression;
use crate::progress::{Progress, Task};
use crate::snapshot::SharedSnapshotter;
use crate::store::damage::Damage;
use crate::store::{RegistryStoreExt as _, SharedStore};
use crate::{Digest, Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use times::Planned;

/// How one step went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// The step: `[build 2/5] RUN make`.
    pub name: String,
    /// Whether its result was found in the cache.
    pub cached: bool,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// What the steps of a build share.
#[derive(Debug)]
pub struct SolveContext {
    /// Where layers are kept.
    pub store: SharedStore,
    /// Where layers are unpacked.
    pub snapshotter: SharedSnapshotter,
    /// What runs commands.
    pub executor: Arc<dyn Executor>,
    /// What steps came to before.
    pub cache: SharedCache,
    /// The layers of images by manifest digest.
    pub images: HashMap<Digest, Vec<Layer>>,
    /// The build contexts by name, the main one by the empty name.
    pub folders: BTreeMap<String, Arc<SourceRoot>>,
    /// What was fetched, by the address of its vertex.
    pub fetched: HashMap<Digest, Arc<SourceRoot>>,
    /// Digests of files by what `stat` says of them.
    pub stat_cache: Arc<StatCache>,
    /// The folder with the indexes of layers.
    pub index_folder: PathBuf,
    /// A folder for files that live as long as a step.
    pub scratch: PathBuf,
    /// The folder with the cache mounts.
    pub cache_mounts: PathBuf,
    /// The cache mounts that have begun anew in this build.
    pub renewed_caches: Mutex<HashSet<String>>,
    /// The time that new layers get at most.
    pub epoch: i64,
    /// Whether the time was given and so counts for the cache.
    pub epoch_is_key: bool,
    /// Whether steps see what is copied with the times of the layer. Not where they compare them with those of a cache.
    pub copies_as_published: bool,
    /// How layers are compressed.
    pub compression: Compression,
    /// The level of the compression.
    pub compression_level: Option<i32>,
    /// The network of commands that do not say.
    pub network: Network,
    /// Whether commands may ask for all privileges.
    pub allow_insecure: bool,
    /// Whether commands may ask for the host's network where the build has another.
    pub allow_host_network: bool,
    /// The devices of the host.
    pub devices: Devices,
    /// Which of them commands may have.
    pub allow_devices: DevicePermissions,
    /// Extra entries of /etc/hosts.
    pub extra_hosts: Vec<(String, String)>,
    /// The content of /etc/resolv.conf in commands; the host's without.
    pub resolv_conf: Option<String>,
    /// Sockets of ssh agents by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretBytes>,
    /// What is found to be damaged of the store.
    pub damage: Damage,
    /// Where events go.
    pub progress: Progress,
    /// How many commands run at once.
    pub commands: tokio::sync::Semaphore,
    /// Indexes that were read, by diff ID.
    pub indexes: tokio::sync::Mutex<HashMap<Digest, Arc<LayerIndex>>>,
}

/// The first error of a build is kept aside; everything that waits for it only learns that there was one.
#[derive(Clone, Copy, Debug)]
struct Failed;

type Solving = Shared<BoxFuture<'static, std::result::Result<Value, Failed>>>;

/// Solves one graph.
pub struct Solver {
    graph: Arc<Graph>,
    context: Arc<SolveContext>,
    solving: HashMap<VertexId, Solving>,
    error: Arc<Mutex<Option<Error>>>,
    reports: Arc<Mutex<BTreeMap<VertexId, StepReport>>>,
}

impl std::fmt::Debug for Solver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Solver").field("vertices", &self.graph.vertices().len()).finish_non_exhaustive()
    }
}

impl Solver {
    /// A solver of a graph.
    pub fn new(graph: Arc<Graph>, context: Arc<SolveContext>) -> Self {
        Self { graph, context, solving: HashMap::new(), error: Arc::default(), reports: Arc::default() }
    }

    /// Solves a vertex and everything that it needs, as much at once as the graph allows.
    ///
    /// # Errors
    /// The first error of any step; the others are stopped.
    pub async fn solve(mut self, root: VertexId) -> Result<(Value, Vec<StepReport>)> {
        for id in self.graph.reachable(root) {
            let future = self.vertex(id);
            self.solving.insert(id, future);
        }
        let result = self.solving[&root].clone().await;
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reports = std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner));
        match result {
            Ok(value) => Ok((value, reports.into_values().collect())),
            Err(Failed) => Err(error.unwrap_or_else(|| Error::internal("a build failed without an error"))),
        }
    }

    fn vertex(&self, id: VertexId) -> Solving {
        let inputs: Vec<Solving> =
            self.graph.vertex(id).inputs.iter().map(|input| self.solving[input].clone()).collect();
        let (graph, context) = (Arc::clone(&self.graph), Arc::clone(&self.context));
        let (error, reports) = (Arc::clone(&self.error), Arc::clone(&self.reports));
        async move {
            let inputs = futures::future::try_join_all(inputs).await?;
            let vertex = graph.vertex(id);
            match context.step(vertex, &inputs).await {
                Ok((value, report)) => {
                    if let Some(report) = report {
                        reports.lock().unwrap_or_else(PoisonError::into_inner).insert(id, report);
                    }
                    Ok(value)
                }
                Err(e) => {
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    Err(Failed)
                }
            }
        }
        .boxed()
        .shared()
    }
}

/// The keys of a step, best first.
#[derive(Debug)]
struct Keys {
    digests: Vec<Digest>,
    /// The times that the files have now that a layer of these keys holds, where they have to be looked at anyway.
    planned: Option<Planned>,
}

impl From<Vec<Digest>> for Keys {
    fn from(digests: Vec<Digest>) -> Self {
        Self { digests, planned: None }
    }
}

impl SolveContext {
    async fn step(&self, vertex: &Vertex, inputs: &[Value]) -> Result<(Value, Option<StepReport>)> {
        if let Op::Source(source) = &vertex.op {
            return Ok((self.source(vertex, source)?, None));
        }
        let Some(Value::Chain(base)) = inputs.first() else {
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
            return Ok((Value::Chain(base.with(layer)), Some(report)));
        }
        // From here on time passes, and what is in the folders may change.
        self.folders.values().for_each(|root| root.forget_listings());
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
            Op::Source(_) => Err(Error::internal("a source is no step")),
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
        Ok((Value::Chain(base.with(layer)), Some(report)))
    }

    fn source(&self, vertex: &Vertex, source: &Source) -> Result<Value> {
        Ok(match source {
            Source::Scratch => Value::Chain(Chain::default()),
            Source::Image { manifest, reference } => {
                let layers = self.images.get(manifest).ok_or_else(|| {
                    Error::internal("an image that was not resolved").with_context("image", reference)
                })?;
                Value::Chain(Chain::new(layers.iter().cloned()))
            }
            Source::Folder { name } => {
                Value::Folder(Arc::clone(self.folders.get(name).ok_or_else(|| {
                    Error::invalid("there is no build context to copy from: name a folder as the context")
                })?))
            }
            Source::Web(_) | Source::Git(_) => {
                let root = self.fetched.get(vertex.address());
                Value::Folder(Arc::clone(root.ok_or_else(|| Error::internal("a source was not fetched"))?))
            }
        })
    }

    /// The keys of a step, best first: by the definition of what it uses, then by its content.
    async fn keys(&self, vertex: &Vertex, base: &Chain, inputs: &[Value]) -> Result<Keys> {
        let mut hasher = Hasher::sha256();
        hasher.update_field("hyper step 1");
        hasher.update_field(match self.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        });
        hasher.update_field(format!("{:?}", self.compression_level));
        if self.epoch_is_key {
            hasher.update_field(self.epoch.to_string());
        }
        match &vertex.op {
            Op::Exec(exec) => Ok(self.exec_keys(hasher, exec, base, inputs).await?.into()),
            Op::File(file) => self.file_keys(hasher, &vertex.op.to_bytes(), file, base, inputs).await,
            Op::Source(_) => Ok(Vec::new().into()),
        }
    }

    /// Whether the files of folders are still those that the keys were made of. What was read otherwise must not be
    /// found under them.
    async fn still_hold(&self, keys: &[Digest], vertex: &Vertex, base: &Chain, inputs: &[Value]) -> bool {
        // What was fetched is in a folder of its own, and nobody else writes there.
        let is_own = |root| self.folders.values().any(|folder| Arc::ptr_eq(folder, root));
        let uses_folders = inputs.iter().any(|input| matches!(input, Value::Folder(root) if is_own(root)));
        !uses_folders || self.keys(vertex, base, inputs).await.is_ok_and(|now| now.digests == keys)
    }

    /// The layer that a key has, if its blob and its times are still there.
    async fn find(&self, keys: &mut Keys) -> Result<Option<Layer>> {
        for key in &keys.digests {
            let Some(record) = self.cache.get(key).await? else { continue };
            let is_there = self.store.has_blob(&record.repository, &record.layer.digest).await?;
            if !is_there {
                self.damage.tell(&self.progress, &record.layer.digest);
            }
            if !is_there || !record.times.as_ref().is_none_or(|times| self.has_times(times)) {
                self.cache.remove(key).await?;
                continue;
            }
            for other in keys.digests.iter().filter(|other| *other != key) {
                self.cache.put(other, &record).await?;
            }
            let CacheRecord { layer: blob, diff_id, repository, times, made } = record;
            let planned = keys.planned.take().map(|planned| planned.of_cached(made));
            let times = planned.or(times.map(LayerTimes::Kept));
            return Ok(Some(Layer { blob, diff_id, repository, times }));
        }
        Ok(None)
    }
}

fn report(vertex: &Vertex, cached: bool, task: &crate::progress::Task) -> StepReport {
    let milliseconds = task.elapsed().as_millis() as u64;
    StepReport { name: vertex.name.clone(), cached, milliseconds }
}

/// Ends the task of a step that failed; the error learns which step it was, and where it was asked for.
fn failed<T>(vertex: &Vertex, task: Task, error: Error) -> Result<T> {
    match error.kind() {
        // Its output is known already.
        ErrorKind::CommandFailed => task.failed(&Error::new(error.kind(), error.message())),
        _ => task.failed(&error),
    }
    let error = error.with_context("step", &vertex.name);
    Err(match &vertex.origin {
        Some(origin) => error.with_context("at", origin),
        None => error,
    })
}
