//! Which folders take backups, and which become stores: neither lies in the other, and nothing else is in them.

use super::folder::BackupFolder;
use crate::store::blob::BACKUP_MARKER as MARKER;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The regular files by which the folder of a store is known: its metadata, or the names of those that are elsewhere.
const OF_STORES: [&str; 3] = ["hyper.db", "registry-id", "bucket.id"];

/// What a store and its server make in their folder. Names that begin with one of these and a dot belong to them too.
const IN_STORES: [&str; 9] = [
    "hyper.db",
    "blobs",
    "uploads",
    "quarantine",
    "collector.lock",
    "registry-id",
    "bucket",
    "token.key",
    "lost+found",
];

/// A path and the folders above it, as they are written and without links. What does not exist yet has no links.
fn above(path: &Path) -> Result<Vec<PathBuf>> {
    let whole = std::path::absolute(path).map_err(|e| Error::io("cannot find the folder", path, e))?;
    let real = whole.ancestors().find_map(|at| at.canonicalize().ok()).unwrap_or_default();
    Ok(whole.ancestors().chain(real.ancestors()).map(Path::to_owned).collect())
}

/// Whether a folder has a regular file of this name: one of folders and links may have any name.
fn has(folder: &Path, name: &str) -> bool {
    folder.join(name).symlink_metadata().is_ok_and(|meta| meta.is_file())
}

impl BackupFolder {
    /// Fails when a path is a folder of backups or lies in one: a store in it would be mixed with them. What does not exist yet
    /// of the path does not matter.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`], and those of the system.
    ///
    /// ```
    /// use hyper_sdk::store::backup::BackupFolder;
    ///
    /// # fn main() -> hyper_sdk::Result<()> {
    /// # let top = tempfile::tempdir()?;
    /// BackupFolder::create(&top.path().join("backups"))?;
    /// assert!(BackupFolder::refuse_within(&top.path().join("backups/registry")).is_err());
    /// BackupFolder::refuse_within(&top.path().join("registry"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn refuse_within(path: &Path) -> Result<()> {
        match above(path)?.into_iter().find(|at| has(at, MARKER)) {
            None => Ok(()),
            Some(at) => Err(Error::invalid(
                "the folder of the store is a folder of backups, or lies in one: name another folder",
            )
            .with_context("path", path.display())
            .with_context("backups", at.display())),
        }
    }

    /// Fails when a folder has something else than a store: a restore would mix it with one. What begins with a dot does not
    /// matter, as in the home of a user.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`], and those of the system.
    ///
    /// ```
    /// use hyper_sdk::store::backup::BackupFolder;
    ///
    /// # fn main() -> hyper_sdk::Result<()> {
    /// # let top = tempfile::tempdir()?;
    /// BackupFolder::refuse_foreign(&top.path().join("new"))?;
    /// std::fs::write(top.path().join("photo"), "x")?;
    /// assert!(BackupFolder::refuse_foreign(top.path()).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn refuse_foreign(path: &Path) -> Result<()> {
        let cannot = |e| Error::io("cannot list the folder of the store", path, e);
        let entries = match path.read_dir() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(cannot)?,
        };
        for entry in entries {
            let name = entry.map_err(cannot)?.file_name();
            let text = name.to_string_lossy();
            let is_of_store = |known: &&str| {
                text.strip_prefix(*known)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('-'))
            };
            if !text.starts_with('.') && !IN_STORES.iter().any(is_of_store) {
                return Err(Error::invalid(
                    "the folder has something else than a store: name an empty folder, or one that does not exist",
                )
                .with_context("path", path.display())
                .with_context("found", text));
            }
        }
        Ok(())
    }

    /// Fails when a path is the folder of a store or lies in one.
    pub(super) fn refuse_in_store(path: &Path) -> Result<()> {
        match above(path)?.into_iter().find(|at| OF_STORES.iter().any(|name| has(at, name))) {
            None => Ok(()),
            Some(at) => Err(Error::invalid(
                "the folder of the backups is the folder of a store, or lies in one: name a folder elsewhere, best on another disk",
            )
            .with_context("path", path.display())
            .with_context("store", at.display())),
        }
    }
}
