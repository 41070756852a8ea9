//! The counts of namespaces, which change in the transaction of the rows that they count.
//!
//! ```text
//!   quotas            what a namespace uses: bytes, tags, manifests
//!   quota_blobs       how many of its repositories have a blob; its bytes count once
//!   quota_manifests   the same for a manifest, also for one that was deleted and is kept
//! ```
//!
//! # Invariants
//! - A namespace that has a row in `quotas` is counted by every change of every process. A transaction that cannot see such a
//!   row pays one question for all of its changes.
//! - What is there when a namespace gets its row is counted in [`pieces`], in transactions of their own. The row has the [`place`] of
//!   the count until it ends: a change of rows which that has passed changes the counts, and another one does not.
//! - A namespace of a rule gets its row at the latest with the first change that adds something to it; such changes count a small piece
//!   of what is there, until it is counted. A change that is refused makes no row for a namespace without repositories. A deletion makes none, and counts
//!   nothing that is there.
//! - A transaction has the right to write of the whole database, so counts need no further locks, whatever their order.
//! - Limits are checked before the first statement of a change that writes.
//! - A manifest that is kept after its deletion counts as long as its row is there, at the same [`place`] as before: a deletion within
//!   a window and an undeletion change the number of tags alone. Its blobs count by their links, which stay.

mod check;
mod pieces;
mod place;
mod usage;

use self::pieces::Budget;
use self::place::{Kind, Place};
use super::query::{Connection, query};
use super::queue::Asked;
use super::rows::{Outcome, Stop, signed};
use super::unsigned;
use crate::reference::{RepositoryName, Tag};
use crate::store::meta::{Change, ManifestChange};
use crate::store::{QuotaCounts, QuotaNamespace, QuotaRules};
use crate::{Digest, Error};
pub(super) use pieces::{count_namespace, forget_empty, restart_all};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

/// The rules of a process, which may be replaced at any time, and for how many seconds its deletions can be undone.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedRules(Arc<RwLock<Arc<QuotaRules>>>, Arc<AtomicI64>);

impl SharedRules {
    pub(super) fn now(&self) -> Arc<QuotaRules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_window(&self, seconds: i64) {
        self.1.store(seconds, Ordering::Relaxed);
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
    /// For how long changes of this transaction have gone on with counts.
    counting: Budget,
    /// For how many seconds deletions can be undone; 0 when they cannot.
    window: i64,
}

/// A namespace that is counted.
pub(super) struct Counted {
    /// The row; `None` when the change makes it, as nothing is there yet.
    id: Option<i64>,
    namespace: QuotaNamespace,
    used: QuotaCounts,
    /// How far the count is, while it goes on.
    place: Option<Place>,
}

impl Counted {
    /// Whether the count has passed a row.
    fn has_passed(&self, row: &Place) -> bool {
        self.place.as_ref().is_none_or(|place| row <= place)
    }

    /// The id of the row, which is made if there is none.
    async fn id(&self, db: &mut Connection<'_>) -> sqlx::Result<i64> {
        match self.id {
            Some(id) => Ok(id),
            None => pieces::begin(db, &self.namespace, None).await,
        }
    }
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
    /// Those that the repository does not have.
    tags: Vec<String>,
}

impl Quotas {
    /// Those of a transaction that makes these changes.
    pub(super) fn new(shared: &SharedRules, is_counting: bool, changes: &[Asked]) -> Self {
        let (rules, window) = (shared.now(), shared.1.load(Ordering::Relaxed));
        let begins = changes.iter().any(|asked| matches!(asked.change, Change::CountNamespace { .. }));
        Self { is_on: is_counting || begins || !rules.is_empty(), rules, counting: Budget::default(), window }
    }

    /// Whether anything is counted.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// For how many seconds deletions can be undone; 0 when they cannot.
    pub(super) fn window(&self) -> i64 {
        self.window
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
            let at = covering.iter().position(|counted| counted.namespace == namespace);
            if at.is_some_and(|at| covering[at].place.is_none()) {
                continue;
            }
            if at.is_some() && self.counting.is_spent() {
                continue;
            }
            // Whoever pushes much goes on with the count, too: it cannot stay behind what comes.
            if at.is_some() || pieces::has_repositories(db, &namespace).await? {
                let began = Instant::now();
                pieces::count_a_little(db, &namespace).await?;
                self.counting.spend(began.elapsed());
                covering.retain(|counted| counted.namespace != namespace);
                covering.extend(find(db, &[namespace]).await?);
            } else {
                covering.push(Counted { id: None, namespace, used: QuotaCounts::default(), place: None });
            }
        }
        Ok(covering)
    }

    /// The rules of the process.
    pub(super) fn rules(&self) -> &QuotaRules {
        &self.rules
    }

    fn check(&self, counted: &Counted, added: QuotaCounts) -> Outcome<()> {
        match self.rules.limits(&counted.namespace) {
            Some(limits) => limits.check(&counted.namespace, counted.used, added).map_err(Stop::Refused),
            None => Ok(()),
        }
    }

    /// Refuses an upload to a namespace that has no byte left, unless it is one of a blob that the repository has.
    pub(super) async fn check_start(
        &self,
        db: &mut Connection<'_>,
        repository: &RepositoryName,
        resends: Option<&Digest>,
    ) -> Outcome<()> {
        if self.rules.covering(repository).all(|(_, limits)| limits.bytes.is_none()) {
            return Ok(());
        }
        let counted = self.counted(db, repository).await?;
        for (namespace, limits) in self.rules.covering(repository) {
            // What is not counted yet is counted when a blob comes, and refused then.
            let used = counted.iter().find(|counted| counted.namespace == namespace);
            let used = used.map(|counted| counted.used).unwrap_or_default();
            if let Err(refusal) = limits.check_room(&namespace, used) {
                let blob: Option<i64> = match resends {
                    Some(digest) => {
                        let blob = query("SELECT id FROM blobs WHERE digest = $1").bind(digest.as_str());
                        blob.fetch_scalar(db).await?
                    }
                    None => None,
                };
                return match blob {
                    Some(blob) if has_link(db, repository, blob).await? => Ok(()),
                    _ => Err(Stop::Refused(refusal)),
                };
            }
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
            is_new = query(
                "SELECT NOT EXISTS (SELECT 1 FROM manifests WHERE repository_id = $1 AND digest = $2) \
                 AND NOT EXISTS (SELECT 1 FROM deleted_manifests WHERE repository_id = $1 AND digest = $2)",
            )
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
        Ok(PutPlan { covering, is_new, tags: tags.into_iter().map(str::to_owned).collect() })
    }
}

impl LinkPlan {
    /// Counts the link, after the row of the blob was written.
    pub(super) async fn count(
        self,
        db: &mut Connection<'_>,
        repository: &RepositoryName,
        blob: i64,
    ) -> sqlx::Result<()> {
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
        let row = Place::link(repository.as_str(), blob);
        for counted in self.covering.iter().filter(|counted| counted.has_passed(&row)) {
            let id = counted.id(db).await?;
            let links: i64 = query(
                "INSERT INTO quota_blobs (blob_id, quota_id, links) VALUES ($1, $2, 1) \
                 ON CONFLICT (blob_id, quota_id) DO UPDATE SET links = quota_blobs.links + 1 RETURNING links",
            )
            .bind(blob)
            .bind(id)
            .fetch_one(db)
            .await?;
            if links == 1 {
                add(db, id, (self.size, 0, 0)).await?;
            }
        }
        Ok(())
    }
}

impl PutPlan {
    /// Counts the manifest and its tags.
    pub(super) async fn count(self, db: &mut Connection<'_>, change: &ManifestChange) -> sqlx::Result<()> {
        let (repository, digest) = (change.repository.as_str(), change.manifest.digest().as_str());
        let size = signed(change.manifest.bytes().len() as u64);
        let row = Place::in_repository(repository, Kind::Manifests, digest);
        for counted in &self.covering {
            let id = counted.id(db).await?;
            let is_added = self.is_new && counted.has_passed(&row);
            let tags = self.tags.iter().map(|tag| Place::in_repository(repository, Kind::Tags, tag));
            let tags = tags.filter(|tag| counted.has_passed(tag)).count();
            let mut bytes = 0;
            if is_added {
                let copies: i64 = query(
                    "INSERT INTO quota_manifests (digest, quota_id, size, copies) VALUES ($1, $2, $3, 1) \
                     ON CONFLICT (digest, quota_id) DO UPDATE SET copies = quota_manifests.copies + 1 \
                     RETURNING copies",
                )
                .bind(digest)
                .bind(id)
                .bind(size)
                .fetch_one(db)
                .await?;
                bytes = if copies == 1 { size } else { 0 };
            }
            add(db, id, (bytes, signed(tags as u64), i64::from(is_added))).await?;
        }
        Ok(())
    }
}

/// Changes the counts of a namespace.
async fn add(
    db: &mut Connection<'_>,
    id: i64,
    (bytes, tags, manifests): (i64, i64, i64),
) -> sqlx::Result<()> {
    if (bytes, tags, manifests) == (0, 0, 0) {
        return Ok(());
    }
    query("UPDATE quotas SET bytes = bytes + $2, tags = tags + $3, manifests = manifests + $4 WHERE id = $1")
        .bind(id)
        .bind(bytes)
        .bind(tags)
        .bind(manifests)
        .execute(db)
        .await
        .map(drop)
}

/// The rows of those namespaces of which the count has passed a row.
fn having_passed(covering: &[Counted], row: &Place) -> impl Iterator<Item = i64> {
    covering.iter().filter(|counted| counted.has_passed(row)).filter_map(|counted| counted.id)
}

/// Counts that a repository of these namespaces has lost a blob.
pub(super) async fn unlinked(
    db: &mut Connection<'_>,
    covering: &[Counted],
    repository: &RepositoryName,
    blob: i64,
) -> sqlx::Result<()> {
    for id in having_passed(covering, &Place::link(repository.as_str(), blob)) {
        let links: Option<i64> = query(
            "UPDATE quota_blobs SET links = links - 1 WHERE blob_id = $1 AND quota_id = $2 RETURNING links",
        )
        .bind(blob)
        .bind(id)
        .fetch_scalar(db)
        .await?;
        if links.is_some_and(|links| links <= 0) {
            query("DELETE FROM quota_blobs WHERE blob_id = $1 AND quota_id = $2")
                .bind(blob)
                .bind(id)
                .execute(db)
                .await?;
            let size: i64 = query("SELECT size FROM blobs WHERE id = $1").bind(blob).fetch_one(db).await?;
            add(db, id, (-size, 0, 0)).await?;
        }
    }
    Ok(())
}

/// Counts that a repository of these namespaces has lost a tag.
pub(super) async fn untagged(
    db: &mut Connection<'_>,
    covering: &[Counted],
    repository: &RepositoryName,
    tag: &Tag,
) -> sqlx::Result<()> {
    let row = Place::in_repository(repository.as_str(), Kind::Tags, tag.as_str());
    for id in having_passed(covering, &row) {
        add(db, id, (0, -1, 0)).await?;
    }
    Ok(())
}

/// Counts that a repository of these namespaces loses the tags of a manifest, of which this is the id.
pub(super) async fn untagged_all(
    db: &mut Connection<'_>,
    covering: &[Counted],
    repository: &RepositoryName,
    manifest: i64,
) -> sqlx::Result<()> {
    for counted in covering {
        let Some(id) = counted.id else { continue };
        let all = Some(place::LAST);
        let place = counted.place.as_ref();
        let tags: i64 = match place.map_or(all, |place| place.passed(repository.as_str(), Kind::Tags)) {
            None => 0,
            Some(last) => {
                query("SELECT COUNT(*) FROM tags WHERE manifest_id = $1 AND name <= $2")
                    .bind(manifest)
                    .bind(last)
                    .fetch_one(db)
                    .await?
            }
        };
        add(db, id, (0, -tags, 0)).await?;
    }
    Ok(())
}

/// Counts that a repository of these namespaces loses a manifest, or one that it has kept.
pub(super) async fn unmade(
    db: &mut Connection<'_>,
    covering: &[Counted],
    (repository, digest): (&str, &str),
) -> sqlx::Result<()> {
    for id in having_passed(covering, &Place::in_repository(repository, Kind::Manifests, digest)) {
        let copies: Option<(i64, i64)> = query(
            "UPDATE quota_manifests SET copies = copies - 1 WHERE digest = $1 AND quota_id = $2 \
             RETURNING copies, size",
        )
        .bind(digest)
        .bind(id)
        .fetch_optional(db)
        .await?;
        let mut bytes = 0;
        if let Some((_, size)) = copies.filter(|(copies, _)| *copies <= 0) {
            query("DELETE FROM quota_manifests WHERE digest = $1 AND quota_id = $2")
                .bind(digest)
                .bind(id)
                .execute(db)
                .await?;
            bytes = -size;
        }
        add(db, id, (bytes, 0, -1)).await?;
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

/// A row of `quotas` without its namespace: its id, its counts and its place.
type CountedRow = (i64, String, i64, i64, i64, Option<String>, Option<i64>, Option<String>);

/// Those of some namespaces that are counted.
async fn find(db: &mut Connection<'_>, names: &[QuotaNamespace]) -> sqlx::Result<Vec<Counted>> {
    let mut found = Vec::new();
    for some in names.chunks(NAMES) {
        let texts: Vec<String> = some.iter().map(ToString::to_string).collect();
        let mut query = query(
            "SELECT id, namespace, bytes, tags, manifests, at_repository, at_kind, at_key FROM quotas \
             WHERE namespace IN ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        for number in 0..NAMES {
            query = query.bind(texts.get(number).map(String::as_str));
        }
        let rows: Vec<CountedRow> = query.fetch_all(db).await?;
        found.extend(rows.into_iter().filter_map(
            |(id, text, bytes, tags, manifests, repository, kind, key)| {
                let at = texts.iter().position(|one| *one == text)?;
                let (used, place) = (counts(bytes, tags, manifests), Place::read((repository, kind, key)));
                Some(Counted { id: Some(id), namespace: some[at].clone(), used, place })
            },
        ));
    }
    Ok(found)
}

fn counts(bytes: i64, tags: i64, manifests: i64) -> QuotaCounts {
    QuotaCounts { bytes: unsigned(bytes), tags: unsigned(tags), manifests: unsigned(manifests) }
}

/// A namespace of the database.
fn read(text: &str) -> crate::Result<QuotaNamespace> {
    QuotaNamespace::parse(text)
        .map_err(|e| Error::invalid("the database counts no such namespace").with_source(e))
}
