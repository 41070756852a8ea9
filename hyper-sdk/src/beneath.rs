//! Files below a folder, under names that somebody else chose.
//!
//! # Invariants
//! - No link below the folder is followed: one in the place of a folder is an error, one in the place of a file is
//!   replaced; a pipe, a socket or a device there is an error. Links on the way to the folder itself belong to the caller.
//! - A file appears whole or not at all.

use crate::staged_file::{self, StagedFile};
use crate::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub(crate) struct Beneath {
    folder: OwnedFd,
    path: PathBuf,
    /// The folders in which nothing is left of processes that were killed.
    swept: Mutex<HashSet<PathBuf>>,
}

/// A file that gets its name when it is whole. Dropped before, it is removed.
#[derive(Debug)]
pub(crate) struct FileBeneath {
    staged: StagedFile,
    /// Through what it is reached: the folder that was opened, wherever it is by now.
    folder: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Beneath {
    /// Opens a folder, which is made with those above it when it is missing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] with the path.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| Error::io("cannot make the folder", path, e))?;
        let folder = rustix::fs::open(path, FOLDER, Mode::empty())
            .map_err(|e| Error::io("cannot open the folder", path, e.into()))?;
        Ok(Self { folder, path: path.to_owned(), swept: Mutex::default() })
    }

    /// Begins a file below the folder. Folders on the way to it are made when they are missing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a name that leads out, for a link or a file in the place of a folder, and for a
    /// pipe, a socket or a device in the place of the file;
    /// [`crate::ErrorKind::Io`] with the path.
    pub(crate) fn begin(&self, name: &Path) -> Result<FileBeneath> {
        let mut parts = Vec::new();
        for part in name.components() {
            let Component::Normal(part) = part else {
                let message = "a name is not a path below its folder";
                return Err(Error::invalid(message).with_context("name", name.display()));
            };
            parts.push(part);
        }
        let Some(last) = parts.pop() else { return Err(Error::invalid("a file has no name")) };
        let (mut path, mut folder) = (self.path.clone(), None);
        for part in parts {
            path.push(part);
            let above = folder.as_ref().unwrap_or(&self.folder);
            let open = || rustix::fs::openat(above, part, FOLDER | OFlags::NOFOLLOW, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) => match rustix::fs::mkdirat(above, part, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(e) => Err(e),
                },
                opened => opened,
            };
            folder = Some(opened.map_err(|e| {
                match e {
                    Errno::NOTDIR | Errno::LOOP => Error::invalid(
                        "a link or a file is in the place of a folder: remove it, or choose another folder",
                    )
                    .with_context("path", path.display()),
                    e => Error::io("cannot make the folder", &path, e.into()),
                }
            })?);
        }
        let cannot = |e| Error::io("cannot write a file in", &path, e);
        let folder = folder.map_or_else(|| self.folder.try_clone(), Ok).map_err(cannot)?;
        if let Ok(there) = rustix::fs::statat(&folder, last, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            && !matches!(
                FileType::from_raw_mode(there.st_mode),
                FileType::RegularFile | FileType::Symlink | FileType::Directory
            )
        {
            let message = "a pipe, a socket or a device is in the place of the file: remove it, or choose another folder";
            return Err(Error::invalid(message).with_context("path", path.join(last).display()));
        }
        if self.swept.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            staged_file::remove_abandoned(&within(&folder));
        }
        let staged = StagedFile::begin_in(&within(&folder)).map_err(cannot)?;
        Ok(FileBeneath { staged, folder, name: last.to_owned(), path: path.join(last) })
    }
}

impl FileBeneath {
    /// The file, to be written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] with the path.
    pub(crate) fn file(&self) -> Result<File> {
        self.staged.file().try_clone().map_err(|e| self.cannot_write(e))
    }

    /// Where it will be.
    #[cfg(feature = "build")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name: it replaces what is there, links among it, but no folder.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] with the path.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        let Self { staged, folder, name, path } = self;
        match staged.persist(&within(&folder).join(name)) {
            Ok(()) => Ok(path),
            Err(e) => Err(Error::io("cannot write the file", path, e)),
        }
    }

    pub(crate) fn cannot_write(&self, e: std::io::Error) -> Error {
        Error::io("cannot write the file", &self.path, e)
    }
}

/// A path that leads into an open folder.
fn within(folder: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", folder.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    fn write(folder: &Beneath, name: &str, text: &str) -> Result<PathBuf> {
        let file = folder.begin(Path::new(name))?;
        file.file()?.write_all(text.as_bytes()).map_err(|e| file.cannot_write(e))?;
        file.finish()
    }

    #[test]
    fn files_and_the_folders_above_them_are_made() {
        let top = tempfile::tempdir().unwrap();
        let folder = Beneath::open(&top.path().join("new/out")).unwrap();
        for name in ["file", "a/b/file", "a/other", "file"] {
            assert_eq!(write(&folder, name, name).unwrap(), top.path().join("new/out").join(name));
            assert_eq!(std::fs::read_to_string(top.path().join("new/out").join(name)).unwrap(), name);
        }
        let never = folder.begin(Path::new("c/never")).unwrap();
        never.file().unwrap().write_all(b"part").unwrap();
        assert_eq!(std::fs::read_dir(top.path().join("new/out/c")).unwrap().count(), 0, "it has no name yet");
        drop(never);
        assert_eq!(std::fs::read_dir(top.path().join("new/out/c")).unwrap().count(), 0);
        for name in ["", "/a", "..", "../a", "a/../b", "a"] {
            assert!(write(&folder, name, "x").is_err(), "{name}");
        }
        let pipe = top.path().join("new/out/a/pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RWXU).unwrap();
        let e = write(&folder, "a/pipe", "x").unwrap_err();
        assert!(e.to_string().contains("is in the place of the file"), "{e}");
        std::fs::remove_file(pipe).unwrap();
        assert_eq!(std::fs::read_dir(top.path().join("new")).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(top.path().join("new/out")).unwrap().count(), 3);
    }

    #[test]
    fn no_link_below_the_folder_is_followed() {
        let (top, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let there = outside.path().join("file");
        std::fs::write(&there, "outside").unwrap();
        std::fs::create_dir_all(top.path().join("real/sub")).unwrap();
        for (link, target) in [
            ("folder", outside.path()),
            ("real/up", Path::new("..")),
            ("inside", Path::new("real")),
            ("dangling", &outside.path().join("none")),
            ("circle", Path::new("circle")),
            ("link", &there),
            ("real/link", &there),
        ] {
            symlink(target, top.path().join(link)).unwrap();
        }
        let folder = Beneath::open(top.path()).unwrap();
        for name in
            ["folder/file", "real/up/file", "inside/file", "dangling/file", "circle/file", "link/file"]
        {
            let error = write(&folder, name, "x").unwrap_err();
            assert!(error.to_string().contains("in the place of a folder"), "{name}: {error}");
        }
        for name in ["link", "real/link", "dangling"] {
            write(&folder, name, "new").unwrap();
            assert!(top.path().join(name).symlink_metadata().unwrap().is_file(), "{name}");
        }
        assert_eq!(std::fs::read_to_string(&there).unwrap(), "outside");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    /// Another process puts a link in the place of a folder while files are written below it.
    #[test]
    fn a_folder_that_becomes_a_link_leads_nowhere_else() {
        let (top, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(top.path().join("sub")).unwrap();
        let folder = Beneath::open(top.path()).unwrap();
        let file = folder.begin(Path::new("sub/file")).unwrap();
        std::fs::rename(top.path().join("sub"), top.path().join("moved")).unwrap();
        symlink(outside.path(), top.path().join("sub")).unwrap();
        file.file().unwrap().write_all(b"x").unwrap();
        file.finish().unwrap();
        assert!(top.path().join("moved/file").exists());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_process_left_in_a_folder_goes_when_it_is_old() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("sub")).unwrap();
        let names = ["sub/.tmpAb12cd.partial", ".tmpAb12cd.partial"].map(|name| top.path().join(name));
        for name in &names {
            let file = File::create(name).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 60 * 60))
                .unwrap();
        }
        let folder = Beneath::open(top.path()).unwrap();
        write(&folder, "sub/file", "x").unwrap();
        assert_eq!(names.each_ref().map(|name| name.exists()), [false, true]);
    }
}
