//! Each cargo feature of hyper-sdk compiles by itself, and so does each adapter.
//!
//! A build of the whole workspace unifies the features of all its members, and so hides a `cfg` that is missing.

use crate::repository;
use std::process::Command;

const MANIFEST: &str = "hyper-sdk/Cargo.toml";

/// Crates that take only a part of hyper-sdk.
const ADAPTERS: &[&str] = &["hyper-server"];

/// Clippy passes these on without compiling dependencies anew. Its own lints are checked for the whole workspace.
const LEVELS: [&str; 5] = ["--", "-A", "clippy::all", "-D", "warnings"];

/// Checks hyper-sdk without features, with each of them alone, and the adapters.
pub(crate) fn check() -> Result<(), String> {
    let text = std::fs::read_to_string(repository::root().join(MANIFEST))
        .map_err(|e| format!("cannot read {MANIFEST}: {e}"))?;
    let features = features(&text);
    if features.is_empty() {
        return Err(format!("{MANIFEST}: there are no features to check"));
    }
    let alone = features.iter().map(|f| vec!["-p", "hyper-sdk", "--no-default-features", "--features", f]);
    let none = vec!["-p", "hyper-sdk", "--no-default-features"];
    let adapters = ADAPTERS.iter().map(|name| vec!["-p", name]);
    for arguments in std::iter::once(none).chain(alone).chain(adapters) {
        let mut command = Command::new("cargo");
        command.args(["clippy", "--quiet", "--locked"]).args(arguments).args(LEVELS);
        repository::run(&mut command)?;
    }
    Ok(())
}

/// The names in the table `[features]`, but for `default`.
fn features(manifest: &str) -> Vec<&str> {
    let table = manifest.lines().skip_while(|line| line.trim() != "[features]").skip(1);
    table
        .take_while(|line| !line.starts_with('['))
        .filter(|line| line.starts_with(|c: char| c.is_alphanumeric()))
        .filter_map(|line| Some(line.split_once('=')?.0.trim()))
        .filter(|name| *name != "default")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_come_from_their_table() {
        let manifest = "[package]\nname = \"a\"\n\n[features]\ndefault = [\"x\"]\n# Why.\nx = [\n    \"dep:y\",\n]\nz-1 = []\n\n[dependencies]\ny = \"1\"\n";
        assert_eq!(features(manifest), ["x", "z-1"]);
    }
}
