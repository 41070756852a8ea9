//! Wrappers around stores and backends.

mod cached;
#[cfg(any(test, feature = "testing"))]
mod fault;
#[cfg(feature = "build")]
mod in_use;
mod read_only;

pub use cached::{CacheOptions, CacheStatistics, Cached, CachedContent, FetchedBlob};
#[cfg(any(test, feature = "testing"))]
pub use fault::{FaultPlan, FaultyBlobs, FaultyMeta};
#[cfg(feature = "build")]
pub(crate) use in_use::InUse;
pub use read_only::ReadOnly;
