//! What each change does.

use super::State;
use super::blob::Blob;
use crate::Result;
use crate::store::blob::BlobKey;
use crate::store::errors::{blob_unknown, upload_unknown};
use crate::store::meta::{Change, ScrubPlace};
use std::collections::BTreeSet;

impl State {
    /// Applies a change at a time, or rejects it before it changes anything.
    pub(super) fn apply(&mut self, change: Change, time: i64) -> Result<u64> {
        match change {
            Change::LinkBlob { repository, digest, size, key, upload, leased_until } => {
                if let Some(id) = upload.as_ref().filter(|id| self.sessions.find(id).is_none()) {
                    return Err(upload_unknown(id));
                }
                self.link_blob(&repository, digest, (size, key), leased_until)?;
                if let Some(id) = upload {
                    self.sessions.end(&id);
                }
                Ok(size)
            }
            Change::MountBlob { repository, digest, from, leased_until } => {
                let size = self.linked(&from, &digest).map(|blob| blob.size);
                let size = size.ok_or_else(|| blob_unknown(&from, &digest))?;
                self.check_link(&repository, &digest, size)?;
                self.link(&repository, digest, leased_until);
                Ok(size)
            }
            Change::UnlinkBlob { repository, digest } => self.delete_blob(&repository, &digest),
            Change::LeaseBlob { repository, digest, until } => {
                let is_there = self.linked(&repository, &digest).is_some();
                let found = self.repositories.get_mut(repository.as_str()).filter(|_| is_there);
                let lease = found.and_then(|r| r.blobs.get_mut(&digest));
                let lease = lease.ok_or_else(|| blob_unknown(&repository, &digest))?;
                *lease = until.max(*lease);
                Ok(0)
            }
            Change::CollectLink { repository, digest, now } => {
                let found = self.find(&repository);
                let goes = found.is_some_and(|r| self.is_unreferenced(r, &digest, (now, time)));
                Ok(u64::from(goes && self.unlink(&repository, &digest)))
            }
            Change::CondemnBlob { digest, mark } => Ok(self.condemn_blob(&digest, mark, time)),
            Change::RemoveBlob { digest, mark } => {
                let goes = self.blobs.get(&digest).is_some_and(|blob| blob.condemned == Some(mark));
                Ok(u64::from(goes && self.blobs.remove(&digest).is_some()))
            }
            Change::CondemnBytes { digest, size, mark } => {
                if self.blobs.contains_key(&digest) || self.holds.are_held(time) {
                    return Ok(0);
                }
                let (key, repositories) = (BlobKey::Digest(digest.clone()), BTreeSet::new());
                let blob = Blob { size, key, condemned: Some(mark), quarantined: false, repositories };
                self.blobs.insert(digest, blob);
                Ok(1)
            }
            Change::QuarantineBlob { digest, key } => Ok(self.quarantine_blob(&digest, &key)),
            Change::HoldBytes { holder, seconds, renews } => {
                Ok(self.holds.hold(holder, seconds, renews, time))
            }
            Change::HoldScrub { holder, seconds, place } => Ok(self.scrub.hold(holder, seconds, place, time)),
            Change::HoldRetention { holder, seconds, ended_at } => {
                let place = ended_at.map(|_| ScrubPlace { after: None, ended_at });
                Ok(self.retention.hold(holder, seconds, place, time))
            }
            Change::CollectManifest { repository, digest, before } => {
                let found = self.find(&repository).filter(|r| r.manifests.contains_key(&digest));
                match found.is_some_and(|r| !State::is_kept(r, &digest, (before, time))) {
                    true => self.delete_manifest(&repository, &digest).map(|_| 1),
                    false => Ok(0),
                }
            }
            Change::PutManifest(change) => self.put_manifest(*change, time),
            Change::DeleteGuarded { repository, target, guard } => {
                self.delete_guarded(&repository, &target, &guard, time)
            }
            Change::DeleteManifest { repository, digest } => self.delete_kept(&repository, &digest, time),
            Change::DeleteTag { repository, tag } => self.delete_tag(&repository, &tag, time),
            Change::PurgeDeleted { repository, digest } => self.purge_deleted(&repository, &digest),
            Change::ForgetDeletions => Ok(self.forget_deletions(time)),
            Change::ExpireTag { repository, record, judged_at, unpulled_since } => {
                self.expire_tag(&repository, &record, (judged_at, time), unpulled_since)
            }
            Change::NotePulls { pulls, lost } => Ok(self.note_pulls(&pulls, lost, time)),
            Change::CountNamespace { namespace, .. } => Ok(self.count_namespace(namespace)),
            Change::ForgetNamespaces { .. } => Ok(self.forget_namespaces()),
            Change::StartUpload { record, resends } => {
                self.check_start(&record.repository, resends.as_ref())?;
                self.sessions.start(record, time)
            }
            Change::SaveUpload { id, from, state: saved, writer, keeps_claim } => {
                self.sessions.save(&id, from, saved, (writer.as_deref(), keeps_claim), time)
            }
            Change::ClaimUpload { id, from, writer, seconds, renews } => {
                self.sessions.claim(id, from, writer, (seconds, renews), time)
            }
            Change::ReleaseUpload { id, writer } => self.sessions.release(&id, &writer),
            Change::SealUpload { id, from, writer, content } => {
                self.sessions.seal(id, from, (&writer, content), time)
            }
            Change::EndUpload { id, writer } => self.sessions.end_unclaimed(&id, writer.as_deref(), time),
            Change::ExpireUpload { id, before } => self.sessions.expire(&id, before, time),
            Change::Events(change) => Ok(self.events.apply(change, time)),
        }
    }
}
