//! Undoing deletions: what was deleted within a window is kept, invisibly, until the window ends.
//!
//! ```text
//!   a tag is deleted, or moved ──▶ Deletion: tag, manifest           the manifest stays, as if the tag was there
//!   a manifest is deleted      ──▶ Deletion, with its bytes          and so do its blobs, entries and referrers
//!        │ window                        │ undelete                  purge
//!        ▼                               ▼                             ▼
//!   garbage collection removes it   a push of the same bytes      garbage collection removes it
//! ```
//!
//! # Invariants
//! - A deletion answers at once as if nothing was kept: neither the manifest nor the tag can be read.
//! - Who deletes records the end of the window, by the clock of the database, in the transaction of the deletion.
//! - An undeletion is a push of what is kept, with its entries in one transaction: immutable tags, quotas and events are as for every
//!   push, and one that is refused changes nothing. It is refused when the window has ended or a manifest was purged meanwhile.

use super::TagGuard;
use crate::reference::ManifestReference;

/// What is undeleted.
///
/// ```
/// use hyper_sdk::oci::{ImageIndex, Manifest};
/// use hyper_sdk::store::{MemoryStore, PutManifest, RegistryStore as _, RegistryStoreExt as _, Undelete};
/// use hyper_sdk::{RepositoryName, Tag};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, name, tag) = (MemoryStore::default(), RepositoryName::parse("team/app")?, Tag::latest());
/// store.set_undelete_window(Duration::from_secs(3600))?;
/// let manifest = Manifest::sniff(ImageIndex::new(Vec::new()).to_bytes())?;
/// let digest = manifest.digest().clone();
/// store.put_manifest(&name, PutManifest::new(manifest, [tag.clone()])).await?;
/// store.delete_manifest(&name, &digest.into()).await?;
/// assert!(store.all_tags(&name).await?.is_empty());
/// store.undelete(&name, Undelete::new(tag.clone())).await?;
/// assert_eq!(store.all_tags(&name).await?, [tag]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Undelete {
    /// The tag, with the manifest that it had last, or the digest of a manifest, without its tags.
    pub reference: ManifestReference,
    /// Takes a tag from the manifest that it has by now. Without, that is [`crate::ErrorKind::Conflict`].
    pub replaces: bool,
    /// Accepts that blobs or entries are missing, which were deleted by themselves.
    pub sparse: bool,
    /// Is asked about the tag, as for a push.
    pub guard: Option<TagGuard>,
}

impl Undelete {
    /// Undeletes this, if no tag is in the way and nothing is missing.
    pub fn new(reference: impl Into<ManifestReference>) -> Self {
        Self { reference: reference.into(), replaces: false, sparse: false, guard: None }
    }
}
