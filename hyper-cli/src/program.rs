//! The name of the program, for messages with commands to type.

use std::sync::OnceLock;

static NAME: OnceLock<&'static str> = OnceLock::new();

/// Sets the name of the program. The first call counts.
pub(crate) fn set_name(name: &'static str) {
    let _ = NAME.set(name);
}

/// The name of the program.
pub(crate) fn name() -> &'static str {
    NAME.get().copied().unwrap_or("hyperbuild")
}
