//! Trees of files, and whose files there can be: what snapshots and steps tell the helper.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The owners that a sandbox can give to files and processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// All of them (at least 65536): as the host's root, or with subordinate ids.
    Full,
    /// One: the caller's own id appears as root. Other owners and users are recorded, and are in the layer of a step
    /// and what its programs see; permissions between users are not checked.
    Single,
}

/// Directories that are seen as one tree: what a snapshotter hands out and an executor mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFs {
    /// An overlay of layers.
    Overlay {
        /// The read-only layers, topmost first. May be empty.
        lowers: Vec<PathBuf>,
        /// Where changes go, and the overlay's work folder; without, the tree is read-only.
        upper: Option<(PathBuf, PathBuf)>,
    },
    /// One folder that holds the whole tree.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Whether it may be written to.
        writable: bool,
    },
}
