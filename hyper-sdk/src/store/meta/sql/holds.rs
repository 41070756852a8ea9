//! Who copies bytes: while one does, no collector removes any.

use super::SqlMeta;
use super::query::{Connection, query};
use super::rows::Outcome;
use crate::Result;

pub(super) async fn hold_bytes(
    db: &mut Connection<'_>,
    holder: u64,
    seconds: i64,
    renews: bool,
) -> Outcome<u64> {
    let (holder, now) = (holder.cast_signed(), db.now());
    let until = now.saturating_add(seconds);
    if renews {
        let held = query("UPDATE byte_holds SET held_until = $2 WHERE holder = $1 AND held_until > $3")
            .bind(holder)
            .bind(until)
            .bind(now)
            .execute(db)
            .await?;
        return Ok(held);
    }
    query("DELETE FROM byte_holds WHERE held_until <= $1 OR holder = $2")
        .bind(now)
        .bind(holder)
        .execute(db)
        .await?;
    if seconds > 0 {
        query("INSERT INTO byte_holds (holder, held_until) VALUES ($1, $2)")
            .bind(holder)
            .bind(until)
            .execute(db)
            .await?;
    }
    Ok(1)
}

/// Whether somebody copies bytes, or the store is filled: then nobody marks a blob or deletes bytes.
pub(super) async fn are_held(db: &mut Connection<'_>, now: i64) -> sqlx::Result<bool> {
    query("SELECT EXISTS (SELECT 1 FROM byte_holds WHERE held_until > $1) OR EXISTS (SELECT 1 FROM restore)")
        .bind(now)
        .fetch_one(db)
        .await
}

impl SqlMeta {
    pub(super) async fn find_holds(&self, now: i64) -> Result<bool> {
        are_held(&mut self.reader().await?.connection(), now).await.map_err(|e| self.failed(e))
    }
}
