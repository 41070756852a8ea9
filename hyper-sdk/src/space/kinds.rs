//! The snapshots of a state folder, whichever options the builds had that made them.
//!
//! ```text
//!   ROOT/snapshots/overlay, copy                       with every owner: root, or a user with subordinate ids
//!   ROOT/snapshots/overlay-single-id, copy-single-id   owners are recorded, and each file belongs to one user
//! ```
//!
//! A builder has the snapshots of its own options open. Those of the others are opened for a survey alone, and are closed
//! after it. Who has them open elsewhere keeps them: their removal is a conflict then.

use super::Space;
use crate::sandbox::{HelperCommand, Identity, Sandbox, SandboxOptions};
use crate::snapshot::{Kind, LocalSnapshotter, SharedSnapshotter};
use crate::solve::blocking;
use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// The snapshots in a folder of the builder.
#[derive(Clone, Debug)]
pub(crate) struct LocalKinds {
    /// The folder with a folder for each kind.
    pub(crate) folder: PathBuf,
    /// Those of the builder's own options.
    pub(crate) own: LocalSnapshotter,
    /// Others that the builder has open.
    pub(crate) open: Vec<LocalSnapshotter>,
    /// What starts a sandbox that may have more owners than that of the own ones.
    pub(crate) more: Option<(HelperCommand, SandboxOptions)>,
}

/// Snapshots that are open.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    /// Their kind; `None` for that of the builder's own options.
    pub(super) variant: Option<&'static str>,
    pub(super) snapshotter: SharedSnapshotter,
}

/// Snapshots that cannot be removed now.
#[derive(Clone, Debug)]
pub(super) struct Stuck {
    /// Their kind.
    pub(super) variant: &'static str,
    pub(super) folder: PathBuf,
    /// Why, and what to do.
    pub(super) reason: String,
}

/// The snapshots of every kind.
#[derive(Clone, Debug)]
pub(super) struct Kinds {
    /// Counts and removes files.
    pub(super) tool: SharedSnapshotter,
    /// The builder's own first.
    pub(super) open: Vec<Snapshots>,
    pub(super) stuck: Vec<Stuck>,
}

impl Kinds {
    /// Removes what was taken away, and waits until nothing else is being removed.
    ///
    /// # Errors
    /// The first of the system; the others are removed all the same.
    pub(super) async fn discard(&self, paths: Vec<PathBuf>) -> Result<()> {
        let mut result = self.tool.discard(paths).await;
        for of in self.open.iter().filter(|of| !Arc::ptr_eq(&of.snapshotter, &self.tool)) {
            result = result.and(of.snapshotter.discard(Vec::new()).await);
        }
        result
    }
}

impl Space {
    /// Opens the snapshots of every kind. Those that cannot be opened do not keep the others.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder of the snapshots cannot be read.
    pub(super) async fn kinds(&self) -> Result<Kinds> {
        let own = Snapshots { variant: None, snapshotter: Arc::clone(&self.snapshotter) };
        let mut kinds = Kinds { tool: Arc::clone(&self.snapshotter), open: vec![own], stuck: Vec::new() };
        if let Some(local) = &self.local {
            local.open_others(&mut kinds).await?;
        }
        Ok(kinds)
    }
}

impl LocalKinds {
    async fn open_others(&self, kinds: &mut Kinds) -> Result<()> {
        let folder = self.folder.clone();
        let mut present = blocking(move || Kind::in_folder(&folder)).await?;
        present.retain(|kind| *kind != self.own.kind());
        let sandbox = self.sandbox_for(&present).await;
        for kind in present {
            let snapshots = match self.open.iter().find(|open| open.kind() == kind) {
                Some(open) => Ok(open.clone()),
                None if kind.identity == Identity::Full && sandbox.identity() == Identity::Single => {
                    Err(other_owners(&sandbox))
                }
                None => {
                    let opened =
                        LocalSnapshotter::open_kind(self.folder.clone(), sandbox.clone(), kind).await;
                    opened.map_err(|e| format!("{}: mend that, or remove the folder", causes(&e)))
                }
            };
            match snapshots {
                Ok(snapshots) => {
                    let has_all = |of: &LocalSnapshotter| of.sandbox().identity() == Identity::Full;
                    let better = has_all(&snapshots) && !has_all(&self.own);
                    let snapshotter: SharedSnapshotter = Arc::new(snapshots);
                    if better {
                        kinds.tool = Arc::clone(&snapshotter);
                    }
                    kinds.open.push(Snapshots { variant: Some(kind.name()), snapshotter });
                }
                Err(why) => {
                    let folder = self.folder.join(kind.name());
                    let reason =
                        format!("the unpacked layers in {} cannot be removed: {why}", folder.display());
                    kinds.stuck.push(Stuck { variant: kind.name(), folder, reason });
                }
            }
        }
        Ok(())
    }

    /// A sandbox that can have the owners of the files of these kinds, if there is one.
    async fn sandbox_for(&self, kinds: &[Kind]) -> Sandbox {
        let own = self.own.sandbox();
        let is_missing = |kind: &Kind| {
            kind.identity == Identity::Full && self.open.iter().all(|open| open.kind() != *kind)
        };
        if own.identity() == Identity::Single
            && kinds.iter().any(is_missing)
            && let Some((command, options)) = &self.more
        {
            match Sandbox::start_with(command.clone(), *options).await {
                Ok(sandbox) => return sandbox,
                Err(error) => tracing::debug!(%error, "no sandbox with more owners can be had"),
            }
        }
        own.clone()
    }
}

/// Why files of other owners cannot be removed, and what to do.
fn other_owners(sandbox: &Sandbox) -> String {
    let mut text = "files there have owners that this user cannot have now".to_owned();
    if let Some(why) = sandbox.identity_reasons().first() {
        text.push_str(&format!(" ({why})"));
    }
    text + ": clean up as root or as a user with subordinate ids (/etc/subuid and /etc/subgid), or remove the folder as root"
}

/// An error and its causes in one line.
fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
