//! The lock files: the examples are built with the versions that the library is tested with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const LIBRARY: &str = "Cargo.lock";
const EXAMPLES: &str = "examples/Cargo.lock";

/// Compares the two.
pub(super) fn check(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    let text = |name: &str| files.iter().find(|(file, _)| *file == Path::new(name)).map(|(_, text)| text);
    let (Some(library), Some(examples)) = (text(LIBRARY), text(EXAMPLES)) else {
        breaches.push(format!("{LIBRARY} or {EXAMPLES} is not there"));
        return;
    };
    let library = versions(library);
    for (name, found) in versions(examples) {
        let Some(known) = library.get(name) else { continue };
        for version in found.difference(known) {
            breaches.push(format!(
                "{EXAMPLES}: has `{name}` {version}, which {LIBRARY} lacks: run `cp {LIBRARY} {EXAMPLES}` and `cargo metadata --manifest-path examples/Cargo.toml`"
            ));
        }
    }
}

/// The versions of each package.
fn versions(lock: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut packages: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        let value = |key: &str| line.strip_prefix(key).map(|value| value.trim_matches('"'));
        if let Some(value) = value("name = ") {
            name = value;
        } else if let Some(version) = value("version = ")
            && !name.is_empty()
        {
            packages.entry(name).or_default().insert(version);
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_are_reported() {
        let lock = |packages: &[(&str, &str)]| {
            let package = |(name, version): &(&str, &str)| {
                format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n")
            };
            format!("version = 4\n\n{}", packages.iter().map(package).collect::<String>())
        };
        let library = lock(&[("a", "1.0.0"), ("a", "2.0.0"), ("b", "1.0.0")]);
        let mut breaches = Vec::new();
        for (examples, count) in [
            (lock(&[("a", "2.0.0"), ("b", "1.0.0"), ("own", "0.1.0")]), 0),
            (lock(&[("a", "2.0.1"), ("b", "1.1.0")]), 2),
        ] {
            breaches.clear();
            check(&[(Path::new(LIBRARY), library.clone()), (Path::new(EXAMPLES), examples)], &mut breaches);
            assert_eq!(breaches.len(), count, "{breaches:?}");
        }
    }
}
