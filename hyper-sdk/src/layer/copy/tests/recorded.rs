//! Compares copies with recorded results of real builds. `HYPER_SHARED_CONFORMANCE` names their folder.

use super::super::*;
use crate::layer::{Entry, EntryKind, FileTime, LayerWriter, TreeIndex};
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// Runs the copies of the recorded cases that need no RUN, no second stage and no ignore file.
#[test]
fn recorded_cases_give_the_same_files() {
    let Ok(cases) = std::env::var("HYPER_SHARED_CONFORMANCE") else {
        println!("SKIPPED: HYPER_SHARED_CONFORMANCE does not name the folder of recorded cases");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: unpacking the recorded contexts with their owners needs root");
        return;
    }
    let mut ran = 0;
    let mut failed = Vec::new();
    let mut folders: Vec<_> =
        std::fs::read_dir(Path::new(&cases).join("dockerfile")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for case in folders {
        let Ok(text) = std::fs::read_to_string(case.join("Dockerfile")) else { continue };
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .filter(|l| !l.is_empty() && !l[0].starts_with('#'))
            .collect();
        let simple = lines.iter().enumerate().all(|(i, l)| match l[0] {
            "FROM" => i == 0 && l == &["FROM", "scratch"],
            "COPY" | "ADD" => {
                !l.iter().any(|w| w.contains("--from") || w.contains(['$', '<', '"', '\'', '[']))
            }
            "WORKDIR" | "ENV" => l[0] == "WORKDIR",
            _ => false,
        });
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(case.join("expected.json")).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let unpacked = std::process::Command::new("tar")
            .arg("-C")
            .arg(folder.path())
            .arg("-xpf")
            .arg(case.join("context.tar"))
            .status();
        if !simple || !unpacked.unwrap().success() || folder.path().join(".dockerignore").exists() {
            continue;
        }
        ran += 1;
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        match (run_recorded(folder.path(), &lines), expected["status"] == "ok") {
            (Ok(tree), true) => {
                let got: Vec<String> =
                    tree.nodes().filter(|n| !n.entry.path.is_root()).map(|n| attributes(n.entry)).collect();
                let want: Vec<String> =
                    expected["set"].as_object().unwrap().iter().map(|(p, v)| recorded(p, v)).collect();
                let (mut got, mut want) = (got, want);
                got.sort();
                want.sort();
                if got != want {
                    failed.push(format!("{name}:\n got {got:#?}\nwant {want:#?}"));
                }
            }
            (Err(e), true) => failed.push(format!("{name}: {e}")),
            (Ok(_), false) => failed.push(format!("{name}: should fail")),
            (Err(_), false) => {}
        }
    }
    println!("{ran} recorded cases");
    assert!(failed.is_empty() && ran > 10, "{}", failed.join("\n"));
}

fn attributes(entry: &Entry) -> String {
    let (kind, mode) = match &entry.kind {
        EntryKind::Hardlink { .. } | EntryKind::File { .. } => ("file", entry.mode),
        EntryKind::Directory => ("dir", entry.mode),
        EntryKind::Symlink { .. } => ("symlink", 0o777),
        other => (other.name(), entry.mode),
    };
    let digest = entry.digest().map(|d| d.hex().to_owned()).unwrap_or_default();
    format!("{} {kind} {mode:o} {}:{} {digest}", entry.path, entry.uid, entry.gid)
}

fn recorded(path: &str, value: &serde_json::Value) -> String {
    let mode = value["mode"].as_str().unwrap().trim_start_matches("0o");
    let digest = value["sha256"].as_str().unwrap_or_default();
    format!("{path} {} {mode} {}:{} {digest}", value["type"].as_str().unwrap(), value["uid"], value["gid"])
}

fn run_recorded(folder: &Path, lines: &[Vec<&str>]) -> Result<TreeIndex> {
    let root = Arc::new(SourceRoot::open(folder, SourceKind::Context, None)?);
    let mut tree = TreeIndex::new(Vec::new());
    let scratch = tempfile::tempdir().map_err(Error::from)?;
    let mut working = "/".to_owned();
    for line in lines.iter().skip(1) {
        let mut planner = Planner::new(&tree, FileTime::of(0)).with_scratch(scratch.path());
        if line[0] == "WORKDIR" {
            working = destination_path(&working, line[1]).trim_end_matches('/').to_owned();
            planner.make_directory(&working, 0o755, None)?;
        } else {
            let (flags, words): (Vec<&str>, Vec<&str>) = line[1..].iter().partition(|w| w.starts_with("--"));
            let (last, sources) = words.split_last().unwrap();
            let mut spec = CopySpec::new(sources.iter().copied(), destination_path(&working, last));
            spec.unpack = line[0] == "ADD";
            let mut exclude = Vec::new();
            for flag in flags {
                match flag.split_once('=').unwrap_or((flag, "")) {
                    ("--parents", _) => spec.parents = true,
                    ("--exclude", pattern) => exclude.push(pattern),
                    ("--chown", owner) => {
                        spec.chown = Some(crate::layer::resolve_owner(owner, None, None).owner)
                    }
                    ("--chmod", mode) => spec.chmod = Some(ModeChange::parse(mode)?),
                    other => panic!("{other:?}"),
                }
            }
            spec.exclude = PatternList::new(exclude)?;
            planner.copy(&root, &spec)?;
        }
        let mut writer = LayerWriter::new(Vec::new(), None);
        planner.finish().write(&mut writer)?;
        tree.push(Arc::new(writer.finish()?.1));
    }
    Ok(tree)
}
