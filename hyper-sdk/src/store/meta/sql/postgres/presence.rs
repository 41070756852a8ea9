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
