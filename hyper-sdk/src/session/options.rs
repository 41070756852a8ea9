//! The options of a session.

use super::{Defaults, Session};
use crate::build::LocalBuilderOptions;
use crate::client::keychain::SharedKeychain;
use crate::client::{EngineAddresses, Proxies};
use crate::progress::Progress;
use crate::s3::AwsEnvironment;
use crate::source::ClientFactory;
use crate::space::CacheLimit;
use crate::store::SharedStore;
use crate::{Error, MissingInput, Result};
use futures::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a [`Session`]: its folder, how registries are reached, and parts that replace the usual ones.
///
/// A session does not read the environment: [`SessionOptions::defaults`] takes what [`Defaults`] found there.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The state folder.
    pub root: PathBuf,
    /// The home folder of the user, which no output of a build empties.
    pub home: Option<PathBuf>,
    /// The folder of the `config.json` with the credentials of registries; credentials cannot be kept without.
    pub config: Option<PathBuf>,
    /// The folders of the credential helpers that the `config.json` names.
    pub helper_folders: Vec<PathBuf>,
    /// A keychain that is asked before the `config.json`.
    pub keychain: Option<SharedKeychain>,
    /// Whether to speak plain HTTP to registries. Without it TLS, and to a registry on this machine whichever it speaks.
    pub plain_http: bool,
    /// Whether any certificate of a registry is accepted.
    pub insecure_tls: bool,
    /// Files of certificates (PEM) to trust for registries, besides those of the system. They are read when a client is made.
    pub authorities: Vec<PathBuf>,
    /// Folders with certificates for single registries: [`crate::client::HostCertificates`].
    pub certificate_folders: Vec<PathBuf>,
    /// The proxies of registries and of the web.
    pub proxies: Proxies,
    /// Where engines that run containers may listen; none are looked for without.
    pub engines: EngineAddresses,
    /// The variables and the files of the AWS tools, for caches in buckets of S3.
    pub aws: AwsEnvironment,
    /// Where warnings of the session go, such as a folder that was open to other users, or a request that is sent again.
    pub progress: Progress,
    /// Makes the clients of registries, in place of HTTP clients with the settings above.
    pub clients: Option<ClientFactory>,
    /// How much the cache of builds may take.
    pub cache_limit: CacheLimit,
    pub(super) open_store: Option<OpenStore>,
    pub(super) setup: Vec<SetUp>,
}

#[derive(Clone)]
pub(super) struct OpenStore(Arc<dyn Fn(PathBuf) -> BoxFuture<'static, Result<SharedStore>> + Send + Sync>);

impl OpenStore {
    pub(super) fn open(&self, root: &Path) -> BoxFuture<'static, Result<SharedStore>> {
        (self.0)(root.to_owned())
    }
}

impl fmt::Debug for OpenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenStore")
    }
}

#[derive(Clone)]
pub(super) struct SetUp(Arc<dyn Fn(LocalBuilderOptions) -> LocalBuilderOptions + Send + Sync>);

impl SetUp {
    pub(super) fn apply(&self, options: LocalBuilderOptions) -> LocalBuilderOptions {
        (self.0)(options)
    }
}

impl fmt::Debug for SetUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetUp")
    }
}

impl SessionOptions {
    /// Options with a state folder alone: no credentials, no proxies, the certificates of the system.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            home: None,
            config: None,
            helper_folders: Vec::new(),
            keychain: None,
            plain_http: false,
            insecure_tls: false,
            authorities: Vec::new(),
            certificate_folders: Vec::new(),
            proxies: Proxies::default(),
            engines: EngineAddresses::default(),
            aws: AwsEnvironment::default(),
            progress: Progress::none(),
            clients: None,
            cache_limit: CacheLimit::Usual,
            open_store: None,
            setup: Vec::new(),
        }
    }

    /// Options with the settings of the environment, and this state folder in place of that of the environment.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] without a state folder when there is no home folder to put one into.
    pub fn from_defaults(root: Option<PathBuf>, mut defaults: Defaults) -> Result<Self> {
        let root = root.or(defaults.root.take()).ok_or_else(|| {
            Error::invalid("there is no home folder to keep images in: name a state folder")
                .with_missing(MissingInput::StateFolder)
        })?;
        Ok(Self::new(root).defaults(defaults))
    }

    /// Takes everything but the state folder from the environment.
    #[must_use]
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.home = defaults.home;
        self.config = defaults.config;
        self.helper_folders = defaults.helper_folders;
        self.certificate_folders = defaults.certificate_folders;
        self.proxies = defaults.proxies;
        self.engines = defaults.engines;
        self.aws = defaults.aws;
        self
    }

    /// The folder of the `config.json` with the credentials of registries.
    #[must_use]
    pub fn config(mut self, folder: impl Into<PathBuf>) -> Self {
        self.config = Some(folder.into());
        self
    }

    /// A keychain that is asked before the `config.json`.
    #[must_use]
    pub fn keychain(mut self, keychain: SharedKeychain) -> Self {
        self.keychain = Some(keychain);
        self
    }

    /// Where warnings of the session go.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// A store in place of the one in the folder `store` of the state folder.
    #[must_use]
    pub fn store(self, store: SharedStore) -> Self {
        self.open_store(move |_| std::future::ready(Ok(store.clone())))
    }

    /// A function that opens the store, in place of the one in the folder `store` of the state folder. It gets the state
    /// folder, and is called when the store is used for the first time.
    #[must_use]
    pub fn open_store<F>(mut self, open: impl Fn(PathBuf) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<SharedStore>> + Send + 'static,
    {
        self.open_store = Some(OpenStore(Arc::new(move |root| Box::pin(open(root)))));
        self
    }

    /// How much the cache of builds may take.
    #[must_use]
    pub fn cache_limit(mut self, limit: CacheLimit) -> Self {
        self.cache_limit = limit;
        self
    }

    /// A factory for the clients of registries.
    #[must_use]
    pub fn clients(mut self, clients: ClientFactory) -> Self {
        self.clients = Some(clients);
        self
    }

    /// Changes the options of the builder before it is opened: its executor, its frontends, sources and exporters, how its
    /// helper is started. Several changes are made in their order.
    ///
    /// The change is made twice: also when a text names an exporter or a source before the store is open. The options have
    /// an empty store then.
    ///
    /// ```
    /// use hyper_sdk::frontend::JsonFrontend;
    /// use hyper_sdk::session::Session;
    /// use std::sync::Arc;
    ///
    /// # fn main() -> hyper_sdk::Result<()> {
    /// let session = Session::builder("/var/lib/example")
    ///     .builder(|builder| builder.frontend("json", Arc::new(JsonFrontend)))
    ///     .open()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn builder(
        mut self,
        change: impl Fn(LocalBuilderOptions) -> LocalBuilderOptions + Send + Sync + 'static,
    ) -> Self {
        self.setup.push(SetUp(Arc::new(change)));
        self
    }

    /// Opens the session. Nothing is read or written before it is needed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the state folder is relative and there is no current folder.
    pub fn open(mut self) -> Result<Session> {
        self.root = std::path::absolute(&self.root)
            .map_err(|e| Error::io("cannot resolve the state folder", &self.root, e))?;
        Ok(Session::new(self))
    }
}
