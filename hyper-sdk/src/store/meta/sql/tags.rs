//! Tags with the time of their last push, and the removal of one that is what it was.

use super::query::{Connection, query};
use super::quotas::{Quotas, untagged};
use super::rows::{Outcome, Stop};
use super::{SqlMeta, deletions, pulls};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::Listing;
use crate::store::errors::check_judged_at;
use crate::store::meta::{NOTES_GAP, TagRecord};
use crate::{Digest, Result};

impl SqlMeta {
    pub(super) async fn find_tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<Tag>>> {
        let id: Option<(i64,)> = query("SELECT id FROM repositories WHERE name = $1")
            .bind(repository.as_str())
            .fetch_optional(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        let Some((id,)) = id else { return Ok(None) };
        if limit == 0 {
            return Ok(Some(Listing { items: Vec::new(), more: false }));
        }
        let rows =
            query("SELECT name FROM tags WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3")
                .bind(id)
                .bind(after.unwrap_or_default())
                .bind(limit as i64 + 1)
                .fetch_all(&mut self.reader().await?.connection())
                .await
                .map_err(|e| self.failed(e))?;
        super::page(rows, limit, Tag::parse).map(Some).map_err(|e| self.damaged(e))
    }

    pub(super) async fn find_tag_records(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<TagRecord>>> {
        let mut reader = self.reader().await?;
        let mut reader = reader.connection();
        let id: Option<i64> = query("SELECT id FROM repositories WHERE name = $1")
            .bind(repository.as_str())
            .fetch_scalar(&mut reader)
            .await
            .map_err(|e| self.failed(e))?;
        let Some(id) = id else { return Ok(None) };
        if limit == 0 {
            return Ok(Some(Listing { items: Vec::new(), more: false }));
        }
        let rows: Vec<(String, String, i64, Option<i64>)> = query(
            "SELECT t.name, m.digest, t.updated_at, (SELECT MAX(p.pulled_at) FROM pulls p \
             WHERE p.repository_id = t.repository_id AND p.name IN (t.name, m.digest)) \
             FROM tags t JOIN manifests m ON m.id = t.manifest_id \
             WHERE t.repository_id = $1 AND t.name > $2 ORDER BY t.name LIMIT $3",
        )
        .bind(id)
        .bind(after.unwrap_or_default())
        .bind(limit as i64 + 1)
        .fetch_all(&mut reader)
        .await
        .map_err(|e| self.failed(e))?;
        let more = rows.len() > limit;
        let read = |(tag, digest, pushed_at, pulled_at): &(String, String, i64, Option<i64>)| {
            let (tag, digest) = (Tag::parse(tag)?, Digest::parse(digest)?);
            Ok(TagRecord { tag, digest, pushed_at: *pushed_at, pulled_at: *pulled_at })
        };
        let items = rows.iter().take(limit).map(read).collect::<Result<_>>();
        Ok(Some(Listing { items: items.map_err(|e| self.damaged(e))?, more }))
    }

    pub(super) async fn find_existing(
        &self,
        repository: &RepositoryName,
        references: &[ManifestReference],
    ) -> Result<Vec<bool>> {
        let mut reader = self.reader().await?;
        let mut reader = reader.connection();
        let repository: Option<i64> = query("SELECT id FROM repositories WHERE name = $1")
            .bind(repository.as_str())
            .fetch_scalar(&mut reader)
            .await
            .map_err(|e| self.failed(e))?;
        let mut found = Vec::with_capacity(references.len());
        for reference in references {
            let one = match reference {
                ManifestReference::Tag(tag) => {
                    query("SELECT manifest_id FROM tags WHERE repository_id = $1 AND name = $2")
                        .bind(repository)
                        .bind(tag.as_str())
                }
                ManifestReference::Digest(digest) => {
                    query("SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2")
                        .bind(repository)
                        .bind(digest.as_str())
                }
            };
            let one: Option<i64> = one.fetch_scalar(&mut reader).await.map_err(|e| self.failed(e))?;
            found.push(one.is_some());
        }
        Ok(found)
    }
}

pub(super) async fn expire(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    (repository, record): (&RepositoryName, &TagRecord),
    judged_at: i64,
    unpulled_since: Option<i64>,
) -> Outcome<u64> {
    let now = db.now();
    check_judged_at(judged_at, now).map_err(Stop::Refused)?;
    let covering = quotas.counted(db, repository).await?;
    let gone = query(
        "DELETE FROM tags WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND name = $2 \
         AND updated_at = $3 AND manifest_id IN (SELECT m.id FROM manifests m WHERE m.digest = $4 \
         AND m.repository_id = tags.repository_id) AND NOT EXISTS (SELECT 1 FROM pulls p \
         WHERE p.repository_id = tags.repository_id AND p.name IN ($2, $4) AND p.pulled_at > $5) \
         AND ($5 = $6 OR EXISTS (SELECT 1 FROM pull_notes WHERE noted_since <= $5 AND noted_until >= $7))",
    )
    .bind(repository.as_str())
    .bind(record.tag.as_str())
    .bind(record.pushed_at)
    .bind(record.digest.as_str())
    .bind(unpulled_since.unwrap_or(i64::MAX))
    .bind(i64::MAX)
    .bind(now.saturating_sub(NOTES_GAP))
    .execute(db)
    .await?;
    if gone > 0 {
        untagged(db, &covering, repository, &record.tag).await?;
        pulls::forget_tag(db, repository, record.tag.as_str()).await?;
        deletions::note_expired(db, quotas.window(), repository, record).await?;
        query(
            "UPDATE manifests SET created_at = $1 WHERE digest = $2 AND created_at < $1 \
             AND repository_id = (SELECT id FROM repositories WHERE name = $3)",
        )
        .bind(now)
        .bind(record.digest.as_str())
        .bind(repository.as_str())
        .execute(db)
        .await?;
    }
    Ok(gone)
}
