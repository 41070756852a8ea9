//! Skips copies that no output needs and that would pull a base image. It only checks that their sources exist.

use super::chain::{Chain, StepResult, input_value};
use super::step::failed;
use super::{SolveContext, StepReport, blocking};
use crate::Result;
use crate::graph::{CopyAction, FileAction, Op, Vertex};
use crate::layer::FileTime;
use crate::layer::copy::{CopySpec, EmptyDestination, PatternList, Planner};
use std::sync::Arc;

impl SolveContext {
    /// Whether a step changes the files of an image without an index.
    pub(super) async fn is_out_of_reach(&self, vertex: &Vertex, inputs: &[StepResult]) -> bool {
        let Op::File(file) = &vertex.op else { return false };
        match inputs.first() {
            Some(StepResult::Unmade) => true,
            Some(StepResult::Chain(base)) => !file.link && self.has_unknown(base).await,
            _ => false,
        }
    }

    /// Checks the sources of a step, as far as they are local.
    pub(super) async fn check_sources(
        &self,
        vertex: &Vertex,
        inputs: &[StepResult],
    ) -> Result<(StepResult, Option<StepReport>)> {
        let task = self.progress.start(vertex.name.clone(), None);
        if let Op::File(file) = &vertex.op {
            for action in &file.actions {
                if let FileAction::Copy(copy) = action
                    && let Err(e) = self.check_copy(copy, inputs).await
                {
                    return failed(vertex, task, e);
                }
            }
        }
        let report = super::step::report(vertex, false, &task);
        task.done();
        Ok((StepResult::Unmade, Some(report)))
    }

    async fn check_copy(&self, copy: &CopyAction, inputs: &[StepResult]) -> Result<()> {
        let root = match input_value(inputs, copy.input)? {
            StepResult::Folder(root) => Arc::clone(root),
            StepResult::Chain(chain) if !self.has_unknown(chain).await => {
                return self.check_paths(chain, copy).await;
            }
            StepResult::Chain(_) | StepResult::Unmade => return Ok(()),
        };
        let mut spec = CopySpec::new(copy.sources.clone(), "/files/");
        spec.exclude = PatternList::new(&copy.exclude)?;
        spec.parents = copy.parents;
        blocking(move || {
            let mut planner = Planner::new(&EmptyDestination, FileTime::of(0));
            planner.copy(&root, &spec).map(drop)
        })
        .await
    }

    /// Checks that the plain paths of a copy exist.
    async fn check_paths(&self, chain: &Chain, copy: &CopyAction) -> Result<()> {
        let tree = self.tree(chain).await?;
        for source in &copy.sources {
            if !crate::layer::copy::pattern::has_wildcards(source.as_bytes()) {
                let path = tree.resolve(source.as_bytes(), true)?;
                if tree.lookup(&path).is_none() && !path.is_root() {
                    return Err(crate::Error::new(
                        crate::ErrorKind::NotFound,
                        format!("there is no `{source}` to copy"),
                    ));
                }
            }
        }
        Ok(())
    }
}
