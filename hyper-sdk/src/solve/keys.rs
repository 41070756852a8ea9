//! What the keys of a step are, and what they are made of.

use super::value::Planned;
use crate::Digest;
use crate::graph::InputIndex;
use crate::layer::FileTime;
use crate::layer::copy::Plan;
use std::time::{Duration, Instant};

/// How long a plan is as good as a new one.
const FRESH: Duration = Duration::from_secs(2);

/// The keys of a step, best first.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) digests: Vec<Digest>,
    /// The current times of the files in a layer of these keys, when the keys depend on them.
    pub(super) planned: Option<Planned>,
    /// What the keys are made of, when they are of files of folders.
    pub(super) plan: Option<KeyPlan>,
    /// What the keys have of inputs other than the root file system, and of files that are not listed.
    pub(super) used: Vec<UsedInput>,
}

/// A plan of files of folders.
#[derive(Debug)]
pub(super) struct KeyPlan {
    plan: Plan,
    made: FileTime,
    begun: Instant,
}

impl KeyPlan {
    /// A plan for which no folder was listed before `begun`. `made` is the time of what has no source.
    pub(super) fn new(plan: Plan, made: FileTime, begun: Instant) -> Self {
        Self { plan, made, begun }
    }

    /// The plan with its time, unless it is so old that files may well have changed: whoever writes them would fail then,
    /// and a new plan takes them as they are.
    pub(super) fn fresh(self) -> Option<(Plan, FileTime)> {
        (self.begun.elapsed() < FRESH).then_some((self.plan, self.made))
    }
}

/// What keys have of an input.
#[derive(Debug)]
pub(super) struct UsedInput {
    pub(super) input: InputIndex,
    /// The mount that uses it, from 1.
    pub(super) mount: Option<usize>,
    pub(super) key: String,
}
