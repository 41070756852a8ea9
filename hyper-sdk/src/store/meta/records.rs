//! What a metadata backend lists.

use crate::Digest;
use crate::digest::Algorithm;
use crate::reference::{ManifestReference, RepositoryName, Tag};
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

/// A manifest that nothing keeps ([`MetaBackend::unkept_manifests`](super::MetaBackend::unkept_manifests)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnkeptManifest {
    /// Where it is.
    pub at: ManifestAt,
    /// When it was last stored, or retention last removed a tag of it, in seconds since 1970 by the clock of the backend. A push of a
    /// manifest that has a tag may leave it as it is for a minute.
    pub stored_at: i64,
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
    /// When it was last pulled, or its manifest by digest or by another tag, as far as that is noted
    /// ([`Change::NotePulls`](super::Change::NotePulls)): in seconds since 1970, and up to [`PULL_LAG`](crate::store::PULL_LAG)
    /// earlier than it was.
    pub pulled_at: Option<i64>,
}

/// For how many seconds a note of a pull is not replaced, as several servers note the same pulls.
pub(in crate::store) const NOTE_AGAIN: i64 = 10 * 60;

/// When nobody has told for so many seconds that pulls are noted, they may not have been: nothing is known then, and the notes begin
/// anew. Servers tell it every hour.
pub(in crate::store) const NOTES_GAP: i64 = 24 * 60 * 60;

/// Whether a pull is noted again. A note of a time to come was made before the clock was set back.
pub(in crate::store) fn is_noted_again(noted_at: i64, now: i64) -> bool {
    noted_at <= now.saturating_sub(NOTE_AGAIN) || noted_at > now
}

/// How many deletions of tags a repository keeps, about: a client that pushes a tag again and again must not fill the database.
pub(in crate::store) const MOST_KEPT_TAGS: usize = 10_000;

/// What was deleted, and can be undeleted until its window ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// A number, by which pages go on.
    pub number: u64,
    /// The repository.
    pub repository: RepositoryName,
    /// The tag that was deleted or has moved, or the digest of a manifest that was deleted.
    pub reference: ManifestReference,
    /// The manifest.
    pub digest: Digest,
    /// When, in seconds since 1970.
    pub deleted_at: i64,
    /// The end of the window, in seconds since 1970.
    pub kept_until: i64,
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
