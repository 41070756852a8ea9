//! Steps that run programs of another platform, before anything runs: refused when this machine cannot run them.

use crate::exec::{Runs, runs};
use crate::graph::{Graph, VertexId};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::solve::{Solver, StepState, blocking};
use crate::{Error, FailedStep, Result};
use std::collections::BTreeMap;

/// Checks that this machine runs the programs of every RUN step that is not in the cache.
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
    let mut out_of_reach = Vec::new();
    for (platform, ids) in steps {
        let asked = platform.clone();
        match blocking(move || Ok(runs(&asked))).await? {
            Runs::Yes => {}
            Runs::WithFile(path) => progress.warn(format!(
                "the emulator of {platform} (`{path}`) is registered without the flag `F`: a step finds it only when its own \
                 files have it"
            )),
            Runs::No => out_of_reach.extend(ids),
        }
    }
    if out_of_reach.is_empty() {
        return Ok(());
    }
    // What is in the cache does not run.
    let plan = solver.plan().await?;
    let runs = |id: &VertexId| {
        let planned = plan.iter().find(|step| step.address == *graph.vertex(*id).address());
        planned.is_some_and(|step| matches!(step.state, StepState::Run | StepState::Open))
    };
    match out_of_reach.iter().filter(|id| runs(id)).min() {
        None => Ok(()),
        Some(id) => {
            let vertex = graph.vertex(*id);
            let platform = vertex.platform.as_ref().map(ToString::to_string).unwrap_or_default();
            let message = format!(
                "a step runs programs for {platform}, which this machine ({host}) cannot run: install an emulator \
                 (`apt-get install qemu-user-static binfmt-support`), or let this machine make the files, in a stage \
                 `FROM --platform=$BUILDPLATFORM`"
            );
            Err(Error::unsupported(message)
                .with_context("platform", platform)
                .with_step(FailedStep::new(&vertex.name, vertex.origin.clone())))
        }
    }
}
