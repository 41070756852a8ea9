//! Root file systems while a graph is solved: lists of layers that share what is below.
//!
//! A step adds one link to the chain that it stands on, whatever its depth.

use super::made_layer::MadeLayer;
use super::value::{Layer, LayerTimes, chain_id, snapshot_name};
use crate::graph::InputIndex;
use crate::layer::copy::SourceRoot;
use crate::{Digest, Error, Result};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A layer of a root file system.
#[allow(clippy::large_enum_variant, reason = "it is always shared, and one box less is followed")]
#[derive(Debug)]
pub(crate) enum StepLayer {
    /// A layer of an image, which is known by its descriptor.
    Image(Layer),
    /// The layer of a step. Its blob is made when something needs it.
    Made(MadeLayer),
}

impl StepLayer {
    /// The digest of the uncompressed layer.
    pub(crate) fn diff_id(&self) -> &Digest {
        match self {
            Self::Image(layer) => &layer.diff_id,
            Self::Made(layer) => &layer.diff_id,
        }
    }

    /// The true times of its files; `None` when only those of the layer are known.
    pub(crate) fn times(&self) -> Option<&LayerTimes> {
        match self {
            Self::Image(layer) => layer.times.as_ref(),
            Self::Made(layer) => layer.times.as_ref(),
        }
    }
}

/// The layers of a root file system. Chains share their lower layers; a clone costs nothing.
#[derive(Clone, Default)]
pub(crate) struct Chain(Option<Arc<Link>>);

/// The topmost layer of a chain.
pub(crate) struct Link {
    below: Chain,
    depth: usize,
    pub(crate) layer: Arc<StepLayer>,
    /// The chain ID.
    pub(crate) id: Digest,
    snapshot: OnceLock<Digest>,
}

impl Chain {
    /// The chain of complete layers, lowest first.
    pub(crate) fn of_layers(layers: impl IntoIterator<Item = Layer>) -> Self {
        let with = |chain: Self, layer| chain.with(Arc::new(StepLayer::Image(layer)));
        layers.into_iter().fold(Self::default(), with)
    }

    /// The chain with one more layer on top.
    #[must_use]
    pub(crate) fn with(&self, layer: Arc<StepLayer>) -> Self {
        let id = chain_id(self.id(), layer.diff_id());
        let depth = self.depth() + 1;
        Self(Some(Arc::new(Link { below: self.clone(), depth, layer, id, snapshot: OnceLock::new() })))
    }

    /// How many layers there are.
    pub(crate) fn depth(&self) -> usize {
        self.0.as_ref().map_or(0, |link| link.depth)
    }

    /// The chain ID; `None` for no layers.
    pub(crate) fn id(&self) -> Option<&Digest> {
        self.0.as_ref().map(|link| &link.id)
    }

    /// The chain ID for a key.
    pub(super) fn key(&self) -> &str {
        self.id().map_or("", Digest::as_str)
    }

    /// The topmost link.
    pub(crate) fn top(&self) -> Option<&Link> {
        self.0.as_deref()
    }

    /// The links from the topmost to the lowest.
    pub(crate) fn down(&self) -> impl Iterator<Item = &Link> {
        std::iter::successors(self.top(), |link| link.below.top())
    }

    /// The links, lowest first.
    pub(crate) fn links(&self) -> Vec<&Link> {
        let mut links = Vec::with_capacity(self.depth());
        links.extend(self.down());
        links.reverse();
        links
    }

    /// The chain without its layers from `depth` on.
    pub(crate) fn lowest(&self, depth: usize) -> Self {
        let mut chain = self;
        while let Some(link) = chain.0.as_ref().filter(|link| link.depth > depth) {
            chain = &link.below;
        }
        chain.clone()
    }
}

impl Link {
    /// The name of the snapshot, which depends on the times of the layers below, too.
    pub(crate) fn snapshot(&self) -> &Digest {
        // Lower names are made first, and not by recursion: a chain can be long.
        let mut unnamed: Vec<&Self> = Vec::new();
        let mut at = self.below.top();
        while let Some(link) = at.filter(|link| link.snapshot.get().is_none()) {
            unnamed.push(link);
            at = link.below.top();
        }
        for link in unnamed.into_iter().rev() {
            link.name();
        }
        self.name()
    }

    /// The name, where that of the chain below is known.
    fn name(&self) -> &Digest {
        self.snapshot.get_or_init(|| {
            let below = self.below.top().map(|link| (link.name(), &link.id));
            snapshot_name(below, self.layer.diff_id(), &self.id, self.layer.times().map(LayerTimes::digest))
        })
    }
}

impl Drop for Link {
    /// Not by recursion: a chain can be long.
    fn drop(&mut self) {
        let mut next = self.below.0.take();
        while let Some(mut link) = next.and_then(Arc::into_inner) {
            next = link.below.0.take();
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("id", &self.id()).field("depth", &self.depth()).finish()
    }
}

/// The result of a vertex.
#[derive(Clone, Debug)]
pub(crate) enum StepResult {
    /// A root file system.
    Chain(Chain),
    /// The files of a build context.
    Folder(Arc<SourceRoot>),
    /// A root file system that no output needs and that is not made: its files depend on a base image that was not pulled.
    Unmade,
}

/// The internal error of a step that uses a skipped result.
pub(super) fn unmade() -> Error {
    Error::internal("a step uses a root file system that was not made")
}

pub(super) fn input_value(inputs: &[StepResult], input: InputIndex) -> Result<&StepResult> {
    inputs.get(input).ok_or_else(|| Error::internal("an input that the vertex does not have"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RepositoryName;
    use crate::oci::Descriptor;

    fn layer(text: &str, times: Option<&str>) -> Layer {
        Layer {
            blob: Descriptor::of(crate::media_type::OCI_LAYER, text.as_bytes()),
            diff_id: Digest::sha256(text),
            repository: RepositoryName::parse("a/b").unwrap(),
            times: times.map(|times| LayerTimes::Kept(Digest::sha256(times))),
            origin: None,
        }
    }

    fn snapshots(layers: [Layer; 2]) -> [Digest; 2] {
        let chain = Chain::of_layers(layers);
        let names: Vec<Digest> = chain.links().iter().map(|link| link.snapshot().clone()).collect();
        names.try_into().unwrap()
    }

    #[test]
    fn names_of_snapshots_depend_on_the_times_of_all_layers() {
        let plain = Chain::of_layers([layer("a", None), layer("b", None)]);
        assert!(plain.links().iter().all(|link| *link.snapshot() == link.id));
        let names = |a, b| snapshots([layer("a", a), layer("b", b)]);
        let all = [names(Some("1"), None), names(Some("2"), None), names(None, Some("1")), names(None, None)];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other[1] != one[1]), "{all:?}");
        }
        assert_eq!(all[2][0], all[3][0]);
        assert_eq!(names(Some("1"), Some("2")), names(Some("1"), Some("2")));
    }

    #[test]
    fn a_chain_of_any_length_is_named_and_dropped() {
        let one = Arc::new(StepLayer::Image(layer("a", Some("1"))));
        let chain = (0..200_000).fold(Chain::default(), |chain, _| chain.with(Arc::clone(&one)));
        assert_eq!((chain.depth(), chain.lowest(7).depth(), chain.lowest(0).depth()), (200_000, 7, 0));
        assert_eq!(chain.lowest(1).id(), Some(one.diff_id()));
        assert_ne!(Some(chain.top().unwrap().snapshot()), chain.id());
        let (below, clone) = (chain.lowest(100_000), chain.clone());
        drop(chain);
        drop(clone);
        assert_eq!(below.links().len(), 100_000);
    }
}
