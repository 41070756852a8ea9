//! Control groups that are made for steps, as folders.
//!
//! The user of one holds a lock on it, since a group is empty while no step runs. What a killed helper left behind has no
//! lock, and [`sweep`] removes it. A name has a random part, so that no two groups ever have the same one, and a lock counts
//! once the name still leads to what was locked.

use crate::sandbox::{sys, view};
use rustix::fs::FlockOperation;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a group is made again that somebody else removed at once.
const MAX_TRIES: usize = 16;
/// How often a group with processes is removed again; the time between doubles.
const LAST_TRIES: u32 = 8;
const A_MOMENT: Duration = Duration::from_millis(1);
/// How deep a step may have made groups in its own one.
const MAX_DEPTH: usize = 32;
/// How long another builder may take to prepare the same group.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
const PREFIX: &str = "hyper-step-";
/// The names of groups into which a builder was moved.
pub(super) const BUILDER_PREFIX: &str = "hyper-builder-";

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
        for _ in 0..MAX_TRIES {
            let path = make_folder(parent, PREFIX)?;
            match lock(&path) {
                Some(handle) => return Ok(Self { handle, path }),
                // Another helper removes it, as one that nobody uses.
                None => drop(std::fs::remove_dir(&path)),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now. While a process is still ending this fails, and [`sweep`] removes the group later.
    pub(super) fn remove(&self) {
        remove(&self.path, 0);
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

/// Makes a group with a name that no other one has.
fn make_folder(parent: &Path, prefix: &str) -> io::Result<PathBuf> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let path = parent.join(format!("{prefix}{}-{:016x}", sys::own_pid(), u64::from_le_bytes(bytes)));
    std::fs::create_dir(&path)?;
    Ok(path)
}

/// Locks a group; `None` when somebody else has the lock, or when the name leads elsewhere by now.
fn lock(path: &Path) -> Option<OwnedFd> {
    let handle = view::open_folder(path).ok()?;
    rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive).ok()?;
    let (locked, now) = (rustix::fs::fstat(&handle).ok()?, std::fs::symlink_metadata(path).ok()?);
    (locked.st_dev == now.dev() && locked.st_ino == now.ino()).then_some(handle)
}

/// The groups in a group, with their names.
pub(super) fn groups_in(parent: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
}

/// Removes a group with those in it, which a step with every privilege can make. Each is tried again for a moment: newer
/// kernels count a process for a while after it was waited for.
fn remove(path: &Path, depth: usize) {
    if depth < MAX_DEPTH {
        groups_in(path).for_each(|(_, below)| remove(&below, depth + 1));
    }
    for tries in 0..LAST_TRIES {
        match std::fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                if tries == 0 {
                    // A cancelled step may still run. Older kernels do not have this file.
                    let kill = std::fs::OpenOptions::new().write(true).open(path.join("cgroup.kill"));
                    let _ = kill.and_then(|mut file| io::Write::write_all(&mut file, b"1"));
                }
                std::thread::sleep(A_MOMENT * (1 << tries));
            }
            _ => break,
        }
    }
}

/// Removes the control groups that killed helpers left behind in this one.
pub(super) fn sweep(parent: &Path) {
    for (_, path) in groups_in(parent).filter(|(name, _)| name.starts_with(PREFIX)) {
        if let Some(_locked) = lock(&path) {
            remove(&path, 0);
        }
    }
}

/// The turn to change what a group hands down, and who is in it. It ends when it is dropped.
pub(super) struct Turn(#[expect(dead_code, reason = "it holds the lock")] OwnedFd);

impl Turn {
    /// Waits for the turn, a few seconds at most.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when somebody else keeps it; those of opening a folder.
    pub(super) fn take(group: &Path) -> io::Result<Self> {
        let handle = view::open_folder(group).map_err(io::Error::other)?;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(handle)),
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < TURN_TIMEOUT => {
                    std::thread::sleep(A_MOMENT);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Makes a group for the builder in its own one, in the turn of that one. Removes those of builders that have ended.
///
/// # Errors
/// Those of making a folder.
pub(super) fn make_builders(group: &Path) -> io::Result<PathBuf> {
    for (_, old) in groups_in(group).filter(|(name, _)| name.starts_with(BUILDER_PREFIX)) {
        // The kernel refuses it while a process lives there.
        let _ = std::fs::remove_dir(old);
    }
    make_folder(group, BUILDER_PREFIX)
}
