//! Builds that run at once on one state folder: an equal step runs once.

use crate::support::{Built, Place, Who, at_once, busybox, is_root, skip, told, wait_for};
use rustix::process::{Pid, Signal};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}

/// A step that counts its runs in a cache mount. The first run waits for the file `go` there, and then ends as the test says.
fn step(end: &str) -> String {
    step_with("", end)
}

fn step_with(cache: &str, end: &str) -> String {
    format!(
        "FROM base\nRUN --mount=type=cache,id=n,target=/c{cache} echo x >> /c/count; \
         head -c 16 /dev/urandom | od > /random; \
         if test $(wc -l < /c/count) = 1; then while ! test -e /c/go; do sleep 0.1; done; {end}; fi\n"
    )
}

/// The folder of the cache mount, once the step has counted.
fn counted(place: &Place) -> Option<PathBuf> {
    let entries = std::fs::read_dir(place.join("state/mounts")).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| path.join("count").exists())
}

fn count(place: &Place) -> usize {
    std::fs::read_to_string(counted(place).unwrap().join("count")).unwrap().lines().count()
}

fn go(place: &Place) {
    std::fs::write(counted(place).unwrap().join("go"), "").unwrap();
}

/// The first build, in the middle of its step.
fn holder(place: &Place, text: &str, more: &[&str]) -> Child {
    let mut build = place.build(text, more);
    let child = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the first build runs the step", || counted(place).is_some());
    child
}

/// A build that waits.
struct Waiter {
    child: Child,
    events: BufReader<std::process::ChildStderr>,
    before: String,
}

impl Waiter {
    /// Starts a build and waits until it waits.
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut events = BufReader::new(child.stderr.take().unwrap());
        let mut before = String::new();
        while !before.contains("waiting for an equal step of another build or stage: ") {
            assert!(events.read_line(&mut before).unwrap() > 0, "it does not wait: {before}");
        }
        Self { child, events, before }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    fn end(mut self) -> (Output, Built) {
        let mut stderr = std::mem::take(&mut self.before).into_bytes();
        std::io::Read::read_to_end(&mut self.events, &mut stderr).unwrap();
        let mut output = self.child.wait_with_output().unwrap();
        output.stderr = stderr;
        let built = Built::of(&output);
        (output, built)
    }

    /// Waits for the end, which is a success.
    fn succeeds(self) -> Built {
        let (output, built) = self.end();
        assert!(output.status.success(), "{}", told(&output));
        built
    }
}

/// A build with another argument.
fn with_argument(place: &Place, build: &Command, old: &str, new: &str) -> Command {
    let mut command = place.hyper(&[]);
    command.args(build.get_args().map(|argument| if argument == old { new.as_ref() } else { argument }));
    command
}

fn outcome(built: &Built, task: &str) -> String {
    let outcomes = built.outcomes();
    let mut found = outcomes.iter().filter(|(name, _)| name.starts_with(task));
    let found = (found.next(), found.next());
    let (Some((_, outcome)), None) = found else { panic!("{task}: {outcomes:?}") };
    outcome.clone()
}

/// No lock of a step is left.
fn is_clean(place: &Place) -> bool {
    let mut names = std::fs::read_dir(place.join("state/uses")).unwrap();
    names.all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with("step-"))
}

#[test]
fn an_equal_step_of_builds_at_once_runs_once() {
    needs_busybox!();
    let mut cases = vec![(Place::new(), &[][..])];
    if is_root() {
        cases.push((Place::new(), &["--isolation=none"]));
        cases.push((Place::of(Who::Id(45_701)), &[]));
    }
    let text = "FROM base\nRUN --mount=type=cache,id=n,target=/c echo x >> /c/count; sleep 1; \
                head -c 16 /dev/urandom | od > /random\nRUN cat /random > /copy\n";
    for (place, more) in cases {
        let builds = at_once(std::array::from_fn::<_, 4, _>(|_| place.build(text, more)));
        let digests = builds.map(|output| {
            assert!(output.status.success(), "{}", told(&output));
            output.stdout
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{more:?}");
        assert_eq!(count(&place), 1, "{more:?}");
        assert!(is_clean(&place));
    }
}

#[test]
fn who_waits_says_so_and_takes_the_result() {
    needs_busybox!();
    let place = Place::new();
    let secret = |name: &str| format!("--secret=id=s,src={}", place.write(name, name).display());
    let (one, two) = (secret("one"), secret("two"));
    let text = step(":").replace("RUN ", "RUN --mount=type=secret,id=s ");
    let first = holder(&place, &text, &[&one]);
    // The value of a secret is in no key.
    let second = Waiter::start(place.build(&text, &[&two]));
    let plain = place.build(&text, &[&one]);
    let plain = Waiter::start(with_argument(&place, &plain, "--progress=json", "--progress=plain"));
    go(&place);
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{}", told(&first));
    let second = second.succeeds();
    assert_eq!(outcome(&second, "waiting for an equal step"), "done");
    assert_eq!(outcome(&second, "[stage-0 2/2] RUN"), "cached");
    assert_eq!(second.digest, Built::of(&first).digest);
    let (plain, _) = plain.end();
    assert!(plain.status.success() && plain.stdout == first.stdout, "{}", told(&plain));
    assert_eq!(count(&place), 1);
    assert!(is_clean(&place));
}

#[test]
fn one_of_those_who_wait_takes_the_place_of_a_killed_or_cancelled_build() {
    needs_busybox!();
    for signal in [Signal::KILL, Signal::INT] {
        let (place, text) = (Place::new(), step(":"));
        let mut first = holder(&place, &text, &[]);
        let [second, third] = [0; 2].map(|_| Waiter::start(place.build(&text, &[])));
        rustix::process::kill_process(Pid::from_child(&first), signal).unwrap();
        assert!(!first.wait().unwrap().success());
        let [second, third] = [second, third].map(Waiter::succeeds);
        assert_eq!(second.digest, third.digest);
        assert_eq!(count(&place), 2, "{signal:?}");
        assert!(is_clean(&place));
    }
}

#[test]
fn who_waits_can_be_cancelled() {
    needs_busybox!();
    let (place, text) = (Place::new(), step(":"));
    let first = holder(&place, &text, &[]);
    let second = Waiter::start(place.build(&text, &[]));
    second.signal(Signal::INT);
    let (output, second) = second.end();
    assert_eq!(output.status.code(), Some(130), "{}", told(&output));
    for task in ["[stage-0 2/2] RUN", "waiting for an equal step"] {
        assert_eq!(outcome(&second, task), "cancelled");
    }
    go(&place);
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{}", told(&first));
    assert_eq!(count(&place), 1);
}

#[test]
fn when_the_step_fails_those_who_waited_run_it_at_once_and_report_it_themselves() {
    needs_busybox!();
    // The other two fail when both run.
    let text = "FROM base\nRUN --mount=type=cache,id=n,target=/c \
        echo x >> /c/count; n=$(wc -l < /c/count); echo mark-$n; \
        if test $n = 1; then while ! test -e /c/go; do sleep 0.1; done; exit 3; fi; \
        for i in $(seq 300); do if test $(wc -l < /c/count) = 3; then exit 4; fi; sleep 0.1; done; exit 5\n";
    let place = Place::new();
    let first = holder(&place, text, &[]);
    let waiters = [0; 2].map(|_| Waiter::start(place.build(text, &[])));
    go(&place);
    let first = first.wait_with_output().unwrap();
    assert!(told(&first).contains("exit code 3"), "{}", told(&first));
    for waiter in waiters {
        let (output, built) = waiter.end();
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains("exit code 4"), "{}", told(&output));
        assert!(built.log().contains("mark-"), "{}", told(&output));
        assert_eq!(outcome(&built, "waiting for an equal step"), "done");
    }
    assert_eq!(count(&place), 3);
    assert!(is_clean(&place));
}

#[test]
fn a_step_that_runs_in_any_case_neither_waits_nor_is_waited_for() {
    needs_busybox!();
    let (place, text) = (Place::new(), step(":"));
    let first = holder(&place, &text, &[]);
    place.built(&text, &["--no-cache"]);
    assert_eq!(count(&place), 2);
    go(&place);
    assert!(first.wait_with_output().unwrap().status.success());

    let place = Place::new();
    let first = holder(&place, &text, &["--no-cache"]);
    place.built(&text, &[]);
    assert_eq!(count(&place), 2);
    go(&place);
    assert!(first.wait_with_output().unwrap().status.success());
}

/// Neither waits for the cache mount of the other before, nor makes one of its own.
#[test]
fn an_equal_step_with_a_locked_or_private_cache_mount_is_waited_for() {
    needs_busybox!();
    for sharing in ["locked", "private"] {
        let (place, text) = (Place::new(), step_with(&format!(",sharing={sharing}"), ":"));
        let first = holder(&place, &text, &[]);
        let second = Waiter::start(place.build(&text, &[]));
        let folders = || {
            let entries = std::fs::read_dir(place.join("state/mounts")).unwrap().flatten();
            entries.filter(|entry| entry.path().is_dir()).count()
        };
        let before = folders();
        go(&place);
        assert!(first.wait_with_output().unwrap().status.success());
        assert_eq!(outcome(&second.succeeds(), "[stage-0 2/2] RUN"), "cached");
        assert_eq!((count(&place), folders()), (1, before), "{sharing}");
    }
}

/// Steps with other cache mounts of one key, in the other order: each build waits for both at some time.
#[test]
fn builds_do_not_wait_for_each_other_in_a_circle() {
    needs_busybox!();
    let run = |name: &str, mount: &str| {
        format!(
            "FROM base AS {name}\nRUN --mount=type=cache,id={mount},target=/l,sharing=locked \
             --mount=type=cache,id=n,target=/c echo x >> /c/count; sleep 0.5; echo {name} > /made\n"
        )
    };
    let end = "FROM base\nCOPY --from=a /made /a\nCOPY --from=b /made /b\n";
    let place = Place::new();
    let texts = [run("a", "one") + &run("b", "two") + end, run("b", "one") + &run("a", "two") + end];
    let builds = texts.map(|text| {
        let build = place.build(&text, &["--source-date-epoch=1"]);
        // Each has a file of its own.
        let own = format!("Dockerfile-{}", hyper_sdk::Digest::sha256(&text).hex());
        place.write(&own, &text);
        let [file, own] = ["Dockerfile", &own].map(|name| place.join(name).to_str().unwrap().to_owned());
        with_argument(&place, &build, &file, &own)
    });
    for output in at_once(builds) {
        assert!(output.status.success(), "{}", told(&output));
    }
    assert_eq!(count(&place), 2);
    assert!(is_clean(&place));
}

#[test]
fn equal_steps_of_one_build_that_stand_on_equal_files_run_once() {
    needs_busybox!();
    let place = Place::new();
    for name in ["x", "y"] {
        place.write(&format!("context/{name}/file"), "same");
    }
    let stage = |name: &str| {
        format!(
            "FROM base AS {name}\nCOPY {name}/ /d/\n\
             RUN --mount=type=cache,id=n,target=/c echo x >> /c/count; sleep 0.5; \
             head -c 16 /dev/urandom | od > /made\n"
        )
    };
    let end = "FROM base\nCOPY --from=x /made /x\nCOPY --from=y /made /y\nRUN cmp /x /y\n";
    place.built(&(stage("x") + &stage("y") + end), &["--source-date-epoch=1"]);
    assert_eq!(count(&place), 1);
}
