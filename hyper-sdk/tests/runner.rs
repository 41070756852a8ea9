//! The integration tests of the crate, one binary: a file in this folder is a module here.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it skips and stops at what fails"
)]

mod bake_golden;
mod builder_conformance;
mod capabilities;
mod deep_chains;
mod dockerfile_fixtures;
mod dockerfile_golden;
mod formats;
mod layers_of_copies;
mod open_builder;
mod sandbox;
mod sandbox_conformance;
mod sandbox_devices;
mod sandbox_escapes;
mod sandbox_limits;
mod snapshots;

/// A file that is forgotten here would never run.
#[test]
fn every_file_of_the_folder_is_declared() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let runner = std::fs::read_to_string(folder.join("runner.rs")).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let is_module = path.extension().is_some_and(|e| e == "rs") || path.join("mod.rs").exists();
        if is_module && name != "runner" {
            files += 1;
            assert!(
                runner.lines().any(|line| line.trim() == format!("mod {name};")),
                "add `mod {name};` to tests/runner.rs"
            );
        }
    }
    assert!(files > 0, "the folder was not read");
}
