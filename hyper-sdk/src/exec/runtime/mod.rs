//! Steps in containers that an OCI runtime makes (runc, crun), in the helper.
//!
//! The tree of a step and all its mounts are made here, by descriptors, as for the native executor ([`super::mounts`]): a
//! runtime looks paths of an image up by name. The runtime gets a bundle whose root is that tree, and starts the command:
//! mount namespace, control group, capabilities, system call filter, limits, user.
//!
//! ```text
//! operation ─ pid 1 of an outer pid namespace ─┬─ pid 1 of the pid namespace of the step: reaps, and has no files
//!             (mounts, waits for the command)  ├─ the runtime, until it has started the command
//!                                              └─ the command, in the namespace of the step
//! ```
//!
//! # Invariants
//! - Whatever the runtime starts is in the outer pid namespace, and dies with the operation.
//! - The bundle, which has the environment with its secrets, and the state of the runtime are in memory, in a mount
//!   namespace that ends with the step. On the disk there is an empty folder to mount on.
//! - Control groups outlive their processes: [`groups`] removes them, also those of a step that was killed.

mod bundle;
mod groups;
mod processes;
mod run;

pub(super) use groups::Step;
pub(super) use run::init;

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The program that makes containers, and what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runtime {
    /// The program.
    pub(super) program: PathBuf,
    /// The first word of what it says as its version.
    pub(super) name: String,
    /// A folder of the state folder: see [`Runtime::mount_point`] and [`groups`].
    pub(super) folder: PathBuf,
}

impl Runtime {
    /// The empty folder that the stage of a step is mounted on.
    pub(super) fn mount_point(&self) -> PathBuf {
        self.folder.join("stage")
    }

    /// The folder with a record for each step that runs.
    pub(super) fn records(&self) -> PathBuf {
        self.folder.join("steps")
    }

    /// Whether it can leave control groups alone. Where it does not, it needs those of this machine.
    fn has_no_groups(&self) -> bool {
        self.name == "crun"
    }
}

/// A file of the bundle or the state of the runtime.
fn place(mount_point: &Path, name: &str) -> PathBuf {
    mount_point.join("runtime").join(name)
}
