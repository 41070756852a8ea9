//! The keys of objects.
//!
//! ```text
//!   PREFIX/registry              the id of the registry that has the place
//!   PREFIX/blobs/NAME            the bytes of a blob, under a random name                 BlobKey::Own("NAME")
//!   PREFIX/blobs/sha256-HEX      bytes that were stored under their digest                BlobKey::Digest
//!   PREFIX/uploads/ID/parts-N    beside an upload: the name of the object that is written in parts, and the name that
//!                                the server gave to that; written before the first part
//!   PREFIX/uploads/ID/tail-N     beside an upload: saved bytes after the last part
//! ```

use crate::s3::S3BlobPlace;
use crate::store::UploadId;
use crate::store::blob::BlobKey;
use crate::{Digest, Result};
use object_store::path::Path as Key;
use std::fmt;

const BLOBS: &str = "blobs";
const UPLOADS: &str = "uploads";
const OWNER: &str = "registry";
/// What the names of objects beside an upload begin with.
pub(super) const PARTS: &str = "parts-";
pub(super) const TAIL: &str = "tail-";

/// The place of the blobs of a registry.
#[derive(Debug)]
pub(super) struct Place(S3BlobPlace, Key);

impl Place {
    pub(super) fn new(place: S3BlobPlace) -> Self {
        let root = Key::from(place.prefix.as_str());
        Self(place, root)
    }

    pub(super) fn s3(&self) -> &S3BlobPlace {
        &self.0
    }

    pub(super) fn blobs(&self) -> Key {
        self.1.clone().join(BLOBS)
    }

    pub(super) fn uploads(&self) -> Key {
        self.1.clone().join(UPLOADS)
    }

    pub(super) fn owner(&self) -> Key {
        self.1.clone().join(OWNER)
    }

    /// The object of a blob; `None` for a key that is not of this backend.
    pub(super) fn blob(&self, key: &BlobKey) -> Option<Key> {
        match key {
            BlobKey::Digest(digest) => Some(self.blobs().join(name_of(digest))),
            BlobKey::Own(name) => is_random(name).then(|| self.blobs().join(name.as_str())),
        }
    }

    /// The blob that an object holds.
    pub(super) fn key_of(&self, object: &Key) -> Option<BlobKey> {
        let name = object.filename()?;
        match name.split_once('-') {
            Some((algorithm, hex)) => Digest::parse(&format!("{algorithm}:{hex}")).ok().map(BlobKey::Digest),
            None => is_random(name).then(|| BlobKey::Own(name.to_owned())),
        }
    }

    /// The folder of the objects beside an upload.
    pub(super) fn beside(&self, id: &UploadId) -> Key {
        self.uploads().join(id.as_str())
    }

    /// The upload that an object is beside.
    pub(super) fn upload_of(&self, object: &Key) -> Option<UploadId> {
        let mut parts = object.prefix_match(&self.uploads())?;
        let id = UploadId::parse(parts.next()?.as_ref()).ok()?;
        parts.next().map(|_| id)
    }
}

/// A name that no other object has.
pub(super) fn random_name() -> Result<String> {
    UploadId::random().map(|id| id.to_string())
}

fn is_random(name: &str) -> bool {
    UploadId::parse(name).is_ok()
}

/// The name of the object that is stored under a digest.
pub(super) fn name_of(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_the_key_that_they_are_found_by() {
        for text in ["s3://b", "s3://b/a/c"] {
            let place = Place::new(text.parse().unwrap());
            let id = UploadId::random().unwrap();
            for key in [BlobKey::Own(random_name().unwrap()), BlobKey::Digest(Digest::sha256("x"))] {
                assert_eq!(place.key_of(&place.blob(&key).unwrap()), Some(key));
            }
            assert_eq!(place.upload_of(&place.beside(&id).join("tail-1")), Some(id.clone()));
            assert_eq!(place.upload_of(&place.beside(&id)), None);
            assert_eq!(place.upload_of(&place.blobs().join(id.as_str())), None);
            assert_eq!(place.blob(&BlobKey::Own("../x".to_owned())), None);
            assert_eq!(place.key_of(&place.blobs().join("other")), None);
        }
    }
}
