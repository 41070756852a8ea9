//! House rules that no compiler lint knows.
//!
//! - the top level holds only what [`TOP_LEVEL`] lists;
//! - each `.rs` file opens with a `//!` header;
//! - no `.rs` or `.py` file is longer than [`LINES`] lines, and no command of the CLI longer than [`COMMAND_LINES`];
//! - no unfinished business and no path of somebody's machine in any text file;
//! - no function is longer than a hundred lines ([`functions`]);
//! - the rooms of hyper-sdk import in one direction, and the pages that list them agree ([`rooms`]);
//! - no modules name each other in a circle ([`circles`]);
//! - the SDK's messages name no flag of the command line ([`words`]);
//! - every row of the table of the language names tests that exist ([`language_table`]);
//! - every link between documents leads somewhere ([`links`]), and every path that they name exists ([`paths`]);
//! - every public trait, exported macro and entry point has an example that is compiled ([`doc_examples`]);
//! - every dependency is used, and a crate that needs a part of hyper-sdk takes only that part ([`dependencies`]);
//! - the examples are built with the versions of `Cargo.lock` ([`locks`]);
//! - the SDK reads neither the environment nor a home folder, and the adapters do not depend on each other.

mod circles;
mod dependencies;
mod doc_examples;
mod functions;
mod language_table;
mod links;
mod locks;
mod paths;
mod rooms;
mod rust;
mod words;

use crate::repository;
use std::path::Path;

/// The longest source file, in lines.
const LINES: usize = 600;

/// The longest file of a command of the CLI: arguments and a call of the SDK.
const COMMAND_LINES: usize = 250;

/// What may lie at the top level.
const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".dockerignore",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "bindings",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docs",
    "examples",
    "fuzz",
    "hyper-cli",
    "hyper-sdk",
    "hyper-server",
    "rustfmt.toml",
    "xtask",
];

/// Words that mark unfinished business. Written in halves so that this file does not trip over itself.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("#[ign", "ore"),
];

/// Absolute folders that exist on one machine only.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/fa", "rm/")];

/// Which crates may name which: an adapter never depends on another, except the CLI on the server's library.
const ADAPTERS: &[(&str, &[&str])] = &[
    ("hyper-sdk", &["hyper-server", "hyper-cli", "hyper-python"]),
    ("hyper-server", &["hyper-cli", "hyper-python"]),
    ("hyper-cli", &["hyper-python"]),
    ("bindings/python", &["hyper-cli"]),
];

/// Runs every rule and lists every breach.
pub(crate) fn run() -> Result<(), String> {
    let mut breaches = Vec::new();
    let files = repository::files()?;
    let mut texts = Vec::new();
    for file in &files {
        layout(file, &mut breaches);
        // Test data is data: golden inputs may hold anything.
        if file
            .components()
            .any(|c| matches!(c.as_os_str().to_str(), Some("fixtures" | "testdata" | "corpus")))
        {
            continue;
        }
        let bytes = std::fs::read(repository::root().join(file))
            .map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            one_file(file, &text, &mut breaches);
            texts.push((file.as_path(), text));
        }
    }
    rooms::check(&texts, &mut breaches);
    circles::check(&texts, &mut breaches);
    let page = words::reference(&texts, &mut breaches);
    for (file, text) in texts.iter().filter(|(file, _)| file.extension().is_some_and(|e| e == "rs")) {
        let source = rust::read(text);
        functions::check(file, &source, &mut breaches);
        words::check(file, &source, &page, &mut breaches);
    }
    language_table::check(&mut breaches);
    links::check(&texts, &mut breaches);
    paths::check(&texts, &mut breaches);
    doc_examples::check(&texts, &mut breaches);
    locks::check(&texts, &mut breaches);
    dependencies::check(&texts, &mut breaches);
    for (crate_folder, forbidden) in ADAPTERS {
        let manifest = repository::root().join(crate_folder).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).unwrap_or_default();
        for name in *forbidden {
            if text.lines().any(|l| l.starts_with(name) && l[name.len()..].starts_with(['.', ' ', '='])) {
                breaches.push(format!("{crate_folder}/Cargo.toml: must not depend on {name}"));
            }
        }
    }
    if breaches.is_empty() {
        println!("tidy: {} files", files.len());
        return Ok(());
    }
    Err(format!("the house rules are broken in {} places:\n  {}", breaches.len(), breaches.join("\n  ")))
}

fn layout(file: &Path, breaches: &mut Vec<String>) {
    let first = file.components().next().and_then(|c| c.as_os_str().to_str()).unwrap_or_default();
    if !TOP_LEVEL.contains(&first) {
        breaches.push(format!("{}: `{first}` is no part of the top level", file.display()));
    }
}

fn one_file(file: &Path, text: &str, breaches: &mut Vec<String>) {
    let name = file.display();
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let is_lock = file.file_name().is_some_and(|n| n == "Cargo.lock");
    let lines = text.lines().count();
    let most = if file.starts_with("hyper-cli/src/commands") { COMMAND_LINES } else { LINES };
    if matches!(extension, "rs" | "py") && lines > most {
        breaches.push(format!("{name}: {lines} lines, more than {most}: split it by concept"));
    }
    if extension == "rs" && !text.starts_with("//!") {
        breaches.push(format!("{name}: does not open with a `//!` header"));
    }
    if is_lock || file.starts_with("LICENSE") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if let Some(word) = UNFINISHED.iter().find(|w| has_word(line, w)) {
            breaches.push(format!("{name}:{number}: unfinished business: `{word}`"));
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|p| has_absolute(line, p)) {
            breaches.push(format!("{name}:{number}: a path of one machine: `{path}`"));
        }
    }
}

/// Whether a line has the word, not as a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let inner = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let after = line[at + word.len()..].chars().next();
        !inner(line[..at].chars().next_back()) && (word.ends_with('(') || !inner(after))
    })
}

/// Whether a line has the path, not as the middle of a longer one.
fn has_absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '}' | '*'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(has_word(concat!("// TO", "DO: x"), UNFINISHED[0]));
        assert!(!has_word(concat!("MASTO", "DON"), UNFINISHED[0]));
        assert!(has_word(concat!("    todo", "!()"), UNFINISHED[3]));
    }

    #[test]
    fn absolute_paths_are_not_parts_of_others() {
        assert!(has_absolute(concat!("\"/wo", "rk/x\""), MACHINE_PATHS[0]));
        assert!(!has_absolute(concat!("target/wo", "rk/x"), MACHINE_PATHS[0]));
    }

    #[test]
    fn each_rule_reports() {
        let mut breaches = Vec::new();
        one_file(Path::new("a.rs"), &"fn a() {}\n".repeat(LINES + 1), &mut breaches);
        layout(Path::new("stray.txt"), &mut breaches);
        let command = format!("//! x\n{}", "fn a() {}\n".repeat(COMMAND_LINES));
        one_file(Path::new("hyper-cli/src/commands/x/y.rs"), &command, &mut breaches);
        one_file(Path::new("hyper-cli/src/cli.rs"), &command, &mut breaches);
        assert_eq!(breaches.len(), 4, "{breaches:?}");
    }
}
