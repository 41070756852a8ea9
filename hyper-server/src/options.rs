//! The options of a registry.

use crate::audit::AuditLog;
use crate::auth::{
    AnonymousAccess, Authenticator, Authorizer, IssuerOptions, LdapOptions, LoginOptions, TokenKeys,
};
use crate::cors::Cors;
use crate::path_prefix::PathPrefix;
use crate::proxies::TrustedProxy;
use crate::throttle::Throttling;
use crate::trace::TraceOptions;
use crate::webhook::Webhook;
use hyper_sdk::Secret;
use hyper_sdk::clock::{SharedClock, SystemClock};
use hyper_sdk::store::meta::TokenStore;
use hyper_sdk::store::wrap::CacheOptions;
use hyper_sdk::store::{
    CollectOptions, EventLimits, EventRules, QuotaRules, RetainOptions, RetentionObserver, RetentionRules,
    RetentionTurn, ScrubObserver, ScrubOptions, ScrubTurn,
};
use hyper_sdk::{RepositoryName, Tag};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How large requests may be.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest manifest, in bytes. The specification wants at least 4 MiB.
    pub manifest_bytes: usize,
    /// The largest blob, in bytes.
    pub blob_bytes: Option<u64>,
    /// The most tags that one request may give a manifest.
    pub tags_per_request: usize,
    /// The most entries of a list in one response.
    pub page_entries: usize,
    /// The longest time without bytes of a request body.
    pub body_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: (4 << 20) + (128 << 10),
            blob_bytes: None,
            tags_per_request: 100,
            page_entries: 10_000,
            body_idle: Duration::from_secs(60),
        }
    }
}

/// When a registry removes what nothing keeps: blobs that no manifest of their repository references, a day after a client
/// pushed or mounted them or was told that they are there; and manifests without a tag, if that is asked for. Clients and
/// other servers of the store go on meanwhile.
///
/// It runs on the runtime of the registry from the first request on, or from [`crate::Registry::new`] on when that is called
/// on a runtime, and ends with the registry. A registry that is read-only removes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GarbageCollection {
    /// The time from the end of a collection to the next one.
    pub every: Duration,
    /// Removes manifests that were pushed at least this long ago and that no tag, no index and no subject keeps; `None`
    /// keeps them until they are deleted.
    pub untagged_after: Option<Duration>,
}

impl GarbageCollection {
    /// What a collection at this time, in seconds since 1970, removes.
    pub(crate) fn options(&self, now: i64) -> CollectOptions {
        let age = |age: Duration| i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let untagged_until = self.untagged_after.map(|after| now.saturating_sub(age(after)));
        CollectOptions { untagged_until, ..CollectOptions::default() }
    }
}

/// When a registry deletes old tags, and by which rules. Immutable tags stay ([`Authorizer::keeps_tag`]). Images that lose
/// their last tag stay until a [`GarbageCollection`] removes them, if it does.
///
/// It runs as a collection of garbage does ([`GarbageCollection`]), but one server of a store does it at a time, and a server that
/// starts when a run is due begins it within a minute. A registry that is read-only deletes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The time from the end of a run to the next one, of this or another server of the store.
    pub every: Duration,
    /// The rules.
    pub rules: Arc<RetentionRules>,
}

impl Retention {
    /// What a run does.
    pub(crate) fn options(
        rules: Arc<RetentionRules>,
        authorizer: Arc<dyn Authorizer>,
        turn: Option<RetentionTurn>,
        observer: RetentionObserver,
    ) -> RetainOptions {
        let keeps = move |repository: &RepositoryName, tag: &Tag| authorizer.keeps_tag(repository, tag);
        RetainOptions {
            turn,
            protection: Some(Arc::new(keeps)),
            observer: Some(observer),
            ..RetainOptions::new(rules)
        }
    }
}

/// What a registry records of its changes, and how long that is kept. It is recorded in the transaction of each change, by this
/// process; other servers of the store have options of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// What is recorded.
    pub rules: EventRules,
    /// What is kept.
    pub limits: EventLimits,
}

/// When a registry reads all of its blobs again, to find damaged ones before somebody needs them. Such a blob counts as missing
/// until it is pushed again. One server of a store does it at a time, and another goes on where it stopped.
///
/// It runs as a collection of garbage does ([`GarbageCollection`]). A registry that is read-only reads nothing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// The time from the end of a round to the next one.
    pub every: Duration,
    /// How many bytes are read in a second; a blob counts as 64 KiB at least.
    pub rate: u64,
}

impl Scrub {
    pub(crate) fn options(&self, turn: ScrubTurn, observer: ScrubObserver) -> ScrubOptions {
        let (rate, turn, observer) = (Some(self.rate), Some(turn), Some(observer));
        ScrubOptions { rate, quarantine: true, turn, observer }
    }
}

/// How a registry behaves.
///
/// ```
/// use hyper_server::RegistryOptions;
/// use hyper_server::auth::AnonymousAccess;
///
/// // Everybody pulls, and the users of the file push.
/// let options = RegistryOptions {
///     htpasswd: Some("/etc/registry/htpasswd".into()),
///     anonymous: Some(AnonymousAccess::Pull),
///     ..RegistryOptions::default()
/// };
/// ```
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Refuses everything that writes.
    pub read_only: bool,
    /// Accepts manifests whose blobs or manifests are missing. Clients may then fail to pull them.
    pub sparse: bool,
    /// The users: an htpasswd file with bcrypt or argon2 hashes.
    pub htpasswd: Option<PathBuf>,
    /// A directory (LDAP) whose users may log in, beside `htpasswd`: a name that the file has is that of its user alone.
    pub ldap: Option<LdapOptions>,
    /// API tokens of the users of `htpasswd` and `ldap`, which machines use in place of a password.
    pub api_tokens: Option<Arc<dyn TokenStore>>,
    /// Other issuers whose tokens are accepted, beside `htpasswd`: of CI systems, clusters, or a company.
    pub issuers: Vec<IssuerOptions>,
    /// An issuer at which people log in with a browser, at `/login`. They get a token that is kept in the store of `api_tokens`, which
    /// is needed for it, as is `public_url`.
    pub login: Option<LoginOptions>,
    /// Authenticates requests, instead of `htpasswd`, `ldap`, `issuers` and `login`.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Takes users from the certificates of clients ([`crate::ClientCertificate`]), beside `htpasswd` or `authenticator`.
    pub client_certificates: bool,
    /// What callers without credentials may do; `None` means nothing when there are users or an authenticator, else
    /// everything.
    pub anonymous: Option<AnonymousAccess>,
    /// Authorizes requests, instead of `anonymous`.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// The realm that clients show when they ask for a password, and the service of the tokens.
    pub realm: String,
    /// The file with the key of tokens, created when it does not exist; `None` makes a new key for this process.
    pub token_key: Option<PathBuf>,
    /// The key of tokens itself, instead of `token_key`: the same for all servers of a registry that share no folder.
    pub token_secret: Option<Secret>,
    /// Keys whose public part others may have, instead of both: other registries can then accept the tokens.
    pub token_keys: Option<TokenKeys>,
    /// How long a refresh token is valid without use: a client that logs in with a password and asks for one stores it in place of
    /// the password. They are in the store of `api_tokens`; `None`, or no such store, gives none.
    pub refresh_tokens: Option<Duration>,
    /// The URL at which clients reach the server; `None` takes it from each request.
    pub public_url: Option<String>,
    /// The path under which the registry answers; `None` is the root of the host, where clients look for a registry. A proxy
    /// must then translate between `/v2/` and `PREFIX/v2/`, or clients must name the path.
    pub path_prefix: Option<PathPrefix>,
    /// The pages of other origins that may talk to the registry in a browser; `None` allows none.
    pub cors: Option<Cors>,
    /// The proxies whose headers are believed: the address of the client in the log (`X-Forwarded-For`), and the scheme and
    /// the host where `public_url` does not say them. `None` believes nobody about the address, and everybody about scheme
    /// and host, which affects only the sender's own response.
    pub trusted_proxies: Option<Vec<TrustedProxy>>,
    /// The age at which an idle upload is removed; `None` keeps all. The registry removes such uploads regularly, from
    /// its first request on, or from [`crate::Registry::new`] on when that is called on a tokio runtime.
    pub upload_max_age: Option<Duration>,
    /// Removes what nothing keeps, regularly; `None` leaves that to others, such as a builder that has the same store. See
    /// [`GarbageCollection`] for what that is.
    pub garbage_collection: Option<GarbageCollection>,
    /// Deletes old tags, regularly; `None` keeps all.
    pub retention: Option<Retention>,
    /// For how long what is deleted, also by retention, and what moved tags have named can be undeleted; zero is not at all. Garbage
    /// collection keeps it so long. It is set for the whole store, for everybody who uses it in this process. A store that cannot
    /// undo deletions is refused.
    pub undelete_window: Duration,
    /// How much namespaces may have. They are set for the whole store, for everybody who uses it in this process, and other servers
    /// of the store have rules of their own. A store that cannot enforce them is refused. A registry that is read-only needs none.
    pub quotas: Arc<QuotaRules>,
    /// Records what changes, for readers of events and for webhooks; `None` records nothing. A store without a log of events is
    /// refused. A registry that is read-only records nothing.
    pub events: Option<Events>,
    /// Who is told of events; they need `events`. Their tasks run from [`crate::Registry::new`] on when that is called on a tokio
    /// runtime, or else from the first request on. A registry that is read-only tells nobody.
    pub webhooks: Vec<Webhook>,
    /// Reads all blobs again, regularly; `None` leaves that to others.
    pub scrub: Option<Scrub>,
    /// Checks each whole blob while it is sent: when it is damaged, the client does not get its end. Parts of a blob are not checked.
    pub verify_reads: bool,
    /// Limits.
    pub limits: Limits,
    /// How often clients may send requests, and how many at once.
    pub throttling: Throttling,
    /// The cache in memory.
    pub cache: CacheOptions,
    /// Serves `/metrics`.
    pub metrics: bool,
    /// Serves `/metrics` only to callers with credentials.
    pub metrics_for_users: bool,
    /// Writes a line for each request to the log, at the level `info`.
    pub access_log: bool,
    /// Writes a line for each change; `None` writes none.
    pub audit: Option<AuditLog>,
    /// Which requests get a span for traces; `None` gives none.
    pub traces: Option<TraceOptions>,
    /// The clock by which tokens are issued and expire.
    pub clock: SharedClock,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            sparse: false,
            htpasswd: None,
            ldap: None,
            api_tokens: None,
            issuers: Vec::new(),
            login: None,
            authenticator: None,
            client_certificates: false,
            anonymous: None,
            authorizer: None,
            realm: "hyperregistry".to_owned(),
            token_key: None,
            token_secret: None,
            token_keys: None,
            refresh_tokens: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            public_url: None,
            path_prefix: None,
            cors: None,
            trusted_proxies: None,
            upload_max_age: Some(Duration::from_secs(24 * 60 * 60)),
            garbage_collection: None,
            retention: None,
            undelete_window: Duration::ZERO,
            quotas: Arc::default(),
            events: None,
            webhooks: Vec::new(),
            scrub: None,
            verify_reads: false,
            limits: Limits::default(),
            throttling: Throttling::default(),
            cache: CacheOptions::default(),
            metrics: true,
            metrics_for_users: false,
            access_log: true,
            audit: None,
            traces: None,
            clock: Arc::new(SystemClock),
        }
    }
}

impl RegistryOptions {
    /// How events refer to the registry: the URL at which clients reach it, if that is known.
    pub(crate) fn event_source(&self) -> String {
        let prefix = self.path_prefix.as_ref().map(ToString::to_string).unwrap_or_default();
        match &self.public_url {
            Some(url) => format!("{}{prefix}/v2/", url.trim_end_matches('/')),
            None => format!("{prefix}/v2/"),
        }
    }

    /// The URL at which clients reach the registry, with the path before `/v2/`, if it is known.
    pub(crate) fn root(&self) -> Option<String> {
        let prefix = self.path_prefix.as_ref().map(ToString::to_string).unwrap_or_default();
        self.public_url.as_ref().map(|url| format!("{}{prefix}", url.trim_end_matches('/')))
    }

    /// What decides who may do what.
    pub(crate) fn effective_authorizer(&self) -> Arc<dyn Authorizer> {
        let has_tokens = self.htpasswd.is_some()
            || self.ldap.is_some()
            || self.login.is_some()
            || !self.issuers.is_empty();
        let is_closed = has_tokens || self.authenticator.is_some() || self.client_certificates;
        let anonymous = self.anonymous.unwrap_or(match is_closed {
            true => AnonymousAccess::None,
            false => AnonymousAccess::Full,
        });
        self.authorizer.clone().unwrap_or_else(|| Arc::new(anonymous))
    }
}
