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
//! - Progress callbacks run on the thread that called, or on the thread of the event loop; the methods of file objects run
//!   on a thread of their own: see [`file_object`].
//! - No thread of Rust calls Python when the program ends: see [`exit`].
//! - Secrets go from Python into types that do not print.

mod archive;
mod arguments;
mod artifact;
mod build;
mod classes;
mod content;
mod contexts;
mod environment;
mod exit;
mod failure;
mod file_object;
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
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        let at_exit = module.getattr("_at_exit")?;
        module.py().import("atexit")?.call_method1("register", (at_exit,)).map(drop)
    }

    #[pymodule_export]
    use super::exec_helper;
    #[pymodule_export]
    use crate::exit::at_exit;
}

/// Is the sandbox's helper and never returns. The process must have been started for it: see `session.rs`.
#[pyfunction]
#[pyo3(name = "_exec_helper")]
fn exec_helper() {
    hyper_sdk::exec::helper_main();
}
