//! Build caches: a map from the key of a step to its layer.
//!
//! A key is a digest over everything that a step's result depends on; `solve` computes it. A record is small: the layer
//! itself is a blob in a store, or the files of a snapshot. A record that has lost both is ignored.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod disk;
mod export;
mod import;
#[cfg(feature = "cache-s3")]
mod in_bucket;
mod memory;
mod place;
mod shared_records;

pub use disk::DiskCache;
pub(crate) use export::{CacheBundle, PackedMount, SharedContent};
pub(crate) use import::{Imported, Imports, MountImport, SharedBlob};
pub use memory::MemoryCache;
pub use place::{CacheFrom, CachePlace};
pub use shared_records::{MAX_SHARED_MOUNT, MAX_SHARED_RECORDS, SharedMount, SharedRecord, SharedRecords};

use crate::layer::FileTime;
use crate::oci::Descriptor;
use crate::{Digest, RepositoryName, Result};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::SystemTime;

/// The layer that a step made.
///
/// Its files are in a blob of a store, in a snapshot, or in both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The layer as the blob that was made first, if one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Descriptor>,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The repository of the store that has the blob.
    pub repository: RepositoryName,
    /// The table of the exact times of the layer's files, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Digest>,
    /// When the layer was made, if its files have the times of files outside of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<FileTime>,
    /// The snapshot that has the layer's files, if there is one. With the index of the layer it gives its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Digest>,
    /// The step that made the layer, when the history has its build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A step of a build in the history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The id of the build.
    pub build: String,
    /// The number of the step in its log, from 1.
    pub step: u64,
}

impl CacheRecord {
    /// The record of a blob with this diff ID.
    pub fn of_blob(layer: Descriptor, diff_id: Digest, repository: RepositoryName) -> Self {
        Self {
            layer: Some(layer),
            diff_id,
            repository,
            times: None,
            made: None,
            snapshot: None,
            origin: None,
        }
    }
}

/// A record as [`CacheStore::list`] gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheEntry {
    /// Its key.
    pub key: Digest,
    /// When it was last stored or found.
    pub used: SystemTime,
    /// The record.
    pub record: CacheRecord,
}

/// Keeps the records of a build cache.
///
/// # Guarantees
/// Object-safe; several tasks and processes may use one cache at once. A record is found complete or not at all. A lost
/// record only costs time, so a damaged record is treated as missing. The suite in `cache::conformance` tests a
/// backend.
///
/// # Example
/// A cache that counts its hits:
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::cache::{CacheRecord, CacheStore, SharedCache};
/// use hyper_sdk::{Digest, Result};
/// use std::fmt;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Debug)]
/// struct Counting {
///     inner: SharedCache,
///     found: AtomicU64,
/// }
///
/// impl fmt::Display for Counting {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "{}, counted", self.inner)
///     }
/// }
///
/// #[async_trait]
/// impl CacheStore for Counting {
///     async fn get(&self, key: &Digest) -> Result<Option<CacheRecord>> {
///         let record = self.inner.get(key).await?;
///         self.found.fetch_add(u64::from(record.is_some()), Ordering::Relaxed);
///         Ok(record)
///     }
///
///     async fn put(&self, key: &Digest, record: &CacheRecord) -> Result<()> {
///         self.inner.put(key, record).await
///     }
///
///     async fn remove(&self, key: &Digest) -> Result<()> {
///         self.inner.remove(key).await
///     }
/// }
/// ```
#[async_trait]
pub trait CacheStore: Display + Debug + Send + Sync + 'static {
    /// The record of a key; `None` when it is missing or damaged.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the record cannot be read.
    async fn get(&self, key: &Digest) -> Result<Option<CacheRecord>>;

    /// Stores a record and replaces that of the same key. Dropping the future leaves the old or the new record.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when it cannot be stored.
    async fn put(&self, key: &Digest, record: &CacheRecord) -> Result<()>;

    /// Removes a record. A missing record is not an error.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when it cannot be removed.
    async fn remove(&self, key: &Digest) -> Result<()>;

    /// At most `limit` records with the time of their last use, after the key `after`, which may be gone. The cache
    /// chooses the order and does not change it. Listing is no use.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the cache cannot list its records: they are then never cleaned up.
    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<CacheEntry>> {
        let _ = (after, limit);
        Err(crate::Error::unsupported("the cache does not list its records"))
    }

    /// Removes a record that was last used before a time; without a time, any record. Returns whether it removed it. Who
    /// looks for it at the same time either keeps it or does not find it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the cache cannot list its records.
    async fn remove_unused(&self, key: &Digest, before: Option<SystemTime>) -> Result<bool> {
        let _ = (key, before);
        Err(crate::Error::unsupported("the cache does not list its records"))
    }
}

/// A shared cache.
pub type SharedCache = Arc<dyn CacheStore>;

#[cfg(test)]
mod tests;
