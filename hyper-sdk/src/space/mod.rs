//! The space that a state folder takes: what uses how much, what nothing uses, and its removal by last use.
//!
//! ```text
//!   ROOT/store/blobs     images ── layers of the build cache ── base images       (shared bytes count once)
//!   ROOT/cache           records of the build cache: they name layers
//!   ROOT/snapshots       unpacked layers, in a folder for each way in which builds keep them
//!   ROOT/mounts          cache mounts
//!   ROOT/sources         files of the web, git repositories, names of base images
//!   ROOT/indexes, logs   what was derived, and what was said
//! ```
//!
//! # Invariants
//! - What a name, running work ([`crate::uses`]) or a client of a server uses is not removed.
//! - A removal ends complete after a crash at any point: names go before bytes, and bytes without a name are found.

mod aside;
mod cleanup;
mod describe;
mod disk;
mod images;
mod kinds;
#[cfg(test)]
mod kinds_tests;
mod leftovers;
mod limit;
mod plan;
mod release;
mod survey;
#[cfg(test)]
mod tests;

pub(crate) use images::family_of;
pub(crate) use kinds::LocalKinds;
pub(crate) use leftovers::sweep_at_times;
pub use limit::CacheLimit;
pub use plan::{Filter, PruneOptions};
pub(crate) use release::release;

use crate::cache::SharedCache;
use crate::snapshot::SharedSnapshotter;
use crate::store::SharedStore;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// A kind of content of a state folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpaceKind {
    /// An image with a name.
    Image,
    /// An image without a name: a tag was moved away from it, or it never had one.
    Untagged,
    /// The layers of build steps, with their records in the build cache.
    Layer,
    /// The parts of base images that builds needed.
    Base,
    /// Unpacked layers.
    Snapshot,
    /// Cache mounts.
    CacheMount,
    /// Files of the web and git repositories.
    Source,
    /// The indexes of layers.
    Index,
    /// The output of earlier runs.
    Log,
    /// The database of the store, and tables of the builder.
    Database,
    /// What is being written, and what nothing of the above uses.
    Other,
}

impl SpaceKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Image,
        Self::Untagged,
        Self::Layer,
        Self::Base,
        Self::Snapshot,
        Self::CacheMount,
        Self::Source,
        Self::Index,
        Self::Log,
        Self::Database,
        Self::Other,
    ];

    /// Its name, as in filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Untagged => "untagged",
            Self::Layer => "layer",
            Self::Base => "base",
            Self::Snapshot => "snapshot",
            Self::CacheMount => "cache-mount",
            Self::Source => "source",
            Self::Index => "index",
            Self::Log => "log",
            Self::Database => "database",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for SpaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing in a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpaceItem {
    /// Its kind.
    pub kind: SpaceKind,
    /// How snapshots are kept that builds with other options made: `overlay`, `copy`, `overlay-single-id` or
    /// `copy-single-id`. `None` for those of this builder's options, and for everything else.
    pub variant: Option<String>,
    /// What identifies it among those of its kind and variant.
    pub id: String,
    /// What it is, for people.
    pub description: String,
    /// The bytes that it takes on the disk. Bytes that several items use count for the first of them.
    pub size: u64,
    /// When it was last used, in seconds since 1970, where that is known.
    pub used: Option<i64>,
    /// Whether running work may use it.
    pub in_use: bool,
    /// Whether it uses bytes that another item uses too.
    pub shared: bool,
    /// Whether a clean-up may remove it.
    pub prunable: bool,
}

/// The space of one kind, or of one variant of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindUsage {
    /// The kind.
    pub kind: SpaceKind,
    /// The variant: see [`SpaceItem::variant`].
    pub variant: Option<String>,
    /// How many items it has.
    pub items: u64,
    /// Their bytes.
    pub size: u64,
    /// The bytes of those that use bytes of others.
    pub shared: u64,
    /// The bytes that a clean-up would free now.
    pub reclaimable: u64,
}

/// The space of a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpaceUsage {
    /// All bytes of the folder on the disk, without the files that the database has only while it is open.
    pub total: u64,
    /// The bytes that a clean-up would free now.
    pub reclaimable: u64,
    /// Each kind, and each variant of snapshots that there is.
    pub kinds: Vec<KindUsage>,
    /// Each item, by kind, and by last use within a kind.
    pub items: Vec<SpaceItem>,
    /// What cannot be removed now, or not even be counted in full, with the reason and what to do.
    pub warnings: Vec<String>,
}

/// What a clean-up has removed, or in a dry run would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The removed items.
    pub removed: Vec<SpaceItem>,
    /// The bytes that were freed.
    pub freed: u64,
    /// How many items stay for now because work is running that may use them.
    pub in_use: u64,
    /// What matches the filters and cannot be removed now, with the reason and what to do.
    pub warnings: Vec<String>,
}

/// The parts of a builder that take space.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    /// The state folder.
    pub(crate) root: PathBuf,
    pub(crate) store: SharedStore,
    pub(crate) cache: SharedCache,
    /// The snapshots of the builder's options.
    pub(crate) snapshotter: SharedSnapshotter,
    /// The same, when they are in a folder of the builder: there may be more beside them.
    pub(crate) local: Option<LocalKinds>,
}
