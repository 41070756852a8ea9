//! Parser directives: the comments at the very top of a file that change how it is read.
//!
//! ```text
//! (byte order mark) (#! line)
//! # syntax=docker/dockerfile:1      this frontend; the name of any other frontend image is an error
//! # escape=`                        \ or `
//! # check=skip=A,B|all;error=true;experimental=C|all
//! ```
//! The first other line ends them, also an empty line. Each directive can occur once, with its key in any case.

use super::diagnostic::Diagnostic;
use super::span::{Span, Word};
use super::suggest::suggestion;

/// The directives of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The frontend that the file names.
    pub syntax: Option<Word>,
    /// The character that escapes and continues lines: `\` or a backtick.
    pub escape: char,
    /// The options of the linter.
    pub check: Option<CheckOptions>,
    /// The place of the value of `check`.
    pub check_span: Option<Span>,
    /// The first byte after the directives.
    pub(crate) end: usize,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None, check_span: None, end: 0 }
    }
}

/// A set of lint rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuleSet {
    /// No rule.
    #[default]
    None,
    /// Every rule.
    All,
    /// The rules of these names.
    Named(Vec<String>),
}

impl RuleSet {
    /// Whether a rule is in the set. Names are case-insensitive.
    pub fn contains(&self, rule: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name.eq_ignore_ascii_case(rule)),
        }
    }

    fn parse(value: &str) -> Self {
        match value.split_whitespace().next() {
            Some("all") => Self::All,
            _ => {
                // The text after a name is a comment.
                let names = value.split(',').filter_map(|name| name.split_whitespace().next());
                Self::Named(names.map(str::to_owned).collect())
            }
        }
    }
}

/// The options of `# check=` and of `BUILDKIT_DOCKERFILE_CHECK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Rules that are not run.
    pub skip: RuleSet,
    /// Experimental rules that are run.
    pub experimental: RuleSet,
    /// Whether a finding fails the build.
    pub error: bool,
}

impl CheckOptions {
    /// The options of a comment such as `check=skip=A because of B` above an instruction.
    /// The text after a blank is a comment.
    ///
    /// # Errors
    /// As [`CheckOptions::parse`].
    pub(crate) fn from_comment(comment: &str) -> Option<Result<Self, String>> {
        let (key, value) = comment.split_once('=')?;
        if !key.trim().eq_ignore_ascii_case("check") {
            return None;
        }
        Some(Self::parse(value.split_whitespace().next().unwrap_or_default()))
    }

    /// Parses `skip=A,B;error=true;experimental=C`.
    ///
    /// # Errors
    /// A sentence that names the unknown or malformed option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        if text.trim().is_empty() {
            return Ok(options);
        }
        for part in text.split(';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option `{}`: it must be `key=value`", part.trim()));
            };
            match key.trim() {
                "skip" => options.skip = RuleSet::parse(value),
                "experimental" => options.experimental = RuleSet::parse(value),
                "error" => {
                    options.error =
                        super::flags::parse_bool(value.split_whitespace().next().unwrap_or_default())
                            .ok_or_else(|| {
                                format!("invalid value `{}` of check option `error`", value.trim())
                            })?;
                }
                other => return Err(format!("unknown check option `{other}`")),
            }
        }
        Ok(options)
    }
}

/// Reads the directives at the top of a file.
pub(crate) fn read(text: &str, diagnostics: &mut Vec<Diagnostic>) -> Directives {
    let mut directives = Directives::default();
    let mut at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    if text[at..].starts_with("#!") {
        at = text[at..].find('\n').map_or(text.len(), |i| at + i + 1);
    }
    directives.end = at;
    let mut seen: Vec<&'static str> = Vec::new();
    while at < text.len() {
        let next = text[at..].find('\n').map_or(text.len(), |i| at + i + 1);
        let line = &text[at..next];
        let Some((key, value)) = split(line) else { break };
        let key_text = key.to_ascii_lowercase();
        let Some(name) = ["syntax", "escape", "check"].into_iter().find(|n| *n == key_text) else { break };
        let offset = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
        let value_span = Span::new(offset(value), offset(value) + value.len());
        let key_span = Span::new(offset(key), offset(key) + key.len());
        at = next;
        directives.end = at;
        if seen.contains(&name) {
            diagnostics.push(Diagnostic::error(
                "duplicate-directive",
                key_span,
                format!("only one `{name}` directive can be used"),
            ));
            continue;
        }
        seen.push(name);
        match name {
            "syntax" => {
                check_syntax(value, value_span, diagnostics);
                directives.syntax = Some(Word::new(value.to_owned(), value_span));
            }
            "escape" => match value {
                "\\" | "`" => directives.escape = if value == "`" { '`' } else { '\\' },
                _ => diagnostics.push(
                    Diagnostic::error(
                        "invalid-escape",
                        value_span,
                        format!("invalid escape token `{value}`"),
                    )
                    .with_help("use a backslash or a backtick"),
                ),
            },
            _ => match CheckOptions::parse(value) {
                Ok(options) => {
                    directives.check = Some(options);
                    directives.check_span = Some(value_span);
                }
                Err(message) => {
                    let word = message.split('`').nth(1).unwrap_or_default();
                    diagnostics.push(
                        Diagnostic::error("invalid-check", value_span, message.clone())
                            .with_suggestion(suggestion(word, ["skip", "error", "experimental"])),
                    );
                }
            },
        }
    }
    directives
}

/// Splits `# key = value` into key and value, both trimmed and slices of the line.
fn split(line: &str) -> Option<(&str, &str)> {
    let body = line.trim_start().strip_prefix('#')?.trim_start();
    let (key, value) = body.split_once('=')?;
    let (key, value) = (key.trim_end(), value.trim());
    let mut bytes = key.bytes();
    let well_formed = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric())
        && !value.is_empty();
    well_formed.then_some((key, value))
}

/// The code of the error about a `syntax` directive that names another frontend.
pub(crate) const UNSUPPORTED_SYNTAX: &str = "unsupported-syntax";

/// The frontend images that this frontend replaces.
const OWN_FRONTENDS: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

fn check_syntax(value: &str, span: Span, diagnostics: &mut Vec<Diagnostic>) {
    let image = value.split_whitespace().next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let name = name.strip_prefix("docker.io/").or(name.strip_prefix("index.docker.io/")).unwrap_or(name);
    if !OWN_FRONTENDS.contains(&name) {
        diagnostics.push(
            Diagnostic::error(UNSUPPORTED_SYNTAX, span, format!("frontend image `{image}` is not supported"))
                .with_help("use `docker/dockerfile:1`, or remove the directive")
                .unsupported(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str) -> (Directives, Vec<&'static str>) {
        let mut diagnostics = Vec::new();
        let directives = read(text, &mut diagnostics);
        (directives, diagnostics.iter().map(|d| d.code).collect())
    }

    #[test]
    fn directives_end_at_the_first_other_line() {
        let (d, codes) = read_all(
            "\u{feff}#!/usr/bin/env x\n#SynTax = docker/dockerfile:1.7-labs \r\n# escape=`\n# a comment\n# check=skip=all\n",
        );
        assert_eq!(codes, Vec::<&str>::new());
        assert_eq!(d.syntax.unwrap().value, "docker/dockerfile:1.7-labs");
        assert_eq!(d.escape, '`');
        assert_eq!(d.check, None);
        assert_eq!(read_all("\n# escape=`\n").0.escape, '\\');
        assert_eq!(read_all("# unknown=1\n# escape=`\n").0.escape, '\\');
    }

    #[test]
    fn other_frontends_duplicates_and_wrong_values_are_errors() {
        assert_eq!(read_all("# syntax=docker.io/docker/dockerfile@sha256:ab\n").1, Vec::<&str>::new());
        assert_eq!(read_all("# syntax=localhost:5000/my/frontend\n").1, ["unsupported-syntax"]);
        assert_eq!(read_all("# escape=x\n").1, ["invalid-escape"]);
        assert_eq!(read_all("# escape=`\n# ESCAPE=\\\n").1, ["duplicate-directive"]);
        assert_eq!(read_all("# check=skp=all\n").1, ["invalid-check"]);
    }

    #[test]
    fn check_options_are_parsed() {
        let options = CheckOptions::parse("skip=A, B;error=true;experimental=all").unwrap();
        assert!(options.skip.contains("a") && !options.skip.contains("C"));
        assert!(options.error);
        assert_eq!(options.experimental, RuleSet::All);
        assert!(CheckOptions::parse("error=maybe").is_err());
        assert!(CheckOptions::parse("skip").is_err());
    }
}
