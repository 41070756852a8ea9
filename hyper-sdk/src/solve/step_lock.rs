//! Equal steps of builds that run at once: one runs the step, and the others take its result from the cache.
//!
//! ```text
//!   ROOT/steps/HEX   locked by the build that runs the step with this key; removed when the step has ended
//! ```
//!
//! # Invariants
//! - A lock is held while one step runs whose inputs are done. Whoever holds it waits for cache mounts and for processors,
//!   which come after it, and never for another lock of a step. So no builds wait for each other in a circle.
//! - The kernel frees the lock of a process that dies. A file that it leaves is taken over by the next build with the step,
//!   or removed by a later one.
//! - Who has the lock looks into the cache again: a step that failed or was cancelled runs once more.

use crate::{Digest, Error, Result};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of the folder below the state folder.
pub(crate) const FOLDER: &str = "steps";
/// The longest time between two looks whether a lock is free.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The right to run the step of a key. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct StepLock {
    /// Closed after the name is gone.
    _file: File,
    path: PathBuf,
}

impl Drop for StepLock {
    fn drop(&mut self) {
        // Who has opened it meanwhile finds that the name is gone, or another file's, and begins anew.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl StepLock {
    /// Waits for the lock of a key. `waits` is called when another build has it, and its value is dropped when it has
    /// ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the state folder cannot be written.
    pub(super) async fn wait<T>(root: &Path, key: &Digest, waits: impl FnOnce() -> T) -> Result<Self> {
        if let Some(lock) = Self::try_take(root, key)? {
            return Ok(lock);
        }
        let _told = waits();
        let mut pause = Duration::from_millis(1);
        loop {
            tokio::time::sleep(pause).await;
            if let Some(lock) = Self::try_take(root, key)? {
                return Ok(lock);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The lock, unless somebody has it.
    fn try_take(root: &Path, key: &Digest) -> Result<Option<Self>> {
        let folder = root.join(FOLDER);
        let path = folder.join(key.hex());
        let failed = |e| Error::io("cannot lock a step", &path, e);
        loop {
            let file = match open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(&folder).map_err(failed)?;
                    open(&path)
                }
                opened => opened,
            }
            .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
            // Whoever had it before may have removed the name after this one was opened.
            let own = file.metadata().map_err(failed)?;
            let named = std::fs::symlink_metadata(&path);
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
                return Ok(Some(Self { _file: file, path }));
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_is_for_one_at_a_time_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (Digest::sha256("one"), Digest::sha256("two"));
        let lock = StepLock::wait(root.path(), &one, || unreachable!()).await.unwrap();
        let other = StepLock::wait(root.path(), &two, || unreachable!()).await.unwrap();
        assert!(StepLock::try_take(root.path(), &one).unwrap().is_none());
        drop(other);
        let mut lock = Some(lock);
        let next = StepLock::wait(root.path(), &one, || lock.take()).await.unwrap();
        assert!(StepLock::try_take(root.path(), &one).unwrap().is_none());
        drop(next);
        assert_eq!(std::fs::read_dir(root.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_a_dead_process_left_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let key = Digest::sha256("one");
        std::fs::create_dir(root.path().join(FOLDER)).unwrap();
        std::fs::write(root.path().join(FOLDER).join(key.hex()), "").unwrap();
        drop(StepLock::try_take(root.path(), &key).unwrap().unwrap());
        assert_eq!(std::fs::read_dir(root.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn many_that_take_turns_are_never_two_at_once() {
        let root = tempfile::tempdir().unwrap();
        let (key, inside) = (Digest::sha256("one"), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut turns = 0;
                    while turns < 50 {
                        let Some(lock) = StepLock::try_take(root.path(), &key).unwrap() else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        turns += 1;
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
