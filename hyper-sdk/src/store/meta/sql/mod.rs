//! Metadata in SQLite.
//!
//! ```text
//!   callers ──Change──▶ queue ──▶ one writer connection: one transaction for all queued changes   (writer)
//!   callers ◀──rows──── a few reader connections
//! ```
//!
//! The journal is a write-ahead log and `synchronous` is FULL: a commit returns after its log is synced, and changes
//! that arrive in the meantime share the next commit. Several processes may have the database open; a transaction takes
//! the write lock first, and waits for it up to ten seconds. The database can be read while the disk is full
//! ([`readers`]).
//!
//! The queries use only syntax that PostgreSQL supports too (`$1`, `ON CONFLICT`, `RETURNING`); the migrations are
//! specific to SQLite.

mod blobs;
mod changes;
mod error;
mod keepers;
mod readers;
mod rows;
mod schema;
mod unwritable;
mod version;
mod writer;

use self::error::sql_error;
use self::readers::Readers;
use super::{BlobLink, BlobRecord, Change, ManifestAt, MetaBackend, UploadRecord};
use crate::oci::{Descriptor, Manifest};
use crate::private_folder::TemporaryFolder;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::blob::{BlobKey, StagedState};
use crate::store::{Listing, UploadId};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use async_trait::async_trait;
use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a change waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The size to which a grown write-ahead log is truncated, in bytes.
const JOURNAL_LIMIT: &str = "4194304";

/// Metadata in an SQLite database. Clones share it; it is closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct SqlMeta(Arc<Database>);

#[derive(Debug)]
struct Database {
    path: PathBuf,
    readers: Readers,
    /// `None` when the file system cannot be written.
    writer: Option<writer::Writer>,
    version: version::Version,
    /// Where the readers read, when it is not `path`. It is removed with the value.
    _copy: Option<TemporaryFolder>,
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
        Self::open_with(path.into(), BUSY_TIMEOUT).await
    }

    pub(crate) fn open_with(path: PathBuf, busy_timeout: Duration) -> BoxFuture<'static, Result<Self>> {
        // Boxed: programs that call this do not compile it again.
        Box::pin(async move {
            let options = SqliteConnectOptions::new()
                .filename(&path)
                .foreign_keys(true)
                .busy_timeout(busy_timeout)
                .disable_statement_logging();
            // Only one process at a time switches a new file to write-ahead logging and creates its tables.
            let Some(_guard) = lock(&path).await? else {
                return Self::open_read_only(path, options).await;
            };
            let options = options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .pragma("journal_size_limit", JOURNAL_LIMIT);
            let connection = Self::connect_upgraded(&options, &path).await;
            let options = options.create_if_missing(false);
            let readers = Readers::new(options.clone().pragma("query_only", "on"), busy_timeout);
            let connection = match connection {
                Ok(connection) => Some(connection),
                Err(e) if e.kind() == ErrorKind::StorageFull => {
                    // A database without tables is not usable before there is space.
                    let Ok(mut reader) = readers.get().await else { return Err(e) };
                    if schema::check(&mut reader, &path).await.is_err() {
                        return Err(e);
                    }
                    tracing::warn!(error = %e, "the store is read-only until the disk has space again");
                    None
                }
                Err(e) => return Err(e),
            };
            let writer = Some(writer::Writer::start(connection, options, path.clone()));
            let version = version::Version::changing(&path);
            Ok(Self(Arc::new(Database { path, readers, writer, version, _copy: None })))
        })
    }

    /// Connects and migrates the tables.
    async fn connect_upgraded(options: &SqliteConnectOptions, path: &Path) -> Result<SqliteConnection> {
        let mut connection = options.connect().await.map_err(|e| sql_error(path, e))?;
        let made = match schema::upgrade(&mut connection, path).await {
            Ok(()) => sync_folder_of(path),
            Err(e) => Err(e),
        };
        if let Err(e) = made {
            // The first error is returned.
            let _ = connection.close().await;
            return Err(e);
        }
        Ok(connection)
    }

    /// Opens a database that this process cannot write.
    ///
    /// Nobody can write to a read-only file system, so the database is opened as immutable, which needs no other files.
    /// An immutable database ignores the write-ahead log: one with a log is read with the index that is beside it, or,
    /// when there is none, in a private copy ([`unwritable`]).
    async fn open_read_only(path: PathBuf, options: SqliteConnectOptions) -> Result<Self> {
        let options = options.create_if_missing(false).read_only(true);
        let from = path.clone();
        let found = tokio::task::spawn_blocking(move || unwritable::find(&from)).await;
        let found = found.map_err(|e| Error::internal("the copying thread ended early").with_source(e))??;
        let (options, copy) = match found {
            unwritable::Found::Closed => (options.immutable(true), None),
            unwritable::Found::Open => (options, None),
            unwritable::Found::Copied(copy) => {
                (options.filename(copy.path().join(unwritable::NAME)), Some(copy))
            }
        };
        let mut connection = options.connect().await.map_err(|e| sql_error(&path, e))?;
        let checked = schema::check(&mut connection, &path).await;
        let _ = connection.close().await;
        checked?;
        let version = version::Version::read_only(&path);
        let readers = Readers::unchanging(options);
        Ok(Self(Arc::new(Database { path, readers, writer: None, version, _copy: copy })))
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>> {
        self.0.readers.get().await.map_err(|e| self.failed(e))
    }

    fn failed(&self, e: sqlx::Error) -> Error {
        sql_error(&self.0.path, e)
    }

    fn damaged(&self, e: Error) -> Error {
        Error::new(ErrorKind::Corrupt, "the database has a row that is not valid")
            .with_context("path", self.0.path.display())
            .with_source(e)
    }
}

/// Locks the database; `None` when it exists and is not writable.
async fn lock(path: &Path) -> Result<Option<File>> {
    let exists = path.exists();
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let lock = tokio::task::spawn_blocking(move || {
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let refused = [std::io::ErrorKind::ReadOnlyFilesystem, std::io::ErrorKind::PermissionDenied];
        if exists && file.as_ref().is_err_and(|e| refused.contains(&e.kind())) {
            return Ok(None);
        }
        let file = file.at("cannot open the lock file of the database: is its folder writable?", &path)?;
        file.lock().at("cannot lock the database", &path)?;
        Ok(Some(file))
    });
    lock.await.map_err(|e| Error::internal("the locking thread ended early").with_source(e))?
}

fn sync_folder_of(path: &Path) -> Result<()> {
    let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    File::open(folder).and_then(|f| f.sync_all()).at("cannot sync the folder of the database", folder)
}

impl fmt::Display for SqlMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLite {}", self.0.path.display())
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
        true
    }

    fn writable(&self) -> bool {
        self.0.writer.is_some()
    }

    fn version(&self) -> Option<u64> {
        self.0.version.now()
    }

    async fn write(&self, change: Change) -> Result<u64> {
        match &self.0.writer {
            Some(writer) => writer.write(change).await,
            None => Err(Error::unsupported("the store is on a read-only file system")
                .with_context("path", self.0.path.display())),
        }
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobRecord>> {
        let row: Option<blobs::BlobRow> = sqlx::query_as(
            "SELECT b.size, b.own_key, b.condemned FROM blobs b \
             JOIN blob_links l ON l.blob_id = b.id \
             JOIN repositories r ON r.id = l.repository_id \
             WHERE b.digest = $1 AND r.name = $2",
        )
        .bind(digest.as_str())
        .bind(repository.as_str())
        .fetch_optional(&mut *self.reader().await?)
        .await
        .map_err(|e| self.failed(e))?;
        Ok(row.map(|row| blobs::record(digest.clone(), row)))
    }

    async fn leased_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(BlobRecord, i64)>> {
        let row: Option<(i64, Option<String>, Option<i64>, i64)> = sqlx::query_as(
            "SELECT b.size, b.own_key, b.condemned, l.leased_until FROM blobs b \
             JOIN blob_links l ON l.blob_id = b.id \
             JOIN repositories r ON r.id = l.repository_id \
             WHERE b.digest = $1 AND r.name = $2",
        )
        .bind(digest.as_str())
        .bind(repository.as_str())
        .fetch_optional(&mut *self.reader().await?)
        .await
        .map_err(|e| self.failed(e))?;
        Ok(row.map(|(size, key, mark, until)| (blobs::record(digest.clone(), (size, key, mark)), until)))
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
    ) -> Result<Vec<ManifestAt>> {
        self.find_unkept(before, after, limit).await
    }

    async fn unlinked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        self.find_unlinked(after, limit).await
    }

    async fn has_key(&self, key: &BlobKey) -> Result<bool> {
        self.find_key(key).await
    }

    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Option<Manifest>> {
        let (query, key) = match reference {
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
        let row: Option<(String, String, Vec<u8>)> = sqlx::query_as(query)
            .bind(repository.as_str())
            .bind(key)
            .fetch_optional(&mut *self.reader().await?)
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
        let id: Option<(i64,)> = sqlx::query_as("SELECT id FROM repositories WHERE name = $1")
            .bind(repository.as_str())
            .fetch_optional(&mut *self.reader().await?)
            .await
            .map_err(|e| self.failed(e))?;
        let Some((id,)) = id else { return Ok(None) };
        if limit == 0 {
            return Ok(Some(Listing { items: Vec::new(), more: false }));
        }
        let rows = sqlx::query_as(
            "SELECT name FROM tags WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3",
        )
        .bind(id)
        .bind(after.unwrap_or_default())
        .bind(limit as i64 + 1)
        .fetch_all(&mut *self.reader().await?)
        .await
        .map_err(|e| self.failed(e))?;
        page(rows, limit, Tag::parse).map(Some).map_err(|e| self.damaged(e))
    }

    async fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Listing<RepositoryName>> {
        if limit == 0 {
            return Ok(Listing { items: Vec::new(), more: false });
        }
        let rows = sqlx::query_as(
            "SELECT name FROM repositories WHERE name > $1 AND listed = 1 ORDER BY name LIMIT $2",
        )
        .bind(after.unwrap_or_default())
        .bind(limit as i64 + 1)
        .fetch_all(&mut *self.reader().await?)
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
        let rows: Vec<(String, String, i64, Option<String>, String)> = sqlx::query_as(
            "SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations FROM repositories r \
             JOIN manifests m ON m.repository_id = r.id \
             WHERE r.name = $1 AND m.subject = $2 AND (CAST($3 AS TEXT) IS NULL OR m.artifact_type = $3) \
             ORDER BY m.digest",
        )
        .bind(repository.as_str())
        .bind(subject.as_str())
        .bind(artifact_type)
        .fetch_all(&mut *self.reader().await?)
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
        let row: Option<(String, String, i64, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT repository, algorithm, saved_offset, hash, backend FROM uploads WHERE id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&mut *self.reader().await?)
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

    async fn stale_uploads(&self, before: i64) -> Result<Vec<UploadId>> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT id FROM uploads WHERE updated_at <= $1")
            .bind(before)
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(|e| self.failed(e))?;
        rows.iter().map(|(id,)| UploadId::parse(id).map_err(|e| self.damaged(e))).collect()
    }
}
