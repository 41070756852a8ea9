//! The direction of imports within hyper-sdk.
//!
//! A room may name a room of an earlier level or of its own, never one of a later level. `testing`, the programs in
//! `bin` and what is compiled for tests alone may name all; a conformance suite may name `testing`. The SDK takes paths, clocks and credentials from its caller:
//! it reads no environment variable and no home folder, outside tests and the conformance suites.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the same rooms are shown to readers: as the first block of code that begins with the first room.
const PAGES: &[&str] = &["docs/architecture.md", "hyper-sdk/src/lib.rs"];

/// The rooms, level by level.
const LEVELS: &[&[&str]] = &[
    &[
        "error",
        "digest",
        "reference",
        "oci",
        "media_type",
        "mode",
        "escape",
        "platform",
        "clock",
        "progress",
        "private_folder",
        "runtime",
        "small_file",
        "stale_files",
        "staged_file",
        "atomic_file",
        "byte_channel",
        "beneath",
        "remove_tree",
        "uses",
        "disk_usage",
        "secret",
        "s3",
        "breaker",
    ],
    &["dockerfile", "graph", "layer", "store"],
    &["sandbox", "layout", "bake"],
    &["lint", "client", "cache", "source", "snapshot", "exec"],
    &["frontend", "solve", "export", "space", "import"],
    &["build"],
    &["session"],
    &["testing", "bin", "lib"],
];

const ENVIRONMENT: &[&str] = &["env::var", "env::vars", "env::home_dir", "env::temp_dir", "env::current_dir"];

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// Checks that a page shows the rooms as [`LEVELS`] has them.
fn check_page(page: &str, text: &str, breaches: &mut Vec<String>) {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| {
            line.trim_start_matches("//!").trim().trim_start_matches("└▶").split_whitespace().collect()
        })
        .collect();
    let shown = LEVELS.len() - 1;
    let Some(start) = lines.iter().position(|words| words.first() == Some(&LEVELS[0][0]) && words.len() > 1)
    else {
        breaches.push(format!("{page}: does not show the rooms of hyper-sdk"));
        return;
    };
    for (at, rooms) in LEVELS[..shown].iter().enumerate() {
        let line = lines.get(start + at).map(Vec::as_slice).unwrap_or_default();
        let (shown, known): (BTreeSet<_>, BTreeSet<_>) = (line.iter().collect(), rooms.iter().collect());
        if shown != known || line.len() != rooms.len() {
            breaches.push(format!(
                "{page}: shows the rooms of level {at} as `{}`; xtask/src/tidy/rooms.rs has `{}`",
                line.join(" "),
                rooms.join(" ")
            ));
        }
    }
}

/// Checks every file of `hyper-sdk/src`, and the pages that show the rooms.
pub(super) fn check(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    for page in PAGES {
        match files.iter().find(|(file, _)| file == &Path::new(page)) {
            Some((_, text)) => check_page(page, text, breaches),
            None => breaches.push(format!("{page}: cannot be read")),
        }
    }
    check_sources(files, breaches);
}

fn check_sources(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    let sources: Vec<&(&Path, String)> = files
        .iter()
        .filter(|(f, _)| f.starts_with("hyper-sdk/src") && f.extension().is_some_and(|e| e == "rs"))
        .collect();
    let test_modules: Vec<PathBuf> =
        sources.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
    for (file, text) in sources {
        if !test_modules.iter().any(|module| file.with_extension("").starts_with(module)) {
            check_one(file, text, breaches);
        }
    }
}

/// The modules in files of their own that a file declares for tests alone, as paths without extension.
fn test_modules(file: &Path, text: &str) -> Vec<PathBuf> {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let folder = match stem {
        "mod" | "lib" => file.parent().unwrap_or(Path::new("")).to_owned(),
        _ => file.with_extension(""),
    };
    let mut modules = Vec::new();
    let mut for_tests = false;
    for line in text.lines().map(str::trim) {
        let name = line.strip_suffix(';').and_then(|l| l.strip_prefix("mod "));
        if let (true, Some(name)) = (for_tests, name) {
            modules.push(folder.join(name));
        }
        for_tests = line == "#[cfg(test)]" || (for_tests && line.starts_with('#'));
    }
    modules
}

fn check_one(file: &Path, text: &str, breaches: &mut Vec<String>) {
    let name = file.display();
    let Some(room) = file.components().nth(2).and_then(|c| Path::new(c.as_os_str()).file_stem()?.to_str())
    else {
        return;
    };
    let Some(own) = level(room) else {
        breaches.push(format!("{name}: the room `{room}` has no level in xtask/src/tidy/rooms.rs"));
        return;
    };
    let code = code(text);
    let is_suite =
        file.components().any(|c| c.as_os_str() == "conformance" || c.as_os_str() == "conformance.rs");
    for imported in named_rooms(&code) {
        if let Some(other) = level(imported)
            && other > own
            && !(is_suite && imported == "testing")
        {
            breaches.push(format!("{name}: `{room}` (level {own}) names `{imported}` (level {other})"));
        }
    }
    if !is_suite && own + 1 < LEVELS.len() {
        let calls = |call: &str| code.contains(&format!("{call}(")) || code.contains(&format!("{call}_os("));
        for call in ENVIRONMENT.iter().filter(|call| calls(call)) {
            breaches.push(format!("{name}: the SDK does not read the environment: `{call}`"));
        }
    }
}

/// The text without line comments and without what follows the first `#[cfg(test)]` module.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let test_module = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.trim().starts_with("mod tests {"));
        if test_module {
            break;
        }
        out.push_str(line.split("//").next().unwrap_or_default());
        out.push('\n');
    }
    out
}

/// The first names after each `crate::`, those in braces included.
fn named_rooms(code: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        // `$crate::` in a macro and `other_crate::` are not ours.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            None => rooms.push(identifier(rest)),
            Some(group) => {
                let mut depth = 0usize;
                let mut start = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            rooms.push(identifier(&group[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    rooms
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(file: &str, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        check_sources(&[(Path::new(file), text.to_owned())], &mut out);
        out
    }

    #[test]
    fn imports_go_one_way() {
        let up = "//! x\nuse crate::{Digest, store::{Page, Listing}, build::Builder};\n";
        assert_eq!(breaches("hyper-sdk/src/client/push.rs", up).len(), 1);
        assert!(breaches("hyper-sdk/src/build/local.rs", up).is_empty());
        assert_eq!(
            breaches("hyper-sdk/src/store/mod.rs", "//! x\nfn f() -> crate::exec::Network {}\n").len(),
            1
        );
    }

    #[test]
    fn pages_show_every_room_once_and_at_its_level() {
        let shown: Vec<String> = LEVELS[..LEVELS.len() - 1].iter().map(|rooms| rooms.join(" ")).collect();
        let page = |text: &str| {
            let mut out = Vec::new();
            check_page("page.md", text, &mut out);
            out.len()
        };
        let right = format!("# Rooms\n```\n{}\n```\n", shown.join("\n     └▶ "));
        assert_eq!(page(&right), 0);
        assert_eq!(
            page(&right.replace("//", "").lines().map(|l| format!("//! {l}\n")).collect::<String>()),
            0
        );
        assert_eq!(page(&right.replace("sandbox", "sandbox store")), 1);
        assert_eq!(page(&right.replace(" store", "")), 1);
        assert_eq!(page("# Rooms\n"), 1);
    }

    #[test]
    fn tests_and_comments_may_name_all() {
        let text =
            "//! See [`crate::build`].\n#[cfg(test)]\nmod tests {\n    use crate::build::Builder;\n}\n";
        assert!(breaches("hyper-sdk/src/store/mod.rs", text).is_empty());
    }

    #[test]
    fn modules_for_tests_may_name_all() {
        let parent = "//! x\n#[cfg(test)]\nmod cases;\n".to_owned();
        let child = "//! x\nuse crate::build::Builder;\n".to_owned();
        let mut out = Vec::new();
        let files = [
            (Path::new("hyper-sdk/src/layer/copy/mod.rs"), parent.clone()),
            (Path::new("hyper-sdk/src/layer/copy/cases.rs"), child.clone()),
        ];
        check_sources(&files, &mut out);
        assert!(out.is_empty(), "{out:?}");
        check_sources(&[(files[1].0, child)], &mut out);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn suites_may_use_what_tests_need() {
        let text = "//! x\nuse crate::testing::Random;\n";
        assert!(breaches("hyper-sdk/src/exec/conformance/kit.rs", text).is_empty());
        assert!(breaches("hyper-sdk/src/cache/conformance.rs", text).is_empty());
        assert_eq!(breaches("hyper-sdk/src/exec/native.rs", text).len(), 1);
    }

    #[test]
    fn new_rooms_need_a_level() {
        assert_eq!(breaches("hyper-sdk/src/attic/mod.rs", "//! x\n").len(), 1);
    }

    #[test]
    fn the_environment_is_the_callers() {
        assert_eq!(
            breaches("hyper-sdk/src/client/http.rs", "//! x\nlet a = std::env::var(\"A\");\n").len(),
            1
        );
    }
}
