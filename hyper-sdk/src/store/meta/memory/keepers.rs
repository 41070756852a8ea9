//! What a garbage collector leaves: links that a manifest or a lease keeps, and manifests that something keeps.

use super::{Repository, State};
use crate::Digest;
use crate::oci::Manifest;
use std::collections::HashSet;

impl State {
    /// Whether a garbage collector may remove the link.
    pub(super) fn is_unreferenced(
        &self,
        repository: &Repository,
        digest: &Digest,
        (now, time): (i64, i64),
    ) -> bool {
        let lease_ended = repository.blobs.get(digest).is_some_and(|leased_until| *leased_until <= now);
        let is_needed =
            repository.references.contains_key(digest) || repository.deleted.references(digest, time);
        lease_ended && !is_needed
    }

    /// Whether a tag, a manifest that was stored after `before`, or the window of a deletion keeps a manifest at the time `now`.
    pub(super) fn is_kept(repository: &Repository, digest: &Digest, (before, now): (i64, i64)) -> bool {
        let tagged: HashSet<&Digest> = repository.tags.values().map(|tagged| &tagged.digest).collect();
        let (mut seen, mut open) = (HashSet::from([digest]), vec![digest]);
        while let Some(digest) = open.pop() {
            let Some(manifest) = repository.manifests.get(digest) else { continue };
            let subject = manifest.subject().map(|subject| &subject.digest);
            if repository.deleted.keeps(digest, subject, now)
                || tagged.contains(digest)
                || repository.stored.get(digest).is_some_and(|stored| *stored > before)
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
