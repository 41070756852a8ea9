//! The only connection of a process that writes.
//!
//! # Invariants
//! - A rejected change has written nothing (see `changes`), so the others of its batch are still applied.
//! - When the database itself fails, the batch is rolled back and each change is retried alone, so that only the change
//!   that caused the error fails.
//! - After a failed statement the connection has no open transaction, or is closed and opened again for the next batch.
//!   SQLite ends a transaction by itself after some errors (a full disk, an I/O error) and not after others, so begin,
//!   commit and rollback are explicit statements here, without a separate count of open transactions.
//! - A commit of leases alone is not synced: after a power cut a lease may end earlier, as its promise says, and a build
//!   that finds many layers does not wait for the disk each time. The next other commit syncs them too.

use super::error::sql_error;
use crate::clock::{Clock, SharedClock};
use crate::store::EventRules;
use crate::store::meta::sql::changes::apply;
use crate::store::meta::sql::events::Recording;
use crate::store::meta::sql::keepers::Known;
use crate::store::meta::sql::query::Connection;
use crate::store::meta::sql::query::query;
use crate::store::meta::sql::queue::{self, Asked, are_leases};
use crate::store::meta::sql::quotas::{IS_COUNTING, Quotas, SharedRules};
use crate::store::meta::sql::rows::Stop;
use crate::{Error, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use std::path::PathBuf;
use std::sync::Arc;

/// The write connection.
pub(super) struct Session {
    /// Without a connection one is opened for the first change.
    open: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    path: PathBuf,
    clock: SharedClock,
    rules: SharedRules,
    recording: Recording,
    /// Whether commits are synced, as they are on a new connection.
    is_synced: bool,
}

impl Session {
    pub(super) fn new(
        open: Option<SqliteConnection>,
        options: SqliteConnectOptions,
        path: PathBuf,
        (clock, rules, recording): (SharedClock, SharedRules, Recording),
    ) -> Self {
        Self { open, options, path, clock, rules, recording, is_synced: true }
    }

    /// The connection, whose next commit is synced or not.
    async fn connection(&mut self, is_synced: bool) -> sqlx::Result<&mut SqliteConnection> {
        let mut connection = match self.open.take() {
            Some(connection) => connection,
            None => {
                self.is_synced = true;
                self.options.connect().await?
            }
        };
        if self.is_synced != is_synced {
            let mode = if is_synced { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            // A connection that fails here is not used again.
            run(&mut connection, mode).await?;
            self.is_synced = is_synced;
        }
        Ok(self.open.insert(connection))
    }

    /// Makes sure after a failure that no transaction is open.
    async fn recover(&mut self) {
        let Some(mut connection) = self.open.take() else { return };
        // When the transaction has already ended, there is nothing to roll back, and the connection can be reused. It
        // is kept, because closing the last connection removes the log, and a full disk has no space for a new log.
        if run(&mut connection, "ROLLBACK").await.is_ok() || is_idle(&mut connection).await {
            self.open = Some(connection);
            return;
        }
        if let Err(e) = connection.close().await {
            tracing::debug!(error = %e, "a connection of the database did not close cleanly");
        }
    }
}

/// Whether a transaction can begin. A deferred transaction does not access the file.
async fn is_idle(connection: &mut SqliteConnection) -> bool {
    run(connection, "BEGIN DEFERRED").await.is_ok() && run(connection, "ROLLBACK").await.is_ok()
}

async fn run(connection: &mut SqliteConnection, statement: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(statement).execute(connection).await.map(drop)
}

impl queue::Session for Session {
    async fn write_all(&mut self, changes: &[Asked]) -> Vec<Result<u64>> {
        match write_together(self, changes).await {
            Ok(outcomes) => outcomes,
            Err(e) if changes.len() == 1 => vec![Err(sql_error(&self.path, e))],
            Err(_) => {
                let mut outcomes = Vec::with_capacity(changes.len());
                for change in changes {
                    let alone = write_together(self, std::slice::from_ref(change)).await;
                    outcomes.push(match alone.map(|mut outcomes| outcomes.pop()) {
                        Ok(Some(outcome)) => outcome,
                        Ok(None) => Err(Error::internal("the writer lost a change")),
                        Err(e) => Err(sql_error(&self.path, e)),
                    });
                }
                outcomes
            }
        }
    }

    async fn close(self) {
        if let Some(connection) = self.open
            && let Err(e) = connection.close().await
        {
            tracing::warn!(path = %self.path.display(), error = %e, "the database did not close cleanly");
        }
    }
}

async fn write_together(session: &mut Session, changes: &[Asked]) -> sqlx::Result<Vec<Result<u64>>> {
    let (clock, rules, recording) =
        (Arc::clone(&session.clock), session.rules.clone(), session.recording.now());
    let connection = session.connection(!are_leases(changes)).await?;
    let outcome = transact(connection, &*clock, (&rules, recording), changes).await;
    if outcome.is_err() {
        session.recover().await;
    }
    outcome
}

async fn transact(
    connection: &mut SqliteConnection,
    clock: &dyn Clock,
    (rules, recording): (&SharedRules, Option<EventRules>),
    changes: &[Asked],
) -> sqlx::Result<Vec<Result<u64>>> {
    run(connection, "BEGIN IMMEDIATE").await?;
    let now = clock.now();
    let is_counting = query(IS_COUNTING).fetch_one(&mut Connection::Sqlite(connection, now)).await?;
    let quotas = Quotas::new(rules, is_counting, changes);
    let (mut outcomes, mut known) = (Vec::with_capacity(changes.len()), Known::default());
    for change in changes {
        let mut db = Connection::Sqlite(connection, now);
        match apply(&mut db, (&quotas, recording), &mut known, change).await {
            Ok(size) => outcomes.push(Ok(size)),
            Err(Stop::Refused(e)) => outcomes.push(Err(e)),
            Err(Stop::Failed(e)) => return Err(e),
        }
    }
    run(connection, "COMMIT").await?;
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::ErrorKind;
    use crate::clock::SystemClock;
    use crate::reference::RepositoryName;
    use crate::store::meta::{Change, SqlMeta};
    use queue::Session as _;
    use sqlx::sqlite::SqliteSynchronous;

    /// Leases alone are not synced, and everything else is, in whatever order they come.
    #[tokio::test]
    async fn a_commit_of_leases_alone_is_not_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hyper.db");
        // It makes the tables.
        let _meta = SqlMeta::open(path.clone()).await.unwrap();
        let options = SqliteConnectOptions::new().filename(&path).synchronous(SqliteSynchronous::Full);
        let others = (Arc::new(SystemClock) as SharedClock, SharedRules::default(), Recording::default());
        let mut session = Session::new(None, options, path, others);
        let (repository, digest) = (RepositoryName::parse("a").unwrap(), Digest::sha256("x"));
        let lease = || Asked {
            change: Change::LeaseBlob { repository: repository.clone(), digest: digest.clone(), until: 5 },
            by: None,
        };
        let other = || Asked {
            change: Change::UnlinkBlob { repository: repository.clone(), digest: digest.clone() },
            by: None,
        };
        let cases = [
            (vec![other()], 2),
            (vec![lease()], 1),
            (vec![lease(), lease()], 1),
            (vec![lease(), other()], 2),
            (vec![other()], 2),
            (vec![lease()], 1),
        ];
        for (number, (changes, mode)) in cases.into_iter().enumerate() {
            for outcome in session.write_all(&changes).await {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::BlobUnknown);
            }
            let connection = session.open.as_mut().unwrap();
            let now: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(connection).await.unwrap();
            assert_eq!(now, mode, "batch {number}");
        }
        // A new connection is as the options say.
        session.open.take().unwrap().close().await.unwrap();
        session.write_all(&[other()]).await;
        let connection = session.open.as_mut().unwrap();
        let now: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(connection).await.unwrap();
        assert_eq!(now, 2);
    }
}
