//! The times of directories that are not copies themselves.
//!
//! # Rules
//! - A new parent directory gets the current time, and so does a directory of this layer when an entry is added to it
//!   later.
//! - A directory that receives the contents of a source directory gets the time of that directory, also if it existed
//!   before, provided that an entry is added. The root of a context gives the current time, since it is a folder of the
//!   builder.
//! - Other directories of the destination keep their times and are not in the layer. (In BuildKit each gets the current
//!   time when an entry is added.)

use super::metadata::Metadata;
use super::planned_entry::{Content, PlannedEntry};
use super::planner::Planner;
use super::source::{SourceKind, SourceRoot};
use crate::layer::{Entry, LayerPath};

impl Planner<'_> {
    /// Sets the time of a directory to that of its source directory, after its content was planned.
    pub(super) fn set_time(&mut self, to: &LayerPath, root: &SourceRoot, from: &[u8], metadata: &Metadata) {
        let is_context = from.is_empty() && root.kind() == SourceKind::Context;
        let time = if is_context { self.now } else { metadata.time() };
        if let Some(pending) = self.pending.get_mut(to) {
            pending.entry.set_time(time);
            return;
        }
        if !self.pending.has_at_or_below(to) {
            return;
        }
        // The root has no entry of its own.
        if let Some(found) = self.metadata(to) {
            let mut entry: Entry = found.into_owned();
            entry.set_time(time);
            self.pending.insert(PlannedEntry::new(entry, Content::None));
        }
    }

    /// Sets the parent of a path to the current time, since an entry is added to it.
    pub(super) fn changed_now(&mut self, path: &LayerPath) {
        if let Some(pending) = path.parent().and_then(|parent| self.pending.get_mut(&parent)) {
            pending.entry.set_time(self.now);
        }
    }
}
