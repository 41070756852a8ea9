//! A cache in memory.

use super::{CacheEntry, CacheRecord, CacheStore};
use crate::{Digest, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Keeps records in memory.
#[derive(Debug, Default)]
pub struct MemoryCache(Mutex<BTreeMap<Digest, (CacheRecord, SystemTime)>>);

impl MemoryCache {
    fn state(&self) -> MutexGuard<'_, BTreeMap<Digest, (CacheRecord, SystemTime)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every record.
    #[cfg(test)]
    pub(crate) fn records(&self) -> Vec<CacheRecord> {
        self.state().values().map(|(record, _)| record.clone()).collect()
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
        Ok(self.state().get_mut(key).map(|(record, used)| {
            *used = SystemTime::now();
            record.clone()
        }))
    }

    async fn put(&self, key: &Digest, record: &CacheRecord) -> Result<()> {
        self.state().insert(key.clone(), (record.clone(), SystemTime::now()));
        Ok(())
    }

    async fn remove(&self, key: &Digest) -> Result<()> {
        self.state().remove(key);
        Ok(())
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<CacheEntry>> {
        let records = self.state();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = records.range::<Digest, _>((start, Bound::Unbounded)).take(limit);
        Ok(page
            .map(|(key, (record, used))| CacheEntry { key: key.clone(), used: *used, record: record.clone() })
            .collect())
    }

    async fn remove_unused(&self, key: &Digest, before: Option<SystemTime>) -> Result<bool> {
        let mut records = self.state();
        let goes = records.get(key).is_some_and(|(_, used)| before.is_none_or(|before| *used < before));
        Ok(goes && records.remove(key).is_some())
    }
}
