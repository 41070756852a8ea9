//! Runs one command. The operation's process forks pid 1 of a new pid namespace. Pid 1 assembles the sandbox, starts
//! the command, reaps dead processes and ends with the command. Every process left in the namespace dies with it.

use super::device_guard::{self, DeviceAccess, Guarded};
use super::mountpoint::{self, Made};
use super::mounts::Stage;
use super::notify::socketcall;
use super::spec::{ExecMount, ExecSpec, Network, Security};
use super::{command, single_id};
use crate::sandbox::records::{self, StepRecord};
use crate::sandbox::{Context, Failure, Identity, RootFs, StepIo, read_frame, sys, tree, view, write_frame};
use crate::{Error, Result, ResultExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Other builders leave these folders in an image whose base lacks them. Later steps and tools rely on them.
const KEPT: &[&str] = &["proc", "sys", "dev"];

/// A message of pid 1 or the command to the operation.
#[derive(Serialize, Deserialize)]
pub(super) enum Status {
    /// The mount points that were made in the tree.
    Made(Vec<Made>),
    /// The reason why the command could not be started.
    Failed(Failure),
    /// The owners that the step set and that its files cannot record.
    Owners(StepRecord),
}

impl Status {
    /// Sends the message. Without a reader this process is about to be killed.
    pub(super) fn send(&self, mut to: &File) {
        let text = serde_json::to_vec(self).expect("plain data");
        write_frame(&mut to, &text).ok();
    }
}

/// Runs a command to its end and removes its mount points. Returns the exit code.
pub(super) fn run(rootfs: &RootFs, spec: ExecSpec, io: StepIo<'_>, context: Context) -> Result<i32> {
    let StepIo { control, output, errors } = io;
    check(&spec)?;
    if let RootFs::Overlay { upper: Some((_, work)), .. } = rootfs {
        // Removes what a cancelled step left behind.
        tree::remove(&work.join("work"))?;
    }
    let (status, status_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let own_pid = sys::own_pid();
    let (guard, fork) = fork_init(&spec, context)?;
    let guarded = guard.is_some();
    let init = match fork {
        sys::Fork::Child => {
            drop(status);
            sys::die_with_parent(own_pid);
            let status = File::from(status_end);
            // The parent may have died before the line above: then the pipe has no reader.
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&status, PollFlags::empty())], Some(&now)) != Ok(0) {
                sys::exit_now(1);
            }
            let files = command::Output { output, errors };
            let code = match init(rootfs, spec, files, &status, context, guarded) {
                Ok(code) => code,
                Err(error) => {
                    Status::Failed(error.into()).send(&status);
                    1
                }
            };
            sys::exit_now(code);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop((status_end, output, errors));
    let mut made = Vec::new();
    let mut owners = StepRecord::new();
    let outcome = watch(control, File::from(status), init, &mut made, &mut owners);
    drop(guard);
    let cleaned = clean(rootfs, &made).and_then(|()| match rootfs {
        RootFs::Overlay { upper: Some((files, _)), .. } | RootFs::Folder { path: files, writable: true }
            if !owners.is_empty() =>
        {
            records::save_step(files, &owners)
        }
        _ => Ok(()),
    });
    match outcome? {
        Some(code) => cleaned.map(|()| code),
        // The caller is gone.
        None => sys::exit_now(1),
    }
}

/// Forks pid 1 of a new pid namespace, in a control group that restricts devices where possible.
fn fork_init(spec: &ExecSpec, context: Context) -> Result<(Option<Guarded>, sys::Fork)> {
    if !context.user_namespace
        && spec.security == Security::Sandbox
        && let Some((guard, fork)) = device_guard::fork(&spec.mounts)
    {
        return Ok((Some(guard), fork));
    }
    // `nodev` is used instead.
    sys::unshare(libc::CLONE_NEWPID).context("detail", "pid namespace")?;
    Ok((None, sys::fork()?))
}

fn check(spec: &ExecSpec) -> Result<()> {
    if spec.args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("the command to run is empty"));
    }
    if !spec.cwd.starts_with('/') {
        return Err(Error::invalid("the working folder must be absolute").with_context("path", &spec.cwd));
    }
    Ok(())
}

/// Waits for pid 1 to end and returns the exit code. When the caller closes the control socket, kills it and returns
/// `None`.
fn watch(
    control: &UnixStream,
    mut status: File,
    init: i32,
    made: &mut Vec<Made>,
    owners: &mut StepRecord,
) -> Result<Option<i32>> {
    let mut failure = None;
    loop {
        let mut files =
            [PollFd::new(control, PollFlags::RDHUP | PollFlags::HUP), PollFd::new(&status, PollFlags::IN)];
        match poll(&mut files, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(std::io::Error::from(e).into()),
            Ok(_) => {}
        }
        let (caller_gone, news) = (!files[0].revents().is_empty(), !files[1].revents().is_empty());
        if caller_gone {
            sys::kill(init, libc::SIGKILL);
            sys::wait(init, true)?;
            return Ok(None);
        }
        if news {
            match read_frame(&mut status) {
                Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                    Ok(Status::Made(list)) => *made = list,
                    Ok(Status::Owners(record)) => *owners = record,
                    Ok(Status::Failed(why)) => failure = Some(why),
                    Err(_) => {}
                },
                // All processes of the sandbox have ended or are about to.
                _ => break,
            }
        }
    }
    let code = sys::wait(init, true)?.map_or(1, |(_, code)| code);
    match failure {
        Some(failure) => Err(failure.into()),
        None => Ok(Some(code)),
    }
}

/// Removes the mount points.
fn clean(rootfs: &RootFs, made: &[Made]) -> Result<()> {
    match rootfs {
        RootFs::Overlay { lowers, upper: Some((upper, work)) } => {
            mountpoint::clean(upper, Some(lowers), made, KEPT)?;
            if let Some(folder) = work.parent() {
                tree::remove(&folder.join("binds"))?;
            }
            // Overlay leaves files here that would keep a second step from mounting the same folders.
            tree::remove(&work.join("work"))?;
        }
        RootFs::Overlay { .. } | RootFs::Folder { writable: false, .. } => {}
        RootFs::Folder { path, .. } => mountpoint::clean(path, None, made, KEPT)?,
    }
    Ok(())
}

/// Runs as pid 1 of the sandbox. Returns the exit code of the command.
fn init(
    rootfs: &RootFs,
    spec: ExecSpec,
    files: command::Output,
    status: &File,
    context: Context,
    guarded: bool,
) -> Result<i32> {
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.network == Network::None {
        namespaces |= libc::CLONE_NEWNET;
    }
    sys::unshare(namespaces).context("detail", "namespaces")?;
    // Hides the names of the host's control groups. A kernel without such namespaces has none to hide.
    let _ = sys::unshare(libc::CLONE_NEWCGROUP);
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Error::io("cannot make the mounts private", "/", e.into()))?;
    if spec.network == Network::None {
        sys::loopback_up().context("detail", "loopback interface")?;
    }
    let hostname = spec.hostname.as_deref().unwrap_or("hyper");
    sys::set_hostname(hostname).map_err(|e| match e.kind() {
        // The usual filter of a container allows new namespaces but refuses this call first.
        std::io::ErrorKind::PermissionDenied => Error::unsupported(
            "cannot set the host name of a step: a container that runs builds must permit the system calls for \
             namespaces and mounts, and have no masked paths in its /proc",
        )
        .with_source(e),
        _ => Error::from(e).with_context("detail", format!("host name {hostname}")),
    })?;

    let wanted = match spec.security {
        Security::Insecure => DeviceAccess::All,
        Security::Sandbox if guarded => DeviceAccess::Guarded,
        Security::Sandbox => DeviceAccess::NoDevices,
    };
    let single = context.identity == Identity::Single;
    let owners = if single { Some(single_id::StepOwners::open(rootfs)?) } else { None };
    let mut stage = Stage::new(rootfs, wanted)?;
    let prepared = prepare(&mut stage, &spec, context);
    // The mount points made so far must be removed, also after a failure.
    Status::Made(stage.made().to_vec()).send(status);
    let (user, cwd) = prepared?;
    stage.become_root()?;

    let ids = single_id::Ids::of(user.uid, user.gid, user.groups.clone());
    let command = command::Command::new(&spec, user, cwd)?;
    let sandboxed = spec.security == Security::Sandbox;
    sys::hide_memory();
    if sandboxed {
        // The host's network exposes its abstract sockets. Older kernels cannot hide them.
        let _ = sys::hide_abstract_sockets();
    }
    let mut helper =
        if sandboxed && (single || socketcall::IS_NEEDED) { Some(UnixStream::pair()?) } else { None };
    const SIGNALS: &[i32] = &[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT];
    sys::block_signals(SIGNALS);
    let child = match sys::fork()? {
        sys::Fork::Child => {
            let error = command.start(files, sandboxed, single, helper.as_ref().map(|(to, _)| to));
            Status::Failed(error.into()).send(status);
            sys::exit_now(127);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(files);
    let mut supervisor = None;
    if let Some((to, from)) = helper.take() {
        drop(to);
        match owners {
            Some(owners) => supervisor = single_id::Supervisor::start(&from, owners, ids)?,
            None => socketcall::serve(&from),
        }
    }
    // Pid 1 does not keep the secrets of the environment.
    drop((command, spec));
    loop {
        match sys::next_signal(SIGNALS) {
            Some(signal @ (libc::SIGTERM | libc::SIGINT)) => sys::kill(child, signal),
            _ => {
                while let Some((pid, code)) = sys::wait(-1, false)? {
                    if pid == child {
                        if let Some(supervisor) = supervisor {
                            Status::Owners(supervisor.record()).send(status);
                        }
                        return Ok(code);
                    }
                }
            }
        }
    }
}

/// Mounts everything. Returns the user and the working folder.
fn prepare(
    stage: &mut Stage,
    spec: &ExecSpec,
    context: Context,
) -> Result<(crate::layer::ProcessUser, OwnedFd)> {
    // The files are read before a mount of the step can hide them.
    let file = |path: &str| view::read_file(stage.root(), path, 16 << 20);
    let (passwd, group) = (file("/etc/passwd")?, file("/etc/group")?);
    let mut user = crate::layer::resolve_user(&spec.user, passwd.as_deref(), group.as_deref())?;
    user.groups.extend(&spec.groups);
    if !user.groups.contains(&user.gid) {
        user.groups.insert(0, user.gid);
    }
    // The working folder is part of the step's result, even when a mount hides it from the step.
    stage.working_folder(&spec.cwd, (user.uid, user.gid))?;
    stage.mount_system(spec, context)?;
    for (target, mount) in by_target(&spec.mounts, &spec.cwd) {
        stage.mount(mount, &target)?;
    }
    // A mount above may have hidden it.
    let cwd = stage.working_folder(&spec.cwd, (0, 0))?;
    Ok((user, cwd))
}

/// The mounts by their absolute targets, so that a mount never hides one below it. Of several with one target the last
/// one is used.
fn by_target<'a>(mounts: &'a [ExecMount], cwd: &str) -> BTreeMap<String, &'a ExecMount> {
    let absolute = |target: &str| match target.strip_prefix('/') {
        Some(_) => target.to_owned(),
        None => format!("{}/{target}", cwd.trim_end_matches('/')),
    };
    mounts.iter().map(|mount| (absolute(&mount.target), mount)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::spec::MountSource;
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
