//! A store that is filled from a snapshot.
//!
//! # Invariants
//! - From [`SqlMeta::begin_restore`] to the commit of [`SqlMeta::finish_restore`] the row of the table `restore` says that the
//!   store is not whole. Meanwhile only rows of blobs are added, without links.
//! - Meanwhile no collector marks a blob or deletes bytes. Whoever began last adds rows, and nobody else.
//! - All other rows are added in one transaction, which also removes that row.
//! - A blob without bytes has a row and its links, so that the store knows that it lacks it.
//! - The table `registry_name` has the name in the row 1, and in the row 2 the registries of which this one was made, as JSON.

use super::query::{Connection, Reader, query};
use super::rows::signed;
use super::{Database, SqlMeta, blobs, events, quotas, scrub};
use crate::clock::{Clock as _, SystemClock};
use crate::store::blob::BlobKey;
use crate::store::errors::being_removed;
use crate::store::meta::row::{
    Ancestor, BlobRow, LinkRow, MAX_NUMBER, ManifestRow, RepositoryRow, Row, RowCounts, TagRow, TokenRow,
    moved_registry,
};
use crate::{Digest, Error, ErrorKind, Result};
use sqlx::Connection as _;
use std::collections::HashSet;
use tokio::sync::mpsc::Receiver;

/// Why a change was not made.
pub(super) enum Stop {
    Database(sqlx::Error),
    Refused(Error),
}

impl From<sqlx::Error> for Stop {
    fn from(e: sqlx::Error) -> Self {
        Self::Database(e)
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Refused(e)
    }
}

pub(super) type Outcome<T> = std::result::Result<T, Stop>;

/// Runs a function in a transaction with the right to write, which it commits unless the function fails.
macro_rules! in_transaction {
    ($meta:expr, |$db:ident| $work:expr) => {{
        let meta: &SqlMeta = $meta;
        let mut writer = meta.statement_writer().await?;
        let outcome = match &mut writer {
            Reader::Sqlite(connection) => {
                let begun = connection.begin_with("BEGIN IMMEDIATE").await;
                let mut transaction = begun.map_err(|e| meta.failed(e))?;
                let now = SystemClock.now();
                let $db = &mut Connection::Sqlite(&mut transaction, now);
                match $work.await {
                    Ok(done) => transaction.commit().await.map(|()| done).map_err(Stop::Database),
                    // The first error is the one that counts.
                    Err(stop) => {
                        let _ = transaction.rollback().await;
                        Err(stop)
                    }
                }
            }
            #[cfg(feature = "store-postgres")]
            Reader::Postgres(connection, attempt) => {
                let begun = crate::store::meta::sql::query::told(attempt, connection.begin().await);
                let mut transaction = begun.map_err(|e| meta.failed(e))?;
                let settings =
                    "SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL lock_timeout = '10s'";
                let set = sqlx::raw_sql(settings).execute(&mut *transaction).await;
                set.map_err(|e| meta.failed(e))?;
                // The right to write, and a version that no cache has.
                let version =
                    crate::store::meta::sql::postgres::random_version().map_err(|e| meta.failed(e))?;
                let mut db = Connection::Postgres(&mut transaction, SystemClock.now(), Some(attempt));
                let right =
                    query("UPDATE registry_state SET kept_version = $1").bind(version).execute(&mut db).await;
                right.map_err(|e| meta.failed(e))?;
                let $db = &mut db;
                match $work.await {
                    Ok(done) => transaction.commit().await.map(|()| done).map_err(Stop::Database),
                    Err(stop) => {
                        let _ = transaction.rollback().await;
                        Err(stop)
                    }
                }
            }
        };
        outcome.map_err(|stop| match stop {
            Stop::Database(e) => meta.failed(e),
            Stop::Refused(e) => e,
        })
    }};
}

pub(super) use in_transaction;

impl SqlMeta {
    /// The name by which backups know the registry: random text, which its first backup chooses.
    ///
    /// # Errors
    /// Those of the database; [`ErrorKind::Unsupported`] when it has no name and cannot be written.
    pub async fn registry_name(&self) -> Result<String> {
        if let Some(name) = self.find_name().await? {
            return Ok(name);
        }
        let name = crate::store::UploadId::random()?;
        query("INSERT INTO registry_name (id, name) VALUES (1, $1) ON CONFLICT (id) DO NOTHING")
            .bind(name.as_str())
            .execute(&mut self.statement_writer().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        self.find_name().await?.ok_or_else(|| Error::internal("the registry has no name"))
    }

    /// Fails when another process has the metadata open. In SQLite, none opens them from now on.
    async fn use_alone(&self) -> Result<()> {
        match &*self.0 {
            Database::Sqlite(database) => database.use_alone(),
            #[cfg(feature = "store-postgres")]
            Database::Postgres(database) => database.check_alone().await,
        }
    }

    fn use_with_others(&self) {
        match &*self.0 {
            Database::Sqlite(database) => database.use_with_others(),
            #[cfg(feature = "store-postgres")]
            Database::Postgres(_) => {}
        }
    }

    async fn find_name(&self) -> Result<Option<String>> {
        query("SELECT name FROM registry_name WHERE id = 1")
            .fetch_scalar(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))
    }

    /// The registries of which this one was made, the oldest first.
    ///
    /// # Errors
    /// Those of the database; [`ErrorKind::Corrupt`] when the row is damaged.
    pub async fn ancestors(&self) -> Result<Vec<Ancestor>> {
        let text: Option<String> = query("SELECT name FROM registry_name WHERE id = 2")
            .fetch_scalar(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|e| {
                Error::new(ErrorKind::Corrupt, "the list of ancestors is not JSON").with_source(e)
            })
        };
        text.map_or(Ok(Vec::new()), parse).map_err(|e| self.damaged(e))
    }

    /// What fills this store just now, or did so when it was interrupted; `None` for a store that is whole.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unfinished_restore(&self) -> Result<Option<String>> {
        query("SELECT source FROM restore WHERE id = 1")
            .fetch_scalar(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))
    }

    /// Begins to fill an empty store, or goes on where another restore was interrupted. `holder` is a number that no other
    /// restore uses: whoever began last may finish. From now on no other process opens the metadata in SQLite; servers refuse a
    /// store that is not whole.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the store has content, another process has it open, or a move began with another source;
    /// those of the database.
    pub async fn begin_restore(&self, holder: u64, source: &str) -> Result<()> {
        self.use_alone().await?;
        let begun = async { in_transaction!(self, |db| begin(db, holder, source)) };
        let is_new = begun.await.inspect_err(|_| self.use_with_others())?;
        // One that was opened at the same time has seen the row, or is seen now.
        if let Err(e) = self.use_alone().await {
            if is_new {
                in_transaction!(self, |db| forget(db, holder))?;
            }
            return Err(e);
        }
        Ok(())
    }

    /// Records the bytes of a blob of a store that is filled.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another restore began since, or this one has ended; [`ErrorKind::Unavailable`] while a
    /// collector removes the blob; those of the database.
    pub async fn add_blob(&self, holder: u64, blob: &BlobRow, key: &BlobKey) -> Result<()> {
        in_transaction!(self, |db| add_blob(db, holder, blob, key))
    }

    /// Adds all other rows, and makes the store whole, in one transaction. The rows are in the order of
    /// [`RowKind`](crate::store::meta::RowKind). [`Row::Blob`] is a blob without bytes: it counts as damaged until it is pushed;
    /// `own_keys` says whether the blob backend has keys of its own. [`Row::Damaged`] changes nothing. If the number of the others
    /// is not as `counts` says, nothing is added.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another restore began since; [`ErrorKind::Corrupt`] when a row names what is not there; those
    /// of the database.
    pub async fn finish_restore(
        &self,
        holder: u64,
        rows: &mut Receiver<Vec<Row>>,
        counts: &RowCounts,
        ancestors: &[Ancestor],
        own_keys: bool,
    ) -> Result<()> {
        let ancestors = match ancestors {
            [] => None,
            some => Some(serde_json::to_string(some).map_err(|e| {
                Error::internal("the list of ancestors cannot be written as JSON").with_source(e)
            })?),
        };
        in_transaction!(self, |db| finish(db, holder, rows, counts, ancestors.as_deref(), own_keys))?;
        self.use_with_others();
        Ok(())
    }
}

/// Returns whether no other restore had begun.
async fn begin(db: &mut Connection<'_>, holder: u64, source: &str) -> Outcome<bool> {
    let is_empty: bool = query(
        "SELECT NOT (EXISTS (SELECT 1 FROM repositories) OR EXISTS (SELECT 1 FROM upload_sessions) \
         OR EXISTS (SELECT 1 FROM api_tokens) \
         OR EXISTS (SELECT 1 FROM blobs) AND NOT EXISTS (SELECT 1 FROM restore))",
    )
    .fetch_one(db)
    .await?;
    if !is_empty {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the store is not empty, and content is not mixed: name a store that has nothing",
        )
        .into());
    }
    let before: Option<String> = query("SELECT source FROM restore WHERE id = 1").fetch_scalar(db).await?;
    if let (Some(before), Some(registry)) = (&before, moved_registry(source))
        && moved_registry(before) != Some(registry)
    {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the store is being filled from another source: go on with that one, or name a store that has nothing",
        )
        .with_context("from", before)
        .into());
    }
    query(
        "INSERT INTO restore (id, holder, source, began_at) VALUES (1, $1, $2, $3) ON CONFLICT (id) DO UPDATE \
         SET holder = excluded.holder, source = excluded.source, began_at = excluded.began_at",
    )
    .bind(holder.cast_signed())
    .bind(source)
    .bind(crate::clock::Clock::now(&crate::clock::SystemClock))
    .execute(db)
    .await?;
    Ok(before.is_none())
}

/// Takes back that a restore began.
async fn forget(db: &mut Connection<'_>, holder: u64) -> Outcome<()> {
    query("DELETE FROM restore WHERE id = 1 AND holder = $1").bind(holder.cast_signed()).execute(db).await?;
    Ok(())
}

fn overtaken() -> Stop {
    let message = "another restore of this store began meanwhile, and this one ends";
    Stop::Refused(Error::new(ErrorKind::Conflict, message))
}

async fn add_blob(db: &mut Connection<'_>, holder: u64, blob: &BlobRow, key: &BlobKey) -> Outcome<()> {
    let added = query(
        "INSERT INTO blobs (digest, size, own_key, created_at) \
         SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS TEXT), CAST($4 AS BIGINT) \
         WHERE EXISTS (SELECT 1 FROM restore WHERE id = 1 AND holder = $5) \
         ON CONFLICT (digest) DO UPDATE SET size = excluded.size, own_key = excluded.own_key, quarantined = NULL \
         WHERE blobs.condemned IS NULL",
    )
    .bind(blob.digest.as_str())
    .bind(signed(blob.size))
    .bind(blobs::own_key(key))
    .bind(blob.created)
    .bind(holder.cast_signed())
    .execute(db)
    .await?;
    if added == 1 {
        return Ok(());
    }
    let is_mine: bool = query("SELECT EXISTS (SELECT 1 FROM restore WHERE id = 1 AND holder = $1)")
        .bind(holder.cast_signed())
        .fetch_one(db)
        .await?;
    Err(if is_mine { being_removed(&blob.digest).into() } else { overtaken() })
}

async fn finish(
    db: &mut Connection<'_>,
    holder: u64,
    rows: &mut Receiver<Vec<Row>>,
    counts: &RowCounts,
    ancestors: Option<&str>,
    own_keys: bool,
) -> Outcome<()> {
    let is_empty: bool = query("SELECT NOT EXISTS (SELECT 1 FROM repositories)").fetch_one(db).await?;
    if !is_empty {
        let message = "something was pushed to the store while it was filled: stop its servers, and begin with an empty store";
        return Err(Error::new(ErrorKind::Conflict, message).into());
    }
    let (mut added, mut lost) = (RowCounts::default(), HashSet::new());
    while let Some(page) = rows.recv().await {
        for row in page {
            if let Row::Blob(row) = &row {
                add_lost(db, row, own_keys).await?;
                lost.insert(row.digest.clone());
            }
            add(db, &row, &lost).await?;
            if !matches!(row, Row::Blob(_) | Row::Damaged(_)) {
                added.add(&row);
            }
        }
    }
    let expected = RowCounts { blobs: 0, bytes: 0, damaged: 0, ..*counts };
    if added != expected {
        return Err(
            Error::new(ErrorKind::Corrupt, "the snapshot ended early: the store stays as it was").into()
        );
    }
    let mine = query("DELETE FROM restore WHERE id = 1 AND holder = $1")
        .bind(holder.cast_signed())
        .execute(db)
        .await?;
    if mine == 0 {
        return Err(overtaken());
    }
    let log = crate::store::UploadId::random()?;
    events::begin_anew(db, &log.as_str()[..16]).await?;
    // What is restored may have been pulled before, whatever a server of the empty store has noted.
    for text in ["DELETE FROM pulls", "DELETE FROM pull_notes"] {
        query(text).execute(db).await?;
    }
    // Its tags may be old: somebody can look at them before the first regular run deletes some.
    query("DELETE FROM scrub WHERE id = $1").bind(scrub::RETENTION).execute(db).await?;
    query("INSERT INTO scrub (id, holder, held_until, ended_at) VALUES ($1, 0, 0, $2)")
        .bind(scrub::RETENTION)
        .bind(db.now())
        .execute(db)
        .await?;
    query("DELETE FROM registry_name WHERE id = 2").execute(db).await?;
    if ancestors.is_some() {
        query("INSERT INTO registry_name (id, name) VALUES (2, $1)").bind(ancestors).execute(db).await?;
    }
    // A server may have counted the empty store: servers count what came, in pieces.
    quotas::restart_all(db).await?;
    #[cfg(feature = "store-postgres")]
    if let Connection::Postgres(..) = db {
        for text in [
            "SELECT setval(pg_get_serial_sequence('repositories', 'id'), MAX(id)) FROM repositories HAVING MAX(id) > 0",
            "SELECT setval(pg_get_serial_sequence('manifests', 'id'), MAX(id)) FROM manifests HAVING MAX(id) > 0",
        ] {
            query(text).execute(db).await?;
        }
    }
    Ok(())
}

async fn add(db: &mut Connection<'_>, row: &Row, lost: &HashSet<Digest>) -> Outcome<()> {
    match row {
        Row::Blob(_) | Row::Damaged(_) => Ok(()),
        Row::Repository(row) => add_repository(db, row).await,
        Row::Link(row) => add_link(db, row, lost.contains(&row.blob)).await,
        Row::Manifest(row) => add_manifest(db, row).await,
        Row::Tag(row) => add_tag(db, row).await,
        Row::Token(row) => add_token(db, row).await,
    }
}

fn corrupt(message: &str, name: impl std::fmt::Display) -> Stop {
    Stop::Refused(Error::new(ErrorKind::Corrupt, message.to_owned()).with_context("name", name))
}

fn check_number(number: i64, name: impl std::fmt::Display) -> Outcome<()> {
    if (1..=MAX_NUMBER).contains(&number) {
        return Ok(());
    }
    Err(corrupt("a row of the snapshot has a number out of range", name))
}

/// A row that breaks a rule of the tables is a fault of the snapshot.
fn of_row(name: impl std::fmt::Display) -> impl FnOnce(sqlx::Error) -> Stop {
    move |e| match &e {
        sqlx::Error::Database(of) if of.is_unique_violation() || of.is_foreign_key_violation() => {
            let message = "a row of the snapshot comes twice, or names another one that is not there";
            let error = Error::new(ErrorKind::Corrupt, message).with_context("name", name);
            Stop::Refused(error.with_source(e))
        }
        _ => Stop::Database(e),
    }
}

async fn add_repository(db: &mut Connection<'_>, row: &RepositoryRow) -> Outcome<()> {
    check_number(row.number, &row.name)?;
    query("INSERT INTO repositories (id, name, created_at, listed) VALUES ($1, $2, $3, $4)")
        .bind(row.number)
        .bind(row.name.as_str())
        .bind(row.created)
        .bind(i64::from(row.listed))
        .execute(db)
        .await
        .map_err(of_row(&row.name))?;
    Ok(())
}

/// Adds the row of a blob without bytes. With keys of its own the backend is not asked for its bytes, so the row has a key that
/// nothing has, and the mark of damage; else they are looked for.
async fn add_lost(db: &mut Connection<'_>, row: &BlobRow, own_keys: bool) -> Outcome<()> {
    let key = own_keys.then(crate::store::UploadId::random).transpose()?;
    query(
        "INSERT INTO blobs (digest, size, own_key, created_at, quarantined) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (digest) DO UPDATE SET size = excluded.size, \
         quarantined = CASE WHEN excluded.own_key IS NULL THEN NULL ELSE blobs.quarantined END \
         WHERE blobs.condemned IS NULL",
    )
    .bind(row.digest.as_str())
    .bind(signed(row.size))
    .bind(key.as_ref().map(crate::store::UploadId::as_str))
    .bind(row.created)
    .bind(own_keys.then_some(db.now()))
    .execute(db)
    .await?;
    Ok(())
}

async fn add_link(db: &mut Connection<'_>, row: &LinkRow, is_lost: bool) -> Outcome<()> {
    let linked = query(
        "INSERT INTO blob_links (repository_id, blob_id, leased_until) \
         SELECT CAST($1 AS BIGINT), id, CAST($2 AS BIGINT) FROM blobs WHERE digest = $3 \
         AND condemned IS NULL AND (quarantined IS NULL OR $4 = 1)",
    )
    .bind(row.repository)
    .bind(row.leased_until)
    .bind(row.blob.as_str())
    .bind(i64::from(is_lost))
    .execute(db)
    .await
    .map_err(of_row(&row.blob))?;
    if linked == 1 {
        return Ok(());
    }
    Err(corrupt("the bytes of a blob are not in the store: begin the restore again", &row.blob))
}

async fn add_manifest(db: &mut Connection<'_>, row: &ManifestRow) -> Outcome<()> {
    check_number(row.number, &row.digest)?;
    query(
        "INSERT INTO manifests \
         (id, repository_id, digest, media_type, subject, artifact_type, annotations, size, created_at, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(row.number)
    .bind(row.repository)
    .bind(row.digest.as_str())
    .bind(row.media_type.as_str())
    .bind(row.subject.as_deref())
    .bind(row.artifact_type.as_deref())
    .bind(row.annotations.as_str())
    .bind(signed(row.body.len() as u64))
    .bind(row.created)
    .bind(row.body.as_slice())
    .execute(db)
    .await
    .map_err(of_row(&row.digest))?;
    for (kind, digests) in [(0i64, &row.blobs), (1, &row.manifests)] {
        for digest in digests {
            add_reference(db, row, kind, digest).await?;
        }
    }
    Ok(())
}

async fn add_reference(
    db: &mut Connection<'_>,
    row: &ManifestRow,
    kind: i64,
    digest: &Digest,
) -> Outcome<()> {
    query("INSERT INTO manifest_refs (manifest_id, kind, digest) VALUES ($1, $2, $3)")
        .bind(row.number)
        .bind(kind)
        .bind(digest.as_str())
        .execute(db)
        .await
        .map_err(of_row(&row.digest))?;
    Ok(())
}

async fn add_tag(db: &mut Connection<'_>, row: &TagRow) -> Outcome<()> {
    // A tag of one repository does not lead into another one.
    let added = query(
        "INSERT INTO tags (repository_id, name, manifest_id, updated_at) \
         SELECT repository_id, CAST($1 AS TEXT), id, CAST($2 AS BIGINT) FROM manifests WHERE id = $3 AND repository_id = $4",
    )
    .bind(row.name.as_str())
    .bind(row.updated)
    .bind(row.manifest)
    .bind(row.repository)
    .execute(db)
    .await
    .map_err(of_row(&row.name))?;
    if added == 1 { Ok(()) } else { Err(corrupt("a tag of the snapshot has no manifest", &row.name)) }
}

async fn add_token(db: &mut Connection<'_>, row: &TokenRow) -> Outcome<()> {
    query(
        "INSERT INTO api_tokens (id, hash, user_name, name, scopes, created_at, expires_at, used_at, bound_to) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.id.as_str())
    .bind(row.hash.as_str())
    .bind(row.user.as_str())
    .bind(row.name.as_str())
    .bind(row.scopes.as_str())
    .bind(row.created)
    .bind(row.expires)
    .bind(row.used)
    .bind(row.bound_to.as_deref())
    .execute(db)
    .await
    .map_err(of_row(&row.id))?;
    Ok(())
}
