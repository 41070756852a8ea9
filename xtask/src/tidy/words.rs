//! The SDK's messages name no flag of the command line: other programs show them, too. Hints are made in hyper-cli.

use super::rust;
use std::collections::BTreeSet;
use std::path::Path;

/// The page that lists the flags of `hyperbuild`.
const REFERENCE: &str = "docs/reference/cli.md";
/// Flags of `hyperbuild` that are flags of Dockerfile instructions, too.
const OF_DOCKERFILES: &[&str] = &["--platform", "--network"];
/// Files that hold command lines of other programs.
const COMMAND_LINES: &[&str] = &[
    "hyper-sdk/src/bake/flags.rs",
    "hyper-sdk/src/exec/oci_runtime.rs",
    "hyper-sdk/src/exec/runtime/run.rs",
    "hyper-sdk/src/source/remote/git",
    "hyper-sdk/src/lint/",
];

/// The flags that a reference page lists.
fn flags(page: &str) -> BTreeSet<&str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once('`'))
        .flat_map(|(flag, _)| flag.split([' ', ',']))
        .filter(|word| word.starts_with("--"))
        .collect()
}

/// Checks the texts of a file of the SDK. `page` is [`REFERENCE`].
pub(super) fn check(file: &Path, source: &rust::Source, page: &str, breaches: &mut Vec<String>) {
    let is_exempt = COMMAND_LINES.iter().any(|start| file.to_string_lossy().starts_with(start))
        || file.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "tests.rs");
    if !file.starts_with("hyper-sdk/src") || is_exempt {
        return;
    }
    let flags = flags(page);
    let tests = first_test_line(&source.code);
    for (line, text) in source.strings.iter().filter(|(line, _)| *line < tests) {
        let named = text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        for flag in named.filter(|word| word.starts_with("--") && !OF_DOCKERFILES.contains(word)) {
            if flags.contains(flag) {
                breaches.push(format!(
                    "{}:{line}: a text of the SDK names the flag `{flag}` of hyperbuild: give the error a detail, \
                     and make the hint in hyper-cli",
                    file.display()
                ));
            }
        }
    }
}

/// The page with the flags, or a breach.
pub(super) fn reference(files: &[(&Path, String)], breaches: &mut Vec<String>) -> String {
    let page = files.iter().find(|(file, _)| file == &Path::new(REFERENCE)).map(|(_, text)| text.clone());
    if page.as_deref().is_none_or(|page| flags(page).is_empty()) {
        breaches.push(format!("{REFERENCE}: lists no flag"));
    }
    page.unwrap_or_default()
}

fn first_test_line(code: &str) -> usize {
    let mut lines = code.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let next = lines.peek().map(|(_, line)| line.trim()).unwrap_or_default();
        if line.trim() == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{') {
            return number + 1;
        }
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str =
        "- `--secret SPEC`: x\n- `-t, --tag NAME`: y\n- `--no-cache BOOL`: z\n- `--platform P`: a\n";

    fn breaches(file: &str, text: &str) -> usize {
        let mut breaches = Vec::new();
        check(Path::new(file), &rust::read(text), PAGE, &mut breaches);
        breaches.len()
    }

    #[test]
    fn flags_of_the_command_line_are_found_in_texts_alone() {
        let file = "hyper-sdk/src/solve/x.rs";
        assert_eq!(
            breaches(file, "f(\"give it with --secret id={id}\", \"`--tag`\", \"build --no-cache\")"),
            3
        );
        assert_eq!(
            breaches(file, "f(\"FROM --platform=x\", \"COPY --from=x\", \"--no-cache-dir\") // --secret"),
            0
        );
        assert_eq!(breaches(file, "#[cfg(test)]\nmod tests {\n  f(\"--secret\")\n}\n"), 0);
        assert_eq!(breaches("hyper-sdk/src/source/remote/git.rs", "f(\"--tag\")"), 0);
        assert_eq!(breaches("hyper-cli/src/app.rs", "f(\"--tag\")"), 0);
    }
}
