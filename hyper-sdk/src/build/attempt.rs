//! One build, from the context to the outputs, or up to its plan.

use super::cache_export::CacheExport;
use super::contexts::MainContext;
use super::epoch;
use super::exec_step::exec_in;
use super::export::{BuildResult, Exported, Outputs, describe, reject_windows_files};
use super::exporters::Exporters;
use super::foreign;
use super::local::Engine;
use super::platforms::{Merged, PlatformTarget};
use super::resolver::BuildResolver;
use super::{BuildOutput, BuildRequest, DockerfileFrontend, LocalBuilder, Output};
use crate::cache::Imports;
use crate::exec::Devices;
use crate::frontend::{Lowered, SharedFrontend};
use crate::graph::{Graph, VertexId};
use crate::layer::copy::StatCache;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::solve::{
    Chain, Needs, Solved, Solver, SolverBackends, SolverOptions, StepReport, StepResult, blocking,
};
use crate::source::Sources;
use crate::store::SharedStore;
use crate::store::damage::Damage;
use crate::store::wrap::InUse;
use crate::{Error, Result};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;

/// The most files that the stat cache remembers, and for how long it does.
const STAT_CACHE: (i64, usize) = (90 * 86_400, 500_000);

/// A build that has not started.
#[derive(Debug)]
pub(super) struct Prepared {
    request: BuildRequest,
    /// Keeps the folder of a context that was fetched.
    _main: MainContext,
    pub(super) graph: Arc<Graph>,
    pub(super) roots: Vec<VertexId>,
    targets: Vec<PlatformTarget>,
    pub(super) solver: Solver,
    store: SharedStore,
    stat_cache: Arc<StatCache>,
    stat_path: PathBuf,
    exporters: Exporters,
}

impl LocalBuilder {
    /// Fetches the context, lowers the text unless a lowered graph is given, and decides the epoch of the result.
    pub(super) fn prepare<'a>(
        &'a self,
        request: BuildRequest,
        given: Option<&'a Lowered>,
        (damage, imports): (&'a Damage, &'a Imports),
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<Prepared>> {
        // Boxed: programs that call this do not compile it again.
        Box::pin(async move {
            let (request, main, contexts) = self.load_context(request, progress).await?;
            let sources = self.sources(&request, &main, &contexts, damage, progress);
            let lowered = match given {
                Some(lowered) => {
                    let platform = request.only_platform("a graph")?.unwrap_or_else(Platform::host);
                    vec![(platform, lowered.clone())]
                }
                None => self.lower(&request, &main, &sources, progress).await?,
            };
            for (_, lowered) in &lowered {
                reject_windows_files(&request, &lowered.config)?;
            }
            let lowered = Merged::new(lowered)?;
            sources.open_local().await?;
            let stat_path = self.options.root.join("stat-cache");
            let load = {
                let path = stat_path.clone();
                blocking(move || Ok(Arc::new(StatCache::load(&path))))
            };
            let policy = request.epoch_policy()?;
            let epoch = epoch::decide(policy, &lowered, main.time, &sources, &*self.options.clock);
            let (epoch, engine, stat_cache) = tokio::try_join!(epoch, self.engine(request.isolation), load)?;
            let Engine { executor, snapshotter, notes, .. } = &*engine;
            for note in notes {
                progress.warn(note.clone());
            }
            request.limits.validate()?;
            request.check_mounts(&executor.capabilities())?;
            super::request::check_network(&request, &**executor)?;
            let store: SharedStore = Arc::new(InUse::new(Arc::clone(&self.options.store)));
            let backends = SolverBackends {
                store: Arc::clone(&store),
                snapshotter: snapshotter.clone(),
                executor: executor.clone(),
                cache: self.cache.clone(),
                sources,
                folder: self.options.root.clone(),
            };
            let exporters =
                Exporters { clients: self.options.clients.clone(), others: self.options.exporters.clone() };
            let mut roots = lowered.roots();
            let Merged { mut graph, targets, .. } = lowered;
            let mut on_error_in = None;
            if let Some(step) = &request.exec_in {
                let root = exec_in(&mut graph, &roots, step)?;
                // The step itself, which may fail.
                let step = graph.vertex(root).inputs.first();
                on_error_in = step.map(|step| graph.vertex(*step).address().clone());
                roots = vec![root];
            }
            let options = SolverOptions {
                epoch,
                needs: needs(&request, &exporters, targets.len())?,
                stat_cache: stat_cache.clone(),
                resolv_conf: self.options.resolv_conf.clone(),
                parallel: self.options.parallel,
                damage: damage.clone(),
                imports: imports.clone(),
                keeps_results: request.shares_results(),
                shares_mounts: request.shares_mounts(),
                progress: progress.clone(),
                on_error_in,
                recorder: request.recorder.clone(),
                ..solver_options(&request)?
            };
            let graph = Arc::new(graph);
            let solver = Solver::new(Arc::clone(&graph), roots.clone(), backends, options);
            // Another executor may run anything.
            if engine.sandbox.is_some() && self.options.executor.is_none() {
                foreign::check(&graph, &roots, &solver, progress).await?;
            }
            Ok(Prepared {
                request,
                _main: main,
                graph,
                roots,
                targets,
                solver,
                store,
                stat_cache,
                stat_path,
                exporters,
            })
        })
    }

    /// Builds once. A blob of the store that is read and is damaged ends the build with an error, and is noted in `damage`.
    pub(super) async fn attempt(
        &self,
        request: BuildRequest,
        given: Option<&Lowered>,
        (damage, imports): (&Damage, &Imports),
        progress: &Progress,
    ) -> Result<BuildOutput> {
        let prepared = self.prepare(request, given, (damage, imports), progress).await?;
        let Prepared { request, targets, solver, store, stat_cache, stat_path, exporters, _main, .. } =
            prepared;
        let solved = solver.solve().await;
        stat_cache.prune(STAT_CACHE.0, STAT_CACHE.1);
        // The hashes are worth keeping even when the build failed.
        let saved = stat_cache.save(&stat_path);
        let Solved { values, steps, epoch } = solved?;
        saved?;
        let mut results = Vec::new();
        for (target, value) in targets.into_iter().zip(values) {
            match value {
                StepResult::Chain(chain) => results.push(BuildResult { target, chain, epoch }),
                StepResult::Unmade => {
                    solver.context().settle().await?;
                    return Ok(without_result(&request, steps, epoch, progress));
                }
                StepResult::Folder(_) => return Err(Error::internal("a target that is a folder")),
            }
        }
        let outputs = Outputs {
            request: &request,
            store: &store,
            exporters: &exporters,
            context: solver.context(),
            progress,
        };
        let mut exported = outputs.run(&results).boxed().await;
        if exported.is_ok() && request.shares_results() {
            let caches = CacheExport {
                request: &request,
                context: solver.context(),
                store: &store,
                clients: &self.options.clients,
                imports,
                progress,
            };
            let chains: Vec<Chain> = results.iter().map(|result| result.chain.clone()).collect();
            exported = caches.run(&chains).boxed().await.and(exported);
        }
        // What nothing has unpacked is worth keeping even when an output failed.
        let settled = solver.context().settle().await;
        let Exported { image, names } = exported?;
        settled?;
        if let Some((image, _)) = &image {
            let name = names.first().map(|name| Reference::parse(name).map(|name| name.familiar()));
            progress.send(Event::Result {
                name: name.and_then(Result::ok).unwrap_or_else(|| "image".to_owned()),
                digest: image.digest.clone(),
            });
        }
        let (image, config) = image.unzip();
        Ok(BuildOutput { image, config: config.flatten(), steps, tags: names, epoch })
    }

    /// Parses and lowers the text of the request for each of its platforms. Warnings go to the progress.
    async fn lower(
        &self,
        request: &BuildRequest,
        main: &MainContext,
        sources: &Sources,
        progress: &Progress,
    ) -> Result<Vec<(Platform, Lowered)>> {
        let resolver = BuildResolver { sources: sources.clone(), main_time: main.time };
        let frontend = match self.frontend(request, &main.text)? {
            Some((_, frontend)) => Arc::clone(frontend),
            None => Arc::new(DockerfileFrontend),
        };
        let name = main.name.display().to_string();
        let one = request.asked_platforms().into_iter().map(async |platform| {
            let options = self.frontend_options(request, platform);
            let mut warnings = Vec::new();
            let lowered = frontend.lower(&name, &main.text, &options, &resolver, &mut warnings).await;
            (lowered, warnings)
        });
        let all = futures::future::join_all(one).await;
        let (mut lowered, mut warnings) = (Vec::new(), Vec::new());
        for (outcome, of_one) in all {
            lowered.push(outcome);
            for warning in of_one {
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        warnings.extend(unused_tags(request));
        warnings.into_iter().for_each(|warning| progress.warn(warning));
        request
            .built_for()
            .into_iter()
            .zip(lowered)
            .map(|(platform, lowered)| Ok((platform, lowered?)))
            .collect()
    }

    /// The frontend of a text, with its name; `None` for a Dockerfile. The request names it, else the build argument
    /// BUILDKIT_SYNTAX, else the text itself.
    pub(super) fn frontend(
        &self,
        request: &BuildRequest,
        text: &str,
    ) -> Result<Option<(&str, &SharedFrontend)>> {
        let known = &self.options.frontends;
        let get = |name: &str| known.get_key_value(name).map(|(name, frontend)| (name.as_str(), frontend));
        if let Some(name) = &request.frontend {
            return get(name).map(Some).ok_or_else(|| {
                let names = known.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>();
                let others = match names.is_empty() {
                    true => "it has only the one for Dockerfiles".to_owned(),
                    false => format!("it has {} and the one for Dockerfiles", names.join(", ")),
                };
                Error::unsupported(format!("the builder has no frontend `{name}`: {others}"))
            });
        }
        let argument = request.build_args.get("BUILDKIT_SYNTAX").filter(|name| !name.trim().is_empty());
        let named = argument.cloned().or_else(|| crate::dockerfile::syntax(text));
        Ok(named.and_then(|name| get(name.trim())))
    }
}

/// What the outputs of a request need.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] for an exporter that does not write images of several platforms, when there are several.
fn needs(request: &BuildRequest, exporters: &Exporters, platforms: usize) -> Result<Needs> {
    let mut needs = Needs::Nothing;
    for output in &request.outputs {
        let exporter = exporters.get(output)?;
        if platforms > 1 && exporter.as_ref().is_some_and(|exporter| !exporter.takes_platforms()) {
            return Err(Error::unsupported(format!(
                "the output {} takes the image of one platform, and the build is for {platforms}",
                describe(&output.kind)
            )));
        }
        match exporter {
            Some(exporter) if exporter.needs_blobs() => needs = Needs::Blobs,
            Some(_) if output.makes_image() => needs = needs.max(Needs::Layers),
            Some(_) => needs = needs.max(Needs::Files),
            None => {}
        }
    }
    Ok(needs)
}

/// The output of a build whose result no output needs.
fn without_result(
    request: &BuildRequest,
    steps: Vec<StepReport>,
    epoch: i64,
    progress: &Progress,
) -> BuildOutput {
    for output in &request.outputs {
        progress.start(format!("export {}", describe(&output.kind)), None).done();
    }
    BuildOutput { image: None, config: None, steps, tags: Vec::new(), epoch }
}

/// What the solver takes from a request.
fn solver_options(request: &BuildRequest) -> Result<SolverOptions> {
    // Layers are compressed as the first image asks; other images recompress them.
    let first = request.outputs.iter().find(|output| output.has_image()).map(|output| &output.image);
    let (compression, compression_level) = first.map_or_else(Default::default, |i| (i.compression, i.level));
    Ok(SolverOptions {
        compression,
        compression_level,
        keeps_times: request.outputs.iter().any(|output| output.has_image() && output.image.keep_times),
        network: request.network,
        limits: (*request.limits).clone(),
        allow_insecure: request.allow_insecure,
        allow_host_network: request.allow_host_network,
        devices: Devices::load(&request.device_folders),
        allow_devices: request.allow_devices.clone(),
        extra_hosts: super::request::addresses(&request.extra_hosts)?,
        ssh: request.ssh.clone(),
        secrets: request.secrets.clone(),
        on_error: request.on_error.clone(),
        ..SolverOptions::default()
    })
}

/// A warning when no image gets the names of the request.
fn unused_tags(request: &BuildRequest) -> Option<String> {
    let mut images = request.outputs.iter().filter(|output| output.has_image()).peekable();
    let has_own = |output: &Output| !output.image.names.is_empty();
    (!request.tags.is_empty() && images.peek().is_some() && images.all(has_own))
        .then(|| "the names of the request are not used: every output has a `name` of its own".to_owned())
}
