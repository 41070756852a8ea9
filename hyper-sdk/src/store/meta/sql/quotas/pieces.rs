//! Counts of what is there, in pieces.
//!
//! # Invariants
//! - A piece adds what lies behind the place of the count, and moves that place behind it, in one transaction. Changes of rows that
//!   the place has passed change the counts, and other changes do not. So the counts are those of the passed rows at any moment,
//!   whoever counts, and however often a count is interrupted.
//! - A piece has a bounded number of rows and ends soon after [`PIECE`], but not before it has made a step, so every count ends.

use super::place::{Kind, Place};
use super::{Counted, find, read};
use crate::store::meta::sql::query::{Connection, query};
use crate::store::meta::sql::unsigned;
use crate::store::{QuotaNamespace, QuotaRules};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After so long no further rows are looked at.
const PIECE: Duration = Duration::from_millis(40);
/// How many rows one statement counts.
const STEP: i64 = 500;
/// How many repositories are looked for at once.
const REPOSITORIES: i64 = 50;
/// How many rows are counted by a change that adds something to a namespace of a rule, until that is counted: most have fewer.
const FIRST: u64 = 200;
/// An empty namespace with more repositories is not forgotten: the first push to it would not count it whole.
const FEW: i64 = 60;
/// How many rows of namespaces are looked at together to be forgotten.
const FORGOTTEN: i64 = 50;

/// How long the changes of one transaction go on with counts, all together: others wait for the transaction.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicU64);

impl Budget {
    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= PIECE.as_micros() as u64
    }

    pub(super) fn spend(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2), Ordering::Relaxed);
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

/// Begins to count a namespace unless it is counted, and counts a further piece of it. Returns whether more is left.
pub(in crate::store::meta::sql) async fn count_namespace(
    db: &mut Connection<'_>,
    namespace: &QuotaNamespace,
    rows: u64,
) -> sqlx::Result<bool> {
    if *namespace == QuotaNamespace::Each {
        return Ok(false);
    }
    let found = find(db, std::slice::from_ref(namespace)).await?.pop();
    let (id, place) = match found {
        Some(Counted { place: None, .. }) => return Ok(false),
        Some(Counted { id: Some(id), place: Some(place), .. }) => (id, place),
        _ => (begin(db, namespace, Some(&Place::start())).await?, Place::start()),
    };
    count_piece(db, id, &namespace.to_string(), place, rows).await
}

/// Counts a small piece of a namespace that is not counted yet, in a change that adds to it.
pub(super) async fn count_a_little(db: &mut Connection<'_>, namespace: &QuotaNamespace) -> sqlx::Result<()> {
    count_namespace(db, namespace, FIRST).await.map(drop)
}

/// Makes the row of a namespace: at the start of its count, or counted when nothing is there.
pub(super) async fn begin(
    db: &mut Connection<'_>,
    namespace: &QuotaNamespace,
    place: Option<&Place>,
) -> sqlx::Result<i64> {
    let text = namespace.to_string();
    query(
        "INSERT INTO quotas (namespace, bytes, tags, manifests, counted_at, at_repository, at_kind, at_key) \
         VALUES ($1, 0, 0, 0, $2, $3, $4, $5) RETURNING id",
    )
    .bind(text.as_str())
    .bind(Some(db.now()).filter(|_| place.is_none()))
    .bind(place.map(|place| place.repository.as_str()))
    .bind(place.map(|place| place.kind.number()))
    .bind(place.map(|place| place.key.as_str()))
    .fetch_one(db)
    .await
}

/// Whether any repository is in a namespace.
pub(super) async fn has_repositories(
    db: &mut Connection<'_>,
    namespace: &QuotaNamespace,
) -> sqlx::Result<bool> {
    Ok(!repositories(db, &namespace.to_string(), "", 1).await?.is_empty())
}

/// Whether a namespace has a few repositories at most, and none of them a blob.
async fn is_forgotten(db: &mut Connection<'_>, namespace: &str) -> sqlx::Result<bool> {
    let repositories = repositories(db, namespace, "", FEW + 1).await?;
    if repositories.len() > FEW as usize {
        return Ok(false);
    }
    for (id, _) in repositories {
        let has: bool = query("SELECT EXISTS (SELECT 1 FROM blob_links WHERE repository_id = $1)")
            .bind(id)
            .fetch_one(db)
            .await?;
        if has {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the rows of namespaces that have nothing and that no rule names, among the rows behind an id. Returns the id up to which it
/// has looked; 0 when there are no more.
pub(in crate::store::meta::sql) async fn forget_empty(
    db: &mut Connection<'_>,
    rules: &QuotaRules,
    after: u64,
) -> sqlx::Result<u64> {
    let began = Instant::now();
    let empty: Vec<(i64, String)> = query(
        "SELECT id, namespace FROM quotas WHERE id > $1 AND bytes = 0 AND tags = 0 AND manifests = 0 \
         AND at_repository IS NULL ORDER BY id LIMIT $2",
    )
    .bind(i64::try_from(after).unwrap_or(i64::MAX))
    .bind(FORGOTTEN)
    .fetch_all(db)
    .await?;
    let mut last = 0;
    for (id, text) in empty {
        let is_named = read(&text).is_ok_and(|namespace| rules.names(&namespace));
        // Blobs of no bytes are rows too.
        if !is_named && is_forgotten(db, &text).await? {
            query("DELETE FROM quotas WHERE id = $1").bind(id).execute(db).await?;
        }
        last = unsigned(id);
        if began.elapsed() >= PIECE {
            break;
        }
    }
    Ok(last)
}

/// The next repositories of a namespace from a name on, in the order of their names.
pub(super) async fn repositories(
    db: &mut Connection<'_>,
    namespace: &str,
    from: &str,
    limit: i64,
) -> sqlx::Result<Vec<(i64, String)>> {
    let (first, end) = bounds(namespace);
    let mut found: Vec<(i64, String)> = Vec::new();
    if from <= namespace && namespace != "**" {
        found =
            query("SELECT id, name FROM repositories WHERE name = $1").bind(namespace).fetch_all(db).await?;
    }
    let below: Vec<(i64, String)> =
        query("SELECT id, name FROM repositories WHERE name >= $1 AND name < $2 ORDER BY name LIMIT $3")
            .bind(from.max(first.as_str()))
            .bind(end.as_str())
            .bind(limit)
            .fetch_all(db)
            .await?;
    found.extend(below);
    Ok(found)
}

/// The manifests of the repository `$1` behind the digest `$2` and up to `$3`, those that are kept after their deletion among them.
macro_rules! manifests_of_piece {
    () => {
        "(SELECT digest, MAX(size) AS size, COUNT(*) AS copies FROM (\
         SELECT digest, size FROM manifests WHERE repository_id = $1 AND digest > $2 AND digest <= $3 UNION ALL \
         SELECT digest, size FROM deleted_manifests WHERE repository_id = $1 AND digest > $2 AND digest <= $3) \
         AS both_of GROUP BY digest) AS m"
    };
}

/// What a piece has found.
struct Piece {
    id: i64,
    place: Place,
    added: (i64, i64, i64),
    left: i64,
    began: Instant,
    has_moved: bool,
}

/// Counts a piece from the place on. Returns whether more is left.
async fn count_piece(
    db: &mut Connection<'_>,
    id: i64,
    namespace: &str,
    place: Place,
    rows: u64,
) -> sqlx::Result<bool> {
    let left = i64::try_from(rows).unwrap_or(i64::MAX).max(1);
    let mut piece = Piece { id, place, added: (0, 0, 0), left, began: Instant::now(), has_moved: false };
    let mut is_done = false;
    while !is_done && !piece.is_over() {
        let page = repositories(db, namespace, &piece.place.repository, REPOSITORIES).await?;
        let behind = page.iter().filter(|(_, name)| {
            *name > piece.place.repository
                || (*name == piece.place.repository && piece.place.kind != Kind::Done)
        });
        let behind: Vec<&(i64, String)> = behind.collect();
        is_done = behind.is_empty();
        for (repository, name) in behind {
            if piece.is_over() {
                break;
            }
            if *name != piece.place.repository {
                piece.place = Place::in_repository(name, Kind::Links, "");
            }
            piece.count_repository(db, *repository).await?;
        }
    }
    let (bytes, tags, manifests) = piece.added;
    let place = Some(&piece.place).filter(|_| !is_done);
    query(
        "UPDATE quotas SET bytes = bytes + $2, tags = tags + $3, manifests = manifests + $4, counted_at = $5, \
         at_repository = $6, at_kind = $7, at_key = $8 WHERE id = $1",
    )
    .bind(id)
    .bind(bytes)
    .bind(tags)
    .bind(manifests)
    .bind(Some(db.now()).filter(|_| is_done))
    .bind(place.map(|place| place.repository.as_str()))
    .bind(place.map(|place| place.kind.number()))
    .bind(place.map(|place| place.key.as_str()))
    .execute(db)
    .await?;
    Ok(!is_done)
}

impl Piece {
    fn is_over(&self) -> bool {
        self.left <= 0 || (self.has_moved && self.began.elapsed() >= PIECE)
    }

    /// Counts in the repository of the place until it is done or the piece is over.
    async fn count_repository(&mut self, db: &mut Connection<'_>, repository: i64) -> sqlx::Result<()> {
        while self.place.kind != Kind::Done && !self.is_over() {
            let limit = STEP.min(self.left);
            let (count, next) = match self.place.kind {
                Kind::Links => (self.count_links(db, repository, limit).await?, Kind::Manifests),
                Kind::Manifests => (self.count_manifests(db, repository, limit).await?, Kind::Tags),
                Kind::Tags | Kind::Done => (self.count_tags(db, repository, limit).await?, Kind::Done),
            };
            if count < limit {
                (self.place.kind, self.place.key) = (next, String::new());
            }
            self.left -= count;
            self.has_moved = true;
        }
        // One without rows costs something too.
        self.left -= 1;
        Ok(())
    }

    async fn count_links(
        &mut self,
        db: &mut Connection<'_>,
        repository: i64,
        limit: i64,
    ) -> sqlx::Result<i64> {
        let from = self.place.blob();
        let (count, to): (i64, Option<i64>) = query(
            "SELECT COUNT(*), MAX(blob_id) FROM (SELECT blob_id FROM blob_links \
             WHERE repository_id = $1 AND blob_id > $2 ORDER BY blob_id LIMIT $3) AS piece",
        )
        .bind(repository)
        .bind(from)
        .bind(limit)
        .fetch_row(db)
        .await?;
        let Some(to) = to else { return Ok(0) };
        let bytes: i64 = query(
            "SELECT CAST(COALESCE(SUM((SELECT b.size FROM blobs b WHERE b.id = l.blob_id)), 0) AS BIGINT) \
             FROM blob_links l WHERE l.repository_id = $1 AND l.blob_id > $2 AND l.blob_id <= $3 AND \
             (SELECT q.links FROM quota_blobs q WHERE q.blob_id = l.blob_id AND q.quota_id = $4) IS NULL",
        )
        .bind(repository)
        .bind(from)
        .bind(to)
        .bind(self.id)
        .fetch_one(db)
        .await?;
        query(
            "INSERT INTO quota_blobs (blob_id, quota_id, links) SELECT l.blob_id, CAST($4 AS BIGINT), 1 \
             FROM blob_links l WHERE l.repository_id = $1 AND l.blob_id > $2 AND l.blob_id <= $3 \
             ON CONFLICT (blob_id, quota_id) DO UPDATE SET links = quota_blobs.links + 1",
        )
        .bind(repository)
        .bind(from)
        .bind(to)
        .bind(self.id)
        .execute(db)
        .await?;
        self.added.0 += bytes;
        self.place = Place::link(&self.place.repository, to);
        Ok(count)
    }

    async fn count_manifests(
        &mut self,
        db: &mut Connection<'_>,
        repository: i64,
        limit: i64,
    ) -> sqlx::Result<i64> {
        let from = self.place.key.clone();
        let (count, to): (i64, Option<String>) = query(
            "SELECT COUNT(*), MAX(digest) FROM (SELECT digest FROM (\
             SELECT digest FROM (SELECT digest FROM manifests \
             WHERE repository_id = $1 AND digest > $2 ORDER BY digest LIMIT $3) AS live UNION ALL \
             SELECT digest FROM (SELECT digest FROM deleted_manifests \
             WHERE repository_id = $1 AND digest > $2 ORDER BY digest LIMIT $3) AS kept) AS both_of \
             ORDER BY digest LIMIT $3) AS piece",
        )
        .bind(repository)
        .bind(from.as_str())
        .bind(limit)
        .fetch_row(db)
        .await?;
        let Some(to) = to else { return Ok(0) };
        let (bytes, copies): (i64, i64) = query(concat!(
            "SELECT CAST(COALESCE(SUM(CASE WHEN \
             (SELECT q.size FROM quota_manifests q WHERE q.digest = m.digest AND q.quota_id = $4) IS NULL \
             THEN m.size ELSE 0 END), 0) AS BIGINT), CAST(COALESCE(SUM(m.copies), 0) AS BIGINT) FROM ",
            manifests_of_piece!()
        ))
        .bind(repository)
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(self.id)
        .fetch_row(db)
        .await?;
        query(concat!(
            "INSERT INTO quota_manifests (digest, quota_id, size, copies) \
             SELECT m.digest, CAST($4 AS BIGINT), m.size, m.copies FROM ",
            manifests_of_piece!(),
            " WHERE m.copies > 0 \
             ON CONFLICT (digest, quota_id) DO UPDATE SET copies = quota_manifests.copies + excluded.copies"
        ))
        .bind(repository)
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(self.id)
        .execute(db)
        .await?;
        self.added.0 += bytes;
        self.added.2 += copies;
        self.place.key = to;
        Ok(count)
    }

    async fn count_tags(
        &mut self,
        db: &mut Connection<'_>,
        repository: i64,
        limit: i64,
    ) -> sqlx::Result<i64> {
        let (count, to): (i64, Option<String>) = query(
            "SELECT COUNT(*), MAX(name) FROM (SELECT name FROM tags \
             WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3) AS piece",
        )
        .bind(repository)
        .bind(self.place.key.as_str())
        .bind(limit)
        .fetch_row(db)
        .await?;
        self.added.1 += count;
        if let Some(to) = to {
            self.place.key = to;
        }
        Ok(count)
    }
}

/// Counts all namespaces anew, after rows were added in another way to a store that was empty.
pub(in crate::store::meta::sql) async fn restart_all(db: &mut Connection<'_>) -> sqlx::Result<()> {
    for text in [
        "DELETE FROM quota_blobs",
        "DELETE FROM quota_manifests",
        "UPDATE quotas SET bytes = 0, tags = 0, manifests = 0, counted_at = NULL, at_repository = '', at_kind = 0, \
         at_key = ''",
    ] {
        query(text).execute(db).await?;
    }
    Ok(())
}

/// Begins the count of a namespace anew, in another row: what is recorded for the row of before belongs to nobody.
pub(super) async fn restart(db: &mut Connection<'_>, namespace: &QuotaNamespace) -> sqlx::Result<()> {
    query("DELETE FROM quotas WHERE namespace = $1").bind(namespace.to_string().as_str()).execute(db).await?;
    begin(db, namespace, Some(&Place::start())).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a slow database, where a piece takes its whole time, a transaction has few of them, however many changes it has.
    #[test]
    fn the_changes_of_a_transaction_count_for_a_bounded_time() {
        let budget = Budget::default();
        let pieces = (0..128).take_while(|_| {
            let goes_on = !budget.is_spent();
            budget.spend(PIECE / 2);
            goes_on
        });
        assert_eq!(pieces.count(), 2);
    }

    /// However slow the database is.
    #[test]
    fn a_piece_that_has_no_time_left_makes_a_step() {
        let began = Instant::now().checked_sub(2 * PIECE).unwrap();
        let mut piece =
            Piece { id: 1, place: Place::start(), added: (0, 0, 0), left: 5, began, has_moved: false };
        assert!(!piece.is_over());
        piece.has_moved = true;
        assert!(piece.is_over());
    }
}
