//! Steps that run programs of another platform: refused when this machine cannot run them. What surely runs is refused before
//! anything does, and what may be in the cache when it turns out not to be.

use crate::exec::{Runs, runs};
use crate::graph::{Graph, VertexId};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::solve::{Solver, StepState, blocking};
use crate::{FailedStep, Result};
use std::collections::BTreeMap;

/// Checks that this machine runs the programs of every RUN step that is not in the cache. A step of which this is not known yet
/// is checked by the solver, before its command starts.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] with the first step whose platform this machine does not run; those of [`Solver::plan`].
pub(super) async fn check(
    graph: &Graph,
    roots: &[VertexId],
    solver: &Solver,
    progress: &Progress,
) -> Result<()> {
    let host = Platform::host();
    let is_foreign =
        |platform: &Platform| (&platform.os, &platform.architecture) != (&host.os, &host.architecture);
    let mut steps: BTreeMap<Platform, Vec<VertexId>> = BTreeMap::new();
    for id in graph.reachable(roots) {
        if let Some(platform) = graph.vertex(id).platform.clone().filter(is_foreign) {
            steps.entry(platform).or_default().push(id);
        }
    }
    let (mut out_of_reach, mut whys) = (Vec::new(), BTreeMap::new());
    for (platform, ids) in steps {
        let asked = platform.clone();
        match blocking(move || Ok(runs(&asked))).await? {
            Runs::Yes => {}
            Runs::WithFile(path) => progress.warn(format!(
                "the emulator of {platform} (`{path}`) is registered without the flag `F`: a step finds it only when its own \
                 files have it"
            )),
            Runs::Unknown => progress.warn(format!(
                "it cannot be found out whether this machine ({host}) runs programs for {platform}: steps for it are tried"
            )),
            Runs::No => {
                let why = format!(
                    "a step runs programs for {platform}, which this machine ({host}) cannot run: install an emulator \
                     (`apt-get install qemu-user-static binfmt-support`), or let this machine make the files, in a stage \
                     `FROM --platform=$BUILDPLATFORM`"
                );
                whys.insert(platform, why);
                out_of_reach.extend(ids);
            }
        }
    }
    if out_of_reach.is_empty() {
        return Ok(());
    }
    solver.refuse(whys);
    // What is in the cache does not run, and of a step whose files are not known yet nobody knows.
    let plan = solver.plan().await?;
    let runs = |id: &VertexId| {
        let vertex = graph.vertex(*id);
        let planned = plan.iter().find(|step| step.address == *vertex.address());
        planned.is_some_and(|step| match step.state {
            StepState::Run => true,
            StepState::Open => vertex.no_cache,
            StepState::Source | StepState::Fetch | StepState::Cached => false,
        })
    };
    match out_of_reach.iter().filter(|id| runs(id)).min() {
        None => Ok(()),
        Some(id) => {
            let vertex = graph.vertex(*id);
            let step = FailedStep::new(&vertex.name, vertex.origin.clone());
            solver.context().check_platform(vertex).map_err(|e| e.with_step(step))
        }
    }
}
