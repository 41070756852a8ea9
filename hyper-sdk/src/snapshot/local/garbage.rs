//! The removal of folders beside the work: a step's tree can have many files.

use super::Inner;
use crate::Result;
use crate::sandbox::Errand;
use crate::snapshot::folders::{Claim, Removed};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A folder that a thread removes.
pub(super) enum Garbage {
    Removed(Removed),
    /// A step is still ending there.
    Ending(Claim),
}

impl Inner {
    /// Removes the content of moved folders through the helper, which alone may enter every folder of a step.
    pub(super) async fn remove_content(&self, removed: Vec<Removed>) -> Result<()> {
        if removed.is_empty() {
            return Ok(());
        }
        let paths = removed.iter().map(|removed| removed.path.clone()).collect();
        self.sandbox.errand(&Errand::Remove { paths }).await.map(drop)
    }

    /// Removes the content of a moved folder on another thread, since each removed folder can take milliseconds. What a
    /// process leaves at its end is removed by the next one.
    pub(super) fn remove_later(self: &Arc<Self>, folder: Garbage) {
        let mut garbage = self.garbage();
        if let Some(waiting) = &mut *garbage {
            waiting.push(folder);
            return;
        }
        *garbage = Some(vec![folder]);
        drop(garbage);
        let inner = Arc::clone(self);
        let work = move || {
            let mut is_well = true;
            loop {
                let mut garbage = inner.waiting_garbage();
                if garbage.is_empty() && is_well {
                    // What a killed process left comes in portions.
                    let more = inner.folders.more_leftovers().unwrap_or_default();
                    garbage.extend(more.into_iter().map(Garbage::Removed));
                }
                if garbage.is_empty() {
                    let mut waiting = inner.garbage();
                    if waiting.as_ref().is_none_or(Vec::is_empty) {
                        *waiting = None;
                        return;
                    }
                    continue;
                }
                let set_aside = |garbage| match garbage {
                    Garbage::Removed(removed) => Some(removed),
                    // The next start removes what cannot be removed now.
                    Garbage::Ending(claim) => inner.folders.give_up(claim).ok(),
                };
                let removed: Vec<Removed> = garbage.into_iter().filter_map(set_aside).collect();
                let paths = removed.iter().map(|removed| removed.path.clone()).collect();
                is_well = inner.sandbox.errand_blocking(&Errand::Remove { paths }).is_ok();
            }
        };
        if std::thread::Builder::new().name("snapshot-garbage".to_owned()).spawn(work).is_err() {
            *self.garbage() = None;
        }
    }

    fn waiting_garbage(&self) -> Vec<Garbage> {
        self.garbage().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Has a folder that is not committed removed.
    pub(super) fn give_up(self: &Arc<Self>, claim: Claim) -> Result<()> {
        self.remove_later(match self.folders.try_give_up(claim)? {
            Ok(removed) => Garbage::Removed(removed),
            Err(claim) => Garbage::Ending(claim),
        });
        Ok(())
    }

    /// Waits until the thread has removed everything, but not for longer than `limit`.
    pub(super) async fn garbage_is_gone(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.garbage().is_some() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn garbage(&self) -> MutexGuard<'_, Option<Vec<Garbage>>> {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
