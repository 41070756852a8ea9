//! Garbage collection: what a store removes, and what keeps content.
//!
//! ```text
//!   tag ──▶ manifest ──▶ config, layers            an edge keeps its target in the same repository
//!             │  ▲
//!             │  └── subject of a referrer         a manifest keeps its referrers
//!             └──▶ entries of an index
//!   lease ──▶ link                                 a client was told that the blob is there
//!   Roots ──▶ manifest, link                       what the caller knows of, such as the records of a build cache
//! ```
//!
//! A collection removes manifests, then links, then the bytes of blobs without a link, each after a check in the
//! transaction that removes it. It can end anywhere: the next one goes on with what is left.

use crate::Digest;
use crate::reference::RepositoryName;
use std::fmt::{self, Debug};
use std::sync::Arc;

/// What keeps content besides tags, manifests and leases.
///
/// ```
/// use hyper_sdk::store::Roots;
/// use hyper_sdk::{Digest, RepositoryName};
///
/// /// Everything in one repository.
/// #[derive(Debug)]
/// struct Kept(RepositoryName);
///
/// impl Roots for Kept {
///     fn keeps_manifest(&self, repository: &RepositoryName, _: &Digest) -> bool {
///         *repository == self.0
///     }
///
///     fn keeps_blob(&self, repository: &RepositoryName, _: &Digest) -> bool {
///         *repository == self.0
///     }
/// }
/// ```
pub trait Roots: Debug + Send + Sync + 'static {
    /// Whether a manifest stays though no tag, no index and no subject keeps it.
    fn keeps_manifest(&self, repository: &RepositoryName, digest: &Digest) -> bool;

    /// Whether the link of a blob stays though no manifest of the repository references the blob.
    fn keeps_blob(&self, repository: &RepositoryName, digest: &Digest) -> bool;
}

/// The roots of a store that a builder may share: everything in its [internal](super::is_internal) repositories.
#[derive(Clone, Copy, Debug, Default)]
pub struct InternalRoots;

impl Roots for InternalRoots {
    fn keeps_manifest(&self, repository: &RepositoryName, _: &Digest) -> bool {
        super::is_internal(repository)
    }

    fn keeps_blob(&self, repository: &RepositoryName, _: &Digest) -> bool {
        super::is_internal(repository)
    }
}

/// One thing that a collection removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A manifest that nothing keeps.
    Manifest {
        /// Its repository.
        repository: RepositoryName,
        /// Its digest.
        digest: Digest,
        /// When it was last stored ([`UnkeptManifest::stored_at`](super::meta::UnkeptManifest)).
        stored_at: i64,
    },
    /// The link of a blob that no manifest of the repository references and whose lease has ended.
    Link {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// The bytes of a blob that no repository has.
    Blob {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest { repository, digest, .. } => {
                write!(f, "manifest {repository}@{digest}: no tag, index or subject keeps it")
            }
            Self::Link { repository, digest } => {
                write!(f, "blob {digest} in {repository}: no manifest references it and its lease has ended")
            }
            Self::Blob { digest, size } => {
                write!(f, "bytes of {digest} ({size} bytes): no repository has the blob")
            }
        }
    }
}

/// A function that is told of each removal.
pub type RemovalObserver = Arc<dyn Fn(&Removal) + Send + Sync>;

/// What a collection removes.
///
/// ```
/// use hyper_sdk::store::{CollectOptions, MemoryStore, RegistryStore as _, RegistryStoreExt as _};
/// use hyper_sdk::RepositoryName;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, name) = (MemoryStore::default(), RepositoryName::parse("team/app")?);
/// store.put_bytes(&name, "text/plain", "hello".into()).await?;
/// // The blob has a lease: a manifest that references it may follow.
/// assert_eq!(store.collect(CollectOptions::default()).await?.blobs, 0);
/// let options = CollectOptions { leases_until: Some(i64::MAX), ..CollectOptions::default() };
/// assert_eq!(store.collect(options).await?.bytes, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CollectOptions {
    /// Removes nothing, and reports what is garbage now. What only a manifest that is reported references is not foreseen.
    pub dry_run: bool,
    /// Removes manifests that nothing keeps and that were last stored no later than this, in seconds since 1970. Without,
    /// manifests stay until they are deleted.
    pub untagged_until: Option<i64>,
    /// The leases that end no later than this, in seconds since 1970, have ended. Without, it is the time of the store.
    pub leases_until: Option<i64>,
    /// Removes the bytes of blobs without a link too. Without, they stay for the next collection.
    pub bytes: bool,
    /// Looks for bytes that no row of the database names too, which takes a query for every blob of the store.
    pub unnamed: bool,
    /// What keeps content besides.
    pub roots: Arc<dyn Roots>,
    /// Is told of each removal: after it, in a dry run instead of it. Not of bytes that belong to no blob.
    pub observer: Option<RemovalObserver>,
}

impl Default for CollectOptions {
    /// Removes what no manifest references and no client was told of. Manifests stay.
    fn default() -> Self {
        Self {
            dry_run: false,
            untagged_until: None,
            leases_until: None,
            bytes: true,
            unnamed: true,
            roots: Arc::new(InternalRoots),
            observer: None,
        }
    }
}

impl Debug for CollectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectOptions")
            .field("dry_run", &self.dry_run)
            .field("untagged_until", &self.untagged_until)
            .field("leases_until", &self.leases_until)
            .field("bytes", &self.bytes)
            .field("unnamed", &self.unnamed)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl CollectOptions {
    pub(super) fn report(&self, removal: impl FnOnce() -> Removal) {
        if let Some(observer) = &self.observer {
            observer(&removal());
        }
    }
}

/// What a collection has removed, or in a dry run what it would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many manifests.
    pub manifests: u64,
    /// How many links.
    pub links: u64,
    /// The bytes of how many blobs.
    pub blobs: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// Whether blobs without a link were left for a later collection: another collector has the right to delete bytes just now,
    /// or a backup copies them ([`Change::HoldBytes`](super::meta::Change::HoldBytes)).
    pub left_to_another: bool,
}
