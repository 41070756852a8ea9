//! Compares an image in two stores.

use futures::TryStreamExt as _;
use hyper_sdk::digest::Hasher;
use hyper_sdk::oci::Descriptor;
use hyper_sdk::store::SharedStore;
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Result};

/// Compares manifest, config and layers of an image in two stores byte by byte, and each with its digest. Returns the
/// number of blobs and of bytes.
pub(super) async fn images(
    one: &SharedStore,
    other: &SharedStore,
    repository: &RepositoryName,
    image: &Descriptor,
) -> Result<(usize, u64)> {
    let reference = image.digest.clone().into();
    let manifest = one.get_manifest(repository, &reference).await?;
    if other.get_manifest(repository, &reference).await?.bytes() != manifest.bytes() {
        return Err(differs(&image.digest));
    }
    let parts = manifest.image().ok_or_else(|| Error::internal("the build made an index"))?;
    let mut bytes = manifest.bytes().len() as u64;
    let mut blobs = 1;
    for blob in std::iter::once(&parts.config).chain(&parts.layers) {
        compare_blob(one, other, repository, &blob.digest).await?;
        bytes += blob.size;
        blobs += 1;
    }
    Ok((blobs, bytes))
}

async fn compare_blob(
    one: &SharedStore,
    other: &SharedStore,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<()> {
    let mut streams = [
        one.get_blob(repository, digest, None).await?.stream,
        other.get_blob(repository, digest, None).await?.stream,
    ];
    let mut contents = [Vec::new(), Vec::new()];
    for (stream, content) in streams.iter_mut().zip(&mut contents) {
        while let Some(chunk) = stream.try_next().await? {
            content.extend_from_slice(&chunk);
        }
    }
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&contents[0]);
    if contents[0] != contents[1] || hasher.finish() != *digest {
        return Err(differs(digest));
    }
    Ok(())
}

fn differs(digest: &Digest) -> Error {
    Error::new(ErrorKind::DigestInvalid, "the pulled image differs from the built one")
        .with_context("digest", digest)
}
