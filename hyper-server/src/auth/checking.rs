//! The checks that are under way: equal ones wait for the first, whose outcome they then know.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OwnedMutexGuard;

/// From how many places on those that are not used go.
const MANY: usize = 1024;

/// The places of checks, by keys that equal ones share.
#[derive(Debug)]
pub(super) struct Checking<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Checking<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone> Checking<K> {
    /// The right to make a check, once no equal one is under way. It ends when the value is dropped.
    pub(super) async fn begin(&self, key: &K) -> OwnedMutexGuard<()> {
        self.place(key).lock_owned().await
    }

    fn place(&self, key: &K) -> Arc<tokio::sync::Mutex<()>> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(key).and_then(Weak::upgrade) {
            return place;
        }
        if places.len() >= MANY {
            places.retain(|_, place| place.strong_count() > 0);
        }
        let place = Arc::default();
        places.insert(key.clone(), Arc::downgrade(&place));
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn equal_checks_wait_and_places_that_are_not_used_go() {
        let checking = Checking::default();
        let key = |number: usize| number;
        let first = checking.begin(&key(0)).await;
        assert!(checking.begin(&key(0)).now_or_never().is_none());
        for number in 1..=2 * MANY {
            drop(checking.begin(&key(number)).await);
        }
        // The runtime makes who has done much wait.
        tokio::task::yield_now().await;
        assert!(checking.0.lock().unwrap().len() <= MANY + 1);
        assert!(checking.begin(&key(0)).now_or_never().is_none(), "one that is used stays");
        drop(first);
        assert!(checking.begin(&key(0)).now_or_never().is_some());
    }
}
