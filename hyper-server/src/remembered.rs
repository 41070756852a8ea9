//! Keys that are remembered for a time, in bounded memory.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The keys. When there are too many, those whose time is over go, and all of them when that is not enough.
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
            keys.retain(|_, at| now.saturating_duration_since(*at) < self.time);
            if keys.len() >= self.most {
                keys.clear();
            }
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
        few.add("c", begin + seconds(11));
        assert!(few.has("b", begin + seconds(11)), "the old key made room");
        few.add("d", begin + seconds(12));
        assert!(few.has("d", begin + seconds(12)) && !few.has("c", begin + seconds(12)));
        assert_eq!(few.keys.lock().unwrap().len(), 1);
    }
}
