//! What a builder of this machine is made of.

use crate::cache::SharedCache;
use crate::clock::{SharedClock, SystemClock};
use crate::exec::{Executor, HelperCommand};
use crate::export::Exporter;
use crate::frontend::SharedFrontend;
use crate::snapshot::SharedSnapshotter;
use crate::source::{ClientFactory, ProxyChoice, SharedSource};
use crate::store::SharedStore;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// How to open a [`LocalBuilder`], and the parts that take the place of the usual ones or stand beside them.
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
    /// The folder of the build cache, the snapshots and the cache mounts. Several processes may share it.
    pub root: PathBuf,
    /// The store of images and layers.
    pub store: SharedStore,
    /// The registries that base images come from and images are pushed to.
    pub clients: ClientFactory,
    /// The proxies of web addresses in ADD and contexts; none without.
    pub proxy: Option<ProxyChoice>,
    /// The home folder of the user: no output empties it.
    pub home: Option<PathBuf>,
    /// How the sandbox's helper is started.
    pub helper: HelperCommand,
    /// The content of /etc/resolv.conf in commands; the host's without.
    pub resolv_conf: Option<String>,
    /// How many commands run at once; as many as there are processors, and at least four, without.
    pub parallel: Option<usize>,
    /// The time, for [`super::EpochPolicy::Now`].
    pub clock: SharedClock,
    /// What runs commands; the sandbox of this machine without.
    pub executor: Option<Arc<dyn Executor>>,
    /// What keeps unpacked layers; folders in `root` without.
    pub snapshotter: Option<SharedSnapshotter>,
    /// What remembers results; a folder in `root` without.
    pub cache: Option<SharedCache>,
    /// Frontends beside that of Dockerfiles, by the names that texts and requests ask for them by.
    pub frontends: BTreeMap<String, SharedFrontend>,
    /// Sources by their schemes, beside those for images, layouts, folders, git and the web. One for `docker-image` or
    /// `oci-layout` takes the place of the usual one.
    pub sources: BTreeMap<String, SharedSource>,
    /// Exporters by their types, beside the usual ones: see [`super::OutputKind::Other`].
    pub exporters: BTreeMap<String, Arc<dyn Exporter>>,
}

impl LocalBuilderOptions {
    /// Options with the defaults for everything else.
    pub fn new(root: impl Into<PathBuf>, store: SharedStore, clients: ClientFactory) -> Self {
        Self {
            root: root.into(),
            store,
            clients,
            proxy: None,
            home: None,
            helper: HelperCommand::current_exe(),
            resolv_conf: None,
            parallel: None,
            clock: Arc::new(SystemClock),
            executor: None,
            snapshotter: None,
            cache: None,
            frontends: BTreeMap::new(),
            sources: BTreeMap::new(),
            exporters: BTreeMap::new(),
        }
    }

    /// The proxies of web addresses in ADD and contexts.
    #[must_use]
    pub fn proxy(mut self, proxy: ProxyChoice) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// How the sandbox's helper is started.
    #[must_use]
    pub fn helper(mut self, helper: HelperCommand) -> Self {
        self.helper = helper;
        self
    }

    /// The time, for [`super::EpochPolicy::Now`].
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// What runs commands.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = Some(executor);
        self
    }

    /// What keeps unpacked layers.
    #[must_use]
    pub fn snapshotter(mut self, snapshotter: SharedSnapshotter) -> Self {
        self.snapshotter = Some(snapshotter);
        self
    }

    /// What remembers results.
    #[must_use]
    pub fn cache(mut self, cache: SharedCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// A frontend for texts that name it in `# syntax=NAME`, and for requests that ask for it.
    #[must_use]
    pub fn frontend(mut self, name: impl Into<String>, frontend: SharedFrontend) -> Self {
        self.frontends.insert(name.into(), frontend);
        self
    }

    /// A source for named contexts of a scheme ([`super::NamedContext::Other`]).
    #[must_use]
    pub fn source(mut self, scheme: impl Into<String>, source: SharedSource) -> Self {
        self.sources.insert(scheme.into(), source);
        self
    }

    /// An exporter for outputs of a type ([`super::OutputKind::Other`]).
    #[must_use]
    pub fn exporter(mut self, kind: impl Into<String>, exporter: Arc<dyn Exporter>) -> Self {
        self.exporters.insert(kind.into(), exporter);
        self
    }
}
