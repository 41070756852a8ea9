//! A note of a pull, and how exact its time is.

use crate::Digest;
use crate::reference::{RepositoryName, Tag};

/// The most by which the noted time of a pull lies before the last one, in seconds: what was noted is not noted again for an hour.
pub const PULL_LAG: i64 = 2 * 60 * 60;

/// A manifest that was pulled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullNote {
    /// The repository.
    pub repository: RepositoryName,
    /// The manifest.
    pub digest: Digest,
    /// The tag by which it was pulled.
    pub tag: Option<Tag>,
}
