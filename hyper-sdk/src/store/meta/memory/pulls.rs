//! Notes of pulls.

use super::{Repository, State};
use crate::Digest;
use crate::store::PullNote;
use crate::store::meta::{NOTES_GAP, is_noted_again};

impl Repository {
    /// When a tag, or the manifest that it names, was last pulled.
    pub(super) fn pulled_at(&self, tag: &str, digest: &Digest) -> Option<i64> {
        self.pulled.get(tag).max(self.pulled.get(digest.as_str())).copied()
    }

    fn note(&mut self, text: &str, now: i64) {
        let at = self.pulled.entry(text.to_owned()).or_insert(now);
        if is_noted_again(*at, now) {
            *at = now;
        }
    }
}

impl State {
    /// Since when pulls are noted, if they still are.
    pub(super) fn pulls_since(&self, now: i64) -> Option<i64> {
        let is_known = |(since, until): &(i64, i64)| *since <= now && *until >= now.saturating_sub(NOTES_GAP);
        self.pulls_noted.filter(is_known).map(|(since, _)| since)
    }

    /// Returns 0.
    pub(super) fn note_pulls(&mut self, pulls: &[PullNote], lost: bool, now: i64) -> u64 {
        for pull in pulls {
            let Some(repository) = self.repositories.get_mut(pull.repository.as_str()) else { continue };
            if repository.manifests.contains_key(&pull.digest) {
                repository.note(pull.digest.as_str(), now);
            }
            if let Some(tag) = pull.tag.as_ref().filter(|tag| repository.tags.contains_key(tag.as_str())) {
                repository.note(tag.as_str(), now);
            }
        }
        // Notes that begin in a time to come were made before the clock was set back.
        let since = self.pulls_since(now).filter(|_| !lost).unwrap_or(now);
        self.pulls_noted = Some((since, now));
        0
    }
}
