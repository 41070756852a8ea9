//! Removes trees of folders, however deep they are and whatever modes they have.
//!
//! # Invariants
//! - One folder is open at a time: neither descriptors nor the stack limit the depth.
//! - No link is followed, and no mount is entered: a mount point is [`Errno::BUSY`]. The way up has to lead to the folder that the way down came from: a tree that is moved while it
//!   is removed costs nothing outside of it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::AsRawFd as _;
use std::path::Path;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder on the way down, and what is left in it.
struct Level {
    /// Its name in the folder above.
    name: CString,
    device: u64,
    inode: u64,
    left: Vec<CString>,
}

/// Removes a folder with all that is in it. What is not there is no error.
///
/// # Errors
/// Those of the system. [`Errno::NOTEMPTY`] and [`Errno::BUSY`] mean that somebody else works in the tree.
pub(crate) fn remove_tree(path: &Path) -> rustix::io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    remove_tree_at(CWD, name)
}

/// Removes a file, or a folder with all that is in it. What is not there is no error.
///
/// # Errors
/// Those of [`remove_tree`].
#[cfg(feature = "build")]
pub(crate) fn remove_entry(path: &Path) -> rustix::io::Result<()> {
    use rustix::fs::FileType;
    let removed = match rustix::fs::lstat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => rustix::fs::unlink(path),
        Ok(_) => remove_tree(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes each of the paths, whatever fails.
///
/// # Errors
/// The first failure.
#[cfg(feature = "build")]
pub(crate) fn remove_all(
    paths: &[std::path::PathBuf],
    remove: impl Fn(&Path) -> crate::Result<()>,
) -> crate::Result<()> {
    // Each is tried, and the first failure is the result.
    let mut result = Ok(());
    for path in paths {
        result = result.and(remove(path));
    }
    result
}

/// [`remove_tree`] for a name in an open folder.
///
/// # Errors
/// Those of [`remove_tree`].
pub(crate) fn remove_tree_at(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<()> {
    let top = name.clone();
    let Some((mut at, level)) = remove_or_open(parent, name)? else { return Ok(()) };
    let mut levels = vec![level];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            match rustix::fs::unlinkat(&at, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e @ (Errno::ISDIR | Errno::PERM)) => match remove_or_open(at.as_fd(), name) {
                    Ok(None) => {}
                    Ok(Some((below, level))) => {
                        at = below;
                        levels.push(level);
                    }
                    // A file that may not be removed.
                    Err(Errno::NOTDIR) => return Err(e),
                    Err(e) => return Err(e),
                },
                Err(e) => return Err(e),
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let Some(above) = levels.last() else { break };
        at = rustix::fs::openat(&at, c"..", FOLDER, Mode::empty())?;
        let stat = rustix::fs::fstat(&at)?;
        if (stat.st_dev, stat.st_ino) != (above.device, above.inode) {
            return Err(Errno::BUSY);
        }
        remove_empty(at.as_fd(), &done.name)?;
    }
    remove_empty(parent, &top)
}

fn remove_empty(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Removes a folder that is empty, or opens it. What another file system is mounted on is not entered.
fn remove_or_open(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<Option<(OwnedFd, Level)>> {
    match rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(None),
        // A mount point is busy, whatever is in it.
        Err(Errno::NOTEMPTY | Errno::EXIST) => match open(parent, name) {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.map(Some),
        },
        Err(e) => Err(e),
    }
}

/// Opens a folder and lists it. Its owner may change it from then on.
fn open(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<(OwnedFd, Level)> {
    let folder = match rustix::fs::openat(parent, &name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let place = rustix::fs::openat(parent, &name, FOLDER | OFlags::PATH, Mode::empty())?;
            // The path of a descriptor leads to what is open, whatever has its name by now.
            let changed = rustix::fs::chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), Mode::RWXU);
            // Without `/proc` the folder is still there.
            changed.map_err(|e| if e == Errno::NOENT { Errno::ACCESS } else { e })?;
            rustix::fs::openat(parent, &name, FOLDER, Mode::empty())?
        }
        folder => folder?,
    };
    let stat = rustix::fs::fstat(&folder)?;
    if stat.st_mode & 0o700 != 0o700 {
        // Who may not do so may still have the right to remove what is in it.
        let _ = rustix::fs::fchmod(&folder, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700));
    }
    let mut left = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            left.push(entry.file_name().to_owned());
        }
    }
    Ok((folder, Level { name, device: stat.st_dev, inode: stat.st_ino, left }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn modes_and_links_are_no_obstacle_and_no_way_out() {
        let (within, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("file"), "outside").unwrap();
        let top = within.path().join("top");
        std::fs::create_dir_all(top.join("a/b/c")).unwrap();
        std::fs::create_dir_all(top.join("d/e")).unwrap();
        std::fs::write(top.join("a/b/file"), "x").unwrap();
        symlink(outside.path(), top.join("a/link")).unwrap();
        symlink("nowhere", top.join("dangling")).unwrap();
        for (name, mode) in [("a/b/c", 0), ("a/b", 0o555), ("a", 0), ("d", 0o444)] {
            std::fs::set_permissions(top.join(name), Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
        assert!(outside.path().join("file").exists());
        symlink(outside.path(), &top).unwrap();
        assert!(remove_tree(&top).is_err());
        assert!(outside.path().join("file").exists());
    }

    /// Runs itself again, in a process with fewer descriptors than the tree has levels.
    #[test]
    fn folders_are_removed_however_deep_they_are() {
        const TREE: &str = "HYPER_TREE_TO_REMOVE";
        if let Some(tree) = std::env::var_os(TREE) {
            return remove_tree(Path::new(&tree)).unwrap();
        }
        let within = tempfile::tempdir().unwrap();
        let top = within.path().join("top");
        std::fs::create_dir_all(top.join("a/".repeat(300))).unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "remove_tree::tests::folders_are_removed_however_deep_they_are"])
            .env(TREE, &top)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        assert!(!top.exists());
    }

    /// Runs itself again, in a mount namespace of its own.
    #[test]
    fn what_is_mounted_in_a_tree_is_not_entered() {
        const TREE: &str = "HYPER_TREE_WITH_A_MOUNT";
        if let Some(tree) = std::env::var_os(TREE) {
            assert_eq!(remove_tree(Path::new(&tree)), Err(Errno::BUSY));
            return;
        }
        let (within, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(outside.path().join("folder")).unwrap();
        std::fs::write(outside.path().join("folder/file"), "kept").unwrap();
        for mount in ["top/a/mount", "top"] {
            let mount = within.path().join(mount);
            std::fs::create_dir_all(&mount).unwrap();
            let output = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
                .arg("mount --bind \"$1\" \"$2\" || { echo no mounts; exit; }; shift 2; exec \"$@\"")
                .arg("sh")
                .args([outside.path(), &mount])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "remove_tree::tests::what_is_mounted_in_a_tree_is_not_entered"])
                .env(TREE, within.path().join("top"))
                .output();
            let Ok(output) = output else {
                println!("SKIPPED: there is no unshare");
                return;
            };
            let text = String::from_utf8_lossy(&output.stdout);
            if text.contains("no mounts") || text.is_empty() {
                println!("SKIPPED: this user may not mount");
                return;
            }
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            assert!(outside.path().join("folder/file").exists());
        }
    }

    /// As by a program of another user, whose folder cannot be listed.
    #[test]
    fn an_empty_folder_is_removed_without_a_look_into_it() {
        let within = tempfile::tempdir().unwrap();
        let top = within.path().join("top");
        std::fs::create_dir_all(top.join("a")).unwrap();
        std::fs::set_permissions(top.join("a"), Permissions::from_mode(0o000)).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_folder_that_is_moved_away_costs_nothing_where_it_goes() {
        let within = tempfile::tempdir().unwrap();
        let (top, other) = (within.path().join("top"), within.path().join("other"));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::create_dir_all(other.join("a")).unwrap();
        std::fs::write(other.join("a/file"), "kept").unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = std::fs::rename(top.join("a/b"), other.join("b"));
                    let _ = std::fs::create_dir_all(top.join("a"));
                    let _ = std::fs::rename(other.join("b"), top.join("a/b"));
                    let _ = std::fs::create_dir_all(top.join("a/b"));
                }
            });
            for _ in 0..200 {
                let _ = remove_tree(&top);
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(other.join("a/file").exists());
    }
}
