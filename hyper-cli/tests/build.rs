//! Builds with the program: the cache, failures, signals, secrets, outputs, stages, two builds at once.

use crate::support::{
    Built, Place, at_once, busybox, is_root, marker, processes, skip, told, tree, wait_for,
};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}

#[test]
fn an_unchanged_build_is_cached() {
    needs_busybox!();
    let place = Place::new();
    place.write("context/a", "one");
    let dockerfile = "FROM base\nWORKDIR /work\nCOPY a a\nRUN cat a > b && date +%N >> b\nRUN sort b > c\n";
    let first = place.built(dockerfile, &[]);
    let ran = |built: &Built| {
        let mut steps: Vec<_> = built.outcomes().into_iter().filter(|(n, _)| n.contains('[')).collect();
        steps.retain(|(n, _)| n.contains("RUN") || n.contains("COPY") || n.contains("WORKDIR"));
        assert_eq!(steps.len(), 4, "{:?}", built.outcomes());
        steps.into_iter().filter(|(_, outcome)| outcome == "done").map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(ran(&first).len(), 4);
    let second = place.built(dockerfile, &[]);
    assert_eq!(ran(&second), Vec::<String>::new(), "everything is known");
    assert!(second.outcomes().values().any(|outcome| outcome == "cached"));
    assert_eq!(first.digest, second.digest, "the second RUN would have written another time");

    place.write("context/a", "two");
    let third = place.built(dockerfile, &[]);
    assert_eq!(ran(&third).len(), 3, "the copy and what follows it: {:?}", third.outcomes());
    assert_ne!(first.digest, third.digest);
    assert_eq!(ran(&place.built(dockerfile, &["--no-cache"])).len(), 4);
}

#[test]
fn the_root_keeps_owner_and_mode() {
    needs_busybox!();
    let place = Place::new();
    place.write("context/a", "one");
    // Only root can be sure to have other owners to give.
    let (change, owner, user) =
        if is_root() { ("chown 1000:1000 / && ", "1000:1000", "USER 1000\n") } else { ("", "0:0", "") };
    let look = |step: &str| format!("RUN echo {step} $(stat -c '%u:%g %a' /)\n");
    let seen = |steps: &[&str]| -> String { steps.iter().map(|s| format!("{s} {owner} 700\n")).collect() };
    let dockerfile = format!(
        "FROM base\nRUN {change}chmod 700 /\n{}COPY a /a\n{}{user}RUN mkdir /app && touch /x\n",
        look("first"),
        look("second"),
    );
    let image = place.join("image");
    let output = format!("type=oci,tar=false,dest={}", image.display());
    let first = place.built(&dockerfile, &["-t", "closed:latest", "-o", &output]);
    assert_eq!(first.log(), seen(&["first", "second"]));
    let second = place.built(&dockerfile, &[]);
    assert_eq!((second.log(), &second.digest), (String::new(), &first.digest));
    let third = place.built(&format!("{dockerfile}{}", look("third")), &[]);
    assert_eq!(third.log(), seen(&["third"]), "after known steps");

    // What was exported says it as well: nothing but the image is left here.
    let fresh = Place::new();
    fresh.write("context/b", "two");
    let dockerfile = format!(
        "FROM closed\n{}COPY b /app/b\n{}{user}RUN touch /y && ls /\n",
        look("fourth"),
        look("fifth")
    );
    let log = fresh
        .built(&dockerfile, &["--build-context", &format!("closed=oci-layout://{}", image.display())])
        .log();
    assert!(log.starts_with(&seen(&["fourth", "fifth"])) && log.ends_with("x\ny\n"), "{log}");
}

#[test]
fn a_failing_step_reports_why_and_leaves_nothing() {
    needs_busybox!();
    let place = Place::new();
    let image = place.join("image.tar");
    let output = place
        .build(
            "FROM base\nRUN echo before the end\nRUN echo the reason >&2; exit 42\n",
            &["-t", "broken:1", "-o", &format!("type=oci,dest={}", image.display())],
        )
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for text in ["the reason", "exit 42", "exit code 42", "step: [stage-0 3/3]", ":3: the command failed"] {
        assert!(stderr.contains(text), "`{text}` is missing in\n{stderr}");
    }
    assert!(output.stdout.is_empty());
    assert!(!image.exists(), "a failed build has no output");
    let beside: Vec<_> = std::fs::read_dir(image.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("image"))
        .collect();
    assert!(beside.is_empty(), "{beside:?}");
    assert!(!place.ok(&["images"]).contains("broken"));
}

/// Starts a build that sleeps. Returns it with the text on the command lines of its processes.
fn sleeping(place: &Place) -> (std::process::Child, String) {
    let marker = marker();
    let child = place
        .build(&format!("FROM base\nRUN sleep {marker} & sleep {marker}\n"), &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the step starts", || processes(&marker).len() >= 2);
    (child, marker)
}

#[test]
fn an_interrupt_leaves_no_process() {
    needs_busybox!();
    let place = Place::new();
    for (signal, name, status) in [("-INT", "SIGINT", 130), ("-TERM", "SIGTERM", 143)] {
        let (child, marker) = sleeping(&place);
        let start = Instant::now();
        assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{name}: {}", told(&output));
        assert!(start.elapsed() < Duration::from_secs(10), "{name} took {:?}", start.elapsed());
        wait_for("the step is gone", || processes(&marker).is_empty());
    }
    place.built("FROM base\nRUN true\n", &[]);
}

#[test]
fn a_kill_leaves_no_process() {
    needs_busybox!();
    let place = Place::new();
    let (mut child, marker) = sleeping(&place);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    wait_for("the step is gone", || processes(&marker).is_empty());
    place.built("FROM base\nRUN true\n", &[]);
}

#[test]
fn a_secret_is_in_no_file() {
    needs_busybox!();
    let place = Place::new();
    let secret = "correct-horse-battery-staple";
    let file = place.write("secret", secret);
    let folder = place.join("layout");
    let built = place.built(
        "FROM base\nRUN --mount=type=secret,id=key wc -c < /run/secrets/key > /size\n",
        &[
            "--secret",
            &format!("id=key,src={}", file.display()),
            "-t",
            "secret:1",
            "-o",
            &format!("type=oci,tar=false,dest={},compression=uncompressed", folder.display()),
        ],
    );
    assert!(built.outcomes().values().all(|outcome| outcome != "failed"));
    let everything = [folder, place.join("state")];
    let mut files = 0;
    for entry in everything.iter().flat_map(|folder| tree(folder).into_keys().map(move |p| folder.join(p))) {
        if entry.is_file() {
            files += 1;
            let bytes = std::fs::read(&entry).unwrap();
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", entry.display());
        }
    }
    assert!(files > 5, "the folders were not read");
}

#[test]
fn outputs_targets_and_arguments() {
    needs_busybox!();
    let place = Place::new();
    let dockerfile = "FROM base AS first\nARG WORD=none\nRUN mkdir /out && echo $WORD > /out/word\n\
                      FROM scratch AS files\nCOPY --from=first /out /\n\
                      FROM base AS last\nRUN false\n";
    let (folder, tar, docker) = (place.join("files"), place.join("files.tar"), place.join("docker.tar"));
    let output = |kind: &str, to: &std::path::Path| format!("type={kind},dest={}", to.display());
    place.built(
        dockerfile,
        &[
            "--target=files",
            "--build-arg=WORD=hello",
            "-t=words:1",
            "-o",
            &output("local", &folder),
            "-o",
            &output("tar", &tar),
            "-o",
            &output("docker", &docker),
        ],
    );
    assert_eq!(std::fs::read_to_string(folder.join("word")).unwrap(), "hello\n");
    assert_eq!(tree(&folder).len(), 1);
    let entries = |path: &std::path::Path| {
        let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
        let entries = archive.entries().unwrap();
        entries.map(|e| e.unwrap().path().unwrap().display().to_string()).collect::<Vec<_>>()
    };
    assert!(entries(&tar).iter().any(|name| name.trim_start_matches("./") == "word"), "{:?}", entries(&tar));
    assert!(entries(&docker).contains(&"manifest.json".to_owned()), "{:?}", entries(&docker));

    place.built(dockerfile, &["--target=files", "-o", &output("local", &folder)]);
    assert_eq!(
        std::fs::read_to_string(folder.join("word")).unwrap(),
        "none\n",
        "the default of the argument"
    );
}

#[test]
fn extra_hosts_are_known_to_steps_and_to_the_cache() {
    needs_busybox!();
    let place = Place::new();
    let dockerfile = "FROM base AS run\nRUN cat /etc/hosts > /seen\nFROM scratch\nCOPY --from=run /seen /\n";
    let out = place.join("out");
    for (entry, expected) in [
        ("one:192.0.2.1", "192.0.2.1\tone\n"),
        ("one=[2001:db8::1]", "2001:db8::1\tone\n"),
        ("one:host-gateway", "127.0.0.1\tone\n"),
    ] {
        place.built(dockerfile, &["--add-host", entry, "-o", &format!("type=local,dest={}", out.display())]);
        let seen = std::fs::read_to_string(out.join("seen")).unwrap();
        assert!(seen.ends_with(expected), "{seen}");
    }
}

#[test]
fn stages_run_side_by_side() {
    needs_busybox!();
    let built = Place::new().built(
        "FROM base AS one\nRUN sleep 1 && echo 1 > /1\nFROM base AS two\nRUN sleep 1.0 && echo 2 > /2\n\
         FROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n",
        &[],
    );
    let (one, two) = ("RUN sleep 1 ", "RUN sleep 1.0");
    assert!(built.position("started", one) < built.position("finished", two));
    assert!(built.position("started", two) < built.position("finished", one));
}

#[test]
fn two_builds_share_a_state_folder() {
    needs_busybox!();
    let place = Place::new();
    let dockerfile =
        "FROM base\nRUN sleep 1; i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i > /f$i; done\n";
    let commands = ["first:1", "second:1", "third:1"].map(|name| place.build(dockerfile, &["-t", name]));
    let built = at_once(commands).map(|output| {
        assert!(output.status.success(), "{}", told(&output));
        Built::of(&output)
    });
    assert!(built.iter().all(|b| !b.digest.is_empty() && b.digest == built[0].digest));
    let images = place.ok(&["images"]);
    assert!(["first", "second", "third"].iter().all(|name| images.contains(name)), "{images}");
    assert_eq!(place.built(dockerfile, &[]).log(), "", "the step is known");
}

/// Each start looks for what dead builds have left, while others are just making their first folders.
#[test]
fn many_builds_start_and_are_killed_at_once() {
    needs_busybox!();
    let place = Place::new();
    let dockerfile = "FROM base\nARG N\nRUN echo $N > /n\nCOPY --from=base /bin/busybox /b\nRUN cat /n > /m\n\
                      RUN test $(cat /m) = $N\n";
    for round in 0..5 {
        let numbers: [usize; 12] = std::array::from_fn(|i| round * 12 + i);
        let mut dying = place.build(dockerfile, &["--no-cache", "--build-arg=N=dying"]);
        let builds = numbers.map(|n| {
            // Two of them make the same snapshots.
            place.build(dockerfile, &["-t", &format!("n:{n}"), &format!("--build-arg=N={}", n / 2)])
        });
        let mut dying = dying.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(40 * round as u64));
            dying.kill().unwrap();
            dying.wait().unwrap();
        });
        let mut outputs = Vec::from(at_once(builds));
        killer.join().unwrap();
        while let Some(output) = outputs.pop() {
            assert!(output.status.success(), "{}", told(&output));
            let other = outputs.pop().unwrap();
            assert_eq!(output.stdout, other.stdout, "{}", told(&other));
        }
    }
    place.built(dockerfile, &["--build-arg=N=last"]);
    let snapshots = place.join("state/snapshots");
    for style in std::fs::read_dir(&snapshots).unwrap().flatten().map(|entry| entry.path()) {
        for name in ["active", "removed"].map(|name| style.join(name)).iter().filter(|path| path.exists()) {
            assert_eq!(std::fs::read_dir(name).unwrap().count(), 0, "{}", name.display());
        }
    }
}

/// Whatever cleans up control groups may take away that of a step that is just being made.
#[test]
fn a_removed_control_group_does_not_fail_a_step() {
    needs_busybox!();
    if !is_root() {
        skip!("needs root");
    }
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let mounted = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter();
    let mounted = mounted.map(Path::new).find(|at| at.join("cgroup.procs").exists());
    let Some(group) = mounted.zip(own).and_then(|(mounted, own)| {
        // Its own group, so that only these steps are disturbed.
        let name = format!("hyper-test-{}", std::process::id());
        let group = mounted.join(own).join(name);
        std::fs::create_dir(&group).ok().map(|()| group)
    }) else {
        skip!("needs a control group (cgroup v2) in which groups can be made");
    };
    let place = Place::new();
    let stop = AtomicBool::new(false);
    let groups = || {
        let entries = std::fs::read_dir(&group).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir())
    };
    let outputs = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                groups().for_each(|path| drop(std::fs::remove_dir(path)));
            }
        });
        let runs = "RUN true\n".repeat(30);
        let outputs: [Output; 4] = at_once(std::array::from_fn(|i| {
            let tag = format!("-t=vanishing:{i}");
            let build = place.build(&format!("FROM base\n{runs}"), &["--no-cache", &tag]);
            let mut inside = Command::new("sh");
            let enter = format!("echo 0 > {}/cgroup.procs && exec \"$@\"", group.display());
            inside.args(["-c", &enter, "sh"]).arg(build.get_program()).args(build.get_args()).env_clear();
            inside.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
            inside.current_dir(build.get_current_dir().unwrap()).stdin(Stdio::null());
            inside
        }));
        stop.store(true, Ordering::Relaxed);
        outputs
    });
    groups().for_each(|path| drop(std::fs::remove_dir(path)));
    std::fs::remove_dir(&group).unwrap();
    for output in outputs {
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn standard_output_that_is_a_file_is_appended_to() {
    let place = Place::new();
    place.write("context/a", "one");
    let dockerfile = "FROM scratch\nCOPY a /a\n";
    let device = std::fs::symlink_metadata("/dev/stdout").unwrap();
    let log = place.write("log", "before\n");
    for (flag, name) in [("-", "a"), ("type=tar,dest=-", "a"), ("type=oci,dest=/dev/stdout", "oci-layout")] {
        let before = std::fs::read(&log).unwrap();
        let file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        let output = place.build(dockerfile, &["-o", flag]).stdout(file).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        let after = std::fs::read(&log).unwrap();
        assert!(after.starts_with(&before), "what was there before stays");
        let name = name.as_bytes();
        assert!(after[before.len()..].windows(name.len()).any(|w| w == name), "{flag}");
        assert_eq!((after.len() - before.len()) % 512, 0, "{flag}: an archive and nothing else");
    }
    let now = std::fs::symlink_metadata("/dev/stdout").unwrap();
    assert_eq!((now.file_type(), now.len()), (device.file_type(), device.len()), "nothing took its place");
}

#[test]
fn a_dockerfile_from_standard_input_has_no_ignore_file_of_its_own() {
    let place = Place::new();
    for name in ["named", "usual", "kept"] {
        place.write(&format!("context/{name}"), "x");
    }
    place.write("context/.dockerignore", "usual\n");
    // In the current folder, and in the context.
    for name in ["Dockerfile.dockerignore", "context/Dockerfile.dockerignore", "-.dockerignore"] {
        place.write(name, "named\n");
    }
    place.write("context/Dockerfile", "FROM scratch\nCOPY . /\n");
    let build = |folder: &str, arguments: &[&str]| {
        let out = place.join("out");
        let _ = std::fs::remove_dir_all(&out);
        let output = format!("-o={}", out.display());
        let mut command = place.hyper(&[&["build", "-q", &output], arguments].concat());
        let mut child = command
            .current_dir(place.join(folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"FROM scratch\nCOPY . /\n");
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", told(&done));
        (out.join("named").exists(), out.join("usual").exists())
    };
    for (folder, arguments, left) in [
        (".", &["-f", "-", "context"][..], (true, false)),
        ("context", &["-f", "-", "."], (true, false)),
        // One that has a name has one, wherever the build is run.
        (".", &["context"], (false, true)),
        (".", &["-f", "context/Dockerfile", "context"], (false, true)),
        ("context", &["."], (false, true)),
    ] {
        assert_eq!(build(folder, arguments), left, "{folder} {arguments:?}");
    }
}

#[test]
fn a_build_that_waits_for_its_context_can_be_interrupted() {
    for arguments in [
        &["build", "-"][..],
        &["build", "-f", "-", "context"],
        &["build", "--check", "-"],
        &["login", "-u", "joe", "--password-stdin", "localhost:1"],
    ] {
        let place = Place::new();
        std::fs::create_dir(place.join("context")).unwrap();
        let mut child = place
            .hyper(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"F").unwrap();
        wait_for("it reads", || rustix::io::ioctl_fionread(&input).unwrap() == 0);
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                let _ = child.kill();
                panic!("{arguments:?}: the signal did not end it");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(143), "{arguments:?}: {}", told(&output));
        drop(input);
    }
}
