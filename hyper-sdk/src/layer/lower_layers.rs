//! What the lower layers of an overlay show of one directory, looked up for all its names at once.
//!
//! A walk keeps the numbers of the lower layers that show a directory, not open descriptors: those of hundreds of
//! layers at every depth would be too many.

use super::entry::LayerPath;
use super::files::{self, Lowers, failed};
use crate::Result;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

/// What the lower layers show under one name.
#[derive(Debug, Default)]
pub(super) struct LowerEntry {
    /// The topmost layer that has it, and its status there; nothing when no layer has it or one hides it.
    pub(super) node: Option<(usize, Stat)>,
    /// The layers whose directories of this name are seen as one, topmost first.
    pub(super) layers: Vec<usize>,
    closed: bool,
}

impl LowerEntry {
    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        !self.layers.is_empty()
    }
}

impl Lowers {
    /// The layers that show the root: all of them.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.tops().len()).collect()
    }

    /// What the directory `path`, seen in `layers`, shows under each of `names`.
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
                    .map_err(|e| failed("cannot look into a lower layer", path, e))?;
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
    /// Looks into the next layer.
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
