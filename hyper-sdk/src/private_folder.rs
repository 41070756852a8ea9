//! Folders that only their owner can enter: state folders, stores, temporary folders.
//!
//! Other users cannot reach the content, whatever its modes are: set-user-id files of layers, world-writable folders of
//! layers, logs, the database.
//!
//! # Invariants
//! - A folder is created with mode 0700. An existing folder gets it before anything is written to it.
//! - Folders within it that get new content are made private too ([`close_within`]): a process with its working
//!   directory in one of them, from a time when the outer folder was open, would reach the new content.
//! - Only the user, root and the owner of `/` can replace the folder: every folder or link on its path can be written
//!   only by them, or is a sticky folder whose entry belongs to one of them.

mod temporary;

pub use temporary::TemporaryFolder;

use crate::{Error, ErrorDetail, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The largest number of links that are followed.
const MAX_LINKS: usize = 40;
/// The permission bits of other users.
const OF_OTHERS: RawMode = 0o077;

/// A private folder.
#[derive(Clone, Debug)]
pub struct PrivateFolder {
    /// Its path without links.
    pub path: PathBuf,
    /// A warning for the user: other users could reach it before, or still can because the file system is read-only.
    pub warning: Option<String>,
}

/// Creates a private folder, with the folders above it, or makes an existing folder private.
///
/// Links on its path are followed. A folder that other users can enter is made private, with a warning in the result.
///
/// # Errors
/// [`ErrorKind::Denied`] when the folder belongs to another user, or when another user can replace it;
/// [`ErrorKind::Io`] when it cannot be created or made private.
pub fn open(path: impl AsRef<Path>) -> Result<PrivateFolder> {
    let path = path.as_ref();
    let absolute = std::path::absolute(path).map_err(|e| Error::io("cannot resolve the folder", path, e))?;
    let mut walk = Walk::start(&absolute)?;
    walk.finish(&absolute)?;
    close(walk.at)
}

/// Creates a private folder in the folder for temporary files, or in `within`. It is removed when the value is dropped.
///
/// # Errors
/// [`ErrorKind::Io`] when it cannot be made.
pub fn temporary(prefix: &str, within: Option<&Path>) -> Result<TemporaryFolder> {
    TemporaryFolder::make(prefix, within)
}

/// Makes a folder within a private folder private too, if it exists. A process whose working directory is in it, from a
/// time when the outer folder was open, gets no further.
///
/// # Errors
/// [`ErrorKind::Io`] when it cannot be read or made private.
pub(crate) fn close_within(path: &Path) -> Result<()> {
    let failed = |e: Errno| Error::io("cannot close the folder to other users", path, e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(folder) => folder,
        // The user chose the target of a link.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let mode = rustix::fs::fstat(&folder).map_err(failed)?.st_mode & 0o7777;
    if mode & OF_OTHERS == 0 {
        return Ok(());
    }
    match rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode & !OF_OTHERS)) {
        // The outer folder has reported it already.
        Ok(()) | Err(Errno::ROFS) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

fn close(path: PathBuf) -> Result<PrivateFolder> {
    let failed = |message, e: Errno| Error::io(message, &path, e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(&path, flags, Mode::empty());
    let (stat, folder) = match folder {
        Ok(folder) => {
            (rustix::fs::fstat(&folder).map_err(|e| failed("cannot look at the folder", e))?, Ok(folder))
        }
        Err(e) => (stat(&path)?, Err(e)),
    };
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        let message = format!(
            "the folder belongs to another user ({}): run as that user, or choose a folder of your own",
            user(stat.st_uid)
        );
        return Err(shared(message, &path));
    }
    let folder = folder.map_err(|e| failed("cannot open the folder", e))?;
    let mode = stat.st_mode & 0o7777;
    if mode & OF_OTHERS == 0 {
        return Ok(PrivateFolder { path, warning: None });
    }
    let shown = path.display();
    let warning = match rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode & !OF_OTHERS)) {
        Ok(()) => format!(
            "other users could reach the folder {shown} (mode {:04o}): it is closed now (mode {:04o}). \
             What is in it can have been read, and used or changed where its own mode let them",
            mode,
            mode & !OF_OTHERS
        ),
        Err(Errno::ROFS) => format!(
            "other users can reach the folder {shown} (mode {mode:04o}), and its file system is read-only: close it \
             with `chmod 700`"
        ),
        Err(e) => return Err(failed("cannot close the folder to other users", e)),
    };
    Ok(PrivateFolder { path, warning: Some(warning) })
}

fn stat(path: &Path) -> Result<Stat> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::io("cannot look at the folder", path, e.into()))
}

fn user(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("uid {uid}") }
}

/// Walks the path of a folder, one component after the other, and checks each.
struct Walk {
    at: PathBuf,
    stat: Stat,
    trusted: [u32; 3],
    links: usize,
    left: VecDeque<OsString>,
}

impl Walk {
    fn start(path: &Path) -> Result<Self> {
        let at = PathBuf::from("/");
        let stat = stat(&at)?;
        // In a user namespace the root of the host may appear as another user. The owner of `/` is trusted.
        let trusted = [rustix::process::geteuid().as_raw(), 0, stat.st_uid];
        let left = names(path);
        Ok(Self { at, stat, trusted, links: 0, left })
    }

    fn finish(&mut self, whole: &Path) -> Result<()> {
        while let Some(name) = self.left.pop_front() {
            if name == ".." {
                self.at.pop();
                self.stat = stat(&self.at)?;
                continue;
            }
            let next = self.at.join(&name);
            let stat = match rustix::fs::statat(CWD, &next, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => {
                    self.check_entry(None, whole)?;
                    self.make(&next)?
                }
                Err(e) => return Err(Error::io("cannot look at the folder", &next, e.into())),
            };
            self.check_entry(Some((&next, &stat)), whole)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => (self.at, self.stat) = (next, stat),
                FileType::Symlink => self.follow(&next)?,
                _ => {
                    return Err(Error::invalid("there is something else than a folder at this path")
                        .with_context("path", next.display()));
                }
            }
        }
        Ok(())
    }

    fn follow(&mut self, link: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("cannot follow the link", link, e);
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(failed(Errno::LOOP.into()));
        }
        let target = std::fs::read_link(link).map_err(failed)?;
        if target.is_absolute() {
            self.at = PathBuf::from("/");
            self.stat = stat(&self.at)?;
        }
        for name in names(&target).into_iter().rev() {
            self.left.push_front(name);
        }
        Ok(())
    }

    /// Creates a folder: the last one private, those above it with the umask of the user, and never writable by others.
    fn make(&self, path: &Path) -> Result<Stat> {
        let failed = |e: Errno| Error::io("cannot make the folder", path, e.into());
        let mode = Mode::from_raw_mode(if self.left.is_empty() { 0o700 } else { 0o755 });
        match rustix::fs::mkdir(path, mode) {
            // A umask may remove the user's own permissions, which are needed to write to the folder.
            Ok(()) if self.left.is_empty() => rustix::fs::chmod(path, mode).map_err(failed)?,
            // Another process has created it first.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e)),
        }
        stat(path)
    }

    /// Rejects an entry of the open folder that another user can replace. `None` stands for an entry that does not
    /// exist yet.
    fn check_entry(&self, entry: Option<(&Path, &Stat)>, whole: &Path) -> Result<()> {
        let trusts = |uid: u32| self.trusted.contains(&uid);
        let folder = self.at.display();
        let refuse = |why: String| {
            Err(shared(format!("another user can put something else in the folder's place: {why}"), whole))
        };
        let (owner, mode) = (self.stat.st_uid, self.stat.st_mode);
        if !trusts(owner) {
            return refuse(format!(
                "`{folder}` above it belongs to {}: choose a folder elsewhere",
                user(owner)
            ));
        }
        let by_group = mode & 0o020 != 0 && !self.is_own_group(self.stat.st_gid);
        let by_all = mode & 0o002 != 0;
        if !(by_group || by_all) {
            return Ok(());
        }
        if mode & 0o1000 == 0 {
            let (who, change) = if by_all { ("everybody", "o-w") } else { ("its group", "g-w") };
            return refuse(format!(
                "`{folder}` can be written by {who}: `chmod {change} {folder}` ends that"
            ));
        }
        let Some((entry, stat)) = entry else { return Ok(()) };
        // The owner of the folder itself is checked when the folder is opened.
        let is_itself = self.left.is_empty() && !FileType::from_raw_mode(stat.st_mode).is_symlink();
        if is_itself || trusts(stat.st_uid) {
            return Ok(());
        }
        refuse(format!("`{}` belongs to {}", entry.display(), user(stat.st_uid)))
    }

    /// Whether only the user and root are in a group: the group of root, and by convention the group with the id of the
    /// user.
    fn is_own_group(&self, gid: u32) -> bool {
        gid == 0 || gid == self.trusted[0]
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn shared(message: String, folder: &Path) -> Error {
    Error::new(ErrorKind::Denied, message)
        .with_context("folder", folder.display())
        .with_detail(ErrorDetail::SharedFolder(folder.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        let error = open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        error.to_string()
    }

    #[test]
    fn a_new_folder_is_private_and_an_open_one_is_closed_with_a_warning() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        let made = open(&path).unwrap();
        assert_eq!((mode(&path), made.warning), (0o700, None));
        assert_eq!(mode(&top.path().join("a")) & 0o022, 0);
        for (wide, closed) in [(0o755, 0o700), (0o777, 0o700), (0o710, 0o700), (0o701, 0o700), (0o555, 0o500)]
        {
            set(&path, wide);
            let warning = open(&path).unwrap().warning.unwrap();
            assert_eq!(mode(&path), closed);
            assert!(warning.contains(&format!("mode {wide:04o}")), "{warning}");
            assert!(open(&path).unwrap().warning.is_none());
        }
    }

    #[test]
    fn a_folder_that_other_users_can_replace_is_rejected() {
        let top = tempfile::tempdir().unwrap();
        let parent = top.path().join("parent");
        create_dir(&parent).unwrap();
        for below in ["state", "more/state"] {
            let path = parent.join(below);
            for wide in [0o777, 0o757] {
                set(&parent, wide);
                assert!(refused(&path).contains("can be written by everybody"));
            }
            // In a sticky folder only their owners move entries.
            set(&parent, 0o1777);
            open(&path).unwrap();
            set(&parent, 0o755);
            open(&path).unwrap();
        }
        // A path through a link is checked on both sides.
        set(&parent, 0o777);
        symlink(&parent, top.path().join("link")).unwrap();
        refused(&top.path().join("link/state"));
        symlink(top.path(), parent.join("back")).unwrap();
        refused(&parent.join("back/state"));
        set(&parent, 0o755);
        open(top.path().join("link/state")).unwrap();
        open(parent.join("back/state")).unwrap();
    }

    #[test]
    fn links_must_lead_to_folders() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        symlink("made/here", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        assert_eq!(open(at("dangling")).unwrap().path, at("made/here").canonicalize().unwrap());
        assert_eq!(mode(&at("made/here")), 0o700);
        open(at("made/../made/./here")).unwrap();
        for wrong in ["loop", "file", "file/below"] {
            assert_ne!(open(at(wrong)).unwrap_err().kind(), ErrorKind::Denied, "{wrong}");
        }
    }

    #[test]
    fn a_folder_of_another_user_is_rejected() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give folders away");
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let parent = top.path().join("parent");
        create_dir(&parent).unwrap();
        let path = parent.join("state");
        create_dir(&path).unwrap();
        chown(&path, Some(4321), Some(4321)).unwrap();
        assert!(refused(&path).contains("uid 4321"));
        assert!(refused(&path.join("below")).contains("uid 4321"));
        assert!(!path.join("below").exists());
        // A sticky folder does not help when its entry belongs to another user.
        set(&parent, 0o1777);
        assert!(refused(&path.join("below")).contains("uid 4321"));
        symlink("/tmp", parent.join("link")).unwrap();
        std::os::unix::fs::lchown(parent.join("link"), Some(4321), Some(4321)).unwrap();
        assert!(refused(&parent.join("link")).contains("uid 4321"));
        // A group with other users is treated like everybody.
        set(&parent, 0o775);
        chown(&parent, None, Some(4321)).unwrap();
        chown(&path, Some(0), Some(0)).unwrap();
        assert!(refused(&path).contains("its group"));
        chown(&parent, None, Some(0)).unwrap();
        open(&path).unwrap();
    }
}
