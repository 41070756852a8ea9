//! Checking, fixing and describing a Dockerfile without building it.

use crate::support::{Place, skip, told};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Output;

fn run(place: &Place, dockerfile: &str, flags: &[&str]) -> Output {
    place.write("context/Dockerfile", dockerfile);
    let context = place.join("context");
    place.hyper(&[&["build"], flags, &[context.to_str().unwrap()]].concat()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(output)))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_check_reports_all_problems_and_builds_nothing() {
    let place = Place::new();
    let good = "FROM scratch\nCOPY Dockerfile /\n";
    let output = run(&place, good, &["--check"]);
    assert!(output.status.success() && text(&output).contains("no problems found"), "{}", told(&output));

    let output = run(&place, "from scratch as A\nCOPY x /\nEXPOSE 80/TCP\n", &["--check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    for part in
        ["warning[StageNameCasing]", "warning[ExposeProtoCasing]", "--> ", ":3:8", "0 errors, 3 warnings"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }

    // Errors and findings of every kind in one go.
    let broken = "FROM scratch\nCOPPY a /\nEXPOSE 99999\nCOPY --chmod=9 a /\nHEALTHCHECK --interval=x CMD true\nMAINTAINER me\n";
    let output = run(&place, broken, &["--check", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let value = json(&output);
    let lines: Vec<i64> = value["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["location"]["ranges"][0]["start"]["line"].as_i64().unwrap())
        .collect();
    assert_eq!(lines, [2, 3, 4, 5], "{value}");
    assert_eq!(value["warnings"][0]["ruleName"], "MaintainerDeprecated");
    let output = run(&place, broken, &["--call=check,format=json,ignorestatus=true"]);
    assert!(output.status.success() && json(&output) == value, "{}", told(&output));
    let built = run(&place, broken, &[]);
    let said = told(&built);
    for line in 2..=5 {
        assert!(said.contains(&format!("Dockerfile:{line}:")), "{line}: {said}");
    }
}

#[test]
fn a_rewritten_file_keeps_its_owner_and_its_names() {
    let place = Place::new();
    let file = place.write("context/Dockerfile", "from scratch\nCOPY Dockerfile /\n");
    if std::os::unix::fs::chown(&file, Some(1234), Some(1235)).is_err() {
        skip!("this user cannot give files away");
    }
    let context = place.join("context");
    place.ok(&["build", "--fix", context.to_str().unwrap()]);
    let after = std::fs::metadata(&file).unwrap();
    assert_eq!((after.uid(), after.gid()), (1234, 1235));
    std::fs::write(&file, "from scratch\nCOPY Dockerfile /\n").unwrap();
    std::fs::hard_link(&file, place.join("other")).unwrap();
    place.ok(&["build", "--fix", context.to_str().unwrap()]);
    assert!(std::fs::read_to_string(place.join("other")).unwrap().starts_with("FROM"));
}

#[test]
fn a_check_reports_errors_of_a_build() {
    let place = Place::new();
    for (text, part) in [
        ("FROM scratch${\nRUN x\n", "misses its `}`"),
        ("ARG A=${B:?needed}\nFROM scratch\nCOPY Dockerfile /\n", "needed"),
        ("FROM --platform=$NONE scratch\n", "the platform of a FROM"),
        ("FROM golang:-x\nRUN x\n", "golang:-x"),
        ("FROM 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\nRUN x\n", "64 hexadecimal"),
    ] {
        let output = run(&place, text, &["--check"]);
        assert!(output.status.code() == Some(1) && told(&output).contains(part), "{text}{}", told(&output));
        assert!(errors_in(&output) > 0, "{}", told(&output));
    }
}

/// How many errors a check has counted.
fn errors_in(output: &Output) -> usize {
    let said = text(output);
    let count = said.lines().last().and_then(|line| line.split_once(" error"));
    count.and_then(|(number, _)| number.parse().ok()).unwrap_or_default()
}

#[test]
fn syntax_errors_do_not_hide_later_errors() {
    let place = Place::new();
    let text = "FROM scratch\nSTOPSIGNAL FOO\nEXPOSE 70000\nFROM --platform=what scratch\nSTOPSIGNAL BAR\nCOPY --from=9 a b\n\
                FROM scratch\nENV A=${B\nCOPPY x /\n";
    let lines = |output: &Output| -> Vec<i64> {
        let line = |e: &Value| e["location"]["ranges"][0]["start"]["line"].as_i64().unwrap();
        json(output)["errors"].as_array().unwrap().iter().map(line).collect()
    };
    let output = run(&place, text, &["--check", "--format=json"]);
    assert_eq!(lines(&output), [2, 3, 4, 5, 6, 8, 9], "{}", told(&output));
    let said = told(&run(&place, text, &[]));
    for line in [2, 3, 4, 5, 6, 8, 9] {
        assert!(said.contains(&format!("Dockerfile:{line}:")), "{line}: {said}");
    }
    // What may have been a variable leaves open what uses it.
    let text = "FROM scratch\nENVV PORT=80\nEXPOSE $PORT\nSTOPSIGNAL FOO\n";
    assert_eq!(lines(&run(&place, text, &["--check", "--format=json"])), [2]);
}

#[test]
fn contradictory_flags_are_usage_errors() {
    let place = Place::new();
    let text = "FROM base\nCOPY Dockerfile /\n";
    for (flags, part) in [
        (&["--fix", "--call=outline"][..], "--call asks for something else"),
        (&["--check", "--call=targets"], "--call asks for something else"),
        (&["--call=build,format=json"], "--call takes a format"),
        (&["--fix", "--format=json"], "--fix prints text"),
    ] {
        let output = run(&place, text, flags);
        assert!(output.status.code() == Some(2) && told(&output).contains(part), "{}", told(&output));
    }
    assert_eq!(std::fs::read_to_string(place.join("context/Dockerfile")).unwrap(), text);
    // What is wrong with the request is an error, and what cannot be looked up is said.
    let output = run(&place, text, &["--check", "--build-arg=SOURCE_DATE_EPOCH=foo"]);
    assert!(!output.status.success() && told(&output).contains("SOURCE_DATE_EPOCH"), "{}", told(&output));
    let output = run(&place, text, &["--check", "--build-context=base=docker-image://127.0.0.1:9/x"]);
    assert!(told(&output).contains("left out for base"), "{}", told(&output));
}

#[test]
fn every_stage_is_checked_unless_one_is_asked_for() {
    let place = Place::new();
    let file = "FROM scratch AS unused\nCOPY $NONE /\nSTOPSIGNAL SIGTREM\nFROM scratch AS ahead\nCOPY --from=last /x /\n\
                FROM scratch AS last\nCOPY Dockerfile /\n";
    let said = text(&run(&place, file, &["--check"]));
    assert!(said.contains(":2:") && said.contains("did you mean `SIGTERM`?"), "{said}");
    assert!(
        run(
            &place,
            file,
            &["--check", "--target=last", "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=UndefinedVar"]
        )
        .status
        .success()
    );
    assert!(run(&place, file, &["-o", "type=cacheonly"]).status.success(), "nobody needs the others");
}

#[test]
fn comments_in_another_encoding_are_not_rewritten() {
    let place = Place::new();
    place.write("context/Dockerfile", "");
    let file = place.join("context/Dockerfile");
    std::fs::write(&file, b"# caf\xe9\nfrom scratch\nCOPY Dockerfile /\n").unwrap();
    let context = place.join("context");
    let call = |flag: &str| place.hyper(&["build", flag, context.to_str().unwrap()]).output().unwrap();
    assert!(told(&call("--check")).contains("ConsistentInstructionCasing"));
    let refused = call("--fix");
    assert!(refused.status.code() == Some(2) && told(&refused).contains("UTF-8"), "{}", told(&refused));
    assert!(std::fs::read(&file).unwrap().starts_with(b"# caf\xe9\n"));
}

#[test]
fn json_has_the_shape_that_tools_know_and_sarif_is_for_scanners() {
    let place = Place::new();
    let dockerfile = "FROM scratch as a\nENV A b c\n";
    let value = json(&run(&place, dockerfile, &["--call=check", "--format=json"]));
    let first = &value["warnings"][0];
    assert_eq!(first["ruleName"], "FromAsCasing");
    assert_eq!(first["location"]["ranges"][0]["start"]["line"], 1);
    assert!(first["url"].as_str().unwrap().ends_with("docs/rules/FromAsCasing.md"));
    let value = json(&run(&place, dockerfile, &["--check", "--format", "sarif"]));
    assert_eq!(value["version"], "2.1.0");
    assert_eq!(value["runs"][0]["results"].as_array().unwrap().len(), 2);
    let output = run(&place, dockerfile, &["--format", "sarif"]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
}

#[test]
fn the_directive_and_the_build_argument_select_rules() {
    let place = Place::new();
    let dockerfile = "# check=skip=FromAsCasing;error=true\nFROM scratch as a\nCOPY Dockerfile /\n";
    assert!(run(&place, dockerfile, &["--check"]).status.success());
    let argument = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true"];
    let output = run(&place, dockerfile, &argument);
    assert!(!output.status.success());
    assert!(told(&output).contains("breaks its own rules") && told(&output).contains("FromAsCasing"));
    let output = run(&place, dockerfile, &["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"]);
    assert!(output.status.success(), "{}", told(&output));
    let output = run(&place, "# check=skip=FromAsCasin\nFROM scratch\nCOPY Dockerfile /\n", &["--check"]);
    assert!(text(&output).contains("did you mean `FromAsCasing`?"), "{}", told(&output));
    // A build warns.
    let output = run(&place, "FROM scratch as a\nCOPY Dockerfile /\n", &["--progress=plain"]);
    assert!(output.status.success() && told(&output).contains("FromAsCasing"), "{}", told(&output));
}

#[test]
fn the_ignore_file_counts_for_the_rule_about_it() {
    let place = Place::new();
    place.write("context/.dockerignore", "notes.md\n");
    place.write("context/notes.md", "x");
    let dockerfile = "# check=experimental=CopyIgnoredFile\nFROM scratch\nCOPY notes.md /\n";
    let output = run(&place, dockerfile, &["--check"]);
    assert!(text(&output).contains("warning[CopyIgnoredFile]"), "{}", told(&output));
}

#[test]
fn a_fix_rewrites_the_file_and_keeps_its_mode() {
    let place = Place::new();
    let path = place.join("context/Dockerfile");
    let dockerfile =
        "from scratch as A\nrun x && \\\n\n  y\nEXPOSE 80/TCP\nenv A some value\nMAINTAINER me\n";
    place.write("context/Dockerfile", dockerfile);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let output = run(&place, dockerfile, &["--fix"]);
    assert_eq!(output.status.code(), Some(1), "MAINTAINER stays: {}", told(&output));
    let fixed = "from scratch as a\nrun x && \\\n  y\nexpose 80/tcp\nenv A=\"some value\"\nmaintainer me\n";
    assert_eq!(std::fs::read_to_string(&path).unwrap(), fixed);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let output = run(&place, fixed, &["--fix"]);
    assert!(told(&output).contains("fixed: 0, left: 1"), "{}", told(&output));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), fixed);
    // What cannot be understood is not touched.
    let broken = "from scratch AS A\nRUNN x\n";
    assert!(!run(&place, broken, &["--fix"]).status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
}

#[test]
fn a_base_that_cannot_be_looked_up_leaves_its_rules_out() {
    let place = Place::new();
    // Nothing listens there.
    let dockerfile = "FROM 127.0.0.1:1/none AS A\nCOPY $UNKNOWN /\n";
    let output = run(&place, dockerfile, &["--check"]);
    let said = told(&output);
    assert!(said.contains("StageNameCasing") && !said.contains("UndefinedVar"), "{said}");
    assert!(said.contains("left out for 127.0.0.1:1/none"), "{said}");
    // The image may set what it takes.
    let dockerfile = "FROM 127.0.0.1:1/none\nWORKDIR ${HOME}\nCOPY a b $DIR\n";
    let output = run(&place, dockerfile, &["--check"]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn targets_and_the_outline_of_one() {
    let place = Place::new();
    let dockerfile = "# VERSION is what is built\nARG VERSION=1.2\nARG OTHER\n\
        # base is where all begins\nFROM scratch AS base\nARG VERSION\n\
        RUN --mount=type=secret,id=token,required=true --mount=type=cache,target=/c --mount=type=ssh x\n\
        FROM scratch AS unrelated\nARG NOT_USED\n\
        FROM base AS final\nARG LOCAL=${VERSION}-x\nRUN --mount=type=secret,id=token x\n";
    let value = json(&run(&place, dockerfile, &["--call=targets", "--format=json"]));
    let names: Vec<&str> =
        value["targets"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "unrelated", "final"]);
    assert_eq!(value["targets"][0]["description"], "is where all begins");
    assert_eq!(value["targets"][2]["default"], true);
    assert!(value["sources"][0].as_str().unwrap().starts_with("IyBWRVJTSU9OIGlz"), "{value}");
    assert_eq!(value["targets"][1]["location"]["ranges"][0]["start"]["line"], 8);
    let output = run(&place, dockerfile, &["--call", "targets"]);
    assert!(text(&output).contains("final (default)"), "{}", told(&output));

    let value = json(&run(&place, dockerfile, &["--call=outline", "--format=json"]));
    assert_eq!(value["name"], "final");
    let arguments: Vec<(&str, Option<&str>)> = value["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["name"].as_str().unwrap(), a["value"].as_str()))
        .collect();
    assert_eq!(arguments, [("VERSION", Some("1.2")), ("LOCAL", Some("1.2-x"))], "OTHER is used nowhere");
    assert_eq!(value["args"][0]["description"], "is what is built");
    assert_eq!(value["secrets"][0]["name"], "token");
    assert_eq!(value["secrets"][0]["required"], true);
    assert_eq!((&value["ssh"][0]["name"], &value["cache"][0]["ID"]), (&"default".into(), &"/c".into()));
    let output = run(&place, dockerfile, &["--call=outline", "--build-arg=VERSION=9"]);
    assert!(text(&output).contains("9-x") && text(&output).contains("BUILD ARG"), "{}", told(&output));
    let again = "ARG V=1\nARG W=2\nFROM scratch AS a\nARG V=3\nFROM a\nARG V=4\n";
    let value = json(&run(&place, again, &["--call=outline", "--format=json"]));
    assert_eq!(value["args"].as_array().unwrap().len(), 1, "W is used nowhere: {value}");
    assert_eq!((&value["args"][0]["name"], &value["args"][0]["value"]), (&"V".into(), &"4".into()));
    // The text, in base64.
    assert_eq!(value["sources"].as_array().unwrap().len(), 1);
    assert!(value["sources"][0].as_str().unwrap().starts_with("QVJHIFY9MQpBUkcgVz0y"), "{value}");
    let output = run(&place, dockerfile, &["--call=outline", "--target=fnal"]);
    assert!(told(&output).contains("did you mean `final`?"), "{}", told(&output));
}
