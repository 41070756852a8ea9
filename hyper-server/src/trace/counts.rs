//! What became of spans.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a span.
#[cfg(feature = "otlp")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// The collector has it.
    Sent,
    /// The queue was full.
    Dropped,
    /// The collector did not take it.
    Failed,
}

/// How many spans each outcome had.
#[derive(Debug, Default)]
pub(crate) struct SpanCounts([AtomicU64; NAMES.len()]);

const NAMES: [&str; 3] = ["sent", "dropped", "failed"];

impl SpanCounts {
    #[cfg(feature = "otlp")]
    pub(crate) fn add(&self, outcome: Outcome, count: u64) {
        self.0[outcome as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Gives each count with the name of its outcome.
    pub(crate) fn each(&self, each: &mut dyn FnMut(&[&str], u64)) {
        for (name, count) in NAMES.iter().zip(&self.0) {
            each(&[name], count.load(Ordering::Relaxed));
        }
    }
}

/// The names of the outcomes.
pub(crate) fn outcomes() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}
