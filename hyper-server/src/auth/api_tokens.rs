//! Checks API tokens against the store that keeps them.
//!
//! # Invariants
//! - A token that was removed is refused [`CACHE_TIME`] later at the latest, and one that has expired at once.
//! - A token is looked up by its id, once for each check that the cache does not answer: a wrong secret costs nothing
//!   more.

use super::Scope;
use super::api_token::ApiToken;
use hyper_sdk::clock::SharedClock;
use hyper_sdk::store::meta::TokenStore;
use hyper_sdk::{Digest, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a token is known without asking the store again.
const CACHE_TIME: Duration = Duration::from_secs(2);
/// How many tokens are known at most.
const CACHED: usize = 4096;
/// How many look-ups the store has at once.
const TURNS: usize = 2;
/// How exactly the last use is recorded, in seconds.
const COARSE: i64 = 3600;

/// What a token allows.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) id: String,
    pub(super) user: String,
    pub(super) scopes: Vec<Scope>,
    hash: Digest,
    expires: Option<i64>,
    used: AtomicI64,
}

/// The API tokens of a registry.
#[derive(Debug)]
pub(super) struct ApiTokens {
    store: Arc<dyn TokenStore>,
    /// Whether the last use of a token is recorded.
    records_use: bool,
    clock: SharedClock,
    known: Mutex<HashMap<String, (Instant, Arc<Grant>)>>,
    /// Who may ask the store.
    turns: Semaphore,
}

impl ApiTokens {
    pub(super) fn new(store: Arc<dyn TokenStore>, records_use: bool, clock: SharedClock) -> Self {
        Self { store, records_use, clock, known: Mutex::default(), turns: Semaphore::new(TURNS) }
    }

    /// What a token allows; `None` when it is not valid.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn verify(&self, text: &str) -> Result<Option<Arc<Grant>>> {
        let Some(token) = ApiToken::parse(text) else { return Ok(None) };
        // The time of the comparison tells nothing: nobody can choose the hash of a guess.
        let grant = self.grant(token.id()).await?.filter(|grant| grant.hash == token.hash());
        Ok(grant.inspect(|grant| self.record_use(grant)))
    }

    /// What the token with this id allows; `None` when there is none, or it has expired. The caller has no secret: it
    /// knows the id from a text that this registry has signed.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn grant(&self, id: &str) -> Result<Option<Arc<Grant>>> {
        let grant = match self.fresh(id) {
            Some(grant) => Some(grant),
            None => {
                // Guesses leave connections of the database to others, and requests of one token ask for it once.
                let _turn = self.turns.acquire().await;
                match self.fresh(id) {
                    Some(grant) => Some(grant),
                    None => self.look_up(id).await?,
                }
            }
        };
        Ok(grant.filter(|grant| grant.expires.is_none_or(|expires| self.clock.now() < expires)))
    }

    /// What is known of a token and is not old.
    fn fresh(&self, id: &str) -> Option<Arc<Grant>> {
        self.known().get(id).filter(|(at, _)| at.elapsed() < CACHE_TIME).map(|(_, grant)| grant.clone())
    }

    async fn look_up(&self, id: &str) -> Result<Option<Arc<Grant>>> {
        let asked = Instant::now();
        let Some(record) = self.store.token(id).await? else {
            self.known().remove(id);
            return Ok(None);
        };
        // What a newer version has written and this one does not know is not allowed.
        let scopes = record.scopes.iter().filter_map(|text| Scope::of_pattern(text).ok()).collect();
        let grant = Arc::new(Grant {
            id: record.id,
            user: record.user,
            scopes,
            hash: record.hash,
            expires: record.expires,
            used: AtomicI64::new(record.used.unwrap_or(i64::MIN)),
        });
        let mut known = self.known();
        if known.len() >= CACHED {
            known.retain(|_, (at, _)| at.elapsed() < CACHE_TIME);
            if known.len() >= CACHED {
                known.clear();
            }
        }
        known.insert(id.to_owned(), (asked, grant.clone()));
        Ok(Some(grant))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<Grant>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the use, once an hour. The request does not wait for it, and succeeds without.
    fn record_use(&self, grant: &Grant) {
        let hour = self.clock.now().div_euclid(COARSE) * COARSE;
        if !self.records_use || grant.used.fetch_max(hour, Ordering::Relaxed) >= hour {
            return;
        }
        let (store, id) = (self.store.clone(), grant.id.clone());
        tokio::spawn(async move {
            if let Err(error) = store.touch_token(&id, hour).await {
                tracing::debug!(%error, token = id, "the use of a token is not recorded");
            }
        });
    }
}
