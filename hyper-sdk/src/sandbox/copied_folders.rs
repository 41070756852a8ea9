//! Which folders of the tree of a step are those that were copied for it.
//!
//! A step can remove a folder and make one of the same name. Two trees alone do not show that, and the layer of the step
//! says it: what the layers below have in such a folder is gone. So copying a tree leaves a record beside it, which is
//! removed with the folder `work`:
//!
//! ```text
//! work/folders.json  [[ino, seconds, nanoseconds, original], …]   the inode and the time of birth of a copied folder, and
//!                                                                 the inode of its original; by inode
//! ```
//!
//! There is no record where the file system does not keep the inodes of folders. Without times of birth, a folder that gets
//! the inode of the one that it replaces is not found.

use super::records;
use crate::{Error, ErrorKind, Result};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest time that it is waited for the clock of the file system: some of its steps.
const CLOCK_WAIT: Duration = Duration::from_millis(100);

type Row = (u64, i64, u32, u64);

/// The copied folders of a tree.
#[derive(Debug, Default)]
pub(crate) struct CopiedFolders(Vec<Row>);

impl CopiedFolders {
    /// Adds a copy of the folder with the inode `original`.
    pub(crate) fn push(&mut self, copy: BorrowedFd<'_>, original: u64) -> rustix::io::Result<()> {
        let (ino, seconds, nanoseconds) = records::inode(copy, c"")?;
        self.0.push((ino, seconds, nanoseconds, original));
        Ok(())
    }

    /// Whether a folder is the copy of another one.
    pub(crate) fn has(&self, original: BorrowedFd<'_>, copy: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        let (ino, seconds, nanoseconds) = records::inode(copy, c"")?;
        let Ok(at) = self.0.binary_search_by_key(&ino, |row| row.0) else { return Ok(false) };
        Ok(self.0[at] == (ino, seconds, nanoseconds, rustix::fs::fstat(original)?.st_ino))
    }

    /// Writes the record of the new tree `tree`. Folders that are made after this have another time of birth.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] from the file system.
    pub(crate) fn save(mut self, tree: &Path) -> Result<()> {
        let Some(file) = record_of(tree) else { return Ok(()) };
        let failed = |e| Error::io("cannot record the folders of a tree", &file, e);
        self.0.sort_unstable();
        std::fs::write(&file, serde_json::to_vec(&self.0).expect("plain data")).map_err(failed)?;
        if !keeps_inodes(tree, &file).map_err(|e| failed(e.into()))? {
            return std::fs::remove_file(&file).map_err(failed);
        }
        if let Some(last) = self.0.iter().map(|row| (row.1, row.2)).max() {
            wait_until_after(last);
        }
        Ok(())
    }

    /// Reads the record of a tree; `None` when it has none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is damaged, [`ErrorKind::Io`] when it cannot be read.
    pub(crate) fn load(tree: &Path) -> Result<Option<Self>> {
        let Some(file) = record_of(tree) else { return Ok(None) };
        match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(|rows| Some(Self(rows))).map_err(|e| {
                Error::new(ErrorKind::Corrupt, "the record of the folders of a tree is damaged: build again")
                    .with_context("path", file.display())
                    .with_source(e)
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("cannot read the record of the folders of a tree", file, e)),
        }
    }
}

fn record_of(tree: &Path) -> Option<PathBuf> {
    tree.parent().map(|folder| folder.join("work/folders.json"))
}

/// The file systems whose folders keep their inode numbers (`statfs(2)`): ext4, XFS, Btrfs, Bcachefs, F2FS, ZFS, tmpfs.
const STABLE: [u64; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xca45_1a4e, 0xf2f5_2010, 0x2fc1_2fc1, 0x0102_1994];
/// An overlay.
const OVERLAY: u64 = 0x794c_7630;

/// Whether the inodes of folders stay: others make them up as long as they show a folder, such as network file systems and
/// those of FUSE. An overlay of several file systems does so, too, and gives files another device than folders then.
fn keeps_inodes(tree: &Path, file: &Path) -> rustix::io::Result<bool> {
    // The type is a number of 32 bits, with a sign on some machines.
    let kind = u64::from(rustix::fs::statfs(tree)?.f_type as u32);
    let same_device = || Ok(rustix::fs::stat(tree)?.st_dev == rustix::fs::stat(file)?.st_dev);
    if kind == OVERLAY { same_device() } else { Ok(STABLE.contains(&kind)) }
}

/// Waits until files get a later time than `last`: the clock of a file system has steps of some milliseconds.
fn wait_until_after(last: (i64, u32)) {
    let began = std::time::Instant::now();
    loop {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let passed = (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0)) > last;
        // A clock that was set back is not waited for.
        if passed || began.elapsed() > CLOCK_WAIT {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
