//! The `hyperregistry` program.
fn main() {}
