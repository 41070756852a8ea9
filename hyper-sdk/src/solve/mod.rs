//! The solver: runs the vertices of a graph, in parallel, through the cache.
//!
//! A vertex is solved once, after its inputs. Its key consists of the operation and of the results of its inputs: chain IDs,
//! and for files of a context or a stage a digest of the selected content. A step with equal inputs is therefore found in
//! the cache even when the steps before it changed.
//!
//! A finished step is a snapshot with an index. The blob of its layer is made when something needs it: for an output while
//! later steps run, and never for a stage that no output has.
//!
//! A base image is known by its descriptors. Its layers are pulled when a step has to read them. Pulls and fetches run
//! concurrently with the other steps.
//!
//! # Invariants
//! - The solver knows neither source texts nor instructions.
//! - A result enters the cache after a snapshot or the store has its files.
//! - Dropping the future of [`Solver::solve`] ends every command that runs.

mod blobs;
mod chain;
mod exec;
mod fetch_layers;
mod files;
mod files_out;
mod imported;
mod keys;
mod layers;
mod made;
mod made_layer;
mod mounts;
mod on_error;
mod options;
mod plan;
mod record;
mod retime;
mod shared;
mod shared_mounts;
mod sink;
mod step;
mod step_lock;
mod task_log;
mod times;
mod turn;
mod unmade_copies;
mod used_mounts;
mod value;

pub(crate) use blobs::PublishOptions;
pub(crate) use chain::Chain;
pub(crate) use chain::StepResult;
pub(crate) use files_out::ForeignOwner;
pub(crate) use layers::blocking;
pub(crate) use made::remove_lost;
pub use on_error::OnError;
pub(crate) use options::{EpochChoice, Needs, SolverBackends, SolverOptions};
pub use plan::{PlannedStep, StepState};
pub(crate) use record::{
    FORMAT, FileHash, FileList, Forced, Head, InputKind, KeyInput, RanStep, STEPS_SUFFIX,
};
pub use record::{KeyPart, StepRecorder};
pub(crate) use sink::LAYERS_REPOSITORY;
pub(crate) use step::SolveContext;
pub use value::{Layer, LayerChain, LayerTimes};

use crate::graph::{Graph, Op, SourceOp, VertexId};
use crate::platform::Platform;
use crate::progress::Task;
use crate::{Error, Result};
use chain::StepLayer;
use futures::future::{BoxFuture, Shared};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt as _};
use made_layer::BlobTime;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// How many blobs are made at once while steps run. Each uses all processors.
const BLOBS: usize = 2;

/// How many layers wait for that before the steps wait, too.
const QUEUE: usize = 16;

/// The report of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// The step: `[build 2/5] RUN make`.
    pub name: String,
    /// Whether its result came from the cache.
    pub cached: bool,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// The result of a graph.
#[derive(Debug)]
pub(crate) struct Solved {
    /// The results of the roots, in their order.
    pub values: Vec<StepResult>,
    /// The steps, in the order of the graph.
    pub steps: Vec<StepReport>,
    /// The epoch of the result, in seconds since 1970.
    pub epoch: i64,
}

/// A vertex failed. The first error of a build is kept elsewhere.
#[derive(Clone, Copy, Debug)]
struct Failed;

type PendingResult = Shared<BoxFuture<'static, std::result::Result<StepResult, Failed>>>;

/// Solves one graph.
#[derive(Debug)]
pub(crate) struct Solver {
    graph: Arc<Graph>,
    roots: Vec<VertexId>,
    context: Arc<SolveContext>,
    needs: Needs,
    /// The steps whose layers an output needs.
    published: HashMap<VertexId, BlobTime>,
}

/// The reports and the first error of one run.
#[derive(Debug, Default)]
struct Outcomes {
    error: Mutex<Option<Error>>,
    reports: Mutex<BTreeMap<VertexId, StepReport>>,
}

impl Outcomes {
    fn fail(&self, error: Error) -> Failed {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        Failed
    }
}

impl Solver {
    /// A solver of vertices of a graph.
    pub(crate) fn new(
        graph: Arc<Graph>,
        roots: Vec<VertexId>,
        backends: SolverBackends,
        options: SolverOptions,
    ) -> Self {
        let needs = options.needs;
        let context = Arc::new(SolveContext::new(&graph, &roots, backends, options));
        let published = if needs >= Needs::Layers { published(&graph, &roots) } else { HashMap::new() };
        Self { graph, roots, context, needs, published }
    }

    /// The context of the steps, which exporters use.
    pub(crate) fn context(&self) -> &SolveContext {
        &self.context
    }

    /// Refuses commands that run in files of some platforms, each with its reason, when their results are not in the cache. What
    /// was set first stays.
    pub(crate) fn refuse(&self, platforms: BTreeMap<Platform, String>) {
        let _ = self.context.refused.set(platforms);
    }

    /// Solves the roots and everything that they need. Independent vertices run concurrently.
    ///
    /// # Errors
    /// The first error of a step. The other steps are stopped.
    pub(crate) async fn solve(&self) -> Result<Solved> {
        let solved = self.solve_steps().await;
        if let Some((recorder, _)) = &self.context.recorder {
            recorder.settle().await;
        }
        solved
    }

    async fn solve_steps(&self) -> Result<Solved> {
        let outcomes = Arc::new(Outcomes::default());
        let mut solving: HashMap<VertexId, PendingResult> = HashMap::new();
        let optional = self.optional();
        // A vertex waits for results, not for the vertices that make them: the graph can be deep.
        let mut steps = FuturesUnordered::new();
        for id in self.graph.reachable(&self.roots) {
            let (sender, result) = oneshot::channel();
            let step = self.vertex(id, optional.contains(&id), &solving, &outcomes);
            steps.push(step.map(|result| drop(sender.send(result))));
            let result = result.map(|result| result.unwrap_or(Err(Failed)));
            solving.insert(id, result.boxed().shared());
        }
        self.context.epoch_needs(self.fetched(&solving));
        let (sender, queue) = mpsc::channel(QUEUE);
        let later = |to| *self.context.later.lock().unwrap_or_else(PoisonError::into_inner) = to;
        later(Some(sender));
        let steps = async {
            while steps.next().await.is_some() {}
            later(None);
            Ok(())
        };
        let result = futures::future::try_join5(
            futures::future::try_join_all(self.roots.iter().map(|root| solving[root].clone())),
            steps,
            self.fetch_base(&solving, &outcomes),
            async { self.context.epoch().await.map_err(|e| outcomes.fail(e)) },
            async { self.make_blobs(queue).await.map_err(|e| outcomes.fail(e)) },
        );
        let result = result.await;
        let error = outcomes.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reports = std::mem::take(&mut *outcomes.reports.lock().unwrap_or_else(PoisonError::into_inner));
        match result {
            Ok((values, (), (), epoch, ())) => {
                Ok(Solved { values, steps: reports.into_values().collect(), epoch })
            }
            Err(Failed) => Err(error.unwrap_or_else(|| Error::internal("a build failed without an error"))),
        }
    }

    /// The vertices that fetch a remote source.
    fn fetched(&self, solving: &HashMap<VertexId, PendingResult>) -> Vec<PendingResult> {
        let is_fetched = |id: &VertexId| matches!(&self.graph.vertex(*id).op, Op::Source(op) if self.context.sources.is_remote(op));
        solving.iter().filter(|(id, _)| is_fetched(id)).map(|(_, solving)| solving.clone()).collect()
    }

    /// Fetches the blobs of the roots' base images while steps run, when an output needs them.
    async fn fetch_base(
        &self,
        solving: &HashMap<VertexId, PendingResult>,
        outcomes: &Outcomes,
    ) -> std::result::Result<(), Failed> {
        if self.needs != Needs::Blobs {
            return Ok(());
        }
        let fetch = self.roots.iter().map(async |root| {
            let mut base = *root;
            while let Some(below) = self.graph.vertex(base).inputs.first() {
                base = *below;
            }
            match solving[&base].clone().await? {
                StepResult::Chain(chain) => {
                    self.context.fetch_images(&chain).await.map_err(|e| outcomes.fail(e))
                }
                StepResult::Folder(_) | StepResult::Unmade => Ok(()),
            }
        });
        futures::future::try_join_all(fetch).await.map(drop)
    }

    /// Makes the blobs of layers that outputs need, while steps run. Ends after the last step.
    async fn make_blobs(&self, mut queue: mpsc::Receiver<Arc<StepLayer>>) -> Result<()> {
        let mut making = FuturesUnordered::new();
        let mut steps_run = true;
        let mut task = None;
        while steps_run || !making.is_empty() {
            tokio::select! {
                layer = queue.recv(), if steps_run && making.len() < BLOBS => match layer {
                    Some(layer) => making.push(async move {
                        match &*layer {
                            StepLayer::Made(made) => {
                                let options = self.context.compress_options();
                                self.context.blob(&layer, made, options, true).await.map(drop)
                            }
                            StepLayer::Image(_) => Ok(()),
                        }
                    }),
                    None => {
                        steps_run = false;
                        // What the build waits for is told.
                        let name = "compress layers";
                        task = (!making.is_empty()).then(|| self.context.progress.start(name.to_owned(), None));
                    }
                },
                Some(made) = making.next() => made?,
            }
        }
        task.into_iter().for_each(Task::done);
        Ok(())
    }

    /// The steps that are skipped when no output needs the result: copies directly onto an image that nothing else uses.
    fn optional(&self) -> HashSet<VertexId> {
        if self.needs != Needs::Nothing || self.context.results.is_some() {
            return HashSet::new();
        }
        let mut users: HashMap<VertexId, usize> = HashMap::new();
        for id in self.graph.reachable(&self.roots) {
            for input in &self.graph.vertex(id).inputs {
                *users.entry(*input).or_default() += 1;
            }
        }
        self.roots.iter().flat_map(|root| self.optional_below(*root, &users)).collect()
    }

    /// The steps of one root that are skipped.
    fn optional_below(&self, root: VertexId, users: &HashMap<VertexId, usize>) -> HashSet<VertexId> {
        let mut optional = HashSet::new();
        let mut at = root;
        loop {
            let vertex = self.graph.vertex(at);
            let limit = usize::from(at != root);
            match (&vertex.op, vertex.inputs.first()) {
                (Op::File(_), Some(below)) if users.get(&at).copied().unwrap_or_default() == limit => {
                    optional.insert(at);
                    at = *below;
                }
                (Op::Source(SourceOp::Image { .. }), _) => return optional,
                _ => return HashSet::new(),
            }
        }
    }

    fn vertex(
        &self,
        id: VertexId,
        is_optional: bool,
        solving: &HashMap<VertexId, PendingResult>,
        outcomes: &Arc<Outcomes>,
    ) -> BoxFuture<'static, std::result::Result<StepResult, Failed>> {
        let inputs: Vec<PendingResult> =
            self.graph.vertex(id).inputs.iter().map(|input| solving[input].clone()).collect();
        let (graph, context) = (Arc::clone(&self.graph), Arc::clone(&self.context));
        let outcomes = Arc::clone(outcomes);
        let time = self.published.get(&id).copied().unwrap_or(BlobTime::OnDemand);
        async move {
            let inputs = futures::future::try_join_all(inputs).await?;
            let vertex = graph.vertex(id);
            let step = match is_optional && context.is_out_of_reach(vertex, &inputs).await {
                true => context.check_sources(vertex, &inputs).await,
                false => context.step(vertex, time, &inputs).await,
            };
            match step {
                Ok((value, report)) => {
                    context.keep_result(&value);
                    if let Some(report) = report {
                        outcomes.reports.lock().unwrap_or_else(PoisonError::into_inner).insert(id, report);
                    }
                    Ok(value)
                }
                Err(e) => Err(outcomes.fail(e)),
            }
        }
        .boxed()
    }
}

/// The steps of the roots' own stages, and when their blobs are made.
fn published(graph: &Graph, roots: &[VertexId]) -> HashMap<VertexId, BlobTime> {
    let mut times = HashMap::new();
    for root in roots {
        for (at, time) in published_below(graph, *root) {
            let known = times.entry(at).or_insert(time);
            // A command of one root would wait for a blob that another one has at once.
            if time == BlobTime::Later {
                *known = time;
            }
        }
    }
    times
}

fn published_below(graph: &Graph, root: VertexId) -> HashMap<VertexId, BlobTime> {
    let (mut times, mut at) = (HashMap::new(), root);
    let mut is_below_a_command = false;
    loop {
        let vertex = graph.vertex(at);
        match &vertex.op {
            // A command would wait for the blob, and for its being unpacked again.
            _ if is_below_a_command => times.insert(at, BlobTime::Later),
            Op::Exec(_) if at != root => times.insert(at, BlobTime::Later),
            _ => times.insert(at, BlobTime::Now),
        };
        is_below_a_command |= matches!(vertex.op, Op::Exec(_));
        match vertex.inputs.first() {
            Some(below) => at = *below,
            None => return times,
        }
    }
}

#[cfg(test)]
mod tests;
