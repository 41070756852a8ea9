//! What was deleted within a window: recorded by each deletion in its transaction, forgotten when the window has ended.
//!
//! # Invariants
//! - A row of `deletions` names a manifest that is there or in `deleted_manifests`, and no collector removes it while the row lasts.
//! - A repository has a manifest in one of the tables `manifests` and `deleted_manifests`, not in both, and it counts for quotas as
//!   long as it is in either.
//! - Rows of tags are few: past [`MOST_KEPT_TAGS`] of a repository the oldest go.

use super::SqlMeta;
use super::query::{Connection, query};
use super::quotas::{Counted, Quotas, unmade};
use super::rows::{Outcome, Stop, find_repository};
use crate::oci::Manifest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::Listing;
use crate::store::errors::not_deleted;
use crate::store::meta::{Deletion, MOST_KEPT_TAGS, TagRecord};
use crate::{Digest, Result};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// How many rows of each table one change forgets: fewer where each is counted, as other writers wait.
const FORGOTTEN: i64 = 128;
const FORGOTTEN_COUNTED: i64 = 16;
/// After how many new rows, about, the oldest of a repository are looked for.
const LOOKS: u64 = 64;

/// A row of `deletions`: its id, repository, name, digest, and times.
type DeletionRow = (i64, String, String, String, i64, i64);

/// The deletions whose windows end after `$2`, `$3` of them at most, with a further condition and in an order.
macro_rules! listed {
    ($condition:literal, $order:literal) => {
        concat!(
            "SELECT d.id, r.name, d.name, d.digest, d.deleted_at, d.kept_until FROM deletions d \
             JOIN repositories r ON r.id = d.repository_id WHERE ",
            $condition,
            " AND d.kept_until > $2 \
             AND NOT EXISTS (SELECT 1 FROM tags t JOIN manifests m ON m.id = t.manifest_id \
             WHERE t.repository_id = d.repository_id AND t.name = d.name AND m.digest = d.digest) \
             ORDER BY ",
            $order
        )
    };
}

/// Those behind the number `$1`.
const LISTED: &str = listed!("d.id > $1", "d.id LIMIT $3");
/// Those of the repository `$4`. SQLite searches by both columns of the index.
const LISTED_OF: &str = listed!("d.repository_id = $4 AND d.id > $1", "d.id LIMIT $3");
/// The same for PostgreSQL, which would read all repositories by their ids.
#[cfg(feature = "store-postgres")]
const LISTED_OF_POSTGRES: &str =
    listed!("(d.repository_id, d.id) > ($4, $1) AND d.repository_id = $4", "d.repository_id, d.id LIMIT $3");
/// The last loss of the tag `$3` of the repository `$1`.
const LAST_LOSS: &str = listed!("d.repository_id = $1 AND d.name = $3", "d.id DESC LIMIT 1");
/// The newest loss of a tag of a repository that is too many.
const FIRST_LOSS: &str =
    "SELECT id FROM deletions WHERE repository_id = $1 AND name <> digest ORDER BY id DESC LIMIT 1 OFFSET $2";
/// Forgets the losses of tags of the repository `$1` up to the number `$2`.
const FORGET_FIRST: &str = "DELETE FROM deletions WHERE repository_id = $1 AND name <> digest AND id <= $2";
/// The same for PostgreSQL, which would search by the number alone.
#[cfg(feature = "store-postgres")]
const FORGET_FIRST_OF_POSTGRES: &str = "DELETE FROM deletions \
     WHERE (repository_id, id) <= ($1, $2) AND repository_id = $1 AND name <> digest";
/// Forgets an earlier loss of what a tag has now.
const FORGET_LOSS: &str = "DELETE FROM deletions \
     WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND name = $2 \
     AND digest = (SELECT m.digest FROM tags t JOIN manifests m ON m.id = t.manifest_id \
     WHERE t.repository_id = (SELECT id FROM repositories WHERE name = $1) AND t.name = $2 AND t.manifest_id <> $3)";
/// Forgets earlier losses of what a manifest is named now.
const FORGET_NAMES: &str = "DELETE FROM deletions WHERE id IN (\
     SELECT id FROM deletions WHERE repository_id = $1 AND name = $2 AND digest = $2 \
     UNION ALL SELECT d.id FROM tags t JOIN deletions d \
     ON d.repository_id = t.repository_id AND d.name = t.name AND d.digest = $2 WHERE t.manifest_id = $3)";

/// What a transaction records of its deletions: the end of the window; `None` when there is no window.
fn end(db: &Connection<'_>, window: i64) -> Option<i64> {
    (window > 0).then(|| db.now().saturating_add(window))
}

/// Records that a tag is about to lose its manifest, unless that is the one with this id.
pub(super) async fn note_tag(
    db: &mut Connection<'_>,
    window: i64,
    (repository, tag): (&RepositoryName, &Tag),
    next: Option<i64>,
) -> sqlx::Result<()> {
    let Some(until) = end(db, window) else { return Ok(()) };
    query(FORGET_LOSS)
        .bind(repository.as_str())
        .bind(tag.as_str())
        .bind(next.unwrap_or(0))
        .execute(db)
        .await?;
    let made: Option<(i64, i64)> = query(
        "INSERT INTO deletions (repository_id, name, digest, deleted_at, kept_until) \
         SELECT t.repository_id, t.name, m.digest, CAST($1 AS BIGINT), CAST($2 AS BIGINT) FROM tags t \
         JOIN repositories r ON r.id = t.repository_id JOIN manifests m ON m.id = t.manifest_id \
         WHERE r.name = $3 AND t.name = $4 AND t.manifest_id <> $5 \
         RETURNING id, repository_id",
    )
    .bind(db.now())
    .bind(until)
    .bind(repository.as_str())
    .bind(tag.as_str())
    .bind(next.unwrap_or(0))
    .fetch_optional(db)
    .await?;
    bound(db, made.into_iter().collect()).await
}

/// Records that a tag was deleted which had this manifest.
pub(super) async fn note_expired(
    db: &mut Connection<'_>,
    window: i64,
    repository: &RepositoryName,
    record: &TagRecord,
) -> sqlx::Result<()> {
    let Some(until) = end(db, window) else { return Ok(()) };
    query(
        "DELETE FROM deletions WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) \
         AND name = $2 AND digest = $3",
    )
    .bind(repository.as_str())
    .bind(record.tag.as_str())
    .bind(record.digest.as_str())
    .execute(db)
    .await?;
    let made: Option<(i64, i64)> = query(
        "INSERT INTO deletions (repository_id, name, digest, deleted_at, kept_until) \
         SELECT r.id, CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($4 AS BIGINT) FROM repositories r \
         WHERE r.name = $5 RETURNING id, repository_id",
    )
    .bind(record.tag.as_str())
    .bind(record.digest.as_str())
    .bind(db.now())
    .bind(until)
    .bind(repository.as_str())
    .fetch_optional(db)
    .await?;
    bound(db, made.into_iter().collect()).await
}

/// Removes the oldest rows of tags of a repository when it has too many, every now and then. `made` are new rows, with it.
async fn bound(db: &mut Connection<'_>, made: Vec<(i64, i64)>) -> sqlx::Result<()> {
    // Nobody knows when.
    let looks = RandomState::new();
    let Some((_, repository)) = made.into_iter().find(|(id, _)| looks.hash_one(id) % LOOKS == 0) else {
        return Ok(());
    };
    let first: Option<i64> =
        query(FIRST_LOSS).bind(repository).bind(MOST_KEPT_TAGS as i64).fetch_scalar(db).await?;
    let Some(id) = first else { return Ok(()) };
    let text = match db {
        #[cfg(feature = "store-postgres")]
        Connection::Postgres(..) => FORGET_FIRST_OF_POSTGRES,
        Connection::Sqlite(..) => FORGET_FIRST,
    };
    query(text).bind(repository).bind(id).execute(db).await.map(drop)
}

/// Keeps a manifest that is about to be deleted, and records that its tags go. Without a window it forgets what tags have lost it,
/// which cannot be undeleted. Returns whether the manifest is kept in a new row.
pub(super) async fn note_manifest(
    db: &mut Connection<'_>,
    window: i64,
    (repository, digest): (i64, &Digest),
    manifest: i64,
) -> sqlx::Result<bool> {
    let Some(until) = end(db, window) else {
        query("DELETE FROM deletions WHERE repository_id = $1 AND digest = $2")
            .bind(repository)
            .bind(digest.as_str())
            .execute(db)
            .await?;
        return Ok(false);
    };
    let is_new: bool =
        query("SELECT NOT EXISTS (SELECT 1 FROM deleted_manifests WHERE repository_id = $1 AND digest = $2)")
            .bind(repository)
            .bind(digest.as_str())
            .fetch_one(db)
            .await?;
    let kept: i64 = query(
        "INSERT INTO deleted_manifests (repository_id, digest, media_type, size, kept_until, body) \
         SELECT m.repository_id, m.digest, m.media_type, m.size, CAST($2 AS BIGINT), m.body \
         FROM manifests m WHERE m.id = $1 \
         ON CONFLICT (repository_id, digest) DO UPDATE SET kept_until = excluded.kept_until RETURNING id",
    )
    .bind(manifest)
    .bind(until)
    .fetch_one(db)
    .await?;
    query(
        "INSERT INTO deleted_refs (manifest_id, kind, digest) \
         SELECT CAST($2 AS BIGINT), f.kind, f.digest FROM manifest_refs f WHERE f.manifest_id = $1 \
         ON CONFLICT (manifest_id, kind, digest) DO NOTHING",
    )
    .bind(manifest)
    .bind(kept)
    .execute(db)
    .await?;
    // What a tag has lost it for longer goes with it.
    query(
        "UPDATE deletions SET kept_until = $3 WHERE repository_id = $1 AND digest = $2 AND kept_until > $3",
    )
    .bind(repository)
    .bind(digest.as_str())
    .bind(until)
    .execute(db)
    .await?;
    query(FORGET_NAMES).bind(repository).bind(digest.as_str()).bind(manifest).execute(db).await?;
    let made: Vec<(i64, i64, bool)> = query(
        "INSERT INTO deletions (repository_id, name, digest, deleted_at, kept_until) \
         SELECT n.repository_id, n.name, n.digest, CAST($2 AS BIGINT), CAST($3 AS BIGINT) FROM (\
         SELECT m.repository_id, m.digest AS name, m.digest FROM manifests m WHERE m.id = $1 \
         UNION ALL SELECT t.repository_id, t.name, m.digest FROM tags t JOIN manifests m ON m.id = t.manifest_id \
         WHERE t.manifest_id = $1) AS n WHERE n.digest IS NOT NULL RETURNING id, repository_id, name <> digest",
    )
    .bind(manifest)
    .bind(db.now())
    .bind(until)
    .fetch_all(db)
    .await?;
    let tags = made.into_iter().filter(|(.., is_tag)| *is_tag);
    bound(db, tags.map(|(id, repository, _)| (id, repository)).collect()).await?;
    Ok(is_new)
}

/// Whether a manifest is kept since its deletion, in the transaction that undeletes it.
pub(super) async fn is_kept(db: &mut Connection<'_>, repository: i64, digest: &Digest) -> sqlx::Result<bool> {
    query(
        "SELECT EXISTS (SELECT 1 FROM deleted_manifests WHERE repository_id = $1 AND digest = $2 AND kept_until > $3)",
    )
    .bind(repository)
    .bind(digest.as_str())
    .bind(db.now())
    .fetch_one(db)
    .await
}

/// Forgets that a manifest was deleted, which is stored again.
pub(super) async fn forget_manifest(
    db: &mut Connection<'_>,
    repository: i64,
    digest: &Digest,
) -> sqlx::Result<()> {
    for text in [
        "DELETE FROM deleted_manifests WHERE repository_id = $1 AND digest = $2",
        "DELETE FROM deletions WHERE repository_id = $1 AND digest = $2 AND name = $2",
    ] {
        // One that was not deleted has neither row.
        if query(text).bind(repository).bind(digest.as_str()).execute(db).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Forgets a deleted manifest with all names that it had. Returns how many rows there were.
pub(super) async fn purge(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    name: &RepositoryName,
    digest: &Digest,
) -> Outcome<u64> {
    let Some(repository) = find_repository(db, name).await? else { return Ok(0) };
    let is_there: bool =
        query("SELECT EXISTS (SELECT 1 FROM manifests WHERE repository_id = $1 AND digest = $2)")
            .bind(repository)
            .bind(digest.as_str())
            .fetch_one(db)
            .await?;
    if is_there {
        return Err(Stop::Refused(not_deleted(name, digest)));
    }
    let covering = quotas.counted(db, name).await?;
    let gone = query("DELETE FROM deleted_manifests WHERE repository_id = $1 AND digest = $2")
        .bind(repository)
        .bind(digest.as_str())
        .execute(db)
        .await?;
    if gone > 0 {
        unmade(db, &covering, (name.as_str(), digest.as_str())).await?;
    }
    let names = query("DELETE FROM deletions WHERE repository_id = $1 AND digest = $2")
        .bind(repository)
        .bind(digest.as_str())
        .execute(db)
        .await?;
    Ok(gone + names)
}

/// Forgets some of what was deleted so long ago that the window has ended. Returns how many rows there were.
pub(super) async fn forget_ended(db: &mut Connection<'_>, quotas: &Quotas) -> Outcome<u64> {
    let now = db.now();
    let most = if quotas.is_on() { FORGOTTEN_COUNTED } else { FORGOTTEN };
    let ended: Vec<(String, String)> = query(
        "SELECT r.name, d.digest FROM deleted_manifests d JOIN repositories r ON r.id = d.repository_id \
         WHERE d.kept_until <= $1 ORDER BY d.kept_until, d.id LIMIT $2",
    )
    .bind(now)
    .bind(most)
    .fetch_all(db)
    .await?;
    let mut counted: HashMap<String, Vec<Counted>> = HashMap::new();
    for (repository, digest) in ended {
        // A name that cannot be read is counted by no namespace.
        if !counted.contains_key(&repository) {
            let covering = match RepositoryName::parse(&repository) {
                Ok(name) => quotas.counted(db, &name).await?,
                Err(_) => Vec::new(),
            };
            counted.insert(repository.clone(), covering);
        }
        unmade(db, &counted[&repository], (repository.as_str(), digest.as_str())).await?;
    }
    let mut gone = 0;
    for text in [
        "DELETE FROM deleted_manifests WHERE id IN (\
         SELECT id FROM deleted_manifests WHERE kept_until <= $1 ORDER BY kept_until, id LIMIT $2)",
        "DELETE FROM deletions WHERE id IN (\
         SELECT id FROM deletions WHERE kept_until <= $1 ORDER BY kept_until, id LIMIT $2)",
    ] {
        gone += query(text).bind(now).bind(most).execute(db).await?;
    }
    Ok(gone)
}

impl SqlMeta {
    fn read_deletion(
        &self,
        (number, name, what, digest, deleted_at, kept_until): DeletionRow,
    ) -> Result<Deletion> {
        let read = || {
            let (repository, digest) = (RepositoryName::parse(&name)?, Digest::parse(&digest)?);
            let reference = what.parse::<ManifestReference>()?;
            let number = super::unsigned(number);
            Ok(Deletion { number, repository, reference, digest, deleted_at, kept_until })
        };
        read().map_err(|e| self.damaged(e))
    }

    pub(super) async fn find_deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        if limit == 0 {
            return Ok(Listing { items: Vec::new(), more: false });
        }
        let now = crate::store::meta::MetaBackend::fetch_time(self).await?;
        let mut reader = self.reader().await?;
        let mut reader = reader.connection();
        let of = match repository {
            None => None,
            Some(name) => match find_repository(&mut reader, name).await.map_err(|e| self.failed(e))? {
                Some(id) => Some(id),
                None => return Ok(Listing { items: Vec::new(), more: false }),
            },
        };
        let text = match (&reader, of) {
            (_, None) => LISTED,
            #[cfg(feature = "store-postgres")]
            (Connection::Postgres(..), Some(_)) => LISTED_OF_POSTGRES,
            (_, Some(_)) => LISTED_OF,
        };
        let asked =
            query(text).bind(i64::try_from(after).unwrap_or(i64::MAX)).bind(now).bind(limit as i64 + 1);
        let asked = if of.is_some() { asked.bind(of) } else { asked };
        let mut rows: Vec<DeletionRow> = asked.fetch_all(&mut reader).await.map_err(|e| self.failed(e))?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let items = rows.into_iter().map(|row| self.read_deletion(row)).collect::<Result<_>>()?;
        Ok(Listing { items, more })
    }

    pub(super) async fn find_deletion(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Deletion>> {
        let now = crate::store::meta::MetaBackend::fetch_time(self).await?;
        let mut reader = self.reader().await?;
        let mut reader = reader.connection();
        let id = find_repository(&mut reader, repository).await.map_err(|e| self.failed(e))?;
        let Some(id) = id else { return Ok(None) };
        let row: Option<DeletionRow> = query(LAST_LOSS)
            .bind(id)
            .bind(now)
            .bind(tag.as_str())
            .fetch_optional(&mut reader)
            .await
            .map_err(|e| self.failed(e))?;
        row.map(|row| self.read_deletion(row)).transpose()
    }

    pub(super) async fn find_deleted_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>> {
        let now = crate::store::meta::MetaBackend::fetch_time(self).await?;
        let row: Option<(String, Vec<u8>)> = query(
            "SELECT d.media_type, d.body FROM deleted_manifests d JOIN repositories r ON r.id = d.repository_id \
             WHERE r.name = $1 AND d.digest = $2 AND d.kept_until > $3",
        )
        .bind(repository.as_str())
        .bind(digest.as_str())
        .bind(now)
        .fetch_optional(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let Some((media_type, body)) = row else { return Ok(None) };
        let read = || {
            let manifest = Manifest::parse(body, &media_type)?;
            if manifest.digest() == digest { Ok(manifest) } else { manifest.with_digest(digest) }
        };
        read().map(Some).map_err(|e| self.damaged(e).with_context("digest", digest))
    }
}

#[cfg(test)]
mod tests {
    use super::super::query::plan_of;
    use super::*;

    /// No statement reads all that a repository has deleted: each searches by all columns that it knows.
    #[tokio::test]
    async fn statements_search_in_the_indexes_that_were_made_for_them() {
        for (text, searches) in [
            (FORGET_NAMES, &["deletions USING", "d USING"][..]),
            (FORGET_LOSS, &["deletions USING"]),
            (LAST_LOSS, &["deletions_of_name (repository_id=? AND name=?"]),
            (FIRST_LOSS, &["deletions_of_tags (repository_id=?"]),
            (FORGET_FIRST, &["deletions_of_tags (repository_id=? AND"]),
            (LISTED_OF, &["deletions_of_repository (repository_id=? AND"]),
            (LISTED, &["SEARCH d USING INTEGER PRIMARY KEY (rowid>?"]),
        ] {
            let plan = plan_of(text).await;
            for search in searches {
                assert!(plan.iter().any(|line| line.contains(search)), "{text}: {plan:#?}");
            }
            let is_vague = |line: &String| {
                line.starts_with("SCAN d")
                    || (line.contains("autoindex_deletions") && !line.contains("digest=?"))
            };
            assert!(!plan.iter().any(is_vague), "{text}: {plan:#?}");
        }
    }
}
