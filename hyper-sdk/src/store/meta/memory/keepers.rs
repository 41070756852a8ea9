//! What a garbage collector leaves: links that a manifest or a lease keeps, and manifests that something keeps.

use super::{Repository, State};
use crate::Digest;
use crate::oci::Manifest;
use std::collections::HashSet;

impl State {
    /// Whether a garbage collector may remove the link.
    pub(super) fn is_unreferenced(&self, repository: &Repository, digest: &Digest, now: i64) -> bool {
        let lease_ended = repository.blobs.get(digest).is_some_and(|leased_until| *leased_until <= now);
        lease_ended && !repository.references.contains_key(digest)
    }

    /// Whether a tag, or a manifest that was stored after `before`, keeps a manifest.
    pub(super) fn is_kept(repository: &Repository, digest: &Digest, before: i64) -> bool {
        let tagged: HashSet<&Digest> = repository.tags.values().map(|tagged| &tagged.digest).collect();
        let (mut seen, mut open) = (HashSet::from([digest]), vec![digest]);
        while let Some(digest) = open.pop() {
            let Some(manifest) = repository.manifests.get(digest) else { continue };
            if tagged.contains(digest) || repository.stored.get(digest).is_some_and(|stored| *stored > before)
            {
                return true;
            }
            let is_entry = |m: &&Manifest| {
                m.index().is_some_and(|index| index.manifests.iter().any(|entry| entry.digest == *digest))
            };
            let indexes = repository.manifests.values().filter(is_entry).map(Manifest::digest);
            open.extend(
                indexes.chain(manifest.subject().map(|s| &s.digest)).filter(|keeper| seen.insert(keeper)),
            );
        }
        false
    }
}
