//! Why lowering stops.

use crate::dockerfile::{Diagnostic, Source};
use crate::{Error, Result};

/// Why lowering stopped: a finding about the text, or an error from outside.
pub(super) enum LowerError {
    Text(Vec<Diagnostic>),
    Other(Error),
}

impl From<Box<Diagnostic>> for LowerError {
    fn from(d: Box<Diagnostic>) -> Self {
        Self::Text(vec![*d])
    }
}

impl From<Diagnostic> for LowerError {
    fn from(d: Diagnostic) -> Self {
        Self::Text(vec![d])
    }
}

impl From<Vec<Diagnostic>> for LowerError {
    fn from(d: Vec<Diagnostic>) -> Self {
        Self::Text(d)
    }
}

impl From<Error> for LowerError {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

pub(super) type LowerResult<T> = Result<T, LowerError>;

/// Turns a fault into the error that callers get, with the excerpt of the text.
pub(super) fn to_error(fault: LowerError, source: &Source) -> Error {
    match fault {
        LowerError::Text(diagnostics) => crate::dockerfile::to_error(&diagnostics, source)
            .unwrap_or_else(|| Error::internal("a fault without an error")),
        LowerError::Other(error) => error,
    }
}
