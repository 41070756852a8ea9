//! Paths in the documents: a file or a folder of the repository that a page names in code exists.
//!
//! In [`MAP`], where a newcomer looks for the place of a change, every path counts, also one that begins within hyper-sdk
//! or beside the path before it. Elsewhere those count that begin with a folder of the top level.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The page and its section that say where a change goes.
const MAP: (&str, &str) = ("docs/architecture.md", "## Where a change goes");
const SDK: &str = "hyper-sdk/src";

/// Stands for a name that the reader chooses.
const PLACEHOLDER: &str = "NAME";

/// The top-level folders whose paths are checked on every page.
const FOLDERS: &[&str] = &[
    "benches",
    "bindings",
    "deploy",
    "docs",
    "examples",
    "fuzz",
    "hyper-cli",
    "hyper-sdk",
    "hyper-server",
    "xtask",
];

/// What is made when the fuzz targets run.
const MADE: &[&str] = &["fuzz/corpus"];

/// Checks every Markdown page but the list of changes, which speaks of what was.
pub(super) fn check(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    let mut known = BTreeSet::new();
    for (file, _) in files {
        known.extend(file.ancestors().map(Path::to_path_buf));
    }
    let is_page =
        |file: &Path| file.extension().is_some_and(|e| e == "md") && file != Path::new("CHANGELOG.md");
    for (file, text) in files.iter().filter(|(file, _)| is_page(file)) {
        one_page(file, text, &known, breaches);
    }
}

fn one_page(file: &Path, text: &str, known: &BTreeSet<PathBuf>, breaches: &mut Vec<String>) {
    let mut section = "";
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        if line.starts_with("## ") {
            section = line;
        }
        let in_map = file == Path::new(MAP.0) && section == MAP.1;
        let mut last = PathBuf::new();
        for code in line.split('`').skip(1).step_by(2) {
            if !is_path(code, in_map) {
                continue;
            }
            // What a placeholder names is not there yet; its folder is.
            let place = Path::new(code.find(PLACEHOLDER).map_or(code, |at| &code[..at]));
            let mut bases = vec![Path::new("")];
            if in_map {
                bases.push(Path::new(SDK));
                bases.extend(last.ancestors().filter(|folder| !folder.as_os_str().is_empty()));
            }
            let found = bases.into_iter().map(|base| base.join(place)).find(|path| known.contains(path));
            match found {
                Some(path) => last = path,
                None => breaches.push(format!(
                    "{}:{}: names `{code}`, and there is no such file or folder",
                    file.display(),
                    number + 1
                )),
            }
        }
    }
}

/// Whether a piece of code is a path of the repository.
fn is_path(code: &str, in_map: bool) -> bool {
    let has_only = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if !code.chars().all(has_only) || code.starts_with('/') || MADE.iter().any(|made| code.starts_with(made))
    {
        return false;
    }
    let first = code.split('/').next().unwrap_or_default();
    let is_file = |ending: &str| code.ends_with(ending);
    match in_map {
        true => code.contains('/') || [".md", ".pyi", ".rs", ".toml"].into_iter().any(is_file),
        false => code.contains('/') && FOLDERS.contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(page: &str, text: &str) -> Vec<String> {
        let files = [
            ("hyper-sdk/src/store/kinds.rs", ""),
            ("hyper-sdk/src/store/blob/mod.rs", ""),
            ("hyper-server/src/config.rs", ""),
            ("hyper-server/src/cli.rs", ""),
            (page, text),
        ];
        let files = files.map(|(file, text)| (Path::new(file), text.to_owned()));
        let mut out = Vec::new();
        check(&files, &mut out);
        out
    }

    #[test]
    fn paths_of_the_map_exist() {
        let map = |row: &str| breaches(MAP.0, &format!("# A\n\n{}\n\n{row}\n", MAP.1));
        for good in [
            "`store/kinds.rs` and `hyper-server/src/config.rs` and `cli.rs` beside it",
            "`store/blob/NAME` (a `BlobBackend`), `hyper-sdk/src/store`, `kinds.rs`, `cargo xtask tidy`, `/etc/x`",
        ] {
            assert!(map(good).is_empty(), "{:?}", map(good));
        }
        for bad in
            ["`store/kind.rs`", "`cli.rs`", "`store/bolb/NAME`", "`hyper-server/src/config.rs`, `clo.rs`"]
        {
            assert_eq!(map(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn elsewhere_paths_from_the_top_exist() {
        for good in
            ["`uploads/x.put` `hyper-sdk/src/store` `hyper.db`", "```\nhyper-sdk/`x/y`\n```\n", "`docs/a.md`"]
        {
            assert!(breaches("docs/a.md", good).is_empty(), "{good}");
        }
        assert_eq!(breaches("docs/a.md", "`hyper-sdk/src/stores`").len(), 1);
        assert!(breaches("CHANGELOG.md", "`hyper-sdk/src/stores`").is_empty());
    }
}
