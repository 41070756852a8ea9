//! The executor that has an OCI runtime make the container of each step.

use super::native::NativeExecutor;
use super::runtime::Runtime;
use super::step::Order;
use super::{
    BuildNetwork, ExecCapabilities, ExecSpec, Executor, ExitStatus, LogSink, Network, Security, StepLimits,
    no_build_network,
};
use crate::sandbox::{RootFs, Sandbox};
use crate::{Error, ErrorKind, Result, ResultExt};
use async_trait::async_trait;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// How long a runtime may take to say its version.
const PATIENCE: Duration = Duration::from_secs(20);
/// The oldest specification that a runtime may implement.
const OLDEST: &str = "1.0.0";

/// Runs commands in containers of an OCI runtime: `runc`, `crun`, or another one with their command line that makes
/// containers of this kernel.
///
/// The helper of a [`Sandbox`] makes the tree of a step with all its mounts, as for [`NativeExecutor`], and writes a bundle
/// for it; the runtime starts the command there. A step has the same mounts, devices, capabilities, user, limits, host
/// names and list of system calls, so its layer is the same. These differ:
///
/// - Nodes of devices work in `/dev` alone, never where an image or a step has made one.
/// - Programs of 32-bit x86 do not run on a 64-bit machine: a filter of a runtime cannot see which sockets they make.
///   As the program of a command they are refused; below it they are killed with SIGSYS.
/// - Limits of a command together with what it starts ([`super::GroupLimits`]) are refused, and so is [`Network::Private`].
/// - What a system call newer than the runtime's own list returns is for the runtime to say.
///
/// It needs [`crate::sandbox::Isolation::Full`] and many ids (root, or a user with subordinate ids). Bundle, state and secrets of a step
/// are in memory and end with it. Dropping the future of [`Executor::run`], or the end of this process by any means, ends
/// the container and all its processes. Control groups of a step that was killed with its helper are removed by the next
/// one that uses the same folder.
///
/// ```no_run
/// # async fn example() -> hyper_sdk::Result<()> {
/// use hyper_sdk::exec::OciRuntime;
/// use hyper_sdk::sandbox::{HelperCommand, Sandbox};
///
/// let sandbox = Sandbox::start(HelperCommand::current_exe()).await?;
/// let executor = OciRuntime::new(sandbox, "/usr/sbin/runc", "/var/lib/example/runtime");
/// println!("{}", executor.version().await?); // runc 1.1.5
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OciRuntime {
    native: NativeExecutor,
    program: PathBuf,
    folder: PathBuf,
    /// The name and the version that the program says.
    found: Arc<OnceCell<(String, String)>>,
}

impl OciRuntime {
    /// An executor with the program at an absolute path, for the steps of this sandbox. The folder is made when it is
    /// missing; it belongs to this executor alone, and stays small. Nothing is run before it is needed.
    pub fn new(sandbox: Sandbox, program: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self {
            native: NativeExecutor::new(sandbox),
            program: program.into(),
            folder: folder.into(),
            found: Arc::default(),
        }
    }

    /// The name and the version of the runtime at an absolute path, such as `runc 1.1.5`.
    ///
    /// # Errors
    /// Those of [`OciRuntime::version`].
    pub async fn version_of(program: &Path) -> Result<String> {
        ask(program).await.map(|(name, version)| format!("{name} {version}"))
    }

    /// The name and the version of the program, such as `runc 1.1.5`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such program; [`ErrorKind::Unsupported`] when it is not one of a runtime, or
    /// of one that is too old.
    pub async fn version(&self) -> Result<String> {
        self.found().await.map(|(name, version)| format!("{name} {version}"))
    }

    async fn found(&self) -> Result<&(String, String)> {
        self.found.get_or_try_init(|| ask(&self.program)).await
    }

    /// Makes the folders that steps need.
    fn make_folders(&self, runtime: &Runtime) -> Result<()> {
        for folder in [runtime.mount_point(), runtime.records()] {
            std::fs::create_dir_all(&folder).at("cannot make a folder of the runtime", &folder)?;
        }
        Ok(())
    }
}

/// Asks a program for its name and version.
async fn ask(program: &Path) -> Result<(String, String)> {
    let named = |e: Error| e.with_context("runtime", program.display());
    if !program.is_absolute() {
        return Err(named(Error::invalid("the path of a runtime must be absolute")));
    }
    let child = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(named(Error::new(
                ErrorKind::NotFound,
                "there is no such runtime: install it, or build with the native executor",
            )));
        }
        Ok(Err(e)) => return Err(named(Error::io("cannot run the runtime", program, e))),
        Err(_) => return Err(named(Error::new(ErrorKind::Timeout, "the runtime did not say its version"))),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let (name, version, specification) =
        parse(&said).filter(|_| output.status.success()).ok_or_else(|| {
            named(Error::unsupported("the program is not an OCI runtime: it does not say its version as one"))
        })?;
    if !is_enough(&specification) {
        return Err(named(Error::unsupported(format!(
            "`{name} {version}` implements version {specification} of the runtime specification, and {OLDEST} is needed"
        ))));
    }
    Ok((name, version))
}

/// The name, the version, and the version of the specification: `runc version 1.1.5`, and a line `spec: 1.0.2`.
fn parse(said: &str) -> Option<(String, String, String)> {
    let mut words = said.lines().next()?.split_whitespace();
    let (name, word, version) = (words.next()?, words.next()?, words.next()?);
    let is_plain = |text: &str| {
        text.len() < 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+_".contains(&byte))
    };
    let specification = said.lines().find_map(|line| line.strip_prefix("spec:"))?.trim();
    let all = [name, version, specification];
    (word == "version" && all.iter().all(|text| is_plain(text)))
        .then(|| (name.to_owned(), version.to_owned(), specification.to_owned()))
}

fn is_enough(specification: &str) -> bool {
    specification.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 1)
}

/// Refuses limits of a command together with what it starts: each runtime has its own place for control groups.
fn refuse_groups(limits: &StepLimits) -> Result<()> {
    if limits.group.is_empty() {
        return Ok(());
    }
    let names = limits.group.names();
    let name = names.first().copied().unwrap_or("cgroup-parent");
    Err(Error::unsupported(format!(
        "a step with a runtime cannot be held to `{name}`: leave it out, or build with the native executor"
    )))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Executor for OciRuntime {
    fn capabilities(&self) -> ExecCapabilities {
        self.native.capabilities().without_build_network()
    }

    async fn run(&self, rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
        if spec.security == Security::Insecure && !self.capabilities().insecure {
            return Err(Error::unsupported(
                "`security=insecure` needs the builder to run as the host's root, with namespaces",
            ));
        }
        refuse_groups(&spec.limits)?;
        if spec.network == Network::Private {
            return Err(no_build_network(self));
        }
        let (name, _) = self.found().await?;
        let folder = std::path::absolute(&self.folder).at("cannot resolve a folder", &self.folder)?;
        let mut runtime = Runtime { program: self.program.clone(), name: name.clone(), folder };
        self.make_folders(&runtime)?;
        // A runtime takes no path with a link in it.
        runtime.folder = runtime.folder.canonicalize().at("cannot resolve a folder", &runtime.folder)?;
        self.native.order(rootfs, Order { spec, runtime: Some(runtime) }, &*log).await
    }

    async fn check_limits(&self, limits: &StepLimits) -> Result<()> {
        refuse_groups(limits)?;
        self.native.check_limits(limits).await
    }

    async fn pack_cache(&self, folder: &Path) -> Result<Box<dyn Read + Send>> {
        self.native.pack_cache(folder).await
    }

    async fn fill_cache(&self, folder: &Path, files: Box<dyn Read + Send>) -> Result<()> {
        self.native.fill_cache(folder, files).await
    }

    async fn build_network(&self) -> Result<BuildNetwork> {
        Err(no_build_network(self))
    }
}

impl fmt::Display for OciRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OCI runtime {}", self.program.display())
    }
}

impl fmt::Debug for OciRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OciRuntime")
            .field("native", &self.native)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_a_runtime() {
        let runc = "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\ngo: go1.19.8\n";
        let strings = |(a, b, c): (&str, &str, &str)| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(parse(runc), strings(("runc", "1.1.5+ds1", "1.0.2-dev")));
        assert_eq!(parse("crun version 1.8.1\nspec: 1.0.0\n"), strings(("crun", "1.8.1", "1.0.0")));
        for wrong in
            ["", "git version 2.39\n", "bash, version 5\nspec: 1.0.0\n", "a version \x1b[2J\nspec: 1.0.0\n"]
        {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert!(is_enough("1.0.2-dev") && is_enough("2.0") && !is_enough("0.5.0") && !is_enough("x"));
    }

    #[test]
    fn limits_of_groups_are_refused_by_name() {
        let mut limits = StepLimits { shm_size: Some(1), ..StepLimits::default() };
        refuse_groups(&limits).unwrap();
        limits.group.parent = Some("/a".to_owned());
        assert!(refuse_groups(&limits).unwrap_err().message().contains("`cgroup-parent`"));
        limits.group.pids = Some(9);
        let error = refuse_groups(&limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("`pids-limit`"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_runtime_is_refused_by_name() {
        let kind = |program: &'static str| async move {
            let error = ask(Path::new(program)).await.unwrap_err();
            assert!(format!("{error:?}").contains(program), "{error:?}");
            error.kind()
        };
        assert_eq!(kind("/no/such/runtime").await, ErrorKind::NotFound);
        assert_eq!(kind("/bin/true").await, ErrorKind::Unsupported);
        assert_eq!(kind("runc").await, ErrorKind::Invalid);
    }
}
