//! Rules for the tags of a repository that a store asks while it changes them.

use crate::reference::{ManifestReference, Tag};
use crate::{Digest, Error, Result};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What happens to a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagChange {
    /// A tag that does not exist gets a manifest.
    Create,
    /// A tag that exists gets another manifest.
    Move,
    /// A tag is deleted, or loses a manifest or a blob that it needs.
    Delete,
}

type Rule = dyn Fn(&Tag, TagChange) -> Result<()> + Send + Sync;

/// A rule that allows or refuses changes of tags.
///
/// A store asks it with the state of the tag in the transaction of the change, so that no other writer comes between
/// the answer and the change. An error rejects the whole change, and so does a panic, as
/// [`ErrorKind::Internal`](crate::ErrorKind::Internal). The rule must not block. It may be asked again about the same
/// change, because a store tries a transaction again that came too late.
///
/// ```
/// use hyper_sdk::store::{MemoryStore, PutManifest, RegistryStore, TagChange, TagGuard};
/// use hyper_sdk::{Error, ErrorKind, RepositoryName, Tag, oci::{ImageIndex, Manifest}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let immutable = TagGuard::new(|tag, change| match change {
///     TagChange::Create => Ok(()),
///     _ => Err(Error::new(ErrorKind::Denied, format!("the tag {tag} is immutable"))),
/// });
/// let (store, name) = (MemoryStore::default(), RepositoryName::parse("team/app")?);
/// for (media_type, is_stored) in [("a/a", true), ("a/b", false)] {
///     let index = ImageIndex { artifact_type: Some(media_type.to_owned()), ..ImageIndex::new(Vec::new()) };
///     let manifest = Manifest::sniff(index.to_bytes())?;
///     let put = PutManifest { guard: Some(immutable.clone()), ..PutManifest::new(manifest, [Tag::latest()]) };
///     assert_eq!(store.put_manifest(&name, put).await.is_ok(), is_stored);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TagGuard {
    rule: Arc<Rule>,
    asks_about_deletions: bool,
}

impl TagGuard {
    /// A guard that asks this function.
    pub fn new(rule: impl Fn(&Tag, TagChange) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { rule: Arc::new(rule), asks_about_deletions: true }
    }

    /// The same for whoever may delete every tag: the guard is not asked about deletions, and the store need not look
    /// for the tags that one concerns.
    #[must_use]
    pub fn without_deletions(mut self) -> Self {
        self.asks_about_deletions = false;
        self
    }

    /// Whether the guard has to be asked about deletions.
    pub fn asks_about_deletions(&self) -> bool {
        self.asks_about_deletions
    }

    /// Asks whether a change of a tag is allowed.
    ///
    /// # Errors
    /// The error with which the change is rejected.
    pub fn check(&self, tag: &Tag, change: TagChange) -> Result<()> {
        if change == TagChange::Delete && !self.asks_about_deletions {
            return Ok(());
        }
        // A panic must not end the task that writes for everybody.
        catch_unwind(AssertUnwindSafe(|| (self.rule)(tag, change)))
            .unwrap_or_else(|_| Err(Error::internal("the rule for tags panicked")))
    }

    /// Asks about a tag that names `now` and gets the manifest `next`. A tag that has it already does not change.
    ///
    /// # Errors
    /// The error with which the change is rejected.
    pub fn check_put(&self, tag: &Tag, now: Option<&str>, next: &Digest) -> Result<()> {
        match now {
            None => self.check(tag, TagChange::Create),
            Some(now) if now != next.as_str() => self.check(tag, TagChange::Move),
            Some(_) => Ok(()),
        }
    }
}

impl fmt::Debug for TagGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TagGuard").finish_non_exhaustive()
    }
}

/// What a client deletes from a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteTarget {
    /// A tag, or by digest a manifest with all of its tags.
    Manifest(ManifestReference),
    /// A blob.
    Blob(Digest),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_panic_of_the_rule_is_an_error() {
        let guard = TagGuard::new(|_, _| panic!("a fault of the rule"));
        assert_eq!(guard.check(&Tag::latest(), TagChange::Move).unwrap_err().kind(), ErrorKind::Internal);
    }

    #[test]
    fn deletions_that_are_allowed_are_not_asked_about() {
        let guard = TagGuard::new(|_, _| Err(Error::new(ErrorKind::Denied, "no"))).without_deletions();
        assert!(!guard.asks_about_deletions() && guard.check(&Tag::latest(), TagChange::Delete).is_ok());
        assert!(guard.check(&Tag::latest(), TagChange::Move).is_err());
    }
}
