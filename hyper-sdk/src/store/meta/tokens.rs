//! API tokens: secrets that a registry gives to machines. What is kept of a token is its hash.
//!
//! ```text
//!   ID ──▶ hash of the secret, user, scopes, times       never the secret itself
//! ```
//!
//! A refresh token is one that a registry gives to a client at a login with a password, and that stands for that login.
//!
//! # Invariants
//! - A store says what was recorded, and decides nothing: whether a token has expired, what its scopes mean and whether its
//!   user may still log in, the registry says.
//! - What one process adds or removes, the others see with their next question.

use crate::store::Listing;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is kept of an API token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// The id, by which it is found. It is no secret.
    pub id: String,
    /// The hash of the token. A fast hash is right: the token is random, so that nobody can guess it.
    pub hash: Digest,
    /// The user whose rights the token has at most.
    pub user: String,
    /// What people call it.
    pub name: String,
    /// What the token is for, in the form of the registry.
    pub scopes: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// From when on it is invalid, in seconds since 1970; `None` is never.
    pub expires: Option<i64>,
    /// When it was last used, in seconds since 1970, as coarse as the registry records it.
    pub used: Option<i64>,
    /// Of a refresh token: what it is bound to, in the form of the registry, such as a hash that changes with the password of its
    /// user. `None` for an API token.
    pub bound_to: Option<Digest>,
}

impl TokenRecord {
    /// When it was made or last used, whatever is later, in seconds since 1970.
    pub fn last_seen(&self) -> i64 {
        self.used.unwrap_or(i64::MIN).max(self.created)
    }
}

/// Keeps API tokens.
///
/// [`SqlMeta`](super::SqlMeta) keeps them beside the metadata, so that all servers of a registry know them. The suite for
/// another implementation is [`token_conformance!`](crate::token_conformance).
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::store::meta::{MemoryTokens, TokenRecord, TokenStore as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let tokens = MemoryTokens::default();
/// let token = TokenRecord {
///     id: "1".to_owned(),
///     hash: Digest::sha256("a random text"),
///     user: "ci".to_owned(),
///     name: "nightly".to_owned(),
///     scopes: vec!["team/**:pull".to_owned()],
///     created: 1_700_000_000,
///     expires: None,
///     used: None,
///     bound_to: None,
/// };
/// tokens.add_token(&token).await?;
/// assert_eq!(tokens.token("1").await?, Some(token));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait TokenStore: Debug + Send + Sync + 'static {
    /// Adds a token.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when there is a token with this id; those of the store.
    async fn add_token(&self, token: &TokenRecord) -> Result<()>;

    /// The token with this id.
    ///
    /// # Errors
    /// Those of the store.
    async fn token(&self, id: &str) -> Result<Option<TokenRecord>>;

    /// The tokens in byte order of their ids, at most `limit` from the first id after `after` on.
    ///
    /// # Errors
    /// Those of the store.
    async fn tokens(&self, after: Option<&str>, limit: usize) -> Result<Listing<TokenRecord>>;

    /// Removes a token, and returns whether it was there.
    ///
    /// # Errors
    /// Those of the store.
    async fn remove_token(&self, id: &str) -> Result<bool>;

    /// Records that a token was used at this time, in seconds since 1970. A later time stays, and so does the absence of a
    /// token that was removed.
    ///
    /// # Errors
    /// Those of the store.
    async fn touch_token(&self, id: &str, used: i64) -> Result<()>;

    /// Removes refresh tokens of a user: those that were neither made nor used since `unused_since`, in seconds since 1970, and all
    /// but the `keep` that were made or used last. API tokens stay. Returns how many were removed.
    ///
    /// # Errors
    /// Those of the store.
    async fn trim_refresh_tokens(&self, user: &str, keep: usize, unused_since: i64) -> Result<u64>;
}

/// [`ErrorKind::Conflict`]: a token with this id exists.
pub(super) fn token_exists(id: &str) -> Error {
    Error::new(ErrorKind::Conflict, "there is a token with this id").with_context("id", id)
}

/// API tokens in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryTokens(Arc<Mutex<BTreeMap<String, TokenRecord>>>);

impl MemoryTokens {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, TokenRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TokenStore for MemoryTokens {
    async fn add_token(&self, token: &TokenRecord) -> Result<()> {
        let mut all = self.all();
        if all.contains_key(&token.id) {
            return Err(token_exists(&token.id));
        }
        all.insert(token.id.clone(), token.clone());
        Ok(())
    }

    async fn token(&self, id: &str) -> Result<Option<TokenRecord>> {
        Ok(self.all().get(id).cloned())
    }

    async fn tokens(&self, after: Option<&str>, limit: usize) -> Result<Listing<TokenRecord>> {
        let all = self.all();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = all.range::<str, _>((start, Bound::Unbounded)).map(|(_, token)| token.clone());
        let items = rest.by_ref().take(limit).collect();
        Ok(Listing { items, more: limit != 0 && rest.next().is_some() })
    }

    async fn remove_token(&self, id: &str) -> Result<bool> {
        Ok(self.all().remove(id).is_some())
    }

    async fn touch_token(&self, id: &str, used: i64) -> Result<()> {
        if let Some(token) = self.all().get_mut(id) {
            token.used = token.used.max(Some(used));
        }
        Ok(())
    }

    async fn trim_refresh_tokens(&self, user: &str, keep: usize, unused_since: i64) -> Result<u64> {
        let mut all = self.all();
        let mut found: Vec<(i64, String)> = all
            .values()
            .filter(|token| token.user == user && token.bound_to.is_some())
            .map(|token| (token.last_seen(), token.id.clone()))
            .collect();
        found.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let kept = found.iter().take(keep).take_while(|(seen, _)| *seen >= unused_since).count();
        for (_, id) in &found[kept..] {
            all.remove(id);
        }
        Ok((found.len() - kept) as u64)
    }
}
