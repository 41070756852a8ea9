//! Where images come from.

use crate::oci::{Descriptor, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::BlobReader;
use crate::{Digest, Error, ErrorKind, Result, media_type};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::Deserialize;
use std::fmt::{Debug, Display};

/// The largest manifest that is read from a source, in bytes.
pub(super) const MAX_MANIFEST: u64 = 16 << 20;

/// A manifest of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceManifest {
    /// Its digest.
    pub digest: Digest,
    /// The media type, where the source says it; otherwise the bytes decide.
    pub media_type: Option<String>,
}

impl From<Digest> for SourceManifest {
    fn from(digest: Digest) -> Self {
        Self { digest, media_type: None }
    }
}

/// Where the import of a repository begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportRoot {
    /// A tag, as the source writes it, and what it names; with `None`, [`ImportSource::resolve`] says it.
    Tag(String, Option<SourceManifest>),
    /// A manifest that needs no tag.
    Manifest(SourceManifest),
}

/// Repositories to import from.
///
/// A source may change while it is read: it is asked for a manifest by the digest that a tag had when it was resolved.
///
/// ```
/// use async_trait::async_trait;
/// use futures::StreamExt as _;
/// use futures::stream::{self, BoxStream};
/// use hyper_sdk::import::{ImportOptions, ImportRoot, ImportSource, ImportTarget, SourceManifest, import};
/// use hyper_sdk::oci::{ImageIndex, Manifest};
/// use hyper_sdk::store::{BlobReader, MemoryStore, RegistryStoreExt as _};
/// use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Result, Tag};
/// use std::fmt;
/// use std::sync::Arc;
///
/// /// One repository with one empty index.
/// #[derive(Debug)]
/// struct One(Manifest);
///
/// impl fmt::Display for One {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         f.write_str("one index")
///     }
/// }
///
/// #[async_trait]
/// impl ImportSource for One {
///     fn repositories(&self) -> BoxStream<'static, Result<String>> {
///         stream::iter([Ok("team/app".to_owned())]).boxed()
///     }
///
///     fn roots(&self, _: &RepositoryName) -> BoxStream<'static, Result<ImportRoot>> {
///         let digest = self.0.digest().clone();
///         stream::iter([Ok(ImportRoot::Tag("1.0".to_owned(), Some(digest.into())))]).boxed()
///     }
///
///     async fn resolve(&self, _: &RepositoryName, _: &Tag) -> Result<Option<SourceManifest>> {
///         Ok(Some(self.0.digest().clone().into()))
///     }
///
///     async fn manifest(&self, _: &RepositoryName, _: &SourceManifest) -> Result<Manifest> {
///         Ok(self.0.clone())
///     }
///
///     async fn stat_blob(&self, _: &RepositoryName, digest: &Digest) -> Result<u64> {
///         Err(Error::new(ErrorKind::BlobUnknown, "there are no blobs").with_context("digest", digest))
///     }
///
///     async fn blob(&self, name: &RepositoryName, digest: &Digest) -> Result<BlobReader> {
///         Err(self.stat_blob(name, digest).await.unwrap_err())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let source = Arc::new(One(Manifest::sniff(ImageIndex::new(vec![]).to_bytes())?));
/// let store = Arc::new(MemoryStore::default());
/// let imported = import(source, ImportTarget::Store(store.clone()), ImportOptions::default()).await?;
/// assert_eq!((imported.tags_created, imported.failed), (1, 0));
/// assert_eq!(store.all_tags(&RepositoryName::parse("team/app")?).await?, [Tag::parse("1.0")?]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A missing manifest is [`ErrorKind::ManifestUnknown`], a missing blob [`ErrorKind::BlobUnknown`]; damage is another kind. An
/// error in a stream is one problem among the rest of the list: the stream goes on after it, where it can.
#[async_trait]
pub trait ImportSource: Display + Debug + Send + Sync + 'static {
    /// The repositories, by their names in the source, each once, in any order. Dropping the stream ends the walk.
    fn repositories(&self) -> BoxStream<'static, Result<String>>;

    /// Where the import of a repository begins: its tags, and the manifests that no tag may name. Tags come first.
    fn roots(&self, repository: &RepositoryName) -> BoxStream<'static, Result<ImportRoot>>;

    /// What a tag names now; `None` when the source does not have it any more.
    async fn resolve(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<SourceManifest>>;

    /// A manifest of a repository, checked against its digest.
    async fn manifest(&self, repository: &RepositoryName, wanted: &SourceManifest) -> Result<Manifest>;

    /// The size of a blob that the repository has, in bytes.
    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64>;

    /// A whole blob of a repository. Its bytes need not be checked.
    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobReader>;

    /// The manifests whose subject is `digest`, if [`ImportSource::roots`] does not yield them.
    async fn referrers(&self, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Descriptor>> {
        let _ = (repository, digest);
        Ok(Vec::new())
    }
}

/// Parses the bytes of a manifest, checked against its digest.
///
/// # Errors
/// [`ErrorKind::DigestInvalid`] for other bytes, [`ErrorKind::Unsupported`] for schema 1, those of [`Manifest::parse`].
pub(super) fn parse_manifest(bytes: Bytes, wanted: &SourceManifest) -> Result<Manifest> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        #[serde(default)]
        schema_version: Option<u64>,
    }
    let got = wanted.digest.algorithm().digest(&bytes);
    if got != wanted.digest {
        return Err(Error::new(
            ErrorKind::DigestInvalid,
            "the bytes of the manifest do not match its digest",
        )
        .with_context("digest", &wanted.digest)
        .with_context("got", got));
    }
    if serde_json::from_slice::<Version>(&bytes).is_ok_and(|version| version.schema_version == Some(1)) {
        return Err(Error::unsupported(
            "a Docker image manifest of schema 1 is not supported: pull the image with an old client and push it again \
             with a current one",
        )
        .with_context("digest", &wanted.digest));
    }
    let known = |kind: &&str| media_type::is_index(kind) || media_type::is_manifest(kind);
    let manifest = match wanted.media_type.as_deref().filter(known) {
        Some(kind) => Manifest::parse(bytes, kind)?,
        None => Manifest::sniff(bytes)?,
    };
    manifest.with_digest(&wanted.digest)
}

/// The error of a manifest that a source does not have.
pub(super) fn no_manifest(repository: &RepositoryName, digest: &Digest) -> Error {
    Error::new(ErrorKind::ManifestUnknown, "the source does not have the manifest")
        .with_context("repository", repository)
        .with_context("digest", digest)
}

/// The error of a blob that a source does not have.
pub(super) fn no_blob(repository: &RepositoryName, digest: &Digest) -> Error {
    Error::new(ErrorKind::BlobUnknown, "the source does not have the blob")
        .with_context("repository", repository)
        .with_context("digest", digest)
}
