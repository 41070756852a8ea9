//! A helper process in which files can have any owner, for snapshots and steps.
//!
//! The caller's process never forks into Rust code. A small single-threaded helper does the work: the current program,
//! started again (see [`crate::exec::init`]), or a program that the caller names ([`HelperCommand`]).
//!
//! ```text
//! caller (tokio)      helper (one thread)          operation
//!   Sandbox ─────────▶ user namespace, once ─fork─▶ request JSON   trees: unpack, diff, copy, export, remove
//!        ▲                                          ▶ reply JSON    steps: run by `exec`
//!        └── logs and tar streams over pipes of their own; a closed socket or a dead caller ends everything
//! ```
//!
//! # Invariants
//! - No process outlives its operation: dropping the future, or killing the caller, ends the helper and what it runs.
//! - Files of mapped owners are accessed only inside the user namespace that maps them.

pub(crate) mod cache_folder;
mod client;
pub(crate) mod copied_folders;
pub(crate) mod descriptors;
mod errand;
mod exit;
mod helper;
mod isolation;
mod known;
pub(crate) mod lent;
mod network_place;
pub(crate) mod processes;
mod protocol;
pub(crate) mod records;
mod rootfs;
pub(crate) mod sys;
pub(crate) mod tree;
pub(crate) mod userns;
pub(crate) mod view;

pub use client::Sandbox;
pub(crate) use errand::Errand;
pub use exit::{ExitStatus, ReachedLimit};
pub use helper::HelperCommand;
pub(crate) use helper::{StepIo, Steps, helper_main, is_marked};
pub use isolation::{Isolation, Rung, SandboxOptions};
pub(crate) use known::Place;
pub use network_place::NetworkPlace;
pub(crate) use protocol::{Failure, Reply, Request, read_frame, write_frame};
pub use rootfs::{Identity, RootFs};

/// The state of the helper's namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) identity: Identity,
    pub(crate) user_namespace: bool,
    pub(crate) isolation: Isolation,
    /// Whether device nodes can be made.
    pub(crate) devices: bool,
}
