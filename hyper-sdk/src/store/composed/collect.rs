//! Garbage collection on the two backends.
//!
//! # Invariants
//! - A manifest or link is removed by a change that checks again, in its transaction, that nothing keeps it.
//! - A blob goes in two phases: a blob without links is marked; its bytes are deleted; the row goes if it still has this
//!   mark. A push of a marked blob waits, or ends the removal of a collector that has died.
//! - Bytes under a digest are deleted only with the right of the blob backend to do so, which one collector has at a time
//!   across processes: one that was stopped halfway cannot delete bytes that were pushed again since.
//! - Lists are read in pages: memory does not depend on the size of the store.

use super::Composed;
use crate::store::blob::{BlobBackend, BlobKey, StoredBytes};
use crate::store::collect::{CollectOptions, Collected, Removal};
use crate::store::meta::{BlobLink, BlobRecord, Change, ManifestAt, MetaBackend, UnkeptManifest};
use crate::{Digest, Result};
use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all, try_join_all};
use std::time::{Duration, SystemTime};

/// How many entries are looked at together.
const PAGE: usize = 128;
/// How many stored bytes are listed together: with the one that shows that there are more, as many as a bucket lists for
/// one request.
const LISTED: usize = 999;
/// The bytes of how many blobs are deleted at once.
const DELETIONS: usize = 8;
/// Bytes with a [`BlobKey::Own`] that no row names may be those of a push that is about to name them.
pub(super) const UNNAMED_AGE: Duration = Duration::from_secs(24 * 60 * 60);

fn bytes_of(record: &BlobRecord) -> Removal {
    Removal::Blob { digest: record.digest.clone(), size: record.size }
}

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::collect`].
    pub(super) async fn collect_garbage(&self, options: &CollectOptions) -> Result<Collected> {
        self.writable()?;
        let mut collected = Collected::default();
        let ended = if options.dry_run { Ok(()) } else { self.forget_deletions().await };
        if let Some(before) = options.untagged_until {
            // A manifest that is removed may have kept others that were listed before it.
            while self.collect_manifests(options, before, &mut collected).await? && !options.dry_run {}
        }
        self.collect_links(options, &mut collected).await?;
        // Space is freed also where this fails.
        let forgotten = if options.dry_run { Ok(()) } else { self.forget_namespaces().await };
        if options.bytes {
            self.collect_bytes(options, &mut collected).await?;
        }
        ended.and(forgotten).map(|()| collected)
    }

    async fn collect_bytes(&self, options: &CollectOptions, collected: &mut Collected) -> Result<()> {
        if self.0.meta.bytes_held().await? {
            collected.left_to_another = true;
            return Ok(());
        }
        let right = if options.dry_run { None } else { self.0.blobs.deletion_right().await? };
        if right.is_none() && !options.dry_run {
            collected.left_to_another = true;
            return Ok(());
        }
        self.collect_blobs(options, collected).await?;
        if options.unnamed {
            self.collect_unnamed(options, collected).await?;
        }
        Ok(())
    }

    /// Removes the manifests that nothing keeps. Returns whether it removed any.
    async fn collect_manifests(
        &self,
        options: &CollectOptions,
        before: i64,
        collected: &mut Collected,
    ) -> Result<bool> {
        let (mut after, mut found) = (None, 0);
        loop {
            let page = self.0.meta.unkept_manifests(before, after.as_ref(), PAGE).await?;
            let goes =
                page.iter().filter(|of| !options.roots.keeps_manifest(&of.at.repository, &of.at.digest));
            let goes: Vec<UnkeptManifest> = goes.cloned().collect();
            let removals = goes.into_iter().map(|UnkeptManifest { at, stored_at }| {
                let ManifestAt { repository, digest } = at;
                let change = Change::CollectManifest {
                    repository: repository.clone(),
                    digest: digest.clone(),
                    before,
                };
                (Removal::Manifest { repository, digest, stored_at }, change)
            });
            found += self.remove_rows(options, removals.collect()).await?;
            let is_last = page.len() < PAGE;
            after = page.into_iter().last().map(|last| last.at);
            if is_last {
                collected.manifests += found;
                return Ok(found > 0);
            }
        }
    }

    /// Removes rows, unless a client needs them again by now, and reports those that are removed. Returns their number.
    async fn remove_rows(&self, options: &CollectOptions, rows: Vec<(Removal, Change)>) -> Result<u64> {
        if options.dry_run {
            rows.iter().for_each(|(removal, _)| options.report(|| removal.clone()));
            return Ok(rows.len() as u64);
        }
        let (removals, changes): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let written = join_all(changes.into_iter().map(|change| self.0.meta.write(change))).await;
        let mut sum = 0;
        let mut failed = Ok(());
        for (removal, removed) in removals.into_iter().zip(written) {
            match removed {
                Ok(0) => {}
                Ok(removed) => {
                    sum += removed;
                    options.report(|| removal);
                }
                Err(e) => failed = Err(e),
            }
        }
        failed.map(|()| sum)
    }

    async fn collect_links(&self, options: &CollectOptions, collected: &mut Collected) -> Result<()> {
        let now = options.leases_until.unwrap_or_else(|| self.1.now());
        let mut after = None;
        loop {
            let page = self.0.meta.unreferenced_links(now, after.as_ref(), PAGE).await?;
            let goes = page.iter().filter(|link| !options.roots.keeps_blob(&link.repository, &link.digest));
            let goes: Vec<BlobLink> = goes.cloned().collect();
            let removals = goes.into_iter().map(|BlobLink { repository, digest }| {
                let change =
                    Change::CollectLink { repository: repository.clone(), digest: digest.clone(), now };
                (Removal::Link { repository, digest }, change)
            });
            collected.links += self.remove_rows(options, removals.collect()).await?;
            let is_last = page.len() < PAGE;
            after = page.into_iter().last();
            if is_last {
                return Ok(());
            }
        }
    }

    /// Removes the blobs that no repository has. The caller has the right to delete bytes.
    async fn collect_blobs(&self, options: &CollectOptions, collected: &mut Collected) -> Result<()> {
        let mut after: Option<Digest> = None;
        loop {
            let page = self.0.meta.unlinked_blobs(after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|record| record.digest.clone());
            if options.dry_run {
                page.iter().for_each(|record| options.report(|| bytes_of(record)));
                collected.blobs += page.len() as u64;
                collected.bytes += page.iter().map(|record| record.size).sum::<u64>();
            } else {
                for record in self.remove_page(page).await? {
                    collected.blobs += 1;
                    collected.bytes += record.size;
                    options.report(|| bytes_of(&record));
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Removes blobs without links. Returns those whose row and bytes are gone.
    async fn remove_page(&self, page: Vec<BlobRecord>) -> Result<Vec<BlobRecord>> {
        let mark = mark()?;
        let condemned = page.iter().map(|record| {
            let digest = record.digest.clone();
            self.0.meta.write(Change::CondemnBlob { digest, mark })
        });
        let condemned = try_join_all(condemned.collect::<Vec<_>>()).await?;
        let marked: Vec<BlobRecord> =
            page.into_iter().zip(condemned).filter(|(_, marked)| *marked == 1).map(|(r, _)| r).collect();
        self.delete_bytes(&marked.iter().map(|record| &record.key).collect::<Vec<_>>()).await?;
        let removed = marked
            .iter()
            .map(|record| self.0.meta.write(Change::RemoveBlob { digest: record.digest.clone(), mark }));
        let removed = try_join_all(removed.collect::<Vec<_>>()).await?;
        Ok(marked.into_iter().zip(removed).filter(|(_, removed)| *removed == 1).map(|(r, _)| r).collect())
    }

    async fn delete_bytes(&self, keys: &[&BlobKey]) -> Result<()> {
        let deletions: Vec<_> = keys.iter().map(|key| self.0.blobs.delete(key)).collect();
        let mut deletions = futures::stream::iter(deletions).buffer_unordered(DELETIONS);
        while let Some(deleted) = deletions.next().await {
            deleted?;
        }
        Ok(())
    }

    /// Removes bytes that no row names: those of a push that died, and those of a blob that was deleted while it was
    /// pushed.
    async fn collect_unnamed(&self, options: &CollectOptions, collected: &mut Collected) -> Result<()> {
        // By the clock that is behind: bytes that look old by the other one only may be those of a push.
        let now = self.file_time().map(|now| now.min(SystemTime::now()));
        let young = now.and_then(|now| now.checked_sub(self.0.unnamed_age));
        let is_old = |stored: &StoredBytes| young.zip(stored.modified).is_some_and(|(young, at)| at < young);
        let mut after = None;
        loop {
            let page = self.0.blobs.list(after.as_ref(), LISTED).await?;
            let keys: Vec<BlobKey> = page.items.iter().map(|stored| stored.key.clone()).collect();
            let named = self.0.meta.has_keys(&keys).await?;
            for (stored, _) in page.items.iter().zip(named).filter(|(_, named)| !named) {
                let gone = match &stored.key {
                    BlobKey::Digest(digest) => {
                        let gone = options.dry_run || self.remove_unnamed(digest, stored.size).await?;
                        if gone {
                            options.report(|| Removal::Blob { digest: digest.clone(), size: stored.size });
                        }
                        gone
                    }
                    // No push names a key again that was abandoned, but the page may be older than the row.
                    BlobKey::Own(_) if is_old(stored) => {
                        options.dry_run
                            || !self.is_named(&stored.key).await? && self.0.blobs.delete(&stored.key).await?
                    }
                    BlobKey::Own(_) => false,
                };
                if gone {
                    collected.blobs += 1;
                    collected.bytes += stored.size;
                }
            }
            after = page.items.last().map(|stored| stored.key.clone());
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether a row names a key.
    pub(super) async fn is_named(&self, key: &BlobKey) -> Result<bool> {
        Ok(self.0.meta.has_keys(std::slice::from_ref(key)).await?.contains(&true))
    }

    /// Removes bytes under a digest without a row: a marked row makes a push wait meanwhile.
    async fn remove_unnamed(&self, digest: &Digest, size: u64) -> Result<bool> {
        let mark = mark()?;
        let change = Change::CondemnBytes { digest: digest.clone(), size, mark };
        if self.0.meta.write(change).await? == 0 {
            return Ok(false);
        }
        self.0.blobs.delete(&BlobKey::Digest(digest.clone())).await?;
        Ok(self.0.meta.write(Change::RemoveBlob { digest: digest.clone(), mark }).await? == 1)
    }

    /// Ends the removal of a marked blob whose collector has died. The caller has the right to delete bytes.
    pub(super) fn end_removal<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let records = self.0.meta.blobs(std::slice::from_ref(digest)).await?;
            let marked = records.into_iter().flatten().filter(|record| record.condemned.is_some()).collect();
            self.remove_page(marked).await.map(drop)
        })
    }
}

/// A mark that no other collector uses.
fn mark() -> Result<u64> {
    // Small requests are answered in full.
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(std::io::Error::from)?;
    Ok(u64::from_ne_bytes(bytes))
}
