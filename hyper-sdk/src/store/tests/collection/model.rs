//! What a store must have in a history, and its time.

use crate::Digest;
use crate::clock::{Clock as _, FrozenClock};
use crate::oci::Manifest;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) manifest: Manifest,
    pub(super) blobs: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Repository {
    /// The links, with a time at which the lease has not ended yet.
    pub(super) links: BTreeMap<usize, i64>,
    pub(super) manifests: BTreeMap<Digest, Stored>,
    pub(super) tags: BTreeMap<&'static str, Digest>,
    /// What was deleted, and when its window ends.
    pub(super) deleted: BTreeMap<Digest, (Stored, i64)>,
    /// What a tag has lost, and when its window ends.
    pub(super) lost: Vec<(Digest, i64)>,
}

impl Repository {
    pub(super) fn delete(&mut self, gone: &Digest, until: i64) {
        if self.tags.values().any(|digest| digest == gone) {
            self.lost.push((gone.clone(), until));
        }
        self.tags.retain(|_, digest| digest != gone);
        let stored = self.manifests.remove(gone).unwrap();
        self.deleted.insert(gone.clone(), (stored, until));
    }

    /// What was deleted and is kept at a time.
    pub(super) fn undeletable(&self, now: i64) -> impl Iterator<Item = &Stored> {
        self.deleted.values().filter(move |(_, until)| *until > now).map(|(stored, _)| stored)
    }

    /// The manifests that a tag keeps, or the window of a deletion.
    pub(super) fn kept(&self, now: i64) -> HashSet<Digest> {
        let mut kept = HashSet::new();
        let mut open: Vec<Digest> = self.tags.values().cloned().collect();
        open.extend(self.lost.iter().filter(|(_, until)| *until > now).map(|(digest, _)| digest.clone()));
        open.extend(self.undeletable(now).map(|stored| stored.manifest.digest().clone()));
        while let Some(digest) = open.pop() {
            let deleted = self.undeletable(now).find(|stored| *stored.manifest.digest() == digest);
            let Some(stored) = self.manifests.get(&digest).or(deleted) else { continue };
            if !kept.insert(digest.clone()) {
                continue;
            }
            open.extend(
                stored.manifest.index().into_iter().flat_map(|i| &i.manifests).map(|e| e.digest.clone()),
            );
            let is_about = |other: &&Stored| other.manifest.subject().is_some_and(|s| s.digest == digest);
            open.extend(
                self.manifests.values().filter(is_about).map(|other| other.manifest.digest().clone()),
            );
        }
        kept
    }

    pub(super) fn referenced(&self, now: i64) -> BTreeSet<usize> {
        let all = self.manifests.values().chain(self.undeletable(now));
        all.flat_map(|stored| stored.blobs.iter().copied()).collect()
    }
}

/// The time of a history, with the window of its deletions in seconds.
pub(super) struct Time {
    pub(super) clock: Arc<FrozenClock>,
    pub(super) window: i64,
    /// Turns the clock of a backend that has its own.
    pub(super) turn: Option<Arc<dyn Fn(i64) + Send + Sync>>,
}

impl Time {
    pub(super) fn with_window(window: i64) -> Self {
        Self { clock: Arc::default(), window, turn: None }
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.now()
    }

    pub(super) fn pass(&self, seconds: i64) {
        self.clock.advance(seconds);
        self.turn.iter().for_each(|turn| turn(seconds));
    }
}
