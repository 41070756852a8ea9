//! The command itself: its last preparations between fork and execve, and the search for its program.
//!
//! `no_new_privs` is not set, because builds use `su` and `sudo` and other builders let them work. The bounding set
//! limits what set-user-id programs can gain.

use super::limits::{Ulimit, UlimitKind};
use super::program::{self, Found};
use super::spec::{ExecSpec, Network};
use super::{notify, rlimits, seccomp, single_id};
use crate::layer::ProcessUser as User;
use crate::sandbox::{sys, view};
use crate::{Error, ErrorKind, Result, ResultExt};
use rustix::fs::Access;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Docker's default capabilities: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
/// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE and SETFCAP.
pub(super) const CAPABILITIES: &[u32] = &[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
/// Where programs are searched when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest argument or variable that the kernel takes (MAX_ARG_STRLEN, 32 of the smallest pages), with its NUL.
const LONGEST_TEXT: usize = 128 << 10;

/// The user of a step, by the files of its tree. They are read before a mount of the step can hide them.
pub(super) fn user_of(root: BorrowedFd<'_>, spec: &ExecSpec) -> Result<User> {
    let file = |path: &str| view::read_file(root, path, 16 << 20);
    let (passwd, group) = (file("/etc/passwd")?, file("/etc/group")?);
    let mut user = crate::layer::resolve_user(&spec.user, passwd.as_deref(), group.as_deref())?;
    user.groups.extend(&spec.groups);
    if !user.groups.contains(&user.gid) {
        user.groups.insert(0, user.gid);
    }
    Ok(user)
}

/// The pipes that the command writes to.
pub(super) struct Output {
    pub(super) output: OwnedFd,
    pub(super) errors: OwnedFd,
}

/// How a command is restricted.
#[derive(Default)]
pub(super) struct Limits<'a> {
    /// Whether it has system call filters.
    pub(super) filters: bool,
    /// Whether it has at most Docker's default capabilities; otherwise all that this process has.
    pub(super) few_capabilities: bool,
    /// Whether it may not change its root.
    pub(super) no_chroot: bool,
    /// Whether there is a single id.
    pub(super) single_identity: bool,
    /// Whose reader answers calls that the kernel cannot do for the step. With a single id, that reader also records
    /// owners and users.
    pub(super) helper: Option<&'a UnixStream>,
    /// The root to change to; that of this process without.
    pub(super) root: Option<BorrowedFd<'a>>,
}

/// A command, ready to be started.
pub(super) struct Command {
    args: Vec<CString>,
    env: Vec<CString>,
    program: String,
    path: String,
    /// The working folder, entered by its descriptor: its path may lead elsewhere by now.
    cwd: OwnedFd,
    cwd_path: String,
    user: User,
    host_network: bool,
    ulimits: Vec<Ulimit>,
    has_memory_limit: bool,
}

impl Command {
    /// Prepares the arguments and the environment. Where the environment has no `HOME`, or an empty one, it is taken
    /// from the user's entry in `/etc/passwd`.
    pub(super) fn new(spec: &ExecSpec, user: User, cwd: OwnedFd) -> Result<Self> {
        let text = |what: &'static str, text: String| {
            CString::new(text).map_err(|_| Error::invalid(format!("{what} of the command contains a NUL")))
        };
        let env = environment(spec, &user);
        let path =
            env.iter().find(|(name, _)| *name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value).to_owned();
        Ok(Self {
            args: spec.args.iter().map(|arg| text("an argument", arg.clone())).collect::<Result<_>>()?,
            env: env
                .iter()
                .map(|(name, value)| text("the environment", format!("{name}={value}")))
                .collect::<Result<_>>()?,
            program: spec.args[0].clone(),
            path,
            cwd,
            cwd_path: spec.cwd.clone(),
            user,
            host_network: spec.network != Network::None,
            ulimits: spec.limits.ulimits.clone(),
            has_memory_limit: spec.limits.group.memory.is_some(),
        })
    }

    /// Becomes the command. Returns only when that failed.
    pub(super) fn start(&self, files: Output, limits: &Limits<'_>) -> Error {
        match self.try_start(&files, limits) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_start(&self, files: &Output, limits: &Limits<'_>) -> Result<std::convert::Infallible> {
        sys::reset_signals();
        rustix::process::setsid().map_err(std::io::Error::from)?;
        let null = std::fs::File::open("/dev/null")?;
        sys::duplicate_to(null.as_fd(), 0)?;
        sys::duplicate_to(files.output.as_fd(), 1)?;
        sys::duplicate_to(files.errors.as_fd(), 2)?;
        sys::close_on_exec_above(2);
        if self.has_memory_limit {
            be_killed_first();
        }
        if let Some(root) = limits.root {
            rustix::process::fchdir(root)
                .and_then(|()| rustix::process::chroot("."))
                .map_err(|e| Error::from(std::io::Error::from(e)).with_context("detail", "chroot"))?;
        }
        rustix::process::fchdir(&self.cwd).map_err(|e| {
            Error::invalid("the working folder cannot be entered")
                .with_context("path", &self.cwd_path)
                .with_source(e)
        })?;
        self.drop_privileges(limits)?;
        Err(self.exec())
    }

    fn drop_privileges(&self, limits: &Limits<'_>) -> Result<()> {
        const CAP_SETPCAP: u32 = 8;
        const CAP_SYS_CHROOT: u32 = 18;
        let denied = if limits.no_chroot { 1_u64 << CAP_SYS_CHROOT } else { 0 };
        let docker = CAPABILITIES.iter().fold(0, |bits, capability| bits | 1_u64 << capability);
        let allowed = if limits.few_capabilities { docker & !denied } else { !denied };
        let have = sys::effective_capabilities();
        // Without this right the container has few capabilities itself.
        if have >> CAP_SETPCAP & 1 == 1 {
            for capability in (0..=sys::last_capability()).filter(|capability| allowed >> capability & 1 == 0)
            {
                sys::drop_bounding(capability).context("detail", "capabilities")?;
            }
        }
        if limits.filters {
            // Installing a filter needs CAP_SYS_ADMIN, so the filters come first. They allow the calls below.
            let is_handed_over = self.hand_over(limits.single_identity, limits.helper)?;
            for filter in seccomp::filters(self.host_network, is_handed_over)? {
                sys::install_filter(&filter).context("detail", "system call filter")?;
            }
        }
        // After what needs descriptors, and before the right to raise limits is given up.
        rlimits::apply(&self.ulimits)?;
        if !limits.few_capabilities {
            sys::keep_capabilities().context("detail", "capabilities")?;
        }
        if !limits.single_identity {
            let wrong = |e: std::io::Error| match e.raw_os_error() {
                Some(libc::EINVAL) => Error::unsupported(crate::layer::UNMAPPED_OWNER).with_source(e),
                _ => e.into(),
            };
            sys::set_groups(&self.user.groups)
                .map_err(wrong)
                .context("detail", format!("groups {:?}", self.user.groups))?;
            sys::set_ids(self.user.uid, self.user.gid)
                .map_err(wrong)
                .context("detail", format!("user {}, group {}", self.user.uid, self.user.gid))?;
        }
        if !limits.few_capabilities {
            return sys::raise_ambient_capabilities(have & allowed).context("detail", "capabilities");
        }
        let bits = if self.user.uid == 0 || limits.single_identity { have & allowed } else { 0 };
        sys::set_capabilities(bits).context("detail", "capabilities")
    }

    /// Passes `socketcall` to the supervisor, and with a single id also calls about owners and users. Returns whether
    /// that was done. Where the kernel does not support it, the calls themselves fail, and with a single id a step
    /// fails unless it runs as root.
    fn hand_over(&self, single_identity: bool, helper: Option<&UnixStream>) -> Result<bool> {
        let Some(helper) = helper else { return Ok(false) };
        if !single_identity {
            let Ok(listener) = sys::install_notifying_filter(&seccomp::handed_over()) else {
                return Ok(false);
            };
            notify::hand_over(listener, helper)?;
            return Ok(true);
        }
        let installed = single_id::set_identity(0, 1)
            .map_err(std::io::Error::from)
            .and_then(|()| sys::install_notifying_filter(&single_id::program()));
        match installed {
            Ok(listener) => {
                notify::hand_over(listener, helper)?;
                Ok(true)
            }
            Err(e) if (self.user.uid, self.user.gid) != (0, 0) => {
                Err(single_id::refused((self.user.uid, self.user.gid), e))
            }
            Err(_) => Ok(false),
        }
    }

    /// The paths where the program can be.
    fn candidates(&self) -> Vec<String> {
        let program = &self.program;
        if program.contains('/') {
            return vec![program.clone()];
        }
        // An empty part means the working folder.
        let join = |folder: &str| {
            if folder.is_empty() { format!("./{program}") } else { format!("{folder}/{program}") }
        };
        self.path.split(':').map(join).collect()
    }

    /// The arguments, the environment as `NAME=VALUE`, and the user.
    pub(super) fn parts(&self) -> (&[CString], &[CString], &User) {
        (&self.args, &self.env, &self.user)
    }

    /// Looks in the tree for what keeps the command from being started, for when another program starts it: that one would
    /// say it in words of its own, or not at all.
    ///
    /// # Errors
    /// As for a command that cannot be started, and those of [`program::look`].
    pub(super) fn check(&self, root: BorrowedFd<'_>) -> Result<()> {
        let is_long = |text: &CString| text.as_bytes_with_nul().len() > LONGEST_TEXT;
        if self.args.iter().chain(&self.env).any(is_long) {
            return Err(self.too_long().with_context("program", &self.program));
        }
        let mut denied = None;
        for candidate in self.candidates() {
            let path = match candidate.starts_with('/') {
                true => candidate.clone(),
                false => format!("{}/{candidate}", self.cwd_path),
            };
            match program::look(root, &path).map_err(|e| e.with_context("program", &candidate))? {
                Found::Program => return Ok(()),
                Found::Denied => denied = Some(candidate),
                Found::Nothing => {}
            }
        }
        Err(match denied {
            Some(candidate) => {
                Error::invalid("this user may not execute the program").with_context("program", candidate)
            }
            None => self.missing(),
        })
    }

    fn missing(&self) -> Error {
        let program = &self.program;
        let error =
            Error::invalid("the program does not exist in the image").with_context("program", program);
        if program.contains('/') { error } else { error.with_context("PATH", &self.path) }
    }

    /// Tries each path where the program can be.
    fn exec(&self) -> Error {
        let candidates = self.candidates();
        let mut denied = None;
        for candidate in &candidates {
            let Ok(path) = CString::new(candidate.as_str()) else { continue };
            let error = sys::exec(&path, &self.args, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT) if rustix::fs::access(candidate, Access::EXISTS).is_ok() => {
                    return program::no_interpreter().with_context("program", candidate);
                }
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = Some(candidate),
                Some(libc::ENOEXEC) => {
                    return program::wrong_kind().with_context("program", candidate).with_source(error);
                }
                Some(libc::E2BIG) => {
                    return self.too_long().with_context("program", candidate);
                }
                _ => {
                    let nproc = self.ulimits.iter().rfind(|limit| limit.kind == UlimitKind::Nproc);
                    let refused = match nproc.filter(|_| error.raw_os_error() == Some(libc::EAGAIN)) {
                        Some(limit) => Error::invalid(format!(
                            "the program cannot be started: its user has more processes than the limit `{limit}` \
                             allows, those of other steps among them"
                        )),
                        None => Error::invalid("the program cannot be started"),
                    };
                    return refused.with_context("program", candidate).with_source(error);
                }
            }
        }
        if let Some(candidate) = denied {
            let error = match closed_folder(candidate) {
                Some(folder) => Error::invalid("this user may not enter a folder above the program")
                    .with_context("path", folder.display()),
                None => Error::invalid("this user may not execute the program"),
            };
            return error.with_context("program", candidate);
        }
        self.missing()
    }

    /// Names the text that is too long for the kernel, which limits each text and their sum.
    fn too_long(&self) -> Error {
        let argument = self.args.iter().position(|arg| arg.as_bytes_with_nul().len() > LONGEST_TEXT);
        let variable = self.env.iter().find(|pair| pair.as_bytes_with_nul().len() > LONGEST_TEXT);
        let most = LONGEST_TEXT - 1;
        let message = match (argument, variable) {
            (Some(at), _) => format!(
                "argument {at} of the command has {} bytes, and one may have {most}: put it into a file",
                self.args[at].as_bytes().len()
            ),
            (None, Some(pair)) => {
                let name = pair.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
                format!(
                    "the environment variable `{}` has {} bytes with its name, and one may have {most}",
                    String::from_utf8_lossy(name),
                    pair.as_bytes().len()
                )
            }
            (None, None) => "the arguments and environment of the command are too long".to_owned(),
        };
        Error::new(ErrorKind::TooLarge, message)
    }
}

/// Lets the kernel prefer this process and what it starts to the process above it, when it looks for one to kill for its
/// memory: the step then ends as its own program decides. A failure changes no more than that.
fn be_killed_first() {
    let path = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(now) = now {
        let _ = std::fs::write(path, (now + 500).min(1000).to_string());
    }
}

/// The environment of a command: of several variables with one name the last one, and the home folder of the user.
fn environment(spec: &ExecSpec, user: &User) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    for (name, value) in &spec.env {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    let home = || user.home.clone().filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    match env.iter_mut().find(|(name, _)| name == "HOME") {
        Some((_, value)) if value.is_empty() => *value = home(),
        Some(_) => {}
        None => env.push(("HOME".to_owned(), home())),
    }
    env
}

/// The first folder above a file that this process may not enter.
fn closed_folder(path: &str) -> Option<&Path> {
    let mut folders: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
    folders.reverse();
    folders
        .into_iter()
        .filter(|folder| !folder.as_os_str().is_empty())
        .find(|folder| rustix::fs::access(*folder, Access::EXEC_OK) == Err(rustix::io::Errno::ACCESS))
}
