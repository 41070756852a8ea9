//! A write: one value, which a backend applies atomically or rejects.

use super::{Edge, ScrubPlace, TagRecord, UploadRecord};
use crate::oci::Manifest;
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::{BlobKey, StagedState};
use crate::store::errors::{manifest_blob_unknown, size_differs};
use crate::store::{DeleteTarget, EventChange, PullNote, QuotaNamespace, TagGuard, UploadId};
use crate::{Digest, Result};

impl Edge {
    /// Checks the edge against the size in the row of a blob.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SizeInvalid`] when the manifest gives another size, and
    /// [`crate::ErrorKind::ManifestBlobUnknown`] when the edge is required and the bytes of the blob are missing or cut
    /// short.
    pub fn check_blob(&self, change: &ManifestChange, size: u64) -> Result<()> {
        self.check_size(size)?;
        if self.required && self.stored != Some(size) {
            return Err(manifest_blob_unknown(&change.repository, self));
        }
        Ok(())
    }

    /// Checks the edge against the size of its target.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SizeInvalid`] when the manifest gives another size.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if self.size == size {
            return Ok(());
        }
        Err(size_differs(self, size))
    }
}

/// A manifest to store, with its conditions.
#[derive(Clone, Debug)]
pub struct ManifestChange {
    /// Where.
    pub repository: RepositoryName,
    /// The manifest, under its digest.
    pub manifest: Manifest,
    /// The references of the manifest, each digest at most once.
    pub edges: Vec<Edge>,
    /// The tags to move to the manifest.
    pub tags: Vec<Tag>,
    /// The condition on the tags ([`PutManifest::if_match`](crate::store::PutManifest::if_match)).
    pub if_match: Option<Option<Digest>>,
    /// Whether the manifest is stored again after its deletion. Rejected with [`crate::ErrorKind::ManifestUnknown`] when it is not
    /// there and was not deleted within the window ([`not_kept`](crate::store::errors::not_kept)).
    pub undeletes: bool,
    /// Deleted manifests that come back before it, those that another one needs first; their tags, conditions and guards are of no
    /// account. Either all of them come back with it, or nothing does.
    pub entries: Vec<ManifestChange>,
    /// The rule for the tags ([`PutManifest::guard`](crate::store::PutManifest::guard)).
    pub guard: Option<TagGuard>,
}

/// A write. It is rejected before it changes anything, or applied completely.
#[derive(Clone, Debug)]
pub enum Change {
    /// Links a blob into a repository and ends its upload. The blob backend has the bytes, or they are committed next.
    /// Rejected with [`crate::ErrorKind::UploadUnknown`] when that upload has ended: what another request has removed with it
    /// must not become a blob. If the blob is marked for removal, a new key clears the mark; the marked key is rejected with
    /// [`being_removed`](crate::store::errors::being_removed), by which a store knows that it has to wait.
    LinkBlob {
        /// The repository, created when it does not exist.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The key of its bytes in the blob backend.
        key: BlobKey,
        /// The session to end, which must exist.
        upload: Option<UploadId>,
        /// The end of the lease of the link, in seconds since 1970. Until then the link is not collected. A longer
        /// lease stays.
        leased_until: i64,
    },
    /// Links a blob of another repository. Rejected with [`crate::ErrorKind::BlobUnknown`] when that repository does
    /// not have it.
    MountBlob {
        /// The repository, created when it does not exist.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The repository that has it.
        from: RepositoryName,
        /// The end of the lease of the new link.
        leased_until: i64,
    },
    /// Removes a link. Rejected with [`crate::ErrorKind::BlobUnknown`] when there is none.
    UnlinkBlob {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Extends the lease of a link, because a client got the answer that the blob exists. Rejected with
    /// [`crate::ErrorKind::BlobUnknown`] when there is no link.
    LeaseBlob {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The end of the lease, in seconds since 1970. A longer lease stays.
        until: i64,
    },
    /// Removes a link if no manifest of the repository references the blob and its lease has ended. Returns 1 if it was
    /// removed.
    CollectLink {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The time, in seconds since 1970.
        now: i64,
    },
    /// The first step of removing a blob permanently: marks it if no repository has it, and replaces an earlier mark.
    /// Returns 1 if it is marked. The caller then deletes the bytes, and finishes with [`Change::RemoveBlob`].
    CondemnBlob {
        /// The blob.
        digest: Digest,
        /// A number that no other garbage collector uses.
        mark: u64,
    },
    /// Removes the row of a blob if it still has this mark. Returns 1 if it was removed.
    RemoveBlob {
        /// The blob.
        digest: Digest,
        /// The mark.
        mark: u64,
    },
    /// The first step of removing bytes under a digest that no row names: makes a marked row for them unless the blob has
    /// a row. Returns 1 if it did. The caller then deletes the bytes, and finishes with [`Change::RemoveBlob`].
    CondemnBytes {
        /// The digest that is the key of the bytes.
        digest: Digest,
        /// Their size.
        size: u64,
        /// A number that no other garbage collector uses.
        mark: u64,
    },
    /// Marks a blob whose bytes under this key are damaged: from then on no repository has it, until it is linked with another
    /// key. Its row and its links stay. Linking the same key again is rejected with [`crate::ErrorKind::BlobUnknown`]. Returns 1
    /// if it is marked now, and 0 when its row names another key, or has this mark or that of a collector.
    ///
    /// Only for keys that no push uses again: bytes under a digest come after their link, so a mark could outlive them.
    QuarantineBlob {
        /// The blob.
        digest: Digest,
        /// The key of the damaged bytes.
        key: BlobKey,
    },
    /// Takes the right to scrub, or renews or ends it; one holder has it at a time. Returns 1 if this holder has it, and 0 while
    /// another one does.
    HoldScrub {
        /// A number that no other scrub uses.
        holder: u64,
        /// How long nobody else may have it, by the clock of the backend. With 0 the right ends.
        seconds: i64,
        /// How far the scrub is, when that is to be recorded.
        place: Option<ScrubPlace>,
    },
    /// Takes the right to delete old tags, or renews or ends it, as [`Change::HoldScrub`] does that to scrub. Returns 1 if this
    /// holder has it, and 0 while another one does.
    HoldRetention {
        /// A number that no other run uses.
        holder: u64,
        /// How long nobody else may have it, by the clock of the backend. With 0 the right ends.
        seconds: i64,
        /// When the run ended, if it did, in seconds since 1970.
        ended_at: Option<i64>,
    },
    /// Takes or renews a hold on all bytes, or ends it with 0 seconds; many may have one at once. Until it ends,
    /// [`Change::CondemnBlob`] marks no blob that has no mark yet, and [`Change::CondemnBytes`] makes no row: what a reader has
    /// found in the metadata since can be read. Returns 1, and 0 when a hold to be renewed has ended before.
    HoldBytes {
        /// A number that no other holder uses.
        holder: u64,
        /// For how many seconds, by the clock of the backend.
        seconds: i64,
        /// Whether the holder has it already.
        renews: bool,
    },
    /// Deletes a manifest if [`MetaBackend::unkept_manifests`](super::MetaBackend::unkept_manifests) lists it. Returns 1 if it was deleted.
    CollectManifest {
        /// The repository.
        repository: RepositoryName,
        /// The manifest.
        digest: Digest,
        /// The time, in seconds since 1970.
        before: i64,
    },
    /// Stores a manifest and moves its tags. Rejected with [`crate::ErrorKind::ManifestBlobUnknown`] when the target of
    /// a required edge is missing, with [`crate::ErrorKind::SizeInvalid`] when an edge and its target have different
    /// sizes, with [`crate::ErrorKind::ManifestInvalid`] when the same bytes are stored under another media type, and
    /// with [`crate::ErrorKind::Conflict`] when a tag does not fulfil the condition, and with the error of its guard.
    PutManifest(Box<ManifestChange>),
    /// Forgets a deleted manifest, and that tags have named it: it cannot be undeleted any more. Returns how much there was, and 0 when
    /// it was not deleted. Rejected with [`crate::ErrorKind::Conflict`] when it is there
    /// ([`not_deleted`](crate::store::errors::not_deleted)).
    PurgeDeleted {
        /// The repository.
        repository: RepositoryName,
        /// The manifest.
        digest: Digest,
    },
    /// Forgets some of what was deleted so long ago that its window has ended. Returns how much, and 0 when nothing is left.
    ForgetDeletions,
    /// Deletes a manifest and its tags. Rejected with [`crate::ErrorKind::ManifestUnknown`] when it does not exist.
    DeleteManifest {
        /// The repository.
        repository: RepositoryName,
        /// The manifest.
        digest: Digest,
    },
    /// Deletes a tag. Rejected with [`crate::ErrorKind::ManifestUnknown`] when it does not exist.
    DeleteTag {
        /// The repository.
        repository: RepositoryName,
        /// The tag.
        tag: Tag,
    },
    /// Deletes a tag if it still names this manifest and was not pushed since. Returns 1 if it was deleted, and 0 when it is
    /// gone, was moved or was pushed again. The manifest then counts as stored now: what collects manifests without a tag leaves
    /// it for as long as after a push. Rejected with [`ErrorDetail::ClockWentBack`](crate::ErrorDetail::ClockWentBack) when the
    /// time that the transaction records lies before `judged_at`
    /// ([`check_judged_at`](crate::store::errors::check_judged_at)).
    ExpireTag {
        /// The repository.
        repository: RepositoryName,
        /// The tag as [`MetaBackend::tag_records`](super::MetaBackend::tag_records) listed it.
        record: TagRecord,
        /// The time by which the tag is too old, as [`MetaBackend::fetch_time`](super::MetaBackend::fetch_time) told it.
        judged_at: i64,
        /// If the tag goes because nobody has pulled it: it stays when a later pull of it, or of its manifest, is noted,
        /// and when pulls are not noted or the notes began later.
        unpulled_since: Option<i64>,
    },
    /// Notes that tags and manifests were pulled, with the time of the transaction, unless a note says so that is less than ten
    /// minutes old. Those that are gone get no note. The first such change, also one without pulls, begins the notes, and so does one after a day without any
    /// ([`MetaBackend::pulls_noted_since`](super::MetaBackend::pulls_noted_since)).
    NotePulls {
        /// What was pulled.
        pulls: Vec<PullNote>,
        /// Whether other notes were lost: the notes then begin anew, so that nothing counts as not pulled that was.
        lost: bool,
    },
    /// Deletes a manifest, a tag or a blob, as the changes above do, if the guard allows it for every tag that is deleted
    /// or needs the target ([`RegistryStore::delete_guarded`](crate::store::RegistryStore::delete_guarded)). Rejected with the error of the guard.
    DeleteGuarded {
        /// The repository.
        repository: RepositoryName,
        /// What is deleted.
        target: DeleteTarget,
        /// The rule for the tags.
        guard: TagGuard,
    },
    /// Counts what a namespace uses from now on, and a piece of what it has: it begins where the last piece ended, whoever counted
    /// that, and lasts some tens of milliseconds. Returns 1 if more is left, and 0 when the namespace is counted, and for
    /// [`QuotaNamespace::Each`], which cannot be counted. Until all is counted, what is counted so far is what the namespace uses.
    CountNamespace {
        /// The namespace.
        namespace: QuotaNamespace,
        /// The most rows of blobs, manifests and tags that the piece has.
        rows: u64,
    },
    /// Ends the counts of some of the namespaces that have nothing and that no rule names. Returns where the next such change goes
    /// on, and 0 when no namespace is left.
    ForgetNamespaces {
        /// What the change before has returned, and 0 for the first one.
        after: u64,
    },
    /// Opens an upload session.
    StartUpload {
        /// The session.
        record: UploadRecord,
        /// The digest of the content, if the client has said it: no quota refuses an upload of a blob that the repository has.
        resends: Option<Digest>,
    },
    /// Saves the state of a session. Rejected with [`crate::ErrorKind::UploadUnknown`] when it does not exist, and with
    /// [`crate::ErrorKind::RangeInvalid`] when its saved offset is not `from`: another writer has saved it in the meantime
    /// ([`upload_moved`](crate::store::errors::upload_moved)). With a `writer` it is rejected with
    /// [`claimed`](crate::store::errors::claimed), too, when the claim is not that of this writer any more; else its claim ends, unless it keeps it.
    SaveUpload {
        /// The session.
        id: UploadId,
        /// The offset that the writer began at.
        from: u64,
        /// The new state.
        state: StagedState,
        /// The writer whose claim the state depends on.
        writer: Option<String>,
        /// Whether the claim goes on, because a request that failed may still write a part.
        keeps_claim: bool,
    },
    /// Claims a session for a writer, or prolongs its claim: until then no other one may claim it, end it or let it expire.
    /// Rejected as [`Change::SaveUpload`] is when the session does not exist or has moved, and with
    /// [`claimed`](crate::store::errors::claimed) while another writer has it.
    ClaimUpload {
        /// The session.
        id: UploadId,
        /// The offset that the writer began at.
        from: u64,
        /// A name that no other writer has.
        writer: String,
        /// For how many seconds, by the clock of the backend.
        seconds: i64,
        /// Whether the writer has the claim already: rejected in the same way when another one has had it since.
        renews: bool,
    },
    /// Ends the claim of a writer, if it has one.
    ReleaseUpload {
        /// The session.
        id: UploadId,
        /// The writer.
        writer: String,
    },
    /// Seals a session: from now on it can be finished with this content only. Sealing it with the same content again is not
    /// an error. Rejected with [`crate::ErrorKind::UploadUnknown`] when the session does not exist, and when it is sealed with
    /// other content ([`sealed_otherwise`](crate::store::errors::sealed_otherwise)); with [`crate::ErrorKind::RangeInvalid`] when it
    /// was saved further, and with [`claimed`](crate::store::errors::claimed) when the writer has no claim or another one has had it
    /// since.
    SealUpload {
        /// The session.
        id: UploadId,
        /// The saved offset that the writer began at.
        from: u64,
        /// The writer.
        writer: String,
        /// The digest of the content by the algorithm of the session.
        content: Digest,
    },
    /// Ends a session. Ending it again is not an error. Rejected with [`claimed`](crate::store::errors::claimed) while another
    /// writer than this one has claimed it.
    EndUpload {
        /// The session.
        id: UploadId,
        /// The writer that ends it.
        writer: Option<String>,
    },
    /// Ends a session that was not saved after a given time and that no writer has claimed. Returns 1 if it is kept.
    ExpireUpload {
        /// The session.
        id: UploadId,
        /// The time, in seconds since 1970.
        before: i64,
    },
    /// Changes the event log, and no content.
    Events(EventChange),
}
