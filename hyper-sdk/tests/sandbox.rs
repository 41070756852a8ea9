//! Real sandboxes: what a step sees, what it may do, and what it leaves behind.

use hyper_sdk::exec::{
    CacheMount, CacheOwner, ExecMount, ExecSpec, Executor, HelperCommand, Identity, LogSink, MountSource,
    NativeExecutor, Network, RootFs, SecretBytes, Security,
};
use hyper_sdk::progress::LogStream;
use hyper_sdk::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a command wrote.
#[derive(Default)]
pub(crate) struct Output(Mutex<(Vec<u8>, Vec<u8>)>);

impl Output {
    /// The standard output and the standard error.
    pub(crate) fn texts(&self) -> (String, String) {
        let output = self.0.lock().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
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

pub(crate) fn helper() -> HelperCommand {
    // A copy, where the tests run as another user.
    let copy = std::env::var_os("HYPER_TEST_HELPER").map(PathBuf::from);
    HelperCommand::with_init(copy.unwrap_or_else(|| env!("CARGO_BIN_EXE_hyper-exec-helper").into()))
}

/// A folder with a small root file system, and empty folders for changes.
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) executor: NativeExecutor,
}

/// Makes a root file system of a static busybox. `None` where the host has none.
pub(crate) fn busybox_root(root: &Path) -> Option<()> {
    hyper_sdk::testing::busybox_root(root).unwrap().then_some(())
}

impl Fixture {
    /// `None`, with a word why, where sandboxes cannot be tested.
    pub(crate) async fn new() -> Option<Self> {
        Self::with(helper()).await
    }

    pub(crate) async fn with(helper: HelperCommand) -> Option<Self> {
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
        match NativeExecutor::start(helper).await {
            Ok(executor) => Some(Self { folder, executor }),
            Err(e) if e.kind() == ErrorKind::Unsupported => {
                println!("SKIPPED: {e}");
                None
            }
            Err(e) => panic!("{e:?}"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn rootfs(&self) -> RootFs {
        RootFs::Overlay {
            lowers: vec![self.path("base")],
            upper: Some((self.path("upper"), self.path("work"))),
        }
    }

    pub(crate) async fn run_spec(&self, spec: ExecSpec) -> Result<(i32, String, String), Error> {
        let output = Arc::new(Output::default());
        let status = self.executor.run(&self.rootfs(), spec, output.clone()).await?;
        let (out, errors) = output.texts();
        Ok((status.code, out, errors))
    }

    pub(crate) async fn sh(&self, script: &str) -> (i32, String, String) {
        self.run_spec(shell(script)).await.unwrap()
    }

    /// Paths in the upper folder.
    pub(crate) fn changes(&self) -> Vec<String> {
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

pub(crate) fn shell(script: &str) -> ExecSpec {
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
    let signals = "grep -E '^Sig(Ign|Blk)' /proc/self/status | grep -c '0000000000000000$'";
    assert_eq!(fixture.sh(signals).await.1, "2\n", "no signal is ignored or blocked");
    let (code, output, _) = fixture.sh("seq 1 200000").await;
    assert_eq!((code, output.lines().count()), (0, 200_000));
}

#[tokio::test]
async fn a_step_sees_its_environment_user_and_folder() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut spec = shell("env; pwd; id -u; id -g; id -G");
    spec.env.push(("A".into(), "1".into()));
    spec.env.push(("A".into(), "2".into()));
    spec.cwd = "/made/for/it".into();
    let (code, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!((code, errors.as_str()), (0, ""));
    let lines = output.lines().collect::<Vec<_>>();
    assert!(lines.contains(&"A=2") && !lines.contains(&"A=1") && lines.contains(&"HOME=/root"), "{output}");
    assert!(output.ends_with("/made/for/it\n0\n0\n0\n"), "{output}");
    assert!(fixture.path("upper/made/for/it").is_dir());

    let mut spec = shell("id -u; id -g; id -G; echo $HOME");
    spec.user = "me".into();
    assert_eq!(fixture.run_spec(spec).await.unwrap().1, "1000\n1000\n1000 2000\n/home/me\n");
    if fixture.executor.identity() == Identity::Full {
        let mut spec = shell("id -u; id -g; touch /tmp/mine; grep Groups /proc/self/status");
        spec.user = "77:88".into();
        // The primary group is among the others, which is what `id` shows.
        assert_eq!(fixture.run_spec(spec).await.unwrap().1, "77\n88\nGroups:\t88 \n");
    }
    let mut spec = shell("echo $HOME");
    spec.env.push(("HOME".into(), String::new()));
    assert_eq!(fixture.run_spec(spec).await.unwrap().1, "/root\n", "an empty one is none");
    let mut spec = shell("true");
    spec.user = "nobody-here".into();
    let error = fixture.run_spec(spec).await.unwrap_err();
    assert!(format!("{error:?}").contains("nobody-here"), "{error:?}");
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut spec = ExecSpec::new(["no-such-program"]);
    spec.env.push(("PATH".into(), "/bin:/sbin".into()));
    let error = fixture.run_spec(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.context_value("program"), Some("no-such-program"));
    assert_eq!(error.context_value("PATH"), Some("/bin:/sbin"));

    std::fs::write(fixture.path("base/script"), "#!/no/interpreter\n").unwrap();
    std::fs::write(fixture.path("base/garbage"), "\u{1}\u{2}").unwrap();
    std::fs::write(fixture.path("base/plain"), "").unwrap();
    for name in ["script", "garbage"] {
        std::fs::set_permissions(fixture.path("base").join(name), std::fs::Permissions::from_mode(0o755))
            .unwrap();
    }
    for (program, word) in [("/script", "interpreter"), ("/garbage", "another kind"), ("/plain", "may not")] {
        let error = fixture.run_spec(ExecSpec::new([program])).await.unwrap_err();
        assert!(error.message().contains(word), "{program}: {error}");
        assert_eq!(error.context_value("program"), Some(program));
    }
    assert_eq!(fixture.run_spec(ExecSpec::new([""])).await.unwrap_err().kind(), ErrorKind::Invalid);
    let mut spec = shell("true");
    spec.cwd = "/etc/passwd".into();
    assert!(fixture.run_spec(spec).await.is_err());
}

#[tokio::test]
async fn the_host_is_out_of_sight() {
    let Some(fixture) = Fixture::new().await else { return };
    let (_, output, _) =
        fixture.sh("ls /proc | grep '^[0-9]' | wc -l; readlink /proc/1/exe >/dev/null; echo $?").await;
    let count = output.lines().next().unwrap().trim().parse::<u32>().unwrap();
    assert!(count <= 5, "{count} processes are in sight");
    let (_, output, _) = fixture.sh("ls /; ls /home; hostname; cat /proc/self/mountinfo").await;
    let lines = output.lines().collect::<Vec<_>>();
    assert!(lines.contains(&"hyper") && lines.contains(&"me"), "{output}");
    // The old root is gone, and with it every mount of the host but those that were bound on purpose.
    let root = lines.iter().filter(|line| line.split(' ').nth(4) == Some("/")).count();
    assert_eq!(root, 1, "{output}");
    let (_, output, _) = fixture
        .sh("cat /proc/kcore /proc/keys 2>/dev/null | wc -c; echo x > /proc/sys/kernel/hostname; echo $?")
        .await;
    assert_eq!(output, "0\n1\n");
    let (_, output, _) = fixture.sh("ls -d /dev/null /dev/pts/ptmx /dev/shm /dev/fd; echo x > /dev/null; dd if=/dev/zero bs=4 count=1 2>/dev/null | wc -c; echo y > /dev/shm/a; cat /dev/shm/a").await;
    assert_eq!(output, "/dev/fd\n/dev/null\n/dev/pts/ptmx\n/dev/shm\n4\ny\n");
    assert!(fixture.sh("touch /sys/x").await.0 != 0);
    // No file of ours leaks into the command.
    assert_eq!(fixture.sh("ls /proc/self/fd | wc -l").await.1.trim(), "4");
}

#[tokio::test]
async fn a_network_of_its_own_has_a_loopback_alone() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut spec = shell("ls /sys/class/net; ip addr show lo | grep -c 'inet 127.0.0.1'");
    spec.network = Network::None;
    assert_eq!(fixture.run_spec(spec).await.unwrap().1, "lo\n1\n");
    let mut spec = shell("cat /etc/resolv.conf; cat /etc/hosts");
    spec.resolv_conf = Some("nameserver 192.0.2.1\n".into());
    spec.extra_hosts.push(("seven".into(), "192.0.2.7".into()));
    let output = fixture.run_spec(spec).await.unwrap().1;
    assert!(
        output.starts_with("nameserver 192.0.2.1\n") && output.contains("192.0.2.7\tseven\n"),
        "{output}"
    );
}

#[tokio::test]
async fn privileges_are_dockers() {
    let Some(fixture) = Fixture::new().await else { return };
    let caps =
        "grep -E 'CapInh|CapPrm|CapEff|CapBnd|CapAmb|Seccomp:' /proc/self/status | grep -oE '[0-9a-f]+$'";
    let (_, output, _) = fixture.sh(caps).await;
    let docker = "00000000a80425fb";
    let none = "0000000000000000";
    assert_eq!(output.lines().collect::<Vec<_>>(), [none, docker, docker, docker, none, "2"]);
    if fixture.executor.identity() == Identity::Full {
        let mut spec = shell(caps);
        spec.user = "me".into();
        let output = fixture.run_spec(spec).await.unwrap().1;
        assert_eq!(output.lines().collect::<Vec<_>>(), [none, none, none, docker, none, "2"]);
    }
    assert!(fixture.sh("mount -t tmpfs none /tmp").await.0 != 0);
    assert!(fixture.sh("hostname other").await.0 != 0);
    let mut spec = shell("mount -t tmpfs none /tmp && echo mounted");
    spec.security = Security::Insecure;
    match fixture.run_spec(spec).await {
        Ok((_, output, _)) => assert_eq!(output, "mounted\n"),
        Err(e) => assert_eq!(e.kind(), ErrorKind::Unsupported),
    }
}

#[tokio::test]
async fn the_working_folder_is_the_users_and_there_below_a_mount() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut spec = shell("pwd; ls -A; stat -c '%a %u %g' /src /src/app; touch made");
    spec.cwd = "/src/app".into();
    spec.mounts.push(ExecMount {
        target: "/src".into(),
        source: MountSource::Tmpfs { size: None, read_only: false },
    });
    let (code, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!((code, output.as_str()), (0, "/src/app\n755 0 0\n755 0 0\n"), "{errors}");
    // What the step works in stays, and what it did in memory does not.
    assert!(fixture.path("upper/src/app").is_dir() && !fixture.path("upper/src/app/made").exists());
    let mut spec = shell("touch f; stat -c '%a %u %g' /new /new/deep");
    (spec.cwd, spec.user) = ("/new/deep".into(), "1000:2000".into());
    let (code, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!((code, output.as_str()), (0, "755 1000 2000\n755 1000 2000\n"), "{errors}");
}

#[tokio::test]
async fn what_is_mounted_over_files_is_read_only_and_the_host_name_is_no_file() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut spec = shell(
        "echo x >> /etc/hosts || echo a; echo x >> /etc/resolv.conf || echo b; echo x >> /key || echo c; \
         echo mine > /etc/hostname; cat /etc/hosts; stat -c %a /key /pipes/run; /pipes/run; touch /pipes/x || echo d",
    );
    spec.extra_hosts.push(("seven".into(), "192.0.2.7".into()));
    for (target, source) in [
        ("/key", MountSource::Secret { content: SecretBytes::new("k"), mode: 0o4640, uid: 0, gid: 0 }),
        (
            "/pipes",
            MountSource::Inline { name: "run".into(), content: "#!/bin/sh\necho ran\n".into(), mode: 0o755 },
        ),
    ] {
        spec.mounts.push(ExecMount { target: target.into(), source });
    }
    let hosts = "127.0.0.1\tlocalhost hyper\n::1\tlocalhost ip6-localhost ip6-loopback\n192.0.2.7\tseven\n";
    let (_, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!(output, format!("a\nb\nc\n{hosts}640\n755\nran\nd\n"), "{errors}");
    assert_eq!(std::fs::read_to_string(fixture.path("upper/etc/hostname")).unwrap(), "mine\n");
    for name in ["", "..", "a/b"] {
        let mut spec = shell("true");
        let source = MountSource::Inline { name: name.into(), content: String::new(), mode: 0o644 };
        spec.mounts.push(ExecMount { target: "/pipes".into(), source });
        assert_eq!(fixture.run_spec(spec).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn memory_has_the_mode_of_the_folder_that_it_is_mounted_on() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut spec = shell(
        "stat -c %a /tmp /home /new /new/deep /closed; touch /tmp/x /new/deep/x; touch /closed/x || echo no; \
         grep -cE '^(overlay /|tmpfs /home|proc /proc) ' /proc/mounts",
    );
    for (target, read_only) in [("/tmp", false), ("/home", false), ("/new/deep", false), ("/closed", true)] {
        let source = MountSource::Tmpfs { size: None, read_only };
        spec.mounts.push(ExecMount { target: target.into(), source });
    }
    let (_, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!(output, "1777\n755\n755\n1777\n1777\nno\n3\n", "{errors}");
}

#[tokio::test]
async fn a_cache_begins_with_its_source_or_its_owner() {
    let Some(fixture) = Fixture::new().await else { return };
    let seed = fixture.path("base/seed");
    std::fs::create_dir_all(seed.join("in")).unwrap();
    std::fs::set_permissions(seed.join("in"), std::fs::Permissions::from_mode(0o770)).unwrap();
    std::fs::write(seed.join("in/f"), "seeded").unwrap();
    std::fs::set_permissions(seed.join("in/f"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let tree = RootFs::Overlay { lowers: vec![fixture.path("base")], upper: None };
    let own = Some(CacheOwner { mode: 0o711, uid: 7, gid: 8 });
    let owned = "711 7 8\n";
    for (name, path, owner, expected) in [
        ("copy", Some("/seed/in"), None, "770 0 0\nseeded"),
        ("there", Some("/seed/in"), own, "770 0 0\nseeded"),
        ("file", Some("/seed/in/f"), None, "644 0 0\n"),
        ("missing", Some("/seed/none"), own, owned),
        ("alone", None, own, owned),
        ("plain", None, None, "755 0 0\n"),
    ] {
        let mut spec = shell("stat -c '%a %u %g' /c; cat /c/f 2>/dev/null");
        let from = path.map(|path| (tree.clone(), path.to_owned()));
        // What a step that was killed left behind is in nobody's way.
        std::fs::create_dir(fixture.path(&format!("{name}.new-0"))).unwrap();
        let cache = CacheMount { path: fixture.path(name), read_only: false, owner, from };
        spec.mounts.push(ExecMount { target: "/c".into(), source: MountSource::Cache(cache) });
        let (_, output, errors) = fixture.run_spec(spec).await.unwrap();
        assert_eq!(output, expected, "{name}: {errors}");
        assert!(!fixture.path(&format!("{name}.new-1")).exists());
    }
}

#[tokio::test]
async fn a_step_leaves_only_what_it_wrote() {
    let Some(fixture) = Fixture::new().await else { return };
    let before = std::fs::metadata(fixture.path("base/etc")).unwrap().mtime();
    let mut spec = shell("cat /run/secrets/key > /dev/null; touch /tmp/cache/x; echo 1 > /new");
    for (target, source) in [
        (
            "/run/secrets/key",
            MountSource::Secret { content: SecretBytes::new("hunter2"), mode: 0o400, uid: 0, gid: 0 },
        ),
        ("/some/where/deep", MountSource::Tmpfs { size: Some(1 << 20), read_only: false }),
        (
            "/tmp/cache",
            MountSource::Cache(CacheMount {
                path: fixture.path("cache"),
                read_only: false,
                owner: None,
                from: None,
            }),
        ),
    ] {
        spec.mounts.push(ExecMount { target: target.into(), source });
    }
    let (code, _, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!((code, errors.as_str()), (0, ""));
    // Peers leave these three in an image that lacks them.
    assert_eq!(fixture.changes(), ["dev", "new", "proc", "sys"]);
    assert_eq!(std::fs::metadata(fixture.path("base/etc")).unwrap().mtime(), before);
    assert!(fixture.path("cache/x").exists());
    // The same folders serve a second step.
    assert_eq!(fixture.sh("cat /new; rm /new").await.1, "1\n");
    assert!(!fixture.path("upper/new").exists());
    assert!(!fixture.path("binds").exists());
}

#[tokio::test]
async fn mounts_show_what_they_should_and_writes_are_discarded() {
    let Some(fixture) = Fixture::new().await else { return };
    let context = fixture.path("context");
    std::fs::create_dir_all(context.join("sub")).unwrap();
    std::fs::write(context.join("sub/file"), "old").unwrap();
    let tree = RootFs::Overlay { lowers: vec![fixture.path("base")], upper: None };
    let host =
        |path: &str, writable| MountSource::Host { root: context.clone(), path: path.into(), writable };
    let mounts = [
        ("/ro", host("/sub", false)),
        ("/rw", host("/sub", true)),
        ("one-file", host("/sub/file", false)),
        ("/tree", MountSource::Tree { tree: tree.clone(), path: "/etc".into(), writable: false }),
        ("/tree-rw", MountSource::Tree { tree, path: "/".into(), writable: true }),
    ];
    let mut spec = shell(
        "cat /ro/file; echo x > /ro/file; echo new > /rw/file; cat /rw/file; cat /w/one-file; echo; \
         cat /tree/group | wc -l; touch /tree/x; echo > /tree-rw/etc/y; ls /tree-rw/etc; ls /tree",
    );
    spec.cwd = "/w".into();
    for (target, source) in mounts {
        spec.mounts.push(ExecMount { target: target.into(), source });
    }
    let (code, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!(output, "oldnew\nold\n3\ngroup\npasswd\ny\ngroup\npasswd\n", "{errors}");
    assert_eq!((code, errors.matches("Read-only file system").count()), (0, 2), "{errors}");
    assert_eq!(std::fs::read(context.join("sub/file")).unwrap(), b"old");
    assert!(!fixture.path("base/etc/y").exists());

    let mut spec = shell("true");
    spec.mounts.push(ExecMount { target: "/x".into(), source: host("/../../../etc/none", false) });
    let error = fixture.run_spec(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.context_value("mount"), Some("/x"));
    assert!(!fixture.path("upper/x").exists());
}

#[tokio::test]
async fn a_socket_of_the_host_can_be_talked_to() {
    let Some(fixture) = Fixture::new().await else { return };
    let path = fixture.path("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello").unwrap();
    });
    // Busybox has no client for Unix sockets: the type and the mode must do.
    let mut spec = shell("stat -c '%F %a %u' /run/agent.sock");
    spec.mounts.push(ExecMount {
        target: "/run/agent.sock".into(),
        source: MountSource::Socket { path, mode: 0o640, uid: 0, gid: 0 },
    });
    assert_eq!(fixture.run_spec(spec).await.unwrap().1, "socket 640 0\n");
}

fn processes_with(argument: &str) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(line) = std::fs::read(entry.path().join("cmdline"))
            && line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes())
        {
            count += 1;
        }
    }
    count
}

async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_step_that_is_dropped() {
    let Some(fixture) = Fixture::new().await else { return };
    let mark = format!("9{}", std::process::id());
    let script = format!("sleep {mark} & sleep {mark}");
    {
        let run = fixture.run_spec(shell(&script));
        tokio::pin!(run);
        tokio::select! {
            _ = &mut run => panic!("it cannot have ended"),
            () = wait_for("the step starts", || processes_with(&mark) == 2) => {}
        }
    }
    wait_for("the step ends", || processes_with(&mark) == 0).await;
    // What a command leaves behind in the background ends with it. The folders of a step that was dropped are given up.
    let Some(fixture) = Fixture::new().await else { return };
    assert_eq!(fixture.sh(&format!("sleep {mark} > /dev/null 2>&1 & true")).await.0, 0);
    wait_for("the background process ends", || processes_with(&mark) == 0).await;
}

/// Started again by the test below: runs a step and waits to be killed.
#[tokio::test]
async fn victim() {
    let Ok(mark) = std::env::var("HYPER_TEST_VICTIM") else { return };
    let Some(fixture) = Fixture::new().await else { return };
    fixture.sh(&format!("sleep {mark}")).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_caller_that_is_killed() {
    if Fixture::new().await.is_none() {
        return;
    }
    let mark = format!("8{}", std::process::id());
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["sandbox::victim", "--exact"])
        .env("HYPER_TEST_VICTIM", &mark)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the step starts", || processes_with(&mark) == 1).await;
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_for("the step ends", || processes_with(&mark) == 0).await;
}

#[tokio::test]
async fn a_helper_that_was_killed_is_started_again() {
    let Some(fixture) = Fixture::new().await else { return };
    // Restarts keep what was found out at first.
    let identity = fixture.executor.identity();
    assert_eq!(fixture.sh("exit 3").await.0, 3);
    let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()));
    if children.is_err() {
        println!("SKIPPED: this kernel does not list children");
        return;
    }
    assert_eq!(fixture.executor.identity(), identity);
    let program = NativeExecutor::start(HelperCommand::with_init("/bin/true")).await;
    assert_eq!(program.unwrap_err().kind(), ErrorKind::Unsupported);
    let program = NativeExecutor::start(HelperCommand::with_init("/no/such/program")).await;
    assert_eq!(program.unwrap_err().kind(), ErrorKind::NotFound);
}
