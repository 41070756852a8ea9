//! Finds the newest time of the sources of a copy without planning the copy.

use super::planner::Mode;
use super::{CopySpec, EmptyDestination, Planner, SourceRoot};
use crate::Result;
use crate::layer::FileTime;
use std::sync::Arc;

/// The newest modification time of the files and links that a copy would take, in seconds since 1970; `None` if there
/// are none. This is faster than a plan. If listings are remembered, `threads` threads read the directories.
///
/// # Errors
/// Those of [`Planner::copy`] that concern the sources.
pub(crate) fn newest_mtime(root: &Arc<SourceRoot>, spec: &CopySpec, threads: usize) -> Result<Option<i64>> {
    let mut planner = Planner::new(&EmptyDestination, FileTime::of(0));
    planner.mode = Mode::NewestTime { threads: threads.max(1) };
    planner.copy(root, spec)?;
    Ok(planner.newest)
}
