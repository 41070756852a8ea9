//! The variables of the environment that matter, read through Python: `os.environ` is the only safe way in a process with
//! threads.

use hyper_sdk::client::Proxies;
use hyper_sdk::session::Defaults;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::ffi::OsString;

/// Variables that builds look at.
const OF_BUILDS: &[&str] = &["SOURCE_DATE_EPOCH"];

/// Variables by their names.
#[derive(Clone)]
pub(crate) struct Environment(BTreeMap<&'static str, OsString>);

impl Environment {
    /// Reads `os.environ`.
    pub(crate) fn read(py: Python<'_>) -> PyResult<Self> {
        let all = py.import("os")?.getattr("environ")?;
        let mut variables = BTreeMap::new();
        for name in Defaults::VARIABLES.iter().chain(Proxies::VARIABLES).chain(OF_BUILDS) {
            if let Some(value) = all.call_method1("get", (name,))?.extract::<Option<OsString>>()? {
                variables.insert(*name, value);
            }
        }
        Ok(Self(variables))
    }

    /// A variable, as the SDK asks for it.
    pub(crate) fn get(&self, name: &str) -> Option<OsString> {
        self.0.get(name).cloned()
    }
}

/// Says something to the user of the program: a `RuntimeWarning`.
pub(crate) fn warn(text: &str) {
    Python::attach(|py| {
        let category = py.get_type::<pyo3::exceptions::PyRuntimeWarning>();
        let warned = py.import("warnings").and_then(|module| module.call_method1("warn", (text, category)));
        if let Err(raised) = warned {
            // Warnings are errors here; this one must not keep anybody from the work.
            raised.write_unraisable(py, None);
        }
    });
}
