//! Notes of pulls: one statement for the tags and one for the manifests of a change, as a database elsewhere is far away and
//! others wait for the right to write.

use super::SqlMeta;
use super::query::{Connection, query};
use super::rows::Outcome;
use crate::Result;
use crate::reference::RepositoryName;
use crate::store::PullNote;
use crate::store::meta::{MetaBackend, NOTE_AGAIN, NOTES_GAP};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// How many names one statement has.
const NAMES: usize = 64;

/// A statement that notes the pulls of names that a table has. Places without a name are NULL.
fn note(table: &str, column: &str) -> String {
    let places: Vec<String> =
        (0..NAMES).map(|number| format!("(${}, ${})", 2 * number + 3, 2 * number + 4)).collect();
    format!(
        "INSERT INTO pulls (repository_id, name, pulled_at) \
         SELECT f.repository_id, f.name, CAST($1 AS BIGINT) FROM (SELECT q.repository_id, \
         (SELECT t.{column} FROM {table} t WHERE t.repository_id = q.repository_id AND t.{column} = q.name) AS name \
         FROM (SELECT (SELECT r.id FROM repositories r WHERE r.name = n.column1) AS repository_id, n.column2 AS name \
         FROM (VALUES {}) AS n) AS q) AS f WHERE f.name IS NOT NULL \
         ON CONFLICT (repository_id, name) DO UPDATE SET pulled_at = excluded.pulled_at \
         WHERE pulls.pulled_at <= $2 OR pulls.pulled_at > excluded.pulled_at",
        places.join(", ")
    )
}

static OF_TAGS: LazyLock<String> = LazyLock::new(|| note("tags", "name"));
static OF_MANIFESTS: LazyLock<String> = LazyLock::new(|| note("manifests", "digest"));

pub(super) async fn note_pulls(db: &mut Connection<'_>, pulls: &[PullNote], lost: bool) -> Outcome<u64> {
    let now = db.now();
    let repository = |pull: &PullNote| pull.repository.as_str().to_owned();
    let tags: BTreeSet<_> = pulls
        .iter()
        .filter_map(|pull| Some((repository(pull), pull.tag.as_ref()?.as_str().to_owned())))
        .collect();
    let manifests: BTreeSet<_> =
        pulls.iter().map(|pull| (repository(pull), pull.digest.as_str().to_owned())).collect();
    for (statement, names) in [(&*OF_TAGS, tags), (&*OF_MANIFESTS, manifests)] {
        let names: Vec<(String, String)> = names.into_iter().collect();
        for some in names.chunks(NAMES) {
            let mut query = query(statement).bind(now).bind(now.saturating_sub(NOTE_AGAIN));
            for number in 0..NAMES {
                let name = some.get(number);
                query = query.bind(name.map(|(repository, _)| repository.as_str()));
                query = query.bind(name.map(|(_, name)| name.as_str()));
            }
            query.execute(db).await?;
        }
    }
    // Notes that begin in a time to come were made before the clock was set back.
    query(
        "INSERT INTO pull_notes (id, noted_since, noted_until) VALUES (1, $1, $1) ON CONFLICT (id) DO UPDATE \
         SET noted_until = excluded.noted_until, noted_since = CASE WHEN $2 = 1 OR pull_notes.noted_until < $3 \
         OR pull_notes.noted_since > excluded.noted_since THEN excluded.noted_since ELSE pull_notes.noted_since END",
    )
    .bind(now)
    .bind(i64::from(lost))
    .bind(now.saturating_sub(NOTES_GAP))
    .execute(db)
    .await?;
    Ok(0)
}

/// Forgets when a tag was pulled, which is deleted.
pub(super) async fn forget_tag(
    db: &mut Connection<'_>,
    repository: &RepositoryName,
    tag: &str,
) -> sqlx::Result<()> {
    query(
        "DELETE FROM pulls WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND name = $2",
    )
    .bind(repository.as_str())
    .bind(tag)
    .execute(db)
    .await
    .map(drop)
}

/// Forgets when a manifest and its tags were pulled, which are deleted.
pub(super) async fn forget_manifest(
    db: &mut Connection<'_>,
    repository: i64,
    manifest: i64,
) -> sqlx::Result<()> {
    query(
        "DELETE FROM pulls WHERE repository_id = $1 AND name IN (\
         SELECT t.name FROM tags t WHERE t.manifest_id = $2 UNION SELECT m.digest FROM manifests m WHERE m.id = $2)",
    )
    .bind(repository)
    .bind(manifest)
    .execute(db)
    .await
    .map(drop)
}

impl SqlMeta {
    pub(super) async fn find_pulls_since(&self) -> Result<Option<i64>> {
        let now = MetaBackend::fetch_time(self).await?;
        query("SELECT noted_since FROM pull_notes WHERE id = 1 AND noted_since <= $1 AND noted_until >= $2")
            .bind(now)
            .bind(now.saturating_sub(NOTES_GAP))
            .fetch_scalar(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))
    }
}
