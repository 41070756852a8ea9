//! Build caches: from the key of a step to the layer that it made.
//!
//! A key is a digest over everything that a step's result depends on; `solve` makes it. A record is small: the layer
//! itself is a blob of a store, and a record whose blob is gone counts as no record.

mod disk;
mod memory;

pub use disk::DiskCache;
pub use memory::MemoryCache;

use crate::layer::FileTime;
use crate::oci::Descriptor;
use crate::{Digest, Result};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt::{Debug, Display};
use std::sync::Arc;

/// The layer that a step made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The layer as a blob.
    pub layer: Descriptor,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The repository of the store that has the blob.
    pub repository: crate::RepositoryName,
    /// The table of the true times of the layer's files, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Digest>,
    /// When the layer was made, where the times of its files are those of files outside of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<FileTime>,
}

/// Keeps the records of a build cache.
///
/// # Guarantees
/// Object-safe; several tasks and processes may use one cache at once. A record is found whole or not at all. Losing a
/// record costs time only, so a damaged one counts as none.
#[async_trait]
pub trait CacheStore: Display + Debug + Send + Sync + 'static {
    /// The record of a key.
    async fn get(&self, key: &Digest) -> Result<Option<CacheRecord>>;

    /// Keeps a record, in place of what the key had.
    async fn put(&self, key: &Digest, record: &CacheRecord) -> Result<()>;

    /// Forgets a record. Nothing happens where there is none.
    async fn remove(&self, key: &Digest) -> Result<()>;
}

/// A shared cache of any kind.
pub type SharedCache = Arc<dyn CacheStore>;

#[cfg(test)]
mod tests {
    use super::*;

    async fn behaves(cache: &dyn CacheStore) {
        let key = Digest::sha256("key");
        assert_eq!(cache.get(&key).await.unwrap(), None);
        for content in ["one", "two"] {
            let record = CacheRecord {
                layer: Descriptor::of(crate::media_type::OCI_LAYER, content.as_bytes()),
                diff_id: Digest::sha256(content),
                repository: crate::RepositoryName::parse("a/b").unwrap(),
                times: Some(Digest::sha256("times")),
                made: Some(FileTime { seconds: 1, nanoseconds: 2 }),
            };
            cache.put(&key, &record).await.unwrap();
            assert_eq!(cache.get(&key).await.unwrap(), Some(record));
        }
        cache.remove(&key).await.unwrap();
        cache.remove(&key).await.unwrap();
        assert_eq!(cache.get(&key).await.unwrap(), None);
    }

    #[tokio::test]
    async fn every_backend_behaves() {
        behaves(&MemoryCache::default()).await;
        let folder = tempfile::tempdir().unwrap();
        behaves(&DiskCache::open(folder.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn a_damaged_record_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(folder.path()).unwrap();
        let key = Digest::sha256("key");
        let path = cache.path(&key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert_eq!(cache.get(&key).await.unwrap(), None);
        let record = CacheRecord {
            layer: Descriptor::of(crate::media_type::OCI_LAYER, b"layer"),
            diff_id: Digest::sha256("layer"),
            repository: crate::RepositoryName::parse("a/b").unwrap(),
            made: None,
            times: None,
        };
        cache.put(&key, &record).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            // Most changes of a digit leave a record that can be parsed.
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert_eq!(cache.get(&key).await.unwrap(), None, "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert_eq!(cache.get(&key).await.unwrap(), None, "cut to {at}");
        }
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(cache.get(&key).await.unwrap(), Some(record));
    }
}
