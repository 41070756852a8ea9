//! Deletions that a guard must allow.

use super::State;
use crate::Result;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{DeleteTarget, TagChange, TagGuard};
use std::collections::HashSet;

impl State {
    pub(super) fn delete_guarded(
        &mut self,
        name: &RepositoryName,
        target: &DeleteTarget,
        guard: &TagGuard,
        now: i64,
    ) -> Result<u64> {
        let needed = match target {
            DeleteTarget::Manifest(ManifestReference::Tag(tag)) => {
                let is_there = self.find(name).is_some_and(|r| r.tags.contains_key(tag.as_str()));
                if is_there {
                    guard.check(tag, TagChange::Delete)?;
                }
                return self.delete_tag(name, tag, now);
            }
            DeleteTarget::Manifest(ManifestReference::Digest(digest)) | DeleteTarget::Blob(digest) => digest,
        };
        if let Some(repository) = self.find(name).filter(|_| guard.asks_about_deletions()) {
            let (mut seen, mut open) = (HashSet::from([needed]), vec![needed]);
            while let Some(digest) = open.pop() {
                let having = repository.edges.iter().filter(|(_, edges)| edges.contains(digest));
                open.extend(having.map(|(manifest, _)| manifest).filter(|manifest| seen.insert(manifest)));
            }
            for (tag, _) in repository.tags.iter().filter(|(_, tagged)| seen.contains(&tagged.digest)) {
                guard.check(&Tag::parse(tag)?, TagChange::Delete)?;
            }
        }
        match target {
            DeleteTarget::Blob(digest) => self.delete_blob(name, digest),
            DeleteTarget::Manifest(_) => self.delete_kept(name, needed, now),
        }
    }
}
