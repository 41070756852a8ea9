//! Device nodes in steps: they can be made and arrive in the layer, and only the usual ones can be opened.

use crate::sandbox::{Fixture, helper, shell};
use hyper_sdk::exec::{
    CacheMount, ExecMount, ExecSpec, HelperCommand, HostOption, MountSource, RootFs, Security,
};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether root runs the tests; only root makes devices.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Makes a device node; false where this user may not.
fn make_node(path: &Path, kind: &str, major: u32, minor: u32) -> bool {
    let status = std::process::Command::new("mknod")
        .args(["-m", "0666"])
        .arg(path)
        .args([kind, &major.to_string(), &minor.to_string()])
        .stderr(std::process::Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Places of every kind of mount that a step can write to, and one that it cannot.
fn mounts(fixture: &Fixture) -> Vec<ExecMount> {
    let context = fixture.path("context");
    std::fs::create_dir_all(&context).unwrap();
    let tree = RootFs::Overlay { lowers: vec![fixture.path("base")], upper: None };
    let host = |writable| MountSource::Host { root: context.clone(), path: "/".into(), writable };
    let cache = CacheMount { path: fixture.path("cache"), read_only: false, owner: None, from: None };
    [
        ("/cache", MountSource::Cache(cache)),
        ("/cache/in/cache", MountSource::Tmpfs { size: None, read_only: false }),
        ("/host", host(true)),
        ("/host-ro", host(false)),
        ("/memory", MountSource::Tmpfs { size: None, read_only: false }),
        ("/tree", MountSource::Tree { tree: tree.clone(), path: "/".into(), writable: true }),
        ("/tree-ro", MountSource::Tree { tree, path: "/".into(), writable: false }),
        ("/shared", MountSource::HostPath { path: context.clone(), options: vec![HostOption::NoSetUserId] }),
    ]
    .map(|(target, source)| ExecMount { target: target.into(), source })
    .into()
}

const NODES: [(&str, u32, u32); 7] =
    [("b", 7, 0), ("b", 259, 0), ("c", 5, 1), ("c", 4, 64), ("c", 10, 200), ("c", 10, 229), ("c", 42, 7)];
const PLACES: [&str; 11] = [
    "",
    "/tmp",
    "/dev",
    "/dev/shm",
    "/run",
    "/cache",
    "/cache/in/cache",
    "/host",
    "/memory",
    "/tree",
    "/shared",
];

/// What a step does to make nodes everywhere and open them: a line for each that it could not make, and for each that
/// gave another answer than `expected`.
fn attempt(expected: &str) -> String {
    let mut script = String::from(
        "open() { said=$( { : < $1; } 2>&1 ); case \"$said\" in *\"$expected\"*) ;; *) echo \"$1: read: $said\";; esac\n\
         said=$( { : >> $1; } 2>&1 ); case \"$said\" in *\"$expected\"*) ;; *) echo \"$1: write: $said\";; esac; }\n",
    );
    for place in PLACES {
        // Memory for all programs is `nodev` with every builder.
        let answer = if place == "/dev/shm" { "Permission denied" } else { expected };
        script.push_str(&format!("expected='{answer}'\n"));
        for (kind, major, minor) in NODES {
            let node = format!("{place}/n-{kind}{major}-{minor}");
            // Some file systems make no nodes in any container.
            script.push_str(&format!(
                "mknod -m 666 {node} {kind} {major} {minor} || echo {node}: not made\nopen {node}\n"
            ));
        }
    }
    script.push_str(&format!("expected='{expected}'\n"));
    for brought in [
        "/brought",
        "/tree/brought",
        "/tree-ro/brought",
        "/host/brought",
        "/host-ro/brought",
        "/shared/brought",
    ] {
        script.push_str(&format!("open {brought}\n"));
    }
    script
}

async fn only_the_usual_devices_open(helper: HelperCommand, expected: &str) {
    let Some(fixture) = Fixture::with(helper).await else { return };
    let mounts = mounts(&fixture);
    for folder in ["base", "context"] {
        assert!(make_node(&fixture.path(folder).join("brought"), "b", 7, 0));
        std::fs::set_permissions(
            fixture.path(folder).join("brought"),
            std::fs::Permissions::from_mode(0o666),
        )
        .unwrap();
    }
    let mut spec = shell(&attempt(expected));
    spec.mounts = mounts;
    let (code, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!((code, output.as_str(), errors.as_str()), (0, "", ""));
    let node = std::fs::symlink_metadata(fixture.path("upper/n-b7-0")).unwrap();
    assert!(node.file_type().is_block_device() && node.rdev() == 7 << 8, "the node arrives in the layer");

    let usual = "for d in null zero full random urandom ptmx pts/ptmx; do ( : < /dev/$d ) || echo $d; done; \
                 echo x > /dev/null; dd if=/dev/zero bs=8 count=1 2>/dev/null | wc -c; \
                 ( : < /dev/tty ); cat /proc/interrupts; echo $?";
    let (_, output, errors) = fixture.sh(usual).await;
    assert_eq!(output, "8\n0\n", "{errors}");
    assert!(errors.trim().ends_with("No such device or address"), "no terminal is there: {errors}");
}

#[tokio::test]
async fn a_control_group_refuses_all_but_the_usual_devices_of_root() {
    let probe = Path::new("/sys/fs/cgroup/unified/hyper-test-probe");
    let groups = [probe, Path::new("/sys/fs/cgroup/hyper-test-probe")];
    let made = groups
        .iter()
        .find(|group| std::fs::create_dir(group).is_ok_and(|()| group.join("cgroup.procs").exists()));
    for group in groups {
        std::fs::remove_dir(group).ok();
    }
    // What an ordinary user's steps open is tried below.
    if !is_root() {
        return;
    }
    if made.is_none() {
        println!("SKIPPED: control groups cannot be made here");
        return;
    }
    only_the_usual_devices_open(helper(), "Operation not permitted").await;
    // As in other builders, the usual ones work wherever they were made.
    let Some(fixture) = Fixture::new().await else { return };
    let (_, output, errors) =
        fixture.sh("mknod /z c 1 5 && dd if=/z bs=4 count=1 2>/dev/null | wc -c; rm /dev/null && mknod /dev/null c 1 3 && echo x > /dev/null; cat /proc/self/cgroup | grep -v ':/$'").await;
    assert_eq!(output, "4\n", "{errors}");
    let left = std::fs::read_dir(made.unwrap().parent().unwrap()).unwrap().flatten();
    let own = format!("hyper-step-{}", std::process::id());
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&own)));
}

/// A helper that sees no control groups.
fn without_groups() -> Option<HelperCommand> {
    let has = |program: &str| {
        Path::new("/usr/bin").join(program).exists() || Path::new("/bin").join(program).exists()
    };
    // What an ordinary user's steps open is tried below.
    if !is_root() {
        return None;
    }
    if !["unshare", "mount", "sh"].into_iter().all(has) {
        println!("SKIPPED: `unshare`, `mount` or `sh` is missing");
        return None;
    }
    let inner = helper();
    let script = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
    let mut args: Vec<std::ffi::OsString> = ["-m", "sh", "-c", script, "sh"].map(Into::into).into();
    args.push(inner.program.into());
    args.extend(inner.args);
    Some(HelperCommand { program: "unshare".into(), args })
}

/// A helper in a control group of its own, and the folder of that; none where such cannot be made.
fn in_a_group(name: &str) -> Option<(HelperCommand, PathBuf)> {
    if !is_root() {
        return None;
    }
    let name = format!("hyper-test-{name}-{}", std::process::id());
    let group = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(|place| Path::new(place).join(&name))
        .into_iter()
        .find(|group| {
            let made = std::fs::create_dir(group).is_ok();
            let counts = made && group.join("cgroup.procs").exists();
            if made && !counts {
                std::fs::remove_dir(group).ok();
            }
            counts
        });
    let Some(group) = group else {
        println!("SKIPPED: control groups cannot be made here");
        return None;
    };
    Some((started_in(&group, &group), group))
}

/// A helper that enters two control groups, one after the other.
fn started_in(first: &Path, then: &Path) -> HelperCommand {
    let inner = helper();
    let script = "echo $$ > \"$0\"/cgroup.procs && echo $$ > \"$1\"/cgroup.procs && shift && exec \"$@\"";
    let mut args: Vec<std::ffi::OsString> = ["-c", script].map(Into::into).into();
    args.extend([first.into(), then.into(), inner.program.into()]);
    args.extend(inner.args);
    HelperCommand { program: "sh".into(), args }
}

/// The control groups of steps below a group.
fn groups_of_steps(group: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(group)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

#[tokio::test]
async fn a_step_runs_also_when_somebody_takes_its_control_group_away() {
    let Some((helper, group)) = in_a_group("taken") else { return };
    let Some(fixture) = Fixture::with(helper).await else { return };
    let (done, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let remover = std::thread::spawn({
        let (group, done, taken) = (group.clone(), Arc::clone(&done), Arc::clone(&taken));
        move || {
            while !done.load(Ordering::Relaxed) {
                let removed =
                    groups_of_steps(&group).into_iter().filter(|path| std::fs::remove_dir(path).is_ok());
                taken.fetch_add(removed.count(), Ordering::Relaxed);
            }
        }
    });
    let mut wrong = Vec::new();
    for _ in 0..40 {
        // Whatever decides then, a device of the host is refused.
        match fixture.run_spec(shell("mknod /n c 42 7; ( : < /n ) 2>&1; rm /n")).await {
            Ok((0, output, _))
                if output.contains("not permitted") || output.contains("Permission denied") => {}
            other => wrong.push(other),
        }
    }
    done.store(true, Ordering::Relaxed);
    remover.join().unwrap();
    assert!(wrong.is_empty(), "{} of 40: {:?}", wrong.len(), wrong[0]);
    assert!(taken.load(Ordering::Relaxed) > 0, "none was taken away");
    drop(fixture);
    assert_eq!(groups_of_steps(&group), Vec::<PathBuf>::new());
    gone(&group);
}

/// A helper that has ended leaves its group a moment later.
fn gone(group: &Path) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Err(e) = std::fs::remove_dir(group) {
        assert!(std::time::Instant::now() < until, "{e}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_step_runs_where_a_control_group_can_be_made_and_not_be_entered() {
    let Some((_, above)) = in_a_group("threads") else { return };
    let group = above.join("group");
    std::fs::create_dir(&group).unwrap();
    // What is made below such a group takes no process.
    if std::fs::write(group.join("cgroup.type"), "threaded").is_ok() {
        let Some(fixture) = Fixture::with(started_in(&above, &group)).await else { return };
        let (code, output, errors) = fixture.sh("mknod /n c 42 7; ( : < /n ) 2>&1").await;
        assert!(code != 0 && output.contains("Permission denied"), "{output} {errors}");
        drop(fixture);
    }
    gone(&group);
    gone(&above);
}

#[tokio::test]
async fn helpers_that_start_take_no_control_group_away_that_is_in_use() {
    let Some((helper, group)) = in_a_group("swept") else { return };
    let Some(fixture) = Fixture::with(helper.clone()).await else { return };
    let left = group.join("hyper-step-1-0");
    std::fs::create_dir(&left).unwrap();
    let used = group.join("hyper-step-2-0");
    std::fs::create_dir(&used).unwrap();
    let lock = std::fs::File::open(&used).unwrap();
    lock.lock_shared().unwrap();
    let other = Fixture::with(helper).await.unwrap();
    // It looks around before its first operation.
    assert_eq!(other.sh("true").await.0, 0);
    assert!(!left.exists(), "what a killed step left behind goes");
    assert!(used.exists(), "what is in use stays");
    drop((fixture, other, lock));
    std::fs::remove_dir(&used).unwrap();
    gone(&group);
}

#[tokio::test]
async fn without_a_control_group_no_mount_of_root_shows_devices() {
    let Some(helper) = without_groups() else { return };
    only_the_usual_devices_open(helper.clone(), "Permission denied").await;
    let Some(fixture) = Fixture::with(helper).await else { return };
    // Whatever is mounted later is no exception: all but single devices and terminals are `nodev`.
    let mut spec = shell("cat /proc/self/mountinfo");
    spec.mounts = mounts(&fixture);
    let (_, output, _) = fixture.run_spec(spec).await.unwrap();
    let open: Vec<&str> = output
        .lines()
        .filter(|line| !line.split(' ').nth(5).unwrap().split(',').any(|option| option == "nodev"))
        .map(|line| line.split(' ').nth(4).unwrap())
        .filter(|place| !place.starts_with("/proc/"))
        .collect();
    let devices =
        ["null", "zero", "full", "random", "urandom", "tty", "pts"].map(|name| format!("/dev/{name}"));
    assert_eq!(open, devices, "{output}");
    assert!(output.lines().count() > 20, "{output}");
}

#[tokio::test]
async fn an_ordinary_user_opens_the_usual_devices_and_makes_none() {
    let Some(fixture) = Fixture::new().await else { return };
    if is_root() {
        println!("SKIPPED: devices, as they can be made here");
        return;
    }
    let (_, output, errors) = fixture
        .sh("for d in null zero full random urandom ptmx; do ( : < /dev/$d ) || echo $d; done; cat /proc/interrupts; \
             grep -vE ' (/proc/[^ ]*|/dev/(null|zero|full|random|urandom|tty|pts)) [^ ]*$' /proc/self/mountinfo; \
             while read -r a b c d place options rest; do \
             case $options in *nodev*) ;; *) echo $place; esac; done < /proc/self/mountinfo | grep -v ^/proc/")
        .await;
    let open: Vec<&str> = output.lines().filter(|line| line.starts_with('/')).collect();
    let devices =
        ["null", "zero", "full", "random", "urandom", "tty", "pts"].map(|name| format!("/dev/{name}"));
    assert_eq!(open, devices, "{output} {errors}");
}

#[tokio::test]
async fn a_step_with_every_privilege_opens_devices() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut spec = shell("mknod /c c 42 7 && ( : < /c ) 2>&1; ls -d /dev/fuse");
    spec.security = Security::Insecure;
    match fixture.run_spec(spec).await {
        // No driver has it; that it was looked for says that nothing refused.
        Ok((_, output, _)) => {
            assert!(output.contains("No such device or address") && output.contains("/dev/fuse"), "{output}")
        }
        Err(e) => assert_eq!(e.kind(), hyper_sdk::ErrorKind::Unsupported),
    }
}

/// What RUN `--device` mounts: the device itself works, under every helper, and what a folder brings does not.
#[tokio::test]
async fn a_device_that_was_granted_opens() {
    for helper in [Some(helper()), without_groups()].into_iter().flatten() {
        let Some(fixture) = Fixture::with(helper).await else { return };
        let (device, folder) = (fixture.path("device"), fixture.path("folder"));
        std::fs::create_dir(&folder).unwrap();
        if !make_node(&device, "c", 42, 9) || !make_node(&folder.join("other"), "c", 42, 8) {
            assert!(!is_root());
            return;
        }
        let grant = |path: &Path, target: &str, options: &[HostOption]| ExecMount {
            target: target.into(),
            source: MountSource::HostPath { path: path.into(), options: options.into() },
        };
        let mut spec = ExecSpec::new([
            "/bin/sh",
            "-c",
            "for n in /dev/mine /bare/no /folder/other; do ( : < $n ) 2>&1; done",
        ]);
        spec.mounts = vec![
            grant(&device, "/dev/mine", &[]),
            grant(&folder, "/folder", &[]),
            grant(&folder.join("other"), "/bare/no", &[HostOption::NoDevices]),
        ];
        let (_, output, errors) = fixture.run_spec(spec).await.unwrap();
        let refused = |line: &str| line.contains("not permitted") || line.contains("Permission denied");
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines.len(), 3, "{output} {errors}");
        assert!(lines[0].contains("No such device or address"), "{output}");
        assert!(refused(lines[1]) && refused(lines[2]), "{output}");
    }
}
