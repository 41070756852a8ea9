//! Checks API tokens and refresh tokens against the store that keeps them.
//!
//! # Invariants
//! - A token that was removed is refused [`CACHE_TIME`] later at the latest, and one that has expired at once.
//! - A token is looked up by its id, once for each check that the cache does not answer: a wrong secret costs nothing
//!   more.
//! - A refresh token ends when it was not used for a while, and is no API token; an API token is no refresh token.

use super::Scope;
use super::api_token::{ApiToken, is_login_entry, login_of};
use super::is_unseen;
use super::issuers::External;
use super::token_owner::TokenOwner;
use hyper_sdk::clock::SharedClock;
use hyper_sdk::store::meta::{TokenRecord, TokenStore};
use hyper_sdk::{Digest, Result, Secret};
use std::collections::{HashMap, HashSet};
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
/// The most refresh tokens of one user: a further login ends the one that was not used for the longest time.
const MOST_REFRESH: usize = 100;
/// How many tokens are read together.
const PAGE: usize = 500;
/// The longest name of a client that is kept, in bytes.
const MAX_CLIENT: usize = 64;

/// What a token allows.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) id: String,
    pub(super) user: String,
    pub(super) scopes: Vec<Scope>,
    /// Of a refresh token and the token of a login: what it ends with.
    pub(super) bound_to: Option<Digest>,
    /// Of the token of a login in a browser: who it is.
    pub(super) login: Option<External>,
    /// Of other API tokens: whose they are.
    pub(super) owner: TokenOwner,
    hash: Digest,
    created: i64,
    pub(super) expires: Option<i64>,
    used: AtomicI64,
}

impl Grant {
    fn is_refresh(&self) -> bool {
        self.bound_to.is_some() && self.login.is_none()
    }

    fn is_over(&self, now: i64, refresh: Option<Duration>) -> bool {
        if self.expires.is_some_and(|expires| now >= expires) {
            return true;
        }
        if self.login.is_some() {
            return false;
        }
        let Some(lifetime) = refresh else { return self.bound_to.is_some() };
        let last = self.created.max(self.used.load(Ordering::Relaxed));
        let rests = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        self.bound_to.is_some() && now.saturating_sub(last) >= rests
    }
}

/// A refresh token that nothing knows yet.
#[derive(Debug)]
pub(crate) struct NewRefresh {
    text: Secret,
    record: TokenRecord,
    /// Those that were last used before this time are over.
    unused: i64,
}

impl NewRefresh {
    /// Its id, which is no secret.
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// The text, to show it once.
    pub(crate) fn text(&self) -> &Secret {
        &self.text
    }
}

/// The API tokens of a registry.
#[derive(Debug)]
pub(super) struct ApiTokens {
    store: Arc<dyn TokenStore>,
    /// Whether the last use of a token is recorded.
    records_use: bool,
    /// How long a refresh token is valid without use; `None` is not at all.
    refresh: Option<Duration>,
    clock: SharedClock,
    known: Mutex<HashMap<String, (Instant, Arc<Grant>)>>,
    /// Who may ask the store.
    turns: Semaphore,
}

impl ApiTokens {
    pub(super) fn new(
        store: Arc<dyn TokenStore>,
        records_use: bool,
        refresh: Option<Duration>,
        clock: SharedClock,
    ) -> Self {
        Self { store, records_use, refresh, clock, known: Mutex::default(), turns: Semaphore::new(TURNS) }
    }

    /// Makes a refresh token of a user for a client; `None` where there are none. It ends with what it is bound to, and is valid once
    /// it is [kept](Self::keep_refresh).
    ///
    /// # Errors
    /// There is no randomness.
    pub(super) fn new_refresh(
        &self,
        user: &str,
        client: &str,
        bound_to: Digest,
    ) -> Result<Option<NewRefresh>> {
        let Some(lifetime) = self.refresh.filter(|_| self.records_use) else { return Ok(None) };
        let (token, now) = (ApiToken::random_refresh()?, self.clock.now());
        let record = TokenRecord {
            id: token.id().to_owned(),
            hash: token.hash(),
            user: user.to_owned(),
            name: client_name(client),
            scopes: Vec::new(),
            created: now,
            expires: None,
            used: None,
            bound_to: Some(bound_to),
        };
        let unused = now.saturating_sub(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        Ok(Some(NewRefresh { text: token.into_text(), record, unused }))
    }

    /// Keeps a refresh token, and removes those of its user that are too many.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn keep_refresh(&self, new: &NewRefresh) -> Result<()> {
        self.store.add_token(&new.record).await?;
        // A login that has its token does not fail for the sake of old ones.
        let user = &new.record.user;
        if let Err(error) = self.store.trim_refresh_tokens(user, MOST_REFRESH, new.unused).await {
            tracing::warn!(%error, "old refresh tokens cannot be removed");
        }
        Ok(())
    }

    /// Removes the refresh tokens that are bound to what is gone, or were not used for too long, and the tokens of logins in a browser
    /// that have expired, and says of each that it was removed. Returns how many were.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn forget_refresh(
        &self,
        gone: &HashSet<Digest>,
        mut removed_one: impl FnMut(&TokenRecord),
    ) -> Result<u64> {
        let Some(lifetime) = self.refresh.filter(|_| self.records_use) else { return Ok(0) };
        let (now, mut after, mut removed) = (self.clock.now(), None::<String>, 0);
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        loop {
            let page = self.store.tokens(after.as_deref(), PAGE).await?;
            for record in &page.items {
                let Some(bound_to) = &record.bound_to else { continue };
                let is_over = if record.scopes.iter().any(|scope| is_login_entry(scope)) {
                    // The API token of a login in a browser: it has a time of its own.
                    record.expires.is_some_and(|at| at <= now)
                } else {
                    gone.contains(bound_to) || now.saturating_sub(record.last_seen()) >= lifetime
                };
                if is_over && self.store.remove_token(&record.id).await? {
                    removed_one(record);
                    removed += 1;
                }
            }
            after = page.items.last().map(|record| record.id.clone());
            if !page.more || after.is_none() {
                return Ok(removed);
            }
        }
    }

    /// What a refresh token stands for; `None` when it is not valid. The caller checks what it is bound to.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn verify_refresh(&self, text: &str) -> Result<Option<Arc<Grant>>> {
        let Some(token) = ApiToken::parse_refresh(text) else { return Ok(None) };
        let grant = self.grant(token.id()).await?;
        Ok(grant.filter(|grant| grant.is_refresh() && grant.hash == token.hash()))
    }

    /// What a token allows; `None` when it is not valid.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn verify(&self, text: &str) -> Result<Option<Arc<Grant>>> {
        let Some(token) = ApiToken::parse(text) else { return Ok(None) };
        // The time of the comparison tells nothing: nobody can choose the hash of a guess.
        let grant = self.grant(token.id()).await?;
        let grant = grant.filter(|grant| !grant.is_refresh() && grant.hash == token.hash());
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
        Ok(grant.filter(|grant| !grant.is_over(self.clock.now(), self.refresh)))
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
        let Ok(login) = login_of(&record.scopes) else { return Ok(None) };
        let Some(owner) = TokenOwner::of(&record.scopes) else { return Ok(None) };
        // What a newer version has written and this one does not know is not allowed.
        let scopes = record.scopes.iter().filter_map(|text| Scope::of_pattern(text).ok()).collect();
        let grant = Arc::new(Grant {
            id: record.id,
            user: record.user,
            scopes,
            hash: record.hash,
            bound_to: record.bound_to,
            login,
            owner,
            created: record.created,
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
    pub(super) fn record_use(&self, grant: &Grant) {
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

/// The name of a client, as people may read it.
fn client_name(text: &str) -> String {
    let mut name: String = text.chars().filter(|c| !is_unseen(*c)).take(MAX_CLIENT).collect();
    while name.len() > MAX_CLIENT {
        name.pop();
    }
    name
}
