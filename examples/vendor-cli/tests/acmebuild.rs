//! The program of the vendor, as its users meet it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

fn acmebuild(place: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_acmebuild"))
        .arg("--root")
        .arg(place.join("state"))
        .args(arguments)
        .current_dir(place)
        .env("HOME", place)
        .output()
        .unwrap()
}

fn done(place: &Path, arguments: &[&str]) -> String {
    let output = acmebuild(place, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_built_is_in_the_store_of_the_vendor() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    for (name, size) in [("small", 10), ("large", 90_000)] {
        std::fs::create_dir(place.join(name)).unwrap();
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..size).map(|_| random()).collect();
        std::fs::write(place.join(name).join("file"), noise).unwrap();
        std::fs::write(place.join(name).join("Dockerfile"), "FROM scratch\nCOPY file /\n").unwrap();
        done(place, &["build", "--quiet", "-t", &format!("{name}:1"), name]);
    }
    assert!(place.join("state/acme/blobs.log").metadata().unwrap().len() > 90_000);
    assert!(!place.join("state/store").exists());
    let images: serde_json::Value =
        serde_json::from_str(&done(place, &["images", "--format", "json"])).unwrap();
    let names: Vec<&str> = images.as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["large:1", "small:1"]);

    assert_eq!(done(place, &["biggest"]), "large:1\n");
    assert!(done(place, &["biggest", "--size"]).starts_with("large:1 "));
    done(place, &["rm", "large:1"]);
    assert_eq!(done(place, &["biggest"]), "small:1\n");
}

#[test]
fn the_command_of_the_vendor_is_one_of_the_program() {
    let place = tempfile::tempdir().unwrap();
    let help = done(place.path(), &["--help"]);
    assert!(
        help.contains("acmebuild") && help.contains("Says which image of the store is the largest"),
        "{help}"
    );
    let output = acmebuild(place.path(), &["biggest"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("no images") && told.contains("`acmebuild --help`"), "{told}");
    assert_eq!(acmebuild(place.path(), &["biggest", "--elephant"]).status.code(), Some(2));
    assert!(done(place.path(), &["--version"]).starts_with("acmebuild "));
}
