//! The stores of the SDK: in memory and in a folder.

#[cfg(feature = "store-sql")]
use super::RegistryStore;
use super::{Composed, blob, meta};
#[cfg(feature = "store-sql")]
use crate::Result;
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
///   ROOT/hyper.db      metadata (SQLite; with the files -wal, -shm and .lock)
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
        let store = Self::new(blobs, meta::SqlMeta::open(root.join("hyper.db")).await?);
        if let Some(age) = upload_max_age.filter(|_| store.capabilities().write)
            && let Err(error) = store.expire_uploads(age).await
        {
            tracing::warn!(%error, root = %root.display(), "idle uploads cannot be removed");
        }
        Ok(store)
    }
}
