//! Errors and warnings about a file. They are shown with an excerpt, a mark under the wrong part, and help.
//!
//! ```text
//! error[unknown-flag]: unknown flag `--fron` of COPY
//!   --> Dockerfile:2:6
//!    |
//!  2 | COPY --fron=build /a /b
//!    |      ^^^^^^
//!    = help: did you mean `--from`?
//! ```
//! The excerpt needs no colour, aligns tabs and wide characters, and clips long lines around the mark. It replaces control
//! characters, so that a hostile file cannot control the terminal.

use super::span::{Source, Span};
use crate::{Error, ErrorDetail, ErrorKind, TextProblem};
use std::fmt::Write as _;

/// The severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// A valid part that is probably a mistake.
    Warning,
    /// A part that cannot be built.
    Error,
}

impl Severity {
    /// The lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// An error or warning about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The stable code, for filters and documentation: `unknown-flag`, `NoEmptyContinuation`.
    pub code: &'static str,
    /// One sentence in lower case, without a full stop.
    pub message: String,
    /// The wrong part of the file.
    pub span: Span,
    /// How to fix it, one sentence each.
    pub help: Vec<String>,
    /// Further places, each with a note.
    pub notes: Vec<(Span, String)>,
    /// Whether the cause is a feature that Hyper does not implement, instead of a mistake.
    pub unsupported: bool,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, span, message)
    }

    /// A warning at a place.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, span, message)
    }

    fn new(severity: Severity, code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            span,
            help: Vec::new(),
            notes: Vec::new(),
            unsupported: false,
        }
    }

    /// Adds help.
    #[must_use]
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds "did you mean" when there is a suggestion.
    #[must_use]
    pub(crate) fn with_suggestion(self, suggestion: Option<impl AsRef<str>>) -> Self {
        match suggestion {
            Some(word) => self.with_help(format!("did you mean `{}`?", word.as_ref())),
            None => self,
        }
    }

    /// Adds another place with a note.
    #[must_use]
    pub(crate) fn with_note(mut self, span: Span, note: impl Into<String>) -> Self {
        self.notes.push((span, note.into()));
        self
    }

    /// Marks that the cause is a feature that Hyper does not implement.
    #[must_use]
    pub fn unsupported(mut self) -> Self {
        self.unsupported = true;
        self
    }

    /// Whether it is an error, so that the file cannot be built.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Shows it with its excerpt, in several lines that end with a newline.
    pub fn render(&self, source: &Source) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}[{}]: {}", self.severity.name(), self.code, printable(&self.message));
        let last_line = self.notes.iter().map(|(span, _)| source.lines(*span).1).max().unwrap_or(1);
        let gutter = last_line.max(source.lines(self.span).1).to_string().len().max(2);
        excerpt(&mut out, source, self.span, gutter, '^', "");
        for (span, note) in &self.notes {
            excerpt(&mut out, source, *span, gutter, '-', note);
        }
        for help in &self.help {
            let _ = writeln!(out, "{:gutter$} = help: {}", "", printable(help));
        }
        out
    }

    /// The [`Error`] of a file that has only this diagnostic.
    #[cfg(feature = "build")]
    pub(crate) fn to_error(&self, source: &Source) -> Error {
        to_error(std::slice::from_ref(self), source)
            .unwrap_or_else(|| Error::new(self.error_kind(), self.message.clone()))
    }

    /// The diagnostic with its line and column, without the source.
    pub fn problem(&self, source: &Source) -> TextProblem {
        let place = source.position(self.span.start);
        let mut problem = TextProblem::new(self.code, &self.message, source.name(), place.line, place.column);
        problem.help.clone_from(&self.help);
        problem
    }

    fn error_kind(&self) -> ErrorKind {
        if self.unsupported { ErrorKind::Unsupported } else { ErrorKind::Invalid }
    }
}

/// The most diagnostics that are shown.
const MAX_SHOWN: usize = 50;

/// Shows diagnostics, separated by empty lines.
pub fn render(diagnostics: &[Diagnostic], source: &Source) -> String {
    let shown: Vec<String> = diagnostics.iter().take(MAX_SHOWN).map(|d| d.render(source)).collect();
    let mut out = shown.join("\n");
    if diagnostics.len() > MAX_SHOWN {
        let _ = writeln!(out, "\n... and {} more", diagnostics.len() - MAX_SHOWN);
    }
    out
}

/// One [`Error`] with all errors of the diagnostics and their excerpts; `None` without errors.
///
/// The kind is [`ErrorKind::Unsupported`] when every error is about a feature that Hyper does not implement, and
/// [`ErrorKind::Invalid`] otherwise. The message starts with a sentence that names the file, and the excerpts follow.
pub(crate) fn to_error(diagnostics: &[Diagnostic], source: &Source) -> Option<Error> {
    let errors: Vec<Diagnostic> = diagnostics.iter().filter(|d| d.is_error()).cloned().collect();
    let first = errors.first()?;
    let kind =
        if errors.iter().all(|d| d.unsupported) { ErrorKind::Unsupported } else { first_invalid(&errors) };
    let head = match errors.len() {
        1 => format!("{} cannot be used: {}", printable(source.name()), printable(&first.message)),
        n => format!("{} cannot be used: {n} errors", printable(source.name())),
    };
    let problems = errors.iter().map(|d| d.problem(source)).collect();
    Some(
        Error::new(kind, format!("{head}\n{}", render(&errors, source).trim_end()))
            .with_detail(ErrorDetail::Dockerfile(problems)),
    )
}

fn first_invalid(errors: &[Diagnostic]) -> ErrorKind {
    errors.iter().find(|d| !d.unsupported).map_or(ErrorKind::Unsupported, Diagnostic::error_kind)
}

fn excerpt(out: &mut String, source: &Source, span: Span, gutter: usize, mark: char, note: &str) {
    let place = source.position(span.start);
    let (first, last) = source.lines(span);
    let line_span = source.line_span(first);
    let line = source.slice(line_span);
    let start = span.start.clamp(line_span.start, line_span.end) - line_span.start;
    let end = if last > first { line.len() } else { span.end.min(line_span.end) - line_span.start };
    let (text, from, to) = clip(line, start, end.max(start));
    let note = if note.is_empty() { String::new() } else { format!(" {}", printable(note)) };
    let more = if last > first { format!(" (up to line {last})") } else { String::new() };
    let _ = writeln!(out, "{:gutter$}--> {}:{}:{}", "", printable(source.name()), place.line, place.column);
    let _ = writeln!(out, "{:gutter$} |", "");
    let _ = writeln!(out, "{}", format!("{first:gutter$} | {text}").trim_end());
    let marks = mark.to_string().repeat((to - from).max(1));
    let _ = writeln!(out, "{:gutter$} | {}{marks}{more}{note}", "", " ".repeat(from));
}

/// The most columns of an excerpt.
const MAX_COLUMNS: usize = 140;

/// The printable form of a line and the columns of a byte range of it, clipped around the range.
fn clip(line: &str, start: usize, end: usize) -> (String, usize, usize) {
    // Only the text around the mark is read: a line of a megabyte costs no more than a short one.
    let mut window_start = start.saturating_sub(MAX_COLUMNS / 2);
    while !line.is_char_boundary(window_start) {
        window_start -= 1;
    }
    if start <= MAX_COLUMNS / 2 {
        window_start = 0;
    }
    let mut text = String::new();
    let mut columns = 0;
    if window_start > 0 {
        text.push_str("...");
        columns = 3;
    }
    let (mut from, mut to) = (None, None);
    for (index, c) in line[window_start..].char_indices() {
        let at = window_start + index;
        if at >= start && from.is_none() {
            from = Some(columns);
        }
        if at >= end && to.is_none() {
            to = Some(columns);
        }
        if columns >= MAX_COLUMNS {
            text.push_str("...");
            break;
        }
        columns += push_printable(&mut text, c, columns);
    }
    let from = from.unwrap_or(columns);
    (text, from, to.unwrap_or(columns).max(from))
}

/// Appends a character in printable form, and returns its width.
fn push_printable(text: &mut String, c: char, column: usize) -> usize {
    match c {
        '\t' => {
            let width = 4 - column % 4;
            text.extend(std::iter::repeat_n(' ', width));
            width
        }
        c if is_unsafe(c) => {
            text.push(char::REPLACEMENT_CHARACTER);
            1
        }
        c => {
            text.push(c);
            if is_wide(c) { 2 } else { 1 }
        }
    }
}

/// Whether a character could move the cursor or change the writing direction of a terminal.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character is in an East Asian wide block. It is approximate, for the position of a mark.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}' | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}')
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_under_the_wrong_part() {
        let source = Source::new("Dockerfile", "FROM a\n\tCOPY 한 --x\n");
        let start = source.text().find("--x").unwrap();
        let d = Diagnostic::error("unknown-flag", Span::new(start, start + 3), "unknown flag")
            .with_suggestion(Some("--y"))
            .with_note(Span::new(0, 4), "this stage");
        let expected = "\
error[unknown-flag]: unknown flag
  --> Dockerfile:2:9
   |
 2 |     COPY 한 --x
   |             ^^^
  --> Dockerfile:1:1
   |
 1 | FROM a
   | ---- this stage
   = help: did you mean `--y`?
";
        assert_eq!(d.render(&source), expected);
    }

    #[test]
    fn control_characters_are_replaced_and_long_lines_clipped() {
        let text = format!("RUN {}\u{1b}[31mX{}", "a".repeat(5000), "b".repeat(5000));
        let source = Source::new("f", &text);
        let at = text.find('X').unwrap();
        let shown = Diagnostic::error("x", Span::new(at, at + 1), "m").render(&source);
        assert!(shown.len() < 1000, "{shown}");
        assert!(!shown.contains('\u{1b}'));
        let lines: Vec<&str> = shown.lines().collect();
        let caret = lines[4].find('^').unwrap();
        assert_eq!(
            lines[3].char_indices().find(|(_, c)| *c == 'X').map(|(i, _)| lines[3][..i].chars().count()),
            { Some(lines[4][..caret].chars().count()) }
        );
    }

    #[test]
    fn an_error_has_all_excerpts() {
        let source = Source::new("Dockerfile", "A\nB\n");
        let d =
            [Diagnostic::error("x", Span::new(0, 1), "one"), Diagnostic::error("y", Span::new(2, 3), "two")];
        let error = to_error(&d, &source).unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("one") && error.message().contains("Dockerfile:2:1"), "{error}");
        let Some(ErrorDetail::Dockerfile(problems)) = error.detail() else { panic!("{error:?}") };
        let shown: Vec<_> = problems.iter().map(|p| (p.code, p.message.as_str(), p.line, p.column)).collect();
        assert_eq!(shown, [("x", "one", 1, 1), ("y", "two", 2, 1)]);
        assert!(to_error(&[Diagnostic::warning("x", Span::new(0, 1), "one")], &source).is_none());
    }
}
