//! Helpers of the cases.

use crate::media_type;
use crate::oci::{Descriptor, ImageManifest, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{
    ByteRange, PutManifest, QuotaLimits, QuotaNamespace, QuotaRule, QuotaRules, RegistryStore,
    RegistryStoreExt as _, SharedStore,
};
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;
use futures::TryStreamExt as _;
use std::fmt::Debug;
use std::sync::Arc;

/// Ends the case when the store lacks a capability.
macro_rules! needs {
    ($store:expr, $($power:ident),+) => {
        let capabilities = crate::store::RegistryStore::capabilities(&*$store);
        if !($(capabilities.$power)&&+) {
            return;
        }
    };
}
pub(super) use needs;

pub(super) fn repository(name: &str) -> RepositoryName {
    RepositoryName::parse(name).unwrap()
}

pub(super) fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

pub(super) fn by_tag(text: &str) -> ManifestReference {
    tag(text).into()
}

pub(super) fn by_digest(digest: &Digest) -> ManifestReference {
    digest.clone().into()
}

/// Pseudo-random bytes.
pub(super) fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out.into()
}

#[track_caller]
pub(super) fn fails<T: Debug>(result: Result<T>, kinds: &[ErrorKind]) {
    let kind = result.unwrap_err().kind();
    assert!(kinds.contains(&kind), "the error is {kind}, expected one of {kinds:?}");
}

pub(super) async fn push(store: &SharedStore, name: &RepositoryName, bytes: impl Into<Bytes>) -> Descriptor {
    store.put_bytes(name, media_type::OCI_LAYER, bytes.into()).await.unwrap()
}

pub(super) async fn read(
    store: &SharedStore,
    name: &RepositoryName,
    digest: &Digest,
    range: Option<ByteRange>,
) -> Result<Vec<u8>> {
    let blob = store.get_blob(name, digest, range).await?;
    let length = blob.length;
    let bytes: Vec<Bytes> = blob.stream.try_collect().await?;
    let bytes = bytes.concat();
    assert_eq!(bytes.len() as u64, length, "the stream has the announced length");
    Ok(bytes)
}

/// An image whose config and one layer are in the repository; `text` makes it different from others.
pub(super) async fn image(store: &SharedStore, name: &RepositoryName, text: &str) -> ImageManifest {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","author":"{text}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let config = store.put_bytes(name, media_type::OCI_CONFIG, config.into()).await.unwrap();
    let layer = push(store, name, format!("layer {text}")).await;
    ImageManifest::new(config, vec![layer])
}

pub(super) fn parse(bytes: impl Into<Bytes>) -> Manifest {
    Manifest::sniff(bytes).unwrap()
}

pub(super) async fn put(
    store: &SharedStore,
    name: &RepositoryName,
    manifest: &Manifest,
    tags: &[&str],
) -> Result<Descriptor> {
    store.put_manifest(name, PutManifest::new(manifest.clone(), tags.iter().map(|t| tag(t)))).await
}

/// Pushes an image with its tags and returns its manifest.
pub(super) async fn push_image(
    store: &SharedStore,
    name: &RepositoryName,
    text: &str,
    tags: &[&str],
) -> Manifest {
    let manifest = parse(image(store, name, text).await.to_bytes());
    put(store, name, &manifest, tags).await.unwrap();
    manifest
}

pub(super) async fn tags(store: &dyn RegistryStore, name: &RepositoryName) -> Vec<String> {
    store.all_tags(name).await.unwrap().iter().map(ToString::to_string).collect()
}

/// A quota of bytes for a namespace.
pub(super) fn quota(namespace: &str, bytes: u64) -> Arc<QuotaRules> {
    quotas(&[(namespace, QuotaLimits { bytes: Some(bytes), ..QuotaLimits::default() })])
}

pub(super) fn quotas(rules: &[(&str, QuotaLimits)]) -> Arc<QuotaRules> {
    let rule = |(namespace, limits): &(&str, QuotaLimits)| {
        let namespace = QuotaNamespace::parse(namespace).unwrap();
        QuotaRule { namespace, limits: *limits }
    };
    Arc::new(QuotaRules::new(rules.iter().map(rule).collect()).unwrap())
}
