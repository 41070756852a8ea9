//! Copies an image from one registry to another, or within one, without storing it.

use super::location::RemoteImage;
use super::push::PushOptions;
use super::sibling_repositories::SiblingRepositories;
use super::transfer::{TransferOptions, transfer};
use crate::oci::Descriptor;
use crate::{Digest, Result, ResultExt};
use std::collections::HashSet;
use std::sync::Arc;

/// Copies an image of a registry to another registry, or under another name of the same one.
///
/// Works as [`push`](super::push()) does, reading from a registry instead of a store. When both are of the same client
/// (the same `Arc`), blobs are mounted and not sent.
///
/// ```
/// use hyper_sdk::client::{PushOptions, RemoteImage, SharedClient, copy};
/// use hyper_sdk::{Reference, Result, Tag};
///
/// async fn release(client: &SharedClient, candidate: &Reference) -> Result<()> {
///     let release = candidate.at_tag(Tag::parse("1.0")?);
///     let (from, to) = (RemoteImage::named(client, candidate), RemoteImage::named(client, &release));
///     copy(&from, &to, &PushOptions::default()).await?;
///     Ok(())
/// }
/// ```
///
/// # Errors
/// Those of both clients.
pub async fn copy(source: &RemoteImage, target: &RemoteImage, options: &PushOptions) -> Result<Descriptor> {
    copy_known(source, target, options, HashSet::new()).await
}

/// Copies an image to a registry that is known to have some of its blobs: it is not asked for them.
///
/// # Errors
/// Those of both clients, such as that of a registry that does not have one of these blobs any more.
pub(crate) async fn copy_known(
    source: &RemoteImage,
    target: &RemoteImage,
    options: &PushOptions,
    known: HashSet<Digest>,
) -> Result<Descriptor> {
    let mut mount_from = options.mount_from.clone();
    if Arc::ptr_eq(&source.client, &target.client) && !mount_from.contains(&source.repository) {
        mount_from.insert(0, source.repository.clone());
    }
    let (from, to) = (source.endpoint(&options.progress), target.endpoint(&options.progress));
    let options = TransferOptions {
        verb: "copy",
        platforms: options.platforms.clone(),
        referrers: options.referrers,
        parallel: options.parallel,
        chunk_length: options.chunk_length,
        mount_from,
        siblings: SiblingRepositories::default(),
        known,
        target_is_local: false,
        progress: options.progress.clone(),
    };
    transfer(&from, &source.reference, &to, Some(&target.reference), &options).await.op("copy")
}
