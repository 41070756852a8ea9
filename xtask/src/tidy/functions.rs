//! The length of functions: none has more than [`LINES`] lines, tests included.

use super::rust::{self, Token};
use std::path::Path;

/// The longest function, in lines from its name to its last brace.
const LINES: usize = 100;

/// Checks the functions of a file.
pub(super) fn check(file: &Path, source: &rust::Source, breaches: &mut Vec<String>) {
    for (name, line, lines) in functions(&rust::tokens(&source.code)) {
        if lines > LINES {
            breaches.push(format!(
                "{}:{line}: the function `{name}` has {lines} lines, more than {LINES}: split it",
                file.display()
            ));
        }
    }
}

/// Each function with a body: its name, its first line and how many lines it has.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, usize, usize)> {
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        let [keyword, name] = pair else { continue };
        if keyword.text != "fn" || !name.text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let end = rust::item_end(tokens, at);
        if let Some(last) = tokens.get(end - 1).filter(|last| last.text == "}") {
            found.push((name.text, keyword.line, last.line - keyword.line + 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured() {
        let text =
            "fn a(\n  x: [u8; 2],\n) {\n  let b: fn(u8) = { c };\n}\ntrait T { fn d(&self);\nfn e() {} }\n";
        let source = rust::read(text);
        assert_eq!(functions(&rust::tokens(&source.code)), [("a", 1, 5), ("e", 7, 1)]);
    }

    #[test]
    fn long_functions_are_named() {
        let mut breaches = Vec::new();
        let body = "    a();\n".repeat(LINES - 2);
        check(Path::new("x.rs"), &rust::read(&format!("fn fits() {{\n{body}}}\n")), &mut breaches);
        assert!(breaches.is_empty(), "{breaches:?}");
        check(Path::new("x.rs"), &rust::read(&format!("fn long() {{\n\n{body}}}\n")), &mut breaches);
        assert!(breaches.len() == 1 && breaches[0].contains("`long` has 101 lines"), "{breaches:?}");
    }
}
