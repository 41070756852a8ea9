//! The folder of backups: its marker, its lock, and how files in it are opened.
//!
//! The folder is private to its user. Each step below it is opened in the folder above, and no link is followed: what was
//! copied here from elsewhere can have some.

use crate::store::blob::BACKUP_MARKER as MARKER;
use crate::{Digest, Error, ErrorKind, Result, private_folder};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK: &str = "lock";
pub(super) const SNAPSHOTS: &str = "snapshots";
pub(super) const BLOBS: &str = "blobs";
const TMP: &str = "tmp";
/// Where bytes are that do not match their digest.
const DAMAGED: &str = "damaged";
/// How the name of a snapshot ends.
const SUFFIX: &str = ".jsonl";
/// The version of the layout of the folder.
const VERSION: u32 = 1;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// So that a pipe does not block.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
}

/// An open folder of backups. Clones share it.
///
/// ```
/// use hyper_sdk::store::backup::{BackupFolder, list};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// # let top = tempfile::tempdir()?;
/// let path = top.path().join("backups");
/// assert!(BackupFolder::open(&path).is_err(), "there is none");
/// let folder = BackupFolder::create(&path)?;
/// assert!(list(&folder)?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BackupFolder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    path: PathBuf,
    warning: Option<String>,
}

impl BackupFolder {
    /// Opens the folder of backups, or makes one of a folder that is empty or does not exist.
    ///
    /// # Errors
    /// Those of [`private_folder::open`]; [`ErrorKind::Invalid`] when the folder has something else, or lies in that of a store;
    /// those of [`BackupFolder::open`].
    pub fn create(path: &Path) -> Result<Self> {
        Self::refuse_in_store(path)?;
        let folder = private_folder::open(path)?;
        let folder = Self::of(folder)?;
        if folder.read_marker()?.is_none() {
            folder.make()?;
        }
        folder.checked()
    }

    /// Opens the folder of backups.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Corrupt`] when a part of it is missing;
    /// [`ErrorKind::Unsupported`] when a newer version has made it; those of [`private_folder::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let unknown = || {
            Error::new(
                ErrorKind::NotFound,
                "the folder has no backups: it lacks the file `hyperregistry-backup`",
            )
            .with_context("path", path.display())
        };
        match path.metadata() {
            Ok(meta) if meta.is_dir() => {}
            Err(e)
                if ![std::io::ErrorKind::NotFound, std::io::ErrorKind::NotADirectory].contains(&e.kind()) =>
            {
                return Err(Error::io("cannot look at the folder of backups", path, e));
            }
            _ => return Err(unknown()),
        }
        let folder = Self::of(private_folder::open(path)?)?;
        match folder.read_marker()? {
            Some(_) => folder.checked(),
            None => Err(unknown()),
        }
    }

    fn of(folder: private_folder::PrivateFolder) -> Result<Self> {
        let root = rustix::fs::open(&folder.path, FOLDER, Mode::empty())
            .map_err(|e| Error::io("cannot open the folder of backups", &folder.path, e.into()))?;
        Ok(Self(Arc::new(Inner { root, path: folder.path, warning: folder.warning })))
    }

    /// The path without links.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A warning for the user: other users could reach the folder before.
    pub fn warning(&self) -> Option<&str> {
        self.0.warning.as_deref()
    }

    fn read_marker(&self) -> Result<Option<Marker>> {
        let path = self.0.path.join(MARKER);
        let Some(mut file) = open_file(&self.0.root, MARKER, &path)? else { return Ok(None) };
        let mut text = String::new();
        std::io::Read::by_ref(&mut file)
            .take(4096)
            .read_to_string(&mut text)
            .map_err(|e| Error::io("cannot read the marker of the backups", &path, e))?;
        serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "the marker of the backups is damaged")
                .with_context("path", path.display())
                .with_source(e)
        })
    }

    /// Makes an empty folder one of backups; the marker comes last.
    fn make(&self) -> Result<()> {
        let known = [SNAPSHOTS, BLOBS, TMP, LOCK, "lost+found"];
        for name in names(&self.0.root, &self.0.path)? {
            let is_known = known.contains(&name.as_str());
            let has_content = [SNAPSHOTS, BLOBS].contains(&name.as_str())
                && self
                    .folder(&[&name])?
                    .is_some_and(|at| names(&at, &self.0.path).is_ok_and(|n| !n.is_empty()));
            if !is_known || has_content {
                return Err(Error::invalid(
                    "the folder has something else than backups: name an empty folder, or one that does not exist",
                )
                .with_context("path", self.0.path.display())
                .with_context("found", name));
            }
        }
        for name in [SNAPSHOTS, BLOBS, TMP] {
            self.made_folder(&[name])?;
        }
        drop(self.lock(true)?);
        let mut marker = self.new_file()?;
        let text = serde_json::json!(Marker { version: VERSION }).to_string() + "\n";
        let written = marker.file.write_all(text.as_bytes()).and_then(|()| marker.file.sync_all());
        written.map_err(|e| self.cannot_write(MARKER, e))?;
        marker.persist(&self.0.root, MARKER).map_err(|e| self.cannot_write(MARKER, e))
    }

    /// Fails when a part is missing that was there, or the version is another.
    fn checked(self) -> Result<Self> {
        let marker = self.read_marker()?;
        if let Some(Marker { version }) = marker.filter(|marker| marker.version != VERSION) {
            return Err(Error::unsupported(format!(
                "the folder of backups has version {version}, and this program knows version {VERSION}"
            ))
            .with_context("path", self.0.path.display()));
        }
        for name in [SNAPSHOTS, BLOBS] {
            if self.folder(&[name])?.is_none() {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "a folder of the backups is missing: bring it back, or begin with an empty folder",
                )
                .with_context("path", self.0.path.join(name).display()));
            }
        }
        Ok(self)
    }

    /// Takes the lock: alone to write, or with others to read. It ends with the value. Readers of a folder that cannot be
    /// written, and lacks the file of the lock, have none.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while another one has it.
    pub(super) fn lock(&self, alone: bool) -> Result<Option<File>> {
        let path = self.0.path.join(LOCK);
        let cannot = |e: Errno| match e {
            Errno::LOOP => of_link(&path),
            e => Error::io("cannot open the lock of the backups", &path, e.into()),
        };
        let make = || {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&self.0.root, LOCK, flags, Mode::from_raw_mode(0o600))
        };
        let opened = match alone {
            true => make(),
            false => match rustix::fs::openat(&self.0.root, LOCK, READ, Mode::empty()) {
                Err(Errno::NOENT) => match make() {
                    Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => return Ok(None),
                    made => made,
                },
                opened => opened,
            },
        };
        let file = File::from(opened.map_err(cannot)?);
        match if alone { file.try_lock() } else { file.try_lock_shared() } {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Conflict,
                "another process uses the backups just now: try again when it has ended",
            )
            .with_context("path", self.0.path.display())),
            Err(TryLockError::Error(e)) => Err(Error::io("cannot lock the backups", &path, e)),
        }
    }

    /// Opens a folder below; `None` when it does not exist.
    pub(super) fn folder(&self, names: &[&str]) -> Result<Option<OwnedFd>> {
        self.walk(names, false)
    }

    /// Opens a folder below, and makes it when it does not exist.
    pub(super) fn made_folder(&self, names: &[&str]) -> Result<OwnedFd> {
        self.walk(names, true)?.ok_or_else(|| Error::internal("a folder that was made is not there"))
    }

    fn walk(&self, names: &[&str], make: bool) -> Result<Option<OwnedFd>> {
        let mut at: Option<OwnedFd> = None;
        let mut path = self.0.path.clone();
        for name in names {
            path.push(name);
            let above = at.as_ref().unwrap_or(&self.0.root);
            let open = || rustix::fs::openat(above, *name, FOLDER, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) if make => match rustix::fs::mkdirat(above, *name, Mode::RWXU) {
                    Ok(()) => {
                        rustix::fs::fsync(above)
                            .map_err(|e| Error::io("cannot sync the folder of", &path, e.into()))?;
                        open()
                    }
                    Err(Errno::EXIST) => open(),
                    Err(e) => Err(e),
                },
                opened => opened,
            };
            at = match opened {
                Ok(folder) => Some(folder),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(of_link(&path)),
                Err(e) => return Err(Error::io("cannot open the folder", &path, e.into())),
            };
        }
        Ok(at)
    }

    fn cannot_write(&self, name: &str, e: std::io::Error) -> Error {
        Error::io("cannot write to the backups", self.0.path.join(name), e)
    }

    /// Begins a file without its name.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn new_file(&self) -> Result<NewFile> {
        let tmp = self.made_folder(&[TMP])?;
        let name = crate::store::UploadId::random()?.to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&tmp, name.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(|e| self.cannot_write(TMP, e.into()))?;
        Ok(NewFile { file: file.into(), tmp, name: Some(name) })
    }

    /// Removes what killed processes left. The caller has the lock alone.
    pub(super) fn clear_tmp(&self) -> Result<()> {
        let tmp = self.made_folder(&[TMP])?;
        let path = self.0.path.join(TMP);
        let cannot = |e: Errno| Error::io("cannot list the folder", &path, e.into());
        for entry in Dir::read_from(&tmp).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            match rustix::fs::unlinkat(&tmp, name, AtFlags::empty()) {
                // No backup has made a folder: it is not in the way.
                Ok(()) | Err(Errno::ISDIR | Errno::PERM | Errno::NOENT) => {}
                Err(e) => return Err(self.cannot_write(TMP, e.into())),
            }
        }
        Ok(())
    }

    /// Moves the bytes of a blob away that do not match its digest: the next backup copies the blob again.
    pub(super) fn set_aside(&self, digest: &Digest) -> Result<()> {
        let cannot = |e: Errno| self.cannot_write(DAMAGED, e.into());
        let Some(from) = self.folder(&blob_folder(digest))? else { return Ok(()) };
        let to = self.made_folder(&[DAMAGED])?;
        match rustix::fs::renameat(&from, digest.hex(), &to, aside(digest)) {
            // Another check was faster.
            Err(Errno::NOENT) => Ok(()),
            moved => moved.and_then(|()| rustix::fs::fsync(&from)).map_err(cannot),
        }
    }

    /// Removes the bytes that were moved away of a blob that is whole again.
    pub(super) fn forget_healed(&self, digest: &Digest) -> Result<()> {
        let Some(folder) = self.folder(&[DAMAGED])? else { return Ok(()) };
        match rustix::fs::unlinkat(&folder, aside(digest), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.cannot_write(DAMAGED, e.into())),
        }
    }

    /// Removes the bytes that were moved away of blobs that nobody needs.
    pub(super) fn forget_aside(&self, goes: impl Fn(&Digest) -> bool) -> Result<()> {
        let Some(folder) = self.folder(&[DAMAGED])? else { return Ok(()) };
        for name in names(&folder, &self.0.path.join(DAMAGED))? {
            let digest =
                name.split_once('-').map(|(algorithm, hex)| Digest::parse(&format!("{algorithm}:{hex}")));
            if let Some(Ok(digest)) = digest
                && goes(&digest)
            {
                rustix::fs::unlinkat(&folder, name.as_str(), AtFlags::empty())
                    .map_err(|e| self.cannot_write(DAMAGED, e.into()))?;
            }
        }
        Ok(())
    }

    /// The ids of all snapshots, the oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a file that is none: nobody knows what it needs.
    pub(super) fn snapshot_ids(&self) -> Result<Vec<String>> {
        let path = self.0.path.join(SNAPSHOTS);
        let folder = self.folder(&[SNAPSHOTS])?.ok_or_else(|| Error::internal("the snapshots are gone"))?;
        let mut ids = Vec::new();
        for name in names(&folder, &path)? {
            match name.strip_suffix(SUFFIX).filter(|id| is_id(id)) {
                Some(id) => ids.push(id.to_owned()),
                None => {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        "a file between the snapshots is none: move it elsewhere",
                    )
                    .with_context("path", path.join(name).display()));
                }
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Opens a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none with this id.
    pub(super) fn open_snapshot(&self, id: &str) -> Result<File> {
        let unknown = || {
            Error::new(ErrorKind::NotFound, "the backups have no such snapshot")
                .with_context("snapshot", id)
                .with_context("path", self.0.path.display())
        };
        if !is_id(id) {
            return Err(unknown());
        }
        let folder = self.folder(&[SNAPSHOTS])?.ok_or_else(unknown)?;
        let name = format!("{id}{SUFFIX}");
        let path = self.0.path.join(SNAPSHOTS).join(&name);
        open_file(&folder, &name, &path)?.ok_or_else(unknown)
    }

    /// Gives a whole snapshot its name, on the disk.
    pub(super) fn add_snapshot(&self, file: NewFile, id: &str) -> Result<()> {
        let folder = self.made_folder(&[SNAPSHOTS])?;
        file.persist(&folder, &format!("{id}{SUFFIX}")).map_err(|e| self.cannot_write(SNAPSHOTS, e))
    }

    /// Removes a snapshot, on the disk.
    pub(super) fn remove_snapshot(&self, id: &str) -> Result<()> {
        let folder = self.made_folder(&[SNAPSHOTS])?;
        rustix::fs::unlinkat(&folder, format!("{id}{SUFFIX}"), AtFlags::empty())
            .and_then(|()| rustix::fs::fsync(&folder))
            .map_err(|e| self.cannot_write(SNAPSHOTS, e.into()))
    }

    /// Opens the bytes of a blob; `None` when they are missing.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Option<File>> {
        let names = blob_folder(digest);
        let Some(folder) = self.folder(&names)? else { return Ok(None) };
        let path: PathBuf = self.0.path.join(names.join("/")).join(digest.hex());
        open_file(&folder, digest.hex(), &path)
    }

    /// The size of the bytes of a blob; `None` when they are missing, or something else is there.
    pub(super) fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let Some(folder) = self.folder(&blob_folder(digest))? else { return Ok(None) };
        match rustix::fs::statat(&folder, digest.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() => {
                Ok(Some(u64::try_from(stat.st_size).unwrap_or(0)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::io("cannot look at a blob of the backups", &self.0.path, e.into())),
        }
    }
}

/// The folders above the bytes of a blob.
pub(super) fn blob_folder(digest: &Digest) -> [&str; 3] {
    [BLOBS, digest.algorithm().name(), &digest.hex()[..2]]
}

/// The name of the bytes of a blob that were moved away.
fn aside(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn of_link(path: &Path) -> Error {
    Error::invalid("a link or another file is in the place of a part of the backups, and is not followed")
        .with_context("path", path.display())
}

/// The names in a folder.
pub(super) fn names(folder: &OwnedFd, path: &Path) -> Result<Vec<String>> {
    let cannot = |e: Errno| Error::io("cannot list the folder", path, e.into());
    let mut found = Vec::new();
    for entry in Dir::read_from(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            found.push(name.into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Opens a regular file; `None` when there is nothing.
fn open_file(folder: &OwnedFd, name: &str, path: &Path) -> Result<Option<File>> {
    let file = match rustix::fs::openat(folder, name, READ, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(of_link(path)),
        Err(e) => return Err(Error::io("cannot open the file", path, e.into())),
    };
    let meta = file.metadata().map_err(|e| Error::io("cannot open the file", path, e))?;
    if meta.is_file() { Ok(Some(file)) } else { Err(of_link(path)) }
}

/// A file that has no name yet. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) file: File,
    tmp: OwnedFd,
    name: Option<String>,
}

impl NewFile {
    /// Gives the file its name, and syncs the folder. The caller has synced the content.
    pub(super) fn persist(self, folder: &OwnedFd, name: &str) -> std::io::Result<()> {
        self.rename(folder, name)?;
        Ok(rustix::fs::fsync(folder)?)
    }

    /// Gives the file its name, which is on the disk once the folder is synced.
    pub(super) fn rename(mut self, folder: &OwnedFd, name: &str) -> std::io::Result<()> {
        if let Some(from) = &self.name {
            rustix::fs::renameat(&self.tmp, from.as_str(), folder, name)?;
        }
        self.name = None;
        Ok(())
    }

    /// Another handle on the file, which reads from its begin.
    pub(super) fn reopen(&self) -> std::io::Result<FromBegin> {
        FromBegin::of(&self.file)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What stays is removed by the next one that has the lock.
            let _ = rustix::fs::unlinkat(&self.tmp, name.as_str(), AtFlags::empty());
        }
    }
}

/// Another handle on an open file, which reads from its begin, whatever the others read and write meanwhile.
#[derive(Debug)]
pub(super) struct FromBegin {
    file: File,
    at: u64,
}

impl FromBegin {
    pub(super) fn of(file: &File) -> std::io::Result<Self> {
        Ok(Self { file: file.try_clone()?, at: 0 })
    }
}

impl std::io::Read for FromBegin {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
