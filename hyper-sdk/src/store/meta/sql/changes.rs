//! The SQL statements of each change. Every check comes before the first statement that writes.

use super::query::{Connection, query};
use super::rows::{Outcome, Stop, find_link, find_repository, make_repository, signed};
use super::{blobs, guards, keepers};
use crate::Digest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::blob::StagedState;
use crate::store::errors::{
    manifest_blob_unknown, manifest_unknown, other_media_type, sealed_otherwise, tag_moved, upload_moved,
    upload_unknown,
};
use crate::store::meta::{Change, Edge, EdgeKind, ManifestChange, UploadRecord};
use crate::store::{DeleteTarget, TagGuard, UploadId};

pub(super) async fn apply(db: &mut Connection<'_>, change: &Change) -> Outcome<u64> {
    match change {
        Change::LinkBlob { repository, digest, size, key, upload, leased_until } => {
            if let Some(id) = upload {
                find_upload(db, id).await?.ok_or_else(|| Stop::Refused(upload_unknown(id)))?;
            }
            let size = blobs::link_blob(db, (repository, digest), *size, key, *leased_until).await?;
            if let Some(id) = upload {
                end_upload(db, id).await?;
            }
            Ok(size)
        }
        Change::MountBlob { repository, digest, from, leased_until } => {
            blobs::mount_blob(db, (repository, digest), from, *leased_until).await
        }
        Change::UnlinkBlob { repository, digest } => blobs::unlink_blob(db, repository, digest).await,
        Change::LeaseBlob { repository, digest, until } => {
            blobs::lease_blob(db, repository, digest, *until).await
        }
        Change::CollectLink { repository, digest, now } => {
            blobs::collect_link(db, repository, digest, *now).await
        }
        Change::CondemnBlob { digest, mark } => blobs::condemn_blob(db, digest, *mark).await,
        Change::RemoveBlob { digest, mark } => blobs::remove_blob(db, digest, *mark).await,
        Change::CondemnBytes { digest, size, mark } => blobs::condemn_bytes(db, digest, *size, *mark).await,
        Change::CollectManifest { repository, digest, before } => {
            collect_manifest(db, repository, digest, *before).await
        }
        Change::PutManifest(change) => put_manifest(db, change).await,
        Change::DeleteManifest { repository, digest } => delete_manifest(db, repository, digest).await,
        Change::DeleteTag { repository, tag } => delete_tag(db, repository, tag).await,
        Change::DeleteGuarded { repository, target, guard } => {
            delete_guarded(db, repository, target, guard).await
        }
        Change::StartUpload(record) => start_upload(db, record).await,
        Change::SaveUpload { id, from, state } => save_upload(db, id, *from, state).await,
        Change::SealUpload { id, content } => seal_upload(db, id, content).await,
        Change::EndUpload { id } => end_upload(db, id).await,
        Change::ExpireUpload { id, before } => expire_upload(db, id, *before).await,
    }
    .inspect_err(|stop| {
        if let Stop::Refused(e) = stop {
            tracing::trace!(error = %e, "a change was rejected");
        }
    })
}

async fn find_manifest(
    db: &mut Connection<'_>,
    repository: i64,
    digest: &Digest,
) -> sqlx::Result<Option<i64>> {
    query("SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2")
        .bind(repository)
        .bind(digest.as_str())
        .fetch_scalar(db)
        .await
}

/// Rejects an edge without a target, or whose target has another size.
async fn check_edge(
    db: &mut Connection<'_>,
    repository: Option<i64>,
    change: &ManifestChange,
    edge: &Edge,
) -> Outcome<()> {
    if let (Some(id), EdgeKind::Entry) = (repository, edge.kind) {
        let size: Option<i64> = query("SELECT size FROM manifests WHERE repository_id = $1 AND digest = $2")
            .bind(id)
            .bind(edge.digest.as_str())
            .fetch_scalar(db)
            .await?;
        if let Some(size) = size {
            return edge.check_size(super::unsigned(size)).map_err(Stop::Refused);
        }
    }
    let linked = match repository {
        Some(id) => find_link(db, id, &edge.digest).await?,
        None => None,
    };
    match linked {
        Some((_, size)) => edge.check_blob(change, super::unsigned(size)).map_err(Stop::Refused),
        None if edge.required => Err(Stop::Refused(manifest_blob_unknown(&change.repository, edge))),
        None => Ok(()),
    }
}

async fn check(db: &mut Connection<'_>, repository: Option<i64>, change: &ManifestChange) -> Outcome<()> {
    for edge in &change.edges {
        check_edge(db, repository, change, edge).await?;
    }
    if let Some(id) = repository {
        let stored: Option<String> =
            query("SELECT media_type FROM manifests WHERE repository_id = $1 AND digest = $2")
                .bind(id)
                .bind(change.manifest.digest().as_str())
                .fetch_scalar(db)
                .await?;
        if let Some(stored) = stored.filter(|stored| stored != change.manifest.media_type()) {
            return Err(Stop::Refused(other_media_type(&change.manifest, &stored)));
        }
    }
    if change.if_match.is_none() && change.guard.is_none() {
        return Ok(());
    }
    for tag in &change.tags {
        let now: Option<String> = query(
            "SELECT m.digest FROM tags t JOIN manifests m ON m.id = t.manifest_id \
             WHERE t.repository_id = $1 AND t.name = $2",
        )
        .bind(repository)
        .bind(tag.as_str())
        .fetch_scalar(db)
        .await?;
        if let Some(guard) = &change.guard {
            guard.check_put(tag, now.as_deref(), change.manifest.digest()).map_err(Stop::Refused)?;
        }
        if let Some(expected) = &change.if_match
            && now.as_deref() != expected.as_ref().map(Digest::as_str)
        {
            let now = now.and_then(|now| Digest::parse(&now).ok());
            return Err(Stop::Refused(tag_moved(tag, now.as_ref())));
        }
    }
    Ok(())
}

async fn put_manifest(db: &mut Connection<'_>, change: &ManifestChange) -> Outcome<u64> {
    let repository = find_repository(db, &change.repository).await?;
    check(db, repository, change).await?;
    let repository = make_repository(db, &change.repository).await?;
    let now = db.now();
    let id = match find_manifest(db, repository, change.manifest.digest()).await? {
        Some(id) => {
            // A collector counts from here. The time is not exact, so that repeated pushes cause few writes.
            // That of one without a tag is: what was removed by its name and is stored again must not go.
            query(
                "UPDATE manifests SET created_at = $1 WHERE id = $2 AND created_at < $1 \
                 AND (created_at < $1 - 60 OR NOT EXISTS (SELECT 1 FROM tags WHERE manifest_id = $2))",
            )
            .bind(now)
            .bind(id)
            .execute(db)
            .await?;
            // Pushing a manifest again repairs one that is damaged.
            query("UPDATE manifests SET body = $1, size = $2 WHERE id = $3 AND body <> $1")
                .bind(change.manifest.bytes().as_ref())
                .bind(signed(change.manifest.bytes().len() as u64))
                .bind(id)
                .execute(db)
                .await?;
            id
        }
        None => insert_manifest(db, repository, change, now).await?,
    };
    for tag in &change.tags {
        query(
            "INSERT INTO tags (repository_id, name, manifest_id, updated_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (repository_id, name) DO UPDATE \
             SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at",
        )
        .bind(repository)
        .bind(tag.as_str())
        .bind(id)
        .bind(now)
        .execute(db)
        .await?;
    }
    Ok(0)
}

async fn insert_manifest(
    db: &mut Connection<'_>,
    repository: i64,
    change: &ManifestChange,
    now: i64,
) -> sqlx::Result<i64> {
    let manifest = &change.manifest;
    let annotations = serde_json::to_string(manifest.annotations()).unwrap_or_else(|_| "{}".to_owned());
    let id: i64 = query(
        "INSERT INTO manifests \
         (repository_id, digest, media_type, subject, artifact_type, annotations, size, created_at, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
    )
    .bind(repository)
    .bind(manifest.digest().as_str())
    .bind(manifest.media_type())
    .bind(manifest.subject().map(|s| s.digest.as_str()))
    .bind(manifest.artifact_type())
    .bind(annotations.as_str())
    .bind(signed(manifest.bytes().len() as u64))
    .bind(now)
    .bind(manifest.bytes().as_ref())
    .fetch_one(db)
    .await?;
    for edge in &change.edges {
        let kind = match edge.kind {
            EdgeKind::Blob => 0i64,
            EdgeKind::Entry => 1,
        };
        query("INSERT INTO manifest_refs (manifest_id, kind, digest) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(kind)
            .bind(edge.digest.as_str())
            .execute(db)
            .await?;
    }
    Ok(id)
}

async fn delete_guarded(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    target: &DeleteTarget,
    guard: &TagGuard,
) -> Outcome<u64> {
    guards::ask(db, repository, target, guard).await?;
    match target {
        DeleteTarget::Manifest(ManifestReference::Tag(tag)) => delete_tag(db, repository, tag).await,
        DeleteTarget::Manifest(ManifestReference::Digest(digest)) => {
            delete_manifest(db, repository, digest).await
        }
        DeleteTarget::Blob(digest) => blobs::unlink_blob(db, repository, digest).await,
    }
}

async fn delete_manifest(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Outcome<u64> {
    let unknown = || Stop::Refused(manifest_unknown(repository, digest));
    let repository = find_repository(db, repository).await?.ok_or_else(unknown)?;
    let id = find_manifest(db, repository, digest).await?.ok_or_else(unknown)?;
    remove_manifest(db, repository, id).await?;
    Ok(0)
}

async fn collect_manifest(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    before: i64,
) -> Outcome<u64> {
    let Some(repository) = find_repository(db, repository).await? else { return Ok(0) };
    let Some(id) = find_manifest(db, repository, digest).await? else { return Ok(0) };
    if keepers::is_kept(db, id, before).await? {
        return Ok(0);
    }
    remove_manifest(db, repository, id).await?;
    Ok(1)
}

async fn remove_manifest(db: &mut Connection<'_>, repository: i64, id: i64) -> sqlx::Result<()> {
    for text in [
        "DELETE FROM tags WHERE manifest_id = $1",
        "DELETE FROM manifest_refs WHERE manifest_id = $1",
        "DELETE FROM manifests WHERE id = $1",
    ] {
        query(text).bind(id).execute(db).await?;
    }
    query(
        "UPDATE repositories SET listed = 0 \
         WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM manifests WHERE repository_id = $1)",
    )
    .bind(repository)
    .execute(db)
    .await?;
    Ok(())
}

async fn delete_tag(db: &mut Connection<'_>, repository: &RepositoryName, tag: &Tag) -> Outcome<u64> {
    let gone = query(
        "DELETE FROM tags WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND name = $2",
    )
    .bind(repository.as_str())
    .bind(tag.as_str())
    .execute(db)
    .await?;
    if gone == 0 { Err(Stop::Refused(manifest_unknown(repository, tag))) } else { Ok(0) }
}

async fn start_upload(db: &mut Connection<'_>, record: &UploadRecord) -> Outcome<u64> {
    query(
        "INSERT INTO uploads (id, repository, algorithm, saved_offset, hash, backend, started_at, updated_at) \
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

/// Saving the same bytes again leaves the time: else lost parts would look as if somebody finished the upload, for ever.
async fn save_upload(db: &mut Connection<'_>, id: &UploadId, from: u64, state: &StagedState) -> Outcome<u64> {
    let saved = query(
        "UPDATE uploads SET saved_offset = $2, hash = $3, backend = $4, \
         updated_at = CASE WHEN saved_offset = $2 THEN updated_at ELSE $5 END \
         WHERE id = $1 AND saved_offset = $6",
    )
    .bind(id.as_str())
    .bind(signed(state.offset))
    .bind(state.hash.as_slice())
    .bind(state.backend.as_slice())
    .bind(db.now())
    .bind(signed(from))
    .execute(db)
    .await?;
    if saved > 0 {
        return Ok(0);
    }
    let there = find_upload(db, id).await?;
    Err(Stop::Refused(
        there.map_or_else(|| upload_unknown(id), |there| upload_moved(from, super::unsigned(there))),
    ))
}

/// The row says when it was sealed first: a later time would let lost parts look as if somebody finished the upload.
async fn seal_upload(db: &mut Connection<'_>, id: &UploadId, content: &Digest) -> Outcome<u64> {
    query("UPDATE uploads SET sealed = $2, updated_at = $3 WHERE id = $1 AND sealed IS NULL")
        .bind(id.as_str())
        .bind(content.as_str())
        .bind(db.now())
        .execute(db)
        .await?;
    let sealed: Option<String> =
        query("SELECT sealed FROM uploads WHERE id = $1").bind(id.as_str()).fetch_scalar(db).await?;
    match sealed {
        Some(sealed) if sealed == content.as_str() => Ok(0),
        Some(_) => Err(Stop::Refused(sealed_otherwise(id))),
        None => Err(Stop::Refused(upload_unknown(id))),
    }
}

/// The saved offset of a session.
async fn find_upload(db: &mut Connection<'_>, id: &UploadId) -> sqlx::Result<Option<i64>> {
    query("SELECT saved_offset FROM uploads WHERE id = $1").bind(id.as_str()).fetch_scalar(db).await
}

async fn end_upload(db: &mut Connection<'_>, id: &UploadId) -> Outcome<u64> {
    query("DELETE FROM uploads WHERE id = $1").bind(id.as_str()).execute(db).await?;
    Ok(0)
}

async fn expire_upload(db: &mut Connection<'_>, id: &UploadId, before: i64) -> Outcome<u64> {
    query("DELETE FROM uploads WHERE id = $1 AND updated_at <= $2")
        .bind(id.as_str())
        .bind(before)
        .execute(db)
        .await?;
    let goes_on: Option<i64> =
        query("SELECT updated_at FROM uploads WHERE id = $1").bind(id.as_str()).fetch_scalar(db).await?;
    Ok(u64::from(goes_on.is_some()))
}
