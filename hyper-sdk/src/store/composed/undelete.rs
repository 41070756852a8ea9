//! Undeletion on the metadata backend: what is kept is pushed again, the entries of an index with it, in one change.

use super::Composed;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::blob::BlobBackend;
use crate::store::errors::not_kept;
use crate::store::meta::{Change, ManifestChange, MetaBackend};
use crate::store::{ChangeContext, PutManifest, Undelete};
use crate::{Digest, Error, ErrorKind, Result};
use std::collections::HashSet;

/// The most manifests that one undeletion looks at.
const MOST: usize = 10_000;
/// The most entries that come back with an index: other writers wait for their transaction.
const MOST_ENTRIES: usize = 1_000;
/// The most bytes of these entries, which are in memory together; a single one may have more.
const MOST_BYTES: usize = 4 << 20;

/// A manifest on the way through an index and its entries.
enum Step {
    Enter(Digest),
    /// All of its entries come before it.
    Leave(Digest),
}

fn exists_again(repository: &RepositoryName, tag: &Tag) -> Error {
    Error::new(ErrorKind::Conflict, "the tag exists again")
        .with_context("repository", repository)
        .with_context("tag", tag)
}

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::undelete`].
    pub(super) async fn undelete_kept(
        &self,
        repository: &RepositoryName,
        undelete: Undelete,
    ) -> Result<Descriptor> {
        self.writable()?;
        let (digest, tag) = match &undelete.reference {
            ManifestReference::Digest(digest) => (digest.clone(), None),
            ManifestReference::Tag(tag) => {
                let deletion = self.0.meta.deletion_of(repository, tag).await?;
                let deletion = deletion.ok_or_else(|| not_kept(repository, tag))?;
                (deletion.digest, Some(tag.clone()))
            }
        };
        let by = ChangeContext::current().map(|by| ChangeContext::clone(&by)).unwrap_or_default();
        let by = ChangeContext { origin: Some("undelete".to_owned()), ..by };
        by.scope(self.push_kept(repository, digest, tag, undelete)).await
    }

    async fn push_kept(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        tag: Option<Tag>,
        undelete: Undelete,
    ) -> Result<Descriptor> {
        let manifest = match self.0.meta.deleted_manifest(repository, &digest).await? {
            Some(manifest) => manifest,
            // It was not deleted itself: a tag has lost it.
            None => {
                let reference = ManifestReference::Digest(digest.clone());
                let found = self.0.meta.manifest(repository, &reference).await?;
                found.filter(|_| tag.is_some()).ok_or_else(|| not_kept(repository, &digest))?
            }
        };
        let is_free = tag.is_some() && !undelete.replaces;
        if let Some(tag) = &tag {
            // The change looks again. This answers at once what it would refuse after all that follows.
            let now = self.0.meta.manifest(repository, &ManifestReference::Tag(tag.clone())).await?;
            let now = now.as_ref().map(|now| now.digest().as_str());
            if let Some(guard) = &undelete.guard {
                guard.check_put(tag, now, &digest)?;
            }
            if is_free && now.is_some() {
                return Err(exists_again(repository, tag));
            }
        }
        let mut kept = self.with_entries(repository, &digest).await?;
        kept.pop_if(|last| *last == digest);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in kept {
            // It may be there again by now.
            let Some(entry) = self.0.meta.deleted_manifest(repository, &entry).await? else { continue };
            bytes += entry.bytes().len();
            if entries.len() == MOST_ENTRIES || bytes > MOST_BYTES && !entries.is_empty() {
                let message = "its deleted entries are too many to come back together: undelete some by their digests first";
                return Err(Error::invalid(message).with_context("repository", repository));
            }
            let put = PutManifest { sparse: undelete.sparse, ..PutManifest::new(entry, []) };
            entries.push(self.manifest_change(repository, put).await?);
        }
        let descriptor = manifest.descriptor();
        let put = PutManifest {
            if_match: is_free.then_some(None),
            guard: undelete.guard.filter(|_| tag.is_some()),
            sparse: undelete.sparse,
            ..PutManifest::new(manifest, tag.clone())
        };
        let change = self.manifest_change(repository, put).await?;
        let change = ManifestChange { undeletes: true, entries, ..change };
        let written = self.0.meta.write(Change::PutManifest(Box::new(change))).await;
        written.map(|_| descriptor).map_err(|e| match (e.kind(), &tag) {
            (ErrorKind::Conflict, Some(tag)) if is_free => exists_again(repository, tag),
            _ => e,
        })
    }

    /// The deleted ones among a manifest and what it has as entries, those that another one needs before it. One of them is in memory
    /// at a time.
    async fn with_entries(&self, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Digest>> {
        let (mut kept, mut seen) = (Vec::new(), HashSet::new());
        let mut open = vec![Step::Enter(digest.clone())];
        while let Some(step) = open.pop() {
            let digest = match step {
                Step::Enter(digest) if seen.insert(digest.clone()) => digest,
                Step::Enter(_) => continue,
                Step::Leave(digest) => {
                    kept.push(digest);
                    continue;
                }
            };
            let found = match self.0.meta.deleted_manifest(repository, &digest).await? {
                Some(manifest) => {
                    open.push(Step::Leave(digest));
                    Some(manifest)
                }
                None => self.0.meta.manifest(repository, &ManifestReference::Digest(digest)).await?,
            };
            let entries = found.iter().filter_map(Manifest::index).flat_map(|index| &index.manifests);
            // One that two of them have comes before both.
            let below: HashSet<&Digest> =
                entries.map(|entry| &entry.digest).filter(|entry| !seen.contains(*entry)).collect();
            open.extend(below.into_iter().map(|entry| Step::Enter(entry.clone())));
            if seen.len() > MOST || open.len() > 2 * MOST {
                return Err(Error::invalid(format!("an index has more than {MOST} manifests below it")));
            }
        }
        Ok(kept)
    }

    /// See [`crate::store::RegistryStore::purge_deleted`].
    pub(super) async fn purge_kept(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.writable()?;
        let purge = Change::PurgeDeleted { repository: repository.clone(), digest: digest.clone() };
        match self.0.meta.write(purge).await? {
            0 => Err(not_kept(repository, digest)),
            _ => Ok(()),
        }
    }

    /// Forgets all deletions whose window has ended.
    pub(super) async fn forget_deletions(&self) -> Result<()> {
        while self.0.meta.write(Change::ForgetDeletions).await? > 0 {}
        Ok(())
    }
}
