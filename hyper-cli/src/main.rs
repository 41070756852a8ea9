//! The `hyperbuild` program.
fn main() {}
