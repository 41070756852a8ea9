//! A folder with one OCI image layout.

use super::folder::{Folder, blocking};
use super::layout_index::{LayoutIndex, MAX_INDEX};
use super::source::{
    ImportRoot, ImportSource, MAX_MANIFEST, SourceManifest, no_blob, no_manifest, parse_manifest,
};
use crate::oci::Manifest;
use crate::reference::{RepositoryName, Tag};
use crate::store::BlobReader;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The largest marker of a layout, in bytes.
const MAX_MARKER: u64 = 64 << 10;

/// A folder with one OCI image layout. Its index is read once, when it is opened.
///
/// Tags come from the annotation `org.opencontainers.image.ref.name`. Without a given repository they must be whole references,
/// or `io.containerd.image.name` must be one: its repository is taken.
#[derive(Debug)]
pub struct OciFolder {
    folder: Arc<Folder>,
    index: Arc<LayoutIndex>,
    repository: Option<RepositoryName>,
}

impl OciFolder {
    /// Opens the layout in a folder, whose images go into a repository.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is no layout; [`ErrorKind::Unsupported`] for another version of layouts;
    /// [`ErrorKind::Invalid`] without a repository when an image of the layout names none; those of the files.
    pub async fn open(path: impl Into<PathBuf>, repository: Option<RepositoryName>) -> Result<Self> {
        let path = path.into();
        blocking(move || {
            let folder = Folder::open(&path)?;
            let Some(index) = read_layout(&folder, "")? else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "the folder is no OCI image layout: it needs the files `oci-layout` and `index.json`",
                )
                .with_context("path", path.display()));
            };
            if repository.is_none() && index.repositories().1 {
                return Err(Error::invalid(
                    "an image of the OCI layout does not name its repository: give the name of one for all",
                )
                .with_context("path", path.display()));
            }
            Ok(Self { folder: Arc::new(folder), index: Arc::new(index), repository })
        })
        .await
    }
}

/// Reads the index of a layout below a folder; `None` when it is none. `prefix` is empty or ends with a slash.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for another version; [`ErrorKind::ManifestInvalid`] for a damaged index.
pub(super) fn read_layout(folder: &Folder, prefix: &str) -> Result<Option<LayoutIndex>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let Some(marker) = folder.read(&format!("{prefix}oci-layout"), MAX_MARKER)? else { return Ok(None) };
    let path = folder.path().join(prefix);
    let marker: Marker = serde_json::from_slice(&marker).map_err(|e| {
        Error::invalid("`oci-layout` is not the JSON of a layout marker")
            .with_context("path", path.display())
            .with_source(e)
    })?;
    if !marker.image_layout_version.starts_with("1.") {
        return Err(Error::unsupported("the version of the image layout is not known")
            .with_context("version", marker.image_layout_version.escape_debug())
            .with_context("path", path.display()));
    }
    let Some(index) = folder.read(&format!("{prefix}index.json"), MAX_INDEX)? else { return Ok(None) };
    LayoutIndex::parse(&index).map(Some).map_err(|e| e.with_context("path", path.display()))
}

/// The path of a blob in a layout.
pub(super) fn blob_path(prefix: &str, digest: &Digest) -> String {
    format!("{prefix}blobs/{}/{}", digest.algorithm(), digest.hex())
}

impl fmt::Display for OciFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OCI layout {}", self.folder.path().display())
    }
}

#[async_trait]
impl ImportSource for OciFolder {
    fn repositories(&self) -> BoxStream<'static, Result<String>> {
        let names = match &self.repository {
            Some(name) => vec![Ok(name.to_string())],
            None => self.index.repositories().0.iter().map(|name| Ok(name.to_string())).collect(),
        };
        futures::stream::iter(names).boxed()
    }

    fn roots(&self, repository: &RepositoryName) -> BoxStream<'static, Result<ImportRoot>> {
        let chosen = self.repository.is_none().then_some(repository);
        let roots: Vec<_> = self.index.roots(chosen).collect();
        futures::stream::iter(roots).boxed()
    }

    async fn resolve(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<SourceManifest>> {
        let chosen = self.repository.is_none().then_some(repository);
        Ok(self.index.roots(chosen).find_map(|root| match root {
            Ok(ImportRoot::Tag(text, manifest)) if text == tag.as_str() => manifest,
            _ => None,
        }))
    }

    async fn manifest(&self, repository: &RepositoryName, wanted: &SourceManifest) -> Result<Manifest> {
        let (folder, digest) = (self.folder.clone(), wanted.digest.clone());
        let bytes = blocking(move || folder.read(&blob_path("", &digest), MAX_MANIFEST)).await?;
        parse_manifest(bytes.ok_or_else(|| no_manifest(repository, &wanted.digest))?, wanted)
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let (folder, wanted) = (self.folder.clone(), digest.clone());
        let size = blocking(move || folder.size(&blob_path("", &wanted))).await?;
        size.ok_or_else(|| no_blob(repository, digest))
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobReader> {
        let (folder, wanted) = (self.folder.clone(), digest.clone());
        let blob = blocking(move || folder.blob(&blob_path("", &wanted), &wanted)).await?;
        blob.ok_or_else(|| no_blob(repository, digest))
    }
}
