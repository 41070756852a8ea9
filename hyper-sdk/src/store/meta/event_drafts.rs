//! Which events a change has, the same for every backend: what a backend has to look up before the change, and what follows from
//! it once the change is applied.

use super::{Change, ManifestChange};
use crate::Digest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{ChangeContext, DeleteTarget, Event, EventKind, EventRules};
use std::sync::Arc;

/// The longest media type, in bytes.
const MEDIA_TYPE: usize = 255;

/// What has to be known before a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// Nothing.
    Nothing,
    /// What these tags name, and how many manifests the repository has.
    Tags(&'a RepositoryName, &'a [Tag]),
    /// The manifest with its tags, and how many manifests the repository has.
    Manifest(&'a RepositoryName, &'a Digest),
}

/// What a backend has found.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// What each of the tags names.
    pub(super) named: Vec<Option<Digest>>,
    /// The first tags of the manifest, at most [`Event::MOST_UNTAGGED`].
    pub(super) tags: Vec<Tag>,
    /// How many tags the manifest has.
    pub(super) tag_count: u64,
    /// The media type and the size of the manifest.
    pub(super) manifest: Option<(String, u64)>,
    /// How many manifests the repository has; more than 2 may be 2.
    pub(super) manifests: u64,
}

/// What has to be known of a change.
pub(super) fn wanted(change: &Change) -> Wanted<'_> {
    match change {
        Change::PutManifest(put) => Wanted::Tags(&put.repository, &put.tags),
        Change::DeleteTag { repository, tag } => Wanted::Tags(repository, std::slice::from_ref(tag)),
        Change::DeleteManifest { repository, digest }
        | Change::CollectManifest { repository, digest, .. } => Wanted::Manifest(repository, digest),
        Change::DeleteGuarded { repository, target, .. } => match target {
            DeleteTarget::Manifest(ManifestReference::Tag(tag)) => {
                Wanted::Tags(repository, std::slice::from_ref(tag))
            }
            DeleteTarget::Manifest(ManifestReference::Digest(digest)) => Wanted::Manifest(repository, digest),
            DeleteTarget::Blob(_) => Wanted::Nothing,
        },
        _ => Wanted::Nothing,
    }
}

/// Whether a change that was applied with this result has done something.
fn has_happened(change: &Change, result: u64) -> bool {
    match change {
        Change::CollectLink { .. } | Change::CollectManifest { .. } | Change::ExpireTag { .. } => result > 0,
        _ => true,
    }
}

/// The events of a change that was applied with this result, in their order, without numbers and times.
pub(super) fn drafts(
    change: &Change,
    (facts, result): (Facts, u64),
    rules: EventRules,
    by: Option<&Arc<ChangeContext>>,
) -> Vec<Event> {
    if !has_happened(change, result) {
        return Vec::new();
    }
    let mut events = match change {
        Change::PutManifest(put) => pushed(put, &facts),
        Change::DeleteTag { repository, tag } => vec![untagged(repository, tag, named(facts))],
        Change::ExpireTag { repository, record, .. } => {
            vec![untagged(repository, &record.tag, Some(record.digest.clone()))]
        }
        Change::DeleteManifest { repository, digest }
        | Change::CollectManifest { repository, digest, .. } => removed(repository, digest, facts),
        Change::DeleteGuarded { repository, target, .. } => match target {
            DeleteTarget::Manifest(ManifestReference::Tag(tag)) => {
                vec![untagged(repository, tag, named(facts))]
            }
            DeleteTarget::Manifest(ManifestReference::Digest(digest)) => removed(repository, digest, facts),
            DeleteTarget::Blob(digest) if rules.blobs => {
                vec![of_blob(EventKind::BlobDeleted, repository, digest)]
            }
            DeleteTarget::Blob(_) => Vec::new(),
        },
        Change::LinkBlob { repository, digest, size, .. } if rules.blobs => {
            vec![Event { size: Some(*size), ..of_blob(EventKind::BlobPushed, repository, digest) }]
        }
        Change::MountBlob { repository, digest, from, .. } if rules.blobs => vec![Event {
            from: Some(from.clone()),
            size: Some(result),
            ..of_blob(EventKind::BlobMounted, repository, digest)
        }],
        Change::UnlinkBlob { repository, digest } | Change::CollectLink { repository, digest, .. }
            if rules.blobs =>
        {
            vec![of_blob(EventKind::BlobDeleted, repository, digest)]
        }
        _ => Vec::new(),
    };
    let mut by = by.map(|by| ChangeContext::clone(by)).unwrap_or_default();
    match change {
        Change::ExpireTag { .. } => by.origin = Some("retention".to_owned()),
        Change::CollectManifest { .. } | Change::CollectLink { .. } => {
            by.origin = Some("collection".to_owned())
        }
        _ => {}
    }
    for event in &mut events {
        event.by = by.clone();
    }
    events
}

fn named(facts: Facts) -> Option<Digest> {
    facts.named.into_iter().next().flatten()
}

fn of_blob(kind: EventKind, repository: &RepositoryName, digest: &Digest) -> Event {
    Event { digest: Some(digest.clone()), ..Event::new(kind, repository.clone()) }
}

fn untagged(repository: &RepositoryName, tag: &Tag, digest: Option<Digest>) -> Event {
    Event { tag: Some(tag.clone()), digest, ..Event::new(EventKind::TagDeleted, repository.clone()) }
}

/// A media type as an event has it. A client chooses it, and events are kept and read together, so one that no media type may
/// be (RFC 6838, section 4.2) is left out: receivers refuse a request for a text of that kind, and then get no other event.
fn short(media_type: &str) -> Option<String> {
    let is_part = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        part.starts_with(|first: char| first.is_ascii_alphanumeric()) && part.bytes().all(is_allowed)
    };
    let is_media_type = media_type.split_once('/').is_some_and(|(kind, name)| is_part(kind) && is_part(name));
    (media_type.len() <= MEDIA_TYPE && is_media_type).then(|| media_type.to_owned())
}

fn pushed(put: &ManifestChange, facts: &Facts) -> Vec<Event> {
    let (name, digest) = (&put.repository, put.manifest.digest());
    let first = (facts.manifests == 0).then(|| Event::new(EventKind::RepositoryCreated, name.clone()));
    let manifest = Event {
        digest: Some(digest.clone()),
        tags: put.tags.iter().take(Event::MOST_TAGS).cloned().collect(),
        media_type: short(put.manifest.media_type()),
        artifact_type: put.manifest.artifact_type().and_then(short),
        subject: put.manifest.subject().map(|subject| subject.digest.clone()),
        size: Some(put.manifest.bytes().len() as u64),
        ..Event::new(EventKind::ManifestPushed, name.clone())
    };
    let tags = put.tags.iter().enumerate().filter_map(|(number, tag)| {
        // A tag may be named twice.
        let is_first = !put.tags[..number].contains(tag);
        let former = facts.named.get(number).cloned().flatten();
        let kind = match &former {
            None => EventKind::TagCreated,
            Some(former) if former != digest => EventKind::TagMoved,
            Some(_) => return None,
        };
        let event = Event {
            tag: Some(tag.clone()),
            digest: Some(digest.clone()),
            former,
            ..Event::new(kind, name.clone())
        };
        is_first.then_some(event)
    });
    first.into_iter().chain([manifest]).chain(tags).collect()
}

fn removed(name: &RepositoryName, digest: &Digest, facts: Facts) -> Vec<Event> {
    let mut events: Vec<Event> =
        facts.tags.iter().map(|tag| untagged(name, tag, Some(digest.clone()))).collect();
    let (media_type, size) = facts.manifest.unzip();
    let media_type = media_type.as_deref().and_then(short);
    let mut tags = facts.tags;
    tags.truncate(Event::MOST_TAGS);
    events.push(Event {
        digest: Some(digest.clone()),
        tags,
        tag_count: Some(facts.tag_count),
        media_type,
        size,
        ..Event::new(EventKind::ManifestDeleted, name.clone())
    });
    if facts.manifests == 1 {
        events.push(Event::new(EventKind::RepositoryEmptied, name.clone()));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_media_type_is_told_as_one() {
        let long = format!("a/{}", "b".repeat(MEDIA_TYPE));
        for text in [
            "",
            "a",
            "a/",
            "/a",
            "a/b/c",
            "a/<script>",
            "<b>/c",
            "a/b\r\nX: y",
            "a/ b",
            "a/b;c=d",
            "a/\u{e4}",
            ".a/b",
            &long,
        ] {
            assert_eq!(short(text), None, "{text}");
        }
        for text in ["a/b", "application/vnd.oci.image.manifest.v1+json", "x-1/y_2.z^3&$!#"] {
            assert_eq!(short(text).as_deref(), Some(text));
        }
    }
}
