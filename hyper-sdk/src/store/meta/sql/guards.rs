//! The questions to a rule for tags before a deletion.

use super::query::{Connection, query};
use super::rows::{Outcome, Stop, find_repository};
use crate::Digest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{DeleteTarget, TagChange, TagGuard};

/// Asks about every tag that is deleted with a target, or needs it.
pub(super) async fn ask(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    target: &DeleteTarget,
    guard: &TagGuard,
) -> Outcome<()> {
    if !guard.asks_about_deletions() {
        return Ok(());
    }
    match target {
        DeleteTarget::Manifest(ManifestReference::Tag(tag)) => ask_about(db, repository, tag, guard).await,
        DeleteTarget::Manifest(ManifestReference::Digest(digest)) | DeleteTarget::Blob(digest) => {
            ask_about_needing(db, repository, digest, guard).await
        }
    }
}

/// Asks about a tag, if it is there.
async fn ask_about(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    tag: &Tag,
    guard: &TagGuard,
) -> Outcome<()> {
    let is_there: Option<i64> = query(
        "SELECT t.manifest_id FROM tags t JOIN repositories r ON r.id = t.repository_id \
         WHERE r.name = $1 AND t.name = $2",
    )
    .bind(repository.as_str())
    .bind(tag.as_str())
    .fetch_scalar(db)
    .await?;
    match is_there {
        Some(_) => guard.check(tag, TagChange::Delete).map_err(Stop::Refused),
        None => Ok(()),
    }
}

/// The tags of the manifest `$2` of the repository `$1`, and of the manifests and indexes there that need the manifest or blob `$2`.
///
/// `CROSS JOIN` keeps SQLite to the order of the tables. The repository of a manifest is a query of its own for each reference:
/// PostgreSQL would read all manifests of the repository for each of those that need it. So all references to each digest are
/// read, also those of other repositories.
pub(super) const NEEDING: &str = "WITH RECURSIVE needing (id, digest) AS ( \
     SELECT m.id, m.digest FROM manifests m WHERE m.repository_id = $1 AND m.digest = $2 \
     UNION SELECT f.manifest_id, (SELECT m.digest FROM manifests m WHERE m.id = f.manifest_id) FROM manifest_refs f \
     WHERE f.digest = $2 AND (SELECT m.repository_id FROM manifests m WHERE m.id = f.manifest_id) = $1 \
     UNION SELECT f.manifest_id, (SELECT p.digest FROM manifests p WHERE p.id = f.manifest_id) \
     FROM needing n CROSS JOIN manifest_refs f \
     WHERE f.digest = n.digest AND (SELECT p.repository_id FROM manifests p WHERE p.id = f.manifest_id) = $1) \
     SELECT COALESCE(string_agg(t.name, ' ' ORDER BY t.name), '') \
     FROM needing n CROSS JOIN tags t WHERE t.manifest_id = n.id";

/// Asks about each tag of a manifest, and of the manifests and indexes that need a manifest or a blob.
async fn ask_about_needing(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    guard: &TagGuard,
) -> Outcome<()> {
    let Some(repository) = find_repository(db, repository).await? else { return Ok(()) };
    // The names in one row: thousands of rows would take longer than the search. No tag has a space.
    let tags: Option<String> = query(NEEDING).bind(repository).bind(digest.as_str()).fetch_scalar(db).await?;
    for tag in tags.iter().flat_map(|tags| tags.split_ascii_whitespace()) {
        let tag = Tag::parse(tag).map_err(Stop::Refused)?;
        guard.check(&tag, TagChange::Delete).map_err(Stop::Refused)?;
    }
    Ok(())
}
