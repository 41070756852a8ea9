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
            Ok(self.tags.get(text).map(|tagged| tagged.record(tag)))
        };
        let Listing { items, more } = page(&self.tags, after, limit, |_| true, record)?;
        Ok(Listing { items: items.into_iter().flatten().collect(), more })
    }
}

impl Tagged {
    fn record(&self, tag: Tag) -> TagRecord {
        TagRecord { tag, digest: self.digest.clone(), pushed_at: self.pushed_at }
    }
}

impl State {
    /// Deletes a tag if it is what it was. Returns how many were deleted.
    pub(super) fn expire_tag(
        &mut self,
        name: &RepositoryName,
        record: &TagRecord,
        (judged_at, now): (i64, i64),
    ) -> Result<u64> {
        check_judged_at(judged_at, now)?;
        let Some(repository) = self.repositories.get_mut(name.as_str()) else { return Ok(0) };
        let is_same = repository
            .tags
            .get(record.tag.as_str())
            .is_some_and(|tagged| tagged.digest == record.digest && tagged.pushed_at == record.pushed_at);
        if !is_same || repository.tags.remove(record.tag.as_str()).is_none() {
            return Ok(0);
        }
        repository.stored.insert(record.digest.clone(), now);
        Ok(1)
    }
}
