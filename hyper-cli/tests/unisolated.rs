//! Builds whose steps have no isolation: `--isolation none`, and `info`, which says how steps are separated.

use crate::support::{Built, Place, Who, busybox, find, is_root, skip, told};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const NONE: &str = "--isolation=none";

/// A Dockerfile with every kind of mount that there is without isolation.
const DOCKERFILE: &str = "FROM base AS other\n\
    RUN mkdir -p /made/deep && echo text > /made/deep/file && chown -R 5:6 /made && chmod 4755 /made/deep/file\n\
    FROM base\n\
    COPY f /f\n\
    WORKDIR /place/deep\n\
    RUN --mount=type=bind,target=/b --mount=type=bind,from=other,source=/made,target=/m \
        --mount=type=cache,target=/root/.cache --mount=type=tmpfs,target=/t --mount=type=secret,id=s,env=SECRET \
        cat /b/f /m/deep/file && echo $SECRET | wc -c && echo one >> /root/.cache/log && echo gone > /t/gone \
        && echo kept > /root/kept && ls /dev/null && echo x > /dev/null && test \"$(pwd)\" = /place/deep\n\
    RUN --mount=type=cache,target=/root/.cache cat /root/.cache/log; touch /etc/mine; ls -A /root; id -u\n\
    USER 12:34\n\
    RUN id -u; id -g; ! touch /of-user 2>/dev/null\n";

const LOG: &str = "data\ntext\n7\n/dev/null\none\n.cache\nkept\n0\n12\n34\n";

fn build(place: &Place, more: &[&str]) -> Built {
    place.write("context/f", "data\n");
    let secret = place.write("secret", "hidden");
    let secret = format!("--secret=id=s,src={}", secret.display());
    place.built(DOCKERFILE, &[&["--source-date-epoch=1700000000", &secret], more].concat())
}

#[test]
fn a_build_without_isolation_makes_the_same_image() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let (with, without) = (Place::new(), Place::new());
    let (with, without) = (build(&with, &[]), build(&without, &[NONE]));
    assert_eq!(without.log(), LOG);
    assert_eq!(with.log(), LOG);
    assert_eq!(with.digest, without.digest);
    let warnings =
        without.events.iter().filter(|e| e["event"] == "warning").map(|e| e["message"].to_string());
    assert_eq!(warnings.filter(|text| text.contains("without isolation")).count(), 1);
}

#[test]
fn files_that_a_step_removes_or_replaces_give_the_same_image() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let text = "FROM base\n\
        RUN mkdir -p /d/e /gone /cache/own && echo 1 > /d/one && echo 2 > /d/e/two && echo 3 > /gone/three\n\
        RUN --mount=type=cache,target=/cache/own --mount=type=tmpfs,target=/d/e rm -r /gone /d/one && echo > /cache/own/x\n\
        RUN --mount=type=cache,target=/cache/own rm -r /d && mkdir -p /d/e && echo 4 > /d/e/four && rm /etc/group\n\
        RUN rmdir /cache/own && mv /d /moved\n";
    let build = |more: &[&str]| {
        Place::new().built(text, &[&["--source-date-epoch=1700000000"], more].concat()).digest
    };
    assert_eq!(build(&[]), build(&[NONE]));
}

#[test]
fn mounts_of_a_step_without_isolation_leave_nothing_behind() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let place = Place::new();
    place.write("context/f", "data\n");
    let out = place.join("out");
    place.built(
        "FROM base\nRUN --mount=type=bind,target=/new/place --mount=type=cache,target=/etc/cache \
         echo own > /dev/left && echo own > /proc/left && rm /etc/hosts && echo mine > /etc/hosts && echo > /etc/cache/x \
         && echo > /new/place/written\n",
        &[NONE, "-o", out.to_str().unwrap()],
    );
    for gone in ["new", "etc/cache", "etc/hosts", "etc/resolv.conf", "dev/left", "proc/left", "dev/null"] {
        assert!(!out.join(gone).exists(), "{gone}");
    }
    for stays in ["dev", "proc", "sys", "etc/passwd"] {
        assert!(out.join(stays).exists(), "{stays}");
    }
    assert!(!place.join("context/written").exists());
}

#[test]
fn what_needs_isolation_is_refused_by_name() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let place = Place::new();
    let secret = place.write("secret", "hidden");
    let secret = format!("--secret=id=s,src={}", secret.display());
    for (step, more, expected) in [
        ("--network=none", "", "kept from the network"),
        ("--security=insecure", "--allow=security.insecure", "security=insecure"),
        ("--mount=type=secret,id=s", secret.as_str(), "env=NAME"),
        ("--mount=type=tmpfs,target=/t,size=1m", "", "size of a tmpfs"),
        (
            "--mount=type=cache,id=c,target=/a --mount=type=cache,id=c,target=/b",
            "",
            "cannot be mounted twice",
        ),
    ] {
        let more: Vec<&str> = [NONE, more].into_iter().filter(|text| !text.is_empty()).collect();
        let output = place.build(&format!("FROM base\nRUN {step} true\n"), &more).output().unwrap();
        let text = told(&output);
        assert_eq!(output.status.code(), Some(1), "{step}: {text}");
        assert!(text.contains(expected) && !text.contains("hidden"), "{step}: {text}");
    }
}

/// The processes whose command line has this text.
fn those_running(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let with_text = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text).then_some(entry)
    };
    entries.filter_map(with_text).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn running(text: &str) -> usize {
    those_running(text).len()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "not seen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nothing_of_a_step_without_isolation_outlives_it() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let place = Place::new();
    // Numbers of this run alone.
    let (ended, killed) = (format!("71.{}", std::process::id()), format!("72.{}", std::process::id()));
    let ends = format!(
        "FROM base\nRUN (setsid sleep {ended}d </dev/null >/dev/null 2>&1 &) ; sh -c 'sleep {ended}d & setsid sleep {ended}d &'\n"
    );
    place.built(&ends, &[NONE]);
    assert_eq!(running(&ended), 0);
    // A killed build ends its step too, and the cache is back in its place.
    let hangs = format!(
        "FROM base\nRUN --mount=type=cache,target=/c echo kept > /c/file; setsid sleep {killed}d & sleep {killed}d\n"
    );
    let mut child = place.build(&hangs, &[NONE]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("both processes", || running(&killed) >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the end of the step", || running(&killed) == 0);
    let built = place.built("FROM base\nRUN --mount=type=cache,target=/c cat /c/file\n", &[NONE]);
    assert_eq!(built.log(), "kept\n");
}

/// The processes below one, itself first.
fn family(top: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![top];
    let mut at = 0;
    while let Some(&above) = found.get(at) {
        found.extend(all.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn end(pid: u32) {
    // It may have ended by itself.
    Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

#[test]
fn a_cache_outlives_a_step_without_isolation_however_it_is_killed() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let place = Place::new();
    let mounts = "--mount=type=cache,target=/c --mount=type=cache,target=/c/in";
    let count = |mark: &str| {
        let text = format!("FROM base\nRUN {mounts} echo {mark} && find /c -type f | wc -l\n");
        place.built(&text, &[NONE]).log()
    };
    place.built(
        &format!(
            "FROM base\nRUN {mounts} mkdir /c/d && for i in $(seq 300); do echo $i > /c/d/$i; echo $i > /c/in/$i; done\n"
        ),
        &[NONE],
    );
    assert_eq!(count("first"), "first\n600\n");
    // Who is killed: the builder, its helper, the operation, the process above the command, the last two, all.
    for round in 0..24_usize {
        let mark = format!("73.{round}{}", std::process::id());
        let text = format!(
            "FROM base\nRUN {mounts} touch /c/d/1; (setsid sleep {mark}d &); sleep {mark}d; echo {mark}\n"
        );
        let mut child =
            place.build(&text, &[NONE]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if round % 2 == 0 {
            // The shell and what it started.
            until("the step", || running(&mark) >= 3);
        } else {
            // Somewhere on the way to the step, and in it.
            std::thread::sleep(Duration::from_millis(15 * round as u64));
        }
        let family = family(child.id());
        let nth = |n: usize| family.get(n).copied().into_iter().collect::<Vec<_>>();
        let killed = match round / 2 % 6 {
            0 => nth(0),
            1 => nth(1),
            2 => nth(2),
            3 => nth(3),
            4 => [nth(2), nth(3)].concat(),
            _ => family.clone(),
        };
        killed.iter().copied().for_each(end);
        // A builder that lives notices the end of the others.
        for _ in 0..100 {
            if killed.is_empty() || child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        end(child.id());
        child.wait().unwrap();
        until("the end of the step", || {
            let left = those_running(&mark);
            // Without a namespace nothing else ends the step when everybody above it is killed at once.
            if killed.len() > 1 {
                left.iter().copied().for_each(end);
            }
            left.is_empty()
        });
        assert_eq!(count(&mark), format!("{mark}\n600\n"), "round {round}");
    }
}

#[test]
fn a_build_with_isolation_finds_the_cache_of_a_killed_step() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    for isolation in [None, Some(NONE)] {
        let place = Place::new();
        let mount = "--mount=type=cache,target=/c";
        place.built(&format!("FROM base\nRUN {mount} echo precious > /c/file\n"), &[NONE]);
        let mark = format!("74.{}", std::process::id());
        let text = format!("FROM base\nRUN {mount} sleep {mark}d; echo {mark}\n");
        let mut child =
            place.build(&text, &[NONE]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the step", || running(&mark) >= 2);
        let family = family(child.id());
        // From the top, so that nobody is left to put anything in order.
        family.iter().copied().for_each(end);
        child.wait().unwrap();
        those_running(&mark).iter().copied().for_each(end);
        until("the end of the step", || those_running(&mark).is_empty());
        let more: Vec<&str> = isolation.into_iter().collect();
        // The same cache at another place: the tree of the killed step is not asked for.
        let text = "FROM base\nRUN --mount=type=cache,id=/c,target=/other cat /other/file\n";
        assert_eq!(place.built(text, &more).log(), "precious\n", "{isolation:?}");
    }
}

#[test]
fn an_ordinary_user_copies_files_without_isolation_and_runs_no_step() {
    if busybox().is_none() || !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, setpriv, and a static busybox");
    }
    let copies = "FROM base AS one\nCOPY --chown=7:8 f /one/f\nFROM base\nCOPY --from=one /one /two\n\
                  COPY --from=one --chown=5 /etc/passwd /three\n";
    let made = |who: Who, more: &[&str]| {
        let place = Place::of(who);
        place.write("context/f", "data\n");
        place.built(copies, &[&["--source-date-epoch=1700000000"], more].concat()).digest
    };
    assert_eq!(made(Who::Me, &[]), made(Who::Id(45_690), &[NONE]));
    let place = Place::of(Who::Id(45_691));
    let output = place.build("FROM base\nRUN true\n", &[NONE]).output().unwrap();
    let text = told(&output);
    assert!(text.contains("needs root") && text.contains("CAP_SYS_CHROOT"), "{text}");
}

#[test]
fn an_unknown_isolation_is_named() {
    let place = Place::new();
    let output = place.hyper(&["build", "--isolation=hyperv", "."]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("hyperv"), "{}", told(&output));
}

fn parts(command: &mut Command) -> std::collections::BTreeMap<String, (String, usize)> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let part = |part: &serde_json::Value| {
        let used = part["used"].as_str().unwrap().to_owned();
        (part["part"].as_str().unwrap().to_owned(), (used, part["reasons"].as_array().unwrap().len()))
    };
    json["parts"].as_array().unwrap().iter().map(part).collect()
}

#[test]
fn info_says_how_steps_are_separated_and_why() {
    let place = Place::new();
    let best = parts(&mut place.hyper(&["--format=json", "info"]));
    for part in ["identity", "snapshots", "isolation", "control group", "system calls", "network"] {
        assert!(best.contains_key(part), "{part}: {best:?}");
    }
    let none = parts(&mut place.hyper(&["--format=json", "info", NONE]));
    assert_eq!(none["isolation"], ("none".to_owned(), 1));
    assert_eq!(none["snapshots"], ("copy".to_owned(), 1));
    let text = place.ok(&["info", NONE]);
    assert!(
        text.contains("isolation:         none\n") && text.contains("because it was asked for"),
        "{text}"
    );
    if !is_root() || find("setpriv").is_none() {
        return;
    }
    assert_eq!(best["identity"], ("root".to_owned(), 0));
    assert_eq!(best["isolation"], ("namespaces".to_owned(), 0));
    let place = Place::of(Who::Id(45_692));
    let single = parts(&mut place.hyper(&["--format=json", "info"]));
    assert_eq!(single["identity"], ("single id".to_owned(), 1));
}
