//! What an item is called.

use crate::Digest;
use crate::cache::CacheRecord;
use crate::oci::Descriptor;
use crate::reference::{RepositoryName, Tag};
use crate::store::local_reference;

/// The blob of a record.
pub(super) fn blob_of(record: &CacheRecord) -> Option<&Descriptor> {
    record.layer.as_ref()
}

/// Whether a record is of no use without its snapshot: nothing else has the files.
pub(super) fn lives_in(record: &CacheRecord) -> Option<&Digest> {
    record.snapshot.as_ref().filter(|_| record.layer.is_none())
}

/// What identifies the layer of a record.
pub(super) fn layer_id(record: &CacheRecord) -> String {
    blob_of(record).map_or_else(|| record.diff_id.to_string(), |blob| blob.digest.to_string())
}

/// A layer that so many records name.
pub(super) fn layer(record: &CacheRecord, records: usize) -> String {
    let what = if blob_of(record).is_some() { "layer of a step" } else { "result of a step" };
    match records {
        1 => what.to_owned(),
        more => format!("{what}, {more} keys"),
    }
}

/// The name of a tag as users write it.
pub(super) fn name(repository: &RepositoryName, tag: &str) -> String {
    let reference = Tag::parse(tag).ok().and_then(|tag| local_reference(repository, Some(tag), None));
    reference.map_or_else(|| format!("{repository}:{tag}"), |reference| reference.familiar())
}
