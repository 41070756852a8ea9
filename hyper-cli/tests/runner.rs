//! End-to-end tests: the program itself, real servers, real sandboxes and the tools of others, in one binary.
//!
//! Every test has folders of its own and an environment of its own, and leaves nothing behind. What a machine cannot
//! run prints a line that starts with `SKIPPED:`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it skips and stops at what fails"
)]

mod bake;
mod build;
mod cache_export;
mod cache_losses;
mod cache_mount_contents;
mod cache_s3;
mod check;
mod containers;
mod damage;
mod debian;
mod engines;
mod equal_steps;
mod exclude;
mod exec;
mod executors;
mod faults;
mod full_disk;
mod git_sources;
mod history;
mod hostile;
mod hostile_peers;
mod interop;
mod kept;
mod known;
mod language;
mod lazy;
mod limits;
mod limits_of_steps;
mod logs;
mod mount_options;
mod mounts;
mod names;
mod network_of_build;
mod on_demand;
mod on_error;
mod output_attributes;
mod outputs;
mod peers;
mod platforms;
mod program;
mod registries;
mod remote;
mod rootless;
mod s3_server;
mod serve;
mod server_image;
mod single_id;
mod space;
mod space_kinds;
mod state;
mod static_program;
mod stderr;
mod support;
mod times;
mod unisolated;
mod web;
mod why;

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
