//! Repositories of a registry that may have a blob which is pushed to another repository of it.
//!
//! A local store names its repositories after those of registries ([`local_repository`]). A local repository with the blob
//! suggests that its namesake at the registry has the blob, too. So a mount is tried. It costs no request: a registry that
//! does not have the blob there opens the upload session that is needed anyway.
//!
//! [`local_repository`]: crate::store::local_repository

use crate::Digest;
use crate::reference::{Reference, RegistryHost, RepositoryName};
use crate::store::{Page, SharedStore, local_reference, local_repository, prefixes};
use std::sync::{Arc, Mutex, PoisonError};

/// How many repositories of a registry are considered.
const MAX_REPOSITORIES: usize = 256;
/// How many mounts are tried for one blob.
const MAX_ASKED: usize = 3;

/// The repositories of a registry that have a namesake in a store.
#[derive(Clone, Debug, Default)]
pub(super) struct SiblingRepositories {
    store: Option<SharedStore>,
    /// The names in the store and at the registry, the most likely sources of a mount first.
    names: Arc<Mutex<Vec<(RepositoryName, RepositoryName)>>>,
}

impl SiblingRepositories {
    /// The repositories of a registry; the local repository `first` comes first. What cannot be read is left out.
    pub(super) async fn find(
        store: &SharedStore,
        host: Option<&RegistryHost>,
        first: &RepositoryName,
    ) -> Self {
        let Some(prefix) = host.and_then(prefix) else { return Self::default() };
        let mut names = Vec::new();
        for start in prefixes(&prefix) {
            // `PREFIX/` is not a valid name and sorts directly before the names that begin with it: no name is skipped.
            let page = Page { limit: Some(MAX_REPOSITORIES), after: Some(start.clone()) };
            let Ok(listing) = store.list_repositories(page).await else { continue };
            names.extend(listing.items.into_iter().filter_map(|local| {
                let name = local.as_str().strip_prefix(&start)?;
                let own = RepositoryName::parse(&format!("{prefix}{name}")).ok()?;
                let reference = local_reference(&own, None, None)?;
                Some((local, reference.repository().clone()))
            }));
        }
        names.sort_by_key(|(local, _)| local != first);
        Self { store: Some(store.clone()), names: Arc::new(Mutex::new(names)) }
    }

    /// Repositories of the registry that may have a blob.
    pub(super) async fn with(&self, digest: &Digest) -> Vec<RepositoryName> {
        let Some(store) = &self.store else { return Vec::new() };
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = Vec::new();
        for (local, remote) in names {
            if found.len() == MAX_ASKED {
                break;
            }
            if !found.contains(&remote) && store.stat_blob(&local, digest).await.is_ok() {
                found.push(remote);
            }
        }
        found
    }

    /// Records that a mount from a repository succeeded: it comes first from now on.
    pub(super) fn mounted_from(&self, remote: &RepositoryName) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = names.iter().position(|(_, name)| name == remote) {
            names[..=at].rotate_right(1);
        }
    }
}

/// The prefix of the local names of a registry's repositories: `localhost__5000/`.
fn prefix(host: &RegistryHost) -> Option<String> {
    let any = RepositoryName::parse("a").ok()?;
    let local = local_repository(&Reference::new(host.clone(), any, None, None)).ok()?;
    local.as_str().strip_suffix('a').map(str::to_owned)
}
