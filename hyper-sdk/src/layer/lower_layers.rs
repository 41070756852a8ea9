//! Looks up all names of one directory in the lower layers of an overlay.
//!
//! A walk keeps the numbers of the lower layers with a directory, not open descriptors: hundreds of layers at every
//! depth would need too many.

use super::entry::LayerPath;
use super::files::{self, Lowers, failed};
use crate::Result;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

/// The result of a lookup of one name in the lower layers.
#[derive(Debug, Default)]
pub(super) struct LowerEntry {
    /// The topmost layer that has it, and its status there; `None` when no layer has it or a layer hides it.
    pub(super) node: Option<(usize, Stat)>,
    /// The layers whose directories of this name are merged, topmost first.
    pub(super) layers: Vec<usize>,
    closed: bool,
}

impl LowerEntry {
    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Whether what deeper layers have there is hidden.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Lowers {
    /// All layers: they all have a root.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.tops().len()).collect()
    }

    /// Looks up each of `names` in the directory `path` of `layers`.
    pub(super) fn lookup(
        &self,
        path: &LayerPath,
        layers: &[usize],
        names: &[Vec<u8>],
    ) -> Result<Vec<LowerEntry>> {
        let mut found: Vec<LowerEntry> = names.iter().map(|_| LowerEntry::default()).collect();
        for layer in layers {
            let directory = self.directory(*layer, path)?;
            for (name, shown) in names.iter().zip(&mut found).filter(|(_, shown)| !shown.closed) {
                shown
                    .lookup(&directory, *layer, name)
                    .map_err(|e| failed("cannot search a lower layer", path, e))?;
            }
        }
        Ok(found)
    }

    /// The directory `path` of one layer.
    pub(super) fn directory(&self, layer: usize, path: &LayerPath) -> Result<OwnedFd> {
        files::open_below(self.tops()[layer].as_fd(), path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| failed("cannot open the directory of a lower layer", path, e))
    }
}

impl LowerEntry {
    /// Continues the lookup in the next layer.
    fn lookup(&mut self, directory: &OwnedFd, layer: usize, name: &[u8]) -> rustix::io::Result<()> {
        let stat = match files::status(directory, name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e),
        };
        if files::type_of(&stat) != FileType::Directory {
            self.closed = true;
            if self.node.is_none() && !files::is_whiteout(&stat) {
                self.node = Some((layer, stat));
            }
            return Ok(());
        }
        let below = files::open_below(directory.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.closed = files::is_opaque(below.as_fd())?;
        self.layers.push(layer);
        self.node.get_or_insert((layer, stat));
        Ok(())
    }
}
