//! What a request says to the frontend.

use super::{BuildRequest, NamedContext};
use crate::frontend::FrontendOptions;

pub(super) fn frontend_options(request: &BuildRequest) -> FrontendOptions {
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
