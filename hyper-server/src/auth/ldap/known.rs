//! Answers that are known for a time, in bounded memory.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The answers. When there are too many, the older half goes.
pub(super) struct Known<K, V> {
    answers: Mutex<HashMap<K, (Instant, V)>>,
    most: usize,
}

impl<K: Hash + Eq, V: Clone> Known<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { answers: Mutex::default(), most }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last answer, and when it came.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<(Instant, V)>
    where
        K: Borrow<Q>,
    {
        self.answers().get(key).cloned()
    }

    /// Puts an answer in the place of the last one.
    pub(super) fn put(&self, key: K, answer: V, now: Instant) {
        let mut answers = self.answers();
        if answers.len() >= self.most && !answers.contains_key(&key) {
            let mut times: Vec<Instant> = answers.values().map(|(at, _)| *at).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            answers.retain(|_, (at, _)| *at > median);
        }
        answers.insert(key, (now, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_older_half_goes_when_there_is_no_room() {
        let (known, start) = (Known::new(4), Instant::now());
        for n in 0..5u32 {
            known.put(n, n, start + Duration::from_secs(n.into()));
        }
        assert_eq!((0..5).filter(|n| known.get(n).is_some()).collect::<Vec<_>>(), [3, 4]);
        known.put(4, 9, start);
        assert_eq!(known.get(&4), Some((start, 9)));
    }
}
