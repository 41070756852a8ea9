//! The builder of this machine: frontend, solver and exporters in this process, commands in its sandbox.

use super::contexts::{Contexts, MainContext};
use super::emptied;
use super::epoch::{self, Epoch};
use super::export::{Exporter, Made, refuse_files_of_windows};
use super::leftovers;
use super::resolver::BuildResolver;
use super::{
    BuildOutput, BuildRequest, Builder, BuilderCapabilities, Destination, NamedContext, Output, OutputKind,
};
use crate::cache::{DiskCache, SharedCache};
use crate::clock::{SharedClock, SystemClock};
use crate::exec::{Devices, Executor, HelperCommand, Identity, NativeExecutor};
use crate::frontend::{FrontendOptions, Lowered, dockerfile};
use crate::graph::{MountKind, Op};
use crate::layer::copy::StatCache;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::snapshot::{LocalSnapshotter, SharedSnapshotter};
use crate::solve::{SolveContext, Solver, Value, blocking};
use crate::source::{ClientFactory, ImageSource, ProxyChoice, RemoteOptions, RemoteSources};
use crate::store::SharedStore;
use crate::store::damage::Damage;
use crate::{Error, Result, ResultExt, private_folder};
use async_trait::async_trait;
use futures::FutureExt as _;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The most files that the stat cache remembers, and for how long it does.
const STAT_CACHE: (i64, usize) = (90 * 86_400, 500_000);

/// How often a build begins anew because a blob of the store that it read was damaged. Each time finds all that it reads.
const REPAIRS: usize = 8;

/// How to open a [`LocalBuilder`].
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
    /// How the sandbox's helper is started.
    pub helper: HelperCommand,
    /// The content of /etc/resolv.conf in commands; the host's without.
    pub resolv_conf: Option<String>,
    /// How many commands run at once; as many as there are processors, and at least four, without.
    pub parallel: Option<usize>,
    /// The time, for [`super::EpochPolicy::Now`].
    pub clock: SharedClock,
}

impl LocalBuilderOptions {
    /// Options with the defaults for everything else.
    pub fn new(root: impl Into<PathBuf>, store: SharedStore, clients: ClientFactory) -> Self {
        Self {
            root: root.into(),
            store,
            clients,
            proxy: None,
            helper: HelperCommand::current_exe(),
            resolv_conf: None,
            parallel: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Builds on this machine, without a daemon.
#[derive(Debug)]
pub struct LocalBuilder {
    options: LocalBuilderOptions,
    cache: SharedCache,
    engine: tokio::sync::OnceCell<(Arc<NativeExecutor>, SharedSnapshotter)>,
    /// What was found when it was opened and the first build is to tell.
    warning: Mutex<Option<String>>,
}

impl LocalBuilder {
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
        let cache = Arc::new(DiskCache::open(options.root.join("cache"))?);
        Ok(Self { options, cache, engine: tokio::sync::OnceCell::new(), warning: Mutex::new(warning) })
    }

    async fn engine(&self) -> Result<&(Arc<NativeExecutor>, SharedSnapshotter)> {
        self.engine
            .get_or_try_init(|| async {
                let executor = NativeExecutor::start(self.options.helper.clone()).await?;
                let root = self.options.root.clone();
                blocking(move || {
                    leftovers::sweep(&root, leftovers::AGE);
                    Ok(())
                })
                .await?;
                let folder = self.options.root.join("snapshots");
                let snapshotter: SharedSnapshotter =
                    Arc::new(LocalSnapshotter::open(folder, executor.clone()).await?);
                Ok((Arc::new(executor), snapshotter))
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
        let (request, main, _) = self.bring_context(request, progress).await?;
        Ok((main.apply(request), main))
    }

    /// Checks the Dockerfile of a request: its faults, and what the linter finds. Nothing is built; base images are
    /// looked up.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::fetch_context`] and of [`dockerfile::check`].
    pub async fn check(&self, request: BuildRequest, progress: &Progress) -> Result<dockerfile::Checked> {
        let (request, main, contexts) = self.bring_context(request, progress).await?;
        let request = Arc::new(request);
        let resolver = self.resolver(&request, &contexts, &Damage::default(), progress);
        let mut options = frontend_options(&request, &main);
        options.ignore = main.ignore(&request);
        let name = main.name.display().to_string();
        dockerfile::check(&name, &main.text, &options, &resolver).await
    }

    /// What the target of a request takes. Nothing is looked up but the context.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::fetch_context`], the faults of the file, and those of [`dockerfile::outline`].
    pub async fn outline(&self, request: BuildRequest, progress: &Progress) -> Result<dockerfile::Outline> {
        let (request, main, _) = self.bring_context(request, progress).await?;
        let name = main.name.display().to_string();
        let (file, _) = crate::dockerfile::parse(&main.text, &name).into_result()?;
        dockerfile::outline(&file, &frontend_options(&request, &main))
    }

    /// The stages of the Dockerfile of a request.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::fetch_context`], and the faults of the file.
    pub async fn targets(&self, request: BuildRequest, progress: &Progress) -> Result<dockerfile::Targets> {
        let (_, main, _) = self.bring_context(request, progress).await?;
        let name = main.name.display().to_string();
        let (file, _) = crate::dockerfile::parse(&main.text, &name).into_result()?;
        Ok(dockerfile::targets(&file))
    }

    fn resolver(
        &self,
        request: &Arc<BuildRequest>,
        contexts: &Contexts,
        damage: &Damage,
        progress: &Progress,
    ) -> BuildResolver {
        BuildResolver {
            request: Arc::clone(request),
            images: ImageSource {
                store: self.options.store.clone(),
                clients: self.options.clients.clone(),
                refresh: request.pull,
                damage: damage.clone(),
                progress: progress.clone(),
            },
            contexts: contexts.clone(),
            found: Mutex::new(HashMap::new()),
        }
    }

    async fn bring_context(
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

impl fmt::Display for LocalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local builder in {}", self.options.root.display())
    }
}

#[async_trait]
impl Builder for LocalBuilder {
    async fn capabilities(&self) -> Result<BuilderCapabilities> {
        let (executor, _) = self.engine().await?;
        Ok(BuilderCapabilities {
            run: true,
            all_owners: executor.identity() == Identity::Full,
            platforms: vec![Platform::host()],
        })
    }

    async fn build(&self, request: BuildRequest, progress: &Progress) -> Result<BuildOutput> {
        request.check_outputs()?;
        emptied::check(&request, &self.options.root)?;
        if let Some(warning) = self.warning.lock().unwrap_or_else(PoisonError::into_inner).take() {
            progress.warn(warning);
        }
        let damage = Damage::default();
        // Every attempt finds the same things to say.
        let progress = &progress.each_warning_once();
        for _ in 0..REPAIRS {
            let error = match self.attempt(request.clone(), &damage, progress).await {
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
        self.attempt(request, &damage, progress).await
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

impl LocalBuilder {
    /// Builds once. What is read of the store and is damaged ends it with an error, and is noted.
    async fn attempt(
        &self,
        request: BuildRequest,
        damage: &Damage,
        progress: &Progress,
    ) -> Result<BuildOutput> {
        let (request, main, contexts) = self.bring_context(request, progress).await?;
        let request = Arc::new(request);
        let resolver = self.resolver(&request, &contexts, damage, progress);
        let options = frontend_options(&request, &main);
        let name = main.name.display().to_string();
        let mut warnings = Vec::new();
        let lowered = dockerfile::lower(&name, &main.text, &options, &resolver, &mut warnings).boxed().await;
        warnings.extend(unused_tags(&request));
        warnings.into_iter().for_each(|warning| progress.warn(warning));
        let lowered = lowered?;
        refuse_files_of_windows(&request, &lowered.config)?;
        let images = resolver.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let sources = contexts.bring(&request, &main, &lowered).boxed().await?;
        let (policy, clock) = (request.epoch_policy()?, Arc::clone(&self.options.clock));
        let stat_path = self.options.root.join("stat-cache");
        let load = {
            let path = stat_path.clone();
            blocking(move || Ok(Arc::new(StatCache::load(&path))))
        };
        let ((lowered, sources, epoch), (executor, snapshotter), stat_cache) =
            tokio::try_join!(pick_epoch(policy, lowered, sources, main.time, clock), self.engine(), load)?;
        for note in executor.notes() {
            progress.warn(note.clone());
        }
        // Layers are compressed as the first image has them; others are made of these.
        let first = request.outputs.iter().find(|output| output.has_image()).map(|output| &output.image);
        let (compression, compression_level) =
            first.map_or_else(Default::default, |i| (i.compression, i.level));
        let keeps_times = request.outputs.iter().any(|output| output.has_image() && output.image.keep_times);
        let processors = std::thread::available_parallelism().map_or(4, usize::from);
        let has_caches = lowered.graph.reachable(lowered.root).into_iter().any(|at| {
            let Op::Exec(exec) = &lowered.graph.vertices()[at.index()].op else { return false };
            exec.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Cache { .. }))
        });
        let context = Arc::new(SolveContext {
            store: self.options.store.clone(),
            snapshotter: snapshotter.clone(),
            executor: executor.clone() as Arc<dyn Executor>,
            cache: self.cache.clone(),
            images,
            folders: sources.folders,
            fetched: sources.fetched,
            stat_cache: stat_cache.clone(),
            index_folder: self.options.root.join("indexes"),
            scratch: self.options.root.join("scratch"),
            cache_mounts: self.options.root.join("mounts"),
            renewed_caches: Mutex::default(),
            epoch: epoch.seconds,
            epoch_is_key: epoch.given,
            copies_as_published: epoch.given && !has_caches && !keeps_times,
            compression,
            compression_level,
            network: request.network,
            allow_insecure: request.allow_insecure,
            allow_host_network: request.allow_host_network,
            devices: Devices::load(&request.device_folders),
            allow_devices: request.allow_devices.clone(),
            extra_hosts: super::request::addresses(&request.extra_hosts)?,
            resolv_conf: self.options.resolv_conf.clone(),
            ssh: request.ssh.clone(),
            secrets: request.secrets.clone(),
            damage: damage.clone(),
            progress: progress.clone(),
            commands: tokio::sync::Semaphore::new(self.options.parallel.unwrap_or(processors.max(4))),
            indexes: tokio::sync::Mutex::default(),
        });
        let root = lowered.root;
        let graph = Arc::new(lowered.graph);
        let solved = Solver::new(graph, Arc::clone(&context)).solve(root).await;
        stat_cache.prune(STAT_CACHE.0, STAT_CACHE.1);
        // What was hashed is worth keeping even when the build failed.
        let saved = stat_cache.save(&stat_path);
        let (value, steps) = solved?;
        saved?;
        let Value::Chain(chain) = value else { return Err(Error::internal("a target that is a folder")) };
        let (config, history) = (lowered.config, lowered.history);
        let made = Made { config, history, chain, epoch: epoch.seconds };
        let exporter = Exporter {
            request: &request,
            store: &self.options.store,
            clients: &self.options.clients,
            context: &context,
            progress,
        };
        let exported = exporter.run(&made).boxed().await?;
        let name = exported.names.first().map(|name| Reference::parse(name).map(|name| name.familiar()));
        progress.send(Event::Result {
            name: name.and_then(Result::ok).unwrap_or_else(|| "image".to_owned()),
            digest: exported.image.digest.clone(),
        });
        Ok(BuildOutput {
            image: Some(exported.image),
            config: Some(exported.config),
            steps,
            tags: exported.names,
            epoch: epoch.seconds,
        })
    }
}

/// Says so when the names of the request are not those of any image.
fn unused_tags(request: &BuildRequest) -> Option<String> {
    let mut images = request.outputs.iter().filter(|output| output.has_image()).peekable();
    let has_own = |output: &Output| !output.image.names.is_empty();
    (!request.tags.is_empty() && images.peek().is_some() && images.all(has_own))
        .then(|| "the names of --tag are not used: every output has a `name` of its own".to_owned())
}

fn frontend_options(request: &BuildRequest, main: &MainContext) -> FrontendOptions {
    FrontendOptions {
        build_args: request.build_args.clone(),
        aliases: aliases(request),
        context_time: main.time,
        ignore: None,
        target: request.target.clone(),
        platform: request.platform.clone(),
        labels: request.labels.clone(),
        no_cache: request.no_cache,
        no_cache_filter: request.no_cache_filter.clone(),
    }
}

/// The names that stand for stages.
fn aliases(request: &BuildRequest) -> std::collections::BTreeMap<String, String> {
    let stage = |(name, context): (&String, &NamedContext)| match context {
        NamedContext::Stage(stage) => Some((name.clone(), stage.clone())),
        _ => None,
    };
    request.named_contexts.iter().filter_map(stage).collect()
}

async fn pick_epoch(
    policy: super::EpochPolicy,
    lowered: Lowered,
    sources: super::contexts::Sources,
    main: Option<i64>,
    clock: SharedClock,
) -> Result<(Lowered, super::contexts::Sources, Epoch)> {
    blocking(move || {
        let epoch = epoch::pick(policy, &lowered, &sources, main, &*clock)?;
        Ok((lowered, sources, epoch))
    })
    .await
}
