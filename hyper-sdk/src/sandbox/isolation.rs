//! How far steps are separated from the machine, and what a caller may ask of a sandbox.

use super::Identity;
use serde::{Deserialize, Serialize};

/// How far the steps of a build are separated from the machine that runs them, best first.
///
/// The first two are chosen by themselves. The last one must be asked for: see [`SandboxOptions::isolation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Namespaces of its own, that of processes among them, and a `/proc` of its own.
    #[default]
    Full,
    /// Namespaces of its own, but the processes and the `/proc` of the machine: a container hides a part of its `/proc`,
    /// and the kernel then refuses a new one. A step can see the processes of the container, and end those of the same
    /// user.
    SharedProcesses,
    /// Neither namespaces nor mounts: one step at a time in a `chroot`, as root. A step has the privileges and the
    /// network of the container, and can leave its tree on purpose.
    None,
}

/// What a caller asks of a [`super::Sandbox`].
///
/// ```
/// use hyper_sdk::sandbox::{Isolation, SandboxOptions};
///
/// let options = SandboxOptions { isolation: Isolation::None, ..SandboxOptions::default() };
/// assert!(options.identity.is_none() && options.overlay);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxOptions {
    /// The best isolation that is tried. [`Isolation::Full`] falls back to [`Isolation::SharedProcesses`] where the
    /// machine refuses it, never to [`Isolation::None`]: without namespaces, steps are an error that names this option.
    pub isolation: Isolation,
    /// [`Identity::Single`] leaves subordinate ids alone. Without, as many ids as can be had.
    pub identity: Option<Identity>,
    /// Whether trees may be mounted as overlays.
    pub overlay: bool,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self { isolation: Isolation::Full, identity: None, overlay: true }
    }
}

impl SandboxOptions {
    /// The defaults with another isolation.
    pub fn with_isolation(isolation: Isolation) -> Self {
        Self { isolation, ..Self::default() }
    }
}

/// One part of what a machine supports: what is used, and why nothing better is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// What it is about, such as `identity`.
    pub part: String,
    /// What is used.
    pub used: String,
    /// Why each better choice is not used, best first.
    pub reasons: Vec<String>,
}

impl Rung {
    /// A part and what is used.
    pub(crate) fn new(part: &str, used: impl Into<String>) -> Self {
        Self { part: part.to_owned(), used: used.into(), reasons: Vec::new() }
    }

    /// Adds why something better is not used.
    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }
}
