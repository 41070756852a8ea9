//! The cache mounts of the steps of a build, whose contents are for other machines.

use crate::Digest;
use std::collections::BTreeMap;

/// The cache mounts of the steps of a build, by name.
pub(super) type UsedMounts = BTreeMap<Digest, UsedMount>;

/// A cache mount of a step.
#[derive(Clone, Debug)]
pub(super) struct UsedMount {
    /// Its id, for messages.
    pub(super) id: String,
    /// Whether it has an owner or a mode, so that `--no-cache` empties it.
    pub(super) has_owner: bool,
}
