//! Where a shared cache is.

use crate::client::{Layout, SharedClient, reporting};
use crate::progress::Progress;
use crate::reference::{ManifestReference, Reference, RepositoryName, Tag};
use crate::s3::S3Place;
use crate::source::ClientFactory;
use crate::{Digest, Result};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The place of a cache that machines share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// An OCI image layout in a folder.
    Layout {
        /// The folder.
        folder: PathBuf,
        /// The tag of the cache in the layout.
        tag: Tag,
        /// The digest of the cache, which counts in place of the tag.
        digest: Option<Digest>,
    },
    /// A repository of a registry.
    Registry {
        /// The name of the cache, or of an image with the records in its config.
        reference: Reference,
        /// Whether the registry may have any certificate or use plain HTTP.
        insecure: bool,
    },
    /// A bucket of S3.
    S3(Box<S3Place>),
}

/// A cache that a build reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFrom {
    /// Where it is.
    pub place: CachePlace,
    /// Whether cache mounts that this machine does not have get their files from it.
    pub mounts: bool,
}

impl From<CachePlace> for CacheFrom {
    /// Without the contents of cache mounts.
    fn from(place: CachePlace) -> Self {
        Self { place, mounts: false }
    }
}

impl fmt::Display for CacheFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

impl fmt::Display for CachePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { folder, digest: Some(digest), .. } => write!(f, "{}@{digest}", folder.display()),
            Self::Layout { folder, tag, digest: None } => write!(f, "{}:{tag}", folder.display()),
            Self::Registry { reference, .. } => f.write_str(&reference.familiar()),
            Self::S3(place) => place.fmt(f),
        }
    }
}

/// A place with its client.
#[derive(Clone, Debug)]
pub(super) struct OpenPlace {
    pub(super) client: SharedClient,
    pub(super) repository: RepositoryName,
    pub(super) reference: ManifestReference,
}

impl CachePlace {
    /// Opens the place to read from.
    ///
    /// # Errors
    /// Those of [`Layout::open`], of making the client and of the registry;
    /// [`crate::ErrorKind::Unsupported`] for a bucket when the library has no client of buckets.
    pub(super) async fn open(&self, clients: &ClientFactory, progress: &Progress) -> Result<OpenPlace> {
        Ok(match self {
            Self::Layout { folder, tag, digest } => OpenPlace {
                client: Arc::new(Layout::open(folder.clone()).await?),
                repository: RepositoryName::parse("cache")?,
                reference: digest.clone().map_or_else(|| tag.clone().into(), Into::into),
            },
            Self::Registry { reference, insecure } => {
                let client = match insecure {
                    true => clients.insecure_client(reference.host()).await?,
                    false => clients.client(reference.host())?,
                };
                OpenPlace {
                    client: reporting(&client, progress),
                    repository: reference.repository().clone(),
                    reference: reference.manifest(),
                }
            }
            // A bucket has one cache for each client.
            Self::S3(place) => OpenPlace {
                client: clients.bucket(place).await?,
                repository: RepositoryName::parse("cache")?,
                reference: Tag::latest().into(),
            },
        })
    }
}
