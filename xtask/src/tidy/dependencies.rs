//! Dependencies: each that a crate declares is used, and a crate that needs a part of hyper-sdk takes only that part.

use crate::repository;
use std::path::Path;
use std::process::Command;

/// Crates of which a build of this package must be free, because only other parts of hyper-sdk need them.
struct Free {
    package: &'static str,
    arguments: &'static [&'static str],
    of: &'static [&'static str],
}

const BUILD_ONLY: &[&str] =
    &["bzip2", "flate2", "libdeflater", "liblzma", "seccompiler", "serde-saphyr", "tar", "zstd"];

const FREE: &[Free] = &[
    Free { package: "hyper-server", arguments: &[], of: BUILD_ONLY },
    Free { package: "hyper-server", arguments: &["--no-default-features"], of: &["reqwest"] },
    Free {
        package: "hyper-sdk",
        arguments: &["--no-default-features", "--features", "client,store-sql"],
        of: BUILD_ONLY,
    },
    Free {
        package: "hyper-sdk",
        arguments: &["--no-default-features", "--features", "store-sql"],
        of: &["reqwest", "rustls", "sqlx-postgres"],
    },
    Free { package: "hyper-sdk", arguments: &["--no-default-features"], of: &["reqwest", "rustls", "sqlx"] },
];

/// Checks every manifest of the workspace, and the trees of [`FREE`].
pub(super) fn check(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    for (manifest, text) in files.iter().filter(|(file, _)| file.ends_with("Cargo.toml")) {
        let folder = manifest.parent().unwrap_or(Path::new(""));
        let is_source = |file: &Path| file.starts_with(folder) && file.extension().is_some_and(|e| e == "rs");
        let sources: Vec<&str> =
            files.iter().filter(|(file, _)| is_source(file)).map(|(_, text)| text.as_str()).collect();
        for name in unused(text, &sources) {
            breaches.push(format!("{}: nothing uses the dependency `{name}`", manifest.display()));
        }
    }
    for free in FREE {
        let tree = repository::output(
            Command::new("cargo")
                .args(["tree", "--locked", "--quiet", "--edges", "normal", "--prefix", "none", "--package"])
                .arg(free.package)
                .args(free.arguments),
        );
        match tree {
            Ok(tree) => {
                for name in found(&tree, free.of) {
                    breaches.push(format!(
                        "{} {}: depends on `{name}`, which only other parts of hyper-sdk need",
                        free.package,
                        free.arguments.join(" ")
                    ));
                }
            }
            Err(why) => breaches.push(why),
        }
    }
}

/// Which of these crates a list of `cargo tree` names.
fn found<'a>(tree: &str, names: &[&'a str]) -> Vec<&'a str> {
    let has = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    names.iter().copied().filter(|name| has(name)).collect()
}

/// The dependencies of a manifest that none of the crate's sources names.
fn unused<'a>(manifest: &'a str, sources: &[&str]) -> Vec<&'a str> {
    let mut in_table = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_table =
                matches!(line.trim(), "[dependencies]" | "[dev-dependencies]" | "[build-dependencies]");
        } else if in_table && line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            names.extend(line.split(['.', ' ', '=']).next());
        }
    }
    let is_used = |name: &str| {
        let name = name.replace('-', "_");
        sources.iter().any(|text| {
            text.lines().any(|line| !line.trim_start().starts_with("//") && names_crate(line, &name))
        })
    };
    names.retain(|name| !is_used(name));
    names
}

/// Whether a line of Rust names the crate: `name::`, `use name;`, `use name as …`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let starts = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        starts
            && (after.starts_with("::")
                || (before.trim_end().ends_with("use") && after.starts_with([';', ' '])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_dependencies_are_found() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\ntar = \"1\"\nserde-json.workspace = true\nhttp = \"1\"\nurl = \"2\"\n[lints]\nworkspace = true\n";
        let sources = [
            "use tar;\n// http::Method is only spoken of\nlet a = serde_json::Value::Null;\nlet b = my_url::x();",
        ];
        assert_eq!(unused(manifest, &sources), ["http", "url"]);
    }

    #[test]
    fn a_tree_is_searched_by_whole_names() {
        let tree = "hyper-server v0.1.0\ntar-like v1.0.0\nzstd v0.14.0 (*)\n";
        assert_eq!(found(tree, &["tar", "zstd"]), ["zstd"]);
    }
}
