//! The options of a frontend from a build request.

use super::{BuildRequest, LocalBuilder, NamedContext};
use crate::frontend::FrontendOptions;
use crate::platform::Platform;
use std::collections::BTreeMap;

impl LocalBuilder {
    /// The options for one of the platforms of a request; `None` is that of this machine.
    pub(super) fn frontend_options(
        &self,
        request: &BuildRequest,
        platform: Option<Platform>,
    ) -> FrontendOptions {
        FrontendOptions {
            build_args: request.build_args.clone(),
            aliases: aliases(request),
            target: request.target.clone(),
            platform,
            labels: request.labels.clone(),
            no_cache: request.no_cache,
            no_cache_filter: request.no_cache_filter.clone(),
            frontends: self.options.frontends.keys().cloned().collect(),
        }
    }
}

/// The further names of stages.
fn aliases(request: &BuildRequest) -> BTreeMap<String, String> {
    let stage = |(name, context): (&String, &NamedContext)| match context {
        NamedContext::Stage(stage) => Some((name.clone(), stage.clone())),
        _ => None,
    };
    request.named_contexts.iter().filter_map(stage).collect()
}
