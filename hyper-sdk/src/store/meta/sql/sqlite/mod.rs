//! Metadata in SQLite.
//!
//! The journal is a write-ahead log and `synchronous` is FULL: a commit returns after its log is synced. Several processes
//! may have the database open; a transaction takes the write lock first, and waits for it up to ten seconds. The database
//! can be read while the disk is full ([`readers`]).

mod error;
mod in_use;
mod readers;
mod session;
mod unwritable;
mod version;

use self::error::sql_error;
use self::in_use::InUse;
use self::readers::Readers;
use self::session::Session;
use super::events::Recording;
use super::query::Reader;
use super::queue::Queue;
use super::quotas::SharedRules;
use super::schema;
use crate::clock::{SharedClock, SystemClock};
use crate::private_folder::TemporaryFolder;
use crate::store::meta::Change;
use crate::{Error, ErrorKind, Result, ResultExt as _};
use futures::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a change waits for another process that is writing.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The size to which a grown write-ahead log is truncated, in bytes.
const JOURNAL_LIMIT: &str = "4194304";

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    readers: Readers,
    /// `None` when the file system cannot be written.
    writer: Option<Queue>,
    /// For single statements beside the queue. The connection is opened when it is needed.
    statements: Option<SqlitePool>,
    clock: SharedClock,
    version: version::Version,
    /// `None` when this process only reads.
    in_use: Option<InUse>,
    rules: SharedRules,
    recording: Recording,
    /// Where the readers read, when it is not `path`. It is removed with the value.
    _copy: Option<TemporaryFolder>,
}

impl Database {
    /// See [`super::SqlMeta::open`].
    pub(in crate::store::meta::sql) fn open(
        path: PathBuf,
        busy_timeout: Duration,
        clock: SharedClock,
    ) -> BoxFuture<'static, Result<Self>> {
        // Boxed: programs that call this do not compile it again.
        Box::pin(async move {
            let options = SqliteConnectOptions::new()
                .filename(&path)
                .foreign_keys(true)
                .busy_timeout(busy_timeout)
                .disable_statement_logging();
            // Only one process at a time switches a new file to write-ahead logging and creates its tables.
            let Some(_guard) = lock(&path).await? else {
                return Self::open_read_only(path, options, false).await;
            };
            let in_use = Some(InUse::take(&path)?);
            let options = options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .pragma("journal_size_limit", JOURNAL_LIMIT);
            let existing = options.clone().create_if_missing(false);
            let statements = Some(readers::pool(1).connect_lazy_with(existing.clone()));
            let readers = Readers::new(existing.clone().pragma("query_only", "on"), busy_timeout);
            let connection = match is_complete(&path, &readers).await {
                // The first change opens a connection. Many programs only read.
                true => Ok(None),
                false => Self::connect_upgraded(&options, &path).await.map(Some),
            };
            let options = existing;
            let connection = match connection {
                Ok(connection) => connection,
                Err(e) if e.kind() == ErrorKind::StorageFull => {
                    // A database without tables is not usable before there is space.
                    let Ok(mut reader) = readers.get().await else { return Err(e) };
                    if check(&mut reader, &path).await.is_err() {
                        return Err(e);
                    }
                    tracing::warn!(error = %e, "the store is read-only until the disk has space again");
                    None
                }
                Err(e) => return Err(e),
            };
            let (rules, recording) = (SharedRules::default(), Recording::default());
            let shared = (Arc::clone(&clock), rules.clone(), recording.clone());
            let session = Session::new(connection, options, path.clone(), shared);
            let writer = Some(Queue::start(session));
            let version = version::Version::changing(&path);
            Ok(Self {
                path,
                readers,
                writer,
                statements,
                clock,
                version,
                in_use,
                rules,
                recording,
                _copy: None,
            })
        })
    }

    /// See [`super::SqlMeta::open_unchanged`].
    pub(in crate::store::meta::sql) fn open_unchanged(path: PathBuf) -> BoxFuture<'static, Result<Self>> {
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        Box::pin(Self::open_read_only(path, options, true))
    }

    /// Connects and migrates the tables.
    async fn connect_upgraded(options: &SqliteConnectOptions, path: &Path) -> Result<SqliteConnection> {
        let mut connection = options.connect().await.map_err(|e| sql_error(path, e))?;
        let made = match upgrade(&mut connection, path).await {
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
    ///
    /// Where another process may begin to write (`may_change`), one that is closed is read in a private copy as well.
    async fn open_read_only(path: PathBuf, options: SqliteConnectOptions, may_change: bool) -> Result<Self> {
        let options = options.create_if_missing(false).read_only(true);
        let from = path.clone();
        let found = tokio::task::spawn_blocking(move || match unwritable::is_in_use(&from) {
            true => Ok(unwritable::Found::Open),
            false if may_change => unwritable::copy(&from),
            false => unwritable::find(&from),
        });
        let found = found.await;
        let found = found.map_err(|e| Error::internal("the copying thread ended early").with_source(e))??;
        let (options, copy) = match found {
            unwritable::Found::Closed => (options.immutable(true), None),
            unwritable::Found::Open => (options, None),
            unwritable::Found::Copied(copy) => {
                (options.filename(copy.path().join(unwritable::NAME)), Some(copy))
            }
        };
        let mut connection = options.connect().await.map_err(|e| sql_error(&path, e))?;
        let checked = check(&mut connection, &path).await;
        let _ = connection.close().await;
        checked?;
        let version = version::Version::read_only(&path);
        let readers = Readers::unchanging(options);
        let (clock, rules, recording) = (Arc::new(SystemClock), SharedRules::default(), Recording::default());
        let (writer, statements, in_use) = (None, None, None);
        Ok(Self { path, readers, writer, statements, clock, version, in_use, rules, recording, _copy: copy })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps other processes from the database until [`Self::use_with_others`], or fails when one has it open.
    pub(super) fn use_alone(&self) -> Result<()> {
        self.in_use.as_ref().map_or(Ok(()), InUse::alone)
    }

    /// Lets other processes open the database again.
    pub(super) fn use_with_others(&self) {
        if let Some(in_use) = &self.in_use {
            in_use.share();
        }
    }

    pub(super) fn rules(&self) -> &SharedRules {
        &self.rules
    }

    pub(super) fn recording(&self) -> &Recording {
        &self.recording
    }

    pub(super) fn writable(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) fn clock(&self) -> SharedClock {
        Arc::clone(&self.clock)
    }

    pub(super) fn version(&self) -> Option<u64> {
        self.version.now()
    }

    pub(super) async fn write(&self, change: Change) -> Result<u64> {
        match &self.writer {
            Some(writer) => writer.write(change).await,
            None => Err(self.unwritable()),
        }
    }

    fn unwritable(&self) -> Error {
        Error::unsupported("the store is on a read-only file system")
            .with_context("path", self.path.display())
    }

    pub(super) async fn statement_writer(&self) -> Result<Reader> {
        let pool = self.statements.as_ref().ok_or_else(|| self.unwritable())?;
        pool.acquire().await.map(Reader::Sqlite).map_err(|e| self.failed(e))
    }

    pub(super) async fn reader(&self) -> Result<Reader> {
        self.readers.get().await.map(Reader::Sqlite).map_err(|e| self.failed(e))
    }

    pub(super) fn failed(&self, e: sqlx::Error) -> Error {
        sql_error(&self.path, e)
    }
}

/// Applies the missing migrations.
async fn upgrade(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    let found = schema::migrate(connection).await.map_err(|e| sql_error(path, e))?;
    schema::reject_newer(found).context("path", path.display())
}

/// Whether a database can be used as it is: it is writable, has all tables, and its changes go to a write-ahead log.
async fn is_complete(path: &Path, readers: &Readers) -> bool {
    if rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err() {
        return false;
    }
    let Ok(mut reader) = readers.shared().await else { return false };
    let mode = sqlx::query_scalar::<_, String>("PRAGMA journal_mode").fetch_one(&mut *reader).await;
    mode.is_ok_and(|mode| mode == "wal") && check(&mut reader, path).await.is_ok()
}

/// Checks that no migration is missing, without writing.
async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    let (found,): (i64,) =
        sqlx::query_as(schema::VERSION).fetch_one(connection).await.map_err(|e| sql_error(path, e))?;
    schema::reject_older(found).and_then(|()| schema::reject_newer(found)).context("path", path.display())
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
