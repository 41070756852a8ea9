//! The content of the folder of a cache mount, as an archive: how it leaves this machine, and how it comes from another one.
//!
//! # Invariants
//! - A folder gets its name when the whole archive is unpacked and its sender has checked it, and replaces no other one.
//! - The archive may be hostile: nothing outside of the new folder is touched.

use super::{Context, lent, tree, view};
use crate::{Error, Result};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Writes the files of a cache folder. One that a killed step without isolation left in its tree is moved home first.
pub(crate) fn pack(folder: &Path, output: &mut impl Write, context: Context) -> Result<()> {
    if !folder.exists() {
        let parent = view::open_folder(folder.parent().unwrap_or(Path::new("/")))?;
        let _turn = rustix::fs::flock(&parent, rustix::fs::FlockOperation::LockShared);
        lent::fetch_home(folder)?;
    }
    tree::pack_cache(folder, output, context)
}

/// Fills a cache folder that does not exist, by way of the empty folder `staging`, which is gone afterwards. `rest` returns
/// when the sender of the archive has found it to be right.
pub(crate) fn fill<R: Read>(
    folder: &Path,
    staging: &Path,
    mut archive: R,
    rest: impl FnOnce(R) -> Result<()>,
    context: Context,
) -> Result<()> {
    let fill = || {
        std::fs::set_permissions(staging, Permissions::from_mode(0o755))
            .map_err(|e| Error::io("cannot make a cache folder", staging, e))?;
        tree::unpack_cache(&mut archive, staging, context)?;
        rest(archive)?;
        let parent = view::open_folder(folder.parent().unwrap_or(Path::new("/")))?;
        // A step without isolation may have moved the cache into its tree: its end is waited for.
        let _turn = rustix::fs::flock(&parent, rustix::fs::FlockOperation::LockShared);
        lent::fetch_home(folder)?;
        place(staging, folder).map_err(|e| Error::io("cannot make a cache folder", folder, e.into()))
    };
    let filled = fill();
    // It is there when the folder existed, too.
    let removed = tree::remove(staging);
    filled.and(removed)
}

/// Moves a new folder to its path; an existing one stays.
pub(crate) fn place(fresh: &Path, to: &Path) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(CWD, fresh, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Ok(()),
        // Some network file systems do not support this flag.
        Err(Errno::INVAL) if !to.exists() => rustix::fs::rename(fresh, to),
        Err(Errno::INVAL) => Ok(()),
        moved => moved,
    }
}
