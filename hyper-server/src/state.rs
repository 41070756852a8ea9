//! The state that all requests of a registry share.

use crate::auth::{
    AnonymousOnly, Authenticator, Authorizer, ClientCertificates, Directory, Issuers, LoginOptions,
    LoginParts, Logins, PasswordOptions, Passwords,
};
use crate::connection::Connections;
use crate::dependencies::Dependencies;
use crate::event_waiters::EventWaiters;
use crate::metrics::Metrics;
use crate::options::RegistryOptions;
use crate::readiness::Readiness;
use crate::reloads::Reloads;
use crate::request_id::RequestIds;
use crate::throttle::Throttle;
use crate::tls::Tls;
use crate::trace::{SpanCounts, Tracer};
use crate::webhook::{Source, Webhook, Webhooks};
use hyper_sdk::store::wrap::Cached;
use hyper_sdk::store::{PullNotes, QuotaRules, SharedStore};
use hyper_sdk::{Error, Result};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{Notify, Semaphore};

/// The store, the options and everything that lives as long as the registry.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: SharedStore,
    pub(crate) options: RegistryOptions,
    /// The same store, as the cache that it is.
    pub(crate) cache: Cached,
    /// The pulls that wait to be noted; `None` when the store is not written.
    pub(crate) pulls: Option<PullNotes>,
    pub(crate) metrics: Metrics,
    pub(crate) connections: Connections,
    pub(crate) readiness: Readiness,
    /// What is needed elsewhere.
    pub(crate) dependencies: Dependencies,
    /// Which files could not be read again.
    pub(crate) reloads: Reloads,
    /// The TLS whose state the metrics show.
    pub(crate) tls: OnceLock<Tls>,
    pub(crate) request_ids: RequestIds,
    /// Begins the spans of requests.
    pub(crate) tracer: Option<Tracer>,
    /// What became of them.
    pub(crate) spans: OnceLock<Arc<SpanCounts>>,
    /// The limits by client.
    pub(crate) throttle: Arc<Throttle>,
    /// The right to look at a blob again that a reader found damaged.
    pub(crate) suspects: Arc<Semaphore>,
    /// The places of requests that wait for an event.
    pub(crate) event_waiters: EventWaiters,
    /// Whether the maintenance task was started.
    pub(crate) has_maintenance: AtomicBool,
    /// The webhooks, which are told of events.
    pub(crate) webhooks: Webhooks,
    /// The quotas that the store has of this registry.
    quotas: Mutex<Arc<QuotaRules>>,
    /// Wakes the task that counts what they limit.
    pub(crate) changed_quotas: Arc<Notify>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    /// The issuer of tokens, when the registry uses its own authenticator.
    pub(crate) tokens: Option<Arc<Passwords>>,
    /// Logins in a browser.
    pub(crate) logins: Option<Arc<Logins>>,
}

impl State {
    /// Gives the store these quotas. What cannot be written needs none.
    pub(crate) fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        let mut now = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = !rules.is_empty() || !now.is_empty();
        if is_asked && !self.options.read_only && self.store.capabilities().write {
            self.store.set_quotas(rules.clone())?;
        }
        *now = rules;
        self.changed_quotas.notify_one();
        Ok(())
    }

    /// Keeps what is deleted, as the options say.
    pub(crate) fn keep_deleted(&self) -> Result<()> {
        let window = self.options.undelete_window;
        match self.options.read_only || !self.store.capabilities().write {
            true => Ok(()),
            false => self.store.set_undelete_window(window),
        }
    }

    /// Begins to record events, as the options say.
    pub(crate) fn record_events(&self) -> Result<()> {
        let Some(events) = self.options.events else { return Ok(()) };
        if self.options.read_only || !self.store.capabilities().write {
            return Ok(());
        }
        match self.store.event_log() {
            Some(log) => log.record(Some(events.rules)),
            None => return Err(Error::unsupported("the store cannot record events")),
        }
        Ok(())
    }

    /// Tells these webhooks of events from now on, and no others. Those that are the same go on. What cannot be written tells nobody.
    pub(crate) fn set_webhooks(&self, webhooks: Vec<Webhook>) -> Result<()> {
        if self.options.read_only || !self.store.capabilities().write {
            return Ok(());
        }
        let log = match (&self.options.events, self.store.event_log()) {
            (Some(_), Some(log)) => log,
            _ if webhooks.is_empty() => return Ok(()),
            _ => {
                return Err(Error::invalid(
                    "webhooks need events, which this registry does not record: enable events and start it again",
                ));
            }
        };
        let prefix = self.options.path_prefix.as_ref().map(ToString::to_string).unwrap_or_default();
        let url =
            self.options.public_url.as_ref().map(|url| format!("{}{prefix}", url.trim_end_matches('/')));
        self.webhooks.set(webhooks, &log, &Source { reference: self.options.event_source(), url })
    }

    /// The quotas of now.
    pub(crate) fn quotas(&self) -> Arc<QuotaRules> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state of a registry on `store`. Opens the files that the options name.
    ///
    /// # Errors
    /// Those of [`crate::Registry::new`].
    pub(crate) fn new(store: SharedStore, options: RegistryOptions) -> Result<Self> {
        let cache = Cached::new(store, options.cache.clone());
        let store: SharedStore = Arc::new(cache.clone());
        let authorizer = options.effective_authorizer();
        let throttle = Throttle::new(&options.throttling);
        let issuers = Issuers::new(&options.issuers)?;
        let directory = options.ldap.as_ref().map(|ldap| Directory::new(ldap, throttle.guesses().clone()));
        let directory = directory.transpose()?;
        let has_login = options.login.is_some();
        if options.api_tokens.is_some() && options.htpasswd.is_none() && directory.is_none() && !has_login {
            return Err(Error::invalid(
                "API tokens (`api_tokens`) need a file of users (`htpasswd`), a directory (`ldap`) or logins (`login`)",
            ));
        }
        if options.login.as_ref().is_some_and(|login| issuers.has_other(&login.issuer)) {
            return Err(Error::invalid(
                "two issuers have the same name: that of `login` and one of `issuers`",
            ));
        }
        let has_users = options.htpasswd.is_some() || directory.is_some() || !options.issuers.is_empty();
        let tokens = match has_users || has_login {
            true if options.authenticator.is_some() => {
                return Err(Error::invalid(
                    "a registry has an `authenticator`, or a file of users (`htpasswd`), a directory (`ldap`), `issuers` and `login`, not both",
                ));
            }
            true => Some(Arc::new(Passwords::open(PasswordOptions {
                htpasswd: options.htpasswd.as_deref(),
                directory,
                issuers,
                login: options.login.as_ref(),
                realm: &options.realm,
                token_key: options.token_key.as_deref(),
                token_secret: options.token_secret.as_ref(),
                token_keys: options.token_keys.as_ref(),
                refresh: options.refresh_tokens,
                api_tokens: options.api_tokens.clone().map(|tokens| (tokens, !options.read_only)),
                public_url: options.public_url.as_deref(),
                path_prefix: options.path_prefix.as_ref(),
                trusted_proxies: options.trusted_proxies.as_deref(),
                authorizer: authorizer.clone(),
                guesses: throttle.guesses().clone(),
                clock: options.clock.clone(),
            })?)),
            false => None,
        };
        let logins = match (&options.login, &tokens) {
            (Some(login), Some(passwords)) => {
                Some(Arc::new(self::logins(login, &options, passwords, &throttle)?))
            }
            _ => None,
        };
        let of_issuers = tokens.iter().flat_map(|tokens| tokens.issuers().breakers());
        let of_issuers = of_issuers.chain(logins.iter().flat_map(|logins| logins.breakers())).cloned();
        let dependencies = Dependencies::new(store.breakers().into_iter().chain(of_issuers).collect());
        let authenticator: Arc<dyn Authenticator> = match (&options.authenticator, &tokens) {
            (Some(own), _) => own.clone(),
            (None, Some(passwords)) => passwords.clone(),
            (None, None) => Arc::new(AnonymousOnly),
        };
        let authenticator = match options.client_certificates {
            true => {
                let others_know_users = options.authenticator.is_some() || tokens.is_some();
                Arc::new(ClientCertificates { others: authenticator, others_know_users })
            }
            false => authenticator,
        };
        let is_written = !options.read_only && store.capabilities().write;
        Ok(Self {
            pulls: is_written.then(PullNotes::default),
            authenticator,
            authorizer,
            tokens,
            logins,
            readiness: Readiness::default(),
            dependencies,
            reloads: Reloads::default(),
            tls: OnceLock::new(),
            tracer: options.traces.map(Tracer::new),
            spans: OnceLock::new(),
            request_ids: RequestIds::new()?,
            throttle,
            suspects: Arc::new(Semaphore::new(1)),
            event_waiters: EventWaiters::default(),
            has_maintenance: AtomicBool::new(false),
            quotas: Mutex::default(),
            webhooks: Webhooks::default(),
            changed_quotas: Arc::default(),
            cache,
            metrics: Metrics::default(),
            connections: Connections::default(),
            store,
            options,
        })
    }
}

/// Logins in a browser, of the users whom `passwords` knows.
fn logins(
    login: &LoginOptions,
    options: &RegistryOptions,
    passwords: &Arc<Passwords>,
    throttle: &Throttle,
) -> Result<Logins> {
    let tokens = options.api_tokens.clone().ok_or_else(|| {
        Error::invalid("logins in a browser (`login`) need a store of API tokens (`api_tokens`)")
    })?;
    let parts = LoginParts {
        root: options.root().unwrap_or_default(),
        service: passwords.service().to_owned(),
        keys: passwords.clone(),
        tokens,
        guesses: throttle.guesses().clone(),
        clock: options.clock.clone(),
    };
    Logins::new(login, parts)
}
