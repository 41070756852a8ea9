//! The migrations of the tables: applied in order, each in one transaction, and never changed after a release.

use super::error::sql_error;
use crate::clock::{Clock as _, SystemClock};
use crate::{Error, ErrorKind, Result};
use sqlx::{Connection as _, SqliteConnection};
use std::path::Path;

/// The migrations, version 1 first.
const MIGRATIONS: [&str; 3] = [
    include_str!("migrations/0001_registry.sql"),
    include_str!("migrations/0002_listed.sql"),
    include_str!("migrations/0003_collection.sql"),
];

/// Applies the missing migrations.
pub(super) async fn upgrade(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    let found = migrate(connection).await.map_err(|e| sql_error(path, e))?;
    reject_newer(found, path)
}

/// Checks that no migration is missing, without writing.
pub(super) async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    let (found,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(version), 0) FROM schema_version")
        .fetch_one(connection)
        .await
        .map_err(|e| sql_error(path, e))?;
    if found < MIGRATIONS.len() as i64 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the database has schema version {found} and cannot be migrated to version {}: open it once \
                 where it can be written",
                MIGRATIONS.len()
            ),
        )
        .with_context("path", path.display()));
    }
    reject_newer(found, path)
}

fn reject_newer(found: i64, path: &Path) -> Result<()> {
    if found > MIGRATIONS.len() as i64 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the database has schema version {found}, but this version of Hyper supports only versions up to {}: \
                 use a newer version",
                MIGRATIONS.len()
            ),
        )
        .with_context("path", path.display()));
    }
    Ok(())
}

/// Returns the version before the migration.
async fn migrate(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY, applied_at BIGINT)",
    )
    .execute(&mut *transaction)
    .await?;
    let (found,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(version), 0) FROM schema_version")
        .fetch_one(&mut *transaction)
        .await?;
    for (version, migration) in (1i64..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= found) {
        sqlx::raw_sql(migration).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO schema_version (version, applied_at) VALUES ($1, $2)")
            .bind(version)
            .bind(SystemClock.now())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(found)
}
