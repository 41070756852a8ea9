//! One stream of events for the library, the CLI and Python.
