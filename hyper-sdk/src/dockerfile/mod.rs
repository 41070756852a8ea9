//! The Dockerfile language: pure functions from text to values.
//!
//! ```text
//! text ─ Ast::parse ─► nodes ─ convert ─► Statement{Instruction} ─► Dockerfile{global args, stages} ─ plan ─► order
//!         (lines, heredocs, flags)           every error a Diagnostic, all of them at once
//! ```
//! The semantics are those of BuildKit's Dockerfile frontend 1.26. [`parse`] never fails and never panics: it returns what
//! it could parse, and all errors. Nothing here reads a file, the environment or the clock.
//!
//! # Invariants
//! - Every token keeps its byte range in the file.
//! - Values are kept unexpanded; [`Instruction::expand`], [`Run::mounts`] and [`Dockerfile::bases`] expand them with the
//!   environment that the caller gives.
//! - The time of every function is linear in its input (patterns: at most the product of pattern and text).

mod ast;
mod convert;
mod csv;
mod diagnostic;
mod directive;
mod duration;
mod encoding;
mod expand;
mod flags;
mod git;
mod glob;
mod heredoc;
mod ignore;
mod instruction;
mod lines;
mod mount;
mod owner;
mod pattern;
pub(crate) mod ports;
mod scope;
#[cfg(any(feature = "bake", feature = "build"))]
mod secret_fields;
mod span;
mod stages;
mod suggest;
mod words;

pub use ast::{Arguments, Ast, Keyword, Node};
pub use csv::csv_fields;
pub(crate) use diagnostic::to_error;
pub use diagnostic::{Diagnostic, Severity, render};
#[cfg(feature = "build")]
pub(crate) use directive::UNSUPPORTED_SYNTAX;
pub use directive::{CheckOptions, Directives, RuleSet};
pub use duration::{parse as parse_duration, parse_size};
pub use encoding::{MAX_FILE_SIZE, decode};
pub use expand::{EmptyEnvironment, Environment, ExpandError, Expanded, Expander, Variables};
#[cfg(feature = "build")]
pub(crate) use flags::parse_bool;
#[cfg(feature = "build")]
pub(crate) use git::UNNAMED;
pub use git::{AddSource, GitReference};
#[cfg(feature = "build")]
pub(crate) use git::{percent_decode, without_password, without_passwords};
pub use glob::Glob;
pub(crate) use glob::has_wildcard;
pub use heredoc::Heredoc;
#[cfg(feature = "build")]
pub(crate) use ignore::clean as clean_path;
#[cfg(feature = "build")]
pub(crate) use ignore::path_text;
pub use ignore::{IgnoreSet, ParentMatches};
pub use instruction::{
    Add, Arg, ArgVariable, Cmd, CommandForm, CommandLine, Copy, Device, Entrypoint, Env, Expose, From,
    HealthCommand, Healthcheck, InlineFile, Instruction, Label, Maintainer, Network, Onbuild, Run,
    RunCommand, Security, Shell, Statement, Stopsignal, User, Volume, Workdir,
};
pub use mount::{Mount, MountKind, Sharing, ValueError, parse_device};
pub use owner::{Owner, Principal};
pub use ports::{Ports, parse as parse_ports};
pub(crate) use scope::ExpandedValue;
pub use scope::{Base, Expansion, GlobalScope};
#[cfg(any(feature = "bake", feature = "build"))]
pub(crate) use secret_fields::{COMMAS, csv_fields_with_secrets, is_secret_field, place_of_field};
pub use span::{Position, Source, Span, Spanned, Word};
pub use stages::{Dockerfile, Plan, Reference, Stage, StageRef};
pub use suggest::suggestion;
pub use words::Pair;

use crate::{Error, Result};

/// The result of [`parse`].
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The file, as far as it could be parsed.
    pub dockerfile: Dockerfile,
    /// Errors and warnings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether the file cannot be built.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// The errors as one [`Error`] whose message carries every excerpt.
    pub fn error(&self) -> Option<Error> {
        to_error(&self.diagnostics, &self.dockerfile.source)
    }

    /// Shows every diagnostic with its excerpt.
    pub fn render(&self) -> String {
        render(&self.diagnostics, &self.dockerfile.source)
    }

    /// The file and its warnings.
    ///
    /// # Errors
    /// The error of [`Parsed::error`].
    pub fn into_result(self) -> Result<(Dockerfile, Vec<Diagnostic>)> {
        match self.error() {
            Some(error) => Err(error),
            None => Ok((self.dockerfile, self.diagnostics)),
        }
    }
}

/// Parses a file. `file_name` is its name in messages.
///
/// The parser reports the errors of all instructions.
///
/// ```
/// use hyper_sdk::dockerfile::parse;
///
/// let parsed = parse("FROM scratch\nCOPPY . /\n", "Dockerfile");
/// assert!(parsed.has_errors());
/// assert_eq!(parsed.dockerfile.stages.len(), 1);
/// // Every fault, with an excerpt.
/// assert!(parsed.render().contains("Dockerfile:2:1"));
/// ```
pub fn parse(source: &str, file_name: &str) -> Parsed {
    let source = Source::new(file_name, source);
    let mut ast = Ast::parse(&source);
    let mut diagnostics = std::mem::take(&mut ast.diagnostics);
    let dockerfile = Dockerfile::build(source, ast, &mut diagnostics);
    diagnostics.sort_by_key(|d| d.span.start);
    Parsed { dockerfile, diagnostics }
}

/// The frontend that a text names at its top: `# syntax=NAME`.
pub fn syntax(text: &str) -> Option<String> {
    let directives = directive::read(text, &mut Vec::new());
    directives.syntax.map(|word| word.value).filter(|name| !name.is_empty())
}

/// An ONBUILD trigger: an instruction that an image runs in images that are based on it.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// The text that the spans of the statement point into.
    pub source: Source,
    /// The instruction.
    pub statement: Statement,
}

/// Parses an ONBUILD trigger, as the configuration of an image keeps it.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] with an excerpt when it is not exactly one instruction, or one that is not allowed there.
pub fn parse_trigger(text: &str) -> Result<Trigger> {
    let source = Source::new("ONBUILD trigger", text);
    let ast = Ast::parse(&source);
    let mut diagnostics = ast.diagnostics;
    let whole = Span::new(0, text.len());
    let mut statement = None;
    match ast.nodes.as_slice() {
        [node] => {
            let escape = ast.directives.escape;
            statement = convert::Converter { escape, diagnostics: &mut diagnostics }.statement(node);
            // ONBUILD rejects more. Images of other tools have such triggers, and they do no harm.
            if node.keyword == Some(Keyword::From) {
                let message = "FROM is not allowed as an ONBUILD trigger";
                diagnostics.push(Diagnostic::error("invalid-onbuild", node.name.span, message));
            }
        }
        [] => {}
        _ => diagnostics.push(Diagnostic::error(
            "invalid-onbuild",
            whole,
            "an ONBUILD trigger must be a single instruction",
        )),
    }
    match (to_error(&diagnostics, &source), statement) {
        (None, Some(statement)) => Ok(Trigger { source, statement }),
        (Some(error), _) => Err(error),
        (None, None) => Err(Error::invalid("an ONBUILD trigger is empty")),
    }
}

#[cfg(test)]
mod tests;
