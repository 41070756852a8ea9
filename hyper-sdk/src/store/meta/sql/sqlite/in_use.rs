//! Which processes have the database open, so that a restore fills no store that a server serves.
//!
//! ```text
//!   hyper.db.use     every process that has the database open holds it with the others; one that fills the store alone
//! ```
//!
//! The locks are those of `flock`, which end with the process.

use crate::{Error, ErrorKind, Result, ResultExt as _};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Whether a lock failed because the file system, such as one of a network, does not do it.
fn has_no_locks(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::BADF, Errno::NOLCK, Errno::NOTSUP, Errno::NOSYS, Errno::INVAL];
    known.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The lock of this process.
#[derive(Debug)]
pub(super) struct InUse {
    /// `None` where the file cannot be made, as on a full disk.
    file: Option<File>,
    path: PathBuf,
}

impl InUse {
    /// Takes the lock with others.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while another process fills the store.
    pub(super) fn take(database: &Path) -> Result<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push(".use");
        let path = PathBuf::from(path);
        let file = match File::options().create(true).truncate(false).read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "a restore does not notice that the store is open");
                return Ok(Self { file: None, path });
            }
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { file: Some(file), path }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Conflict,
                "another process fills the store: it can be opened when that has ended",
            )
            .with_context("path", database.display())),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "this file system has no such locks: a restore does not notice that the store is open"
                );
                Ok(Self { file: None, path })
            }
            Err(TryLockError::Error(e)) => Err(e).at("cannot lock the database", &path),
        }
    }

    /// Takes the lock alone.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while another process has the database open.
    pub(super) fn alone(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                // The lock with others was lost by the try.
                self.share();
                Err(Error::new(
                    ErrorKind::Conflict,
                    "another process has the store open, such as a server: stop it first, so that nothing is mixed",
                )
                .with_context("path", self.path.with_extension("").display()))
            }
            Err(TryLockError::Error(e)) => Err(e).at("cannot lock the database", &self.path),
        }
    }

    /// Lets others open the database again.
    pub(super) fn share(&self) {
        if let Some(file) = &self.file
            && let Err(error) = file.try_lock_shared()
        {
            tracing::warn!(%error, "the lock of the database was lost");
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // A child process may have the descriptor for a moment.
        if let Some(file) = &self.file {
            let _ = file.unlock();
        }
    }
}
