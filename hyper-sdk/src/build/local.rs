//! The builder of this machine: frontend, solver and exporters in this process, commands in its sandbox.

use super::check::{Checked, check_dockerfile};
use super::contexts::{Contexts, MainContext};
use super::destinations::Destinations;
use super::emptied_folders;
use super::frontend_options::frontend_options;
use super::leftovers;
use super::options::LocalBuilderOptions;
use super::resolver::BuildResolver;
use super::{BuildOutput, BuildRequest, Builder, BuilderCapabilities, Destination, Output, OutputKind};
use crate::cache::{DiskCache, SharedCache};
use crate::exec::{Executor, Identity, NativeExecutor};
use crate::frontend::{Lowered, dockerfile};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::snapshot::{LocalSnapshotter, SharedSnapshotter};
use crate::solve::blocking;
use crate::source::{ClientFactory, ImageSource, RemoteOptions, RemoteSources, Sources, SourcesOptions};
use crate::store::SharedStore;
use crate::store::damage::Damage;
use crate::{Error, Result, ResultExt, private_folder};
use async_trait::async_trait;
use futures::FutureExt as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// How often a build begins anew because a blob of the store that it read was damaged. Each time finds all that it reads.
const REPAIRS: usize = 8;

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
    engine: tokio::sync::OnceCell<Engine>,
    /// What was found when it was opened and the first build is to tell.
    warning: Mutex<Option<String>>,
}

/// What runs commands and keeps their trees.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) executor: Arc<dyn Executor>,
    pub(super) snapshotter: SharedSnapshotter,
    /// What is to be said of the sandbox.
    pub(super) notes: Vec<String>,
}

impl LocalBuilder {
    /// A builder on a folder, a store and registries, whose parts can be given: [`LocalBuilderOptions`].
    pub fn builder(
        root: impl Into<PathBuf>,
        store: SharedStore,
        clients: ClientFactory,
    ) -> LocalBuilderOptions {
        LocalBuilderOptions::new(root, store, clients)
    }

    /// Opens the builder on its folder, which is made when it is missing and closed to other users ([`private_folder`]).
    /// That it was open before is a warning of the first build.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be made or written, and those of [`private_folder::open`].
    pub fn open(options: LocalBuilderOptions) -> Result<Self> {
        let warning = private_folder::open(&options.root)?.warning;
        for name in ["indexes", "mounts", "scratch", "snapshots"] {
            let path = options.root.join(name);
            std::fs::create_dir_all(&path).at("cannot make a folder of the builder", &path)?;
            private_folder::close_within(&path)?;
        }
        let cache: SharedCache = match &options.cache {
            Some(cache) => Arc::clone(cache),
            None => Arc::new(DiskCache::open(options.root.join("cache"))?),
        };
        Ok(Self { options, cache, engine: tokio::sync::OnceCell::new(), warning: Mutex::new(warning) })
    }

    pub(super) async fn engine(&self) -> Result<&Engine> {
        self.engine
            .get_or_try_init(|| async {
                let options = &self.options;
                let sandbox = match (&options.executor, &options.snapshotter) {
                    (Some(_), Some(_)) => None,
                    _ => Some(Sandbox::start(options.helper.clone()).await?),
                };
                let root = options.root.clone();
                blocking(move || {
                    leftovers::sweep(&root, leftovers::AGE);
                    Ok(())
                })
                .await?;
                let snapshotter: SharedSnapshotter = match (&options.snapshotter, &sandbox) {
                    (Some(snapshotter), _) => Arc::clone(snapshotter),
                    (None, Some(sandbox)) => {
                        let folder = options.root.join("snapshots");
                        Arc::new(LocalSnapshotter::open(folder, sandbox.clone()).await?)
                    }
                    (None, None) => return Err(Error::internal("a builder without a snapshotter")),
                };
                let notes = sandbox.as_ref().map(|sandbox| sandbox.notes().to_vec()).unwrap_or_default();
                let executor: Arc<dyn Executor> = match (&options.executor, sandbox) {
                    (Some(executor), _) => Arc::clone(executor),
                    (None, Some(sandbox)) => Arc::new(NativeExecutor::new(sandbox)),
                    (None, None) => return Err(Error::internal("a builder without an executor")),
                };
                Ok(Engine { executor, snapshotter, notes })
            })
            .await
    }

    /// Brings the main context of a request to this machine when it is a git repository or a web address. What comes
    /// out has the text of the Dockerfile, and a folder or nothing as its context; the folder is there as long as the
    /// second value is.
    ///
    /// # Errors
    /// Those of the fetch; [`crate::ErrorKind::NotFound`] when the Dockerfile is not in the context.
    pub async fn fetch_context(
        &self,
        request: BuildRequest,
        progress: &Progress,
    ) -> Result<(BuildRequest, impl Send + use<>)> {
        let (request, main, _) = self.load_context(request, progress).await?;
        Ok((main.apply(request), main))
    }

    /// Checks the Dockerfile of a request: its faults, and what the linter finds. Nothing is built; base images are
    /// looked up, without their layers.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::fetch_context`] and of [`check_dockerfile`].
    pub async fn check(&self, request: BuildRequest, progress: &Progress) -> Result<Checked> {
        let (request, main, contexts) = self.load_context(request, progress).await?;
        let sources = self.sources(&request, &main, &contexts, &Damage::default(), progress);
        let resolver = BuildResolver { sources, main_time: main.time };
        let options = frontend_options(&request);
        let name = main.name.display().to_string();
        check_dockerfile(&name, &main.text, &options, main.ignore(&request), &resolver).await
    }

    /// What the target of a request takes. Nothing is looked up but the context.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::fetch_context`], the faults of the file, and those of [`dockerfile::outline`].
    pub async fn outline(&self, request: BuildRequest, progress: &Progress) -> Result<dockerfile::Outline> {
        let (request, main, _) = self.load_context(request, progress).await?;
        let name = main.name.display().to_string();
        let (file, _) = crate::dockerfile::parse(&main.text, &name).into_result()?;
        dockerfile::outline(&file, &frontend_options(&request))
    }

    /// The stages of the Dockerfile of a request.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::fetch_context`], and the faults of the file.
    pub async fn targets(&self, request: BuildRequest, progress: &Progress) -> Result<dockerfile::Targets> {
        let (_, main, _) = self.load_context(request, progress).await?;
        let name = main.name.display().to_string();
        let (file, _) = crate::dockerfile::parse(&main.text, &name).into_result()?;
        Ok(dockerfile::targets(&file))
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

    pub(super) async fn load_context(
        &self,
        request: BuildRequest,
        progress: &Progress,
    ) -> Result<(BuildRequest, MainContext, Contexts)> {
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
        let engine = self.engine().await?;
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
    /// Builds a graph that no text was lowered to. The request gives everything but the text: contexts by the names that
    /// the graph has for them, names, outputs, permissions.
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

    /// Builds, and begins anew where the store was damaged.
    async fn repeat(
        &self,
        request: BuildRequest,
        given: Option<&Lowered>,
        progress: &Progress,
    ) -> Result<BuildOutput> {
        request.check_outputs()?;
        emptied_folders::check(&request, &self.options.root)?;
        let (outputs, home) = (request.outputs.clone(), self.options.home.clone());
        // Holds named pipes open until the end.
        let _destinations = blocking(move || Destinations::open(&outputs, home.as_deref())).await?;
        self.warn_of_folder(progress);
        let damage = Damage::default();
        // Every attempt finds the same things to say.
        let progress = &progress.each_warning_once();
        for _ in 0..REPAIRS {
            let error = match self.attempt(request.clone(), given, &damage, progress).await {
                Err(e) if e.kind() != crate::ErrorKind::CommandFailed => e,
                done => return done,
            };
            let removed = damage.remove(&*self.options.store, &error).await;
            let Some(digest) = removed.first() else { return Err(error) };
            if request.outputs.iter().any(is_stream) {
                return Err(crate::store::damage::damaged(digest).with_source(error));
            }
            damage.tell(progress, digest);
        }
        self.attempt(request, given, &damage, progress).await
    }

    /// Tells once that the folder was open to other users.
    pub(super) fn warn_of_folder(&self, progress: &Progress) {
        if let Some(warning) = self.warning.lock().unwrap_or_else(PoisonError::into_inner).take() {
            progress.warn(warning);
        }
    }
}

/// Whether an output is written as it is made, so that a second attempt would come behind what was written of the first.
fn is_stream(output: &Output) -> bool {
    let (OutputKind::Oci(to) | OutputKind::Docker(to) | OutputKind::Tar(to)) = &output.kind else {
        return false;
    };
    match to {
        Destination::Stdout(_) => true,
        Destination::File(path) => std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()),
        Destination::Folder(_) => false,
    }
}
