//! The folder of ACME: files for the user of the server alone, which servers may share.
//!
//! # Invariants
//! - The folder has mode 0700 and belongs to the user, and so do its files, with mode 0600. A file that belongs to another user, that
//!   others may read or write, or that is a link, is refused, not read.
//! - A file is written under another name, brought to the disk, and renamed.

use hyper_sdk::small_file;
use hyper_sdk::{Error, ErrorKind, Result, private_folder};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The largest file that is read.
const MAX_FILE: u64 = 1 << 20;
/// What files begin with that have not got their names yet.
const UNFINISHED: &str = ".new-";
/// What the files of challenges begin with.
const CHALLENGES: [&str; 2] = ["challenge-tls-", "challenge-http-"];

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder, or closes it to others. Returns a warning, too, if others could enter it.
    ///
    /// # Errors
    /// Those of [`private_folder::open`].
    pub(super) fn open(path: &Path) -> Result<(Self, Option<String>)> {
        let opened = private_folder::open(path)?;
        Ok((Self(opened.path), opened.warning))
    }

    /// A folder that is left as it is, for those who want the names of its files.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The path of a file.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads a file; `None` when it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] for a file that is not for this user alone, [`ErrorKind::Invalid`] when it is not text,
    /// [`ErrorKind::TooLarge`], and those of reading.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        let file = match small_file::open_no_follow(&path, "a file of ACME") {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let failed = |e| Error::io("cannot read a file of ACME", &path, e);
        let meta = file.metadata().map_err(failed)?;
        let why = match () {
            () if meta.uid() != rustix::process::geteuid().as_raw() => {
                "a file of ACME belongs to another user: remove it, or run the server as that user"
            }
            () if meta.mode() & 0o077 != 0 => {
                "other users may use a file of ACME: remove it if it can be known to them, else `chmod 600` it"
            }
            () => "",
        };
        if !why.is_empty() {
            return Err(Error::new(ErrorKind::Denied, why).with_context("path", path.display()));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            let message = "a file of ACME is larger than 1 MiB, the limit";
            return Err(Error::new(ErrorKind::TooLarge, message).with_context("path", path.display()));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::invalid("a file of ACME is not text").with_context("path", path.display())),
        }
    }

    /// Writes a file as a whole, also when the machine loses power.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] or [`ErrorKind::StorageFull`] with the path.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        let failed = |e| Error::io("cannot write a file of ACME", &path, e);
        let mut random = [0; 8];
        crate::auth::fill_random(&mut random)?;
        let staged = self.path(&format!("{UNFINISHED}{:016x}", u64::from_ne_bytes(random)));
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&staged, &path)?;
                File::open(&self.0)?.sync_all()
            });
        if written.is_err() {
            let _ = std::fs::remove_file(&staged);
        }
        written.map_err(failed)
    }

    /// Removes a file that may be there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("cannot remove a file of ACME", &path, e))
            }
            _ => Ok(()),
        }
    }

    /// Removes the answers of all challenges, and what a server has left that was killed while it wrote. Only who holds the lock may.
    pub(super) fn remove_challenges(&self) {
        for start in CHALLENGES.iter().chain([&UNFINISHED]) {
            for name in self.names((start, "")) {
                let _ = self.remove(&name);
            }
        }
    }

    /// The names of the files that begin and end so.
    pub(super) fn names(&self, (start, end): (&str, &str)) -> Vec<String> {
        let all = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = all.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(start) && name.ends_with(end)).collect()
    }

    /// The right to ask a directory, until the file is dropped or the process ends; `None` while another server has it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file system has no locks.
    pub(super) fn try_lock(&self) -> Result<Option<File>> {
        let path = self.path("lock");
        let failed = |e| Error::io("cannot lock the folder of ACME", &path, e);
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn folder() -> (tempfile::TempDir, Folder) {
        let top = tempfile::tempdir().unwrap();
        let folder = Folder::open(&top.path().join("a/acme")).unwrap().0;
        (top, folder)
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_written_is_private_and_read_again() {
        let (_top, folder) = folder();
        assert_eq!(folder.read("x").unwrap(), None);
        for text in ["one", "two"] {
            folder.write("x", text).unwrap();
            assert_eq!(folder.read("x").unwrap().as_deref(), Some(text));
        }
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&folder.0), mode(&folder.path("x"))), (0o700, 0o600));
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "nothing unfinished stays");
        folder.remove("x").unwrap();
        folder.remove("x").unwrap();
        set(&folder.0, 0o755);
        assert!(Folder::open(&folder.0).unwrap().1.unwrap().contains("closed now"));
    }

    #[test]
    fn a_file_that_others_could_have_made_is_refused() {
        let (top, folder) = folder();
        let refused = |name: &str, kind: ErrorKind| {
            let e = folder.read(name).unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains(name), "{e}");
        };
        folder.write("open", "x").unwrap();
        for mode in [0o604, 0o640, 0o620] {
            set(&folder.path("open"), mode);
            refused("open", ErrorKind::Denied);
        }
        let other = top.path().join("other");
        std::fs::write(&other, "x").unwrap();
        set(&other, 0o600);
        symlink(&other, folder.path("link")).unwrap();
        refused("link", ErrorKind::Io);
        folder.write("large", &"x".repeat(MAX_FILE as usize + 1)).unwrap();
        refused("large", ErrorKind::TooLarge);
        std::fs::write(folder.path("bytes"), [0xff]).unwrap();
        set(&folder.path("bytes"), 0o600);
        refused("bytes", ErrorKind::Invalid);
        std::fs::create_dir(folder.path("folder")).unwrap();
        refused("folder", ErrorKind::Invalid);
        symlink(&other, folder.path("lock")).unwrap();
        assert!(folder.try_lock().is_err(), "a link is no lock");
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give files away");
            return;
        }
        folder.write("foreign", "x").unwrap();
        chown(folder.path("foreign"), Some(4321), None).unwrap();
        refused("foreign", ErrorKind::Denied);
    }

    #[test]
    fn one_has_the_lock_and_challenges_are_removed_alone() {
        let (_top, folder) = folder();
        let held = folder.try_lock().unwrap().unwrap();
        assert!(folder.try_lock().unwrap().is_none());
        drop(held);
        assert!(folder.try_lock().unwrap().is_some());
        for name in
            ["challenge-tls-a.example", "challenge-http-t", ".new-1", "certificate-1.pem", "account-1.json"]
        {
            folder.write(name, "x").unwrap();
        }
        folder.remove_challenges();
        let mut left: Vec<_> = std::fs::read_dir(&folder.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["account-1.json", "certificate-1.pem", "lock"]);
    }
}
