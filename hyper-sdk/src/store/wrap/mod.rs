//! Stores around stores.

mod cached;
mod fault;
mod read_only;

pub use cached::{CacheOptions, CacheStatistics, Cached, CachedContent, FetchedBlob};
pub use fault::{FaultPlan, FaultyBlobs, FaultyMeta};
pub use read_only::ReadOnly;
