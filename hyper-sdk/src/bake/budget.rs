//! What an evaluation may spend.

use super::fault::{Fault, Outcome};
use std::cell::Cell;

/// The most steps of an evaluation.
const MAX_STEPS: u64 = 2_000_000;
/// The most bytes of all values that an evaluation makes.
const MAX_BYTES: usize = 64 << 20;
/// The most levels of expressions in each other, through variables and functions.
const MAX_DEPTH: usize = 1_000;

/// What an evaluation may still spend. It bounds time, memory and the stack.
#[derive(Debug)]
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    depth: Cell<usize>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { steps: Cell::new(MAX_STEPS), bytes: Cell::new(MAX_BYTES), depth: Cell::new(0) }
    }

    pub(super) fn step(&self) -> Outcome<()> {
        let left = self.steps.get().checked_sub(1);
        self.steps.set(
            left.ok_or_else(|| Fault::fatal(format!("the evaluation takes more than {MAX_STEPS} steps")))?,
        );
        Ok(())
    }

    pub(super) fn spend(&self, bytes: usize) -> Outcome<()> {
        let left = self.bytes.get().checked_sub(bytes);
        self.bytes.set(left.ok_or_else(|| {
            Fault::fatal(format!("the evaluation makes more than {} MiB of values", MAX_BYTES >> 20))
        })?);
        Ok(())
    }

    /// Runs something one level deeper.
    pub(super) fn deeper<T>(&self, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        if self.depth.get() >= MAX_DEPTH {
            return Err(Fault::fatal(format!("expressions are nested more than {MAX_DEPTH} levels deep")));
        }
        self.depth.set(self.depth.get() + 1);
        let outcome = run();
        self.depth.set(self.depth.get() - 1);
        outcome
    }
}
