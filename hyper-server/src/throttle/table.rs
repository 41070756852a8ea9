//! A table of values by key whose size is fixed, whoever fills it.
//!
//! ```text
//! key ── keyed hash ── set ┬ way 0: hash, value
//!                          ├ …
//!                          ├ way 7: hash, value
//!                          └ crowd: the value of all keys that find the set full
//! ```
//!
//! # Invariants
//! - A value that is not idle is never removed: no number of other keys makes the table forget whom it limits. An idle value
//!   is the same as none, so it gives its place to the next key.
//! - A key that finds no place shares the value of the crowd of its set: it is limited too, with others.
//! - The hash has a random key, so nobody can choose keys of one set. Two keys with the same 64 bits would share a value.
//! - Each set has its own lock, held for some comparisons; there is no lock that all requests share.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

const WAYS: usize = 8;
/// The number of sets of a table of the registry: it has places for 32 768 keys.
pub(super) const SETS: usize = 4096;

/// The table.
pub(super) struct Table<V> {
    sets: Box<[Mutex<Set<V>>]>,
    hasher: RandomState,
}

#[derive(Default)]
struct Set<V> {
    /// 0 is a place that was never used.
    hashes: [u64; WAYS],
    values: [V; WAYS],
    crowd: V,
}

/// Where a value is. It stays there until it is idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    set: usize,
    /// `None` is the crowd.
    way: Option<usize>,
}

impl<V> fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

impl<V: Default> Table<V> {
    pub(super) fn new(sets: usize) -> Self {
        let sets = (0..sets.max(1)).map(|_| Mutex::new(Set::default())).collect();
        Self { sets, hasher: RandomState::new() }
    }

    /// Changes the value of a key, which is the default when there is none.
    pub(super) fn change<R>(
        &self,
        key: impl Hash,
        is_idle: impl Fn(&V) -> bool,
        change: impl FnOnce(&mut V) -> R,
    ) -> (Place, R) {
        let (set_at, hash) = self.locate(key);
        let mut set = self.lock(set_at);
        let set = &mut *set;
        let way = set.way(hash, is_idle).map(|(way, is_new)| {
            if is_new {
                (set.hashes[way], set.values[way]) = (hash, V::default());
            }
            way
        });
        let value = way.map_or(&mut set.crowd, |way| &mut set.values[way]);
        (Place { set: set_at, way }, change(value))
    }

    /// Changes the value at a place.
    pub(super) fn change_at(&self, place: Place, change: impl FnOnce(&mut V)) {
        let mut set = self.lock(place.set);
        let set = &mut *set;
        change(place.way.map_or(&mut set.crowd, |way| &mut set.values[way]));
    }

    /// Reads the value of a key; `None` when it has none. A key without a place has the value of the crowd when its set is full.
    pub(super) fn read<R>(
        &self,
        key: impl Hash,
        is_idle: impl Fn(&V) -> bool,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        let (set, hash) = self.locate(key);
        let set = self.lock(set);
        let way = set.hashes.iter().position(|known| *known == hash);
        match way {
            Some(way) => Some(read(&set.values[way])),
            None => (!set.values.iter().any(is_idle)).then(|| read(&set.crowd)),
        }
    }

    /// Changes the value of a key at a place, unless it was idle since and the place is another's.
    pub(super) fn change_of(&self, key: impl Hash, place: Place, change: impl FnOnce(&mut V)) {
        let (_, hash) = self.locate(key);
        let mut set = self.lock(place.set);
        let set = &mut *set;
        match place.way {
            None => change(&mut set.crowd),
            Some(way) if set.hashes[way] == hash => change(&mut set.values[way]),
            Some(_) => {}
        }
    }

    fn locate(&self, key: impl Hash) -> (usize, u64) {
        let hash = self.hasher.hash_one(key);
        // The remainder is below the length, which is a `usize`.
        ((hash % self.sets.len() as u64) as usize, hash.max(1))
    }

    fn lock(&self, set: usize) -> MutexGuard<'_, Set<V>> {
        self.sets[set].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Set<V> {
    /// The place of a hash, and whether it is new there; `None` when the set is full.
    fn way(&self, hash: u64, is_idle: impl Fn(&V) -> bool) -> Option<(usize, bool)> {
        if let Some(way) = self.hashes.iter().position(|known| *known == hash) {
            return Some((way, false));
        }
        self.values.iter().position(is_idle).map(|way| (way, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a key that is not there before, without adding to it.
    fn value(table: &Table<u32>, key: u32) -> u32 {
        table.change(key, |value| *value == 0, |value| *value).1
    }

    fn add(table: &Table<u32>, key: u32) -> (Place, u32) {
        table.change(
            key,
            |value| *value == 0,
            |value| {
                *value += 1;
                *value
            },
        )
    }

    #[test]
    fn values_that_are_not_idle_stay_and_others_share_the_crowd() {
        let table = Table::new(1);
        for key in 0..8 {
            assert_eq!(add(&table, key).1, 1);
        }
        for n in 1..1000 {
            assert_eq!(add(&table, 100 + n).1, n, "the crowd counts all of them");
        }
        for key in 0..8 {
            assert_eq!(value(&table, key), 1);
            assert_eq!(add(&table, key).1, 2);
        }
        assert_eq!(value(&table, 5000), 999);
    }

    #[test]
    fn a_place_is_not_changed_when_it_is_anothers() {
        let table = Table::new(1);
        let places: Vec<Place> = (0..8).map(|key| add(&table, key).0).collect();
        table.change_of(3, places[3], |value| *value = 0);
        add(&table, 9);
        table.change_of(3, places[3], |value| *value = 7);
        assert_eq!(value(&table, 9), 1);
        let (crowd, _) = add(&table, 10);
        add(&table, 11);
        table.change_of(10, crowd, |value| *value -= 1);
        assert_eq!(value(&table, 11), 1);
    }

    #[test]
    fn an_idle_value_gives_its_place_to_the_next_key() {
        let table = Table::new(1);
        let places: Vec<Place> = (0..8).map(|key| add(&table, key).0).collect();
        table.change_at(places[3], |value| *value = 0);
        assert_eq!(value(&table, 9), 0);
        assert_eq!(add(&table, 9).0.way, places[3].way);
        assert_eq!(value(&table, 3), 0, "the crowd is empty");
        assert!(add(&table, 3).0.way.is_none());
        assert_eq!(add(&table, 9).1, 2);
    }
}
