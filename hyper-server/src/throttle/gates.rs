//! How often something may happen: the generic cell rate algorithm.

use super::rate::Rate;
use super::table::{Place, SETS, Table};
use std::hash::Hash;
use std::time::Duration;

/// A time in nanoseconds since some moment; 0 is before all of them.
pub(super) type Nanos = u64;

/// How often each key may do something: the generic cell rate algorithm. The value of a key is the time at which it has its
/// whole burst again; it is idle when this has passed.
#[derive(Debug)]
pub(super) struct Pace {
    interval: u64,
    window: u64,
    table: Table<Nanos>,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Self {
        Self::with_sets(rate, SETS)
    }

    fn with_sets(rate: Rate, sets: usize) -> Self {
        Self { interval: rate.interval_nanos(), window: rate.window_nanos(), table: Table::new(sets) }
    }

    /// Takes one, or says how long to wait for one.
    pub(super) fn take(&self, key: impl Hash, now: Nanos) -> Result<Place, Duration> {
        let take = |full: &mut Nanos| {
            *full = self.next(*full, now)?;
            Ok(())
        };
        let (place, taken) = self.table.change(key, |full| *full <= now, take);
        taken.map(|()| place)
    }

    /// Whether there is one to take, or how long to wait for it. Takes nothing.
    pub(super) fn look(&self, key: impl Hash, now: Nanos) -> Result<(), Duration> {
        self.table
            .read(key, |full| *full <= now, |full| self.next(*full, now))
            .map_or(Ok(()), |next| next.map(|_| ()))
    }

    /// Gives back what was taken, as if it had not been, unless it has come back by itself.
    /// `since` is how long ago that was.
    pub(super) fn give_back(&self, key: impl Hash, place: Place, since: Duration) {
        if since >= Duration::from_nanos(self.interval) {
            return;
        }
        self.table.change_of(key, place, |full| *full = full.saturating_sub(self.interval));
    }

    fn next(&self, full: Nanos, now: Nanos) -> Result<Nanos, Duration> {
        let next = full.max(now).saturating_add(self.interval);
        match (next - now).checked_sub(self.window) {
            None | Some(0) => Ok(next),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const SECOND: u64 = 1_000_000_000;

    fn pace(rate: &str, sets: usize) -> Pace {
        Pace::with_sets(rate.parse().unwrap(), sets)
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_in_each_interval() {
        let pace = pace("10/s burst 3", 4);
        let mut now = 5 * SECOND;
        for _ in 0..3 {
            pace.take("a", now).unwrap();
        }
        let wait = pace.take("a", now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(pace.take("a", now).unwrap_err(), wait, "a refusal costs nothing");
        pace.take("b", now).unwrap();
        now += 100_000_000 - 1;
        assert_eq!(pace.take("a", now).unwrap_err(), Duration::from_nanos(1));
        now += 1;
        pace.take("a", now).unwrap();
        pace.take("a", now).unwrap_err();
        now += SECOND;
        for _ in 0..3 {
            pace.take("a", now).unwrap();
        }
        pace.take("a", now).unwrap_err();
    }

    /// Requests of several threads carry times that are not in order.
    #[test]
    fn a_time_that_goes_back_gives_nothing() {
        let pace = pace("1/s", 4);
        pace.take("a", 10 * SECOND).unwrap();
        assert_eq!(pace.take("a", 9 * SECOND).unwrap_err(), Duration::from_secs(2));
        pace.take("a", 11 * SECOND).unwrap();
    }

    #[test]
    fn whoever_waits_as_told_succeeds() {
        for rate in ["3/s", "7/m burst 2", "1000000/s burst 1", "100/6h", "4294967295/s burst 1"] {
            let pace = pace(rate, 4);
            let mut now = 1;
            for _ in 0..1000 {
                if let Err(wait) = pace.take("a", now) {
                    now += u64::try_from(wait.as_nanos()).unwrap();
                    pace.take("a", now).unwrap();
                }
            }
        }
    }

    /// At a clock that stands still, many threads get the burst and not one more.
    #[test]
    fn threads_at_once_get_the_burst_exactly() {
        let pace = pace("1/h burst 1000", 4);
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        passed.fetch_add(u32::from(pace.take("a", SECOND).is_ok()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 1000);
    }

    /// An attacker with very many addresses does not make the table forget the one that is limited, and together they get
    /// no more than the places of the table.
    #[test]
    fn many_addresses_push_nobody_out() {
        let pace = pace("1/m burst 5", 16);
        let now = SECOND;
        for _ in 0..5 {
            pace.take("attacker", now).unwrap();
        }
        let passed = (0..200_000u32).filter(|address| pace.take(address, now).is_ok()).count();
        assert!(passed <= 16 * 9 * 5, "{passed}");
        assert_eq!(pace.take("attacker", now).unwrap_err(), Duration::from_secs(60));
        // When the others have had their rest, there is room again.
        let later = now + 300 * SECOND;
        for newcomer in 500_000..500_010u32 {
            pace.take(newcomer, later).unwrap();
        }
    }
}
