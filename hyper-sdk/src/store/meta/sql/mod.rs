//! Metadata in SQLite or PostgreSQL.
//!
//! ```text
//!   callers ──Change──▶ queue ──▶ one write connection: one transaction for all queued changes   (queue, changes)
//!   callers ◀──rows──── a few read connections                                                    (query)
//! ```
//!
//! A commit returns when it is durable, and changes that arrive in the meantime share the next commit. A transaction takes
//! the only right to write of the whole database first. So a change checks its conditions and then writes, and no other
//! process writes in between.
//!
//! The tables, the queries and the statements of the changes are the same on both databases. What differs is in
//! `sqlite` and `postgres`: how a connection is opened, how the right to write is taken, what an error means, and how a
//! process detects the changes of another one.

mod blobs;
mod changes;
mod deletions;
mod events;
mod export;
mod garbage;
mod guards;
mod holds;
mod keepers;
#[cfg(feature = "store-postgres")]
mod postgres;
mod pulls;
mod query;
mod queue;
mod quotas;
mod references;
mod restore;
mod rows;
mod schema;
mod scrub;
mod sessions;
mod spans;
mod sqlite;
mod tags;
mod tokens;

#[cfg(feature = "store-postgres")]
pub use self::postgres::PostgresOptions;

use self::query::{Reader, query};
use super::{
    BlobLink, BlobRecord, Change, Deletion, ManifestAt, MetaBackend, ScrubPlace, TagRecord, UnkeptManifest,
    UploadRecord,
};
use crate::clock::{SharedClock, SystemClock};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
#[cfg(feature = "store-postgres")]
use crate::secret::Secret;
use crate::store::blob::BlobKey;
use crate::store::{Listing, QuotaCheck, QuotaRules, QuotaUse, SharedEventLog, UploadId};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Metadata in an SQLite database, or with the feature `store-postgres` in a PostgreSQL database. Clones share it; it is
/// closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct SqlMeta(Arc<Database>);

#[derive(Debug)]
enum Database {
    Sqlite(sqlite::Database),
    #[cfg(feature = "store-postgres")]
    Postgres(postgres::Database),
}

/// Asks whichever database it is.
macro_rules! on {
    ($this:expr, $database:ident => $result:expr) => {
        match &*$this.0 {
            Database::Sqlite($database) => $result,
            #[cfg(feature = "store-postgres")]
            Database::Postgres($database) => $result,
        }
    };
}

impl SqlMeta {
    /// Opens the database at `path`. Creates it when it does not exist, and migrates its tables.
    ///
    /// A database on a read-only file system can be read; every change is rejected with [`ErrorKind::Unsupported`]. If
    /// the last process that wrote it was killed, it may be read in a copy in the folder for temporary files. A
    /// database on a full disk can be read too; a change fails with [`ErrorKind::StorageFull`] until there is space
    /// again.
    ///
    /// Must be called within a tokio runtime, which must outlive the value.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the folder cannot be written, [`ErrorKind::Corrupt`] when the file is damaged or is not a
    /// database, [`ErrorKind::Unavailable`] when another process keeps it locked, [`ErrorKind::Unsupported`] when a
    /// newer version has written it.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::open_with(path.into(), sqlite::BUSY_TIMEOUT).await
    }

    pub(crate) async fn open_with(path: PathBuf, busy_timeout: Duration) -> Result<Self> {
        let database = sqlite::Database::open(path, busy_timeout, Arc::new(SystemClock)).await?;
        Ok(Self(Arc::new(Database::Sqlite(database))))
    }

    /// Opens a database whose times are those of a clock.
    #[cfg(test)]
    pub(crate) async fn open_with_clock(path: PathBuf, clock: SharedClock) -> Result<Self> {
        let database = sqlite::Database::open(path, sqlite::BUSY_TIMEOUT, clock).await?;
        Ok(Self(Arc::new(Database::Sqlite(database))))
    }

    /// Opens an existing database at `path` to read it: no table is migrated, and no file is made beside it. Of the files in its
    /// folder only the index of an open log is written (`-shm`), which has no content. One that no process has open is copied into
    /// the folder of temporary files and read there. Other processes may write it meanwhile; what they write shows only when one had
    /// it open. Every change is rejected with [`ErrorKind::Unsupported`].
    ///
    /// Must be called within a tokio runtime, which must outlive the value.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no database; [`ErrorKind::Unsupported`] when another version has written it; those
    /// of [`SqlMeta::open`].
    pub async fn open_unchanged(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.exists() {
            return Err(
                Error::new(ErrorKind::NotFound, "there is no database").with_context("path", path.display())
            );
        }
        Ok(Self(Arc::new(Database::Sqlite(sqlite::Database::open_unchanged(path).await?))))
    }

    /// Connects to a PostgreSQL database to read it: no table is made or migrated.
    ///
    /// Must be called within a tokio runtime, which must outlive the value.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the database has no registry; [`ErrorKind::Unsupported`] when another version has written
    /// it; those of [`SqlMeta::connect`].
    #[cfg(feature = "store-postgres")]
    pub async fn connect_unchanged(options: PostgresOptions) -> Result<Self> {
        let database = Box::pin(postgres::Database::connect_unchanged(options)).await?;
        Ok(Self(Arc::new(Database::Postgres(database))))
    }

    /// Connects to a PostgreSQL database, and migrates its tables. Any number of processes may have it open.
    ///
    /// Must be called within a tokio runtime, which must outlive the value.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer, does not exist or refuses the user,
    /// [`ErrorKind::Unsupported`] when a newer version has written it or when its encoding is not UTF-8. No error shows the password.
    #[cfg(feature = "store-postgres")]
    pub async fn connect(options: PostgresOptions) -> Result<Self> {
        // Boxed: programs that call this do not compile it again.
        let database = Box::pin(postgres::Database::connect(options)).await?;
        Ok(Self(Arc::new(Database::Postgres(database))))
    }

    /// The name of the registry whose metadata is in a PostgreSQL database: random text that a database gets when its tables
    /// are made. `None` in SQLite.
    #[cfg(feature = "store-postgres")]
    pub fn registry_id(&self) -> Option<&str> {
        match &*self.0 {
            Database::Sqlite(_) => None,
            Database::Postgres(database) => Some(database.id()),
        }
    }

    /// What the servers of a registry sign with: random text of a PostgreSQL database, the same for all of them. `None` in
    /// SQLite.
    #[cfg(feature = "store-postgres")]
    pub fn registry_secret(&self) -> Option<&Secret> {
        match &*self.0 {
            Database::Sqlite(_) => None,
            Database::Postgres(database) => Some(database.secret()),
        }
    }

    /// Where the blobs of the registry are, if [`SqlMeta::keep_blobs_at`] has recorded it in a PostgreSQL database. `None` in
    /// SQLite.
    ///
    /// # Errors
    /// Those of the database.
    #[cfg(feature = "store-postgres")]
    pub async fn blobs_kept_at(&self) -> Result<Option<String>> {
        match &*self.0 {
            Database::Sqlite(_) => Ok(None),
            Database::Postgres(database) => database.known_place_of_blobs().await,
        }
    }

    /// Records in a PostgreSQL database where the blobs of the registry are, or confirms it: a server that keeps them
    /// elsewhere would not find those that the others have stored. Does nothing in SQLite.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when they are at another place; those of the database.
    #[cfg(feature = "store-postgres")]
    pub async fn keep_blobs_at(&self, place: &str) -> Result<()> {
        let Database::Postgres(database) = &*self.0 else { return Ok(()) };
        let found = database.place_of_blobs(place).await?;
        if found == place {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "the registry in the database has its blobs at another place")
            .with_context("database", database.place())
            .with_context("blobs", found))
    }

    async fn reader(&self) -> Result<Reader> {
        on!(self, database => database.reader().await)
    }

    /// A connection for one statement that writes, beside the queue.
    async fn statement_writer(&self) -> Result<Reader> {
        on!(self, database => database.statement_writer().await)
    }

    fn quota_rules(&self) -> Arc<QuotaRules> {
        on!(self, database => database.rules().now())
    }

    fn recording(&self) -> &events::Recording {
        on!(self, database => database.recording())
    }

    fn failed(&self, e: sqlx::Error) -> Error {
        on!(self, database => database.failed(e))
    }

    fn damaged(&self, e: Error) -> Error {
        let error = Error::new(ErrorKind::Corrupt, "the database has a row that is not valid").with_source(e);
        match &*self.0 {
            Database::Sqlite(database) => error.with_context("path", database.path().display()),
            #[cfg(feature = "store-postgres")]
            Database::Postgres(database) => error.with_context("database", database.place()),
        }
    }
}

impl fmt::Display for SqlMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Database::Sqlite(database) => write!(f, "SQLite {}", database.path().display()),
            #[cfg(feature = "store-postgres")]
            Database::Postgres(database) => write!(f, "PostgreSQL {}", database.place()),
        }
    }
}

/// Converts a size, which the database stores as a signed number.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn page<T>(rows: Vec<(String,)>, limit: usize, parse: impl Fn(&str) -> Result<T>) -> Result<Listing<T>> {
    let more = rows.len() > limit;
    let items = rows.iter().take(limit).map(|(name,)| parse(name)).collect::<Result<_>>()?;
    Ok(Listing { items, more })
}

#[async_trait]
impl MetaBackend for SqlMeta {
    fn durable(&self) -> bool {
        match &*self.0 {
            Database::Sqlite(_) => true,
            #[cfg(feature = "store-postgres")]
            Database::Postgres(database) => database.durable(),
        }
    }

    fn writable(&self) -> bool {
        match &*self.0 {
            Database::Sqlite(database) => database.writable(),
            #[cfg(feature = "store-postgres")]
            Database::Postgres(_) => true,
        }
    }

    fn version(&self) -> Option<u64> {
        match &*self.0 {
            Database::Sqlite(database) => database.version(),
            #[cfg(feature = "store-postgres")]
            Database::Postgres(_) => None,
        }
    }

    #[cfg(feature = "store-postgres")]
    async fn fetch_version(&self) -> Option<u64> {
        match &*self.0 {
            Database::Sqlite(_) => None,
            Database::Postgres(database) => self.versioned(database.version()).await,
        }
    }

    fn breaker(&self) -> Option<crate::breaker::Breaker> {
        match &*self.0 {
            Database::Sqlite(_) => None,
            #[cfg(feature = "store-postgres")]
            Database::Postgres(database) => Some(database.breaker().clone()),
        }
    }

    fn clock(&self) -> SharedClock {
        on!(self, database => database.clock())
    }

    async fn fetch_time(&self) -> Result<i64> {
        match &*self.0 {
            Database::Sqlite(database) => Ok(database.clock().now()),
            #[cfg(feature = "store-postgres")]
            Database::Postgres(database) => database.fetch_time().await,
        }
    }

    async fn has_manifests(
        &self,
        repository: &RepositoryName,
        references: &[ManifestReference],
    ) -> Result<Vec<bool>> {
        self.find_existing(repository, references).await
    }

    fn has_quotas(&self) -> bool {
        true
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        on!(self, database => database.rules().replace(rules));
        Ok(())
    }

    async fn largest_upload(&self, repository: &RepositoryName) -> Result<Option<u64>> {
        self.find_largest(repository).await
    }

    async fn is_counting(&self) -> Result<bool> {
        self.has_unended().await
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        self.find_quota_use().await
    }

    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        self.compare_quotas(repair).await
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        Some(Arc::new(self.clone()))
    }

    async fn write(&self, change: Change) -> Result<u64> {
        self.written(async { on!(self, database => database.write(change).await) }).await
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobRecord>> {
        let row: Option<blobs::BlobRow> = query(
            "SELECT b.size, b.own_key, b.condemned, b.quarantined FROM blobs b \
             JOIN blob_links l ON l.blob_id = b.id \
             JOIN repositories r ON r.id = l.repository_id \
             WHERE b.digest = $1 AND r.name = $2 AND b.quarantined IS NULL",
        )
        .bind(digest.as_str())
        .bind(repository.as_str())
        .fetch_optional(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        Ok(row.map(|row| blobs::record(digest.clone(), row)))
    }

    async fn leased_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(BlobRecord, i64)>> {
        let row: Option<(i64, Option<String>, Option<i64>, i64)> = query(
            "SELECT b.size, b.own_key, b.condemned, l.leased_until FROM blobs b \
             JOIN blob_links l ON l.blob_id = b.id \
             JOIN repositories r ON r.id = l.repository_id \
             WHERE b.digest = $1 AND r.name = $2 AND b.quarantined IS NULL",
        )
        .bind(digest.as_str())
        .bind(repository.as_str())
        .fetch_optional(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        Ok(row
            .map(|(size, key, mark, until)| (blobs::record(digest.clone(), (size, key, mark, None)), until)))
    }

    async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        self.find_blobs(digests).await
    }

    async fn repositories_with(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>> {
        self.find_repositories(digest, after, limit).await
    }

    async fn unreferenced_links(
        &self,
        now: i64,
        after: Option<&BlobLink>,
        limit: usize,
    ) -> Result<Vec<BlobLink>> {
        self.find_unreferenced(now, after, limit).await
    }

    async fn unkept_manifests(
        &self,
        before: i64,
        after: Option<&ManifestAt>,
        limit: usize,
    ) -> Result<Vec<UnkeptManifest>> {
        self.find_unkept(before, after, limit).await
    }

    async fn unlinked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        self.find_unlinked(after, limit).await
    }

    async fn linked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        self.find_linked(after, limit).await
    }

    async fn manifests_with(&self, digest: &Digest, limit: usize) -> Result<Vec<ManifestAt>> {
        self.find_manifests_with(digest, limit).await
    }

    async fn scrub_place(&self) -> Result<ScrubPlace> {
        self.find_scrub_place().await
    }

    fn set_undelete_window(&self, seconds: i64) -> Result<()> {
        on!(self, database => database.rules().set_window(seconds));
        Ok(())
    }

    async fn deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        self.find_deletions(repository, after, limit).await
    }

    async fn deletion_of(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Deletion>> {
        self.find_deletion(repository, tag).await
    }

    async fn deleted_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>> {
        self.find_deleted_manifest(repository, digest).await
    }

    async fn last_retention(&self) -> Result<Option<i64>> {
        self.find_last_retention().await
    }

    async fn pulls_noted_since(&self) -> Result<Option<i64>> {
        self.find_pulls_since().await
    }

    async fn bytes_held(&self) -> Result<bool> {
        self.find_holds(crate::clock::Clock::now(&*self.clock())).await
    }

    async fn has_keys(&self, keys: &[BlobKey]) -> Result<Vec<bool>> {
        self.find_keys(keys).await
    }

    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Option<Manifest>> {
        let (text, key) = match reference {
            ManifestReference::Tag(tag) => (
                "SELECT m.digest, m.media_type, m.body FROM repositories r \
                 JOIN tags t ON t.repository_id = r.id AND t.name = $2 \
                 JOIN manifests m ON m.id = t.manifest_id \
                 WHERE r.name = $1",
                tag.as_str(),
            ),
            ManifestReference::Digest(digest) => (
                "SELECT m.digest, m.media_type, m.body FROM repositories r \
                 JOIN manifests m ON m.repository_id = r.id AND m.digest = $2 \
                 WHERE r.name = $1",
                digest.as_str(),
            ),
        };
        let row: Option<(String, String, Vec<u8>)> = query(text)
            .bind(repository.as_str())
            .bind(key)
            .fetch_optional(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        let Some((digest, media_type, body)) = row else { return Ok(None) };
        let read = || {
            let digest = Digest::parse(&digest)?;
            let manifest = Manifest::parse(body, &media_type)?;
            if *manifest.digest() == digest { Ok(manifest) } else { manifest.with_digest(&digest) }
        };
        read().map(Some).map_err(|e| self.damaged(e).with_context("digest", &digest))
    }

    async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<Tag>>> {
        self.find_tags(repository, after, limit).await
    }

    async fn tag_records(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<TagRecord>>> {
        self.find_tag_records(repository, after, limit).await
    }

    async fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Listing<RepositoryName>> {
        if limit == 0 {
            return Ok(Listing { items: Vec::new(), more: false });
        }
        let rows =
            query("SELECT name FROM repositories WHERE name > $1 AND listed = 1 ORDER BY name LIMIT $2")
                .bind(after.unwrap_or_default())
                .bind(limit as i64 + 1)
                .fetch_all(&mut self.reader().await?.connection())
                .await
                .map_err(|e| self.failed(e))?;
        page(rows, limit, RepositoryName::parse).map_err(|e| self.damaged(e))
    }

    async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let rows: Vec<(String, String, i64, Option<String>, String)> = query(
            "SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations FROM repositories r \
             JOIN manifests m ON m.repository_id = r.id \
             WHERE r.name = $1 AND m.subject = $2 AND (CAST($3 AS TEXT) IS NULL OR m.artifact_type = $3) \
             ORDER BY m.digest",
        )
        .bind(repository.as_str())
        .bind(subject.as_str())
        .bind(artifact_type)
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        rows.into_iter()
            .map(|(digest, media_type, size, artifact_type, annotations)| {
                let annotations = serde_json::from_str(&annotations).map_err(|e| {
                    self.damaged(Error::invalid("the annotations are not JSON").with_source(e))
                })?;
                let digest = Digest::parse(&digest).map_err(|e| self.damaged(e))?;
                let descriptor = Descriptor::new(media_type, digest, unsigned(size));
                Ok(Descriptor { artifact_type, annotations, ..descriptor })
            })
            .collect()
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<UploadRecord>> {
        self.find_upload(id).await
    }

    async fn stale_uploads(&self, before: i64) -> Result<Vec<UploadId>> {
        self.find_stale(before).await
    }
}
