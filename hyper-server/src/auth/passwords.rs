//! The authenticator of a registry with an htpasswd file or a directory: it accepts passwords, API tokens, refresh tokens and the
//! tokens that it issues, and those of other issuers.
//!
//! A name that the file has is that of a user of the file alone: the directory is not asked about it. So nobody in the directory
//! becomes somebody of the file.
//!
//! If anonymous callers may do nothing, the challenge has the Basic scheme, which all clients support. Otherwise it has
//! the Bearer scheme, because docker sends a password only then. Passwords and tokens are accepted in both cases.

mod login;

use self::login::{Login, Proved};
use super::api_token::ApiToken;
use super::api_tokens::{ApiTokens, Grant, NewRefresh};
use super::htpasswd::Htpasswd;
use super::issuers::{External, Issuers, LOGIN};
use super::ldap::Directory;
use super::login::{LoginOptions, SealKeys, binding};
use super::token::{Holder, Issued, Issuer};
use super::token_keys::TokenKeys;
use super::token_owner::TokenOwner;
use super::{
    Action, AuthError, AuthRequest, Authenticator, Authorizer, Challenge, Denial, Principal, Resource, Scope,
    public_url,
};
use crate::path_prefix::PathPrefix;
use crate::proxies::TrustedProxy;
use crate::throttle::Guesses;
use async_trait::async_trait;
use hyper_sdk::clock::SharedClock;
use hyper_sdk::digest::Hasher;
use hyper_sdk::store::meta::{TokenRecord, TokenStore};
use hyper_sdk::{Digest, RepositoryName, Result, Secret};
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The settings of [`Passwords`].
#[derive(Debug)]
pub(crate) struct PasswordOptions<'a> {
    /// The file of users.
    pub(crate) htpasswd: Option<&'a Path>,
    /// The directory of users that are not in the file.
    pub(crate) directory: Option<Directory>,
    /// The issuers whose tokens are accepted.
    pub(crate) issuers: Issuers,
    /// Where people log in with a browser.
    pub(crate) login: Option<&'a LoginOptions>,
    /// The realm that clients show when they ask for a password, and the service of the tokens.
    pub(crate) realm: &'a str,
    /// The file with the key of tokens.
    pub(crate) token_key: Option<&'a Path>,
    /// The key itself, instead of a file.
    pub(crate) token_secret: Option<&'a Secret>,
    /// Keys whose public part others have, instead of both.
    pub(crate) token_keys: Option<&'a TokenKeys>,
    /// How long a refresh token is valid without use.
    pub(crate) refresh: Option<Duration>,
    /// The URL at which clients reach the server.
    pub(crate) public_url: Option<&'a str>,
    /// The path under which the registry answers.
    pub(crate) path_prefix: Option<&'a PathPrefix>,
    /// The proxies that are believed.
    pub(crate) trusted_proxies: Option<&'a [TrustedProxy]>,
    /// The API tokens, and whether their last use is recorded.
    pub(crate) api_tokens: Option<(Arc<dyn TokenStore>, bool)>,
    /// What decides whether anonymous callers may do anything at all.
    pub(crate) authorizer: Arc<dyn Authorizer>,
    /// The limits of wrong passwords.
    pub(crate) guesses: Arc<Guesses>,
    /// The time by which tokens expire.
    pub(crate) clock: SharedClock,
}

/// What a request for a token asks for, besides scopes.
#[derive(Debug)]
pub(crate) struct TokenRequest<'a> {
    /// Who asks.
    pub(crate) proof: Proof<'a>,
    /// Whether the client wants a refresh token too.
    pub(crate) offline: bool,
    /// The name of the client program.
    pub(crate) client: &'a str,
}

/// How the sender of a request for a token says who it is.
pub(crate) enum Proof<'a> {
    /// By the header `Authorization`, or not at all.
    Header,
    /// By a user name and a password.
    Password(&'a str, &'a str),
    /// By a refresh token.
    Refresh(&'a str),
}

impl std::fmt::Debug for Proof<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "Header",
            Self::Password(..) => "Password(…)",
            Self::Refresh(_) => "Refresh(…)",
        })
    }
}

/// What the sender of a request for a token gets.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) issued: Issued,
    pub(crate) scopes: Vec<Scope>,
    /// Who has logged in.
    pub(crate) principal: Principal,
    /// Valid once it is [kept](Passwords::keep_refresh).
    pub(crate) refresh: Option<NewRefresh>,
}

/// Checks the passwords of an htpasswd file, API tokens of its users and the tokens that were issued to its users.
#[derive(Debug)]
pub(crate) struct Passwords {
    /// The users of the file; `None` without one.
    users: Option<Htpasswd>,
    directory: Option<Directory>,
    issuers: Issuers,
    /// Of logins in a browser: the name of the issuer, and what their tokens are bound to.
    login: Option<(String, Digest)>,
    api_tokens: Option<ApiTokens>,
    issuer: Issuer,
    guesses: Arc<Guesses>,
    service: String,
    public_url: Option<String>,
    /// The path of the token endpoint.
    endpoint: String,
    trusted_proxies: Option<Vec<TrustedProxy>>,
    authorizer: Arc<dyn Authorizer>,
    clock: SharedClock,
}

#[async_trait]
impl Authenticator for Passwords {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        if !request.has_authorization() {
            return Ok(Principal::anonymous());
        }
        if let Some(token) = request.bearer() {
            let principal = match self.api_tokens_for(token) {
                Some(tokens) => match tokens.verify(token).await? {
                    Some(grant) => self.granted(&grant).await?.map(|login| login.principal),
                    None => None,
                },
                None => match self.of_token(token).await? {
                    None if self.issuers.know(token) => {
                        self.of_issuer(token, None, request.client()).await?.map(|login| login.principal)
                    }
                    found => found,
                },
            };
            return principal.ok_or_else(|| {
                let challenge = self.bearer(request).with("error", "invalid_token");
                challenge.because("the token is invalid or has expired").into()
            });
        }
        let Some((user, password)) = request.basic() else {
            let reason = "the authorization header has neither the Basic nor the Bearer scheme";
            return Err(self.login(request).because(reason).into());
        };
        let login = self.verify(&user, &password, request.client()).await?;
        login.map(|login| login.principal).ok_or_else(|| self.login(request).because(WRONG).into())
    }

    fn challenge(
        &self,
        request: &AuthRequest<'_>,
        principal: &Principal,
        denial: Denial,
    ) -> Option<Challenge> {
        if request.resource() == Resource::Metrics {
            // No scope covers these resources, so a token cannot help.
            let is_user = !principal.is_anonymous() && principal.scopes().is_none();
            return (!is_user).then(|| Challenge::basic(&self.service));
        }
        // An API token allows what it allows: no other token of its user allows more.
        let has_token = principal.scopes().is_some() && !principal.has_patterns();
        if has_token && (denial == Denial::OutOfScope || principal.is_anonymous()) {
            let challenge = self.bearer(request).with("error", "insufficient_scope");
            // A token of nobody in particular is one that the user does not know of.
            return Some(match principal.is_anonymous() {
                true => challenge,
                false => challenge.because("the token does not grant this"),
            });
        }
        principal.is_anonymous().then(|| self.login(request))
    }
}

impl Passwords {
    /// Reads the file of users.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] or [`hyper_sdk::ErrorKind::Io`] when the file or the key cannot be used.
    pub(crate) fn open(options: PasswordOptions<'_>) -> Result<Self> {
        let visible = options.realm.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
        let service: String = visible.filter(|c| !"\"\\".contains(*c)).collect();
        Ok(Self {
            users: options.htpasswd.map(|file| Htpasswd::open(file, options.guesses.clone())).transpose()?,
            directory: options.directory,
            issuers: options.issuers,
            login: options.login.map(|login| (login.issuer.name.clone(), binding(&service, login))),
            api_tokens: options
                .api_tokens
                .clone()
                .map(|(store, writes)| ApiTokens::new(store, writes, options.refresh, options.clock.clone())),
            issuer: match (options.token_keys, options.token_secret) {
                (Some(keys), _) => Issuer::with_keys(&service, keys.clone()),
                (None, Some(secret)) => Issuer::with_key(&service, secret.expose().as_bytes())?,
                (None, None) => Issuer::new(&service, options.token_key)?,
            },
            guesses: options.guesses.clone(),
            service,
            public_url: options.public_url.map(str::to_owned),
            endpoint: format!(
                "{}/v2/token",
                options.path_prefix.map(ToString::to_string).unwrap_or_default()
            ),
            trusted_proxies: options.trusted_proxies.map(<[_]>::to_vec),
            authorizer: options.authorizer.clone(),
            clock: options.clock.clone(),
        })
    }

    /// Whether anonymous callers may do anything at all.
    fn is_open(&self) -> bool {
        self.authorizer.allows(&Principal::anonymous(), None, Action::Probe)
    }

    /// What checks a text that has the form of an API token.
    fn api_tokens_for(&self, text: &str) -> Option<&ApiTokens> {
        self.api_tokens.as_ref().filter(|_| ApiToken::is_like(text))
    }

    /// Who an API token stands for; `None` when its user was removed from the file, or has gone from the directory.
    async fn granted(&self, grant: &Grant) -> Result<Option<Login>> {
        let known = match (&grant.login, grant.expires) {
            (Some(external), Some(expires)) if self.is_bound(grant).await? => {
                let principal = external.principal(&grant.user);
                Some(Login { external: Some((external.clone(), expires)), ..Login::of(principal) })
            }
            (Some(_), _) => None,
            (None, _) => self.owner(&grant.user, &grant.owner).await?,
        };
        let Some(login) = known else { return Ok(None) };
        let principal = login.principal.with_scopes(grant.scopes.iter().cloned());
        Ok(Some(Login { principal, api_token: Some(grant.id.clone()), ..login }))
    }

    /// The owner of an API token; `None` when it has gone, also when its name is that of another user now.
    async fn owner(&self, user: &str, owner: &TokenOwner) -> Result<Option<Login>> {
        let is_in_file = self.is_in_file(user);
        let (directory, entry) = match (owner, &self.directory) {
            (TokenOwner::File, directory) => {
                if !is_in_file && directory.is_some() {
                    tracing::info!(
                        user = %user.escape_debug(),
                        "an API token of the file of users is refused, as the file does not have the user: for a user of the directory make it again with `token add --config`"
                    );
                }
                return Ok(is_in_file.then(|| Login::of(Principal::user(user))));
            }
            (TokenOwner::Directory(entry), Some(directory)) if !is_in_file => (directory, entry),
            (TokenOwner::Directory(_), _) => return Ok(None),
        };
        let person = directory.look_up(user).await?;
        let person = person.filter(|person| entry.as_ref().is_none_or(|entry| *entry == person.entry));
        Ok(person.map(|person| Login::of_person(user, person)))
    }

    /// A user of the file, or else of the directory, without a proof; `None` when there is none of this name.
    async fn known(&self, user: &str) -> Result<Option<Login>> {
        if self.is_in_file(user) {
            return Ok(Some(Login::of(Principal::user(user))));
        }
        let Some(directory) = &self.directory else { return Ok(None) };
        Ok(directory.look_up(user).await?.map(|person| Login::of_person(user, person)))
    }

    /// Whether the file has this user.
    fn is_in_file(&self, user: &str) -> bool {
        self.users.as_ref().is_some_and(|users| users.knows(user))
    }

    /// Whether somebody is a user of the issuer of logins.
    fn is_of_login(&self, external: &External) -> bool {
        self.login.as_ref().is_some_and(|(name, _)| name == external.issuer())
    }

    /// The directory of the users that are not in the file.
    pub(crate) fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// Who the token of another issuer is about; `None` when it is none, or not valid. Wrong ones count as wrong passwords do.
    /// `only` names the issuer that is asked.
    async fn of_issuer(
        &self,
        token: &str,
        only: Option<&str>,
        client: Option<IpAddr>,
    ) -> Result<Option<Login>> {
        if !self.issuers.know(token) {
            return Ok(None);
        }
        // First, as an issuer may be slow: a token whose keys are waited for takes nothing of the limit.
        let identity = self.issuers.verify(token, only, self.clock.now()).await?;
        let guess = self.guesses.begin_token(client, Instant::now())?;
        let Some(identity) = identity else {
            guess.wrong();
            return Ok(None);
        };
        guess.right(Instant::now());
        let principal = identity.proof.principal(&identity.user);
        Ok(Some(Login { external: Some((identity.proof, identity.expires)), ..Login::of(principal) }))
    }

    /// The issuers whose tokens are accepted.
    pub(crate) fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    async fn of_token(&self, token: &str) -> Result<Option<Principal>> {
        let Some(claims) = self.issuer.verify(token, self.clock.now()) else { return Ok(None) };
        let principal = match (claims.sub.as_str(), &claims.external, &claims.directory) {
            // A token of an issuer or a directory that was removed from the configuration is invalid, and so is one of a user who
            // was removed from the file.
            (user, Some(external), None) if self.issuers.has(external) || self.is_of_login(external) => {
                external.principal(user)
            }
            (user, None, Some(groups)) if self.directory.is_some() && !self.is_in_file(user) => {
                Principal::user(user).with_groups(groups.iter().cloned())
            }
            ("", None, None) => Principal::anonymous(),
            (user, None, None) if self.is_in_file(user) => Principal::user(user),
            _ => return Ok(None),
        };
        // A token for an API token or a refresh token ends with it.
        if let Some(id) = &claims.api_token {
            let Some(tokens) = &self.api_tokens else { return Ok(None) };
            match tokens.grant(id).await? {
                Some(grant) if grant.user == claims.sub && self.is_bound(&grant).await? => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(principal.with_scopes(claims.scopes())))
    }

    /// Who a user name and a password belong to; `None` when they are wrong. Clients without credentials may send an empty
    /// name and password.
    async fn verify(&self, user: &str, password: &str, client: Option<IpAddr>) -> Result<Option<Login>> {
        if user.is_empty() && password.is_empty() {
            return Ok(Some(Login::of(Principal::anonymous())));
        }
        if let Some(tokens) = self.api_tokens_for(password) {
            // The name of a user of an issuer has a colon, which a user name of the Basic scheme cannot have.
            let is_of = |grant: &Arc<Grant>| match &grant.login {
                Some(external) => user == external.issuer() || user == LOGIN || user == grant.user,
                None => user == grant.user,
            };
            let Some(grant) = tokens.verify(password).await?.filter(is_of) else { return Ok(None) };
            return Box::pin(self.granted(&grant)).await;
        }
        // What asks others is boxed: the answer to most requests is remembered, and they need no room for it.
        if self.issuers.is_login(user, password) {
            return Box::pin(self.of_issuer(password, self.issuers.named(user), client)).await;
        }
        if let Some(directory) = self.directory.as_ref().filter(|_| !self.is_in_file(user)) {
            let person = Box::pin(directory.verify(user, password, client)).await?;
            return Ok(person.map(|person| Login { by_password: true, ..Login::of_person(user, person) }));
        }
        let Some(users) = &self.users else { return Ok(None) };
        let line = users.verify(user, password, client).await?;
        Ok(line.map(|line| Login {
            by_password: true,
            proved: Some(Proved::Line(line)),
            ..Login::of(Principal::user(user))
        }))
    }

    /// Who a refresh token stands for; `None` when it is wrong. Wrong ones count as wrong passwords do.
    async fn refresh(&self, token: &str, client: Option<IpAddr>) -> Result<Option<Login>> {
        let Some(tokens) = &self.api_tokens else { return Ok(None) };
        let guess = self.guesses.begin_token(client, Instant::now())?;
        let grant = match tokens.verify_refresh(token).await? {
            Some(grant) if self.is_bound(&grant).await? => Some(grant),
            _ => None,
        };
        let login = match &grant {
            Some(grant) => self.known(&grant.user).await?,
            None => None,
        };
        let (Some(grant), Some(login)) = (grant, login) else {
            guess.wrong();
            return Ok(None);
        };
        guess.right(Instant::now());
        tokens.record_use(&grant);
        Ok(Some(Login { api_token: Some(grant.id.clone()), ..login }))
    }

    /// What a refresh token of a user is bound to: this registry, and the password. `None` for who is neither in the file nor,
    /// as far as it can be asked, in the directory.
    async fn binding(&self, user: &str) -> Result<Option<Digest>> {
        let in_file = self.users.as_ref().and_then(|users| users.stamp(user));
        let stamp = match (in_file, &self.directory) {
            (Some(stamp), _) => stamp,
            (None, Some(directory)) => match directory.look_up(user).await? {
                Some(person) => person.stamp.clone(),
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        Ok(Some(self.bind(&stamp)))
    }

    fn bind(&self, stamp: &Digest) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update_field(&self.service);
        hasher.update_field(stamp.as_str());
        hasher.finish()
    }

    /// What a refresh token for this login is bound to: the line or the entry whose password was checked. `None` when another one has
    /// replaced it: a password that was right before must not be bound to that.
    async fn login_binding(&self, user: &str, login: &Login) -> Result<Option<Digest>> {
        let now = self.binding(user).await?;
        let proved = login.proved.as_ref().map(|proved| self.bind(&proved.stamp(user)));
        Ok(now.filter(|now| proved.as_ref() == Some(now)))
    }

    /// Whether what a refresh token is bound to is still so. An API token is bound to nothing.
    async fn is_bound(&self, grant: &Grant) -> Result<bool> {
        if grant.login.is_some() {
            return Ok(self
                .login
                .as_ref()
                .is_some_and(|(_, bound_to)| grant.bound_to.as_ref() == Some(bound_to)));
        }
        Ok(grant.bound_to.is_none() || grant.bound_to == self.binding(&grant.user).await?)
    }

    /// What the refresh tokens of all users of the file are bound to now; `None` while it cannot be read.
    pub(crate) fn bindings(&self) -> Option<HashSet<Digest>> {
        let Some(users) = &self.users else { return Some(HashSet::new()) };
        let stamps = users.names()?.into_iter().filter_map(|name| users.stamp(&name));
        Some(stamps.map(|stamp| self.bind(&stamp)).collect())
    }

    /// Removes the refresh tokens that are bound to what is gone, and those that were not used for too long. So they do not work again
    /// when the same line of the file comes back. Says of each that it was removed, and returns how many were.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn forget_logins(
        &self,
        gone: &HashSet<Digest>,
        removed_one: impl FnMut(&TokenRecord),
    ) -> Result<u64> {
        match &self.api_tokens {
            Some(tokens) => tokens.forget_refresh(gone, removed_one).await,
            None => Ok(0),
        }
    }

    /// Keeps the refresh token of a login.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn keep_refresh(&self, new: &NewRefresh) -> Result<()> {
        match &self.api_tokens {
            Some(tokens) => tokens.keep_refresh(new).await,
            None => Ok(()),
        }
    }

    /// Issues a token to the sender of a request, with those of the requested scopes that `allows` accepts.
    pub(crate) async fn token(
        &self,
        request: &AuthRequest<'_>,
        asked: &TokenRequest<'_>,
        wanted: impl IntoIterator<Item = Scope>,
        allows: impl Fn(&Principal, Option<&RepositoryName>, Action) -> bool,
    ) -> Result<Given, AuthError> {
        let login = self.grantee(request, &asked.proof).await?;
        let principal = &login.principal;
        if principal.is_anonymous() && !self.is_open() {
            return Err(Challenge::basic(&self.service).into());
        }
        let scopes: Vec<Scope> = wanted
            .into_iter()
            .filter_map(|scope| {
                let Some(repository) = scope.repository() else {
                    let may_list = principal.may_list() && allows(principal, None, Action::Probe);
                    return may_list.then_some(scope);
                };
                let allowed = scope.actions().iter().copied();
                let allowed = allowed.filter(|action| {
                    principal.is_in_scope(repository, *action) && allows(principal, Some(repository), *action)
                });
                Some(Scope::new(repository.clone(), allowed))
            })
            .collect();
        let user = principal.name().unwrap_or_default();
        let refresh = match &self.api_tokens {
            Some(tokens) if asked.offline && login.by_password => {
                match self.login_binding(user, &login).await? {
                    Some(bound_to) => tokens.new_refresh(user, asked.client, bound_to)?,
                    None => None,
                }
            }
            _ => None,
        };
        let external = login.external.as_ref();
        let holder = Holder {
            user,
            api_token: login.api_token.as_deref(),
            external: external.map(|(external, _)| external),
            directory: login.is_of_directory.then(|| principal.group_set()),
            until: external.map(|(_, until)| *until),
        };
        let issued = self.issuer.issue(holder, &scopes, self.clock.now())?;
        Ok(Given { issued, scopes, principal: login.principal, refresh })
    }

    /// Who asks for a token.
    async fn grantee(&self, request: &AuthRequest<'_>, proof: &Proof<'_>) -> Result<Login, AuthError> {
        let refusal = |why: &str| AuthError::from(Challenge::basic(&self.service).because(why));
        let client = request.client();
        let found = match proof {
            Proof::Refresh(token) => {
                let found = self.refresh(token, client).await?;
                return found
                    .ok_or_else(|| refusal("the refresh token is invalid or has expired: log in again"));
            }
            Proof::Password(user, password) => self.verify(user, password, client).await?,
            Proof::Header => match (request.basic(), request.bearer()) {
                (Some((user, password)), _) => self.verify(&user, &password, client).await?,
                (None, Some(token)) => self.of_issuer(token, None, client).await?,
                (None, None) if request.has_authorization() => None,
                (None, None) => Some(Login::of(Principal::anonymous())),
            },
        };
        found.ok_or_else(|| refusal(WRONG))
    }

    /// The realm, as tokens name it.
    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// The public keys of the tokens, for others who verify them; `None` when they are signed with a secret.
    pub(crate) fn public_keys(&self) -> Option<String> {
        self.issuer.keys().map(TokenKeys::public_keys)
    }

    fn login(&self, request: &AuthRequest<'_>) -> Challenge {
        if self.is_open() { self.bearer(request) } else { Challenge::basic(&self.service) }
    }

    fn bearer(&self, request: &AuthRequest<'_>) -> Challenge {
        let root = public_url::root(self.public_url.as_deref(), self.trusted_proxies.as_deref(), request);
        let challenge = Challenge::bearer(&format!("{root}{}", self.endpoint), &self.service);
        match request.scope() {
            Some(scope) => challenge.with("scope", &scope.to_string()),
            None => challenge,
        }
    }
}

impl SealKeys for Passwords {
    fn seal_keys(&self) -> Vec<[u8; 32]> {
        self.issuer.derived("the cookies of logins in a browser")
    }
}

const WRONG: &str = "the user name or the password is wrong";

#[cfg(test)]
mod tests;
