//! The files with several names in a tree. A difference contains all names of such a file or none.

use super::entry::LayerPath;
use super::files::{self, failed};
use crate::Result;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat};
use std::collections::HashMap;

/// The identity of a file: device and inode.
pub(super) type Inode = (u64, u64);

/// The identity of the file with this status.
pub(super) fn inode(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

/// Whether it is a file with several names.
pub(super) fn is_linked(stat: &Stat) -> bool {
    stat.st_nlink > 1 && files::type_of(stat) == FileType::RegularFile
}

/// Every file of a tree with several names, and these names in order.
#[derive(Debug, Default)]
pub(super) struct Hardlinks(HashMap<Inode, Vec<LayerPath>>);

impl Hardlinks {
    /// Walks a tree.
    pub(super) fn scan(top: &OwnedFd) -> Result<Self> {
        let mut groups = Self::default();
        groups.directory(top, &LayerPath::root())?;
        Ok(groups)
    }

    /// The names of a file.
    pub(super) fn names(&self, inode: Inode) -> &[LayerPath] {
        self.0.get(&inode).map_or(&[], Vec::as_slice)
    }

    fn directory(&mut self, directory: &OwnedFd, path: &LayerPath) -> Result<()> {
        for name in files::names(directory).map_err(|e| failed("cannot read the directory", path, e))? {
            let here = path.join(&name)?;
            let wrong = |e| failed("cannot stat", &here, e);
            let stat = files::status(directory, &name).map_err(wrong)?;
            if files::type_of(&stat) == FileType::Directory {
                let below = files::open_below(directory.as_fd(), &name, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(wrong)?;
                self.directory(&below, &here)?;
            } else if is_linked(&stat) {
                self.0.entry(inode(&stat)).or_default().push(here);
            }
        }
        Ok(())
    }
}
