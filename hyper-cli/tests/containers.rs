//! Builds inside of containers, as CI runs them: podman's default profile, which permits namespaces and hides a part of
//! `/proc`, and that of Docker, which permits neither namespaces nor mounts.

use crate::support::{Place, base, busybox, is_root, missing, told};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hyperbuild");

/// What Docker's default profile denies and podman's does not.
const DENIED_BY_DOCKER: &[&str] = &[
    "mount",
    "umount",
    "umount2",
    "unshare",
    "setns",
    "pivot_root",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "clone",
    "clone3",
];

/// A root file system with busybox and the program, which containers share one after the other.
struct Machine {
    place: Place,
    profile: PathBuf,
}

impl Machine {
    /// `None`, with a word why, where containers cannot be run.
    fn new() -> Option<Self> {
        if let Some(tool) = missing(&["podman", "runc", "ldd"]) {
            println!("SKIPPED: there is no {tool}");
            return None;
        }
        if busybox().is_none() || !is_root() {
            println!("SKIPPED: this takes root, and a static busybox");
            return None;
        }
        let place = Place::new();
        let root = place.join("root");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
        std::fs::copy(busybox().unwrap(), root.join("bin/busybox")).unwrap();
        let applets = crate::support::succeed(Command::new(busybox().unwrap()).arg("--list"));
        for name in applets.lines().filter(|name| *name != "busybox" && !name.contains('/')) {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        std::fs::copy(PROGRAM, root.join("bin/hyperbuild")).unwrap();
        let libraries = Command::new("ldd").arg(PROGRAM).output().unwrap();
        for word in
            String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            let copy = root.join(word.trim_start_matches('/'));
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::copy(word, copy).unwrap();
        }
        place.write("root/etc/passwd", "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n");
        place.write("context/f", "data\n");
        let profile = place.write("docker.json", &profile_without(DENIED_BY_DOCKER)?);
        place.write("no-pivot.json", &profile_without(&["pivot_root"])?);
        std::fs::set_permissions(place.join(""), Permissions::from_mode(0o755)).unwrap();
        let machine = Self { place, profile };
        let probe = machine.run(&[], "echo started");
        if !String::from_utf8_lossy(&probe.stdout).contains("started") {
            println!("SKIPPED: podman starts no container here: {}", told(&probe));
            return None;
        }
        Some(machine)
    }

    /// Runs a script in a container.
    fn run(&self, options: &[&str], script: &str) -> Output {
        let bind = |from: &Path, to: &str| format!("{}:{to}:ro", from.display());
        let store = |name: &str| self.place.join(name);
        Command::new("timeout")
            .args(["-k", "5", "300", "podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--root"])
            .arg(store("store"))
            .arg("--runroot")
            .arg(store("runroot"))
            .args(["run", "--rm", "--runtime=runc", "--network=host"])
            .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=32768:32768", "--env=PATH=/bin", "-v"])
            .arg(bind(base(), "/base"))
            .arg("-v")
            .arg(bind(&self.place.join("context"), "/context"))
            .args(options)
            .arg("--rootfs")
            .arg(store("root"))
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The profile of Docker, with the device nodes that its containers may make.
    fn docker(&self) -> [String; 2] {
        [format!("--security-opt=seccomp={}", self.profile.display()), "--cap-add=MKNOD".to_owned()]
    }
}

/// Podman's default profile without some calls; `None` when it is not here.
fn profile_without(denied: &[&str]) -> Option<String> {
    let Ok(text) = std::fs::read("/usr/share/containers/seccomp.json") else {
        println!("SKIPPED: there is no seccomp profile of podman");
        return None;
    };
    let mut profile: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let rules = profile["syscalls"].as_array_mut().unwrap();
    for rule in rules.iter_mut() {
        let allows = rule["action"] == "SCMP_ACT_ALLOW"
            && rule["includes"].as_object().is_none_or(serde_json::Map::is_empty);
        if let Some(names) = rule["names"].as_array_mut().filter(|_| allows) {
            names.retain(|name| !denied.contains(&name.as_str().unwrap()));
        }
    }
    if !denied.contains(&"clone") {
        return Some(profile.to_string());
    }
    // Only without new namespaces.
    let rules = profile["syscalls"].as_array_mut().unwrap();
    let namespaces = 0x7e02_0000_u32;
    let argument = serde_json::json!({
        "index": 0, "value": namespaces, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"
    });
    rules.push(serde_json::json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [argument] }));
    rules.push(serde_json::json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }));
    Some(profile.to_string())
}

const DOCKERFILE: &str = "FROM base\n\
    COPY --chown=7:8 f /f\n\
    RUN --mount=type=cache,target=/c --mount=type=bind,target=/b cat /b/f; echo x >> /c/log; cat /c/log; \
        mkdir /made && chown 5:6 /made && echo y > /made/file && chmod 4711 /made/file; id -u\n\
    USER 12:34\n\
    RUN id -u; id -g\n";
const LOG: [&str; 5] = ["data", "x", "0", "12", "34"];

/// A script that builds [`DOCKERFILE`] and prints the log, then the digest.
fn script(dockerfile: &str, more: &str) -> String {
    format!(
        "S=$(mktemp -d); printf '%s' '{}' > $S/Dockerfile; hyperbuild --root $S/state build --progress=plain \
         --source-date-epoch=1700000000 --build-context base=oci-layout:///base -f $S/Dockerfile {more} /context 2>&1",
        dockerfile.replace('\'', "'\\''")
    )
}

/// The digest of the image on this machine itself.
fn digest_outside(dockerfile: &str) -> String {
    let place = Place::new();
    place.write("context/f", "data\n");
    place.built(dockerfile, &["--source-date-epoch=1700000000"]).digest
}

fn builds(machine: &Machine, options: &[&str], more: &str) {
    let output = machine.run(options, &script(DOCKERFILE, more));
    let text = told(&output);
    assert!(output.status.success(), "{options:?} {more}: {text}");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    for expected in LOG {
        assert!(lines.contains(&expected), "{expected} in {options:?} {more}: {text}");
    }
    assert!(text.contains(&digest_outside(DOCKERFILE)), "{options:?} {more}: {text}");
}

#[test]
fn a_container_that_permits_namespaces_builds_the_image_of_the_machine() {
    let Some(machine) = Machine::new() else { return };
    let bare: &[&[&str]] =
        &[&[], &["--user=1000"], &["--cap-add=SYS_ADMIN"], &["--security-opt=seccomp=unconfined"]];
    for options in bare {
        builds(&machine, options, "");
    }
    // As Docker's with the capability SYS_ADMIN: the old root stays below the new one, and a step cannot go there.
    let profile = format!("--security-opt=seccomp={}", machine.place.join("no-pivot.json").display());
    builds(&machine, &[&profile], "");
    let dockerfile =
        "FROM base\nRUN chroot / true && exit 1; cd /../.. && test ! -e context && test -e bin\n";
    let output = machine.run(&[&profile], &script(dockerfile, ""));
    assert!(output.status.success(), "{}", told(&output));
    // A step has the processes of the container, by the numbers that its /proc has.
    let dockerfile = "FROM base\nRUN test \"$(readlink /proc/self)\" -gt 3 && grep -c . /proc/$$/status && test -d /proc/1\n";
    for options in bare {
        let output = machine.run(options, &script(dockerfile, "--no-cache"));
        assert!(output.status.success(), "{options:?}: {}", told(&output));
        assert!(told(&output).contains("see the processes"), "{}", told(&output));
    }
}

#[test]
fn a_container_that_permits_no_namespaces_builds_when_asked_for_that() {
    let Some(machine) = Machine::new() else { return };
    let docker = machine.docker();
    let docker: Vec<&str> = docker.iter().map(String::as_str).collect();
    builds(&machine, &docker, "--isolation=none");
    // Nobody asked: the error names what to ask for. Files alone are copied all the same.
    let output = machine.run(&docker, &script("FROM base\nRUN true\n", ""));
    assert!(!output.status.success() && told(&output).contains("`--isolation none`"), "{}", told(&output));
    let copies = "FROM base AS one\nCOPY --chown=7:8 f /f\nFROM base\nCOPY --from=one /f /g\n";
    for user in ["--user=0", "--user=1000"] {
        let options: Vec<&str> = docker.iter().copied().chain([user]).collect();
        let output = machine.run(&options, &script(copies, ""));
        assert!(told(&output).contains(&digest_outside(copies)), "{user}: {}", told(&output));
    }
    // An ordinary user cannot change the root.
    let options: Vec<&str> = docker.iter().copied().chain(["--user=1000"]).collect();
    let output = machine.run(&options, &script("FROM base\nRUN true\n", "--isolation=none"));
    assert!(!output.status.success() && told(&output).contains("CAP_SYS_CHROOT"), "{}", told(&output));
}

#[test]
fn nothing_outlives_a_step_in_a_container() {
    let Some(machine) = Machine::new() else { return };
    let docker = machine.docker();
    let docker: Vec<&str> = docker.iter().map(String::as_str).collect();
    let ended = "FROM base\nRUN (setsid sleep 73333 </dev/null >/dev/null 2>&1 &) ; sh -c 'sleep 73333 & setsid sleep 73333 &'\n";
    let hangs = "FROM base\nRUN (setsid sleep 73333 &) ; sleep 73333\n";
    let left = "; sleep 1; echo left: $(ps -o args | grep -c '^[s]leep 73333')";
    for (options, more) in
        [(&[][..], ""), (&["--user=1000"][..], ""), (docker.as_slice(), "--isolation=none")]
    {
        let output = machine.run(options, &format!("{}{left}", script(ended, more)));
        assert!(told(&output).contains("left: 0"), "{options:?}: {}", told(&output));
        let killed = format!(
            "({}) & for i in $(seq 100); do ps -o args | grep -q '^[s]leep 73333' && break; sleep 0.1; done; \
             echo began: $(ps -o args | grep -c '^[s]leep 73333'); kill -9 $(ps -o pid,args | awk '/^ *[0-9]+ hyperbuild --root/ {{ print $1; exit }}'){left}",
            script(hangs, more)
        );
        let output = machine.run(options, &killed);
        let text = told(&output);
        assert!(text.contains("left: 0") && !text.contains("began: 0"), "{options:?}: {text}");
    }
}
