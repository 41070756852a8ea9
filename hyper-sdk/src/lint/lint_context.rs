//! What a linter has to be told because it is not in the text.

use crate::dockerfile::IgnoreSet;
use crate::platform::Platform;
use std::collections::BTreeMap;

/// What lies outside of a Dockerfile. Everything may be left out; rules then say less.
#[derive(Debug, Default)]
pub struct LintContext {
    /// The environment of the base image of each stage that has one, as `NAME=value`, by the number of the stage.
    pub environments: BTreeMap<usize, Vec<String>>,
    /// The user of the base image of a stage, empty for root, by the number of the stage.
    pub users: BTreeMap<usize, String>,
    /// The shell that the config of the base image names, by the number of the stage.
    pub shells: BTreeMap<usize, Vec<String>>,
    /// The platform that the base image of a stage is for, by the number of the stage.
    pub platforms: BTreeMap<usize, Platform>,
    /// The platform to build for; that of the host without.
    pub platform: Option<Platform>,
    /// The ignore file of the context.
    pub ignore: Option<IgnoreSet>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// The arguments that every Dockerfile knows, such as `TARGETPLATFORM`.
    pub predefined: BTreeMap<String, String>,
}
