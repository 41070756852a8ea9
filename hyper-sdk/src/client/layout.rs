//! OCI image layouts as registries to pull from: a folder, or an archive with one image or several.

use super::{ClientCapabilities, RegistryClient};
use crate::layout::{ImageLayout, REF_NAME, blocking};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{BlobReader, ByteRange, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result, media_type};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
#[cfg(feature = "build")]
use tokio::io::AsyncRead;

/// The most bytes of manifests that the search for referrers reads.
const MAX_MANIFESTS: usize = 64 << 20;

/// An OCI image layout, or an archive that `docker save` wrote.
///
/// A layout is one repository. It answers to any name, or, after [`Layout::named`], to one.
///
/// ```no_run
/// use hyper_sdk::client::{Layout, RegistryClient as _};
/// use hyper_sdk::store::Page;
/// use hyper_sdk::{RepositoryName, Result};
///
/// async fn tags() -> Result<()> {
///     let layout = Layout::open("images").await?;
///     for tag in layout.list_tags(&RepositoryName::parse("any")?, Page::default()).await?.items {
///         println!("{tag}");
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Layout {
    layout: ImageLayout,
    name: Option<RepositoryName>,
}

impl Layout {
    /// Opens the layout in the folder `root`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not a layout, [`ErrorKind::Unsupported`] when its version is not 1.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let layout = ImageLayout::in_folder(root);
        blocking(move || {
            layout.check_version()?;
            layout.index()?;
            Ok(layout.into())
        })
        .await
    }

    /// Opens a file with an archive: see [`ImageLayout::open_archive`].
    ///
    /// # Errors
    /// Those of [`ImageLayout::open_archive`].
    #[cfg(feature = "build")]
    pub async fn open_archive(file: &Path, scratch: &Path) -> Result<Self> {
        ImageLayout::open_archive(file, scratch).await.map(Self::from)
    }

    /// Reads an archive from a stream: see [`ImageLayout::read_archive`].
    ///
    /// # Errors
    /// Those of [`ImageLayout::read_archive`].
    #[cfg(feature = "build")]
    pub async fn read_archive(stream: impl AsyncRead + Send + 'static, scratch: &Path) -> Result<Self> {
        ImageLayout::read_archive(stream, scratch).await.map(Self::from)
    }

    /// Answers to one repository name only.
    #[must_use]
    pub fn named(mut self, name: RepositoryName) -> Self {
        self.name = Some(name);
        self
    }

    /// The folder or the archive.
    pub fn root(&self) -> &Path {
        self.layout.path()
    }

    fn check_name(&self, repository: &RepositoryName, kind: ErrorKind) -> Result<()> {
        match &self.name {
            Some(name) if name != repository => {
                Err(Error::new(kind, "the image layout is another repository").with_context("name", name))
            }
            _ => Ok(()),
        }
    }

    /// Runs work on the layout on a thread for blocking work.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageLayout) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let layout = self.layout.clone();
        blocking(move || work(&layout)).await
    }
}

impl From<ImageLayout> for Layout {
    fn from(layout: ImageLayout) -> Self {
        Self { layout, name: None }
    }
}

/// The tag in the annotation, which some tools write as a whole reference.
fn tag_of(descriptor: &Descriptor) -> Option<Tag> {
    let name = descriptor.annotations.get(REF_NAME)?;
    Tag::parse(name).ok().or_else(|| Tag::parse(name.rsplit_once(':')?.1).ok())
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image layout {}", self.root().display())
    }
}

#[async_trait]
impl RegistryClient for Layout {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities { catalog: self.name.is_some(), ..ClientCapabilities::PULL }
    }

    async fn ping(&self) -> Result<()> {
        self.with(|layout| layout.index().map(drop)).await
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        self.check_name(repository, ErrorKind::ManifestUnknown)?;
        let reference = reference.clone();
        self.with(move |layout| layout.find(&reference)).await
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        if self.check_name(repository, ErrorKind::BlobUnknown).is_err() {
            return Ok(None);
        }
        let digest = digest.clone();
        let found = self.with(move |layout| layout.open_blob(&digest).map(|file| file.size()));
        match found.await {
            Ok(size) => Ok(Some(size)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        self.check_name(repository, ErrorKind::BlobUnknown)?;
        let wanted = digest.clone();
        let opened = self.with(move |layout| layout.open_blob(&wanted));
        let file = opened.await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::BlobUnknown, "the image layout does not have this blob")
                    .with_context("digest", digest)
            }
            _ => e,
        })?;
        let size = file.size();
        file.into_blob(digest, size, range)
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.check_name(repository, ErrorKind::NameUnknown)?;
        let index = self.with(ImageLayout::index).await?;
        let tags: BTreeSet<Tag> = index.manifests.iter().filter_map(tag_of).collect();
        let after = page.after.as_deref();
        let mut items: Vec<Tag> =
            tags.into_iter().filter(|t| after.is_none_or(|after| t.as_str() > after)).collect();
        let limit = page.limit.unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Listing { items, more })
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        let Some(name) = &self.name else {
            return Err(Error::unsupported("an image layout without a name has no list of repositories"));
        };
        let wanted = page.after.is_none_or(|after| name.as_str() > after.as_str());
        let fits = page.limit != Some(0);
        let items = (wanted && fits).then(|| name.clone()).into_iter().collect();
        Ok(Listing { items, more: wanted && !fits })
    }

    /// Finds those that `index.json` lists.
    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.check_name(repository, ErrorKind::NameUnknown)?;
        let (digest, artifact_type) = (digest.clone(), artifact_type.map(str::to_owned));
        self.with(move |layout| referrers(layout, &digest, artifact_type.as_deref())).await
    }
}

fn referrers(layout: &ImageLayout, digest: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
    let (mut found, mut seen, mut bytes_read) = (BTreeMap::new(), HashSet::new(), 0);
    for entry in layout.index()?.manifests {
        // One that is named a thousand times is read once.
        if !media_type::MANIFESTS.contains(&entry.media_type.as_str()) || !seen.insert(entry.digest.clone()) {
            continue;
        }
        let manifest = layout.manifest(&entry.digest, Some(&entry.media_type))?;
        bytes_read += manifest.bytes().len();
        if bytes_read > MAX_MANIFESTS {
            let message = format!(
                "the manifests of the image layout are larger than {} MiB together, the limit",
                MAX_MANIFESTS >> 20
            );
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let refers = manifest.subject().is_some_and(|s| s.digest == *digest);
        if refers && artifact_type.is_none_or(|wanted| manifest.artifact_type() == Some(wanted)) {
            let mut descriptor = manifest.descriptor();
            descriptor.artifact_type = manifest.artifact_type().map(str::to_owned);
            descriptor.annotations = manifest.annotations().clone();
            found.insert(entry.digest, descriptor);
        }
    }
    Ok(found.into_values().collect())
}
