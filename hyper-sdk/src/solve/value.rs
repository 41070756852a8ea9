//! The results of vertices: chains of layers, and folders.

use crate::digest::Hasher;
use crate::layer::{EntryTimes, FileTime, TimesTable};
use crate::oci::Descriptor;
use crate::source::LayerOrigin;
use crate::{Digest, RepositoryName};
use std::sync::Arc;

/// A layer: its diff ID, and its blob with the repository.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The layer as a blob.
    pub blob: Descriptor,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The repository of the store that has the blob.
    pub repository: RepositoryName,
    /// The true times of its files; `None` when only those of the layer are known.
    pub times: Option<LayerTimes>,
    /// The source of the blob when the store does not have it; for a layer of an image that was not built here.
    pub(crate) origin: Option<Arc<LayerOrigin>>,
}

impl PartialEq for Layer {
    /// Equal layers may have different origins.
    fn eq(&self, other: &Self) -> bool {
        (&self.blob, &self.diff_id, &self.repository, &self.times)
            == (&other.blob, &other.diff_id, &other.repository, &other.times)
    }
}

/// The true times of the files of a layer.
#[derive(Clone, Debug)]
pub enum LayerTimes {
    /// The name of a table that is stored next to the index of the layer.
    Kept(Digest),
    /// The table itself.
    Table(Arc<TimesTable>),
}

impl LayerTimes {
    /// The name of the table.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Kept(digest) => digest,
            Self::Table(table) => table.digest(),
        }
    }
}

impl PartialEq for LayerTimes {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

/// The times of the files that a step copies from a context, and the time of files without a source.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) times: EntryTimes,
    pub(super) made: FileTime,
}

impl Planned {
    /// The times of a cached layer that was made at `first`.
    ///
    /// The files have their current times, and not those of the build that made the layer: they may have had other content
    /// meanwhile, and tools compare times.
    pub(super) fn for_cached(self, first: Option<FileTime>) -> LayerTimes {
        LayerTimes::Table(Arc::new(self.times.table(self.made, first)))
    }
}

/// The layers of a root file system, lowest first, with the chain ID of each prefix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerChain {
    layers: Vec<(Layer, Digest)>,
}

impl LayerChain {
    /// A chain of layers.
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        let mut chain = Self::default();
        for layer in layers {
            let id = chain_id(chain.id(), &layer.diff_id);
            chain.layers.push((layer, id));
        }
        chain
    }

    /// The layers, each with the chain ID up to it.
    pub fn layers(&self) -> &[(Layer, Digest)] {
        &self.layers
    }

    /// The chain ID; `None` for no layers.
    pub fn id(&self) -> Option<&Digest> {
        self.layers.last().map(|(_, id)| id)
    }
}

/// The chain ID of a layer on a parent (image-spec, config.md, "Layer ChainID").
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => {
            let mut hasher = Hasher::sha256();
            hasher.update(format!("{parent} {diff_id}"));
            hasher.finish()
        }
    }
}

/// The name of the snapshot of a layer with these times. `below` has the name and the chain ID of the snapshot below.
///
/// It is the chain ID when only the times of the layers are known.
pub(super) fn snapshot_name(
    below: Option<(&Digest, &Digest)>,
    diff_id: &Digest,
    chain: &Digest,
    times: Option<&Digest>,
) -> Digest {
    if times.is_none() && below.is_none_or(|(name, chain)| name == chain) {
        return chain.clone();
    }
    let mut hasher = Hasher::sha256();
    hasher.update_field("snapshot with true times");
    for part in [below.map(|(name, _)| name), Some(diff_id), times] {
        hasher.update_field(part.map_or("", Digest::as_str));
    }
    hasher.finish()
}

/// The name of the files of a layer alone, without the layers below.
pub(super) fn files_name(chain: &Digest, times: Option<&Digest>) -> Digest {
    let mut hasher = Hasher::sha256();
    hasher.update_field("files of a layer");
    hasher.update_field(chain.as_str());
    hasher.update_field(times.map_or("", Digest::as_str));
    hasher.finish()
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
