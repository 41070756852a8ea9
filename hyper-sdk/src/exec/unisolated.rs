//! A step without namespaces and mounts, in a `chroot`: for containers that permit neither.
//!
//! Its mounts are files and folders at their places: see [`super::places`]. Binds are copies, caches are moved in and
//! back, and `/proc` and `/sys` are empty. What cannot be done right so is refused by name.
//!
//! Only one such step runs at a time. Everything that it started ends before its tree is put in order.

use super::above::{self, Status};
use super::mount_api::{make_device, make_file, wrong};
use super::mountpoint::{self, Kind};
use super::places::{Afterwards, Place, Places, make_folder};
use super::spec::{CacheMount, ExecMount, ExecSpec, MountSource, Network, Security};
use super::{cache_mount, command, mounts, socket};
use crate::layer::ProcessUser;
use crate::sandbox::{Context, Identity, RootFs, processes, sys, tree, view};
use crate::{Error, Result};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The capabilities that a step needs: to change the root and the user, to end the processes of other users, and to
/// make the usual devices.
const NEEDED: &[u32] = &[5, 6, 7, 18, 27];
/// The file system type of memory.
const TMPFS: u64 = 0x0102_1994;

/// Runs the command of a step to its end, in the process above it. Returns the exit code.
pub(super) fn run(
    rootfs: &RootFs,
    spec: &ExecSpec,
    files: command::Output,
    status: &File,
    context: Context,
) -> Result<i32> {
    let path = check(rootfs, spec, context)?;
    // Another build may use the caches. While it is waited for, a signal ends this process.
    let _caches = lock_caches(spec)?;
    sys::block_signals(above::SIGNALS);
    let mut places = Places::open(path)?;
    let outcome = run_in(&mut places, path, spec, files, status);
    processes::end_all_below();
    let restored = places.put_back();
    outcome.and_then(|code| restored.map(|()| code))
}

/// Refuses what is not possible without mounts and namespaces. Returns the path of the tree.
fn check<'a>(rootfs: &'a RootFs, spec: &ExecSpec, context: Context) -> Result<&'a Path> {
    let without = |what: &str| Err(Error::unsupported(format!("{what} without isolation")));
    let have = sys::effective_capabilities();
    let missing: Vec<String> =
        NEEDED.iter().filter(|bit| have >> **bit & 1 == 0).map(|bit| sys::capability_name(*bit)).collect();
    if context.identity == Identity::Single || !missing.is_empty() {
        let error = Error::unsupported(
            "a step without isolation needs root and the usual capabilities of a container: run as root, or permit user \
             namespaces",
        );
        return Err(match missing.as_slice() {
            [] => error.with_context("detail", "files cannot have any owner"),
            missing => error.with_context("detail", format!("missing: {}", missing.join(", "))),
        });
    }
    if spec.network == Network::None {
        return without("a step cannot be kept from the network");
    }
    if spec.security == Security::Insecure {
        return without("`security=insecure` cannot be granted");
    }
    if spec.hostname.is_some() {
        return without("a step cannot have a host name of its own");
    }
    let RootFs::Folder { path, writable: true } = rootfs else {
        return without("a step needs a folder with its whole tree, which it may write to,");
    };
    let flags = rustix::fs::statvfs(path).map_err(wrong("cannot look at the file system of", path))?.f_flag;
    for (flag, name) in
        [(rustix::fs::StatVfsMountFlags::NODEV, "nodev"), (rustix::fs::StatVfsMountFlags::NOEXEC, "noexec")]
    {
        if flags.contains(flag) {
            return Err(Error::unsupported(format!(
                "a step without isolation cannot run on a file system that is mounted `{name}`: choose another state \
                 folder"
            ))
            .with_context("path", path.display()));
        }
    }
    let mut caches = BTreeSet::new();
    for ExecMount { target, source } in &spec.mounts {
        let refused = match source {
            MountSource::HostPath { .. } => "a path or device of the host cannot be mounted",
            MountSource::Tmpfs { size: Some(_), .. } => "the size of a tmpfs cannot be limited",
            MountSource::Cache(cache) if !caches.insert(&cache.path) => {
                "one cache cannot be mounted twice in a step"
            }
            MountSource::Secret { .. } if !is_memory(path)? => {
                return Err(Error::unsupported(
                    "a secret cannot be a file without isolation, as it would be written to a disk: use it as a variable \
                     (`env=NAME`), or a state folder in memory",
                )
                .with_context("mount", target));
            }
            _ => continue,
        };
        return without(refused).map_err(|e| e.with_context("mount", target));
    }
    Ok(path)
}

fn is_memory(path: &Path) -> Result<bool> {
    let kind = rustix::fs::statfs(path).map_err(wrong("cannot look at the file system of", path))?.f_type;
    Ok(kind as u64 == TMPFS)
}

/// Waits until no other step without isolation uses caches of the same folder: they are moved while a step runs.
fn lock_caches(spec: &ExecSpec) -> Result<Vec<OwnedFd>> {
    let folders: BTreeSet<&Path> = spec
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Cache(cache) => cache.path.parent(),
            _ => None,
        })
        .collect();
    let lock = |folder: &Path| {
        let opened = view::open_folder(folder)?;
        rustix::fs::flock(&opened, FlockOperation::LockExclusive).map_err(wrong("cannot lock", folder))?;
        Ok(opened)
    };
    folders.into_iter().map(lock).collect()
}

fn run_in(
    places: &mut Places,
    path: &Path,
    spec: &ExecSpec,
    files: command::Output,
    status: &File,
) -> Result<i32> {
    let (user, cwd) = prepare(places, spec)?;
    let root = view::open_folder(path)?;
    let command = command::Command::new(spec, user, cwd)?;
    sys::hide_memory();
    let limits = command::Limits { few_capabilities: true, root: Some(root.as_fd()), ..Default::default() };
    let child = match sys::fork()? {
        sys::Fork::Child => {
            let error = command.start(files, &limits);
            Status::Failed(error.into()).send(status);
            sys::exit_now(127);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop((files, command));
    above::wait_for(child)
}

/// Fills the places of all mounts. Returns the user and the working folder.
fn prepare(places: &mut Places, spec: &ExecSpec) -> Result<(ProcessUser, OwnedFd)> {
    let user = command::user_of(places.root(), spec)?;
    // The working folder is part of the step's result, even when a mount hides it from the step.
    working_folder(places.root(), &spec.cwd, (user.uid, user.gid))?;
    for name in ["/proc", "/sys"] {
        places.put(name, Kind::Folder, |place| make_folder(&place, 0o555).map(|_| Afterwards::Remove))?;
    }
    places.put("/dev", Kind::Folder, |place| devices(&place))?;
    for (target, content) in mounts::generated_files(spec) {
        places.put(target, Kind::File, |place| {
            make_file(place.parent, place.name, &content, 0o644, 0, 0).map(|()| Afterwards::Remove)
        })?;
    }
    for (target, mount) in mounts::by_target(&spec.mounts, &spec.cwd) {
        put(places, mount, &target).map_err(|e| e.with_context("mount", &target))?;
    }
    // A mount above may have hidden it.
    let cwd = working_folder(places.root(), &spec.cwd, (0, 0))?;
    Ok((user, cwd))
}

fn working_folder(root: BorrowedFd<'_>, cwd: &str, owner: (u32, u32)) -> Result<OwnedFd> {
    if cwd.trim_matches('/').is_empty() {
        return view::open_in(root, "/", OFlags::PATH | OFlags::DIRECTORY).map_err(wrong("cannot open", "/"));
    }
    mountpoint::open(root, cwd, Kind::Folder, Some(owner), &mut Vec::new())
        .map(|place| place.file)
        .map_err(|e| e.with_context("detail", "working folder"))
}

/// The folder `/dev` with the usual devices.
fn devices(place: &Place<'_>) -> Result<Afterwards> {
    let dev = make_folder(place, 0o755)?;
    for &(name, major, minor) in mounts::DEVICES {
        if !make_device(dev.as_fd(), name, (major, minor))? {
            return Err(Error::unsupported(
                "a step without isolation needs the usual devices, which may not be made in this container",
            )
            .with_context("path", format!("/dev/{name}")));
        }
    }
    for (name, target) in mounts::LINKS.iter().filter(|(name, _)| *name != "ptmx") {
        rustix::fs::symlinkat(*target, &dev, *name).map_err(wrong("cannot make a link in /dev", name))?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        let folder = Place { parent: dev.as_fd(), name: name.as_ref(), mode, is_new: true };
        make_folder(&folder, mode)?;
    }
    Ok(Afterwards::Remove)
}

/// Puts the content of one mount at its place.
fn put(places: &mut Places, mount: &ExecMount, target: &str) -> Result<()> {
    match &mount.source {
        MountSource::Tree { tree, path, .. } => {
            if matches!(tree, RootFs::Overlay { .. }) {
                return Err(Error::unsupported("an overlay cannot be mounted without isolation"));
            }
            copy(places, view::open(tree)?.as_fd(), path, target)
        }
        MountSource::Host { root, path, .. } => copy(places, view::open_folder(root)?.as_fd(), path, target),
        // What is written to a read-only one is discarded.
        MountSource::Cache(cache) if cache.read_only => {
            cache_mount::fill(cache)?;
            let (Some(folder), Some(name)) = (cache.path.parent(), cache.path.file_name()) else {
                return Err(Error::invalid("the path of a cache has no name"));
            };
            copy(places, view::open_folder(folder)?.as_fd(), &name.to_string_lossy(), target)
        }
        MountSource::Cache(cache) => move_cache(places, cache, target),
        MountSource::Tmpfs { .. } => places.put(target, Kind::Folder, |place| {
            // In a new folder everybody may write.
            let mode = if place.is_new { 0o1777 } else { place.mode };
            make_folder(&place, mode).map(|_| Afterwards::Remove)
        }),
        MountSource::Inline { name, content, mode } => {
            mounts::check_inline_name(name)?;
            places.put(target, Kind::Folder, |place| {
                let folder = make_folder(&place, 0o755)?;
                make_file(folder.as_fd(), name, content.as_bytes(), *mode, 0, 0).map(|()| Afterwards::Remove)
            })
        }
        MountSource::Secret { content, mode, uid, gid } => places.put(target, Kind::File, |place| {
            let mode = *mode & 0o777;
            make_file(place.parent, place.name, content.expose(), mode, *uid, *gid)
                .map(|()| Afterwards::Remove)
        }),
        MountSource::Socket { path, mode, uid, gid } => places.put(target, Kind::File, |place| {
            let name = place.name.to_string_lossy();
            socket::serve(path, place.parent, &name, *mode & 0o777, *uid, *gid).map(|()| Afterwards::Remove)
        }),
        MountSource::HostPath { .. } => {
            Err(Error::unsupported("a path or device of the host cannot be mounted without isolation"))
        }
    }
}

/// Copies a file or folder to a place. What the step writes there is discarded.
fn copy(places: &mut Places, from: BorrowedFd<'_>, path: &str, target: &str) -> Result<()> {
    let missing = |e: Errno| Error::io("the source of a mount does not exist", path, e.into());
    let stat = view::open_in(from, path, OFlags::PATH)
        .and_then(|place| rustix::fs::fstat(&place))
        .map_err(missing)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = view::open_in(from, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(missing)?;
            places.put(target, Kind::Folder, |place| {
                let folder = make_folder(&place, 0o755)?;
                tree::copy(source.as_fd(), folder.as_fd()).map(|()| Afterwards::Remove)
            })
        }
        FileType::RegularFile => {
            let source = view::open_in(from, path, OFlags::RDONLY).map_err(missing)?;
            places.put(target, Kind::File, |place| {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(place.parent, place.name, flags, Mode::RUSR)
                    .map_err(wrong("cannot make a file", target))?;
                tree::copy_file(&source, &copy, &stat).map(|()| Afterwards::Remove)
            })
        }
        _ => Err(Error::unsupported("neither a file nor a folder: it cannot be mounted without isolation")
            .with_context("source", path)),
    }
}

/// Moves the folder of a cache to its place. It is moved back after the step.
fn move_cache(places: &mut Places, cache: &CacheMount, target: &str) -> Result<()> {
    cache_mount::fill(cache)?;
    let meta = std::fs::symlink_metadata(&cache.path)
        .map_err(|e| Error::io("cannot open a cache folder", &cache.path, e))?;
    let kind = if meta.is_dir() { Kind::Folder } else { Kind::File };
    places.put(target, kind, |place| {
        match rustix::fs::renameat_with(CWD, &cache.path, place.parent, place.name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Afterwards::Return(cache.path.clone())),
            Err(Errno::XDEV) => Err(Error::unsupported(
                "without isolation, a cache and the tree of a step must be on one file system: choose another state \
                 folder",
            )
            .with_context("path", cache.path.display())),
            Err(e) => Err(wrong("cannot move a cache to its place", &cache.path)(e)),
        }
    })
}
