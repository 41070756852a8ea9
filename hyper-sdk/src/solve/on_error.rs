//! A command in the files of a step that failed: a shell, to look around.

use crate::Digest;
use crate::exec::{ExecMount, ExecSpec, Executor, HostOption, LogSink, MountSource, RootFs};
use crate::graph::Vertex;
use crate::progress::Task;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The command that is run when a RUN step fails, in what the step left, with its mounts, its environment, its user and its
/// folder. It is run for the first step of a build that fails, and what it changes is dropped.
#[derive(Clone)]
pub struct OnError {
    args: Vec<String>,
    folder: Option<(PathBuf, String)>,
    output: Arc<dyn LogSink>,
    begin: Arc<dyn Fn() + Send + Sync>,
    /// The exit code of the command, when it has ended.
    status: Arc<OnceLock<i32>>,
}

impl OnError {
    /// The argument of a vertex that stands for the command.
    pub(crate) const PLACE: &str = "hyper:on-error";

    /// A command, and where its output goes.
    pub fn new(args: Vec<String>, output: Arc<dyn LogSink>) -> Self {
        Self { args, folder: None, output, begin: Arc::new(|| {}), status: Arc::default() }
    }

    /// The exit code of the command, when it was run.
    pub fn status(&self) -> Option<i32> {
        self.status.get().copied()
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
    /// The address of the vertex that it is for; without, it is for all.
    only: Option<Digest>,
    was_run: AtomicBool,
}

impl AfterFailure {
    pub(super) fn new(command: Option<OnError>, only: Option<Digest>) -> Self {
        Self { command, only, was_run: AtomicBool::new(false) }
    }

    /// What is needed of a step before it runs; `None` when the command is not for it.
    pub(super) fn keep(&self, vertex: &Vertex, spec: &ExecSpec) -> Option<ExecSpec> {
        let is_place = spec.args == [OnError::PLACE];
        let is_for_it = is_place || self.only.as_ref().is_none_or(|only| only == vertex.address());
        (self.command.is_some() && is_for_it).then(|| spec.clone())
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
        match executor.run(rootfs, spec, Arc::clone(&command.output)).await {
            Ok(status) => {
                let _ = command.status.set(status.code);
            }
            Err(error) => task.warn(format!("the command cannot be run: {error}")),
        }
    }
}
