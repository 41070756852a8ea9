//! Convenience methods for every [`RegistryClient`] and every `dyn RegistryClient`.

use super::transfer::choose;
use super::{Mount, RegistryClient};
#[cfg(feature = "build")]
use crate::layer::AsyncDecompressor;
use crate::oci::{Descriptor, ImageConfig, Manifest};
use crate::platform::Platform;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{Listing, MAX_CONFIG, Page, StoredImage};
use crate::{Digest, Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::HashSet;
use std::fmt::Display;
#[cfg(feature = "build")]
use tokio_util::io::StreamReader;

/// How deep indexes may contain indexes.
const MAX_DEPTH: usize = 4;
/// How many bytes are reserved for a blob before any of them is there.
const RESERVED: u64 = 1 << 20;
/// The most pages of one list that are read.
const MAX_PAGES: usize = 100_000;

/// Convenience methods for every [`RegistryClient`].
///
/// ```
/// use hyper_sdk::client::{Loopback, RegistryClient as _, RegistryClientExt as _};
/// use hyper_sdk::oci::{ImageIndex, Manifest};
/// use hyper_sdk::store::MemoryStore;
/// use hyper_sdk::{RepositoryName, Tag};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let client = Loopback::new(Arc::new(MemoryStore::default()));
/// let name = RepositoryName::parse("team/app")?;
/// let blob = client.put_bytes(&name, "text/plain", "hello".into()).await?;
/// assert_eq!(client.read_blob(&name, &blob.digest, 100).await?, "hello");
/// let index = Manifest::sniff(ImageIndex::new(vec![blob]).to_bytes())?;
/// let latest = Tag::latest().into();
/// assert!(!client.exists(&name, &latest).await?);
/// client.put_manifest(&name, &latest, &index).await?;
/// assert!(client.exists(&name, &latest).await?);
/// assert_eq!(client.all_tags(&name).await?, [Tag::latest()]);
/// # Ok(())
/// # }
/// ```
pub trait RegistryClientExt: RegistryClient {
    /// Reads a whole blob of at most `limit` bytes and checks it against its digest.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] above the limit; [`ErrorKind::DigestInvalid`] when the content is another.
    fn read_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        limit: u64,
    ) -> impl Future<Output = Result<Bytes>> + Send {
        async move {
            let too_large = || {
                Error::new(ErrorKind::TooLarge, "the blob is larger than what is read at once")
                    .with_context("digest", digest)
                    .with_context("limit", limit)
            };
            let mut blob = self.get_blob(repository, digest, None).await?;
            if blob.size > limit {
                return Err(too_large().with_context("size", blob.size));
            }
            let mut whole = BytesMut::with_capacity(blob.size.min(RESERVED) as usize);
            while let Some(bytes) = blob.stream.try_next().await? {
                if (whole.len() + bytes.len()) as u64 > limit {
                    return Err(too_large());
                }
                whole.extend_from_slice(&bytes);
            }
            Ok(whole.freeze())
        }
    }

    /// Stores bytes under their SHA-256 digest, unless they are there, and returns a descriptor with this media type.
    ///
    /// # Errors
    /// Those of the client; the upload session is cancelled then.
    fn put_bytes(
        &self,
        repository: &RepositoryName,
        media_type: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<Descriptor>> + Send {
        async move {
            let descriptor = Descriptor::of(media_type, &bytes);
            if self.has_blob(repository, &descriptor.digest).await? {
                return Ok(descriptor);
            }
            let Mount::Upload(mut upload) = self.offer_blob(repository, &descriptor.digest).await? else {
                return Ok(descriptor);
            };
            let rest =
                (!bytes.is_empty()).then(|| (bytes.len() as u64, futures::stream::iter([Ok(bytes)]).boxed()));
            match upload.finish(&descriptor.digest, rest).await {
                Ok(()) => Ok(descriptor),
                Err(e) => {
                    // The first error is the one to report.
                    let _ = upload.cancel().await;
                    Err(e)
                }
            }
        }
    }

    /// Whether the repository has a blob.
    fn has_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> impl Future<Output = Result<bool>> + Send {
        async move { Ok(self.stat_blob(repository, digest).await?.is_some()) }
    }

    /// Whether the repository has a manifest under this tag or digest.
    fn exists(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> impl Future<Output = Result<bool>> + Send {
        async move {
            match self.resolve(repository, reference).await {
                Ok(_) => Ok(true),
                Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => {
                    Ok(false)
                }
                Err(e) => Err(e),
            }
        }
    }

    /// The image that a reference names, with its config. Of an index, the image that fits `platform` best is taken, or
    /// the first one when no platform is asked for.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestUnknown`] when the index has no such image; [`ErrorKind::Invalid`] when indexes are nested
    /// more than four deep.
    fn image(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        platform: Option<&Platform>,
    ) -> impl Future<Output = Result<StoredImage>> + Send {
        async move {
            let mut manifest = self.get_manifest(repository, reference).await?;
            for _ in 0..=MAX_DEPTH {
                let Some(index) = manifest.index() else {
                    let config = self.image_config(repository, &manifest).await?;
                    return Ok(StoredImage { manifest, config });
                };
                let entry = match platform {
                    Some(platform) => choose(&index.manifests, platform)?,
                    None => index.manifests.first().cloned().ok_or_else(|| {
                        Error::new(ErrorKind::ManifestUnknown, "the index has no image")
                            .with_context("digest", manifest.digest())
                    })?,
                };
                manifest = self.get_manifest(repository, &entry.digest.into()).await?;
            }
            Err(Error::invalid("the indexes are nested too deep").with_context("reference", reference))
        }
    }

    /// The config of an image, at most [`MAX_CONFIG`] bytes of it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the manifest is not of an image, or its config is not an image config.
    fn image_config(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
    ) -> impl Future<Output = Result<ImageConfig>> + Send {
        async move {
            let image = manifest.image().ok_or_else(|| {
                Error::invalid("only the manifest of an image has a config")
                    .with_context("digest", manifest.digest())
            })?;
            ImageConfig::parse(&self.read_blob(repository, &image.config.digest, MAX_CONFIG).await?)
        }
    }

    /// Opens a layer as the tar that it is, however it is compressed. Nothing is kept: the bytes are decompressed as they
    /// arrive, and dropping the reader ends the request.
    ///
    /// ```
    /// use hyper_sdk::client::{RegistryClient, RegistryClientExt as _};
    /// use hyper_sdk::oci::Descriptor;
    /// use hyper_sdk::{RepositoryName, Result};
    /// use tokio::io::{copy, sink};
    ///
    /// /// The size of a layer when it is unpacked.
    /// async fn unpacked_size(client: &dyn RegistryClient, name: &RepositoryName, layer: &Descriptor) -> Result<u64> {
    ///     Ok(copy(&mut client.layer_tar(name, layer).await?, &mut sink()).await?)
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of the client; [`ErrorKind::Unsupported`] for the media type of a layer whose compression is not known;
    /// [`ErrorKind::SizeInvalid`] when the registry has a blob of another size. Reading to the end fails when the blob does not match its digest or is damaged: until then the content is not to be trusted.
    #[cfg(feature = "build")]
    fn layer_tar(
        &self,
        repository: &RepositoryName,
        layer: &Descriptor,
    ) -> impl Future<Output = Result<AsyncDecompressor>> + Send {
        async move {
            crate::media_type::check_layer(&layer.media_type)
                .map_err(|e| e.with_context("digest", &layer.digest))?;
            let blob = self.get_blob(repository, &layer.digest, None).await?;
            if blob.size != layer.size {
                return Err(Error::new(
                    ErrorKind::SizeInvalid,
                    "the layer has another size than its descriptor says",
                )
                .with_context("digest", &layer.digest)
                .with_context("expected", layer.size)
                .with_context("got", blob.size));
            }
            AsyncDecompressor::new(StreamReader::new(blob.stream.map_err(std::io::Error::from))).await
        }
    }

    /// Every tag of a repository, page after page.
    ///
    /// # Errors
    /// Those of the client; [`ErrorKind::Invalid`] for a list that does not advance, [`ErrorKind::TooLarge`] for one of
    /// more than 100,000 pages.
    fn all_tags(&self, repository: &RepositoryName) -> impl Future<Output = Result<Vec<Tag>>> + Send {
        async move { every_page(move |page| self.list_tags(repository, page)).await }
    }

    /// Every repository of the registry, page after page.
    ///
    /// # Errors
    /// Those of the client; [`ErrorKind::Invalid`] for a list that does not advance, [`ErrorKind::TooLarge`] for one of
    /// more than 100,000 pages.
    fn all_repositories(&self) -> impl Future<Output = Result<Vec<RepositoryName>>> + Send {
        async move { every_page(move |page| self.list_repositories(page)).await }
    }

    /// The descriptors of everything that refers to what a reference names now: signatures, bills of material and the
    /// like.
    fn referrers(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> impl Future<Output = Result<Vec<Descriptor>>> + Send {
        async move {
            let digest = match reference {
                ManifestReference::Digest(digest) => digest.clone(),
                ManifestReference::Tag(_) => self.resolve(repository, reference).await?.digest,
            };
            self.list_referrers(repository, &digest, None).await
        }
    }
}

impl<C: RegistryClient + ?Sized> RegistryClientExt for C {}

/// Reads a list to its end, which it must have.
async fn every_page<T, F>(list: impl Fn(Page) -> F + Send) -> Result<Vec<T>>
where
    T: Display + Send,
    F: Future<Output = Result<Listing<T>>> + Send,
{
    let mut all: Vec<T> = Vec::new();
    let mut asked: HashSet<String> = HashSet::new();
    let mut after: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let page = list(Page { limit: None, after: after.clone() }).await?;
        let last = page.items.last().map(ToString::to_string);
        all.extend(page.items);
        if !page.more {
            return Ok(all);
        }
        match last {
            Some(last) if asked.insert(last.clone()) => after = Some(last),
            last => {
                return Err(Error::invalid("the list of the registry does not advance")
                    .with_context("after", last.or(after).unwrap_or_default().escape_debug()));
            }
        }
    }
    Err(Error::new(ErrorKind::TooLarge, "the registry's list does not end").with_context("pages", MAX_PAGES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_that_does_not_end_is_an_error() {
        let more = |items: Vec<String>| async move { Ok(Listing { items, more: true }) };
        let next = |page: &Page| page.after.as_deref().map_or(0, |after| after.parse::<usize>().unwrap() + 1);
        // One more entry always, the same entries in turn, and a page of nothing.
        let endless = every_page(|page| more(vec![next(&page).to_string()])).await.unwrap_err();
        assert_eq!(endless.kind(), ErrorKind::TooLarge, "{endless}");
        let turning = every_page(|page| more(vec![(next(&page) % 3).to_string()])).await.unwrap_err();
        let empty = every_page(|_| more(Vec::new())).await.unwrap_err();
        for e in [turning, empty] {
            assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
            assert!(e.to_string().contains("does not advance"), "{e}");
        }
    }
}
