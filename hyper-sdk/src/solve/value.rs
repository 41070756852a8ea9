//! What vertices come to: chains of layers, and folders.

use crate::digest::Hasher;
use crate::layer::copy::SourceRoot;
use crate::oci::Descriptor;
use crate::{Digest, RepositoryName};
use std::sync::Arc;

/// A layer: its blob, its diff ID, and where the blob is.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The layer as a blob.
    pub blob: Descriptor,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The repository of the store that has the blob.
    pub repository: RepositoryName,
}

/// The layers of a root file system, lowest first, with the chain ID of each prefix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    layers: Vec<(Layer, Digest)>,
}

impl Chain {
    /// A chain of layers.
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        let mut chain = Self::default();
        for layer in layers {
            chain = chain.with(layer);
        }
        chain
    }

    /// The chain with one more layer on top.
    #[must_use]
    pub fn with(&self, layer: Layer) -> Self {
        let id = chain_id(self.id(), &layer.diff_id);
        let mut layers = self.layers.clone();
        layers.push((layer, id));
        Self { layers }
    }

    /// The layers, each with the chain ID up to it.
    pub fn layers(&self) -> &[(Layer, Digest)] {
        &self.layers
    }

    /// The chain ID; `None` for no layers.
    pub fn id(&self) -> Option<&Digest> {
        self.layers.last().map(|(_, id)| id)
    }

    /// The chain ID as a part of a key.
    pub(super) fn key(&self) -> &str {
        self.id().map_or("", Digest::as_str)
    }
}

/// The chain ID of a layer on a parent (image-spec, config.md, "Layer ChainID").
pub fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => {
            let mut hasher = Hasher::sha256();
            hasher.update(format!("{parent} {diff_id}"));
            hasher.finish()
        }
    }
}

/// The result of a vertex.
#[derive(Clone, Debug)]
pub enum Value {
    /// A root file system.
    Chain(Chain),
    /// The files of a build context.
    Folder(Arc<SourceRoot>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::sha256("a"), Digest::sha256("b"));
        assert_eq!(chain_id(None, &a), a);
        assert_eq!(chain_id(Some(&a), &b), Digest::sha256(format!("{a} {b}")));
    }
}
