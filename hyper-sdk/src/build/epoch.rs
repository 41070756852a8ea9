//! Picks the one time that a result carries.

use super::EpochPolicy;
use super::contexts::Sources;
use crate::Result;
use crate::clock::Clock;
use crate::frontend::Lowered;
use crate::graph::{FileAction, MountKind, Op, Source};
use crate::layer::copy::{CopySpec, PatternList, SourceRoot, newest_mtime};
use crate::solve::threads;
use crate::source::work_tree_time;
use std::sync::Arc;

/// The time of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    /// Seconds since 1970.
    pub(super) seconds: i64,
    /// Whether the caller gave it: then it counts for the cache.
    pub(super) given: bool,
}

/// Picks the time by the policy. Blocks: it walks the files that the build uses.
pub(super) fn pick(
    policy: EpochPolicy,
    lowered: &Lowered,
    sources: &Sources,
    main: Option<i64>,
    clock: &dyn Clock,
) -> Result<Epoch> {
    match policy {
        EpochPolicy::At(seconds) => return Ok(Epoch { seconds, given: true }),
        EpochPolicy::Now => return Ok(Epoch { seconds: clock.now(), given: false }),
        EpochPolicy::Auto => {}
    }
    if let Some(seconds) = lowered.epoch {
        return Ok(Epoch { seconds, given: true });
    }
    let folders = &sources.folders;
    let of_work_tree = || folders.get("").and_then(|root| work_tree_time(root.path()));
    if let Some(seconds) = main.or_else(of_work_tree) {
        return Ok(Epoch { seconds, given: false });
    }
    let mut newest = sources.newest;
    for id in lowered.graph.reachable(lowered.root) {
        let vertex = lowered.graph.vertex(id);
        let folder = |input: usize| match &lowered.graph.vertex(*vertex.inputs.get(input)?).op {
            Op::Source(Source::Folder { name }) => folders.get(name),
            _ => None,
        };
        let mut used: Vec<(&Arc<SourceRoot>, CopySpec)> = Vec::new();
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
        for (root, spec) in used {
            // The keys of the steps ask for the same folders in a moment.
            root.remember_listings();
            // What cannot be copied fails in its step, with the step's name.
            newest = newest.max(newest_mtime(root, &spec, threads()).unwrap_or(None));
        }
    }
    Ok(Epoch { seconds: newest.or(lowered.newest_base).unwrap_or(0), given: false })
}
