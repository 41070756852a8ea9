//! Who works on what: equal work waits instead of being done twice.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

type Waiting<K> = Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>;

/// Turns for keys.
#[derive(Debug)]
pub(super) struct Turns<K: Eq + Hash>(Arc<Waiting<K>>);

/// A turn, which ends with the value.
#[derive(Debug)]
pub(super) struct Turn<K: Eq + Hash> {
    turns: Arc<Waiting<K>>,
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits for the turn of a key.
    pub(super) async fn take(&self, key: K) -> Turn<K> {
        let lock = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.entry(key.clone()).or_default().clone()
        };
        let mut turn = Turn { turns: self.0.clone(), key, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

impl<K: Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        self.guard = None;
        let mut waiting = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Who waits has a share of the lock.
        if waiting.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn equal_keys_wait_and_nothing_is_left() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").await;
        let other = turns.take("b").await;
        let waiting = {
            let turns = turns.clone();
            tokio::spawn(async move { drop(turns.take("a").await) })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((first, other));
        waiting.await.unwrap();
        let dropped = turns.take("a").await;
        assert!(futures::FutureExt::now_or_never(turns.take("a")).is_none());
        drop(dropped);
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
