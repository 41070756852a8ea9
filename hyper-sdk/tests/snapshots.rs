//! Snapshots that steps really run on: unpack, run, diff, commit, in both styles.

use crate::sandbox::{busybox_root, helper};
use hyper_sdk::Digest;
use hyper_sdk::exec::{ExecMount, ExecSpec, Executor, Identity, MountSource, NativeExecutor, RootFs};
use hyper_sdk::layer::{LayerReader, LayerWriter, TimesTable};
use hyper_sdk::progress::LogStream;
use hyper_sdk::snapshot::{Active, ExportOptions, LocalSnapshotter, Snapshotter, Style, UnpackOptions};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) fn chain(text: &str) -> Digest {
    Digest::sha256(text)
}

/// The layer of a folder, as root's.
fn layer_of(folder: &Path) -> Vec<u8> {
    let empty = tempfile::tempdir().unwrap();
    let mut writer = LayerWriter::new(Vec::new(), Some(1000));
    let root = |_: &hyper_sdk::layer::LayerPath, _: &rustix::fs::Stat, _| (0, 0);
    let options = hyper_sdk::layer::DiffOptions { owner: Some(&root), time: None, portable: false };
    hyper_sdk::layer::diff_trees(empty.path(), folder, &mut writer, &options).unwrap();
    writer.finish().unwrap().0
}

pub(crate) struct Fixture {
    folder: tempfile::TempDir,
    executor: NativeExecutor,
    base: Vec<u8>,
}

impl Fixture {
    pub(crate) async fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        if busybox_root(&base).is_none() {
            println!("SKIPPED: there is no static busybox to make a root file system of");
            return None;
        }
        for name in ["proc", "sys", "dev"] {
            std::fs::create_dir(base.join(name)).unwrap();
        }
        match NativeExecutor::start(helper()).await {
            Ok(executor) => Some(Self { base: layer_of(&base), folder, executor }),
            Err(e) => {
                println!("SKIPPED: {e}");
                None
            }
        }
    }

    /// The folder of the snapshots in overlay style.
    pub(crate) fn root(&self) -> PathBuf {
        let name = match self.executor.identity() {
            Identity::Full => "overlay",
            Identity::Single => "overlay-single-id",
        };
        self.folder.path().join("snapshots").join(name)
    }

    pub(crate) async fn open(&self, style: Style) -> LocalSnapshotter {
        LocalSnapshotter::open_as(
            self.folder.path().join("snapshots"),
            self.executor.sandbox().clone(),
            style,
        )
        .await
        .unwrap()
    }

    pub(crate) async fn with_base(&self, style: Style) -> LocalSnapshotter {
        let snapshots = self.open(style).await;
        snapshots
            .apply(None, &chain("base"), UnpackOptions::default(), Box::new(Cursor::new(self.base.clone())))
            .await
            .unwrap();
        snapshots
    }

    pub(crate) async fn run(&self, active: &dyn Active, script: &str) -> (i32, String) {
        self.run_with(active, script, Vec::new()).await
    }

    async fn run_with(&self, active: &dyn Active, script: &str, mounts: Vec<ExecMount>) -> (i32, String) {
        let mut spec = ExecSpec::new(["/bin/sh", "-c", script]);
        spec.env.push(("PATH".into(), "/bin".into()));
        spec.mounts = mounts;
        let output = Arc::new(Mutex::new(Vec::new()));
        let log = {
            let output = Arc::clone(&output);
            Arc::new(move |_: LogStream, bytes: &[u8]| output.lock().unwrap().extend_from_slice(bytes))
        };
        let status = self.executor.run(active.rootfs(), spec, log).await.unwrap();
        let text = String::from_utf8(output.lock().unwrap().clone()).unwrap();
        (status.code, text)
    }
}

pub(crate) async fn read_all(tar: Box<dyn Read + Send>) -> std::io::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let (mut tar, mut bytes) = (tar, Vec::new());
        tar.read_to_end(&mut bytes).map(|_| bytes)
    })
    .await
    .unwrap()
}

/// A tar with true times as the layer that is kept, and its times.
pub(crate) fn published(tar: &[u8]) -> (Vec<u8>, Arc<TimesTable>) {
    let mut writer = LayerWriter::new(Vec::new(), Some(1_000_000));
    writer.append_all(tar).unwrap();
    let times = TimesTable::from(writer.take_times());
    (writer.finish().unwrap().0, Arc::new(times))
}

/// Path → kind, mode, owner and time of the entries of a tar.
fn entries(tar: &[u8]) -> BTreeMap<String, String> {
    let mut reader = LayerReader::new(tar);
    let mut list = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let text =
            format!("{} {:o} {}:{} {}", entry.kind.name(), entry.mode, entry.uid, entry.gid, entry.mtime);
        list.insert(entry.path.to_string(), text);
    }
    list
}

async fn steps_become_layers(style: Style) {
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.with_base(style).await;
    let script = "echo hi > /new; rm /etc/group; mkdir /d; echo x > /d/f; chmod 600 /etc/passwd; rm -r /home/me; mkdir /home/me; cat /run/secrets/s > /dev/null";
    let mut layers = Vec::new();
    for name in ["one", "two"] {
        let active = snapshots.prepare(Some(&chain("base"))).await.unwrap();
        let secret = ExecMount {
            target: "/run/secrets/s".into(),
            source: MountSource::Secret {
                content: hyper_sdk::exec::SecretBytes::new("hunter2-in-a-layer"),
                mode: 0o400,
                uid: 0,
                gid: 0,
            },
        };
        assert_eq!(fixture.run_with(&*active, script, vec![secret]).await, (0, String::new()));
        let tar = published(&read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap());
        snapshots.commit(active, &chain(name)).await.unwrap();
        layers.push(tar);
    }
    assert_eq!(layers[0].0, layers[1].0, "the same step gives the same layer");
    let (tar, times) = &layers[0];
    assert!(!tar.windows(18).any(|window| window == b"hunter2-in-a-layer"));
    let list = entries(tar);
    assert_eq!(list["new"], "file 644 0:0 1000000", "{list:?}");
    assert_eq!(list["etc/group"].split(' ').next(), Some("whiteout"), "{list:?}");
    assert_eq!(list["etc/passwd"], "file 600 0:0 1000", "{list:?}");
    assert!(list.contains_key("d/f"), "{list:?}");
    for name in ["run", "run/secrets", "proc", "sys", "dev", "etc/hosts", "etc/resolv.conf", "bin"] {
        assert!(!list.contains_key(name), "{name} in {list:?}");
    }

    // The committed tree is what a cache would have unpacked, true times included, and so is one of the same files again.
    let options = UnpackOptions {
        layer: Some(chain("files")),
        times: Some(Arc::clone(times)),
        ..UnpackOptions::default()
    };
    let layer = Box::new(Cursor::new(tar.clone()));
    snapshots.apply(Some(&chain("base")), &chain("unpacked"), options, layer).await.unwrap();
    let is_shared = snapshots.share(Some(&chain("base")), &chain("shared"), &chain("files")).await.unwrap();
    assert_eq!(is_shared, style == Style::Overlay, "a whole tree has files of its parent");
    assert!(!snapshots.share(None, &chain("other"), &chain("no such files")).await.unwrap());
    let mut seen = Vec::new();
    for name in [Some("one"), Some("unpacked"), is_shared.then_some("shared")].into_iter().flatten() {
        let active = snapshots.prepare(Some(&chain(name))).await.unwrap();
        let (code, told) = fixture.run(&*active, "stat -c '%n %y' / /new /d /d/f /etc/passwd").await;
        assert_eq!(code, 0, "{told}");
        seen.push(told);
        snapshots.abandon(active).await.unwrap();
    }
    assert!(seen.iter().all(|told| *told == seen[0]), "{seen:?}");
    let new = seen[0].lines().find(|line| line.starts_with("/new ")).unwrap();
    assert!(!new.contains("1970") && !new.contains(".000000000"), "{new}");
    let whole = |name: &'static str| {
        let snapshots = snapshots.clone();
        async move {
            let tar = snapshots.export(Some(&chain(name)), "/", ExportOptions::default()).await.unwrap();
            entries(&read_all(tar).await.unwrap())
        }
    };
    assert_eq!(whole("one").await, whole("unpacked").await);
    assert_eq!(
        snapshots.read_file(Some(&chain("one")), "/new", 10).await.unwrap().as_deref(),
        Some(&b"hi\n"[..])
    );
    assert_eq!(snapshots.read_file(Some(&chain("one")), "/etc/group", 10).await.unwrap(), None);
    assert!(snapshots.read_file(Some(&chain("base")), "/etc/passwd", 3).await.is_err());

    let active = snapshots.prepare(Some(&chain("unpacked"))).await.unwrap();
    assert_eq!(
        fixture.run(&*active, "cat /new /d/f; ls /etc /home/me").await.1,
        "hi\nx\n/etc:\nhosts\npasswd\nresolv.conf\n\n/home/me:\n"
    );
    snapshots.abandon(active).await.unwrap();

    let removed = snapshots.remove(&[chain("base"), chain("one"), chain("unpacked")]).await.unwrap();
    assert_eq!(removed.len(), 2, "the base has another child");
    if is_shared {
        let read = snapshots.read_file(Some(&chain("shared")), "/new", 10).await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"hi\n"[..]), "others have the same files");
        assert_eq!(snapshots.remove(&[chain("shared")]).await.unwrap().len(), 1);
    }
    assert!(!snapshots.has(&chain("one")).await.unwrap());
    assert!(snapshots.has(&chain("base")).await.unwrap());
    assert_eq!(snapshots.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn steps_become_layers_on_overlays() {
    steps_become_layers(Style::Overlay).await;
}

#[tokio::test]
async fn steps_become_layers_on_copies() {
    steps_become_layers(Style::Copy).await;
}

/// The folder that a step writes to.
pub(crate) fn files_of(active: &dyn Active) -> PathBuf {
    match active.rootfs() {
        RootFs::Overlay { upper: Some((files, _)), .. } | RootFs::Folder { path: files, .. } => files.clone(),
        RootFs::Overlay { upper: None, .. } => panic!("nothing can be written"),
    }
}

/// Owner and mode of `/` as steps see them, after a step that has changed them, one that has not, and an unpacked layer
/// that does not mention it.
async fn the_root_stays_what_a_step_made_it(style: Style) {
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.with_base(style).await;
    let owner = "1000:1001";
    let look = format!("[ \"$(stat -c '%u:%g %a' /)\" = '{owner} 1750' ]");
    let active = snapshots.prepare(Some(&chain("base"))).await.unwrap();
    // Not every file system has such attributes; where it has, no later step may lose this one.
    let files = files_of(&*active);
    rustix::fs::setxattr(&files, "user.hyper", b"x", rustix::fs::XattrFlags::empty()).ok();
    let script = format!("chown 1000:1001 / && chmod 1750 / && {look}");
    assert_eq!(fixture.run(&*active, &script).await, (0, String::new()));
    let tar = read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap();
    assert!(entries(&tar)["."].starts_with(&format!("directory 1750 {owner} ")), "{:?}", entries(&tar));
    snapshots.commit(active, &chain("changed")).await.unwrap();

    let active = snapshots.prepare(Some(&chain("changed"))).await.unwrap();
    assert_eq!(fixture.run(&*active, &format!("{look} && echo > /new")).await, (0, String::new()));
    let tar = read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap();
    assert_eq!(entries(&tar).into_keys().collect::<Vec<_>>(), ["new"], "the root has not changed");
    snapshots.commit(active, &chain("kept")).await.unwrap();
    snapshots
        .apply(
            Some(&chain("changed")),
            &chain("unpacked"),
            UnpackOptions::default(),
            Box::new(Cursor::new(tar)),
        )
        .await
        .unwrap();

    let mut times = Vec::new();
    for name in ["kept", "unpacked"] {
        let active = snapshots.prepare(Some(&chain(name))).await.unwrap();
        let (code, time) = fixture.run(&*active, &format!("{look} && stat -c %Y /")).await;
        assert_eq!(code, 0, "{name}");
        times.push(time);
        snapshots.abandon(active).await.unwrap();
    }
    assert_eq!(times[0], times[1]);
}

#[tokio::test]
async fn the_root_stays_what_a_step_made_it_on_overlays() {
    the_root_stays_what_a_step_made_it(Style::Overlay).await;
}

#[tokio::test]
async fn the_root_stays_what_a_step_made_it_on_copies() {
    the_root_stays_what_a_step_made_it(Style::Copy).await;
}

#[tokio::test]
async fn a_step_can_start_from_nothing() {
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.open(Style::Overlay).await;
    let active = snapshots.prepare(None).await.unwrap();
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    let source = Path::new(busybox);
    let mount = ExecMount {
        target: "/busybox".into(),
        source: MountSource::Host {
            root: source.parent().unwrap().to_owned(),
            path: "busybox".into(),
            writable: false,
        },
    };
    let mut spec = ExecSpec::new(["/busybox", "touch", "/made"]);
    spec.mounts.push(mount);
    let status =
        fixture.executor.run(active.rootfs(), spec, Arc::new(|_: LogStream, _: &[u8]| {})).await.unwrap();
    assert!(status.success());
    let tar = read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap();
    let names = entries(&tar).into_keys().filter(|name| name != ".").collect::<Vec<_>>();
    assert_eq!(names, ["dev", "made", "proc", "sys"]);
}

#[tokio::test]
async fn a_layer_that_fails_leaves_nothing() {
    struct Failing(Cursor<Vec<u8>>);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other("the digest does not match")),
                n => Ok(n),
            }
        }
    }
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.open(Style::Overlay).await;
    let failing = Box::new(Failing(Cursor::new(fixture.base.clone())));
    let error = snapshots.apply(None, &chain("base"), UnpackOptions::default(), failing).await.unwrap_err();
    assert!(format!("{error:?}").contains("digest does not match"), "{error:?}");
    assert!(!snapshots.has(&chain("base")).await.unwrap());
    let cut = fixture.base[..fixture.base.len() / 2].to_vec();
    assert!(
        snapshots
            .apply(None, &chain("base"), UnpackOptions::default(), Box::new(Cursor::new(cut)))
            .await
            .is_err()
    );
    let active = fixture.root().join("active");
    for _ in 0..200 {
        if std::fs::read_dir(&active).unwrap().next().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} is left", std::fs::read_dir(&active).unwrap().collect::<Vec<_>>());
}

#[tokio::test]
async fn equal_layers_are_unpacked_once() {
    struct Counted(Cursor<Vec<u8>>, Arc<Mutex<usize>>);
    impl Read for Counted {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.read(buffer)?;
            *self.1.lock().unwrap() += n;
            Ok(n)
        }
    }
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.open(Style::Overlay).await;
    let count = Arc::new(Mutex::new(0));
    let layer = || Box::new(Counted(Cursor::new(fixture.base.clone()), Arc::clone(&count)));
    let chain = chain("base");
    let (a, b) = tokio::join!(
        snapshots.apply(None, &chain, UnpackOptions::default(), layer()),
        snapshots.apply(None, &chain, UnpackOptions::default(), layer())
    );
    a.unwrap();
    b.unwrap();
    assert_eq!(*count.lock().unwrap(), fixture.base.len());
}

#[tokio::test]
async fn a_stream_that_is_cut_short_is_an_error() {
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.with_base(Style::Overlay).await;
    let tar =
        snapshots.export(Some(&chain("base")), "/no/such/folder", ExportOptions::default()).await.unwrap();
    assert!(read_all(tar).await.is_err());
    // Dropping a stream half-way ends the helper's work; the next operation is not disturbed.
    let mut tar = snapshots.export(Some(&chain("base")), "/", ExportOptions::default()).await.unwrap();
    let mut some = [0; 512];
    tar.read_exact(&mut some).unwrap();
    drop(tar);
    let tar = snapshots.export(Some(&chain("base")), "/etc", ExportOptions::default()).await.unwrap();
    let list = entries(&read_all(tar).await.unwrap());
    assert!(list.contains_key("passwd") && !list.contains_key("bin"), "{list:?}");
}

#[tokio::test]
async fn files_can_be_copied_out_of_a_snapshot() {
    use hyper_sdk::layer::copy::{CopyRequest, CopySpec, CopyStep};
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.with_base(Style::Overlay).await;
    let context = fixture.folder.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("file"), "x").unwrap();
    let time = std::os::unix::fs::MetadataExt::mtime(&std::fs::metadata(context.join("file")).unwrap());
    let sources = vec![
        snapshots.view(Some(&chain("base"))).await.unwrap(),
        RootFs::Folder { path: context, writable: false },
    ];
    let step = |source, from: &str, to: &str| CopyStep::Copy { source, spec: CopySpec::new([from], to) };
    let request = CopyRequest {
        steps: vec![step(0, "/etc", "/copied/"), step(1, "file", "/file")],
        ..CopyRequest::default()
    };
    let tar = snapshots.copy(sources, request).await.unwrap();
    let list = entries(&read_all(tar).await.unwrap());
    assert!(list.contains_key("copied/passwd") && list.contains_key("copied/group"), "{list:?}");
    assert_eq!(list["file"], format!("file 644 0:0 {time}"));
}

#[tokio::test]
async fn leftovers_are_removed_at_the_next_start() {
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.with_base(Style::Overlay).await;
    let active = snapshots.prepare(Some(&chain("base"))).await.unwrap();
    let folder = files_of(&*active).parent().unwrap().to_owned();
    assert_eq!(
        fixture.run(&*active, "mkdir /deep; echo x > /deep/file; chmod 0 /deep; chown 5:6 /deep").await.0,
        0
    );
    // As long as its owner lives it stays.
    let again = fixture.open(Style::Overlay).await;
    assert!(folder.exists());
    drop(again);
    // A folder whose owner is dead has a lock that can be taken.
    let dead = folder.with_file_name("77");
    std::fs::create_dir_all(dead.join("fs/x")).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    let again = fixture.open(Style::Overlay).await;
    assert!(!dead.exists());
    assert!(again.has(&chain("base")).await.unwrap());
    drop(active);
    for _ in 0..200 {
        if !folder.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a dropped snapshot is left");
}

/// An OCI runtime makes no container with a single id. That this is an error with a name, the tests of the command line say.
const NOT_WITH_A_SINGLE_ID: &[&str] = &["--skip", "with_runc", "--skip", "with_crun"];

/// Everything above again as ordinary users: with subordinate ids where this machine has a user with some, and with a
/// single id.
#[test]
fn the_sandbox_works_for_ordinary_users() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: the tests run as an ordinary user already");
        return;
    }
    let mut users = vec![("54321".to_owned(), "54321".to_owned(), Identity::Single)];
    let subordinate = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let known = passwd.lines().find_map(|line| {
        let fields = line.split(':').collect::<Vec<_>>();
        let has = subordinate.lines().any(|line| line.starts_with(&format!("{}:", fields[0])));
        (has && fields[2] != "0").then(|| (fields[2].to_owned(), fields[3].to_owned(), Identity::Full))
    });
    match known {
        Some(user) => users.push(user),
        None => println!("SKIPPED: no user of this machine has subordinate ids in /etc/subuid"),
    }
    // The build folder may be closed to other users: the programs are copied to where it is not.
    let folder = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(folder.path(), open(0o755)).unwrap();
    let (tests, helper) = (folder.path().join("tests"), folder.path().join("helper"));
    let helper_here = Path::new(env!("CARGO_BIN_EXE_hyper-exec-helper"));
    hyper_sdk::testing::copy_program(&std::env::current_exe().unwrap(), &tests).unwrap();
    hyper_sdk::testing::copy_program(helper_here, &helper).unwrap();
    for (uid, gid, identity) in users {
        let scratch = folder.path().join(&uid);
        std::fs::create_dir(&scratch).unwrap();
        std::os::unix::fs::chown(&scratch, Some(uid.parse().unwrap()), Some(gid.parse().unwrap())).unwrap();
        let output = std::process::Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--inh-caps=-all", "--"])
            .arg(&tests)
            // The whole escape suite too, by the common start of its names.
            .args([
                "sandbox",
                "snapshots::",
                "layers_of_copies::",
                "deep_chains::",
                "--nocapture",
                "--skip",
                "overhead",
                "--test-threads=2",
            ])
            .args(if identity == Identity::Single { NOT_WITH_A_SINGLE_ID } else { &[] })
            .env("HYPER_TEST_HELPER", &helper)
            .env("HYPER_TEST_IDENTITY", format!("{identity:?}"))
            .env("TMPDIR", &scratch)
            .current_dir(&scratch)
            .output();
        let output = match output {
            Ok(output) => output,
            Err(e) => {
                println!("SKIPPED: setpriv cannot be started: {e}");
                return;
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "as user {uid} ({identity:?}):\n{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for line in text.lines().filter(|line| line.contains("SKIPPED")) {
            println!("as user {uid}: {line}");
        }
    }
}

/// An ordinary user who should have all ids has them.
#[tokio::test]
async fn the_identity_is_the_expected_one() {
    let Ok(wanted) = std::env::var("HYPER_TEST_IDENTITY") else { return };
    let Some(fixture) = Fixture::new().await else { return };
    assert_eq!(format!("{:?}", fixture.executor.identity()), wanted, "{:?}", fixture.executor.notes());
}
