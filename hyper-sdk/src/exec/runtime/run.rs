//! Makes the bundle of a step, has the runtime start it, and waits for the command.

use super::bundle;
use super::processes::Processes;
use super::{Runtime, place};
use crate::exec::above::{SIGNALS, Status, wait_for};
use crate::exec::command::{Command, Output};
use crate::exec::device_guard::DeviceAccess;
use crate::exec::mount_api::{QUIET, attach, clone_tree, make_file};
use crate::exec::mounts::{Stage, new_proc};
use crate::exec::prepare::{prepare, set_host_name};
use crate::exec::spec::{ExecSpec, Network, Security};
use crate::sandbox::{Context, RootFs, sys, view};
use crate::small_file::{self, Kinds};
use crate::{Error, Result, ResultExt};
use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, mount_change};
use serde::Deserialize;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// How much of what a runtime says is read.
const MAX_LOG: u64 = 64 << 10;

/// Runs a step as pid 1 of the outer pid namespace. `name` is that of its container. Returns the exit code of the command.
pub(in crate::exec) fn init(
    rootfs: &RootFs,
    mut spec: ExecSpec,
    (runtime, name): (&Runtime, &str),
    files: Output,
    status: &File,
    context: Context,
) -> Result<i32> {
    enter(&spec, runtime)?;
    let processes = Processes::start()?;
    set_host_name(&mut spec, context)?;
    let devices = match spec.security {
        Security::Insecure => DeviceAccess::All,
        // Not every runtime restricts them in a control group.
        Security::Sandbox => DeviceAccess::NoDevices,
    };
    let mount_point = runtime.mount_point();
    let mut stage = Stage::new(rootfs, devices, &mount_point)?;
    let prepared = prepare(&mut stage, &spec, context, Some(processes.proc));
    // The mount points made so far must be removed, also after a failure.
    Status::Made(stage.made().to_vec()).send(status);
    let (user, cwd) = prepared?;
    let command = Command::new(&spec, user, cwd)?;
    command.check(stage.root())?;

    let folder = stage.runtime_folder()?;
    let has_group = !context.user_namespace && !runtime.has_no_groups();
    let config = bundle::config(&spec, &command, &mount_point, has_group.then_some(name), context)?;
    let config = serde_json::to_vec(&config).expect("plain data");
    make_file(folder.as_fd(), "config.json", &config, 0o600, 0, 0)?;
    make_file(folder.as_fd(), "processes", &[], 0o600, 0, 0)?;
    let namespace = clone_tree(processes.namespace.as_fd(), Path::new(""), false)?;
    attach(namespace.as_fd(), folder.as_fd(), "processes")?;
    drop(stage);
    sys::hide_memory();
    sys::block_signals(SIGNALS);
    let started = start(runtime, name, &files, spec.security == Security::Sandbox, context);
    drop((files, command, spec, config));
    wait_for(started?)
}

/// Makes the namespaces of the step, but for those that the runtime makes, and mounts the `/proc` that the runtime needs.
fn enter(spec: &ExecSpec, runtime: &Runtime) -> Result<()> {
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    match spec.network {
        Network::Host => {}
        Network::None => namespaces |= libc::CLONE_NEWNET,
        Network::Private => return Err(Error::unsupported("a runtime has no network `private`")),
    }
    sys::unshare(namespaces).context("detail", "namespaces")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Error::io("cannot make the mounts private", "/", e.into()))?;
    if spec.network == Network::None {
        sys::loopback_up().context("detail", "loopback interface")?;
    }
    let unified = Path::new("/sys/fs/cgroup/unified");
    if runtime.has_no_groups() && unified.is_dir() {
        // crun refuses machines with both versions of control groups, also where it is told to leave them alone.
        let nothing = view::tmpfs(&[("mode", "0555")], QUIET)?;
        attach(nothing.as_fd(), CWD, unified)?;
    }
    attach(new_proc()?.as_fd(), CWD, "/proc")
}

/// Has the runtime start the command, and returns its number.
fn start(
    runtime: &Runtime,
    name: &str,
    files: &Output,
    hides_sockets: bool,
    context: Context,
) -> Result<i32> {
    let mount_point = runtime.mount_point();
    let args = arguments(runtime, name, &mount_point, context)?;
    let program = text(&runtime.program)?;
    let (failure, failed) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let child = match sys::fork()? {
        sys::Fork::Child => {
            let error = launch(files, &program, &args, hides_sockets);
            Status::Failed(error.into()).send(&File::from(failed));
            sys::exit_now(1);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(failed);
    if let Ok(Some(bytes)) = crate::sandbox::read_frame(&mut File::from(failure))
        && let Ok(Status::Failed(why)) = serde_json::from_slice(&bytes)
    {
        return Err(why.into());
    }
    match sys::wait(child, true)? {
        Some((_, 0)) => {}
        ended => return Err(refused(runtime, &mount_point, ended.map_or(1, |(_, code)| code))),
    }
    let file = place(&mount_point, "pid");
    let pid = std::fs::read_to_string(&file).at("cannot read the number of the command", &file)?;
    pid.trim()
        .parse()
        .map_err(|e| Error::internal("the runtime did not say the number of the command").with_source(e))
}

/// Becomes the runtime. Returns only when that failed.
fn launch(files: &Output, program: &CString, args: &[CString], hides_sockets: bool) -> Error {
    let prepare = || -> Result<()> {
        sys::reset_signals();
        rustix::process::setsid().map_err(std::io::Error::from)?;
        sys::duplicate_to(File::open("/dev/null")?.as_fd(), 0)?;
        let both: [BorrowedFd<'_>; 2] = [files.output.as_fd(), files.errors.as_fd()];
        for (number, file) in (1..).zip(both) {
            sys::duplicate_to(file, number)?;
        }
        sys::close_on_exec_above(2);
        if hides_sockets {
            // The host's network exposes its abstract sockets. Older kernels cannot hide them.
            let _ = sys::hide_abstract_sockets();
        }
        Ok(())
    };
    if let Err(error) = prepare() {
        return error;
    }
    let env = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    let error = sys::exec(program, args, &env);
    Error::io("cannot start the runtime", Path::new(std::ffi::OsStr::from_bytes(program.as_bytes())), error)
}

fn text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::invalid("a path contains a NUL"))
}

fn arguments(runtime: &Runtime, name: &str, mount_point: &Path, context: Context) -> Result<Vec<CString>> {
    let first = match runtime.name.as_str() {
        "crun" => Some("--cgroup-manager=disabled"),
        "runc" if context.user_namespace => Some("--rootless=true"),
        "runc" => Some("--rootless=false"),
        _ => None,
    };
    let file = |name| place(mount_point, name).into_os_string();
    let mut all = vec![runtime.program.clone().into_os_string()];
    all.extend(first.map(OsString::from));
    all.extend([
        "--root".into(),
        file("state"),
        "--log".into(),
        file("log"),
        "--log-format".into(),
        "json".into(),
    ]);
    all.extend([
        "run".into(),
        "--detach".into(),
        "--pid-file".into(),
        file("pid"),
        "--bundle".into(),
        file(""),
    ]);
    all.push(name.into());
    all.iter().map(|one| text(Path::new(one))).collect()
}

/// A line of what a runtime says.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The error of a runtime that has not started the command.
fn refused(runtime: &Runtime, mount_point: &Path, code: i32) -> Error {
    let log = place(mount_point, "log");
    let bytes =
        small_file::read(&log, "the messages of the runtime", MAX_LOG, Kinds::Files).unwrap_or_default();
    let said = message(&String::from_utf8_lossy(&bytes));
    // A program that cannot be executed is the one thing that the image is to blame for.
    let error = match &said {
        Some(said) if ["exec: \"", "executable"].iter().any(|word| said.contains(word)) => {
            Error::invalid("the program cannot be started")
        }
        _ => Error::unsupported(format!(
            "`{}` could not start the container of a step: the native executor does without it",
            runtime.name
        )),
    };
    let said = said.unwrap_or_else(|| format!("it ended with the exit code {code} and said nothing"));
    error.with_context("runtime", runtime.program.display()).with_context("detail", said)
}

/// The last error in what a runtime says, else the last line.
fn message(log: &str) -> Option<String> {
    let lines: Vec<Line> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let is_error = |line: &&Line| matches!(line.level.as_str(), "error" | "fatal" | "panic");
    lines.iter().rev().find(is_error).or(lines.last()).map(|line| line.msg.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_runtime_is_told() {
        let log = "{\"level\":\"warning\",\"msg\":\"first\"}\nno json\n{\"level\":\"error\",\"msg\":\" second \"}\n\
                   {\"level\":\"info\",\"msg\":\"third\"}\n";
        assert_eq!(message(log).as_deref(), Some("second"));
        assert_eq!(message("{\"msg\":\"one\"}\n{\"msg\":\"two\"}\n").as_deref(), Some("two"));
        assert_eq!(message("no json\n"), None);
    }

    #[test]
    fn each_runtime_is_told_about_control_groups_in_its_words() {
        let context = |user_namespace| Context {
            identity: crate::sandbox::Identity::Full,
            user_namespace,
            isolation: crate::sandbox::Isolation::Full,
            devices: !user_namespace,
        };
        let first = |name: &str, user_namespace| {
            let runtime = Runtime { program: "/bin/x".into(), name: name.into(), folder: "/state".into() };
            let args =
                arguments(&runtime, "step", Path::new("/state/stage"), context(user_namespace)).unwrap();
            assert_eq!(args.last().unwrap().as_c_str(), c"step");
            args[1].to_str().unwrap().to_owned()
        };
        assert_eq!(first("runc", false), "--rootless=false");
        assert_eq!(first("runc", true), "--rootless=true");
        assert_eq!(first("crun", false), "--cgroup-manager=disabled");
        assert_eq!(first("other", false), "--root");
    }
}
