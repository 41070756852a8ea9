//! The changes of upload sessions.

use super::query::{Connection, query};
use super::rows::{Outcome, Stop, signed};
use super::{SqlMeta, unsigned};
use crate::reference::RepositoryName;
use crate::store::UploadId;
use crate::store::blob::StagedState;
use crate::store::errors::{claimed, sealed_otherwise, upload_moved, upload_unknown};
use crate::store::meta::UploadRecord;
use crate::{Digest, Result};
use std::time::Duration;

pub(super) async fn start(db: &mut Connection<'_>, record: &UploadRecord) -> Outcome<u64> {
    query(
        "INSERT INTO upload_sessions \
         (id, repository, algorithm, saved_offset, hash, backend, started_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
    )
    .bind(record.id.as_str())
    .bind(record.repository.as_str())
    .bind(record.algorithm.name())
    .bind(signed(record.state.offset))
    .bind(record.state.hash.as_slice())
    .bind(record.state.backend.as_slice())
    .bind(db.now())
    .execute(db)
    .await?;
    Ok(0)
}

/// Refuses what `writer` wants while another writer has claimed the session.
async fn check_claim(db: &mut Connection<'_>, id: &UploadId, writer: Option<&str>) -> Outcome<()> {
    let until: Option<i64> = query(
        "SELECT writer_until FROM upload_sessions \
         WHERE id = $1 AND writer_until > $2 AND writer <> COALESCE($3, '')",
    )
    .bind(id.as_str())
    .bind(db.now())
    .bind(writer)
    .fetch_scalar(db)
    .await?;
    match until {
        Some(until) => Err(Stop::Refused(claimed(id, Duration::from_secs(unsigned(until - db.now()))))),
        None => Ok(()),
    }
}

/// Refuses a writer that has no claim, or another one has had it since. The claim may have lapsed.
async fn check_holder(db: &mut Connection<'_>, id: &UploadId, writer: &str) -> Outcome<()> {
    let holder: Option<String> =
        query("SELECT writer FROM upload_sessions WHERE id = $1 AND writer IS NOT NULL")
            .bind(id.as_str())
            .fetch_scalar(db)
            .await?;
    match holder.as_deref() == Some(writer) {
        true => Ok(()),
        false => Err(Stop::Refused(claimed(id, Duration::ZERO))),
    }
}

/// Refuses a writer that began at another offset than the saved one.
async fn check_offset(db: &mut Connection<'_>, id: &UploadId, from: u64) -> Outcome<()> {
    match find(db, id).await? {
        Some(there) if there == signed(from) => Ok(()),
        Some(there) => Err(Stop::Refused(upload_moved(from, unsigned(there)))),
        None => Err(Stop::Refused(upload_unknown(id))),
    }
}

/// Saving the same bytes again leaves the time: else lost parts would look as if somebody finished the upload, for ever.
pub(super) async fn save(
    db: &mut Connection<'_>,
    id: &UploadId,
    from: u64,
    state: &StagedState,
    (writer, keeps_claim): (Option<&str>, bool),
) -> Outcome<u64> {
    check_offset(db, id, from).await?;
    if let Some(writer) = writer {
        check_holder(db, id, writer).await?;
    }
    query(
        "UPDATE upload_sessions SET saved_offset = $2, hash = $3, backend = $4, \
         updated_at = CASE WHEN saved_offset = $2 THEN updated_at ELSE $5 END, \
         writer_until = CASE WHEN writer = $6 THEN 0 ELSE writer_until END, \
         writer = CASE WHEN writer = $6 THEN NULL ELSE writer END \
         WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(signed(state.offset))
    .bind(state.hash.as_slice())
    .bind(state.backend.as_slice())
    .bind(db.now())
    .bind(writer.filter(|_| !keeps_claim).unwrap_or_default())
    .execute(db)
    .await?;
    Ok(0)
}

pub(super) async fn claim(
    db: &mut Connection<'_>,
    id: &UploadId,
    from: u64,
    writer: &str,
    (seconds, renews): (i64, bool),
) -> Outcome<u64> {
    check_offset(db, id, from).await?;
    check_claim(db, id, Some(writer)).await?;
    if renews {
        check_holder(db, id, writer).await?;
    }
    query("UPDATE upload_sessions SET writer = $2, writer_until = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(writer)
        .bind(db.now().saturating_add(seconds))
        .execute(db)
        .await?;
    Ok(0)
}

pub(super) async fn release(db: &mut Connection<'_>, id: &UploadId, writer: &str) -> Outcome<u64> {
    query("UPDATE upload_sessions SET writer = NULL, writer_until = 0 WHERE id = $1 AND writer = $2")
        .bind(id.as_str())
        .bind(writer)
        .execute(db)
        .await?;
    Ok(0)
}

/// The row says when it was sealed first: a later time would let lost parts look as if somebody finished the upload.
pub(super) async fn seal(
    db: &mut Connection<'_>,
    id: &UploadId,
    from: u64,
    writer: &str,
    content: &Digest,
) -> Outcome<u64> {
    check_offset(db, id, from).await?;
    check_holder(db, id, writer).await?;
    query("UPDATE upload_sessions SET sealed = $2, updated_at = $3 WHERE id = $1 AND sealed IS NULL")
        .bind(id.as_str())
        .bind(content.as_str())
        .bind(db.now())
        .execute(db)
        .await?;
    let sealed: Option<String> =
        query("SELECT sealed FROM upload_sessions WHERE id = $1").bind(id.as_str()).fetch_scalar(db).await?;
    match sealed {
        Some(sealed) if sealed == content.as_str() => Ok(0),
        Some(_) => Err(Stop::Refused(sealed_otherwise(id))),
        None => Err(Stop::Refused(upload_unknown(id))),
    }
}

/// The saved offset of a session.
pub(super) async fn find(db: &mut Connection<'_>, id: &UploadId) -> sqlx::Result<Option<i64>> {
    query("SELECT saved_offset FROM upload_sessions WHERE id = $1").bind(id.as_str()).fetch_scalar(db).await
}

pub(super) async fn end(db: &mut Connection<'_>, id: &UploadId) -> sqlx::Result<()> {
    query("DELETE FROM upload_sessions WHERE id = $1").bind(id.as_str()).execute(db).await?;
    Ok(())
}

pub(super) async fn end_unclaimed(
    db: &mut Connection<'_>,
    id: &UploadId,
    writer: Option<&str>,
) -> Outcome<u64> {
    check_claim(db, id, writer).await?;
    end(db, id).await?;
    Ok(0)
}

pub(super) async fn expire(db: &mut Connection<'_>, id: &UploadId, before: i64) -> Outcome<u64> {
    query("DELETE FROM upload_sessions WHERE id = $1 AND updated_at <= $2 AND writer_until <= $3")
        .bind(id.as_str())
        .bind(before)
        .bind(db.now())
        .execute(db)
        .await?;
    Ok(u64::from(find(db, id).await?.is_some()))
}

/// The repository, the algorithm, the saved offset, the state of the hash, and that of the place of the blobs.
type SessionRow = (String, String, i64, Vec<u8>, Vec<u8>);

impl SqlMeta {
    pub(super) async fn find_upload(&self, id: &UploadId) -> Result<Option<UploadRecord>> {
        let row: Option<SessionRow> = query(
            "SELECT repository, algorithm, saved_offset, hash, backend FROM upload_sessions WHERE id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let Some((repository, algorithm, offset, hash, backend)) = row else { return Ok(None) };
        let read = || {
            Ok(UploadRecord {
                id: id.clone(),
                repository: RepositoryName::parse(&repository)?,
                algorithm: algorithm.parse()?,
                state: StagedState { offset: unsigned(offset), hash, backend },
            })
        };
        read().map(Some).map_err(|e| self.damaged(e))
    }

    pub(super) async fn find_stale(&self, before: i64) -> Result<Vec<UploadId>> {
        let rows: Vec<(String,)> = query("SELECT id FROM upload_sessions WHERE updated_at <= $1")
            .bind(before)
            .fetch_all(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        rows.iter().map(|(id,)| UploadId::parse(id).map_err(|e| self.damaged(e))).collect()
    }
}
