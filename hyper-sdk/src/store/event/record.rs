//! One event.

use super::ChangeContext;
use crate::Digest;
use crate::reference::{RepositoryName, Tag};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// The first manifest came into a repository.
    #[serde(rename = "repository.created")]
    RepositoryCreated,
    /// The last manifest of a repository is gone.
    #[serde(rename = "repository.emptied")]
    RepositoryEmptied,
    /// A manifest was pushed, for the first time or again.
    #[serde(rename = "manifest.pushed")]
    ManifestPushed,
    /// A manifest is gone.
    #[serde(rename = "manifest.deleted")]
    ManifestDeleted,
    /// A tag that did not exist names a manifest.
    #[serde(rename = "tag.created")]
    TagCreated,
    /// A tag names another manifest.
    #[serde(rename = "tag.moved")]
    TagMoved,
    /// A tag is gone.
    #[serde(rename = "tag.deleted")]
    TagDeleted,
    /// A blob was uploaded.
    #[serde(rename = "blob.pushed")]
    BlobPushed,
    /// A blob of another repository was mounted.
    #[serde(rename = "blob.mounted")]
    BlobMounted,
    /// A blob is gone from a repository.
    #[serde(rename = "blob.deleted")]
    BlobDeleted,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::RepositoryCreated,
        Self::RepositoryEmptied,
        Self::ManifestPushed,
        Self::ManifestDeleted,
        Self::TagCreated,
        Self::TagMoved,
        Self::TagDeleted,
        Self::BlobPushed,
        Self::BlobMounted,
        Self::BlobDeleted,
    ];

    /// The name, such as `manifest.pushed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RepositoryCreated => "repository.created",
            Self::RepositoryEmptied => "repository.emptied",
            Self::ManifestPushed => "manifest.pushed",
            Self::ManifestDeleted => "manifest.deleted",
            Self::TagCreated => "tag.created",
            Self::TagMoved => "tag.moved",
            Self::TagDeleted => "tag.deleted",
            Self::BlobPushed => "blob.pushed",
            Self::BlobMounted => "blob.mounted",
            Self::BlobDeleted => "blob.deleted",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that has happened in a repository. The fields that a kind does not have are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Its number: one more than that of the event before.
    #[serde(skip)]
    pub sequence: u64,
    /// When it happened, in seconds since 1970 by the clock of the store.
    #[serde(skip)]
    pub at: i64,
    /// What has happened.
    pub kind: EventKind,
    /// Where.
    pub repository: RepositoryName,
    /// The tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// The manifest or blob; of a deleted tag, what it named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What a moved tag named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Digest>,
    /// The tags that a manifest was pushed with, or that went with a deleted one, at most [`Event::MOST_TAGS`]. Each tag that is
    /// created, moved or deleted has an event of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// How many tags went with a deleted manifest. No more than [`Event::MOST_UNTAGGED`] of them have an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag_count: Option<u64>,
    /// The repository that a blob was mounted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RepositoryName>,
    /// The media type of a manifest, unless it is longer than 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The artifact type of a pushed manifest, unless it is longer than 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The subject of a pushed manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// The size of a manifest or a pushed blob in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Who made the change.
    #[serde(default, skip_serializing_if = "ChangeContext::is_empty")]
    pub by: ChangeContext,
}

impl Event {
    /// The most tags in the event of a manifest.
    pub const MOST_TAGS: usize = 100;

    /// The most tags of a deleted manifest that have an event of their own: a deletion keeps others from writing for as long as
    /// its events take.
    pub const MOST_UNTAGGED: usize = 1000;

    /// An event that has no number and no time yet.
    pub fn new(kind: EventKind, repository: RepositoryName) -> Self {
        Self {
            sequence: 0,
            at: 0,
            kind,
            repository,
            tag: None,
            digest: None,
            former: None,
            tags: Vec::new(),
            tag_count: None,
            from: None,
            media_type: None,
            artifact_type: None,
            subject: None,
            size: None,
            by: ChangeContext::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_kind_is_its_name_in_json() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
