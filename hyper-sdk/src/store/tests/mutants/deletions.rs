//! Faults of what is kept after its deletion.

use super::meta::{LONGER, MetaFault, MetaMutant};
use crate::Result;
use crate::reference::ManifestReference;
use crate::store::QuotaUse;
use crate::store::meta::{Change, Deletion, MetaBackend};

impl<M: MetaBackend> MetaMutant<M> {
    /// The change that is applied instead of one of deletions.
    pub(super) async fn mutate_deletion(&self, change: Change) -> Result<Option<Change>> {
        Ok(Some(match (self.fault, change) {
            (MetaFault::AnythingUndeleted, Change::PutManifest(mut put)) => {
                put.undeletes = false;
                Change::PutManifest(put)
            }
            (MetaFault::PurgeForgotten, Change::PurgeDeleted { .. })
            | (MetaFault::ForgetsNothing, Change::ForgetDeletions) => return Ok(None),
            (MetaFault::ForgetsAll, Change::ForgetDeletions) => {
                for one in self.inner.deletions(None, 0, 100).await?.items {
                    // That of a manifest that is there is refused.
                    let purge = Change::PurgeDeleted { repository: one.repository, digest: one.digest };
                    let _ = self.inner.write(purge).await;
                }
                Change::ForgetDeletions
            }
            (_, change) => change,
        }))
    }

    /// Deletions with the ends that the backend says they have.
    pub(super) async fn told(&self, mut all: Vec<Deletion>) -> Result<Vec<Deletion>> {
        if matches!(self.fault, MetaFault::EndedKept | MetaFault::EndedTold) {
            all.iter_mut().for_each(|one| one.kept_until -= LONGER);
        }
        if self.fault == MetaFault::EndedKept {
            let now = self.inner.fetch_time().await?;
            all.retain(|one| one.kept_until > now);
        }
        Ok(all)
    }

    /// What namespaces use, of which one has all repositories.
    pub(super) async fn counted(&self, mut uses: Vec<QuotaUse>) -> Result<Vec<QuotaUse>> {
        if self.fault != MetaFault::KeptUncounted {
            return Ok(uses);
        }
        for one in self.inner.deletions(None, 0, 100).await?.items {
            if one.reference != ManifestReference::Digest(one.digest.clone()) {
                continue;
            }
            let kept = self.inner.deleted_manifest(&one.repository, &one.digest).await?;
            for used in uses.iter_mut().filter_map(|one| one.used.as_mut()) {
                used.manifests -= 1;
                used.bytes -= kept.as_ref().map_or(0, |kept| kept.bytes().len() as u64);
            }
        }
        Ok(uses)
    }
}
