//! No circle of modules: a module that names another one is not named by it, over however many steps.
//!
//! A module is a file. It names the module that *defines* an item, also where it takes it from a re-export: `pub use` of
//! a child is no import. What a module's parents define is its own, as Rust has it: a folder and its `mod.rs` are one
//! thing. Code for tests, and the conformance suites, do not count.

use super::rust::{self, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The crates that are free of circles.
const CRATES: &[&str] = &["hyper-sdk", "hyper-server", "hyper-cli"];

type Name = Vec<String>;

/// One file, as far as names go.
#[derive(Debug, Default)]
struct Module {
    /// What a name that `use` brought in stands for.
    names: BTreeMap<String, Name>,
    /// Modules whose names were all brought in.
    globs: Vec<Name>,
    /// What it names: the paths of its code, and what it imports for itself.
    paths: BTreeSet<Name>,
    /// What it defines.
    defines: BTreeSet<String>,
}

/// Checks [`CRATES`].
pub(super) fn check(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    for name in CRATES {
        let source = Path::new(name).join("src");
        let of_crate = files
            .iter()
            .filter_map(|(file, text)| Some((module_name(file.strip_prefix(&source).ok()?)?, text.as_str())));
        for circle in circles(of_crate) {
            breaches.push(format!("{name}: modules name each other in a circle: {circle}"));
        }
    }
}

/// The path of a module by its file; `None` for programs and what is no Rust.
fn module_name(file: &Path) -> Option<Name> {
    let mut parts: Name = file.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if file.extension()? != "rs" || parts[0] == "bin" || parts == ["main"] {
        return None;
    }
    if parts == ["lib"] || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    Some(parts)
}

fn circles<'a>(files: impl Iterator<Item = (Name, &'a str)>) -> Vec<String> {
    let (mut modules, mut test_modules) = (BTreeMap::new(), Vec::new());
    for (name, text) in files {
        let source = rust::read(text);
        let (all, mut for_tests) = (rust::tokens(&source.code), Vec::new());
        let kept = rust::without_tests(&all, &mut for_tests);
        test_modules.extend(for_tests.into_iter().map(|child| [&name[..], &[child.to_owned()]].concat()));
        modules.insert(name, Module::read(&kept));
    }
    modules.retain(|name, _| {
        !name.iter().any(|part| part == "conformance")
            && !test_modules.iter().any(|test| name.starts_with(test))
    });
    let house = House { modules };
    let edges: BTreeMap<&Name, BTreeSet<Name>> = house
        .modules
        .iter()
        .map(|(name, module)| {
            let named = module.paths.iter().filter_map(|path| house.resolve(name, path, 0));
            // A parent's names are a module's own.
            (name, named.filter(|other| !name.starts_with(other)).collect())
        })
        .collect();
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for start in house.modules.keys() {
        if told.contains(start) {
            continue;
        }
        if let Some(circle) = circle_of(start, &edges) {
            told.extend(circle.iter().cloned());
            let names: Vec<String> = circle.iter().chain([start]).map(|name| name.join("/")).collect();
            found.push(names.join(" → "));
        }
    }
    found
}

/// The shortest way from a module to itself.
fn circle_of(start: &Name, edges: &BTreeMap<&Name, BTreeSet<Name>>) -> Option<Vec<Name>> {
    let mut came_from: BTreeMap<&Name, &Name> = BTreeMap::new();
    let mut layer = vec![start];
    while !layer.is_empty() {
        let mut next = Vec::new();
        for at in layer {
            for to in edges.get(at).into_iter().flatten() {
                if to == start {
                    let mut circle = vec![at.clone()];
                    while circle[circle.len() - 1] != *start {
                        circle.push(came_from[&circle[circle.len() - 1]].clone());
                    }
                    circle.reverse();
                    return Some(circle);
                }
                if !came_from.contains_key(to) {
                    came_from.insert(to, at);
                    next.push(to);
                }
            }
        }
        layer = next;
    }
    None
}

impl Module {
    fn read(tokens: &[Token<'_>]) -> Self {
        let mut module = Self::default();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
            match token.text {
                "use" => {
                    let end = rust::item_end(tokens, at).max(at + 1);
                    // The braces of a list are no body.
                    let end =
                        tokens[at..].iter().position(|t| t.text == ";").map_or(end, |length| at + length);
                    let is_public = before == "pub" || before == ")";
                    module.take_use(&tokens[at + 1..end], &[], is_public);
                    at = end;
                    continue;
                }
                "struct" | "enum" | "fn" | "trait" | "const" | "type" | "static" | "mod" | "union" => {
                    if let Some(name) = tokens.get(at + 1) {
                        module.defines.insert(name.text.to_owned());
                    }
                }
                word if is_name(word) && !["::", ".", "$", "'"].contains(&before) => {
                    let length = path_length(&tokens[at..]);
                    if length > 1 {
                        let path = &tokens[at..at + length];
                        module.paths.insert(
                            path.iter().map(|t| t.text).filter(|t| *t != "::").map(str::to_owned).collect(),
                        );
                        at += length;
                        continue;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        module
    }

    /// Takes in one tree of a `use`.
    fn take_use(&mut self, tree: &[Token<'_>], prefix: &[String], is_public: bool) {
        let mut path = prefix.to_vec();
        let mut at = 0;
        while let Some(token) = tree.get(at) {
            match token.text {
                "{" => {
                    let end = rust::closing(tree, at);
                    let mut start = at + 1;
                    while start < end {
                        let mut stop = start;
                        while stop < end && tree[stop].text != "," {
                            stop = if tree[stop].text == "{" { rust::closing(tree, stop) } else { stop } + 1;
                        }
                        self.take_use(&tree[start..stop], &path, is_public);
                        start = stop + 1;
                    }
                    return;
                }
                "*" => return self.globs.push(path),
                "as" => {
                    let name = tree.get(at + 1).map_or("_", |t| t.text).to_owned();
                    return self.take_name(name, path, is_public);
                }
                "::" | "self" if !(path.is_empty() && token.text == "self") => {}
                word => path.push(word.to_owned()),
            }
            at += 1;
        }
        if let Some(name) = path.last().cloned() {
            self.take_name(name, path, is_public);
        }
    }

    fn take_name(&mut self, name: String, path: Name, is_public: bool) {
        if !is_public {
            self.paths.insert(path.clone());
        }
        self.names.insert(name, path);
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// How many tokens a path has that begins here.
fn path_length(tokens: &[Token<'_>]) -> usize {
    let mut length = 1;
    while let [separator, name, ..] = &tokens[length..]
        && separator.text == "::"
        && is_name(name.text)
    {
        length += 2;
    }
    length
}

struct House {
    modules: BTreeMap<Name, Module>,
}

impl House {
    /// The module that defines what a path of another module names; `None` for what is outside of the crate.
    fn resolve(&self, from: &Name, path: &[String], depth: usize) -> Option<Name> {
        let first = path.first().filter(|_| depth < 20)?;
        let (mut at, mut rest) = (from.clone(), path);
        match first.as_str() {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            name if self.modules.contains_key(&child(from, name)) => {}
            name => {
                let meaning = self.modules.get(from)?.names.get(name)?;
                let is_itself = meaning.len() == 1 && meaning[0] == *name;
                return (!is_itself)
                    .then(|| self.resolve(from, &[meaning, &path[1..]].concat(), depth + 1))?;
            }
        }
        while let Some(name) = rest.first() {
            if self.modules.contains_key(&child(&at, name)) {
                (at, rest) = (child(&at, name), &rest[1..]);
                continue;
            }
            let module = self.modules.get(&at)?;
            if let Some(meaning) = module.names.get(name) {
                return self.resolve(&at, &[meaning, &rest[1..]].concat(), depth + 1);
            }
            let globbed = module.globs.iter().filter_map(|glob| self.resolve(&at, glob, depth + 1));
            let defines = |other: &Name| self.modules.get(other).is_some_and(|m| m.defines.contains(name));
            return globbed.filter(|other| *other != at).find(defines).or(Some(at));
        }
        Some(at)
    }
}

fn child(of: &Name, name: &str) -> Name {
    [&of[..], &[name.to_owned()]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        circles(files.iter().map(|(file, text)| (module_name(Path::new(file)).unwrap(), *text)))
    }

    #[test]
    fn circles_of_siblings_are_found_through_re_exports() {
        let files = [
            ("lib.rs", "pub mod a;\npub mod b;\n"),
            ("a/mod.rs", "mod deep;\npub use deep::Deep;\n"),
            ("a/deep.rs", "pub struct Deep;\nfn f() { crate::b::g() }\n"),
            ("b.rs", "use crate::a::{self, Deep as D};\npub fn g() {}\n"),
        ];
        assert_eq!(found(&files), ["a/deep → b → a/deep"]);
    }

    #[test]
    fn a_child_may_use_what_its_parents_define() {
        let parent = "mod child;\nmod other;\nuse child::run;\npub(super) struct Shared;\n";
        let child = "use super::Shared;\npub(super) fn run(_: Shared) {}\n";
        assert!(found(&[("a.rs", parent), ("a/child.rs", child), ("a/other.rs", "")]).is_empty());
        let child = "use super::{Shared, other::go};\npub(super) fn run(_: Shared) {}\n";
        let other = "use super::run;\npub(super) fn go() { run() }\n";
        let files = [("a.rs", parent), ("a/child.rs", child), ("a/other.rs", other)];
        assert_eq!(found(&files), ["a/child → a/other → a/child"]);
    }

    #[test]
    fn tests_suites_and_other_crates_do_not_count() {
        let files = [
            ("a.rs", "use serde::b;\npub fn f() {}\n#[cfg(test)]\nmod tests { use crate::b::g; }\n"),
            ("b.rs", "use crate::a::f;\npub fn g() { f(); a::b::c() }\n#[cfg(test)]\nmod more;\n"),
            ("b/more.rs", "use crate::c::h;\n"),
            ("c.rs", "mod conformance;\npub fn h() { crate::b::g() }"),
            ("c/conformance/mod.rs", "use crate::c::h;\n"),
        ];
        assert!(found(&files).is_empty(), "{:?}", found(&files));
    }
}
