//! What a garbage collector asks of links and blobs. A statement looks at a bounded number of rows, of which the next one goes on.

use super::SqlMeta;
use super::blobs::record;
use super::query::{Connection, query};
use super::quotas::{Quotas, unlinked};
use super::references::{DELETED, LIVE, UNKNOWN, UNREFERENCED, among_first, are_few};
use super::rows::{Outcome, find_repository};
use crate::reference::RepositoryName;
use crate::store::meta::{BlobLink, BlobRecord};
use crate::{Digest, Result};

/// Whether anything keeps the link `l` of the blob `b`, as [`references`](super::references) tells it: its lease, which ends after
/// the time `$1`; a manifest that references it; or one that was deleted within a window which ends after the time `$3`.
macro_rules! kept {
    () => {
        concat!(
            "CAST(CASE WHEN l.leased_until > $1 THEN 1 WHEN ",
            among_first!(
                "manifest_refs",
                "manifests",
                "(0, 1)",
                "b.digest",
                "o.repository_id",
                "l.repository_id"
            ),
            " THEN 1 WHEN ",
            among_first!(
                "deleted_refs",
                "deleted_manifests",
                "(0, 1)",
                "b.digest",
                "CASE WHEN o.kept_until > $3 THEN o.repository_id END",
                "l.repository_id"
            ),
            " THEN 1 WHEN ",
            are_few!("manifest_refs", "(0, 1)", "b.digest"),
            " AND ",
            are_few!("deleted_refs", "(0, 1)", "b.digest"),
            " THEN 0 ELSE 2 END AS BIGINT)"
        )
    };
}

/// Whether a garbage collector may remove a link, of which a statement has told this.
async fn may_go(
    db: &mut Connection<'_>,
    kept: i64,
    repository: i64,
    digest: &str,
    time: i64,
) -> sqlx::Result<bool> {
    if kept != UNKNOWN {
        return Ok(kept == UNREFERENCED);
    }
    let is_referenced = LIVE.reach(db, repository, digest, time).await?
        || DELETED.reach(db, repository, digest, time).await?;
    Ok(!is_referenced)
}

/// `$2` links at most, behind the blob `$5` of the repository `$4`, and what is known of each.
pub(super) const LINKS: &str = concat!(
    "SELECT l.repository_id, l.blob_id, r.name, b.digest, ",
    kept!(),
    " FROM (SELECT repository_id, blob_id, leased_until FROM blob_links WHERE (repository_id, blob_id) > ($4, $5) \
     ORDER BY repository_id, blob_id LIMIT $2) AS l \
     CROSS JOIN blobs b CROSS JOIN repositories r WHERE b.id = l.blob_id AND r.id = l.repository_id \
     ORDER BY l.repository_id, l.blob_id"
);
/// `$2` blobs at most, behind the digest `$1`: each with whether a repository has a link to it.
pub(super) const LINKED: &str = "SELECT b.digest, b.size, b.own_key, b.condemned, b.quarantined, \
     (SELECT 1 FROM blob_links l WHERE l.blob_id = b.id LIMIT 1) IS NOT NULL \
     FROM (SELECT id, digest, size, own_key, condemned, quarantined FROM blobs WHERE digest > $1 ORDER BY digest LIMIT $2) AS b \
     ORDER BY b.digest";
type LinkedBlobRow = (String, i64, Option<String>, Option<i64>, Option<i64>, bool);
/// How many rows are looked at by one statement of a collector.
pub(super) const LOOKED_AT: usize = 1000;

pub(super) async fn collect_link(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    name: &RepositoryName,
    digest: &Digest,
    now: i64,
) -> Outcome<u64> {
    let Some(repository) = find_repository(db, name).await? else { return Ok(0) };
    let found: Option<(i64, i64)> = query(concat!(
        "SELECT b.id, ",
        kept!(),
        " FROM blobs b JOIN blob_links l ON l.blob_id = b.id WHERE b.digest = $2 AND l.repository_id = $4"
    ))
    .bind(now)
    .bind(digest.as_str())
    .bind(db.now())
    .bind(repository)
    .fetch_optional(db)
    .await?;
    let Some((blob, kept)) = found else { return Ok(0) };
    let time = db.now();
    if !may_go(db, kept, repository, digest.as_str(), time).await? {
        return Ok(0);
    }
    let covering = quotas.counted(db, name).await?;
    let gone = query("DELETE FROM blob_links WHERE repository_id = $1 AND blob_id = $2")
        .bind(repository)
        .bind(blob)
        .execute(db)
        .await?;
    if gone > 0 {
        unlinked(db, &covering, name, blob).await?;
    }
    Ok(gone)
}

impl SqlMeta {
    /// Ordered by the ids of repository and blob, which are the primary key.
    pub(super) async fn find_unreferenced(
        &self,
        now: i64,
        after: Option<&BlobLink>,
        limit: usize,
    ) -> Result<Vec<BlobLink>> {
        let time = crate::store::meta::MetaBackend::fetch_time(self).await?;
        let mut place: (i64, i64) = (0, 0);
        if let Some(after) = after {
            let ids: Option<(i64, i64)> = query(
                "SELECT COALESCE((SELECT id FROM repositories WHERE name = $1), 0), \
                 COALESCE((SELECT id FROM blobs WHERE digest = $2), 0)",
            )
            .bind(after.repository.as_str())
            .bind(after.digest.as_str())
            .fetch_optional(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
            place = ids.unwrap_or(place);
        }
        let (mut found, mut page) = (Vec::new(), limit.clamp(1, LOOKED_AT));
        loop {
            let mut reader = self.reader().await?;
            let mut reader = reader.connection();
            let rows: Vec<(i64, i64, String, String, i64)> = query(LINKS)
                .bind(now)
                .bind(page as i64)
                .bind(time)
                .bind(place.0)
                .bind(place.1)
                .fetch_all(&mut reader)
                .await
                .map_err(|e| self.failed(e))?;
            let is_last = rows.len() < page;
            page = (2 * page).min(LOOKED_AT);
            for (repository, blob, name, digest, kept) in rows {
                if found.len() == limit {
                    return Ok(found);
                }
                place = (repository, blob);
                let goes = may_go(&mut reader, kept, repository, &digest, time).await;
                if !goes.map_err(|e| self.failed(e))? {
                    continue;
                }
                let read = || {
                    Ok(BlobLink {
                        repository: RepositoryName::parse(&name)?,
                        digest: Digest::parse(&digest)?,
                    })
                };
                found.push(read().map_err(|e| self.damaged(e))?);
            }
            if is_last || found.len() == limit {
                return Ok(found);
            }
        }
    }

    pub(super) async fn find_unlinked(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<BlobRecord>> {
        let mut last = after.map_or(String::new(), Digest::to_string);
        let (mut found, mut page) = (Vec::new(), limit.clamp(1, LOOKED_AT));
        while found.len() < limit {
            let rows: Vec<LinkedBlobRow> = query(LINKED)
                .bind(last.as_str())
                .bind(page as i64)
                .fetch_all(&mut self.reader().await?.connection())
                .await
                .map_err(|e| self.failed(e))?;
            let is_last = rows.len() < page;
            page = (2 * page).min(LOOKED_AT);
            for (digest, size, own_key, condemned, quarantined, is_linked) in rows {
                if found.len() == limit {
                    break;
                }
                if !is_linked {
                    let read =
                        || Ok(record(Digest::parse(&digest)?, (size, own_key, condemned, quarantined)));
                    found.push(read().map_err(|e| self.damaged(e))?);
                }
                last = digest;
            }
            if is_last {
                break;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::query::{count_steps, new_database, plan_of};
    use super::*;
    use std::sync::atomic::Ordering;

    /// The blob `x` is linked in three repositories; very many manifests of the first reference it, one of the second, and
    /// none of the third.
    const ROWS: &str = "
        INSERT INTO repositories (id, name, created_at) VALUES (1, 'a', 0), (2, 'b', 0), (3, 'c', 0);
        INSERT INTO blobs (id, digest, size, created_at) VALUES (1, 'sha256:DIGEST', 1, 0);
        INSERT INTO blob_links (repository_id, blob_id, leased_until) VALUES (1, 1, 0), (2, 1, 0), (3, 1, 0);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70)
        INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
        SELECT i, CASE WHEN i < 70 THEN 1 ELSE 2 END, 'm' || i, 'x', '{}', 1, 0, x'00' FROM n;
        INSERT INTO manifest_refs (manifest_id, kind, digest) SELECT id, 0, 'sha256:DIGEST' FROM manifests;
    ";
    /// The second and the third have very many manifests.
    const LARGER: &str = "
        WITH RECURSIVE n (i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
        INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
        SELECT i, 2 + i % 2, 'm' || i, 'x', '{}', 1, 0, x'00' FROM n;
    ";
    /// All manifests are deleted, and kept until 10.
    const DELETED: &str = "
        INSERT INTO deleted_manifests (id, repository_id, digest, media_type, size, kept_until, body)
        SELECT id, repository_id, digest, media_type, size, 10, body FROM manifests;
        INSERT INTO deleted_refs (manifest_id, kind, digest) SELECT manifest_id, kind, digest FROM manifest_refs;
        DELETE FROM manifest_refs;
        DELETE FROM manifests;
    ";

    /// The repositories in which the blob is linked and nothing keeps it.
    async fn unreferenced(db: &mut Connection<'_>) -> Vec<String> {
        let (now, mut names) = (db.now(), Vec::new());
        let links = query(LINKS).bind(5).bind(10).bind(now).bind(0).bind(0);
        let rows: Vec<(i64, i64, String, String, i64)> = links.fetch_all(db).await.unwrap();
        assert_eq!(rows.len(), 3);
        for (repository, _, name, digest, kept) in rows {
            if may_go(db, kept, repository, &digest, now).await.unwrap() {
                names.push(name);
            }
        }
        names
    }

    #[tokio::test]
    async fn a_link_is_unreferenced_however_many_manifests_there_are() {
        let digest = "d".repeat(64);
        for (steps, time, expected) in [
            (&[ROWS][..], 5, &["c"][..]),
            (&[ROWS, LARGER], 5, &["c"]),
            (&[ROWS, DELETED], 5, &["c"]),
            (&[ROWS, LARGER, DELETED], 5, &["c"]),
            (&[ROWS, DELETED], 10, &["a", "b", "c"]),
            (&[ROWS, LARGER, DELETED], 10, &["a", "b", "c"]),
        ] {
            let (mut connection, _folder) = new_database().await;
            for step in steps {
                let text = sqlx::AssertSqlSafe(step.replace("DIGEST", &digest));
                sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
            }
            let mut db = Connection::Sqlite(&mut connection, time);
            let names = unreferenced(&mut db).await;
            assert_eq!(names, expected, "{} steps at {time}", steps.len());
        }
    }

    #[tokio::test]
    async fn a_link_costs_the_smaller_of_its_repository_and_the_references_to_its_blob() {
        const MORE: &str = "
            WITH RECURSIVE n (i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
            INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
            SELECT i, 1, 'm' || i, 'x', '{}', 1, 0, x'00' FROM n;
            INSERT INTO manifest_refs (manifest_id, kind, digest)
            SELECT id, 0, 'sha256:DIGEST' FROM manifests WHERE id >= 1000;
        ";
        // A repository that does not reference the blob.
        const OWN: &str = "
            WITH RECURSIVE n (i) AS (SELECT 10000 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
            INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
            SELECT i, 3, 'm' || i, 'x', '{}', 1, 0, x'00' FROM n;
        ";
        for larger in [MORE, OWN] {
            let (mut connection, _folder) = new_database().await;
            let mut costs = Vec::new();
            for rows in [ROWS, larger] {
                sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
                let steps = count_steps(&mut connection).await;
                let mut db = Connection::Sqlite(&mut connection, 0);
                assert_eq!(unreferenced(&mut db).await, ["c"]);
                costs.push(steps.load(Ordering::Relaxed));
            }
            // Thousands more of one side cost no thousands more of steps.
            assert!(costs[1] < costs[0] + 5000, "{costs:?}");
        }
    }

    /// Each link is looked at with searches alone.
    #[tokio::test]
    async fn references_to_a_blob_are_searched_for() {
        let plan = plan_of(LINKS).await;
        for search in [
            "manifest_refs USING INDEX manifest_refs_of_digest (digest=?",
            "deleted_refs USING INDEX deleted_refs_of_digest (digest=?",
        ] {
            assert!(plan.iter().any(|line| line.contains(search)), "{search}: {plan:#?}");
        }
        let by_id = plan.iter().filter(|line| line.contains("SEARCH o USING INTEGER PRIMARY KEY (rowid=?"));
        assert_eq!(by_id.count(), 2, "{plan:#?}");
        let scanned = plan.iter().filter(|line| line.starts_with("SCAN"));
        let whole: Vec<_> =
            scanned.filter(|line| !["SCAN f", "SCAN l", "SCAN first_of"].contains(&line.as_str())).collect();
        assert!(whole.is_empty(), "{whole:?}: {plan:#?}");
    }
}
