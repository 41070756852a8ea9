//! References from a manifest to content of its repository.

use crate::Digest;

/// The kind of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeKind {
    /// A config or a layer.
    Blob,
    /// An entry of an index: a manifest, or a blob where the repository has no such manifest.
    Entry,
}

/// A reference from a manifest to a blob or manifest of the same repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The kind of the target.
    pub kind: EdgeKind,
    /// The digest of the target.
    pub digest: Digest,
    /// Whether the manifest is rejected when the target is missing.
    pub required: bool,
    /// The size of the target according to the manifest.
    pub size: u64,
    /// The size of the bytes in the blob backend; `None` when there are none.
    pub stored: Option<u64>,
    /// The field of the manifest with the reference, such as `layers[0]`.
    pub field: String,
}
