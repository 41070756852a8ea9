//! What a scrub asks and writes: the blobs in their order, its place, and the mark of damaged bytes. The same table knows who
//! deletes old tags, in a row of its own.

use super::query::{Connection, query};
use super::rows::Outcome;
use super::{SqlMeta, blobs};
use crate::reference::RepositoryName;
use crate::store::blob::BlobKey;
use crate::store::meta::{BlobRecord, ManifestAt, ScrubPlace};
use crate::{Digest, Result};

pub(super) async fn quarantine_blob(db: &mut Connection<'_>, digest: &Digest, key: &BlobKey) -> Outcome<u64> {
    let now = db.now();
    let marked = match blobs::own_key(key) {
        Some(key) => query(
            "UPDATE blobs SET quarantined = $2 \
             WHERE digest = $1 AND condemned IS NULL AND quarantined IS NULL AND own_key = $3",
        )
        .bind(digest.as_str())
        .bind(now)
        .bind(key),
        None => query(
            "UPDATE blobs SET quarantined = $2 \
             WHERE digest = $1 AND condemned IS NULL AND quarantined IS NULL AND own_key IS NULL",
        )
        .bind(digest.as_str())
        .bind(now),
    };
    Ok(marked.execute(db).await?)
}

/// The row of the scrub.
pub(super) const SCRUB: i64 = 1;
/// The row of the retention of tags. It has no place within a run.
pub(super) const RETENTION: i64 = 2;
/// The longest time for which somebody takes the right, in seconds, unless another one asks for longer.
const LONGEST: i64 = 60 * 60;

pub(super) async fn hold(
    db: &mut Connection<'_>,
    row: i64,
    (holder, seconds): (u64, i64),
    place: Option<&ScrubPlace>,
) -> Outcome<u64> {
    let now = db.now();
    // A right that was given back is free, also when the clock is set back then.
    let until = if seconds == 0 { 0 } else { now.saturating_add(seconds) };
    let held = query(
        "INSERT INTO scrub (id, holder, held_until) VALUES ($4, $1, $2) ON CONFLICT (id) DO UPDATE \
         SET holder = excluded.holder, held_until = excluded.held_until \
         WHERE scrub.holder = excluded.holder OR scrub.held_until <= $3 OR scrub.held_until > $5",
    )
    .bind(holder.cast_signed())
    .bind(until)
    .bind(now)
    .bind(row)
    // Nobody takes it for longer: the clock was set back since.
    .bind(now.saturating_add(seconds.max(LONGEST)))
    .execute(db)
    .await?;
    if let Some(place) = place.filter(|_| held > 0) {
        query("UPDATE scrub SET place = $1, ended_at = $2 WHERE id = $3")
            .bind(place.after.as_ref().map(Digest::as_str))
            .bind(place.ended_at)
            .bind(row)
            .execute(db)
            .await?;
    }
    Ok(held)
}

impl SqlMeta {
    pub(super) async fn find_linked(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        let rows: Vec<blobs::KeyedBlobRow<String>> = query(
            "SELECT digest, size, own_key, condemned, quarantined FROM blobs b \
             WHERE digest > $1 AND EXISTS (SELECT 1 FROM blob_links l WHERE l.blob_id = b.id) \
             ORDER BY digest LIMIT $2",
        )
        .bind(after.map_or("", Digest::as_str))
        .bind(limit as i64)
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let read = |(digest, size, key, condemned, quarantined): (String, _, _, _, _)| {
            Ok(blobs::record(Digest::parse(&digest)?, (size, key, condemned, quarantined)))
        };
        rows.into_iter().map(read).collect::<Result<_>>().map_err(|e| self.damaged(e))
    }

    pub(super) async fn find_manifests_with(&self, digest: &Digest, limit: usize) -> Result<Vec<ManifestAt>> {
        let rows: Vec<(String, String)> = query(
            "SELECT r.name, m.digest FROM manifest_refs f JOIN manifests m ON m.id = f.manifest_id \
             JOIN repositories r ON r.id = m.repository_id WHERE f.digest = $1 ORDER BY m.id LIMIT $2",
        )
        .bind(digest.as_str())
        .bind(limit as i64)
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let at = |(name, digest): &(String, String)| {
            Ok(ManifestAt { repository: RepositoryName::parse(name)?, digest: Digest::parse(digest)? })
        };
        rows.iter().map(at).collect::<Result<_>>().map_err(|e| self.damaged(e))
    }

    pub(super) async fn find_last_retention(&self) -> Result<Option<i64>> {
        let row: Option<(Option<i64>,)> = query("SELECT ended_at FROM scrub WHERE id = $1")
            .bind(RETENTION)
            .fetch_optional(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        Ok(row.and_then(|(ended_at,)| ended_at))
    }

    pub(super) async fn find_scrub_place(&self) -> Result<ScrubPlace> {
        let row: Option<(Option<String>, Option<i64>)> =
            query("SELECT place, ended_at FROM scrub WHERE id = 1")
                .fetch_optional(&mut self.reader().await?.connection())
                .await
                .map_err(|e| self.failed(e))?;
        let (after, ended_at) = row.unwrap_or_default();
        let after = after.as_deref().map(Digest::parse).transpose().map_err(|e| self.damaged(e))?;
        Ok(ScrubPlace { after, ended_at })
    }
}
