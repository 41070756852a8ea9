//! Where images go: a store, or a look at the metadata of one, which changes nothing.

use crate::oci::Manifest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::meta::MetaBackend;
use crate::store::{Page, PutManifest, SharedStore};
use crate::{Digest, Error, ErrorKind, Result};
use std::sync::Arc;

/// What happens to a tag of the target that names another manifest than that of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingTags {
    /// It gets the manifest of the source.
    #[default]
    Move,
    /// It stays; the manifest of the source is imported without it.
    Keep,
}

/// Where images go.
#[derive(Clone, Debug)]
pub enum ImportTarget {
    /// Into a store.
    Store(SharedStore),
    /// Nowhere: the import says what it would do with a store of these metadata; `None` is one that does not exist yet.
    DryRun(Option<Arc<dyn MetaBackend>>),
}

/// Why an image is not imported.
#[derive(Debug)]
pub(super) enum Stop {
    /// The content, or the source: the next image may be imported.
    Image(Error),
    /// The target: nothing can be imported.
    All(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Image(error)
    }
}

/// An error of the target: what it refuses is a matter of the image, what it cannot do one of the whole import.
pub(super) fn at_target(error: Error) -> Stop {
    let is_refused = matches!(
        error.kind(),
        ErrorKind::Invalid
            | ErrorKind::DigestInvalid
            | ErrorKind::SizeInvalid
            | ErrorKind::NameInvalid
            | ErrorKind::BlobUnknown
            | ErrorKind::ManifestUnknown
            | ErrorKind::ManifestInvalid
            | ErrorKind::ManifestBlobUnknown
            | ErrorKind::Conflict
            | ErrorKind::Denied
            | ErrorKind::TooLarge
    );
    if is_refused { Stop::Image(error) } else { Stop::All(error) }
}

fn found<T>(outcome: Result<T>, unknown: &[ErrorKind]) -> Result<Option<T>, Stop> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(e) if unknown.contains(&e.kind()) => Ok(None),
        Err(e) => Err(Stop::All(e)),
    }
}

impl ImportTarget {
    pub(super) fn is_dry_run(&self) -> bool {
        matches!(self, Self::DryRun(_))
    }

    /// A manifest of the target.
    pub(super) async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>, Stop> {
        let reference = ManifestReference::Digest(digest.clone());
        match self {
            Self::Store(store) => found(
                store.get_manifest(repository, &reference).await,
                &[ErrorKind::ManifestUnknown, ErrorKind::NameUnknown],
            ),
            Self::DryRun(Some(meta)) => meta.manifest(repository, &reference).await.map_err(Stop::All),
            Self::DryRun(None) => Ok(None),
        }
    }

    /// What a tag of the target names.
    pub(super) async fn tagged(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, Stop> {
        let reference = ManifestReference::Tag(tag.clone());
        let manifest = match self {
            Self::Store(store) => found(
                store.get_manifest(repository, &reference).await,
                &[ErrorKind::ManifestUnknown, ErrorKind::NameUnknown],
            )?,
            Self::DryRun(Some(meta)) => meta.manifest(repository, &reference).await.map_err(Stop::All)?,
            Self::DryRun(None) => None,
        };
        Ok(manifest.map(|manifest| manifest.digest().clone()))
    }

    /// Whether a repository of the target has a blob, with its bytes. A store keeps it for a while from now on.
    pub(super) async fn has_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, Stop> {
        match self {
            Self::Store(store) => {
                let size = store.lease_blob(repository, digest).await;
                Ok(found(size, &[ErrorKind::BlobUnknown, ErrorKind::NameUnknown])?.is_some())
            }
            Self::DryRun(Some(meta)) => Ok(meta.blob(repository, digest).await.map_err(Stop::All)?.is_some()),
            Self::DryRun(None) => Ok(false),
        }
    }

    /// Links a blob that another repository of the target has. Returns whether one had it.
    pub(super) async fn link_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, Stop> {
        match self {
            Self::Store(store) => {
                let page = Page { limit: Some(1), after: None };
                let others = store.repositories_with(digest, page).await.map_err(Stop::All)?;
                let Some(from) = others.items.first() else { return Ok(false) };
                let linked = store.mount_blob(repository, digest, from).await;
                Ok(found(linked, &[ErrorKind::BlobUnknown, ErrorKind::NameUnknown])?.is_some())
            }
            Self::DryRun(Some(meta)) => {
                let records = meta.blobs(std::slice::from_ref(digest)).await.map_err(Stop::All)?;
                Ok(records.iter().flatten().any(|record| !record.quarantined && record.condemned.is_none()))
            }
            Self::DryRun(None) => Ok(false),
        }
    }

    /// Stores a manifest; a dry run does nothing.
    pub(super) async fn put(&self, repository: &RepositoryName, put: PutManifest) -> Result<(), Stop> {
        match self {
            Self::Store(store) => store.put_manifest(repository, put).await.map(drop).map_err(at_target),
            Self::DryRun(_) => Ok(()),
        }
    }
}
