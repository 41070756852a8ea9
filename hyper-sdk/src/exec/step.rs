//! Runs one command. The operation's process forks pid 1 of a new pid namespace. Pid 1 assembles the sandbox, starts
//! the command, reaps dead processes and ends with the command. Every process left in the namespace dies with it.
//!
//! Where a step has no pid namespace, the process in the place of pid 1 adopts what loses its parent and ends it after
//! the command. The operation does the same for that process, so that nothing is left when a step ends either of them.

use super::above::{SIGNALS, Status, wait_for};
use super::control_group::StepGroup;
use super::device_guard::{self, DeviceAccess, Guarded};
use super::limits::StepLimits;
use super::mountpoint::{self, KEPT, Made};
use super::mounts::Stage;
use super::notify::socketcall;
use super::prepare::{prepare, set_host_name};
use super::runtime::{self, Runtime};
use super::spec::{ExecMount, ExecSpec, MountSource, Network, Security};
use super::{command, network, rlimits, single_id, unisolated};
use crate::sandbox::records::{self, StepRecord};
use crate::sandbox::{
    Context, ExitStatus, Identity, Isolation, RootFs, StepIo, processes, read_frame, sys, tree,
};
use crate::{Error, Result, ResultExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a cancelled step without a pid namespace has to put its tree in order.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the operation of a step is told.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) spec: ExecSpec,
    /// The runtime that makes its container; without, it is made here.
    pub(super) runtime: Option<Runtime>,
}

/// The container of a step that a runtime makes.
struct Container {
    runtime: Runtime,
    step: runtime::Step,
}

impl Container {
    fn new(runtime: Runtime, context: Context) -> Result<Self> {
        if context.isolation != Isolation::Full {
            return Err(Error::unsupported(
                "a runtime makes no container where steps share the processes of this machine or have no isolation: build \
                 with the native executor",
            ));
        }
        if context.identity == Identity::Single {
            return Err(Error::unsupported(
                "a runtime makes no container with a single id: give this user subordinate ids (`/etc/subuid` and \
                 `/etc/subgid`, and the program `newuidmap`), or build with the native executor",
            ));
        }
        let step = runtime::Step::begin(&runtime.records())?;
        Ok(Self { runtime, step })
    }
}

/// Runs a command to its end and removes its mount points.
pub(super) fn run(rootfs: &RootFs, order: Order, io: StepIo<'_>, context: Context) -> Result<ExitStatus> {
    let StepIo { control, output, errors } = io;
    let Order { spec, runtime } = order;
    check(&spec)?;
    check_limits(&spec.limits, context)?;
    let container = match runtime {
        Some(runtime) => Some(Container::new(runtime, context)?),
        None => None,
    };
    if let RootFs::Overlay { upper: Some((_, work)), .. } = rootfs {
        // Removes what a cancelled step left behind.
        tree::remove(&work.join("work"))?;
    }
    let (status, status_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let own_pid = sys::own_pid();
    let has_namespace = context.isolation == Isolation::Full;
    let locks = if context.isolation == Isolation::None {
        let Some(locks) = unisolated::lock(rootfs, &spec, control)? else { sys::exit_now(1) };
        Some(locks)
    } else {
        None
    };
    if !has_namespace {
        // The helper may end before what is below this process, which notices the end of the caller by itself.
        sys::signal_at_death_of_parent(0);
        processes::adopt_orphans()?;
    }
    let group = StepGroup::make(&spec.limits.group, own_tasks(&spec, context))?;
    let (guard, fork) = fork_init(&spec, container.is_some(), context, group.as_ref())?;
    let guarded = guard.is_some();
    let init = match fork {
        sys::Fork::Child => {
            drop(status);
            // The processes above ignore interrupts of a terminal.
            sys::ignore_interrupts(false);
            if has_namespace {
                sys::die_with_parent(own_pid);
            } else {
                sys::signal_at_death_of_parent(libc::SIGHUP);
            }
            let status = File::from(status_end);
            // The parent may have died before the line above: then the pipe has no reader.
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&status, PollFlags::empty())], Some(&now)) != Ok(0) {
                sys::exit_now(1);
            }
            let files = command::Output { output, errors };
            let entered = group.as_ref().map_or(Ok(()), StepGroup::enter);
            let outcome = match (entered, context.isolation, &container) {
                (Err(error), ..) => Err(error),
                (_, Isolation::Full, Some(container)) => {
                    let with = (&container.runtime, container.step.name());
                    runtime::init(rootfs, spec, with, files, &status, context)
                }
                (_, Isolation::Full, None) => init(rootfs, spec, files, &status, context, guarded),
                (_, shared, _) => processes::adopt_orphans().map_err(Error::from).and_then(|()| {
                    let outcome = match shared {
                        Isolation::None => unisolated::run(rootfs, &spec, files, &status, context),
                        _ => init(rootfs, spec, files, &status, context, guarded),
                    };
                    processes::end_all_below();
                    outcome
                }),
            };
            let code = outcome.unwrap_or_else(|error| {
                Status::Failed(error.into()).send(&status);
                1
            });
            sys::exit_now(code);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop((status_end, output, errors));
    let mut made = Vec::new();
    let mut owners = StepRecord::new();
    let outcome = watch(control, File::from(status), init, has_namespace, &mut made, &mut owners);
    drop((guard, container));
    let reached = group.as_ref().and_then(StepGroup::reached);
    drop(group);
    if locks.is_some() {
        // The process above the command may have been killed.
        unisolated::put_back(rootfs)?;
    }
    let cleaned = clean(rootfs, &made).and_then(|()| match rootfs {
        RootFs::Overlay { upper: Some((files, _)), .. } | RootFs::Folder { path: files, writable: true }
            if !owners.is_empty() =>
        {
            records::save_step(files, &owners)
        }
        _ => Ok(()),
    });
    match outcome? {
        Some(code) => cleaned.map(|()| ExitStatus::new(code).with_reached(reached)),
        // The caller is gone.
        None => sys::exit_now(1),
    }
}

/// How many processes and threads of the sandbox are in the control group of a step: that in the place of pid 1, its
/// thread that answers calls, and one for each forwarded socket.
fn own_tasks(spec: &ExecSpec, context: Context) -> u64 {
    let is_supervised = context.identity == Identity::Single || socketcall::IS_NEEDED;
    let has_filter = spec.security == Security::Sandbox && context.isolation != Isolation::None;
    let is_socket = |mount: &&ExecMount| matches!(mount.source, MountSource::Socket { .. });
    let sockets = spec.mounts.iter().filter(is_socket).count() as u64;
    1 + u64::from(has_filter && is_supervised) + sockets
}

/// Forks pid 1 of a new pid namespace, in a control group that restricts devices where possible.
fn fork_init(
    spec: &ExecSpec,
    is_container: bool,
    context: Context,
    group: Option<&StepGroup>,
) -> Result<(Option<Guarded>, sys::Fork)> {
    if context.isolation != Isolation::Full {
        return Ok((None, sys::fork()?));
    }
    if !context.user_namespace
        && !is_container
        && spec.security == Security::Sandbox
        && let Some((guard, fork)) = device_guard::fork(&spec.mounts, group.and_then(StepGroup::unified))
    {
        return Ok((Some(guard), fork));
    }
    // `nodev` is used instead.
    sys::unshare(libc::CLONE_NEWPID).context("detail", "pid namespace")?;
    Ok((None, sys::fork()?))
}

/// Checks that a step here can be held to limits. Changes limits of this process.
pub(super) fn check_limits(limits: &StepLimits, context: Context) -> Result<()> {
    limits.validate()?;
    if limits.asked_shm_size().is_some() && context.isolation == Isolation::None {
        return Err(Error::unsupported(
            "the size of `/dev/shm` (`shm-size`) cannot be set without isolation",
        ));
    }
    rlimits::check(&limits.ulimits, context.identity)
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
/// `None`. Without a pid namespace, everything below this process ends too.
fn watch(
    control: &UnixStream,
    mut status: File,
    init: i32,
    has_namespace: bool,
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
        if caller_gone && !has_namespace {
            end_in_order(init);
            return Ok(None);
        }
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
    if !has_namespace {
        // The step can have ended that process before its time.
        processes::end_all_below();
    }
    match failure {
        Some(failure) => Err(failure.into()),
        None => Ok(Some(code)),
    }
}

/// Ends a step without a pid namespace. It may put its tree in order first: caches are moved back.
fn end_in_order(init: i32) {
    sys::kill(init, libc::SIGHUP);
    let began = Instant::now();
    while began.elapsed() < ORDER_TIMEOUT && matches!(sys::wait(init, false), Ok(None)) {
        std::thread::sleep(Duration::from_millis(2));
    }
    processes::end_all_below();
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
    mut spec: ExecSpec,
    files: command::Output,
    status: &File,
    context: Context,
    guarded: bool,
) -> Result<i32> {
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.network == Network::None {
        namespaces |= libc::CLONE_NEWNET;
    }
    if spec.network == Network::Private {
        network::join(spec.network_place.as_ref())?;
    }
    sys::unshare(namespaces).context("detail", "namespaces")?;
    // Hides the names of the host's control groups. A kernel without such namespaces has none to hide.
    let _ = sys::unshare(libc::CLONE_NEWCGROUP);
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Error::io("cannot make the mounts private", "/", e.into()))?;
    if spec.network == Network::None {
        sys::loopback_up().context("detail", "loopback interface")?;
    }
    set_host_name(&mut spec, context)?;

    let wanted = match spec.security {
        Security::Insecure => DeviceAccess::All,
        Security::Sandbox if guarded => DeviceAccess::Guarded,
        Security::Sandbox => DeviceAccess::NoDevices,
    };
    let single = context.identity == Identity::Single;
    let owners = if single { Some(single_id::StepOwners::open(rootfs)?) } else { None };
    let mut stage = Stage::new(rootfs, wanted, Path::new("/"))?;
    let prepared = prepare(&mut stage, &spec, context, None);
    // The mount points made so far must be removed, also after a failure.
    Status::Made(stage.made().to_vec()).send(status);
    let (user, cwd) = prepared?;
    let is_contained = stage.become_root()?;

    let ids = single_id::Ids::of(user.uid, user.gid, user.groups.clone());
    let command = command::Command::new(&spec, user, cwd)?;
    let sandboxed = spec.security == Security::Sandbox;
    // Raw sockets would show what other steps of the build send.
    let host_network = spec.network != Network::None;
    sys::hide_memory();
    if sandboxed {
        // The host's network exposes its abstract sockets. Older kernels cannot hide them.
        let _ = sys::hide_abstract_sockets();
    }
    let (to, from) = if sandboxed && (single || socketcall::IS_NEEDED) {
        let (to, from) = UnixStream::pair()?;
        (Some(to), Some(from))
    } else {
        (None, None)
    };
    sys::block_signals(SIGNALS);
    let child = match sys::fork()? {
        sys::Fork::Child => {
            // Its own copy of that end would hide that the other one is closed.
            drop(from);
            let limits = command::Limits {
                filters: sandboxed,
                few_capabilities: sandboxed,
                no_chroot: !is_contained,
                single_identity: single,
                helper: to.as_ref(),
                root: None,
            };
            let error = command.start(files, &limits);
            Status::Failed(error.into()).send(status);
            sys::exit_now(127);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop((files, to));
    let mut supervisor = None;
    if let Some(from) = from {
        match owners {
            Some(owners) => supervisor = single_id::Supervisor::start(&from, owners, ids, host_network)?,
            None => socketcall::serve(&from, host_network)?,
        }
    }
    // Pid 1 does not keep the secrets of the environment.
    drop((command, spec));
    let code = wait_for(child)?;
    if let Some(supervisor) = supervisor {
        Status::Owners(supervisor.record()).send(status);
    }
    Ok(code)
}
