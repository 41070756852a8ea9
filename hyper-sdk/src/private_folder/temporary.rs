//! Temporary folders, which are locked for as long as they are in use.

use crate::remove_tree::remove_tree;
use crate::{Error, ErrorKind, Result, stale_files};
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A private folder that is removed when the value is dropped.
///
/// It is locked until then, so that whoever removes what killed processes have left knows it from those: see
/// [`stale_files::remove_folders`].
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
    is_kept: bool,
    _lock: Option<File>,
}

impl TemporaryFolder {
    pub(super) fn make(prefix: &str, within: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix).permissions(std::fs::Permissions::from_mode(0o700));
        let made = match within {
            Some(folder) => builder.tempdir_in(folder),
            None => builder.tempdir(),
        };
        let made =
            made.map_err(|e| Error::new(ErrorKind::Io, "cannot make a temporary folder").with_source(e))?;
        let lock = stale_files::hold(made.path());
        Ok(Self { path: made.keep(), is_kept: false, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the folder stay when the value is dropped.
    pub fn stay(&mut self) {
        self.is_kept = true;
    }

    /// Gives the folder up: it stays, or was moved away.
    pub fn keep(mut self) -> PathBuf {
        self.is_kept = true;
        std::mem::take(&mut self.path)
    }

    /// Removes the folder now, to hear of what fails.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be removed.
    pub fn close(mut self) -> Result<()> {
        self.is_kept = true;
        let removed = remove_tree(&self.path);
        removed.map_err(|e| Error::io("cannot remove the temporary folder", &self.path, e.into()))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = remove_tree(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::temporary;
    use super::*;

    #[test]
    fn temporary_folders_are_private_and_go() {
        let within = tempfile::tempdir().unwrap();
        std::fs::set_permissions(within.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for folder in [temporary("x-", None).unwrap(), temporary("x-", Some(within.path())).unwrap()] {
            assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
            let path = folder.path().to_owned();
            drop(folder);
            assert!(!path.exists());
        }
        let mut stays = temporary("x-", Some(within.path())).unwrap();
        stays.stay();
        let path = stays.path().to_owned();
        drop(stays);
        assert!(path.exists());
        let kept = temporary("x-", Some(within.path())).unwrap().keep();
        assert!(kept.exists());
        let closed = temporary("x-", Some(within.path())).unwrap();
        let path = closed.path().to_owned();
        closed.close().unwrap();
        assert!(!path.exists());
    }
}
