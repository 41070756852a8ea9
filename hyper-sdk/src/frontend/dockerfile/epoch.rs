//! The values of SOURCE_DATE_EPOCH: a number, `context`, or the name of a stage or named context whose time is used. The
//! builder finds that time ([`crate::frontend::Resolver::epoch`]).

use super::lower::{LowerMode, Lowering};
use super::lower_error::{LowerError, LowerResult};
use crate::Error;
use crate::dockerfile::{Diagnostic, Dockerfile, Span};
use crate::frontend::{EpochOf, FrontendOptions, Resolver};
use crate::graph::{Op, SourceOp};
use crate::platform::Platform;
use std::collections::BTreeMap;

/// The name of the argument.
pub(super) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The value of the argument.
pub(super) struct EpochValue {
    value: String,
    /// The place of a default in the text; `None` for a build argument.
    default: Option<Span>,
}

impl EpochValue {
    /// Whether it is a name.
    pub(super) fn is_name(&self) -> bool {
        let value = self.value.trim();
        !value.is_empty() && value.parse::<i64>().is_err()
    }
}

/// The seconds of the argument; `None` when it is empty, or names an object without a time. The resolver gives the time of
/// a name.
pub(super) async fn resolve(
    asked: &EpochValue,
    file: &Dockerfile,
    globals: &BTreeMap<String, String>,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
) -> LowerResult<Option<i64>> {
    let value = asked.value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    if let Ok(seconds) = value.parse() {
        return Ok(Some(seconds));
    }
    if value == "context" {
        return Ok(resolver.epoch(EpochOf::Context).await?);
    }
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    if let Some(named) = resolver.context(value, &platform).await? {
        return Ok(resolver.epoch(EpochOf::Named(named)).await?);
    }
    if file.stage_by_name(value).is_none() {
        return Err(unknown(value, asked.default, file));
    }
    let mut options = options.clone();
    options.build_args.insert(SOURCE_DATE_EPOCH.to_owned(), String::new());
    options.target = Some(value.to_owned());
    let (lowered, _) =
        Box::pin(Lowering::new(file, &options, resolver, LowerMode::Target).target(globals)).await;
    let lowered = lowered?;
    let needed = lowered.graph.reachable(&[lowered.root]).into_iter();
    let fetches = needed.filter_map(|id| match &lowered.graph.vertex(id).op {
        Op::Source(source @ (SourceOp::Web(_) | SourceOp::Git(_))) => Some(source.clone()),
        _ => None,
    });
    let of = EpochOf::Stage { fetches: fetches.collect(), newest_base: lowered.newest_base };
    Ok(resolver.epoch(of).await?)
}

fn unknown(value: &str, default: Option<Span>, file: &Dockerfile) -> LowerError {
    let near = file.similar_stage(value).map(|near| format!("the stage `{near}`"));
    let expected = "seconds since 1970, `context`, or the name of a stage or named context";
    match default {
        Some(span) => Diagnostic::error(
            "invalid-epoch",
            span,
            format!("`{value}` is not a value of {SOURCE_DATE_EPOCH}"),
        )
        .with_help(near.map_or_else(
            || format!("expected {expected}"),
            |near| format!("did you mean {near}? Expected {expected}"),
        ))
        .into(),
        None => {
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            let message =
                format!("the build argument {SOURCE_DATE_EPOCH} is `{value}`: expected {expected}{near}");
            Error::invalid(message).into()
        }
    }
}

/// The value of the argument: the build argument, else the default in the global scope of the text. When the default cannot
/// be expanded, lowering reports the error later.
pub(super) fn asked_for(
    file: &Dockerfile,
    globals: &BTreeMap<String, String>,
    options: &FrontendOptions,
) -> Option<EpochValue> {
    if let Some(given) = options.build_args.get(SOURCE_DATE_EPOCH) {
        return Some(EpochValue { value: given.clone(), default: None });
    }
    let (scope, _) = file.global_scope_with_errors(globals, &options.build_args);
    let value = scope.values.get(SOURCE_DATE_EPOCH)?.clone();
    let variables = file.global_variables().flat_map(|(_, arg)| &arg.variables);
    let defaults = variables.filter(|variable| variable.name.value == SOURCE_DATE_EPOCH);
    Some(EpochValue {
        value,
        default: defaults.filter_map(|variable| Some(variable.default.as_ref()?.span)).last(),
    })
}
