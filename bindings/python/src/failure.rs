//! Errors of the SDK as Python exceptions.

use crate::value::to_python;
use hyper_sdk::{Error, ErrorDetail, TextProblem};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::json;

/// The exception for an error: its class by kind, its text with the whole chain of causes. What an object of the caller
/// raised is raised itself.
pub(crate) fn exception(error: &Error) -> PyErr {
    Python::attach(|py| raised(py, error).unwrap_or_else(|| make(py, error).unwrap_or_else(|e| e)))
}

fn raised(py: Python<'_>, error: &Error) -> Option<PyErr> {
    let first: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<PyErr>()).map(|raised| raised.clone_ref(py))
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

/// What the error or one of its causes knows, by the attribute that it becomes.
fn details<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyDict>> {
    let details = PyDict::new(py);
    details.set_item("step", error.step().map(|step| &step.name))?;
    details.set_item("host", error.registry_host())?;
    for detail in error.details() {
        match detail {
            ErrorDetail::Command(command) => {
                details.set_item("exit_code", command.exit_code)?;
                details.set_item("output", &command.output)?;
            }
            ErrorDetail::Registry(registry) if registry.status.is_some() => {
                details.set_item("status", registry.status)?;
                details.set_item("code", &registry.code)?;
            }
            ErrorDetail::Dockerfile(problems) => {
                let problems: serde_json::Value = problems.iter().map(problem).collect();
                details.set_item("diagnostics", to_python(py, &problems)?)?;
            }
            _ => {}
        }
    }
    Ok(details)
}

/// A problem of a Dockerfile, as data of `Diagnostic`.
fn problem(problem: &TextProblem) -> serde_json::Value {
    json!({
        "severity": "error",
        "code": problem.code,
        "message": problem.message,
        "help": problem.help,
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
    })
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
