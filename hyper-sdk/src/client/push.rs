//! Pushes an image from a store to a registry.

use super::location::{LocalImage, RemoteImage};
use super::sibling_repositories::SiblingRepositories;
use super::transfer::{Platforms, TransferOptions, transfer};
use crate::Result;
use crate::oci::Descriptor;
use crate::progress::Progress;
use crate::reference::RepositoryName;
use crate::store::damage::blame_store;

/// How to push.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Which images of an index are pushed.
    pub platforms: Platforms,
    /// Whether referrers of the image (signatures, bills of material) are pushed, too.
    pub referrers: bool,
    /// How many blobs are transferred at once.
    pub parallel: usize,
    /// The length of the chunks that a blob is cut into, in bytes; `None` sends a blob in one request. Chunks are held
    /// in memory.
    pub chunk_length: Option<u64>,
    /// Repositories of the same registry that may have the blobs: they are mounted from there. Repositories of the
    /// registry that the store has under their local names are tried without being named here.
    pub mount_from: Vec<RepositoryName>,
    /// Where events go.
    pub progress: Progress,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            platforms: Platforms::All,
            referrers: false,
            parallel: 4,
            chunk_length: None,
            mount_from: Vec::new(),
            progress: Progress::none(),
        }
    }
}

/// Pushes an image of a store to a registry.
///
/// The registry is asked for each blob before it is sent, and to mount it when another of its repositories may have it.
/// Blobs are streamed in parallel; a broken upload continues where the registry has it. Manifests follow their blobs, an
/// index follows its manifests, and the tag comes last. Pushing again sends only what is missing. Dropping the future stops
/// the push and never leaves a tag on an incomplete image.
///
/// ```
/// use hyper_sdk::client::{LocalImage, PushOptions, RemoteImage, SharedClient, push};
/// use hyper_sdk::{Reference, store::SharedStore};
///
/// async fn publish(store: &SharedStore, client: &SharedClient, name: &Reference) -> hyper_sdk::Result<()> {
///     let image = LocalImage::find(store, name).await?;
///     push(&image, &RemoteImage::named(client, name), &PushOptions::default()).await?;
///     Ok(())
/// }
/// ```
///
/// # Errors
/// Those of the store and the client; [`crate::ErrorKind::DigestInvalid`] when `target` is the digest of something
/// else; [`crate::ErrorKind::Corrupt`] when a blob of the store is damaged, which is then removed.
pub async fn push(source: &LocalImage, target: &RemoteImage, options: &PushOptions) -> Result<Descriptor> {
    let (store, repository) = (&source.store, &source.repository);
    let destination = target.endpoint(&options.progress);
    let options = TransferOptions {
        verb: "push",
        platforms: options.platforms.clone(),
        referrers: options.referrers,
        parallel: options.parallel,
        chunk_length: options.chunk_length,
        mount_from: options.mount_from.clone(),
        siblings: SiblingRepositories::find(store, target.client.host(), repository).await,
        known: Default::default(),
        target_is_local: false,
        progress: options.progress.clone(),
    };
    let sent =
        transfer(&source.endpoint(), &source.reference, &destination, Some(&target.reference), &options)
            .await;
    match sent {
        Ok(descriptor) => Ok(descriptor),
        // Not every registry checks digests, and none can tell that the store is damaged.
        Err(e) => Err(blame_store(store, e).await.with_op("push")),
    }
}
