//! Convenience methods for every store, on top of [`RegistryStore`].

use super::local_name::shown;
use super::{BlobUpload, Page, RegistryStore, UploadOptions};
use crate::digest::Algorithm;
use crate::oci::{Descriptor, ImageConfig, Manifest};
use crate::platform::Platform;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The largest image config that [`RegistryStoreExt::get_image`] reads.
pub const MAX_CONFIG: u64 = 8 << 20;

/// The size of the chunks that are appended to an upload.
const CHUNK: usize = 512 * 1024;
/// How deep indexes may contain indexes.
const MAX_DEPTH: usize = 4;

/// An image manifest and its config.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredImage {
    /// The manifest, which is an image manifest.
    pub manifest: Manifest,
    /// Its config.
    pub config: ImageConfig,
}

/// Convenience methods of every [`RegistryStore`].
///
/// ```
/// use hyper_sdk::store::{MemoryStore, RegistryStoreExt as _};
/// use hyper_sdk::{Digest, RepositoryName};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, name) = (MemoryStore::default(), RepositoryName::parse("team/app")?);
/// // Any asynchronous reader: a file, a socket, bytes.
/// let blob = store.put_blob_stream(&name, None, &b"hello"[..]).await?;
/// assert_eq!(blob.digest, Digest::sha256("hello"));
/// assert_eq!(store.read_blob(&name, &blob.digest, 100).await?, "hello");
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait RegistryStoreExt: RegistryStore {
    /// Stores bytes under their SHA-256 digest and returns a descriptor with this media type.
    async fn put_bytes(
        &self,
        repository: &RepositoryName,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let mut descriptor = Descriptor::of(media_type, &bytes);
        descriptor.size = self.put_blob(repository, &descriptor.digest, bytes).await?.size;
        Ok(descriptor)
    }

    /// Stores the content of a reader, with at most 512 KiB of it in memory. Without a digest the content gets its
    /// SHA-256 digest.
    ///
    /// # Errors
    /// [`ErrorKind::DigestInvalid`] when the content does not match; the errors of the reader. In both cases nothing is
    /// stored and the upload is aborted.
    async fn put_blob_stream<R>(
        &self,
        repository: &RepositoryName,
        digest: Option<&Digest>,
        mut reader: R,
    ) -> Result<Descriptor>
    where
        R: AsyncRead + Unpin + Send,
    {
        let algorithm = digest.map_or(Algorithm::Sha256, Digest::algorithm);
        let options = UploadOptions { algorithm: Some(algorithm), digest: digest.cloned() };
        let mut upload = self.start_upload(repository, options).await?;
        let outcome = copy(&mut reader, upload.as_mut(), digest.is_none()).await;
        let computed = match outcome {
            Ok(computed) => computed,
            Err(e) => {
                // The first error is returned, not that of the abort.
                let _ = upload.abort().await;
                return Err(e);
            }
        };
        match digest.or(computed.as_ref()) {
            Some(digest) => upload.finish(digest).await,
            None => Err(Error::internal("the content was not hashed")),
        }
    }

    /// Reads a whole blob of at most `limit` bytes and checks it against its digest.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] above the limit; [`ErrorKind::Corrupt`] when the stored bytes do not match the digest.
    async fn read_blob(&self, repository: &RepositoryName, digest: &Digest, limit: u64) -> Result<Bytes> {
        let mut blob = self.get_blob(repository, digest, None).await?;
        if blob.size > limit {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the blob is larger than the limit for reading it at once",
            )
            .with_context("digest", digest)
            .with_context("size", blob.size)
            .with_context("limit", limit));
        }
        let mut whole = BytesMut::with_capacity(blob.size as usize);
        while let Some(bytes) = blob.stream.try_next().await? {
            if whole.len() + bytes.len() > limit as usize {
                return Err(Error::new(ErrorKind::Corrupt, "the blob is longer than the store says")
                    .with_context("digest", digest));
            }
            whole.extend_from_slice(&bytes);
        }
        if digest.algorithm().digest(&whole) != *digest {
            return Err(Error::new(ErrorKind::Corrupt, "the stored blob does not match its digest")
                .with_context("digest", digest));
        }
        Ok(whole.freeze())
    }

    /// Whether the repository has a blob.
    async fn has_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        match self.stat_blob(repository, digest).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::BlobUnknown => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The manifest, or `None` when the repository does not have it.
    async fn find_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Option<Manifest>> {
        match self.get_manifest(repository, reference).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(e) if e.kind() == ErrorKind::ManifestUnknown => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The digest that a reference names.
    async fn resolve(&self, repository: &RepositoryName, reference: &ManifestReference) -> Result<Digest> {
        Ok(self.get_manifest(repository, reference).await?.digest().clone())
    }

    /// The image that a reference names, with its config. For an index, the result is the first entry for exactly
    /// `platform` (operating system, architecture and variant), or the first image when `platform` is `None`.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestUnknown`] when the index has no such entry; [`ErrorKind::Invalid`] when indexes are nested
    /// more than four deep.
    async fn get_image(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        platform: Option<&Platform>,
    ) -> Result<StoredImage> {
        let mut manifest = self.get_manifest(repository, reference).await?;
        for _ in 0..=MAX_DEPTH {
            if let Some(image) = manifest.image() {
                let config = self.read_blob(repository, &image.config.digest, MAX_CONFIG).await?;
                return Ok(StoredImage { config: ImageConfig::parse(&config)?, manifest });
            }
            let fits = |entry: &&Descriptor| match (platform, &entry.platform) {
                (Some(wanted), Some(p)) => {
                    p.os == wanted.os && p.architecture == wanted.architecture && p.variant == wanted.variant
                }
                (Some(_), None) => crate::media_type::is_index(&entry.media_type),
                (None, _) => true,
            };
            let entry = manifest.index().and_then(|index| index.manifests.iter().find(fits)).cloned();
            let entry = entry.ok_or_else(|| {
                Error::new(ErrorKind::ManifestUnknown, "the index has no image for this platform")
                    .with_context("repository", shown(repository))
                    .with_context("reference", reference)
            })?;
            manifest = self.get_manifest(repository, &entry.digest.into()).await?;
        }
        Err(Error::invalid("the indexes are nested too deep").with_context("reference", reference))
    }

    /// Every tag of a repository, page after page.
    async fn all_tags(&self, repository: &RepositoryName) -> Result<Vec<Tag>> {
        let mut all: Vec<Tag> = Vec::new();
        loop {
            let after = all.last().map(|tag| tag.as_str().to_owned());
            let page = self.list_tags(repository, Page { limit: None, after }).await?;
            let stop = !page.more || page.items.is_empty();
            all.extend(page.items);
            if stop {
                return Ok(all);
            }
        }
    }
}

impl<S: RegistryStore + ?Sized> RegistryStoreExt for S {}

async fn copy<R: AsyncRead + Unpin + Send>(
    reader: &mut R,
    upload: &mut dyn BlobUpload,
    hash: bool,
) -> Result<Option<Digest>> {
    let mut hasher = hash.then(crate::digest::Hasher::sha256);
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while chunk.len() < CHUNK && reader.read_buf(&mut chunk).await? != 0 {}
        if chunk.is_empty() {
            return Ok(hasher.map(crate::digest::Hasher::finish));
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        upload.append(chunk.freeze()).await?;
    }
}
