//! The clock of the database, which all servers share.

use crate::clock::{Clock, SystemClock};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time of the database: what it said last, and the time since then on the steady clock of this machine. Every
/// transaction that writes sets it, and so does a question for the time.
#[derive(Debug)]
pub(super) struct DatabaseClock(Mutex<(Instant, i64)>);

impl Default for DatabaseClock {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), SystemClock.now().saturating_mul(1000))))
    }
}

impl DatabaseClock {
    /// Sets the time, in milliseconds since 1970.
    pub(super) fn set(&self, milliseconds: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), milliseconds);
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> i64 {
        let (at, milliseconds) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = at.elapsed() + Duration::from_millis(milliseconds.max(0).unsigned_abs());
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_database_and_not_this_machine() {
        let clock = DatabaseClock::default();
        assert!((clock.now() - SystemClock.now()).abs() <= 1);
        clock.set(1_000_900);
        assert!((1_000..=1_005).contains(&clock.now()));
    }
}
