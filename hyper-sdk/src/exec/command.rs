//! The command itself: its last preparations between fork and execve, and the search for its program.
//!
//! `no_new_privs` is not set: `su` and `sudo` are used in builds, and peers let them work. The bounding set limits what
//! set-user-id programs can gain.

use super::spec::ExecSpec;
use super::{seccomp, sys};
use crate::layer::accounts::Identity as User;
use crate::{Error, ErrorKind, Result, ResultExt};
use rustix::fs::Access;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

/// Docker's default capabilities: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
/// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE and SETFCAP.
const CAPABILITIES: &[u32] = &[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
/// Where programs are searched when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the command writes.
pub(super) struct Output {
    pub(super) output: OwnedFd,
    pub(super) errors: OwnedFd,
}

/// A command, ready to be started.
pub(super) struct Command {
    args: Vec<CString>,
    env: Vec<CString>,
    program: String,
    path: String,
    cwd: String,
    user: User,
}

impl Command {
    /// Puts the texts together. `HOME` is that of the user's entry where the environment has none, or an empty one.
    pub(super) fn new(spec: &ExecSpec, user: User) -> Result<Self> {
        let text = |what: &'static str, text: String| {
            CString::new(text).map_err(|_| Error::invalid(format!("{what} of the command contains a NUL")))
        };
        let mut env: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &spec.env {
            match env.iter_mut().find(|(known, _)| known == name) {
                Some(entry) => entry.1 = value,
                None => env.push((name, value)),
            }
        }
        let home = user.home.clone().filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
        match env.iter_mut().find(|(name, _)| *name == "HOME") {
            Some((_, value)) if value.is_empty() => *value = &home,
            Some(_) => {}
            None => env.push(("HOME", &home)),
        }
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
            cwd: spec.cwd.clone(),
            user,
        })
    }

    /// Becomes the command. Returns only when that failed.
    pub(super) fn start(&self, files: Output, sandboxed: bool, single_identity: bool) -> Error {
        match self.try_start(&files, sandboxed, single_identity) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_start(
        &self,
        files: &Output,
        sandboxed: bool,
        single_identity: bool,
    ) -> Result<std::convert::Infallible> {
        sys::reset_signals();
        rustix::process::setsid().map_err(std::io::Error::from)?;
        let null = std::fs::File::open("/dev/null")?;
        sys::duplicate_to(null.as_fd(), 0)?;
        sys::duplicate_to(files.output.as_fd(), 1)?;
        sys::duplicate_to(files.errors.as_fd(), 2)?;
        sys::close_on_exec_above(2);
        rustix::process::chdir(&*self.cwd).map_err(|e| {
            Error::invalid("the working folder cannot be entered")
                .with_context("path", &self.cwd)
                .with_source(e)
        })?;
        self.drop_privileges(sandboxed, single_identity)?;
        Err(self.exec())
    }

    fn drop_privileges(&self, sandboxed: bool, single_identity: bool) -> Result<()> {
        let allowed = CAPABILITIES.iter().fold(0, |bits, capability| bits | 1_u64 << capability);
        let have = sys::effective_capabilities();
        if sandboxed {
            for capability in (0..=sys::last_capability()).filter(|capability| allowed >> capability & 1 == 0)
            {
                sys::drop_bounding(capability).context("detail", "capabilities")?;
            }
            // Filters need CAP_SYS_ADMIN, so they come before the rest, which they let pass.
            let mut filters = seccomp::filters(single_identity)?;
            // The one that fakes changes of identity would fake ours; with a single id there are none to make.
            for filter in filters.drain(..) {
                sys::install_filter(&filter).context("detail", "system call filter")?;
            }
        }
        if !sandboxed {
            sys::keep_capabilities().context("detail", "capabilities")?;
        }
        if !single_identity {
            sys::set_groups(&self.user.groups).context("detail", "supplementary groups")?;
            sys::set_ids(self.user.uid, self.user.gid)
                .context("detail", format!("user {}, group {}", self.user.uid, self.user.gid))?;
        }
        if !sandboxed {
            return sys::raise_ambient_capabilities(have).context("detail", "capabilities");
        }
        let bits = if self.user.uid == 0 || single_identity { have & allowed } else { 0 };
        sys::set_capabilities(bits).context("detail", "capabilities")
    }

    /// Tries each place where the program can be.
    fn exec(&self) -> Error {
        let program = &self.program;
        let candidates = if program.contains('/') {
            vec![program.clone()]
        } else {
            // An empty part means the working folder.
            let join = |folder: &str| {
                if folder.is_empty() { format!("./{program}") } else { format!("{folder}/{program}") }
            };
            self.path.split(':').map(join).collect()
        };
        let mut denied = None;
        for candidate in &candidates {
            let Ok(path) = CString::new(candidate.as_str()) else { continue };
            let error = sys::exec(&path, &self.args, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT) if rustix::fs::access(candidate, Access::EXISTS).is_ok() => {
                    return Error::invalid(
                        "the program exists, but its interpreter (the first line of a script, or the loader of a \
                         dynamically linked program) does not",
                    )
                    .with_context("program", candidate);
                }
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = Some(candidate),
                Some(libc::ENOEXEC) => {
                    return Error::invalid(
                        "the program cannot be executed here: it is for another kind of machine, or a script \
                         without a first line that names its interpreter",
                    )
                    .with_context("program", candidate)
                    .with_source(error);
                }
                Some(libc::E2BIG) => {
                    return Error::new(
                        ErrorKind::TooLarge,
                        "the arguments and environment of the command are too long",
                    )
                    .with_context("program", candidate);
                }
                _ => {
                    return Error::invalid("the program cannot be started")
                        .with_context("program", candidate)
                        .with_source(error);
                }
            }
        }
        if let Some(candidate) = denied {
            return Error::invalid("the program may not be executed by this user")
                .with_context("program", candidate);
        }
        let error =
            Error::invalid("the program does not exist in the image").with_context("program", program);
        if program.contains('/') { error } else { error.with_context("PATH", &self.path) }
    }
}
