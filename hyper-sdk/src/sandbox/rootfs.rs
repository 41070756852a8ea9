//! File trees and the owners that they can have, as snapshots and steps pass them to the helper.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The owners that a sandbox can give to files and processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// All ids (at least 65536): as the host's root, or with subordinate ids.
    Full,
    /// A single id: the caller's own id appears as root. Other owners and users are recorded: the programs of a step
    /// see them, and its layer has them. Permissions between users are not checked.
    Single,
}

/// The directories of one tree: a snapshotter returns it and an executor mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFs {
    /// An overlay of layers.
    Overlay {
        /// The read-only layers, topmost first. May be empty.
        lowers: Vec<PathBuf>,
        /// The upper folder for changes and the overlay's work folder; `None` for a read-only tree.
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
