//! Errors of the SDK as Python exceptions.

use hyper_sdk::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception for an error: its class by kind, its text with the whole chain of causes.
pub(crate) fn exception(error: &Error) -> PyErr {
    Python::attach(|py| make(py, error).unwrap_or_else(|e| e))
}

fn make(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let context = PyDict::new(py);
    // The innermost value of a name is the most exact.
    for (key, value) in error.context().iter().rev() {
        context.set_item(key, value)?;
    }
    let details = details(py, error)?;
    let arguments = (error.kind().name(), chain(error), error.is_retryable(), error.op(), context, details);
    let made = py.import("hyper_sdk.errors")?.getattr("_make")?.call1(arguments)?;
    Ok(PyErr::from_value(made))
}

/// The typed details that the error or one of its causes names, by the attribute that they become.
fn details<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyDict>> {
    let first: &(dyn std::error::Error + 'static) = error;
    let causes: Vec<&Error> = std::iter::successors(Some(first), |cause| cause.source())
        .filter_map(|cause| cause.downcast_ref::<Error>())
        .collect();
    let find = |keys: &[&str]| {
        let values = |key: &&str| causes.iter().find_map(|cause| cause.context_value(key));
        keys.iter().find_map(values)
    };
    let details = PyDict::new(py);
    details.set_item("exit_code", find(&["exit code"]).and_then(|code| code.parse::<i32>().ok()))?;
    details.set_item("output", find(&["last output"]))?;
    details.set_item("step", find(&["step"]))?;
    details.set_item("host", find(&["host", "registry"]))?;
    details.set_item("status", find(&["status"]).and_then(|status| status.parse::<u16>().ok()))?;
    Ok(details)
}

/// The error and its causes, one a line, without causes that repeat what was said.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let line = cause.to_string();
        if !text.contains(&line) {
            text.push_str(if text.contains('\n') { "\n" } else { ": " });
            text.push_str(&line);
        }
        source = cause.source();
    }
    text
}
