//! The free space for fetched content: a fetch ends before it fills the disk.

use crate::{Error, ErrorKind};
use std::path::Path;

/// The space that a fetch leaves free, in bytes. The limit applies only to a fetch that has written as much itself.
pub(super) const RESERVE: u64 = 32 << 20;

/// The free bytes on the disk of a folder; `None` when the file system does not report them.
pub(super) fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether a fetch that has written `taken` bytes must end.
pub(super) fn is_short(folder: &Path, taken: u64) -> bool {
    taken > RESERVE && free(folder).is_some_and(|free| free < RESERVE)
}

/// The error of a fetch that the disk has no space for.
pub(super) fn full(folder: &Path, shown: &str) -> Error {
    Error::new(ErrorKind::StorageFull, format!("{shown} cannot be fetched: the disk has no space for it"))
        .with_context("path", folder.display())
}
