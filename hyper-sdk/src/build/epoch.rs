//! Decides the epoch of a build: the value of SOURCE_DATE_EPOCH, or a time of the files and images.

use super::EpochPolicy;
use super::platforms::Merged;
use crate::Result;
use crate::clock::{Clock, parse_rfc3339};
use crate::frontend::{EpochOf, Resolved};
use crate::graph::{FileAction, Graph, MountKind, Op, SourceOp, VertexId};
use crate::layer::copy::{CopySpec, PatternList, SourceRoot, newest_mtime, threads};
use crate::solve::{EpochChoice, blocking};
use crate::source::{Opened, Sources, work_tree_time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The time of the object that SOURCE_DATE_EPOCH names, in seconds since 1970; `None` when it has no time.
///
/// A stage has the newest time of what it fetches: the commit of a git repository, the last change of a web file, or the
/// newest member of an archive when the server gives no time. Otherwise it has that of its base images.
pub(super) async fn time_of(object: EpochOf, main: Option<i64>, sources: &Sources) -> Result<Option<i64>> {
    match object {
        EpochOf::Context => Ok(main),
        EpochOf::Named(Resolved::Scratch) => Ok(None),
        EpochOf::Named(Resolved::Image { config, .. }) => {
            Ok(config.created.as_deref().and_then(parse_rfc3339))
        }
        EpochOf::Named(Resolved::Folder(name)) => sources.time(&SourceOp::Folder { name }).await,
        EpochOf::Stage { fetches, newest_base } => {
            let mut newest = None;
            for source in &fetches {
                newest = newest.max(sources.time(source).await?);
            }
            Ok(newest.or(newest_base))
        }
    }
}

/// Decides the epoch by the policy of a request, the value in the text, and the files that the build uses. It fetches
/// nothing: the solver adds the times of what it fetches later.
pub(super) async fn decide(
    policy: EpochPolicy,
    lowered: &Merged,
    main: Option<i64>,
    sources: &Sources,
    clock: &dyn Clock,
) -> Result<EpochChoice> {
    match policy {
        EpochPolicy::At(seconds) => return Ok(EpochChoice::Given(seconds)),
        EpochPolicy::Now => return Ok(EpochChoice::Known(clock.now())),
        EpochPolicy::Auto => {}
    }
    if let Some(seconds) = lowered.epoch {
        return Ok(EpochChoice::Given(seconds));
    }
    if let Some(seconds) = main {
        return Ok(EpochChoice::Known(seconds));
    }
    let folders = local_folders(lowered, sources).await?;
    let used = used(&lowered.graph, &lowered.roots(), &folders)?;
    let main = sources.main_folder().map(ToOwned::to_owned);
    let otherwise = lowered.newest_base.unwrap_or(0);
    blocking(move || {
        if let Some(seconds) = main.as_deref().and_then(work_tree_time) {
            return Ok(EpochChoice::Known(seconds));
        }
        let mut newest = None;
        for (root, spec) in used {
            // The keys of the steps need the same folders soon.
            root.remember_listings();
            // A copy that fails has its error in the step, with the step's name.
            newest = newest.max(newest_mtime(&root, &spec, threads()).unwrap_or(None));
        }
        Ok(EpochChoice::Newest { newest, otherwise })
    })
    .await
}

/// The folders of this machine that the graph uses, by their vertices.
async fn local_folders(lowered: &Merged, sources: &Sources) -> Result<BTreeMap<VertexId, Arc<SourceRoot>>> {
    let mut folders = BTreeMap::new();
    for id in lowered.graph.reachable(&lowered.roots()) {
        if let Op::Source(op @ SourceOp::Folder { .. }) = &lowered.graph.vertex(id).op
            && !sources.is_remote(op)
            // A missing folder fails in its step.
            && sources.has_folder(op)
            && let Opened::Folder(root) = sources.open(op).await?
        {
            folders.insert(id, root);
        }
    }
    Ok(folders)
}

/// The files of the folders that the graph reads.
fn used(
    graph: &Graph,
    roots: &[VertexId],
    folders: &BTreeMap<VertexId, Arc<SourceRoot>>,
) -> Result<Vec<(Arc<SourceRoot>, CopySpec)>> {
    let mut used = Vec::new();
    for id in graph.reachable(roots) {
        let vertex = graph.vertex(id);
        let folder = |input: usize| folders.get(vertex.inputs.get(input)?).cloned();
        match &vertex.op {
            Op::File(file) => {
                for action in &file.actions {
                    if let FileAction::Copy(copy) = action
                        && let Some(root) = folder(copy.input)
                    {
                        let mut spec = CopySpec::new(copy.sources.clone(), "/files/");
                        spec.exclude = PatternList::new(&copy.exclude)?;
                        spec.parents = copy.parents;
                        used.push((root, spec));
                    }
                }
            }
            Op::Exec(exec) => {
                for mount in &exec.mounts {
                    if let MountKind::Bind { input, source, .. } = &mount.kind
                        && let Some(root) = folder(*input)
                    {
                        let mut spec = CopySpec::new([source.as_str()], "/files/");
                        spec.wildcards = false;
                        used.push((root, spec));
                    }
                }
            }
            Op::Source(_) => {}
        }
    }
    Ok(used)
}
