//! Translates the errors of PostgreSQL.

use crate::breaker::Attempt;
use crate::{Error, ErrorKind};

/// The SQLSTATE of a failure.
fn code_of(e: &sqlx::Error) -> Option<String> {
    Some(e.as_database_error()?.code()?.into_owned())
}

/// Whether the connection cannot be used any more.
pub(super) fn is_lost(e: &sqlx::Error) -> bool {
    match code_of(e).as_deref() {
        // A connection that failed, and a server that is going down or starting. 25P03 and 57P05 are timeouts that end the
        // connection.
        Some(code) => code.starts_with("08") || code.starts_with("57P") || code == "25P03",
        None => matches!(
            e,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed
        ),
    }
}

/// Whether the server may be there again in a moment.
pub(super) fn is_starting(e: &sqlx::Error) -> bool {
    use std::io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof,
    };
    match (code_of(e).as_deref(), e) {
        (Some(code), _) => code.starts_with("57P"),
        // The socket in a folder is not there while the server is down.
        (None, sqlx::Error::Io(e)) => {
            [ConnectionAborted, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof]
                .contains(&e.kind())
        }
        _ => false,
    }
}

/// Tells a breaker whether the database has answered: a query that it refuses, or cannot do, is an answer.
pub(in crate::store::meta::sql) fn judge(attempt: &Attempt, error: Option<&sqlx::Error>) {
    match error {
        // What answers in the place of the registry is not it (see `presence`).
        Some(e) if is_lost(e) || matches!(e, sqlx::Error::PoolTimedOut | sqlx::Error::Configuration(_)) => {
            attempt.failed(e)
        }
        _ => attempt.answered(),
    }
}

pub(super) fn sql_error(place: &str, e: sqlx::Error) -> Error {
    use ErrorKind::{Corrupt, Internal, ManifestInvalid, StorageFull, Unavailable};
    let code = code_of(&e).unwrap_or_default();
    let (kind, message) = match (&*code, &e) {
        ("53100", _) => (StorageFull, "the disk of the database is full: free some space"),
        ("55P03", _) => (Unavailable, "another server writes to the database: try again later"),
        ("57014", _) => (Unavailable, "the database took too long: try again later"),
        ("40001" | "40P01", _) => {
            (Unavailable, "the database has a conflict between transactions: try again")
        }
        ("25006", _) => (Unavailable, "the database is read-only: is it a standby?"),
        ("42501", _) => (Unavailable, "the user of the database has no right to the tables: grant it"),
        ("3D000", _) => (Unavailable, "the database does not exist: create it"),
        ("22021" | "22P05", _) => (ManifestInvalid, "the manifest has a text with a NUL character"),
        ("XX001" | "XX002", _) => (Corrupt, "the database is damaged: restore it from a backup"),
        (code, _) if code.starts_with("28") => {
            (Unavailable, "the database refuses the user: check its name, its password and pg_hba.conf")
        }
        (code, _) if code.starts_with("53") => {
            (Unavailable, "the database has no room for the connection or the query")
        }
        (_, sqlx::Error::PoolTimedOut) => {
            (Unavailable, "no connection to the database became free in time, or it does not answer")
        }
        // See `presence`.
        (_, sqlx::Error::Configuration(_)) => (
            Unavailable,
            "the database was replaced, and this process goes on with no other registry: start it again",
        ),
        (_, sqlx::Error::PoolClosed) => (Unavailable, "the database was closed"),
        (_, sqlx::Error::Tls(_)) => {
            (Unavailable, "there is no TLS connection to the database: check `sslmode`")
        }
        (_, sqlx::Error::ColumnDecode { .. }) => (Corrupt, "the database has an invalid row"),
        _ if is_lost(&e) => (Unavailable, "there is no connection to the database"),
        _ => (Internal, "a query of the database failed"),
    };
    Error::new(kind, message).with_context("database", place).with_source(e)
}
