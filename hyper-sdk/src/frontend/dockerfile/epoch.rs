//! The values of SOURCE_DATE_EPOCH: a number, `context`, or the name of a stage or named context whose time is meant.

use super::lower::{Lowering, Lowers};
use crate::clock::parse_rfc3339;
use crate::dockerfile::Dockerfile;
use crate::frontend::{FrontendOptions, Resolved, Resolver};
use crate::graph::{Op, Source};
use crate::platform::Platform;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// The name of the argument.
pub(super) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The seconds that the argument asks for; none when it is empty, or means a context that has no time of its own.
///
/// A stage has the newest time of what it fetches (the commit of a git repository, the last change of a web file), else
/// that of its base images.
pub(super) async fn resolve(
    value: &str,
    file: &Dockerfile,
    globals: &BTreeMap<String, String>,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
) -> Lowers<Option<i64>> {
    let value = value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    if let Ok(seconds) = value.parse() {
        return Ok(Some(seconds));
    }
    if value == "context" {
        return Ok(options.context_time);
    }
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    match resolver.context(value, &platform).await? {
        Some(Resolved::Image { config, .. }) => {
            return Ok(config.created.as_deref().and_then(parse_rfc3339));
        }
        Some(Resolved::Folder(name)) => return Ok(resolver.time(&Source::Folder { name }).await?),
        None => {}
    }
    if file.stage_by_name(value).is_none() {
        return Err(unknown(value, file).into());
    }
    let mut options = options.clone();
    options.build_args.insert(SOURCE_DATE_EPOCH.to_owned(), String::new());
    options.target = Some(value.to_owned());
    let lowered = Box::pin(Lowering::new(file, &options, resolver, false).target(globals)).await?;
    let mut newest = None;
    for id in lowered.graph.reachable(lowered.root) {
        if let Op::Source(source @ (Source::Web(_) | Source::Git(_))) = &lowered.graph.vertex(id).op {
            newest = newest.max(resolver.time(source).await?);
        }
    }
    Ok(newest.or(lowered.newest_base))
}

fn unknown(value: &str, file: &Dockerfile) -> Error {
    let near = match file.similar_stage(value) {
        Some(near) => format!(": did you mean the stage `{near}`?"),
        None => String::new(),
    };
    Error::invalid(format!(
        "{SOURCE_DATE_EPOCH} is `{value}`, and should be seconds since 1970, `context`, or the name of a stage or named context{near}"
    ))
}

/// The value of the argument: the caller's, else the default in the global scope of the text.
pub(super) fn argument(
    file: &Dockerfile,
    globals: &BTreeMap<String, String>,
    options: &FrontendOptions,
) -> Result<Option<String>, Vec<crate::dockerfile::Diagnostic>> {
    if let Some(given) = options.build_args.get(SOURCE_DATE_EPOCH) {
        return Ok(Some(given.clone()));
    }
    Ok(file.global_scope(globals, &options.build_args)?.values.get(SOURCE_DATE_EPOCH).cloned())
}
