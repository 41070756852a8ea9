//! Counts what the limits refuse. The log gets a line in a while, not one for each.

use super::gates::Nanos;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long after a line about a limit the next one may come, in nanoseconds.
const QUIET: Nanos = 10_000_000_000;

/// Whom a limit is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Address,
    Anonymous,
    User,
    UserAtAddress,
}

/// What a limit is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Reads,
    Writes,
    RequestsAtOnce,
    UploadsAtOnce,
    WrongPasswords,
    Upload,
    Download,
}

impl By {
    /// Those of the limits of requests, in their order.
    pub(super) const OF_REQUESTS: [Self; 3] = [Self::Address, Self::Anonymous, Self::User];
    const NAMES: [&str; 4] = ["address", "anonymous", "user", "user_at_address"];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl Of {
    const NAMES: [&str; 7] =
        ["reads", "writes", "requests_at_once", "uploads_at_once", "wrong_passwords", "upload", "download"];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    /// When the last line was written.
    said: AtomicU64,
}

/// The counts, by the limit.
#[derive(Debug, Default)]
pub(crate) struct Refusals([[Counter; Of::NAMES.len()]; By::NAMES.len()]);

impl Refusals {
    /// Counts a request that a limit has refused.
    pub(super) fn count(&self, by: By, of: Of, client: Option<IpAddr>, now: Nanos) {
        let counter = &self.0[by as usize][of as usize];
        let count = counter.count.fetch_add(1, Ordering::Relaxed) + 1;
        let said = counter.said.load(Ordering::Relaxed);
        let is_due = said == 0 || now.saturating_sub(said) >= QUIET;
        let may_say =
            || counter.said.compare_exchange(said, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due && may_say() {
            tracing::warn!(
                by = by.name(),
                limit = of.name(),
                client = client.map(tracing::field::display),
                refused = count,
                "a limit refuses requests; `client` is one of them, `refused` counts since the start"
            );
        }
    }

    /// Gives each count with the names of its limit.
    pub(crate) fn each(&self, each: &mut dyn FnMut(&[&str], u64)) {
        for (by, counters) in By::NAMES.iter().zip(&self.0) {
            for (of, counter) in Of::NAMES.iter().zip(counters) {
                each(&[by, of], counter.count.load(Ordering::Relaxed));
            }
        }
    }
}

/// Whom limits are for, as the metrics name it.
pub(crate) fn by_names() -> Vec<String> {
    By::NAMES.map(str::to_owned).to_vec()
}

/// What limits are of, as the metrics name it.
pub(crate) fn limit_names() -> Vec<String> {
    Of::NAMES.map(str::to_owned).to_vec()
}

/// Whom rates of bytes are for, as the metrics name it.
pub(crate) fn paced_names() -> Vec<String> {
    [By::Address, By::Anonymous, By::User].map(|by| by.name().to_owned()).to_vec()
}

/// What rates of bytes are of, as the metrics name it.
pub(crate) fn direction_names() -> Vec<String> {
    [Of::Upload, Of::Download].map(|of| of.name().to_owned()).to_vec()
}
