//! Dry runs: the plan of a build, without a build.

use super::{BuildOutput, BuildRequest, Builder, BuilderCapabilities, LocalBuilder};
use crate::Result;
use crate::frontend::Lowered;
use crate::graph::{Graph, VertexId};
use crate::progress::Progress;
use crate::solve::{PlannedStep, StepReport, StepState};
use crate::store::damage::Damage;
use crate::uses::{Use, UseKind};
use async_trait::async_trait;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// The plan of a build.
#[derive(Clone, Debug, Serialize)]
pub struct BuildPlan {
    /// The vertices of the graph that are needed, inputs first: their keys, and which results are cached.
    pub steps: Vec<PlannedStep>,
    /// The names that the image would get.
    pub names: Vec<String>,
    /// The graph.
    #[serde(skip)]
    pub graph: Arc<Graph>,
    /// The vertices whose results are the root file systems of the images, one for each platform.
    #[serde(skip)]
    pub roots: Vec<VertexId>,
}

impl LocalBuilder {
    /// Plans a build: its graph, the keys of the steps, and which results the cache has. No step runs, no layer is pulled,
    /// nothing but a remote main context is fetched, and no output is written. Whether commands can have the limits of the
    /// request is not asked.
    ///
    /// # Errors
    /// Those of [`Builder::build`] that occur before a step runs.
    pub async fn plan(&self, request: BuildRequest, progress: &Progress) -> Result<BuildPlan> {
        self.plan_of(request, None, progress).await
    }

    /// Plans the build of a graph: as [`LocalBuilder::plan`], for [`LocalBuilder::build_graph`].
    ///
    /// # Errors
    /// Those of [`LocalBuilder::plan`].
    pub async fn plan_graph(
        &self,
        lowered: Lowered,
        request: BuildRequest,
        progress: &Progress,
    ) -> Result<BuildPlan> {
        self.plan_of(request, Some(&lowered), progress).await
    }

    async fn plan_of(
        &self,
        request: BuildRequest,
        given: Option<&Lowered>,
        progress: &Progress,
    ) -> Result<BuildPlan> {
        request.check_outputs()?;
        self.warn_of_folder(progress);
        let mut names: Vec<String> = Vec::new();
        for output in request.outputs.iter().filter(|output| output.has_image()) {
            for name in output.names(&request).iter().map(ToString::to_string) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let _use = Use::begin(&self.options.root, UseKind::Work).await?;
        let imports = self.imports(&request, progress);
        let prepared = self.prepare(request, given, (&Damage::default(), &imports), progress).await?;
        let steps = prepared.solver.plan().await?;
        Ok(BuildPlan { steps, names, graph: prepared.graph, roots: prepared.roots })
    }
}

/// A builder that only plans: its result has the steps and whether each is cached, and no image.
///
/// ```no_run
/// use hyper_sdk::build::{BuildRequest, DryRun, LocalBuilder};
/// use hyper_sdk::progress::Progress;
/// use std::sync::Arc;
///
/// async fn show(builder: LocalBuilder, request: BuildRequest) -> hyper_sdk::Result<()> {
///     for step in DryRun::new(Arc::new(builder)).plan(request, &Progress::none()).await?.steps {
///         println!("{:?} {}", step.state, step.name);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct DryRun(Arc<LocalBuilder>);

impl DryRun {
    /// A dry run of a builder.
    pub fn new(builder: Arc<LocalBuilder>) -> Self {
        Self(builder)
    }

    /// The plan of a build: [`LocalBuilder::plan`].
    ///
    /// # Errors
    /// Those of [`LocalBuilder::plan`].
    pub async fn plan(&self, request: BuildRequest, progress: &Progress) -> Result<BuildPlan> {
        self.0.plan(request, progress).await
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dry run of {}", self.0)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Builder for DryRun {
    async fn capabilities(&self) -> Result<BuilderCapabilities> {
        Ok(self.0.capabilities().await?.without_results())
    }

    async fn build(&self, request: BuildRequest, progress: &Progress) -> Result<BuildOutput> {
        let plan = self.plan(request, progress).await?;
        let is_step = |step: &&PlannedStep| !matches!(step.state, StepState::Source | StepState::Fetch);
        let steps = plan.steps.iter().filter(is_step).map(|step| StepReport {
            name: step.name.clone(),
            cached: step.state == StepState::Cached,
            milliseconds: 0,
        });
        Ok(BuildOutput { image: None, config: None, steps: steps.collect(), tags: plan.names, epoch: 0 })
    }
}
