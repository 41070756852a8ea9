//! Wrappers around stores and backends.

mod cached;
#[cfg(any(test, feature = "testing"))]
mod fault;
mod read_only;

pub use cached::{CacheOptions, CacheStatistics, Cached, CachedContent, FetchedBlob};
#[cfg(any(test, feature = "testing"))]
pub use fault::{FaultPlan, FaultyBlobs, FaultyMeta};
pub use read_only::ReadOnly;
