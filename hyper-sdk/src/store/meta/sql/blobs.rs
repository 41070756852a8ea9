//! Blobs and their links: the changes, and the queries.

use super::query::{Connection, query};
use super::quotas::{LinkPlan, Quotas, unlinked};
use super::rows::{Outcome, Stop, find_link, find_repository, make_repository, signed};
use super::{SqlMeta, holds, unsigned};
use crate::reference::RepositoryName;
use crate::store::Listing;
use crate::store::blob::BlobKey;
use crate::store::errors::{being_removed, blob_unknown, bytes_damaged};
use crate::store::meta::BlobRecord;
use crate::{Digest, Result};
use std::collections::HashSet;
use std::sync::LazyLock;

/// A key as the database stores it: NULL when it is the digest.
pub(super) fn own_key(key: &BlobKey) -> Option<&str> {
    match key {
        BlobKey::Digest(_) => None,
        BlobKey::Own(name) => Some(name),
    }
}

/// The mark of a garbage collector, with the same bits as a signed number.
fn mark_to_row(mark: u64) -> i64 {
    mark.cast_signed()
}

/// A row of `size, own_key, condemned, quarantined`.
pub(super) type BlobRow = (i64, Option<String>, Option<i64>, Option<i64>);

pub(super) fn record(digest: Digest, (size, own_key, condemned, quarantined): BlobRow) -> BlobRecord {
    let key = own_key.map_or_else(|| BlobKey::Digest(digest.clone()), BlobKey::Own);
    BlobRecord {
        digest,
        size: unsigned(size),
        key,
        condemned: condemned.map(i64::cast_unsigned),
        quarantined: quarantined.is_some(),
    }
}

async fn link(
    db: &mut Connection<'_>,
    plan: LinkPlan,
    repository: &RepositoryName,
    blob: i64,
    leased_until: i64,
) -> sqlx::Result<()> {
    let id = make_repository(db, repository).await?;
    query(
        "INSERT INTO blob_links (repository_id, blob_id, leased_until) VALUES ($1, $2, $3) \
         ON CONFLICT (repository_id, blob_id) DO UPDATE SET leased_until = excluded.leased_until \
         WHERE blob_links.leased_until < excluded.leased_until",
    )
    .bind(id)
    .bind(blob)
    .bind(leased_until)
    .execute(db)
    .await?;
    plan.count(db, repository, blob).await
}

/// The row of a blob: its id or digest, its size, its own key, its mark, and since when it is damaged.
pub(super) type KeyedBlobRow<K> = (K, i64, Option<String>, Option<i64>, Option<i64>);

pub(super) async fn link_blob(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    (repository, digest): (&RepositoryName, &Digest),
    (size, key): (u64, &BlobKey),
    leased_until: i64,
) -> Outcome<u64> {
    let found: Option<KeyedBlobRow<i64>> =
        query("SELECT id, size, own_key, condemned, quarantined FROM blobs WHERE digest = $1")
            .bind(digest.as_str())
            .fetch_optional(db)
            .await?;
    let known = found.as_ref().map(|(id, size, ..)| (*id, *size));
    let (blob, plan) = match found {
        Some((_, _, found, Some(_), _)) if found.as_deref() == own_key(key) => {
            return Err(Stop::Refused(being_removed(digest)));
        }
        Some((_, _, found, None, Some(_))) if found.as_deref() == own_key(key) => {
            return Err(Stop::Refused(bytes_damaged(digest)));
        }
        Some((id, found_size, found, None, None))
            if found_size == signed(size) && found.as_deref() == own_key(key) =>
        {
            (id, quotas.plan_link(db, repository, known, signed(size)).await?)
        }
        _ => {
            let plan = quotas.plan_link(db, repository, known, signed(size)).await?;
            let id = query(
                "INSERT INTO blobs (digest, size, own_key, created_at) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (digest) DO UPDATE \
                 SET size = excluded.size, own_key = excluded.own_key, condemned = NULL, quarantined = NULL \
                 RETURNING id",
            )
            .bind(digest.as_str())
            .bind(signed(size))
            .bind(own_key(key))
            .bind(db.now())
            .fetch_one(db)
            .await?;
            (id, plan)
        }
    };
    link(db, plan, repository, blob, leased_until).await?;
    Ok(size)
}

pub(super) async fn mount_blob(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    (repository, digest): (&RepositoryName, &Digest),
    from: &RepositoryName,
    leased_until: i64,
) -> Outcome<u64> {
    let found = match find_repository(db, from).await? {
        Some(from) => find_link(db, from, digest).await?,
        None => None,
    };
    let (blob, size) = found.ok_or_else(|| Stop::Refused(blob_unknown(from, digest)))?;
    let plan = quotas.plan_link(db, repository, Some((blob, size)), size).await?;
    link(db, plan, repository, blob, leased_until).await?;
    Ok(unsigned(size))
}

pub(super) async fn unlink_blob(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    repository: &RepositoryName,
    digest: &Digest,
) -> Outcome<u64> {
    let covering = quotas.counted(db, repository).await?;
    let gone = query(
        "DELETE FROM blob_links WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) \
         AND blob_id = (SELECT id FROM blobs WHERE digest = $2)",
    )
    .bind(repository.as_str())
    .bind(digest.as_str())
    .execute(db)
    .await?;
    if gone == 0 {
        return Err(Stop::Refused(blob_unknown(repository, digest)));
    }
    if !covering.is_empty() {
        let blob =
            query("SELECT id FROM blobs WHERE digest = $1").bind(digest.as_str()).fetch_one(db).await?;
        unlinked(db, &covering, repository, blob).await?;
    }
    Ok(0)
}

pub(super) async fn lease_blob(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    until: i64,
) -> Outcome<u64> {
    let found = match find_repository(db, repository).await? {
        Some(id) => find_link(db, id, digest).await?.map(|(blob, _)| (id, blob)),
        None => None,
    };
    let (repository, blob) = found.ok_or_else(|| Stop::Refused(blob_unknown(repository, digest)))?;
    query(
        "UPDATE blob_links SET leased_until = $3 \
         WHERE repository_id = $1 AND blob_id = $2 AND leased_until < $3",
    )
    .bind(repository)
    .bind(blob)
    .bind(until)
    .execute(db)
    .await?;
    Ok(0)
}

pub(super) async fn condemn_blob(db: &mut Connection<'_>, digest: &Digest, mark: u64) -> Outcome<u64> {
    // One that is marked already was so before anybody took a hold, and goes on: a push of it waits for the end.
    let marked = query(
        "UPDATE blobs SET condemned = $2 \
         WHERE digest = $1 AND NOT EXISTS (SELECT 1 FROM blob_links l WHERE l.blob_id = blobs.id) \
         AND (condemned IS NOT NULL OR NOT EXISTS (SELECT 1 FROM byte_holds WHERE held_until > $3) \
         AND NOT EXISTS (SELECT 1 FROM restore))",
    )
    .bind(digest.as_str())
    .bind(mark_to_row(mark))
    .bind(db.now())
    .execute(db)
    .await?;
    Ok(marked)
}

pub(super) async fn condemn_bytes(
    db: &mut Connection<'_>,
    digest: &Digest,
    size: u64,
    mark: u64,
) -> Outcome<u64> {
    if holds::are_held(db, db.now()).await? {
        return Ok(0);
    }
    let made = query(
        "INSERT INTO blobs (digest, size, condemned, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (digest) DO NOTHING",
    )
    .bind(digest.as_str())
    .bind(signed(size))
    .bind(mark_to_row(mark))
    .bind(db.now())
    .execute(db)
    .await?;
    Ok(made)
}

pub(super) async fn remove_blob(db: &mut Connection<'_>, digest: &Digest, mark: u64) -> Outcome<u64> {
    let gone = query("DELETE FROM blobs WHERE digest = $1 AND condemned = $2")
        .bind(digest.as_str())
        .bind(mark_to_row(mark))
        .execute(db)
        .await?;
    Ok(gone)
}

impl SqlMeta {
    pub(super) async fn find_blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        let mut records = Vec::with_capacity(digests.len());
        for digest in digests {
            let row: Option<BlobRow> =
                query("SELECT size, own_key, condemned, quarantined FROM blobs WHERE digest = $1")
                    .bind(digest.as_str())
                    .fetch_optional(&mut self.reader().await?.connection())
                    .await
                    .map_err(|e| self.failed(e))?;
            records.push(row.map(|row| record(digest.clone(), row)));
        }
        Ok(records)
    }

    /// Ordered by the id of the repository, which the index supports.
    pub(super) async fn find_repositories(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>> {
        if limit == 0 {
            return Ok(Listing { items: Vec::new(), more: false });
        }
        let rows = query(
            "SELECT r.name FROM blobs b JOIN blob_links l ON l.blob_id = b.id \
             JOIN repositories r ON r.id = l.repository_id \
             WHERE b.digest = $1 \
             AND l.repository_id > COALESCE((SELECT id FROM repositories WHERE name = $2), 0) \
             ORDER BY l.repository_id LIMIT $3",
        )
        .bind(digest.as_str())
        .bind(after)
        .bind(limit as i64 + 1)
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        super::page(rows, limit, RepositoryName::parse).map_err(|e| self.damaged(e))
    }

    pub(super) async fn find_keys(&self, keys: &[BlobKey]) -> Result<Vec<bool>> {
        let mut named = HashSet::new();
        let is_own = |key: &&BlobKey| matches!(key, BlobKey::Own(_));
        for (text, own) in [(&*WITH_DIGESTS, false), (&*WITH_KEYS, true)] {
            let asked: Vec<&BlobKey> = keys.iter().filter(|key| is_own(key) == own).collect();
            for some in asked.chunks(KEYS) {
                let mut query = query(text);
                for number in 0..KEYS {
                    query = query.bind(some.get(number).map(|key| match key {
                        BlobKey::Digest(digest) => digest.as_str(),
                        BlobKey::Own(name) => name.as_str(),
                    }));
                }
                let rows: Vec<(String,)> = query
                    .fetch_all(&mut self.reader().await?.connection())
                    .await
                    .map_err(|e| self.failed(e))?;
                named.extend(rows.into_iter().map(|(text,)| (own, text)));
            }
        }
        let is_named = |key: &BlobKey| match key {
            BlobKey::Digest(digest) => named.contains(&(false, digest.as_str().to_owned())),
            BlobKey::Own(name) => named.contains(&(true, name.clone())),
        };
        Ok(keys.iter().map(is_named).collect())
    }
}

/// How many keys one query looks for.
const KEYS: usize = 100;

/// A query for those of [`KEYS`] texts that a column has. Texts that are not asked for are NULL.
fn those_in(column: &str, condition: &str) -> String {
    let texts: Vec<String> = (1..=KEYS).map(|number| format!("${number}")).collect();
    format!("SELECT {column} FROM blobs WHERE {condition} AND {column} IN ({})", texts.join(", "))
}

static WITH_DIGESTS: LazyLock<String> = LazyLock::new(|| those_in("digest", "own_key IS NULL"));
static WITH_KEYS: LazyLock<String> = LazyLock::new(|| those_in("own_key", "own_key IS NOT NULL"));
