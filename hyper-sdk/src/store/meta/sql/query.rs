//! Queries that run on SQLite and on PostgreSQL.
//!
//! One text serves both: `$1`, `ON CONFLICT` and `RETURNING` are the same there. A number is always a `BIGINT`, because
//! PostgreSQL converts none by itself.

#[cfg(feature = "store-postgres")]
use super::postgres::judge;
#[cfg(feature = "store-postgres")]
use crate::breaker::Attempt;
use crate::clock::{Clock as _, SystemClock};
use crate::store::work;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{FromRow, SqliteConnection};
#[cfg(feature = "store-postgres")]
use sqlx::{
    PgConnection,
    postgres::{PgRow, Postgres},
};

/// A connection to one of the databases.
pub(super) enum Connection<'c> {
    /// Each with the time of the database when the transaction began, in seconds since 1970.
    Sqlite(&'c mut SqliteConnection, i64),
    #[cfg(feature = "store-postgres")]
    /// With what tells a breaker whether the database answers, unless the caller does.
    Postgres(&'c mut PgConnection, i64, Option<&'c Attempt>),
}

impl Connection<'_> {
    /// The database, as spans name it.
    fn system(&self) -> &'static str {
        match self {
            Self::Sqlite(..) => super::spans::SQLITE,
            #[cfg(feature = "store-postgres")]
            Self::Postgres(..) => super::spans::POSTGRESQL,
        }
    }

    /// The time that is recorded with a change.
    pub(super) fn now(&self) -> i64 {
        match self {
            Self::Sqlite(_, now) => *now,
            #[cfg(feature = "store-postgres")]
            Self::Postgres(_, now, _) => *now,
        }
    }
}

/// A connection of a pool, to which it goes back when it is dropped: for reading, and for single statements that write.
pub(super) enum Reader {
    Sqlite(PoolConnection<Sqlite>),
    #[cfg(feature = "store-postgres")]
    Postgres(PoolConnection<Postgres>, Attempt),
}

impl Reader {
    pub(super) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(connection) => Connection::Sqlite(connection, SystemClock.now()),
            #[cfg(feature = "store-postgres")]
            Self::Postgres(connection, attempt) => {
                Connection::Postgres(connection, SystemClock.now(), Some(attempt))
            }
        }
    }
}

/// Tells the breaker of a connection how something was answered that is no [`query`].
#[cfg(feature = "store-postgres")]
pub(super) fn told<T>(attempt: &Attempt, outcome: sqlx::Result<T>) -> sqlx::Result<T> {
    judge(attempt, outcome.as_ref().err());
    outcome
}

/// A row of both databases.
#[cfg(not(feature = "store-postgres"))]
pub(super) trait Row: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
#[cfg(not(feature = "store-postgres"))]
impl<T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin> Row for T {}
/// A row of both databases.
#[cfg(feature = "store-postgres")]
pub(super) trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}
#[cfg(feature = "store-postgres")]
impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> Row for T {}

/// The value of a parameter.
pub(super) enum Value<'q> {
    Text(Option<&'q str>),
    Number(Option<i64>),
    Bytes(&'q [u8]),
}

impl<'q> From<&'q str> for Value<'q> {
    fn from(text: &'q str) -> Self {
        Self::Text(Some(text))
    }
}

impl<'q> From<Option<&'q str>> for Value<'q> {
    fn from(text: Option<&'q str>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Number(number)
    }
}

impl<'q> From<&'q [u8]> for Value<'q> {
    fn from(bytes: &'q [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

/// A statement with the values of its parameters.
pub(super) struct Query<'q> {
    text: &'static str,
    values: Vec<Value<'q>>,
}

/// A statement without values yet.
pub(super) fn query<'q>(text: &'static str) -> Query<'q> {
    Query { text, values: Vec::new() }
}

/// Binds the values and runs a method of the result.
macro_rules! run {
    ($query:expr, $values:expr, $method:ident, $connection:expr) => {{
        let mut query = $query;
        for value in $values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
                Value::Bytes(bytes) => query.bind(bytes),
            };
        }
        query.$method(&mut **$connection).await
    }};
}

/// Runs the query on whichever database it is.
macro_rules! on {
    ($db:expr, $this:expr, [$function:ident $(, $row:ty)?], $method:ident, $map:expr) => {
        match $db {
            Connection::Sqlite(c, _) => {
                run!(sqlx::$function::<Sqlite $(, $row)?>($this.text), $this.values, $method, c).map($map)
            }
            #[cfg(feature = "store-postgres")]
            Connection::Postgres(c, _, attempt) => {
                let answer = async { run!(sqlx::$function::<Postgres $(, $row)?>($this.text), $this.values, $method, c) };
                let answer = in_time(answer).await;
                if let Some(attempt) = attempt {
                    judge(attempt, answer.as_ref().err());
                }
                answer.map($map)
            }
        }
    };
}

/// How long an answer may take from a database that would have cancelled the statement by then.
#[cfg(feature = "store-postgres")]
const ANSWER: std::time::Duration = std::time::Duration::from_secs(75);

/// Fails when a database at the other end of a network does not answer.
#[cfg(feature = "store-postgres")]
async fn in_time<T>(answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(late()))
}

impl<'q> Query<'q> {
    /// Binds the next value.
    pub(super) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs the statement, and returns how many rows it changed.
    pub(super) async fn execute(self, db: &mut Connection<'_>) -> sqlx::Result<u64> {
        let span = work::statement(db.system(), self.text);
        work::within(span, async { on!(db, self, [query], execute, |done| done.rows_affected()) }).await
    }

    pub(super) async fn fetch_all<T: Row>(self, db: &mut Connection<'_>) -> sqlx::Result<Vec<T>> {
        let span = work::statement(db.system(), self.text);
        work::within(span, async { on!(db, self, [query_as, T], fetch_all, |rows| rows) }).await
    }

    pub(super) async fn fetch_optional<T: Row>(self, db: &mut Connection<'_>) -> sqlx::Result<Option<T>> {
        let span = work::statement(db.system(), self.text);
        work::within(span, async { on!(db, self, [query_as, T], fetch_optional, |row| row) }).await
    }

    /// The row, which there is.
    pub(super) async fn fetch_row<T: Row>(self, db: &mut Connection<'_>) -> sqlx::Result<T> {
        self.fetch_optional(db).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// The only column of the row, if there is one.
    pub(super) async fn fetch_scalar<T>(self, db: &mut Connection<'_>) -> sqlx::Result<Option<T>>
    where
        (T,): Row,
    {
        Ok(self.fetch_optional::<(T,)>(db).await?.map(|(value,)| value))
    }

    /// The only column of the row, which there is.
    pub(super) async fn fetch_one<T>(self, db: &mut Connection<'_>) -> sqlx::Result<T>
    where
        (T,): Row,
    {
        self.fetch_scalar(db).await?.ok_or(sqlx::Error::RowNotFound)
    }
}

/// A connection to a new database, which is removed with the folder.
#[cfg(test)]
pub(super) async fn new_database() -> (SqliteConnection, tempfile::TempDir) {
    use sqlx::ConnectOptions as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hyper.db");
    super::SqlMeta::open(path.clone()).await.unwrap();
    let connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    (connection, folder)
}

/// How SQLite runs a statement on a new database.
#[cfg(test)]
pub(super) async fn plan_of(text: &str) -> Vec<String> {
    use sqlx::{AssertSqlSafe, Row as _};
    let (mut connection, _folder) = new_database().await;
    let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
    let rows = sqlx::raw_sql(explain).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| row.get("detail")).collect()
}

/// Counts the instructions of SQLite's virtual machine from now on.
#[cfg(test)]
pub(super) async fn count_steps(
    connection: &mut SqliteConnection,
) -> std::sync::Arc<std::sync::atomic::AtomicU64> {
    let steps = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&steps);
    connection.lock_handle().await.unwrap().set_progress_handler(1, move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        true
    });
    steps
}
