//! The files of a layout, in a folder or in an archive.

use super::MAX_JSON;
#[cfg(feature = "build")]
use super::archive::Archive;
use super::layout_file::LayoutFile;
use crate::small_file::{self, Kinds};
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a layout.
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

    /// Follows the links of an archive from a name.
    #[cfg(feature = "build")]
    pub(super) fn resolve(&self, name: String) -> Result<String> {
        match self {
            Self::Folder(_) => Ok(name),
            Self::Archive(archive) => archive.resolve(&name).map(str::to_owned),
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

/// Opens a regular file below `root`. A link may only lead to another file below `root`, and from a blob only to
/// another blob.
fn open_inside(root: &Path, name: &str, what: &str) -> Result<(File, PathBuf)> {
    let path = root.join(name);
    // Rejects other kinds of files first, also behind links.
    drop(small_file::open(&path, what, Kinds::Files)?);
    let failed = |e: io::Error| Error::io(format!("cannot read {what}"), &path, e);
    let top = root.canonicalize().map_err(failed)?;
    let found = path.canonicalize().map_err(failed)?;
    let inside = found.strip_prefix(&top).ok().filter(|inside| {
        // A link at a blob must lead to a blob.
        !name.starts_with("blobs/") || inside.starts_with("blobs")
    });
    let Some(inside) = inside else {
        let message = format!("{what} is a link that leads out of it: copy the file into the layout");
        return Err(Error::invalid(message).with_context("path", path.display()));
    };
    let file = open_without_links(&top, inside).map_err(failed)?;
    Ok((file, path))
}

/// Opens a regular file below `top` without following links, because the checked file may have been replaced.
fn open_without_links(top: &Path, inside: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(top, folder, Mode::empty())?;
    for name in inside.parent().into_iter().flatten() {
        at = rustix::fs::openat(&at, name, folder, Mode::empty())?;
    }
    let name = inside.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let file = File::from(rustix::fs::openat(&at, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("the file was replaced by another kind of file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_link_that_replaces_a_checked_file_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let top = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("blobs/a")).unwrap();
        std::fs::write(top.join("blobs/a/file"), "inside").unwrap();
        std::fs::write(outside.path().join("file"), "outside").unwrap();
        open_without_links(&top, Path::new("blobs/a/file")).unwrap();
        symlink(outside.path().join("file"), top.join("blobs/a/link")).unwrap();
        symlink(outside.path(), top.join("blobs/b")).unwrap();
        for name in ["blobs/a/link", "blobs/b/file", "blobs/a", "blobs/a/none", ""] {
            assert!(open_without_links(&top, Path::new(name)).is_err(), "{name}");
        }
    }

    /// Another thread switches a link back and forth while the file is opened.
    #[test]
    fn a_link_that_changes_does_not_lead_out() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("file"), "inside").unwrap();
        std::fs::write(outside.path().join("file"), "outside").unwrap();
        symlink("file", at("link")).unwrap();
        let over = AtomicBool::new(false);
        let mut sizes = BTreeSet::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for target in [outside.path().join("file"), "file".into()] {
                        symlink(target, at("new")).unwrap();
                        std::fs::rename(at("new"), at("link")).unwrap();
                    }
                }
            });
            for _ in 0..5000 {
                if let Ok((file, _)) = open_inside(root.path(), "link", "a file") {
                    sizes.insert(file.metadata().unwrap().len());
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        sizes.remove(&("inside".len() as u64));
        assert!(sizes.is_empty(), "the file outside was opened");
    }
}
