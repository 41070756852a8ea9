//! The builder of this machine: frontend, solver and exporters in this process, commands in its sandbox.

use super::check::{Checked, check_dockerfile, lower_dockerfile};
use super::contexts::{Contexts, MainContext};
use super::emptied;
use super::epoch;
use super::export::{Exporter, Made, describe, refuse_files_of_windows};
use super::leftovers;
use super::resolver::BuildResolver;
use super::{
    BuildOutput, BuildRequest, Builder, BuilderCapabilities, Destination, NamedContext, Output, OutputKind,
};
use crate::cache::{DiskCache, SharedCache};
use crate::clock::{SharedClock, SystemClock};
use crate::exec::{Devices, Executor, HelperCommand, Identity, NativeExecutor};
use crate::frontend::{FrontendOptions, Lowered, dockerfile};
use crate::layer::copy::StatCache;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::snapshot::{LocalSnapshotter, SharedSnapshotter};
use crate::solve::{Needs, Solved, Solver, SolverBackends, SolverOptions, StepReport, Value, blocking};
use crate::source::{
    ClientFactory, ImageSource, ProxyChoice, RemoteOptions, RemoteSources, Sources, SourcesOptions,
};
use crate::store::SharedStore;
use crate::store::damage::Damage;
use crate::{Error, Result, ResultExt, private_folder};
use async_trait::async_trait;
use futures::FutureExt as _;
use std::collections::BTreeMap;
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
                    Arc::new(LocalSnapshotter::open(folder, executor.sandbox().clone()).await?);
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
    /// looked up, without their layers.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::fetch_context`] and of [`check_dockerfile`].
    pub async fn check(&self, request: BuildRequest, progress: &Progress) -> Result<Checked> {
        let (request, main, contexts) = self.bring_context(request, progress).await?;
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
        let (request, main, _) = self.bring_context(request, progress).await?;
        let name = main.name.display().to_string();
        let (file, _) = crate::dockerfile::parse(&main.text, &name).into_result()?;
        dockerfile::outline(&file, &frontend_options(&request))
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

    fn sources(
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
            others: BTreeMap::new(),
        })
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
        let sources = self.sources(&request, &main, &contexts, damage, progress);
        let lowered = self.lower(&request, &main, &sources, progress).await?;
        refuse_files_of_windows(&request, &lowered.config)?;
        sources.open_local().await?;
        let stat_path = self.options.root.join("stat-cache");
        let load = {
            let path = stat_path.clone();
            blocking(move || Ok(Arc::new(StatCache::load(&path))))
        };
        let policy = request.epoch_policy()?;
        let epoch = epoch::decide(policy, &lowered, main.time, &sources, &*self.options.clock);
        let (epoch, (executor, snapshotter), stat_cache) = tokio::try_join!(epoch, self.engine(), load)?;
        for note in executor.notes() {
            progress.warn(note.clone());
        }
        let backends = SolverBackends {
            store: self.options.store.clone(),
            snapshotter: snapshotter.clone(),
            executor: executor.clone() as Arc<dyn Executor>,
            cache: self.cache.clone(),
            sources,
            folder: self.options.root.clone(),
        };
        let options = SolverOptions {
            epoch,
            stat_cache: stat_cache.clone(),
            resolv_conf: self.options.resolv_conf.clone(),
            parallel: self.options.parallel,
            damage: damage.clone(),
            progress: progress.clone(),
            ..solver_options(&request)?
        };
        let Lowered { graph, root, config, history, .. } = lowered;
        let solver = Solver::new(Arc::new(graph), root, backends, options);
        let solved = solver.solve().await;
        stat_cache.prune(STAT_CACHE.0, STAT_CACHE.1);
        // What was hashed is worth keeping even when the build failed.
        let saved = stat_cache.save(&stat_path);
        let Solved { value, steps, epoch } = solved?;
        saved?;
        let chain = match value {
            Value::Chain(chain) => chain,
            Value::Unmade => return Ok(nothing(&request, steps, epoch, progress)),
            Value::Folder(_) => return Err(Error::internal("a target that is a folder")),
        };
        let made = Made { config, history, chain, epoch };
        let exporter = Exporter {
            request: &request,
            store: &self.options.store,
            clients: &self.options.clients,
            context: solver.context(),
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
            epoch,
        })
    }

    /// Parses and lowers the Dockerfile, and tells what is noticed.
    async fn lower(
        &self,
        request: &BuildRequest,
        main: &MainContext,
        sources: &Sources,
        progress: &Progress,
    ) -> Result<Lowered> {
        let resolver = BuildResolver { sources: sources.clone(), main_time: main.time };
        let options = frontend_options(request);
        let name = main.name.display().to_string();
        let mut warnings = Vec::new();
        let lowered = lower_dockerfile(&name, &main.text, &options, &resolver, &mut warnings).boxed().await;
        warnings.extend(unused_tags(request));
        warnings.into_iter().for_each(|warning| progress.warn(warning));
        lowered
    }
}

/// The output of a build that made no image, as nothing needed one.
fn nothing(request: &BuildRequest, steps: Vec<StepReport>, epoch: i64, progress: &Progress) -> BuildOutput {
    for output in &request.outputs {
        progress.start(format!("export {}", describe(&output.kind)), None).done();
    }
    BuildOutput { image: None, config: None, steps, tags: Vec::new(), epoch }
}

/// What the solver takes from a request.
fn solver_options(request: &BuildRequest) -> Result<SolverOptions> {
    // Layers are compressed as the first image has them; others are made of these.
    let first = request.outputs.iter().find(|output| output.has_image()).map(|output| &output.image);
    let (compression, compression_level) = first.map_or_else(Default::default, |i| (i.compression, i.level));
    Ok(SolverOptions {
        compression,
        compression_level,
        keeps_times: request.outputs.iter().any(|output| output.has_image() && output.image.keep_times),
        network: request.network,
        allow_insecure: request.allow_insecure,
        allow_host_network: request.allow_host_network,
        devices: Devices::load(&request.device_folders),
        allow_devices: request.allow_devices.clone(),
        extra_hosts: super::request::addresses(&request.extra_hosts)?,
        ssh: request.ssh.clone(),
        secrets: request.secrets.clone(),
        needs: match first {
            Some(_) => Needs::Blobs,
            None if request.outputs.iter().all(|output| output.kind == OutputKind::CacheOnly) => {
                Needs::Nothing
            }
            None => Needs::Layers,
        },
        ..SolverOptions::default()
    })
}

/// Says so when the names of the request are not those of any image.
fn unused_tags(request: &BuildRequest) -> Option<String> {
    let mut images = request.outputs.iter().filter(|output| output.has_image()).peekable();
    let has_own = |output: &Output| !output.image.names.is_empty();
    (!request.tags.is_empty() && images.peek().is_some() && images.all(has_own))
        .then(|| "the names of --tag are not used: every output has a `name` of its own".to_owned())
}

fn frontend_options(request: &BuildRequest) -> FrontendOptions {
    FrontendOptions {
        build_args: request.build_args.clone(),
        aliases: aliases(request),
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
