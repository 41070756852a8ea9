//! Where a copy goes: what is there before it.

use crate::layer::{Entry, LayerPath, TreeIndex};
use std::fmt;

/// What the destination has before the instruction.
pub(crate) trait Destination: fmt::Debug {
    /// The entry at a path, without following a link; the root is never asked for.
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
