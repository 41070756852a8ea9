//! The file system of a step: its tree, `/proc`, `/sys`, `/dev`, the generated files of `/etc`, and its own mounts.
//!
//! Everything is assembled below a stage, a tmpfs in the step's own mount namespace, and then becomes the root:
//!
//! ```text
//! stage/root      the tree, with everything mounted in it
//! stage/files     resolv.conf, hosts, secrets: one file each, bound to their places; folders with a script each
//! stage/trees/N   other trees, for bind mounts
//! stage/devices   the usual devices, where no other mount shows any
//! stage/runtime   for a runtime: its bundle, its state, and `/dev` once more
//! ```

use super::device_guard::{self, DeviceAccess};
use super::mount_api::{
    QUIET, attach, clone_tree, make_device, make_file, no_devices, own, read_only, wrong,
};
use super::mountpoint::{self, Kind, Made, Place};
use super::network;
use super::spec::{CacheMount, ExecMount, ExecSpec, HostOption, MountSource, Network, Security};
use crate::sandbox::{Context, Isolation, RootFs, sys, view};
use crate::{Error, ErrorKind, Result, ResultExt};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub(super) const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
pub(super) const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// How often a mount point is looked up again after another step removed it.
const MAX_TRIES: usize = 100;

/// Assembles the file system of a step.
pub(super) struct Stage {
    stage: OwnedFd,
    root: OwnedFd,
    devices: DeviceAccess,
    trees: usize,
    made: Vec<Made>,
    /// A folder on the same disk as the step's upper folder, for writable binds.
    scratch: Option<PathBuf>,
}

impl Stage {
    /// Makes the stage and mounts the tree of the step. A device guard without effect is replaced by `nodev`. The stage is
    /// mounted on `place`: on the root directory it has no path, and only lookups that start from a descriptor arrive.
    pub(super) fn new(rootfs: &RootFs, wanted: DeviceAccess, place: &Path) -> Result<Self> {
        let memory = view::tmpfs(&[("mode", "0700")], MountAttrFlags::empty())?;
        let devices = match wanted {
            DeviceAccess::Guarded if !device_guard::is_enforced(memory.as_fd()) => DeviceAccess::NoDevices,
            wanted => wanted,
        };
        sys::mount_setattr(memory.as_fd(), libc::MOUNT_ATTR_NODEV, false).context("detail", "nodev")?;
        for name in ["root", "files", "trees", "devices"] {
            rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(0o755))
                .map_err(wrong("cannot make", name))?;
        }
        attach(memory.as_fd(), CWD, place)?;
        let tree = match rootfs {
            RootFs::Overlay { .. } => view::open(rootfs)?,
            RootFs::Folder { path, .. } => clone_tree(CWD, path, false)?,
        };
        admit_devices(tree.as_fd(), matches!(rootfs, RootFs::Overlay { .. }), devices)?;
        attach(tree.as_fd(), memory.as_fd(), "root")?;
        if let RootFs::Folder { writable: false, .. } = rootfs {
            read_only(tree.as_fd(), false)?;
        }
        let scratch = match rootfs {
            RootFs::Overlay { upper: Some((_, work)), .. } => {
                work.parent().map(|folder| folder.join("binds"))
            }
            _ => None,
        };
        Ok(Self { stage: memory, root: tree, devices, trees: 0, made: Vec::new(), scratch })
    }

    /// The root of the tree.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Makes the folder `runtime` of the stage, with the `/dev` of the step as `runtime/dev`.
    pub(super) fn runtime_folder(&self) -> Result<OwnedFd> {
        let name = "runtime";
        rustix::fs::mkdirat(&self.stage, name, Mode::RWXU).map_err(wrong("cannot make", name))?;
        let folder =
            view::open_in(self.stage.as_fd(), name, OFlags::PATH).map_err(wrong("cannot open", name))?;
        rustix::fs::mkdirat(&folder, "dev", Mode::RWXU).map_err(wrong("cannot make", "dev"))?;
        let dev = view::open_in(self.root(), "/dev", OFlags::PATH).map_err(wrong("cannot open", "/dev"))?;
        attach(clone_tree(dev.as_fd(), Path::new(""), true)?.as_fd(), folder.as_fd(), "dev")?;
        Ok(folder)
    }

    /// The mount points that were made in the tree.
    pub(super) fn made(&self) -> &[Made] {
        &self.made
    }

    /// Mounts what every step has. `proc` is the `/proc` of another pid namespace than that of this process.
    pub(super) fn mount_system(
        &mut self,
        spec: &ExecSpec,
        context: Context,
        proc: Option<OwnedFd>,
    ) -> Result<()> {
        let insecure = spec.security == Security::Insecure;
        let proc = match (proc, context.isolation) {
            (Some(proc), _) => proc,
            (None, Isolation::Full) => new_proc()?,
            (None, _) => clone_tree(CWD, Path::new("/proc"), true)?,
        };
        self.put(proc.as_fd(), "/proc", Kind::Folder)?;
        self.mount_sys(insecure)?;
        self.mount_dev(context.user_namespace, insecure, spec.limits.shm_bytes())?;
        if !insecure {
            super::mask::apply(self.root())?;
        }
        for (target, content) in generated_files(spec) {
            let name = target.trim_start_matches("/etc/");
            let file = self.file(name, &content, 0o644, 0, 0)?;
            self.put(file.as_fd(), target, Kind::File)?;
            // Writes to them would be lost silently.
            read_only(file.as_fd(), false)?;
        }
        Ok(())
    }

    fn mount_sys(&mut self, insecure: bool) -> Result<()> {
        let (sysfs, is_new) = match view::new_mount("sysfs", &[], QUIET) {
            Ok(sysfs) => (sysfs, true),
            // An ordinary user may mount a new one only in its own network namespace.
            Err(Errno::PERM) => (clone_tree(CWD, Path::new("/sys"), true)?, false),
            Err(e) => return Err(Error::io("cannot mount /sys", "/sys", e.into())),
        };
        self.put(sysfs.as_fd(), "/sys", Kind::Folder)?;
        // A new mount shows no control groups, so the host's are hidden too.
        if let Ok(groups) = view::open_in(self.root(), "/sys/fs/cgroup", OFlags::PATH)
            && !is_new
        {
            let nothing = view::tmpfs(&[("mode", "0755")], QUIET | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            attach(nothing.as_fd(), groups.as_fd(), "")?;
        }
        if !insecure {
            read_only(sysfs.as_fd(), true)?;
        }
        Ok(())
    }

    fn mount_dev(&mut self, user_namespace: bool, insecure: bool, shm_size: u64) -> Result<()> {
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let dev = view::tmpfs(&[("mode", "0755"), ("size", "65536k")], flags)?;
        self.put(dev.as_fd(), "/dev", Kind::Folder)?;
        // Where mounts are `nodev`, the devices come from a mount of their own. Only a mount can be cloned.
        let elsewhere = match self.devices {
            DeviceAccess::NoDevices if !user_namespace => {
                let memory = view::tmpfs(&[("mode", "0700")], flags)?;
                attach(memory.as_fd(), self.stage.as_fd(), "devices")?;
                Some(memory)
            }
            _ => None,
        };
        for &(name, major, minor) in DEVICES {
            let path = Path::new("/dev").join(name);
            let folder = elsewhere.as_ref().unwrap_or(&dev);
            let is_made = !user_namespace && make_device(folder.as_fd(), name, (major, minor))?;
            let file = match &elsewhere {
                _ if !is_made => clone_tree(CWD, &path, false)?,
                Some(folder) => clone_tree(folder.as_fd(), Path::new(name), false)?,
                None => continue,
            };
            make_file(dev.as_fd(), name, &[], 0o666, 0, 0)?;
            attach(file.as_fd(), dev.as_fd(), name)?;
        }
        for (name, target) in LINKS {
            rustix::fs::symlinkat(*target, &dev, *name).map_err(wrong("cannot make a link in /dev", name))?;
        }
        for name in ["pts", "shm", "mqueue"] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))
                .map_err(wrong("cannot make", name))?;
        }
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        let pts = view::new_mount("devpts", &options, flags)
            // Group 5 does not exist with a single id.
            .or_else(|_| view::new_mount("devpts", &options[..3], flags))
            .map_err(wrong("cannot mount", "/dev/pts"))?;
        attach(pts.as_fd(), dev.as_fd(), "pts")?;
        let shm = view::tmpfs(&[("mode", "1777"), ("size", &shm_size.to_string())], QUIET)?;
        attach(shm.as_fd(), dev.as_fd(), "shm")?;
        // Some kernels have no message queues.
        if let Ok(queues) = view::new_mount("mqueue", &[], QUIET) {
            attach(queues.as_fd(), dev.as_fd(), "mqueue")?;
        }
        if insecure && !user_namespace { super::insecure_devices::add(dev.as_fd()) } else { Ok(()) }
    }

    /// Mounts one mount of the step at its absolute path.
    pub(super) fn mount(&mut self, mount: &ExecMount, target: &str) -> Result<()> {
        self.mount_at(mount, target).map_err(|e| e.with_context("mount", target))
    }

    fn mount_at(&mut self, mount: &ExecMount, target: &str) -> Result<()> {
        match &mount.source {
            MountSource::Tree { tree, path, writable } => {
                let (lowers, folder) = match tree {
                    RootFs::Overlay { lowers, upper: None } => (lowers.clone(), None),
                    RootFs::Overlay { .. } => {
                        return Err(Error::invalid(
                            "a tree that is being written to cannot be mounted elsewhere",
                        ));
                    }
                    RootFs::Folder { path, .. } => (vec![path.clone()], Some(path)),
                };
                self.bind(lowers, folder.map(PathBuf::as_path), path, *writable, target)
            }
            MountSource::Host { root, path, writable } => {
                self.bind(vec![root.clone()], Some(root), path, *writable, target)
            }
            MountSource::HostPath { path, options } => self.host_path(path, options, target),
            MountSource::Cache(cache) => self.cache(cache, target),
            MountSource::Tmpfs { size, read_only: is_read_only } => {
                let size = size.map(|size| size.to_string());
                self.put_with(target, Kind::Folder, |place, stage| {
                    let stat = rustix::fs::fstat(&place.file).map_err(wrong("cannot stat", target))?;
                    // The mount has the mode of the folder below it; in a new folder everybody may write.
                    let mode = format!("{:o}", if place.is_new { 0o1777 } else { stat.st_mode & 0o7777 });
                    let mut options = vec![("mode", mode.as_str())];
                    if let Some(size) = &size {
                        options.push(("size", size));
                    }
                    let memory = view::tmpfs(&options, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
                    stage.hide_devices(memory.as_fd())?;
                    attach(memory.as_fd(), place.file.as_fd(), "")?;
                    if *is_read_only { read_only(memory.as_fd(), false) } else { Ok(()) }
                })
            }
            MountSource::Secret { content, mode, uid, gid } => {
                let name = format!("secret-{}", self.trees);
                self.trees += 1;
                let file = self.file(&name, content.expose(), *mode & 0o777, *uid, *gid)?;
                self.put(file.as_fd(), target, Kind::File)?;
                let mut attributes =
                    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
                if mode & 0o111 == 0 {
                    attributes |= libc::MOUNT_ATTR_NOEXEC;
                }
                sys::mount_setattr(file.as_fd(), attributes, false)
                    .map_err(|e| Error::io("cannot restrict the mount of a secret", target, e))
            }
            MountSource::Inline { name, content, mode } => self.inline(name, content, *mode, target),
            MountSource::Socket { path, mode, uid, gid } => {
                let name = format!("socket-{}", self.trees);
                self.trees += 1;
                let files = view::open_in(self.stage.as_fd(), "files", OFlags::PATH)
                    .map_err(wrong("cannot open", "files"))?;
                super::socket::serve(path, files.as_fd(), &name, *mode & 0o777, *uid, *gid)?;
                let file = clone_tree(files.as_fd(), Path::new(&name), false)?;
                self.put(file.as_fd(), target, Kind::File)
            }
        }
    }

    /// Mounts a folder that holds one file.
    fn inline(&mut self, name: &str, content: &str, mode: u32, target: &str) -> Result<()> {
        check_inline_name(name)?;
        let folder_name = format!("inline-{}", self.trees);
        self.trees += 1;
        let files = view::open_in(self.stage.as_fd(), "files", OFlags::PATH)
            .map_err(wrong("cannot open", "files"))?;
        rustix::fs::mkdirat(&files, &folder_name, Mode::RWXU).map_err(wrong("cannot make", &folder_name))?;
        own(files.as_fd(), &folder_name, 0o755, 0, 0)?;
        let folder = view::open_in(files.as_fd(), &folder_name, OFlags::PATH)
            .map_err(wrong("cannot open", &folder_name))?;
        make_file(folder.as_fd(), name, content.as_bytes(), mode, 0, 0)?;
        let bound = clone_tree(files.as_fd(), Path::new(&folder_name), false)?;
        self.put(bound.as_fd(), target, Kind::Folder)?;
        read_only(bound.as_fd(), false)
    }

    /// Binds `path` of the overlay of `lowers`, or of `folder`, to `target`.
    fn bind(
        &mut self,
        lowers: Vec<PathBuf>,
        folder: Option<&Path>,
        path: &str,
        writable: bool,
        target: &str,
    ) -> Result<()> {
        let name = format!("trees/{}", self.trees);
        let tree = match (folder, writable) {
            (Some(folder), false) => clone_tree(CWD, folder, true)?,
            (None, false) => view::overlay(&lowers, None)?,
            (_, true) => {
                let scratch = self.scratch.as_ref().ok_or_else(|| {
                    Error::unsupported("a writable bind mount needs overlay, which cannot be mounted here")
                })?;
                let place = scratch.join(self.trees.to_string());
                let (upper, work) = (place.join("upper"), place.join("work"));
                for folder in [&upper, &work] {
                    std::fs::create_dir_all(folder)
                        .map_err(|e| Error::io("cannot make a folder", folder, e))?;
                }
                view::overlay(&lowers, Some(&(upper, work)))?
            }
        };
        admit_devices(tree.as_fd(), folder.is_none() || writable, self.devices)?;
        self.trees += 1;
        rustix::fs::mkdirat(&self.stage, &name, Mode::from_raw_mode(0o755))
            .map_err(wrong("cannot make", &name))?;
        attach(tree.as_fd(), self.stage.as_fd(), &name)?;
        let source = view::open_in(tree.as_fd(), path, OFlags::PATH)
            .map_err(|e| Error::io("the source of a mount does not exist", path, e.into()))?;
        let stat = rustix::fs::fstat(&source).map_err(wrong("cannot stat", path))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Folder,
            _ => Kind::File,
        };
        let bound = clone_tree(source.as_fd(), Path::new(""), true)?;
        self.put(bound.as_fd(), target, kind)?;
        if !writable {
            read_only(bound.as_fd(), true)?;
        }
        Ok(())
    }

    fn host_path(&mut self, path: &Path, options: &[HostOption], target: &str) -> Result<()> {
        // The opened file is checked and mounted, whatever its path names later.
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(wrong("cannot open a path of the host", path))?;
        let stat = rustix::fs::fstat(&opened).map_err(wrong("cannot stat", path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_folder = kind == FileType::Directory;
        let bound = clone_tree(opened.as_fd(), Path::new(""), is_folder)?;
        let attributes = options.iter().fold(0, |bits, option| {
            bits | match option {
                HostOption::ReadOnly => libc::MOUNT_ATTR_RDONLY,
                HostOption::NoSetUserId => libc::MOUNT_ATTR_NOSUID,
                HostOption::NoDevices => libc::MOUNT_ATTR_NODEV,
                HostOption::NoExecution => libc::MOUNT_ATTR_NOEXEC,
            }
        });
        // The device itself is allowed; a device node in a folder is not.
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if !is_device {
            self.hide_devices(bound.as_fd())?;
        }
        self.put_with(target, if is_folder { Kind::Folder } else { Kind::File }, |place, _| {
            attach(bound.as_fd(), place.file.as_fd(), "")
        })?;
        if attributes == 0 {
            return Ok(());
        }
        sys::mount_setattr(bound.as_fd(), attributes, true)
            .map_err(|e| Error::io("cannot restrict a mount of the host", path, e))
    }

    fn cache(&mut self, cache: &CacheMount, target: &str) -> Result<()> {
        let opened = super::cache_mount::open(cache)?;
        // A cache whose source is a file is a file.
        let stat = rustix::fs::fstat(&opened).map_err(wrong("cannot stat", &cache.path))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Folder,
            _ => Kind::File,
        };
        let bound = clone_tree(opened.as_fd(), Path::new(""), true)?;
        self.put(bound.as_fd(), target, kind)?;
        if cache.read_only {
            read_only(bound.as_fd(), true)?;
        }
        Ok(())
    }

    /// A file on the stage, as a detached mount.
    fn file(&self, name: &str, content: &[u8], mode: u32, uid: u32, gid: u32) -> Result<OwnedFd> {
        let files = view::open_in(self.stage.as_fd(), "files", OFlags::PATH)
            .map_err(wrong("cannot open", "files"))?;
        make_file(files.as_fd(), name, content, mode, uid, gid)?;
        clone_tree(files.as_fd(), Path::new(name), false)
    }

    fn put(&mut self, mount: BorrowedFd<'_>, target: &str, kind: Kind) -> Result<()> {
        self.hide_devices(mount)?;
        self.put_with(target, kind, |place, _| attach(mount, place.file.as_fd(), ""))
    }

    /// Finds the mount point `target` and calls `attach` with it. In a folder that steps share, another step can remove
    /// the mount point first: then it is made again.
    fn put_with(
        &mut self,
        target: &str,
        kind: Kind,
        attach: impl Fn(&Place, &Self) -> Result<()>,
    ) -> Result<()> {
        let mut tries = 0;
        loop {
            let mut made = std::mem::take(&mut self.made);
            let place = mountpoint::open(self.root.as_fd(), target, kind, None, &mut made);
            self.made = made;
            match place.and_then(|place| attach(&place, self)) {
                Err(e) if e.kind() == ErrorKind::NotFound && tries < MAX_TRIES => tries += 1,
                done => return done,
            }
        }
    }

    /// Makes a mount `nodev` where nothing else restricts devices.
    fn hide_devices(&self, mount: BorrowedFd<'_>) -> Result<()> {
        match self.devices {
            DeviceAccess::All | DeviceAccess::Guarded => Ok(()),
            DeviceAccess::NoDevices => no_devices(mount),
        }
    }

    /// Opens the working folder and makes its missing parts with this user and group. They are not removed again.
    pub(super) fn working_folder(&self, cwd: &str, owner: (u32, u32)) -> Result<OwnedFd> {
        if cwd.trim_matches('/').is_empty() {
            return view::open_in(self.root(), "/", OFlags::PATH | OFlags::DIRECTORY)
                .map_err(wrong("cannot open", "/"));
        }
        let mut tries = 0;
        loop {
            match mountpoint::open(self.root.as_fd(), cwd, Kind::Folder, Some(owner), &mut Vec::new()) {
                Ok(place) => return Ok(place.file),
                Err(e) if e.kind() == ErrorKind::NotFound && tries < MAX_TRIES => tries += 1,
                Err(e) => return Err(e.with_context("detail", "working folder")),
            }
        }
    }

    /// Makes the tree the root of this process and its children, and unmounts the old one. Where the filter of a
    /// container refuses that, the old root stays below: then the step must not be allowed `chroot`, with which it could
    /// go there, and the result is false.
    pub(super) fn become_root(self) -> Result<bool> {
        let wrong = wrong("cannot enter the root file system of the step", "/");
        rustix::process::fchdir(&self.root).map_err(&wrong)?;
        match rustix::process::pivot_root(".", ".") {
            Ok(()) => {}
            Err(Errno::PERM | Errno::NOSYS) => {
                attach(self.root.as_fd(), CWD, "/")?;
                rustix::process::chroot(".").map_err(&wrong)?;
                rustix::process::chdir("/").map_err(&wrong)?;
                return Ok(false);
            }
            Err(e) => return Err(wrong(e)),
        }
        // The old root is now mounted on the new one, and the stage on the old root: each call unmounts the topmost.
        unmount(".", UnmountFlags::DETACH).map_err(&wrong)?;
        unmount(".", UnmountFlags::DETACH).map_err(&wrong)?;
        rustix::process::chdir("/").map_err(&wrong)?;
        Ok(true)
    }
}

/// A detached `/proc` of the pid namespace of this process.
pub(super) fn new_proc() -> Result<OwnedFd> {
    view::new_mount("proc", &[], QUIET).map_err(wrong("cannot mount a new /proc", "/proc"))
}

/// The files of `/etc` that every step has, with their content.
pub(super) fn generated_files(spec: &ExecSpec) -> [(&'static str, Vec<u8>); 2] {
    let resolv_conf = match &spec.resolv_conf {
        Some(text) => text.clone().into_bytes(),
        None if spec.network == Network::Host => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
        None => spec.network_place.as_ref().map_or_else(Vec::new, |place| {
            let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            network::resolv_conf(&own, &place.nameserver).into_bytes()
        }),
    };
    // A step without a host name of its own has that of this machine.
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hostname = spec.hostname.as_deref().unwrap_or(own.trim());
    let mut hosts = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in &spec.extra_hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    [("/etc/resolv.conf", resolv_conf), ("/etc/hosts", hosts.into_bytes())]
}

/// Refuses the name of an inline file that is a path.
pub(super) fn check_inline_name(name: &str) -> Result<()> {
    if matches!(name, "" | "." | "..") || name.contains('/') {
        return Err(Error::invalid("the name of an inline file is not valid").with_context("name", name));
    }
    Ok(())
}

/// Allows the devices of an overlay, which is mounted `nodev`, where a control group decides which may be opened.
/// Otherwise makes every tree `nodev`.
fn admit_devices(tree: BorrowedFd<'_>, is_overlay: bool, devices: DeviceAccess) -> Result<()> {
    match devices {
        DeviceAccess::NoDevices => no_devices(tree),
        DeviceAccess::All | DeviceAccess::Guarded if is_overlay => {
            sys::mount_clearattr(tree, libc::MOUNT_ATTR_NODEV).context("detail", "nodev")
        }
        DeviceAccess::All | DeviceAccess::Guarded => Ok(()),
    }
}

/// The mounts by their absolute targets, so that a mount never hides one below it. Of several with one target the last
/// one is used.
pub(super) fn by_target<'a>(mounts: &'a [ExecMount], cwd: &str) -> BTreeMap<String, &'a ExecMount> {
    let absolute = |target: &str| match target.strip_prefix('/') {
        Some(_) => target.to_owned(),
        None => format!("{}/{target}", cwd.trim_end_matches('/')),
    };
    mounts.iter().map(|mount| (absolute(&mount.target), mount)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_ordered_by_target_and_the_last_duplicate_wins() {
        let mount = |target: &str, size| ExecMount {
            target: target.to_owned(),
            source: MountSource::Tmpfs { size: Some(size), read_only: false },
        };
        let mounts = [mount("a/b", 1), mount("/w/a", 2), mount("/w", 3), mount("a", 4), mount("/", 5)];
        let ordered = by_target(&mounts, "/w");
        assert_eq!(ordered.keys().collect::<Vec<_>>(), ["/", "/w", "/w/a", "/w/a/b"]);
        assert_eq!(*ordered["/w/a"], mount("a", 4));
    }
}
