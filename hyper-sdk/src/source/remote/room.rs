//! How much room the disk has for what comes from elsewhere: a fetch ends before others find the disk full.

use crate::{Error, ErrorKind};
use std::path::Path;

/// What a fetch leaves free, once it has taken as much itself: a small one goes on to the end.
pub(super) const RESERVE: u64 = 32 << 20;

/// How many bytes are free on the disk of a folder; `None` where the file system does not tell.
pub(super) fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether a fetch that has taken so many bytes has to end.
pub(super) fn is_short(folder: &Path, taken: u64) -> bool {
    taken > RESERVE && free(folder).is_some_and(|free| free < RESERVE)
}

/// The error of a fetch that the disk has no room for.
pub(super) fn full(folder: &Path, shown: &str) -> Error {
    Error::new(ErrorKind::StorageFull, format!("{shown} cannot be fetched: the disk has no room for it"))
        .with_context("path", folder.display())
}
