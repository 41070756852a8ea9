//! Builds that run at once on one state folder: an equal step runs once.

use crate::support::{Place, at_once, busybox, skip, told, wait_for};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A step that counts its runs in a cache mount. The first run waits for the file `go` there, and then ends as the test says.
fn step(end: &str) -> String {
    format!(
        "FROM base\nRUN --mount=type=cache,id=n,target=/c echo x >> /c/count; \
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

/// The first build, in the middle of its step.
fn holder(place: &Place, text: &str) -> Child {
    let mut build = place.build(text, &[]);
    let child = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the first build runs the step", || counted(place).is_some());
    child
}

/// Starts a build and waits until it waits. The result ends it, and gives what it said after that.
fn waiter(command: &mut Command) -> impl FnOnce() -> Vec<String> + use<> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(events.any(|event| event.unwrap().contains("wait for another build: ")));
    move || {
        let rest: Vec<String> = events.map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success(), "{rest:?}");
        rest
    }
}

/// No lock is left.
fn is_clean(place: &Place) -> bool {
    std::fs::read_dir(place.join("state/steps")).unwrap().count() == 0
}

#[test]
fn an_equal_step_of_builds_at_once_runs_once() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let text =
        "FROM base\nRUN --mount=type=cache,id=n,target=/c echo x >> /c/count; sleep 1\nRUN echo y > /y\n";
    let builds = at_once(std::array::from_fn::<_, 5, _>(|_| place.build(text, &[])));
    let digests = builds.map(|output| {
        assert!(output.status.success(), "{}", told(&output));
        output.stdout
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    assert_eq!(count(&place), 1);
    assert!(is_clean(&place));
}

#[test]
fn who_waits_goes_on_when_the_other_build_succeeds_fails_or_is_killed() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    for (end, is_killed, runs) in [("true", false, 1), ("exit 1", false, 2), ("true", true, 2)] {
        let (place, text) = (Place::new(), step(end));
        let mut first = holder(&place, &text);
        let mut second = place.build(&text, &[]);
        let second = waiter(&mut second);
        match is_killed {
            true => first.kill().unwrap(),
            false => std::fs::write(counted(&place).unwrap().join("go"), "").unwrap(),
        }
        first.wait().unwrap();
        second();
        assert_eq!(count(&place), runs, "{end} {is_killed}");
        assert!(is_clean(&place), "{end} {is_killed}");
    }
}

#[test]
fn a_step_that_runs_in_any_case_neither_waits_nor_is_waited_for() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let (place, text) = (Place::new(), step("true"));
    let mut first = holder(&place, &text);
    place.built(&text, &["--no-cache"]);
    assert_eq!(count(&place), 2);
    std::fs::write(counted(&place).unwrap().join("go"), "").unwrap();
    assert!(first.wait().unwrap().success());
}
