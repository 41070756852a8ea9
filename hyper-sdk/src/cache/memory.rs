//! A cache in memory.

use super::{CacheRecord, CacheStore};
use crate::{Digest, Result};
use async_trait::async_trait;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Keeps records in memory.
#[derive(Debug, Default)]
pub struct MemoryCache(Mutex<HashMap<Digest, CacheRecord>>);

#[cfg(test)]
impl MemoryCache {
    /// Every record.
    pub(crate) fn records(&self) -> Vec<CacheRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl fmt::Display for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory cache")
    }
}

#[async_trait]
impl CacheStore for MemoryCache {
    async fn get(&self, key: &Digest) -> Result<Option<CacheRecord>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    async fn put(&self, key: &Digest, record: &CacheRecord) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), record.clone());
        Ok(())
    }

    async fn remove(&self, key: &Digest) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }
}
