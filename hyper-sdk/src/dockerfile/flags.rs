//! The flags of an instruction: the `--flag=value` words before its arguments.

use super::diagnostic::Diagnostic;
use super::lines::Text;
use super::span::{Span, Word};
use super::suggest::suggestion;

/// Splits the arguments into flags and the rest.
///
/// Quotes are removed, and an escape character gives the character after it, also inside quotes. `--` ends the flags.
pub(crate) fn extract(text: Text<'_>, escape: char) -> (Vec<Word>, Text<'_>) {
    let source = text.as_str();
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += source[at..].len() - source[at..].trim_start().len();
        if !source[at..].starts_with("--") {
            return (flags, text.sub(at..source.len()));
        }
        let (word, end) = one(source, at, escape);
        if word == "--" {
            return (flags, text.sub(end..source.len()));
        }
        flags.push(text.value(word, at..end));
        at = end;
    }
}

/// The flag at a position, without quotes and escapes, and its end.
fn one(source: &str, start: usize, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = source[start..].char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, start + at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, next)| next)),
            _ => word.push(c),
        }
    }
    (word, source.len())
}

/// The kind of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A switch: no value, `true` or `false`.
    Switch,
    /// A flag with one value.
    Value,
    /// A flag with a value, which can be repeated.
    Values,
}

/// The checked flags of an instruction.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    values: Vec<(&'static str, Word)>,
}

impl Flags {
    /// Checks flags against those of an instruction. A flag with an error is reported and left out.
    pub(crate) fn check(
        flags: &[Word],
        known: &[(&'static str, Kind)],
        command: &str,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut checked = Self::default();
        for flag in flags {
            let (name, value) = match flag.value.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.value.as_str(), None),
            };
            let name_span = name_span(flag, name);
            let Some((known_name, kind)) = known.iter().find(|(n, _)| *n == &name[2..]) else {
                let near = suggestion(&name[2..], known.iter().map(|(n, _)| *n));
                let mut d = Diagnostic::error(
                    "unknown-flag",
                    name_span,
                    format!("unknown flag `{name}` of {command}"),
                )
                .with_suggestion(near.map(|n| format!("--{n}")));
                if near.is_none() && !known.is_empty() {
                    let all: Vec<String> = known.iter().map(|(n, _)| format!("`--{n}`")).collect();
                    d = d.with_help(format!("{command} has {}", all.join(", ")));
                } else if known.is_empty() {
                    d = d.with_help(format!("{command} has no flags"));
                }
                diagnostics.push(d);
                continue;
            };
            if *kind != Kind::Values && checked.values.iter().any(|(n, _)| n == known_name) {
                let message = format!("flag `{name}` of {command} is given twice");
                diagnostics.push(Diagnostic::error("duplicate-flag", name_span, message));
                continue;
            }
            if (*kind != Kind::Switch && value.is_none()) || (*kind == Kind::Switch && value == Some("")) {
                let message = format!("flag `{name}` of {command} needs a value");
                let example = if *kind == Kind::Switch { "true" } else { "VALUE" };
                diagnostics.push(
                    Diagnostic::error("missing-flag-value", flag.span, message)
                        .with_help(format!("write `{name}={example}`")),
                );
                continue;
            }
            let value = value.unwrap_or("true");
            if *kind == Kind::Switch && !matches!(value.to_ascii_lowercase().as_str(), "true" | "false") {
                let message = format!("flag `{name}` of {command} must be `true` or `false`, not `{value}`");
                diagnostics.push(Diagnostic::error("invalid-flag-value", flag.span, message));
                continue;
            }
            checked.values.push((known_name, Word::new(value.to_owned(), value_span(flag, value))));
        }
        checked
    }

    /// The value of a flag, not yet expanded.
    pub(crate) fn value(&self, name: &str) -> Option<Word> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, w)| w.clone())
    }

    /// The values of a repeatable flag.
    pub(crate) fn values(&self, name: &str) -> Vec<Word> {
        self.values.iter().filter(|(n, _)| *n == name).map(|(_, w)| w.clone()).collect()
    }

    /// The value of a switch; `None` when it is not given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.value(name).map(|word| word.value.eq_ignore_ascii_case("true"))
    }
}

/// The place of the name of a flag, or of the whole flag when quotes or escapes were removed.
fn name_span(flag: &Word, name: &str) -> Span {
    if flag.span.len() == flag.value.len() {
        Span::new(flag.span.start, flag.span.start + name.len())
    } else {
        flag.span
    }
}

fn value_span(flag: &Word, value: &str) -> Span {
    if flag.span.len() == flag.value.len() && flag.value.ends_with(value) && flag.value.contains('=') {
        Span::new(flag.span.end - value.len(), flag.span.end)
    } else {
        flag.span
    }
}

/// Parses a Boolean by the rules of Go's `strconv.ParseBool`, as BuildKit does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
