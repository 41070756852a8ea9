//! People log in with a browser (OpenID Connect Core 1.0, section 3.1: the authorization code flow) and get an API token.
//!
//! ```text
//! browser                      registry                                   issuer
//! GET /login ───────────────▶  state, nonce, verifier in a sealed cookie
//!       ◀── 303 to the issuer, with the state, the nonce and the hash of the verifier
//! ────────────────────────────────────────────────────────────────────▶  password, second factor, …
//!       ◀──────────────────────────────────── 303 to /login/callback?code&state&iss
//! GET /login/callback ──────▶  cookie and state, then code and verifier ▶  ID token
//!                              its signature, issuer, audience, times, nonce, required claims
//!       ◀── a page with an API token, shown once
//! ```
//!
//! # Invariants
//! - A login ends in the browser in which it began: what comes back is compared with the cookie, which nobody else can read or make
//!   (RFC 6749, section 10.12).
//! - A login gives one token: the id of the token is made from the state, so a second one is refused by every server of the
//!   database; the issuer takes a code once as well.
//! - A code is of use to the registry alone: only it knows the verifier (RFC 7636) and has the secret of the client.
//! - The browser is sent to the issuer that the configuration names, and to nowhere that a request names.
//! - Any server of a registry answers the callback: the cookie is sealed with a key that is derived from the key of tokens.

#![cfg_attr(not(feature = "issuers"), allow(dead_code, reason = "there are no logins"))]

#[cfg(not(feature = "issuers"))]
mod absent;
#[cfg(feature = "issuers")]
mod attempt;
#[cfg(feature = "issuers")]
mod flow;
mod options;
#[cfg(feature = "issuers")]
mod provider;

#[cfg(not(feature = "issuers"))]
pub(crate) use absent::Logins;
#[cfg(feature = "issuers")]
pub(crate) use flow::Logins;
pub use options::LoginOptions;

use super::Principal;
use crate::throttle::{Guess, Guesses};
use hyper_sdk::clock::SharedClock;
use hyper_sdk::digest::Hasher;
use hyper_sdk::store::meta::{TokenRecord, TokenStore};
use hyper_sdk::{Digest, Error, Secret};
use std::sync::Arc;

/// What logins need of the registry.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The URL at which clients reach the registry, with the path before `/v2/`.
    pub(crate) root: String,
    /// The realm, which tells registries with one key of tokens apart.
    pub(crate) service: String,
    /// Keys that are derived from those of tokens: the first seals, all open.
    pub(crate) keys: Arc<dyn SealKeys>,
    pub(crate) tokens: Arc<dyn TokenStore>,
    pub(crate) guesses: Arc<Guesses>,
    pub(crate) clock: SharedClock,
}

/// Gives the keys with which cookies are sealed now.
pub(crate) trait SealKeys: std::fmt::Debug + Send + Sync {
    fn seal_keys(&self) -> Vec<[u8; 32]>;
}

/// What comes back from the issuer by way of the browser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Callback {
    pub(crate) code: Option<String>,
    pub(crate) state: Option<String>,
    /// The issuer (RFC 9207).
    pub(crate) issuer: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) description: Option<String>,
    /// Whether a parameter is there twice, which is not valid (RFC 6749, section 4.1.2).
    pub(crate) has_repeated: bool,
}

/// A login whose token nothing knows yet.
#[derive(Debug)]
pub(crate) struct NewLogin {
    record: TokenRecord,
    token: Secret,
    principal: Principal,
    guess: Guess,
}

impl NewLogin {
    /// Who has logged in.
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The id of the token, which is no secret.
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }
}

/// Who has logged in, and with which token.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    pub(crate) user: String,
    /// The user name for `docker login`.
    pub(crate) login: String,
    /// The host for `docker login`.
    pub(crate) host: String,
    pub(crate) token: Secret,
    /// The id of the token, by which it is removed.
    pub(crate) id: String,
    /// When the token expires, in seconds since 1970.
    pub(crate) expires: i64,
}

/// Why nobody has logged in.
#[derive(Debug)]
pub(crate) enum Failure {
    /// For the person at the browser.
    Refused(&'static str),
    /// The issuer says why: its word for it, and its explanation.
    Issuer(String, String),
    /// For the log alone.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What tokens of logins are bound to: this registry, the issuer and the client. When one is another, they end.
pub(crate) fn binding(service: &str, options: &LoginOptions) -> Digest {
    let mut hasher = Hasher::sha256();
    for field in ["login", service, &options.issuer.name, &options.issuer.url, &options.client_id] {
        hasher.update_field(field);
    }
    // Who would be refused now, or would be somebody else, must not go on.
    let issuer = &options.issuer;
    hasher.update_field(format!("{:?}", (&issuer.user, &issuer.groups, &issuer.claims, &issuer.require)));
    hasher.finish()
}
