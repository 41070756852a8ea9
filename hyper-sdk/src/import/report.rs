//! What an import did.

use crate::reference::{RepositoryName, Tag};
use crate::{Digest, Error};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagOutcome {
    /// It is new.
    Created,
    /// It named another manifest before.
    Moved(Digest),
    /// It names another manifest, and stays ([`ExistingTags::Keep`](super::ExistingTags::Keep)).
    Kept(Digest),
    /// It names the manifest already.
    Unchanged,
}

/// A step of an import.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImportEvent<'a> {
    /// A tag is as the source has it, with all that it needs, unless it is kept.
    Tag {
        /// The repository.
        repository: &'a RepositoryName,
        /// The tag.
        tag: &'a Tag,
        /// The manifest that it names in the source.
        digest: &'a Digest,
        /// What became of it.
        outcome: &'a TagOutcome,
    },
    /// A manifest that no tag named was stored, with all that it needs.
    Manifest {
        /// The repository.
        repository: &'a RepositoryName,
        /// The manifest.
        digest: &'a Digest,
    },
    /// Bytes of a blob were copied.
    Copied {
        /// How many.
        bytes: u64,
    },
    /// Something was left out that the source itself does not have: a tag that it deleted meanwhile, an image of a sparse index,
    /// or a layer that lies elsewhere.
    LeftOut {
        /// What.
        name: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// Something cannot be imported.
    Failed {
        /// A repository, a tag or a manifest.
        name: &'a str,
        /// Why.
        error: &'a Error,
    },
}

/// Is called for each step, from any thread; it should not block.
pub type ImportObserver = Arc<dyn Fn(&ImportEvent<'_>) + Send + Sync>;

/// The sums of an import. Those of a dry run say what would be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Repositories that were looked at.
    pub repositories: u64,
    /// Repositories that were not chosen.
    pub skipped: u64,
    /// New tags.
    pub tags_created: u64,
    /// Tags that named another manifest before.
    pub tags_moved: u64,
    /// Tags that name another manifest and stay.
    pub tags_kept: u64,
    /// Tags that were as in the source.
    pub tags_unchanged: u64,
    /// Manifests that were stored.
    pub manifests: u64,
    /// Manifests that were there.
    pub manifests_present: u64,
    /// Blobs that were copied.
    pub blobs: u64,
    /// The bytes of these blobs.
    pub bytes: u64,
    /// Blobs that another repository of the store had: they were linked.
    pub blobs_linked: u64,
    /// What the source itself does not have: deleted tags, images of sparse indexes, and layers that lie elsewhere.
    pub left_out: u64,
    /// What cannot be imported. An import is complete when this is zero.
    pub failed: u64,
}

/// The counts of an import that runs.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) repositories: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) tags_created: AtomicU64,
    pub(super) tags_moved: AtomicU64,
    pub(super) tags_kept: AtomicU64,
    pub(super) tags_unchanged: AtomicU64,
    pub(super) manifests: AtomicU64,
    pub(super) manifests_present: AtomicU64,
    pub(super) blobs: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) blobs_linked: AtomicU64,
    pub(super) left_out: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// Adds to a count.
pub(super) fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}

impl Counts {
    pub(super) fn sums(&self) -> Imported {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Imported {
            repositories: get(&self.repositories),
            skipped: get(&self.skipped),
            tags_created: get(&self.tags_created),
            tags_moved: get(&self.tags_moved),
            tags_kept: get(&self.tags_kept),
            tags_unchanged: get(&self.tags_unchanged),
            manifests: get(&self.manifests),
            manifests_present: get(&self.manifests_present),
            blobs: get(&self.blobs),
            bytes: get(&self.bytes),
            blobs_linked: get(&self.blobs_linked),
            left_out: get(&self.left_out),
            failed: get(&self.failed),
        }
    }
}
