//! Helpers of the cases.

use crate::exec::{ExecMount, ExecSpec, Executor, LogSink, MountSource, RootFs};
use crate::progress::LogStream;
use crate::{ErrorKind, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Ends the case when the executor lacks a capability.
macro_rules! needs {
    ($executor:expr, $($power:ident),+) => {
        let capabilities = crate::exec::Executor::capabilities(&*$executor);
        if !($(capabilities.$power)&&+) {
            return;
        }
    };
}
pub(super) use needs;

/// Longer than any command of the suite takes: an executor that hangs fails its case.
pub(super) const HANGS: Duration = Duration::from_secs(120);

/// The result of a command.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

/// A sink that keeps everything.
#[derive(Default)]
pub(super) struct Output(Mutex<(Vec<u8>, Vec<u8>)>);

impl Output {
    pub(super) fn texts(&self) -> (String, String) {
        let output = self.0.lock().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.0), text(&output.1))
    }
}

impl LogSink for Output {
    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let mut output = self.0.lock().unwrap();
        match stream {
            LogStream::Stdout => output.0.extend_from_slice(bytes),
            LogStream::Stderr => output.1.extend_from_slice(bytes),
        }
    }
}

pub(super) fn command<const N: usize>(args: [&str; N]) -> ExecSpec {
    let mut spec = ExecSpec::new(args);
    spec.env.push(("PATH".into(), "/bin".into()));
    spec
}

pub(super) fn shell(script: &str) -> ExecSpec {
    command(["sh", "-c", script])
}

pub(super) async fn try_run(
    executor: &Arc<dyn Executor>,
    rootfs: &RootFs,
    spec: ExecSpec,
) -> Result<Outcome> {
    let output = Arc::new(Output::default());
    let run = executor.run(rootfs, spec, output.clone());
    let status = tokio::time::timeout(HANGS, run).await.expect("the executor hangs")?;
    // The sink has received all output by now.
    let (out, err) = output.texts();
    Ok(Outcome { code: status.code, out, err })
}

pub(super) async fn run(executor: &Arc<dyn Executor>, rootfs: &RootFs, spec: ExecSpec) -> Outcome {
    try_run(executor, rootfs, spec).await.unwrap()
}

/// The standard output of a command that must succeed.
pub(super) async fn output_of(executor: &Arc<dyn Executor>, rootfs: &RootFs, spec: ExecSpec) -> String {
    let ran = run(executor, rootfs, spec).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    ran.out
}

#[track_caller]
pub(super) fn fails(result: Result<Outcome>, kinds: &[ErrorKind]) -> crate::Error {
    let error = result.unwrap_err();
    assert!(kinds.contains(&error.kind()), "the error is {error:?}, expected one of {kinds:?}");
    error
}

/// The host path of a file that a command writes to its root.
pub(super) fn on_the_host(rootfs: &RootFs, path: &str) -> PathBuf {
    match rootfs {
        RootFs::Overlay { upper: Some((upper, _)), .. } => upper.join(path),
        RootFs::Overlay { .. } => panic!("the fixture gives a root that can be written to"),
        RootFs::Folder { path: folder, .. } => folder.join(path),
    }
}

/// The same root, read-only.
pub(super) fn read_only(rootfs: &RootFs) -> RootFs {
    match rootfs {
        RootFs::Overlay { lowers, .. } => RootFs::Overlay { lowers: lowers.clone(), upper: None },
        RootFs::Folder { path, .. } => RootFs::Folder { path: path.clone(), writable: false },
    }
}

/// A root with the same files for another command, while one runs or after a dropped one.
pub(super) fn another(rootfs: &RootFs) -> (RootFs, Option<tempfile::TempDir>) {
    let RootFs::Overlay { lowers, .. } = rootfs else { return (rootfs.clone(), None) };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let [upper, work] = ["upper", "work"].map(|name| folder.path().join(name));
    for path in [&upper, &work] {
        std::fs::create_dir(path).unwrap();
    }
    (RootFs::Overlay { lowers: lowers.clone(), upper: Some((upper, work)) }, Some(folder))
}

pub(super) fn with_mount(mut spec: ExecSpec, target: &str, source: MountSource) -> ExecSpec {
    spec.mounts.push(ExecMount { target: target.to_owned(), source });
    spec
}

/// Runs a command until its output contains `mark`, then drops it.
pub(super) async fn run_until(executor: &Arc<dyn Executor>, rootfs: &RootFs, spec: ExecSpec, mark: &str) {
    let output = Arc::new(Output::default());
    let run = executor.run(rootfs, spec, output.clone());
    tokio::select! {
        status = run => panic!("the command ended by itself: {status:?} {:?}", output.texts()),
        () = until("the command starts", || output.texts().0.contains(mark)) => {}
    }
}

/// Waits for a condition. It fails when that takes so long that it will never hold.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(HANGS, wait).await.unwrap_or_else(|_| panic!("not seen: {what}"));
}
