//! The environment and warnings of the Python program. `os.environ` is safe in a process with threads, and has the variables
//! that the program set.

use pyo3::prelude::*;
use std::ffi::OsString;

/// A variable, as the SDK asks for it.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    let read = |py: Python<'_>| {
        py.import("os")?.getattr("environ")?.call_method1("get", (name,))?.extract::<Option<OsString>>()
    };
    // A name that is not text for the system is not the name of a variable.
    Python::attach(read).ok().flatten()
}

/// Warns the user of the program: a `RuntimeWarning`.
pub(crate) fn warn(text: &str) {
    Python::attach(|py| {
        let category = py.get_type::<pyo3::exceptions::PyRuntimeWarning>();
        let warned = py.import("warnings").and_then(|module| module.call_method1("warn", (text, category)));
        if let Err(raised) = warned {
            // The program turned warnings into errors; this one must not stop the work.
            raised.write_unraisable(py, None);
        }
    });
}
