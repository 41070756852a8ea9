//! The storage folder of zot: an OCI image layout for each repository.
//!
//! ```text
//!   ROOT/NAME/oci-layout
//!             index.json        tags, and every manifest that no other one names
//!             blobs/ALG/HEX     manifests and blobs; the same file in several repositories where zot links them
//!             .uploads/         unfinished pushes
//! ```
//!
//! A folder that was copied from a bucket has empty files in the place of blobs that another repository has.

use super::folder::{Folder, blocking, walked};
use super::oci::{blob_path, read_layout};
use super::source::{
    ImportRoot, ImportSource, MAX_MANIFEST, SourceManifest, no_blob, no_manifest, parse_manifest,
};
use crate::oci::Manifest;
use crate::reference::{RepositoryName, Tag};
use crate::store::BlobReader;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use rustix::fs::FileType;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// How deep folders of repositories may lie in each other: longer names are not accepted anyway.
const MAX_DEPTH: usize = 128;
/// What a layout itself has. A link there may lead elsewhere in the source.
const OF_LAYOUT: [&str; 3] = ["blobs", "index.json", "oci-layout"];
/// Folders that are no repositories.
const OTHERS: [&str; 3] = [".uploads", ".sync", "lost+found"];

/// The storage folder of zot. The index of each repository is read once, so the server may run meanwhile.
#[derive(Clone, Debug)]
pub struct ZotTree {
    folder: Arc<Folder>,
}

impl ZotTree {
    /// Opens the storage folder, `rootDirectory` in the configuration of zot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no folder in it is the OCI layout of a repository; [`ErrorKind::Io`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        blocking(move || {
            let folder = Folder::open(&path)?;
            let mut is_tree = false;
            walk(&folder, "", 0, &mut |name| {
                is_tree = name.is_ok();
                !is_tree
            });
            if is_tree {
                return Ok(Self { folder: Arc::new(folder) });
            }
            Err(Error::new(
                ErrorKind::NotFound,
                "the folder is no storage folder of zot: it needs repositories, each a folder with `oci-layout` and \
                 `index.json`",
            )
            .with_context("path", path.display()))
        })
        .await
    }
}

/// Sends the names of the repositories below a folder. Returns whether somebody listens.
fn walk(folder: &Folder, name: &str, depth: usize, send: &mut dyn FnMut(Result<String>) -> bool) -> bool {
    let is_layout = if name.is_empty() {
        false
    } else {
        let has = |file: &str| folder.size(&format!("{name}/{file}")).map(|size| size.is_some());
        match (has("oci-layout"), has("index.json")) {
            (Ok(marker), Ok(index)) => marker || index,
            (Err(e), _) | (_, Err(e)) => return send(Err(e)),
        }
    };
    if is_layout && !send(Ok(name.to_owned())) {
        return false;
    }
    let entries = match folder.list(name) {
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
        let path = || folder.path().join(&below).display().to_string();
        let goes_on = match entry.kind {
            FileType::Directory if OTHERS.contains(&entry.name.as_str()) => true,
            FileType::Directory if is_layout && entry.name == "blobs" => true,
            FileType::Directory if depth >= MAX_DEPTH => send(Err(Error::new(
                ErrorKind::TooLarge,
                "the folders of the repositories lie too deep in each other",
            )
            .with_context("path", path()))),
            FileType::Directory => walk(folder, &below, depth + 1, send),
            FileType::Symlink if !(is_layout && OF_LAYOUT.contains(&entry.name.as_str())) => {
                send(Err(Error::invalid(
                    "a link is in the place of the folder of a repository: put what it leads to in its place",
                )
                .with_context("path", path())))
            }
            _ => true,
        };
        if !goes_on {
            return false;
        }
    }
    true
}

/// Where the bytes of a blob of a repository are: there, or in another repository when the file there is empty.
fn find(folder: &Folder, repository: &RepositoryName, digest: &Digest) -> Result<Option<(String, u64)>> {
    let path = blob_path(&format!("{repository}/"), digest);
    match folder.size(&path)? {
        None => return Ok(None),
        Some(0) if digest.algorithm().digest(b"") != *digest => {}
        Some(size) => return Ok(Some((path, size))),
    }
    let mut found = None;
    walk(folder, "", 0, &mut |name| {
        if let Ok(name) = name {
            let path = blob_path(&format!("{name}/"), digest);
            if let Ok(Some(size)) = folder.size(&path)
                && size > 0
            {
                found = Some((path, size));
            }
        }
        found.is_none()
    });
    found.map(Some).ok_or_else(|| {
        Error::new(
            ErrorKind::Corrupt,
            "the file of a blob is empty, and no other repository of the source has its bytes",
        )
        .with_context("path", folder.path().join(path).display())
    })
}

impl fmt::Display for ZotTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "storage of zot {}", self.folder.path().display())
    }
}

#[async_trait]
impl ImportSource for ZotTree {
    fn repositories(&self) -> BoxStream<'static, Result<String>> {
        let folder = self.folder.clone();
        walked(move |send| {
            walk(&folder, "", 0, send);
        })
    }

    fn roots(&self, repository: &RepositoryName) -> BoxStream<'static, Result<ImportRoot>> {
        let (folder, repository) = (self.folder.clone(), repository.clone());
        walked(move |send| match read_layout(&folder, &format!("{repository}/")) {
            Ok(Some(index)) => {
                index.roots(None).all(send);
            }
            Ok(None) => {
                let message = "the repository lacks one of the files `oci-layout` and `index.json`";
                send(Err(Error::new(ErrorKind::Corrupt, message)));
            }
            Err(e) => {
                send(Err(e));
            }
        })
    }

    async fn resolve(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<SourceManifest>> {
        let (folder, repository, tag) = (self.folder.clone(), repository.clone(), tag.clone());
        blocking(move || {
            let index = read_layout(&folder, &format!("{repository}/"))?;
            Ok(index.and_then(|index| {
                index.roots(None).find_map(|root| match root {
                    Ok(ImportRoot::Tag(text, manifest)) if text == tag.as_str() => manifest,
                    _ => None,
                })
            }))
        })
        .await
    }

    async fn manifest(&self, repository: &RepositoryName, wanted: &SourceManifest) -> Result<Manifest> {
        let (folder, name, digest) = (self.folder.clone(), repository.clone(), wanted.digest.clone());
        let bytes: Option<Bytes> = blocking(move || match find(&folder, &name, &digest)? {
            Some((path, _)) => folder.read(&path, MAX_MANIFEST),
            None => Ok(None),
        })
        .await?;
        parse_manifest(bytes.ok_or_else(|| no_manifest(repository, &wanted.digest))?, wanted)
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let (folder, name, wanted) = (self.folder.clone(), repository.clone(), digest.clone());
        let found = blocking(move || find(&folder, &name, &wanted)).await?;
        found.map(|(_, size)| size).ok_or_else(|| no_blob(repository, digest))
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobReader> {
        let (folder, name, wanted) = (self.folder.clone(), repository.clone(), digest.clone());
        let blob = blocking(move || match find(&folder, &name, &wanted)? {
            Some((path, _)) => folder.blob(&path, &wanted),
            None => Ok(None),
        })
        .await?;
        blob.ok_or_else(|| no_blob(repository, digest))
    }
}
