//! The builder of this machine: frontend, solver and exporters in this process, commands in its sandbox.

use super::contexts::{Contexts, MainContext};
use super::epoch::{self, Epoch};
use super::leftovers;
use super::resolver::BuildResolver;
use super::{BuildOutput, BuildRequest, Builder, BuilderCapabilities, Destination, NamedContext, Output};
use crate::cache::{DiskCache, SharedCache};
use crate::clock::{SharedClock, SystemClock};
use crate::exec::{Devices, Executor, HelperCommand, Identity, NativeExecutor};
use crate::export::{ArchiveKind, BuiltImage, export_folder, export_tar, write_archive};
use crate::frontend::{FrontendOptions, Lowered, dockerfile};
use crate::layer::copy::StatCache;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::snapshot::{LocalSnapshotter, SharedSnapshotter};
use crate::solve::{SolveContext, Solver, Value, blocking};
use crate::source::{ClientFactory, ImageSource, ProxyChoice, RemoteOptions, RemoteSources};
use crate::store::damage::Damage;
use crate::store::{SharedStore, local_repository};
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

    async fn export(
        &self,
        request: &BuildRequest,
        image: &BuiltImage,
        context: &SolveContext,
        progress: &Progress,
    ) -> Result<()> {
        let store = &self.options.store;
        for output in &request.outputs {
            let task = progress.start(format!("export {}", describe(output)), None);
            let result = match output {
                Output::CacheOnly => Ok(()),
                Output::Image { push } => self.export_image(request, image, *push, progress).await,
                Output::Oci(to) => {
                    let (path, folder) = place(to);
                    write_archive(image, &**store, &request.tags, ArchiveKind::Oci, path, folder).await
                }
                Output::Docker(to) => {
                    let (path, folder) = place(to);
                    write_archive(image, &**store, &request.tags, ArchiveKind::Docker, path, folder).await
                }
                Output::Tar(Destination::File(path) | Destination::Stdout(path)) => {
                    export_tar(context.export(&image.chain).await?, path).await
                }
                Output::Local(path) | Output::Tar(Destination::Folder(path)) => {
                    let tar = context.export(&image.chain).await?;
                    export_folder(tar, path).await.map(|skipped| {
                        for device in skipped {
                            progress
                                .warn(format!("the device `{device}` was left out: only root can make it"));
                        }
                    })
                }
            };
            task.end_with(result)?;
        }
        Ok(())
    }

    async fn export_image(
        &self,
        request: &BuildRequest,
        image: &BuiltImage,
        push: bool,
        progress: &Progress,
    ) -> Result<()> {
        let store = &self.options.store;
        if request.tags.is_empty() {
            if push {
                return Err(Error::invalid("a push needs a name: give one with --tag"));
            }
            let repository = crate::RepositoryName::parse(crate::solve::LAYERS_REPOSITORY)?;
            image.store(&**store, &repository, Vec::new()).await?;
        }
        for name in &request.tags {
            let repository = local_repository(name)?;
            image.store(&**store, &repository, name.tag().cloned().into_iter().collect()).await?;
        }
        if push {
            for name in &request.tags {
                let client = self.options.clients.client(name.host())?;
                let options = crate::client::PushOptions {
                    progress: progress.clone(),
                    ..crate::client::PushOptions::default()
                };
                crate::client::push(
                    store,
                    &local_repository(name)?,
                    &image.manifest.digest().clone().into(),
                    &client,
                    name.repository(),
                    &name.manifest(),
                    &options,
                )
                .await?;
            }
        }
        Ok(())
    }
}

fn place(destination: &Destination) -> (&std::path::Path, bool) {
    match destination {
        Destination::File(path) | Destination::Stdout(path) => (path, false),
        Destination::Folder(path) => (path, true),
    }
}

fn describe(output: &Output) -> String {
    let to = |d: &Destination| place(d).0.display().to_string();
    match output {
        Output::Image { push: true } => "to the local store and push".to_owned(),
        Output::Image { push: false } => "to the local store".to_owned(),
        Output::Oci(d) => format!("OCI layout to {}", to(d)),
        Output::Docker(d) => format!("Docker archive to {}", to(d)),
        Output::Tar(d) => format!("files as tar to {}", to(d)),
        Output::Local(path) => format!("files to {}", path.display()),
        Output::CacheOnly => "nothing".to_owned(),
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
        if let Some(warning) = self.warning.lock().unwrap_or_else(PoisonError::into_inner).take() {
            progress.warn(warning);
        }
        let damage = Damage::default();
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
    match output {
        Output::Oci(to) | Output::Docker(to) | Output::Tar(to) => match to {
            Destination::Stdout(_) => true,
            Destination::File(path) => std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()),
            Destination::Folder(_) => false,
        },
        Output::Image { .. } | Output::Local(_) | Output::CacheOnly => false,
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
        let lowered = dockerfile::lower(&name, &main.text, &options, &resolver).boxed().await?;
        for warning in &lowered.warnings {
            progress.warn(warning.clone());
        }
        refuse_files_of_windows(&request, &lowered)?;
        let images = resolver.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let sources = contexts.bring(&request, &main, &lowered).boxed().await?;
        let (policy, clock) = (request.epoch, Arc::clone(&self.options.clock));
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
        let processors = std::thread::available_parallelism().map_or(4, usize::from);
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
            compression: request.compression,
            compression_level: request.compression_level,
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
        let annotations = request.annotations.clone();
        let platform = lowered.config.platform();
        let image = BuiltImage::new(lowered.config, &lowered.history, chain, epoch.seconds, annotations)?;
        self.export(&request, &image, &context, progress).boxed().await?;
        progress.send(Event::Result {
            name: request.tags.first().map_or_else(|| "image".to_owned(), Reference::familiar),
            digest: image.manifest.digest().clone(),
        });
        let mut descriptor = image.manifest.descriptor();
        descriptor.platform = Some(platform);
        Ok(BuildOutput {
            image: Some(descriptor),
            config: Some(image.config_descriptor().digest),
            steps,
            tags: request.tags.iter().map(ToString::to_string).collect(),
            epoch: epoch.seconds,
        })
    }
}

/// The files of an image for Windows are not written: its layers have a form of their own.
fn refuse_files_of_windows(request: &BuildRequest, lowered: &Lowered) -> Result<()> {
    let writes_files = |output: &&Output| matches!(output, Output::Tar(_) | Output::Local(_));
    let is_windows = lowered.config.os.eq_ignore_ascii_case("windows");
    match request.outputs.iter().find(writes_files) {
        Some(output) if is_windows && !lowered.config.rootfs.diff_ids.is_empty() => {
            Err(Error::unsupported(format!(
                "writing the {} of an image for Windows is not supported yet: keep it as an image",
                describe(output)
            )))
        }
        _ => Ok(()),
    }
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
