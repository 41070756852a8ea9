//! The program, as its users meet it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn a_folder_is_built_and_the_image_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("index.html"), "hello").unwrap();
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY index.html /\n").unwrap();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_embedded-build"))
            .args(arguments)
            .current_dir(place.path())
            .env("HYPER_ROOT", place.path().join("state"))
            .output()
            .unwrap()
    };
    let output = run(&["site", "site:1"]);
    let (text, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{told}");
    assert!(text.starts_with("sha256:") && text.ends_with(" site:1\n"), "{text}");
    assert!(told.contains("COPY index.html /"), "{told}");
    assert!(place.path().join("state/store").is_dir());
    let told = String::from_utf8(run(&["site"]).stderr).unwrap();
    assert!(told.contains("name the image"), "{told}");
}
