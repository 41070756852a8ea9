//! Operations on whole trees inside the helper's namespace: unpack, diff, pack, copy, export, remove.
//!
//! With a single id, files cannot have the owners of an image: [`records`] keeps them.

use super::RootFs;
use super::copied_folders::CopiedFolders;
use super::{Context, Identity, records, view};
use crate::layer::copy::{CopyRequest, SourceKind, SourceRoot, index_of, tree_of};
use crate::layer::{
    ApplyOptions, ApplyStyle, DevicePolicy, DiffOptions, FileTime, LayerPath, LayerWriter, OwnerPolicy,
    TimesTable, apply as apply_at_once, diff_copy, diff_overlay, diff_trees, pack as pack_layer, unpack,
    write_folder,
};
use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most files of a cache that are unpacked: their list is in memory.
const MAX_CACHE_FILES: usize = 4_000_000;

/// An archive without entries.
const EMPTY_TAR: &[u8] = &[0; 1024];

/// Unpacks the layer `tar` into `target`; with `plain` into a whole tree. `times` is the file with the exact times of the
/// layer. With `any_owner`, files whose owner cannot be set belong to root. `lowers` returns the layers below when the
/// rest is done, topmost first.
pub(crate) fn apply<R: Read>(
    target: &Path,
    plain: bool,
    times: Option<&Path>,
    any_owner: bool,
    mut tar: R,
    lowers: impl FnOnce(R) -> Result<Vec<PathBuf>>,
    context: Context,
) -> Result<()> {
    let style = if plain { ApplyStyle::Plain } else { ApplyStyle::Overlay };
    let mut options = apply_options(style, &[], context);
    if any_owner && options.owners == OwnerPolicy::Keep {
        options.owners = OwnerPolicy::KeepMapped;
    }
    if let Some(path) = times {
        let bytes =
            std::fs::read(path).map_err(|e| Error::io("cannot read the times of a layer", path, e))?;
        options.times = Some(Arc::new(TimesTable::from_bytes(&bytes)?));
    }
    let unpacked = unpack(&mut tar, target, &options)?;
    let lowers = lowers(tar)?;
    let applied = unpacked.finish(&lowers)?;
    if context.identity == Identity::Single {
        records::save_layer(target, &lowers, plain, &applied.index)?;
    }
    Ok(())
}

/// Joins layers: see [`crate::layer::join`].
pub(crate) fn join(
    run: &[PathBuf],
    rest: &[PathBuf],
    target: &Path,
    limit: usize,
    context: Context,
) -> Result<Option<usize>> {
    let large = crate::layer::join(run, rest, target, limit)?;
    if large.is_none() && context.identity == Identity::Single {
        records::save_join(target, run)?;
    }
    Ok(large)
}

fn apply_options(style: ApplyStyle, lowers: &[PathBuf], context: Context) -> ApplyOptions {
    let mut options = ApplyOptions::new(style);
    options.lowers = lowers.to_vec();
    options.digests = false;
    options.all_lowers = true;
    if !context.devices {
        options.devices = DevicePolicy::Skip;
    }
    if context.identity == Identity::Single {
        options.owners = OwnerPolicy::Record;
    }
    options
}

/// Gives the empty folder `upper` the metadata that the root has after unpacking a layer without a root entry on
/// `lower`.
pub(crate) fn inherit_root(lower: &Path, upper: &Path, context: Context) -> Result<()> {
    // This is the code for layers, so that a step and its layer have the same root.
    let options = apply_options(ApplyStyle::Overlay, &[lower.to_owned()], context);
    apply_at_once(EMPTY_TAR, upper, &options).map(drop)
}

/// Writes the layer of `upper` on `lowers`, with the times as they are.
pub(crate) fn diff(
    upper: &Path,
    lowers: &[PathBuf],
    plain: bool,
    output: &mut impl Write,
    context: Context,
) -> Result<()> {
    let recorded = match context.identity {
        Identity::Full => None,
        Identity::Single => Some(records::Recorded::of_step(upper, lowers)?),
    };
    let owner = |path: &LayerPath, stat: &rustix::fs::Stat, own| match &recorded {
        Some(recorded) => recorded.owner(path, stat, own),
        None => (stat.st_uid, stat.st_gid),
    };
    let options = DiffOptions {
        owner: if recorded.is_some() { Some(&owner) } else { None },
        time: None,
        portable: false,
    };
    let mut writer = LayerWriter::exact(output);
    if plain {
        let Some(lower) = lowers.first() else {
            return Err(Error::internal("a tree has nothing to be compared with"));
        };
        match CopiedFolders::load(upper)? {
            Some(copied) => {
                let is_copy = |old: BorrowedFd<'_>, new: BorrowedFd<'_>| copied.has(old, new);
                diff_copy(lower, upper, Some(&is_copy), &mut writer, &options)?;
            }
            None => diff_copy(lower, upper, None, &mut writer, &options)?,
        }
    } else {
        diff_overlay(upper, lowers, &mut writer, &options)?;
    }
    let (_, index) = writer.finish()?;
    if context.identity == Identity::Single {
        records::save_layer(upper, if plain { &[] } else { lowers }, plain, &index)?;
    }
    if let Some(lower) = lowers.first()
        && index.get(&LayerPath::root()).is_none()
    {
        keep_root_time(lower, upper)?;
    }
    Ok(())
}

/// Sets the time of a root that is left out of the layer to the time that it has after unpacking.
fn keep_root_time(lower: &Path, upper: &Path) -> Result<()> {
    let failed = |path: &Path, e: Errno| Error::io("cannot restore the time of a tree", path, e.into());
    let stat = rustix::fs::stat(lower).map_err(|e| failed(lower, e))?;
    rustix::fs::utimensat(CWD, upper, &times(&stat), AtFlags::empty()).map_err(|e| failed(upper, e))
}

/// Runs a [`CopyRequest`] and writes its layer, with the times as they are. A source with `true` is a build context.
pub(crate) fn file_operation(
    sources: &[(RootFs, bool)],
    plan: &CopyRequest,
    output: &mut impl Write,
    context: Context,
) -> Result<()> {
    let mut open = Vec::new();
    let mut roots = Vec::new();
    for (source, is_context) in sources {
        let tree = view::open(source)?;
        let kind = if *is_context { SourceKind::Context } else { SourceKind::RootFilesystem };
        let mut root = SourceRoot::open(&view::fd_path(&tree), kind, None)?;
        if context.identity == Identity::Single && kind == SourceKind::RootFilesystem {
            let recorded = recorded_of(source)?;
            let top = shown_path(tree.as_fd()).map_err(std::io::Error::from)?;
            root = root.with_owners(Box::new(move |folder, name, stat| {
                recorded.owner_at(&top, folder, name, stat).or_else(|| Some(records::seen_owner(stat)))
            }));
        }
        roots.push(Arc::new(root));
        open.push(tree);
    }
    let mut writer = LayerWriter::exact(output);
    plan.run(&roots, &mut writer)?;
    writer.finish().map(drop)
}

/// Writes the files below `path` of a tree as one tar, with times in whole seconds. Files in the layers of the indexes
/// `published` (lowest first) have the times of those layers, and with `owners` their owners.
pub(crate) fn export(
    rootfs: &RootFs,
    path: &str,
    published: &[PathBuf],
    owners: bool,
    output: &mut impl Write,
    context: Context,
) -> Result<()> {
    let layers = tree_of(published)?;
    let top = LayerPath::from_archive(path.as_bytes())?;
    let of_layer = |below: &LayerPath| {
        let node = layers.lookup(&top.join(below.as_bytes()).ok()?)?;
        // A directory that only its entries imply has the metadata of the tree.
        node.layer?;
        Some(layers.link_target(node).unwrap_or(node).entry)
    };
    let time = |below: &LayerPath| of_layer(below).map(|entry| FileTime::of(entry.mtime));
    let tree = view::open(rootfs)?;
    let folder = view::open_in(tree.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|e| Error::io("the folder to export does not exist", path, e.into()))?;
    let nothing = view::empty_folder(rootfs, context)?;
    let mut writer = LayerWriter::new(output, None);
    let recorded = match context.identity {
        Identity::Full => None,
        Identity::Single => Some(recorded_of(rootfs)?),
    };
    // Records use the path in the whole tree, with its links resolved.
    let above = match &recorded {
        Some(_) => path_within(tree.as_fd(), folder.as_fd())?,
        None => LayerPath::root(),
    };
    let recorded_owner = |path: &LayerPath, stat: &rustix::fs::Stat, own| match &recorded {
        Some(recorded) if path.is_root() => recorded.owner(&above, stat, own),
        Some(recorded) => match above.join(path.as_bytes()) {
            Ok(path) => recorded.owner(&path, stat, own),
            Err(_) => own.unwrap_or((stat.st_uid, stat.st_gid)),
        },
        None => (stat.st_uid, stat.st_gid),
    };
    let owner = |path: &LayerPath, stat: &rustix::fs::Stat, own| match of_layer(path).filter(|_| owners) {
        Some(entry) => (entry.uid, entry.gid),
        None => recorded_owner(path, stat, own),
    };
    let has_owners = owners || recorded.is_some();
    let options = DiffOptions {
        owner: if has_owners { Some(&owner) } else { None },
        time: Some(&time),
        portable: false,
    };
    diff_trees(&view::fd_path(&nothing), &view::fd_path(&folder), &mut writer, &options)?;
    writer.finish().map(drop)
}

/// Writes the layer of an index once more, with its files from a folder.
pub(crate) fn pack(files: &Path, index: &Path, output: &mut impl Write) -> Result<()> {
    let mut writer = LayerWriter::new(output, None);
    pack_layer(&index_of(index)?, files, &mut writer)?;
    writer.finish().map(drop)
}

/// Writes the files of a cache folder as an archive, with exact times.
pub(crate) fn pack_cache(folder: &Path, output: &mut impl Write, context: Context) -> Result<()> {
    // With a single id, files and folders have their owners in an attribute.
    let owner =
        |_: &LayerPath, stat: &rustix::fs::Stat, own: Option<_>| own.unwrap_or(records::seen_owner(stat));
    let recorded = context.identity == Identity::Single;
    let options =
        DiffOptions { owner: if recorded { Some(&owner) } else { None }, time: None, portable: true };
    let mut writer = LayerWriter::of_files(output);
    write_folder(folder, &mut writer, &options)?;
    writer.finish().map(drop)
}

/// Unpacks what [`pack_cache`] wrote, or somebody else, into an empty folder. Files whose owner cannot be set belong to root.
pub(crate) fn unpack_cache(archive: impl Read, target: &Path, context: Context) -> Result<()> {
    let mut options = apply_options(ApplyStyle::Plain, &[], context);
    options.whiteouts = false;
    options.max_entries = Some(MAX_CACHE_FILES);
    if options.owners == OwnerPolicy::Keep {
        options.owners = OwnerPolicy::KeepMapped;
    }
    apply_at_once(archive, target, &options).map(drop)
}

/// The owners that are recorded for a tree.
fn recorded_of(rootfs: &RootFs) -> Result<records::Recorded> {
    match rootfs {
        RootFs::Overlay { lowers, .. } => records::Recorded::of_layers(lowers),
        RootFs::Folder { path, .. } => records::Recorded::of_layers(std::slice::from_ref(path)),
    }
}

/// The path that the kernel shows for an open file.
fn shown_path(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<u8>> {
    rustix::fs::readlink(view::fd_path(&file), Vec::new()).map(std::ffi::CString::into_bytes)
}

/// The path of a folder within its tree.
fn path_within(tree: BorrowedFd<'_>, folder: BorrowedFd<'_>) -> Result<LayerPath> {
    let shown = |file| shown_path(file).map_err(|e| Error::from(std::io::Error::from(e)));
    let (tree, folder) = (shown(tree)?, shown(folder)?);
    let below = folder.strip_prefix(tree.as_slice()).unwrap_or_default();
    match below.strip_prefix(b"/").unwrap_or(below) {
        b"" => Ok(LayerPath::root()),
        below => LayerPath::new(below),
    }
}

/// Removes a whole tree, whatever the modes of its folders. A missing tree is not an error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    // A process of a cancelled step may still write for a moment.
    let mut last = None;
    for _ in 0..50 {
        match crate::remove_tree::remove_entry(path) {
            Ok(()) => return Ok(()),
            Err(e @ (Errno::NOTEMPTY | Errno::BUSY)) => last = Some(e),
            Err(e) => return Err(Error::io("cannot remove a tree", path, e.into())),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(Error::io("cannot remove a tree", path, last.unwrap_or(Errno::BUSY).into()))
}

fn list(folder: &OwnedFd) -> rustix::io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Copies the content and the metadata of one folder into another, which is empty. Data is shared if the file system
/// supports it (reflink), and hard links are kept. Devices are left out where only the host's root can make them.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    copy_with_record(from, to).map(drop)
}

/// The same, and says which folders it made.
pub(crate) fn copy_with_record(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<CopiedFolders> {
    let failed = |e: Errno| Error::from(std::io::Error::from(e)).with_context("detail", "copying a tree");
    let (mut links, mut folders) = (HashMap::new(), CopiedFolders::default());
    copy_below(from, to, &mut links, &mut folders).map_err(failed)?;
    let stat = rustix::fs::statat(from, "", AtFlags::EMPTY_PATH).map_err(failed)?;
    copy_metadata(from, to, &stat).map_err(failed)?;
    Ok(folders)
}

fn copy_below(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    links: &mut HashMap<(u64, u64), OwnedFd>,
    folders: &mut CopiedFolders,
) -> rustix::io::Result<()> {
    // Opened again, since the descriptor may be an `O_PATH` one.
    let from =
        rustix::fs::openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for name in list(&from)? {
        let name: &CStr = &name;
        let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = links.get(&id)
        {
            rustix::fs::linkat(CWD, view::fd_path(first), to, name, AtFlags::SYMLINK_FOLLOW)?;
            continue;
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(&from, name, flags, Mode::empty())?;
                let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
                folders.push(copy.as_fd(), stat.st_ino)?;
                copy_below(inner.as_fd(), copy.as_fd(), links, folders)?;
                copy_metadata(inner.as_fd(), copy.as_fd(), &stat)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(&from, name, flags, Mode::empty())?;
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                copy_data(&source, &copy)?;
                copy_metadata(source.as_fd(), copy.as_fd(), &stat)?;
                if stat.st_nlink > 1 {
                    links.insert(id, copy);
                }
            }
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(&from, name, Vec::new())?;
                rustix::fs::symlinkat(text, to, name)?;
                copy_owner_and_time(to, name, &stat)?;
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                match rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev) {
                    Err(Errno::PERM) => continue,
                    made => made?,
                }
                copy_owner_and_time(to, name, &stat)?;
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
            }
        }
    }
    Ok(())
}

/// Copies one open file into another, with its mode, owner, time and extended attributes.
pub(crate) fn copy_file(source: &OwnedFd, copy: &OwnedFd, stat: &rustix::fs::Stat) -> Result<()> {
    copy_data(source, copy)
        .and_then(|()| copy_metadata(source.as_fd(), copy.as_fd(), stat))
        .map_err(|e| Error::from(std::io::Error::from(e)).with_context("detail", "copying a file"))
}

fn copy_data(source: &OwnedFd, copy: &OwnedFd) -> rustix::io::Result<()> {
    if rustix::fs::ioctl_ficlone(copy, source).is_ok() {
        return Ok(());
    }
    loop {
        match rustix::fs::copy_file_range(source, None, copy, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
            Err(e) => return Err(e),
        }
    }
    let duplicate = |fd: &OwnedFd| fd.try_clone().map(std::fs::File::from);
    let copied = duplicate(source).and_then(|mut from| std::io::copy(&mut from, &mut duplicate(copy)?));
    copied.map(drop).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

/// An owner that may not be set is ignored: with a single id there is no other.
fn set_owner(folder: BorrowedFd<'_>, name: &CStr, stat: &rustix::fs::Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    match rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH) {
        Err(Errno::INVAL | Errno::PERM) => Ok(()),
        result => result,
    }
}

fn copy_owner_and_time(
    folder: BorrowedFd<'_>,
    name: &CStr,
    stat: &rustix::fs::Stat,
) -> rustix::io::Result<()> {
    set_owner(folder, name, stat)?;
    rustix::fs::utimensat(folder, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_metadata(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &rustix::fs::Stat,
) -> rustix::io::Result<()> {
    set_owner(to, c"", stat)?;
    copy_attributes(from, to)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(to, &times(stat))
}

fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // Attributes cannot be read from `O_PATH` descriptors directly.
    let from = view::fd_path(&from);
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::listxattr(&from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut value = vec![0_u8; 64 << 10];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = rustix::fs::getxattr(&from, name, &mut value[..])?;
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::fsetxattr(to, name, &value[..length], flags) {
            // Security labels of the host, and attribute namespaces that need its root.
            Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}
