//! What the keys of a step are, and what they are made of.

use super::value::Planned;
use crate::Digest;
use crate::graph::InputIndex;
use crate::layer::FileTime;
use crate::layer::copy::Plan;

/// The keys of a step, best first.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) digests: Vec<Digest>,
    /// The current times of the files in a layer of these keys, when the keys depend on them.
    pub(super) planned: Option<Planned>,
    /// The plan that the keys are made of, when they are of files of folders, and the time of what has no source.
    pub(super) plan: Option<(Plan, FileTime)>,
    /// What the keys have of inputs other than the root file system, and of files that are not listed.
    pub(super) used: Vec<UsedInput>,
}

/// What keys have of an input.
#[derive(Debug)]
pub(super) struct UsedInput {
    pub(super) input: InputIndex,
    /// The mount that uses it, from 1.
    pub(super) mount: Option<usize>,
    pub(super) key: String,
}
