//! A database that this process cannot write, with what the last process that wrote it has left.
//!
//! A process that closes the database moves the write-ahead log into it and removes the log and its index. A killed
//! process leaves both, and two that close at the same moment may leave the log alone. SQLite reads a log without its
//! index only where it can create one, so this module makes a copy there.

use crate::private_folder::{self, TemporaryFolder};
use crate::{Error, ErrorKind, Result, ResultExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The name of the database in the folder of the copy.
pub(super) const NAME: &str = "hyper.db";

/// How often a copy is made again because a file changed in the meantime.
const ATTEMPTS: u32 = 5;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// Everything is in the database.
    Closed,
    /// There is a log with its index.
    Open,
    /// There is a log without an index: no process has the database open.
    Left,
}

pub(super) fn state(database: &Path) -> State {
    let has_log = std::fs::metadata(beside(database, "-wal")).is_ok_and(|log| log.len() > 0);
    match has_log {
        false => State::Closed,
        true if beside(database, "-shm").exists() => State::Open,
        true => State::Left,
    }
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Copies the database and its log into a private temporary folder.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when another process is writing the database, [`ErrorKind::Io`] and
/// [`ErrorKind::StorageFull`] when a file cannot be read or written.
pub(super) fn copy(database: &Path) -> Result<TemporaryFolder> {
    let folder = private_folder::temporary("hyper-database-", None)?;
    for _ in 0..ATTEMPTS {
        let before = (seen(database), seen(&beside(database, "-wal")));
        for suffix in ["", "-wal"] {
            let from = beside(database, suffix);
            let to = beside(&folder.path().join(NAME), suffix);
            std::fs::copy(&from, &to)
                .at("cannot copy the database, which was not closed, to read it", &from)?;
        }
        // Another process may have the file system mounted as writable.
        let after = (seen(database), seen(&beside(database, "-wal")));
        if before == after && !beside(database, "-shm").exists() {
            return Ok(folder);
        }
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "another process is writing the database, which this one cannot write",
    )
    .with_context("path", database.display()))
}

/// What changes when a file is written.
fn seen(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
}
