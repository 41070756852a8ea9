//! The parts and options of the local builder.

use crate::cache::SharedCache;
use crate::clock::{SharedClock, SystemClock};
use crate::exec::{Executor, HelperCommand};
use crate::export::Exporter;
use crate::frontend::SharedFrontend;
use crate::sandbox::SandboxOptions;
use crate::snapshot::SharedSnapshotter;
use crate::source::{ClientFactory, ProxyChoice, SharedSource};
use crate::space::CacheLimit;
use crate::store::SharedStore;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of a [`LocalBuilder`]. They can replace its parts, and add frontends, sources and exporters.
///
/// ```no_run
/// # async fn example(store: hyper_sdk::store::SharedStore) -> hyper_sdk::Result<()> {
/// use hyper_sdk::build::{BuildContext, BuildRequest, Builder, LocalBuilder};
/// use hyper_sdk::cache::MemoryCache;
/// use hyper_sdk::client::{HttpClient, SharedClient};
/// use hyper_sdk::progress::Progress;
/// use hyper_sdk::source::ClientFactory;
/// use std::sync::Arc;
///
/// let clients =
///     ClientFactory::new(|host| Ok(Arc::new(HttpClient::builder(host.clone()).build()?) as SharedClient));
/// let builder = LocalBuilder::builder("/var/lib/example", store, clients)
///     .cache(Arc::new(MemoryCache::default()))
///     .open()?;
/// let request = BuildRequest::new("FROM scratch\nCOPY . /\n", BuildContext::Folder("context".into()));
/// let image = builder.build(request, &Progress::none()).await?.image;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LocalBuilderOptions {
    /// The folder of the build cache, the snapshots and the cache mounts. Several processes can share it.
    pub root: PathBuf,
    /// The store of images and layers.
    pub store: SharedStore,
    /// The registries that base images come from and images are pushed to.
    pub clients: ClientFactory,
    /// The proxies for web addresses in ADD and contexts; no proxy without.
    pub proxy: Option<ProxyChoice>,
    /// The home folder of the user: no output empties it.
    pub home: Option<PathBuf>,
    /// How the sandbox's helper is started.
    pub helper: HelperCommand,
    /// What is asked of the sandbox. A request can lower the isolation.
    pub sandbox: SandboxOptions,
    /// The content of /etc/resolv.conf in commands; without, that of the host.
    pub resolv_conf: Option<String>,
    /// How many commands run at once; without, the number of processors and at least four.
    pub parallel: Option<usize>,
    /// How much the cache may take. What is least recently used goes first, at the end of builds and during long ones.
    pub cache_limit: CacheLimit,
    /// The clock for [`super::EpochPolicy::Now`].
    pub clock: SharedClock,
    /// The executor of commands; without, the sandbox of this machine.
    pub executor: Option<Arc<dyn Executor>>,
    /// The absolute path of the OCI runtime that makes the containers of commands ([`crate::exec::OciRuntime`]); without, the
    /// sandbox makes them itself. Not together with `executor`.
    pub runtime: Option<PathBuf>,
    /// The snapshotter of unpacked layers; without, folders in `root`.
    pub snapshotter: Option<SharedSnapshotter>,
    /// The build cache; without, a folder in `root`.
    pub cache: Option<SharedCache>,
    /// Further frontends, by the names in `# syntax=NAME` and in [`super::BuildRequest::frontend`].
    pub frontends: BTreeMap<String, SharedFrontend>,
    /// Further sources, by their schemes. One for `docker-image` or `oci-layout` replaces the built-in source.
    pub sources: BTreeMap<String, SharedSource>,
    /// Further exporters, by their types: see [`super::OutputKind::Other`].
    pub exporters: BTreeMap<String, Arc<dyn Exporter>>,
}

impl LocalBuilderOptions {
    /// Options with defaults for everything else.
    pub fn new(root: impl Into<PathBuf>, store: SharedStore, clients: ClientFactory) -> Self {
        Self {
            root: root.into(),
            store,
            clients,
            proxy: None,
            home: None,
            helper: HelperCommand::current_exe(),
            sandbox: SandboxOptions::default(),
            resolv_conf: None,
            parallel: None,
            cache_limit: CacheLimit::Usual,
            clock: Arc::new(SystemClock),
            executor: None,
            runtime: None,
            snapshotter: None,
            cache: None,
            frontends: BTreeMap::new(),
            sources: BTreeMap::new(),
            exporters: BTreeMap::new(),
        }
    }

    /// Sets the proxies for web addresses in ADD and contexts.
    #[must_use]
    pub fn proxy(mut self, proxy: ProxyChoice) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Sets how much the cache may take.
    #[must_use]
    pub fn cache_limit(mut self, limit: CacheLimit) -> Self {
        self.cache_limit = limit;
        self
    }

    /// Sets how the sandbox's helper is started.
    #[must_use]
    pub fn helper(mut self, helper: HelperCommand) -> Self {
        self.helper = helper;
        self
    }

    /// Sets what is asked of the sandbox.
    #[must_use]
    pub fn sandbox(mut self, sandbox: SandboxOptions) -> Self {
        self.sandbox = sandbox;
        self
    }

    /// Sets the clock for [`super::EpochPolicy::Now`].
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the executor of commands.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = Some(executor);
        self
    }

    /// Sets the OCI runtime that makes the containers of commands, by its absolute path. No result and no key of the cache
    /// depends on it.
    #[must_use]
    pub fn runtime(mut self, program: impl Into<PathBuf>) -> Self {
        self.runtime = Some(program.into());
        self
    }

    /// Sets the snapshotter of unpacked layers.
    #[must_use]
    pub fn snapshotter(mut self, snapshotter: SharedSnapshotter) -> Self {
        self.snapshotter = Some(snapshotter);
        self
    }

    /// Sets the build cache.
    #[must_use]
    pub fn cache(mut self, cache: SharedCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Adds a frontend for texts that name it in `# syntax=NAME`, and for requests that name it.
    #[must_use]
    pub fn frontend(mut self, name: impl Into<String>, frontend: SharedFrontend) -> Self {
        self.frontends.insert(name.into(), frontend);
        self
    }

    /// Adds a source for named contexts of a scheme ([`super::NamedContext::Other`]).
    #[must_use]
    pub fn source(mut self, scheme: impl Into<String>, source: SharedSource) -> Self {
        self.sources.insert(scheme.into(), source);
        self
    }

    /// Adds an exporter for outputs of a type ([`super::OutputKind::Other`]).
    #[must_use]
    pub fn exporter(mut self, kind: impl Into<String>, exporter: Arc<dyn Exporter>) -> Self {
        self.exporters.insert(kind.into(), exporter);
        self
    }
}
