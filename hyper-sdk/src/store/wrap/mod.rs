//! Stores around stores.

mod fault;
mod read_only;

pub use fault::{FaultPlan, FaultyBlobs, FaultyMeta};
pub use read_only::ReadOnly;
