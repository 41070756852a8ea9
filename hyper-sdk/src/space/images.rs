//! The images of a store: what each of them is made of.

use crate::reference::RepositoryName;
use crate::store::{CollectOptions, Page, RegistryStore, RegistryStoreExt as _, Removal, Roots};
use crate::{Digest, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Manifests of repositories.
pub(crate) type Manifests = HashSet<(RepositoryName, Digest)>;

/// An image of a repository: its manifest, with all that it references there.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) manifests: BTreeSet<Digest>,
    pub(super) blobs: BTreeSet<Digest>,
    /// The bytes of the blobs, as the manifests have them.
    pub(super) bytes: u64,
}

/// Follows a manifest to all that it references in its repository. What is missing is left out.
pub(super) async fn parts_of(
    store: &dyn RegistryStore,
    repository: &RepositoryName,
    root: &Digest,
) -> Result<Parts> {
    let mut parts = Parts { manifests: BTreeSet::new(), blobs: BTreeSet::new(), bytes: 0 };
    let mut open = vec![root.clone()];
    while let Some(digest) = open.pop() {
        let Some(manifest) = find(store, repository, &digest).await? else { continue };
        if !parts.manifests.insert(digest) {
            continue;
        }
        for entry in manifest.index().into_iter().flat_map(|index| &index.manifests) {
            open.push(entry.digest.clone());
        }
        if let Some(image) = manifest.image() {
            for blob in image.layers.iter().chain([&image.config]) {
                if parts.blobs.insert(blob.digest.clone()) {
                    parts.bytes = parts.bytes.saturating_add(blob.size);
                }
            }
        }
    }
    Ok(parts)
}

/// A manifest with the indexes' entries below it and all that is about them.
pub(crate) async fn family_of(
    store: &dyn RegistryStore,
    repository: &RepositoryName,
    root: &Digest,
) -> Result<HashSet<Digest>> {
    let mut family = HashSet::new();
    let mut open = vec![root.clone()];
    while let Some(digest) = open.pop() {
        if !family.insert(digest.clone()) {
            continue;
        }
        let manifest = find(store, repository, &digest).await?;
        let entries =
            manifest.iter().filter_map(|manifest| manifest.index()).flat_map(|index| &index.manifests);
        open.extend(entries.map(|entry| entry.digest.clone()));
        let referrers = store.list_referrers(repository, &digest, None).await?;
        open.extend(referrers.into_iter().map(|referrer| referrer.digest));
    }
    Ok(family)
}

/// Leaves out what another image without a name has too: an index that lost its name stays whole until it goes itself.
pub(super) async fn without_shared(store: &dyn RegistryStore, doomed: &mut Manifests) -> Result<()> {
    let repositories: HashSet<RepositoryName> =
        doomed.iter().map(|(repository, _)| repository.clone()).collect();
    for (manifest, _) in untagged_of(store, repositories).await? {
        if !doomed.contains(&manifest) {
            let (repository, digest) = manifest;
            for member in family_of(store, &repository, &digest).await? {
                doomed.remove(&(repository.clone(), member));
            }
        }
    }
    Ok(())
}

/// Everything is without a root that is in one of these repositories.
#[derive(Debug)]
struct Within(HashSet<RepositoryName>);

impl Roots for Within {
    fn keeps_manifest(&self, repository: &RepositoryName, _: &Digest) -> bool {
        !self.0.contains(repository)
    }

    fn keeps_blob(&self, _: &RepositoryName, _: &Digest) -> bool {
        true
    }
}

/// The manifests of repositories that no tag keeps, with the time at which each was last stored.
pub(super) async fn untagged_of(
    store: &dyn RegistryStore,
    repositories: HashSet<RepositoryName>,
) -> Result<Vec<((RepositoryName, Digest), i64)>> {
    if repositories.is_empty() {
        return Ok(Vec::new());
    }
    unkept(store, Arc::new(Within(repositories))).await
}

/// The manifests that neither a tag nor these roots keep, with the time at which each was last stored.
pub(super) async fn unkept(
    store: &dyn RegistryStore,
    roots: Arc<dyn Roots>,
) -> Result<Vec<((RepositoryName, Digest), i64)>> {
    let listed = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&listed);
    let options = CollectOptions {
        dry_run: true,
        untagged_until: Some(i64::MAX),
        bytes: false,
        roots,
        observer: Some(Arc::new(move |removal: &Removal| {
            if let Removal::Manifest { repository, digest, stored_at } = removal {
                let mut listed = to.lock().unwrap_or_else(PoisonError::into_inner);
                listed.push(((repository.clone(), digest.clone()), *stored_at));
            }
        })),
        ..CollectOptions::default()
    };
    match store.collect(options).await {
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(Vec::new()),
        other => other?,
    };
    let mut listed = listed.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *listed))
}

async fn find(
    store: &dyn RegistryStore,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Option<crate::oci::Manifest>> {
    match store.find_manifest(repository, &digest.clone().into()).await {
        Err(e) if e.kind() == ErrorKind::NameUnknown => Ok(None),
        other => other,
    }
}

/// The images of every repository that have tags: the digest of each with its tags.
pub(super) async fn tagged(
    store: &dyn RegistryStore,
) -> Result<Vec<(RepositoryName, BTreeMap<Digest, Vec<String>>)>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_repositories(Page { limit: None, after }).await?;
        for repository in &page.items {
            let tags = match store.all_tags(repository).await {
                Err(e) if e.kind() == ErrorKind::NameUnknown => continue,
                tags => tags?,
            };
            let mut images: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
            for tag in tags {
                let text = tag.to_string();
                // It may be removed meanwhile.
                if let Some(manifest) = store.find_manifest(repository, &tag.into()).await? {
                    images.entry(manifest.digest().clone()).or_default().push(text);
                }
            }
            if !images.is_empty() {
                all.push((repository.clone(), images));
            }
        }
        after = page.items.last().map(ToString::to_string);
        if !page.more || after.is_none() {
            return Ok(all);
        }
    }
}
