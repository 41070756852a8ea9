//! A command in the files of a step that failed: a shell, to look around.

use crate::exec::{ExecMount, ExecSpec, Executor, HostOption, LogSink, MountSource, RootFs};
use crate::progress::Task;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The command that is run when a RUN step fails, in what the step left, with its mounts, its environment, its user and its
/// folder. It is run for the first step of a build that fails, and what it changes is dropped.
#[derive(Clone)]
pub struct OnError {
    args: Vec<String>,
    folder: Option<(PathBuf, String)>,
    output: Arc<dyn LogSink>,
    begin: Arc<dyn Fn() + Send + Sync>,
}

impl OnError {
    /// A command, and where its output goes.
    pub fn new(args: Vec<String>, output: Arc<dyn LogSink>) -> Self {
        Self { args, folder: None, output, begin: Arc::new(|| {}) }
    }

    /// Mounts a folder of this machine, such as one with a pipe for the input of the command.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        self.folder = Some((folder.into(), target.into()));
        self
    }

    /// Sets what is called before the command begins.
    #[must_use]
    pub fn before(mut self, begin: impl Fn() + Send + Sync + 'static) -> Self {
        self.begin = Arc::new(begin);
        self
    }
}

impl fmt::Debug for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnError")
            .field("args", &self.args)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// The command of a build, and whether it was run.
#[derive(Debug, Default)]
pub(super) struct AfterFailure {
    command: Option<OnError>,
    was_run: AtomicBool,
}

impl AfterFailure {
    pub(super) fn new(command: Option<OnError>) -> Self {
        Self { command, was_run: AtomicBool::new(false) }
    }

    /// What is needed of a step before it runs.
    pub(super) fn keep(&self, spec: &ExecSpec) -> Option<ExecSpec> {
        self.command.as_ref().map(|_| spec.clone())
    }

    /// Runs the command for steps that fail, once. `spec` is that of the step.
    pub(super) async fn run(
        &self,
        executor: &dyn Executor,
        rootfs: &RootFs,
        spec: Option<ExecSpec>,
        task: &Task,
    ) {
        let (Some(command), Some(mut spec)) = (&self.command, spec) else { return };
        if self.was_run.swap(true, Ordering::SeqCst) {
            return;
        }
        spec.args.clone_from(&command.args);
        if let Some((folder, target)) = &command.folder {
            let source = MountSource::HostPath { path: folder.clone(), options: vec![HostOption::NoDevices] };
            spec.mounts.push(ExecMount { target: target.clone(), source });
        }
        (command.begin)();
        if let Err(error) = executor.run(rootfs, spec, Arc::clone(&command.output)).await {
            task.warn(format!("the command for failed steps cannot be run: {error}"));
        }
    }
}
