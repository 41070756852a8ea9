//! Whether what is recorded of namespaces is what is there.
//!
//! All rows are read once, of one moment, in pages: links in the order of their blobs, as the counts of blobs are, and manifests in
//! the order of their repositories, a part of the digests at a time, so that memory is bounded. Nobody waits for it. A namespace that
//! is being counted is compared as far as its count is.

use super::place::{Kind, LAST, Place};
use super::{CountedRow, counts, pieces, read};
use crate::store::meta::sql::query::{Connection, Reader, query};
use crate::store::meta::sql::restore::{Stop, in_transaction};
use crate::store::meta::sql::{SqlMeta, unsigned};
use crate::store::meta::{Change, MetaBackend as _};
use crate::store::{QuotaCheck, QuotaCounts};
use crate::{Result, clock::Clock as _, clock::SystemClock};
use sqlx::Connection as _;
use std::collections::HashMap;
use std::time::Instant;

/// How many rows are read at once.
const PAGE: i64 = 2000;
/// How many manifests are compared together.
const MANIFESTS: i64 = 100_000;
/// How many rows a piece of a repair has at most.
const PIECE: u64 = 20_000;
/// The numbers of how many blobs are swept at once.
const SWEPT: i64 = 5000;

/// A namespace, and what was found of it.
struct Found {
    id: i64,
    name: String,
    recorded: QuotaCounts,
    place: Option<Place>,
    found: QuotaCounts,
    wrong: u64,
}

/// All namespaces that are counted.
struct All {
    those: Vec<Found>,
    by_name: HashMap<String, usize>,
    by_id: HashMap<i64, usize>,
}

impl All {
    async fn read(db: &mut Connection<'_>) -> sqlx::Result<Self> {
        let rows: Vec<CountedRow> = query(
            "SELECT id, namespace, bytes, tags, manifests, at_repository, at_kind, at_key \
             FROM quotas ORDER BY namespace",
        )
        .fetch_all(db)
        .await?;
        let found = |(id, name, bytes, tags, manifests, repository, kind, key): CountedRow| Found {
            id,
            name,
            recorded: counts(bytes, tags, manifests),
            place: Place::read((repository, kind, key)),
            found: QuotaCounts::default(),
            wrong: 0,
        };
        let those: Vec<Found> = rows.into_iter().map(found).collect();
        let by_name = those.iter().enumerate().map(|(at, one)| (one.name.clone(), at)).collect();
        let by_id = those.iter().enumerate().map(|(at, one)| (one.id, at)).collect();
        Ok(Self { those, by_name, by_id })
    }

    /// The namespaces that have a repository, of whose rows up to which text of a kind are counted.
    fn of(&self, repository: &str, kind: Kind) -> Vec<(usize, String)> {
        let ends = repository.match_indices('/').map(|(at, _)| at).chain([repository.len()]);
        let names = ends.map(|end| &repository[..end]).chain(["**"]);
        let those = names.filter_map(|name| self.by_name.get(name).copied());
        let passed = |at: usize| match &self.those[at].place {
            None => Some(LAST.to_owned()),
            Some(place) => place.passed(repository, kind).map(str::to_owned),
        };
        those.filter_map(|at| Some((at, passed(at)?))).collect()
    }

    /// Compares what is recorded of a blob, or of a manifest, with what was found.
    fn compare(&mut self, mut found: HashMap<usize, i64>, recorded: &[(i64, i64)]) {
        for (id, number) in recorded {
            // A row of a namespace that is no more belongs to nobody.
            let Some(at) = self.by_id.get(id).copied() else { continue };
            self.those[at].wrong += u64::from(found.remove(&at) != Some(*number));
        }
        found.into_keys().for_each(|at| self.those[at].wrong += 1);
    }
}

impl SqlMeta {
    pub(in crate::store::meta::sql) async fn compare_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        let all = self.compare_all().await?;
        let mut checks = Vec::with_capacity(all.those.len());
        for one in all.those {
            let namespace = read(&one.name).map_err(|e| self.damaged(e))?;
            let (recorded, found) = (one.recorded, one.found);
            checks.push(QuotaCheck { namespace, recorded, found, wrong_rows: one.wrong });
        }
        if repair {
            for check in checks.iter().filter(|check| !check.is_right()) {
                let namespace = &check.namespace;
                in_transaction!(self, |db| async {
                    pieces::restart(db, namespace).await.map_err(Stop::Database)
                })?;
                loop {
                    let began = Instant::now();
                    let change = Change::CountNamespace { namespace: namespace.clone(), rows: PIECE };
                    if self.write(change).await? == 0 {
                        break;
                    }
                    tokio::time::sleep(began.elapsed()).await;
                }
            }
            self.sweep().await?;
        }
        Ok(checks)
    }

    /// Reads everything in one transaction that only reads.
    async fn compare_all(&self) -> Result<All> {
        let mut reader = self.reader().await?;
        let outcome = match &mut reader {
            Reader::Sqlite(connection) => {
                let mut transaction = connection.begin().await.map_err(|e| self.failed(e))?;
                let outcome = compare(&mut Connection::Sqlite(&mut transaction, 0)).await;
                transaction.rollback().await.map_err(|e| self.failed(e))?;
                outcome
            }
            #[cfg(feature = "store-postgres")]
            Reader::Postgres(connection, attempt) => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                let begun = crate::store::meta::sql::query::told(attempt, connection.begin_with(begin).await);
                let mut transaction = begun.map_err(|e| self.failed(e))?;
                let outcome = compare(&mut Connection::Postgres(&mut transaction, 0, Some(attempt))).await;
                transaction.rollback().await.map_err(|e| self.failed(e))?;
                outcome
            }
        };
        outcome.map_err(|e| self.failed(e))
    }

    /// Removes the rows that belong to no namespace, a few at a time.
    async fn sweep(&self) -> Result<()> {
        let mut from = 0;
        loop {
            let last: Option<i64> = query("SELECT MAX(blob_id) FROM quota_blobs")
                .fetch_one(&mut self.reader().await?.connection())
                .await
                .map_err(|e| self.failed(e))?;
            if last.is_none_or(|last| last < from) {
                break;
            }
            let began = Instant::now();
            in_transaction!(self, |db| async {
                query(
                    "DELETE FROM quota_blobs WHERE blob_id >= $1 AND blob_id < $2 \
                     AND NOT EXISTS (SELECT 1 FROM quotas q WHERE q.id = quota_blobs.quota_id)",
                )
                .bind(from)
                .bind(from + SWEPT)
                .execute(db)
                .await
                .map_err(Stop::Database)
            })?;
            from += SWEPT;
            tokio::time::sleep(began.elapsed()).await;
        }
        let mut after = String::new();
        loop {
            let last: Option<String> = query(
                "SELECT MAX(digest) FROM (SELECT digest FROM quota_manifests WHERE digest > $1 \
                 ORDER BY digest LIMIT $2) AS page",
            )
            .bind(after.as_str())
            .bind(SWEPT)
            .fetch_one(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
            let Some(last) = last else { break };
            let began = Instant::now();
            in_transaction!(self, |db| async {
                query(
                    "DELETE FROM quota_manifests WHERE digest > $1 AND digest <= $2 \
                     AND NOT EXISTS (SELECT 1 FROM quotas q WHERE q.id = quota_manifests.quota_id)",
                )
                .bind(after.as_str())
                .bind(last.as_str())
                .execute(db)
                .await
                .map_err(Stop::Database)
            })?;
            after = last;
            tokio::time::sleep(began.elapsed()).await;
        }
        Ok(())
    }
}

async fn compare(db: &mut Connection<'_>) -> sqlx::Result<All> {
    #[cfg(feature = "store-postgres")]
    if let Connection::Postgres(connection, ..) = db {
        sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = 0").execute(&mut **connection).await?;
    }
    let mut all = All::read(db).await?;
    if all.those.is_empty() {
        return Ok(all);
    }
    compare_links(db, &mut all).await?;
    let all_manifests = "SELECT (SELECT COUNT(*) FROM manifests) + (SELECT COUNT(*) FROM deleted_manifests)";
    let manifests: i64 = query(all_manifests).fetch_one(db).await?;
    let parts = unsigned(manifests / MANIFESTS) + 1;
    for part in 0..parts {
        compare_manifests(db, &mut all, (part, parts)).await?;
    }
    Ok(all)
}

/// A link: its blob with its size, and its repository with its name.
type Link = (i64, i64, i64, String);

async fn compare_links(db: &mut Connection<'_>, all: &mut All) -> sqlx::Result<()> {
    // The blob whose links come, with how many each namespace has, and the last blob that is compared.
    let (mut now, mut found): (Option<(i64, i64)>, HashMap<usize, i64>) = (None, HashMap::new());
    let (mut at, mut compared) = ((0, 0), i64::MIN);
    loop {
        let page: Vec<Link> = query(
            // No join, and a number: PostgreSQL would read whole tables for each page.
            "SELECT l.blob_id, (SELECT b.size FROM blobs b WHERE b.id = l.blob_id), l.repository_id, \
             (SELECT r.name FROM repositories r WHERE r.id = l.repository_id) FROM blob_links l \
             WHERE l.blob_id >= $1 AND (l.blob_id > $1 OR l.repository_id > $2) \
             ORDER BY l.blob_id, l.repository_id LIMIT 2000",
        )
        .bind(at.0)
        .bind(at.1)
        .fetch_all(db)
        .await?;
        let is_last = page.len() < PAGE as usize;
        let mut done: Vec<(i64, HashMap<usize, i64>)> = Vec::new();
        for (blob, size, repository, name) in page {
            at = (blob, repository);
            if let Some((before, _)) = now.filter(|(before, _)| *before != blob) {
                done.push((before, std::mem::take(&mut found)));
            }
            now = Some((blob, size));
            let key = Place::link(&name, blob).key;
            for (namespace, last) in all.of(&name, Kind::Links) {
                if key <= last {
                    let links = found.entry(namespace).or_default();
                    *links += 1;
                    if *links == 1 {
                        all.those[namespace].found.bytes += unsigned(size);
                    }
                }
            }
        }
        if is_last && let Some((before, _)) = now.take() {
            done.push((before, std::mem::take(&mut found)));
        }
        let to = match (is_last, done.last()) {
            (true, _) => i64::MAX,
            (false, Some((last, _))) => *last,
            (false, None) => continue,
        };
        compare_blobs(db, all, done, (compared, to)).await?;
        compared = to;
        if is_last {
            return Ok(());
        }
    }
}

/// Compares the rows of the blobs behind `after` and up to `to` with what was found of these blobs.
async fn compare_blobs(
    db: &mut Connection<'_>,
    all: &mut All,
    done: Vec<(i64, HashMap<usize, i64>)>,
    (after, to): (i64, i64),
) -> sqlx::Result<()> {
    let rows: Vec<(i64, i64, i64)> = query(
        "SELECT blob_id, quota_id, links FROM quota_blobs WHERE blob_id > $1 AND blob_id <= $2 ORDER BY blob_id",
    )
    .bind(after)
    .bind(to)
    .fetch_all(db)
    .await?;
    let mut recorded: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
    for (blob, id, links) in rows {
        recorded.entry(blob).or_default().push((id, links));
    }
    for (blob, found) in done {
        let recorded = recorded.remove(&blob).unwrap_or_default();
        all.compare(found, &recorded);
    }
    recorded.into_values().for_each(|of| all.compare(HashMap::new(), &of));
    Ok(())
}

/// Whether a digest is in a part of so many.
fn is_in(digest: &str, (part, parts): (u64, u64)) -> bool {
    let number = digest.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    number % parts == part
}

/// Compares the manifests whose digests are in a part, and with the first part all tags.
async fn compare_manifests(db: &mut Connection<'_>, all: &mut All, part: (u64, u64)) -> sqlx::Result<()> {
    // The copies and the size of each.
    let mut found: HashMap<(usize, String), (i64, i64)> = HashMap::new();
    let mut after = String::new();
    loop {
        let page: Vec<(i64, String)> =
            query("SELECT id, name FROM repositories WHERE name > $1 ORDER BY name LIMIT $2")
                .bind(after.as_str())
                .bind(PAGE)
                .fetch_all(db)
                .await?;
        let Some((_, last)) = page.last() else { break };
        after = last.clone();
        for (id, name) in page {
            let namespaces = all.of(&name, Kind::Manifests);
            if part.0 == 0 {
                count_tags(db, all, (id, &name)).await?;
            }
            if !namespaces.is_empty() {
                find_manifests(db, (id, &namespaces), part, &mut found).await?;
            }
        }
    }
    for ((at, _), (copies, size)) in &found {
        let counts = &mut all.those[*at].found;
        counts.manifests += unsigned(*copies);
        counts.bytes += unsigned(*size);
    }
    let mut after = (String::new(), 0);
    loop {
        let rows: Vec<(String, i64, i64, i64)> = query(
            "SELECT digest, quota_id, copies, size FROM quota_manifests \
             WHERE digest >= $1 AND (digest > $1 OR quota_id > $2) ORDER BY digest, quota_id LIMIT $3",
        )
        .bind(after.0.as_str())
        .bind(after.1)
        .bind(PAGE)
        .fetch_all(db)
        .await?;
        let Some((digest, id, ..)) = rows.last() else { break };
        after = (digest.clone(), *id);
        for (digest, id, copies, size) in rows {
            if let Some(at) = all.by_id.get(&id).copied().filter(|_| is_in(&digest, part)) {
                all.those[at].wrong += u64::from(found.remove(&(at, digest)) != Some((copies, size)));
            }
        }
    }
    found.into_keys().for_each(|(at, _)| all.those[at].wrong += 1);
    Ok(())
}

/// Finds those that are there, and those that are kept after their deletion.
async fn find_manifests(
    db: &mut Connection<'_>,
    of: (i64, &[(usize, String)]),
    part: (u64, u64),
    found: &mut HashMap<(usize, String), (i64, i64)>,
) -> sqlx::Result<()> {
    for text in [
        "SELECT digest, size FROM manifests WHERE repository_id = $1 AND digest > $2 ORDER BY digest LIMIT $3",
        "SELECT digest, size FROM deleted_manifests \
         WHERE repository_id = $1 AND digest > $2 ORDER BY digest LIMIT $3",
    ] {
        find_in(db, text, of, part, found).await?;
    }
    Ok(())
}

async fn find_in(
    db: &mut Connection<'_>,
    text: &'static str,
    (repository, namespaces): (i64, &[(usize, String)]),
    part: (u64, u64),
    found: &mut HashMap<(usize, String), (i64, i64)>,
) -> sqlx::Result<()> {
    let mut after = String::new();
    loop {
        let page: Vec<(String, i64)> =
            query(text).bind(repository).bind(after.as_str()).bind(PAGE).fetch_all(db).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = last.clone();
        for (digest, size) in page.into_iter().filter(|(digest, _)| is_in(digest, part)) {
            for (namespace, _) in namespaces.iter().filter(|(_, last)| digest <= *last) {
                let (copies, largest) = found.entry((*namespace, digest.clone())).or_default();
                *copies += 1;
                *largest = size.max(*largest);
            }
        }
    }
}

async fn count_tags(
    db: &mut Connection<'_>,
    all: &mut All,
    (repository, name): (i64, &str),
) -> sqlx::Result<()> {
    for (at, last) in all.of(name, Kind::Tags) {
        let tags: i64 = query("SELECT COUNT(*) FROM tags WHERE repository_id = $1 AND name <= $2")
            .bind(repository)
            .bind(last.as_str())
            .fetch_one(db)
            .await?;
        all.those[at].found.tags += unsigned(tags);
    }
    Ok(())
}
