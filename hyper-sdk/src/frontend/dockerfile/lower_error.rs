//! The errors of lowering.

use crate::dockerfile::{Diagnostic, Source};
use crate::{Error, Result};

/// Why lowering stopped: errors of the text, or an error of the resolver or request.
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

/// Turns it into the error for callers, with an excerpt of the text.
pub(super) fn to_error(error: LowerError, source: &Source) -> Error {
    match error {
        LowerError::Text(diagnostics) => crate::dockerfile::to_error(&diagnostics, source)
            .unwrap_or_else(|| Error::internal("lowering failed without an error")),
        LowerError::Other(error) => error,
    }
}
