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
        let keepers: Vec<(i64,)> = query(
            "SELECT p.id FROM manifest_refs f JOIN manifests p ON p.id = f.manifest_id \
             WHERE f.digest = $1 AND f.kind = 1 AND p.repository_id = $2 \
             UNION SELECT s.id FROM manifests s WHERE s.repository_id = $2 AND s.digest = $3",
        )
        .bind(digest.as_str())
        .bind(repository)
        .bind(subject.as_deref())
        .fetch_all(db)
        .await?;
        open.extend(keepers.into_iter().map(|(keeper,)| keeper).filter(|keeper| seen.insert(*keeper)));
    }
    Ok(false)
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
