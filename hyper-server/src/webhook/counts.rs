//! What is counted of a webhook, for the metrics.

use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::store::{Event, EventConsumer};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What is counted of a webhook.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests that were answered with 2xx.
    pub(crate) delivered: AtomicU64,
    /// Requests that failed.
    pub(crate) failed: AtomicU64,
    /// Events that were gone before they were delivered.
    pub(crate) skipped: AtomicU64,
    /// Events that were given up.
    pub(crate) given_up: AtomicU64,
    /// Events after the place.
    pub(crate) pending: AtomicI64,
    /// When the oldest of them happened, in seconds since 1970; 0 when there is none.
    oldest: AtomicI64,
}

impl Counts {
    /// How old the oldest event is that was not delivered, in seconds.
    pub(crate) fn lag(&self) -> i64 {
        match self.oldest.load(Ordering::Relaxed) {
            0 => 0,
            at => SystemClock.now().saturating_sub(at).max(0),
        }
    }

    /// Sets how far the webhook is, whose next event is `next`.
    pub(super) fn see(&self, consumer: &EventConsumer, next: Option<&Event>) {
        self.see_pending(consumer);
        self.oldest.store(next.map_or(0, |event| event.at), Ordering::Relaxed);
    }

    /// Sets how many events wait, while the next one is the one of before.
    pub(super) fn see_pending(&self, consumer: &EventConsumer) {
        let pending = consumer.last.saturating_sub(consumer.place.after());
        self.pending.store(i64::try_from(pending).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Nothing waits for it.
    pub(super) fn see_nothing(&self) {
        self.pending.store(0, Ordering::Relaxed);
        self.oldest.store(0, Ordering::Relaxed);
    }
}
