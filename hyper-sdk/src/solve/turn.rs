//! When a command may run: after the equal ones that other builds or stages run, with its cache mounts and a permit.

use super::SolveContext;
use super::chain::StepResult;
use super::keys::Keys;
use super::made_layer::BlobTime;
use super::mounts::Caches;
use super::on_error::OnError;
use super::step_lock::{OtherRun, StepLock, StepName, Turn};
use crate::graph::{ExecOp, Vertex};
use crate::progress::Task;
use crate::{Error, Result};
use tokio::sync::SemaphorePermit;

/// What a command holds while it runs.
pub(super) struct Right<'a> {
    pub(super) caches: Caches,
    _permit: SemaphorePermit<'a>,
    /// Others wait for it, until it is ended or dropped.
    pub(super) lock: Option<StepLock>,
}

impl SolveContext {
    /// Waits until a command may run: for equal ones that others run, for its cache mounts, and for a permit.
    pub(super) async fn turn(
        &self,
        exec: &ExecOp,
        step: (&Vertex, &mut Keys, BlobTime),
        inputs: &[StepResult],
    ) -> Result<Turn<Right<'_>>> {
        // When it is dropped meanwhile, the build is cancelled.
        let mut waits = None;
        let turn = self.wait_for_turn(exec, step, inputs, &mut waits).await;
        waits.into_iter().for_each(Task::done);
        turn
    }

    async fn wait_for_turn(
        &self,
        exec: &ExecOp,
        (vertex, keys, time): (&Vertex, &mut Keys, BlobTime),
        inputs: &[StepResult],
        waits: &mut Option<Task>,
    ) -> Result<Turn<Right<'_>>> {
        // Commands with an equal last key, which is by content, have the same result whatever the others are.
        let is_shared = !vertex.no_cache && exec.args != [OnError::PLACE];
        let mut name = keys.digests.last().filter(|_| is_shared).map(|key| StepName::new(&self.folder, key));
        loop {
            if let Some(other) = name.as_ref().and_then(OtherRun::find) {
                waits.get_or_insert_with(|| {
                    let text =
                        format!("waiting for an equal step of another build or stage: {}", vertex.name);
                    self.progress.start(text, None)
                });
                let has_ended = other.ends().await;
                if let Some(layer) = self.find(keys, time).await? {
                    return Ok(Turn::Found(layer));
                }
                name = name.filter(|_| !has_ended);
                continue;
            }
            // Before the permit: a command that waits for a cache must not block others.
            let caches = self.lock_caches(exec, inputs, vertex.no_cache).await?;
            self.fill_caches(&caches).await?;
            let permit =
                self.commands.acquire().await.map_err(|e| Error::internal("no permits").with_source(e))?;
            let mut right = Right { caches, _permit: permit, lock: None };
            let Some(wanted) = &name else { return Ok(Turn::Runs(right)) };
            match StepLock::try_take(wanted) {
                Ok(None) => {}
                Ok(Some(lock)) => {
                    // Somebody may have run it since the cache was asked.
                    let found = self.find(keys, time).await;
                    if let Ok(None) = found {
                        right.lock = Some(lock);
                        return Ok(Turn::Runs(right));
                    }
                    lock.end();
                    return found.map(|layer| layer.map_or(Turn::Runs(right), Turn::Found));
                }
                Err(e) => {
                    self.progress.warn(format!("steps that other builds run, too, are not waited for: {e}"));
                    return Ok(Turn::Runs(right));
                }
            }
        }
    }
}
