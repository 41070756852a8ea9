//! The plan of a solver: the keys of the steps, and which results the cache has. No step runs, nothing is fetched, and no layer
//! is pulled.

use super::chain::{Chain, StepLayer, StepResult};
use super::made_layer::{BlobTime, MadeLayer};
use super::step::at_step;
use super::value::{LayerTimes, Planned};
use super::{SolveContext, Solver};
use crate::graph::{FileAction, MountKind, Op, Vertex, VertexId};
use crate::{Digest, Error, Result};
use futures::future::BoxFuture;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// A vertex of a graph in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// The name of the vertex: `[build 2/5] RUN make`.
    pub name: String,
    /// What a build would do with it.
    pub state: StepState,
    /// Its keys, best first; empty when they depend on a result that is not made yet.
    pub keys: Vec<Digest>,
    /// The content address of the vertex.
    pub address: Digest,
    /// The addresses of its inputs.
    pub inputs: Vec<Digest>,
    /// Its place in the text, such as `Dockerfile:3`, when it is known.
    pub at: Option<String>,
}

/// What a build would do with a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// It is a source that is local, or known by its descriptors.
    Source,
    /// It would be fetched.
    Fetch,
    /// Its result is in the cache.
    Cached,
    /// It would run.
    Run,
    /// Unknown until its inputs are made, fetched or pulled.
    Open,
}

impl Solver {
    /// Plans [`Solver::solve`]: the vertices in the order of the graph.
    ///
    /// # Errors
    /// Those that occur before a step runs: files that cannot be copied, missing permissions.
    pub(crate) fn plan<'a>(&'a self) -> BoxFuture<'a, Result<Vec<PlannedStep>>> {
        // Boxed: programs that call this do not compile it again.
        Box::pin(async move {
            let mut values: HashMap<VertexId, StepResult> = HashMap::new();
            let mut steps = Vec::new();
            for id in self.graph.reachable(&self.roots) {
                let vertex = self.graph.vertex(id);
                let inputs: Vec<StepResult> = vertex
                    .inputs
                    .iter()
                    .map(|input| values.get(input).cloned().unwrap_or(StepResult::Unmade))
                    .collect();
                let planned = self.context.plan_step(vertex, &inputs).await;
                let (state, keys, value) = planned.map_err(|e| at_step(vertex, e))?;
                values.insert(id, value);
                let address = |id: &VertexId| self.graph.vertex(*id).address().clone();
                steps.push(PlannedStep {
                    name: vertex.name.clone(),
                    state,
                    keys,
                    address: address(&id),
                    inputs: vertex.inputs.iter().map(address).collect(),
                    at: vertex.origin.clone(),
                });
            }
            Ok(steps)
        })
    }
}

impl SolveContext {
    async fn plan_step(
        &self,
        vertex: &Vertex,
        inputs: &[StepResult],
    ) -> Result<(StepState, Vec<Digest>, StepResult)> {
        if let Op::Source(source) = &vertex.op {
            return match self.sources.is_remote(source) {
                true => Ok((StepState::Fetch, Vec::new(), StepResult::Unmade)),
                false => Ok((StepState::Source, Vec::new(), self.source(source).await?)),
            };
        }
        let base = match inputs.first() {
            Some(StepResult::Chain(base)) => base,
            Some(StepResult::Unmade) => return Ok((StepState::Open, Vec::new(), StepResult::Unmade)),
            _ => return Err(Error::internal("a step without a root file system")),
        };
        if self.is_open(vertex, base, inputs).await {
            return Ok((StepState::Open, Vec::new(), StepResult::Unmade));
        }
        let mut keys = self.keys(vertex, base, inputs).await?;
        if !vertex.no_cache
            && let Some(layer) = self.peek(&keys.digests, keys.planned.take()).await?
        {
            return Ok((StepState::Cached, keys.digests, StepResult::Chain(base.with(Arc::new(layer)))));
        }
        Ok((StepState::Run, keys.digests, StepResult::Unmade))
    }

    /// Whether the keys of a step depend on something that must be made, fetched or pulled first.
    async fn is_open(&self, vertex: &Vertex, base: &Chain, inputs: &[StepResult]) -> bool {
        if inputs.iter().any(|input| matches!(input, StepResult::Unmade)) {
            return true;
        }
        // Only the chain is known of an image that was not pulled.
        let needs_files = |input: usize| match &vertex.op {
            Op::File(file) if input == 0 => {
                let names = file.actions.iter().any(|action| match action {
                    FileAction::Copy(copy) => copy.chown.is_some(),
                    FileAction::MakeDirectory(make) => make.owner.is_some(),
                    FileAction::MakeFile(make) => make.chown.is_some(),
                });
                !file.link || names
            }
            Op::File(_) => true,
            Op::Exec(exec) => exec.mounts.iter().any(|mount| match &mount.kind {
                MountKind::Bind { input: used, source, .. }
                | MountKind::Cache { from: Some((used, source)), .. } => *used == input && source != "/",
                _ => false,
            }),
            Op::Source(_) => false,
        };
        if needs_files(0) && self.has_unknown(base).await {
            return true;
        }
        for (at, input) in inputs.iter().enumerate().skip(1) {
            if let StepResult::Chain(chain) = input
                && needs_files(at)
                && self.has_unknown(chain).await
            {
                return true;
            }
        }
        false
    }

    /// The cached layer of one of the keys, as a build would find it. Nothing is changed.
    async fn peek(&self, keys: &[Digest], planned: Option<Planned>) -> Result<Option<StepLayer>> {
        for key in keys {
            let Some(record) = self.cache.get(key).await? else { continue };
            if self.is_left(&record).await? {
                let planned = planned.map(|planned| planned.for_cached(record.made));
                let times = planned.or(record.times.clone().map(LayerTimes::Kept));
                let made = MadeLayer::cached(record, times, keys.to_vec(), BlobTime::OnDemand);
                return Ok(Some(StepLayer::Made(made)));
            }
        }
        let imported = self.find_imported(keys, || planned, BlobTime::OnDemand).await?;
        Ok(imported.map(StepLayer::Made))
    }
}
