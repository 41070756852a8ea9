//! Keys that are remembered for a time, in bounded memory.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The keys. When there are too many, the older half goes.
pub(crate) struct Remembered<K> {
    keys: Mutex<HashMap<K, Instant>>,
    time: Duration,
    most: usize,
}

impl<K> fmt::Debug for Remembered<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered")
            .field("time", &self.time)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl<K: Hash + Eq> Remembered<K> {
    /// Remembers `most` keys, each for `time`.
    pub(crate) fn new(time: Duration, most: usize) -> Self {
        Self { keys: Mutex::default(), time, most }
    }

    /// Whether a key is remembered at the time `now`.
    pub(crate) fn has<Q: Hash + Eq + ?Sized>(&self, key: &Q, now: Instant) -> bool
    where
        K: Borrow<Q>,
    {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key).is_some_and(|at| now.saturating_duration_since(*at) < self.time)
    }

    /// Remembers a key from the time `now` on.
    pub(crate) fn add(&self, key: K, now: Instant) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= self.most && !keys.contains_key(&key) {
            let mut times: Vec<Instant> = keys.values().copied().collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            // Equal times may be more than half.
            keys.retain(|_, at| *at > *median);
        }
        keys.insert(key, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_for_its_time_and_as_long_as_there_is_room() {
        let (seconds, begin) = (Duration::from_secs, Instant::now());
        let few = Remembered::new(seconds(10), 2);
        few.add("a", begin);
        assert!(few.has("a", begin + seconds(9)) && !few.has("b", begin));
        assert!(!few.has("a", begin + seconds(10)));
        few.add("b", begin + seconds(5));
        few.add("b", begin + seconds(6));
        assert!(few.has("a", begin + seconds(6)), "a key that is there needs no room");
        few.add("c", begin + seconds(7));
        assert!(
            few.has("c", begin + seconds(7)) && !few.has("a", begin + seconds(7)),
            "the older key made room"
        );
        let many = Remembered::new(seconds(1000), 100);
        for n in 0..1000 {
            many.add(n, begin + seconds(n));
        }
        assert!(many.keys.lock().unwrap().len() <= 100);
        let now = begin + seconds(999);
        assert!((960..1000).all(|n| many.has(&n, now)) && !many.has(&800, now), "the newest are there");
        for n in 0..1000 {
            many.add(2000 + n, now);
        }
        assert!(many.keys.lock().unwrap().len() <= 100 && many.has(&2999, now));
    }
}
