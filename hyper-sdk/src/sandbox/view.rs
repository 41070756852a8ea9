//! Trees as the helper sees them: detached overlay mounts, and paths inside them.
//!
//! A tree is a descriptor of its root directory. Paths within it are looked up as if it were the root of the system
//! (`openat2` with `RESOLVE_IN_ROOT`): no symlink leads out.

use super::{Context, Isolation, RootFs, sys};
use crate::layer::open_resolved;
use crate::{Error, ErrorKind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Opens a tree. An overlay is mounted, detached, for as long as the descriptor is open.
pub(crate) fn open(rootfs: &RootFs) -> Result<OwnedFd> {
    match rootfs {
        RootFs::Overlay { lowers, upper } => overlay(lowers, upper.as_ref()),
        RootFs::Folder { path, .. } => open_folder(path),
    }
}

/// An empty folder, where nothing can be made. Without the right to mount it is made beside the tree and removed again.
pub(crate) fn empty_folder(beside: &RootFs, context: Context) -> Result<OwnedFd> {
    let place = match beside {
        RootFs::Folder { path, .. } if context.isolation == Isolation::None => {
            path.with_extension(format!("empty-{}", sys::own_pid()))
        }
        _ => return tmpfs(&[("mode", "0755")], MountAttrFlags::empty()),
    };
    let failed = |e| Error::io("cannot make an empty folder", &place, e);
    std::fs::create_dir(&place).map_err(failed)?;
    let opened = open_folder(&place);
    std::fs::remove_dir(&place).map_err(failed)?;
    opened
}

/// Opens a folder of the host; a symlink as the last part is not followed.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
        .map_err(|e| Error::io("cannot open a folder", path, e.into()))
}

/// A path of an open file that is valid in every mount namespace.
pub(crate) fn fd_path(file: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// A detached tmpfs.
pub(crate) fn tmpfs(options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    new_mount("tmpfs", options, attributes).map_err(|e| Error::io("cannot mount a tmpfs", "tmpfs", e.into()))
}

/// A detached file system of any type.
pub(crate) fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // The name in `df` and in the list of mounts.
    fsconfig_set_string(&context, "source", kind)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Whether this kernel allows overlay mounts at all, or why not; the file system of the layers can still refuse.
pub(crate) fn can_overlay() -> std::result::Result<(), String> {
    let probe = || -> Result<()> {
        let memory = tmpfs(&[], MountAttrFlags::empty())?;
        let mut folders = Vec::new();
        for name in ["a", "b"] {
            rustix::fs::mkdirat(&memory, name, Mode::RWXU).map_err(std::io::Error::from)?;
            folders.push(fd_path(&memory).join(name));
        }
        overlay(&folders, None).map(drop)
    };
    probe().map_err(|e| match std::error::Error::source(&e) {
        Some(cause) => format!("the kernel refuses overlays: {cause}"),
        None => format!("the kernel refuses overlays: {}", e.message()),
    })
}

/// A detached overlay of `lowers`, topmost first. It is mounted `nodev`: the helper opens no device of an image.
pub(crate) fn overlay(lowers: &[PathBuf], upper: Option<&(PathBuf, PathBuf)>) -> Result<OwnedFd> {
    let mut lowers = lowers.to_vec();
    // A read-only overlay needs at least two layers, a writable one at least one. An empty layer is added if needed.
    let wanted = if upper.is_some() { 1 } else { 2 };
    // Kept open until the overlay refers to it.
    let memory =
        if lowers.len() < wanted { Some(tmpfs(&[("mode", "0755")], MountAttrFlags::empty())?) } else { None };
    if let Some(memory) = &memory {
        for name in ["a", "b"].into_iter().take(wanted - lowers.len()) {
            rustix::fs::mkdirat(memory, name, Mode::from_raw_mode(0o755)).map_err(std::io::Error::from)?;
            lowers.push(fd_path(memory).join(name));
        }
    }
    let result = overlay_by_parts(&lowers, upper).or_else(|e| match e {
        // Before Linux 6.5 layers cannot be added one by one.
        Errno::INVAL | Errno::NOSYS => overlay_by_text(&lowers, upper),
        e => Err(e),
    });
    drop(memory);
    result.map_err(|e| {
        let first = upper.map(|(upper, _)| upper.as_path()).or(lowers.first().map(PathBuf::as_path));
        let error =
            Error::io("cannot mount an overlay of the layers", first.unwrap_or(Path::new("/")), e.into());
        match lowers.iter().find(|lower| !lower.is_dir()) {
            Some(lower) => error.with_context("detail", format!("the layer {} is missing", lower.display())),
            None => error,
        }
    })
}

fn overlay_by_parts(lowers: &[PathBuf], upper: Option<&(PathBuf, PathBuf)>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    fsconfig_set_flag(&context, "userxattr")?;
    for lower in lowers {
        fsconfig_set_string(&context, "lowerdir+", lower.as_path())?;
    }
    if let Some((upper, work)) = upper {
        fsconfig_set_string(&context, "upperdir", upper.as_path())?;
        fsconfig_set_string(&context, "workdir", work.as_path())?;
        // A step that calls fsync (package managers do, for each file) need not wait: snapshots are synced later.
        fsconfig_set_flag(&context, "volatile")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// For older kernels: one line of options, which must fit a page. The overlay is mounted over a layer's own folder, in
/// a mount namespace of this operation, and cloned from there.
fn overlay_by_text(lowers: &[PathBuf], upper: Option<&(PathBuf, PathBuf)>) -> rustix::io::Result<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNS).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::PERM))?;
    // Relative paths are short: all layers live in one folder.
    let base =
        lowers.iter().find_map(|lower| lower.parent().and_then(Path::parent)).unwrap_or(Path::new("/"));
    rustix::process::chdir(base)?;
    let short =
        |path: &Path| path.strip_prefix(base).unwrap_or(path).display().to_string().replace(':', "\\:");
    let mut options =
        format!("userxattr,lowerdir={}", lowers.iter().map(|l| short(l)).collect::<Vec<_>>().join(":"));
    if let Some((upper, work)) = upper {
        options.push_str(&format!(",upperdir={},workdir={},volatile", short(upper), short(work)));
    }
    if options.len() >= 4096 {
        return Err(Errno::NAMETOOLONG);
    }
    let place = upper.map_or(&lowers[0], |(upper, _)| upper);
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("overlay", place, "overlay", MountFlags::NODEV, options.as_c_str())?;
    let tree = open_tree(CWD, place, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    rustix::mount::unmount(place, UnmountFlags::DETACH)?;
    Ok(tree)
}

/// Opens a path within a tree.
pub(crate) fn open_in(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = path.as_ref();
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    open_resolved(root, path, flags, ResolveFlags::IN_ROOT)
}

/// The content of a regular file of a tree; `None` if there is none.
pub(crate) fn read_file(root: BorrowedFd<'_>, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = |e: Errno| Error::io("cannot read a file of the image", path, e.into());
    let place = match open_in(root, path, OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    // Only regular files are opened: a pipe would block, and opening a device of the host can have side effects.
    let stat = rustix::fs::fstat(&place).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let file =
        rustix::fs::open(fd_path(&place), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("cannot read a file of the image", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("a file of the image has more than {limit} bytes"),
        )
        .with_context("path", path));
    }
    Ok(Some(bytes))
}
