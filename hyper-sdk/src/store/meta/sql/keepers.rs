//! What keeps a manifest: a tag; an index that has it as an entry; its subject. Keepers are kept by theirs. What was deleted within
//! a window keeps as if it was there.
//!
//! The way from a manifest to its keepers is short as a rule, and is walked for one manifest at a time: nothing that is as large
//! as a repository is in memory. Two manifests can keep each other, so each is visited once.

use super::SqlMeta;
use super::garbage::LOOKED_AT;
use super::query::{Connection, query};
use super::references::{
    ALL, DELETED_ENTRIES, ENTRIES, REFERENCED, Side, UNKNOWN, among_first, are_few, has_reference,
};
use crate::reference::RepositoryName;
use crate::store::meta::{ManifestAt, UnkeptManifest};
use crate::{Digest, Result};
use std::collections::{HashMap, HashSet};

/// `$2` references at most to the entry `$1`: each with its manifest and the repository of that.
pub(super) const FIRST_WITH_ENTRY: &str = "SELECT f.manifest_id, \
     (SELECT p.repository_id FROM manifests p WHERE p.id = f.manifest_id) FROM \
     (SELECT manifest_id FROM manifest_refs WHERE digest = $1 AND kind = 1 LIMIT $2) AS f";
const FIRST: usize = 64;
/// The manifests of the repository `$2` with the entry `$1`: looks at all manifests of the repository.
pub(super) const FOUND_BY_REPOSITORY: &str = concat!(
    "SELECT p.id FROM manifests p WHERE p.repository_id = $2 AND ",
    has_reference!("manifest_refs", "p.id", "1")
);
/// The same: looks at `$3` references to the entry at most.
pub(super) const FOUND_BY_ENTRY: &str = "SELECT f.manifest_id FROM (SELECT manifest_id FROM manifest_refs \
     WHERE digest >= $1 AND digest <= $1 AND kind = 1 ORDER BY digest LIMIT $3) AS f \
     WHERE (SELECT p.repository_id FROM manifests p WHERE p.id = f.manifest_id) = $2";

/// What is known of manifests at one time: a walk ends where another was before. It stays right while nothing changes but that
/// manifests are removed which nothing keeps.
#[derive(Debug, Default)]
pub(super) struct Known {
    times: (i64, i64),
    kept: HashSet<i64>,
    unkept: HashSet<i64>,
}

impl Known {
    /// So many are remembered at most.
    const MOST: usize = 100_000;

    fn forget_others(&mut self, times: (i64, i64)) {
        if self.times != times || self.kept.len() + self.unkept.len() > Self::MOST {
            *self = Self { times, ..Self::default() };
        }
    }
}

/// Whether a tag, a manifest that was stored after `before`, or the window of a deletion keeps a manifest at the time `now`.
pub(super) async fn is_kept(
    db: &mut Connection<'_>,
    manifest: i64,
    (before, now): (i64, i64),
    known: &mut Known,
) -> sqlx::Result<bool> {
    known.forget_others((before, now));
    // Each with the manifest that it keeps.
    let (mut seen, mut open) = (HashMap::from([(manifest, None)]), vec![manifest]);
    while let Some(id) = open.pop() {
        if known.unkept.contains(&id) {
            continue;
        }
        let mut keepers = Vec::new();
        let mut is_root = known.kept.contains(&id);
        if !is_root {
            let row: Option<(i64, String, Option<String>, i64)> =
                query(MANIFEST).bind(id).bind(before).bind(now).fetch_optional(db).await?;
            let Some((repository, digest, subject, kept)) = row else { continue };
            is_root = match kept {
                UNKNOWN => DELETED_ENTRIES.reach(db, repository, &digest, now).await?,
                known => known == REFERENCED,
            };
            if !is_root {
                keepers = indexes_with(db, repository, &digest).await?;
                keepers.extend(find_subject(db, repository, subject.as_deref()).await?);
            }
        }
        if is_root {
            let mut way = Some(id);
            while let Some(kept) = way {
                known.kept.insert(kept);
                way = seen[&kept];
            }
            return Ok(true);
        }
        for keeper in keepers {
            seen.entry(keeper).or_insert_with(|| {
                open.push(keeper);
                Some(id)
            });
        }
    }
    known.unkept.extend(seen.into_keys());
    Ok(false)
}

/// The repository, digest and subject of the manifest `$1`, and whether it is kept by itself, as [`references`](super::references)
/// tells it: it was stored after `$2`, or has a tag, or the window of a deletion ends after `$3`.
pub(super) const MANIFEST: &str = concat!(
    "SELECT m.repository_id, m.digest, m.subject, CAST(CASE WHEN \
     m.created_at > $2 OR EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = m.id) \
     OR EXISTS (SELECT 1 FROM deletions d WHERE d.repository_id = m.repository_id AND d.digest = m.digest \
     AND d.kept_until > $3) \
     OR EXISTS (SELECT 1 FROM deleted_manifests s WHERE s.repository_id = m.repository_id \
     AND s.digest = m.subject AND s.kept_until > $3) THEN 1 WHEN ",
    among_first!(
        "deleted_refs",
        "deleted_manifests",
        "(1)",
        "m.digest",
        "CASE WHEN o.kept_until > $3 THEN o.repository_id END",
        "m.repository_id"
    ),
    " THEN 1 WHEN ",
    are_few!("deleted_refs", "(1)", "m.digest"),
    " THEN 0 ELSE 2 END AS BIGINT) FROM manifests m WHERE m.id = $1"
);

/// `$4` manifests at most, behind the digest `$3` of the repository `$2`: each with whether it was stored after `$1` or has a tag.
pub(super) const TAGGED: &str = "SELECT m.id, m.repository_id, \
     (SELECT r.name FROM repositories r WHERE r.id = m.repository_id), m.digest, m.created_at, \
     m.created_at > $1 OR (SELECT 1 FROM tags t WHERE t.manifest_id = m.id LIMIT 1) IS NOT NULL \
     FROM (SELECT id, repository_id, digest, created_at FROM manifests WHERE (repository_id, digest) > ($2, $3) \
     ORDER BY repository_id, digest LIMIT $4) AS m ORDER BY m.repository_id, m.digest";

async fn find_subject(
    db: &mut Connection<'_>,
    repository: i64,
    subject: Option<&str>,
) -> sqlx::Result<Option<i64>> {
    let Some(subject) = subject else { return Ok(None) };
    query("SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2")
        .bind(repository)
        .bind(subject)
        .fetch_scalar(db)
        .await
}

/// The manifests of a repository that have this one as an entry.
async fn indexes_with(db: &mut Connection<'_>, repository: i64, digest: &str) -> sqlx::Result<Vec<i64>> {
    let first: Vec<(i64, Option<i64>)> =
        query(FIRST_WITH_ENTRY).bind(digest).bind(FIRST as i64).fetch_all(db).await?;
    if first.len() < FIRST {
        return Ok(first.into_iter().filter(|(_, at)| *at == Some(repository)).map(|(id, _)| id).collect());
    }
    let found = match ENTRIES.smaller_side(db, repository, digest).await? {
        Side::Digest => query(FOUND_BY_ENTRY).bind(digest).bind(repository).bind(ALL),
        Side::Repository => query(FOUND_BY_REPOSITORY).bind(digest).bind(repository),
    };
    let all: Vec<(i64,)> = found.fetch_all(db).await?;
    Ok(all.into_iter().map(|(id,)| id).collect())
}

impl SqlMeta {
    /// Ordered by the id of the repository and the digest, which is an index.
    pub(super) async fn find_unkept(
        &self,
        before: i64,
        after: Option<&ManifestAt>,
        limit: usize,
    ) -> Result<Vec<UnkeptManifest>> {
        let now = crate::store::meta::MetaBackend::fetch_time(self).await?;
        let (mut found, mut known) = (Vec::new(), Known::default());
        let mut last: (i64, String) = match after {
            None => (0, String::new()),
            Some(at) => {
                let id: Option<i64> = query("SELECT id FROM repositories WHERE name = $1")
                    .bind(at.repository.as_str())
                    .fetch_scalar(&mut self.reader().await?.connection())
                    .await
                    .map_err(|e| self.failed(e))?;
                (id.unwrap_or(0), at.digest.to_string())
            }
        };
        let mut page = limit.clamp(1, LOOKED_AT);
        while found.len() < limit {
            let mut reader = self.reader().await?;
            let mut reader = reader.connection();
            let rows: Vec<(i64, i64, String, String, i64, bool)> = query(TAGGED)
                .bind(before)
                .bind(last.0)
                .bind(last.1.as_str())
                .bind(page as i64)
                .fetch_all(&mut reader)
                .await
                .map_err(|e| self.failed(e))?;
            let is_last = rows.len() < page;
            page = (2 * page).min(LOOKED_AT);
            for (id, repository, name, digest, stored_at, is_tagged) in rows {
                if found.len() == limit {
                    return Ok(found);
                }
                let is_kept = is_tagged
                    || is_kept(&mut reader, id, (before, now), &mut known)
                        .await
                        .map_err(|e| self.failed(e))?;
                if !is_kept {
                    let read = || {
                        let (repository, digest) = (RepositoryName::parse(&name)?, Digest::parse(&digest)?);
                        Ok(UnkeptManifest { at: ManifestAt { repository, digest }, stored_at })
                    };
                    found.push(read().map_err(|e| self.damaged(e))?);
                }
                last = (repository, digest);
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

    /// A repository in which very many manifests have an entry, and one in which one manifest has it.
    const ROWS: &str = "
        INSERT INTO repositories (id, name, created_at) VALUES (1, 'a', 0), (2, 'b', 0), (3, 'c', 0);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)
        INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
        SELECT i, CASE WHEN i < 1100 THEN 1 ELSE 2 END, 'm' || i, 'x', '{}', 1, 0, x'00' FROM n;
        INSERT INTO manifest_refs (manifest_id, kind, digest)
        SELECT id, 1, 'entry' FROM manifests WHERE id % 3 = 2;
        INSERT INTO manifest_refs (manifest_id, kind, digest) VALUES (3, 0, 'entry'), (4, 1, 'other');
    ";

    #[tokio::test]
    async fn each_statement_finds_the_same_keepers() {
        let (mut connection, _folder) = new_database().await;
        sqlx::raw_sql(ROWS).execute(&mut connection).await.unwrap();
        let mut db = Connection::Sqlite(&mut connection, 0);
        for (repository, expected) in [(1, 366), (2, 1), (3, 0)] {
            let mut found = Vec::new();
            for found_by in [query(FOUND_BY_ENTRY), query(FOUND_BY_REPOSITORY)] {
                let query = found_by.bind("entry").bind(repository);
                let query = if found.is_empty() { query.bind(ALL) } else { query };
                let mut rows: Vec<(i64,)> = query.fetch_all(&mut db).await.unwrap();
                rows.sort_unstable();
                found.push(rows.into_iter().map(|(id,)| id).collect::<Vec<_>>());
            }
            let mut chosen = indexes_with(&mut db, repository, "entry").await.unwrap();
            chosen.sort_unstable();
            assert!(
                found[0].len() == expected && found[0] == found[1] && found[0] == chosen,
                "{found:?} {chosen:?}"
            );
        }
        assert_eq!(indexes_with(&mut db, 1, "other").await.unwrap(), [4]);
    }

    /// What is deleted keeps its entries until its window ends, however many indexes of other repositories are deleted.
    #[tokio::test]
    async fn an_entry_of_deleted_indexes_is_kept_in_their_repositories_alone() {
        const DELETED: &str = "
            INSERT INTO deleted_manifests (id, repository_id, digest, media_type, size, kept_until, body)
            SELECT id, repository_id, digest, media_type, size, 10, body FROM manifests;
            INSERT INTO deleted_refs (manifest_id, kind, digest) SELECT manifest_id, kind, digest FROM manifest_refs;
            DELETE FROM manifest_refs;
            DELETE FROM manifests;
            INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
            SELECT id, id, 'entry', 'x', '{}', 1, 0, x'00' FROM repositories;
        ";
        let (mut connection, _folder) = new_database().await;
        for text in [ROWS, DELETED] {
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
        }
        let mut db = Connection::Sqlite(&mut connection, 0);
        for now in [9, 10] {
            let mut kept = Vec::new();
            for id in 1..=3 {
                kept.push(is_kept(&mut db, id, (0, now), &mut Known::default()).await.unwrap());
            }
            assert_eq!(kept, [now < 10, now < 10, false], "{now}");
        }
    }

    /// More indexes of another repository that have an entry.
    const MORE: &str = "
        WITH RECURSIVE n (i) AS (SELECT 2000 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
        INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
        SELECT i, 1, 'm' || i, 'x', '{}', 1, 0, x'00' FROM n;
        INSERT INTO manifest_refs (manifest_id, kind, digest) SELECT id, 1, 'entry' FROM manifests WHERE id >= 2000;
    ";

    #[tokio::test]
    async fn a_small_repository_costs_no_more_when_others_have_the_entry_more_often() {
        let (mut connection, _folder) = new_database().await;
        let mut costs = Vec::new();
        for rows in [ROWS, MORE] {
            sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
            let steps = count_steps(&mut connection).await;
            let mut db = Connection::Sqlite(&mut connection, 0);
            assert_eq!(indexes_with(&mut db, 2, "entry").await.unwrap(), [1100]);
            costs.push(steps.load(Ordering::Relaxed));
        }
        assert!(costs[1] <= costs[0], "{costs:?}");
    }

    /// Manifests that are about one another: the way from each to its keepers is as long as the row.
    #[tokio::test]
    async fn a_row_of_referrers_is_walked_once() {
        let mut costs = Vec::new();
        for length in [100, 200] {
            let (mut connection, _folder) = new_database().await;
            let text = format!(
                "INSERT INTO repositories (id, name, created_at) VALUES (1, 'a', 0);
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {length})
                 INSERT INTO manifests
                 (id, repository_id, digest, media_type, subject, annotations, size, created_at, body)
                 SELECT i, 1, 'm' || i, 'x', 'm' || (i - 1), '{{}}', 1, 0, x'00' FROM n"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
            for tag in [None, Some("INSERT INTO tags VALUES (1, 'latest', 1, 0)")] {
                if let Some(tag) = tag {
                    sqlx::raw_sql(tag).execute(&mut connection).await.unwrap();
                }
                let steps = count_steps(&mut connection).await;
                let mut db = Connection::Sqlite(&mut connection, 0);
                let mut known = Known::default();
                for id in (1..=length).rev() {
                    let kept = is_kept(&mut db, id, (0, 0), &mut known).await.unwrap();
                    assert_eq!(kept, tag.is_some(), "{id} of {length}");
                }
                costs.push(steps.load(Ordering::Relaxed));
            }
        }
        assert!(costs[2] < 3 * costs[0] && costs[3] < 3 * costs[1], "{costs:?}");
    }

    /// Each statement searches in indexes, in the order of its text.
    #[tokio::test]
    async fn keepers_are_searched_for() {
        let by_id = "SEARCH p USING INTEGER PRIMARY KEY (rowid=?";
        for (text, searches) in [
            (FIRST_WITH_ENTRY, ["manifest_refs_of_digest (digest=?", by_id]),
            (FOUND_BY_ENTRY, ["manifest_refs_of_digest (digest>? AND digest<?", by_id]),
            (FOUND_BY_REPOSITORY, ["SEARCH p USING", "manifest_refs_1 ((manifest_id,kind,digest)>(?,?,?)"]),
            (MANIFEST, ["deleted_refs_of_digest (digest=?", "SEARCH o USING INTEGER PRIMARY KEY (rowid=?"]),
        ] {
            let plan = plan_of(text).await;
            for search in searches {
                assert!(plan.iter().any(|line| line.contains(search)), "{text}: {plan:#?}");
            }
        }
    }
}
