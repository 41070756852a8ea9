//! `build --on-error shell`.

use crate::support::{Place, busybox, skip, told};
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs a build with this on its standard input.
fn with_input(mut command: Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_shell_runs_in_what_a_failed_step_left() {
    if busybox().is_none() {
        skip!("a static busybox is missing");
    }
    let place = Place::new();
    place.write("context/given", "from the context\n");
    let file = "FROM base\nENV NAME=value\nWORKDIR /place\nRUN mkdir -p /run\n\
                RUN --mount=type=bind,source=given,target=/given \\\n    --mount=type=cache,target=/cache \\\n    \
                echo left > /place/left && echo kept > /cache/kept && false\n";
    let input =
        "echo [$(cat left) $(cat /given) $NAME $(pwd) $(cat /cache/kept)]\ntouch /place/new\nexit 7\n";
    let output = with_input(place.build(file, &["--on-error=shell", "-t", "app:1"]), input);
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("[left from the context value /place kept]"), "{said}");
    // Nothing of it is kept, and the end of the input ends the shell, too.
    let output = with_input(place.build(file, &["--on-error=shell"]), "echo [$(ls /place | tr '\\n' ,)]\n");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("[left,]"), "{}", told(&output));
    assert!(place.ok(&["images", "-q"]).is_empty());
}

#[test]
fn a_build_that_succeeds_has_no_shell_and_reads_no_input() {
    if busybox().is_none() {
        skip!("a static busybox is missing");
    }
    let place = Place::new();
    let output = with_input(place.build("FROM base\nRUN true\n", &["--on-error=shell"]), "echo spoken\n");
    assert!(output.status.success() && !told(&output).contains("spoken"), "{}", told(&output));
}

#[test]
fn standard_input_has_one_use() {
    let place = Place::new();
    let output = place.hyper(&["build", "--on-error=shell", "-"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    let output = place.hyper(&["build", "--on-error=stop", "."]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
}
