//! The only connection of a process that writes.
//!
//! # Invariants
//! - A transaction updates the row `registry_state` first, and so has the right to write until it ends, among all servers.
//!   At the isolation level READ COMMITTED each later statement sees what was committed before it got that right. So a
//!   change that checks and then writes is right as it is on SQLite, where one process writes at a time.
//! - A rejected change has written nothing (see `changes`), so the others of its batch are still applied.
//! - When a statement fails, the batch is rolled back and each change is tried alone, so that only the change that caused
//!   the error fails. When the connection is lost before the commit was sent, nothing was committed, and the batch is tried
//!   once more on a new connection.
//! - When the answer of a commit is lost, nobody knows whether it was done: every change of the batch is an error that says
//!   so, and is not tried again.
//! - A commit of leases alone is not synced: after a power cut a lease may end earlier, as its promise says.

use super::clock::DatabaseClock;
use super::error::{is_lost, is_starting, judge, sql_error};
use super::presence::{self, Presence};
use crate::breaker::{Attempt, Breaker};
use crate::clock::Clock as _;
use crate::store::EventRules;
use crate::store::meta::Change;
use crate::store::meta::sql::changes::apply;
use crate::store::meta::sql::events::Recording;
use crate::store::meta::sql::keepers::Known;
use crate::store::meta::sql::query::Connection;
use crate::store::meta::sql::queue::{self, Asked, are_leases};
use crate::store::meta::sql::quotas::{IS_COUNTING, Quotas, SharedRules};
use crate::store::meta::sql::rows::Stop;
use crate::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a change waits for a database that is starting.
const STARTING: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the statements of one transaction may take.
const TRANSACTION: Duration = Duration::from_secs(90);
/// How long a commit may take.
const COMMIT: Duration = Duration::from_secs(30);

/// The write connection.
pub(super) struct Session {
    /// Without a connection one is opened for the next change.
    pub(super) open: Option<PgConnection>,
    pub(super) options: PgConnectOptions,
    pub(super) rules: SharedRules,
    pub(super) recording: Recording,
    pub(super) place: Arc<str>,
    pub(super) clock: Arc<DatabaseClock>,
    pub(super) presence: Presence,
    pub(super) breaker: Breaker,
}

/// Why a transaction failed.
enum Failure {
    /// Nothing was committed, and the connection is still there.
    Statement(sqlx::Error),
    /// Nothing was committed, and there is no connection.
    Lost(sqlx::Error),
    /// The commit was sent and not answered.
    Unknown(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(e: sqlx::Error) -> Self {
        if is_lost(&e) { Self::Lost(e) } else { Self::Statement(e) }
    }
}

impl Session {
    /// Opens a connection. Waits a while for a database that is starting.
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let start = Instant::now();
        loop {
            let opening = async {
                let mut connection = self.options.connect().await?;
                self.presence.check(&mut connection).await?;
                self.presence.show(&mut connection).await?;
                Ok(connection)
            };
            match timeout(CONNECT, opening).await.unwrap_or_else(|_| Err(too_slow())) {
                Err(e) if is_starting(&e) && start.elapsed() < STARTING => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Applies the changes in one transaction. The connection stays if it can be used again.
    async fn write_together(
        &mut self,
        attempt: &Attempt,
        changes: &[Asked],
    ) -> std::result::Result<Vec<Result<u64>>, Failure> {
        let mut connection = match self.open.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(Failure::Lost)?,
        };
        let clock = Arc::clone(&self.clock);
        let applied = timeout(
            TRANSACTION,
            transact(
                &mut connection,
                &clock,
                (&self.rules, self.recording.now(), attempt, self.presence),
                changes,
            ),
        )
        .await;
        let outcomes = match applied.unwrap_or_else(|_| Err(too_slow().into())) {
            Ok(outcomes) => outcomes,
            Err(Failure::Statement(e)) => {
                let rolled_back = timeout(COMMIT, sqlx::raw_sql("ROLLBACK").execute(&mut connection)).await;
                if matches!(rolled_back, Ok(Ok(_))) {
                    self.open = Some(connection);
                }
                return Err(Failure::Statement(e));
            }
            Err(failure) => return Err(failure),
        };
        let committed = timeout(COMMIT, sqlx::raw_sql("COMMIT").execute(&mut connection)).await;
        committed.unwrap_or_else(|_| Err(too_slow())).map_err(Failure::Unknown)?;
        self.open = Some(connection);
        Ok(outcomes)
    }

    async fn write_twice(
        &mut self,
        attempt: &Attempt,
        changes: &[Asked],
    ) -> std::result::Result<Vec<Result<u64>>, Failure> {
        match self.write_together(attempt, changes).await {
            Err(Failure::Lost(e)) if !is_too_slow(&e) => {
                tracing::debug!(error = %sql_error(&self.place, e), "the connection to the database was lost");
                self.write_together(attempt, changes).await
            }
            outcome => outcome,
        }
    }

    fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Statement(e) | Failure::Lost(e) => sql_error(&self.place, e),
            Failure::Unknown(e) => Error::new(
                ErrorKind::Unavailable,
                "the database did not confirm the change: it may have been made, or not",
            )
            .with_context("database", &self.place)
            .with_source(sql_error(&self.place, e)),
        }
    }
}

/// Tells the breaker whether the database has answered.
fn told<T>(attempt: &Attempt, outcome: std::result::Result<T, Failure>) -> std::result::Result<T, Failure> {
    let error = match &outcome {
        Err(Failure::Lost(e) | Failure::Unknown(e)) => Some(e),
        Ok(_) | Err(Failure::Statement(_)) => None,
    };
    judge(attempt, error);
    outcome
}

/// The same error for as many changes.
fn for_all(error: Error, count: usize) -> Vec<Result<u64>> {
    let others: Vec<Result<u64>> = (1..count)
        .map(|_| {
            let mut other = Error::new(error.kind(), error.message());
            for (key, value) in error.context() {
                other = other.with_context(key, value);
            }
            for detail in error.details() {
                other = other.with_detail(detail.clone());
            }
            if let Some(wait) = error.retry_after() {
                other = other.with_retry_after(wait);
            }
            Err(other)
        })
        .collect();
    std::iter::once(Err(error)).chain(others).collect()
}

impl queue::Session for Session {
    async fn write_all(&mut self, changes: &[Asked]) -> Vec<Result<u64>> {
        let attempt = match self.breaker.enter() {
            Ok(attempt) => attempt,
            Err(refused) => return for_all(refused.into(), changes.len()),
        };
        match told(&attempt, self.write_twice(&attempt, changes).await) {
            Ok(outcomes) => return outcomes,
            Err(Failure::Statement(_)) if changes.len() > 1 => {}
            Err(failure) => return for_all(self.error(failure), changes.len()),
        }
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            match told(&attempt, self.write_twice(&attempt, std::slice::from_ref(change)).await) {
                Ok(outcome) => outcomes.extend(outcome),
                Err(Failure::Lost(e)) => {
                    // The others would wait for the same database.
                    let rest = changes.len() - outcomes.len();
                    outcomes.extend(for_all(self.error(Failure::Lost(e)), rest));
                    return outcomes;
                }
                Err(failure) => outcomes.push(Err(self.error(failure))),
            }
        }
        outcomes
    }

    async fn close(self) {
        if let Some(connection) = self.open
            && let Err(e) = connection.close().await
        {
            tracing::debug!(database = %self.place, error = %e, "the database did not close cleanly");
        }
    }
}

/// Begins a transaction, gets the right to write, and applies the changes.
async fn transact(
    connection: &mut PgConnection,
    clock: &DatabaseClock,
    (rules, recording, attempt, presence): (&SharedRules, Option<EventRules>, &Attempt, Presence),
    changes: &[Asked],
) -> std::result::Result<Vec<Result<u64>>, Failure> {
    let version = if changes.iter().any(|asked| is_visible(&asked.change)) {
        random()?.to_string()
    } else {
        "kept_version".to_owned()
    };
    let durability = if are_leases(changes) { "SET LOCAL synchronous_commit = off; " } else { "" };
    let begin = format!(
        "BEGIN; {durability}UPDATE registry_state SET kept_version = {version} \
         RETURNING CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), id; {IS_COUNTING}"
    );
    // The text has a number that was made here, and nothing else from outside.
    let rows = sqlx::raw_sql(AssertSqlSafe(begin)).fetch_all(&mut *connection).await?;
    // The rest may take long, and others need not wait for it.
    attempt.answered();
    let [time, is_counting] = &rows[..] else { return Err(sqlx::Error::RowNotFound.into()) };
    if !presence.is_of(time.try_get(1)?) {
        // The connection ends, and nothing is committed.
        return Err(Failure::Lost(presence::replaced()));
    }
    clock.set(time.try_get(0)?);
    let quotas = Quotas::new(rules, is_counting.try_get(0)?, changes);
    let (mut outcomes, mut known) = (Vec::with_capacity(changes.len()), Known::default());
    let mut db = Connection::Postgres(connection, clock.now(), None);
    for change in changes {
        match apply(&mut db, (&quotas, recording), &mut known, change).await {
            Ok(size) => outcomes.push(Ok(size)),
            Err(Stop::Refused(e)) => outcomes.push(Err(e)),
            Err(Stop::Failed(e)) => return Err(e.into()),
        }
    }
    Ok(outcomes)
}

/// Whether readers can see the change. A cache need not know of others.
fn is_visible(change: &Change) -> bool {
    !matches!(
        change,
        Change::LeaseBlob { .. }
            | Change::NotePulls { .. }
            | Change::CountNamespace { .. }
            | Change::ForgetNamespaces { .. }
            | Change::StartUpload { .. }
            | Change::SaveUpload { .. }
            | Change::ClaimUpload { .. }
            | Change::ReleaseUpload { .. }
            | Change::SealUpload { .. }
            | Change::EndUpload { .. }
            | Change::ExpireUpload { .. }
            | Change::HoldScrub { .. }
            | Change::HoldRetention { .. }
            | Change::HoldBytes { .. }
            | Change::PurgeDeleted { .. }
            | Change::ForgetDeletions
            | Change::Events(_)
    )
}

/// A version that was never used before.
pub(in crate::store::meta::sql) fn random() -> sqlx::Result<i64> {
    let mut bytes = [0; 8];
    // Small requests are answered in full.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(std::io::Error::from)?;
    // Without its sign, so that it is a number in the text of a statement.
    Ok(i64::from_ne_bytes(bytes) & i64::MAX)
}

fn too_slow() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

fn is_too_slow(e: &sqlx::Error) -> bool {
    matches!(e, sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut)
}
