//! Which processes have a registry open, so that a restore fills no store that a server serves.
//!
//! The connection of each process that writes holds an advisory lock with others, whose two numbers are those of the registry and
//! of the process. PostgreSQL ends it with the connection, and lists all.

use sqlx::PgConnection;

/// The locks of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presence {
    registry: i32,
    process: i32,
}

impl Presence {
    /// A process, by a random number, that opens the registry with this name.
    pub(super) fn of(registry: &str, process: i64) -> Self {
        let number = |text: &str| {
            let digest = crate::Digest::sha256(text);
            u32::from_str_radix(&digest.hex()[..8], 16).unwrap_or_default().cast_signed()
        };
        Self { registry: number(registry), process: number(&process.to_string()) }
    }

    /// Whether it is in the registry with this name.
    pub(super) fn is_of(self, registry: &str) -> bool {
        Self::of(registry, 0).registry == self.registry
    }

    /// Fails when a connection leads to another registry than the one that the process opened, or to none any more: the database
    /// was dropped meanwhile, and perhaps made anew by a restore.
    pub(super) async fn check(self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let found =
            sqlx::query_scalar::<_, String>("SELECT id FROM registry_state").fetch_one(connection).await;
        match found {
            Ok(id) if self.is_of(&id) => Ok(()),
            Ok(_) => Err(replaced()),
            Err(sqlx::Error::RowNotFound) => Err(replaced()),
            // No such table, no such schema.
            Err(e)
                if e.as_database_error()
                    .and_then(|e| e.code())
                    .is_some_and(|code| code == "42P01" || code == "3F000") =>
            {
                Err(replaced())
            }
            Err(e) => Err(e),
        }
    }

    /// Shows that the process has the registry open, as long as the connection lasts.
    pub(super) async fn show(self, connection: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query("SELECT pg_advisory_lock_shared($1, $2)")
            .bind(self.registry)
            .bind(self.process)
            .execute(connection)
            .await
            .map(drop)
    }

    /// The sessions of other processes that have the registry open, by the numbers of PostgreSQL.
    pub(super) async fn others(self, connection: &mut PgConnection) -> sqlx::Result<Vec<i32>> {
        sqlx::query_scalar(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND CAST(classid AS BIGINT) = $1 AND CAST(objid AS BIGINT) <> $2 ORDER BY pid",
        )
        .bind(i64::from(self.registry.cast_unsigned()))
        .bind(i64::from(self.process.cast_unsigned()))
        .fetch_all(connection)
        .await
    }
}

/// The error of a connection to what is not the registry any more.
pub(super) fn replaced() -> sqlx::Error {
    sqlx::Error::Configuration("it has another registry, or none".into())
}
