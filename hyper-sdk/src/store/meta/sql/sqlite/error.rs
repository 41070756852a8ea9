//! Translates the errors of SQLite.

use crate::{Error, ErrorKind};
use std::path::Path;

// The primary result codes of SQLite; the extended ones carry them in their low byte.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const IOERR_SHMSIZE: i32 = IOERR | (19 << 8);
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const NOTADB: i32 = 26;

/// The primary result code of a failure of the database.
fn code_of(e: &sqlx::Error) -> Option<i32> {
    match e.as_database_error()?.code()?.parse().ok()? {
        // The index of the log cannot grow, because the disk is full.
        IOERR_SHMSIZE => Some(FULL),
        other => Some(other & 0xff),
    }
}

/// Whether the disk is full.
pub(super) fn is_full(e: &sqlx::Error) -> bool {
    code_of(e) == Some(FULL)
}

/// Whether another connection has the database locked.
pub(super) fn is_busy(e: &sqlx::Error) -> bool {
    matches!(code_of(e), Some(BUSY | LOCKED))
}

pub(super) fn sql_error(path: &Path, e: sqlx::Error) -> Error {
    let code = code_of(&e);
    let (kind, message) = match (code, &e) {
        (Some(BUSY | LOCKED), _) => {
            (ErrorKind::Unavailable, "the database is locked by another process: try again when it is done")
        }
        (Some(READONLY), _) => {
            (ErrorKind::Io, "the database cannot be written: check the permissions of its file and folder")
        }
        (Some(CANTOPEN), _) => {
            (ErrorKind::Io, "the database cannot be opened: check that its folder exists and is writable")
        }
        (Some(FULL), _) => (ErrorKind::StorageFull, "the disk of the database is full: free some space"),
        (Some(IOERR), _) => (ErrorKind::Io, "the database cannot be read or written"),
        (Some(CORRUPT), _) => (ErrorKind::Corrupt, "the database is damaged: restore it from a backup"),
        (Some(NOTADB), _) => (ErrorKind::Corrupt, "the file is not an SQLite database"),
        (_, sqlx::Error::Io(_)) => (ErrorKind::Io, "the database cannot be read or written"),
        (_, sqlx::Error::PoolTimedOut) => {
            (ErrorKind::Unavailable, "no connection to the database became free in time")
        }
        (_, sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => {
            (ErrorKind::Unavailable, "the database was closed")
        }
        (_, sqlx::Error::ColumnDecode { .. }) => (ErrorKind::Corrupt, "the database has an invalid row"),
        _ => (ErrorKind::Internal, "a query of the database failed"),
    };
    Error::new(kind, message).with_context("path", path.display()).with_source(e)
}
