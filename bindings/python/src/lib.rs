//! Python bindings of hyper-sdk: the native half of the package `hyper_sdk`.
//!
//! ```text
//!   Hyper.build(…) ─┐                                ┌─ sync:  the calling thread waits without the GIL
//!                   ├─▶ Operation (one Rust future) ─┤
//!   AsyncHyper… ────┘                                └─ async: a coroutine, which starts the work when it is awaited
//! ```
//!
//! # Invariants
//! - Every operation exists once, as an [`operation::Operation`]; how it is waited for is the only difference between
//!   the two classes.
//! - Python code (progress callbacks) runs on the thread that called, or on the thread of the event loop.
//! - Secrets go from Python into types that do not print.

mod archive;
mod arguments;
mod artifact;
mod build;
mod classes;
mod content;
mod contexts;
mod environment;
mod failure;

mod operation;
mod output;
mod registry;
mod request;
mod session;
mod transfer;
mod value;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::classes::{AsyncHyper, Hyper};
    #[pymodule_export]
    use crate::registry::Registry;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    #[pymodule_export]
    use super::exec_helper;
}

/// Is the sandbox's helper and never returns. The process must have been started for it: see `session.rs`.
#[pyfunction]
#[pyo3(name = "_exec_helper")]
fn exec_helper() {
    hyper_sdk::exec::helper_main();
}
