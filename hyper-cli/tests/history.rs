//! `hyperbuild history`: records of builds.

use crate::support::{Place, busybox, skip, told};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&place.ok(&[arguments, &["--format=json"]].concat())).unwrap()
}

#[test]
fn builds_are_listed_shown_and_removed() {
    let place = Place::new();
    place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /one\nCOPY Dockerfile /two\n");
    place.write("bad/Dockerfile", "FROM scratch\nCOPY missing /\n");
    let build =
        ["build", "-q", "-t", "app:1", "--build-arg", "TOKEN=value-of-it", "context", "--metadata-file=said"];
    let digest = place.ok(&build);
    place.ok(&build);
    assert!(!place.hyper(&["build", "bad"]).output().unwrap().status.success());
    let records = json(&place, &["history", "ls"]);
    let field = |name: &str| records.as_array().unwrap().iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("outcome"), ["failed", "done", "done"]);
    assert_eq!(field("name")[1], "app:1");
    assert_eq!((&field("image")[0], &field("image")[1]), (&Value::Null, &Value::from(digest)));
    assert!(field("error")[0].as_str().unwrap().contains("missing"), "{records}");
    // The reference in the file of metadata is that of the record.
    let said: Value = serde_json::from_slice(&std::fs::read(place.join("said")).unwrap()).unwrap();
    let reference = said["buildx.build.ref"].as_str().unwrap();
    assert_eq!(reference, format!("hyper/local/{}", field("id")[1].as_str().unwrap()));
    let shown = json(&place, &["history", "inspect", reference]);
    let steps: Vec<_> = shown["steps"].as_array().unwrap().iter().collect();
    let copies: Vec<_> = steps.iter().filter(|s| s["name"].as_str().unwrap().contains("COPY")).collect();
    assert!(copies.len() == 2 && copies.iter().all(|step| step["outcome"] == "cached"), "{shown}");
    // People read it, too.
    let listed = place.ok(&["history", "ls"]);
    assert!(listed.starts_with("ID") && listed.contains("app:1") && listed.contains("failed"), "{listed}");
    let text = place.ok(&["history", "inspect"]);
    assert!(text.contains("Status:      failed") && text.contains("Error:"), "{text}");
    // No value of an argument is anywhere.
    for entry in std::fs::read_dir(place.join("state/history")).unwrap() {
        let path = entry.unwrap().path();
        assert!(!String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains("value-of-it"));
    }
    assert_eq!(place.join("state/history").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let id = field("id")[2].as_str().unwrap().to_owned();
    assert_eq!(place.ok(&["history", "rm", &id[..8]]), id);
    assert_eq!(json(&place, &["history", "ls"]).as_array().unwrap().len(), 2);
    place.ok(&["history", "rm", "--all"]);
    assert_eq!(json(&place, &["history", "ls"]), Value::Array(Vec::new()));
    assert_eq!(std::fs::read_dir(place.join("state/logs")).unwrap().count(), 0);
}

#[test]
fn what_is_not_there_is_told() {
    let place = Place::new();
    for (arguments, wanted) in [
        (&["history", "inspect"][..], "there is no record of a build yet"),
        (&["history", "logs", "abc"], "there is no record of a build `abc`"),
        (&["history", "rm", "abc"], "there is no record of a build `abc`"),
    ] {
        let output = place.hyper(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains(wanted) && told(&output).contains("history ls"), "{}", told(&output));
    }
    let output = place.hyper(&["history", "rm"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
}

#[test]
fn the_log_of_a_build_is_printed_whole_or_by_step() {
    if busybox().is_none() {
        skip!("a static busybox is missing");
    }
    let place = Place::new();
    let file = "FROM base\nRUN echo first-words\nRUN echo second-words && seq 1 3000\n";
    assert!(place.build(file, &[]).output().unwrap().status.success());
    let log = place.ok(&["history", "logs"]);
    assert!(log.contains("first-words") && log.contains("second-words") && log.contains(" 3000\n"), "{log}");
    let shown = json(&place, &["history", "inspect"]);
    let steps = shown["steps"].as_array().unwrap();
    let second = steps.iter().find(|step| step["name"].as_str().unwrap().contains("second")).unwrap();
    let own = place.ok(&["history", "logs", "--step", &second["number"].to_string()]);
    assert!(own.contains("second-words") && !own.contains("first-words"), "{own}");
    // A reader that goes away is not an error.
    let mut command = std::process::Command::new("sh");
    let program = place.hyper(&["history", "logs"]);
    command.arg("-c").arg("\"$0\" history logs | head -n 1").arg(program.get_program());
    command.env("HYPER_ROOT", place.join("state"));
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", told(&output));
}

#[test]
fn a_build_that_is_interrupted_is_told() {
    if busybox().is_none() {
        skip!("a static busybox is missing");
    }
    let place = Place::new();
    let outcome = |place: &Place| json(place, &["history", "ls"])[0]["outcome"].as_str().map(str::to_owned);
    for (signal, expected) in [("-INT", "cancelled"), ("-KILL", "interrupted")] {
        let mut child = place.build("FROM base\nRUN sleep 600\n", &["--no-cache"]).spawn().unwrap();
        crate::support::wait_for("the step runs", || {
            json(&place, &["history", "ls"])[0]["steps"]
                .as_array()
                .is_some_and(|_| outcome(&place).as_deref() == Some("running"))
        });
        crate::support::succeed(std::process::Command::new("kill").args([signal, &child.id().to_string()]));
        child.wait().unwrap();
        assert_eq!(outcome(&place).as_deref(), Some(expected));
    }
}
