//! What a registry needs elsewhere, and whether it answers: a database, a bucket, the issuers of tokens.
//!
//! Neither addresses nor names of the configuration are shown.

use hyper_sdk::breaker::{Breaker, BreakerState};
use std::collections::BTreeMap;

/// The breakers of a registry.
#[derive(Debug, Default)]
pub(crate) struct Dependencies(Vec<Breaker>);

/// What the breakers in front of dependencies of one kind say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// The worst state of them.
    pub(crate) state: BreakerState,
    /// How often they have opened.
    pub(crate) opened: u64,
    /// How many requests they have refused.
    pub(crate) refused: u64,
}

impl Dependencies {
    pub(crate) fn new(breakers: Vec<Breaker>) -> Self {
        Self(breakers)
    }

    /// The dependencies by their kind: `bucket`, `database`, `issuer`.
    pub(crate) fn all(&self) -> BTreeMap<&'static str, Dependency> {
        let mut all: BTreeMap<&'static str, Dependency> = BTreeMap::new();
        for breaker in &self.0 {
            let one =
                Dependency { state: breaker.state(), opened: breaker.opened(), refused: breaker.refused() };
            let sum = |other: &mut Dependency| {
                other.state = other.state.max(one.state);
                other.opened += one.opened;
                other.refused += one.refused;
            };
            all.entry(breaker.dependency()).and_modify(sum).or_insert(one);
        }
        all
    }
}

impl Dependency {
    /// The state as a number: 0 is closed, 1 half-open, 2 open.
    pub(crate) fn number(&self) -> i64 {
        match self.state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::breaker::BreakerOptions;
    use std::time::Duration;

    #[test]
    fn of_several_issuers_the_worst_is_shown() {
        let options =
            BreakerOptions { failures: 1, failing_for: Duration::ZERO, ..BreakerOptions::default() };
        let new = |name| Breaker::new(name, options.clone());
        let (first, second) = (new("issuer"), new("issuer"));
        let all = Dependencies::new(vec![first.clone(), new("database"), second.clone()]);
        let shown = |name: &str| (all.all()[name].number(), all.all()[name].opened, all.all()[name].refused);
        assert_eq!(all.all().into_keys().collect::<Vec<_>>(), ["database", "issuer"]);
        assert_eq!(shown("issuer"), (0, 0, 0));
        first.enter().unwrap().failed(&"no route");
        assert!(first.enter().is_err());
        second.enter().unwrap().answered();
        assert_eq!(shown("issuer"), (2, 1, 1));
        assert_eq!(shown("database"), (0, 0, 0));
    }
}
