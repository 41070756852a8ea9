//! Examples in the documentation: every public trait, exported macro and entry point has one that its tests compile.

use super::rust;
use std::path::Path;

/// The crates whose documentation is for programs outside of this repository.
const LIBRARIES: &[&str] = &["hyper-sdk/src", "hyper-server/src", "hyper-cli/src"];

/// Where programs begin, beside traits: types and functions by their names.
const ENTRY_POINTS: &[(&str, &[&str])] = &[
    (
        "hyper-sdk/src",
        &[
            // Builds.
            "Session",
            "LocalBuilder",
            "LocalBuilderOptions",
            "DryRun",
            "BuildRequest",
            "JsonFrontend",
            "Graph",
            "Progress",
            "Error",
            "init",
            "start",
            "HelperCommand",
            "Sandbox",
            "parse",
            "lint",
            // Registries.
            "HttpClient",
            "Loopback",
            "Layout",
            "OciClient",
            "ClientFactory",
            "StaticKeychain",
            "DockerConfig",
            "Artifact",
            "push",
            "pull",
            "copy",
            // Stores and what is in them.
            "MemoryStore",
            "DiskStore",
            "Composed",
            "ReadOnly",
            "Cached",
            "Digest",
            "Reference",
            "Platform",
            "LayerReader",
            "LayerWriter",
            "LayoutWriter",
            // Tests.
            "FakeExecutor",
            "PlainSnapshotter",
            "RandomImage",
            "fake_builder",
        ],
    ),
    (
        "hyper-server/src",
        &["Registry", "router", "serve", "Server", "RegistryOptions", "Challenge", "Principal"],
    ),
    ("hyper-cli/src", &["Cli"]),
];

/// What an item is, by the words before its name.
const ITEMS: &[&str] =
    &["pub struct ", "pub enum ", "pub type ", "pub fn ", "pub async fn ", "pub const fn "];
const TRAITS: &[&str] = &["pub trait ", "pub unsafe trait "];

/// Checks the sources, and the Markdown pages whose code blocks are tests.
pub(super) fn check(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    check_entry_points(files, ENTRY_POINTS, breaches);
    for (file, text) in files {
        if file.extension().is_some_and(|e| e == "rs" || e == "md") {
            never_compiled(file, text, breaches);
        }
        if LIBRARIES.iter().any(|library| file.starts_with(library)) {
            one_library_file(file, text, breaches);
        }
    }
}

fn one_library_file(file: &Path, text: &str, breaches: &mut Vec<String>) {
    // What is in a literal or in another comment is no item.
    let code = rust::read(text).code;
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in code.lines().enumerate() {
        let is_trait = name_after(line, TRAITS).map(|name| format!("the trait `{name}`"));
        let is_macro = name_after(line, &["macro_rules! "])
            .filter(|_| above(&lines, at).any(|line| line.starts_with("#[macro_export]")))
            .map(|name| format!("the macro `{name}!`"));
        if let Some(item) = is_trait.or(is_macro)
            && !has_example(above(&lines, at))
        {
            let name = file.display();
            breaches.push(format!("{name}:{}: {item} has no example in its documentation", at + 1));
        }
    }
}

fn check_entry_points(
    files: &[(&Path, String)],
    entry_points: &[(&str, &[&str])],
    breaches: &mut Vec<String>,
) {
    for (library, names) in entry_points {
        for name in *names {
            let mut found = false;
            let mut shown = false;
            for (_, text) in files.iter().filter(|(file, _)| file.starts_with(library)) {
                let lines: Vec<&str> = text.lines().collect();
                let is_item = |line: &str| !line.starts_with(' ') && name_after(line, ITEMS) == Some(name);
                let places = (0..lines.len()).filter(|at| is_item(lines[*at]));
                for at in places {
                    found = true;
                    let header = lines.iter().copied().take_while(|line| line.starts_with("//!"));
                    shown |= has_example(above(&lines, at)) || has_example(header);
                }
            }
            if !found {
                breaches.push(format!(
                    "{library}: there is no public `{name}`, which xtask/src/tidy/doc_examples.rs names"
                ));
            } else if !shown {
                breaches
                    .push(format!("{library}: the entry point `{name}` has no example in its documentation"));
            }
        }
    }
}

/// The name of the item that a line begins, if it is one of these.
fn name_after<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let line = line.trim_start();
    let rest = keywords.iter().find_map(|keyword| line.strip_prefix(keyword))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The documentation and the attributes above an item, from the first line on.
fn above<'a>(lines: &[&'a str], at: usize) -> impl Iterator<Item = &'a str> {
    let is_of_item =
        |line: &&&str| line.trim_start().starts_with("///") || line.trim_start().starts_with("#[");
    let count = lines[..at].iter().rev().take_while(is_of_item).count();
    lines[at - count..at].iter().map(|line| line.trim_start()).collect::<Vec<_>>().into_iter()
}

/// Whether lines of documentation have a code block that is compiled.
fn has_example<'a>(lines: impl Iterator<Item = &'a str>) -> bool {
    fences(lines).any(|language| {
        let is_rust = |word: &str| matches!(word, "" | "rust" | "no_run" | "should_panic");
        language.split(',').all(|word| is_rust(word.trim()))
    })
}

/// What stands behind the opening fences of code blocks.
fn fences<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    lines.filter_map(move |line| {
        let line = line.trim_start();
        let line = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).unwrap_or(line);
        let language = line.trim_start().strip_prefix("```")?;
        inside = !inside;
        inside.then_some(language.trim())
    })
}

/// Code blocks of Rust that no test compiles.
fn never_compiled(file: &Path, text: &str, breaches: &mut Vec<String>) {
    let is_documentation = |line: &&str| {
        let line = line.trim_start();
        file.extension().is_some_and(|e| e == "md") || line.starts_with("///") || line.starts_with("//!")
    };
    for language in fences(text.lines().filter(is_documentation)) {
        if language.split(',').any(|word| word.trim() == "ignore") {
            breaches.push(format!("{}: no test compiles the code block `{language}`", file.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(text: &str) -> Vec<String> {
        let mut breaches = Vec::new();
        check(&[(Path::new("hyper-sdk/src/a.rs"), text.to_owned())], &mut breaches);
        breaches.retain(|breach| !breach.contains("entry point") && !breach.contains("there is no public"));
        breaches
    }

    #[test]
    fn a_public_trait_needs_an_example() {
        for good in [
            "//! x\n/// A.\n///\n/// ```\n/// let a = 1;\n/// ```\n#[async_trait]\npub trait A {}\n",
            "//! x\n/// ```rust,no_run\n/// let a = 1;\n/// ```\n    pub unsafe trait A {}\n",
            "//! x\n/// ```text\n/// a\n/// ```\n/// ```no_run\n/// let a = 1;\n/// ```\npub trait A {}\n",
            "//! x\npub(crate) trait A {}\ntrait B {}\n// pub trait C\nconst D: &str = \"\npub trait D\";\n",
        ] {
            assert!(breaches(good).is_empty(), "{good}: {:?}", breaches(good));
        }
        for bad in [
            "//! x\n/// A.\npub trait A {}\n",
            "//! x\n//! ```\n//! ```\n\npub trait A {}\n",
            "//! x\n/// ```text\n/// a\n/// ```\npub trait A {}\n",
            "//! x\n/// ```\n/// let a = 1;\n/// ```\nstruct B;\n\npub unsafe trait A {}\n",
        ] {
            assert_eq!(breaches(bad).len(), 1, "{bad}: {:?}", breaches(bad));
        }
    }

    #[test]
    fn an_exported_macro_needs_an_example() {
        assert!(breaches("//! x\nmacro_rules! a {}\n").is_empty());
        assert!(
            breaches("//! x\n/// ```\n/// a!();\n/// ```\n#[macro_export]\nmacro_rules! a {}\n").is_empty()
        );
        assert_eq!(breaches("//! x\n/// A.\n#[macro_export]\nmacro_rules! a {}\n").len(), 1);
    }

    #[test]
    fn an_entry_point_needs_an_example() {
        let check = |text: &str| {
            let mut breaches = Vec::new();
            let files = [(Path::new("hyper-sdk/src/a.rs"), text.to_owned())];
            check_entry_points(&files, &[("hyper-sdk/src", &["start"])], &mut breaches);
            breaches
        };
        assert!(check("//! x\n/// ```\n/// a::start();\n/// ```\npub async fn start() {}\n").is_empty());
        assert!(check("//! x\n//! ```\n//! a::start();\n//! ```\n\npub fn start<T>() {}\n").is_empty());
        assert!(check("//! x\npub fn start() {}\n")[0].contains("has no example"));
        assert!(check("//! x\npub fn started() {}\n")[0].contains("there is no public `start`"));
    }

    #[test]
    fn a_code_block_that_nothing_compiles_is_reported() {
        let bad = concat!("//! x\n//! ```", "ignore\n//! a\n//! ```\n");
        assert_eq!(breaches(bad).len(), 1);
        let mut breaches = Vec::new();
        never_compiled(Path::new("docs/a.md"), concat!("# A\n```rust,", "ignore\na\n```\n"), &mut breaches);
        assert_eq!(breaches.len(), 1);
    }
}
