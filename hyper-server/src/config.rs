//! The configuration of the program: defaults, a TOML file, variables of the environment, then flags, each of which
//! overrides the one before.
//!
//! [`REFERENCE`] is the whole file with its defaults; a test compares it with the code. `config_source` reads the file
//! and the environment.

use crate::auth::AnonymousAccess;
use crate::auth_config::AuthConfig;
use crate::blob_place::BlobPlace;
use crate::config_shapes::{AllowanceShape, LogFormatShape, OneOrMore, WrongPasswordsShape};
use crate::cors_config::CorsConfig;
use crate::database::DatabaseConfig;
use crate::event_config::EventsConfig;
use crate::issuer_config;
use crate::listen_on::{ListenOn, one_or_more};
use crate::otlp_config::OtlpConfig;
use crate::path_prefix::PathPrefix;
use crate::policy_command::Known;
use crate::proxies::TrustedProxy;
use crate::quota_config::{self, QuotaConfig};
use crate::retention_config::RetentionConfig;
use crate::throttle::{Allowance, Throttling, WrongPasswords};
use crate::tls_config::TlsConfig;
use crate::undelete_config::UndeleteConfig;
use crate::units::{Size, SocketMode, TimeSpan, optional_text, text};
use crate::webhook_config::{self, WebhookConfig};
use crate::{CacheOptions, GarbageCollection, Limits, RegistryOptions, Scrub, ServerOptions};
use hyper_sdk::clock::SystemClock;
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A configuration file with every key at its default. A key without a default is commented out.
pub(crate) const REFERENCE: &str = include_str!("config_reference.toml");

/// The whole configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// Where to listen.
    #[serde(deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    pub(crate) listen: Vec<ListenOn>,
    /// The mode of sockets of the file system.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "String")]
    pub(crate) socket_mode: SocketMode,
    /// The URL at which clients reach the server.
    pub(crate) public_url: Option<String>,
    /// The path under which the registry answers.
    #[schemars(with = "String")]
    pub(crate) path_prefix: Option<PathPrefix>,
    /// The proxies whose headers are believed.
    #[schemars(with = "Vec<String>")]
    pub(crate) trusted_proxies: Option<Vec<TrustedProxy>>,
    /// The folder of the store.
    pub(crate) data: PathBuf,
    /// The bucket of the blobs, when they are not in the folder.
    #[serde(deserialize_with = "optional_text")]
    #[schemars(with = "String")]
    pub(crate) blobs: Option<BlobPlace>,
    /// Refuses everything that writes.
    pub(crate) read_only: bool,
    /// Accepts manifests whose blobs or manifests are missing.
    pub(crate) sparse: bool,
    /// Where the metadata are.
    pub(crate) database: DatabaseConfig,
    /// Users and rights.
    pub(crate) auth: AuthConfig,
    /// TLS.
    pub(crate) tls: TlsConfig,
    /// Limits.
    pub(crate) limits: LimitsConfig,
    /// Garbage collection.
    pub(crate) gc: GcConfig,
    /// Deletion of old tags.
    pub(crate) retention: RetentionConfig,
    /// Undoing of deletions.
    pub(crate) undelete: UndeleteConfig,
    /// How much namespaces may have.
    pub(crate) quota: Vec<QuotaConfig>,
    /// The events of changes.
    pub(crate) events: EventsConfig,
    /// Who is told of events.
    pub(crate) webhook: Vec<WebhookConfig>,
    /// Reading of blobs to find damage.
    pub(crate) scrub: ScrubConfig,
    /// The cache in memory.
    pub(crate) cache: CacheConfig,
    /// Pages of other origins.
    pub(crate) cors: CorsConfig,
    /// The log.
    pub(crate) log: LogConfig,
    /// The metrics.
    pub(crate) metrics: MetricsConfig,
    /// The collector of traces.
    pub(crate) otlp: OtlpConfig,
}

/// Limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LimitsConfig {
    /// The largest manifest.
    pub(crate) manifest: Size,
    /// The largest blob.
    pub(crate) blob: Option<Size>,
    /// The most tags of one push.
    pub(crate) tags_per_request: usize,
    /// The most entries of a list in one response.
    #[schemars(range(min = 1))]
    pub(crate) page: usize,
    /// The most connections.
    #[schemars(range(min = 1))]
    pub(crate) connections: usize,
    /// The time for a handshake of TLS.
    pub(crate) handshake_timeout: TimeSpan,
    /// The time for the head of a request.
    pub(crate) header_timeout: TimeSpan,
    /// The longest time without bytes of a request body.
    pub(crate) body_timeout: TimeSpan,
    /// The longest time without progress of a response.
    pub(crate) write_timeout: TimeSpan,
    /// The time for requests in flight when the server stops.
    pub(crate) drain_timeout: TimeSpan,
    /// The age at which an idle upload is removed; 0 keeps all.
    pub(crate) upload_max_age: TimeSpan,
    /// The memory of all uploads to a bucket together.
    pub(crate) upload_memory: Option<Size>,
    /// What one address may do.
    #[schemars(with = "AllowanceShape")]
    pub(crate) address: Allowance,
    /// What one address may do without credentials.
    #[schemars(with = "AllowanceShape")]
    pub(crate) anonymous: Allowance,
    /// What one user may do.
    #[schemars(with = "AllowanceShape")]
    pub(crate) user: Allowance,
    /// How often passwords may be wrong.
    #[schemars(with = "WrongPasswordsShape")]
    pub(crate) wrong_passwords: WrongPasswords,
}

/// Garbage collection.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct GcConfig {
    /// The time between collections; 0 means that there are none.
    pub(crate) every: TimeSpan,
    /// The age at which manifests without a tag are removed.
    pub(crate) untagged_after: Option<TimeSpan>,
}

/// Reading of blobs to find damage.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ScrubConfig {
    /// The time between rounds; 0 means that there are none.
    pub(crate) every: TimeSpan,
    /// How many bytes are read in a second.
    pub(crate) rate: Size,
    /// Checks whole blobs while they are sent.
    pub(crate) verify_reads: bool,
}

/// The cache in memory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CacheConfig {
    /// The memory that it may use.
    pub(crate) memory: Size,
    /// The largest blob that is cached.
    pub(crate) blob: Size,
}

/// The log.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LogConfig {
    /// Text for people or JSON for programs.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "LogFormatShape")]
    pub(crate) format: LogFormat,
    /// What is logged: a level or a filter.
    pub(crate) level: String,
    /// A line for each request.
    pub(crate) access: bool,
    /// The file with a line for each change.
    pub(crate) audit: Option<PathBuf>,
}

/// The metrics.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MetricsConfig {
    /// Serves `/metrics`.
    pub(crate) enabled: bool,
    /// Serves `/metrics` only to users.
    pub(crate) users_only: bool,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::invalid(format!("invalid log format `{}`: use text or json", s.escape_debug()))),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![ListenOn::Address {
                tls: None,
                address: SocketAddr::from(([127, 0, 0, 1], 5000)).into(),
            }],
            socket_mode: SocketMode(0o600),
            public_url: None,
            path_prefix: None,
            trusted_proxies: None,
            data: PathBuf::from("hyperregistry-data"),
            blobs: None,
            read_only: false,
            sparse: false,
            database: DatabaseConfig::default(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            limits: LimitsConfig::default(),
            gc: GcConfig::default(),
            retention: RetentionConfig::default(),
            undelete: UndeleteConfig::default(),
            quota: Vec::new(),
            events: EventsConfig::default(),
            webhook: Vec::new(),
            scrub: ScrubConfig::default(),
            cache: CacheConfig::default(),
            cors: CorsConfig::default(),
            log: LogConfig::default(),
            metrics: MetricsConfig::default(),
            otlp: OtlpConfig::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let (limits, server) = (Limits::default(), ServerOptions::default());
        Self {
            manifest: Size(limits.manifest_bytes as u64),
            blob: limits.blob_bytes.map(Size),
            tags_per_request: limits.tags_per_request,
            page: limits.page_entries,
            connections: server.max_connections,
            handshake_timeout: TimeSpan(server.handshake_timeout),
            header_timeout: TimeSpan(server.header_timeout),
            body_timeout: TimeSpan(limits.body_idle),
            write_timeout: TimeSpan(server.write_timeout),
            drain_timeout: TimeSpan(server.drain_timeout),
            upload_max_age: TimeSpan(RegistryOptions::default().upload_max_age.unwrap_or_default()),
            upload_memory: None,
            address: Allowance::default(),
            anonymous: Allowance::default(),
            user: Allowance::default(),
            wrong_passwords: WrongPasswords::default(),
        }
    }
}

impl Default for GcConfig {
    fn default() -> Self {
        Self { every: TimeSpan(Duration::from_secs(60 * 60)), untagged_after: None }
    }
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            every: TimeSpan(Duration::from_secs(30 * 24 * 60 * 60)),
            rate: Size(8 << 20),
            verify_reads: false,
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        let cache = CacheOptions::default();
        Self { memory: Size(cache.bytes as u64), blob: Size(cache.blob_bytes) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned(), access: true, audit: None }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { enabled: true, users_only: false }
    }
}

impl Config {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self) -> Result<()> {
        let limits = &self.limits;
        if self.data.as_os_str().is_empty() {
            return Err(Error::invalid("the configuration key `data` must name a folder"));
        }
        self.database.check()?;
        if self.metrics.users_only && !self.has_users() {
            return Err(Error::invalid(
                "the configuration key `metrics.users-only` needs users: set `auth.htpasswd`, `auth.ldap`, `auth.login`, `auth.issuer` or `tls.client-ca` too",
            ));
        }
        if self.auth.policy.is_some() && self.auth.anonymous.is_some() {
            return Err(Error::invalid(
                "the configuration keys `auth.policy` and `auth.anonymous` exclude each other: the policy says what \
                 `anonymous` may do",
            ));
        }
        if self.listen.is_empty() {
            return Err(Error::invalid("the configuration key `listen` must have an address"));
        }
        self.tls.check(&self.listen)?;
        self.cors.cors()?;
        self.retention.rules()?;
        self.auth.check()?;
        quota_config::rules(&self.quota)?;
        self.events.check()?;
        self.otlp.check()?;
        webhook_config::check(&self.webhook, self.events.blobs)?;
        if let Some(url) = &self.public_url
            && !is_root(url)
        {
            return Err(Error::invalid(
                "the configuration key `public-url` must be http:// or https:// with a host, and no path: `path-prefix` is for that",
            ));
        }
        for (key, is_zero) in [
            ("limits.manifest", limits.manifest.0 == 0),
            ("limits.page", limits.page == 0),
            ("limits.connections", limits.connections == 0),
            ("limits.handshake-timeout", limits.handshake_timeout.0.is_zero()),
            ("limits.header-timeout", limits.header_timeout.0.is_zero()),
            ("limits.body-timeout", limits.body_timeout.0.is_zero()),
            ("limits.write-timeout", limits.write_timeout.0.is_zero()),
        ] {
            if is_zero {
                return Err(Error::invalid(format!("the configuration key `{key}` must not be 0")));
            }
        }
        if self.scrub.rate.0 < 64 << 10 {
            return Err(Error::invalid("the configuration key `scrub.rate` must be at least 64KiB"));
        }
        if usize::try_from(limits.manifest.0).is_err() || limits.manifest.0 > 1 << 30 {
            return Err(Error::invalid("the configuration key `limits.manifest` is above 1GiB"));
        }
        Ok(())
    }

    /// Whether anybody can log in.
    pub(crate) fn has_users(&self) -> bool {
        self.tls.client_ca.is_some() || self.auth.has_users()
    }

    /// What is known of those who log in.
    pub(crate) fn knows(&self) -> Known {
        Known {
            users: self.has_users(),
            claims: self.auth.has_claims(),
            groups: self.auth.ldap.has_groups(),
            strangers: issuer_config::lets_in_everybody(&self.auth.issuer),
        }
    }

    /// Warnings about settings that are valid and probably a mistake.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let nobody = |may: &str| {
            format!(
                "there are no users, so nobody may {may}: name a file of users with --htpasswd or `auth.htpasswd`"
            )
        };
        let mut warnings = Vec::new();
        match self.auth.anonymous.filter(|_| !self.has_users()) {
            Some(AnonymousAccess::None) => warnings.push(nobody("pull or push")),
            Some(AnonymousAccess::Pull) if !self.read_only => warnings.push(nobody("push")),
            _ => {}
        }
        let has_proxies = self.trusted_proxies.as_ref().is_some_and(|proxies| !proxies.is_empty());
        warnings.extend(self.otlp.warnings(has_proxies));
        if self.cors.credentials && self.cors.origins.is_empty() {
            warnings.push("`cors.credentials` has no effect without `cors.origins`".to_owned());
        }
        if self.limits.upload_memory.is_some() && self.blobs.is_none() {
            warnings.push(
                "`limits.upload-memory` has no effect: it is for uploads to a bucket, and `blobs` names none"
                    .to_owned(),
            );
        }
        if !self.undelete.window.0.is_zero() && self.gc.every.0.is_zero() {
            warnings.push(
                "`undelete.window` keeps what is deleted until garbage is collected, and `gc.every` is 0: run `hyperregistry gc` \
                 regularly"
                    .to_owned(),
            );
        }
        warnings.extend(self.tls.acme.warnings());
        warnings.extend(self.auth.warnings());
        warnings.extend(self.retention.warnings(self.gc.untagged_after.is_some()));
        warnings
    }

    /// The age at which an idle upload is removed; `None` keeps all.
    pub(crate) fn upload_max_age(&self) -> Option<Duration> {
        Some(self.limits.upload_max_age.0).filter(|age| !age.is_zero())
    }

    /// What a collection of garbage removes, and how often.
    pub(crate) fn collection(&self) -> GarbageCollection {
        let untagged_after = self.gc.untagged_after.map(|age| age.0);
        GarbageCollection { every: self.gc.every.0, untagged_after }
    }

    /// The options of the registry. The caller adds the key of tokens, the API tokens, the audit log, the webhooks and the origins of pages.
    pub(crate) fn registry(&self) -> RegistryOptions {
        RegistryOptions {
            read_only: self.read_only,
            sparse: self.sparse,
            htpasswd: self.auth.htpasswd.clone(),
            ldap: self.auth.ldap.options(),
            login: self.auth.login.options(),
            api_tokens: None,
            issuers: issuer_config::issuers(&self.auth.issuer).unwrap_or_default(),
            anonymous: self.auth.anonymous,
            authenticator: None,
            client_certificates: self.tls.client_ca.is_some(),
            authorizer: None,
            realm: self.auth.realm.clone(),
            token_key: None,
            token_secret: None,
            token_keys: None,
            refresh_tokens: self.auth.token.refresh(),
            public_url: self.public_url.clone(),
            path_prefix: self.path_prefix.clone(),
            cors: None,
            trusted_proxies: self.trusted_proxies.clone(),
            upload_max_age: self.upload_max_age(),
            garbage_collection: Some(self.collection()).filter(|gc| !gc.every.is_zero()),
            retention: self.retention.options(),
            undelete_window: self.undelete.window.0,
            quotas: quota_config::rules(&self.quota).unwrap_or_default(),
            events: self.events.options(!self.webhook.is_empty()),
            webhooks: Vec::new(),
            scrub: Some(Scrub { every: self.scrub.every.0, rate: self.scrub.rate.0 })
                .filter(|scrub| !scrub.every.is_zero()),
            verify_reads: self.scrub.verify_reads,
            limits: Limits {
                manifest_bytes: usize::try_from(self.limits.manifest.0).unwrap_or(usize::MAX),
                blob_bytes: self.limits.blob.map(|s| s.0),
                tags_per_request: self.limits.tags_per_request,
                page_entries: self.limits.page,
                body_idle: self.limits.body_timeout.0,
            },
            throttling: Throttling {
                address: self.limits.address.clone(),
                anonymous: self.limits.anonymous.clone(),
                user: self.limits.user.clone(),
                wrong_passwords: self.limits.wrong_passwords.clone(),
            },
            cache: CacheOptions {
                bytes: usize::try_from(self.cache.memory.0).unwrap_or(usize::MAX),
                blob_bytes: self.cache.blob.0,
            },
            metrics: self.metrics.enabled,
            metrics_for_users: self.metrics.users_only,
            access_log: self.log.access,
            audit: None,
            traces: self.otlp.traces(),
            clock: Arc::new(SystemClock),
        }
    }

    /// The options of the accept loop.
    pub(crate) fn server(&self) -> ServerOptions {
        ServerOptions {
            max_connections: self.limits.connections,
            handshake_timeout: self.limits.handshake_timeout.0,
            header_timeout: self.limits.header_timeout.0,
            write_timeout: self.limits.write_timeout.0,
            drain_timeout: self.limits.drain_timeout.0,
            slow_uploads: self.registry().throttling.slows_uploads(),
            slow_downloads: self.registry().throttling.slows_downloads(),
            ..ServerOptions::default()
        }
    }
}

/// Whether a URL has only a scheme and a host.
fn is_root(url: &str) -> bool {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = host.map(|host| host.strip_suffix('/').unwrap_or(host));
    host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_configuration_has_the_defaults() {
        let read = Config::parse(REFERENCE).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
        let everything = REFERENCE.replace("# htpasswd", "htpasswd").replace("# anonymous", "anonymous");
        let everything = everything.replace("# public-url", "public-url").replace("# untagged", "untagged");
        let everything = everything.replace("# trusted", "trusted");
        let everything = Config::parse(&everything.replace("# blob", "blob")).unwrap();
        assert_eq!(everything.auth.anonymous, Some(AnonymousAccess::Pull));
        assert_eq!(everything.limits.blob, Some(Size(20 << 30)));
        assert!(everything.auth.htpasswd.is_some());
        assert_eq!(everything.registry().trusted_proxies.unwrap().len(), 2);
        let everything = REFERENCE
            .replace("# url = \"postgres", "url = \"postgres")
            .replace("# password-file", "password-file");
        let everything = Config::parse(&everything.replace("# untagged", "untagged")).unwrap();
        assert!(everything.database.password_file.is_some());
        let database = everything.database.options().unwrap().unwrap();
        assert_eq!(database.to_string(), "db.example.com:5432/registry");
        let gc = everything.registry().garbage_collection.unwrap();
        assert_eq!(gc.untagged_after, Some(Duration::from_secs(30 * 24 * 60 * 60)));
        let never = Config::parse("[gc]\nevery = \"0s\"").unwrap();
        assert!(never.registry().garbage_collection.is_none());
    }

    #[test]
    fn a_listen_address_may_be_a_name_or_a_port() {
        for listen in ["127.0.0.1:5000", "localhost:5000", ":5000", "[::1]:5000"] {
            let config = Config::parse(&format!("listen = \"{listen}\"")).unwrap();
            assert_eq!(config.listen[0].to_string(), listen);
        }
        let both = Config::parse("listen = [\"http://:1\", \"unix:/run/x\"]").unwrap();
        assert_eq!(
            both.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["http://:1", "unix:/run/x"]
        );
        let ages = |text: &str| Config::parse(text).unwrap().upload_max_age();
        assert_eq!(ages(""), Some(Duration::from_secs(86_400)));
        assert_eq!(ages("[limits]\nupload-max-age = \"90s\""), Some(Duration::from_secs(90)));
        assert_eq!(ages("[limits]\nupload-max-age = \"0s\""), None);
    }
}
