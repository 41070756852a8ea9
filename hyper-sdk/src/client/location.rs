//! The source and the target of a push, a pull and a copy.
//!
//! ```text
//!   push   LocalImage  ─▶ RemoteImage       pull   RemoteImage ─▶ LocalTarget       copy   RemoteImage ─▶ RemoteImage
//! ```

use super::{Loopback, RegistryClient, SharedClient, reporting};
use crate::Result;
use crate::progress::Progress;
use crate::reference::{ManifestReference, Reference, RepositoryName, Tag};
use crate::store::{SharedStore, find_local, local_repository};
use std::sync::Arc;

/// An image at a registry: an existing one, or the name of one that is pushed.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// The client of the registry.
    pub client: SharedClient,
    /// The repository there.
    pub repository: RepositoryName,
    /// The tag or the digest in the repository.
    pub reference: ManifestReference,
}

impl RemoteImage {
    /// The image of a repository of a registry.
    pub fn new(client: &SharedClient, repository: &RepositoryName, reference: &ManifestReference) -> Self {
        Self { client: client.clone(), repository: repository.clone(), reference: reference.clone() }
    }

    /// The image of a name at its registry, whose client this is.
    pub fn named(client: &SharedClient, name: &Reference) -> Self {
        Self::new(client, name.repository(), &name.manifest())
    }

    pub(super) fn endpoint(&self, progress: &Progress) -> Endpoint {
        Endpoint { client: reporting(&self.client, progress), repository: self.repository.clone() }
    }
}

/// An image that a store has.
#[derive(Clone, Debug)]
pub struct LocalImage {
    /// The store.
    pub store: SharedStore,
    /// The repository that has the image.
    pub repository: RepositoryName,
    /// The tag or the digest in the repository.
    pub reference: ManifestReference,
}

impl LocalImage {
    /// The image of a repository of a store.
    pub fn new(store: &SharedStore, repository: &RepositoryName, reference: &ManifestReference) -> Self {
        Self { store: store.clone(), repository: repository.clone(), reference: reference.clone() }
    }

    /// Finds the image of a name in a local store: [`find_local`].
    ///
    /// # Errors
    /// Those of [`find_local`]. A missing image is an error only when it is used.
    pub async fn find(store: &SharedStore, name: &Reference) -> Result<Self> {
        Ok(Self::new(store, &find_local(&**store, name).await?, &name.manifest()))
    }

    /// The same image, as a client of the store sees it.
    pub fn over_loopback(&self) -> RemoteImage {
        let client: SharedClient = Arc::new(Loopback::new(self.store.clone()));
        RemoteImage::new(&client, &self.repository, &self.reference)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::of_store(&self.store, &self.repository)
    }
}

/// The place in a store for an image that is pulled.
#[derive(Clone, Debug)]
pub struct LocalTarget {
    /// The store.
    pub store: SharedStore,
    /// The repository that gets the image.
    pub repository: RepositoryName,
    /// The tag of the image; without, it has only its digest.
    pub tag: Option<Tag>,
}

impl LocalTarget {
    /// A repository of a store.
    pub fn new(store: &SharedStore, repository: &RepositoryName, tag: Option<&Tag>) -> Self {
        Self { store: store.clone(), repository: repository.clone(), tag: tag.cloned() }
    }

    /// The place of a name in a local store: [`local_repository`], and the tag of the name.
    ///
    /// # Errors
    /// Those of [`local_repository`].
    pub fn named(store: &SharedStore, name: &Reference) -> Result<Self> {
        Ok(Self::new(store, &local_repository(name)?, name.tag()))
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::of_store(&self.store, &self.repository)
    }
}

/// A repository of a client.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) client: SharedClient,
    pub(super) repository: RepositoryName,
}

impl Endpoint {
    fn of_store(store: &SharedStore, repository: &RepositoryName) -> Self {
        Self { client: Arc::new(Loopback::new(store.clone())), repository: repository.clone() }
    }

    pub(super) fn client(&self) -> &dyn RegistryClient {
        self.client.as_ref()
    }
}
