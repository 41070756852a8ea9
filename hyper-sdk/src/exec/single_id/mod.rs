//! Owners and users of a step where there is a single id.
//!
//! An ordinary user without subordinate ids can give no file and no process another owner. So a step's system calls
//! that set or ask for owners and users are handed to a thread of pid 1 (seccomp user notification), which keeps what
//! the step asked for and answers by it:
//!
//! ```text
//! process of the step ──chown, stat, setuid, open with O_CREAT, …──▶ kernel ──▶ thread of pid 1 ──▶ answer, or: go on
//!
//! a file or folder     user.hyper.owner = "uid:gid", an attribute that follows it (copy, rename, hard link, next layer)
//! a link, a pipe       by inode while the step runs, then `step-owners.json`; in a layer by path, in `owners.json`
//! a process            the number of its user in a limit that the kernel does not use, which children inherit
//! ```
//!
//! What is written into a layer has the owners that were kept. Permissions between users are not checked: everything
//! is the caller's own in truth.
//!
//! # Invariants
//! - A path of a step is looked up in the root of its process and never through a link of `/proc` that leads elsewhere.
//! - What the thread does for a step, the step itself might do: it has the same mounts and no more of the host.
//! - A call whose effect cannot be kept fails, with the error of the kernel.

mod answers;
mod asked;
mod calls;
mod create;
mod ids;
mod lookup;
mod owners;
mod supervisor;
mod sys;

pub(super) use calls::program;
pub(super) use ids::Ids;
pub(super) use owners::{StepOwners, record};
pub(super) use supervisor::Supervisor;
pub(super) use sys::set_identity;

use crate::Error;

/// The way out for what a single id cannot do.
pub(super) const WAY_OUT: &str = "give this user subordinate ids in /etc/subuid and /etc/subgid and install `newuidmap` \
                                  and `newgidmap` (package `uidmap`), or build as root";

/// The error for a step that wants another user where users cannot be kept.
pub(super) fn refused(user: (u32, u32), cause: std::io::Error) -> Error {
    Error::unsupported(format!(
        "a step cannot be run as another user with a single id on this kernel: {WAY_OUT}"
    ))
    .with_context("user", format!("{}:{}", user.0, user.1))
    .with_source(cause)
}
