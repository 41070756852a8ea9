//! Copies an image from one registry to another, or within one, without storing it.

use super::neighbours::Neighbours;
use super::push::PushOptions;
use super::transfer::{Place, TransferOptions, transfer};
use super::{SharedClient, reporting};
use crate::oci::Descriptor;
use crate::reference::{ManifestReference, RepositoryName};
use crate::{Result, ResultExt};
use std::sync::Arc;

/// Copies what `reference` names in a repository of `source` to a repository of `target`, under `target_reference`.
///
/// Works as [`push`](super::push()) does, reading from a registry instead of a store. When both are the same client
/// (the same `Arc`), blobs are mounted and not sent.
///
/// # Errors
/// Those of both clients.
pub async fn copy(
    source: &SharedClient,
    repository: &RepositoryName,
    reference: &ManifestReference,
    target: &SharedClient,
    target_repository: &RepositoryName,
    target_reference: &ManifestReference,
    options: &PushOptions,
) -> Result<Descriptor> {
    let mut mount_from = options.mount_from.clone();
    if Arc::ptr_eq(source, target) && !mount_from.contains(repository) {
        mount_from.insert(0, repository.clone());
    }
    let from = Place { client: reporting(source, &options.progress), repository: repository.clone() };
    let to = Place { client: reporting(target, &options.progress), repository: target_repository.clone() };
    let options = TransferOptions {
        verb: "copy",
        platforms: options.platforms.clone(),
        referrers: options.referrers,
        parallel: options.parallel,
        chunk_length: options.chunk_length,
        mount_from,
        neighbours: Neighbours::default(),
        target_is_local: false,
        progress: options.progress.clone(),
    };
    transfer(&from, reference, &to, Some(target_reference), &options).await.op("copy")
}
