//! Errors while definitions are read and evaluated.

use super::ast::Place;
use crate::dockerfile::{Diagnostic, Source, to_error};
use crate::{Error, ErrorDetail, ErrorKind};

/// What the lines of a file have that are not shown.
const KEYS_OF_ACCOUNTS: [&str; 3] = ["access_key", "secret_", "session_token"];

/// The result of a step of the evaluation.
pub(super) type Outcome<T> = std::result::Result<T, Fault>;

/// An error, and where it is when that is known.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) place: Option<Place>,
    /// `try` and `can` do not catch it: a limit, or a circle.
    pub(super) fatal: bool,
    pub(super) unsupported: bool,
    pub(super) help: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, fatal: false, unsupported: false, help: None }
    }

    pub(super) fn at(place: Place, message: impl Into<String>) -> Self {
        Self { place: Some(place), ..Self::new(message) }
    }

    /// What no part of the language catches.
    pub(super) fn fatal(message: impl Into<String>) -> Self {
        Self { fatal: true, ..Self::new(message) }
    }

    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self { unsupported: true, ..Self::fatal(message) }
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The place, unless a closer one is known.
    pub(super) fn or_at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// The error, with an excerpt of the file: not of a line that may have keys of an account.
    pub(super) fn into_error(self, files: &[Source]) -> Error {
        let kind = if self.unsupported { ErrorKind::Unsupported } else { ErrorKind::Invalid };
        let located = self.place.and_then(|place| Some((place.span, files.get(place.file)?)));
        let Some((span, source)) = located else {
            let help = self.help.map(|help| format!(": {help}")).unwrap_or_default();
            return Error::new(kind, format!("{}{help}", self.message));
        };
        let mut diagnostic = Diagnostic::error("bake", span, &self.message);
        if self.unsupported {
            diagnostic = diagnostic.unsupported();
        }
        if let Some(help) = self.help {
            diagnostic = diagnostic.with_help(help);
        }
        let line = source.slice(source.line_span(source.lines(span).0)).to_ascii_lowercase();
        if KEYS_OF_ACCOUNTS.iter().any(|key| line.contains(key)) {
            let problem = diagnostic.problem(source);
            let help: String = problem.help.iter().map(|help| format!(": {help}")).collect();
            let message = format!("{}:{}: {}{help}", source.name(), problem.line, problem.message);
            return Error::new(kind, message).with_detail(ErrorDetail::Dockerfile(vec![problem]));
        }
        to_error(&[diagnostic], source).unwrap_or_else(|| Error::new(kind, self.message))
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}
