//! `--executor`: steps in containers of an OCI runtime do what they do without.

use crate::rootless::ordinary_user;
use crate::support::{Place, Who, busybox, find, is_root, marker, processes, skip, told, wait_for};
use std::path::PathBuf;

const EPOCH: &str = "--source-date-epoch=1700000000";

/// The runtimes of this machine.
fn runtimes() -> Vec<&'static str> {
    ["runc", "crun"].into_iter().filter(|name| find(name).is_some()).collect()
}

/// Who can run steps in containers of a runtime: root, and a user with subordinate ids.
fn everybody() -> Vec<Who> {
    let mut all = vec![Who::Me];
    if is_root() {
        match ordinary_user() {
            Ok(user) => all.push(user),
            Err(why) => println!("SKIPPED: {why}"),
        }
    }
    all
}

/// What keeps a test from running here.
fn hindrance() -> Option<&'static str> {
    if busybox().is_none() {
        return Some("there is no static busybox");
    }
    if !is_root() {
        return Some("this takes root: the control groups of an ordinary user may not be made");
    }
    runtimes().is_empty().then_some("there is neither runc nor crun")
}

/// What nothing of a step with a runtime may leave behind.
fn leftovers(place: &Place) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["state/runtime/stage", "state/runtime/steps"] {
        let entries = std::fs::read_dir(place.join(folder)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()));
    }
    found
}

/// The control groups of the step with this record.
fn groups(name: &str) -> Vec<PathBuf> {
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut found = Vec::new();
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                match entry.file_name() == name {
                    true => found.push(entry.path()),
                    false => todo.push(entry.path()),
                }
            }
        }
    }
    found
}

/// The names of the records of steps that run, or of a builder that was killed.
fn records(place: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(place.join("state/runtime/steps")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

const MOUNTS: &str = r#"
FROM base AS other
RUN echo of another stage > /file && mkdir /folder && echo deep > /folder/file
FROM base
COPY data /data
WORKDIR /srv/deep
ENV SOME=thing
RUN --mount=type=bind,from=other,target=/other \
    --mount=type=bind,from=other,source=/folder,target=/rw,rw \
    --mount=type=bind,target=/context \
    --mount=type=tmpfs,target=/memory,size=1m \
    --mount=type=cache,target=/cache \
    --mount=type=cache,id=ro,target=/cache-ro,readonly \
    --mount=type=secret,id=s,target=/run/secret,mode=0440,gid=7 \
    --mount=type=secret,id=s,env=FROM_SECRET \
    --mount=type=tmpfs,target=/dev/here \
    exec 2>&1; cat /other/file /rw/file /context/data /run/secret; \
    echo more > /rw/more && ls /rw; echo x > /other/x; echo x > /cache-ro/x; \
    echo text > /cache/text; echo text > /memory/text; df -k /memory | tail -1; \
    stat -c '%a %u:%g %s' /run/secret /cache /memory /dev/here; echo "$FROM_SECRET"; \
    pwd; env | sort; id; umask; hostname; cat /etc/hosts /etc/resolv.conf; \
    ls -l /dev | awk '{print $1, $3, $4, $5, $6, $NF}' | grep -v '^total'; df -k /dev/shm | tail -1; \
    ulimit -Sn; ulimit -Hn; ulimit -c; grep -E '^(Cap|NoNew|Seccomp:|Groups)' /proc/self/status; \
    ls /proc/acpi /proc/scsi /sys/firmware; wc -c /proc/keys /proc/timer_list; echo x > /proc/sys/kernel/hostname; \
    echo x > /sys/kernel/mm/x; echo x > /etc/hosts; mount -t tmpfs x /tmp; unshare true; chroot / true; \
    mknod /null c 1 3; stat -c '%F %t %T' /null; mkdir /made; chown 12:34 /made; chmod 4755 /made; \
    cat /proc/1/environ; cat /proc/1/maps; ls /proc/1/root; kill -9 1; set -- /proc/[0-9]*; echo $#; \
    readlink /proc/1/exe; echo $?; rm /null; true
RUN exec 2>&1; echo "second" > /dev/shm/x; ls /dev/shm; echo out > /dev/stdout; echo random > /file; cat < /dev/null
USER 1234:5678
RUN exec 2>&1; id -u; id -g; id -G; touch /tmp/mine; grep ^Cap /proc/self/status; touch /root/x; echo > /dev/full; true
"#;

/// What the steps of [`MOUNTS`] write, and the digest of the image.
fn build_mounts(who: Who, executor: &str) -> (String, String) {
    let place = Place::of(who);
    place.write("context/data", "data of the context\n");
    place.write("secret", "hunter2\n");
    let flags = [
        &format!("--executor={executor}"),
        "--secret=id=s,src=secret",
        EPOCH,
        "--ulimit=nofile=101:202",
        "--ulimit=core=0",
        "--shm-size=5m",
        "--add-host=seven:192.0.2.7",
        "--no-cache",
    ];
    let built = place.built(MOUNTS.trim_start(), &flags);
    assert!(leftovers(&place).is_empty(), "{executor}");
    (built.log(), built.digest)
}

#[test]
fn a_runtime_runs_steps_as_the_native_executor_does() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    for who in everybody() {
        let (log, digest) = build_mounts(who.clone(), "native");
        assert!(log.contains("of another stage") && log.contains("hunter2"), "{log}");
        for runtime in runtimes() {
            let (other, same) = build_mounts(who.clone(), runtime);
            let differences: Vec<_> =
                log.lines().zip(other.lines()).filter(|(native, other)| native != other).collect();
            assert_eq!(differences, [], "{runtime} as {who:?}");
            assert_eq!(log.lines().count(), other.lines().count(), "{runtime} as {who:?}: {other}");
            assert_eq!(digest, same, "{runtime} as {who:?}");
        }
    }
}

#[test]
fn executors_share_the_cache() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    let place = Place::new();
    let dockerfile = "FROM base\nRUN echo once > /file\n";
    let first = place.built(dockerfile, &["--executor", runtimes()[0], EPOCH]);
    let second = place.built(dockerfile, &["--executor=native", EPOCH]);
    assert_eq!(first.digest, second.digest);
    assert!(second.outcomes().values().all(|outcome| outcome != "ran"), "{:?}", second.outcomes());
    // A runtime that is not there does not matter where nothing runs.
    let third = place.built(dockerfile, &["--executor=/no/such/runtime", EPOCH]);
    assert_eq!(first.digest, third.digest);
}

#[test]
fn a_step_of_a_runtime_fails_as_any_other() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    let place = Place::new();
    let lost = "FROM base\nCOPY --chmod=755 script /script\nRUN [\"/script\"]\n";
    place.write("context/script", "#!/no/such/interpreter\n");
    for (dockerfile, told_of) in [
        ("FROM base\nRUN exit 42\n", "42"),
        ("FROM base\nRUN kill -9 $$\n", "137"),
        ("FROM base\nRUN kill -TERM $$\n", "143"),
        ("FROM base\nRUN [\"no-such-program\"]\n", "no-such-program"),
        ("FROM base\nRUN [\"/etc\"]\n", "may not execute"),
        (lost, "interpreter"),
        ("FROM base\nUSER nobody-here\nRUN true\n", "nobody-here"),
    ] {
        for executor in runtimes().into_iter().chain(["native"]) {
            let output = place.build(dockerfile, &["--executor", executor]).output().unwrap();
            let text = told(&output);
            assert_eq!(output.status.code(), Some(1), "{executor}: {text}");
            assert!(text.contains(told_of), "{executor}: {told_of}: {text}");
        }
    }
    assert!(leftovers(&place).is_empty());
}

#[test]
fn a_step_without_network_has_a_loopback_alone() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    for runtime in runtimes() {
        let place = Place::new();
        let dockerfile = "FROM base\nRUN --network=none grep -c : /proc/net/dev; ls /sys/class/net; ping -c 1 127.0.0.1 \
                          | grep -c 'from 127'\n";
        assert_eq!(place.built(dockerfile, &["--executor", runtime]).log(), "1\nlo\n1\n", "{runtime}");
    }
}

#[test]
fn an_insecure_step_has_all_privileges() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    let dockerfile = "FROM base\nRUN --security=insecure exec 2>&1; mount -t tmpfs x /tmp; grep ^Cap /proc/self/status; \
                      grep Seccomp: /proc/self/status; ls /dev | grep -v loop; touch /sys/x; echo $?\n\
                      USER 1000\nRUN --security=insecure grep ^Cap /proc/self/status\n";
    let log = |executor: &str| {
        let flags = ["--allow=security.insecure", "--executor", executor];
        Place::new().built(dockerfile, &flags).log()
    };
    let native = log("native");
    assert!(!native.contains("CapAmb:\t0000000000000000\nSeccomp"), "{native}");
    for runtime in runtimes() {
        assert_eq!(log(runtime), native, "{runtime}");
    }
}

#[test]
fn nothing_of_a_killed_build_stays() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    for runtime in runtimes() {
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
            let place = Place::new();
            let number = marker();
            let dockerfile = format!("FROM base\nRUN sleep {number} & sleep {number}\n");
            let mut build = place.build(&dockerfile, &["--executor", runtime]);
            build.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let mut child = build.spawn().unwrap();
            wait_for("the step runs", || {
                // The shells and the programs of the step; the builder has it in a file.
                processes(&format!("sleep\0{number}")).len() == 2
            });
            let names = records(&place);
            assert_eq!(names.len(), 1, "{names:?}");
            let had_groups = !groups(&names[0]).is_empty();
            assert_eq!(had_groups, runtime == "runc", "crun leaves them alone");
            let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
            child.wait().unwrap();
            wait_for("every process ends", || processes(&format!("sleep\0{number}")).is_empty());
            // The bundle was in memory. The groups go at once, or with the next step.
            assert_eq!(std::fs::read_dir(place.join("state/runtime/stage")).unwrap().count(), 0);
            wait_for("the groups of the step are removed", || {
                place.built("FROM base\nRUN true\n", &["--executor", runtime, "--no-cache"]);
                leftovers(&place).is_empty() && groups(&names[0]).is_empty()
            });
        }
    }
}

#[test]
fn secrets_of_a_step_are_in_no_file() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    for runtime in runtimes() {
        let place = Place::new();
        let (secret, number) = (format!("very-{}-secret", marker()), marker());
        place.write("secret", &secret);
        let dockerfile = format!(
            "FROM base\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S sleep {number}; exit 1\n"
        );
        let mut build = place.build(&dockerfile, &["--executor", runtime, "--secret=id=s,src=secret"]);
        build.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = build.spawn().unwrap();
        wait_for("the step runs", || !processes(&format!("sleep\0{number}")).is_empty());
        let found = std::process::Command::new("grep")
            .args(["-rl", &secret])
            .args([place.join("state"), PathBuf::from("/run")])
            .output()
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{runtime}");
        wait_for("the step ends", || processes(&format!("sleep\0{number}")).is_empty());
    }
}

/// The links of an image, and what a step shows of where they lead.
fn links(outside: &str) -> Vec<(Vec<(&'static str, String)>, &'static str)> {
    let up = format!("../../../../../..{outside}");
    vec![
        (
            vec![("etc/resolv.conf", format!("{outside}/file")), ("etc/hosts", format!("{up}/new"))],
            "cat /etc/hosts | wc -l; ls -d /tmp/*",
        ),
        (vec![("dev", outside.to_owned()), ("sys", up.clone())], "ls /dev/null /dev/shm; ls -d /sys/kernel"),
        (vec![("proc", format!("{outside}/proc")), ("dev", "/run".to_owned())], "ls -d /proc/self /run/shm"),
        (vec![("work", outside.to_owned())], "pwd; touch here; ls"),
        (
            vec![("dev/null", "/etc/passwd".to_owned()), ("dev/shm", "/root".to_owned())],
            "ls -l /dev | cut -c1; cat /dev/null",
        ),
        (
            vec![("dev/pts", "../root".to_owned()), ("dev/ptmx", up)],
            "ls -d /dev/pts/ptmx; readlink /dev/ptmx",
        ),
    ]
}

#[test]
fn links_of_an_image_lead_nowhere() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), "of the host").unwrap();
    for (made, script) in links(outside.path().to_str().unwrap()) {
        let dockerfile = format!("FROM base\nCOPY . /\nWORKDIR /srv\nRUN exec 2>&1; {script}; echo end\n");
        let run = |executor: &str| {
            let place = Place::new();
            for (name, target) in &made {
                let path = place.join("context").join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(target, path).unwrap();
            }
            let output = place.build(&dockerfile, &["--executor", executor, EPOCH]).output().unwrap();
            let built = crate::support::Built::of(&output);
            (output.status.code(), built.digest.clone(), built.log())
        };
        let native = run("native");
        assert_eq!(native.0, Some(0), "{made:?}: {native:?}");
        for runtime in runtimes() {
            assert_eq!(run(runtime), native, "{runtime}: {made:?}");
        }
        let left = std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["file"], "{made:?}");
        assert_eq!(std::fs::read_to_string(outside.path().join("file")).unwrap(), "of the host");
    }
}

#[test]
fn programs_of_32_bit_x86_are_refused_by_name() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    if std::env::consts::ARCH != "x86_64" {
        skip!("this is about 64-bit x86");
    }
    let place = Place::new();
    let header = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0";
    std::fs::create_dir_all(place.join("context")).unwrap();
    std::fs::write(place.join("context/old"), header).unwrap();
    let dockerfile = "FROM base\nCOPY --chmod=755 old /old\nRUN [\"/old\"]\n";
    let output = place.build(dockerfile, &["--executor", runtimes()[0]]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("32-bit x86"), "{}", told(&output));
}

#[test]
fn a_runtime_that_cannot_be_used_is_told() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    let place = Place::new();
    let refused = |executor: &str| {
        let output =
            place.build("FROM base\nRUN true\n", &["--executor", executor, "--no-cache"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{executor}: {}", told(&output));
        told(&output)
    };
    let text = refused("no-such-runtime");
    assert!(text.contains("no-such-runtime") && text.contains("PATH"), "{text}");
    let text = refused("/no/such/runtime");
    assert!(text.contains("/no/such/runtime") && text.contains("native executor"), "{text}");
    let text = refused("/bin/true");
    assert!(text.contains("/bin/true") && text.contains("not an OCI runtime"), "{text}");
    let version = "#!/bin/sh\necho runc version 0.1; echo spec: 0.5.0\n";
    let text = refused(place.write_program("old", version).to_str().unwrap());
    assert!(text.contains("0.5.0") && text.contains("1.0.0"), "{text}");
    let broken = "#!/bin/sh\n[ $1 = --version ] && { echo runc version 1.1; echo spec: 1.0.2; exit; }\n\
                  while [ $# -gt 0 ]; do [ $1 = --log ] && log=$2; shift; done\n\
                  echo '{\"level\":\"error\",\"msg\":\"the moon is full\"}' > $log; exit 3\n";
    let text = refused(place.write_program("broken", broken).to_str().unwrap());
    assert!(text.contains("the moon is full") && text.contains("native executor"), "{text}");
    assert!(leftovers(&place).is_empty());
}

#[test]
fn what_a_runtime_cannot_do_is_refused_by_name() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    let runtime = runtimes()[0];
    let place = Place::new();
    let output = place.build("FROM base\nRUN true\n", &["--executor", runtime, "--isolation=none"]).output();
    let output = output.unwrap();
    assert!(!output.status.success() && told(&output).contains("no isolation"), "{}", told(&output));
    let limited = place.build("FROM base\nRUN true\n", &["--executor", runtime, "--memory=64m"]);
    let output = { limited }.output().unwrap();
    assert!(!output.status.success() && told(&output).contains("`memory`"), "{}", told(&output));
    if find("setpriv").is_none() {
        skip!("there is no setpriv");
    }
    let place = Place::of(Who::Id(45_691));
    let output = place.build("FROM base\nRUN true\n", &["--executor", runtime]).output().unwrap();
    assert!(!output.status.success() && told(&output).contains("/etc/subuid"), "{}", told(&output));
}

#[test]
fn bake_and_info_know_runtimes() {
    if let Some(why) = hindrance() {
        skip!("{why}");
    }
    let place = Place::new();
    for runtime in runtimes() {
        let base = crate::support::base().display();
        place.write("Dockerfile", "FROM base\nRUN grep -c hyper /proc/sys/kernel/hostname > /file\n");
        place.write(
            "docker-bake.hcl",
            &format!(
                "target \"default\" {{\n contexts = {{ base = \"oci-layout://{base}\" }}\n no-cache = true\n}}\n"
            ),
        );
        let fs = format!("--allow=fs.read={base}");
        place.ok(&["bake", "--executor", runtime, &fs]);
        assert!(place.join("state/runtime/steps").exists());
        std::fs::remove_dir_all(place.join("state/runtime")).unwrap();
        let info: serde_json::Value = serde_json::from_str(&place.ok(&["info", "--format=json"])).unwrap();
        let known = info["executors"].as_array().unwrap();
        let found = known.iter().find(|executor| executor["name"] == runtime).unwrap();
        assert!(found["version"].as_str().unwrap().starts_with(runtime), "{info}");
        assert!(place.ok(&["info"]).contains(&format!("executor:          {runtime} ")));
    }
}
