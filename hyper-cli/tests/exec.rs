//! `hyperbuild exec`: a command in the files of a step.

use crate::support::{Place, busybox, skip, told};
use std::process::Output;

const FILE: &str = "FROM base\nARG GIVEN\nENV NAME=value\nWORKDIR /place\nRUN echo $GIVEN > one\n\
    RUN --mount=type=bind,source=f,target=/f --mount=type=cache,target=/cache echo kept > /cache/kept; echo two > two\n\
    RUN echo three > three; test -e /never\n";

fn exec(place: &Place, arguments: &[&str]) -> Output {
    place.hyper(&[&["exec"], arguments].concat()).output().unwrap()
}

#[test]
fn a_command_runs_in_a_finished_and_in_a_failed_step() {
    if busybox().is_none() {
        skip!("a static busybox is missing");
    }
    let place = Place::new();
    place.write("context/f", "of the context\n");
    let built = place.build(FILE, &["--build-arg", "GIVEN=secret-value"]).output().unwrap();
    assert_eq!(built.status.code(), Some(1), "{}", told(&built));
    let text = place.ok(&["history", "inspect", "--format=json"]);
    assert!(!text.contains("secret-value"), "{text}");
    let given = ["--build-arg", "GIVEN=secret-value"];
    let script = "echo [$(ls | tr '\\n' ' ')$NAME $(cat /f) $(cat /cache/kept)]";
    let output = exec(&place, &[&given[..], &["echo two", "sh", "-c", script]].concat());
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "[one two value of the context kept]\n",
        "{}",
        told(&output)
    );
    // By its number, in what a step left that failed.
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let steps = record["steps"].as_array().unwrap();
    let failed = steps.iter().find(|step| step["outcome"] == "failed").unwrap();
    let number = failed["number"].to_string();
    let output = exec(&place, &[&given[..], &[&number, "cat", "three"]].concat());
    assert!(output.status.success() && output.stdout == b"three\n", "{}", told(&output));
    // The exit status is that of the command, and nothing is kept.
    let output = exec(&place, &[&given[..], &["echo two", "sh", "-c", "rm two; exit 3"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let output = exec(&place, &[&given[..], &["echo two", "cat", "two"]].concat());
    assert_eq!(output.stdout, b"two\n", "{}", told(&output));
    // Without a value that the history does not have, nothing is guessed.
    let output = exec(&place, &["echo two", "true"]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("--build-arg GIVEN=VALUE"), "{}", told(&output));
    // No record is made of it.
    assert_eq!(place.ok(&["history", "ls", "-q"]).lines().count(), 1);
}

#[test]
fn a_step_that_is_not_reached_is_not_entered() {
    if busybox().is_none() {
        skip!("a static busybox is missing");
    }
    let place = Place::new();
    let file = "FROM base\nRUN false && echo first\nRUN echo second\n";
    assert!(!place.build(file, &[]).output().unwrap().status.success());
    let output = exec(&place, &["second", "echo", "entered"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(!told(&output).contains("entered") && told(&output).contains("exit code 1"), "{}", told(&output));
}

#[test]
fn what_cannot_be_entered_is_told() {
    let place = Place::new();
    let output = exec(&place, &["1", "true"]);
    assert!(told(&output).contains("there is no record of a build yet"), "{}", told(&output));
    place.write("context/f", "");
    place.write("Dockerfile", "FROM scratch\nCOPY f /\n");
    place.ok(&["build", "-q", "-f", "Dockerfile", "context"]);
    let output = exec(&place, &["COPY", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("no RUN step of the build is called `COPY`"), "{}", told(&output));
    let output = exec(&place, &["99", "true"]);
    assert!(told(&output).contains("has no step 99"), "{}", told(&output));
}
