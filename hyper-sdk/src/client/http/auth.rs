//! Authorisation: challenges, tokens and their cache (the Docker token specification, GET and OAuth2 POST).
//!
//! ```text
//!   request ──► Scheme::Unknown: no header ──► 401 + challenge ──► learn ──► Basic: name and password
//!                                                                       └─► Bearer: token for the scopes, cached
//! ```
//!
//! # Invariants
//! - Credentials go to the registry and to the token server that it names, never over a weaker scheme. Over plain HTTP
//!   they leave this machine only when the caller asked for plain HTTP.
//! - A token is used only for its scopes, and not after it expired.
//! - There is one request at a time for a set of scopes; other tasks wait for its token.

use super::challenge::{self, Challenge};
use super::errors::{self, Subject};
use super::transport_error;
use super::{body, retry};
use crate::client::keychain::{Credentials, Secret, SharedKeychain};
use crate::client::timeouts::Timeouts;
use crate::reference::{RegistryHost, RepositoryName};
use crate::{Error, ErrorKind, Result};
use base64::Engine;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

const MAX_TOKEN_BODY: usize = 256 * 1024;
/// The lifetime of a token whose server gives none (token specification: 60 s).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A token is renewed this long before it expires, or at half of a shorter lifetime.
const LEEWAY: Duration = Duration::from_secs(10);
/// The most tokens that are kept.
const MAX_TOKENS: usize = 1024;

/// The permissions of a request: the repository whose credentials are used, and the scopes of the token.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    pub(super) repository: Option<RepositoryName>,
    pub(super) scopes: BTreeSet<String>,
}

impl Access {
    pub(super) fn registry() -> Self {
        Self::default()
    }

    pub(super) fn catalog() -> Self {
        Self { repository: None, scopes: BTreeSet::from(["registry:catalog:*".to_owned()]) }
    }

    pub(super) fn repository(name: &RepositoryName, actions: &str) -> Self {
        let scopes = BTreeSet::from([format!("repository:{name}:{actions}")]);
        Self { repository: Some(name.clone()), scopes }
    }

    pub(super) fn and_pull(mut self, other: &RepositoryName) -> Self {
        if self.repository.as_ref() != Some(other) {
            self.scopes.insert(format!("repository:{other}:pull"));
        }
        self
    }

    fn key(&self) -> String {
        let name = self.repository.as_ref().map_or("", RepositoryName::as_str);
        self.scopes.iter().fold(name.to_owned(), |key, scope| key + " " + scope)
    }
}

#[derive(Clone, Debug)]
enum Scheme {
    /// The registry has not been asked yet.
    Unknown,
    /// The registry answered without credentials.
    Open,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

struct Token {
    value: Secret,
    expires: Instant,
}

type TokenSlot = Arc<tokio::sync::Mutex<Option<Token>>>;

pub(super) struct Authenticator {
    host: RegistryHost,
    keychain: SharedKeychain,
    /// The caller asked for plain HTTP; a registry on this machine may speak it without.
    plain_http: bool,
    timeouts: Timeouts,
    policy: retry::RetryPolicy,
    /// Whether the token server has answered a request yet.
    reached: Arc<AtomicBool>,
    scheme: Mutex<Scheme>,
    tokens: Mutex<HashMap<String, TokenSlot>>,
    credentials: Mutex<HashMap<String, Credentials>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Authenticator {
    pub(super) fn new(
        host: RegistryHost,
        keychain: SharedKeychain,
        plain_http: bool,
        timeouts: Timeouts,
        policy: retry::RetryPolicy,
    ) -> Self {
        Self {
            host,
            keychain,
            plain_http,
            timeouts,
            policy,
            reached: Arc::default(),
            scheme: Mutex::new(Scheme::Unknown),
            tokens: Mutex::default(),
            credentials: Mutex::default(),
        }
    }

    /// Whether the scheme of the registry is known.
    pub(super) fn is_known(&self) -> bool {
        !matches!(*lock(&self.scheme), Scheme::Unknown)
    }

    /// Whether the registry needs tokens.
    pub(super) fn wants_token(&self) -> bool {
        matches!(*lock(&self.scheme), Scheme::Bearer { .. })
    }

    /// Records that the registry answered a request without credentials.
    pub(super) fn was_open(&self) {
        let mut scheme = lock(&self.scheme);
        if matches!(*scheme, Scheme::Unknown) {
            *scheme = Scheme::Open;
        }
    }

    /// The header for a request, when the registry is known to need one.
    pub(super) async fn header(
        &self,
        http: &reqwest::Client,
        access: &Access,
        reporter: &retry::RetryReporter,
    ) -> Result<Option<HeaderValue>> {
        let scheme = lock(&self.scheme).clone();
        match scheme {
            Scheme::Unknown | Scheme::Open => Ok(None),
            Scheme::Basic => match self.credentials(access).await? {
                Credentials::Basic { username, password } => basic(&username, &password).map(Some),
                Credentials::Bearer(token) => bearer(&token).map(Some),
                Credentials::Anonymous | Credentials::IdentityToken(_) => Ok(None),
            },
            Scheme::Bearer { realm, service } => {
                let token = self.token(http, &realm, service.as_deref(), access, reporter).await?;
                bearer(&token).map(Some)
            }
        }
    }

    /// Reads the challenge of a 401. `sent` is the header that was rejected.
    ///
    /// # Errors
    /// When another attempt is pointless: there is no supported challenge, or there are no credentials for it.
    pub(super) async fn refused(
        &self,
        base: &Url,
        headers: &HeaderMap,
        access: &Access,
        sent: Option<&HeaderValue>,
    ) -> Result<()> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        lock(&self.credentials).remove(&self.credentials_key(access));
        let bearer =
            challenges.iter().find(|c| c.scheme == "bearer").and_then(|c| Some((c, c.get("realm")?)));
        if let Some((challenge, realm)) = bearer {
            let realm = base.join(realm).map_err(|e| {
                unauthorized("the registry names a token server whose address is not a URL").with_source(e)
            })?;
            if !self.is_safe(base, &realm) {
                return Err(unauthorized(
                    "the registry names a token server without TLS: no credentials are sent to it",
                )
                .with_context("token server", realm.host_str().unwrap_or_default()));
            }
            let service = challenge.get("service").map(str::to_owned);
            *lock(&self.scheme) = Scheme::Bearer { realm, service };
            let slot = lock(&self.tokens).get(&access.key()).cloned();
            if let Some(slot) = slot {
                // Another task may have renewed the token meanwhile.
                let mut token = slot.lock().await;
                let is_refused =
                    token.as_ref().is_some_and(|t| self::bearer(&t.value).is_ok_and(|h| Some(&h) == sent));
                if is_refused {
                    *token = None;
                }
            }
            return Ok(());
        }
        if challenges.iter().any(|c| c.scheme == "basic") {
            if !matches!(self.credentials(access).await?, Credentials::Basic { .. } | Credentials::Bearer(_))
            {
                return Err(unauthorized("the registry needs a name and a password: log in to it first"));
            }
            *lock(&self.scheme) = Scheme::Basic;
            return Ok(());
        }
        Err(unauthorized("the registry rejects the request and names no supported way to authenticate"))
    }

    /// Whether credentials may be sent to a token server at this address.
    fn is_safe(&self, base: &Url, realm: &Url) -> bool {
        match realm.scheme() {
            "https" => true,
            "http" => base.scheme() == "http" && (self.plain_http || is_this_machine(realm)),
            _ => false,
        }
    }

    fn credentials_key(&self, access: &Access) -> String {
        access.repository.as_ref().map_or_else(String::new, ToString::to_string)
    }

    async fn credentials(&self, access: &Access) -> Result<Credentials> {
        let key = self.credentials_key(access);
        let known = lock(&self.credentials).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.keychain.get(&self.host, access.repository.as_ref()).await?;
        let mut all = lock(&self.credentials);
        if all.len() >= MAX_TOKENS {
            all.clear();
        }
        all.insert(key, found.clone());
        Ok(found)
    }

    async fn token(
        &self,
        http: &reqwest::Client,
        realm: &Url,
        service: Option<&str>,
        access: &Access,
        reporter: &retry::RetryReporter,
    ) -> Result<Secret> {
        let slot = {
            let mut tokens = lock(&self.tokens);
            if tokens.len() >= MAX_TOKENS {
                tokens.clear();
            }
            tokens.entry(access.key()).or_default().clone()
        };
        let mut token = slot.lock().await;
        if let Some(token) = token.as_ref().filter(|t| t.expires > Instant::now()) {
            return Ok(token.value.clone());
        }
        let credentials = self.credentials(access).await?;
        if let Credentials::Bearer(value) = credentials {
            return Ok(value);
        }
        let fetched = self.fetch(http, realm, service, access, &credentials, reporter).await?;
        let value = fetched.value.clone();
        *token = Some(fetched);
        Ok(value)
    }

    async fn fetch(
        &self,
        http: &reqwest::Client,
        realm: &Url,
        service: Option<&str>,
        access: &Access,
        credentials: &Credentials,
        reporter: &retry::RetryReporter,
    ) -> Result<Token> {
        let server = realm.host_str().unwrap_or_default();
        let reached = self.reached.clone();
        let reporter = retry::RetryReporter { peer: server.to_owned(), reached, ..reporter.clone() };
        let mut attempts = retry::Attempts::new(self.policy, &reporter);
        loop {
            let request = token_request(http, realm, service, access, credentials)?;
            let sent = self.timeouts.answer(request.send()).await;
            if matches!(sent, Ok(Ok(_))) {
                reporter.reached();
            }
            let (error, wait) = match sent {
                Err(late) => (late, None),
                Ok(Err(e)) => (transport_error::of_request(e), None),
                Ok(Ok(mut response)) if response.status().is_success() => {
                    match body::read_all(&mut response, MAX_TOKEN_BODY, self.timeouts).await {
                        Ok(bytes) => return parse_token(&bytes),
                        Err(e) => (e, None),
                    }
                }
                Ok(Ok(response)) => {
                    let wait = retry::retry_after(response.headers(), super::now());
                    let refused = matches!(response.status().as_u16(), 400 | 401 | 403);
                    let error = errors::of_response(response, Subject::Registry, self.timeouts).await;
                    (if refused { error.with_kind(ErrorKind::Unauthorized) } else { error }, wait)
                }
            };
            if !error.is_retryable() || !attempts.again(wait, "the token server", &error).await {
                return Err(error.with_context("token server", server));
            }
        }
    }
}

/// A request to the token server: GET, or POST with a refresh token. Redirects are not followed.
fn token_request(
    http: &reqwest::Client,
    realm: &Url,
    service: Option<&str>,
    access: &Access,
    credentials: &Credentials,
) -> Result<reqwest::RequestBuilder> {
    let mut url = realm.clone();
    if let Credentials::IdentityToken(refresh) = credentials {
        let scopes = access.scopes.iter().cloned().collect::<Vec<_>>().join(" ");
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("client_id", "hyper")
            .append_pair("scope", &scopes)
            .append_pair("refresh_token", refresh.expose());
        let request = http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        return Ok(request.body(form.finish()));
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in &access.scopes {
            query.append_pair("scope", scope);
        }
        if let Credentials::Basic { username, .. } = credentials {
            query.append_pair("account", username);
        }
    }
    let request = http.get(url);
    Ok(match credentials {
        Credentials::Basic { username, password } => {
            request.header(AUTHORIZATION, basic(username, password)?)
        }
        _ => request,
    })
}

fn parse_token(bytes: &[u8]) -> Result<Token> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    // The parser's message could quote the token: it is left out.
    let answer: Answer = serde_json::from_slice(bytes)
        .map_err(|_| unauthorized("the token server's answer is not the JSON of a token"))?;
    let value = answer
        .token
        .or(answer.access_token)
        .filter(|t| !t.is_empty())
        .ok_or_else(|| unauthorized("the token server's answer has no token"))?;
    let life = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs).min(MAX_LIFETIME);
    let expires = Instant::now() + (life - LEEWAY.min(life / 2));
    Ok(Token { value: value.into(), expires })
}

fn basic(username: &str, password: &Secret) -> Result<HeaderValue> {
    let pair = format!("{username}:{}", password.expose());
    header(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn bearer(token: &Secret) -> Result<HeaderValue> {
    header(format!("Bearer {}", token.expose()))
}

fn header(text: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| unauthorized("the token or password has characters that a header cannot have"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(|host| RegistryHost::parse(host).is_ok_and(|host| host.is_loopback()))
}

fn unauthorized(message: &str) -> Error {
    Error::new(ErrorKind::Unauthorized, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn token_answers() {
        let token = parse_token(br#"{"access_token":"a","expires_in":100}"#).unwrap();
        assert_eq!((token.value.expose(), token.expires - Instant::now()), ("a", Duration::from_secs(90)));
        let token = parse_token(br#"{"token":"b"}"#).unwrap();
        assert_eq!(token.expires - Instant::now(), Duration::from_secs(50));
        assert!(parse_token(br#"{"token":""}"#).is_err());
        let e = parse_token(b"secret").err().unwrap();
        assert!(!format!("{e:?}").contains("secret"));
    }
}
