//! Who works with a state folder: every process that does holds a locked file in it, so that a clean-up knows what is in
//! use.
//!
//! ```text
//!   ROOT/uses/gate          shared while a use begins, exclusive while something is removed
//!   ROOT/uses/work-RANDOM   a build, push, pull, …: locked while it lasts; its mtime is its beginning
//!   ROOT/uses/server-RANDOM a server of the store
//!   ROOT/uses/cleaning      locked by the one clean-up at a time
//!   ROOT/uses/step-HEX      a command of a build (`solve/step_lock.rs`): locked while it runs
//! ```
//!
//! Whoever uses something from the folder sets the time of its last use first ([`touch`]). So while the gate is closed,
//! what was last used before the oldest use began is used by nobody; and everything when there is no use at all.
//!
//! The times are those of the file system, which files get when they are made: they are compared with each other alone.

use crate::{Error, Result, ResultExt as _};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the names of files begin that commands of builds hold.
pub(crate) const STEP_PREFIX: &str = "step-";

/// What a use is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseKind {
    /// Work that ends: a build, a push, a pull.
    Work,
    /// A server of the store: its clients have leases.
    Server,
}

impl UseKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Work => "work-",
            Self::Server => "server-",
        }
    }
}

/// A use of a state folder, which ends with the value and with the process.
#[derive(Debug)]
pub struct Use(Option<(PathBuf, File)>);

impl Use {
    /// Begins a use. Waits while a clean-up removes something, which takes moments. Nobody cleans up a folder on a
    /// read-only file system.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be written.
    pub fn begin_blocking(root: &Path, kind: UseKind) -> Result<Self> {
        let gate = match open_in(root, "gate") {
            Err(e) if is_read_only(&e) => return Ok(Self(None)),
            gate => gate?,
        };
        gate.lock_shared().at("cannot lock the state folder", root)?;
        let file = tempfile::Builder::new().prefix(kind.prefix()).tempfile_in(folder(root));
        let (lock, path) = file.at("cannot write to the state folder", root)?.into_parts();
        lock.try_lock().map_err(|e| Error::io("cannot lock a file of the state folder", root, e.into()))?;
        let path = path.keep().map_err(|e| Error::io("cannot write to the state folder", root, e.error))?;
        let _ = gate.unlock();
        Ok(Self(Some((path, lock))))
    }

    /// [`Use::begin_blocking`] on a thread for blocking work.
    ///
    /// # Errors
    /// Those of [`Use::begin_blocking`].
    pub async fn begin(root: &Path, kind: UseKind) -> Result<Self> {
        let root = root.to_owned();
        blocking(move || Self::begin_blocking(&root, kind)).await
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some((path, lock)) = self.0.take() {
            let _ = std::fs::remove_file(path);
            // A child process may still have the descriptor.
            let _ = lock.unlock();
        }
    }
}

/// The gate is closed: no use begins while this value lives.
#[derive(Debug)]
pub(crate) struct Closed {
    gate: File,
    /// When the oldest work began.
    pub(crate) oldest: Option<SystemTime>,
    /// Whether a server runs.
    pub(crate) has_server: bool,
}

impl Closed {
    /// Closes the gate of a folder, and looks who uses it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be read or written.
    pub(crate) fn close_blocking(root: &Path) -> Result<Self> {
        let gate = open_in(root, "gate")?;
        gate.lock().at("cannot lock the state folder", root)?;
        let mut closed = Self { gate, oldest: None, has_server: false };
        let folder = folder(root);
        for entry in std::fs::read_dir(&folder).at("cannot read a folder of the state folder", &folder)? {
            let entry = entry.at("cannot read a folder of the state folder", &folder)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(STEP_PREFIX) {
                remove_dead(&entry.path());
                continue;
            }
            let kind = [UseKind::Work, UseKind::Server].into_iter().find(|k| name.starts_with(k.prefix()));
            let (Some(kind), Ok(file)) = (kind, File::options().write(true).open(entry.path())) else {
                continue;
            };
            match (file.try_lock(), kind) {
                // Its process has died.
                (Ok(()), _) => drop(std::fs::remove_file(entry.path())),
                (Err(TryLockError::Error(e)), _) => return Err(e).at("cannot lock a file", entry.path()),
                (Err(TryLockError::WouldBlock), UseKind::Server) => closed.has_server = true,
                (Err(TryLockError::WouldBlock), UseKind::Work) => {
                    let began = file.metadata().and_then(|meta| meta.modified());
                    let began = began.at("cannot read a file", entry.path())?;
                    closed.oldest = Some(closed.oldest.map_or(began, |oldest| oldest.min(began)));
                }
            }
        }
        Ok(closed)
    }

    /// Whether nothing uses what was last used at `used`.
    pub(crate) fn is_unused(&self, used: SystemTime) -> bool {
        self.oldest.is_none_or(|oldest| used < oldest)
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = self.gate.unlock();
    }
}

/// The right to clean up, which one caller has at a time. It ends with the value.
#[derive(Debug)]
pub(crate) struct Cleaning(File);

impl Cleaning {
    /// Begins a clean-up; `None` while another runs, unless it is to be waited for.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be written.
    pub(crate) fn begin_blocking(root: &Path, wait: bool) -> Result<Option<Self>> {
        let file = open_in(root, "cleaning")?;
        if wait {
            file.lock().at("cannot lock the state folder", root)?;
            return Ok(Some(Self(file)));
        }
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).at("cannot lock the state folder", root),
        }
    }
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Removes a file that nobody holds.
fn remove_dead(path: &Path) {
    if let Ok(file) = File::open(path)
        && file.try_lock().is_ok()
    {
        // The name may be another file's by now.
        let own = file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let named = std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
        if matches!((own, named), (Ok(own), Ok(named)) if own == named) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_read_only(e: &Error) -> bool {
    let source = std::error::Error::source(e).and_then(|e| e.downcast_ref::<std::io::Error>());
    source.is_some_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}

fn folder(root: &Path) -> PathBuf {
    root.join("uses")
}

/// Opens a file of the folder of uses, and makes both if they are missing.
pub(crate) fn open_in(root: &Path, name: &str) -> Result<File> {
    let folder = folder(root);
    let path = folder.join(name);
    let open = || File::options().create(true).truncate(false).write(true).open(&path);
    match open() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.at("cannot make a folder of the state folder", &folder)?;
            open()
        }
        other => other,
    }
    .at("cannot open a file of the state folder", &path)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("blocking work panicked").with_source(e))?
}

/// Sets the time of last use of a file or folder to now. Returns whether there is one: who uses what is under a name
/// touches it first, and takes it for missing when this is `false`.
pub(crate) fn touch(path: &Path) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: same, last_modification: now };
    // What cannot be written cannot be removed either.
    !matches!(
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW),
        Err(rustix::io::Errno::NOENT)
    )
}

/// The file beside a folder whose mtime is the last use of the folder: its own mtime is part of its content.
pub(crate) fn marker(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".used");
    name.into()
}

/// Notes that a folder is used now. An error is ignored: only the order of a later clean-up depends on it.
pub(crate) fn mark(folder: &Path) {
    let path = marker(folder);
    if !touch(&path) {
        let _ = File::create(&path);
    }
}

/// Moves a file or folder to `aside`, if `is_unused` is true for the time of its last use. Returns whether it did.
///
/// Who touches it at the same time either keeps it or finds it missing.
///
/// # Errors
/// Those of the system. What is not there is no error.
pub(crate) fn take_away(
    path: &Path,
    aside: &Path,
    is_unused: impl Fn(SystemTime) -> bool,
) -> std::io::Result<bool> {
    use std::io::ErrorKind::NotFound;
    let used = |path: &Path| std::fs::symlink_metadata(path).and_then(|meta| meta.modified());
    match used(path) {
        Ok(time) if is_unused(time) => {}
        Ok(_) => return Ok(false),
        Err(e) if e.kind() == NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    match std::fs::rename(path, aside) {
        Err(e) if e.kind() == NotFound && !path.exists() => return Ok(false),
        other => other?,
    }
    if is_unused(used(aside)?) {
        return Ok(true);
    }
    match rustix::fs::renameat_with(CWD, aside, CWD, path, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => Ok(false),
        // It was made again meanwhile.
        Err(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_work_is_found_and_a_dead_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let closed = || Closed::close_blocking(root.path()).unwrap();
        assert!(closed().oldest.is_none());
        let first = Use::begin_blocking(root.path(), UseKind::Work).unwrap();
        let path = first.0.as_ref().unwrap().0.clone();
        let began = std::fs::metadata(path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let second = Use::begin_blocking(root.path(), UseKind::Work).unwrap();
        assert_eq!(closed().oldest, Some(began));
        assert!(!closed().is_unused(began) && closed().is_unused(began - Duration::from_nanos(1)));
        drop(first);
        assert!(closed().oldest.unwrap() > began);
        // What a killed process leaves.
        drop(second);
        for name in ["work-dead", "step-dead", "step-alive"] {
            std::fs::write(root.path().join("uses").join(name), "").unwrap();
        }
        let alive = File::open(root.path().join("uses/step-alive")).unwrap();
        alive.try_lock().unwrap();
        assert!(closed().oldest.is_none());
        let is_left = |name| root.path().join("uses").join(name).exists();
        assert_eq!(["work-dead", "step-dead", "step-alive"].map(is_left), [false, false, true]);
        let mode = std::fs::metadata(root.path().join("uses")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
        let server = Use::begin_blocking(root.path(), UseKind::Server).unwrap();
        assert!(closed().has_server && closed().oldest.is_none());
        drop(server);
        assert!(!closed().has_server);
    }

    #[test]
    fn no_use_begins_while_the_gate_is_closed() {
        let root = tempfile::tempdir().unwrap();
        let closed = Closed::close_blocking(root.path()).unwrap();
        let begun = std::thread::scope(|scope| {
            let begins = scope.spawn(|| Use::begin_blocking(root.path(), UseKind::Work).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!begins.is_finished());
            drop(closed);
            begins.join().unwrap()
        });
        drop(begun);
        let cleaning = Cleaning::begin_blocking(root.path(), false).unwrap();
        assert!(cleaning.is_some() && Cleaning::begin_blocking(root.path(), false).unwrap().is_none());
    }

    #[test]
    fn what_is_touched_is_not_taken_away() {
        let root = tempfile::tempdir().unwrap();
        let (path, aside) = (root.path().join("file"), root.path().join("aside"));
        assert!(!touch(&path) && !take_away(&path, &aside, |_| true).unwrap());
        std::fs::write(&path, "x").unwrap();
        let made = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(touch(&path));
        assert!(!take_away(&path, &aside, |used| used <= made).unwrap());
        // It is touched between the first look and the move.
        let looks = std::cell::Cell::new(0);
        let first_alone = |_| looks.replace(looks.get() + 1) == 0;
        assert!(!take_away(&path, &aside, first_alone).unwrap());
        assert!(path.exists() && !aside.exists());
        assert!(take_away(&path, &aside, |_| true).unwrap());
        assert!(!path.exists() && aside.exists());
    }

    /// Users and a clean-up at once: who could touch the file finds it there.
    #[test]
    fn a_touched_file_stays_under_its_name_while_its_user_lives() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, "x").unwrap();
        // It is over when the user is, whether that has failed or not.
        let (user, over) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let user = user;
            let (over, path, root) = (over, &path, &root);
            scope.spawn(move || {
                for n in 0.. {
                    if matches!(over.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
                        return;
                    }
                    let closed = Closed::close_blocking(root.path()).unwrap();
                    let aside = root.path().join(format!("aside-{n}"));
                    if take_away(path, &aside, |used| closed.is_unused(used)).unwrap() {
                        std::fs::remove_file(aside).unwrap();
                    }
                }
            });
            for _ in 0..300 {
                let _use = Use::begin_blocking(root.path(), UseKind::Work).unwrap();
                if !touch(path) {
                    std::fs::write(path, "x").unwrap();
                }
                for _ in 0..20 {
                    assert!(path.exists(), "what is in use was removed");
                }
            }
            drop(user);
        });
    }
}
