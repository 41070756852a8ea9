//! The places of requests that wait for an event. Each asks the store again and again, so they are bounded, for each caller too.

use crate::throttle::network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many requests wait at once.
const MOST: usize = 128;
/// How many of one caller.
const MOST_OF_ONE: usize = 16;

/// Who waits: a user, or a client without credentials by its network.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Caller {
    User(String),
    Network(Option<IpAddr>),
}

/// The requests that wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventWaiters(Arc<Mutex<HashMap<Caller, usize>>>);

/// A place of one of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    all: EventWaiters,
    caller: Caller,
}

/// Why a request has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All are taken.
    Full,
    /// The caller has as many as one may have.
    TooMany,
}

impl EventWaiters {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Caller, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a request of a user, or of a client without credentials at an address.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn enter(&self, user: Option<&str>, client: Option<IpAddr>) -> Result<Waiter, NoPlace> {
        let caller = match user {
            Some(name) => Caller::User(name.to_owned()),
            None => Caller::Network(client.map(network)),
        };
        let mut waiting = self.waiting();
        if waiting.get(&caller).is_some_and(|count| *count >= MOST_OF_ONE) {
            return Err(NoPlace::TooMany);
        }
        if waiting.values().sum::<usize>() >= MOST {
            return Err(NoPlace::Full);
        }
        *waiting.entry(caller.clone()).or_default() += 1;
        Ok(Waiter { all: self.clone(), caller })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting();
        match waiting.get_mut(&self.caller) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                waiting.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_places_to_others() {
        let all = EventWaiters::default();
        let mut places: Vec<Waiter> =
            (0..MOST_OF_ONE).map(|_| all.enter(Some("alice"), None).unwrap()).collect();
        assert_eq!(all.enter(Some("alice"), None).unwrap_err(), NoPlace::TooMany);
        let client = Some("2001:db8::1".parse().unwrap());
        places.push(all.enter(None, client).unwrap());
        for number in places.len()..MOST {
            places.push(all.enter(Some(&number.to_string()), None).unwrap());
        }
        assert_eq!(all.enter(Some("bob"), None).unwrap_err(), NoPlace::Full);
        places.clear();
        assert!(all.waiting().is_empty(), "places come back");
    }
}
