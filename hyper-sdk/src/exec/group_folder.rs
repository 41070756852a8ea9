//! Control groups that are made for steps, as folders.
//!
//! Every user of one holds a lock on it, since a group is empty while no step runs. What a killed helper left behind has
//! no lock, and [`sweep`] removes it.

use crate::sandbox::{sys, view};
use rustix::fs::FlockOperation;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a group is made again that somebody else removed at once.
const MAX_TRIES: usize = 3;
const LAST_TRIES: usize = 20;
const A_MOMENT: Duration = Duration::from_millis(1);
const PREFIX: &str = "hyper-step-";

/// A control group of steps. Dropping it removes it, once every process in it has ended.
pub(super) struct GroupFolder {
    handle: OwnedFd,
    path: PathBuf,
}

impl GroupFolder {
    /// Makes a control group in another one, again when somebody else removes it at once.
    ///
    /// # Errors
    /// Those of making and opening a folder.
    pub(super) fn make(parent: &Path) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::make_once(parent)? {
                Some(group) => return Ok(group),
                None if tries < MAX_TRIES => {}
                None => return Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    /// `None` when the group was removed before it was locked.
    fn make_once(parent: &Path) -> io::Result<Option<Self>> {
        let (number, mut tries) = (sys::own_pid(), 0);
        let path = loop {
            let path = parent.join(format!("{PREFIX}{number}-{tries}"));
            match std::fs::create_dir(&path) {
                Ok(()) => break path,
                // A process with the same number left it behind.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < 16 => tries += 1,
                Err(e) => return Err(e),
            }
        };
        let Ok(handle) = view::open_folder(&path) else {
            let _ = std::fs::remove_dir(&path);
            return Ok(None);
        };
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockShared) {
            // Another helper removes it as one that nobody uses.
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            // Without locks it may be removed; then the step gets another one or an error.
            _ => Ok(Some(Self { handle, path })),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now. While a process is still ending this fails, and [`sweep`] removes the group later.
    pub(super) fn remove(&self) {
        // Newer kernels count a process for a moment after it was waited for. The next helper removes what stays.
        for tries in 0..LAST_TRIES {
            match std::fs::remove_dir(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    if tries == 0 {
                        // A cancelled step may still run. Older kernels do not have this file.
                        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
                    }
                    std::thread::sleep(A_MOMENT);
                }
                _ => break,
            }
        }
    }
}

impl AsFd for GroupFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl Drop for GroupFolder {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the control groups that killed helpers left behind in this one.
pub(super) fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(folder) = view::open_folder(&entry.path()) else { continue };
        if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // The kernel refuses it while a process lives there.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}
