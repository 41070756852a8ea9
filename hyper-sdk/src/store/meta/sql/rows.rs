//! Shared by the statements of all changes: the reason why a change stops, and the queries for repositories and links.

use super::query::{Connection, query};
use crate::reference::RepositoryName;
use crate::{Digest, Error};

/// Why a change was not applied.
pub(super) enum Stop {
    /// The change is rejected; nothing was written.
    Refused(Error),
    /// The database failed; the transaction has to be rolled back.
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for Stop {
    fn from(e: sqlx::Error) -> Self {
        Self::Failed(e)
    }
}

pub(super) type Outcome<T> = std::result::Result<T, Stop>;

/// Converts a size to the signed number of the database. No file is too large for it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) async fn find_repository(
    db: &mut Connection<'_>,
    name: &RepositoryName,
) -> sqlx::Result<Option<i64>> {
    query("SELECT id FROM repositories WHERE name = $1").bind(name.as_str()).fetch_scalar(db).await
}

pub(super) async fn make_repository(db: &mut Connection<'_>, name: &RepositoryName) -> sqlx::Result<i64> {
    let found: Option<(i64, bool)> = query("SELECT id, listed = 1 FROM repositories WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(db)
        .await?;
    if let Some((id, listed)) = found {
        if !listed {
            query("UPDATE repositories SET listed = 1 WHERE id = $1").bind(id).execute(db).await?;
        }
        return Ok(id);
    }
    query("INSERT INTO repositories (name, created_at) VALUES ($1, $2) RETURNING id")
        .bind(name.as_str())
        .bind(db.now())
        .fetch_one(db)
        .await
}

/// The id and size of a blob that is linked into a repository, and not quarantined.
pub(super) async fn find_link(
    db: &mut Connection<'_>,
    repository: i64,
    digest: &Digest,
) -> sqlx::Result<Option<(i64, i64)>> {
    query(
        "SELECT b.id, b.size FROM blobs b JOIN blob_links l ON l.blob_id = b.id \
         WHERE b.digest = $1 AND l.repository_id = $2 AND b.quarantined IS NULL",
    )
    .bind(digest.as_str())
    .bind(repository)
    .fetch_optional(db)
    .await
}
