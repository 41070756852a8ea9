//! What keeps a manifest: a tag; an index that has it as an entry; its subject. Keepers are kept by theirs. What was deleted within
//! a window keeps as if it was there.
//!
//! The way from a manifest to its keepers is short, and is walked for one manifest at a time: nothing that is as large as
//! a repository is in memory. Two manifests can keep each other, so each is visited once.

use super::SqlMeta;
use super::query::{Connection, query};
use crate::reference::RepositoryName;
use crate::store::meta::{ManifestAt, UnkeptManifest};
use crate::{Digest, Result};
use std::collections::HashSet;

/// An entry that so many indexes have may be one of very many repositories: those of one are looked for in it.
const MANY: usize = 64;
/// A repository with so many manifests is not looked through.
const LARGE: i64 = 1024;

// `CROSS JOIN` keeps SQLite to the order of the tables, in which each step is a search in an index.

/// `$2` manifests at most, of any repository, that have the entry `$1`.
const FEW_WITH_ENTRY: &str = "SELECT p.id, p.repository_id FROM \
     (SELECT manifest_id FROM manifest_refs WHERE digest = $1 AND kind = 1 LIMIT $2) AS f \
     CROSS JOIN manifests p WHERE p.id = f.manifest_id";
const SIZE_OF_REPOSITORY: &str =
    "SELECT COUNT(*) FROM (SELECT 1 FROM manifests WHERE repository_id = $1 LIMIT $2) AS few";
/// The manifests of the repository `$2` with the entry `$1`, where the repository has few.
const FOUND_BY_REPOSITORY: &str = "SELECT p.id FROM manifests p CROSS JOIN manifest_refs f \
     WHERE p.repository_id = $2 AND f.manifest_id = p.id AND f.kind = 1 AND f.digest = $1";
/// The same, where it has many.
const FOUND_BY_ENTRY: &str = "SELECT p.id FROM manifest_refs f CROSS JOIN manifests p \
     WHERE f.digest = $1 AND f.kind = 1 AND p.id = f.manifest_id AND p.repository_id = $2";

/// Whether a tag, a manifest that was stored after `before`, or the window of a deletion keeps a manifest at the time `now`.
pub(super) async fn is_kept(
    db: &mut Connection<'_>,
    manifest: i64,
    (before, now): (i64, i64),
) -> sqlx::Result<bool> {
    let (mut seen, mut open) = (HashSet::from([manifest]), vec![manifest]);
    while let Some(id) = open.pop() {
        let row: Option<(i64, String, Option<String>, bool)> = query(
            "SELECT m.repository_id, m.digest, m.subject, \
             m.created_at > $2 OR EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = m.id) \
             OR EXISTS (SELECT 1 FROM deletions d WHERE d.repository_id = m.repository_id AND d.digest = m.digest \
             AND d.kept_until > $3) \
             OR EXISTS (SELECT 1 FROM deleted_refs f JOIN deleted_manifests p ON p.id = f.manifest_id \
             WHERE f.digest = m.digest AND f.kind = 1 AND p.repository_id = m.repository_id AND p.kept_until > $3) \
             OR EXISTS (SELECT 1 FROM deleted_manifests s WHERE s.repository_id = m.repository_id \
             AND s.digest = m.subject AND s.kept_until > $3) \
             FROM manifests m WHERE m.id = $1",
        )
        .bind(id)
        .bind(before)
        .bind(now)
        .fetch_optional(db)
        .await?;
        let Some((repository, digest, subject, is_root)) = row else { continue };
        if is_root {
            return Ok(true);
        }
        let mut keepers = indexes_with(db, repository, &digest).await?;
        if let Some(subject) = subject {
            let subject: Option<i64> =
                query("SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2")
                    .bind(repository)
                    .bind(subject.as_str())
                    .fetch_scalar(db)
                    .await?;
            keepers.extend(subject);
        }
        open.extend(keepers.into_iter().filter(|keeper| seen.insert(*keeper)));
    }
    Ok(false)
}

/// The manifests of a repository that have this one as an entry.
async fn indexes_with(db: &mut Connection<'_>, repository: i64, digest: &str) -> sqlx::Result<Vec<i64>> {
    let few: Vec<(i64, i64)> = query(FEW_WITH_ENTRY).bind(digest).bind(MANY as i64).fetch_all(db).await?;
    if few.len() < MANY {
        return Ok(few.into_iter().filter(|(_, at)| *at == repository).map(|(id, _)| id).collect());
    }
    let size: i64 = query(SIZE_OF_REPOSITORY).bind(repository).bind(LARGE).fetch_one(db).await?;
    let text = if size < LARGE { FOUND_BY_REPOSITORY } else { FOUND_BY_ENTRY };
    let all: Vec<(i64,)> = query(text).bind(digest).bind(repository).fetch_all(db).await?;
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
        let mut found = Vec::new();
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
        while found.len() < limit {
            let page = limit as i64;
            let mut reader = self.reader().await?;
            let mut reader = reader.connection();
            let rows: Vec<(i64, i64, String, String, i64)> = query(
                "SELECT m.id, m.repository_id, r.name, m.digest, m.created_at FROM manifests m \
                 JOIN repositories r ON r.id = m.repository_id \
                 WHERE m.created_at <= $1 AND (m.repository_id, m.digest) > ($2, $3) \
                 AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = m.id) \
                 ORDER BY m.repository_id, m.digest LIMIT $4",
            )
            .bind(before)
            .bind(last.0)
            .bind(last.1.as_str())
            .bind(page)
            .fetch_all(&mut reader)
            .await
            .map_err(|e| self.failed(e))?;
            let is_last = rows.len() < limit;
            for (id, repository, name, digest, stored_at) in rows {
                if found.len() == limit {
                    return Ok(found);
                }
                if !is_kept(&mut reader, id, (before, now)).await.map_err(|e| self.failed(e))? {
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
    use super::super::query::{new_database, plan_of};
    use super::*;

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
            for text in [FOUND_BY_ENTRY, FOUND_BY_REPOSITORY] {
                let mut rows: Vec<(i64,)> =
                    query(text).bind("entry").bind(repository).fetch_all(&mut db).await.unwrap();
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

    /// No statement reads a whole repository, or all that has an entry, without being asked for it.
    #[tokio::test]
    async fn keepers_are_searched_for_in_the_order_of_the_text() {
        for (text, searches) in [
            (
                FEW_WITH_ENTRY,
                ["manifest_refs_of_digest (digest=?", "SEARCH p USING INTEGER PRIMARY KEY (rowid=?"],
            ),
            (
                FOUND_BY_ENTRY,
                ["manifest_refs_of_digest (digest=?", "SEARCH p USING INTEGER PRIMARY KEY (rowid=?"],
            ),
            (
                FOUND_BY_REPOSITORY,
                ["SEARCH p USING COVERING INDEX", "(manifest_id=? AND kind=? AND digest=?"],
            ),
        ] {
            let plan = plan_of(text).await;
            for search in searches {
                assert!(plan.iter().any(|line| line.contains(search)), "{text}: {plan:#?}");
            }
        }
    }
}
