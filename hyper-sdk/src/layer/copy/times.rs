//! The times of directories that are no copies themselves.
//!
//! # Rules
//! - A directory that a path needs is as of now, and so are again those of this layer that something comes into later.
//! - What the contents of a directory are copied into gets the time of that one, also when it was there before, if
//!   anything comes into it. The root of a context is as of now: it is a folder of the builder.
//! - Other directories of the destination keep their times and are in no layer. (In BuildKit each is as of now that
//!   something comes into.)

use super::plan::Content;
use super::planner::{Pending, Planner};
use super::source::{Metadata, SourceKind, SourceRoot};
use crate::layer::{Entry, LayerPath};

impl Planner<'_> {
    /// Gives a directory, whose content is there, the time of the one that it is from.
    pub(super) fn set_time(&mut self, to: &LayerPath, root: &SourceRoot, from: &[u8], metadata: &Metadata) {
        let is_context = from.is_empty() && root.kind() == SourceKind::Context;
        let time = if is_context { self.now } else { metadata.time() };
        if let Some(pending) = self.pending.get_mut(to) {
            pending.entry.set_time(time);
            return;
        }
        let next = self.pending.range(to.clone()..).next();
        let is_changed = next.is_some_and(|(path, _)| path.starts_with(to));
        // The root has no entry of its own.
        if let Some(found) = self.metadata(to).filter(|_| is_changed) {
            let mut entry: Entry = found.clone();
            entry.set_time(time);
            self.pending.insert(to.clone(), Pending::new(entry, Content::None));
        }
    }

    /// Notes that something comes into the directory of a path.
    pub(super) fn changed_now(&mut self, path: &LayerPath) {
        if let Some(pending) = path.parent().and_then(|parent| self.pending.get_mut(&parent)) {
            pending.entry.set_time(self.now);
        }
    }
}
