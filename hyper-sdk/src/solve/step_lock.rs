//! Equal commands that builds run at once: one runs it, and the others take its result from the cache.
//!
//! ```text
//!   ROOT/uses/step-HEX   locked by whoever runs the command with this key; removed when that has ended. Empty, but for one
//!                        byte when the command was cancelled
//! ```
//!
//! # Invariants
//! - Nobody waits for such a lock while holding anything: neither another lock, nor the permit to run a command. It is
//!   taken last, and only if it is free. So no builds wait for each other in a circle, and what waits holds up nothing.
//! - Whoever has the lock looks into the cache before the command runs.
//! - The kernel frees the lock of a process that dies. The file that stays is taken over, or removed by a clean-up.
//! - Whoever has waited for a run that ended without a result runs the command without a lock: commands that fail do not
//!   run one after the other. Where the run was cancelled or killed, one of those who waited takes its place.

use super::chain::StepLayer;
use crate::uses::{STEP_PREFIX, open_in};
use crate::{Digest, Error, Result};
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The longest time between two looks whether a run has ended.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What became of a command that the cache did not have.
pub(super) enum Turn<T> {
    /// Another build or stage has run it meanwhile.
    Found(Arc<StepLayer>),
    /// It runs here.
    Runs(T),
}

/// The file of a key.
#[derive(Clone, Debug)]
pub(super) struct StepName {
    /// The folder of the builder.
    root: PathBuf,
    name: String,
}

impl StepName {
    pub(super) fn new(root: &Path, key: &Digest) -> Self {
        Self { root: root.to_owned(), name: format!("{STEP_PREFIX}{}", key.hex()) }
    }

    fn path(&self) -> PathBuf {
        self.root.join("uses").join(&self.name)
    }

    /// Whether an open file still has the name.
    fn is_of(&self, file: &File) -> bool {
        let named = std::fs::symlink_metadata(self.path());
        let own = file.metadata();
        matches!((named, own), (Ok(named), Ok(own)) if (named.dev(), named.ino()) == (own.dev(), own.ino()))
    }
}

/// The right to run the command of a key. Dropping it says that the command was cancelled.
#[derive(Debug)]
pub(super) struct StepLock {
    file: File,
    name: StepName,
    has_ended: bool,
}

impl StepLock {
    /// The lock, unless somebody has it.
    pub(super) fn try_take(name: &StepName) -> Result<Option<Self>> {
        let failed = |e| Error::io("cannot lock a step", &name.root, e);
        loop {
            let file = open_in(&name.root, &name.name)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
            // Whoever had it before may have removed the name after this one was opened.
            if !name.is_of(&file) {
                continue;
            }
            if file.metadata().map_err(failed)?.len() != 0 {
                file.set_len(0).map_err(failed)?;
            }
            return Ok(Some(Self { file, name: name.clone(), has_ended: false }));
        }
    }

    /// Gives it back when the result is in the cache, or when there will be none.
    pub(super) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for StepLock {
    fn drop(&mut self) {
        if !self.has_ended {
            // Without the mark, those who wait run it all at once.
            let _ = self.file.set_len(1);
        }
        // Whoever has opened it meanwhile finds that the name is gone, or another file's.
        let _ = std::fs::remove_file(self.name.path());
        // A child process may still have the descriptor.
        let _ = self.file.unlock();
    }
}

/// A run of a command by somebody else.
#[derive(Debug)]
pub(super) struct OtherRun {
    file: File,
    name: StepName,
}

impl OtherRun {
    /// The run with a name. One whose file cannot be read is none.
    pub(super) fn find(name: &StepName) -> Option<Self> {
        let file = File::open(name.path()).ok()?;
        let other = Self { file, name: name.clone() };
        matches!(other.file.try_lock_shared(), Err(TryLockError::WouldBlock)).then_some(other)
    }

    /// Waits for its end. Says whether it came to one, or was cancelled or killed.
    pub(super) async fn ends(self) -> bool {
        let mut pause = Duration::from_millis(1);
        loop {
            match self.file.try_lock_shared() {
                Err(TryLockError::WouldBlock) => tokio::time::sleep(pause).await,
                Ok(()) => {
                    let is_cancelled = self.file.metadata().is_ok_and(|meta| meta.len() != 0);
                    return !is_cancelled && !self.name.is_of(&self.file);
                }
                Err(TryLockError::Error(_)) => return true,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> [StepName; 2] {
        ["one", "two"].map(|text| StepName::new(root, &Digest::sha256(text)))
    }

    fn is_clean(root: &Path) -> bool {
        std::fs::read_dir(root.join("uses")).unwrap().count() == 0
    }

    #[tokio::test]
    async fn who_waits_learns_how_a_run_ended() {
        let root = tempfile::tempdir().unwrap();
        let [one, two] = names(root.path());
        assert!(OtherRun::find(&one).is_none());
        for is_cancelled in [false, true, false] {
            let lock = StepLock::try_take(&one).unwrap().unwrap();
            let other = StepLock::try_take(&two).unwrap().unwrap();
            assert!(StepLock::try_take(&one).unwrap().is_none());
            let waiting = [OtherRun::find(&one).unwrap(), OtherRun::find(&one).unwrap()];
            let waiting = waiting.map(|other| tokio::spawn(other.ends()));
            tokio::task::yield_now().await;
            if is_cancelled {
                drop(lock)
            } else {
                lock.end()
            }
            // The next run is not theirs.
            let next = StepLock::try_take(&one).unwrap().unwrap();
            for waits in waiting {
                assert_eq!(waits.await.unwrap(), !is_cancelled);
            }
            drop((next, other));
        }
        assert!(is_clean(root.path()));
    }

    #[tokio::test]
    async fn the_file_of_a_killed_run_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let [one, _] = names(root.path());
        // The byte is there if it was killed while it was being cancelled.
        for left in ["", "x"] {
            let killed = open_in(root.path(), &one.name).unwrap();
            killed.try_lock().unwrap();
            let waiting = OtherRun::find(&one).unwrap();
            drop(killed);
            assert!(!waiting.ends().await);
            std::fs::write(one.path(), left).unwrap();
            assert!(OtherRun::find(&one).is_none());
            let lock = StepLock::try_take(&one).unwrap().unwrap();
            assert_eq!(std::fs::metadata(one.path()).unwrap().len(), 0);
            lock.end();
        }
        assert!(is_clean(root.path()));
    }

    #[test]
    fn many_that_take_turns_are_never_two_at_once() {
        let root = tempfile::tempdir().unwrap();
        let [name, _] = names(root.path());
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut turns = 0;
                    while turns < 50 {
                        let Some(lock) = StepLock::try_take(&name).unwrap() else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        turns += 1;
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        lock.end();
                    }
                });
            }
        });
        assert!(is_clean(root.path()));
    }
}
