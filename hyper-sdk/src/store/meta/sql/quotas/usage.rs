//! What namespaces use.

use super::pieces::bounds;
use super::place::{Kind, Place};
use super::{CountedRow, counts, find, read};
use crate::Result;
use crate::reference::RepositoryName;
use crate::store::meta::sql::SqlMeta;
use crate::store::meta::sql::query::{Connection, query};
use crate::store::{QuotaNamespace, QuotaUse};
use std::collections::BTreeMap;

impl SqlMeta {
    /// The size of the largest blob that a repository can get or has: as much as a limit allows, or, where more is used than that, as
    /// is used.
    pub(in crate::store::meta::sql) async fn find_largest(
        &self,
        repository: &RepositoryName,
    ) -> Result<Option<u64>> {
        let rules = self.quota_rules();
        let mut limits: Vec<(QuotaNamespace, u64)> = rules
            .covering(repository)
            .filter_map(|(namespace, limits)| Some((namespace, limits.bytes?)))
            .collect();
        if limits.is_empty() {
            return Ok(None);
        }
        let names: Vec<QuotaNamespace> = limits.iter().map(|(namespace, _)| namespace.clone()).collect();
        let mut reader = self.reader().await?;
        let counted = find(&mut reader.connection(), &names).await.map_err(|e| self.failed(e))?;
        for (namespace, limit) in &mut limits {
            let used = counted.iter().find(|counted| counted.namespace == *namespace);
            *limit = (*limit).max(used.map_or(0, |counted| counted.used.bytes));
        }
        Ok(limits.into_iter().map(|(_, limit)| limit).min())
    }

    /// Whether a count goes on.
    pub(in crate::store::meta::sql) async fn has_unended(&self) -> Result<bool> {
        let mut reader = self.reader().await?;
        query("SELECT EXISTS (SELECT 1 FROM quotas WHERE at_repository IS NOT NULL)")
            .fetch_one(&mut reader.connection())
            .await
            .map_err(|e| self.failed(e))
    }

    pub(in crate::store::meta::sql) async fn find_quota_use(&self) -> Result<Vec<QuotaUse>> {
        let rules = self.quota_rules();
        let mut reader = self.reader().await?;
        let rows: Vec<CountedRow> = query(
            "SELECT id, namespace, bytes, tags, manifests, at_repository, at_kind, at_key \
             FROM quotas ORDER BY namespace",
        )
        .fetch_all(&mut reader.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let mut uses: BTreeMap<String, QuotaUse> = BTreeMap::new();
        for rule in rules.as_slice() {
            let (namespace, limits) = (rule.namespace.clone(), rule.limits);
            let one = QuotaUse { namespace, used: None, counting: None, limits, has_rule: true };
            uses.insert(one.namespace.to_string(), one);
        }
        for (_, text, bytes, tags, manifests, repository, kind, key) in rows {
            let namespace = read(&text).map_err(|e| self.damaged(e))?;
            let counting = match Place::read((repository, kind, key)) {
                None => None,
                Some(place) => {
                    let done = progress(&mut reader.connection(), &text, &place).await;
                    Some(done.map_err(|e| self.failed(e))?)
                }
            };
            let (limits, has_rule) = (rules.limits(&namespace).unwrap_or_default(), rules.names(&namespace));
            let used = Some(counts(bytes, tags, manifests));
            uses.insert(text, QuotaUse { namespace, used, counting, limits, has_rule });
        }
        Ok(uses.into_values().collect())
    }
}

/// How many hundredths of a namespace are counted, if its repositories are of one size.
async fn progress(db: &mut Connection<'_>, namespace: &str, place: &Place) -> sqlx::Result<u8> {
    if *place == Place::start() {
        return Ok(0);
    }
    let (from, to) = bounds(namespace);
    let (all, before): (i64, i64) = query(
        "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN name < $4 THEN 1 ELSE 0 END), 0) AS BIGINT) \
         FROM repositories WHERE name = $1 OR (name >= $2 AND name < $3)",
    )
    .bind(namespace)
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(place.repository.as_str())
    .fetch_row(db)
    .await?;
    let here = within(db, place).await?;
    let per_cent = (before.saturating_mul(100).saturating_add(here)).checked_div(all).unwrap_or(0);
    // The last piece is missing, whatever the numbers say.
    Ok(u8::try_from(per_cent.clamp(0, 99)).unwrap_or(99))
}

/// How many hundredths of the repository of a place are counted, about: a third for each kind of rows. The numbers of blobs and the
/// digests of manifests say where a row is among the others, without a look at them.
async fn within(db: &mut Connection<'_>, place: &Place) -> sqlx::Result<i64> {
    let third = match place.kind {
        Kind::Done => return Ok(100),
        Kind::Tags => return Ok(67),
        Kind::Manifests => {
            let digits = place.key.split_once(':').and_then(|(_, hex)| hex.get(..2));
            33 + digits.and_then(|hex| i64::from_str_radix(hex, 16).ok()).unwrap_or(0) * 33 / 256
        }
        Kind::Links => {
            let ends: Option<(Option<i64>, Option<i64>)> = query(
                "SELECT (SELECT MIN(l.blob_id) FROM blob_links l WHERE l.repository_id = r.id), \
                 (SELECT MAX(l.blob_id) FROM blob_links l WHERE l.repository_id = r.id) \
                 FROM repositories r WHERE r.name = $1",
            )
            .bind(place.repository.as_str())
            .fetch_optional(db)
            .await?;
            let Some((Some(first), Some(last))) = ends else { return Ok(0) };
            let passed = place.blob().saturating_sub(first).clamp(0, last - first);
            passed.saturating_mul(33).checked_div(last - first).unwrap_or(0)
        }
    };
    Ok(third)
}
