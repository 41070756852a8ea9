//! How a session is opened.

use super::{Defaults, Session};
use crate::build::LocalBuilderOptions;
use crate::client::Proxies;
use crate::client::keychain::SharedKeychain;
use crate::export::Exporter;
use crate::frontend::SharedFrontend;
use crate::progress::Progress;
use crate::source::{ClientFactory, SharedSource};
use crate::store::SharedStore;
use crate::{Error, Result};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a [`Session`]: where its state is, how registries are reached, and the parts that take the place of the
/// usual ones.
///
/// A session reads nothing of the environment: [`SessionOptions::defaults`] takes in what [`Defaults`] found there.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The state folder.
    pub root: PathBuf,
    /// The folder of the `config.json` with the credentials of registries; credentials cannot be kept without.
    pub config: Option<PathBuf>,
    /// Where the credential helpers are that the `config.json` names.
    pub helper_folders: Vec<PathBuf>,
    /// A keychain that is asked before the `config.json`.
    pub keychain: Option<SharedKeychain>,
    /// Whether registries are spoken to in plain HTTP. Without it TLS, and with a registry on this machine what it speaks.
    pub plain_http: bool,
    /// Whether any certificate of a registry is taken.
    pub insecure_tls: bool,
    /// Files of certificates (PEM) that registries are trusted by besides those of the system. They are read when a
    /// registry is reached.
    pub authorities: Vec<PathBuf>,
    /// Where certificates for one registry are looked for: [`crate::client::HostCertificates`].
    pub certificate_folders: Vec<PathBuf>,
    /// The proxies of registries and of the web.
    pub proxies: Proxies,
    /// Where warnings of the session go: that its folder was open to other users, that a registry is tried again.
    pub progress: Progress,
    /// Exporters by their types, for outputs of builds: see [`LocalBuilderOptions::exporters`].
    pub exporters: BTreeMap<String, Arc<dyn Exporter>>,
    /// Sources by their schemes, for named contexts of builds: see [`LocalBuilderOptions::sources`].
    pub sources: BTreeMap<String, SharedSource>,
    /// Frontends by their names: see [`LocalBuilderOptions::frontends`].
    pub frontends: BTreeMap<String, SharedFrontend>,
    /// What makes the clients of registries, in place of HTTP with the settings above.
    pub clients: Option<ClientFactory>,
    pub(super) open_store: Option<OpenStore>,
    pub(super) setup: Option<SetUp>,
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
    /// Options with a state folder and nothing else: no credentials, no proxies, the certificates of the system.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            config: None,
            helper_folders: Vec::new(),
            keychain: None,
            plain_http: false,
            insecure_tls: false,
            authorities: Vec::new(),
            certificate_folders: Vec::new(),
            proxies: Proxies::default(),
            progress: Progress::none(),
            exporters: BTreeMap::new(),
            sources: BTreeMap::new(),
            frontends: BTreeMap::new(),
            clients: None,
            open_store: None,
            setup: None,
        }
    }

    /// Takes in what the environment says of everything but the state folder.
    #[must_use]
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.config = defaults.config;
        self.helper_folders = defaults.helper_folders;
        self.certificate_folders = defaults.certificate_folders;
        self.proxies = defaults.proxies;
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

    /// What opens the store, in place of the one in the folder `store` of the state folder. It gets the state folder, and is
    /// called when the store is used for the first time.
    #[must_use]
    pub fn open_store<F>(mut self, open: impl Fn(PathBuf) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<SharedStore>> + Send + 'static,
    {
        self.open_store = Some(OpenStore(Arc::new(move |root| Box::pin(open(root)))));
        self
    }

    /// What makes the clients of registries.
    #[must_use]
    pub fn clients(mut self, clients: ClientFactory) -> Self {
        self.clients = Some(clients);
        self
    }

    /// An exporter for outputs of a type.
    #[must_use]
    pub fn exporter(mut self, kind: impl Into<String>, exporter: Arc<dyn Exporter>) -> Self {
        self.exporters.insert(kind.into(), exporter);
        self
    }

    /// A source for named contexts of a scheme.
    #[must_use]
    pub fn source(mut self, scheme: impl Into<String>, source: SharedSource) -> Self {
        self.sources.insert(scheme.into(), source);
        self
    }

    /// A frontend for texts that name it, and for requests that ask for it.
    #[must_use]
    pub fn frontend(mut self, name: impl Into<String>, frontend: SharedFrontend) -> Self {
        self.frontends.insert(name.into(), frontend);
        self
    }

    /// Changes the options of the builder before it is opened: its executor, its clock, how its helper is started.
    #[must_use]
    pub fn builder(
        mut self,
        set_up: impl Fn(LocalBuilderOptions) -> LocalBuilderOptions + Send + Sync + 'static,
    ) -> Self {
        self.setup = Some(SetUp(Arc::new(set_up)));
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
