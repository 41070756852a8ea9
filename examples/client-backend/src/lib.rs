//! A registry client of one's own: a registry that is a folder, with a folder for each repository.
//!
//! ```text
//!   ROOT/team/app/_blobs/sha256:HEX       what was pushed
//!   ROOT/team/app/_manifests/sha256:HEX
//!   ROOT/team/app/_tags/TAG               the digest that it names
//!   ROOT/team/app/_uploads/ID             what has arrived of an upload
//! ```
//!
//! It does not delete, mount blobs or list repositories: the defaults of [`RegistryClient`] refuse that, as its capabilities
//! say. Everything else that the SDK does with registries works with it: `push`, `pull`, `copy`.

mod upload;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use hyper_sdk::client::{ClientCapabilities, RegistryClient, RegistryUpload, ResumeToken, verified};
use hyper_sdk::oci::{Descriptor, Manifest};
use hyper_sdk::reference::ManifestReference as Reference;
use hyper_sdk::store::{BlobReader, ByteRange, Listing, Page, UploadId};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName as Name, Result, Tag};
use std::fmt;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use tokio::fs;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use upload::FileUpload;

type Upload = Box<dyn RegistryUpload>;

/// A folder that is a registry.
#[derive(Debug)]
pub struct FolderClient(PathBuf);

impl FolderClient {
    /// The registry in a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    fn path(&self, repository: &Name, kind: &str, name: impl fmt::Display) -> PathBuf {
        self.0.join(repository.as_str()).join(kind).join(name.to_string())
    }

    /// The names in a folder; none when it is not there.
    async fn names(&self, repository: &Name, kind: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let Some(mut folder) = there(fs::read_dir(self.path(repository, kind, "")).await)? else {
            return Ok(names);
        };
        while let Some(entry) = folder.next_entry().await? {
            names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn digest(&self, repository: &Name, reference: &Reference) -> Result<Digest> {
        match reference {
            Reference::Digest(digest) => Ok(digest.clone()),
            Reference::Tag(tag) => {
                let found = there(fs::read_to_string(self.path(repository, "_tags", tag)).await)?;
                Digest::parse(&found.ok_or_else(|| unknown(ErrorKind::ManifestUnknown, tag))?)
            }
        }
    }
}

/// `None` for what is not there.
fn there<T>(found: std::io::Result<T>) -> Result<Option<T>> {
    match found {
        Err(e) if e.kind() == NotFound => Ok(None),
        found => Ok(found.map(Some)?),
    }
}

fn unknown(kind: ErrorKind, what: impl fmt::Display) -> Error {
    Error::new(kind, "the folder does not have this").with_context("name", what)
}

/// Writes a file in one step.
async fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.with_file_name("")).await?;
    let draft = path.with_file_name(format!(".{}", UploadId::random()?));
    fs::write(&draft, bytes).await?;
    Ok(fs::rename(draft, path).await?)
}

/// Opens a file, whole or in part.
async fn read(path: &Path, range: Option<ByteRange>) -> Result<Option<BlobReader>> {
    let Some(mut file) = there(fs::File::open(path).await)? else { return Ok(None) };
    let size = file.metadata().await?.len();
    let (offset, length) = range.map_or(Ok((0, size)), |range| range.resolve(size))?;
    file.seek(std::io::SeekFrom::Start(offset)).await?;
    let stream = ReaderStream::new(file.take(length)).map_err(Error::from).boxed();
    Ok(Some(BlobReader { size, offset, length, stream }))
}

impl fmt::Display for FolderClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[async_trait]
impl RegistryClient for FolderClient {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities::PULL.with_push().with_append().with_resume()
    }

    async fn ping(&self) -> Result<()> {
        Ok(fs::metadata(&self.0).await.map(drop)?)
    }

    async fn get_manifest(&self, name: &Name, reference: &Reference) -> Result<Manifest> {
        let digest = self.digest(name, reference).await?;
        let bytes = there(fs::read(self.path(name, "_manifests", &digest)).await)?;
        let bytes = bytes.ok_or_else(|| unknown(ErrorKind::ManifestUnknown, &digest))?;
        Manifest::sniff(bytes)?.with_digest(&digest)
    }

    async fn put_manifest(
        &self,
        name: &Name,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        let manifest = match reference {
            Reference::Digest(digest) => manifest.clone().with_digest(digest)?,
            Reference::Tag(_) => manifest.clone(),
        };
        if let Some(image) = manifest.image() {
            for blob in image.layers.iter().chain([&image.config]) {
                if self.stat_blob(name, &blob.digest).await?.is_none() {
                    return Err(unknown(ErrorKind::ManifestBlobUnknown, &blob.digest));
                }
            }
        }
        put(&self.path(name, "_manifests", manifest.digest()), manifest.bytes()).await?;
        if let Reference::Tag(tag) = reference {
            put(&self.path(name, "_tags", tag), manifest.digest().as_str().as_bytes()).await?;
        }
        Ok(manifest.descriptor())
    }

    async fn stat_blob(&self, name: &Name, digest: &Digest) -> Result<Option<u64>> {
        Ok(there(fs::metadata(self.path(name, "_blobs", digest)).await)?.map(|found| found.len()))
    }

    async fn get_blob(&self, name: &Name, digest: &Digest, range: Option<ByteRange>) -> Result<BlobReader> {
        let found = read(&self.path(name, "_blobs", digest), range).await?;
        Ok(verified(found.ok_or_else(|| unknown(ErrorKind::BlobUnknown, digest))?, digest))
    }

    async fn start_upload(&self, name: &Name) -> Result<Upload> {
        let path = self.path(name, "_uploads", UploadId::random()?);
        put(&path, b"").await?;
        Ok(Box::new(FileUpload::new(path)))
    }

    async fn resume_upload(&self, name: &Name, token: &ResumeToken) -> Result<Upload> {
        let path = self.path(name, "_uploads", UploadId::parse(token.as_str())?);
        let mut upload = FileUpload::new(path);
        upload.refresh().await?;
        Ok(Box::new(upload))
    }

    async fn list_tags(&self, name: &Name, page: Page) -> Result<Listing<Tag>> {
        let mut names = self.names(name, "_tags").await?;
        if names.is_empty() && there(fs::metadata(self.path(name, "_manifests", "")).await)?.is_none() {
            return Err(unknown(ErrorKind::NameUnknown, name));
        }
        names.retain(|tag| page.after.as_ref().is_none_or(|after| tag > after));
        let limit = page.limit.unwrap_or(usize::MAX);
        let items = names.iter().take(limit).map(|tag| Tag::parse(tag)).collect::<Result<_>>()?;
        Ok(Listing { items, more: names.len() > limit })
    }

    async fn list_referrers(
        &self,
        name: &Name,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for text in self.names(name, "_manifests").await? {
            let manifest = self.get_manifest(name, &Digest::parse(&text)?.into()).await?;
            let kind = manifest.artifact_type().map(str::to_owned);
            let refers = manifest.subject().is_some_and(|subject| subject.digest == *digest);
            if refers && (artifact_type.is_none() || kind.as_deref() == artifact_type) {
                let annotations = manifest.annotations().clone();
                found.push(Descriptor { artifact_type: kind, annotations, ..manifest.descriptor() });
            }
        }
        Ok(found)
    }
}
