//! The disk of a folder.

use crate::{Error, Result};
use std::path::Path;

/// The size and the free bytes of the disk of a folder.
pub(super) fn disk(root: &Path) -> Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(root)
        .map_err(|e| Error::io("cannot read the size of the disk", root, e.into()))?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}
