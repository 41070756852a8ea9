//! The SQL statements of each change. Every check comes before the first statement that writes.

use super::keepers::{Known, is_kept};
use super::query::{Connection, query};
use super::queue::Asked;
use super::quotas::Quotas;
use super::rows::{Outcome, Stop, find_link, find_repository, make_repository, signed};
use super::{
    blobs, deletions, events, garbage, guards, holds, pulls, quotas as counts, scrub, sessions, tags,
};
use crate::Digest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::errors::{
    manifest_blob_unknown, manifest_unknown, not_kept, other_media_type, tag_moved, upload_unknown,
};
use crate::store::meta::event_drafts::{drafts, wanted};
use crate::store::meta::{Change, Edge, EdgeKind, ManifestChange, ScrubPlace};
use crate::store::{DeleteTarget, EventRules, TagGuard};
use std::collections::HashMap;

/// Applies a change, and records its events when that is wanted. What is known is of the changes before, in the same transaction.
pub(super) async fn apply(
    db: &mut Connection<'_>,
    (quotas, recording): (&Quotas, Option<EventRules>),
    known: &mut Known,
    Asked { change, by }: &Asked,
) -> Outcome<u64> {
    if !matches!(change, Change::CollectManifest { .. }) {
        *known = Known::default();
    }
    let Some(rules) = recording else { return apply_alone(db, quotas, known, change).await };
    let facts = events::find_facts(db, wanted(change)).await?;
    let result = apply_alone(db, quotas, known, change).await?;
    events::write(db, &drafts(change, (facts, result), rules, by.as_ref())).await?;
    Ok(result)
}

async fn apply_alone(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    known: &mut Known,
    change: &Change,
) -> Outcome<u64> {
    match change {
        Change::LinkBlob { repository, digest, size, key, upload, leased_until } => {
            if let Some(id) = upload {
                sessions::find(db, id).await?.ok_or_else(|| Stop::Refused(upload_unknown(id)))?;
            }
            let size =
                blobs::link_blob(db, quotas, (repository, digest), (*size, key), *leased_until).await?;
            if let Some(id) = upload {
                sessions::end(db, id).await?;
            }
            Ok(size)
        }
        Change::MountBlob { repository, digest, from, leased_until } => {
            blobs::mount_blob(db, quotas, (repository, digest), from, *leased_until).await
        }
        Change::UnlinkBlob { repository, digest } => blobs::unlink_blob(db, quotas, repository, digest).await,
        Change::LeaseBlob { repository, digest, until } => {
            blobs::lease_blob(db, repository, digest, *until).await
        }
        Change::CollectLink { repository, digest, now } => {
            garbage::collect_link(db, quotas, repository, digest, *now).await
        }
        Change::CondemnBlob { digest, mark } => blobs::condemn_blob(db, digest, *mark).await,
        Change::RemoveBlob { digest, mark } => blobs::remove_blob(db, digest, *mark).await,
        Change::CondemnBytes { digest, size, mark } => blobs::condemn_bytes(db, digest, *size, *mark).await,
        Change::QuarantineBlob { digest, key } => scrub::quarantine_blob(db, digest, key).await,
        Change::HoldScrub { holder, seconds, place } => {
            scrub::hold(db, scrub::SCRUB, (*holder, *seconds), place.as_ref()).await
        }
        Change::HoldRetention { holder, seconds, ended_at } => {
            let place = ended_at.map(|_| ScrubPlace { after: None, ended_at: *ended_at });
            scrub::hold(db, scrub::RETENTION, (*holder, *seconds), place.as_ref()).await
        }
        Change::HoldBytes { holder, seconds, renews } => {
            holds::hold_bytes(db, *holder, *seconds, *renews).await
        }
        Change::CollectManifest { repository, digest, before } => {
            collect_manifest(db, quotas, known, (repository, digest), *before).await
        }
        Change::PutManifest(change) => put_manifest(db, quotas, change).await,
        Change::DeleteManifest { repository, digest } => {
            delete_manifest(db, quotas, repository, digest).await
        }
        Change::PurgeDeleted { repository, digest } => deletions::purge(db, quotas, repository, digest).await,
        Change::ForgetDeletions => deletions::forget_ended(db, quotas).await,
        Change::DeleteTag { repository, tag } => delete_tag(db, quotas, repository, tag).await,
        Change::ExpireTag { repository, record, judged_at, unpulled_since } => {
            tags::expire(db, quotas, (repository, record), *judged_at, *unpulled_since).await
        }
        Change::NotePulls { pulls, lost } => pulls::note_pulls(db, pulls, *lost).await,
        Change::DeleteGuarded { repository, target, guard } => {
            delete_guarded(db, quotas, (repository, target), guard).await
        }
        Change::CountNamespace { namespace, rows } => {
            Ok(u64::from(counts::count_namespace(db, namespace, *rows).await?))
        }
        Change::ForgetNamespaces { after } => Ok(counts::forget_empty(db, quotas.rules(), *after).await?),
        Change::StartUpload { record, resends } => {
            quotas.check_start(db, &record.repository, resends.as_ref()).await?;
            sessions::start(db, record).await
        }
        Change::SaveUpload { id, from, state, writer, keeps_claim } => {
            sessions::save(db, id, *from, state, (writer.as_deref(), *keeps_claim)).await
        }
        Change::ClaimUpload { id, from, writer, seconds, renews } => {
            sessions::claim(db, id, *from, writer, (*seconds, *renews)).await
        }
        Change::ReleaseUpload { id, writer } => sessions::release(db, id, writer).await,
        Change::SealUpload { id, from, writer, content } => {
            sessions::seal(db, id, *from, writer, content).await
        }
        Change::EndUpload { id, writer } => sessions::end_unclaimed(db, id, writer.as_deref()).await,
        Change::ExpireUpload { id, before } => sessions::expire(db, id, *before).await,
        Change::Events(change) => events::apply(db, change).await,
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
    entries: &HashMap<&Digest, u64>,
) -> Outcome<()> {
    if let (EdgeKind::Entry, Some(size)) = (edge.kind, entries.get(&edge.digest)) {
        return edge.check_size(*size).map_err(Stop::Refused);
    }
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
    let entries: HashMap<&Digest, u64> =
        change.entries.iter().map(|of| (of.manifest.digest(), of.manifest.bytes().len() as u64)).collect();
    for of in change.entries.iter().chain([change]).filter(|_| change.undeletes) {
        let digest = of.manifest.digest();
        let is_there = match repository {
            Some(id) => {
                find_manifest(db, id, digest).await?.is_some() || deletions::is_kept(db, id, digest).await?
            }
            None => false,
        };
        if !is_there {
            return Err(Stop::Refused(not_kept(&change.repository, digest)));
        }
    }
    for of in change.entries.iter().chain([change]) {
        for edge in &of.edges {
            check_edge(db, repository, of, edge, &entries).await?;
        }
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

async fn put_manifest(db: &mut Connection<'_>, quotas: &Quotas, change: &ManifestChange) -> Outcome<u64> {
    let repository = find_repository(db, &change.repository).await?;
    check(db, repository, change).await?;
    let plan = quotas.plan_put(db, repository, change).await?;
    let repository = make_repository(db, &change.repository).await?;
    let now = db.now();
    for entry in &change.entries {
        // It was kept, so it counts.
        if find_manifest(db, repository, entry.manifest.digest()).await?.is_none() {
            deletions::forget_manifest(db, repository, entry.manifest.digest()).await?;
            insert_manifest(db, repository, entry, now).await?;
        }
    }
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
        None => {
            deletions::forget_manifest(db, repository, change.manifest.digest()).await?;
            insert_manifest(db, repository, change, now).await?
        }
    };
    for tag in &change.tags {
        deletions::note_tag(db, quotas.window(), (&change.repository, tag), Some(id)).await?;
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
    plan.count(db, change).await?;
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
    quotas: &Quotas,
    (repository, target): (&RepositoryName, &DeleteTarget),
    guard: &TagGuard,
) -> Outcome<u64> {
    guards::ask(db, repository, target, guard).await?;
    match target {
        DeleteTarget::Manifest(ManifestReference::Tag(tag)) => delete_tag(db, quotas, repository, tag).await,
        DeleteTarget::Manifest(ManifestReference::Digest(digest)) => {
            delete_manifest(db, quotas, repository, digest).await
        }
        DeleteTarget::Blob(digest) => blobs::unlink_blob(db, quotas, repository, digest).await,
    }
}

async fn delete_manifest(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    name: &RepositoryName,
    digest: &Digest,
) -> Outcome<u64> {
    let unknown = || Stop::Refused(manifest_unknown(name, digest));
    let repository = find_repository(db, name).await?.ok_or_else(unknown)?;
    let id = find_manifest(db, repository, digest).await?.ok_or_else(unknown)?;
    let is_kept = deletions::note_manifest(db, quotas.window(), (repository, digest), id).await?;
    remove_manifest(db, quotas, (name, digest), (repository, id), is_kept).await?;
    Ok(0)
}

async fn collect_manifest(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    known: &mut Known,
    (name, digest): (&RepositoryName, &Digest),
    before: i64,
) -> Outcome<u64> {
    let Some(repository) = find_repository(db, name).await? else { return Ok(0) };
    let Some(id) = find_manifest(db, repository, digest).await? else { return Ok(0) };
    let now = db.now();
    if is_kept(db, id, (before, now), known).await? {
        return Ok(0);
    }
    remove_manifest(db, quotas, (name, digest), (repository, id), false).await?;
    Ok(1)
}

/// Removes a manifest with its tags. It goes on to count when it is kept.
async fn remove_manifest(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    (name, digest): (&RepositoryName, &Digest),
    (repository, id): (i64, i64),
    is_kept: bool,
) -> sqlx::Result<()> {
    let covering = quotas.counted(db, name).await?;
    counts::untagged_all(db, &covering, name, id).await?;
    if !is_kept {
        counts::unmade(db, &covering, (name.as_str(), digest.as_str())).await?;
    }
    pulls::forget_manifest(db, repository, id).await?;
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

async fn delete_tag(
    db: &mut Connection<'_>,
    quotas: &Quotas,
    repository: &RepositoryName,
    tag: &Tag,
) -> Outcome<u64> {
    let covering = quotas.counted(db, repository).await?;
    deletions::note_tag(db, quotas.window(), (repository, tag), None).await?;
    let gone = query(
        "DELETE FROM tags WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND name = $2",
    )
    .bind(repository.as_str())
    .bind(tag.as_str())
    .execute(db)
    .await?;
    if gone == 0 {
        return Err(Stop::Refused(manifest_unknown(repository, tag)));
    }
    counts::untagged(db, &covering, repository, tag).await?;
    pulls::forget_tag(db, repository, tag.as_str()).await?;
    Ok(0)
}
