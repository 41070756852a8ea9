//! Where a blob was seen, for mounts that do not say where from (distribution-spec, "Mounting a blob from another
//! repository": automatic content discovery).
//!
//! The store has no index from a blob to its repositories, so this remembers, for recent blobs, a few repositories
//! that had them. It is a hint and no more: a mount asks the store again, and the caller must have the right to pull
//! from the repository. When there is no hint, a bounded number of repositories is asked.

use hyper_sdk::{Digest, RepositoryName};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

const BLOBS: usize = 16_384;
const REPOSITORIES: usize = 4;

#[derive(Debug, Default)]
struct Seen {
    repositories: HashMap<Digest, VecDeque<RepositoryName>>,
    order: VecDeque<Digest>,
}

/// Repositories in which recent blobs were seen.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts(Mutex<Seen>);

impl Whereabouts {
    /// Notes that a repository has a blob.
    pub(crate) fn seen(&self, digest: &Digest, repository: &RepositoryName) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(repositories) = seen.repositories.get_mut(digest) {
            if !repositories.contains(repository) {
                if repositories.len() == REPOSITORIES {
                    repositories.pop_front();
                }
                repositories.push_back(repository.clone());
            }
            return;
        }
        seen.repositories.insert(digest.clone(), VecDeque::from([repository.clone()]));
        seen.order.push_back(digest.clone());
        if seen.order.len() > BLOBS
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.repositories.remove(&oldest);
        }
    }

    /// The repositories that may have a blob, the latest first.
    pub(crate) fn of(&self, digest: &Digest) -> Vec<RepositoryName> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.repositories.get(digest).map(|r| r.iter().rev().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_repositories_of_a_blob_are_remembered() {
        let whereabouts = Whereabouts::default();
        let digest = Digest::sha256(b"x");
        for name in ["a", "b", "c", "a", "d", "e"] {
            whereabouts.seen(&digest, &RepositoryName::parse(name).unwrap());
        }
        let names: Vec<String> = whereabouts.of(&digest).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["e", "d", "c", "b"]);
        for n in 0..BLOBS as u64 {
            whereabouts.seen(&Digest::sha256(n.to_le_bytes()), &RepositoryName::parse("a").unwrap());
        }
        assert!(whereabouts.of(&digest).is_empty());
        assert_eq!(whereabouts.0.lock().unwrap().repositories.len(), BLOBS);
    }
}
