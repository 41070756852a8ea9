//! Pulls an image from a registry into a store.

use super::location::{LocalTarget, RemoteImage};
use super::sibling_repositories::SiblingRepositories;
use super::transfer::{Platforms, TransferOptions, transfer};
use crate::oci::Descriptor;
use crate::progress::Progress;
use crate::reference::{ManifestReference, RepositoryName};
use crate::{Result, ResultExt};

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Which images of an index are pulled.
    pub platforms: Platforms,
    /// Whether referrers of the image (signatures, bills of material) are pulled, too.
    pub referrers: bool,
    /// How many blobs are transferred at once.
    pub parallel: usize,
    /// Repositories of the store that may have the blobs: they are linked from there and not fetched. A store that knows
    /// which repositories have a blob finds them itself.
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

/// Pulls an image of a registry into a store.
///
/// Manifests that the repository has are not fetched, nor are blobs that any repository of the store has. The rest comes
/// in parallel, streamed, each digest checked.
/// The tag moves last: dropping the future stops the pull and never leaves a tag on half an image. Returns the
/// descriptor of what was pulled, which with [`Platforms::One`] is the image's own and says its platform.
///
/// ```
/// use hyper_sdk::client::{LocalTarget, PullOptions, RemoteImage, SharedClient, pull};
/// use hyper_sdk::{Reference, store::SharedStore};
///
/// async fn fetch(client: &SharedClient, name: &Reference, store: &SharedStore) -> hyper_sdk::Result<()> {
///     let (image, target) = (RemoteImage::named(client, name), LocalTarget::named(store, name)?);
///     println!("{}", pull(&image, &target, &PullOptions::default()).await?.digest);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// Those of the client and the store; [`crate::ErrorKind::ManifestUnknown`] when an index has no image for the
/// platform.
pub async fn pull(source: &RemoteImage, target: &LocalTarget, options: &PullOptions) -> Result<Descriptor> {
    let (from, to) = (source.endpoint(&options.progress), target.endpoint());
    let options = TransferOptions {
        verb: "pull",
        platforms: options.platforms.clone(),
        referrers: options.referrers,
        parallel: options.parallel,
        chunk_length: None,
        mount_from: options.mount_from.clone(),
        siblings: SiblingRepositories::default(),
        known: Default::default(),
        target_is_local: true,
        progress: options.progress.clone(),
    };
    let tag = target.tag.clone().map(ManifestReference::Tag);
    transfer(&from, &source.reference, &to, tag.as_ref(), &options).await.op("pull")
}
