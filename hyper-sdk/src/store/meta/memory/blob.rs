//! The row of a blob.

use super::State;
use crate::Digest;
use crate::store::blob::BlobKey;
use crate::store::meta::BlobRecord;
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Blob {
    pub(super) size: u64,
    pub(super) key: BlobKey,
    pub(super) condemned: Option<u64>,
    pub(super) quarantined: bool,
    /// The repositories that have the blob.
    pub(super) repositories: BTreeSet<String>,
}

impl Blob {
    pub(super) fn record(&self, digest: &Digest) -> BlobRecord {
        BlobRecord {
            digest: digest.clone(),
            size: self.size,
            key: self.key.clone(),
            condemned: self.condemned,
            quarantined: self.quarantined,
        }
    }
}

impl State {
    /// Marks a blob that no repository has. Returns how many were marked.
    pub(super) fn condemn_blob(&mut self, digest: &Digest, mark: u64, now: i64) -> u64 {
        let are_held = self.holds.are_held(now);
        match self.blobs.get_mut(digest) {
            Some(blob) if blob.repositories.is_empty() && (blob.condemned.is_some() || !are_held) => {
                blob.condemned = Some(mark);
                1
            }
            _ => 0,
        }
    }
}
