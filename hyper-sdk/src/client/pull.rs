//! Pulls an image from a registry into a store.

use super::neighbours::Neighbours;
use super::transfer::{Place, Platforms, TransferOptions, transfer};
use super::{Loopback, SharedClient, reporting};
use crate::oci::Descriptor;
use crate::progress::Progress;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::SharedStore;
use crate::{Result, ResultExt};
use std::sync::Arc;

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Which images of an index are pulled.
    pub platforms: Platforms,
    /// Whether what refers to the image (signatures, bills of material) comes along.
    pub referrers: bool,
    /// How many blobs travel at once.
    pub parallel: usize,
    /// Repositories of the store that may have the blobs: they are linked from there and not fetched.
    pub mount_from: Vec<RepositoryName>,
    /// Where events go.
    pub progress: Progress,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platforms: Platforms::All,
            referrers: false,
            parallel: 4,
            mount_from: Vec::new(),
            progress: Progress::none(),
        }
    }
}

/// Pulls what `reference` names at a registry into a repository of a store, under `tag` if there is one.
///
/// Manifests and blobs that the store has are not fetched; the rest comes in parallel, streamed, each digest checked.
/// The tag moves last: dropping the future stops the pull and never leaves a tag on half an image. Returns the
/// descriptor of what was pulled, which with [`Platforms::One`] is the image's own and says its platform.
///
/// # Errors
/// Those of the client and the store; [`crate::ErrorKind::ManifestUnknown`] when an index has no image for the
/// platform.
pub async fn pull(
    client: &SharedClient,
    repository: &RepositoryName,
    reference: &ManifestReference,
    store: &SharedStore,
    store_repository: &RepositoryName,
    tag: Option<&Tag>,
    options: &PullOptions,
) -> Result<Descriptor> {
    let source = Place { client: reporting(client, &options.progress), repository: repository.clone() };
    let destination =
        Place { client: Arc::new(Loopback::new(store.clone())), repository: store_repository.clone() };
    let options = TransferOptions {
        verb: "pull",
        platforms: options.platforms.clone(),
        referrers: options.referrers,
        parallel: options.parallel,
        chunk_length: None,
        mount_from: options.mount_from.clone(),
        neighbours: Neighbours::default(),
        target_is_local: true,
        progress: options.progress.clone(),
    };
    let tag = tag.cloned().map(ManifestReference::Tag);
    transfer(&source, reference, &destination, tag.as_ref(), &options).await.op("pull")
}
