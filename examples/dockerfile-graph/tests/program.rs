//! The program, as its users meet it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str], file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dockerfile-graph")).args(arguments).arg(file).output().unwrap()
}

#[test]
fn a_dockerfile_has_a_size_findings_and_a_drawing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Dockerfile");
    std::fs::write(&file, "FROM base AS one\nRUN make\nFROM scratch\nCOPY --from=One /app /\nCMD app\n")
        .unwrap();
    let output = run(&[], &file);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains(" vertices; ") && text.contains("JSONArgsRecommended:5"), "{text}");
    let drawing = String::from_utf8(run(&["--dot"], &file).stdout).unwrap();
    assert!(drawing.starts_with("digraph"), "{drawing}");
}

#[test]
fn a_fault_of_a_dockerfile_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Dockerfile");
    std::fs::write(&file, "FROM scratch\nCOPPY a b\n").unwrap();
    let output = run(&[], &file);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("COPPY"), "{text}");
}
