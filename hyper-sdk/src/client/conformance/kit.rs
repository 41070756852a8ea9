//! Helpers of the cases.

use crate::client::{RegistryClientExt as _, RegistryUpload, SharedClient};
use crate::digest::Algorithm;
use crate::media_type;
use crate::oci::{Descriptor, ImageManifest, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{ByteRange, ByteStream};
use crate::testing::{ImageShape, RandomImage};
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::fmt::Debug;

/// Ends the case when the client lacks a capability.
macro_rules! needs {
    ($client:expr, $($power:ident),+) => {
        let capabilities = $client.capabilities();
        if !($(capabilities.$power)&&+) {
            return;
        }
    };
}
pub(super) use needs;

pub(super) fn repository(name: &str) -> RepositoryName {
    RepositoryName::parse(name).unwrap()
}

pub(super) fn by_tag(text: &str) -> ManifestReference {
    Tag::parse(text).unwrap().into()
}

pub(super) fn by_digest(digest: &Digest) -> ManifestReference {
    digest.clone().into()
}

/// Random bytes of a seed.
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
    let error = result.unwrap_err();
    assert!(kinds.contains(&error.kind()), "expected one of {kinds:?}, got {error:?}");
}

/// A stream of the bytes in several pieces.
pub(super) fn stream(bytes: &Bytes) -> ByteStream {
    let size = (bytes.len() / 3).max(1);
    let pieces: Vec<_> =
        (0..bytes.len()).step_by(size).map(|at| Ok(bytes.slice(at..(at + size).min(bytes.len())))).collect();
    futures::stream::iter(pieces).boxed()
}

pub(super) async fn finish(upload: &mut dyn RegistryUpload, digest: &Digest, bytes: &Bytes) -> Result<()> {
    upload.finish(digest, Some((bytes.len() as u64, stream(bytes)))).await
}

pub(super) async fn push_as(
    client: &SharedClient,
    name: &RepositoryName,
    bytes: &Bytes,
    algorithm: Algorithm,
) -> Result<Digest> {
    let digest = algorithm.digest(bytes);
    let mut upload = client.start_upload(name).await?;
    finish(upload.as_mut(), &digest, bytes).await?;
    Ok(digest)
}

pub(super) async fn push(client: &SharedClient, name: &RepositoryName, bytes: &Bytes) -> Digest {
    push_as(client, name, bytes, Algorithm::Sha256).await.unwrap()
}

pub(super) async fn read(
    client: &SharedClient,
    name: &RepositoryName,
    digest: &Digest,
    range: Option<ByteRange>,
) -> Result<Vec<u8>> {
    let reader = client.get_blob(name, digest, range).await?;
    let length = reader.length;
    let bytes: Vec<Bytes> = reader.stream.try_collect().await?;
    let bytes = bytes.concat();
    assert_eq!(bytes.len() as u64, length, "the stream yields what the reader announces");
    Ok(bytes)
}

/// An image whose config and layer are in the repository; `text` makes it different from others.
pub(super) async fn image(client: &SharedClient, name: &RepositoryName, text: &str) -> ImageManifest {
    let config = Bytes::from(format!(
        r#"{{"architecture":"amd64","os":"linux","author":"{text}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    ));
    let layer = Bytes::from(format!("layer {text}"));
    push(client, name, &config).await;
    push(client, name, &layer).await;
    let layer = Descriptor::of(media_type::OCI_LAYER, &layer);
    ImageManifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), vec![layer])
}

pub(super) fn parse(bytes: impl Into<Bytes>) -> Manifest {
    Manifest::sniff(bytes).unwrap()
}

/// Pushes an image under a tag and returns its manifest.
pub(super) async fn push_image(
    client: &SharedClient,
    name: &RepositoryName,
    text: &str,
    tag: &str,
) -> Manifest {
    let manifest = parse(image(client, name, text).await.to_bytes());
    client.put_manifest(name, &by_tag(tag), &manifest).await.unwrap();
    manifest
}

/// The shape of random images that are pushed: small, with something of every kind.
pub(super) fn small() -> ImageShape {
    ImageShape { layers: 3, entries: 15, largest: 60_000, ..ImageShape::default() }
}

/// Pushes the blobs and the manifest of a random image.
pub(super) async fn push_random(client: &SharedClient, name: &RepositoryName, image: &RandomImage) {
    for (descriptor, bytes) in image.blobs() {
        let pushed = client.put_bytes(name, &descriptor.media_type, bytes).await.unwrap();
        assert_eq!(pushed, descriptor);
    }
    let digest = by_digest(image.manifest.digest());
    client.put_manifest(name, &digest, &image.manifest).await.unwrap();
}
