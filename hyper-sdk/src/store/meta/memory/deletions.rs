//! What was deleted within a window.

use super::{Repository, State};
use crate::oci::Manifest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::Listing;
use crate::store::errors::{not_deleted, not_kept};
use crate::store::meta::{Deletion, MOST_KEPT_TAGS};
use crate::{Digest, Result};
use std::collections::{BTreeMap, HashMap};

/// A name that has lost its manifest.
#[derive(Debug)]
struct Lost {
    number: u64,
    deleted_at: i64,
    kept_until: i64,
}

/// A manifest that was deleted, with what it references.
#[derive(Debug)]
struct Kept {
    manifest: Manifest,
    edges: Vec<Digest>,
    kept_until: i64,
}

/// What a repository has deleted.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    /// By the tag or the text of the digest, and the manifest.
    names: BTreeMap<(String, Digest), Lost>,
    manifests: HashMap<Digest, Kept>,
}

impl Deleted {
    pub(super) fn manifest(&self, digest: &Digest, now: i64) -> Option<&Manifest> {
        self.manifests.get(digest).filter(|kept| kept.kept_until > now).map(|kept| &kept.manifest)
    }

    /// All that is kept, also past its end, with their sizes.
    pub(super) fn manifests(&self) -> impl ExactSizeIterator<Item = (&Digest, u64)> {
        self.manifests.iter().map(|(digest, kept)| (digest, kept.manifest.bytes().len() as u64))
    }

    /// Whether a manifest is kept, also past its end.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.manifests.contains_key(digest)
    }

    /// Removes the oldest tags when there are too many.
    fn bound(&mut self) {
        let is_tag = |(name, digest): &(String, Digest)| name != digest.as_str();
        while self.names.len() > MOST_KEPT_TAGS {
            let tags = || self.names.iter().filter(|(key, _)| is_tag(key));
            if tags().count() <= MOST_KEPT_TAGS {
                return;
            }
            let oldest = tags().min_by_key(|(_, lost)| lost.number);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.names.remove(&key);
            }
        }
    }

    /// Whether a deleted manifest needs a blob or a manifest.
    pub(super) fn references(&self, digest: &Digest, now: i64) -> bool {
        self.manifests.values().any(|kept| kept.kept_until > now && kept.edges.contains(digest))
    }

    /// Whether a deletion keeps a manifest which has this subject.
    pub(super) fn keeps(&self, digest: &Digest, subject: Option<&Digest>, now: i64) -> bool {
        self.names.iter().any(|((_, of), lost)| of == digest && lost.kept_until > now)
            || self.references(digest, now)
            || subject.is_some_and(|subject| self.manifest(subject, now).is_some())
    }

    pub(super) fn forget_manifest(&mut self, digest: &Digest) {
        self.manifests.remove(digest);
        self.names.remove(&(digest.to_string(), digest.clone()));
    }
}

impl Repository {
    /// Whether a name has its manifest again.
    fn names(&self, name: &str, digest: &Digest) -> bool {
        self.tags.get(name).is_some_and(|tagged| tagged.digest == *digest)
    }
}

impl State {
    fn note(&mut self, name: &RepositoryName, lost: &str, digest: &Digest, now: i64) {
        self.deletions += 1;
        let (number, kept_until) = (self.deletions, now.saturating_add(self.window));
        let Some(repository) = self.repositories.get_mut(name.as_str()) else { return };
        let key = (lost.to_owned(), digest.clone());
        repository.deleted.names.insert(key, Lost { number, deleted_at: now, kept_until });
        repository.deleted.bound();
    }

    /// Records that a tag is about to lose its manifest, unless that is the next one.
    pub(super) fn note_tag(&mut self, name: &RepositoryName, tag: &str, next: Option<&Digest>, now: i64) {
        let named = self.find(name).and_then(|r| r.tags.get(tag)).map(|tagged| tagged.digest.clone());
        if let Some(digest) = named.filter(|digest| self.window > 0 && next != Some(digest)) {
            self.note(name, tag, &digest, now);
        }
    }

    /// Deletes a manifest, and keeps it for the window. Without one, it forgets what tags have lost it, too.
    pub(super) fn delete_kept(&mut self, name: &RepositoryName, digest: &Digest, now: i64) -> Result<u64> {
        if self.window == 0 {
            let gone = self.delete_manifest(name, digest)?;
            if let Some(repository) = self.repositories.get_mut(name.as_str()) {
                repository.deleted.names.retain(|(_, of), _| of != digest);
            }
            return Ok(gone);
        }
        let found = self.find(name);
        let kept = found.and_then(|r| Some((r.manifests.get(digest)?.clone(), r)));
        if let Some((manifest, repository)) = kept {
            let edges = repository.edges.get(digest).cloned().unwrap_or_default();
            let tags = repository.tags.iter().filter(|(_, tagged)| tagged.digest == *digest);
            let names: Vec<String> = tags.map(|(tag, _)| tag.clone()).chain([digest.to_string()]).collect();
            let until = now.saturating_add(self.window);
            let kept = Kept { manifest, edges, kept_until: until };
            if let Some(repository) = self.repositories.get_mut(name.as_str()) {
                repository.deleted.manifests.insert(digest.clone(), kept);
                let lost = repository.deleted.names.iter_mut().filter(|((_, of), _)| of == digest);
                lost.for_each(|(_, lost)| lost.kept_until = lost.kept_until.min(until));
            }
            for lost in names {
                self.note(name, &lost, digest, now);
            }
        }
        self.delete_manifest(name, digest)
    }

    /// Fails when a manifest is neither there nor kept since its deletion.
    pub(super) fn check_kept(&self, name: &RepositoryName, digest: &Digest, now: i64) -> Result<()> {
        let is_there =
            |r: &Repository| r.manifests.contains_key(digest) || r.deleted.manifest(digest, now).is_some();
        if self.find(name).is_some_and(is_there) { Ok(()) } else { Err(not_kept(name, digest)) }
    }

    pub(super) fn purge_deleted(&mut self, name: &RepositoryName, digest: &Digest) -> Result<u64> {
        let Some(repository) = self.repositories.get_mut(name.as_str()) else { return Ok(0) };
        if repository.manifests.contains_key(digest) {
            return Err(not_deleted(name, digest));
        }
        let before = repository.deleted.names.len();
        repository.deleted.names.retain(|(_, of), _| of != digest);
        let gone = before - repository.deleted.names.len();
        Ok(gone as u64 + u64::from(repository.deleted.manifests.remove(digest).is_some()))
    }

    pub(super) fn forget_deletions(&mut self, now: i64) -> u64 {
        let mut gone = 0;
        for repository in self.repositories.values_mut() {
            let deleted = &mut repository.deleted;
            let before = deleted.names.len() + deleted.manifests.len();
            deleted.names.retain(|_, lost| lost.kept_until > now);
            deleted.manifests.retain(|_, kept| kept.kept_until > now);
            gone += before - deleted.names.len() - deleted.manifests.len();
        }
        gone as u64
    }

    fn all_deletions(&self, of: Option<&RepositoryName>, now: i64) -> Result<Vec<Deletion>> {
        let mut all = Vec::new();
        for (name, repository) in &self.repositories {
            if of.is_some_and(|of| of.as_str() != name) {
                continue;
            }
            for ((lost, digest), one) in &repository.deleted.names {
                if one.kept_until > now && !repository.names(lost, digest) {
                    all.push(Deletion {
                        number: one.number,
                        repository: RepositoryName::parse(name)?,
                        reference: lost.parse::<ManifestReference>()?,
                        digest: digest.clone(),
                        deleted_at: one.deleted_at,
                        kept_until: one.kept_until,
                    });
                }
            }
        }
        all.sort_by_key(|one| one.number);
        Ok(all)
    }

    pub(super) fn list_deletions(
        &self,
        of: Option<&RepositoryName>,
        (after, limit): (u64, usize),
        now: i64,
    ) -> Result<Listing<Deletion>> {
        let mut items = self.all_deletions(of, now)?;
        items.retain(|one| one.number > after);
        let more = items.len() > limit && limit > 0;
        items.truncate(limit);
        Ok(Listing { items, more })
    }

    pub(super) fn last_deletion(&self, of: &RepositoryName, tag: &Tag, now: i64) -> Result<Option<Deletion>> {
        let all = self.all_deletions(Some(of), now)?.into_iter();
        let reference = ManifestReference::from(tag.clone());
        Ok(all.filter(|one| one.reference == reference).max_by_key(|one| one.number))
    }
}
