//! Real sandboxes: what a step sees, what it may do, and what it leaves behind.

use hyper_sdk::exec::{
    CacheMount, ExecMount, ExecSpec, Executor, HelperCommand, Identity, LogSink, MountSource, NativeExecutor,
    Network, RootFs, SecretBytes, Security,
};
use hyper_sdk::progress::LogStream;
use hyper_sdk::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a command wrote.
#[derive(Default)]
struct Output(Mutex<(Vec<u8>, Vec<u8>)>);

impl LogSink for Output {
    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let mut output = self.0.lock().unwrap();
        match stream {
            LogStream::Stdout => output.0.extend_from_slice(bytes),
            LogStream::Stderr => output.1.extend_from_slice(bytes),
        }
    }
}

pub(crate) fn helper() -> HelperCommand {
    HelperCommand::with_init(env!("CARGO_BIN_EXE_hyper-exec-helper"))
}

/// A folder with a small root file system, and empty folders for changes.
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) executor: NativeExecutor,
}

const PROGRAMS: &[&str] = &[
    "sh", "cat", "echo", "ls", "id", "env", "pwd", "true", "false", "sleep", "mkdir", "touch", "rm", "chown", "mount",
    "hostname", "ps", "kill", "stat", "find", "readlink", "ip", "grep", "seq", "mknod", "test", "dd", "wc", "su",
];

/// Makes a root file system of a static busybox. `None` where the host has none.
pub(crate) fn busybox_root(root: &Path) -> Option<()> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists())?;
    for folder in ["bin", "etc", "root", "tmp", "run", "home/me"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for program in PROGRAMS {
        symlink("busybox", root.join("bin").join(program)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nme:x:1000:\nextra:x:2000:me\n").unwrap();
    Some(())
}

impl Fixture {
    /// `None`, with a word why, where sandboxes cannot be tested.
    pub(crate) async fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["base", "upper", "work"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        // A step of another user must be able to pass.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        if busybox_root(&folder.path().join("base")).is_none() {
            println!("SKIPPED: there is no static busybox to make a root file system of");
            return None;
        }
        match NativeExecutor::start(helper()).await {
            Ok(executor) => Some(Self { folder, executor }),
            Err(e) if e.kind() == ErrorKind::Unsupported => {
                println!("SKIPPED: {e}");
                None
            }
            Err(e) => panic!("{e:?}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rootfs(&self) -> RootFs {
        RootFs::Overlay {
            lowers: vec![self.path("base")],
            upper: Some((self.path("upper"), self.path("work"))),
        }
    }

    async fn run_spec(&self, spec: ExecSpec) -> Result<(i32, String, String), Error> {
        let output = Arc::new(Output::default());
        let status = self.executor.run(&self.rootfs(), spec, output.clone()).await?;
        let output = output.0.lock().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((status.code, text(&output.0), text(&output.1)))
    }

    async fn sh(&self, script: &str) -> (i32, String, String) {
        self.run_spec(shell(script)).await.unwrap()
    }

    /// Paths in the upper folder.
    fn changes(&self) -> Vec<String> {
        fn walk(top: &Path, folder: &Path, into: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                into.push(entry.path().strip_prefix(top).unwrap().display().to_string());
                if entry.file_type().unwrap().is_dir() {
                    walk(top, &entry.path(), into);
                }
            }
        }
        let mut paths = Vec::new();
        walk(&self.path("upper"), &self.path("upper"), &mut paths);
        paths.sort();
        paths
    }
}

fn shell(script: &str) -> ExecSpec {
    let mut spec = ExecSpec::new(["sh", "-c", script]);
    spec.env.push(("PATH".into(), "/bin".into()));
    spec
}

#[tokio::test]
async fn commands_give_their_output_and_exit_code() {
    let Some(fixture) = Fixture::new().await else { return };
    assert_eq!(fixture.sh("echo out; echo err >&2; exit 7").await, (7, "out\n".into(), "err\n".into()));
    assert_eq!(fixture.sh("kill -9 $$").await.0, 137);
    assert_eq!(fixture.sh("kill -TERM $$").await.0, 143);
    assert_eq!(fixture.sh("cat; echo $?").await.1, "0\n");
    let (code, output, _) = fixture.sh("seq 1 200000").await;
    assert_eq!((code, output.lines().count()), (0, 200_000));
}
