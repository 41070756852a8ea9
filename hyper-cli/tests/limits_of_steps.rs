//! Limits of what steps use: `--ulimit`, `--shm-size`, control groups.

use crate::rootless::ordinary_user;
use crate::support::{Built, Place, Who, base, busybox, find, is_root, skip, succeed, told};
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Everybody who can run steps here: root, an ordinary user with subordinate ids, and one without.
fn everybody() -> Vec<Who> {
    let mut all = vec![Who::Me];
    if is_root() && find("setpriv").is_some() {
        all.extend(ordinary_user());
        all.push(Who::Id(45_690));
    }
    all
}

/// Whether this process has CAP_SYS_RESOURCE.
fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

/// The message of a build that must fail.
fn refused(place: &Place, dockerfile: &str, flags: &[&str], code: i32) -> String {
    let output = place.build(dockerfile, flags).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {}", told(&output));
    told(&output)
}

#[test]
fn steps_have_the_limits_of_the_flags() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let shown = "RUN ulimit -Sn; ulimit -Hn; ulimit -c; df -k /dev/shm | tail -1 | awk '{print $2}'; : \n";
    for who in everybody() {
        let place = Place::of(who.clone());
        let flags = ["--ulimit=nofile=101:202", "--ulimit", "core=0", "--shm-size=5m"];
        let built = place.built(&format!("FROM base\n{shown}"), &flags);
        assert_eq!(built.log(), "101\n202\n0\n5120\n", "{who:?}");
        let again =
            place.built(&format!("FROM base\n{shown}RUN df -k /dev/shm | awk 'END {{print $2}}'\n"), &[]);
        assert_eq!(
            again.log(),
            "65536\n",
            "{who:?}: the first step comes from the cache, the second has the default"
        );
    }
}

#[test]
fn limits_change_neither_the_key_nor_the_image() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let dockerfile = "FROM base\nRUN echo text > /file\n";
    let epoch = "--source-date-epoch=1700000000";
    let first = place.built(dockerfile, &[epoch]);
    let limited = ["--ulimit=nofile=64", "--shm-size=1m", "--ulimit=nofile=65", epoch];
    let second = place.built(dockerfile, &limited);
    assert_eq!(first.digest, second.digest);
    assert!(second.outcomes().values().all(|outcome| outcome != "ran"), "{:?}", second.outcomes());
    let third = place.built(dockerfile, &[&limited[..], &["--no-cache"]].concat());
    assert_eq!(first.digest, third.digest);
}

#[test]
fn root_raises_limits_and_an_ordinary_user_gets_an_error_before_anything_runs() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    if !is_root() || find("setpriv").is_none() || find("prlimit").is_none() {
        skip!("this takes root, to be somebody else, setpriv and prlimit");
    }
    let dockerfile = "FROM base\nRUN ulimit -Hn\n";
    for who in everybody() {
        let place = Place::of(who.clone());
        let build = place.build(dockerfile, &["--ulimit=nofile=300:4000"]);
        let mut limited = std::process::Command::new("prlimit");
        limited.args(["--nofile=400:500", "--"]).arg(build.get_program()).args(build.get_args());
        limited.env_clear().envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = limited.current_dir(build.get_current_dir().unwrap()).output().unwrap();
        let text = told(&output);
        if matches!(who, Who::Me) && may_raise_limits() {
            assert!(output.status.success() && text.contains("4000"), "{text}");
        } else {
            assert_eq!(output.status.code(), Some(1), "{who:?}: {text}");
            assert!(text.contains("the limit `nofile=300:4000` of steps cannot be set"), "{who:?}: {text}");
            assert!(text.contains("the hard limit of `nofile` is 500 here"), "{who:?}: {text}");
            assert!(!text.contains("\"log\""), "{who:?}: no command ran: {text}");
        }
    }
}

#[test]
fn limits_that_cannot_be_set_do_not_matter_where_nothing_runs() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    // Nobody may have it.
    let endless = "--ulimit=nofile=5:-1";
    place.built("FROM base\nWORKDIR /a\n", &[endless]);
    let dockerfile = "FROM base\nRUN echo ran\n";
    let planned = place.build(dockerfile, &["--dry-run", endless]).output().unwrap();
    assert!(planned.status.success(), "{}", told(&planned));
    place.built(dockerfile, &[]);
    let cached = place.built(dockerfile, &[endless]);
    assert!(cached.outcomes().values().all(|outcome| outcome != "ran"), "{:?}", cached.outcomes());
    refused(&place, dockerfile, &[endless, "--no-cache"], 1);
}

#[test]
fn a_limit_above_what_the_kernel_allows_is_an_error_that_names_it() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let text = refused(&place, "FROM base\nRUN true\n", &["--ulimit=nofile=5:-1"], 1);
    assert!(
        text.contains("`nofile=5:-1`")
            && (text.contains("fs.nr_open") || text.contains("the hard limit of `nofile` is")),
        "{text}"
    );
}

#[test]
fn wrong_values_are_refused_by_name() {
    let place = Place::new();
    for (flag, why) in [
        ("--ulimit=files=3", "the name of a limit is one of core, cpu, data"),
        ("--ulimit=nofile", "expected NAME=SOFT or NAME=SOFT:HARD"),
        ("--ulimit=nofile=9:8", "the soft limit is above the hard limit"),
        ("--ulimit=nofile=-1:8", "the soft limit is above the hard limit"),
        ("--ulimit=nofile=1k", "`1k` is neither a number nor `unlimited`"),
        ("--ulimit=nofile=18446744073709551615", "is neither a number"),
        ("--shm-size=-1", "--shm-size `-1`"),
        ("--shm-size=much", "`much` is not a size"),
    ] {
        let text = refused(&place, "FROM scratch\n", &[flag], 2);
        assert!(text.contains(why), "{flag}: {text}");
    }
    place.built("FROM scratch\nWORKDIR /a\n", &["--shm-size=0", "--ulimit=rtprio=0"]);
}

#[test]
fn the_size_of_shared_memory_needs_isolation() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    if !is_root() {
        skip!("steps without isolation need root");
    }
    let place = Place::new();
    let dockerfile = "FROM base\nRUN ulimit -n\n";
    let text = refused(&place, dockerfile, &["--isolation=none", "--shm-size=1m"], 1);
    assert!(text.contains("`shm-size`") && text.contains("without isolation"), "{text}");
    let built = place.built(dockerfile, &["--isolation=none", "--ulimit=nofile=77"]);
    assert_eq!(built.log(), "77\n");
}

#[test]
fn a_limit_of_a_single_id_that_the_sandbox_uses_itself_is_refused() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    if !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, and setpriv");
    }
    let place = Place::of(Who::Id(45_691));
    let text = refused(&place, "FROM base\nRUN true\n", &["--ulimit=locks=5"], 1);
    assert!(text.contains("`locks=5:5`") && text.contains("single id"), "{text}");
}

/// How often tests have tried whether a group can be made. They may try at the same moment, each with a folder of its own.
static PROBES: AtomicU32 = AtomicU32::new(0);

/// The folder of this process's control group of a controller, where one can be made in it.
fn group(controller: &str) -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let names =
        |line: &str| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|n| n == controller));
    let path = groups.lines().find(|line| names(line))?.split(':').nth(2)?.to_owned();
    let folder = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'));
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let probe = folder.join(format!("hyper-test-{}-{number}", std::process::id()));
    std::fs::create_dir(&probe).ok()?;
    std::fs::remove_dir(&probe).ok()?;
    Some(folder)
}

macro_rules! needs_groups {
    ($($controller:literal),+) => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
        if let Some(missing) = [$($controller),+].into_iter().find(|controller| group(controller).is_none()) {
            skip!("no control group of version 1 with the controller {missing} can be made here");
        }
    };
}

#[test]
fn a_step_that_uses_up_its_memory_is_killed_and_the_error_says_so() {
    needs_groups!("memory");
    let place = Place::new();
    let hog = "FROM base\nRUN dd if=/dev/zero of=/dev/null bs=90000000 count=1; exit 3\n";
    for flags in [&["--memory=32m", "--memory-swap=32m"][..], &["--resource=memory=32m"], &["-m32m"]] {
        let text = refused(&place, hog, &[flags, &["--no-cache"]].concat(), 1);
        assert!(text.contains("failed with exit code 3: a process was killed"), "{flags:?}: {text}");
        assert!(text.contains("used up its limit of 32 MiB (`memory`)"), "{flags:?}: {text}");
    }
    let calm = place.built("FROM base\nRUN head -c 1000 /dev/zero | wc -c\n", &["--memory=32m"]);
    assert_eq!(calm.log().trim(), "1000");
    assert!(calm.events.iter().all(|event| event["event"] != "warning"), "{:?}", calm.events);
    let harmless = "FROM base\nRUN dd if=/dev/zero of=/dev/null bs=90000000 count=1; true\n";
    let survived = place.built(harmless, &["--memory=32m"]);
    let warning = survived.events.iter().find(|event| event["event"] == "warning").unwrap();
    assert!(warning["message"].as_str().unwrap().contains("the command succeeded, but a process was killed"));
}

#[test]
fn processes_of_a_step_are_bounded() {
    needs_groups!("pids");
    let place = Place::new();
    // Each process waits, so that all of them are there at once.
    let bomb = "FROM base\nRUN for i in $(seq 1 200); do sleep 20 & done; exit 1\n";
    let text = refused(&place, bomb, &["--pids-limit=20"], 1);
    assert!(text.contains("as many as its limit of 20 (`pids-limit`)"), "{text}");
    let exact = "FROM base\nRUN for i in 1 2 3 4; do sleep 1 & done; wait; echo done\n";
    assert_eq!(place.built(exact, &["--pids-limit=5"]).log(), "done\n");
    refused(&place, exact, &["--pids-limit=4", "--no-cache"], 1);
    // The process that forwards the agent is no process of the step.
    let socket = place.join("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let agent = format!("--ssh=default={}", socket.display());
    let forwarded = exact.replace("RUN", "RUN --mount=type=ssh");
    assert_eq!(place.built(&forwarded, &["--pids-limit=5", &agent]).log(), "done\n");
    refused(&place, &forwarded, &["--pids-limit=4", "--no-cache", &agent], 1);
}

#[test]
fn limits_are_those_of_the_control_group_of_the_step() {
    needs_groups!("memory", "cpu", "cpuset", "pids");
    let place = Place::new();
    // A step sees its groups as the roots of their hierarchies, and none of the names on this machine.
    let sees =
        "RUN grep -v ':/$' /proc/self/cgroup; cat /proc/self/status | grep Cpus_allowed_list; sleep 4\n";
    let parent = format!("hyper-test-{}", std::process::id());
    let flags = [
        "--cpus=0.5",
        "--cpu-shares=512",
        "--cpuset-cpus=0",
        "--memory=64m",
        "--memory-swap=-1",
        "--pids-limit=50",
        &format!("--cgroup-parent=/{parent}/steps"),
    ];
    let mut build = place.build(&format!("FROM base\n{sees}"), &flags);
    let mut child = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let folder = |controller: &str| Path::new("/sys/fs/cgroup").join(controller).join(&parent).join("steps");
    let files = [
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.shares"),
        ("cpuset", "cpuset.cpus"),
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("pids", "pids.max"),
    ];
    // What the group of the step has, once it has more than the process of the sandbox.
    let read = |(controller, file): (&str, &str)| {
        let entries = std::fs::read_dir(folder(controller)).ok()?.flatten().map(|entry| entry.path());
        let is_step = |path: &PathBuf| {
            std::fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|pids| pids.lines().count() >= 2)
        };
        let path = entries.filter(|path| path.is_dir()).find(is_step)?;
        Some(std::fs::read_to_string(path.join(file)).ok()?.trim().to_owned())
    };
    let values = loop {
        let ended = child.try_wait().unwrap().is_some();
        if let Some(values) = files.into_iter().map(read).collect::<Option<Vec<String>>>() {
            break values;
        }
        assert!(!ended, "{}", told(&child.wait_with_output().unwrap()));
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(values[..4], ["50000", "512", "0", "67108864"]);
    assert!(values[4].len() > 15, "no limit: {}", values[4]);
    // With the process of the sandbox, and a thread of it where there are 32-bit programs.
    assert_eq!(values[5], if cfg!(target_arch = "x86_64") { "52" } else { "51" });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(Built::of(&output).log(), "Cpus_allowed_list:\t0\n");
    for controller in ["memory", "cpu", "cpuset", "pids"] {
        assert_eq!(
            std::fs::read_dir(folder(controller)).unwrap().flatten().filter(|e| e.path().is_dir()).count(),
            0
        );
        std::fs::remove_dir(folder(controller)).unwrap();
        std::fs::remove_dir(folder(controller).parent().unwrap()).unwrap();
    }
}

/// The groups of steps in `parent`, a control group of tests.
fn groups_in(parent: &str) -> Vec<PathBuf> {
    let folders = ["memory", "pids"].map(|name| Path::new("/sys/fs/cgroup").join(name).join(parent));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Waits until something is so, which it must be in the end.
fn in_the_end(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a build in a process group of its own, and sends a signal to all of that while its step runs.
fn interrupt(place: &Place, flags: &[&str], signal: &str) {
    let mut build = place.build("FROM base\nRUN echo begun; sleep 60\n", flags);
    let mut child = build.process_group(0).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("begun\\n")));
    let helpers = children(child.id());
    assert!(!helpers.is_empty());
    succeed(std::process::Command::new("kill").args([signal, "--", &format!("-{}", child.id())]));
    assert!(!child.wait().unwrap().success());
    let ended = |pid: &u32| !Path::new(&format!("/proc/{pid}/ns/pid")).exists();
    in_the_end("the helper lives on", || helpers.iter().all(ended));
}

/// The processes that the threads of a process started.
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn an_interrupted_build_leaves_no_group_and_a_killed_one_is_swept_by_the_next() {
    needs_groups!("memory", "pids");
    let place = Place::new();
    let parent = format!("hyper-test-ended-{}", std::process::id());
    let flags = ["--memory=40m", "--pids-limit=40", &format!("--cgroup-parent=/{parent}")];
    for signal in ["-INT", "-TERM"] {
        interrupt(&place, &flags, signal);
        assert!(groups_in(&parent).is_empty(), "{signal}: {:?}", groups_in(&parent));
    }
    interrupt(&place, &flags, "-KILL");
    let left = groups_in(&parent);
    assert_eq!(left.len(), 2, "one in each hierarchy: {left:?}");
    // A step with every privilege can make groups, too.
    left.iter().for_each(|group| std::fs::create_dir_all(group.join("a/b")).unwrap());
    place.built("FROM base\nRUN true\n", &flags);
    assert!(groups_in(&parent).is_empty(), "{:?}", groups_in(&parent));
    // A group that was named is made in every hierarchy that limits could need.
    for name in ["memory", "pids", "cpu", "cpuset"] {
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(name).join(&parent));
    }
}

#[test]
fn a_build_whose_steps_are_cached_makes_no_group() {
    needs_groups!("memory", "pids");
    let place = Place::new();
    let dockerfile = "FROM base\nRUN echo ran\n";
    let first = place.built(dockerfile, &["--source-date-epoch=1"]);
    let parent = format!("hyper-test-cached-{}", std::process::id());
    let flags = ["--memory=40m", "--source-date-epoch=1", &format!("--cgroup-parent=/{parent}")];
    assert_eq!(place.built(dockerfile, &flags).digest, first.digest);
    assert!(!Path::new("/sys/fs/cgroup/memory").join(&parent).exists());
    let limited = place.built(dockerfile, &[&flags[..], &["--no-cache"]].concat());
    assert_eq!(limited.digest, first.digest, "a limit is in no result");
    // The group that was named stays.
    std::fs::remove_dir(Path::new("/sys/fs/cgroup/memory").join(&parent)).unwrap();
    for name in ["cpu", "cpuset", "pids"] {
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(name).join(&parent));
    }
}

#[test]
fn who_may_not_make_groups_gets_an_error_before_anything_runs() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    for who in everybody() {
        if matches!(who, Who::Me) {
            continue;
        }
        let place = Place::of(who.clone());
        for (flag, name) in [
            ("--memory=64m", "memory"),
            ("--cpus=1", "cpus"),
            ("--cpu-quota=5000", "cpu-quota"),
            ("--cpuset-cpus=0", "cpuset-cpus"),
            ("--pids-limit=9", "pids-limit"),
            ("--cgroup-parent=/a", "cgroup-parent"),
        ] {
            let text = refused(&place, "FROM base\nRUN echo ran\n", &[flag], 1);
            assert!(text.contains(&format!("`{name}` of steps cannot be set: ")), "{who:?} {flag}: {text}");
            assert!(!text.contains("\"log\""), "{who:?} {flag}: no step ran: {text}");
        }
    }
}

#[test]
fn wrong_limits_of_resources_are_refused_by_name() {
    let place = Place::new();
    for (flags, why) in [
        (&["--resource=disk=1g"][..], "`disk=1g`: the name of a limit of resources is one of memory"),
        (&["--resource=memory"], "--resource `memory`: expected NAME=VALUE"),
        (&["--memory=lots"], "`memory=lots`: `lots` is not a size"),
        (&["--memory=1m"], "`memory` is 1048576, and it is at least 6291456"),
        (&["--memory-swap=1g"], "give `memory`, too"),
        (&["--memory=64m", "--memory-swap=32m"], "`memory-swap` is memory and swap together"),
        (&["--cpus=1", "--cpu-quota=5000"], "leave out `cpu-quota`"),
        (&["--cpuset-cpus=a"], "`cpuset-cpus`: `a` is no list"),
        (&["--cgroup-parent=../b"], "`cgroup-parent`: `../b` is no path"),
        (&["--cgroup-parent=/a//b"], "`cgroup-parent`: `/a//b` is no path"),
        (&["--cgroup-parent=user.slice:a:b"], "`user.slice:a:b` is the form of systemd (slice:prefix:name)"),
        (&["--cgroup-parent=/sys/fs/cgroup/memory/a"], "is a path of a file"),
    ] {
        let text = refused(&place, "FROM scratch\n", flags, 2);
        assert!(text.contains(why), "{flags:?}: {text}");
    }
    place.built("FROM scratch\nWORKDIR /a\n", &["--memory=0", "--cpu-quota=-1", "-c=0", "--pids-limit=-1"]);
}

#[test]
fn a_processor_that_is_not_there_is_an_error() {
    needs_groups!("cpuset");
    let place = Place::new();
    let text = refused(&place, "FROM base\nRUN true\n", &["--cpuset-cpus=0,4000"], 1);
    assert!(text.contains("`cpuset-cpus` of steps cannot be set: there is no 4000 among 0"), "{text}");
}

#[test]
fn targets_of_bake_have_limits() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    place.write("Dockerfile", "FROM base\nRUN ulimit -n; df -k /dev/shm | awk 'END {print $2}'\n");
    let base = format!("base=oci-layout://{}", base().display());
    let (name, address) = base.split_once('=').unwrap();
    place.write(
        "docker-bake.hcl",
        &format!(
            "target \"default\" {{\n  contexts = {{ {name} = \"{address}\" }}\n  ulimits = [\"nofile=123\"]\n  \
             shm-size = \"3m\"\n  output = [\"type=cacheonly\"]\n}}\n"
        ),
    );
    place.write(
        "compose.yaml",
        &format!(
            "services:\n  app:\n    build:\n      context: .\n      additional_contexts:\n        {name}: {address}\n      \
             ulimits: {{ nofile: 124 }}\n      shm_size: 4m\n      no_cache: true\n"
        ),
    );
    for (file, expected) in [("docker-bake.hcl", "123\n3072\n"), ("compose.yaml", "124\n4096\n")] {
        let arguments = ["bake", "--progress=json", "--allow=fs.read=*", "-f", file];
        let output = place.hyper(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        assert_eq!(Built::of(&output).log(), expected);
    }
    let wrong = place
        .hyper(&["bake", "-f", "docker-bake.hcl", "--allow=fs.read=*", "--set=default.resources.memory=1k"])
        .output()
        .unwrap();
    assert!(!wrong.status.success() && told(&wrong).contains("at least 6291456"), "{}", told(&wrong));
}
