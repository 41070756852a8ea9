//! The context of the linter: what it needs beyond the text.

use crate::dockerfile::IgnoreSet;
use crate::platform::Platform;
use std::collections::BTreeMap;

/// The context of a Dockerfile. All parts are optional; without them rules find less.
#[derive(Debug, Default)]
pub struct LintContext {
    /// The environments of base images as `NAME=value`, by the number of the stage.
    pub environments: BTreeMap<usize, Vec<String>>,
    /// The users of base images, empty for root, by the number of the stage.
    pub users: BTreeMap<usize, String>,
    /// The shells in the configs of base images, by the number of the stage.
    pub shells: BTreeMap<usize, Vec<String>>,
    /// The platforms of base images, by the number of the stage.
    pub platforms: BTreeMap<usize, Platform>,
    /// The platform to build for; without, that of the host.
    pub platform: Option<Platform>,
    /// The ignore file of the context.
    pub ignore: Option<IgnoreSet>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// The predefined arguments, such as `TARGETPLATFORM`.
    pub predefined: BTreeMap<String, String>,
}
