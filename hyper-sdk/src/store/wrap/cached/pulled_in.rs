//! When cached content was last pulled.

use std::sync::atomic::{AtomicU64, Ordering};

/// The last hour in which content was pulled, as a number. A copy was not pulled yet.
#[derive(Debug, Default)]
pub(in crate::store) struct PulledIn(AtomicU64);

impl PulledIn {
    /// Returns whether it is the first time in this hour.
    pub(in crate::store) fn enter(&self, hour: u64) -> bool {
        let is_first = self.0.load(Ordering::Relaxed) != hour;
        if is_first {
            self.0.store(hour, Ordering::Relaxed);
        }
        is_first
    }
}

impl Clone for PulledIn {
    fn clone(&self) -> Self {
        Self::default()
    }
}
