//! Metadata backends with an injected fault.

use crate::clock::SharedClock;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::blob::BlobKey;
use crate::store::meta::{
    BlobLink, BlobRecord, Change, Deletion, ManifestAt, MetaBackend, ScrubPlace, TagRecord, UnkeptManifest,
    UploadRecord,
};
use crate::store::{
    ChangeContext, DeleteTarget, Listing, QuotaCheck, QuotaRules, QuotaUse, SharedEventLog, UploadId,
};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaFault {
    None,
    EdgesUnchecked,
    OneTag,
    NoCondition,
    NoGuard,
    MountUnchecked,
    UnlinkUnchecked,
    KeyForgotten,
    VersionStands,
    VersionRuns,
    NoLease,
    LeaseUntold,
    PushNoLease,
    LeaseUnchecked,
    CollectsReferenced,
    LeasesIgnored,
    LinksRepeat,
    ManifestsRepeat,
    YoungUnkept,
    UndatedUnkept,
    KeptCollected,
    CondemnsLinked,
    CondemnedLinked,
    /// The refusal of a blob that is being removed looks like any other.
    RemovalUnnamed,
    AnyMark,
    OneRepository,
    NoMore,
    AllStale,
    AllExpire,
    SaveForgets,
    SaveUnchecked,
    LastSaveWins,
    SessionStays,
    SealIgnored,
    AnySeals,
    ClaimIgnored,
    LostClaimRenewed,
    EndedLinked,
    KeysReordered,
    KeysOfFirstPage,
    KeysDeduplicated,
    BlobsRepeat,
    AnyKeyQuarantined,
    QuarantineForgotten,
    EverybodyScrubs,
    PlaceForgotten,
    TimesForgotten,
    AnyTagExpires,
    PushedAgainExpires,
    ExpiresByAnyTime,
    PulledExpires,
    PullsUnnoted,
    DigestsUnnoted,
    LossForgotten,
    NotesNeverBegin,
    AuthorForgotten,
    EverybodyRetains,
    LastRunForgotten,
    ManifestsOfAnyRepository,
    NothingKept,
    KeptForever,
    PurgeForgotten,
    AnythingUndeleted,
    DeletionsOfAnyRepository,
    DeletionsEnd,
    FirstLoss,
    StillDeleted,
    EndedKept,
    EndedTold,
    ForgetsNothing,
    ForgetsAll,
    KeptUncounted,
    HoldIgnored,
    HoldUntold,
    LostOnReopen,
    ClaimsDurable,
}

/// For how many seconds a backend with such a fault keeps more than it says.
pub(super) const LONGER: i64 = 100_000;

#[derive(Debug)]
pub(super) struct MetaMutant<M> {
    pub(super) inner: M,
    pub(super) fault: MetaFault,
    asked: AtomicU64,
}

impl<M: MetaBackend> MetaMutant<M> {
    pub(super) fn new(inner: M, fault: MetaFault) -> Self {
        Self { inner, fault, asked: AtomicU64::new(0) }
    }

    /// The change that is applied instead of the requested one.
    async fn mutate(&self, change: Change) -> Result<Option<Change>> {
        Ok(Some(match (self.fault, change) {
            (MetaFault::EdgesUnchecked, Change::PutManifest(mut put)) => {
                put.edges.clear();
                Change::PutManifest(put)
            }
            (MetaFault::OneTag, Change::PutManifest(mut put)) => {
                put.tags.truncate(1);
                Change::PutManifest(put)
            }
            (MetaFault::NoCondition, Change::PutManifest(mut put)) => {
                put.if_match = None;
                Change::PutManifest(put)
            }
            (MetaFault::NoGuard, Change::PutManifest(mut put)) => {
                put.guard = None;
                Change::PutManifest(put)
            }
            (MetaFault::NoGuard, Change::DeleteGuarded { repository, target, .. }) => match target {
                DeleteTarget::Manifest(ManifestReference::Tag(tag)) => Change::DeleteTag { repository, tag },
                DeleteTarget::Manifest(ManifestReference::Digest(digest)) => {
                    Change::DeleteManifest { repository, digest }
                }
                DeleteTarget::Blob(digest) => Change::UnlinkBlob { repository, digest },
            },
            (fault, Change::LinkBlob { repository, digest, size, key, upload, leased_until }) => {
                if fault == MetaFault::CondemnedLinked {
                    for record in self.inner.blobs(std::slice::from_ref(&digest)).await?.into_iter().flatten()
                    {
                        if let Some(mark) = record.condemned {
                            let digest = digest.clone();
                            self.inner.write(Change::RemoveBlob { digest, mark }).await?;
                        }
                    }
                }
                let forgets = fault == MetaFault::KeyForgotten;
                let key = if forgets { BlobKey::Digest(digest.clone()) } else { key };
                let mut upload = upload.filter(|_| fault != MetaFault::SessionStays);
                if fault == MetaFault::EndedLinked
                    && let Some(id) = &upload
                    && self.inner.upload(id).await?.is_none()
                {
                    upload = None;
                }
                let leased_until = if fault == MetaFault::PushNoLease { 0 } else { leased_until };
                Change::LinkBlob { repository, digest, size, key, upload, leased_until }
            }
            (MetaFault::NoLease, Change::LeaseBlob { .. }) => return Ok(None),
            (MetaFault::CollectsReferenced, Change::CollectLink { repository, digest, .. }) => {
                Change::UnlinkBlob { repository, digest }
            }
            (MetaFault::LeasesIgnored, Change::CollectLink { repository, digest, .. }) => {
                Change::CollectLink { repository, digest, now: i64::MAX }
            }
            (MetaFault::KeptCollected, Change::CollectManifest { repository, digest, .. }) => {
                Change::DeleteManifest { repository, digest }
            }
            (MetaFault::AnyMark, Change::RemoveBlob { digest, mark }) => {
                let records = self.inner.blobs(std::slice::from_ref(&digest)).await?;
                let mark = records.into_iter().flatten().find_map(|r| r.condemned).unwrap_or(mark);
                Change::RemoveBlob { digest, mark }
            }
            (MetaFault::AnyKeyQuarantined, Change::QuarantineBlob { digest, key }) => {
                let records = self.inner.blobs(std::slice::from_ref(&digest)).await?;
                let key = records.into_iter().flatten().next().map_or(key, |record| record.key);
                Change::QuarantineBlob { digest, key }
            }
            (MetaFault::QuarantineForgotten, Change::QuarantineBlob { .. }) => return Ok(None),
            (MetaFault::EverybodyScrubs, Change::HoldScrub { place, .. }) => {
                Change::HoldScrub { holder: 1, seconds: 0, place }
            }
            (MetaFault::HoldIgnored, Change::HoldBytes { holder, renews, .. }) => {
                Change::HoldBytes { holder, seconds: 0, renews }
            }
            (MetaFault::PlaceForgotten, Change::HoldScrub { holder, seconds, .. }) => {
                Change::HoldScrub { holder, seconds, place: None }
            }
            (_, change) => return self.mutate_retention(change).await,
        }))
    }

    /// The same for retention and the pulls that it goes by.
    async fn mutate_retention(&self, change: Change) -> Result<Option<Change>> {
        Ok(Some(match (self.fault, change) {
            (MetaFault::AnyTagExpires, Change::ExpireTag { repository, record, .. }) => {
                Change::DeleteTag { repository, tag: record.tag }
            }
            (
                MetaFault::PushedAgainExpires,
                Change::ExpireTag { repository, mut record, judged_at, unpulled_since },
            ) => {
                let now = self.inner.tag_records(&repository, None, 100).await?.into_iter();
                let now = now.flat_map(|listing| listing.items).find(|now| now.tag == record.tag);
                record.pushed_at = now.map_or(record.pushed_at, |now| now.pushed_at);
                Change::ExpireTag { repository, record, judged_at, unpulled_since }
            }
            (MetaFault::EverybodyRetains, Change::HoldRetention { ended_at, .. }) => {
                Change::HoldRetention { holder: 1, seconds: 0, ended_at }
            }
            (MetaFault::ExpiresByAnyTime, Change::ExpireTag { repository, record, unpulled_since, .. }) => {
                Change::ExpireTag { repository, record, judged_at: i64::MIN, unpulled_since }
            }
            (MetaFault::PulledExpires, Change::ExpireTag { repository, record, judged_at, .. }) => {
                Change::ExpireTag { repository, record, judged_at, unpulled_since: None }
            }
            (MetaFault::PullsUnnoted, Change::NotePulls { lost, .. }) => {
                Change::NotePulls { pulls: Vec::new(), lost }
            }
            (MetaFault::DigestsUnnoted, Change::NotePulls { mut pulls, lost }) => {
                pulls.retain(|pull| pull.tag.is_some());
                Change::NotePulls { pulls, lost }
            }
            (MetaFault::LossForgotten, Change::NotePulls { pulls, .. }) => {
                Change::NotePulls { pulls, lost: false }
            }
            (_, change) => return self.mutate_session(change).await,
        }))
    }

    /// The same for sessions of uploads.
    async fn mutate_session(&self, change: Change) -> Result<Option<Change>> {
        Ok(Some(match (self.fault, change) {
            (MetaFault::SaveForgets, Change::SaveUpload { .. }) => return Ok(None),
            (MetaFault::SealIgnored, Change::SealUpload { id, .. })
                if self.inner.upload(&id).await?.is_some() =>
            {
                return Ok(None);
            }
            (MetaFault::AnySeals, Change::SealUpload { id, writer, content, .. }) => {
                if let Some(record) = self.inner.upload(&id).await? {
                    let (id, from) = (id.clone(), record.state.offset);
                    let writer = writer.clone();
                    let claim = Change::ClaimUpload { id, from, writer, seconds: -1, renews: false };
                    self.inner.write(claim).await?;
                }
                let from = self.inner.upload(&id).await?.map_or(0, |record| record.state.offset);
                Change::SealUpload { id, from, writer, content }
            }
            (MetaFault::LostClaimRenewed, Change::ClaimUpload { id, from, writer, seconds, .. }) => {
                Change::ClaimUpload { id, from, writer, seconds, renews: false }
            }
            (MetaFault::LastSaveWins, Change::SaveUpload { id, state, writer, keeps_claim, .. }) => {
                let from = self.inner.upload(&id).await?.map_or(0, |record| record.state.offset);
                Change::SaveUpload { id, from, state, writer, keeps_claim }
            }
            (MetaFault::ClaimIgnored, Change::ClaimUpload { id, from, .. })
                if self.inner.upload(&id).await?.is_some_and(|record| record.state.offset == from) =>
            {
                return Ok(None);
            }
            (MetaFault::AllExpire, Change::ExpireUpload { id, .. }) => {
                Change::ExpireUpload { id, before: i64::MAX }
            }
            (_, change) => return self.mutate_deletion(change).await,
        }))
    }
}

impl<M: MetaBackend> fmt::Display for MetaMutant<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mutant {}", self.inner)
    }
}

#[async_trait]
impl<M: MetaBackend> MetaBackend for MetaMutant<M> {
    fn durable(&self) -> bool {
        self.fault == MetaFault::ClaimsDurable || self.inner.durable()
    }

    fn writable(&self) -> bool {
        self.inner.writable()
    }

    fn version(&self) -> Option<u64> {
        match self.fault {
            MetaFault::VersionStands => Some(0),
            MetaFault::VersionRuns => Some(self.asked.fetch_add(1, Ordering::Relaxed)),
            _ => self.inner.version(),
        }
    }

    async fn fetch_version(&self) -> Option<u64> {
        self.inner.fetch_version().await
    }

    fn clock(&self) -> SharedClock {
        self.inner.clock()
    }

    async fn fetch_time(&self) -> Result<i64> {
        self.inner.fetch_time().await
    }

    async fn has_manifests(
        &self,
        repository: &RepositoryName,
        references: &[ManifestReference],
    ) -> Result<Vec<bool>> {
        if self.fault == MetaFault::ManifestsOfAnyRepository {
            return Ok(vec![true; references.len()]);
        }
        self.inner.has_manifests(repository, references).await
    }

    fn event_log(&self) -> Option<SharedEventLog> {
        self.inner.event_log()
    }

    fn has_quotas(&self) -> bool {
        self.inner.has_quotas()
    }

    fn set_quotas(&self, rules: Arc<QuotaRules>) -> Result<()> {
        self.inner.set_quotas(rules)
    }

    async fn largest_upload(&self, repository: &RepositoryName) -> Result<Option<u64>> {
        self.inner.largest_upload(repository).await
    }

    async fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        self.counted(self.inner.quota_use().await?).await
    }

    async fn check_quotas(&self, repair: bool) -> Result<Vec<QuotaCheck>> {
        self.inner.check_quotas(repair).await
    }

    async fn write(&self, change: Change) -> Result<u64> {
        if self.fault == MetaFault::AuthorForgotten {
            return ChangeContext::default().scope(self.inner.write(change)).await;
        }
        let forgiven = match (self.fault, &change) {
            (MetaFault::MountUnchecked, Change::MountBlob { .. })
            | (MetaFault::UnlinkUnchecked, Change::UnlinkBlob { .. })
            | (MetaFault::LeaseUnchecked, Change::LeaseBlob { .. }) => Some(ErrorKind::BlobUnknown),
            (MetaFault::SaveUnchecked, Change::SaveUpload { .. }) => Some(ErrorKind::UploadUnknown),
            _ => None,
        };
        let condemns = matches!(change, Change::CondemnBlob { .. });
        let Some(change) = self.mutate(change).await? else { return Ok(0) };
        match self.inner.write(change).await {
            Err(e) if Some(e.kind()) == forgiven => Ok(0),
            Ok(_) if condemns && self.fault == MetaFault::CondemnsLinked => Ok(1),
            Err(e) if e.kind() == ErrorKind::Unavailable && self.fault == MetaFault::RemovalUnnamed => {
                Err(Error::new(ErrorKind::Unavailable, "try again"))
            }
            outcome => outcome,
        }
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobRecord>> {
        self.inner.blob(repository, digest).await
    }

    async fn leased_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(BlobRecord, i64)>> {
        let leased = self.inner.leased_blob(repository, digest).await?;
        Ok(if self.fault == MetaFault::LeaseUntold {
            leased.map(|(blob, _)| (blob, i64::MAX))
        } else {
            leased
        })
    }

    async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        self.inner.blobs(digests).await
    }

    async fn repositories_with(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>> {
        if self.fault == MetaFault::OneRepository {
            let page = self.inner.repositories_with(digest, None, 1).await?;
            return Ok(Listing { more: false, ..page });
        }
        self.inner.repositories_with(digest, after, limit).await
    }

    async fn unreferenced_links(
        &self,
        now: i64,
        after: Option<&BlobLink>,
        limit: usize,
    ) -> Result<Vec<BlobLink>> {
        let after = after.filter(|_| self.fault != MetaFault::LinksRepeat);
        self.inner.unreferenced_links(now, after, limit).await
    }

    async fn unkept_manifests(
        &self,
        before: i64,
        after: Option<&ManifestAt>,
        limit: usize,
    ) -> Result<Vec<UnkeptManifest>> {
        let before = if self.fault == MetaFault::YoungUnkept { i64::MAX } else { before };
        let after = after.filter(|_| self.fault != MetaFault::ManifestsRepeat);
        let mut unkept = self.inner.unkept_manifests(before, after, limit).await?;
        if self.fault == MetaFault::UndatedUnkept {
            unkept.iter_mut().for_each(|of| of.stored_at = 0);
        }
        Ok(unkept)
    }

    async fn unlinked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        self.inner.unlinked_blobs(after, limit).await
    }

    async fn linked_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobRecord>> {
        let after = after.filter(|_| self.fault != MetaFault::BlobsRepeat);
        self.inner.linked_blobs(after, limit).await
    }

    async fn manifests_with(&self, digest: &Digest, limit: usize) -> Result<Vec<ManifestAt>> {
        self.inner.manifests_with(digest, limit).await
    }

    fn set_undelete_window(&self, seconds: i64) -> Result<()> {
        match self.fault {
            MetaFault::NothingKept => self.inner.set_undelete_window(0),
            MetaFault::KeptForever if seconds == 0 => Ok(()),
            MetaFault::EndedKept | MetaFault::EndedTold if seconds > 0 => {
                self.inner.set_undelete_window(seconds + LONGER)
            }
            _ => self.inner.set_undelete_window(seconds),
        }
    }

    async fn deletions(
        &self,
        repository: Option<&RepositoryName>,
        after: u64,
        limit: usize,
    ) -> Result<Listing<Deletion>> {
        let repository = repository.filter(|_| self.fault != MetaFault::DeletionsOfAnyRepository);
        let page = self.inner.deletions(repository, after, limit).await?;
        let more = page.more && self.fault != MetaFault::DeletionsEnd;
        Ok(Listing { items: self.told(page.items).await?, more })
    }

    async fn deletion_of(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Deletion>> {
        if self.fault == MetaFault::FirstLoss {
            let all = self.inner.deletions(Some(repository), 0, 100).await?.items;
            return Ok(all.into_iter().find(|one| one.reference == tag.clone().into()));
        }
        let last = self.inner.deletion_of(repository, tag).await?;
        Ok(self.told(last.into_iter().collect()).await?.pop())
    }

    async fn deleted_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>> {
        if self.fault == MetaFault::StillDeleted {
            return self.inner.manifest(repository, &digest.clone().into()).await;
        }
        let all = self.inner.deletions(Some(repository), 0, 100).await?.items;
        let is_told = self.told(all).await?.iter().any(|one| one.digest == *digest);
        let hides = self.fault == MetaFault::EndedKept && !is_told;
        if hides { Ok(None) } else { self.inner.deleted_manifest(repository, digest).await }
    }

    async fn last_retention(&self) -> Result<Option<i64>> {
        let last = self.inner.last_retention().await?;
        Ok(last.filter(|_| self.fault != MetaFault::LastRunForgotten))
    }

    async fn pulls_noted_since(&self) -> Result<Option<i64>> {
        let since = self.inner.pulls_noted_since().await?;
        Ok(since.filter(|_| self.fault != MetaFault::NotesNeverBegin))
    }

    async fn scrub_place(&self) -> Result<ScrubPlace> {
        self.inner.scrub_place().await
    }

    async fn bytes_held(&self) -> Result<bool> {
        Ok(self.fault != MetaFault::HoldUntold && self.inner.bytes_held().await?)
    }

    async fn has_keys(&self, keys: &[BlobKey]) -> Result<Vec<bool>> {
        let mut named = self.inner.has_keys(keys).await?;
        match self.fault {
            // Such as the rows of a database, which come in any order.
            MetaFault::KeysReordered => named.sort_unstable(),
            MetaFault::KeysOfFirstPage => named.iter_mut().skip(100).for_each(|named| *named = false),
            MetaFault::KeysDeduplicated => {
                for number in 0..keys.len() {
                    named[number] &= !keys[..number].contains(&keys[number]);
                }
            }
            _ => {}
        }
        Ok(named)
    }

    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Option<Manifest>> {
        self.inner.manifest(repository, reference).await
    }

    async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<Tag>>> {
        self.inner.tags(repository, after, limit).await
    }

    async fn tag_records(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Listing<TagRecord>>> {
        let listing = self.inner.tag_records(repository, after, limit).await?;
        Ok(listing.map(|mut listing| {
            if self.fault == MetaFault::TimesForgotten {
                listing.items.iter_mut().for_each(|record| record.pushed_at = 0);
            }
            listing
        }))
    }

    async fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Listing<RepositoryName>> {
        let page = self.inner.repositories(after, limit).await?;
        Ok(Listing { more: page.more && self.fault != MetaFault::NoMore, ..page })
    }

    async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.inner.referrers(repository, subject, artifact_type).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<UploadRecord>> {
        self.inner.upload(id).await
    }

    async fn stale_uploads(&self, before: i64) -> Result<Vec<UploadId>> {
        let before = if self.fault == MetaFault::AllStale { i64::MAX } else { before };
        self.inner.stale_uploads(before).await
    }
}
