//! A fake executor: it runs nothing, records its commands and follows a script.

use crate::exec::{ExecCapabilities, ExecSpec, Executor, ExitStatus, Identity, LogSink, RootFs};
use crate::layer::LayerPath;
use crate::progress::LogStream;
use crate::{Error, Result};
use async_trait::async_trait;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Barrier;

/// The visible effects of a command.
#[derive(Clone, Debug, Default)]
pub struct FakeRun {
    code: i32,
    output: Vec<(LogStream, Vec<u8>)>,
    files: Vec<(String, Vec<u8>, u32)>,
    folders: Vec<String>,
    meets: Option<Arc<Barrier>>,
    hangs: bool,
    error: Option<(crate::ErrorKind, String)>,
}

impl FakeRun {
    /// A command that succeeds and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The command ends with this exit code.
    #[must_use]
    pub fn exits(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// The command writes to its standard output.
    #[must_use]
    pub fn prints(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.output.push((LogStream::Stdout, text.into()));
        self
    }

    /// The command writes to its standard error.
    #[must_use]
    pub fn complains(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.output.push((LogStream::Stderr, text.into()));
        self
    }

    /// The command writes a file of its root with mode 0644, and creates the folders above it.
    #[must_use]
    pub fn writes(self, path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.writes_as(path, content, 0o644)
    }

    /// The command writes a file of its root with this mode.
    #[must_use]
    pub fn writes_as(mut self, path: impl Into<String>, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.files.push((path.into(), content.into(), mode));
        self
    }

    /// The command creates a folder of its root, and those above it.
    #[must_use]
    pub fn makes_folder(mut self, path: impl Into<String>) -> Self {
        self.folders.push(path.into());
        self
    }

    /// The command waits at the barrier for other commands, to test that they run at the same time.
    #[must_use]
    pub fn meets(mut self, others: &Arc<Barrier>) -> Self {
        self.meets = Some(Arc::clone(others));
        self
    }

    /// The command never ends by itself.
    #[must_use]
    pub fn hangs(mut self) -> Self {
        self.hangs = true;
        self
    }

    /// The command cannot be started.
    #[must_use]
    pub fn cannot_start(mut self, kind: crate::ErrorKind, message: impl Into<String>) -> Self {
        self.error = Some((kind, message.into()));
        self
    }
}

/// An executor for tests: it runs nothing, records each [`ExecSpec`], and has the effects that the script defines for
/// the command.
///
/// A command is identified by its last argument, which is the script of a RUN in shell form. A command that is not in
/// the script succeeds and does nothing.
///
/// ```
/// use hyper_sdk::exec::{ExecSpec, Executor as _, RootFs};
/// use hyper_sdk::testing::{FakeExecutor, FakeRun};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let executor = FakeExecutor::new().on("make", FakeRun::new().writes("/bin/app", "compiled").prints("done\n"));
///
/// let folder = tempfile::tempdir()?;
/// let root = RootFs::Folder { path: folder.path().to_owned(), writable: true };
/// let status = executor.run(&root, ExecSpec::new(["/bin/sh", "-c", "make"]), Arc::new(|_, _: &[u8]| {})).await?;
///
/// assert!(status.success());
/// assert_eq!(std::fs::read(folder.path().join("bin/app"))?, b"compiled");
/// assert_eq!(executor.commands(), ["make"]);
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
/// Dropping the future of a run ends it; [`FakeExecutor::running`] says how many there are. Files are written to the
/// upper folder of an overlay, or to the root folder, and never outside of it. Lower layers are not read.
#[derive(Debug)]
pub struct FakeExecutor {
    capabilities: ExecCapabilities,
    script: Vec<(String, FakeRun)>,
    specs: Mutex<Vec<ExecSpec>>,
    running: AtomicUsize,
}

impl Default for FakeExecutor {
    fn default() -> Self {
        let capabilities = ExecCapabilities::new(Identity::Full)
            .with_private_network()
            .with_insecure()
            .with_sandbox()
            .with_overlays()
            .with_limits();
        Self { capabilities, script: Vec::new(), specs: Mutex::default(), running: AtomicUsize::new(0) }
    }
}

impl FakeExecutor {
    /// An executor with all capabilities, whose commands do nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the capabilities. Commands that need a missing capability are rejected, as by every executor.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: ExecCapabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Sets the effects of the command whose last argument is `command`, and replaces earlier ones.
    #[must_use]
    pub fn on(mut self, command: impl Into<String>, run: FakeRun) -> Self {
        let command = command.into();
        self.script.retain(|(known, _)| *known != command);
        self.script.push((command, run));
        self
    }

    /// The recorded commands, in order.
    pub fn specs(&self) -> Vec<ExecSpec> {
        self.specs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last argument of each recorded command, in order.
    pub fn commands(&self) -> Vec<String> {
        self.specs().into_iter().map(|spec| spec.args.last().cloned().unwrap_or_default()).collect()
    }

    /// The number of running commands.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn check(&self, rootfs: &RootFs, spec: &ExecSpec) -> Result<()> {
        let capabilities = &self.capabilities;
        let denied = |what: &str| Err(Error::unsupported(format!("this executor has no {what}")));
        let is_read_only =
            matches!(rootfs, RootFs::Overlay { upper: None, .. } | RootFs::Folder { writable: false, .. });
        let wants_sandbox = !spec.mounts.is_empty()
            || spec.hostname.is_some()
            || spec.resolv_conf.is_some()
            || !spec.extra_hosts.is_empty()
            || is_read_only;
        match rootfs {
            RootFs::Overlay { .. } if !capabilities.overlays => denied("overlays"),
            _ if wants_sandbox && !capabilities.sandbox => denied("sandbox"),
            _ if !spec.limits.is_empty() && !capabilities.limits => denied("limits"),
            _ if spec.network == crate::exec::Network::None && !capabilities.private_network => {
                denied("private network")
            }
            _ if spec.network == crate::exec::Network::Private && !capabilities.build_network => {
                denied("network of a build")
            }
            _ if spec.security == crate::exec::Security::Insecure && !capabilities.insecure => {
                denied("insecure commands")
            }
            _ => Ok(()),
        }
    }
}

/// Counts a running command until it is dropped.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The path on the host of a path of the root.
fn place(rootfs: &RootFs, path: &str) -> Result<PathBuf> {
    let top: &Path = match rootfs {
        RootFs::Overlay { upper: Some((upper, _)), .. } => upper,
        RootFs::Folder { path, writable: true } => path,
        _ => {
            return Err(
                Error::invalid("a fake command writes to a read-only root").with_context("path", path)
            );
        }
    };
    Ok(top.join(LayerPath::new(path.trim_matches('/'))?.as_path()))
}

fn write(rootfs: &RootFs, run: &FakeRun) -> Result<()> {
    let failed = |path: &Path, e| Error::io("a fake command cannot write", path, e);
    for folder in &run.folders {
        let path = place(rootfs, folder)?;
        std::fs::create_dir_all(&path).map_err(|e| failed(&path, e))?;
    }
    for (name, content, mode) in &run.files {
        let path = place(rootfs, name)?;
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, content))
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)))
            .map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

#[async_trait]
impl Executor for FakeExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        self.capabilities.clone()
    }

    async fn run(&self, rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
        self.check(rootfs, &spec)?;
        let command = spec.args.last().cloned().unwrap_or_default();
        self.specs.lock().unwrap_or_else(PoisonError::into_inner).push(spec);
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.running);
        let known = self.script.iter().find(|(known, _)| *known == command);
        let run = known.map(|(_, run)| run.clone()).unwrap_or_default();
        if let Some((kind, message)) = run.error {
            return Err(Error::new(kind, message));
        }
        write(rootfs, &run)?;
        for (stream, bytes) in run.output {
            log.ready().await;
            log.log(stream, &bytes);
        }
        if let Some(others) = run.meets {
            others.wait().await;
        }
        if run.hangs {
            std::future::pending::<()>().await;
        }
        Ok(ExitStatus::new(run.code))
    }
}

impl fmt::Display for FakeExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fake executor")
    }
}
