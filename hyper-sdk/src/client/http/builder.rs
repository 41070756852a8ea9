//! The configuration of an [`HttpClient`].

use super::address::Address;
use super::auth::Authenticator;
use super::retry::RetryReporter;
use super::transport::Transport;
use super::{HttpClient, Inner, RetryPolicy, listings};
use crate::client::keychain::{SharedKeychain, StaticKeychain};
use crate::client::timeouts::Timeouts;
use crate::client::{Proxies, tls};
use crate::progress::Progress;
use crate::reference::{DEFAULT_HOST, RegistryHost};
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// The host of Docker Hub's registry.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// How often an HTTP/2 connection is checked, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How many headers a response may have.
const MAX_HEADERS: usize = 1000;
const MAX_HEADER_LIST: u32 = 1 << 20;

/// Configures an [`HttpClient`].
#[derive(Clone, Debug)]
pub struct HttpClientBuilder {
    host: RegistryHost,
    plain_http: bool,
    tls_only: bool,
    insecure_tls: bool,
    roots: Vec<Vec<u8>>,
    identity: Option<crate::client::keychain::Secret>,
    user_agent: String,
    connect_timeout: Duration,
    timeouts: Timeouts,
    progress: Progress,
    keychain: SharedKeychain,
    proxy: Option<crate::client::keychain::Secret>,
    proxies: Option<Proxies>,
    retry: RetryPolicy,
}

impl HttpClientBuilder {
    pub(super) fn new(host: RegistryHost) -> Self {
        Self {
            host,
            plain_http: false,
            tls_only: false,
            insecure_tls: false,
            roots: Vec::new(),
            identity: None,
            user_agent: concat!("hyper/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(15),
            timeouts: Timeouts::default(),
            progress: Progress::none(),
            keychain: Arc::new(StaticKeychain::anonymous()),
            proxy: None,
            proxies: None,
            retry: RetryPolicy::default(),
        }
    }

    /// Speaks plain HTTP. Without it the client speaks TLS; a registry on this machine first gets a request in plain HTTP,
    /// without credentials, and TLS when it speaks that.
    #[must_use]
    pub fn plain_http(mut self, yes: bool) -> Self {
        self.plain_http = yes;
        self
    }

    /// Speaks TLS, on this machine too: nothing is sent in plain HTTP to find out what a registry speaks.
    #[must_use]
    pub fn tls_only(mut self, yes: bool) -> Self {
        self.tls_only = yes;
        self
    }

    /// Accepts any certificate. Others in the network can then read and change all content, credentials included.
    #[must_use]
    pub fn insecure_tls(mut self, yes: bool) -> Self {
        self.insecure_tls = yes;
        self
    }

    /// Trusts the certificates in `pem` besides those of the system: authorities, or certificates of servers themselves.
    #[must_use]
    pub fn extra_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Shows a client certificate: PEM text of the key and the certificate chain.
    #[must_use]
    pub fn client_certificate(mut self, pem: impl Into<crate::client::keychain::Secret>) -> Self {
        self.identity = Some(pem.into());
        self
    }

    /// The `User-Agent` of requests. The default is `hyper/VERSION`.
    #[must_use]
    pub fn user_agent(mut self, text: impl Into<String>) -> Self {
        self.user_agent = text.into();
        self
    }

    /// How long a connection may take to open. The default is 15 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the registry may be silent within a body, in either direction. The default is 20 s. An answer may take half
    /// as long again, and the end of an upload three times as long and a second for each 8 MiB. A body with less than
    /// 1 KiB a second over such a time counts as silent. There is no other limit on the whole request. A request that
    /// exceeds this limit is sent again as [`RetryPolicy`] says.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts = Timeouts::new(timeout);
        self
    }

    /// Where warnings go when a request is sent again: the peer, the request, the reason and the number of the attempt.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Where credentials come from. The default has none.
    #[must_use]
    pub fn keychain(mut self, keychain: SharedKeychain) -> Self {
        self.keychain = keychain;
        self
    }

    /// Goes through a proxy, a URL that may carry a name and a password.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<crate::client::keychain::Secret>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Goes through these proxies to the registry and to where it redirects.
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = Some(proxies);
        self
    }

    /// How to retry.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a certificate, the proxy or the user agent is not well formed.
    pub fn build(self) -> Result<HttpClient> {
        let hub = self.host.as_str() == DEFAULT_HOST;
        let address = if hub { DOCKER_HUB } else { self.host.as_str() };
        let roots = self.roots.iter().map(|pem| tls::certificates(pem)).collect::<Result<Vec<_>>>()?.concat();
        let config = tls::config(&roots, self.identity.as_ref())?;
        // On this machine the first answer decides.
        let is_open = !self.plain_http && !self.tls_only && self.host.is_loopback();
        let greeting = is_open.then(|| Arc::new(config.clone()));
        let address = Address::new(address, !self.plain_http && !is_open, greeting)?;
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .user_agent(self.user_agent)
            .connect_timeout(self.connect_timeout)
            .http2_adaptive_window(true)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_LIST)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE);
        http = if self.insecure_tls {
            let mut http = http.tls_danger_accept_invalid_certs(true);
            if let Some(pem) = &self.identity {
                let identity = reqwest::Identity::from_pem(pem.expose().as_bytes()).map_err(|_| {
                    Error::invalid("the client certificate is not PEM of a key and a certificate")
                })?;
                http = http.identity(identity);
            }
            http
        } else {
            http.tls_backend_preconfigured(config)
        };
        if let Some(url) = &self.proxy {
            let url = Proxies::check(url.expose())?;
            let bad =
                |e| Error::invalid("the proxy cannot be used").with_source(reqwest::Error::without_url(e));
            http = http.proxy(reqwest::Proxy::all(url).map_err(bad)?);
        }
        if let Some(proxies) = self.proxies {
            if let Some(proxy) = proxies.for_registry(&self.host, !self.plain_http) {
                Proxies::check(&proxy)?;
            }
            http = http.proxy(reqwest::Proxy::custom(move |url| {
                proxies.for_url(url).and_then(|p| Url::parse(&p).ok())
            }));
        }
        let http = http
            .build()
            .map_err(|e| Error::invalid("the HTTP client cannot be configured").with_source(e))?;
        let auth =
            Authenticator::new(self.host.clone(), self.keychain, self.plain_http, self.timeouts, self.retry);
        let host = self.host.clone();
        let transport = Transport { http, address, host, auth, policy: self.retry, timeouts: self.timeouts };
        let reporter = RetryReporter {
            progress: self.progress,
            peer: self.host.to_string(),
            ..RetryReporter::default()
        };
        Ok(HttpClient {
            reporter,
            inner: Arc::new(Inner {
                host: self.host,
                transport,
                listings: listings::Continuations::default(),
                fallback: tokio::sync::Mutex::new(()),
            }),
        })
    }
}
