//! The public keys of an issuer, as they are known now.
//!
//! ```text
//! key is known, keys are fresh       used
//! key is known, keys are a bit old   used, and fetched again beside the request
//! key is known, keys are old         fetched again first; used when that fails
//! key is not known                   fetched again first: at most once a minute
//! the issuer does not answer         not asked again for a while, which grows to a minute; keys are used for a day, those of a file for minutes
//! ```
//!
//! # Invariants
//! - One request asks the issuer at a time; the others wait for it, at most as long as a fetch may take.
//! - A key that the issuer no longer has is not used longer than the keys are fresh and a minute, as long as the issuer answers. A set
//!   without keys is an answer.
//! - Tokens with ids of keys that there are not make the issuer be asked once a minute at most.

use super::fetched::Fetched;
use super::key_set::{Key, find, parse};
use super::source::Source;
use crate::auth::jose::{Algorithm, PublicKey};
use hyper_sdk::breaker::{Breaker, BreakerOptions, BreakerState};
use hyper_sdk::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long keys are fresh when the issuer does not say it, and the bounds of what it says.
const FRESH: Duration = Duration::from_secs(10 * 60);
const FRESH_LEAST: Duration = Duration::from_secs(60);
const FRESH_MOST: Duration = Duration::from_secs(60 * 60);
/// How long keys that are no longer fresh are used while they are fetched beside it.
const GRACE: Duration = Duration::from_secs(60);
/// The time between two fetches for the sake of unknown keys.
const UNKNOWN: Duration = Duration::from_secs(60);
/// The pause after the first failure. It doubles up to [`UNKNOWN`].
const PAUSE: Duration = Duration::from_secs(2);

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: String,
    source: Source,
    known: Mutex<Known>,
    /// Every fetch passes it.
    breaker: Breaker,
    /// Who may ask the issuer.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Option<Set>,
    /// When it was last asked for a key that was not known.
    unknown: Option<Instant>,
    failures: u64,
}

#[derive(Clone, Debug)]
struct Set {
    keys: Arc<[Key]>,
    fetched: Instant,
    fresh: Duration,
}

impl Set {
    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.fetched) < self.fresh
    }

    /// Whether the keys may be used while they are fetched again.
    fn is_nearly_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.fetched) < self.fresh + GRACE
    }

    /// The keys of this id for an algorithm.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<PublicKey> {
        find(&self.keys, id, algorithm)
    }
}

impl Keys {
    pub(super) fn new(issuer: &str, source: Source) -> Self {
        Self {
            issuer: issuer.to_owned(),
            source,
            known: Mutex::default(),
            breaker: Breaker::new(
                "issuer",
                BreakerOptions {
                    // Keys are rarely fetched, and are known for a while.
                    failures: 1,
                    failing_for: Duration::ZERO,
                    first_pause: PAUSE,
                    longest_pause: UNKNOWN,
                },
            ),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The keys of this id for an algorithm, usually one; none when the issuer has none.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when no keys are known, or none of this id and the issuer does not answer.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<PublicKey>> {
        let now = Instant::now();
        if let Some(found) = self.look(id, algorithm, now) {
            return Ok(found);
        }
        let _turn = self.turn.lock().await;
        // Another request may have asked meanwhile.
        if let Some(found) = self.look(id, algorithm, Instant::now()) {
            return Ok(found);
        }
        // A key that is known and old is no unknown one.
        let is_unknown = self.usable(Instant::now()).is_some_and(|set| set.find(id, algorithm).is_empty());
        if self.may_ask(Instant::now(), is_unknown) {
            if is_unknown {
                self.known().unknown = Some(Instant::now());
            }
            self.fetch().await;
        }
        match self.usable(Instant::now()) {
            // The issuer may have this key now, and nobody can say so.
            Some(set) => match set.find(id, algorithm) {
                found if found.is_empty() && self.is_failing() => Err(self.unavailable()),
                found => Ok(found),
            },
            None => Err(self.unavailable()),
        }
    }

    /// What is known and can be used. Keys that are old are fetched beside it.
    fn look(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
        now: Instant,
    ) -> Option<Vec<PublicKey>> {
        let set = self.usable(now)?;
        let found = set.find(id, algorithm);
        if found.is_empty() {
            return None;
        }
        if set.is_fresh(now) {
            return Some(found);
        }
        let may_ask = self.may_ask(now, false);
        if may_ask && !set.is_nearly_fresh(now) {
            return None;
        }
        if may_ask {
            let this = self.clone();
            tokio::spawn(async move {
                let Ok(_turn) = this.turn.try_lock() else { return };
                let now = Instant::now();
                if this.usable(now).is_none_or(|set| !set.is_fresh(now)) && this.may_ask(now, false) {
                    this.fetch().await;
                }
            });
        }
        Some(found)
    }

    fn usable(&self, now: Instant) -> Option<Set> {
        self.known().keys.clone().filter(|set| now.duration_since(set.fetched) < self.source.outlives())
    }

    /// Whether the issuer has not answered when it was last asked.
    fn is_failing(&self) -> bool {
        self.breaker.state() != BreakerState::Closed
    }

    /// Whether the issuer may be asked now. One that fails is asked ever more rarely, for whatever key.
    fn may_ask(&self, now: Instant, is_unknown: bool) -> bool {
        match self.is_failing() {
            true => self.breaker.is_passable(),
            false => {
                let asked = self.known().unknown;
                !is_unknown || asked.is_none_or(|at| now.duration_since(at) >= UNKNOWN)
            }
        }
    }

    /// Asks the issuer, unless it does not answer. The caller has the turn.
    async fn fetch(&self) {
        let Ok(attempt) = self.breaker.enter() else { return };
        let fetched = self.source.fetch().await.and_then(|fetched| Ok((parse(&fetched.bytes)?, fetched)));
        let mut known = self.known();
        match fetched {
            Ok((keys, Fetched { max_age, .. })) => {
                let fresh = max_age.unwrap_or(FRESH).clamp(FRESH_LEAST, FRESH_MOST);
                tracing::debug!(
                    issuer = self.issuer,
                    keys = keys.len(),
                    "the keys of an issuer were fetched"
                );
                known.keys = Some(Set { keys: keys.into(), fetched: Instant::now(), fresh });
                attempt.answered();
            }
            Err(error) => {
                // The pause begins now: whoever waited for this attempt makes no other one.
                attempt.failed(&error);
                known.failures += 1;
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(issuer = self.issuer, %error, cause, "the keys of an issuer of tokens cannot be fetched");
            }
        }
    }

    /// The breaker in front of the issuer.
    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// How old the keys are in seconds, and how often they could not be fetched.
    pub(super) fn state(&self) -> (Option<u64>, u64) {
        let known = self.known();
        (known.keys.as_ref().map(|set| set.fetched.elapsed().as_secs()), known.failures)
    }

    fn unavailable(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "the token cannot be checked now: its issuer does not answer")
            .with_retry_after(PAUSE)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_issuer_that_fails_is_asked_no_more_for_a_while() {
        let keys = Arc::new(Keys::new("ci", Source::File("/nonexistent/keys".into())));
        let ask = || keys.find(Some("a"), Algorithm::EdDsa);
        let wait = ask().await.unwrap_err().retry_after();
        assert_eq!((wait, keys.state().1), (Some(PAUSE), 1));
        for _ in 0..20 {
            assert_eq!(ask().await.unwrap_err().kind(), ErrorKind::Unavailable);
        }
        assert_eq!(keys.state(), (None, 1), "it was asked again");
        assert_eq!(keys.breaker().state(), BreakerState::Open);
    }

    /// Whoever sends tokens with made-up ids of keys does not make the server ask all the time.
    #[test]
    fn unknown_keys_are_looked_for_once_a_minute() {
        let (keys, now) = (Keys::new("ci", Source::File("/nonexistent".into())), Instant::now());
        assert!(keys.may_ask(now, true));
        keys.known().unknown = Some(now);
        let after = |seconds, is_unknown| keys.may_ask(now + Duration::from_secs(seconds), is_unknown);
        assert!(after(0, false) && !after(59, true) && after(60, true));
    }

    /// A key that was taken back is not used because nobody logged in for a while.
    #[tokio::test]
    async fn old_keys_are_fetched_before_they_are_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ed = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}]}"#;
        let found =
            async |keys: &Arc<Keys>| keys.find(Some("a"), Algorithm::EdDsa).await.map(|found| found.len());
        let age = |keys: &Keys, seconds| {
            let mut known = keys.known();
            let set = known.keys.as_mut().unwrap();
            set.fetched = set.fetched.checked_sub(Duration::from_secs(seconds)).unwrap();
        };
        let fresh = async || {
            std::fs::write(file.path(), ed).unwrap();
            let keys = Arc::new(Keys::new("ci", Source::File(file.path().to_owned())));
            assert_eq!(found(&keys).await.unwrap(), 1);
            keys
        };
        for (text, seconds, expected) in [
            (r#"{"keys":[]}"#, 59, Some(1)),
            (r#"{"keys":[]}"#, 121, Some(0)),
            ("nonsense", 121, Some(1)),
            ("nonsense", 301, None),
        ] {
            let keys = fresh().await;
            std::fs::write(file.path(), text).unwrap();
            age(&keys, seconds);
            assert_eq!(found(&keys).await.ok(), expected, "{text} after {seconds}");
        }
        // A bit old: used, and fetched beside it.
        let keys = fresh().await;
        std::fs::write(file.path(), r#"{"keys":[]}"#).unwrap();
        age(&keys, 61);
        assert_eq!(found(&keys).await.unwrap(), 1);
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if keys.known().keys.as_ref().unwrap().keys.is_empty() {
                break;
            }
        }
        assert_eq!(found(&keys).await.unwrap(), 0);
    }
}
