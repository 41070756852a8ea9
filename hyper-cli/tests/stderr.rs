//! Standard error of a build: JSON and nothing else where that is asked for, warnings before errors, the names of steps.

use crate::support::{Built, Place, busybox, skip, told};
use serde_json::Value;
use std::process::Output;

fn place() -> Place {
    let place = Place::new();
    place.write("context/f", "content\n");
    place
}

/// Builds with progress as JSON, and returns standard error; every line must be an object.
fn lines(
    place: &Place,
    dockerfile: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (Output, Vec<Value>) {
    place.write("Dockerfile", dockerfile);
    let mut command = place.hyper(&[&["build", "-f", "Dockerfile"], arguments, &["context"]].concat());
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let parse = |line: &str| -> Value {
        let value = serde_json::from_str(line);
        let value: Value = value.unwrap_or_else(|e| panic!("{arguments:?}: {e}: {line}\n{text}"));
        assert!(value["at"].is_u64() && value["event"].is_string(), "{line}");
        value
    };
    let lines = text.lines().map(parse).collect();
    (output, lines)
}

const FILES: &str = "FROM scratch\nCOPY f /\n";

#[test]
fn the_event_stream_has_only_json() {
    let place = place();
    let json = "--progress=json";
    let ways: [(&str, &[&str], Option<i32>, &str); 11] = [
        (FILES, &[json], Some(0), ""),
        (FILES, &[json, "--elephant"], Some(2), "--elephant"),
        (FILES, &["--elephant", "--progress", "rawjson"], Some(2), "--elephant"),
        (FILES, &[json, "--cache-to=type=gha"], Some(1), "type=gha is not supported yet"),
        (FILES, &[json, "-o=type=elephant"], Some(2), "elephant"),
        (FILES, &[json, "--push"], Some(2), "needs a name"),
        (FILES, &[json, "--target=nowhere"], Some(1), "nowhere"),
        ("FROM scratch\nCOPY missing /\n", &[json], Some(1), "missing"),
        ("FROM scratch\nCOPI f /\n", &[json], Some(1), "COPI"),
        ("from scratch\nCOPY f /\nELEPHANT\n", &["--progress=rawjson"], Some(1), "ELEPHANT"),
        ("FROM 127.0.0.1:9/no/image\n", &[json], Some(1), "127.0.0.1"),
    ];
    for (dockerfile, arguments, status, text) in ways {
        let (output, lines) = lines(&place, dockerfile, arguments, &[("HYPER_LOG", "debug")]);
        assert_eq!(output.status.code(), status, "{arguments:?}: {}", told(&output));
        let error = lines.iter().find(|line| line["event"] == "error");
        match status {
            Some(0) => assert!(error.is_none() && lines.iter().any(|line| line["event"] == "result")),
            _ => {
                let error = error.unwrap_or_else(|| panic!("{arguments:?}: {}", told(&output)));
                assert!(error.to_string().contains(text), "{text}: {error}");
            }
        }
    }
    let (_, lines) = lines(&place, FILES, &["--elephant"], &[("BUILDKIT_PROGRESS", "rawjson")]);
    assert_eq!(lines.len(), 1);
    // Without the flag, messages are for people.
    let output = place.hyper(&["build", "--elephant", "context"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error:"), "{}", told(&output));
}

#[test]
fn a_level_of_the_log_that_is_none_is_said() {
    let place = place();
    for (level, is_said) in
        [("loud", true), ("hyper_sdk", true), ("hyper_sdk=debug", false), ("", false), ("error", false)]
    {
        let (output, lines) = lines(&place, FILES, &["--progress=json"], &[("HYPER_LOG", level)]);
        assert!(output.status.success(), "{}", told(&output));
        let said = lines.iter().any(|line| line.to_string().contains("HYPER_LOG is not used"));
        assert_eq!(said, is_said, "{level}: {}", told(&output));
    }
}

#[test]
fn a_failed_step_is_an_event_with_its_hint() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let output = place.build("FROM base\nRUN echo said && exit 3\n", &[]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let last = events.last().unwrap();
    assert_eq!(last["event"], "error");
    assert!(last["message"].as_str().unwrap().contains("exit code 3"), "{last}");
    assert!(last["step"].as_str().unwrap().contains("RUN echo said"), "{last}");
    assert!(last["rendered"].as_str().unwrap().starts_with("error: "), "{last}");
    assert!(last["hint"].as_str().unwrap().contains("logs"), "{last}");
}

#[test]
fn warnings_come_before_an_error_of_the_text() {
    let place = place();
    for (dockerfile, error) in [
        ("from scratch\nCOPY f /\nELEPHANT\n", "ELEPHANT"),
        ("from scratch\nCOPY --from=nowhere/$x f /\nENV\n", "ENV"),
        ("from scratch\nCOPY f /\nONBUILD FROM x\n", "ONBUILD"),
        ("from scratch\nSTOPSIGNAL NONE\n", "STOPSIGNAL"),
    ] {
        place.write("Dockerfile", dockerfile);
        let output =
            place.hyper(&["build", "--progress=plain", "-f", "Dockerfile", "context"]).output().unwrap();
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let warning = text.find("WARN:").unwrap_or_else(|| panic!("no warning: {text}"));
        let fails = text.find("error:").unwrap_or_else(|| panic!("no error: {text}"));
        assert!(warning < fails && text[warning..].contains("from"), "{text}");
        assert!(text[fails..].contains(error), "{text}");
    }
}

#[test]
fn stages_by_name_are_not_image_steps() {
    let place = place();
    let dockerfile = "FROM scratch AS a\nCOPY f /1\nWORKDIR /w\nFROM a\nCOPY f /2\nCOPY --from=a f* /3/\n";
    let built: Built = place.built(dockerfile, &[]);
    let steps: Vec<String> = built.outcomes().into_keys().filter(|name| name.starts_with('[')).collect();
    assert_eq!(
        steps,
        [
            "[a 1/2] COPY f /1",
            "[a 2/2] WORKDIR /w",
            "[stage-1 1/2] COPY f /2",
            "[stage-1 2/2] COPY --from=a f* /3/"
        ]
    );
}

#[test]
fn errors_name_unsupported_flags_of_other_builders() {
    let place = place();
    for (arguments, name) in [
        (&["-D"][..], "--debug"),
        (&["--debug"], "--debug"),
        (&["-v", "/a:/b"], "--volume"),
        (&["--retry", "1"], "--retry"),
        (&["--volume", "/a:/b"], "--volume"),
        (&["--layers=false"], "--layers"),
        (&["--dns=192.0.2.1"], "--dns"),
        (&["--timestamp", "0"], "--timestamp"),
    ] {
        let (output, lines) = lines(&place, FILES, &[arguments, &["--progress=json"]].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(lines[0]["message"], format!("{name} is not supported yet"));
    }
    let (output, lines) = lines(&place, FILES, &["--progress=none"], &[]);
    assert!(output.status.success() && lines.is_empty(), "{}", told(&output));
}
