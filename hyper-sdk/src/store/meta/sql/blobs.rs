//! Blobs and their links: the changes, and the queries of a garbage collector.

use super::query::{Connection, query};
use super::quotas::{LinkPlan, Quotas, unlinked};
use super::references::{DELETED, LIVE, UNKNOWN, UNREFERENCED, among_first, are_few};
use super::rows::{Outcome, Stop, find_link, find_repository, make_repository, signed};
use super::{SqlMeta, holds, unsigned};
use crate::reference::RepositoryName;
use crate::store::Listing;
use crate::store::blob::BlobKey;
use crate::store::errors::{being_removed, blob_unknown, bytes_damaged};
use crate::store::meta::{BlobLink, BlobRecord};
use crate::{Digest, Result};
use std::collections::HashSet;
use std::sync::LazyLock;

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

/// A key as the database stores it: NULL when it is the digest.
pub(super) fn own_key(key: &BlobKey) -> Option<&str> {
    match key {
        BlobKey::Digest(_) => None,
        BlobKey::Own(name) => Some(name),
    }
}

/// The mark of a garbage collector, with the same bits as a signed number.
fn mark_to_row(mark: u64) -> i64 {
    mark.cast_signed()
}

/// A row of `size, own_key, condemned, quarantined`.
pub(super) type BlobRow = (i64, Option<String>, Option<i64>, Option<i64>);

pub(super) fn record(digest: Digest, (size, own_key, condemned, quarantined): BlobRow) -> BlobRecord {
    let key = own_key.map_or_else(|| BlobKey::Digest(digest.clone()), BlobKey::Own);
    BlobRecord {
        digest,
        size: unsigned(size),
        key,
        condemned: condemned.map(i64::cast_unsigned),
        quarantined: quarantined.is_some(),
    }
}

async fn link(
    db: &mut Connection<'_>,
    plan: LinkPlan,
    repository: &RepositoryName,
    blob: i64,
    leased_until: i64,
) -> sqlx::Result<()> {
    let id = make_repository(db, repository).await?;
    query(
        "INSERT INTO blob_links (repository_id, blob_id, leased_until) VALUES ($1, $2, $3) \
         ON CONFLICT (repository_id, blob_id) DO UPDATE SET leased_until = excluded.leased_until \
         WHERE blob_links.leased_until < excluded.leased_until",
    )
    .bind(id)
    .bind(blob)
    .bind(leased_until)
    .execute(db)
    .await?;
    plan.count(db, repository, blob).await
}

/// The row of a blob: its id or digest, its size, its own key, its mark, and since when it is damaged.
pub(super) type KeyedBlobRow<K> = (K, i64, Option<String>, Option<i64>, Option<i64>);

pub(super) async fn link_blob(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    (repository, digest): (&RepositoryName, &Digest),
    (size, key): (u64, &BlobKey),
    leased_until: i64,
) -> Outcome<u64> {
    let found: Option<KeyedBlobRow<i64>> =
        query("SELECT id, size, own_key, condemned, quarantined FROM blobs WHERE digest = $1")
            .bind(digest.as_str())
            .fetch_optional(db)
            .await?;
    let known = found.as_ref().map(|(id, size, ..)| (*id, *size));
    let (blob, plan) = match found {
        Some((_, _, found, Some(_), _)) if found.as_deref() == own_key(key) => {
            return Err(Stop::Refused(being_removed(digest)));
        }
        Some((_, _, found, None, Some(_))) if found.as_deref() == own_key(key) => {
            return Err(Stop::Refused(bytes_damaged(digest)));
        }
        Some((id, found_size, found, None, None))
            if found_size == signed(size) && found.as_deref() == own_key(key) =>
        {
            (id, quotas.plan_link(db, repository, known, signed(size)).await?)
        }
        _ => {
            let plan = quotas.plan_link(db, repository, known, signed(size)).await?;
            let id = query(
                "INSERT INTO blobs (digest, size, own_key, created_at) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (digest) DO UPDATE \
                 SET size = excluded.size, own_key = excluded.own_key, condemned = NULL, quarantined = NULL \
                 RETURNING id",
            )
            .bind(digest.as_str())
            .bind(signed(size))
            .bind(own_key(key))
            .bind(db.now())
            .fetch_one(db)
            .await?;
            (id, plan)
        }
    };
    link(db, plan, repository, blob, leased_until).await?;
    Ok(size)
}

pub(super) async fn mount_blob(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    (repository, digest): (&RepositoryName, &Digest),
    from: &RepositoryName,
    leased_until: i64,
) -> Outcome<u64> {
    let found = match find_repository(db, from).await? {
        Some(from) => find_link(db, from, digest).await?,
        None => None,
    };
    let (blob, size) = found.ok_or_else(|| Stop::Refused(blob_unknown(from, digest)))?;
    let plan = quotas.plan_link(db, repository, Some((blob, size)), size).await?;
    link(db, plan, repository, blob, leased_until).await?;
    Ok(unsigned(size))
}

pub(super) async fn unlink_blob(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    repository: &RepositoryName,
    digest: &Digest,
) -> Outcome<u64> {
    let covering = quotas.counted(db, repository).await?;
    let gone = query(
        "DELETE FROM blob_links WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) \
         AND blob_id = (SELECT id FROM blobs WHERE digest = $2)",
    )
    .bind(repository.as_str())
    .bind(digest.as_str())
    .execute(db)
    .await?;
    if gone == 0 {
        return Err(Stop::Refused(blob_unknown(repository, digest)));
    }
    if !covering.is_empty() {
        let blob =
            query("SELECT id FROM blobs WHERE digest = $1").bind(digest.as_str()).fetch_one(db).await?;
        unlinked(db, &covering, repository, blob).await?;
    }
    Ok(0)
}

pub(super) async fn lease_blob(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    until: i64,
) -> Outcome<u64> {
    let found = match find_repository(db, repository).await? {
        Some(id) => find_link(db, id, digest).await?.map(|(blob, _)| (id, blob)),
        None => None,
    };
    let (repository, blob) = found.ok_or_else(|| Stop::Refused(blob_unknown(repository, digest)))?;
    query(
        "UPDATE blob_links SET leased_until = $3 \
         WHERE repository_id = $1 AND blob_id = $2 AND leased_until < $3",
    )
    .bind(repository)
    .bind(blob)
    .bind(until)
    .execute(db)
    .await?;
    Ok(0)
}

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

pub(super) async fn condemn_blob(db: &mut Connection<'_>, digest: &Digest, mark: u64) -> Outcome<u64> {
    // One that is marked already was so before anybody took a hold, and goes on: a push of it waits for the end.
    let marked = query(
        "UPDATE blobs SET condemned = $2 \
         WHERE digest = $1 AND NOT EXISTS (SELECT 1 FROM blob_links l WHERE l.blob_id = blobs.id) \
         AND (condemned IS NOT NULL OR NOT EXISTS (SELECT 1 FROM byte_holds WHERE held_until > $3) \
         AND NOT EXISTS (SELECT 1 FROM restore))",
    )
    .bind(digest.as_str())
    .bind(mark_to_row(mark))
    .bind(db.now())
    .execute(db)
    .await?;
    Ok(marked)
}

pub(super) async fn condemn_bytes(
    db: &mut Connection<'_>,
    digest: &Digest,
    size: u64,
    mark: u64,
) -> Outcome<u64> {
    if holds::are_held(db, db.now()).await? {
        return Ok(0);
    }
    let made = query(
        "INSERT INTO blobs (digest, size, condemned, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (digest) DO NOTHING",
    )
    .bind(digest.as_str())
    .bind(signed(size))
    .bind(mark_to_row(mark))
    .bind(db.now())
    .execute(db)
    .await?;
    Ok(made)
}

pub(super) async fn remove_blob(db: &mut Connection<'_>, digest: &Digest, mark: u64) -> Outcome<u64> {
    let gone = query("DELETE FROM blobs WHERE digest = $1 AND condemned = $2")
        .bind(digest.as_str())
        .bind(mark_to_row(mark))
        .execute(db)
        .await?;
    Ok(gone)
}

impl SqlMeta {
    pub(super) async fn find_blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        let mut records = Vec::with_capacity(digests.len());
        for digest in digests {
            let row: Option<BlobRow> =
                query("SELECT size, own_key, condemned, quarantined FROM blobs WHERE digest = $1")
                    .bind(digest.as_str())
                    .fetch_optional(&mut self.reader().await?.connection())
                    .await
                    .map_err(|e| self.failed(e))?;
            records.push(row.map(|row| record(digest.clone(), row)));
        }
        Ok(records)
    }

    /// Ordered by the id of the repository, which the index supports.
    pub(super) async fn find_repositories(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>> {
        if limit == 0 {
            return Ok(Listing { items: Vec::new(), more: false });
        }
        let rows = query(
            "SELECT r.name FROM blobs b JOIN blob_links l ON l.blob_id = b.id \
             JOIN repositories r ON r.id = l.repository_id \
             WHERE b.digest = $1 \
             AND l.repository_id > COALESCE((SELECT id FROM repositories WHERE name = $2), 0) \
             ORDER BY l.repository_id LIMIT $3",
        )
        .bind(digest.as_str())
        .bind(after)
        .bind(limit as i64 + 1)
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        super::page(rows, limit, RepositoryName::parse).map_err(|e| self.damaged(e))
    }

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

    pub(super) async fn find_keys(&self, keys: &[BlobKey]) -> Result<Vec<bool>> {
        let mut named = HashSet::new();
        let is_own = |key: &&BlobKey| matches!(key, BlobKey::Own(_));
        for (text, own) in [(&*WITH_DIGESTS, false), (&*WITH_KEYS, true)] {
            let asked: Vec<&BlobKey> = keys.iter().filter(|key| is_own(key) == own).collect();
            for some in asked.chunks(KEYS) {
                let mut query = query(text);
                for number in 0..KEYS {
                    query = query.bind(some.get(number).map(|key| match key {
                        BlobKey::Digest(digest) => digest.as_str(),
                        BlobKey::Own(name) => name.as_str(),
                    }));
                }
                let rows: Vec<(String,)> = query
                    .fetch_all(&mut self.reader().await?.connection())
                    .await
                    .map_err(|e| self.failed(e))?;
                named.extend(rows.into_iter().map(|(text,)| (own, text)));
            }
        }
        let is_named = |key: &BlobKey| match key {
            BlobKey::Digest(digest) => named.contains(&(false, digest.as_str().to_owned())),
            BlobKey::Own(name) => named.contains(&(true, name.clone())),
        };
        Ok(keys.iter().map(is_named).collect())
    }
}

/// How many keys one query looks for.
const KEYS: usize = 100;

/// A query for those of [`KEYS`] texts that a column has. Texts that are not asked for are NULL.
fn those_in(column: &str, condition: &str) -> String {
    let texts: Vec<String> = (1..=KEYS).map(|number| format!("${number}")).collect();
    format!("SELECT {column} FROM blobs WHERE {condition} AND {column} IN ({})", texts.join(", "))
}

static WITH_DIGESTS: LazyLock<String> = LazyLock::new(|| those_in("digest", "own_key IS NULL"));
static WITH_KEYS: LazyLock<String> = LazyLock::new(|| those_in("own_key", "own_key IS NOT NULL"));

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
