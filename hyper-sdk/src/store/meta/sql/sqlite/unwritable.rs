//! A database that this process cannot write, with what the last process that wrote it has left.
//!
//! A process that closes the database moves the write-ahead log into it and removes the log and its index. A killed
//! process leaves both, and two that close at the same moment may leave the log alone. SQLite reads a log without its
//! index only where it can create one, so this module makes a copy there.

use crate::private_folder::{self, TemporaryFolder};
use crate::{Error, ErrorKind, Result, stale_files};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the names of the folders of copies begin.
const PREFIX: &str = "hyper-database-";
/// After so long a copy that no process holds is one that a killed process left.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The name of the database in the folder of the copy.
pub(super) const NAME: &str = "hyper.db";

/// How often a copy is made again because a file changed in the meantime.
const ATTEMPTS: u32 = 5;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Everything is in the database.
    Closed,
    /// There is a log with its index.
    Open,
    /// There is a log without an index: no process has the database open.
    Left,
}

/// How a database can be read.
#[derive(Debug)]
pub(super) enum Found {
    /// Where it is, without other files.
    Closed,
    /// Where it is, with the log and the index beside it.
    Open,
    /// In a private copy, under [`NAME`].
    Copied(TemporaryFolder),
}

fn state(database: &Path) -> State {
    let has_log = std::fs::metadata(beside(database, "-wal")).is_ok_and(|log| log.len() > 0);
    match has_log {
        false => State::Closed,
        true if beside(database, "-shm").exists() => State::Open,
        true => State::Left,
    }
}

/// Whether another process has the database open, so that it may change.
pub(super) fn is_in_use(database: &Path) -> bool {
    ["-wal", "-shm"].iter().all(|suffix| beside(database, suffix).exists())
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Finds out how a database can be read, and copies it with its log into a temporary folder when it must be.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when another process is writing the database, [`ErrorKind::Io`] and
/// [`ErrorKind::StorageFull`] when a file cannot be read or written.
pub(super) fn find(database: &Path) -> Result<Found> {
    find_or_copy(database, false)
}

/// Does so where another process may begin to write at any moment: what is closed now is copied, too.
///
/// # Errors
/// Those of [`find`].
pub(super) fn copy(database: &Path) -> Result<Found> {
    find_or_copy(database, true)
}

fn find_or_copy(database: &Path, may_change: bool) -> Result<Found> {
    let mut copy = None;
    for _ in 0..ATTEMPTS {
        let found = state(database);
        match found {
            State::Closed if !may_change => return Ok(Found::Closed),
            State::Open => return Ok(Found::Open),
            State::Closed | State::Left => {}
        }
        let folder = match copy.take() {
            Some(folder) => folder,
            None => temporary().map_err(|e| cannot_copy(database, e.kind(), e))?,
        };
        let before = (seen(database), seen(&beside(database, "-wal")));
        match copy_into(folder.path(), database) {
            Ok(()) => {}
            // There is no log, or another process, which may have the file system mounted as writable, has closed it meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let source = Error::from(e);
                return Err(cannot_copy(database, source.kind(), source));
            }
        }
        let after = (seen(database), seen(&beside(database, "-wal")));
        if before == after && state(database) == found {
            return Ok(Found::Copied(folder));
        }
        copy = Some(folder);
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "another process is writing the database, which this one cannot write",
    )
    .with_context("path", database.display()))
}

/// Makes a folder for a copy, and removes those that killed processes left.
fn temporary() -> Result<TemporaryFolder> {
    let folder = private_folder::temporary(PREFIX, None)?;
    if let Some(within) = folder.path().parent() {
        stale_files::remove_folders(within, ABANDONED, |name| name.starts_with(PREFIX));
    }
    Ok(folder)
}

fn copy_into(folder: &Path, database: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal"] {
        let to = beside(&folder.join(NAME), suffix);
        // An earlier copy can have a mode that denies another one.
        match std::fs::remove_file(&to) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::copy(beside(database, suffix), &to)?;
    }
    Ok(())
}

fn cannot_copy(database: &Path, kind: ErrorKind, source: Error) -> Error {
    Error::new(
        kind,
        "the database was not closed, and cannot be copied to a temporary folder to read it: open it once where it can \
         be written",
    )
    .with_context("path", database.display())
    .with_source(source)
}

/// What changes when a file is written.
fn seen(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_database_is_copied_only_when_a_log_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("some.db");
        let write = |suffix: &str, text: &str| std::fs::write(beside(&database, suffix), text).unwrap();
        write("", "tables");
        assert!(matches!(find(&database).unwrap(), Found::Closed));
        write("-wal", "");
        assert!(matches!(find(&database).unwrap(), Found::Closed));
        write("-wal", "changes");
        let Found::Copied(copy) = find(&database).unwrap() else { panic!("a log was left") };
        let copied = copy.path().join(NAME);
        assert_eq!(std::fs::read_to_string(&copied).unwrap(), "tables");
        assert_eq!(std::fs::read_to_string(beside(&copied, "-wal")).unwrap(), "changes");
        write("-shm", "");
        assert!(matches!(find(&database).unwrap(), Found::Open));
    }

    #[test]
    fn a_closed_database_that_may_change_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("some.db");
        std::fs::write(&database, "tables").unwrap();
        let Found::Copied(copied) = copy(&database).unwrap() else { panic!("another process may write it") };
        assert_eq!(std::fs::read_to_string(copied.path().join(NAME)).unwrap(), "tables");
        assert!(!beside(&copied.path().join(NAME), "-wal").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(beside(&database, "-wal"), "changes").unwrap();
        std::fs::write(beside(&database, "-shm"), "").unwrap();
        assert!(matches!(copy(&database).unwrap(), Found::Open));
    }

    #[test]
    fn a_copy_that_may_not_be_written_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (database, copy) = (folder.path().join("some.db"), folder.path().join("copy"));
        std::fs::create_dir(&copy).unwrap();
        for text in ["old", "new"] {
            for suffix in ["", "-wal"] {
                let file = beside(&database, suffix);
                let _ = std::fs::remove_file(&file);
                std::fs::write(&file, text).unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
            }
            copy_into(&copy, &database).unwrap();
            assert_eq!(std::fs::read_to_string(copy.join(NAME)).unwrap(), text);
            // A link is replaced, and what it leads to is not written.
            std::fs::remove_file(copy.join(NAME)).unwrap();
            std::os::unix::fs::symlink(&database, copy.join(NAME)).unwrap();
        }
    }
}
