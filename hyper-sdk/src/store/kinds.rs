//! The stores of the SDK: in memory and in a folder.

#[cfg(feature = "store-sql")]
use super::RegistryStore;
use super::{Composed, blob, meta};
#[cfg(feature = "store-sql")]
use crate::{Error, ErrorKind, Result};
#[cfg(feature = "store-postgres")]
use crate::{ResultExt as _, small_file};
#[cfg(feature = "store-sql")]
use std::path::Path;
#[cfg(feature = "store-sql")]
use std::time::Duration;

/// A store in memory.
///
/// ```
/// use hyper_sdk::RepositoryName;
/// use hyper_sdk::store::{MemoryStore, RegistryStoreExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, name) = (MemoryStore::default(), RepositoryName::parse("team/app")?);
/// let blob = store.put_bytes(&name, "text/plain", "hello".into()).await?;
/// assert_eq!(store.read_blob(&name, &blob.digest, 100).await?, "hello");
/// # Ok(())
/// # }
/// ```
pub type MemoryStore = Composed<blob::MemoryBlobs, meta::MemoryMeta>;

impl Default for MemoryStore {
    /// An empty store in memory.
    fn default() -> Self {
        Self::new(blob::MemoryBlobs::default(), meta::MemoryMeta::default())
    }
}

/// A store in a folder: blobs as files, metadata in SQLite. Several processes may have one folder open at once.
///
/// ```text
///   ROOT/hyper.db      metadata (SQLite; with the files -wal, -shm, .lock and .use)
///   ROOT/blobs/        the bytes of blobs, by digest
///   ROOT/uploads/      the bytes of uploads in progress
/// ```
///
/// ```
/// use hyper_sdk::store::{DiskStore, Page, RegistryStore as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let store = DiskStore::open(folder.join("registry")).await?;
/// assert!(store.list_repositories(Page::default()).await?.items.is_empty());
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "store-sql")]
pub type DiskStore = Composed<blob::DiskBlobs, meta::SqlMeta>;

#[cfg(feature = "store-sql")]
impl DiskStore {
    /// The default age at which an idle upload is removed.
    pub const UPLOAD_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

    /// Opens the store in the folder `root`, which is created when it does not exist and made private, and removes
    /// uploads that were idle for [`DiskStore::UPLOAD_MAX_AGE`]. If other users could reach the folder before,
    /// [`blob::DiskBlobs::warning`] says so.
    ///
    /// An existing store on a read-only file system can be read; its [`capabilities`](RegistryStore::capabilities) then
    /// exclude writing.
    ///
    /// # Errors
    /// Those of [`crate::private_folder::open`];
    /// [`crate::ErrorKind::Io`] when the folder cannot be written, [`crate::ErrorKind::Corrupt`] when the database is
    /// damaged, [`crate::ErrorKind::Unavailable`] when another process keeps it locked, and
    /// [`crate::ErrorKind::Unsupported`] when a newer version of Hyper has written it.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, Some(Self::UPLOAD_MAX_AGE)).await
    }

    /// Like [`DiskStore::open`], but removes uploads that were idle for `upload_max_age`; `None` keeps all.
    ///
    /// # Errors
    /// Those of [`DiskStore::open`]. Uploads that cannot be removed are logged.
    pub async fn open_with(root: impl AsRef<Path>, upload_max_age: Option<Duration>) -> Result<Self> {
        let root = root.as_ref();
        let blobs = blob::DiskBlobs::open(root).await?;
        if root.join(REGISTRY_ID).exists() {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the metadata of the blobs in this folder is in a PostgreSQL database: give its URL",
            )
            .with_context("path", root.display()));
        }
        let store = Self::new(blobs, meta::SqlMeta::open(root.join(DATABASE)).await?);
        store.expire_old_uploads(root, upload_max_age).await;
        Ok(store)
    }

    /// Opens the store whose blobs are in the folder `root`, and whose metadata is in a PostgreSQL database. Several servers
    /// may use both, when the folder is on a file system that they share.
    ///
    /// The file `registry-id` in the folder names the registry in the database: a collector would remove the blobs of
    /// another one.
    ///
    /// # Errors
    /// Those of [`DiskStore::open`] and of [`meta::SqlMeta::connect`]; [`crate::ErrorKind::Conflict`] when the blobs in the
    /// folder have their metadata elsewhere, or the registry in the database its blobs in a bucket.
    #[cfg(feature = "store-postgres")]
    pub async fn open_on(
        root: impl AsRef<Path>,
        database: meta::PostgresOptions,
        upload_max_age: Option<Duration>,
    ) -> Result<Self> {
        let root = root.as_ref();
        if root.join(DATABASE).exists() {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the metadata of the blobs in this folder is in its file `hyper.db`: choose another folder",
            )
            .with_context("path", root.display()));
        }
        let meta = meta::SqlMeta::connect(database).await?;
        if meta.blobs_kept_at().await?.is_some() {
            // It names the place that it has. The folder is not made, and not that of this registry, for its sake.
            meta.keep_blobs_at(FOLDER).await?;
        }
        let blobs = blob::DiskBlobs::open(root).await?;
        if let Some(id) = meta.registry_id() {
            claim(root, id)?;
        }
        meta.keep_blobs_at(FOLDER).await?;
        let store = Self::new(blobs, meta);
        store.expire_old_uploads(root, upload_max_age).await;
        Ok(store)
    }

    /// Removes the uploads that were idle for so long; a failure is logged.
    async fn expire_old_uploads(&self, root: &Path, age: Option<Duration>) {
        if let Some(age) = age.filter(|_| self.capabilities().write)
            && let Err(error) = self.expire_uploads(age).await
        {
            tracing::warn!(%error, root = %root.display(), "idle uploads cannot be removed");
        }
    }
}

/// The database of SQLite in the folder of a store.
#[cfg(feature = "store-sql")]
const DATABASE: &str = "hyper.db";

/// The file that names the registry whose metadata is elsewhere.
#[cfg(feature = "store-sql")]
const REGISTRY_ID: &str = "registry-id";

/// What a database remembers of blobs that are in a folder.
#[cfg(feature = "store-postgres")]
const FOLDER: &str = "a folder";

/// Makes the folder that of the registry, unless it is that of another one.
#[cfg(feature = "store-postgres")]
fn claim(root: &Path, id: &str) -> Result<()> {
    use std::io::Write as _;
    let path = root.join(REGISTRY_ID);
    // The file is there completely or not at all, also when two servers start at once.
    let mut file =
        tempfile::NamedTempFile::new_in(root).at("cannot write to the folder of the blobs", root)?;
    let written = file.write_all(id.as_bytes()).and_then(|()| file.as_file().sync_all());
    written.at("cannot write to the folder of the blobs", root)?;
    match file.persist_noclobber(&path) {
        Ok(_) => return Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e.error).at("cannot write to the folder of the blobs", &path),
    }
    let found = small_file::read_text(&path, "the name of the registry", 1024, small_file::Kinds::Files)?;
    if found == id {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the blobs in this folder belong to a registry in another database")
        .with_context("path", root.display()))
}
