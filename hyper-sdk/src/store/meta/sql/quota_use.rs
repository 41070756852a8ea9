//! What namespaces use, and whether their counts are right.

use super::query::{Connection, Reader, query};
use super::restore::{Outcome, Stop, in_transaction};
use super::{SqlMeta, quotas};
use crate::Result;
use crate::clock::{Clock as _, SystemClock};
use crate::reference::RepositoryName;
use crate::store::{QuotaCheck, QuotaNamespace, QuotaUse};
use sqlx::Connection as _;
use std::collections::BTreeMap;

impl SqlMeta {
    /// The size of the largest blob that a repository can get or has: as much as a limit allows, or, where more is used than that, as
    /// is used.
    pub(super) async fn find_largest(&self, repository: &RepositoryName) -> Result<Option<u64>> {
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
        let counted = quotas::find(&mut reader.connection(), &names).await.map_err(|e| self.failed(e))?;
        for (namespace, limit) in &mut limits {
            let used = counted.iter().find(|counted| counted.namespace() == namespace);
            *limit = (*limit).max(used.map_or(0, |counted| counted.used().bytes));
        }
        Ok(limits.into_iter().map(|(_, limit)| limit).min())
    }

    pub(super) async fn find_quota_use(&self) -> Result<Vec<QuotaUse>> {
        let rules = self.quota_rules();
        let rows: Vec<(String, i64, i64, i64)> =
            query("SELECT namespace, bytes, tags, manifests FROM quotas ORDER BY namespace")
                .fetch_all(&mut self.reader().await?.connection())
                .await
                .map_err(|e| self.failed(e))?;
        let mut uses: BTreeMap<String, QuotaUse> = BTreeMap::new();
        for rule in rules.as_slice() {
            let namespace = rule.namespace.clone();
            uses.insert(namespace.to_string(), QuotaUse { namespace, used: None, limits: rule.limits });
        }
        for (text, bytes, tags, manifests) in rows {
            let namespace = quotas::read(&text).map_err(|e| self.damaged(e))?;
            let limits = rules.limits(&namespace).unwrap_or_default();
            let used = Some(quotas::counts(bytes, tags, manifests));
            uses.insert(text, QuotaUse { namespace, used, limits });
        }
        Ok(uses.into_values().collect())
    }

    pub(super) async fn compare_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        let counted = {
            let mut reader = self.reader().await?;
            quotas::all(&mut reader.connection()).await.map_err(|e| self.failed(e))?
        };
        let mut checks = Vec::with_capacity(counted.len());
        for (id, namespace) in counted {
            let row = match repair {
                true => in_transaction!(self, |db| repaired(db, id, &namespace))?,
                false => {
                    let mut reader = self.reader().await?;
                    compared(&mut reader.connection(), id, &namespace).await.map_err(|e| self.failed(e))?
                }
            };
            // It may be gone.
            let Some((recorded, found, wrong)) = row else { continue };
            let counts = |(bytes, tags, manifests)| quotas::counts(bytes, tags, manifests);
            checks.push(QuotaCheck {
                namespace: quotas::read(&namespace).map_err(|e| self.damaged(e))?,
                recorded: counts(recorded),
                found: counts(found),
                wrong_rows: super::unsigned(wrong),
            });
        }
        Ok(checks)
    }
}

type Numbers = (i64, i64, i64);

/// What is recorded of a namespace, what is there, and how many rows are wrong, of one moment: one statement.
async fn compared(
    db: &mut Connection<'_>,
    id: i64,
    namespace: &str,
) -> sqlx::Result<Option<(Numbers, Numbers, i64)>> {
    let (from, to) = quotas::bounds(namespace);
    let row: Option<(i64, i64, i64, i64, i64, i64, i64)> = query(
        "WITH those AS (SELECT r.id FROM repositories r WHERE r.name = $2 OR (r.name > $3 AND r.name < $4)), \
         linked AS (SELECT l.blob_id, COUNT(*) AS links FROM blob_links l \
         WHERE l.repository_id IN (SELECT id FROM those) GROUP BY l.blob_id), \
         stored AS (SELECT m.digest, MAX(m.size) AS size, COUNT(*) AS copies FROM manifests m \
         WHERE m.repository_id IN (SELECT id FROM those) GROUP BY m.digest) \
         SELECT q.bytes, q.tags, q.manifests, \
         (SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM linked l JOIN blobs b ON b.id = l.blob_id) \
         + (SELECT CAST(COALESCE(SUM(s.size), 0) AS BIGINT) FROM stored s), \
         (SELECT COUNT(*) FROM tags t WHERE t.repository_id IN (SELECT id FROM those)), \
         (SELECT CAST(COALESCE(SUM(s.copies), 0) AS BIGINT) FROM stored s), \
         (SELECT COUNT(*) FROM linked l WHERE NOT EXISTS (SELECT 1 FROM quota_blobs c \
         WHERE c.blob_id = l.blob_id AND c.quota_id = $1 AND c.links = l.links)) \
         + (SELECT COUNT(*) FROM quota_blobs c WHERE c.quota_id = $1 \
         AND c.blob_id NOT IN (SELECT blob_id FROM linked)) \
         + (SELECT COUNT(*) FROM stored s WHERE NOT EXISTS (SELECT 1 FROM quota_manifests c \
         WHERE c.digest = s.digest AND c.quota_id = $1 AND c.copies = s.copies AND c.size = s.size)) \
         + (SELECT COUNT(*) FROM quota_manifests c WHERE c.quota_id = $1 \
         AND c.digest NOT IN (SELECT digest FROM stored)) \
         FROM quotas q WHERE q.id = $1",
    )
    .bind(id)
    .bind(namespace)
    .bind(from.as_str())
    .bind(to.as_str())
    .fetch_optional(db)
    .await?;
    Ok(row.map(|(bytes, tags, manifests, found_bytes, found_tags, found_manifests, wrong)| {
        ((bytes, tags, manifests), (found_bytes, found_tags, found_manifests), wrong)
    }))
}

/// What [`compared`] says, after which the counts are written anew if they are wrong.
async fn repaired(
    db: &mut Connection<'_>,
    id: i64,
    namespace: &str,
) -> Outcome<Option<(Numbers, Numbers, i64)>> {
    let row = compared(db, id, namespace).await?;
    if row.is_some_and(|(recorded, found, wrong)| recorded != found || wrong > 0) {
        quotas::recount(db, id, namespace).await?;
    }
    Ok(row)
}
