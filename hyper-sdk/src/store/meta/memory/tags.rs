//! Tags with the time of their last push.

use super::{Repository, State, page};
use crate::reference::{RepositoryName, Tag};
use crate::store::Listing;
use crate::store::errors::check_judged_at;
use crate::store::meta::TagRecord;
use crate::{Digest, Result};

/// What a tag names, and since when.
#[derive(Debug)]
pub(super) struct Tagged {
    pub(super) digest: Digest,
    pub(super) pushed_at: i64,
}

impl Repository {
    pub(super) fn tag_records(&self, after: Option<&str>, limit: usize) -> Result<Listing<TagRecord>> {
        let record = |text: &str| {
            let tag = Tag::parse(text)?;
            Ok(self.tags.get(text).map(|tagged| self.record(tag, tagged)))
        };
        let Listing { items, more } = page(&self.tags, after, limit, |_| true, record)?;
        Ok(Listing { items: items.into_iter().flatten().collect(), more })
    }

    fn record(&self, tag: Tag, tagged: &Tagged) -> TagRecord {
        let pulled_at = self.pulled_at(tag.as_str(), &tagged.digest);
        TagRecord { tag, digest: tagged.digest.clone(), pushed_at: tagged.pushed_at, pulled_at }
    }

    /// Removes a tag with its note.
    pub(super) fn remove_tag(&mut self, tag: &str) -> Option<Tagged> {
        self.pulled.remove(tag);
        self.tags.remove(tag)
    }
}

impl State {
    /// Deletes a tag if it is what it was. Returns how many were deleted.
    pub(super) fn expire_tag(
        &mut self,
        name: &RepositoryName,
        record: &TagRecord,
        (judged_at, now): (i64, i64),
        unpulled_since: Option<i64>,
    ) -> Result<u64> {
        check_judged_at(judged_at, now)?;
        let noted_since = self.pulls_since(now);
        let Some(repository) = self.repositories.get(name.as_str()) else { return Ok(0) };
        let is_same = repository
            .tags
            .get(record.tag.as_str())
            .is_some_and(|tagged| tagged.digest == record.digest && tagged.pushed_at == record.pushed_at);
        let pulled = unpulled_since.zip(repository.pulled_at(record.tag.as_str(), &record.digest));
        let was_pulled = pulled.is_some_and(|(since, at)| at > since);
        let is_unknown =
            unpulled_since.is_some_and(|unpulled| noted_since.is_none_or(|since| since > unpulled));
        if !is_same || was_pulled || is_unknown {
            return Ok(0);
        }
        self.note_tag(name, record.tag.as_str(), None, now);
        let Some(repository) = self.repositories.get_mut(name.as_str()) else { return Ok(0) };
        repository.remove_tag(record.tag.as_str());
        repository.stored.insert(record.digest.clone(), now);
        Ok(1)
    }
}
