//! The endpoints of an issuer (OpenID Connect Discovery 1.0, section 3), and the exchange of a code for an ID token.

use super::{Failure, LoginOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_sdk::breaker::{Breaker, BreakerOptions};
use hyper_sdk::client::{DocumentClient, DocumentOptions, Proxies, read_authorities};
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, ErrorKind, Result, Secret};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long endpoints are known.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long an issuer that does not answer is left alone, at first and at most: people wait for it.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The largest file of a secret.
const MAX_SECRET: u64 = 4096;
/// All but the characters that need no escape anywhere in a form (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where an issuer answers.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) authorization: String,
    token: String,
    /// Whether the secret goes into the form, as the header is not accepted.
    by_form: bool,
    /// Whether the issuer names itself in what comes back (RFC 9207).
    pub(super) names_itself: bool,
}

/// The members of the discovery document that are read.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// An issuer at which people log in.
#[derive(Debug)]
pub(super) struct Provider {
    client: DocumentClient,
    url: String,
    client_id: String,
    secret: Option<PathBuf>,
    known: tokio::sync::Mutex<Option<(Instant, Arc<Endpoints>)>>,
    /// Every question where the issuer answers passes it.
    breaker: Breaker,
}

impl Provider {
    pub(super) fn new(options: &LoginOptions) -> Result<Self> {
        DocumentClient::check(&options.issuer.url).map_err(|e| e.with_context("key", "url"))?;
        if let Some(path) = &options.client_secret_file {
            read_secret(path)?;
        }
        let roots =
            options.issuer.authorities.iter().map(|path| read_authorities(path)).collect::<Result<_>>()?;
        // As other programs read them.
        let proxies = Proxies::from_variables(|name| std::env::var(name).ok());
        Ok(Self {
            client: DocumentClient::new(&DocumentOptions { roots, proxies, ..DocumentOptions::default() })?,
            url: options.issuer.url.clone(),
            client_id: options.client_id.clone(),
            secret: options.client_secret_file.clone(),
            known: tokio::sync::Mutex::default(),
            breaker: Breaker::new(
                "issuer",
                BreakerOptions {
                    // What is known stays so for a while, and somebody waits.
                    failures: 1,
                    failing_for: Duration::ZERO,
                    first_pause: PAUSE,
                    longest_pause: LONGEST_PAUSE,
                },
            ),
        })
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Where the issuer answers. One request asks it at a time.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it does not say so.
    pub(super) async fn endpoints(&self) -> Result<Arc<Endpoints>> {
        let mut known = self.known.lock().await;
        if let Some((at, endpoints)) = &*known
            && at.elapsed() < FRESH
        {
            return Ok(endpoints.clone());
        }
        let attempt = self.breaker.enter()?;
        match self.discover().await {
            Ok(found) => {
                attempt.answered();
                let endpoints = Arc::new(found);
                *known = Some((Instant::now(), endpoints.clone()));
                Ok(endpoints)
            }
            Err(e) => {
                attempt.failed(&e);
                Err(e.with_kind(ErrorKind::Unavailable))
            }
        }
    }

    async fn discover(&self) -> Result<Endpoints> {
        let url = format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/'));
        let document = self.client.get(&url).await?;
        let found: Document = serde_json::from_slice(&document.bytes).map_err(|_| {
            Error::invalid("the document does not say where people log in").with_context("url", &url)
        })?;
        if found.issuer != self.url {
            return Err(Error::invalid("the document is that of another issuer")
                .with_context("url", url)
                .with_context("found", found.issuer.escape_debug()));
        }
        for endpoint in [&found.authorization_endpoint, &found.token_endpoint] {
            DocumentClient::check(endpoint)?;
            // An issuer elsewhere answers not on this machine.
            if self.url.starts_with("https:") && !endpoint.starts_with("https:") {
                return Err(Error::invalid(
                    "the document of an issuer with https names an endpoint without it",
                )
                .with_context("url", url));
            }
        }
        // Basic is the default (section 3 of the specification).
        let methods = found.token_endpoint_auth_methods_supported;
        let has = |name: &str| methods.as_ref().is_some_and(|methods| methods.iter().any(|one| one == name));
        Ok(Endpoints {
            authorization: found.authorization_endpoint,
            token: found.token_endpoint,
            by_form: has("client_secret_post") && !has("client_secret_basic"),
            names_itself: found.authorization_response_iss_parameter_supported,
        })
    }

    /// Exchanges a code for an ID token (RFC 6749, section 4.1.3).
    ///
    /// # Errors
    /// [`Failure::Issuer`] with what the issuer says, and [`Failure::Failed`] when it does not answer.
    pub(super) async fn exchange(
        &self,
        endpoints: &Endpoints,
        code: &str,
        verifier: &str,
        redirect: &str,
    ) -> std::result::Result<String, Failure> {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let secret = match self.secret.clone() {
            Some(path) => {
                let read = tokio::task::spawn_blocking(move || read_secret(&path)).await;
                Some(read.map_err(|e| Error::internal("reading a secret was interrupted").with_source(e))??)
            }
            None => None,
        };
        let authorization = match &secret {
            Some(secret) if !endpoints.by_form => {
                // RFC 6749, section 2.3.1: both are encoded as in a form first.
                let pair = format!("{}:{}", encoded(&self.client_id), encoded(secret.expose()));
                Some(Secret::from(format!("Basic {}", STANDARD.encode(pair))))
            }
            Some(secret) => {
                form.extend([("client_id", self.client_id.as_str()), ("client_secret", secret.expose())]);
                None
            }
            None => {
                form.push(("client_id", &self.client_id));
                None
            }
        };
        let form = Secret::from(query(&form));
        let answer = self.client.post_form(&endpoints.token, &form, authorization.as_ref()).await?;
        if answer.status == 200 {
            #[derive(Deserialize)]
            struct Tokens {
                id_token: String,
            }
            return serde_json::from_slice::<Tokens>(&answer.bytes).map(|tokens| tokens.id_token).map_err(
                |_| {
                    Error::new(
                        ErrorKind::Unavailable,
                        "the issuer gives no ID token: is `openid` among its scopes?",
                    )
                    .into()
                },
            );
        }
        #[derive(Default, Deserialize)]
        struct Refusal {
            error: String,
            #[serde(default)]
            error_description: String,
        }
        match serde_json::from_slice::<Refusal>(&answer.bytes) {
            Ok(refusal) if (400..500).contains(&answer.status) => {
                Err(Failure::Issuer(refusal.error, refusal.error_description))
            }
            // Whatever stands before it.
            _ if (400..500).contains(&answer.status) => {
                Err(Failure::Issuer(format!("status {}", answer.status), String::new()))
            }
            _ => Err(Error::new(ErrorKind::Unavailable, "the issuer does not exchange the code")
                .with_context("status", answer.status)
                .into()),
        }
    }
}

/// Pairs in the form of a query.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect::<Vec<_>>().join("&")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn read_secret(path: &Path) -> Result<Secret> {
    let text = small_file::read_text(path, "the secret of the client", MAX_SECRET, Kinds::Files)?;
    match text.lines().next().unwrap_or_default() {
        "" => Err(Error::invalid("the file of the secret of the client is empty")
            .with_context("path", path.display())),
        secret => Ok(secret.into()),
    }
}
