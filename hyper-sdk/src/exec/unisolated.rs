//! A step without namespaces and mounts, in a `chroot`: for containers that permit neither.
//!
//! Its mounts are files and folders at their places: see [`super::places`]. Binds are copies, caches are moved in and
//! back (see [`crate::sandbox::lent`]), and `/proc` and `/sys` are empty. What cannot be done right so is refused by name.
//!
//! Only one such step runs at a time. Everything that it started ends before its tree is put in order.

use super::above::{self, Status};
use super::mount_api::{make_device, make_file, wrong};
use super::mountpoint::{self, Kind};
use super::places::{Place, Places, make_folder};
use super::spec::{ExecMount, ExecSpec, MountSource, Network, Security};
use super::{cache_mount, command, mounts, socket};
use crate::layer::ProcessUser;
use crate::sandbox::{Context, Identity, RootFs, lent, processes, sys, tree, view};
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
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
    match spec.network {
        Network::Host => {}
        Network::None => return without("a step cannot be kept from the network"),
        Network::Private => return without("a build cannot have the network `private`"),
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

/// What a step holds while it runs: its tree, which nobody else puts in order meanwhile, and the folders of its caches,
/// which are moved.
pub(super) struct Locks(#[expect(dead_code, reason = "held")] Vec<OwnedFd>);

/// Waits until no other step without isolation uses the tree, or caches of the same folder. `None` when the caller closes
/// `control` meanwhile. A process that is forked afterwards holds the locks, too.
pub(super) fn lock(rootfs: &RootFs, spec: &ExecSpec, control: &UnixStream) -> Result<Option<Locks>> {
    let tree = match rootfs {
        RootFs::Folder { path, writable: true } => path.parent(),
        _ => None,
    };
    let caches = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Cache(cache) => cache.path.parent(),
        _ => None,
    });
    // In one order everywhere, so that no two steps wait for each other.
    let folders: BTreeSet<&Path> = tree.into_iter().chain(caches).collect();
    let mut locks = Vec::new();
    for folder in folders {
        loop {
            if let Some(lock) = lent::lock(folder, false)? {
                locks.push(lock);
                if Some(folder) == tree {
                    // A step that wants a cache from this tree does not wait for the locks of this one.
                    put_back(rootfs)?;
                }
                break;
            }
            let pause = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            let gone = PollFlags::RDHUP | PollFlags::HUP;
            if poll(&mut [PollFd::new(control, gone)], Some(&pause)).is_ok_and(|n| n > 0) {
                return Ok(None);
            }
        }
    }
    Ok(Some(Locks(locks)))
}

/// Moves home the caches of a step whose process above it was killed.
pub(super) fn put_back(rootfs: &RootFs) -> Result<()> {
    match rootfs {
        RootFs::Folder { path, writable: true } => lent::put_back(path),
        _ => Ok(()),
    }
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
        places.put(name, Kind::Folder, |place| make_folder(&place, 0o555).map(drop))?;
    }
    places.put("/dev", Kind::Folder, |place| devices(&place))?;
    for (target, content) in mounts::generated_files(spec) {
        places.put(target, Kind::File, |place| make_file(place.parent, place.name, &content, 0o644, 0, 0))?;
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
fn devices(place: &Place<'_>) -> Result<()> {
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
    Ok(())
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
            cache_mount::fill_in_turn(cache)?;
            let (Some(folder), Some(name)) = (cache.path.parent(), cache.path.file_name()) else {
                return Err(Error::invalid("the path of a cache has no name"));
            };
            copy(places, view::open_folder(folder)?.as_fd(), &name.to_string_lossy(), target)
        }
        MountSource::Cache(cache) => {
            cache_mount::fill_in_turn(cache)?;
            places.lend(target, &cache.path)
        }
        MountSource::Tmpfs { .. } => places.put(target, Kind::Folder, |place| {
            // In a new folder everybody may write.
            let mode = if place.is_new { 0o1777 } else { place.mode };
            make_folder(&place, mode).map(drop)
        }),
        MountSource::Inline { name, content, mode } => {
            mounts::check_inline_name(name)?;
            places.put(target, Kind::Folder, |place| {
                let folder = make_folder(&place, 0o755)?;
                make_file(folder.as_fd(), name, content.as_bytes(), *mode, 0, 0)
            })
        }
        MountSource::Secret { content, mode, uid, gid } => places.put(target, Kind::File, |place| {
            let mode = *mode & 0o777;
            make_file(place.parent, place.name, content.expose(), mode, *uid, *gid)
        }),
        MountSource::Socket { path, mode, uid, gid } => places.put(target, Kind::File, |place| {
            let name = place.name.to_string_lossy();
            socket::serve(path, place.parent, &name, *mode & 0o777, *uid, *gid)
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
                tree::copy(source.as_fd(), folder.as_fd())
            })
        }
        FileType::RegularFile => {
            let source = view::open_in(from, path, OFlags::RDONLY).map_err(missing)?;
            places.put(target, Kind::File, |place| {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(place.parent, place.name, flags, Mode::RUSR)
                    .map_err(wrong("cannot make a file", target))?;
                tree::copy_file(&source, &copy, &stat)
            })
        }
        _ => Err(Error::unsupported("neither a file nor a folder: it cannot be mounted without isolation")
            .with_context("source", path)),
    }
}
