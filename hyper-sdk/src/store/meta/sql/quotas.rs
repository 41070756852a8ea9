//! The counts of namespaces, which change in the transaction of the rows that they count.
//!
//! ```text
//!   quotas            what a namespace uses: bytes, tags, manifests
//!   quota_blobs       how many of its repositories have a blob; its bytes count once
//!   quota_manifests   the same for a manifest
//! ```
//!
//! # Invariants
//! - A namespace that has a row in `quotas` is counted by every change of every process. A transaction that cannot see such a
//!   row pays one question for all of its changes.
//! - A namespace of a rule gets its row, with what is there, in the transaction of the first change that adds something to it,
//!   before that change is looked at. So no server has to wait for another one, and a deletion never counts.
//! - A transaction has the right to write of the whole database, so counts need no further locks, whatever their order.
//! - Limits are checked before the first statement of a change that writes.

use super::query::{Connection, query};
use super::queue::Asked;
use super::rows::{Outcome, Stop, signed};
use super::unsigned;
use crate::reference::RepositoryName;
use crate::store::meta::{Change, ManifestChange};
use crate::store::{QuotaCounts, QuotaNamespace, QuotaRules};
use crate::{Digest, Error};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

/// The rules of a process, which may be replaced at any time.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedRules(Arc<RwLock<Arc<QuotaRules>>>);

impl SharedRules {
    pub(super) fn now(&self) -> Arc<QuotaRules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, rules: Arc<QuotaRules>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}

/// Whether any namespace is counted.
pub(super) const IS_COUNTING: &str = "SELECT EXISTS (SELECT 1 FROM quotas)";

/// How many names one query looks for.
const NAMES: usize = 8;

/// What a transaction knows of quotas.
pub(super) struct Quotas {
    rules: Arc<QuotaRules>,
    is_on: bool,
}

/// A namespace that is counted.
pub(super) struct Counted {
    id: i64,
    namespace: QuotaNamespace,
    used: QuotaCounts,
}

/// What a link adds.
#[derive(Default)]
pub(super) struct LinkPlan {
    covering: Vec<Counted>,
    /// How much larger the row of the blob becomes, which other namespaces may have too.
    grows: i64,
    size: i64,
}

/// What a manifest adds.
#[derive(Default)]
pub(super) struct PutPlan {
    covering: Vec<Counted>,
    is_new: bool,
    tags: i64,
}

impl Quotas {
    /// Those of a transaction that makes these changes.
    pub(super) fn new(rules: Arc<QuotaRules>, is_counting: bool, changes: &[Asked]) -> Self {
        let begins = changes.iter().any(|asked| matches!(asked.change, Change::CountNamespace(_)));
        Self { is_on: is_counting || begins || !rules.is_empty(), rules }
    }

    /// The namespaces that count a repository now: all that a deletion needs, as what is counted later is counted without what it
    /// removes. To be asked before the change writes.
    pub(super) async fn counted(
        &self,
        db: &mut Connection<'_>,
        repository: &RepositoryName,
    ) -> sqlx::Result<Vec<Counted>> {
        if !self.is_on {
            return Ok(Vec::new());
        }
        let names: Vec<QuotaNamespace> = QuotaNamespace::of_repository(repository).collect();
        find(db, &names).await
    }

    /// The namespaces that count a repository, those of the rules among them. To be asked before the change writes.
    pub(super) async fn covering(
        &self,
        db: &mut Connection<'_>,
        repository: &RepositoryName,
    ) -> sqlx::Result<Vec<Counted>> {
        if !self.is_on {
            return Ok(Vec::new());
        }
        let mut covering = self.counted(db, repository).await?;
        for (namespace, _) in self.rules.covering(repository) {
            if covering.iter().all(|counted| counted.namespace != namespace) {
                count_namespace(db, &namespace).await?;
                covering.extend(find(db, &[namespace]).await?);
            }
        }
        Ok(covering)
    }

    fn check(&self, counted: &Counted, added: QuotaCounts) -> Outcome<()> {
        match self.rules.limits(&counted.namespace) {
            Some(limits) => limits.check(&counted.namespace, counted.used, added).map_err(Stop::Refused),
            None => Ok(()),
        }
    }

    /// Refuses an upload to a namespace that has no byte left.
    pub(super) async fn check_start(
        &self,
        db: &mut Connection<'_>,
        repository: &RepositoryName,
    ) -> Outcome<()> {
        if self.rules.covering(repository).all(|(_, limits)| limits.bytes.is_none()) {
            return Ok(());
        }
        let counted = self.counted(db, repository).await?;
        for (namespace, limits) in self.rules.covering(repository) {
            // What is not counted yet is counted when a blob comes, and refused then.
            let used = counted.iter().find(|counted| counted.namespace == namespace);
            let used = used.map(|counted| counted.used).unwrap_or_default();
            limits.check_room(&namespace, used).map_err(Stop::Refused)?;
        }
        Ok(())
    }

    /// Checks that a repository may have a blob of this size. `known` is the row of the blob: its id and size.
    pub(super) async fn plan_link(
        &self,
        db: &mut Connection<'_>,
        repository: &RepositoryName,
        known: Option<(i64, i64)>,
        size: i64,
    ) -> Outcome<LinkPlan> {
        if !self.is_on {
            return Ok(LinkPlan::default());
        }
        let grows = known.map_or(0, |(_, before)| size - before);
        let is_linked = match known {
            Some((blob, _)) => has_link(db, repository, blob).await?,
            None => false,
        };
        if is_linked && grows == 0 {
            return Ok(LinkPlan::default());
        }
        let mut covering = self.covering(db, repository).await?;
        for counted in &covering {
            let has = match known {
                Some((blob, _)) => {
                    query("SELECT EXISTS (SELECT 1 FROM quota_blobs WHERE blob_id = $1 AND quota_id = $2)")
                        .bind(blob)
                        .bind(counted.id)
                        .fetch_one(db)
                        .await?
                }
                None => false,
            };
            let bytes = unsigned(if has { grows } else { size });
            self.check(counted, QuotaCounts { bytes, ..QuotaCounts::default() })?;
        }
        if is_linked {
            covering.clear();
        }
        Ok(LinkPlan { covering, grows, size })
    }

    /// Checks that a repository may have a manifest and its tags.
    pub(super) async fn plan_put(
        &self,
        db: &mut Connection<'_>,
        repository: Option<i64>,
        change: &ManifestChange,
    ) -> Outcome<PutPlan> {
        if !self.is_on {
            return Ok(PutPlan::default());
        }
        let digest = change.manifest.digest();
        let mut is_new = true;
        let mut tags: BTreeSet<&str> = change.tags.iter().map(|tag| tag.as_str()).collect();
        if let Some(id) = repository {
            is_new =
                query("SELECT NOT EXISTS (SELECT 1 FROM manifests WHERE repository_id = $1 AND digest = $2)")
                    .bind(id)
                    .bind(digest.as_str())
                    .fetch_one(db)
                    .await?;
            for tag in tags.clone() {
                let is_there: bool =
                    query("SELECT EXISTS (SELECT 1 FROM tags WHERE repository_id = $1 AND name = $2)")
                        .bind(id)
                        .bind(tag)
                        .fetch_one(db)
                        .await?;
                if is_there {
                    tags.remove(tag);
                }
            }
        }
        if !is_new && tags.is_empty() {
            return Ok(PutPlan::default());
        }
        let covering = self.covering(db, &change.repository).await?;
        for counted in &covering {
            let has: bool =
                query("SELECT EXISTS (SELECT 1 FROM quota_manifests WHERE digest = $1 AND quota_id = $2)")
                    .bind(digest.as_str())
                    .bind(counted.id)
                    .fetch_one(db)
                    .await?;
            let bytes = if is_new && !has { change.manifest.bytes().len() as u64 } else { 0 };
            let added = QuotaCounts { bytes, tags: tags.len() as u64, manifests: u64::from(is_new) };
            self.check(counted, added)?;
        }
        Ok(PutPlan { covering, is_new, tags: signed(tags.len() as u64) })
    }
}

impl LinkPlan {
    /// Counts the link, after the row of the blob was written.
    pub(super) async fn count(self, db: &mut Connection<'_>, blob: i64) -> sqlx::Result<()> {
        if self.grows != 0 {
            query(
                "UPDATE quotas SET bytes = bytes + $2 \
                 WHERE id IN (SELECT quota_id FROM quota_blobs WHERE blob_id = $1)",
            )
            .bind(blob)
            .bind(self.grows)
            .execute(db)
            .await?;
        }
        for counted in &self.covering {
            let links: i64 = query(
                "INSERT INTO quota_blobs (blob_id, quota_id, links) VALUES ($1, $2, 1) \
                 ON CONFLICT (blob_id, quota_id) DO UPDATE SET links = quota_blobs.links + 1 RETURNING links",
            )
            .bind(blob)
            .bind(counted.id)
            .fetch_one(db)
            .await?;
            if links == 1 {
                add(db, counted, (self.size, 0, 0)).await?;
            }
        }
        Ok(())
    }
}

impl PutPlan {
    /// Counts the manifest and its tags.
    pub(super) async fn count(self, db: &mut Connection<'_>, change: &ManifestChange) -> sqlx::Result<()> {
        let size = signed(change.manifest.bytes().len() as u64);
        for counted in &self.covering {
            let mut bytes = 0;
            if self.is_new {
                let copies: i64 = query(
                    "INSERT INTO quota_manifests (digest, quota_id, size, copies) VALUES ($1, $2, $3, 1) \
                     ON CONFLICT (digest, quota_id) DO UPDATE SET copies = quota_manifests.copies + 1 \
                     RETURNING copies",
                )
                .bind(change.manifest.digest().as_str())
                .bind(counted.id)
                .bind(size)
                .fetch_one(db)
                .await?;
                bytes = if copies == 1 { size } else { 0 };
            }
            add(db, counted, (bytes, self.tags, i64::from(self.is_new))).await?;
        }
        Ok(())
    }
}

/// Changes the counts of a namespace.
async fn add(
    db: &mut Connection<'_>,
    counted: &Counted,
    (bytes, tags, manifests): (i64, i64, i64),
) -> sqlx::Result<()> {
    query("UPDATE quotas SET bytes = bytes + $2, tags = tags + $3, manifests = manifests + $4 WHERE id = $1")
        .bind(counted.id)
        .bind(bytes)
        .bind(tags)
        .bind(manifests)
        .execute(db)
        .await
        .map(drop)
}

/// Counts that a repository of these namespaces has lost a blob.
pub(super) async fn unlinked(db: &mut Connection<'_>, covering: &[Counted], blob: i64) -> sqlx::Result<()> {
    for counted in covering {
        let links: Option<i64> = query(
            "UPDATE quota_blobs SET links = links - 1 WHERE blob_id = $1 AND quota_id = $2 RETURNING links",
        )
        .bind(blob)
        .bind(counted.id)
        .fetch_scalar(db)
        .await?;
        if links.is_some_and(|links| links <= 0) {
            query("DELETE FROM quota_blobs WHERE blob_id = $1 AND quota_id = $2")
                .bind(blob)
                .bind(counted.id)
                .execute(db)
                .await?;
            let size: i64 = query("SELECT size FROM blobs WHERE id = $1").bind(blob).fetch_one(db).await?;
            add(db, counted, (-size, 0, 0)).await?;
        }
    }
    Ok(())
}

/// Counts that a repository of these namespaces has lost tags.
pub(super) async fn untagged(db: &mut Connection<'_>, covering: &[Counted], tags: u64) -> sqlx::Result<()> {
    if tags > 0 {
        for counted in covering {
            add(db, counted, (0, -signed(tags), 0)).await?;
        }
    }
    Ok(())
}

/// Counts that a repository of these namespaces has lost a manifest.
pub(super) async fn unmade(
    db: &mut Connection<'_>,
    covering: &[Counted],
    digest: &Digest,
) -> sqlx::Result<()> {
    for counted in covering {
        let row: Option<(i64, i64)> = query(
            "UPDATE quota_manifests SET copies = copies - 1 WHERE digest = $1 AND quota_id = $2 \
             RETURNING copies, size",
        )
        .bind(digest.as_str())
        .bind(counted.id)
        .fetch_optional(db)
        .await?;
        let mut bytes = 0;
        if let Some((_, size)) = row.filter(|(copies, _)| *copies <= 0) {
            query("DELETE FROM quota_manifests WHERE digest = $1 AND quota_id = $2")
                .bind(digest.as_str())
                .bind(counted.id)
                .execute(db)
                .await?;
            bytes = -size;
        }
        add(db, counted, (bytes, 0, -1)).await?;
    }
    Ok(())
}

async fn has_link(db: &mut Connection<'_>, repository: &RepositoryName, blob: i64) -> sqlx::Result<bool> {
    query(
        "SELECT EXISTS (SELECT 1 FROM blob_links l JOIN repositories r ON r.id = l.repository_id \
         WHERE l.blob_id = $1 AND r.name = $2)",
    )
    .bind(blob)
    .bind(repository.as_str())
    .fetch_one(db)
    .await
}

/// Those of some namespaces that are counted.
pub(super) async fn find(db: &mut Connection<'_>, names: &[QuotaNamespace]) -> sqlx::Result<Vec<Counted>> {
    let mut found = Vec::new();
    for some in names.chunks(NAMES) {
        let texts: Vec<String> = some.iter().map(ToString::to_string).collect();
        let mut query = query(
            "SELECT id, namespace, bytes, tags, manifests FROM quotas \
             WHERE namespace IN ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        for number in 0..NAMES {
            query = query.bind(texts.get(number).map(String::as_str));
        }
        let rows: Vec<(i64, String, i64, i64, i64)> = query.fetch_all(db).await?;
        found.extend(rows.into_iter().filter_map(|(id, text, bytes, tags, manifests)| {
            let at = texts.iter().position(|one| *one == text)?;
            Some(Counted { id, namespace: some[at].clone(), used: counts(bytes, tags, manifests) })
        }));
    }
    Ok(found)
}

pub(super) fn counts(bytes: i64, tags: i64, manifests: i64) -> QuotaCounts {
    QuotaCounts { bytes: unsigned(bytes), tags: unsigned(tags), manifests: unsigned(manifests) }
}

impl Counted {
    pub(super) fn namespace(&self) -> &QuotaNamespace {
        &self.namespace
    }

    pub(super) fn used(&self) -> QuotaCounts {
        self.used
    }
}

/// The names of a namespace: its own, and the two texts between which those below it are. A slash sorts before a zero, and a
/// tilde after every character of a name.
pub(super) fn bounds(namespace: &str) -> (String, String) {
    match namespace {
        "**" => (String::new(), "~".to_owned()),
        name => (format!("{name}/"), format!("{name}0")),
    }
}

/// Counts a namespace from now on, unless it is counted.
pub(super) async fn count_namespace(
    db: &mut Connection<'_>,
    namespace: &QuotaNamespace,
) -> sqlx::Result<bool> {
    if *namespace == QuotaNamespace::Each {
        return Ok(false);
    }
    let text = namespace.to_string();
    let id: Option<i64> = query(
        "INSERT INTO quotas (namespace, bytes, tags, manifests, counted_at) VALUES ($1, 0, 0, 0, $2) \
         ON CONFLICT (namespace) DO NOTHING RETURNING id",
    )
    .bind(text.as_str())
    .bind(db.now())
    .fetch_scalar(db)
    .await?;
    match id {
        Some(id) => recount(db, id, &text).await.map(|()| true),
        None => Ok(false),
    }
}

/// Writes the counts of a namespace anew.
pub(super) async fn recount(db: &mut Connection<'_>, id: i64, namespace: &str) -> sqlx::Result<()> {
    let (from, to) = bounds(namespace);
    for text in
        ["DELETE FROM quota_blobs WHERE quota_id = $1", "DELETE FROM quota_manifests WHERE quota_id = $1"]
    {
        query(text).bind(id).execute(db).await?;
    }
    for text in [
        "INSERT INTO quota_blobs (blob_id, quota_id, links) \
         SELECT l.blob_id, CAST($1 AS BIGINT), COUNT(*) \
         FROM repositories r JOIN blob_links l ON l.repository_id = r.id \
         WHERE r.name = $2 OR (r.name > $3 AND r.name < $4) GROUP BY l.blob_id",
        "INSERT INTO quota_manifests (digest, quota_id, size, copies) \
         SELECT m.digest, CAST($1 AS BIGINT), MAX(m.size), COUNT(*) \
         FROM repositories r JOIN manifests m ON m.repository_id = r.id \
         WHERE r.name = $2 OR (r.name > $3 AND r.name < $4) GROUP BY m.digest",
        "UPDATE quotas SET bytes = \
         (SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM quota_blobs q JOIN blobs b ON b.id = q.blob_id \
         WHERE q.quota_id = $1) + \
         (SELECT CAST(COALESCE(SUM(q.size), 0) AS BIGINT) FROM quota_manifests q WHERE q.quota_id = $1), \
         manifests = (SELECT CAST(COALESCE(SUM(q.copies), 0) AS BIGINT) FROM quota_manifests q WHERE q.quota_id = $1), \
         tags = (SELECT COUNT(*) FROM repositories r JOIN tags t ON t.repository_id = r.id \
         WHERE r.name = $2 OR (r.name > $3 AND r.name < $4)) \
         WHERE id = $1",
    ] {
        query(text).bind(id).bind(namespace).bind(from.as_str()).bind(to.as_str()).execute(db).await?;
    }
    Ok(())
}

/// The namespaces that are counted, with their ids.
pub(super) async fn all(db: &mut Connection<'_>) -> sqlx::Result<Vec<(i64, String)>> {
    query("SELECT id, namespace FROM quotas ORDER BY namespace").fetch_all(db).await
}

/// Writes the counts of all namespaces anew, after rows were added in another way.
pub(super) async fn recount_all(db: &mut Connection<'_>) -> sqlx::Result<()> {
    for (id, namespace) in all(db).await? {
        recount(db, id, &namespace).await?;
    }
    Ok(())
}

/// A namespace of the database.
pub(super) fn read(text: &str) -> crate::Result<QuotaNamespace> {
    QuotaNamespace::parse(text)
        .map_err(|e| Error::invalid("the database counts no such namespace").with_source(e))
}
