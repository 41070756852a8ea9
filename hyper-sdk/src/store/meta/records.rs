//! What a metadata backend lists.

use crate::Digest;
use crate::digest::Algorithm;
use crate::reference::{RepositoryName, Tag};
use crate::store::UploadId;
use crate::store::blob::{BlobKey, StagedState};

/// The row of a blob, which all its repositories share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The key of its bytes in the blob backend.
    pub key: BlobKey,
    /// The mark of the garbage collector that is removing the blob ([`Change::CondemnBlob`]).
    pub condemned: Option<u64>,
    /// Whether the bytes are damaged and kept aside ([`Change::QuarantineBlob`]).
    pub quarantined: bool,
}

/// A link: the repository has the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobLink {
    /// The repository.
    pub repository: RepositoryName,
    /// The blob.
    pub digest: Digest,
}

/// A manifest in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestAt {
    /// The repository.
    pub repository: RepositoryName,
    /// The manifest.
    pub digest: Digest,
}

/// A tag of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// The tag.
    pub tag: Tag,
    /// The manifest that it names.
    pub digest: Digest,
    /// When it was last pushed, to this manifest or again to it, in seconds since 1970 by the clock of the backend.
    pub pushed_at: i64,
}

/// How far a scrub is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubPlace {
    /// The last blob that the round has read; `None` between rounds.
    pub after: Option<Digest>,
    /// When the last round ended, in seconds since 1970.
    pub ended_at: Option<i64>,
}

/// A row of the table of upload sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRecord {
    /// The id of the session.
    pub id: UploadId,
    /// The target repository, which need not exist yet.
    pub repository: RepositoryName,
    /// The algorithm of the running hash.
    pub algorithm: Algorithm,
    /// The saved state of the staging area.
    pub state: StagedState,
}
