//! The files of a layout, in a folder or in an archive.

use super::MAX_JSON;
#[cfg(feature = "build")]
use super::archive::Archive;
use super::layout_file::LayoutFile;
use crate::small_file::{self, Kinds};
use crate::{Error, Result};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the files are.
#[derive(Clone, Debug)]
pub(super) enum Files {
    Folder(PathBuf),
    #[cfg(feature = "build")]
    Archive(Arc<Archive>),
}

impl Files {
    /// The folder or the archive.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            #[cfg(feature = "build")]
            Self::Archive(archive) => archive.path(),
        }
    }

    /// Reads a small file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        const WHAT: &str = "a file of the OCI layout";
        match self {
            Self::Folder(root) => {
                let (file, path) = open_inside(root, name, WHAT)?;
                small_file::read_opened(file, &path, WHAT, MAX_JSON)
            }
            #[cfg(feature = "build")]
            Self::Archive(archive) => archive.open(name)?.read_small(),
        }
    }

    /// Opens a large file.
    pub(super) fn open(&self, name: &str) -> Result<LayoutFile> {
        match self {
            Self::Folder(root) => {
                let (file, path) = open_inside(root, name, "a blob of the OCI layout")?;
                let size = file
                    .metadata()
                    .map_err(|e| Error::io("cannot read a blob of the OCI layout", path, e))?
                    .len();
                Ok(LayoutFile::new(Arc::new(file), 0, size))
            }
            #[cfg(feature = "build")]
            Self::Archive(archive) => archive.open(name),
        }
    }
}

/// Opens a regular file below `root`. A link is followed where it leads to another file of the same kind: that of a blob
/// to another blob.
fn open_inside(root: &Path, name: &str, what: &str) -> Result<(File, PathBuf)> {
    let path = root.join(name);
    // Says first what kind of file it is, of one that a link leads to as well.
    let file = small_file::open(&path, what, Kinds::Files)?;
    let failed = |e: io::Error| Error::io(format!("cannot read {what}"), &path, e);
    let mut top = root.canonicalize().map_err(failed)?;
    if name.starts_with("blobs/") {
        top.push("blobs");
    }
    if !path.canonicalize().map_err(failed)?.starts_with(top) {
        let message = format!("{what} is a link that leads out of it: copy the file into the layout");
        return Err(Error::invalid(message).with_context("path", path.display()));
    }
    Ok((file, path))
}
