//! Owners and users of a step with a single id.
//!
//! An ordinary user without subordinate ids cannot give a file or a process another owner. So a thread of pid 1 answers
//! the system calls of a step that set or query owners and users (seccomp user notification). It records what the step
//! sets and answers queries from the record:
//!
//! ```text
//! process of the step ──chown, stat, setuid, open with O_CREAT, …──▶ kernel ──▶ thread of pid 1 ──▶ answer, or: go on
//!
//! a file or folder     user.hyper.owner = "uid:gid", an attribute that follows it (copy, rename, hard link, next layer)
//! a link, a pipe       by inode while the step runs, then `step-owners.json`; in a layer by path, in `owners.json`
//! a process            the number of its user in a limit that the kernel does not use, which children inherit
//! ```
//!
//! Layers have the recorded owners. Permissions between users are not checked: every file really belongs to the caller.
//!
//! # Invariants
//! - A path of a step is looked up in the root of its process and never through a link of `/proc` that leads elsewhere.
//! - The thread does nothing for a step that the step could not do itself: it has the same mounts and no more access to
//!   the host.
//! - A call whose effect cannot be recorded fails with the error of the kernel.

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

/// The advice for what is not possible with a single id.
pub(super) const ADVICE: &str = "give this user subordinate ids in /etc/subuid and /etc/subgid and install `newuidmap` \
                                  and `newgidmap` (package `uidmap`), or build as root";

/// The error for a step with another user on a kernel without the needed notifications.
pub(super) fn refused(user: (u32, u32), cause: std::io::Error) -> Error {
    Error::unsupported(format!(
        "a step cannot be run as another user with a single id on this kernel: {ADVICE}"
    ))
    .with_context("user", format!("{}:{}", user.0, user.1))
    .with_source(cause)
}
