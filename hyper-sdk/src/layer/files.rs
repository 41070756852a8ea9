//! Path-safe access to directory trees: everything goes through directory descriptors and `openat2`, so that nothing
//! in a tree, symlinks and `..` included, leads out of it.

use super::entry::{Entry, EntryKind, LayerPath, escape};
use super::file_time::FileTime;
use crate::{Error, ErrorKind, Result};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OVERLAY_PREFIXES: [&[u8]; 2] = [b"user.overlay.", b"trusted.overlay."];

/// The attribute that makes a directory of an upper layer opaque, if overlay is mounted with `userxattr`.
pub(super) const OPAQUE_XATTR: &[u8] = b"user.overlay.opaque";

/// An error of the system about an entry.
pub(super) fn failed(what: &str, path: &LayerPath, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOSPC | Errno::DQUOT => ErrorKind::StorageFull,
        _ => ErrorKind::Io,
    };
    Error::new(kind, what).with_context("entry", path).with_source(std::io::Error::from(errno))
}

/// Whether an attribute belongs to overlay. Such attributes are never read from a layer or written into one.
pub(super) fn is_overlay_xattr(name: &[u8]) -> bool {
    OVERLAY_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Opens the top of a tree. The path is trusted and may contain symlinks.
pub(super) fn open_top(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| Error::io("cannot open the directory", path, e.into()))
}

/// Opens something below the top of a tree without following a symlink anywhere.
pub(super) fn open_below(top: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
    let flags = flags | OFlags::NOFOLLOW;
    // With `O_PATH` a final symlink itself can be opened, so the kernel must allow it then.
    open_resolved(
        top,
        path,
        flags,
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )
}

/// Opens a path with restrictions on its lookup (`openat2`), close-on-exec. The kernel gives up a restricted lookup when
/// a rename or a mount anywhere on the system interferes, so this tries again, for some seconds at most.
pub(crate) fn open_resolved(
    folder: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let (folder, path, flags) = (folder.as_fd(), path.as_ref(), flags | OFlags::CLOEXEC);
    let mut tries = 0_u32;
    loop {
        match rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if tries < 5000 => {
                tries += 1;
                // Something else may keep the file from being opened: a lease of another program, for one.
                if tries > 100 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
            other => return other,
        }
    }
}

/// The status of one name in a directory, symlinks not followed.
pub(super) fn status(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
}

/// The time of the last change of the content.
#[allow(
    clippy::unnecessary_fallible_conversions,
    clippy::useless_conversion,
    reason = "the width differs by platform"
)]
pub(super) fn time_of(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// The time of the last change of the file itself, which programs cannot set.
#[allow(
    clippy::unnecessary_fallible_conversions,
    clippy::useless_conversion,
    reason = "the width differs by platform"
)]
pub(super) fn change_time_of(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_ctime, nanoseconds: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) }
}

pub(super) fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether this is a whiteout of overlay.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    type_of(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The names in a directory, sorted.
pub(super) fn names(directory: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for item in rustix::fs::Dir::read_from(directory)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a name and everything below it; a missing name is not an error.
pub(super) fn remove_all(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let os_name = OsStr::from_bytes(name);
    match rustix::fs::unlinkat(directory, os_name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    crate::remove_tree::remove_tree_at(directory, name)
}

/// Gives the owner of a directory full access to it, whatever its mode.
pub(super) fn let_owner_in(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let directory = open_below(parent, name, OFlags::PATH | OFlags::DIRECTORY)?;
    let mode = rustix::fs::statat(&directory, c"", AtFlags::EMPTY_PATH)?.st_mode & 0o7777;
    if mode & 0o700 == 0o700 {
        return Ok(());
    }
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    match rustix::fs::chmod(path, Mode::from_raw_mode(mode | 0o700)) {
        // The directory belongs to another user: its group or other bits may still allow access.
        Err(Errno::PERM) => Ok(()),
        done => done,
    }
}

/// The path of a name for calls that take no descriptor; the `l` variants do not follow its last part.
fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let name = if name.is_empty() { b"." } else { name };
    [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat()
}

/// The extended attributes of a name (or, when it is empty, of the directory), overlay's own included.
pub(super) fn xattrs(
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> rustix::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = proc_path(directory, name);
    let mut found = BTreeMap::new();
    let list = match grow(|buffer| rustix::fs::llistxattr(path.as_slice(), buffer)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(found),
        Err(e) => return Err(e),
    };
    for attribute in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match grow(|buffer| rustix::fs::lgetxattr(path.as_slice(), attribute, buffer)) {
            Ok(value) => {
                found.insert(attribute.to_vec(), value);
            }
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn grow(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(size) => {
                buffer.truncate(size);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 16, 0),
            Err(e) => return Err(e),
        }
    }
}

/// Sets an extended attribute of a name, or of the directory when the name is empty.
pub(super) fn set_xattr(
    directory: BorrowedFd<'_>,
    name: &[u8],
    key: &[u8],
    value: &[u8],
    path: &LayerPath,
) -> Result<()> {
    let target = proc_path(directory, name);
    rustix::fs::lsetxattr(target.as_slice(), key, value, rustix::fs::XattrFlags::empty()).map_err(|e| {
        let why = match e {
            Errno::OPNOTSUPP => "the file system cannot keep an extended attribute of the layer",
            Errno::PERM => "an extended attribute of the layer may not be set without more privilege",
            _ => "cannot set an extended attribute of the layer",
        };
        let kind = if e == Errno::OPNOTSUPP { ErrorKind::Unsupported } else { ErrorKind::Io };
        failed(why, path, e).with_kind(kind).with_context("attribute", escape(key))
    })
}

/// Removes an extended attribute of a directory.
pub(super) fn remove_xattr(directory: BorrowedFd<'_>, key: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::lremovexattr(proc_path(directory, b"").as_slice(), key)
}

/// The lower layers of an overlay, topmost first, searched as overlay does.
#[derive(Debug, Default)]
pub(super) struct Lowers(Vec<OwnedFd>);

/// The file that the lower layers show at a path.
#[derive(Debug)]
pub(super) struct LowerNode {
    /// Its parent directory (the root itself for the root).
    pub(super) parent: OwnedFd,
    /// Its name; empty for the root.
    pub(super) name: Vec<u8>,
    pub(super) stat: Stat,
}

impl Lowers {
    pub(super) fn open(paths: &[std::path::PathBuf]) -> Result<Self> {
        paths.iter().map(|p| open_top(p)).collect::<Result<_>>().map(Self)
    }

    /// The tops of the layers.
    pub(super) fn tops(&self) -> &[OwnedFd] {
        &self.0
    }

    /// The file that the lower layers show at the path, if any.
    pub(super) fn find(&self, path: &LayerPath) -> Result<Option<LowerNode>> {
        for top in &self.0 {
            match Self::find_in(top, path).map_err(|e| failed("cannot search a lower layer", path, e))? {
                Found::Node(node) => return Ok(Some(node)),
                Found::Hidden => return Ok(None),
                Found::Nothing => {}
            }
        }
        Ok(None)
    }

    fn find_in(top: &OwnedFd, path: &LayerPath) -> rustix::io::Result<Found> {
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        if path.is_root() {
            let stat = rustix::fs::fstat(top)?;
            return Ok(Found::Node(LowerNode {
                parent: rustix::io::fcntl_dupfd_cloexec(top, 0)?,
                name: Vec::new(),
                stat,
            }));
        }
        let parent_path = path.parent().unwrap_or_default();
        match open_below(top.as_fd(), parent_path.as_bytes(), directory) {
            Ok(parent) => match status(&parent, path.file_name()) {
                Ok(stat) if is_whiteout(&stat) => return Ok(Found::Hidden),
                Ok(stat) => {
                    return Ok(Found::Node(LowerNode { parent, name: path.file_name().to_vec(), stat }));
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            },
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Hidden),
            Err(e) => return Err(e),
        }
        for above in path.ancestors() {
            match open_below(top.as_fd(), above.as_bytes(), directory) {
                Ok(fd) if is_opaque(fd.as_fd())? => return Ok(Found::Hidden),
                Ok(_) => {}
                Err(Errno::NOENT) => break,
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Hidden),
                Err(e) => return Err(e),
            }
        }
        Ok(Found::Nothing)
    }
}

enum Found {
    Node(LowerNode),
    Hidden,
    Nothing,
}

/// Whether an overlay that is mounted with `userxattr` treats the directory as opaque. Such an overlay ignores the
/// attributes `trusted.overlay.*`, which any program may set.
pub(super) fn is_opaque(directory: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut value = [0; 4];
    match rustix::fs::fgetxattr(directory, OPAQUE_XATTR, &mut value) {
        Ok(1) => Ok(value[0] == b'y'),
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE | Errno::PERM) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Creates an entry without its content; fails with `EXIST` when the name exists.
pub(super) fn make(entry: &Entry, parent: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
    let name = OsStr::from_bytes(entry.path.file_name());
    let private = Mode::RUSR | Mode::WUSR;
    let device = |kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(parent, name, kind, private, device).map(|()| None)
    };
    match &entry.kind {
        EntryKind::File { .. } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, private).map(Some)
        }
        EntryKind::Symlink { target } => {
            rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name).map(|()| None)
        }
        EntryKind::CharDevice { major, minor } => device(FileType::CharacterDevice, *major, *minor),
        EntryKind::BlockDevice { major, minor } => device(FileType::BlockDevice, *major, *minor),
        EntryKind::Fifo => rustix::fs::mkfifoat(parent, name, private).map(|()| None),
        EntryKind::Directory
        | EntryKind::Hardlink { .. }
        | EntryKind::Whiteout
        | EntryKind::OpaqueWhiteout => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[test]
    fn concurrent_renames_do_not_fail_a_lookup() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let top = open_top(folder.path()).unwrap();
        let path = format!("{}a", "a/b/../../".repeat(100));
        let (renames, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for name in ["x", "y"] {
                let (from, to) = (folder.path().join(name), folder.path().join(format!("{name}2")));
                std::fs::create_dir(&from).unwrap();
                let (renames, ended) = (&renames, &ended);
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) {
                        std::fs::rename(&from, &to).unwrap();
                        std::fs::rename(&to, &from).unwrap();
                        renames.fetch_add(2, Ordering::Relaxed);
                    }
                });
            }
            let mut opened = Ok(());
            while opened.is_ok() && renames.load(Ordering::Relaxed) < 100_000 {
                opened = open_resolved(&top, &path, OFlags::PATH, ResolveFlags::IN_ROOT).map(drop);
            }
            ended.store(true, Ordering::Relaxed);
            opened.unwrap();
        });
    }
}
