//! The storage folder of Distribution, also known as docker-registry or `registry:2`.
//!
//! ```text
//!   docker/registry/v2/
//!     blobs/ALG/AB/HEX/data                               the bytes of manifests and blobs, of all repositories
//!     repositories/NAME/_manifests/revisions/ALG/HEX/link the digest: the repository has the manifest
//!                       _manifests/tags/TAG/current/link  the digest that the tag names
//!                       _layers/ALG/HEX/link              the digest: the repository has the blob
//! ```
//!
//! A manifest without its `link` was deleted. The media type of a manifest is recorded nowhere: its bytes say it.

use super::folder::{Folder, blocking, walked};
use super::source::{
    ImportRoot, ImportSource, MAX_MANIFEST, SourceManifest, no_blob, no_manifest, parse_manifest,
};
use crate::oci::Manifest;
use crate::reference::{RepositoryName, Tag};
use crate::store::BlobReader;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use futures::stream::BoxStream;
use rustix::fs::FileType;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The largest link, in bytes.
const MAX_LINK: u64 = 1024;
/// How deep folders of repositories may lie in each other: longer names are not accepted anyway.
const MAX_DEPTH: usize = 128;
/// Where a storage folder has its registry.
const BELOW: &str = "docker/registry/v2";

/// The storage folder of Distribution.
///
/// It is read in place, also while its server runs: content that the server deletes meanwhile is then missing.
#[derive(Clone, Debug)]
pub struct DistributionTree {
    folder: Arc<Folder>,
}

impl DistributionTree {
    /// Opens the storage folder: the `rootdirectory` of the server, or the folder `docker/registry/v2` in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is no such folder; [`ErrorKind::Io`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        blocking(move || {
            let outer = Folder::open(&path)?;
            for folder in [path.join(BELOW), path.clone()] {
                if folder != path && !outer.has_folder(BELOW)? {
                    continue;
                }
                let folder = Folder::open(&folder)?;
                if folder.has_folder("repositories")? && folder.has_folder("blobs")? {
                    return Ok(Self { folder: Arc::new(folder) });
                }
            }
            Err(Error::new(
                ErrorKind::NotFound,
                "the folder is no storage folder of Distribution: it needs `docker/registry/v2/repositories` and \
                 `docker/registry/v2/blobs`",
            )
            .with_context("path", path.display()))
        })
        .await
    }

    /// The digest under which the bytes are that a link of a repository stands for; `None` without the link. It is another one
    /// for content with a digest of another algorithm: Distribution keeps it under its sha256. The bytes say whether it is right.
    async fn linked(&self, path: String) -> Result<Option<Digest>> {
        let folder = self.folder.clone();
        blocking(move || {
            let Some(bytes) = folder.read(&path, MAX_LINK)? else { return Ok(None) };
            let at = |e: Error| e.with_context("path", folder.path().join(&path).display());
            digest_of_link(&bytes).map(Some).map_err(at)
        })
        .await
    }
}

/// The digest in a file `link` of Distribution.
///
/// ```
/// use hyper_sdk::import::digest_of_link;
///
/// let text = format!("sha256:{}", "0".repeat(64));
/// assert_eq!(digest_of_link(text.as_bytes())?.as_str(), text);
/// assert!(digest_of_link(b"").is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Corrupt`] for an empty file, which a crash of that server leaves; [`ErrorKind::DigestInvalid`].
pub fn digest_of_link(bytes: &[u8]) -> Result<Digest> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::DigestInvalid, "a link is not the text of a digest"))?;
    match text.trim_ascii() {
        "" => Err(Error::new(ErrorKind::Corrupt, "a link is empty")),
        text => Digest::parse(text),
    }
}

fn data_path(digest: &Digest) -> String {
    format!("blobs/{}/{}/{}/data", digest.algorithm(), &digest.hex()[..2], digest.hex())
}

fn revision_path(repository: &RepositoryName, digest: &Digest) -> String {
    format!("repositories/{repository}/_manifests/revisions/{}/{}/link", digest.algorithm(), digest.hex())
}

fn layer_path(repository: &RepositoryName, digest: &Digest) -> String {
    format!("repositories/{repository}/_layers/{}/{}/link", digest.algorithm(), digest.hex())
}

/// Sends the names of the repositories below a folder. Returns whether somebody listens.
fn walk(folder: &Folder, name: &str, depth: usize, send: &mut dyn FnMut(Result<String>) -> bool) -> bool {
    let path = format!("repositories/{name}");
    let entries = match folder.list(&path) {
        Ok(Some(entries)) => entries,
        Ok(None) => return true,
        Err(e) => return send(Err(e)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                if send(Err(e)) {
                    continue;
                }
                return false;
            }
        };
        let below = if name.is_empty() { entry.name.clone() } else { format!("{name}/{}", entry.name) };
        let goes_on = match entry.kind {
            FileType::Directory if entry.name == "_manifests" && !name.is_empty() => {
                send(Ok(name.to_owned()))
            }
            FileType::Directory if entry.name.starts_with('_') => true,
            FileType::Directory if depth >= MAX_DEPTH => send(Err(Error::new(
                ErrorKind::TooLarge,
                "the folders of the repositories lie too deep in each other",
            )
            .with_context("path", folder.path().join(&path).display()))),
            FileType::Directory => walk(folder, &below, depth + 1, send),
            FileType::Symlink => send(Err(Error::invalid(
                "a link is in the place of the folder of a repository: put what it leads to in its place",
            )
            .with_context("path", folder.path().join("repositories").join(&below).display()))),
            _ => true,
        };
        if !goes_on {
            return false;
        }
    }
    true
}

/// Sends the roots of a repository.
fn send_roots(
    folder: &Folder,
    repository: &RepositoryName,
    send: &mut dyn FnMut(Result<ImportRoot>) -> bool,
) {
    let base = format!("repositories/{repository}/_manifests");
    let names = |path: &str| match folder.list(path) {
        Ok(entries) => Ok(entries.into_iter().flatten()),
        Err(e) => Err(e),
    };
    match names(&format!("{base}/tags")) {
        Err(e) => {
            if !send(Err(e)) {
                return;
            }
        }
        Ok(tags) => {
            for tag in tags {
                let root = tag.map(|tag| ImportRoot::Tag(tag.name, None));
                if !send(root) {
                    return;
                }
            }
        }
    }
    for algorithm in crate::digest::Algorithm::ALL {
        let revisions = format!("{base}/revisions/{algorithm}");
        let entries = match names(&revisions) {
            Ok(entries) => entries,
            Err(e) => {
                if send(Err(e)) {
                    continue;
                }
                return;
            }
        };
        for entry in entries {
            let root = entry.and_then(|entry| {
                if folder.size(&format!("{revisions}/{}/link", entry.name))?.is_none() {
                    return Ok(None);
                }
                let digest = Digest::parse(&format!("{algorithm}:{}", entry.name))?;
                Ok(Some(ImportRoot::Manifest(digest.into())))
            });
            if let Some(root) = root.transpose()
                && !send(root)
            {
                return;
            }
        }
    }
}

impl fmt::Display for DistributionTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "storage of Distribution {}", self.folder.path().display())
    }
}

#[async_trait]
impl ImportSource for DistributionTree {
    fn repositories(&self) -> BoxStream<'static, Result<String>> {
        let folder = self.folder.clone();
        walked(move |send| {
            walk(&folder, "", 0, send);
        })
    }

    fn roots(&self, repository: &RepositoryName) -> BoxStream<'static, Result<ImportRoot>> {
        let (folder, repository) = (self.folder.clone(), repository.clone());
        walked(move |send| send_roots(&folder, &repository, send))
    }

    async fn resolve(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<SourceManifest>> {
        let folder = self.folder.clone();
        let base = format!("repositories/{repository}/_manifests/tags/{tag}");
        blocking(move || {
            let path = format!("{base}/current/link");
            let bytes = match folder.read(&path, MAX_LINK)? {
                Some(bytes) => bytes,
                None if folder.has_folder(&base)? => {
                    return Err(Error::new(ErrorKind::Corrupt, "the tag has no link to a manifest")
                        .with_context("path", folder.path().join(path).display()));
                }
                None => return Ok(None),
            };
            let digest = digest_of_link(&bytes)
                .map_err(|e| e.with_context("path", folder.path().join(&path).display()))?;
            Ok(Some(digest.into()))
        })
        .await
    }

    async fn manifest(&self, repository: &RepositoryName, wanted: &SourceManifest) -> Result<Manifest> {
        let digest = &wanted.digest;
        let link = self.linked(revision_path(repository, digest)).await?;
        let path = data_path(&link.ok_or_else(|| no_manifest(repository, digest))?);
        let (folder, at) = (self.folder.clone(), path.clone());
        let bytes = blocking(move || folder.read(&at, MAX_MANIFEST)).await?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the bytes of a manifest are missing in the source")
                .with_context("path", self.folder.path().join(path).display())
        })?;
        parse_manifest(bytes, wanted)
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let link = self.linked(layer_path(repository, digest)).await?;
        let path = data_path(&link.ok_or_else(|| no_blob(repository, digest))?);
        let folder = self.folder.clone();
        blocking(move || folder.size(&path)).await?.ok_or_else(|| no_blob(repository, digest))
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobReader> {
        let link = self.linked(layer_path(repository, digest)).await?;
        let path = data_path(&link.ok_or_else(|| no_blob(repository, digest))?);
        let (folder, wanted) = (self.folder.clone(), digest.clone());
        let blob = blocking(move || folder.blob(&path, &wanted)).await?;
        blob.ok_or_else(|| no_blob(repository, digest))
    }
}
