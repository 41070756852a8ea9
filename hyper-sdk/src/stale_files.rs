//! Temporary files that a killed process left behind.

use rustix::fs::{Mode, OFlags};
use std::fs::{DirEntry, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Removes the regular files of a folder whose names are `is_one`, that this user owns, that were not written to for
/// `age` and that nobody holds. A temporary file is in use for moments, so one that old is in use no more; who takes
/// longer locks it ([`File::lock`]). What cannot be removed stays for the next time.
pub fn remove(folder: &Path, age: Duration, is_one: impl Fn(&str) -> bool) {
    for entry in entries(folder, is_one) {
        let Ok(meta) = entry.metadata() else { continue };
        let is_mine = meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw();
        if is_mine && is_older(meta.mtime(), age) {
            let path = entry.path();
            if let Some(_lock) = Unused::find(&path) {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

/// Removes the folders of a folder, with all that is in them, whose names are `is_one`, that this user owns, that were
/// not changed for `age` and that nobody holds: a [`crate::private_folder::TemporaryFolder`] is held for as long as it is
/// in use.
#[cfg(any(feature = "build", feature = "store-sql"))]
pub(crate) fn remove_folders(folder: &Path, age: Duration, is_one: impl Fn(&str) -> bool) {
    for entry in entries(folder, is_one) {
        let Ok(meta) = entry.metadata() else { continue };
        let is_mine = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
        // The time of the last change of the folder itself: archives choose the other one.
        if is_mine && is_older(meta.ctime(), age) {
            let path = entry.path();
            if let Some(_lock) = Unused::find(&path) {
                let _ = crate::remove_tree::remove_tree(&path);
            }
        }
    }
}

fn entries(folder: &Path, is_one: impl Fn(&str) -> bool) -> impl Iterator<Item = DirEntry> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(move |entry| is_one(&entry.file_name().to_string_lossy()))
}

/// Locks a file or folder of this process, so that nobody removes it as left over while the result lives. Where the file
/// system has no locks, age alone decides.
pub(crate) fn hold(path: &Path) -> Option<File> {
    let file = open(path).ok()?;
    // Nobody waits for a lock of what is new; a lock service that does not answer must hold up nothing.
    file.try_lock_shared().ok().map(|()| file)
}

/// A file or folder that nobody holds, locked where that is possible.
struct Unused(#[allow(dead_code, reason = "it keeps the lock")] Option<File>);

impl Unused {
    fn find(path: &Path) -> Option<Self> {
        let file = match open(path) {
            Ok(file) => file,
            // Its mode denies the look: age alone decides.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Some(Self(None)),
            // It is gone, or this process lacks what it takes to look.
            Err(_) => return None,
        };
        match file.try_lock() {
            Ok(()) => Some(Self(Some(file))),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(_)) => Some(Self(None)),
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Whether a name is one that the crate `tempfile` gives: `.tmp` and six letters or digits.
pub fn is_temporary(name: &str) -> bool {
    let rest = name.strip_prefix(".tmp");
    rest.is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether a time in seconds since 1970 is at least `age` ago.
pub(crate) fn is_older(time: i64, age: Duration) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    time.saturating_add(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)) <= now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_files_with_matching_names_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let names = [".tmpAb12cd", ".tmpAb12cd7", ".tmp", "tmpAb12cd", ".tmp-b12cd"];
        let there = || names.map(|name| folder.path().join(name).exists());
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join(".tmpFolder")).unwrap();
        let age = Duration::from_secs(60);
        remove(folder.path(), age, is_temporary);
        assert_eq!(there(), [true; 5]);
        for name in names {
            let file = std::fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - 2 * age).unwrap();
        }
        remove(folder.path(), age, is_temporary);
        assert_eq!(there(), [false, true, true, true, true]);
        assert!(folder.path().join(".tmpFolder").exists());
        remove(&folder.path().join("nowhere"), Duration::ZERO, is_temporary);
    }

    #[test]
    fn what_is_held_stays_however_old_it_is() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("folder/file"), "").unwrap();
        std::fs::write(at(".tmpAb12cd"), "").unwrap();
        let sweep = || {
            remove(top.path(), Duration::ZERO, is_temporary);
            remove_folders(top.path(), Duration::ZERO, |name| name == "folder");
            ["folder/file", ".tmpAb12cd"].map(|name| at(name).exists())
        };
        let held = ["folder", ".tmpAb12cd"].map(|name| hold(&at(name)).unwrap());
        assert_eq!(sweep(), [true, true]);
        drop(held);
        remove_folders(top.path(), Duration::from_secs(60), |name| name == "folder");
        assert!(at("folder").exists());
        assert_eq!(sweep(), [false, false]);
    }
}
