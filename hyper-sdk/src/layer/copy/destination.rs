//! The destination of a copy before the copy.

use crate::layer::{Entry, LayerPath, TreeIndex};
use std::fmt;

/// The entries of the destination before the instruction.
pub(crate) trait Destination: fmt::Debug {
    /// The entry at a path, without following a link. It is never called for the root.
    fn entry(&self, path: &LayerPath) -> Option<&Entry>;
}

/// A destination without files: `FROM scratch`, and every `--link`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EmptyDestination;

impl Destination for EmptyDestination {
    fn entry(&self, _path: &LayerPath) -> Option<&Entry> {
        None
    }
}

impl Destination for TreeIndex {
    fn entry(&self, path: &LayerPath) -> Option<&Entry> {
        self.lookup(path).map(|node| node.entry)
    }
}
