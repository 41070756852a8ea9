//! What a manifest points to in its repository.

use crate::Digest;

/// What a manifest points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeKind {
    /// A config or a layer.
    Blob,
    /// An entry of an index: a manifest, or a blob where the repository has no such manifest.
    Entry,
}

/// An edge from a manifest to something in the same repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// What it points to.
    pub kind: EdgeKind,
    /// Its digest.
    pub digest: Digest,
    /// Whether the manifest is refused when the target is missing.
    pub required: bool,
    /// Its size, according to the manifest.
    pub size: u64,
    /// The size of its bytes in the blob backend, if there are any.
    pub stored: Option<u64>,
    /// The field of the manifest that has the edge, such as `layers[0]`.
    pub field: String,
}
