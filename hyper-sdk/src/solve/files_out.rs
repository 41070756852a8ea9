//! Exports the files of a chain.
//!
//! Files may have owners outside of the user namespace. Such a layer is unpacked under another name, which no step uses, and
//! the tar has the owners of the layers.

use super::SolveContext;
use super::chain::Chain;
use crate::digest::Hasher;
use crate::layer::LayerPath;
use crate::snapshot::{ExportOptions, TarStream, UnpackOptions};
use crate::{Digest, Result};

/// An owner outside of the user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignOwner {
    pub(crate) path: LayerPath,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl SolveContext {
    /// The files of a chain as a tar with the times of the layers, and the first path with a foreign owner.
    pub(crate) async fn export(&self, chain: &Chain) -> Result<(TarStream, Option<ForeignOwner>)> {
        let layers = chain.links();
        let (name, foreign) = self.unpack_for_export(chain).await?;
        let owner = if foreign.is_some() { self.foreign_owner(chain).await? } else { None };
        // Layers below the first one with true times have the times of the layers.
        let timed = layers.iter().position(|link| link.layer.times().is_some());
        let first = timed.into_iter().chain(foreign).min().unwrap_or(layers.len());
        let mut published = Vec::new();
        for link in &layers[first..] {
            published.push(self.kept_index(&link.layer).await?);
        }
        let options = ExportOptions { published, owners: foreign.is_some() };
        Ok((self.snapshotter.export(name.as_ref(), "/", options).await?, owner))
    }

    /// Fetches and unpacks what [`SolveContext::export`] needs: the snapshot, and the lowest layer with a foreign owner.
    pub(crate) async fn unpack_for_export(&self, chain: &Chain) -> Result<(Option<Digest>, Option<usize>)> {
        let foreign = self.foreign_layer(chain).await?;
        let name = match foreign {
            None => self.unpack(chain).await?,
            Some(first) => self.unpack_foreign(chain, first).await?,
        };
        Ok((name, foreign))
    }

    /// The lowest layer with a foreign owner.
    async fn foreign_layer(&self, chain: &Chain) -> Result<Option<usize>> {
        // A user namespace with the last id has all ids.
        if self.snapshotter.can_own(u32::MAX - 1, u32::MAX - 1) {
            return Ok(None);
        }
        for (at, link) in chain.links().into_iter().enumerate() {
            if self.snapshotter.has(link.snapshot()).await? {
                continue;
            }
            let index = self.index(&link.layer).await?;
            let is_foreign = |entry: &crate::layer::Entry| {
                !entry.kind.is_whiteout() && !self.snapshotter.can_own(entry.uid, entry.gid)
            };
            if index.entries().iter().any(is_foreign) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The first path of the tree with a foreign owner.
    async fn foreign_owner(&self, chain: &Chain) -> Result<Option<ForeignOwner>> {
        let tree = self.tree(chain).await?;
        let mut owners = tree.nodes().map(|node| node.entry).filter(|entry| !entry.kind.is_whiteout());
        let foreign = owners.find(|entry| !self.snapshotter.can_own(entry.uid, entry.gid));
        Ok(foreign.map(|entry| ForeignOwner { path: entry.path.clone(), uid: entry.uid, gid: entry.gid }))
    }

    /// Unpacks a chain. Layers from `first` on may have foreign owners.
    async fn unpack_foreign(&self, chain: &Chain, first: usize) -> Result<Option<Digest>> {
        let mut parent = self.unpack(&chain.lowest(first)).await?;
        for link in &chain.links()[first..] {
            let layer = &*link.layer;
            let mut hasher = Hasher::sha256();
            hasher.update_field("snapshot with any owner");
            hasher.update_field(parent.as_ref().map_or("", Digest::as_str));
            hasher.update_field(layer.diff_id().as_str());
            let name = hasher.finish();
            if !self.snapshotter.has(&name).await? {
                let task = self.progress.start(format!("unpack {}", layer.diff_id().short()), None);
                let options = UnpackOptions { any_owner: true, ..UnpackOptions::default() };
                let result = match self.open_layer(layer).await {
                    Ok(tar) => self.snapshotter.apply(parent.as_ref(), &name, options, tar).await,
                    Err(e) => Err(e),
                };
                task.end_with(result)?;
            }
            parent = Some(name);
        }
        Ok(parent)
    }
}
