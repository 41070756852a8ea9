//! The two steps of a login: the way to the issuer, and the way back.

use super::attempt::{Attempt, LIFETIME};
use super::provider::{Endpoints, Provider, query};
use super::{Callback, Failure, LoggedIn, LoginOptions, NewLogin, Parts, binding};
use crate::auth::api_token::login_token;
use crate::auth::issuers::{Identity, Issuers};
use crate::auth::jose::Unverified;
use crate::throttle::Guess;
use hyper_sdk::breaker::Breaker;
use hyper_sdk::client::DocumentClient;
use hyper_sdk::{Digest, Error, ErrorKind, Result};
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The longest code that is exchanged, in bytes.
const MAX_CODE: usize = 4096;
/// The most tokens of logins of one user: a further login ends the one that was not used for the longest time.
const MOST_TOKENS: usize = 20;
/// How many codes are exchanged at once.
const MOST_EXCHANGES: usize = 8;

/// Logins of people at an issuer.
#[derive(Debug)]
pub(crate) struct Logins {
    /// The one issuer.
    issuers: Issuers,
    provider: Provider,
    name: String,
    url: String,
    client_id: String,
    scopes: String,
    lifetime: Duration,
    /// Where the issuer sends the browser.
    redirect: String,
    /// What cookies are sealed for.
    purpose: String,
    binding: Digest,
    /// The turns of asking the issuer about codes.
    exchanges: Semaphore,
    parts: Parts,
}

/// The claims that are about this login.
#[derive(Deserialize)]
struct AboutLogin {
    nonce: Option<String>,
    azp: Option<String>,
    aud: serde_json::Value,
}

impl Logins {
    /// Logins with these options. Nothing is fetched.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] that says what is wrong, also when the browser would be sent over plain HTTP to another machine.
    pub(crate) fn new(options: &LoginOptions, parts: Parts) -> Result<Self> {
        Self::check(options, &parts.root)?;
        let issuer = options.issuer();
        let mut scopes = options.scopes.clone();
        if !scopes.iter().any(|scope| scope == "openid") {
            scopes.insert(0, "openid".to_owned());
        }
        let bound = binding(&parts.service, options);
        Ok(Self {
            issuers: Issuers::new(std::slice::from_ref(&issuer))?,
            provider: Provider::new(options)?,
            name: issuer.name,
            url: issuer.url,
            client_id: options.client_id.clone(),
            scopes: scopes.join(" "),
            lifetime: options.lifetime,
            redirect: format!("{}/login/callback", parts.root),
            purpose: format!("a login in a browser {bound}"),
            binding: bound,
            exchanges: Semaphore::new(MOST_EXCHANGES),
            parts,
        })
    }

    /// Checks options for a registry at this URL.
    ///
    /// # Errors
    /// Those of [`Logins::new`].
    pub(crate) fn check(options: &LoginOptions, root: &str) -> Result<()> {
        options.check()?;
        DocumentClient::check(root).map_err(|_| {
            Error::invalid(
                "logins in a browser need a `public-url` with https, or one of this machine: the page shows a token",
            )
        })?;
        Issuers::new(&[options.issuer()])?;
        Provider::new(options).map(drop)
    }

    /// The issuer, as one whose tokens are checked.
    pub(crate) fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// The breakers in front of the issuer: where it answers, and its keys.
    pub(crate) fn breakers(&self) -> impl Iterator<Item = &Breaker> {
        std::iter::once(self.provider.breaker()).chain(self.issuers.breakers())
    }

    /// Where a login begins.
    pub(crate) fn start(&self) -> String {
        format!("{}/login", self.parts.root)
    }

    fn is_secure(&self) -> bool {
        self.parts.root.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
    }

    /// What the cookie is called. With the prefix no other host of the domain and no page without TLS can set it (RFC 6265bis,
    /// section 4.1.3.2); browsers accept that over TLS alone.
    pub(crate) fn cookie_name(&self) -> &'static str {
        if self.is_secure() { "__Host-hyperregistry-login" } else { "hyperregistry-login" }
    }

    fn cookie(&self, value: &str, seconds: i64) -> String {
        let secure = if self.is_secure() { "; Secure" } else { "" };
        format!("{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", self.cookie_name())
    }

    /// The value of `Set-Cookie` that removes the cookie.
    pub(crate) fn no_cookie(&self) -> String {
        self.cookie("", 0)
    }

    /// Begins a login: the URL at the issuer, and the value of `Set-Cookie`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the issuer does not answer.
    pub(crate) async fn begin(&self) -> Result<(String, String)> {
        let endpoints = self.provider.endpoints().await?;
        let attempt = Attempt::new(self.parts.clock.now())?;
        let asked = query(&[
            ("response_type", "code"),
            ("client_id", &self.client_id),
            ("redirect_uri", &self.redirect),
            ("scope", &self.scopes),
            ("state", &attempt.state),
            ("nonce", &attempt.nonce),
            ("code_challenge", &attempt.challenge()),
            ("code_challenge_method", "S256"),
        ]);
        let separator = if endpoints.authorization.contains('?') { '&' } else { '?' };
        let keys = self.parts.keys.seal_keys();
        let key = keys.first().ok_or_else(|| Error::internal("there is no key to seal with"))?;
        let cookie = self.cookie(&attempt.seal(key, &self.purpose)?, LIFETIME);
        Ok((format!("{}{separator}{asked}", endpoints.authorization), cookie))
    }

    /// Ends a login: checks what came back, asks the issuer who it is, and makes a token, which is valid once it is
    /// [kept](Self::keep).
    ///
    /// # Errors
    /// See [`Failure`]. What is refused once the issuer was asked counts as a wrong password of the address.
    pub(crate) async fn finish(
        &self,
        callback: &Callback,
        cookie: Option<&str>,
        client: Option<IpAddr>,
    ) -> std::result::Result<NewLogin, Failure> {
        let now = self.parts.clock.now();
        let (attempt, endpoints, code) = self.returned(callback, cookie, now).await?;
        // Nothing before this was a guess: nobody can make a cookie, and any page can make a browser send the rest.
        let guess = self.parts.guesses.begin_login(client, Instant::now())?;
        match self.identity(&endpoints, code, &attempt).await {
            Ok(identity) => Ok(self.token(&identity, &attempt, now, guess)?),
            Err(Failure::Failed(error)) => Err(Failure::Failed(error)),
            Err(refusal) => {
                guess.wrong();
                Err(refusal)
            }
        }
    }

    /// Keeps the token of a login.
    ///
    /// # Errors
    /// See [`Failure`]. A login that has its token already counts as a wrong password.
    pub(crate) async fn keep(&self, new: NewLogin) -> Result<LoggedIn> {
        let NewLogin { record, token, guess, .. } = new;
        match self.parts.tokens.add_token(&record).await {
            Ok(()) => guess.right(Instant::now()),
            Err(e) => {
                if e.kind() == ErrorKind::Conflict {
                    guess.wrong();
                }
                return Err(e);
            }
        }
        // A login that has its token does not fail for the sake of old ones.
        let unused = record.created.saturating_sub(self.seconds());
        if let Err(error) = self.parts.tokens.trim_refresh_tokens(&record.user, MOST_TOKENS, unused).await {
            tracing::warn!(%error, "old tokens of logins cannot be removed");
        }
        tracing::info!(user = %record.user.escape_debug(), token = record.id, "a login in a browser");
        let host = self.parts.root.split_once("://").map_or("", |(_, rest)| rest);
        Ok(LoggedIn {
            user: record.user,
            login: self.name.clone(),
            host: host.split('/').next().unwrap_or_default().to_owned(),
            token,
            id: record.id,
            expires: record.expires.unwrap_or_default(),
        })
    }

    fn seconds(&self) -> i64 {
        i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX)
    }

    /// What has come back to the browser in which the login began: the attempt, where its issuer answers, and the code.
    async fn returned<'c>(
        &self,
        callback: &'c Callback,
        cookie: Option<&str>,
        now: i64,
    ) -> std::result::Result<(Attempt, Arc<Endpoints>, &'c str), Failure> {
        let keys = self.parts.keys.seal_keys();
        let attempt = cookie.and_then(|text| Attempt::open(text, &keys, &self.purpose, now));
        let attempt = attempt.ok_or(Failure::Refused(
            "the login has not begun in this browser, or it took longer than ten minutes",
        ))?;
        if callback.has_repeated {
            return Err(Failure::Refused("the answer of the issuer has a parameter twice"));
        }
        let is_this_one = |state: &String| Digest::sha256(state) == Digest::sha256(&attempt.state);
        if !callback.state.as_ref().is_some_and(is_this_one) {
            return Err(Failure::Refused("the answer belongs to another login"));
        }
        let endpoints = self.provider.endpoints().await?;
        match &callback.issuer {
            Some(issuer) if *issuer != self.url => {
                return Err(Failure::Refused("the answer is that of another issuer"));
            }
            None if endpoints.names_itself => {
                return Err(Failure::Refused("the answer does not say which issuer it is from"));
            }
            _ => {}
        }
        if let Some(error) = &callback.error {
            return Err(Failure::Issuer(error.clone(), callback.description.clone().unwrap_or_default()));
        }
        let is_code = |code: &&String| !code.is_empty() && code.len() <= MAX_CODE;
        let code =
            callback.code.as_ref().filter(is_code).ok_or(Failure::Refused("the answer has no code"))?;
        Ok((attempt, endpoints, code.as_str()))
    }

    /// Who the code stands for.
    async fn identity(
        &self,
        endpoints: &Endpoints,
        code: &str,
        attempt: &Attempt,
    ) -> std::result::Result<Identity, Failure> {
        // A flood of codes must not make the issuer lock the registry out.
        let _turn = self.exchanges.try_acquire().map_err(|_| {
            Error::new(ErrorKind::TooManyRequests, "too many logins at once: try again later")
        })?;
        let token = self.provider.exchange(endpoints, code, &attempt.verifier, &self.redirect).await?;
        let identity = self.issuers.verify(&token, Some(&self.name), self.parts.clock.now()).await?;
        let identity = identity.ok_or(Failure::Refused(
            "the issuer says nothing that is accepted here: the log of the registry says why",
        ))?;
        let about = Unverified::parse(&token).and_then(|token| serde_json::from_slice(&token.claims).ok());
        let about: AboutLogin = about.ok_or(Failure::Refused("the token of the issuer is damaged"))?;
        if about.nonce.as_ref() != Some(&attempt.nonce) {
            return Err(Failure::Refused("the token of the issuer belongs to another login"));
        }
        // OpenID Connect Core 1.0, section 3.1.3.7: several audiences need the one that it was issued to.
        let has_several = about.aud.as_array().is_some_and(|all| all.len() > 1);
        let is_ours = match &about.azp {
            Some(azp) => *azp == self.client_id,
            None => !has_several,
        };
        if !is_ours {
            return Err(Failure::Refused("the token of the issuer was issued to another client"));
        }
        Ok(identity)
    }

    /// The token of a login.
    fn token(&self, identity: &Identity, attempt: &Attempt, now: i64, guess: Guess) -> Result<NewLogin> {
        let expires = now.saturating_add(self.seconds());
        let (token, record) = login_token(identity, &attempt.state, (now, expires), self.binding.clone())?;
        let principal = identity.proof.principal(&identity.user);
        Ok(NewLogin { record, token, principal, guess })
    }
}
