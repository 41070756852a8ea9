//! Documents that are generated from the programs themselves: their references, manual pages and the pages of the lint
//! rules.

use crate::repository;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The programs: package and binary.
const PROGRAMS: &[(&str, &str)] = &[("hyper-cli", "hyperbuild"), ("hyper-server", "hyperregistry")];
/// Pages that a program prints: its package, its name, the hidden command and the page.
const PAGES: &[(&str, &str, &str, &str)] = &[
    ("hyper-cli", "hyperbuild", "reference", "docs/reference/cli.md"),
    ("hyper-server", "hyperregistry", "reference", "docs/reference/hyperregistry.md"),
    ("hyper-server", "hyperregistry", "metrics-reference", "docs/reference/metrics.md"),
];
const MAN: &str = "docs/man";
const RULES: &str = "docs/rules";

/// Writes the documents, or checks that they are as they would be written.
pub(crate) fn run(check: bool) -> Result<(), String> {
    let fresh = documents()?;
    let root = repository::root();
    if !check {
        for name in [MAN, RULES] {
            let folder = root.join(name);
            if folder.exists() {
                std::fs::remove_dir_all(&folder).map_err(|e| format!("cannot empty {name}: {e}"))?;
            }
        }
        for (name, text) in &fresh {
            let path = root.join(name);
            let folder = path.parent().expect("documents lie in folders");
            std::fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
            std::fs::write(&path, text).map_err(|e| format!("cannot write {name}: {e}"))?;
        }
        println!("generate: {} files", fresh.len());
        return Ok(());
    }
    let mut stale: Vec<String> = fresh
        .iter()
        .filter(|(name, text)| std::fs::read_to_string(root.join(name)).ok().as_ref() != Some(*text))
        .map(|(name, _)| name.clone())
        .collect();
    for folder in [MAN, RULES] {
        let kept = read_folder(&root.join(folder))?;
        let names = kept.into_keys().map(|name| format!("{folder}/{name}"));
        stale.extend(names.filter(|name| !fresh.contains_key(name)));
    }
    if stale.is_empty() {
        println!("generate: {} files are fresh", fresh.len());
        return Ok(());
    }
    Err(format!("stale: {}: run `cargo xtask generate`", stale.join(", ")))
}

/// Every document by its path in the repository.
fn documents() -> Result<BTreeMap<String, String>, String> {
    let mut documents = BTreeMap::new();
    for (package, binary, command, page) in PAGES {
        documents.insert((*page).to_owned(), repository::output(program(package, binary).arg(command))?);
    }
    for (package, binary) in PROGRAMS {
        into_folder(program(package, binary).arg("man"), MAN, &mut documents)?;
    }
    into_folder(program("hyper-cli", "hyperbuild").arg("rules"), RULES, &mut documents)?;
    Ok(documents)
}

/// One of the programs, to be run with more arguments.
fn program(package: &str, binary: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--package", package, "--bin", binary, "--"]);
    command
}

/// Runs a command that writes documents into the folder that is its last argument.
fn into_folder(
    command: &mut Command,
    folder: &str,
    documents: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    let scratch = repository::target().join("xtask-generate");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).map_err(|e| format!("cannot make {}: {e}", scratch.display()))?;
    repository::output(command.arg(&scratch))?;
    for (name, text) in read_folder(&scratch)? {
        documents.insert(format!("{folder}/{name}"), text);
    }
    Ok(())
}

fn read_folder(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(files) };
    for entry in entries.flatten() {
        let text = std::fs::read_to_string(entry.path())
            .map_err(|e| format!("cannot read {}: {e}", entry.path().display()))?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), text);
    }
    Ok(files)
}
