//! Tokens of other issuers: jobs of CI systems, workloads and people log in with the OpenID Connect token that they have.
//!
//! ```text
//! token ── issuer and audience ── key by its id ── signature ── times ── required claims ── user NAME:TEXT, groups, claims
//!                                    │ unknown
//!                                    └── keys of the issuer, fetched again: at most once a minute
//! ```
//!
//! # Invariants
//! - A user of an issuer is `NAME:TEXT`. No user of a file has a colon in its name, so nobody is taken for another.
//! - The configuration says which algorithms an issuer may use; the header of a token chooses none.
//! - What a claim must be is compared after the signature was verified, and a claim that is missing is wrong.

mod claims;
mod fetched;
#[cfg(feature = "fuzzing")]
pub(in crate::auth) mod fuzzing;
mod key_set;
mod keys;
mod options;
mod source;
#[cfg(feature = "issuers")]
mod web;

pub use options::{IssuerKeys, IssuerOptions};

use super::Principal;
use super::jose::{Algorithm, Unverified};
use claims::{Rules, Standard};
use hyper_sdk::breaker::Breaker;
use hyper_sdk::{Error, Result};
use keys::Keys;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The longest token that is read, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// The most issuers.
const MAX_ISSUERS: usize = 32;

/// The user name with which clients that send a user and a password say that the password is a token of an issuer. The name of
/// the issuer does the same.
pub(super) const LOGIN: &str = "oidc";

/// Who a token of an issuer is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The user, with the name of the issuer before it.
    pub(super) user: String,
    pub(super) proof: External,
    /// When the token expires, in seconds since 1970.
    pub(super) expires: i64,
}

/// What a token of this registry keeps of the token of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct External {
    /// The name of the issuer in the configuration.
    issuer: String,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    groups: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    claims: BTreeMap<String, Value>,
}

impl External {
    /// The name of the issuer in the configuration.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The principal of a user of an issuer.
    pub(super) fn principal(&self, user: &str) -> Principal {
        let principal = Principal::user(user).with_groups(self.groups.iter().cloned());
        self.claims
            .iter()
            .fold(principal, |principal, (name, value)| principal.with_claim(name, value.clone()))
    }
}

/// The issuers of a registry.
#[derive(Debug, Default)]
pub(crate) struct Issuers(Vec<Issuer>);

/// What is known of the keys of an issuer, for the metrics.
#[derive(Debug)]
pub(crate) struct IssuerState<'a> {
    pub(crate) name: &'a str,
    /// How old the keys are, in seconds; `None` before the first were fetched.
    pub(crate) age: Option<u64>,
    /// How often they could not be fetched.
    pub(crate) failures: u64,
}

#[derive(Debug)]
struct Issuer {
    name: String,
    /// The claim `iss`.
    url: String,
    audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    rules: Rules,
    keys: Arc<Keys>,
}

impl Issuers {
    /// The issuers of these options. Nothing is fetched.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says what is wrong with which; [`hyper_sdk::ErrorKind::Unsupported`] when keys have to
    /// be fetched, and this build cannot.
    pub(crate) fn new(options: &[IssuerOptions]) -> Result<Self> {
        if options.len() > MAX_ISSUERS {
            return Err(Error::invalid(format!("there may be at most {MAX_ISSUERS} issuers of tokens")));
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for one in options {
            let issuer = Issuer::new(one).map_err(|e| e.with_context("issuer", one.name.escape_debug()))?;
            if issuers.iter().any(|other| other.name == issuer.name) {
                return Err(Error::invalid("two issuers of tokens have the same name")
                    .with_context("issuer", &one.name));
            }
            issuers.push(issuer);
        }
        Ok(Self(issuers))
    }

    /// Whether a token is one of an issuer, by what it says of itself.
    pub(super) fn know(&self, token: &str) -> bool {
        !self.0.is_empty()
            && token.len() <= MAX_TOKEN
            && Unverified::parse(token)
                .and_then(|token| Standard::parse(&token.claims))
                .is_some_and(|(standard, _)| self.0.iter().any(|issuer| issuer.url == standard.iss))
    }

    /// Whether a user name and a password are a login with the token of an issuer.
    pub(super) fn is_login(&self, user: &str, password: &str) -> bool {
        let is_named = || user == LOGIN || self.0.iter().any(|issuer| issuer.name == user);
        !self.0.is_empty() && super::jose::is_like(password) && is_named()
    }

    /// Whether there is an issuer of this name with another URL.
    pub(crate) fn has_other(&self, options: &IssuerOptions) -> bool {
        self.0.iter().any(|issuer| issuer.name == options.name && issuer.url != options.url)
    }

    /// Whether there is an issuer of this name.
    pub(super) fn has(&self, proof: &External) -> bool {
        self.has_name(&proof.issuer)
    }

    /// Whether there is an issuer of this name.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.0.iter().any(|issuer| issuer.name == name)
    }

    /// What is known of the keys.
    pub(crate) fn states(&self) -> impl Iterator<Item = IssuerState<'_>> {
        self.0.iter().map(|issuer| {
            let (age, failures) = issuer.keys.state();
            IssuerState { name: &issuer.name, age, failures }
        })
    }

    /// The breakers in front of them.
    pub(crate) fn breakers(&self) -> impl Iterator<Item = &Breaker> {
        self.0.iter().map(|issuer| issuer.keys.breaker())
    }

    /// The issuer that a login with this user name is about; `None` is any.
    pub(super) fn named<'a>(&self, user: &'a str) -> Option<&'a str> {
        Some(user).filter(|user| self.0.iter().any(|issuer| issuer.name == *user))
    }

    /// Who a token is about, of the issuer of this name or of any, at this time in seconds since 1970; `None` when it is not valid. The reason is in the log alone.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unavailable`] when the keys of the issuer are not known and cannot be fetched.
    pub(super) async fn verify(&self, token: &str, only: Option<&str>, now: i64) -> Result<Option<Identity>> {
        if token.len() > MAX_TOKEN {
            return Ok(None);
        }
        let Some(token) = Unverified::parse(token) else { return Ok(None) };
        let Some((standard, all)) = Standard::parse(&token.claims) else { return Ok(None) };
        let mut unavailable = None;
        // Several may have one URL, for jobs with different claims.
        let is_asked = |issuer: &&Issuer| only.is_none_or(|name| issuer.name == name);
        for issuer in self.0.iter().filter(|issuer| issuer.url == standard.iss).filter(is_asked) {
            match issuer.verify(&token, &standard, &all, now).await {
                Ok(Ok(identity)) => return Ok(Some(identity)),
                Ok(Err(why)) => tracing::info!(issuer = issuer.name, why, "a token is refused"),
                Err(e) => unavailable = Some(e.with_context("issuer", &issuer.name)),
            }
        }
        unavailable.map_or(Ok(None), Err)
    }
}

impl Issuer {
    fn new(options: &IssuerOptions) -> Result<Self> {
        options.check()?;
        let algorithms = options.algorithms.iter().map(|name| name.parse()).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            name: options.name.clone(),
            url: options.url.clone(),
            audience: options.audience.clone(),
            algorithms,
            rules: Rules::new(options)?,
            keys: Arc::new(Keys::new(&options.name, source::Source::new(options)?)),
        })
    }

    /// Who the token is about, or why it is refused.
    async fn verify(
        &self,
        token: &Unverified<'_>,
        standard: &Standard,
        all: &Map<String, Value>,
        now: i64,
    ) -> Result<std::result::Result<Identity, &'static str>> {
        let Some(algorithm) = token.algorithm.filter(|found| self.algorithms.contains(found)) else {
            return Ok(Err("its algorithm is not allowed"));
        };
        // Before a key is looked for: what is refused anyway costs the issuer nothing.
        if let Err(why) = standard.check(&self.audience, now) {
            return Ok(Err(why));
        }
        let keys = self.keys.find(token.key.as_deref(), algorithm).await?;
        if keys.is_empty() {
            return Ok(Err("the issuer has no key of this id and algorithm"));
        }
        if !keys.iter().any(|key| token.is_signed_by(key, algorithm)) {
            return Ok(Err("its signature is wrong"));
        }
        Ok(self.rules.identity(&self.name, standard, all))
    }
}
