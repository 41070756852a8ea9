//! An executor that runs commands with `chroot`: no namespaces, no mounts, and the rights of whoever runs it.
//!
//! It shows what an executor outside of the SDK has to do: say what it can, refuse the rest by name, start the command as
//! the spec says, hand on what it writes, and leave no process behind. It needs root, and it keeps nobody in: use it for
//! commands that you trust. A process that leaves the process group of its command outlives it.
//!
//! The command is started by a program of two steps, `chroot-helper`, since a process with many threads cannot change
//! its root for a child without unsafe code.

use async_trait::async_trait;
use hyper_sdk::exec::{
    ExecCapabilities, ExecSpec, Executor, ExitStatus, Identity, LogSink, Network, RootFs, Security,
};
use hyper_sdk::layer::resolve_user;
use hyper_sdk::progress::LogStream;
use hyper_sdk::{Error, Result, ResultExt as _};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// What the helper is told: everything is looked up already.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The path of the program in the root.
    pub program: String,
    /// The command.
    pub spec: ExecSpec,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Runs commands in a folder, with `chroot`.
#[derive(Clone, Debug)]
pub struct ChrootExecutor {
    helper: PathBuf,
}

impl ChrootExecutor {
    /// An executor that starts commands with the program `chroot-helper` at this path.
    pub fn new(helper: impl Into<PathBuf>) -> Self {
        Self { helper: helper.into() }
    }
}

impl fmt::Display for ChrootExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("chroot")
    }
}

/// Kills a process group when it is dropped.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // Fails only when nobody is left.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Refuses what the capabilities deny. Gives the folder that is the root.
fn check<'a>(rootfs: &'a RootFs, spec: &ExecSpec) -> Result<&'a Path> {
    let denied = |what: &str| Err(Error::unsupported(format!("{what} needs a sandbox, and chroot is none")));
    let RootFs::Folder { path, writable: true } = rootfs else {
        return denied("a root file system that is an overlay or read-only");
    };
    if !spec.mounts.is_empty() {
        return denied("a mount");
    }
    if spec.hostname.is_some() || spec.resolv_conf.is_some() || !spec.extra_hosts.is_empty() {
        return denied("a name of a host");
    }
    if spec.network != Network::Host {
        return denied("a command without the network of this machine");
    }
    if !spec.limits.is_empty() {
        return denied("a limit of what a command uses");
    }
    if spec.security == Security::Insecure {
        return denied("a command with all rights");
    }
    if !spec.cwd.starts_with('/') {
        return Err(Error::invalid("the working folder must be absolute").with_context("path", &spec.cwd));
    }
    Ok(path)
}

/// Opens a path of the root as if that were the root of the system: no link leads out.
fn open(root: &Path, path: &str) -> Result<OwnedFd> {
    let failed = |e: rustix::io::Errno| Error::io("cannot open a file of the root", path, e.into());
    let top = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat2(&top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).map_err(failed)
}

fn read(root: &Path, path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(open(root, path).ok()?).take(1 << 20).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Finds the program of a command in its root.
fn find(root: &Path, spec: &ExecSpec) -> Result<String> {
    let name = spec.args.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::invalid("the command to run is empty"))?;
    let path = spec.env.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value);
    let candidates: Vec<String> = match name.contains('/') {
        true => vec![name.clone()],
        false => path.split(':').map(|folder| format!("{folder}/{name}")).collect(),
    };
    let is_program = |candidate: &String| {
        let Ok(Ok(stat)) = open(root, candidate).map(rustix::fs::fstat) else { return false };
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0
    };
    candidates.into_iter().find(is_program).ok_or_else(|| {
        Error::invalid("the program does not exist or cannot be run")
            .with_context("program", name)
            .with_context("PATH", path)
    })
}

async fn pass_on(from: Option<impl AsyncRead + Unpin>, stream: LogStream, log: &dyn LogSink) -> Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; 32 << 10];
    loop {
        log.ready().await;
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => log.log(stream, &buffer[..n]),
        }
    }
}

#[async_trait]
impl Executor for ChrootExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        ExecCapabilities::new(Identity::Full)
    }

    async fn run(&self, rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
        let root = check(rootfs, &spec)?;
        let program = find(root, &spec)?;
        let (passwd, group) = (read(root, "/etc/passwd"), read(root, "/etc/group"));
        let user = resolve_user(&spec.user, passwd.as_deref(), group.as_deref())?;
        let mut groups = user.groups;
        groups.extend(&spec.groups);
        let order = Order { program, spec, uid: user.uid, gid: user.gid, groups };
        let mut child = Command::new(&self.helper)
            .arg(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .process_group(0)
            .spawn()
            .at("cannot start the helper of chroot", &self.helper)?;
        let id = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
        let mut group = Group(id);
        let text = serde_json::to_vec(&order)
            .map_err(|e| Error::internal("the command is not plain data").with_source(e))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&text).await?;
        }
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let status = child.wait().await?;
            // What it left behind goes with it, and the pipes end.
            group.kill();
            Ok(status)
        };
        let (status, (), ()) = tokio::try_join!(
            ended,
            pass_on(output, LogStream::Stdout, &*log),
            pass_on(errors, LogStream::Stderr, &*log)
        )?;
        Ok(ExitStatus::new(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255)))
    }
}
