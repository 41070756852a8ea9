//! Metadata in PostgreSQL, for any number of servers.
//!
//! ```text
//!   changes ──▶ queue ──▶ one connection; `registry_state` serialises the transactions of all servers   (session)
//!   version ──▶ queue ──▶ one connection; one query for all that wait                                    (version)
//!   reads   ────────────▶ a pool
//! ```
//!
//! A connection that was lost is opened again for the next use. Times are those of the database ([`clock`]).

mod clock;
mod error;
mod options;
#[cfg(test)]
mod plans;
mod presence;
mod session;
mod version;

pub(super) use self::error::judge;
pub use self::options::PostgresOptions;
pub(super) use self::session::random as random_version;

use self::clock::DatabaseClock;
use self::error::sql_error;
use self::presence::Presence;
use self::session::Session;
use self::version::Versions;
use super::events::Recording;
use super::query::Reader;
use super::queue::Queue;
use super::quotas::SharedRules;
use super::schema;
use crate::breaker::{Attempt, Breaker, BreakerOptions, BreakerState};
use crate::clock::SharedClock;
use crate::secret::Secret;
use crate::store::meta::Change;
use crate::{Error, ErrorKind, Result, ResultExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgPoolOptions, Postgres};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a read waits for a connection, also for a database that is starting.
const ACQUIRE: Duration = Duration::from_secs(5);
/// A connection that was idle for so long is tried before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// The advisory lock of a migration. Only one process at a time changes the tables.
const MIGRATION_LOCK: i64 = 0x6879_7065_7200_0001;

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    place: Arc<str>,
    readers: PgPool,
    writer: Queue,
    rules: SharedRules,
    recording: Recording,
    versions: Versions,
    clock: Arc<DatabaseClock>,
    id: String,
    presence: Presence,
    /// When a new connection last led to something else than the registry.
    replaced: Arc<Mutex<Option<Instant>>>,
    secret: Secret,
    durable: bool,
    /// Every connection passes it.
    breaker: Breaker,
    /// The place of the change that finds out whether the database answers again.
    probing: Semaphore,
}

impl Database {
    /// See [`super::SqlMeta::connect`].
    pub(super) async fn connect(options: PostgresOptions) -> Result<Self> {
        Self::connect_to(options, true).await
    }

    /// See [`super::SqlMeta::connect_unchanged`].
    pub(super) async fn connect_unchanged(options: PostgresOptions) -> Result<Self> {
        Self::connect_to(options, false).await
    }

    async fn connect_to(options: PostgresOptions, migrates: bool) -> Result<Self> {
        let PostgresOptions { connect, connections, place } = options;
        let failed = |e| sql_error(&place, e);
        let opening = tokio::time::timeout(2 * ACQUIRE, connect.connect()).await;
        let mut connection = opening.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(failed)?;
        let setting = async |connection: &mut PgConnection, name: &'static str| {
            let query = sqlx::query_scalar::<_, String>("SELECT current_setting($1)").bind(name);
            query.fetch_one(connection).await.map_err(failed)
        };
        if setting(&mut connection, "server_encoding").await? != "UTF8" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the encoding of the database is not UTF-8: create it with ENCODING 'UTF8' TEMPLATE template0",
            )
            .with_context("database", &place));
        }
        let mut durable = true;
        for (name, bad) in [("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off")] {
            if setting(&mut connection, name).await? == bad {
                durable = false;
                tracing::warn!(database = %place, "{name} is {bad}: a power failure can lose what was acknowledged");
            }
        }
        let found = if migrates {
            migrate(&mut connection).await.map_err(failed)?
        } else {
            let found = known_version(&mut connection).await.map_err(failed)?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "the database has no registry")
                    .with_context("database", &place)
            })?;
            schema::reject_older(found).context("database", &place)?;
            found
        };
        schema::reject_newer(found).context("database", &place)?;
        let (id, secret, now): (String, String, i64) = sqlx::query_as(
            "SELECT id, secret, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) FROM registry_state",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
        let clock = Arc::new(DatabaseClock::default());
        clock.set(now);
        let presence = Presence::of(&id, session::random().map_err(failed)?);
        presence.show(&mut connection).await.map_err(failed)?;
        let replaced = Arc::new(Mutex::new(None));
        let readers = PgPoolOptions::new()
            .max_connections(connections.saturating_sub(2).max(1))
            .acquire_timeout(ACQUIRE)
            .test_before_acquire(false)
            .before_acquire(move |connection, state| {
                Box::pin(async move {
                    // A lost connection is replaced by another, and so is one to tables that were replaced.
                    Ok(state.idle_for < IDLE || presence.check(connection).await.is_ok())
                })
            })
            .after_connect({
                let replaced = Arc::clone(&replaced);
                move |connection, _| {
                    let replaced = Arc::clone(&replaced);
                    Box::pin(async move {
                        let checked = presence.check(connection).await;
                        // The pool tries again until the time is over, and then says only that.
                        if matches!(checked, Err(sqlx::Error::Configuration(_))) {
                            *replaced.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                        }
                        checked
                    })
                }
            })
            .connect_lazy_with(connect.clone());
        let versions = Versions::start(connect.clone(), Arc::clone(&place));
        let breaker = Breaker::new("database", BreakerOptions::default());
        let (rules, recording) = (SharedRules::default(), Recording::default());
        let session = Session {
            rules: rules.clone(),
            recording: recording.clone(),
            open: Some(connection),
            options: connect,
            place: Arc::clone(&place),
            clock: Arc::clone(&clock),
            presence,
            breaker: breaker.clone(),
        };
        Ok(Self {
            place,
            readers,
            writer: Queue::start(session),
            rules,
            recording,
            versions,
            clock,
            id,
            presence,
            replaced,
            secret: secret.into(),
            durable,
            breaker,
            probing: Semaphore::new(1),
        })
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn rules(&self) -> &SharedRules {
        &self.rules
    }

    pub(super) fn recording(&self) -> &Recording {
        &self.recording
    }

    pub(super) fn durable(&self) -> bool {
        self.durable
    }

    /// The name of the registry whose metadata this is.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Records where the blobs are, unless that is known, and returns where they are.
    pub(super) async fn place_of_blobs(&self, place: &str) -> Result<String> {
        let (mut connection, attempt) = self.acquire().await?;
        let set = sqlx::query("UPDATE registry_state SET blobs = $1 WHERE blobs IS NULL").bind(place);
        self.told(&attempt, set.execute(&mut *connection).await)?;
        let found = sqlx::query_scalar("SELECT blobs FROM registry_state").fetch_one(&mut *connection).await;
        self.told(&attempt, found)
    }

    /// Where the blobs are, if a server has said it.
    pub(super) async fn known_place_of_blobs(&self) -> Result<Option<String>> {
        let (mut connection, attempt) = self.acquire().await?;
        let found = sqlx::query_scalar("SELECT blobs FROM registry_state").fetch_one(&mut *connection).await;
        self.told(&attempt, found)
    }

    /// Fails when another process has the registry open.
    pub(super) async fn check_alone(&self) -> Result<()> {
        let (mut connection, attempt) = self.acquire().await?;
        let others = self.told(&attempt, self.presence.others(&mut connection).await)?;
        if others.is_empty() {
            return Ok(());
        }
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        Err(Error::new(
            ErrorKind::Conflict,
            "another process has the store open, such as a server: stop it first, so that nothing is mixed",
        )
        .with_context("database", self.place())
        .with_context("sessions", others.join(", ")))
    }

    pub(super) fn clock(&self) -> SharedClock {
        Arc::clone(&self.clock) as SharedClock
    }

    /// Reads the time of the database, in seconds, and sets the clock by it.
    pub(super) async fn fetch_time(&self) -> Result<i64> {
        let (mut connection, attempt) = self.acquire().await?;
        let now = sqlx::query_scalar("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)")
            .fetch_one(&mut *connection)
            .await;
        let now: i64 = self.told(&attempt, now)?;
        self.clock.set(now);
        Ok(now.div_euclid(1000))
    }

    pub(super) async fn version(&self) -> Option<u64> {
        // A cache goes without the version for a moment, so it says nothing of the database.
        if self.breaker.state() != BreakerState::Closed {
            return None;
        }
        self.versions.now().await
    }

    pub(super) async fn write(&self, change: Change) -> Result<u64> {
        // Who finds it open does not wait behind those that do.
        self.breaker.check()?;
        // Nor does anybody wait behind the one that finds out whether it answers again.
        let _probing = match self.breaker.state() {
            BreakerState::Closed => None,
            _ => Some(self.probing.try_acquire().map_err(|_| self.breaker.refuse())?),
        };
        self.writer.write(change).await
    }

    /// Tells the breaker how a query went.
    fn told<T>(&self, attempt: &Attempt, outcome: sqlx::Result<T>) -> Result<T> {
        judge(attempt, outcome.as_ref().err());
        outcome.map_err(|e| self.failed(e))
    }

    /// A connection of the pool, unless the database does not answer.
    async fn acquire(&self) -> Result<(PoolConnection<Postgres>, Attempt)> {
        let (attempt, asked) = (self.breaker.enter()?, Instant::now());
        match self.readers.acquire().await {
            // It may be one that was lost a moment ago, so it says nothing yet.
            Ok(connection) => Ok((connection, attempt)),
            Err(e) => {
                let replaced = *self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
                let e = if replaced.is_some_and(|at| at >= asked) { presence::replaced() } else { e };
                judge(&attempt, Some(&e));
                Err(self.failed(e))
            }
        }
    }

    pub(super) async fn reader(&self) -> Result<Reader> {
        let (connection, attempt) = self.acquire().await?;
        Ok(Reader::Postgres(connection, attempt))
    }

    /// A connection of the same pool: it may write.
    pub(super) async fn statement_writer(&self) -> Result<Reader> {
        self.reader().await
    }

    pub(super) fn failed(&self, e: sqlx::Error) -> Error {
        sql_error(&self.place, e)
    }
}

/// The version of the tables; `None` when there are none.
async fn known_version(connection: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    let has_tables: bool = sqlx::query_scalar("SELECT to_regclass('registry_state') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !has_tables {
        return Ok(None);
    }
    sqlx::query_scalar(schema::VERSION).fetch_one(&mut *connection).await.map(Some)
}

/// Applies the missing migrations, and returns the version before. A database that has them is not written, so a server
/// needs no right to create tables there.
async fn migrate(connection: &mut PgConnection) -> sqlx::Result<i64> {
    if let Some(found) = known_version(connection).await?
        && schema::missing(found).next().is_none()
    {
        return Ok(found);
    }
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *transaction).await?;
    sqlx::raw_sql(schema::TABLE).execute(&mut *transaction).await?;
    let found: i64 = sqlx::query_scalar(schema::VERSION).fetch_one(&mut *transaction).await?;
    if found == 0 {
        sqlx::raw_sql(include_str!("state.sql")).execute(&mut *transaction).await?;
        let random =
            || Ok::<_, sqlx::Error>(format!("{:016x}{:016x}", session::random()?, session::random()?));
        sqlx::query("INSERT INTO registry_state (version, id, secret) VALUES ($1, $2, $3)")
            .bind(session::random()?)
            .bind(random()?)
            .bind(random()? + &random()?)
            .execute(&mut *transaction)
            .await?;
    }
    for (version, migration) in schema::missing(found) {
        // The migrations are constants.
        sqlx::raw_sql(AssertSqlSafe(schema::for_postgres(migration))).execute(&mut *transaction).await?;
        for (_, besides) in schema::ON_POSTGRES.iter().filter(|(of, _)| *of == version) {
            sqlx::raw_sql(*besides).execute(&mut *transaction).await?;
        }
        sqlx::query(
            "INSERT INTO schema_version (version, applied_at) \
             VALUES ($1, CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT))",
        )
        .bind(version)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(found)
}
