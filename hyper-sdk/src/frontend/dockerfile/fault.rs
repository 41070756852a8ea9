//! Why lowering stops.

use crate::dockerfile::{Diagnostic, Source};
use crate::{Error, Result};

/// Why lowering stopped: a finding about the text, or an error from outside.
pub(super) enum Fault {
    Text(Vec<Diagnostic>),
    Other(Error),
}

impl From<Box<Diagnostic>> for Fault {
    fn from(d: Box<Diagnostic>) -> Self {
        Self::Text(vec![*d])
    }
}

impl From<Diagnostic> for Fault {
    fn from(d: Diagnostic) -> Self {
        Self::Text(vec![d])
    }
}

impl From<Vec<Diagnostic>> for Fault {
    fn from(d: Vec<Diagnostic>) -> Self {
        Self::Text(d)
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

pub(super) type Lowers<T> = Result<T, Fault>;

/// Turns a fault into the error that callers get, with the excerpt of the text.
pub(super) fn to_error(fault: Fault, source: &Source) -> Error {
    match fault {
        Fault::Text(diagnostics) => crate::dockerfile::to_error(&diagnostics, source)
            .unwrap_or_else(|| Error::internal("a fault without an error")),
        Fault::Other(error) => error,
    }
}
