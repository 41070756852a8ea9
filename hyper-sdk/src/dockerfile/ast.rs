//! The raw tree of a file: one node for each instruction, with its flags and arguments, which are not interpreted.
//!
//! [`Ast::dump`] prints it in the notation that BuildKit's parser tests use:
//!
//! ```text
//! (from "scratch")
//! (copy ["--chown=me"] "a" "b")
//! (env "k" "v" "=")
//! (onbuild (run "true"))
//! ```

use super::diagnostic::Diagnostic;
use super::directive::{self, Directives};
use super::heredoc::{self, Heredoc};
use super::lines::{Lines, LogicalLine, Text};
use super::span::{Source, Span, Word};
use super::words::{self, Json, Pair};
use std::fmt::Write as _;

/// The name of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the instruction of its name")]
pub enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

impl Keyword {
    /// Every instruction.
    pub const ALL: [Keyword; 18] = [
        Self::Add,
        Self::Arg,
        Self::Cmd,
        Self::Copy,
        Self::Entrypoint,
        Self::Env,
        Self::Expose,
        Self::From,
        Self::Healthcheck,
        Self::Label,
        Self::Maintainer,
        Self::Onbuild,
        Self::Run,
        Self::Shell,
        Self::Stopsignal,
        Self::User,
        Self::Volume,
        Self::Workdir,
    ];

    /// The name in upper case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Arg => "ARG",
            Self::Cmd => "CMD",
            Self::Copy => "COPY",
            Self::Entrypoint => "ENTRYPOINT",
            Self::Env => "ENV",
            Self::Expose => "EXPOSE",
            Self::From => "FROM",
            Self::Healthcheck => "HEALTHCHECK",
            Self::Label => "LABEL",
            Self::Maintainer => "MAINTAINER",
            Self::Onbuild => "ONBUILD",
            Self::Run => "RUN",
            Self::Shell => "SHELL",
            Self::Stopsignal => "STOPSIGNAL",
            Self::User => "USER",
            Self::Volume => "VOLUME",
            Self::Workdir => "WORKDIR",
        }
    }

    /// The instruction of a name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name().eq_ignore_ascii_case(name))
    }

    fn can_have_heredocs(self) -> bool {
        matches!(self, Self::Add | Self::Copy | Self::Run)
    }
}

/// The arguments of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// No arguments.
    None,
    /// The rest of the line.
    Text(Word),
    /// Words, separated by white space.
    Words(Vec<Word>),
    /// A JSON array of strings.
    Json(Vec<Word>),
    /// The pairs of ENV and LABEL.
    Pairs(Vec<Pair>),
    /// The type of a HEALTHCHECK and its command.
    Health(Word, Box<Arguments>),
    /// The instruction inside an ONBUILD.
    Nested(Box<Node>),
    /// The arguments of an unknown instruction.
    Unknown,
}

impl Arguments {
    /// Whether they are a JSON array.
    pub fn is_json(&self) -> bool {
        match self {
            Self::Json(_) => true,
            Self::Health(_, command) => command.is_json(),
            _ => false,
        }
    }

    /// The words as a list; pairs and nested instructions have none.
    pub fn words(&self) -> Vec<Word> {
        match self {
            Self::Text(word) => vec![word.clone()],
            Self::Words(words) | Self::Json(words) => words.clone(),
            _ => Vec::new(),
        }
    }
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name as written.
    pub name: Word,
    /// The instruction; `None` when the name is unknown.
    pub keyword: Option<Keyword>,
    /// The flags, without quotes and escapes.
    pub flags: Vec<Word>,
    /// The arguments.
    pub arguments: Arguments,
    /// The heredocs of the line, in order.
    pub heredocs: Vec<Heredoc>,
    /// The joined line, without white space around it.
    pub original: String,
    /// The line or lines, heredocs included.
    pub span: Span,
    /// The comments directly above.
    pub comments: Vec<Word>,
}

impl Node {
    fn can_have_heredocs(&self) -> bool {
        match (&self.arguments, self.keyword) {
            (Arguments::Nested(inner), Some(Keyword::Onbuild)) => inner.can_have_heredocs(),
            (Arguments::Json(_), _) => false,
            (_, keyword) => keyword.is_some_and(Keyword::can_have_heredocs),
        }
    }

    /// Prints the node without the parentheses around it.
    pub fn dump(&self) -> String {
        let mut out = self.name.value.to_lowercase();
        if !self.flags.is_empty() {
            let flags: Vec<String> = self.flags.iter().map(|f| quote(&f.value)).collect();
            let _ = write!(out, " [{}]", flags.join(" "));
        }
        dump_arguments(&mut out, &self.arguments);
        out
    }
}

fn dump_arguments(out: &mut String, arguments: &Arguments) {
    let mut push = |value: &str| {
        out.push(' ');
        out.push_str(&quote(value));
    };
    match arguments {
        Arguments::None => {}
        Arguments::Unknown => push(""),
        Arguments::Text(word) => push(&word.value),
        Arguments::Words(words) | Arguments::Json(words) => words.iter().for_each(|w| push(&w.value)),
        Arguments::Pairs(pairs) => {
            for pair in pairs {
                push(&pair.key.value);
                push(&pair.value.value);
                push(if pair.equals { "=" } else { "" });
            }
        }
        Arguments::Health(kind, command) => {
            push(&kind.value);
            dump_arguments(out, command);
        }
        Arguments::Nested(node) => {
            let _ = write!(out, " ({})", node.dump());
        }
    }
}

/// Quotes a string as Go's `%q` does.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x80 && c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The tree of a file.
#[derive(Clone, Debug)]
pub struct Ast {
    /// The directives at the top.
    pub directives: Directives,
    /// The instructions, in order. An instruction that cannot be split is missing and has a diagnostic.
    pub nodes: Vec<Node>,
    /// Errors and warnings.
    pub diagnostics: Vec<Diagnostic>,
}

impl Ast {
    /// Splits a file into instructions. It never fails: an instruction that cannot be split becomes a diagnostic.
    pub fn parse(source: &Source) -> Self {
        let mut diagnostics = Vec::new();
        let directives = directive::read(source.text(), &mut diagnostics);
        let mut lines = Lines::new(source.text(), directives.end, directives.escape);
        let mut nodes = Vec::new();
        let mut any = false;
        while let Some(line) = lines.next_line() {
            any = true;
            for span in &line.empty_lines {
                diagnostics.push(
                    Diagnostic::warning(
                        "NoEmptyContinuation",
                        *span,
                        "empty line inside a continued instruction",
                    )
                    .with_help("remove the line, or make it a comment"),
                );
            }
            let span = line.span;
            match node(&line, directives.escape).and_then(|node| read_heredocs(node, &line, &mut lines)) {
                Ok(node) => nodes.push(node),
                Err(mut d) => {
                    if d.span.is_empty() {
                        d.span = span;
                    }
                    diagnostics.push(*d);
                }
            }
        }
        if !any && diagnostics.is_empty() {
            let end = Span::new(source.text().len(), source.text().len());
            diagnostics.push(
                Diagnostic::error("no-instructions", end, "the file has no instructions")
                    .with_help("start with `FROM image`, or `FROM scratch` for an empty base"),
            );
        }
        Self { directives, nodes, diagnostics }
    }

    /// Prints the tree, one line for each node.
    pub fn dump(&self) -> String {
        let lines: Vec<String> = self.nodes.iter().map(|n| format!("({})", n.dump())).collect();
        lines.join("\n")
    }
}

/// Reads the bodies of the heredocs of a line.
fn read_heredocs(mut node: Node, line: &LogicalLine, lines: &mut Lines<'_>) -> Result<Node, Box<Diagnostic>> {
    if !node.can_have_heredocs() {
        return Ok(node);
    }
    let found = heredoc::in_line(&line.text)
        .map_err(|message| Box::new(Diagnostic::error("invalid-heredoc", line.span, message)))?;
    for mut doc in found {
        let start = lines.offset();
        let mut end = start;
        let mut ended = false;
        while let Some((raw, at)) = lines.raw() {
            if doc.is_end(raw) {
                ended = true;
                break;
            }
            doc.content.push_str(raw);
            end = at + raw.len();
        }
        if !ended {
            let d = Diagnostic::error(
                "unterminated-heredoc",
                line.span,
                format!("heredoc `{}` is not terminated", doc.name),
            );
            return Err(Box::new(
                d.with_help(format!("end it with a line that contains only `{}`", doc.name)),
            ));
        }
        doc.span = Span::new(start, end);
        node.span.end = lines.offset();
        node.heredocs.push(doc);
    }
    if let (Arguments::Nested(inner), false) = (&mut node.arguments, node.heredocs.is_empty()) {
        inner.heredocs.clone_from(&node.heredocs);
    }
    Ok(node)
}

fn node(line: &LogicalLine, escape: char) -> Result<Node, Box<Diagnostic>> {
    let mut node = node_of(line.all(), escape, 0)?;
    node.span = line.span;
    node.comments.clone_from(&line.comments);
    Ok(node)
}

fn node_of(text: Text<'_>, escape: char, depth: usize) -> Result<Node, Box<Diagnostic>> {
    let text = text.trim();
    let parts = text.split_blank(2);
    let name = parts[0].word();
    let keyword = Keyword::parse(&name.value);
    let (flags, rest) = match parts.get(1) {
        Some(rest) => {
            let (flags, rest) = super::flags::extract(*rest, escape);
            (flags, rest.trim())
        }
        None => (Vec::new(), text.sub(text.as_str().len()..text.as_str().len())),
    };
    let arguments = arguments(keyword, rest, escape, depth)?;
    Ok(Node {
        name,
        keyword,
        flags,
        arguments,
        heredocs: Vec::new(),
        original: text.as_str().to_owned(),
        span: text.span(),
        comments: Vec::new(),
    })
}

fn arguments(
    keyword: Option<Keyword>,
    rest: Text<'_>,
    escape: char,
    depth: usize,
) -> Result<Arguments, Box<Diagnostic>> {
    let Some(keyword) = keyword else { return Ok(Arguments::Unknown) };
    if rest.is_empty() {
        return Ok(Arguments::None);
    }
    Ok(match keyword {
        Keyword::Add | Keyword::Copy | Keyword::Volume => json_or(rest, split_words)?,
        Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Shell => {
            json_or(rest, |rest| Arguments::Text(rest.word()))?
        }
        Keyword::Arg => Arguments::Words(words::quoted_words(rest, escape)),
        Keyword::Env | Keyword::Label => {
            Arguments::Pairs(words::pairs(rest, escape, keyword.name()).map_err(Box::new)?)
        }
        Keyword::Expose | Keyword::From => split_words(rest),
        Keyword::Maintainer | Keyword::Stopsignal | Keyword::User | Keyword::Workdir => {
            Arguments::Text(rest.word())
        }
        Keyword::Healthcheck => health(rest)?,
        // Nested triggers are another error. They are not parsed, so that a long chain costs nothing.
        Keyword::Onbuild if depth > 0 => Arguments::Text(rest.word()),
        Keyword::Onbuild => Arguments::Nested(Box::new(node_of(rest, escape, depth + 1)?)),
    })
}

fn split_words(rest: Text<'_>) -> Arguments {
    Arguments::Words(rest.split_blank(usize::MAX).into_iter().map(Text::word).collect())
}

fn json_or<'a>(
    rest: Text<'a>,
    otherwise: impl FnOnce(Text<'a>) -> Arguments,
) -> Result<Arguments, Box<Diagnostic>> {
    match words::json(rest) {
        Json::Strings(words) => Ok(Arguments::Json(words)),
        Json::No => Ok(otherwise(rest)),
        Json::Mixed => Err(Box::new(
            Diagnostic::error(
                "invalid-json",
                rest.span(),
                "a JSON array of arguments must contain only strings",
            )
            .with_help("put every argument into double quotes"),
        )),
    }
}

fn health(rest: Text<'_>) -> Result<Arguments, Box<Diagnostic>> {
    let text = rest.as_str();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = rest.sub(0..end).word();
    let command = rest.sub(end..text.len()).trim_start();
    let command = if command.is_empty() {
        Arguments::None
    } else {
        json_or(command, |rest| Arguments::Text(rest.word()))?
    };
    Ok(Arguments::Health(kind, Box::new(command)))
}
