//! The builder of this machine: frontend, solver and exporters in this process, commands in its sandbox.

use super::epoch::{self, Epoch};
use super::{
    BuildContext, BuildOutput, BuildRequest, Builder, BuilderCapabilities, Destination, NamedContext, Output,
};
use crate::cache::{DiskCache, SharedCache};
use crate::clock::{SharedClock, SystemClock};
use crate::exec::{Executor, HelperCommand, Identity, NativeExecutor};
use crate::export::{ArchiveKind, BuiltImage, export_folder, export_tar, write_archive};
use crate::frontend::{FrontendOptions, Lowered, Resolved, Resolver, dockerfile};
use crate::layer::copy::{SourceRoot, StatCache};
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::snapshot::{LocalSnapshotter, SharedSnapshotter};
use crate::solve::{Layer, SolveContext, Solver, Value, blocking};
use crate::source::{ClientFactory, ImageSource, SourceImage, open_context};
use crate::store::{SharedStore, local_repository};
use crate::{Digest, Error, ErrorKind, Result, ResultExt};
use async_trait::async_trait;
use futures::FutureExt as _;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The most files that the stat cache remembers, and for how long it does.
const STAT_CACHE: (i64, usize) = (90 * 86_400, 500_000);

/// How to open a [`LocalBuilder`].
#[derive(Clone, Debug)]
pub struct LocalBuilderOptions {
    /// The folder of the build cache, the snapshots and the cache mounts. Several processes may share it.
    pub root: PathBuf,
    /// The store of images and layers.
    pub store: SharedStore,
    /// The registries that base images come from and images are pushed to.
    pub clients: ClientFactory,
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
}

impl LocalBuilder {
    /// Opens the builder on its folder, which is made when it is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the folder cannot be made or written.
    pub fn open(options: LocalBuilderOptions) -> Result<Self> {
        for name in ["indexes", "mounts", "scratch", "snapshots"] {
            let path = options.root.join(name);
            std::fs::create_dir_all(&path).at("cannot make a folder of the builder", &path)?;
        }
        let cache = Arc::new(DiskCache::open(options.root.join("cache"))?);
        Ok(Self { options, cache, engine: tokio::sync::OnceCell::new() })
    }

    async fn engine(&self) -> Result<&(Arc<NativeExecutor>, SharedSnapshotter)> {
        self.engine
            .get_or_try_init(|| async {
                let executor = NativeExecutor::start(self.options.helper.clone()).await?;
                let folder = self.options.root.join("snapshots");
                let snapshotter: SharedSnapshotter =
                    Arc::new(LocalSnapshotter::open(folder, executor.clone()).await?);
                Ok((Arc::new(executor), snapshotter))
            })
            .await
    }

    fn folders(&self, request: &BuildRequest) -> Result<BTreeMap<String, Arc<SourceRoot>>> {
        let mut folders = BTreeMap::new();
        if let BuildContext::Folder(path) = &request.context {
            let root = open_context(path, Some(&request.dockerfile_name)).op("open the build context")?;
            folders.insert(String::new(), root);
        }
        for (name, context) in &request.named_contexts {
            if let NamedContext::Folder(path) = context {
                folders.insert(name.clone(), open_context(path, None).context("build context", name)?);
            }
        }
        Ok(folders)
    }

    async fn export(
        &self,
        request: &BuildRequest,
        image: &BuiltImage,
        snapshotter: &SharedSnapshotter,
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
                    context.unpack(&image.chain).await?;
                    export_tar(snapshotter.export(image.chain.id(), "/").await?, path).await
                }
                Output::Local(path) | Output::Tar(Destination::Folder(path)) => {
                    context.unpack(&image.chain).await?;
                    let tar = snapshotter.export(image.chain.id(), "/").await?;
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
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let request = Arc::new(request);
        let resolver = BuildResolver {
            request: Arc::clone(&request),
            images: ImageSource {
                store: self.options.store.clone(),
                clients: self.options.clients.clone(),
                refresh: request.pull,
                progress: progress.clone(),
            },
            found: Mutex::new(HashMap::new()),
        };
        let options = FrontendOptions {
            build_args: request.build_args.clone(),
            target: request.target.clone(),
            platform: Some(platform.clone()),
            labels: request.labels.clone(),
            no_cache: request.no_cache,
            no_cache_filter: request.no_cache_filter.clone(),
        };
        let name = request.dockerfile_name.display().to_string();
        let lowered = dockerfile::lower(&name, &request.dockerfile, &options, &resolver).boxed().await?;
        for warning in &lowered.warnings {
            progress.warn(warning.clone());
        }
        let images = resolver.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let folders = self.folders(&request)?;
        let argument = request.build_args.get("SOURCE_DATE_EPOCH").cloned();
        let (policy, clock) = (request.epoch, Arc::clone(&self.options.clock));
        let (lowered, epoch) = pick_epoch(policy, argument, lowered, folders.clone(), clock).await?;
        let (executor, snapshotter) = self.engine().await?;
        for note in executor.notes() {
            progress.warn(note.clone());
        }
        let stat_path = self.options.root.join("stat-cache");
        let stat_cache = Arc::new(StatCache::load(&stat_path));
        let processors = std::thread::available_parallelism().map_or(4, usize::from);
        let context = Arc::new(SolveContext {
            store: self.options.store.clone(),
            snapshotter: snapshotter.clone(),
            executor: executor.clone() as Arc<dyn Executor>,
            cache: self.cache.clone(),
            images,
            folders,
            stat_cache: stat_cache.clone(),
            index_folder: self.options.root.join("indexes"),
            scratch: self.options.root.join("scratch"),
            cache_mounts: self.options.root.join("mounts"),
            epoch: epoch.seconds,
            epoch_is_key: epoch.given,
            compression: request.compression,
            compression_level: request.compression_level,
            network: request.network,
            allow_insecure: request.allow_insecure,
            allow_host_network: request.allow_host_network,
            extra_hosts: request.extra_hosts.clone(),
            resolv_conf: self.options.resolv_conf.clone(),
            secrets: request.secrets.clone(),
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
        let image = BuiltImage::new(lowered.config, &lowered.history, chain, epoch.seconds, annotations)?;
        self.export(&request, &image, snapshotter, &context, progress).boxed().await?;
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

async fn pick_epoch(
    policy: super::EpochPolicy,
    argument: Option<String>,
    lowered: Lowered,
    folders: BTreeMap<String, Arc<SourceRoot>>,
    clock: SharedClock,
) -> Result<(Lowered, Epoch)> {
    blocking(move || {
        let epoch = epoch::pick(policy, argument.as_deref(), &lowered, &folders, &*clock)?;
        Ok((lowered, epoch))
    })
    .await
}

/// Resolves names by the request's named contexts and the image source, and remembers the layers.
struct BuildResolver {
    request: Arc<BuildRequest>,
    images: ImageSource,
    found: Mutex<HashMap<Digest, Vec<Layer>>>,
}

impl BuildResolver {
    fn remember(&self, reference: String, image: SourceImage) -> Result<Resolved> {
        let manifest =
            image.manifest.image().ok_or_else(|| Error::internal("an index where an image was expected"))?;
        let layers = manifest.layers.iter().zip(&image.config.rootfs.diff_ids).map(|(blob, diff_id)| Layer {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            repository: image.repository.clone(),
        });
        let digest = image.manifest.digest().clone();
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), layers.collect());
        Ok(Resolved::Image { reference, manifest: digest, config: Box::new(image.config) })
    }
}

#[async_trait]
impl Resolver for BuildResolver {
    async fn context(&self, name: &str, platform: &Platform) -> Result<Option<Resolved>> {
        let contexts = &self.request.named_contexts;
        // `name::platform` is for one platform; docker.io/library/NAME:latest and NAME are the same.
        let full = Reference::parse(name).ok();
        let same = |key: &str| {
            key == name || full.as_ref().is_some_and(|f| Reference::parse(key).is_ok_and(|k| k == *f))
        };
        let found = contexts
            .iter()
            .find(|(key, _)| {
                key.split_once("::").is_some_and(|(k, p)| {
                    same(k) && p.parse::<Platform>().is_ok_and(|p| platform.matches(&p))
                })
            })
            .or_else(|| contexts.iter().find(|(key, _)| same(key)));
        let Some((_, context)) = found else { return Ok(None) };
        Ok(Some(match context {
            NamedContext::Folder(_) => Resolved::Folder,
            NamedContext::OciLayout { path, tag, digest } => {
                let image = self.images.layout(path, tag.as_deref(), digest.as_ref(), platform).await?;
                self.remember(name.to_owned(), image)?
            }
            NamedContext::Image(reference) => {
                let image = self.images.image(reference, platform).await?;
                self.remember(reference.to_string(), image)?
            }
        }))
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        let reference = Reference::parse(name).map_err(|e| {
            let kind = if e.kind() == ErrorKind::Internal { e.kind() } else { ErrorKind::Invalid };
            e.with_kind(kind)
        })?;
        let image = self.images.image(&reference, platform).await?;
        self.remember(reference.to_string(), image)
    }
}
