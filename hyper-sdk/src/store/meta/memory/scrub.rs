//! What a scrub asks and writes.

use super::{Blob, State};
use crate::Digest;
use crate::Result;
use crate::reference::RepositoryName;
use crate::store::blob::BlobKey;
use crate::store::meta::{BlobRecord, ManifestAt, ScrubPlace};
use std::ops::Bound;

/// The longest time for which somebody takes the right, in seconds, unless another one asks for longer.
const LONGEST: i64 = 60 * 60;

/// Who scrubs or deletes old tags, until when, and how far this is.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    holder: u64,
    until: i64,
    pub(super) place: ScrubPlace,
}

impl Scrub {
    pub(super) fn hold(&mut self, holder: u64, seconds: i64, place: Option<ScrubPlace>, now: i64) -> u64 {
        // Nobody takes it for longer than an hour: the clock was set back since.
        let is_believed = self.until > now && self.until <= now.saturating_add(seconds.max(LONGEST));
        if self.holder != holder && is_believed {
            return 0;
        }
        // A right that was given back is free, also when the clock is set back then.
        let until = if seconds == 0 { 0 } else { now.saturating_add(seconds) };
        (self.holder, self.until) = (holder, until);
        if let Some(place) = place {
            self.place = place;
        }
        1
    }
}

impl State {
    pub(super) fn quarantine_blob(&mut self, digest: &Digest, key: &BlobKey) -> u64 {
        let is_named = |blob: &&mut Blob| blob.key == *key && blob.condemned.is_none() && !blob.quarantined;
        match self.blobs.get_mut(digest).filter(is_named) {
            Some(blob) => {
                blob.quarantined = true;
                1
            }
            None => 0,
        }
    }

    pub(super) fn linked_blobs(&self, after: Option<&Digest>, limit: usize) -> Vec<BlobRecord> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let blobs = self.blobs.range::<Digest, _>((start, Bound::Unbounded));
        let linked = blobs.filter(|(_, blob)| !blob.repositories.is_empty());
        linked.take(limit).map(|(digest, blob)| blob.record(digest)).collect()
    }

    pub(super) fn manifests_with(&self, digest: &Digest, limit: usize) -> Result<Vec<ManifestAt>> {
        let needing = self.repositories.iter().flat_map(|(name, repository)| {
            let needing = repository.edges.iter().filter(|(_, edges)| edges.contains(digest));
            needing.map(move |(manifest, _)| (name, manifest))
        });
        let at = |(name, digest): (&String, &Digest)| {
            RepositoryName::parse(name).map(|repository| ManifestAt { repository, digest: digest.clone() })
        };
        needing.take(limit).map(at).collect()
    }
}
