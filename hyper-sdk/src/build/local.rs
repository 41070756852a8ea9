//! The builder of this machine: frontend, solver and exporters in this process, commands in its sandbox.

use super::contexts::{Contexts, MainContext};
use super::destinations::{Destinations, is_stream};
use super::emptied_folders;
use super::options::LocalBuilderOptions;
use super::{BuildOutput, BuildRequest, Builder, BuilderCapabilities};
use crate::cache::{DiskCache, SharedCache};
use crate::exec::{Executor, Identity, NativeExecutor, OciRuntime};
use crate::frontend::Lowered;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::sandbox::{Isolation, Place, Rung, Sandbox, SandboxOptions};
use crate::snapshot::{LocalSnapshotter, SharedSnapshotter, Style};
use crate::solve::{blocking, remove_lost};
use crate::source::{ClientFactory, ImageSource, RemoteOptions, RemoteSources, Sources, SourcesOptions};
use crate::store::SharedStore;
use crate::store::damage::Damage;
use crate::uses::{Closed, Use, UseKind};
use crate::{Digest, Error, Result, ResultExt, private_folder};
use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a build starts again after it read a damaged blob of the store. Each attempt finds every damaged blob that it
/// reads.
const REPAIRS: usize = 8;

/// How long a build waits for other work before it removes a damaged snapshot, and how often it looks.
const LOST_WAIT: Duration = Duration::from_secs(60);
const LOST_PAUSE: Duration = Duration::from_millis(100);

/// How long a failed build waits until its snapshots are removed. The next process removes what is left then.
const GARBAGE_WAIT: Duration = Duration::from_secs(10);

/// Builds on this machine, without a daemon.
///
/// ```
/// use hyper_sdk::build::{BuildContext, BuildRequest, Builder as _, LocalBuilder, OutputKind};
/// use hyper_sdk::client::{HttpClient, SharedClient};
/// use hyper_sdk::progress::Progress;
/// use hyper_sdk::source::ClientFactory;
/// use hyper_sdk::store::MemoryStore;
/// use std::sync::Arc;
///
/// # async fn example(folder: &std::path::Path) -> hyper_sdk::Result<()> {
/// let clients =
///     ClientFactory::new(|host| Ok(Arc::new(HttpClient::builder(host.clone()).build()?) as SharedClient));
/// let store = Arc::new(MemoryStore::default());
/// let builder = LocalBuilder::builder(folder.join("state"), store, clients).open()?;
/// let mut request = BuildRequest::new("FROM alpine:3\nRUN apk add make\n", BuildContext::Empty);
/// request.outputs.push(OutputKind::Local(folder.join("files")).into());
/// let image = builder.build(request, &Progress::none()).await?.image;
/// # Ok(())
/// # }
/// ```
///
/// A program that runs commands calls [`crate::exec::init`] first in its `main`.
#[derive(Debug)]
pub struct LocalBuilder {
    pub(super) options: LocalBuilderOptions,
    pub(super) cache: SharedCache,
    /// By the isolation of steps.
    pub(super) engines: [tokio::sync::Mutex<Option<Arc<Engine>>>; 3],
    /// A warning of the opening, which the first build reports.
    warning: Mutex<Option<String>>,
}

/// The executor, and the snapshotter of its root file systems.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) executor: Arc<dyn Executor>,
    pub(super) snapshotter: SharedSnapshotter,
    /// Warnings about the sandbox.
    pub(super) notes: Vec<String>,
    pub(super) sandbox: Option<Sandbox>,
    /// The snapshotter, when it is that of this machine.
    pub(super) local: Option<LocalSnapshotter>,
    snapshots: Rung,
}

impl Engine {
    pub(super) fn has_changed(&self) -> bool {
        self.sandbox.as_ref().is_some_and(Sandbox::has_changed)
    }
}

impl LocalBuilder {
    /// Options of a builder with a folder, a store and registries. [`LocalBuilderOptions`] can replace its parts.
    pub fn builder(
        root: impl Into<PathBuf>,
        store: SharedStore,
        clients: ClientFactory,
    ) -> LocalBuilderOptions {
        LocalBuilderOptions::new(root, store, clients)
    }

    /// Opens the builder. Its folder is created when it is missing, and closed to other users ([`private_folder`]). When the
    /// folder was open to others, the first build reports a warning.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be created or written, and those of [`private_folder::open`].
    pub fn open(options: LocalBuilderOptions) -> Result<Self> {
        let warning = private_folder::open(&options.root)?.warning;
        for name in ["indexes", "mounts", "scratch", "snapshots", "uses"] {
            let path = options.root.join(name);
            std::fs::create_dir_all(&path).at("cannot make a folder of the builder", &path)?;
            private_folder::close_within(&path)?;
        }
        let cache: SharedCache = match &options.cache {
            Some(cache) => Arc::clone(cache),
            None => Arc::new(DiskCache::open(options.root.join("cache"))?),
        };
        Ok(Self { options, cache, engines: Default::default(), warning: Mutex::new(warning) })
    }

    /// What this machine supports, part by part, and why each better choice is not used, when steps have at most this
    /// isolation.
    ///
    /// # Errors
    /// Those of [`Sandbox::start_with`] and of [`LocalSnapshotter::open`].
    pub async fn describe(&self, isolation: Isolation) -> Result<Vec<Rung>> {
        // What is known is found out anew.
        let chosen = self.sandbox_options(isolation);
        if let Some(place) = self.known(chosen) {
            place.forget();
            *self.engines[chosen.isolation as usize].lock().await = None;
        }
        let engine = self.engine(isolation).await?;
        let mut rungs = match &engine.sandbox {
            Some(sandbox) => sandbox.describe().await?,
            None => Vec::new(),
        };
        if self.options.executor.is_some() || self.options.runtime.is_some() {
            rungs.insert(0, Rung::new("executor", engine.executor.to_string()));
        }
        // After the owners that files can have.
        let at = rungs.iter().position(|rung| rung.part == "identity").map_or(rungs.len(), |at| at + 1);
        rungs.insert(at, engine.snapshots.clone());
        Ok(rungs)
    }

    pub(super) async fn engine(&self, isolation: Isolation) -> Result<Arc<Engine>> {
        let chosen = self.sandbox_options(isolation);
        let mut engine = self.engines[chosen.isolation as usize].lock().await;
        // What this machine lets a sandbox do has changed since it was found out.
        if engine.as_ref().is_some_and(|engine| engine.has_changed()) {
            *engine = None;
        }
        match &*engine {
            Some(engine) => Ok(Arc::clone(engine)),
            None => Ok(Arc::clone(engine.insert(Arc::new(self.make_engine(chosen, isolation).await?)))),
        }
    }

    /// The engine, if a build has made one already.
    async fn made_engine(&self, isolation: Isolation) -> Option<Arc<Engine>> {
        self.engines[self.sandbox_options(isolation).isolation as usize].lock().await.clone()
    }

    pub(super) fn sandbox_options(&self, isolation: Isolation) -> SandboxOptions {
        let mut chosen = self.options.sandbox;
        chosen.isolation = chosen.isolation.max(isolation);
        chosen
    }

    /// Where it is kept what a sandbox with these options can do.
    fn known(&self, chosen: SandboxOptions) -> Option<Place> {
        let options = &self.options;
        // It is kept only that overlays work, too, which another snapshotter does not try out.
        options.snapshotter.is_none().then(|| Place::new(&options.root, &options.helper, chosen)).flatten()
    }

    async fn make_engine(&self, chosen: SandboxOptions, isolation: Isolation) -> Result<Engine> {
        let options = &self.options;
        if options.executor.is_some() && isolation != Isolation::Full {
            return Err(Error::unsupported(
                "the executor of this builder chooses the isolation of steps itself",
            ));
        }
        if options.executor.is_some() && options.runtime.is_some() {
            return Err(Error::invalid("a builder has an executor of its own or an OCI runtime, not both"));
        }
        let sandbox = match (&options.executor, &options.snapshotter) {
            (Some(_), Some(_)) => None,
            _ => Some(Sandbox::start_at(options.helper.clone(), chosen, self.known(chosen)).await?),
        };
        let root = options.root.clone();
        blocking(move || {
            crate::space::sweep_at_times(&root);
            Ok(())
        })
        .await?;
        let mut own = None;
        let (snapshotter, snapshots): (SharedSnapshotter, Rung) = match (&options.snapshotter, &sandbox) {
            (Some(snapshotter), _) => {
                (Arc::clone(snapshotter), Rung::new("snapshots", snapshotter.to_string()))
            }
            (None, Some(sandbox)) => {
                let local = LocalSnapshotter::open(options.root.join("snapshots"), sandbox.clone()).await?;
                if !sandbox.is_known() && local.style() == Style::Overlay {
                    sandbox.keep();
                }
                let rung = local.describe();
                own = Some(local.clone());
                (Arc::new(local), rung)
            }
            (None, None) => return Err(Error::internal("a builder without a snapshotter")),
        };
        let notes = sandbox.as_ref().map(|sandbox| sandbox.notes().to_vec()).unwrap_or_default();
        let executor: Arc<dyn Executor> = match (&options.executor, &sandbox) {
            (Some(executor), _) => Arc::clone(executor),
            (None, Some(sandbox)) => match &options.runtime {
                Some(program) => {
                    Arc::new(OciRuntime::new(sandbox.clone(), program, options.root.join("runtime")))
                }
                None => Arc::new(NativeExecutor::new(sandbox.clone())),
            },
            (None, None) => return Err(Error::internal("a builder without an executor")),
        };
        Ok(Engine { executor, snapshotter, notes, sandbox, local: own, snapshots })
    }

    /// Fetches the main context of a request when it is a git repository or a web address. The request that is returned has
    /// the text of the Dockerfile, and a folder of this machine or nothing as its context. The folder exists until the
    /// second value is dropped.
    pub(super) async fn fetch_context(
        &self,
        request: BuildRequest,
        progress: &Progress,
    ) -> Result<(BuildRequest, MainContext)> {
        let (request, main, _) = self.load_context(request, progress).await?;
        Ok((main.apply(request), main))
    }

    pub(super) fn sources(
        &self,
        request: &BuildRequest,
        main: &MainContext,
        contexts: &Contexts,
        damage: &Damage,
        progress: &Progress,
    ) -> Sources {
        let options = &self.options;
        let folder = options.root.join("sources/images");
        let images = ImageSource::new(options.store.clone(), options.clients.clone(), folder)
            .refresh(request.pull)
            .platforms(request.built_for())
            .damage(damage.clone())
            .progress(progress.clone());
        Sources::new(SourcesOptions {
            images: Arc::new(images),
            remotes: contexts.remotes.clone(),
            scratch: contexts.scratch.clone(),
            main: main.files(request),
            contexts: request.named_contexts.clone(),
            others: options.sources.clone(),
        })
    }

    pub(super) fn load_context<'a>(
        &'a self,
        request: BuildRequest,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<(BuildRequest, MainContext, Contexts)>> {
        // Boxed: programs that call this do not compile it again.
        Box::pin(async move {
            let options = RemoteOptions {
                secrets: request.secrets.clone(),
                proxy: self.options.proxy.clone(),
                idle_timeout: None,
                ssh_agent: request.ssh.get("default").cloned(),
                progress: progress.clone(),
            };
            let contexts = Contexts {
                remotes: RemoteSources::new(self.options.root.join("sources"), options),
                scratch: self.options.root.join("scratch"),
            };
            let main = contexts.main(&request).boxed().await?;
            Ok((request, main, contexts))
        })
    }
}

impl LocalBuilderOptions {
    /// Opens the builder: [`LocalBuilder::open`].
    ///
    /// # Errors
    /// Those of [`LocalBuilder::open`].
    pub fn open(self) -> Result<LocalBuilder> {
        LocalBuilder::open(self)
    }
}

impl fmt::Display for LocalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local builder in {}", self.options.root.display())
    }
}

#[async_trait]
impl Builder for LocalBuilder {
    async fn capabilities(&self) -> Result<BuilderCapabilities> {
        let engine = self.engine(Isolation::Full).await?;
        Ok(BuilderCapabilities {
            results: true,
            run: true,
            all_owners: engine.executor.capabilities().identity == Identity::Full,
            platforms: vec![Platform::host()],
        })
    }

    async fn build(&self, request: BuildRequest, progress: &Progress) -> Result<BuildOutput> {
        self.repeat(request, None, progress).await
    }
}

impl LocalBuilder {
    /// Builds a graph instead of a text. The request gives everything else: the contexts under the names that the graph uses,
    /// names of the image, outputs, permissions.
    ///
    /// # Errors
    /// Those of [`Builder::build`].
    pub async fn build_graph(
        &self,
        lowered: Lowered,
        request: BuildRequest,
        progress: &Progress,
    ) -> Result<BuildOutput> {
        self.repeat(request, Some(&lowered), progress).await
    }

    /// Builds, and starts again when a blob of the store is damaged.
    async fn repeat(
        &self,
        request: BuildRequest,
        given: Option<&Lowered>,
        progress: &Progress,
    ) -> Result<BuildOutput> {
        request.check_outputs()?;
        emptied_folders::check(&request, &self.options.root)?;
        let mut using = Some(Use::begin(&self.options.root, UseKind::Work).await?);
        let isolation = request.isolation;
        let output = self.keeping_to_limit(self.repeat_in_use(request, given, &mut using, progress)).await;
        if output.is_err()
            && let Some(engine) = self.made_engine(isolation).await
            && let Some(local) = &engine.local
        {
            local.settle(GARBAGE_WAIT).await;
        }
        drop(using);
        self.keep_to_limit().await;
        output
    }

    async fn repeat_in_use(
        &self,
        request: BuildRequest,
        given: Option<&Lowered>,
        using: &mut Option<Use>,
        progress: &Progress,
    ) -> Result<BuildOutput> {
        let (outputs, home) = (request.outputs.clone(), self.options.home.clone());
        // Holds named pipes open until the end.
        let (caches, access) = (request.cache_to.clone(), self.options.clients.s3_access().clone());
        let open = move || Destinations::open(&outputs, &caches, &access, home.as_deref());
        let _destinations = blocking(open).await?;
        self.warn_of_folder(progress);
        let damage = Damage::default();
        // Every attempt gives the same warnings.
        let progress = &progress.each_warning_once();
        let imports = self.imports(&request, progress);
        for _ in 0..REPAIRS {
            let error = match self.attempt(request.clone(), given, (&damage, &imports), progress).await {
                // A command can fail because of a damaged snapshot.
                Err(e) if e.kind() != crate::ErrorKind::CommandFailed || damage.has_lost() => e,
                done => return done,
            };
            // All layers are fetched before anything is written.
            if imports.take_losses() {
                continue;
            }
            let streams = request.outputs.iter().any(is_stream);
            if !streams && self.made_engine(request.isolation).await.is_some_and(|e| e.has_changed()) {
                continue;
            }
            let removed = damage.remove(&*self.options.store, &error).await;
            let lost = damage.take_lost();
            let Some(digest) = removed.first().or(lost.first()).cloned() else { return Err(error) };
            if !lost.is_empty() {
                // Nothing of this build is in use between two attempts.
                *using = None;
                self.remove_lost(request.isolation, lost, progress).await?;
                *using = Some(Use::begin(&self.options.root, UseKind::Work).await?);
            }
            if streams {
                return Err(crate::store::damage::damaged(&digest).with_source(error));
            }
            damage.warn(progress, &digest);
        }
        imports.leave();
        self.attempt(request, given, (&damage, &imports), progress).await
    }

    /// Removes damaged snapshots while nobody else works in the state folder. Waits for others, but not for ever.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when others still work there, and those of [`remove_lost`].
    async fn remove_lost(&self, isolation: Isolation, lost: Vec<Digest>, progress: &Progress) -> Result<()> {
        let snapshotter = Arc::clone(&self.engine(isolation).await?.snapshotter);
        if !snapshotter.list().await?.iter().any(|info| lost.contains(&info.chain)) {
            // Somebody else removed them.
            return Ok(());
        }
        let began = Instant::now();
        let mut task = None;
        loop {
            let root = self.options.root.clone();
            let closed = blocking(move || Closed::close_blocking(&root)).await?;
            if closed.oldest.is_none() {
                return remove_lost(&*snapshotter, lost).await;
            }
            drop(closed);
            if began.elapsed() > LOST_WAIT {
                return Err(Error::new(
                    crate::ErrorKind::Conflict,
                    "the snapshot of a layer is not as it was written, and it cannot be removed while other work \
                     uses the state folder: build again when that has ended",
                )
                .with_context("folder", self.options.root.display()));
            }
            task.get_or_insert_with(|| {
                progress.start("wait for other work before a damaged snapshot is removed", None)
            });
            tokio::time::sleep(LOST_PAUSE).await;
        }
    }

    /// Reports once that the folder was open to other users.
    pub(super) fn warn_of_folder(&self, progress: &Progress) {
        if let Some(warning) = self.warning.lock().unwrap_or_else(PoisonError::into_inner).take() {
            progress.warn(warning);
        }
    }
}
