//! An OCI image layout (image-spec, image-layout.md) as a registry to pull from.
//!
//! ```text
//!   ROOT/oci-layout        {"imageLayoutVersion": "1.0.0"}
//!   ROOT/index.json        what there is; the annotation org.opencontainers.image.ref.name is the tag
//!   ROOT/blobs/ALG/HEX     manifests, configs and layers alike
//! ```
//!
//! The folder is a stranger's: files are opened without following a link at their name, manifests are read up to a
//! limit, and every digest is checked.

use super::verify::verified;
use super::{ClientCapabilities, Mount, RegistryClient, UploadSession};
use crate::oci::{Descriptor, ImageIndex, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::small_file;
use crate::store::{BlobReader, ByteRange, ByteStream, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result, media_type};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MAX_MANIFEST: u64 = 16 * 1024 * 1024;
/// What messages call the files of a layout.
const WHAT: &str = "a file of the image layout";
const BLOCK: usize = 512 * 1024;

/// A folder in the OCI image layout.
///
/// A layout is one repository. It answers to any name, or, after [`Layout::named`], to one.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    name: Option<RepositoryName>,
}

impl Layout {
    /// Opens the layout in the folder `root`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is no layout, [`ErrorKind::Unsupported`] when its version is not 1.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let layout = Self { root: root.into(), name: None };
        let marker = layout.read_file(PathBuf::from("oci-layout")).await?;
        let marker: Marker = serde_json::from_slice(&marker).map_err(|e| {
            Error::invalid("`oci-layout` is not the JSON of a layout marker")
                .with_context("path", layout.root.display())
                .with_source(e)
        })?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(Error::unsupported("the version of the image layout is not known")
                .with_context("version", marker.image_layout_version.escape_debug()));
        }
        layout.index().await?;
        Ok(layout)
    }

    /// Answers to one repository name only.
    #[must_use]
    pub fn named(mut self, name: RepositoryName) -> Self {
        self.name = Some(name);
        self
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn check_name(&self, repository: &RepositoryName, kind: ErrorKind) -> Result<()> {
        match &self.name {
            Some(name) if name != repository => {
                Err(Error::new(kind, "the image layout is another repository").with_context("name", name))
            }
            _ => Ok(()),
        }
    }

    fn blob_path(digest: &Digest) -> PathBuf {
        PathBuf::from("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    async fn read_file(&self, path: PathBuf) -> Result<Bytes> {
        let path = self.root.join(path);
        blocking(move || Ok(small_file::read_opened(open(&path)?, &path, WHAT, MAX_MANIFEST)?.into())).await
    }

    async fn index(&self) -> Result<ImageIndex> {
        let bytes = self.read_file(PathBuf::from("index.json")).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(ErrorKind::ManifestInvalid, "`index.json` is not the JSON of an image index")
                .with_context("path", self.root.display())
                .with_source(e)
        })
    }

    async fn manifest(&self, digest: &Digest, kind: Option<&str>) -> Result<Manifest> {
        let bytes = self.read_file(Self::blob_path(digest)).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::ManifestUnknown, "the image layout does not have this manifest")
                    .with_context("digest", digest)
            }
            _ => e,
        })?;
        let got = digest.algorithm().digest(&bytes);
        if got != *digest {
            return Err(Error::new(ErrorKind::DigestInvalid, "the manifest does not match its digest")
                .with_context("expected", digest)
                .with_context("got", got));
        }
        let manifest = match kind {
            Some(kind) => Manifest::parse(bytes, kind)?,
            None => Manifest::sniff(bytes)?,
        };
        manifest.with_digest(digest)
    }

    async fn find(&self, reference: &ManifestReference) -> Result<Manifest> {
        let index = self.index().await?;
        let entry = match reference {
            ManifestReference::Digest(digest) => index.manifests.iter().find(|d| d.digest == *digest),
            // The last entry wins, as for a tag that moved.
            ManifestReference::Tag(tag) => {
                index.manifests.iter().rev().find(|d| tag_of(d).as_ref() == Some(tag))
            }
        };
        match (entry, reference) {
            (Some(entry), _) => self.manifest(&entry.digest, Some(&entry.media_type)).await,
            (None, ManifestReference::Digest(digest)) => self.manifest(digest, None).await,
            (None, ManifestReference::Tag(tag)) => {
                Err(Error::new(ErrorKind::ManifestUnknown, "the image layout does not have this tag")
                    .with_context("tag", tag))
            }
        }
    }
}

/// The tag in the annotation, which some tools write as a whole reference.
fn tag_of(descriptor: &Descriptor) -> Option<Tag> {
    let name = descriptor.annotations.get(REF_NAME)?;
    Tag::parse(name).ok().or_else(|| Tag::parse(name.rsplit_once(':')?.1).ok())
}

fn open(path: &Path) -> Result<std::fs::File> {
    small_file::open_no_follow(path, WHAT)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the work on the image layout did not end").with_source(e))?
}

fn read_only<T>() -> Result<T> {
    Err(Error::unsupported("an image layout can only be pulled from: export writes one"))
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image layout {}", self.root.display())
    }
}

#[async_trait]
impl RegistryClient for Layout {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities { catalog: self.name.is_some(), ..ClientCapabilities::PULL }
    }

    async fn ping(&self) -> Result<()> {
        self.index().await.map(|_| ())
    }

    async fn resolve(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Descriptor> {
        Ok(self.get_manifest(repository, reference).await?.descriptor())
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        self.check_name(repository, ErrorKind::ManifestUnknown)?;
        self.find(reference).await
    }

    async fn put_manifest(
        &self,
        _repository: &RepositoryName,
        _reference: &ManifestReference,
        _manifest: &Manifest,
    ) -> Result<Descriptor> {
        read_only()
    }

    async fn delete_manifest(
        &self,
        _repository: &RepositoryName,
        _reference: &ManifestReference,
    ) -> Result<()> {
        read_only()
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        if self.check_name(repository, ErrorKind::BlobUnknown).is_err() {
            return Ok(None);
        }
        let path = self.root.join(Self::blob_path(digest));
        let found = blocking(move || {
            let file = open(&path)?;
            Ok(file.metadata().map_err(|e| Error::io("cannot read a blob", &path, e))?.len())
        });
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
        let path = self.root.join(Self::blob_path(digest));
        let opened = blocking(move || {
            let file = open(&path)?;
            let size = file.metadata().map_err(|e| Error::io("cannot read a blob", &path, e))?.len();
            Ok((file, size))
        });
        let (file, size) = opened.await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::BlobUnknown, "the image layout does not have this blob")
                    .with_context("digest", digest)
            }
            _ => e,
        })?;
        let (offset, length) = range.map_or(Ok((0, size)), |range| range.resolve(size))?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(BLOCK);
        file.seek(std::io::SeekFrom::Start(offset)).await?;
        let stream = tokio_util::io::ReaderStream::with_capacity(file.take(length), BLOCK);
        let reader = BlobReader { size, offset, length, stream: stream.map_err(Error::from).boxed() };
        Ok(verified(reader, digest))
    }

    async fn delete_blob(&self, _repository: &RepositoryName, _digest: &Digest) -> Result<()> {
        read_only()
    }

    async fn mount_blob(
        &self,
        _repository: &RepositoryName,
        _digest: &Digest,
        _from: &RepositoryName,
    ) -> Result<Mount> {
        read_only()
    }

    async fn start_upload(&self, _repository: &RepositoryName) -> Result<UploadSession> {
        read_only()
    }

    async fn upload_status(
        &self,
        _repository: &RepositoryName,
        _session: &UploadSession,
    ) -> Result<UploadSession> {
        read_only()
    }

    async fn upload_chunk(
        &self,
        _repository: &RepositoryName,
        _session: &UploadSession,
        _chunk: Bytes,
    ) -> Result<UploadSession> {
        read_only()
    }

    async fn finish_upload(
        &self,
        _repository: &RepositoryName,
        _session: UploadSession,
        _digest: &Digest,
        _rest: Option<(u64, ByteStream)>,
    ) -> Result<()> {
        read_only()
    }

    async fn cancel_upload(&self, _repository: &RepositoryName, _session: UploadSession) -> Result<()> {
        read_only()
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.check_name(repository, ErrorKind::NameUnknown)?;
        let index = self.index().await?;
        let tags: std::collections::BTreeSet<Tag> = index.manifests.iter().filter_map(tag_of).collect();
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
        let mut found = BTreeMap::new();
        for entry in self.index().await?.manifests {
            if !media_type::MANIFESTS.contains(&entry.media_type.as_str())
                || found.contains_key(&entry.digest)
            {
                continue;
            }
            let manifest = self.manifest(&entry.digest, Some(&entry.media_type)).await?;
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
}
