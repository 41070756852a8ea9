//! A look at what a copy would take, without planning it.

use super::{CopySpec, EmptyDestination, Planner, SourceRoot};
use crate::Result;
use crate::layer::FileTime;
use std::sync::Arc;

/// The newest time of a change of a file or link that a copy would take, in seconds since 1970; `None` when it takes
/// none. For less work than a plan; where listings are remembered, directories are read by `threads` threads.
///
/// # Errors
/// Those of [`Planner::copy`] that concern the sources.
pub(crate) fn newest_mtime(root: &Arc<SourceRoot>, spec: &CopySpec, threads: usize) -> Result<Option<i64>> {
    let mut planner = Planner::new(&EmptyDestination, FileTime::of(0));
    planner.survey = Some(threads.max(1));
    planner.copy(root, spec)?;
    Ok(planner.newest)
}
