//! Executors: the trait and the native sandbox.
